package peer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/internal/port/tap"
)

// ovsSchema is where Debian has the schema of Open vSwitch's database.
const ovsSchema = "/usr/share/openvswitch/vswitch.ovsschema"

// The Ethernet addresses of the world of Open vSwitch: it answers no ARP here, so
// everybody knows everybody's.
const (
	ovsGateway = "02:00:00:00:01:01"
	ovsClient  = "02:00:00:00:01:07"
	ovsServer  = "02:00:00:00:01:1%d"
)

// ovsGroups choose a server and translate to it, ovsFlows do the rest. Table 0
// asks connection tracking, which translates what it knows; 1 sends new flows to
// a service; 2 is the policy on the servers' own addresses; 3 routes.
const (
	ovsGroups = `
group_id=1,type=select,bucket=ct(commit,zone=1,nat(dst=10.244.0.11:8080),table=2),bucket=ct(commit,zone=1,nat(dst=10.244.0.12:8080),table=2)
group_id=2,type=select,bucket=ct(commit,zone=1,nat(dst=10.244.0.11:9001),table=2),bucket=ct(commit,zone=1,nat(dst=10.244.0.12:9001),table=2)
group_id=3,type=select,bucket=ct(commit,zone=1,nat(dst=10.244.0.11:9002),table=2),bucket=ct(commit,zone=1,nat(dst=10.244.0.12:9002),table=2)
group_id=4,type=select,selection_method=hash,fields(ip_src),bucket=ct(commit,zone=1,nat(dst=10.244.0.11:5201),table=2),bucket=ct(commit,zone=1,nat(dst=10.244.0.12:5201),table=2)
`
	ovsFlows = `
table=0,priority=10,ip,actions=ct(table=1,zone=1,nat)
table=1,priority=30,ct_state=+trk+inv,actions=drop
table=1,priority=20,ct_state=+trk+est,actions=goto_table:3
table=1,priority=20,ct_state=+trk+rel,actions=goto_table:3
table=1,priority=10,ct_state=+trk+new,in_port=1,tcp,nw_dst=10.96.0.10,tp_dst=80,actions=group:1
table=1,priority=10,ct_state=+trk+new,in_port=1,udp,nw_dst=10.96.0.10,tp_dst=9000,actions=group:2
table=1,priority=10,ct_state=+trk+new,in_port=1,tcp,nw_dst=10.96.0.10,tp_dst=9002,actions=group:3
table=1,priority=10,ct_state=+trk+new,in_port=1,tcp,nw_dst=10.96.0.11,tp_dst=5201,actions=group:4
table=2,priority=10,tcp,nw_src=203.0.113.0/24,nw_dst=10.244.0.0/24,tp_dst=8080,actions=goto_table:3
table=2,priority=10,tcp,nw_src=203.0.113.0/24,nw_dst=10.244.0.0/24,tp_dst=5201,actions=goto_table:3
table=2,priority=10,tcp,nw_src=203.0.113.0/24,nw_dst=10.244.0.0/24,tp_dst=9002,actions=goto_table:3
table=2,priority=10,udp,nw_src=203.0.113.0/24,nw_dst=10.244.0.0/24,tp_dst=9001,actions=goto_table:3
table=3,priority=10,ip,nw_dst=203.0.113.7,actions=dec_ttl,mod_dl_src:02:00:00:00:01:01,mod_dl_dst:02:00:00:00:01:07,output:1
table=3,priority=10,ip,nw_dst=10.244.0.11,actions=dec_ttl,mod_dl_src:02:00:00:00:01:01,mod_dl_dst:02:00:00:00:01:11,output:2
table=3,priority=10,ip,nw_dst=10.244.0.12,actions=dec_ttl,mod_dl_src:02:00:00:00:01:01,mod_dl_dst:02:00:00:00:01:12,output:3
`
)

// OVS starts Open vSwitch with its datapath in userspace, segmentation offload
// passed through, on TAP devices, which it moves bulk TCP and small packets faster
// with than with packet sockets on veth pairs; its database and sockets are its
// own.
func OVS(ctx context.Context, s Setup) (*Peer, error) {
	p, err := newPeer("ovs", s, len(serverAddress))
	if err != nil {
		return nil, err
	}
	if err := p.startOVS(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Peer) startOVS(ctx context.Context) error {
	if err := p.startDatabase(ctx); err != nil {
		return err
	}
	// Before the switch starts: it looks at this once.
	if err := p.vsctl("--no-wait", "init", "--", "set", "Open_vSwitch", ".", "other_config:userspace-tso-enable=true"); err != nil {
		return err
	}
	// OVS_RUNDIR is where the bridge's management socket comes to be.
	daemon, err := p.start(p.node, "vswitchd", "env", "OVS_RUNDIR="+p.dir, "ovs-vswitchd", "unix:"+p.ovsFile("db.sock"),
		"--pidfile="+p.ovsFile("vswitchd.pid"), "--unixctl="+p.ovsFile("vswitchd.ctl"), "-vconsole:warn")
	if err != nil {
		return err
	}
	p.forwarders = append(p.forwarders, daemon)
	if err := p.vsctl("--timeout=10", "add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "fail_mode=secure",
		"--", "add-port", "br0", "c0", "--", "set", "interface", "c0", "type=tap", "ofport_request=1",
		"--", "add-port", "br0", "s0", "--", "set", "interface", "s0", "type=tap", "ofport_request=2",
		"--", "add-port", "br0", "s1", "--", "set", "interface", "s1", "type=tap", "ofport_request=3"); err != nil {
		return fmt.Errorf("%w\n%s", err, tail(daemon.log))
	}
	if err := p.plug("c0", p.client, clientAddress, ovsClient); err != nil {
		return err
	}
	for i, a := range serverAddress {
		if err := p.plug(fmt.Sprintf("s%d", i), p.servers[i], a, fmt.Sprintf(ovsServer, i+1)); err != nil {
			return err
		}
	}
	for _, change := range [][2]string{{"add-groups", ovsGroups}, {"add-flows", ovsFlows}} {
		bridge := "unix:" + p.ovsFile("br0.mgmt")
		if out, err := output(p.node, change[1], "ovs-ofctl", "-OOpenFlow15", change[0], bridge, "-"); err != nil {
			return fmt.Errorf("ovs-ofctl %s: %w: %s", change[0], err, out)
		}
	}
	p.drops = p.ovsDrops
	return p.serve(ctx)
}

// ovsFile returns a path in the switch's own directory.
func (p *Peer) ovsFile(name string) string { return filepath.Join(p.dir, name) }

// startDatabase starts the switch's database and waits for its socket.
func (p *Peer) startDatabase(ctx context.Context) error {
	if err := run(p.node, "ovsdb-tool", "create", p.ovsFile("conf.db"), ovsSchema); err != nil {
		return err
	}
	db, err := p.start(p.node, "ovsdb", "ovsdb-server", p.ovsFile("conf.db"), "--remote=punix:"+p.ovsFile("db.sock"),
		"--unixctl="+p.ovsFile("ovsdb.ctl"), "-vconsole:warn")
	if err != nil {
		return err
	}
	p.forwarders = append(p.forwarders, db)
	return eventually(ctx, "ovs: its database", func() error {
		_, err := os.Stat(p.ovsFile("db.sock"))
		return errors.Join(err, db.ended())
	})
}

func (p *Peer) vsctl(args ...string) error {
	return run(p.node, append([]string{"ovs-vsctl", "--db=unix:" + p.ovsFile("db.sock")}, args...)...)
}

// plug moves a TAP device of the switch to a guest that knows its gateway. The
// queue is as long as that of the vRouter's devices.
func (p *Peer) plug(device, guest string, address netip.Addr, mac string) error {
	gateway := address.As4()
	gateway[3] = 1
	gw := netip.AddrFrom4(gateway).String()
	if err := run(p.node, "ip", "link", "set", device, "address", mac, "txqueuelen", fmt.Sprint(tap.DefaultTxQueueLen), "netns", netns.Path(guest)); err != nil {
		return err
	}
	for _, line := range []string{
		"ip link set " + device + " name eth0",
		"ip addr add " + address.String() + "/24 dev eth0",
		"ip link set eth0 up",
		"ip route add default via " + gw,
		"ip neigh add " + gw + " lladdr " + ovsGateway + " dev eth0 nud permanent",
	} {
		if err := run(guest, strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}

// ovsCounter is a counter of a drop in the switch's coverage and statistics.
var ovsCounter = regexp.MustCompile(`(?m)^((?:datapath_)?drop_\w+|\w+_drop\w*|lost).*total: (\d+)$`)

// ovsDrops returns the switch's own counters of drops.
func (p *Peer) ovsDrops(context.Context) (map[string]float64, error) {
	out, err := output(p.node, "", "ovs-appctl", "-t", p.ovsFile("vswitchd.ctl"), "coverage/show")
	if err != nil {
		return nil, fmt.Errorf("ovs-appctl: %w: %s", err, out)
	}
	drops := map[string]float64{}
	for _, m := range ovsCounter.FindAllStringSubmatch(out, -1) {
		n, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			return nil, err
		}
		drops["drops/ovs/"+m[1]] += n
	}
	return drops, nil
}
