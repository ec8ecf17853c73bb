package netns_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vrouter-go/vrouter/internal/statefile"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// A cluster is several nodes on one wire. Each node is a namespace with an uplink
// and a daemon, and has pods, each in a namespace of its own:
//
//	 pod-1-1  pod-1-2      pod-2-1  pod-2-2      pod-3-1  pod-3-2
//	    └──TAP──┤             └──TAP──┤             └──TAP──┤          outside
//	  node-1  vrouter       node-2  vrouter       node-3  vrouter         │
//	 .11  └── eth0 ──┐     .12  └── eth0 ──┐     .13  └── eth0 ──┐        │ .100
//	═════════════════╧═════════════════════╧═════════════════════╧════════╧═══════
//	                     wire: a bridge, 192.0.2.0/24 and 2001:db8:10::/64
//
// outside knows nothing of pods and services. Where clusterOptions.routed is set the
// last node stands on a wire of its own behind a router, and the other nodes reach it
// by a gateway.
type cluster struct {
	*host // the namespaces that are no node's: wire, outside, router; it has no daemon
	t     *testing.T
	nodes []*node
	wires []*wireTap // what nodes sent on the wire
	// noted are the drop reasons that the test brings about; any other is a fault.
	noted map[string]bool

	// What the control plane tells all nodes (cluster_state_test.go).
	plan plan
}

// node is one vRouter with its pods.
type node struct {
	*host
	c       *cluster
	number  int
	name    string
	address [2]string // in the fabric: IPv4, IPv6
	pods    []*pod
	dead    bool // its daemon was killed for good
}

// pod is a workload on a node.
type pod struct {
	*node
	name    string // also its role on the node
	address [2]string
	label   int
}

// The addresses of all clusters. A wire is a network of its own, so they may repeat.
const (
	outsideV4, outsideV6 = "192.0.2.100", "2001:db8:10::100"
	serviceV4, serviceV6 = "10.96.0.10", "fd00:96::10"
)

// family is IPv4 or IPv6, the index of a pair of addresses.
type family int

const (
	v4 family = iota
	v6
)

func (f family) String() string { return [...]string{"v4", "v6"}[f] }

// bits is the length of an address by itself.
func (f family) bits() string { return [...]string{"/32", "/128"}[f] }

var (
	service = [2]string{serviceV4, serviceV6}
	outside = [2]string{outsideV4, outsideV6}
)

// clusterOptions change the standard cluster of three nodes with two pods each.
type clusterOptions struct {
	nodes, pods     int      // 0: 3 and 2
	wireMTU, podMTU int      // 0: 1500
	sessions        int      // 0: 65536
	roles           []string // further namespaces on the wire
	routed          bool     // the last node is behind a router
	offloads        bool     // leave the guests' checksum and segmentation offloads on
	plan            plan     // what the control plane says
}

// clusterSlots bounds how many clusters run at a time: each has three daemons.
var clusterSlots = make(chan struct{}, 3)

// newCluster starts a cluster, waits until every port is up, and promises the
// checks of the end.
func newCluster(t *testing.T, o clusterOptions) *cluster {
	t.Helper()
	need(t, "tcpdump", "tshark", "mergecap", "ip", "ethtool", "bridge")
	clusterSlots <- struct{}{}
	t.Cleanup(func() { <-clusterSlots })
	number := fmt.Sprint(hosts.Add(1))
	c := &cluster{
		t: t, host: &host{t: t, name: number, offloads: o.offloads, roles: append([]string{"wire", "outside", "router"}, o.roles...)},
		noted: map[string]bool{}, plan: o.plan,
	}
	c.found("")
	c.plan.podMTU = o.podMTU
	c.wire(o)
	for i := range cmp.Or(o.nodes, 3) {
		c.addNode(i+1, o)
	}
	for _, n := range c.nodes {
		n.launch()
	}
	for _, n := range c.nodes {
		n.answers()
	}
	t.Cleanup(c.end)
	c.tap("begin")
	c.sync()
	for _, n := range c.nodes {
		n.waitPorts()
		for _, p := range n.pods {
			if !o.offloads {
				n.run(p.name, "ethtool", "-K", "eth0", "tx", "off")
			}
			n.serve(p.name)
			n.capture(p.name)
		}
		n.serveWeb("node", nodeWebPort)
	}
	c.acquaint()
	return c
}

// acquaint waits until each node knows the ways to all others, and to the strangers
// that the plan has.
func (c *cluster) acquaint() {
	c.t.Helper()
	for _, n := range c.nodes {
		if n.daemon == nil {
			continue
		}
		n.until(n.name+" knows the ways", func() bool {
			return !slices.ContainsFunc(n.status().GetPeers(), func(p *pb.PeerStatus) bool { return p.GetState() != pb.PeerStatus_UP })
		})
	}
}

// nodeWebPort is where the node's own web server is.
const nodeWebPort = 8081

// wire makes the bridge and what stands on it besides the nodes.
func (c *cluster) wire(o clusterOptions) {
	c.t.Helper()
	c.ip("wire", "link add br0 type bridge mcast_snooping 0")
	c.ip("wire", "link set br0 up")
	c.plug("outside", "out", "br0", o.wireMTU, outsideV4+"/24", outsideV6+"/64")
	for _, role := range o.roles {
		c.plug(role, role, "br0", o.wireMTU)
	}
	if !o.routed {
		return
	}
	c.ip("wire", "link add br1 type bridge mcast_snooping 0")
	c.ip("wire", "link set br1 up")
	c.plug("router", "r0", "br0", o.wireMTU, "192.0.2.254/24", "2001:db8:10::254/64")
	c.plug("router", "r1", "br1", o.wireMTU, "198.51.100.254/24", "2001:db8:20::254/64")
	c.run("router", "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
}

// plug joins a namespace to a bridge of the wire; port is the name of both ends,
// but the first port of a namespace is eth0 there. Duplicate address detection is
// off: addresses are to serve at once.
func (c *cluster) plug(role, port, bridge string, mtu int, addresses ...string) {
	c.t.Helper()
	c.plugIn(c.ns(role), port, bridge, mtu, addresses...)
}

func (c *cluster) plugIn(ns, port, bridge string, mtu int, addresses ...string) {
	c.t.Helper()
	device := port
	if port != "r1" && port != "r0" {
		device = "eth0"
	}
	// A link-local address that is on trial sends no neighbour solicitations.
	if out, code := program(c.t, "ip", "netns", "exec", ns, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0"); code != 0 {
		c.t.Fatal(out)
	}
	c.ip("wire", fmt.Sprintf("link add %s mtu %d type veth peer name %s mtu %[2]d netns %[4]s", port, cmp.Or(mtu, 1500), device, ns))
	c.ip("wire", fmt.Sprintf("link set %s master %s up", port, bridge))
	mustIP(c.t, ns, "link set "+device+" up")
	for _, a := range addresses {
		mustIP(c.t, ns, fmt.Sprintf("address add %s dev %s nodad", a, device))
	}
}

// ip runs ip(8) in a role's namespace.
func (c *cluster) ip(role, args string) string {
	c.t.Helper()
	return c.run(role, append([]string{"ip"}, strings.Fields(args)...)...)
}

// mustIP runs ip(8) in a namespace.
func mustIP(t *testing.T, ns, args string) {
	t.Helper()
	if out, code := program(t, "ip", append([]string{"-n", ns}, strings.Fields(args)...)...); code != 0 {
		t.Fatalf("%s: ip %s\n%s", ns, args, out)
	}
}

// addNode makes a node and its pods' namespaces; its daemon does not run yet.
func (c *cluster) addNode(number int, o clusterOptions) {
	c.t.Helper()
	n := &node{c: c, number: number, name: fmt.Sprintf("node-%d", number)}
	n.host = &host{t: c.t, name: c.host.name + "-" + n.name, offloads: o.offloads, roles: []string{"node"}}
	for k := range cmp.Or(o.pods, 2) {
		p := &pod{node: n, name: fmt.Sprintf("pod-%d-%d", number, k+1), label: 1000*number + 21 + k}
		p.address = [2]string{fmt.Sprintf("10.244.%d.%d", number, 11+k), fmt.Sprintf("fd00:244::%d:%d", number, 11+k)}
		n.pods = append(n.pods, p)
		n.roles = append(n.roles, p.name)
	}
	n.found(fmt.Sprintf("forwarder: {workers: 1, sessions: %d}\n", cmp.Or(o.sessions, 65536)))
	far := o.routed && number == cmp.Or(o.nodes, 3)
	bridge, net4, net6 := "br0", "192.0.2", "2001:db8:10:"
	other4, other6 := "198.51.100", "2001:db8:20:"
	if far {
		bridge, net4, net6, other4, other6 = "br1", other4, other6, net4, net6
	}
	n.address = [2]string{fmt.Sprintf("%s.%d", net4, 10+number), fmt.Sprintf("%s:%d", net6, 10+number)}
	c.plugIn(n.ns("node"), fmt.Sprintf("n%d", number), bridge, o.wireMTU, n.address[v4]+"/24", n.address[v6]+"/64")
	if !o.offloads {
		// The kernel then cuts and sums up everything before the wire, as for a card that
		// can neither, and tshark sees what a card would send.
		n.run("node", "ethtool", "-K", "eth0", "tx", "off")
	}
	if o.routed {
		mustIP(c.t, n.ns("node"), fmt.Sprintf("route add %s.0/24 via %s.254", other4, net4))
		mustIP(c.t, n.ns("node"), fmt.Sprintf("route add %s:/64 via %s:254", other6, net6))
	}
	c.nodes = append(c.nodes, n)
}

// pods returns the pods of all nodes.
func (c *cluster) pods() (all []*pod) {
	for _, n := range c.nodes {
		all = append(all, n.pods...)
	}
	return all
}

// sync brings every node that lives to the plan, each in one transaction.
func (c *cluster) sync() {
	c.t.Helper()
	for _, n := range c.nodes {
		if !n.dead {
			n.become(n.desired())
		}
	}
}

// become makes a state the whole of what the node wants.
func (n *node) become(state string) {
	n.t.Helper()
	ctx := context.Background()
	request := &pb.ApplyRequest{Upserts: n.parse(state)}
	want := map[string]bool{}
	for _, r := range request.Upserts {
		want[statefile.Kind(r)+" "+r.GetName()] = true
	}
	have, _, err := n.api.List(ctx, &pb.ListRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	for _, r := range have {
		if kind := statefile.Kind(r); !want[kind+" "+r.GetName()] {
			request.Deletes = append(request.Deletes, &pb.ResourceKey{Kind: kind, Name: r.GetName()})
		}
	}
	if _, err := n.api.Apply(ctx, request); err != nil {
		n.t.Fatalf("%s: apply: %v", n.name, err)
	}
}

// note says that the test makes packets end for these reasons.
func (c *cluster) note(reasons ...string) {
	for _, r := range reasons {
		c.noted[r] = true
	}
}

// background are drops that kernels bring about by themselves: multicast of MLD and
// neighbour discovery, which no pod is without.
var background = map[string]bool{"MULTICAST": true, "ROUTER_DISCOVERY": true, "BROADCAST": true, "ND_DUPLICATE_DETECTION": true, "LINK_LOCAL": true}

// end is what every cluster test ends with: each node's packets are accounted for,
// none was dropped but for the reasons that the test gave, daemons end as asked,
// and tshark reads everything that nodes sent to pods and to each other.
func (c *cluster) end() {
	for _, n := range c.nodes {
		if n.daemon != nil {
			n.onlyNoted()
		}
		n.end()
	}
	for _, w := range c.wires {
		w.judge()
	}
}

// onlyNoted checks that nothing was dropped but as the test said.
func (n *node) onlyNoted() {
	answer, err := n.api.ListDrops(context.Background(), &pb.ListDropsRequest{})
	if err != nil {
		n.t.Errorf("%s: drops: %v", n.name, err)
		return
	}
	for _, d := range answer.GetDrops() {
		if reason := d.GetReason(); !background[reason] && !n.c.noted[reason] {
			n.t.Errorf("%s: %d packets of %s dropped for %s", n.name, d.GetPackets(), d.GetInterface(), reason)
		}
	}
}
