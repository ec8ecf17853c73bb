package forwarder

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/policy"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/nexthop"
)

// A pair whose network of pods bridges: each node has two more pods in it, the
// alias* ones, of which the other node knows the MAC address and no route.

const alias1Port, alias2Port uint16 = 7, 8

var (
	broadcast  = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	strangeMAC = [6]byte{2, 0, 0, 9, 9, 9}
	kernelMAC  = [6]byte{2, 0, 0, 9, 0, 1} // behind node 1, in the bridge table
)

// aliasMAC is the MAC address of an alias pod.
func aliasMAC(node int, index uint16) [6]byte { return [6]byte{2, 0, 0, 0, byte(node), byte(index)} }

// aliasOf are the addresses of an alias pod.
func aliasOf(node int, index uint16) (v4, v6 string) {
	return fmt.Sprintf("10.244.0.%d%d", index, node), fmt.Sprintf("fd00:244::%d%d", index, node)
}

func segmentState(node int, w way) *state {
	s := nodeState(node, w)
	pods := s.vrfs[podsVRF]
	for _, p := range []string{"10.244.0.0/24", "fd00:244::/64"} {
		pods[netip.MustParsePrefix(p)] = nexthop.Route{NextHop: nexthop.ID(DropDiscardRoute), Network: podsNet}
	}
	for _, i := range []uint16{alias1Port, alias2Port} {
		s.interfaces = append(s.interfaces, Interface{})
		v4, v6 := aliasOf(node, i)
		s.port(i, Workload, podsVRF, podsNet, fmt.Sprintf("alias-%d", i), v4, v6)
		s.interfaces[i].MAC = aliasMAC(node, i)
	}
	over := tunnelID + nexthop.ID(vrfTunnel+podsVRF)
	b := &Bridge{MACs: map[[6]byte]nexthop.ID{}, Flood: []nexthop.ID{over}}
	for _, i := range []uint16{alias1Port, alias2Port} {
		b.MACs[aliasMAC(1-node, i)] = over
	}
	for i := web1Port; i <= web3Port; i++ {
		if (i >= web2Port) != (node == 1) {
			b.MACs[mac(byte(i))] = over
		}
	}
	if node == 0 {
		b.MACs[kernelMAC] = over
	}
	s.bridges = map[uint16]*Bridge{podsVRF: b}
	return s
}

func newSegment(t testing.TB, underlay int) *pair {
	w := way{VXLAN, underlay}
	return &pair{t: t, way: w, nodes: [2]*rig{newRigOf(t, 1, segmentState(0, w)), newRigOf(t, 1, segmentState(1, w))}}
}

// framed gives a frame other MAC addresses.
func framed(from, to [6]byte, b []byte) []byte {
	header.Ethernet(b).SetSource(from)
	header.Ethernet(b).SetDestination(to)
	return b
}

// got is what arrived: where, as node*100 + port.
func (p *pair) got() map[int][][]byte {
	m := map[int][][]byte{}
	for n, r := range p.nodes {
		for i := range r.ports {
			if frames := r.sent(i); len(frames) > 0 {
				m[n*100+int(i)] = frames
			}
		}
	}
	return m
}

// reached expects one copy of a frame, as it was sent, on each of some ports and
// nothing elsewhere.
func (p *pair) reached(frame []byte, want ...int) {
	p.t.Helper()
	got := p.got()
	for _, at := range want {
		if len(got[at]) != 1 || !bytes.HasPrefix(frame, got[at][0]) {
			p.t.Errorf("node %d port %d got %d frames: % x\n sent % x", at/100, at%100, len(got[at]), got[at], frame)
		}
		delete(got, at)
	}
	for at, frames := range got {
		p.t.Errorf("node %d port %d got %v", at/100, at%100, decode(frames[0]))
	}
	if p.t.Failed() {
		p.t.Fatalf("drops %s", p.drops())
	}
}

// wrapFrame puts a frame into a VXLAN packet from node 1 to node 0.
func (w way) wrapFrame(t testing.TB, vni uint32, frame []byte) []byte {
	t.Helper()
	from, to := uplinkMAC(1), uplinkMAC(0)
	eth := &layers.Ethernet{SrcMAC: from[:], DstMAC: to[:], EthernetType: layers.EthernetTypeIPv4}
	src, dst := net.ParseIP(nodeOf[w.underlay][1]), net.ParseIP(nodeOf[w.underlay][0])
	udp := &layers.UDP{SrcPort: 55555, DstPort: 4789}
	var ip gopacket.SerializableLayer
	if w.underlay == 4 {
		v := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: src.To4(), DstIP: dst.To4()}
		_ = udp.SetNetworkLayerForChecksum(v) // an IP layer it is
		ip = v
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		v := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: src, DstIP: dst}
		_ = udp.SetNetworkLayerForChecksum(v) // an IP layer it is
		ip = v
	}
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		eth, ip, udp, &layers.VXLAN{ValidIDFlag: true, VNI: vni}, gopacket.Payload(frame))
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// A bridged packet arrives as it was sent, with its MAC addresses and its TTL, on the
// same node and on another, and so does the answer.
func TestBridgedUnicast(t *testing.T) {
	for _, underlay := range []int{4, 6} {
		for i, fam := range bothFamilies {
			p := newSegment(t, underlay)
			v4, v6 := aliasOf(0, alias1Port)
			here := []string{v4, v6}[i]
			for _, c := range []struct {
				node, port int
				mac        [6]byte
				address    string
			}{{0, int(alias1Port), aliasMAC(0, alias1Port), here}, {1, int(web2Port), mac(byte(web2Port)), fam.web[1]}} {
				for _, spec := range []packetSpec{
					udpTo(web1Port, fam.web[0], c.address, 4000, 5000, "question"),
					tcpTo(web1Port, fam.web[0], c.address, 4000, 5000, syn, ""),
				} {
					spec.ttl = 1 // no router is on the way
					q := framed(mac(byte(web1Port)), c.mac, build(t, spec))
					p.nodes[0].inject(web1Port, bytes.Clone(q))
					p.run()
					if c.node == 1 {
						if len(p.outer[0]) != 1 {
							t.Fatalf("%d between the nodes, drops %s", len(p.outer[0]), p.drops())
						}
						if o := p.way.witness(t, p.outer[0][0]); o.label != firstVNI+uint32(podsVRF) || !bytes.HasPrefix(q, o.innerFrame) {
							t.Errorf("VNI %d, frame % x\n sent % x", o.label, o.innerFrame, q)
						}
					}
					p.reached(q, c.node*100+c.port)
				}
				a := framed(c.mac, mac(byte(web1Port)), build(t, udpTo(web1Port, c.address, fam.web[0], 5000, 4000, "answer")))
				p.nodes[c.node].inject(uint16(c.port), bytes.Clone(a))
				p.run()
				p.reached(a, int(web1Port))
				a = framed(c.mac, mac(byte(web1Port)), build(t, tcpTo(web1Port, c.address, fam.web[0], 5000, 4000, func(l *layers.TCP) { l.SYN, l.ACK, l.Ack = true, true, 1001 }, "")))
				p.nodes[c.node].inject(uint16(c.port), bytes.Clone(a))
				p.run()
				p.reached(a, int(web1Port))
			}
			if a, b := p.nodes[0].sessions(), p.nodes[1].sessions(); a != 4 || b != 2 {
				t.Errorf("%d and %d sessions", a, b)
			}
			p.both(func(*state) {}) // all are decided anew and go on
			q := framed(mac(byte(web1Port)), mac(byte(web2Port)), build(t, udpTo(web1Port, fam.web[0], fam.web[1], 4000, 5000, "more")))
			p.nodes[0].inject(web1Port, bytes.Clone(q))
			p.run()
			p.reached(q, 100+int(web2Port))
			a := framed(mac(byte(web2Port)), mac(byte(web1Port)), build(t, udpTo(web1Port, fam.web[1], fam.web[0], 5000, 4000, "more")))
			p.nodes[1].inject(web2Port, bytes.Clone(a))
			p.run()
			p.reached(a, int(web1Port))
			if a, b := p.nodes[0].sessions(), p.nodes[1].sessions(); a != 4 || b != 2 {
				t.Errorf("%d and %d sessions", a, b)
			}
		}
	}
}

// Link-local addresses are at home on a segment, and their sessions last.
func TestBridgedLinkLocal(t *testing.T) {
	p := newSegment(t, 6)
	m, to := mac(byte(web1Port)), mac(byte(web2Port))
	for range 2 {
		q := framed(m, to, build(t, udpTo(web1Port, "fe80::11", "fe80::12", 4000, 5000, "question")))
		p.nodes[0].inject(web1Port, bytes.Clone(q))
		p.run()
		p.reached(q, 100+int(web2Port))
		p.both(func(*state) {})
		for _, r := range p.nodes {
			if r.f.Sweep(); r.sessions() != 1 {
				t.Errorf("%d sessions", r.sessions())
			}
		}
	}
	p.nodes[0].inject(web1Port, framed(m, to, build(t, udpTo(web1Port, netip.AddrFrom16(RouterLinkLocal).String(), "fe80::12", 4000, 5000, "question"))))
	p.run()
	if p.nothing(); p.nodes[0].drops(web1Port, DropSourceSpoof) != 1 {
		t.Errorf("drops %s", p.drops())
	}
}

// One tuple that is routed and bridged, and bridged to one MAC address and to
// another: each packet goes where its MAC address says.
func TestTheMACAddressDecides(t *testing.T) {
	p := newSegment(t, 4)
	r := p.nodes[0]
	here, _ := aliasOf(0, alias1Port)
	frame := func(to [6]byte) []byte {
		return framed(mac(byte(web1Port)), to, build(t, udpTo(web1Port, "10.244.0.11", here, 4000, 5000, "x")))
	}
	for range 3 {
		q := frame(aliasMAC(0, alias1Port))
		r.inject(web1Port, bytes.Clone(q))
		p.run()
		p.reached(q, int(alias1Port))
		r.inject(web1Port, frame(RouterMAC))
		p.run()
		if got := p.one(0, alias1Port); got.NetworkLayer().(*layers.IPv4).TTL != 63 {
			t.Errorf("routed: %v", got)
		}
		if r.sessions() != 2 {
			t.Errorf("%d sessions", r.sessions())
		}
		q = frame(aliasMAC(0, alias2Port)) // who is at the address, the sender knows
		r.inject(web1Port, bytes.Clone(q))
		p.run()
		p.reached(q, int(alias2Port))
	}
	// The answer of the one is not that of the other.
	r.inject(alias2Port, framed(aliasMAC(0, alias2Port), mac(byte(web1Port)), build(t, udpTo(alias2Port, here, "10.244.0.11", 5000, 4000, "x"))))
	p.run()
	if r.drops(alias2Port, DropSourceSpoof) != 1 {
		t.Errorf("drops %s", p.drops())
	}
	for to, from := range map[[6]byte]string{strangeMAC: "a stranger", mac(byte(web1Port)): "itself"} {
		was := r.drops(web1Port, DropBridgeUnknownMAC)
		r.inject(web1Port, frame(to))
		p.run()
		if r.drops(web1Port, DropBridgeUnknownMAC) != was+1 {
			t.Errorf("to %s: drops %s", from, p.drops())
		}
	}
	p.nothing()
}

// An answer to another MAC address than the opener's is none: policy is asked.
func TestBridgedAnswerToAnother(t *testing.T) {
	p := newSegment(t, 4)
	p.both(func(s *state) {
		s.security = []policy.SecurityPolicy{{Subjects: []uint32{policy.FirstIdentity + uint32(alias2Port)}, Ingress: true}}
	})
	r := p.nodes[0]
	here, _ := aliasOf(0, alias1Port)
	q := framed(mac(byte(web1Port)), aliasMAC(0, alias1Port), build(t, udpTo(web1Port, "10.244.0.11", here, 4000, 5000, "x")))
	r.inject(web1Port, bytes.Clone(q))
	p.run()
	p.reached(q, int(alias1Port))
	for range 2 {
		r.inject(alias1Port, framed(aliasMAC(0, alias1Port), aliasMAC(0, alias2Port), build(t, udpTo(alias1Port, here, "10.244.0.11", 5000, 4000, "x"))))
		p.run()
		p.both(func(*state) {})
	}
	if r.drops(alias1Port, DropSecurityIngress) != 2 {
		t.Errorf("drops %s", p.drops())
	}
	p.nothing()
}

// Frames from the wire: to a pod's MAC address from one that is known bridged, from
// others routed; to all, flooded here only.
func TestFramesFromTheWire(t *testing.T) {
	p := newSegment(t, 4)
	r := p.nodes[0]
	vni := firstVNI + uint32(podsVRF)
	in := func(frame []byte) {
		r.inject(uplinkPort, p.way.wrapFrame(t, vni, frame))
		r.run()
	}
	udp := func(from, to [6]byte) []byte {
		return framed(from, to, build(t, udpTo(web2Port, "10.244.0.12", "10.244.0.11", 1, 2, "x")))
	}
	q := udp(kernelMAC, mac(byte(web1Port)))
	in(bytes.Clone(q))
	if got := r.sent(web1Port); len(got) != 1 || !bytes.HasPrefix(q, got[0]) {
		t.Errorf("bridged: % x", got)
	}
	for _, from := range [][6]byte{strangeMAC, RouterMAC} {
		in(udp(from, mac(byte(web1Port))))
		if got := r.one(web1Port); got.NetworkLayer().(*layers.IPv4).TTL != 63 || [6]byte(got.LinkLayer().(*layers.Ethernet).SrcMAC) != RouterMAC {
			t.Errorf("routed: %v", got)
		}
	}
	q = framed(strangeMAC, header.MulticastMAC(addr("239.1.1.1")), build(t, udpTo(web2Port, "10.244.0.99", "239.1.1.1", 1, 2, "x")))
	in(bytes.Clone(q))
	p.reached(q, int(web1Port), int(alias1Port), int(alias2Port))
	for i, c := range []struct {
		reason DropReason
		frame  []byte
	}{
		{DropTunnelSourceMAC, framed(mac(byte(web1Port)), aliasMAC(0, alias1Port), bytes.Clone(q))},
		{DropTunnelSourceMAC, framed(aliasMAC(0, alias1Port), broadcast, bytes.Clone(q))},
		{DropTunnelSource, framed(strangeMAC, header.MulticastMAC(addr("239.1.1.1")), build(t, udpTo(web2Port, "10.244.0.11", "239.1.1.1", 1, 2, "x")))},
		{DropTunnelSource, framed(kernelMAC, mac(byte(web1Port)), build(t, udpTo(web2Port, "10.244.0.70", "10.244.0.11", 1, 2, "x")))},
		{DropBridgeUnknownMAC, udp(kernelMAC, strangeMAC)},
		{DropBridgeUnknownMAC, udp(strangeMAC, mac(byte(web2Port)))},  // to another node: it goes round
		{DropBridgeUnknownMAC, udp(kernelMAC, mac(byte(clientPort)))}, // of another network
	} {
		was := r.drops(uplinkPort, c.reason)
		in(c.frame)
		if r.drops(uplinkPort, c.reason) != was+1 {
			t.Errorf("%d: want %v, drops %v", i, c.reason, r.allDrops())
		}
	}
	was := r.drops(uplinkPort, DropBridgeUnknownMAC)
	in(framed(kernelMAC, aliasMAC(1, alias1Port), arpFrame(t, arpSpec{from: web2Port, hw: net.HardwareAddr(kernelMAC[:]).String(), op: layers.ARPReply, sender: "10.244.0.99", target: "10.244.0.71"})))
	if r.drops(uplinkPort, DropBridgeUnknownMAC) != was+1 {
		t.Errorf("ARP from node to node by this one: drops %v", r.allDrops())
	}
	p.both(func(s *state) { s.bridges = nil })
	in(bytes.Clone(q))
	if r.drops(uplinkPort, DropTunnelGroup) != 1 {
		t.Errorf("where it does not bridge: drops %v", r.allDrops())
	}
	p.nothing()
}

// Superpackets, fragments and ICMP errors are bridged too.
func TestBridgedOddities(t *testing.T) {
	const size, n = 1360, 20
	for name, features := range map[string]port.Features{"whole": portFeatures, "segments": 0} {
		p := newSegment(t, 4)
		p.uplinks(features)
		f := superpacket(t, web1Port, "10.244.0.11", "10.244.0.12", 1000, 2000, size, n)
		framed(mac(byte(web1Port)), mac(byte(web2Port)), f.Bytes())
		p.nodes[0].injectFrame(web1Port, f)
		p.run()
		got := 0
		for _, f := range p.nodes[1].sentFrames(web2Port) {
			eth := header.Ethernet(f.Bytes())
			if eth.Source() != mac(byte(web1Port)) || eth.Destination() != mac(byte(web2Port)) || f.Bytes()[22] != 64 {
				t.Errorf("%s: % x", name, f.Bytes()[:40])
			}
			got += f.Len() - 54
		}
		if got != size*n {
			t.Errorf("%s: %d bytes of %d, drops %s", name, got, size*n, p.drops())
		}
		// A group's superpacket, of which every port gets its own.
		f = superpacket(t, web1Port, "10.244.0.11", "239.1.2.3", 1000, 2000, size, n)
		framed(mac(byte(web1Port)), header.MulticastMAC(addr("239.1.2.3")), f.Bytes())
		p.nodes[0].injectFrame(web1Port, f)
		p.run()
		for at, frames := range p.got() {
			sum := 0
			for _, b := range frames {
				sum += len(b) - 54
			}
			if sum != size*n {
				t.Errorf("%s: port %d got %d bytes", name, at, sum)
			}
		}
	}
	p := newSegment(t, 4)
	whole := framed(mac(byte(web1Port)), mac(byte(web2Port)), build(t, udpTo(web1Port, "10.244.0.11", "10.244.0.12", 40000, 80, strings.Repeat("z", 2000))))
	cut := func(from, to int, flags uint16) []byte {
		b := append(append([]byte(nil), whole[:34]...), whole[34+from:34+to]...)
		ip := header.IPv4(b[14:])
		ip.SetTotalLength(len(ip))
		binary.BigEndian.PutUint16(b[20:], flags|uint16(from/8))
		ip.UpdateChecksum()
		return b
	}
	last, first := cut(1000, 2008, 0), cut(0, 1000, header.IPv4MoreFragments)
	p.nodes[0].inject(web1Port, bytes.Clone(last), bytes.Clone(first))
	p.run()
	got := p.got()[100+int(web2Port)]
	slices.SortFunc(got, bytes.Compare)
	want := [][]byte{last, first}
	slices.SortFunc(want, bytes.Compare)
	if len(got) != 2 || !bytes.Equal(got[0], want[0]) || !bytes.Equal(got[1], want[1]) {
		t.Errorf("fragments: %d, drops %s", len(got), p.drops())
	}
	// A part that is bridged does not follow a first one that is routed.
	binary.BigEndian.PutUint16(last[18:], 99)
	header.IPv4(last[14:]).UpdateChecksum()
	routed := framed(mac(byte(web1Port)), RouterMAC, bytes.Clone(first))
	binary.BigEndian.PutUint16(routed[18:], 99)
	header.IPv4(routed[14:]).UpdateChecksum()
	p.nodes[0].inject(web1Port, bytes.Clone(last), routed)
	p.run()
	if got := p.got()[100+int(web2Port)]; len(got) != 1 {
		t.Errorf("%d fragments, drops %s", len(got), p.drops())
	}
	// What web-2 says about it.
	quote := first[14 : 14+28]
	icmp := packetSpec{from: web2Port, src: "10.244.0.12", dst: "10.244.0.11", l4: []gopacket.SerializableLayer{
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 3)}, gopacket.Payload(quote),
	}}
	e := framed(mac(byte(web2Port)), mac(byte(web1Port)), build(t, icmp))
	p.nodes[1].inject(web2Port, bytes.Clone(e))
	p.run()
	p.reached(e, int(web1Port))
	e = framed(mac(byte(web2Port)), aliasMAC(0, alias1Port), e)
	p.nodes[1].inject(web2Port, bytes.Clone(e))
	p.run()
	if p.nothing(); p.nodes[0].drops(uplinkPort, DropICMPErrorMismatch) != 1 {
		t.Errorf("an error to another: drops %s", p.drops())
	}
	// Longer than the tunnel takes.
	big := udpTo(web1Port, "10.244.0.11", "10.244.0.12", 1, 2, strings.Repeat("x", 1472))
	big.df = true
	p.nodes[0].inject(web1Port, framed(mac(byte(web1Port)), mac(byte(web2Port)), build(t, big)))
	p.run()
	if l, ok := p.one(0, web1Port).Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); !ok || l.Seq != 1450 {
		t.Errorf("too big: %v", l)
	}
}

// Nothing on the way of a bridged or flooded packet allocates.
func TestBridgingDoesNotAllocate(t *testing.T) {
	p := newSegment(t, 4)
	r := p.nodes[0]
	frames := [][]byte{
		framed(mac(byte(web1Port)), mac(byte(web2Port)), build(t, udpTo(web1Port, "10.244.0.11", "10.244.0.12", 1, 2, "x"))),
		groupFrames(t, web1Port, mac(byte(web1Port)), "10.244.0.11", "fd00:244::11")["multicast"],
		arpFrame(t, arpSpec{from: web1Port, op: layers.ARPRequest, sender: "10.244.0.11", target: "10.244.0.70"}),
	}
	frames = append(frames, p.way.wrapFrame(t, firstVNI+uint32(podsVRF), framed(strangeMAC, broadcast, arpFrame(t, arpSpec{
		from: web2Port, hw: "02:00:00:09:09:09", op: layers.ARPRequest, sender: "10.244.0.99", target: "10.244.0.11",
	}))))
	w := r.f.workers[0]
	run := func() {
		r.nanos += TickNanos
		for i, b := range frames {
			in := web1Port
			if i == 3 {
				in = uplinkPort
			}
			f := w.rx[0]
			f.Reset()
			f.End = f.Start + copy(f.Buf[f.Start:], b)
			w.process(in, 1)
			for index := range r.ports {
				r.sentFramesDiscard(index)
			}
		}
	}
	for range 8 * ringDepth { // the wire's buffers grow to the frames they have held
		run()
	}
	if n := testing.AllocsPerRun(100, run); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if n := r.allDrops(); len(n) != 0 {
		t.Errorf("drops %v", n)
	}
}
