package netns_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// The services of TestClusterHosts. Each maps the ports of frontend.ports from its first
// on: the web server, the sink, the UDP echo, and one that nobody has.
const (
	mixedPort = 31200 // at every node: a pod, node-1, outside
	aloofPort = 31210 // at every node, externalTrafficPolicy LOCAL: a pod of each
	voidPort  = 31220 // at every node, and nobody serves
)

var (
	apiService   = [2]string{"10.96.0.30", "fd00:96::30"} // outside
	nodesService = [2]string{"10.96.0.31", "fd00:96::31"} // node-1 and node-2
	farService   = [2]string{"10.96.0.32", "fd00:96::32"} // beyond a gateway
)

// hostPorts maps the ports of a service whose members are hosts or pods.
func hostPorts(first int) string {
	return fmt.Sprintf("{srcPort: %d, dstPort: %d}, {srcPort: %d, dstPort: %d}, {srcPort: %d, dstPort: %d, protocol: UDP}, {srcPort: %d, dstPort: 9}, {srcPort: %[7]d, dstPort: 9, protocol: UDP}",
		first, webPort, first+1, sinkPort, first+2, echoPort, first+3)
}

// hostServices are the services of the test.
func (c *cluster) hostServices() []frontend {
	one, two := c.nodes[0], c.nodes[1]
	out := fabricHost{"outside", outside}
	hosts := []fabricHost{{one.name, one.address}, {two.name, two.address}}
	return []frontend{
		{name: "api", network: "services", address: apiService, ports: hostPorts(80), hosts: []fabricHost{out}},
		{name: "nodes", network: "services", address: nodesService, ports: hostPorts(80), hosts: hosts},
		{name: "far", network: "services", address: farService, ports: hostPorts(80), hosts: []fabricHost{{"server", beyond}}},
		{name: "np-mixed", ports: hostPorts(mixedPort), members: two.pods[:1], hosts: []fabricHost{hosts[0], out}},
		{name: "np-aloof", ports: hostPorts(aloofPort), spec: "  externalTrafficPolicy: LOCAL\n", members: []*pod{one.pods[0], two.pods[0]}},
		{name: "np-void", ports: hostPorts(voidPort)},
	}
}

// TestClusterHosts: members of services that are hosts, as hostNetwork pods and the API
// server are: the node itself, another node, one on the link and one behind a gateway,
// called by pods, by processes of nodes, and from outside. And processes of a node call
// the node's own mapped ports.
func TestClusterHosts(t *testing.T) {
	t.Parallel()
	need(t, "nft")
	c := newCluster(t, clusterOptions{nodes: 2, roles: []string{"server"}})
	c.beyond(c.nodes...)
	for _, n := range c.nodes {
		n.host.node = n.name
		n.serve("node")
	}
	c.serve("server")
	c.serve("outside")
	for _, h := range []struct {
		*host
		role string
	}{{c.host, "server"}, {c.host, "outside"}, {c.nodes[0].host, "node"}, {c.nodes[1].host, "node"}, {c.nodes[1].host, c.nodes[1].pods[0].name}} {
		h.run(h.role, "sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0") // of refusals
	}
	one := c.nodes[0]
	if rules := one.run("node", "nft", "list", "tables"); strings.Contains(rules, "vrouter-nodeport") {
		t.Fatalf("there is a table, and no port is mapped at the node:\n%s", rules)
	}
	c.plan.frontends = c.hostServices()
	c.sync()
	for _, n := range c.nodes {
		n.until("the hosts are known", func() bool {
			for f := range service {
				for _, s := range [][2]string{apiService, farService} {
					if x := n.explainCall(n.pods[1].name, s[f], 80); x.GetVerdict() != pb.Verdict_FORWARD {
						return false
					}
				}
			}
			return true
		})
	}
	wire := c.tap("hosts")
	eachPodFamily(t, func(t *testing.T, f family) {
		t.Run("elsewhere", func(t *testing.T) { c.hostsElsewhere(t, f) })
		t.Run("nodes", func(t *testing.T) { c.nodesAsMembers(t, f) })
		t.Run("node ports from outside", func(t *testing.T) { c.mixedFromOutside(t, f) })
		t.Run("node ports from the node", func(t *testing.T) { c.nodePortsOfItself(t, f) })
		t.Run("nobody listens", func(t *testing.T) { c.nobodyListens(t, f) })
		t.Run("explain", func(t *testing.T) { c.explainHosts(t, f) })
	})
	for f := range service {
		for _, p := range c.pods() {
			filter := fmt.Sprintf("%s.src == %s && !mpls && !vxlan && !arp && !icmpv6.type == 136", ipField(family(f)), p.address[f])
			if plain := wire.frames(filter, "frame.protocols"); len(plain) > 0 {
				t.Errorf("%d packets of %s crossed the wire as they are: %v", len(plain), p.name, plain[0])
			}
		}
	}
	t.Run("churn", c.hostsChurn)
	t.Run("the table ends with the daemon", c.nodePortTable)
}

// hostCall calls the web server, the sink and the echo server of a service at ports from
// the first on, until all members have answered, and compares whom each has seen.
func (h *host) hostCall(t *testing.T, role, address string, first int, seen map[string]string) {
	t.Helper()
	got := map[string]bool{}
	for calls := 0; len(got) < len(seen) && calls < 100; calls++ {
		server, saw, err := h.tryGet(role, at(address, first))
		if err != nil || saw != seen[server] {
			t.Fatalf("%s to %s: %q answered and saw %q, %v; want one of %v", role, at(address, first), server, saw, err, seen)
		}
		got[server] = true
	}
	if len(got) != len(seen) {
		t.Errorf("%s to %s: %v answered; want all of %v", role, at(address, first), got, seen)
	}
	for range 3 {
		if server := h.upload(t, role, at(address, first+1), 1<<20); seen[server] == "" {
			t.Errorf("%s received it", server)
		}
	}
	clear(got)
	for calls := 0; len(got) < len(seen) && calls < 100; calls++ {
		conn := h.dial(t, role, "udp", at(address, first+2))
		server, saw, err := echo(conn, bytes.Repeat([]byte{'x'}, 1200))
		conn.Close()
		if from, _ := netip.ParseAddrPort(saw); err != nil || seen[server] == "" || from.Addr().String() != seen[server] {
			t.Fatalf("%s by UDP to %s: %q answered and saw %q, %v; want one of %v", role, at(address, first+2), server, saw, err, seen)
		}
		got[server] = true
	}
	if len(got) != len(seen) {
		t.Errorf("%s by UDP to %s: %v answered; want all of %v", role, address, got, seen)
	}
}

// hostsElsewhere: a host on the link and one behind a gateway see the caller's node.
func (c *cluster) hostsElsewhere(t *testing.T, f family) {
	for _, n := range c.nodes {
		for _, role := range []string{n.pods[1].name, "node"} {
			n.hostCall(t, role, apiService[f], 80, map[string]string{"outside": n.address[f]})
			n.hostCall(t, role, farService[f], 80, map[string]string{"server": n.address[f]})
		}
	}
}

// nodesAsMembers: the own node sees a pod as it is, and itself as the service; another
// node sees the caller's node.
func (c *cluster) nodesAsMembers(t *testing.T, f family) {
	one, two := c.nodes[0], c.nodes[1]
	p := one.pods[1]
	one.hostCall(t, p.name, nodesService[f], 80, map[string]string{one.name: p.address[f], two.name: one.address[f]})
	one.hostCall(t, "node", nodesService[f], 80, map[string]string{one.name: nodesService[f], two.name: one.address[f]})
}

// standIn is what the test expects to stand in for a node's only mapped address of a family.
func standIn(n *node, f family) string {
	n.t.Helper()
	line := n.run("node", "nft", "list", "map", "inet", "vrouter-nodeport", [2]string{"ports4", "ports6"}[f])
	_, after, found := strings.Cut(line, fmt.Sprintf("%s . tcp . %d : ", n.address[f], mixedPort))
	if !found {
		n.t.Fatalf("the table lacks port %d:\n%s", mixedPort, line)
	}
	return strings.FieldsFunc(after, func(r rune) bool { return r == ',' || r == ' ' || r == '}' || r == '\n' })[0]
}

// mixedFromOutside: a node's port leads to a pod, which sees the caller, to the node
// itself, and to a host elsewhere, which sees the node.
func (c *cluster) mixedFromOutside(t *testing.T, f family) {
	for _, n := range c.nodes {
		seen := map[string]string{c.nodes[1].pods[0].name: beyond[f], "outside": n.address[f], c.nodes[0].name: n.address[f]}
		if n == c.nodes[0] {
			seen[n.name] = standIn(n, f)
		}
		c.hostCall(t, "server", n.address[f], mixedPort, seen)
	}
	p := c.nodes[0].pods[1] // and a pod of the node
	p.hostCall(t, p.name, c.nodes[0].address[f], mixedPort, map[string]string{
		c.nodes[1].pods[0].name: p.address[f], "outside": c.nodes[0].address[f], c.nodes[0].name: p.address[f],
	})
}

// nodePortsOfItself: a process of the node that calls the node's own port reaches all
// members, and is refused where there are none.
func (c *cluster) nodePortsOfItself(t *testing.T, f family) {
	one, two := c.nodes[0], c.nodes[1]
	c.note("FLOATING_IP_NO_MEMBER")
	for _, n := range c.nodes {
		seen := map[string]string{two.pods[0].name: n.address[f], "outside": n.address[f], one.name: n.address[f]}
		if n == one {
			seen[n.name] = standIn(n, f)
		}
		n.hostCall(t, "node", n.address[f], mixedPort, seen)
		// The policy is for callers outside.
		n.hostCall(t, "node", n.address[f], aloofPort, map[string]string{one.pods[0].name: n.address[f], two.pods[0].name: n.address[f]})
		n.refused(t, "node", at(n.address[f], voidPort), true, net.Dialer{})
		if _, _, err := echo(n.dial(t, "node", "udp", at(n.address[f], voidPort+2)), []byte("anybody?")); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a datagram to nobody: %v; want a refusal", err)
		}
		// What is not mapped is the node's own, as before.
		if server, saw := n.get(t, "node", at(n.address[f], nodeWebPort)); server != n.name || saw != n.address[f] {
			t.Errorf("%s answered and saw %s", server, saw)
		}
	}
}

// nobodyListens: the refusal of a host's kernel comes back to who called, by TCP and as
// an ICMP error.
func (c *cluster) nobodyListens(t *testing.T, f family) {
	one := c.nodes[0]
	for _, call := range []struct {
		h             *host
		role, address string
		first         int
	}{
		{one.host, one.pods[1].name, apiService[f], 80}, {one.host, "node", apiService[f], 80}, {one.host, one.pods[1].name, farService[f], 80},
		{one.host, one.pods[1].name, nodesService[f], 80}, {one.host, "node", nodesService[f], 80},
		{c.host, "server", one.address[f], mixedPort}, {one.host, "node", one.address[f], mixedPort},
	} {
		for range 4 { // of several members each
			call.h.refused(t, call.role, at(call.address, call.first+3), true, net.Dialer{})
			if _, _, err := echo(call.h.dial(t, call.role, "udp", at(call.address, call.first+3)), []byte("anybody?")); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%s to %s by UDP: %v; want a refusal", call.role, call.address, err)
			}
		}
	}
}

// explainCall says what would become of a call.
func (n *node) explainCall(from, to string, port int) *pb.ExplainResponse {
	n.t.Helper()
	x, err := n.api.Explain(n.t.Context(), &pb.ExplainRequest{
		VirtualMachineInterface: from, Destination: to, Protocol: pb.Protocol_TCP, DestinationPort: uint32(port),
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return x
}

// explainHosts: the member is named, and the source that it will see.
func (c *cluster) explainHosts(t *testing.T, f family) {
	n := c.nodes[0]
	x := n.explainCall(n.pods[1].name, apiService[f], 80)
	if x.GetMember() != "outside" || x.GetOutput() != "uplink" || x.GetRewritten().GetSource() != n.address[f] || x.GetRewritten().GetDestination() != outside[f] || x.GetFloatingIp() != "api-"+f.String() {
		t.Errorf("a pod's call: %v", x)
	}
	x = n.explainCall("vhost0", n.address[f], mixedPort)
	if x.GetVerdict() != pb.Verdict_FORWARD || x.GetFloatingIp() != "np-mixed-"+f.String() || x.GetMember() == "" {
		t.Errorf("the node's call of its own port: %v", x)
	}
	open := n.begin(t, n.pods[1].name, at(apiService[f], 81))
	if err := open.send(1 << 10); err != nil {
		t.Fatal(err)
	}
	local := netip.MustParseAddrPort(open.conn.LocalAddr().String())
	flows := n.flows(&pb.FlowFilter{Source: local.Addr().String(), SourcePort: uint32(local.Port())})
	if len(flows) != 1 || flows[0].GetMember() != "outside" || flows[0].GetOutput() != "uplink" {
		t.Errorf("the flow is shown as %v", flows)
	}
	if server, err := open.finish(); server != "outside" || err != nil {
		t.Errorf("%s, %v", server, err)
	}
}

// hostsChurn: connections live on while hosts leave and come as members.
func (c *cluster) hostsChurn(t *testing.T) {
	one := c.nodes[0]
	type call struct{ role, address string }
	var open []*transfer
	for f := range service {
		for _, x := range []call{
			{one.pods[1].name, at(apiService[f], 81)}, {"node", at(apiService[f], 81)},
			{one.pods[1].name, at(nodesService[f], 81)}, {"node", at(nodesService[f], 81)},
			{"node", at(one.address[f], mixedPort+1)}, {one.pods[1].name, at(one.address[f], mixedPort+1)},
		} {
			for range 3 { // so that each member has some
				open = append(open, one.begin(t, x.role, x.address))
			}
		}
	}
	all := c.plan.frontends
	for change := range 4 {
		c.plan.frontends = nil
		for i, x := range all {
			if (i+change)%2 == 0 {
				x.hosts = nil
			}
			c.plan.frontends = append(c.plan.frontends, x)
		}
		c.sync()
		for i, x := range open {
			if err := x.send(256 << 10); err != nil {
				t.Fatalf("change %d, connection %d: %v", change, i, err)
			}
		}
	}
	c.plan.frontends = all
	c.sync()
	for i, x := range open {
		if _, err := x.finish(); err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
	}
}

// nodePortTable: the rules of the node's kernel end with the daemon, come back with it, and
// leave with the last mapped port; another table of the same hook is left alone.
func (c *cluster) nodePortTable(t *testing.T) {
	n := c.nodes[0]
	tables := func() string { return n.run("node", "nft", "list", "tables") }
	n.run("node", "nft", "-f", n.write("other.nft", otherTable))
	n.stop(syscall.SIGKILL)
	n.until("the rules have ended", func() bool { return !strings.Contains(tables(), "vrouter-nodeport") })
	n.start()
	n.waitPorts()
	c.acquaint()
	n.until("the rules are there", func() bool { return strings.Contains(tables(), "vrouter-nodeport") })
	for f := range service {
		n.until("a member is reached", func() bool {
			_, _, err := n.tryGet("node", at(n.address[f], aloofPort))
			return err == nil
		})
	}
	c.plan.frontends = c.plan.frontends[:3]
	c.sync()
	if strings.Contains(tables(), "vrouter-nodeport") || !strings.Contains(tables(), "inet other") {
		t.Errorf("no port is mapped any more, and there are\n%s", tables())
	}
	c.note("TCP_NO_SESSION", "NEIGHBOR_UNRESOLVED", "PEER_DOWN")
}

// otherTable is somebody else's at the same hook, kube-proxy's for example.
const otherTable = `
table inet other {
	chain output {
		type nat hook output priority -100
		meta nfproto ipv4 tcp dport 1 dnat ip to 192.0.2.1
	}
}
`
