package netns_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// The ports of the services that TestClusterExternal opens to the outside, at every
// node's own addresses unless said otherwise.
const (
	clusterPort     = 31050 // and the next two: the web server, the sink, the UDP echo
	localPort       = 31060 // externalTrafficPolicy LOCAL; members on node-1 and two on node-2
	localHealthPort = 32060
	emptyPort       = 31063 // externalTrafficPolicy LOCAL, and nobody anywhere
	directPort      = 31070 // and the next: directServerReturn
	affinityPort    = 31080 // and the next, UDP: sessionAffinity
	ownPort         = 31090 // one member, a client of itself
	kernelPort      = 31100 // kube-proxy's: rules in the node's kernel
)

var (
	// balancer is a LoadBalancer's address, which no node has.
	balancer = [2]string{"198.51.100.80", "2001:db8:20::80"}
	// ranged is another one, that some may not call.
	ranged = [2]string{"198.51.100.81", "2001:db8:20::81"}
	// inner is a ClusterIP with internalTrafficPolicy LOCAL.
	inner = [2]string{"10.96.0.20", "fd00:96::20"}
	// stray is a second address of outside, not in the source ranges of ranged.
	stray = [2]string{"192.0.2.200", "2001:db8:10::200"}
)

// external are the services that TestClusterExternal opens.
func (c *cluster) external() []frontend {
	firsts := []*pod{c.nodes[0].pods[0], c.nodes[1].pods[0], c.nodes[2].pods[0]}
	web := func(port int) string { return fmt.Sprintf("{srcPort: %d, dstPort: %d}", port, webPort) }
	sink := func(port int) string { return fmt.Sprintf("{srcPort: %d, dstPort: %d}", port, sinkPort) }
	echo := func(port int) string { return fmt.Sprintf("{srcPort: %d, dstPort: %d, protocol: UDP}", port, echoPort) }
	ports := func(list ...string) string { return strings.Join(list, ", ") }
	const local = "  externalTrafficPolicy: LOCAL\n"
	return []frontend{
		{name: "np-cluster", ports: ports(web(clusterPort), sink(clusterPort+1), echo(clusterPort+2)), members: firsts},
		{name: "np-local", ports: ports(web(localPort)), members: []*pod{firsts[0], firsts[1], c.nodes[1].pods[1]},
			spec: local + fmt.Sprintf("  healthCheck: {port: %d, serviceNamespace: shop, serviceName: web}\n", localHealthPort)},
		{name: "np-empty", ports: ports(web(emptyPort)), spec: local},
		{name: "np-direct", ports: ports(sink(directPort), echo(directPort+1)), spec: "  directServerReturn: true\n", members: firsts[2:]},
		{name: "np-affinity", ports: ports(web(affinityPort), echo(affinityPort+1)), spec: "  sessionAffinity: {type: CLIENT_IP}\n", members: firsts},
		{name: "np-own", ports: ports(web(ownPort)), members: firsts[:1]},
		{name: "lb", address: balancer, ports: ports(web(80), sink(81), echo(82)), members: firsts},
		{name: "lb-ranged", address: ranged, ports: ports(web(80)), members: firsts,
			spec: fmt.Sprintf("  sourceRanges: [%s/32, %q]\n", outside[v4], outside[v6]+"/128")},
		{name: "inner", network: "services", address: inner, ports: ports(web(80)), spec: "  internalTrafficPolicy: LOCAL\n", members: firsts[:2]},
	}
}

// TestClusterExternal: nodeIP:nodePort, LoadBalancer addresses and traffic policies
// over three nodes, for clients outside, pods and nodes. Whoever serves sees the
// client's own address.
func TestClusterExternal(t *testing.T) {
	t.Parallel()
	need(t, "nft")
	c := newCluster(t, clusterOptions{roles: []string{"server"}})
	c.beyond(c.nodes...)
	c.plan.frontends = c.external()
	c.sync()
	for f, bits := range [2]string{"/24", "/64"} {
		c.ip("outside", "address add "+stray[f]+bits+" dev eth0 nodad"+[2]string{"", " preferred_lft 0"}[f]) // never chosen
		c.ip("outside", fmt.Sprintf("route add %s via %s src %s", balancer[f], c.nodes[0].address[f], outside[f]))
		c.ip("outside", fmt.Sprintf("route add %s via %s src %s", ranged[f], c.nodes[1].address[f], outside[f]))
	}
	eachPodFamily(t, func(t *testing.T, f family) {
		t.Run("Cluster", func(t *testing.T) { c.externalCluster(t, f) })
		t.Run("Local", func(t *testing.T) { c.externalLocal(t, f) })
		t.Run("LoadBalancer", func(t *testing.T) { c.loadBalancer(t, f) })
		t.Run("direct return", func(t *testing.T) { c.directReturn(t, f) })
		t.Run("session affinity", func(t *testing.T) { c.externalAffinity(t, f) })
		t.Run("pods and nodes", func(t *testing.T) { c.nodePortsFromInside(t, f) })
		t.Run("internal policy", func(t *testing.T) { c.internalLocal(t, f) })
		t.Run("kube-proxy", func(t *testing.T) { c.kubeProxyAcrossNodes(t, f) })
	})
	t.Run("VXLAN", func(t *testing.T) { // names no interface: the network and what was dialled tell the member
		c.plan.encapsulations = "VXLAN"
		c.sync()
		eachPodFamily(t, func(t *testing.T, f family) {
			c.expect(t, "outside", at(c.nodes[1].address[f], clusterPort), outside[f], c.firsts()...)
			c.expect(t, "outside", at(balancer[f], 80), outside[f], c.firsts()...)
			c.nodePortsFromInside(t, f)
			c.directReturn(t, f)
		})
	})
	t.Run("health check", c.healthCheck)
}

// expect calls a web server again and again and checks that the members that answer
// are these, and whom they see.
func (h *host) expect(t *testing.T, role, address, seen string, members ...*pod) {
	t.Helper()
	want, got := map[string]bool{}, map[string]bool{}
	for _, m := range members {
		want[m.name] = true
	}
	for calls := 0; calls < 12 || len(got) < len(want) && calls < 80; calls++ {
		server, saw, err := h.tryGet(role, address)
		if err != nil {
			t.Errorf("%s to %s: %v", role, address, err)
			return
		}
		if got[server] = true; saw != seen || !want[server] {
			t.Errorf("%s to %s: %s answered and saw %s; want one of %v and %s", role, address, server, saw, want, seen)
			return
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s to %s: %v answered; want all of %v", role, address, got, want)
	}
}

// refused checks that nobody answers a TCP connection: with a refusal, or not at all.
func (h *host) refused(t *testing.T, role, address string, atOnce bool, d net.Dialer) {
	t.Helper()
	if atOnce {
		d.Timeout = patience
	}
	conn, err := h.tryDial(role, "tcp", address, d)
	if err == nil {
		conn.Close()
	}
	var late net.Error
	if atOnce && !errors.Is(err, syscall.ECONNREFUSED) || !atOnce && (!errors.As(err, &late) || !late.Timeout()) {
		t.Errorf("%s to %s: %v; want a refusal: %v", role, address, err, atOnce)
	}
}

// firsts are the first pods of the nodes: the members of most services.
func (c *cluster) firsts() (pods []*pod) {
	for _, n := range c.nodes {
		pods = append(pods, n.pods[0])
	}
	return pods
}

// externalCluster: each node takes a connection to its port and gives it to any member,
// and the answers leave by it.
func (c *cluster) externalCluster(t *testing.T, f family) {
	wire := c.tap("external-" + f.String())
	for _, n := range c.nodes {
		c.expect(t, "outside", at(n.address[f], clusterPort), outside[f], c.firsts()...)
		c.upload(t, "outside", at(n.address[f], clusterPort+1), 1<<20)
		got := map[string]bool{}
		for calls := 0; len(got) < 3 && calls < 80; calls++ {
			conn := c.dial(t, "outside", "udp", at(n.address[f], clusterPort+2))
			server, seen, err := echo(conn, bytes.Repeat([]byte{'x'}, 1200))
			if err != nil || seen != conn.LocalAddr().String() {
				t.Fatalf("%s saw %s: %v; want %v", server, seen, err, conn.LocalAddr())
			}
			got[server] = true
		}
		if len(got) != 3 {
			t.Errorf("by %s datagrams reached %v", n.name, got)
		}
		// The node's own servers stay its own.
		if server, seen := c.get(t, "outside", at(n.address[f], nodeWebPort)); server != "node" || seen != outside[f] {
			t.Errorf("%s answered and saw %s", server, seen)
		}
	}
	for _, n := range c.nodes {
		out := wire.frames(fmt.Sprintf("tcp.srcport == %d && %s.src == %s && !udp && !gre", clusterPort, ipField(f), n.address[f]), "eth.src")
		if len(out) < 36 {
			t.Errorf("%d packets of answers on the wire from %s", len(out), n.name)
		}
		for _, x := range out {
			if x[0] != n.mac() {
				t.Fatalf("an answer of %s, whose address is %s, left from %s", n.name, n.mac(), x[0])
			}
		}
	}
	if n := len(wire.frames(fmt.Sprintf("udp.srcport == %d && !mpls && !vxlan", clusterPort+2), "eth.src")); n < 9 {
		t.Errorf("%d datagrams of answers on the wire", n)
	}
}

// ipField is how tshark's filters name a family.
func ipField(f family) string { return [2]string{"ip", "ipv6"}[f] }

// mac is the address of the node's uplink.
func (n *node) mac() string {
	n.t.Helper()
	_, link, _ := strings.Cut(n.run("node", "ip", "-o", "link", "show", "eth0"), "link/ether ")
	mac, _, _ := strings.Cut(link, " ")
	return mac
}

// externalLocal: members of the node that was called, dropped where others have some,
// refused where nobody has. Pods reach all members whatever the policy says.
func (c *cluster) externalLocal(t *testing.T, f family) {
	one, two, three := c.nodes[0], c.nodes[1], c.nodes[2]
	c.note("FLOATING_IP_NO_LOCAL_MEMBER", "FLOATING_IP_NO_MEMBER")
	all := []*pod{one.pods[0], two.pods[0], two.pods[1]}
	c.expect(t, "outside", at(one.address[f], localPort), outside[f], all[0])
	c.expect(t, "outside", at(two.address[f], localPort), outside[f], all[1:]...)
	before := three.drops("", "FLOATING_IP_NO_LOCAL_MEMBER")
	c.refused(t, "outside", at(three.address[f], localPort), false, net.Dialer{})
	if three.drops("", "FLOATING_IP_NO_LOCAL_MEMBER") == before {
		t.Error("it was not dropped for the policy")
	}
	for _, n := range c.nodes {
		c.refused(t, "outside", at(n.address[f], emptyPort), true, net.Dialer{})
		n.refused(t, n.pods[1].name, at(n.address[f], emptyPort), true, net.Dialer{})
	}
	p := three.pods[1]
	p.expect(t, p.name, at(three.address[f], localPort), p.address[f], all...)
}

// loadBalancer: an address that no node has, by whichever node the network sends it to.
func (c *cluster) loadBalancer(t *testing.T, f family) {
	c.note("FLOATING_IP_SOURCE", "FLOATING_IP_PORT")
	c.expect(t, "outside", at(balancer[f], 80), outside[f], c.firsts()...)
	c.expect(t, "outside", at(ranged[f], 80), outside[f], c.firsts()...)
	c.upload(t, "outside", at(balancer[f], 81), 1<<20)
	if _, _, err := echo(c.dial(t, "outside", "udp", at(balancer[f], 82)), []byte("hello")); err != nil {
		t.Error(err)
	}
	c.refused(t, "outside", at(ranged[f], 80), false, net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(stray[f])}})
	c.refused(t, "outside", at(balancer[f], 88), true, net.Dialer{})
	if _, _, err := echo(c.dial(t, "outside", "udp", at(balancer[f], 88)), []byte("hello")); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a datagram to a port that is not mapped: %v", err)
	}
	for _, n := range c.nodes { // pods go straight to a member
		n.expect(t, n.pods[1].name, at(balancer[f], 80), n.pods[1].address[f], c.firsts()...)
	}
	c.nodes[0].expect(t, "node", at(balancer[f], 80), c.nodes[0].address[f], c.firsts()...)
}

// directReturn: the member's node answers by its own uplink, as the node that was
// called, a client that it reaches by a gateway.
func (c *cluster) directReturn(t *testing.T, f family) {
	called, serving := c.nodes[0], c.nodes[2]
	ask := func() net.Conn {
		conn := c.dial(t, "server", "udp", at(called.address[f], directPort+1))
		if server, seen, err := echo(conn, bytes.Repeat([]byte{'x'}, 1200)); err != nil || server != serving.pods[0].name || seen != conn.LocalAddr().String() {
			t.Fatalf("%s saw %s: %v", server, seen, err)
		}
		return conn
	}
	// Until its kernel knows the gateway, answers come by the node that was called.
	c.until("answers leave directly", func() bool {
		local := netip.MustParseAddrPort(ask().LocalAddr().String())
		flows := called.flows(&pb.FlowFilter{Source: beyond[f], SourcePort: uint32(local.Port())})
		return len(flows) == 1 && flows[0].GetReplyCounters().GetPackets() == 0
	})
	wire := c.tap("direct-" + c.plan.encapsulations + f.String())
	if server := c.upload(t, "server", at(called.address[f], directPort), 8<<20); server != serving.pods[0].name {
		t.Errorf("%s received it", server)
	}
	for range 3 {
		ask()
	}
	for filter, least := range map[string]int{fmt.Sprintf("tcp.srcport == %d", directPort): 20, fmt.Sprintf("udp.srcport == %d", directPort+1): 3} {
		out := wire.frames(filter, "eth.src", ipField(f)+".src", "frame.protocols")
		direct := 0
		for _, x := range out {
			if x[0] == serving.mac() && x[1] == called.address[f] && !strings.Contains(x[2], "mpls") && !strings.Contains(x[2], "vxlan") {
				direct++
			}
		}
		if direct < least || direct != len(out) {
			t.Errorf("%s: %d of %d packets of answers left directly: %v", filter, direct, len(out), out[:min(3, len(out))])
		}
	}
}

// externalAffinity: a client stays on one member, by TCP and by UDP each.
func (c *cluster) externalAffinity(t *testing.T, f family) {
	n := c.nodes[1]
	servers := map[string]bool{}
	for range 20 {
		server, seen := c.get(t, "outside", at(n.address[f], affinityPort))
		if servers[server] = true; seen != outside[f] {
			t.Errorf("%s saw %s", server, seen)
		}
	}
	if len(servers) != 1 {
		t.Errorf("TCP: %v answered", servers)
	}
	clear(servers)
	for range 20 {
		server, _, err := echo(c.dial(t, "outside", "udp", at(n.address[f], affinityPort+1)), []byte("hello"))
		if err != nil {
			t.Fatal(err)
		}
		servers[server] = true
	}
	if len(servers) != 1 {
		t.Errorf("UDP: %v answered", servers)
	}
}

// nodePortsFromInside: pods and nodes call their own node's port and another's, and a
// member calls itself.
func (c *cluster) nodePortsFromInside(t *testing.T, f family) {
	one, two := c.nodes[0], c.nodes[1]
	p := one.pods[1]
	for _, n := range c.nodes {
		t.Run("pod to "+n.name, func(t *testing.T) {
			p.expect(t, p.name, at(n.address[f], clusterPort), p.address[f], c.firsts()...)
			p.upload(t, p.name, at(n.address[f], clusterPort+1), 1<<20)
			if _, seen, err := echo(p.dial(t, p.name, "udp", at(n.address[f], clusterPort+2)), bytes.Repeat([]byte{'x'}, 1200)); err != nil || !strings.Contains(seen, p.address[f]) {
				t.Errorf("UDP: seen as %s, %v", seen, err)
			}
			p.expect(t, p.name, at(n.address[f], localPort), p.address[f], one.pods[0], two.pods[0], two.pods[1])
			if server, seen := p.get(t, p.name, at(n.address[f], nodeWebPort)); server != "node" || seen != p.address[f] {
				t.Errorf("%s answered and saw %s", server, seen)
			}
		})
		t.Run("node-1 to "+n.name, func(t *testing.T) {
			one.expect(t, "node", at(n.address[f], clusterPort), one.address[f], c.firsts()...)
			one.expect(t, "node", at(n.address[f], ownPort), one.address[f], one.pods[0])
			one.upload(t, "node", at(n.address[f], clusterPort+1), 1<<20)
		})
	}
	t.Run("hairpin", func(t *testing.T) {
		m := one.pods[0]
		for _, n := range c.nodes[:2] {
			if server, seen := m.get(t, m.name, at(n.address[f], ownPort)); server != m.name || seen == "" {
				t.Errorf("by %s: %s answered and saw %s", n.name, server, seen)
			}
		}
	})
}

// internalLocal: workloads and the node itself reach the members of their own node.
func (c *cluster) internalLocal(t *testing.T, f family) {
	for _, n := range c.nodes[:2] {
		n.expect(t, n.pods[1].name, at(inner[f], 80), n.pods[1].address[f], n.pods[0])
		n.expect(t, "node", at(inner[f], 80), n.address[f], n.pods[0])
	}
	three := c.nodes[2]
	three.refused(t, three.pods[1].name, at(inner[f], 80), false, net.Dialer{})
	three.refused(t, "node", at(inner[f], 80), false, net.Dialer{})
}

// kubeProxyAcrossNodes: rules in the kernel of a node send its port on by vhost0 to a
// pod here and one on another node, beside our own ports.
func (c *cluster) kubeProxyAcrossNodes(t *testing.T, f family) {
	n := c.nodes[0]
	n.forwardOnNode()
	here, there := n.pods[0], c.nodes[1].pods[0]
	rules := strings.NewReplacer("31050", fmt.Sprint(kernelPort),
		"10.244.0.11", here.address[v4], "fd00:244::11", here.address[v6],
		"10.244.0.12", there.address[v4], "fd00:244::12", there.address[v6]).Replace(kubeProxy)
	n.run("node", "nft", "-f", n.write("kube.nft", rules))
	defer n.run("node", "nft", "delete table inet kube")
	c.expect(t, "outside", at(n.address[f], kernelPort), n.address[f], here, there)
	c.expect(t, "outside", at(n.address[f], clusterPort), outside[f], c.firsts()...)
	n.expect(t, "node", at(n.address[f], kernelPort), n.address[f], here, there)
	// With externalTrafficPolicy Local kube-proxy masquerades nothing.
	n.run("node", "nft", "-f", n.write("kube.nft", fmt.Sprintf(kubeProxyLocal, kernelPort, at(here.address[v4], webPort), at(here.address[v6], webPort))))
	c.expect(t, "outside", at(n.address[f], kernelPort), outside[f], here)
}

// kubeProxyLocal is the way to the one local endpoint of a Service whose
// externalTrafficPolicy is Local: port, IPv4 endpoint, IPv6 endpoint.
const kubeProxyLocal = `
delete table inet kube
table inet kube {
	chain prerouting {
		type nat hook prerouting priority dstnat
		meta nfproto ipv4 tcp dport %d dnat ip to %s
		meta nfproto ipv6 tcp dport %[1]d dnat ip6 to %[3]s
	}
}
`

// healthCheck: load balancers are told how many members a node has, and follow them.
func (c *cluster) healthCheck(t *testing.T) {
	local := slices.IndexFunc(c.plan.frontends, func(x frontend) bool { return x.name == "np-local" })
	check := func(when string, counts ...int) {
		t.Helper()
		for f := range service {
			for i, n := range c.nodes {
				want := fmt.Sprintf(`{"service":{"namespace":"shop","name":"web"},"localEndpoints":%d,"serviceProxyHealthy":true}`, counts[i])
				code := map[bool]int{true: http.StatusOK, false: http.StatusServiceUnavailable}[counts[i] > 0]
				got := ""
				c.until(fmt.Sprintf("%s: %s answers %d %s, now %s", when, n.name, code, want, got), func() bool {
					got = c.health(n.address[f])
					return got == fmt.Sprintf("%d %d %s", code, counts[i], want)
				})
			}
		}
	}
	check("at first", 1, 2, 0)
	members := c.plan.frontends[local].members
	c.plan.frontends[local].members = []*pod{members[2], c.nodes[2].pods[0]}
	c.sync()
	check("members moved", 0, 1, 1)
	c.plan.frontends[local].members = members
	c.sync()
	check("and back", 1, 2, 0)
}

// health asks a node's health-check port and returns status, weight and body.
func (c *cluster) health(address string) string {
	c.t.Helper()
	conn, err := c.tryDial("outside", "tcp", at(address, localHealthPort), net.Dialer{})
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	there := func(context.Context, string, string) (net.Conn, error) { return conn, nil }
	transport := &http.Transport{DisableKeepAlives: true, DialContext: there}
	answer, err := (&http.Client{Transport: transport, Timeout: patience}).Get("http://" + at(address, localHealthPort))
	if err != nil {
		return err.Error()
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || !json.Valid(body) || answer.Header.Get("Content-Type") != "application/json" {
		return fmt.Sprintf("%v: %s", err, body)
	}
	return fmt.Sprintf("%d %s %s", answer.StatusCode, answer.Header.Get("X-Load-Balancing-Endpoint-Weight"), bytes.TrimSpace(body))
}
