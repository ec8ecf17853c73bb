package forwarder

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/nexthop"
)

// A client outside calls port 30080 of node 0, as a NodePort is called, and the
// members are web-1 there, and web-2 and web-3 on node 1.

const nodePort = 30080

var (
	callerMAC  = [6]byte{2, 0, 0, 9, 0, 1}
	gatewayMAC = [6]byte{2, 0, 0, 9, 0, 2}
	outsideOf  = map[int]string{4: "198.51.100.7", 6: "2001:db8:51::7"}
)

// newExternal returns a pair of nodes with the port open on both, as the control
// plane opens it: on each node at the node's own addresses.
func newExternal(t *testing.T, w way) *pair {
	p := newPair(t, w)
	for node, r := range p.nodes {
		s := r.state
		s.peers[0].Address, s.peers[0].Local = addr(nodeOf[w.underlay][1-node]), addr(nodeOf[w.underlay][node])
		other := 10 - w.underlay // known by its address of the other family, too
		second := s.peers[0]
		second.Address, second.Local = addr(nodeOf[other][1-node]), addr(nodeOf[other][node])
		s.peers = append(s.peers, second)
		for i, underlay := range []int{4, 6} {
			a := nodeOf[underlay][node]
			svc := *s.floating[i].Mappings[PortKey{6, 80}]
			svc.ID += 100
			id := uint32(len(s.floating) + 1)
			s.floating = append(s.floating, &FloatingIP{
				ID: id, Name: "nodeport", Address: addr(a), Network: fabricNet, VRF: fabricVRF, Ingress: true,
				Mappings: map[PortKey]*Service{{6, nodePort}: &svc}, Fallback: InterfaceNextHop(vhostPort),
			})
			s.vrfs[fabricVRF][netip.PrefixFrom(netip.MustParseAddr(a), netip.MustParseAddr(a).BitLen())] = nexthop.Route{
				NextHop: fipID + nexthop.ID(id-1), Network: fabricNet,
			}
		}
		r.publish()
	}
	return p
}

// services changes the node port's services on both nodes.
func (p *pair) services(change func(svc *Service)) {
	p.both(func(s *state) {
		for i, fip := range s.floating {
			if fip.Name != "nodeport" {
				continue
			}
			next := *fip
			svc := *fip.Mappings[PortKey{6, nodePort}]
			change(&svc)
			next.Mappings = map[PortKey]*Service{{6, nodePort}: &svc}
			s.floating[i] = &next
		}
	})
}

// keep leaves the node port's services some of their members.
func keep(t *testing.T, wanted func(nexthop.Member) bool) func(svc *Service) {
	return func(svc *Service) {
		var list []nexthop.Member
		for i := range svc.Group.Len() {
			if m := svc.Group.Member(i); wanted(m) {
				list = append(list, m)
			}
		}
		group, err := nexthop.NewGroup(list)
		if err != nil {
			t.Fatal(err)
		}
		svc.Group = group
	}
}

// call sends a segment of the client's to node 0 and returns where it came out.
func (p *pair) call(family int, sport uint16, set func(*layers.TCP), data string) (node int, member uint16, got gopacket.Packet) {
	p.t.Helper()
	frame := build(p.t, tcpTo(0, outsideOf[family], nodeOf[family][0], sport, nodePort, set, data))
	mac := uplinkMAC(0)
	copy(frame[0:], mac[:])
	copy(frame[6:], callerMAC[:])
	p.nodes[0].inject(uplinkPort, frame)
	p.run()
	for n, r := range p.nodes {
		for i := range r.ports {
			if frames := r.sent(i); len(frames) == 1 && member == 0 {
				node, member, got = n, i, decode(frames[0])
			} else if len(frames) > 0 {
				p.t.Fatalf("more than one packet arrived, the second: %v", decode(frames[0]))
			}
		}
	}
	return node, member, got
}

// answer sends a member's segment to the client and returns the node that it left by,
// and the frame.
func (p *pair) answer(family, node int, member uint16, sport uint16, set func(*layers.TCP)) (by int, frame gopacket.Packet) {
	p.t.Helper()
	web := map[int]string{4: "10.244.0.1", 6: "fd00:244::1"}[family] + fmt.Sprint(1+member-web1Port)
	p.nodes[node].inject(member, build(p.t, tcpTo(member, web, outsideOf[family], 8080, sport, set, "")))
	p.run()
	for n := range p.outer {
		for _, b := range p.outer[n] {
			if to := [6]byte(b); to == callerMAC || to == gatewayMAC {
				by, frame = n, decode(b)
			}
		}
	}
	if frame == nil {
		p.t.Fatalf("no answer left; drops %s", p.drops())
	}
	return by, frame
}

func accept(l *layers.TCP) { l.SYN, l.ACK, l.Ack, l.Seq = true, true, 1001, 5000 }

// eachExternal runs a test for every way between the nodes and each family outside.
func eachExternal(t *testing.T, f func(t *testing.T, p *pair, family int)) {
	for _, w := range allWays() {
		for _, family := range []int{4, 6} {
			t.Run(fmt.Sprintf("%v/IPv%d outside", w, family), func(t *testing.T) { f(t, newExternal(t, w), family) })
		}
	}
}

// Every member takes its share, whichever node it is on, sees the client's address,
// and the answers leave by the node that was called, to the station that sent.
func TestNodePortAcrossNodes(t *testing.T) {
	eachExternal(t, func(t *testing.T, p *pair, family int) {
		seen := map[uint16]bool{}
		for sport := uint16(40000); sport < 40032; sport++ {
			node, member, got := p.call(family, sport, syn, "")
			if got == nil {
				t.Fatalf("nothing arrived; drops %s", p.drops())
			}
			checkSums(t, got)
			if src, _, _ := ends(t, got.NetworkLayer()); src != outsideOf[family] || got.Layer(layers.LayerTypeTCP).(*layers.TCP).DstPort != 8080 {
				t.Fatalf("to the member: %v", got)
			}
			seen[member] = true
			by, frame := p.answer(family, node, member, sport, accept)
			checkSums(t, frame)
			src, dst, _ := ends(t, frame.NetworkLayer())
			if by != 0 || src != nodeOf[family][0] || dst != outsideOf[family] || frame.Layer(layers.LayerTypeTCP).(*layers.TCP).SrcPort != nodePort {
				t.Fatalf("the answer left by node %d: %v", by, frame)
			}
			if eth := frame.Layer(layers.LayerTypeEthernet).(*layers.Ethernet); [6]byte(eth.DstMAC) != callerMAC || [6]byte(eth.SrcMAC) != uplinkMAC(0) {
				t.Fatalf("the answer's Ethernet addresses: %v", eth)
			}
		}
		if len(seen) != 3 {
			t.Errorf("members %v", seen)
		}
	})
}

// An error of a member's on another node about a call of a node's port reaches the
// caller, about what it called; a forged one, for a member here or the node itself, nobody.
//
// RFC 5508 REQ-4, RFC 5927 §4
func TestNodePortErrors(t *testing.T) {
	eachExternal(t, func(t *testing.T, p *pair, family int) {
		forged := 0
		for sport := uint16(40000); sport < 40008; sport++ {
			node, member, got := p.call(family, sport, syn, "")
			if got == nil {
				t.Fatalf("nothing arrived; drops %s", p.drops())
			}
			kind := map[int][2]uint8{4: {3, 3}, 6: {1, 4}}[family]
			complain := func(node int, from uint16, by, about string, port uint16) {
				quoted := build(t, tcpTo(0, outsideOf[family], about, sport, port, syn, ""))[14:]
				frame := build(t, errorTo(from, by, outsideOf[family], kind[0], kind[1], 0, quoted))
				p.nodes[node].inject(from, frame)
				p.run()
			}
			complain(node, member, web(family, member), web(family, member), 8080)
			var told []gopacket.Packet
			for _, b := range p.outer[0] {
				if [6]byte(b) == callerMAC {
					told = append(told, decode(b))
				}
			}
			if len(told) != 1 {
				t.Fatalf("a member of node %d complained, and the caller got %d packets; drops %s", node, len(told), p.drops())
			}
			if src, dst, _ := ends(t, told[0].NetworkLayer()); src != nodeOf[family][0] || dst != outsideOf[family] {
				t.Errorf("the caller was told by %s", src)
			}
			if node != 0 {
				continue
			}
			quoted := build(t, tcpTo(0, outsideOf[family], nodeOf[family][0], sport, nodePort, syn, ""))[14:]
			frame := build(t, errorTo(0, nodeOf[family][0], outsideOf[family], kind[0], kind[1], 0, quoted))
			to := uplinkMAC(0)
			copy(frame[0:], to[:])
			copy(frame[6:], callerMAC[:])
			p.nodes[0].inject(uplinkPort, frame)
			p.run()
			if forged++; p.nodes[0].drops(uplinkPort, DropICMPErrorNoSession) != uint64(forged) {
				t.Errorf("a forged error: drops %s", p.drops())
			}
		}
	})
}

// externalTrafficPolicy Local: members here only; where there are others elsewhere
// the client is not refused, where there are none at all it is.
func TestExternalTrafficPolicyLocal(t *testing.T) {
	eachExternal(t, func(t *testing.T, p *pair, family int) {
		p.services(func(svc *Service) { svc.ExternalLocal = true })
		for sport := uint16(40000); sport < 40016; sport++ {
			if node, member, _ := p.call(family, sport, syn, ""); node != 0 || member != web1Port {
				t.Fatalf("node %d port %d; drops %s", node, member, p.drops())
			}
		}
		p.services(keep(t, func(m nexthop.Member) bool { return m.ID != web1ID }))
		if _, member, got := p.call(family, 41000, syn, ""); member != 0 {
			t.Errorf("somebody got it: %v", got)
		}
		if n := p.nodes[0].drops(uplinkPort, DropFloatingIPNoLocalMember); n != 1 || len(p.outer[0]) != 0 {
			t.Errorf("%d drops, %d frames out; drops %s", n, len(p.outer[0]), p.drops())
		}
		p.services(keep(t, func(nexthop.Member) bool { return false }))
		p.call(family, 41001, syn, "")
		if n := p.nodes[0].drops(uplinkPort, DropFloatingIPNoMember); n != 1 || len(p.outer[0]) != 1 {
			t.Fatalf("%d drops, %d frames out; drops %s", n, len(p.outer[0]), p.drops())
		}
		if tcp := decode(p.outer[0][0]).Layer(layers.LayerTypeTCP).(*layers.TCP); !tcp.RST {
			t.Errorf("the client was told %v", tcp)
		}
	})
}

// internalTrafficPolicy Local speaks of this node's own clients.
func TestInternalTrafficPolicyLocal(t *testing.T) {
	p := newPair(t, way{MPLSoverUDP, 4})
	p.both(func(s *state) {
		for _, fip := range s.floating {
			for _, svc := range fip.Mappings {
				svc.InternalLocal = true
			}
		}
	})
	for _, fam := range bothFamilies {
		for sport := uint16(40000); sport < 40016; sport++ {
			p.nodes[0].inject(clientPort, build(t, tcpTo(clientPort, fam.client, fam.fip, sport, 80, syn, "")))
			p.run()
			p.one(0, web1Port)
		}
	}
}

// sourceRanges: whoever is outside them is dropped without a word; live connections
// stay.
func TestSourceRanges(t *testing.T) {
	for _, family := range []int{4, 6} {
		p := newExternal(t, way{MPLSoverUDP, 4})
		if _, member, _ := p.call(family, 40000, syn, ""); member == 0 {
			t.Fatalf("drops %s", p.drops())
		}
		ranges := func(a string, bits uint8) {
			p.services(func(svc *Service) { svc.Sources = []AddressRange{{Address: addr(a), Bits: bits}} })
		}
		ranges("203.0.113.0", 120)
		if _, member, _ := p.call(family, 40001, syn, ""); member != 0 || len(p.outer[0]) != 0 || p.nodes[0].drops(uplinkPort, DropFloatingIPSource) != 1 {
			t.Errorf("port %d, %d frames out; drops %s", member, len(p.outer[0]), p.drops())
		}
		if _, member, _ := p.call(family, 40000, func(l *layers.TCP) { l.ACK, l.Seq, l.Ack = true, 1001, 1 }, ""); member == 0 {
			t.Errorf("the live connection lost its member; drops %s", p.drops())
		}
		ranges(map[int]string{4: "198.51.100.0", 6: "2001:db8:51::"}[family], map[int]uint8{4: 120, 6: 48}[family])
		if _, member, _ := p.call(family, 40002, syn, ""); member == 0 {
			t.Errorf("inside the ranges; drops %s", p.drops())
		}
	}
}

// Direct server return: the member's node answers by its own uplink as the node that
// was called, as soon as it knows the way to the client, and the node that was called
// goes on with half a connection to see.
func TestDirectServerReturn(t *testing.T) {
	eachExternal(t, func(t *testing.T, p *pair, family int) {
		p.services(func(svc *Service) { svc.DirectReturn = true })
		p.services(keep(t, func(m nexthop.Member) bool { return m.ID != web1ID }))
		node, member, got := p.call(family, 40000, syn, "")
		if node != 1 || got == nil {
			t.Fatalf("node %d; drops %s", node, p.drops())
		}
		if by, _ := p.answer(family, node, member, 40000, accept); by != 0 {
			t.Fatalf("left by node %d, which knows no way", by)
		}
		slot, ok := p.nodes[1].f.Neighbor(gatewayMAC)
		if !ok {
			t.Fatal("no slot")
		}
		for _, all := range []string{"0.0.0.0/0", "::/0"} {
			p.nodes[1].state.vrfs[fabricVRF][netip.MustParsePrefix(all)] = nexthop.Route{NextHop: NeighborNextHop(slot), Network: fabricNet}
		}
		p.nodes[1].publish()
		for sport := uint16(40000); sport < 40002; sport++ { // one that lived before, a new one
			if sport != 40000 {
				node, member, _ = p.call(family, sport, syn, "")
			}
			by, frame := p.answer(family, node, member, sport, accept)
			checkSums(t, frame)
			src, dst, ttl := ends(t, frame.NetworkLayer())
			if by != 1 || src != nodeOf[family][0] || dst != outsideOf[family] || ttl != 63 || frame.Layer(layers.LayerTypeTCP).(*layers.TCP).SrcPort != nodePort {
				t.Fatalf("left by node %d: %v", by, frame)
			}
			if eth := frame.Layer(layers.LayerTypeEthernet).(*layers.Ethernet); [6]byte(eth.DstMAC) != gatewayMAC || [6]byte(eth.SrcMAC) != uplinkMAC(1) {
				t.Fatalf("Ethernet addresses: %v", eth)
			}
		}
		// Node 0 sees only the client's segments of the rest of the connection.
		for i, segment := range []struct {
			set  func(*layers.TCP)
			data string
		}{
			{func(l *layers.TCP) { l.ACK, l.Seq, l.Ack = true, 1001, 5001 }, ""},
			{func(l *layers.TCP) { l.ACK, l.PSH, l.Seq, l.Ack = true, true, 1001, 5001 }, "request"},
			{func(l *layers.TCP) { l.ACK, l.Seq, l.Ack = true, 1008, 1_000_000 }, ""}, // after a long answer
			{func(l *layers.TCP) { l.ACK, l.PSH, l.Seq, l.Ack = true, true, 1008, 9_000_000 }, "again"},
			{func(l *layers.TCP) { l.ACK, l.FIN, l.Seq, l.Ack = true, true, 1013, 9_000_000 }, ""},
			{func(l *layers.TCP) { l.ACK, l.Seq, l.Ack = true, 1014, 9_000_001 }, ""},
		} {
			if n, m, _ := p.call(family, 40001, segment.set, segment.data); n != node || m != member {
				t.Fatalf("segment %d came out at node %d port %d; drops %s", i, n, m, p.drops())
			}
		}
	})
}

// A packet that only claims to be for the node port of a third node reaches nobody.
func TestNodePortOfNobody(t *testing.T) {
	p := newExternal(t, way{MPLSoverUDP, 4})
	frame := p.way.wrap(t, labelOf+uint32(web1Port), inner(t, tcpTo(0, outsideOf[4], "192.0.2.99", 40000, nodePort, syn, "")), nil)
	p.nodes[0].inject(uplinkPort, frame)
	p.run()
	if n := p.nodes[0].drops(uplinkPort, DropTunnelDestination); n != 1 {
		t.Errorf("drops %s", p.drops())
	}
	p.nothing()
}
