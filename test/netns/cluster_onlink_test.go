package netns_test

import (
	"bytes"
	"fmt"
	"net"
	"testing"
	"time"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// onLinkHosts are a server and an address of nobody on the nodes' own link.
var (
	onLinkServer = [2]string{"192.0.2.77", "2001:db8:10::77"}
	onLinkNobody = [2]string{"192.0.2.78", "2001:db8:10::78"}
)

// TestClusterOnLink: a pod reaches a server on the node's own link that neither the pod
// nor the node has ever talked to. The node has no gateway at all, so there is no other
// way.
func TestClusterOnLink(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterOptions{nodes: 1, roles: []string{"server"}})
	n, p := c.nodes[0], c.nodes[0].pods[0]
	c.plan.leave = true
	c.sync()
	for f, bits := range [2]string{"/24", "/64"} {
		c.ip("server", "address add "+onLinkServer[f]+bits+" dev eth0 nodad")
	}
	c.serve("server")
	c.note("NEIGHBOR_UNRESOLVED")
	n.until("the link is a way out", func() bool {
		for f := range service {
			x := n.explain(p, onLinkServer[f])
			if x.GetReason() != "NEIGHBOR_UNRESOLVED" {
				return false
			}
		}
		return true
	})
	eachPodFamily(t, func(t *testing.T, f family) {
		if shown := n.run("node", "ip", "neigh", "show", onLinkServer[f]); shown != "" {
			t.Fatalf("the node knows the server before: %s", shown)
		}
		// The first SYN is lost, the second, a second later, is not.
		began := time.Now()
		first, err := p.tryDial(p.name, "tcp", at(onLinkServer[f], webPort), net.Dialer{Timeout: patience})
		if err != nil {
			t.Fatal(err)
		}
		first.Close()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("connected after %v, not with the first retransmission", took)
		}
		if server, seen := p.get(t, p.name, at(onLinkServer[f], webPort)); server != "server" || seen != n.address[f] {
			t.Errorf("%s answered and saw %s; want server and the node's %s", server, seen, n.address[f])
		}
		if n.drops(p.name, "NEIGHBOR_UNRESOLVED") == 0 {
			t.Error("nothing was lost: the server was known already, and this test says nothing")
		}
		if server := p.upload(t, p.name, at(onLinkServer[f], sinkPort), 8<<20); server != "server" {
			t.Errorf("%s received it", server)
		}
		conn := p.dial(t, p.name, "udp", at(onLinkServer[f], echoPort))
		if _, _, err := echo(conn, bytes.Repeat([]byte{'x'}, 4000)); err != nil { // in fragments
			t.Errorf("echo: %v", err)
		}
		p.run(p.name, "ping", "-c", "2", "-i", "0.2", "-W", "5", onLinkServer[f])

		// Nobody is asked for, does not answer, and leaves nothing behind.
		if out, err := p.try(p.name, "ping", "-c", "1", "-W", "1", onLinkNobody[f]); err == nil {
			t.Errorf("nobody answers:\n%s", out)
		}
		n.until("the kernel's table is without "+onLinkNobody[f], func() bool {
			return n.run("node", "ip", "neigh", "show", "nud", "all", "to", onLinkNobody[f]) == ""
		})

		// The server takes another MAC address, and says so when it asks for the node.
		x := p.begin(t, p.name, at(onLinkServer[f], sinkPort))
		if err := x.send(1 << 20); err != nil {
			t.Fatal(err)
		}
		c.ip("server", fmt.Sprintf("link set eth0 address 02:00:5e:10:00:%02x", 0x70+int(f)))
		c.ip("server", "neigh flush dev eth0")
		c.run("server", "ping", "-c", "1", "-W", "5", n.address[f])
		if err := x.send(1 << 20); err != nil {
			t.Errorf("after the server's MAC address changed: %v", err)
		}
		if _, err := x.finish(); err != nil {
			t.Error(err)
		}
	})
}

// explain says what would become of a pod's call to a web server.
func (n *node) explain(p *pod, destination string) *pb.ExplainResponse {
	n.t.Helper()
	x, err := n.api.Explain(n.t.Context(), &pb.ExplainRequest{
		VirtualMachineInterface: p.name, Destination: destination, Protocol: pb.Protocol_TCP, DestinationPort: webPort,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return x
}
