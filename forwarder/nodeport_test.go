package forwarder

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/nexthop"
)

// Ports of nodes that pods and nodes call, beside those that are called from outside
// (external_test.go).

// single is the prefix of one address.
func single(a string) netip.Prefix {
	return netip.PrefixFrom(netip.MustParseAddr(a), netip.MustParseAddr(a).BitLen())
}

// knowNodes gives each node's networks the way to the other node's own addresses, and
// the pods' network the floating IPs at its own, as the policy between them does.
func (p *pair) knowNodes() {
	for node, r := range p.nodes {
		for _, underlay := range []int{4, 6} {
			for _, vrf := range []uint16{fabricVRF, podsVRF} {
				r.state.vrfs[vrf][single(nodeOf[underlay][1-node])] = nexthop.Route{NextHop: tunnelID + vrfTunnel, Network: fabricNet}
			}
			own := single(nodeOf[underlay][node])
			r.state.vrfs[podsVRF][own] = r.state.vrfs[fabricVRF][own]
		}
		r.publish()
	}
}

// arrived returns the one workload or host that got a packet.
func (p *pair) arrived() (node int, at uint16, got gopacket.Packet) {
	p.t.Helper()
	for n, r := range p.nodes {
		for i := range r.ports {
			for _, f := range r.sent(i) {
				if got != nil {
					p.t.Fatalf("more than one packet arrived, the second: %v", decode(f))
				}
				node, at, got = n, i, decode(f)
			}
		}
	}
	if got == nil {
		p.t.Fatalf("nothing arrived; drops %s", p.drops())
	}
	return node, at, got
}

// web is the address of a member.
func web(family int, member uint16) string {
	return map[int]string{4: "10.244.0.1", 6: "fd00:244::1"}[family] + fmt.Sprint(1+member-web1Port)
}

// A pod that calls another node's port reaches every member, itself among them, as
// itself, and what the other node does not map there is the other node's own.
func TestPodCallsPortOfAnotherNode(t *testing.T) {
	eachExternal(t, func(t *testing.T, p *pair, family int) {
		p.knowNodes()
		node1 := nodeOf[family][1]
		seen := map[uint16]bool{}
		for sport := uint16(40000); sport < 40032; sport++ {
			p.nodes[0].inject(web1Port, build(t, tcpTo(web1Port, web(family, web1Port), node1, sport, nodePort, syn, "")))
			p.run()
			node, member, got := p.arrived()
			checkSums(t, got)
			as := web(family, web1Port)
			if member == web1Port {
				as = node1 // it calls itself
			}
			if src, dst, _ := ends(t, got.NetworkLayer()); src != as || dst != web(family, member) || got.Layer(layers.LayerTypeTCP).(*layers.TCP).DstPort != 8080 {
				t.Fatalf("at node %d port %d: %v", node, member, got)
			}
			seen[member] = true
			for range 2 { // the second is a repetition, under another snapshot
				p.nodes[node].inject(member, build(t, tcpTo(member, web(family, member), as, 8080, sport, accept, "")))
				p.run()
				back, at, answer := p.arrived()
				if src, dst, _ := ends(t, answer.NetworkLayer()); back != 0 || at != web1Port || src != node1 || dst != web(family, web1Port) ||
					answer.Layer(layers.LayerTypeTCP).(*layers.TCP).SrcPort != nodePort {
					t.Fatalf("the answer at node %d port %d: %v", back, at, answer)
				}
				p.nodes[0].publish()
			}
		}
		if len(seen) != 3 {
			t.Errorf("members %v", seen)
		}
		p.nodes[0].inject(web1Port, build(t, tcpTo(web1Port, web(family, web1Port), node1, 41000, 22, syn, "")))
		p.run()
		if node, at, _ := p.arrived(); node != 1 || at != vhostPort {
			t.Errorf("a port that is not mapped led to node %d port %d", node, at)
		}
	})
}

// A connection with the other node itself stays where it is when its port is mapped.
func TestPortOfAnotherNodeIsMappedLater(t *testing.T) {
	for _, family := range []int{4, 6} {
		p := newExternal(t, way{MPLSoverUDP, 4})
		p.knowNodes()
		var mapped [2][]*FloatingIP
		for node, r := range p.nodes {
			mapped[node] = r.state.floating
			r.state.floating = append([]*FloatingIP(nil), mapped[node]...)
			for i, fip := range r.state.floating {
				if fip.Name == "nodeport" {
					next := *fip
					next.Mappings = map[PortKey]*Service{}
					r.state.floating[i] = &next
				}
			}
			r.publish()
		}
		send := func(sport uint16, set func(*layers.TCP)) (node int, at uint16) {
			t.Helper()
			p.nodes[0].inject(web1Port, build(t, tcpTo(web1Port, web(family, web1Port), nodeOf[family][1], sport, nodePort, set, "")))
			p.run()
			node, at, _ = p.arrived()
			return node, at
		}
		if node, at := send(40000, syn); node != 1 || at != vhostPort {
			t.Fatalf("it began at node %d port %d", node, at)
		}
		for node, r := range p.nodes {
			r.state.floating = mapped[node]
			r.publish()
		}
		if node, at := send(40000, func(l *layers.TCP) { l.ACK, l.Seq, l.Ack = true, 1001, 1 }); node != 1 || at != vhostPort {
			t.Errorf("it went on at node %d port %d", node, at)
		}
		if _, at := send(40001, syn); at == vhostPort {
			t.Error("a new one was not balanced")
		}
	}
}

// A process of a node calls another node's port and is given a member on its own node:
// the call comes back with the node's address as source, and the answers go the same
// way. Nothing else may come back so.
func TestNodeCallsPortOfAnotherNode(t *testing.T) {
	eachExternal(t, func(t *testing.T, p *pair, family int) {
		p.knowNodes()
		p.services(keep(t, func(m nexthop.Member) bool { return m.ID == web1ID }))
		frame := build(t, tcpTo(0, nodeOf[family][0], nodeOf[family][1], 40000, nodePort, syn, ""))
		to, from := uplinkMAC(1), uplinkMAC(0)
		copy(frame[0:], to[:])
		copy(frame[6:], from[:])
		p.nodes[1].inject(uplinkPort, frame)
		p.run()
		node, at, got := p.arrived()
		if src, dst, _ := ends(t, got.NetworkLayer()); node != 0 || at != web1Port || src != nodeOf[family][0] || dst != web(family, web1Port) {
			t.Fatalf("at node %d port %d: %v", node, at, got)
		}
		p.nodes[0].inject(web1Port, build(t, tcpTo(web1Port, web(family, web1Port), nodeOf[family][0], 8080, 40000, accept, "")))
		p.run()
		node, at, got = p.arrived()
		if src, dst, _ := ends(t, got.NetworkLayer()); node != 0 || at != vhostPort || src != nodeOf[family][1] || dst != nodeOf[family][0] {
			t.Fatalf("the answer at node %d port %d: %v", node, at, got)
		}
		if len(p.outer[1]) != 1 {
			t.Errorf("node 1, which was called, sent %d frames", len(p.outer[1]))
		}

		label := labelOf + uint32(web1Port)
		if p.way.encapsulation == VXLAN {
			label = firstVNI + uint32(podsVRF)
		}
		forged := p.way.wrap(t, label, inner(t, tcpTo(0, nodeOf[family][0], web(family, web1Port), 40001, 8080, syn, "")), nil)
		p.nodes[0].inject(uplinkPort, forged)
		p.run()
		if n := p.nodes[0].drops(uplinkPort, DropTunnelSource); n != 1 {
			t.Errorf("%d drops of a forged source; drops %s", n, p.drops())
		}
	})
}

// A process of a third node calls node 0's port. Its member's node knows a tunnel to the
// third node, and answers by node 0 all the same, which has the connection.
func TestThirdNodeCallsPort(t *testing.T) {
	eachExternal(t, func(t *testing.T, p *pair, family int) {
		s := p.nodes[1].state
		third := s.peers[0]
		third.Name, third.Address, third.Local = "third", addr(outsideOf[family]), addr(nodeOf[family][1])
		third.Neighbor = [6]byte{2, 0, 0, 3, 0, 3}
		s.peers = append(s.peers, third)
		tunnel := s.tunnels[vrfTunnel]
		tunnel.Peer = uint32(len(s.peers) - 1)
		s.tunnels = append(s.tunnels, tunnel)
		for _, vrf := range []uint16{fabricVRF, podsVRF} {
			s.vrfs[vrf][single(outsideOf[family])] = nexthop.Route{NextHop: tunnelID + nexthop.ID(len(s.tunnels)-1), Network: fabricNet}
		}
		p.nodes[1].publish()
		p.services(keep(t, func(m nexthop.Member) bool { return m.ID != web1ID }))
		node, member, got := p.call(family, 40000, syn, "")
		if node != 1 || got == nil {
			t.Fatalf("node %d; drops %s", node, p.drops())
		}
		if by, frame := p.answer(family, node, member, 40000, accept); by != 0 {
			t.Errorf("the answer left by node %d: %v", by, frame)
		}
	})
}
