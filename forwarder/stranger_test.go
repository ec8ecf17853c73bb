package forwarder

import (
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/nexthop"
)

// Other nodes believe tunnel packets that come from this node's address, so no
// workload may send one with it.
func TestNobodySendsTunnelPacketsAsTheNode(t *testing.T) {
	for family, a := range snatFamilies {
		for _, dport := range []uint16{6635, 4789} {
			r := newSNATRig(t, standardPorts)
			r.inject(web1Port, build(t, udpTo(web1Port, a.pod, a.server, 50000, dport, "\x00\x06\x71\x40a label and what it leads to")))
			r.run()
			if n := len(r.sent(uplinkPort)); n != 0 || r.drops(web1Port, DropTunnelForged) != 1 {
				t.Errorf("%s: %d packets to port %d left with the node's address; drops %v", family, n, dport, r.allDrops())
			}
			if n := r.used(1); n != 0 {
				t.Errorf("%s: %d ports are in use", family, n)
			}
		}
	}
}

// A place in the list of peers that no node has is nobody, whatever a packet's source.
func TestUnusedPeerIsNobody(t *testing.T) {
	w := way{MPLSoverUDP, 6}
	p := newPair(t, w)
	p.both(func(s *state) { s.peers = append(s.peers, Peer{}) })
	r := p.nodes[0]
	r.inject(uplinkPort, w.wrap(t, labelOf+uint32(web1Port), inner(t, udpTo(web2Port, "10.244.0.12", "10.244.0.11", 1, 2, "x")), func(x *wrapping) { x.src = "::" }))
	p.run()
	if r.drops(uplinkPort, DropTunnelUnknownPeer) != 1 {
		t.Errorf("drops %s", p.drops())
	}
	p.nothing()
}

// Outside there is nobody with an address that is here: the node's kernel, which
// would believe it, does not get to see such a packet.
func TestLocalSourceFromOutsideIsNotHandedOver(t *testing.T) {
	for _, fam := range []struct{ name, pod, node, far string }{
		{"IPv4", "10.244.0.11", nodeOf[4][0], "198.51.100.7"}, {"IPv6", "fd00:244::11", nodeOf[6][0], "2001:db8:51::7"},
	} {
		p := newPair(t, way{MPLSoverUDP, 4})
		r := p.nodes[0]
		quote := inner(t, udpTo(0, fam.node, fam.far, 5, 6, "sent by the node"))
		problem := []gopacket.SerializableLayer{&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 3)}, gopacket.Payload(quote)}
		if fam.name == "IPv6" {
			problem = []gopacket.SerializableLayer{&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(1, 4)}, gopacket.Payload(append([]byte{0, 0, 0, 0}, quote...))}
		}
		for name, spec := range map[string]packetSpec{
			"UDP":        udpTo(0, fam.pod, fam.node, 1, 22, "x"),
			"ICMP error": {src: fam.pod, dst: fam.node, l4: problem},
		} {
			before := r.drops(uplinkPort, DropUplinkSource)
			r.inject(uplinkPort, outside(build(t, spec), gateway))
			p.run()
			if n := len(r.sent(vhostPort)); n != 0 || r.drops(uplinkPort, DropUplinkSource) != before+1 {
				t.Errorf("%s %s: the node got %d packets; drops %s", fam.name, name, n, p.drops())
			}
		}
	}
}

// oneToOne makes floating IPs that translate all ports one to one, to one member.
func (s *state) oneToOne(t *testing.T, n int) {
	s.members(t, func(m []nexthop.Member) []nexthop.Member {
		m = m[n : n+1]
		m[0].Port = 0
		return m
	})
	for i, fip := range s.floating {
		next := *fip
		next.Whole, next.Mappings = fip.Mappings[PortKey{Proto: 6, Port: 80}], nil
		s.floating[i] = &next
	}
}

// RFC 5508 REQ-1: of the queries only echo has sessions, from outside too
func TestQueryFromOutsideHasNoSession(t *testing.T) {
	p := newPair(t, way{MPLSoverUDP, 4})
	p.both(func(s *state) { s.oneToOne(t, 0) })
	r := p.nodes[0]
	timestamp := packetSpec{src: "198.51.100.7", dst: "10.96.0.10", l4: []gopacket.SerializableLayer{&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(13, 0), Id: 1}, gopacket.Payload("timestamp...")}}
	for _, before := range []string{"without a session", "with one of identifier 0"} {
		sessions := r.sessions()
		drops := r.drops(uplinkPort, DropICMPType)
		r.inject(uplinkPort, outside(build(t, timestamp), gateway))
		p.run()
		if n := len(r.sent(web1Port)); n != 0 || r.sessions() != sessions || r.drops(uplinkPort, DropICMPType) != drops+1 {
			t.Errorf("%s: %d packets, %d sessions; drops %s", before, n, r.sessions()-sessions, p.drops())
		}
		r.inject(uplinkPort, outside(build(t, echoTo(0, "198.51.100.7", "10.96.0.10", 0, 1, false, "ping")), gateway))
		p.run()
		if n := len(r.sent(web1Port)); n != 1 {
			t.Fatalf("%d echo requests; drops %s", n, p.drops())
		}
	}
}

// RFC 5927 §4: only who is on the way may complain, and what is between two ends here
// does not go outside
func TestErrorFromOutsideAboutLocalSession(t *testing.T) {
	for _, to := range []struct {
		name     string
		from     uint16
		src, dst string
		dport    uint16
		label    uint32
	}{
		{"the node's, to a workload", vhostPort, nodeOf[4][0], "10.244.0.11", 6000, 0},
		{"a workload's, to what another routes for", clientPort, "203.0.113.7", "10.244.7.7", 6000, vrfLabel + uint32(podsVRF)},
	} {
		w := way{MPLSoverUDP, 4}
		p := newPair(t, w)
		r := p.nodes[0]
		for _, routes := range r.state.vrfs {
			routes[netip.MustParsePrefix("10.244.7.0/24")] = nexthop.Route{NextHop: InterfaceNextHop(web1Port), Network: podsNet}
		}
		r.publish()
		question := udpTo(to.from, to.src, to.dst, 5000, to.dport, "question")
		r.inject(to.from, build(t, question))
		p.run()
		if n := len(r.sent(web1Port)); n != 1 {
			t.Fatalf("%s: %d packets; drops %s", to.name, n, p.drops())
		}
		spec := packetSpec{src: "198.51.100.7", dst: to.src, l4: []gopacket.SerializableLayer{
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4), Seq: 576}, gopacket.Payload(inner(t, question)),
		}}
		frame := outside(build(t, spec), gateway)
		if to.label != 0 {
			frame = w.wrap(t, to.label, inner(t, spec), nil)
		}
		r.inject(uplinkPort, frame)
		p.run()
		if n := len(r.sent(to.from)); n != 0 || r.drops(uplinkPort, DropICMPErrorSpoof) != 1 {
			t.Errorf("%s: got %d errors; drops %s", to.name, n, p.drops())
		}
	}
}

// A session out of a tunnel does not go on by a tunnel when its member moves to
// another node.
func TestMovedMemberIsNoTransit(t *testing.T) {
	w := way{VXLAN, 4}
	p := newPair(t, w)
	r := p.nodes[1]
	// An address that two workloads share: no translation.
	routed := func(hop nexthop.ID, itf uint16) {
		g, err := nexthop.NewGroup([]nexthop.Member{{ID: 7, Weight: 1, NextHop: hop, Interface: itf}})
		if err != nil {
			t.Fatal(err)
		}
		s := r.state
		fip := &FloatingIP{ID: 3, Name: "shared", Address: addr("10.244.9.9"), Network: podsNet, VRF: podsVRF, Ingress: true, Whole: &Service{ID: 3, Group: g, Hash: nexthop.HashAll}}
		s.floating = append(s.floating[:2:2], fip)
		s.vrfs[podsVRF][netip.MustParsePrefix("10.244.9.9/32")] = nexthop.Route{NextHop: fipID + 2, Network: podsNet}
		r.publish()
	}
	routed(InterfaceNextHop(web2Port), web2Port)
	spec := w.wrap(t, firstVNI+uint32(podsVRF), inner(t, tcpTo(web1Port, "10.244.0.11", "10.244.9.9", 1000, 80, syn, "")), func(x *wrapping) { x.src, x.dst = x.dst, x.src })
	to := uplinkMAC(1)
	copy(spec, to[:])
	r.inject(uplinkPort, spec)
	r.run()
	if n := len(r.sent(web2Port)); n != 1 {
		t.Fatalf("%d packets; drops %v", n, r.allDrops())
	}
	routed(tunnelID+nexthop.ID(web1Port), 0)
	r.inject(uplinkPort, spec)
	r.run()
	for _, f := range r.sent(uplinkPort) { // that nobody is here: a reset
		o := w.witness(t, f).inner
		if tcp := o.Layer(layers.LayerTypeTCP).(*layers.TCP); !tcp.RST {
			t.Errorf("went on to another node: %v", o)
		}
	}
	if r.drops(uplinkPort, DropFloatingIPNoMember) != 1 || r.sessions() != 0 {
		t.Errorf("%d sessions; drops %v", r.sessions(), r.allDrops())
	}
}

// Nor do they see one where a connection from outside is answered: its source port
// would be the answer's destination.
func TestNoAnswerIsATunnelPacket(t *testing.T) {
	p := newPair(t, way{MPLSoverUDP, 4})
	r, node := p.nodes[0], nodeOf[4][0]
	p.both(func(s *state) {
		s.members(t, func(m []nexthop.Member) []nexthop.Member { return m[:1] })
		port := *s.floating[0] // the service, at a port of the node
		port.ID, port.Address, port.VRF, port.Fallback = 3, addr(node), fabricVRF, InterfaceNextHop(vhostPort)
		s.floating = append(s.floating, &port)
		s.vrfs[fabricVRF][netip.MustParsePrefix(node+"/32")] = nexthop.Route{NextHop: fipID + 2, Network: fabricNet}
	})
	for sport, want := range map[uint16]int{6634: 1, 6635: 0, 4789: 0} {
		r.inject(uplinkPort, outside(build(t, udpTo(0, "198.51.100.7", node, sport, 80, "x")), gateway))
		p.run()
		if n := len(r.sent(web1Port)); n != want {
			t.Errorf("from port %d: %d packets; drops %s", sport, n, p.drops())
		}
	}
	if n := r.drops(uplinkPort, DropTunnelForged); n != 2 {
		t.Errorf("%d dropped; drops %s", n, p.drops())
	}
}
