package netns_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// beyond are the addresses of a server that the nodes reach by a gateway, outside;
// beyondMTU is what the link between those two takes.
var beyond = [2]string{"203.0.113.7", "2001:db8:113::7"}

const (
	beyondMTU = 1300
	snatFirst = 61000 // the default of Fabric's snatPorts
)

// TestClusterSNAT: pods reach servers beyond the wire with their node's address, by
// the node's own default route, and what comes in unasked is the node's.
//
// RFC 4787 REQ-1, RFC 5382 REQ-1: one socket is one address and port to two servers
// RFC 4787 REQ-8: what no pod has asked for goes to the node itself
// RFC 5382 REQ-9, RFC 5508 REQ-4: errors from beyond reach the pod's socket
func TestClusterSNAT(t *testing.T) {
	t.Parallel()
	need(t, "traceroute")
	c := newCluster(t, clusterOptions{nodes: 1, roles: []string{"server"}})
	n, p := c.nodes[0], c.nodes[0].pods[0]
	c.beyond(n)
	c.plan.leave = true
	c.sync()
	n.until("a way out for pods", func() bool {
		return n.explains(p, v4) && n.explains(p, v6)
	})
	c.serve("server")
	c.serveEcho("outside", echoPort)
	wire := c.tap("snat")
	c.note("TTL")               // traceroute
	c.note("ICMP_ERROR_FORMAT") // the gateway's kernel complains of every fragment that is too long, not of the first alone

	eachPodFamily(t, func(t *testing.T, f family) {
		t.Run("TCP", func(t *testing.T) {
			if server, seen := p.get(t, p.name, at(beyond[f], webPort)); server != "server" || seen != n.address[f] {
				t.Errorf("%s answered and saw %s; want server and the node's %s", server, seen, n.address[f])
			}
			if server := p.upload(t, p.name, at(beyond[f], sinkPort), 8<<20); server != "server" {
				t.Errorf("%s received it", server)
			}
		})
		t.Run("one mapping for all servers", func(t *testing.T) {
			first := ""
			for _, server := range []string{beyond[f], outside[f]} {
				local := &net.UDPAddr{IP: net.ParseIP(p.address[f]), Port: 40001}
				conn, err := p.tryDial(p.name, "udp", at(server, echoPort), net.Dialer{LocalAddr: local})
				if err != nil {
					t.Fatal(err)
				}
				for _, size := range []int{10, 4000} { // the second in fragments
					_, seen, err := echo(conn, bytes.Repeat([]byte{'x'}, size))
					if errors.Is(err, syscall.EMSGSIZE) { // RFC 8201: now it knows the way's MTU
						_, seen, err = echo(conn, bytes.Repeat([]byte{'x'}, size))
					}
					from, parsed := netip.ParseAddrPort(seen)
					if err != nil || parsed != nil || from.Addr().String() != n.address[f] || from.Port() < snatFirst {
						t.Errorf("%s saw %q, %v", server, seen, err)
					}
					if first == "" {
						first = seen
					}
					if seen != first {
						t.Errorf("%s saw %s, another one %s", server, seen, first)
					}
				}
				conn.Close()
			}
			if !slices.ContainsFunc(n.flows(&pb.FlowFilter{Source: p.address[f]}), func(x *pb.Flow) bool {
				return at(x.GetReply().GetDestination(), int(x.GetReply().GetDestinationPort())) == first
			}) {
				t.Errorf("no flow is shown as %s", first)
			}
		})
		t.Run("ping, traceroute, path MTU", func(t *testing.T) {
			p.run(p.name, "ping", "-c", "2", "-i", "0.2", "-W", "5", beyond[f])
			p.run(p.name, "ping", "-c", "1", "-W", "5", "-s", "4000", beyond[f])
			out := p.run(p.name, "traceroute", "-n", "-q", "1", "-w", "5", "-m", "4", beyond[f])
			for _, hop := range []string{[2]string{"10.244.0.1", "fd00:244::1"}[f], outside[f], beyond[f]} {
				if !strings.Contains(out, hop) {
					t.Errorf("traceroute does not show %s:\n%s", hop, out)
				}
			}
			p.run(p.name, "ip", fmt.Sprintf("-%d", []int{4, 6}[f]), "route", "flush", "cache")
			if out, _ := p.try(p.name, "ping", "-c", "1", "-W", "5", "-M", "do", "-s", "1400", beyond[f]); !strings.Contains(out, fmt.Sprint(beyondMTU)) {
				t.Errorf("a long ping is not told %d:\n%s", beyondMTU, out)
			}
			if _, err := p.tryDial(p.name, "tcp", at(beyond[f], 9), net.Dialer{}); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("a closed port: %v", err)
			}
		})
		t.Run("unasked", func(t *testing.T) {
			conn := p.dial(t, p.name, "udp", at(beyond[f], echoPort))
			_, mapped, err := echo(conn, []byte("as whom?"))
			if err != nil {
				t.Fatal(err)
			}
			before := p.segments()
			for _, to := range []string{mapped, at(n.address[f], snatFirst+1000)} {
				if _, err := c.tryDial("server", "tcp", to, net.Dialer{Timeout: patience}); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("a call to %s: %v; want the node's refusal", to, err)
				}
				stranger := c.dial(t, "server", "udp", to)
				if _, _, err := echo(stranger, []byte("hello")); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("a datagram to %s: %v; want the node's refusal", to, err)
				}
			}
			if after := p.segments(); after != before {
				t.Errorf("the pod's kernel has got something: it counted\n%s\nand now\n%s", before, after)
			}
			if server, seen := c.get(t, "server", at(n.address[f], nodeWebPort)); server != "node" || seen != beyond[f] {
				t.Errorf("%s answered and saw %s; want node and %s", server, seen, beyond[f])
			}
			if _, again, err := echo(conn, []byte("and now?")); err != nil || again != mapped {
				t.Errorf("afterwards it is seen as %s (%v), before as %s", again, err, mapped)
			}
		})
	})
	for f := range service {
		inside := wire.frames(fmt.Sprintf("%s.src == %s", [2]string{"ip", "ipv6"}[f], p.address[f]), "frame.protocols")
		if len(inside) > 0 {
			t.Errorf("%v: %d packets crossed the wire with the pod's own address: %v", family(f), len(inside), inside[0])
		}
	}

	// Taken back, it ends: what was open, and what would be.
	conn := p.dial(t, p.name, "udp", at(beyond[v4], echoPort))
	if _, _, err := echo(conn, []byte("still?")); err != nil {
		t.Fatal(err)
	}
	c.plan.leave = false
	c.sync()
	c.note("NAT_WITHDRAWN", "NO_ROUTE")
	// Its next packet ends the session, or the ager has done so before, in 100 ms; then
	// the packet finds neither a session nor a route.
	stopped := func() uint64 { return n.drops(p.name, "NAT_WITHDRAWN") + n.drops(p.name, "NO_ROUTE") }
	before := stopped()
	if _, err := conn.Write([]byte("no more")); err != nil {
		t.Fatal(err)
	}
	n.until("what is sent on the translated session goes nowhere", func() bool { return stopped() > before })
	n.until("the translated session has ended", func() bool {
		return len(n.flows(&pb.FlowFilter{Source: p.address[v4], DestinationPort: echoPort})) == 0
	})
	if _, err := p.tryDial(p.name, "tcp", at(beyond[v4], webPort), net.Dialer{Timeout: patience}); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("without fabricSnat: %v; want no route", err)
	}
}

// beyond makes outside a gateway with a server behind it, and the nodes' way out.
func (c *cluster) beyond(nodes ...*node) {
	c.t.Helper()
	mtu := fmt.Sprint(beyondMTU)
	for _, role := range []string{"outside", "server"} { // nobody forwards by a link whose own address is on trial
		c.run(role, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
	}
	c.ip("outside", "link add beyond mtu "+mtu+" type veth peer name beyond mtu "+mtu+" netns "+c.ns("server"))
	c.run("outside", "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	for _, role := range []string{"outside", "server"} {
		c.run(role, "ethtool", "-K", "beyond", "tx", "off")
		c.ip(role, "link set beyond up")
	}
	for f, bits := range [2]string{"/24", "/64"} {
		c.ip("outside", "address add "+c.gatewayBeyond(family(f))+bits+" dev beyond nodad")
		c.ip("server", "address add "+beyond[f]+bits+" dev beyond nodad")
		c.ip("server", "route add default via "+c.gatewayBeyond(family(f)))
		for _, n := range nodes {
			mustIP(c.t, n.ns("node"), "route add default via "+outside[f])
		}
	}
}

// gatewayBeyond is the gateway's address on the server's link.
func (c *cluster) gatewayBeyond(f family) string {
	return [2]string{"203.0.113.254", "2001:db8:113::fe"}[f]
}

// explains reports whether a new connection of a pod to the server would leave with
// the node's address.
func (n *node) explains(p *pod, f family) bool {
	n.t.Helper()
	x, err := n.api.Explain(context.Background(), &pb.ExplainRequest{
		VirtualMachineInterface: p.name, Destination: beyond[f], Protocol: pb.Protocol_TCP, DestinationPort: webPort,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return x.GetVerdict() == pb.Verdict_FORWARD && x.GetRewritten().GetSource() == n.address[f] && x.GetOutput() == "uplink" &&
		slices.ContainsFunc(x.GetSteps(), func(s *pb.ExplainStep) bool {
			return s.GetStage() == "source-nat" && s.GetResult() == "leaves as "+n.address[f]
		})
}

// segments is what the pod's kernel has counted of TCP and UDP, in both families.
// Neighbor discovery, which comes and goes, is not in it.
func (p *pod) segments() string {
	p.t.Helper()
	var counted []string
	for line := range strings.Lines(p.run(p.name, "cat", "/proc/net/snmp", "/proc/net/snmp6")) {
		for _, of := range []string{"Tcp:", "Udp:", "Udp6InDatagrams", "Udp6NoPorts", "Udp6InErrors"} {
			if strings.HasPrefix(line, of) {
				counted = append(counted, line)
			}
		}
	}
	return strings.Join(counted, "")
}
