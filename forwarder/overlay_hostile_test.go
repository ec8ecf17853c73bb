package forwarder

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/nexthop"
)

// Whatever is wrong with a tunnel packet has a reason of its own, and nothing of it
// reaches anybody.
//
// RFC 7348 §5: a VXLAN packet without the I flag is dropped
// RFC 2784 §2.3: GRE with routing, a key or a sequence number is dropped
// RFC 7510 §3.1: a checksum that is not 0 is verified, and over IPv6 there must be one
// RFC 6040 §4.2: congestion on a packet that does not know ECN drops it
func TestBadTunnelPackets(t *testing.T) {
	udp4, udp6, vxlan, gre := way{MPLSoverUDP, 4}, way{MPLSoverUDP, 6}, way{VXLAN, 4}, way{MPLSoverGRE, 4}
	pod, good := labelOf+uint32(web1Port), inner(t, udpTo(web2Port, "10.244.0.12", "10.244.0.11", 1, 2, "x"))
	toPod := func(src string) []byte { return inner(t, udpTo(web2Port, src, "10.244.0.11", 1, 2, "x")) }
	vni := firstVNI + uint32(podsVRF)
	cases := []struct {
		name   string
		way    way
		label  uint32
		inner  []byte
		change func(*wrapping)
		want   DropReason
	}{
		{"control", udp4, pod, good, nil, DropUnknown},
		{"control VXLAN", vxlan, vni, good, nil, DropUnknown},
		{"control GRE", gre, pod, good, nil, DropUnknown},
		{"control, pod's MAC", vxlan, vni, good, func(x *wrapping) { x.innerMAC = mac(byte(web1Port)) }, DropUnknown},
		{"unknown source", udp4, pod, good, func(x *wrapping) { x.src = "192.0.2.99" }, DropTunnelUnknownPeer},
		{"unknown source VXLAN", vxlan, vni, good, func(x *wrapping) { x.src = "192.0.2.99" }, DropTunnelUnknownPeer},
		{"unknown source GRE", gre, pod, good, func(x *wrapping) { x.src = "192.0.2.99" }, DropTunnelUnknownPeer},
		{"unknown source IPv6", udp6, pod, good, func(x *wrapping) { x.src = "2001:db8::99" }, DropTunnelUnknownPeer},
		{"own source", udp4, pod, good, func(x *wrapping) { x.src = nodeOf[4][0] }, DropTunnelOwnSource},
		{"not to this node", udp4, pod, good, func(x *wrapping) { x.dst = "192.0.2.98" }, DropUplinkDestination},
		{"outer fragment", udp4, pod, good, func(x *wrapping) { x.flags = layers.IPv4MoreFragments; x.last = cutTo(14 + 20 + 32) }, DropTunnelFragment},
		{"outer fragment GRE", gre, pod, good, func(x *wrapping) { x.flags = layers.IPv4MoreFragments; x.last = cutTo(14 + 20 + 32) }, DropTunnelFragment},
		{"checksum", udp4, pod, good, func(x *wrapping) { x.last = flip(40) }, DropTunnelChecksum},
		{"checksum IPv6", udp6, pod, good, func(x *wrapping) { x.last = flip(60) }, DropTunnelChecksum},
		{"no checksum IPv6", udp6, pod, good, func(x *wrapping) { x.last = zero(60, 2) }, DropTunnelChecksum},
		{"no checksum IPv4", udp4, pod, good, func(x *wrapping) { x.last = zero(40, 2) }, DropUnknown},
		{"short label", udp4, pod, good, func(x *wrapping) { x.last = shorten(14 + 20 + 8 + 3) }, DropTunnelShort},
		{"nothing behind the label", udp4, pod, good, func(x *wrapping) { x.last = shorten(14 + 20 + 8 + 4) }, DropTunnelShort},
		{"short VXLAN", vxlan, vni, good, func(x *wrapping) { x.last = shorten(14 + 20 + 8 + 8 + 13) }, DropTunnelShort},
		{"short GRE", gre, pod, good, func(x *wrapping) { x.last = shorten(14 + 20 + 4 + 4) }, DropTunnelShort},
		{"UDP length", udp4, pod, good, func(x *wrapping) { x.last = func(b []byte) []byte { binary.BigEndian.PutUint16(b[38:], 7); return b } }, DropUDPLength},
		{"two labels", udp4, pod, good, func(x *wrapping) { x.bottom = false; x.second = pod }, DropTunnelLabelStack},
		{"label without time to live", udp4, pod, good, func(x *wrapping) { x.ttl = 0 }, DropTunnelTTL},
		{"unknown label", udp4, 999, good, nil, DropTunnelLabel},
		{"largest label", udp4, 1<<20 - 1, good, nil, DropTunnelLabel},
		{"reserved label", udp4, 0, good, nil, DropTunnelLabel},
		{"label of nothing", udp4, labelOf + uint32(web2Port), good, nil, DropTunnelLabel},
		{"no I flag", vxlan, vni, good, func(x *wrapping) { x.flag = false }, DropTunnelVNIFlag},
		{"unknown VNI", vxlan, 77, good, nil, DropTunnelVNI},
		{"GRE key", gre, pod, good, func(x *wrapping) { x.gre = func(g *layers.GRE) { g.KeyPresent = true } }, DropTunnelGRE},
		{"GRE sequence", gre, pod, good, func(x *wrapping) { x.gre = func(g *layers.GRE) { g.SeqPresent = true } }, DropTunnelGRE},
		{"GRE routing", gre, pod, good, func(x *wrapping) { x.last = func(b []byte) []byte { b[34] |= 0x40; return b } }, DropTunnelGRE},
		{"GRE of IPv4", gre, pod, good, func(x *wrapping) { x.gre = func(g *layers.GRE) { g.Protocol = layers.EthernetTypeIPv4 } }, DropTunnelGRE},
		{"neither IPv4 nor IPv6", udp4, pod, append([]byte{0x50}, good[1:]...), nil, DropTunnelPayload},
		{"other EtherType", vxlan, vni, good, func(x *wrapping) { x.innerType = layers.EthernetTypeLinkLayerDiscovery }, DropTunnelPayload},
		{"tagged", vxlan, vni, good, func(x *wrapping) { x.innerType = layers.EthernetTypeDot1Q }, DropVLAN},
		{"ARP", vxlan, vni, good, func(x *wrapping) { x.innerType = layers.EthernetTypeARP }, DropARPFormat},
		{"broadcast", vxlan, vni, good, func(x *wrapping) { x.innerMAC = header.BroadcastMAC() }, DropTunnelGroup},
		{"congestion, no ECN", udp4, pod, good, func(x *wrapping) { x.tos = 3 }, DropTunnelECN},
		{"local source", udp4, pod, toPod("203.0.113.7"), nil, DropTunnelSource},
		{"local source, node's", udp4, pod, toPod(nodeOf[4][0]), nil, DropTunnelSource},
		{"local source, router's", udp4, pod, toPod("10.244.0.1"), nil, DropTunnelSource},
		{"martian source", udp4, pod, toPod("127.0.0.1"), nil, DropMartianSource},
		{"multicast source", udp4, pod, toPod("224.0.0.9"), nil, DropMartianSource},
		{"not behind the label", udp4, pod, inner(t, udpTo(web2Port, "10.244.0.12", "203.0.113.7", 1, 2, "x")), nil, DropTunnelDestination},
		{"transit", udp4, vrfLabel + uint32(podsVRF), inner(t, udpTo(web2Port, "10.244.0.12", "10.244.0.13", 1, 2, "x")), nil, DropTunnelTransit},
		{"transit VXLAN", vxlan, vni, inner(t, udpTo(web2Port, "10.244.0.12", "10.244.0.13", 1, 2, "x")), nil, DropTunnelTransit},
		{"tunnel in tunnel", udp4, vrfLabel + uint32(fabricVRF), udp4.wrap(t, pod, good, nil)[14:], nil, DropTunnelNested},
		{"GRE in tunnel", udp4, vrfLabel + uint32(fabricVRF), gre.wrap(t, pod, good, nil)[14:], nil, DropTunnelNested},
		{"inner checksum", udp4, pod, flip(10)(append([]byte(nil), good...)), nil, DropIPv4Checksum},
		{"inner length", udp4, pod, good[:len(good)-1], nil, DropIPv4TotalLength},
	}
	pairs := map[way]*pair{}
	for _, c := range cases {
		if pairs[c.way] == nil {
			pairs[c.way] = newPair(t, c.way)
		}
		p := pairs[c.way]
		r := p.nodes[0]
		sessions, before := r.sessions(), r.drops(uplinkPort, c.want)
		frame := c.way.wrap(t, c.label, c.inner, c.change)
		r.inject(uplinkPort, frame)
		p.run()
		if c.want == DropUnknown {
			if n := len(r.sent(web1Port)); n != 1 {
				t.Errorf("%s: %d frames arrived; drops %s", c.name, n, p.drops())
			}
			continue
		}
		if r.drops(uplinkPort, c.want) != before+1 || r.sessions() != sessions {
			t.Errorf("%s: drops %s, %d sessions; want %v", c.name, p.drops(), r.sessions(), c.want)
		}
		p.nothing()
	}
}

func flip(at int) func([]byte) []byte { return func(b []byte) []byte { b[at] ^= 0x55; return b } }

func zero(at, n int) func([]byte) []byte {
	return func(b []byte) []byte { clear(b[at : at+n]); return b }
}

// cutTo makes a first fragment of n bytes of an IPv4 frame.
func cutTo(n int) func([]byte) []byte {
	return func(b []byte) []byte {
		b = b[:n]
		header.IPv4(b[14:]).SetTotalLength(n - 14)
		header.IPv4(b[14:]).UpdateChecksum()
		return b
	}
}

// shorten makes an IPv4 frame one of n bytes with right lengths, without UDP checksum.
func shorten(n int) func([]byte) []byte {
	return func(b []byte) []byte {
		b = cutTo(n)(b)
		if b[23] == 17 {
			header.UDP(b[34:]).SetLength(n - 34)
			header.UDP(b[34:]).SetChecksum(0)
		}
		return b
	}
}

// The parts of a fragmented tunnel packet end like their first one.
func TestOuterFragmentsEndTogether(t *testing.T) {
	w := way{MPLSoverUDP, 4}
	p := newPair(t, w)
	good := inner(t, udpTo(web2Port, "10.244.0.12", "10.244.0.11", 1, 2, "0123456789abcdef0123456789"))
	first := w.wrap(t, labelOf+uint32(web1Port), good, func(x *wrapping) { x.flags = layers.IPv4MoreFragments; x.last = cutTo(14 + 20 + 32) })
	rest := w.wrap(t, labelOf+uint32(web1Port), good, func(x *wrapping) { x.fragment = 4; x.last = cutTo(14 + 20 + 16) })
	p.nodes[0].inject(uplinkPort, rest, first, rest)
	p.run()
	if n := p.nodes[0].drops(uplinkPort, DropTunnelFragment); n != 3 {
		t.Errorf("drops %s", p.drops())
	}
	p.nothing()
}

// A peer may not speak for a workload of this node in a session that exists.
func TestSessionOfLocalWorkloadsCannotBeForged(t *testing.T) {
	w := way{MPLSoverUDP, 4}
	p := newPair(t, w)
	r := p.nodes[0]
	r.inject(clientPort, build(t, udpTo(clientPort, "203.0.113.7", "10.244.0.11", 1, 2, "x")))
	p.run()
	p.one(0, web1Port)
	r.inject(uplinkPort,
		w.wrap(t, labelOf+uint32(clientPort), inner(t, udpTo(web1Port, "10.244.0.11", "203.0.113.7", 2, 1, "forged answer")), nil),
		w.wrap(t, vrfLabel+uint32(clientVRF), inner(t, udpTo(web1Port, "203.0.113.7", "10.244.0.11", 1, 2, "forged question")), nil),
		w.wrap(t, vrfLabel+uint32(podsVRF), inner(t, udpTo(web1Port, "10.244.0.11", "203.0.113.7", 2, 1, "forged answer")), nil))
	p.run()
	if n := r.drops(uplinkPort, DropTunnelSource); n != 3 {
		t.Errorf("drops %s", p.drops())
	}
	p.nothing()
}

// RFC 6040 §4.2: the congestion that a tunnel met reaches the packet's ends.
func TestCongestionMarkCrossesTheTunnel(t *testing.T) {
	for i, fam := range bothFamilies {
		for _, w := range allWays() {
			p := newPair(t, w)
			b := build(t, udpTo(web2Port, fam.web[1], fam.web[0], 1, 2, "x"))
			if i == 0 {
				header.IPv4(b[14:]).SetTOS(0xb8 | 2)
				header.IPv4(b[14:]).UpdateChecksum()
			} else {
				header.IPv6(b[14:]).SetTrafficClass(0xb8 | 2)
			}
			p.nodes[1].inject(web2Port, b)
			p.nodes[1].run()
			frames := p.nodes[1].sentFrames(uplinkPort)
			if len(frames) != 1 {
				t.Fatal(p.drops())
			}
			out := frames[0].Bytes()
			if o := w.witness(t, out); o.tos != 0xb8|2 {
				t.Errorf("%v: outer TOS %#x", w, o.tos)
			}
			if w.underlay == 4 {
				header.IPv4(out[14:]).SetTOS(0xb8 | 3)
				header.IPv4(out[14:]).UpdateChecksum()
			} else {
				header.IPv6(out[14:]).SetTrafficClass(0xb8 | 3)
			}
			p.nodes[0].injectFrame(uplinkPort, frames[0])
			p.run()
			got := p.one(0, web1Port)
			checkSums(t, got)
			tos := uint8(0)
			switch ip := got.NetworkLayer().(type) {
			case *layers.IPv4:
				tos = ip.TOS
			case *layers.IPv6:
				tos = ip.TrafficClass
			}
			if tos != 0xb8|3 {
				t.Errorf("%v %s: TOS %#x", w, fam.name, tos)
			}
		}
	}
}

// FuzzUnwrap gives the uplink anything, with any metadata: nothing panics, nothing is
// lost, and what leaves is a packet.
func FuzzUnwrap(f *testing.F) {
	good := inner(f, udpTo(web2Port, "10.244.0.12", "10.244.0.11", 1, 2, "x"))
	for _, w := range allWays() {
		label := labelOf + uint32(web1Port)
		if w.encapsulation == VXLAN {
			label = firstVNI + uint32(podsVRF)
		}
		f.Add(w.wrap(f, label, good, nil), uint8(0), uint8(0), uint16(0), uint16(0), uint16(0))
		f.Add(w.wrap(f, label, good, nil), uint8(1), uint8(5), uint16(10), uint16(34), uint16(6))
		f.Add(w.wrap(f, label, good, nil), uint8(1), uint8(0x21), uint16(10), uint16(66), uint16(16))
	}
	r := newRigOf(f, 1, nodeState(0, way{MPLSoverUDP, 4}))
	f.Fuzz(func(t *testing.T, b []byte, flags, kind uint8, size, start, offset uint16) {
		if len(b) > port.MaxFrame {
			return
		}
		fr := port.NewFrame()
		fr.End = fr.Start + copy(fr.Buf[fr.Start:], b)
		fr.Offload = port.Offload{Flags: flags, GSOType: kind, GSOSize: size, CsumStart: start, CsumOffset: offset}
		r.t = t
		r.injectFrame(uplinkPort, fr)
		r.run()
		if n := r.f.Panics(); n != 0 {
			t.Fatalf("%d panics", n)
		}
		for i := range r.ports {
			for _, out := range r.sent(i) {
				var l header.Layout
				if fault := header.Parse(out, &l); fault != header.FaultNone {
					t.Fatalf("port %d sent what is no packet (fault %d): % x", i, fault, out)
				}
			}
		}
	})
}

// Only what nobody can have opened a connection with is taken for a service's answer, and
// only where the service is what its caller reaches at the address.
func TestAnswersOfServices(t *testing.T) {
	const vip, other = "10.96.0.10", "192.0.2.20"
	type answer struct {
		src, dst string
		vrf      uint16
		proto    uint8
		port     uint16
		flags    uint8
	}
	segment := answer{vip, "203.0.113.7", clientVRF, header.ProtoTCP, 80, header.TCPAck}
	datagram := answer{vip, "203.0.113.7", clientVRF, header.ProtoUDP, 80, 0}
	from := func(a answer, change func(*answer)) answer { change(&a); return a }
	whole := func(f *FloatingIP) {
		f.Whole, f.Mappings = f.Mappings[PortKey{Proto: header.ProtoTCP, Port: 80}], nil
	}
	calls := func(f *FloatingIP) { f.Egress = true }
	node := func(f *FloatingIP) { f.Fallback = InterfaceNextHop(vhostPort) }
	for _, c := range []struct {
		name   string
		change []func(*FloatingIP)
		packet answer
		want   bool
	}{
		{"segment", nil, segment, true},
		{"segment of another port", nil, from(segment, func(a *answer) { a.port = 81 }), false},
		{"first segment", nil, from(segment, func(a *answer) { a.flags = header.TCPSyn }), false},
		{"datagram", nil, datagram, true},
		{"segment of who calls, too", []func(*FloatingIP){calls}, segment, true},
		{"datagram of who calls, too", []func(*FloatingIP){calls}, datagram, false},
		{"segment of a node's port", []func(*FloatingIP){node}, segment, true},
		{"datagram of a node", []func(*FloatingIP){node}, datagram, false},
		{"any port of a whole address", []func(*FloatingIP){whole}, from(segment, func(a *answer) { a.port = 1234 }), true},
		{"a whole address that calls", []func(*FloatingIP){whole, calls}, segment, false},
		{"an address that only calls", []func(*FloatingIP){calls, func(f *FloatingIP) { f.Ingress = false }}, segment, false},
		{"to a caller by ip-fabric", nil, from(segment, func(a *answer) { a.vrf = fabricVRF }), true},
		{"a node's port at another node", []func(*FloatingIP){node}, from(segment, func(a *answer) { a.src = other }), true},
		{"another node's own port", []func(*FloatingIP){node}, from(segment, func(a *answer) { a.src, a.port = other, 81 }), false},
		{"an address of another tenant", nil, from(datagram, func(a *answer) { a.vrf, a.dst = podsVRF, "10.244.0.11" }), false},
		{"bridged", nil, from(datagram, func(a *answer) { a.vrf |= bridgedVRF }), false},
	} {
		s := nodeState(0, way{MPLSoverUDP, 4})
		fip := *s.floating[0]
		for _, change := range c.change {
			change(&fip)
		}
		if fip.Fallback != 0 {
			s.nodes[fip.Address] = struct{}{}
			s.peers[0].Local = fip.Address
		}
		s.floating[0] = &fip
		s.vrfs[clientVRF][netip.MustParsePrefix(other+"/32")] = nexthop.Route{NextHop: s.peers[0].Return, Network: fip.Network}
		delete(s.vrfs[fabricVRF], netip.MustParsePrefix(vip+"/32"))
		s.vrfs[podsVRF][netip.MustParsePrefix(vip+"/32")] = nexthop.Route{NextHop: s.peers[0].Return, Network: podsNet}
		r := newRigOf(t, 1, s)
		p := &packet{l: header.Layout{Proto: c.packet.proto, TCPFlags: c.packet.flags}, key: flowtable.Key{
			Src: addr(c.packet.src), Dst: addr(c.packet.dst), VRF: c.packet.vrf, Proto: c.packet.proto, SrcPort: c.packet.port, DstPort: 40000,
		}}
		if got := r.f.snapshot.Load().isAnswer(p); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
