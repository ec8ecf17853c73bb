package forwarder

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/nexthop"
)

// Two nodes of the standard state: on the first the client and web-1, on the second
// web-2 and web-3, each node with an uplink. What one sends out of its uplink comes
// in by the other's.

const (
	uplinkPort  uint16 = 6
	labelOf     uint32 = 100 // of the interface at a port: 100 + port
	vrfLabel    uint32 = 200 // of a VRF: 200 + VRF
	firstVNI    uint32 = 1000
	vrfTunnel          = 10 // place in Tunnels of that to the peer's VRF n: 10 + n
	underlayMTU        = 1500
)

// nodeOf are the underlay addresses of the nodes, by underlay.
var nodeOf = map[int][2]string{4: {"192.0.2.10", "192.0.2.20"}, 6: {"2001:db8::10", "2001:db8::20"}}

// way is how the nodes of a pair send to each other.
type way struct {
	encapsulation Encapsulation
	underlay      int // 4 or 6
}

func (w way) String() string { return fmt.Sprintf("%v over IPv%d", w.encapsulation, w.underlay) }

func allWays() (list []way) {
	for _, e := range []Encapsulation{MPLSoverUDP, VXLAN, MPLSoverGRE} {
		list = append(list, way{e, 4}, way{e, 6})
	}
	return list
}

// uplinkMAC is that of node 0's or 1's uplink.
func uplinkMAC(node int) [6]byte { return [6]byte{2, 0, 0, 1, 0, byte(node)} }

// nodeState is the standard state as node 0 or 1 of a pair has it.
func nodeState(node int, w way) *state {
	s := standardState()
	s.interfaces = append(s.interfaces, Interface{
		Kind: Uplink, VRF: fabricVRF, Network: fabricNet, MTU: underlayMTU, MAC: uplinkMAC(node), Name: "uplink",
	})
	s.uplink = uplinkPort
	s.nodes = map[[16]byte]struct{}{addr(nodeOf[4][node]): {}, addr(nodeOf[6][node]): {}}
	if node == 1 {
		for v := range s.vrfs {
			for _, a := range []string{nodeOf[4][0], nodeOf[6][0]} {
				delete(s.vrfs[v], netip.PrefixFrom(netip.MustParseAddr(a), netip.MustParseAddr(a).BitLen()))
			}
		}
		s.port(vhostPort, Host, fabricVRF, fabricNet, "vhost0", nodeOf[4][1], nodeOf[6][1])
	}
	s.peers = []Peer{{
		Name: "other", Address: addr(nodeOf[w.underlay][1-node]), Local: addr(nodeOf[w.underlay][node]),
		Neighbor: uplinkMAC(1 - node), Resolved: true, MTU: underlayMTU, Return: tunnelID + vrfTunnel,
	}}
	s.tunnels = make([]Tunnel, vrfTunnel+3)
	s.labels = make([]nexthop.ID, vrfLabel+3)
	s.vnis = map[uint32]uint16{}
	for vrf := range uint16(3) {
		s.labels[vrfLabel+uint32(vrf)] = vrfID + nexthop.ID(vrf)
		s.vnis[firstVNI+uint32(vrf)] = vrf
		s.tunnels[vrfTunnel+vrf] = w.tunnel(vrfLabel+uint32(vrf), vrf)
		s.overlays = append(s.overlays, Interface{
			Kind: Overlay, VRF: vrf, Network: uint32(vrf) + 1, MTU: 65535, MAC: [6]byte{2, 0, 0, 2, 0, byte(vrf)}, Name: "overlay",
			Gateway4: addr("10.244.0.1"), Gateway6: addr("fd00:244::1"),
		})
	}
	for i := clientPort; i <= web3Port; i++ {
		if (i >= web2Port) == (node == 1) {
			s.labels[labelOf+uint32(i)] = InterfaceNextHop(i)
			continue
		}
		s.tunnels[i] = w.tunnel(labelOf+uint32(i), s.interfaces[i].VRF)
		s.moveAway(i)
	}
	return s
}

// tunnel is one to the other node, for a label, or for the VNI of a VRF.
func (w way) tunnel(label uint32, vrf uint16) Tunnel {
	if w.encapsulation == VXLAN {
		label = firstVNI + uint32(vrf)
	}
	return Tunnel{Encapsulation: w.encapsulation, Identifier: label, InnerMAC: RouterMAC, Used: true}
}

// moveAway makes a workload one of the other node.
func (s *state) moveAway(index uint16) {
	s.interfaces[index].Kind = Absent
	hop := tunnelID + nexthop.ID(index)
	for v := range s.vrfs {
		for p, r := range s.vrfs[v] {
			if r.NextHop == InterfaceNextHop(index) {
				r.NextHop = hop
				s.vrfs[v][p] = r
			}
		}
	}
	for i, fip := range s.floating {
		next := *fip
		next.Mappings = map[PortKey]*Service{}
		for k, svc := range fip.Mappings {
			var list []nexthop.Member
			for j := range svc.Group.Len() {
				m := svc.Group.Member(j)
				if m.NextHop == InterfaceNextHop(index) {
					m.NextHop, m.Interface = hop, 0
				}
				list = append(list, m)
			}
			group, err := nexthop.NewGroup(list)
			if err != nil {
				panic(err)
			}
			changed := *svc
			changed.Group = group
			next.Mappings[k] = &changed
		}
		s.floating[i] = &next
	}
}

// pair is two nodes.
type pair struct {
	t     testing.TB
	way   way
	nodes [2]*rig
	outer [2][][]byte // what each sent out of its uplink
}

func newPair(t testing.TB, w way) *pair {
	return &pair{t: t, way: w, nodes: [2]*rig{newRigOf(t, 1, nodeState(0, w)), newRigOf(t, 1, nodeState(1, w))}}
}

// uplinks attaches other uplinks.
func (p *pair) uplinks(features port.Features) {
	for _, r := range p.nodes {
		r.f.Detach(uplinkPort)
		r.ports[uplinkPort].Close()
		r.attach(uplinkPort, features)
	}
}

// run moves packets until nothing moves.
func (p *pair) run() {
	p.t.Helper()
	p.outer = [2][][]byte{}
	for moved := true; moved; {
		moved = false
		for i, r := range p.nodes {
			r.run()
			for _, f := range r.sentFrames(uplinkPort) {
				moved = true
				p.outer[i] = append(p.outer[i], onTheWire(f))
				if f.Offload.GSOType&(port.GSOTunnelIPv4|port.GSOTunnelIPv6) != 0 { // as a packet socket delivers it
					f.Offload.GSOType &^= port.GSOTunnelIPv4 | port.GSOTunnelIPv6
					f.Offload.OuterL4, f.Offload.InnerL3 = 0, 0
				}
				p.nodes[1-i].injectFrame(uplinkPort, f)
			}
		}
	}
}

// onTheWire is a frame as a device would send it that completes checksums.
func onTheWire(f *port.Frame) []byte {
	b := append([]byte(nil), f.Bytes()...)
	if o := f.Offload; o.Flags&port.NeedsCsum != 0 && o.GSOType == port.GSONone {
		binary.BigEndian.PutUint16(b[o.CsumStart+o.CsumOffset:], ^sum16(b[o.CsumStart:]))
	}
	return b
}

// drops lists what both nodes dropped.
func (p *pair) drops() string { return fmt.Sprint(p.nodes[0].allDrops(), p.nodes[1].allDrops()) }

// one expects one frame on a node's port and none elsewhere.
func (p *pair) one(node int, index uint16) gopacket.Packet {
	p.t.Helper()
	for i := range p.nodes[1-node].ports {
		if frames := p.nodes[1-node].sent(i); len(frames) != 0 {
			p.t.Errorf("node %d port %d sent %v", 1-node, i, decode(frames[0]))
		}
	}
	if p.t.Failed() {
		p.t.Logf("drops %s", p.drops())
	}
	return p.nodes[node].one(index)
}

// nothing expects no frame on any port.
func (p *pair) nothing() {
	p.t.Helper()
	for n, r := range p.nodes {
		for i := range r.ports {
			if frames := r.sent(i); len(frames) != 0 {
				p.t.Errorf("node %d port %d sent %v", n, i, decode(frames[0]))
			}
		}
	}
}

// outerHeader is what a witness reads of a tunnel packet.
type outerHeader struct {
	src, dst   string
	tos, ttl   uint8
	df         bool
	srcPort    uint16
	label      uint32 // or VNI
	flowLabel  uint32
	ethernet   layers.Ethernet
	innerFrame []byte // behind VXLAN
	inner      gopacket.Packet
}

// sum16 is the checksum of RFC 1071, slowly.
func sum16(parts ...[]byte) uint16 {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	if len(b)%2 != 0 {
		b = append(b, 0)
	}
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// witness reads a tunnel packet with gopacket and checks the outer headers' lengths
// and checksums.
func (w way) witness(t testing.TB, frame []byte) (o outerHeader) {
	t.Helper()
	p := decode(frame)
	o.ethernet = *p.LinkLayer().(*layers.Ethernet)
	var rest []byte
	switch ip := p.NetworkLayer().(type) {
	case *layers.IPv4:
		o.src, o.dst, o.tos, o.ttl, o.df = ip.SrcIP.String(), ip.DstIP.String(), ip.TOS, ip.TTL, ip.Flags&layers.IPv4DontFragment != 0
		rest = ip.Payload
		if int(ip.Length) != len(frame)-14 || sum16(frame[14:34]) != 0xffff {
			t.Errorf("outer IPv4 header: length %d of %d, sum %#x", ip.Length, len(frame)-14, sum16(frame[14:34]))
		}
	case *layers.IPv6:
		o.src, o.dst, o.tos, o.ttl, o.df, o.flowLabel = ip.SrcIP.String(), ip.DstIP.String(), ip.TrafficClass, ip.HopLimit, true, ip.FlowLabel
		rest = ip.Payload
		if int(ip.Length) != len(frame)-54 {
			t.Errorf("outer IPv6 payload length %d of %d", ip.Length, len(frame)-54)
		}
	default:
		t.Fatalf("no outer IP: %v", p)
	}
	if w.encapsulation == MPLSoverGRE {
		gre := p.Layer(layers.LayerTypeGRE).(*layers.GRE)
		if gre.Protocol != layers.EthernetTypeMPLSUnicast {
			t.Errorf("GRE carries %v", gre.Protocol)
		}
		rest = gre.Payload
	} else {
		udp := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
		o.srcPort = uint16(udp.SrcPort)
		want := layers.UDPPort(6635)
		if w.encapsulation == VXLAN {
			want = 4789
		}
		if udp.DstPort != want || int(udp.Length) != len(rest) || o.srcPort < 49152 {
			t.Errorf("UDP %d > %d, length %d of %d", udp.SrcPort, udp.DstPort, udp.Length, len(rest))
		}
		if w.underlay == 6 {
			pseudo := binary.BigEndian.AppendUint32(append([]byte(nil), frame[22:54]...), uint32(len(rest)))
			if sum := sum16(append(pseudo, 0, 0, 0, 17), rest); sum != 0xffff {
				t.Errorf("UDP checksum %#x over IPv6: sum %#x", udp.Checksum, sum)
			}
		} else if udp.Checksum != 0 {
			t.Errorf("UDP checksum %#x over IPv4", udp.Checksum)
		}
		rest = udp.Payload
	}
	if w.encapsulation == VXLAN {
		vxlan := p.Layer(layers.LayerTypeVXLAN).(*layers.VXLAN)
		if !vxlan.ValidIDFlag {
			t.Error("VXLAN without I flag")
		}
		o.label, o.innerFrame = vxlan.VNI, vxlan.Payload
		rest = vxlan.Payload[14:]
	} else {
		mpls := gopacket.NewPacket(rest, layers.LayerTypeMPLS, gopacket.Default).Layer(layers.LayerTypeMPLS).(*layers.MPLS)
		if !mpls.StackBottom {
			t.Error("label without S")
		}
		o.label = mpls.Label
		rest = mpls.Payload
	}
	first := layers.LayerTypeIPv4
	if rest[0]>>4 == 6 {
		first = layers.LayerTypeIPv6
	}
	o.inner = gopacket.NewPacket(rest, first, gopacket.Default)
	if rest[0]>>4 == 6 && rest[6] == 58 { // gopacket does not write every ICMPv6 message that it reads
		if sum := sum16(rest[8:40], binary.BigEndian.AppendUint32(nil, uint32(len(rest)-40)), []byte{0, 58}, rest[40:]); sum != 0xffff {
			t.Errorf("ICMPv6 checksum: sum %#x", sum)
		}
		return o
	}
	checkSums(t, o.inner)
	return o
}

// wrap puts an IP packet (a frame without its Ethernet header) into a tunnel packet
// with gopacket, as node 1 would send it to node 0; change may break it.
func (w way) wrap(t testing.TB, label uint32, inner []byte, change func(*wrapping)) []byte {
	t.Helper()
	x := wrapping{way: w, from: 1, label: label, bottom: true, flag: true, ttl: 64, innerMAC: RouterMAC, innerType: layers.EthernetTypeIPv4}
	if inner[0]>>4 == 6 {
		x.innerType = layers.EthernetTypeIPv6
	}
	x.src, x.dst = nodeOf[w.underlay][1], nodeOf[w.underlay][0]
	if change != nil {
		change(&x)
	}
	from, to := uplinkMAC(1), uplinkMAC(0)
	eth := &layers.Ethernet{SrcMAC: from[:], DstMAC: to[:], EthernetType: layers.EthernetTypeIPv4}
	proto := layers.IPProtocolUDP
	if w.encapsulation == MPLSoverGRE {
		proto = layers.IPProtocolGRE
	}
	var ip gopacket.SerializableLayer
	var network gopacket.NetworkLayer
	if w.underlay == 4 {
		l := &layers.IPv4{Version: 4, TTL: 64, TOS: x.tos, Protocol: proto, SrcIP: net.ParseIP(x.src).To4(), DstIP: net.ParseIP(x.dst).To4(), Flags: x.flags, FragOffset: x.fragment}
		ip, network = l, l
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		l := &layers.IPv6{Version: 6, HopLimit: 64, TrafficClass: x.tos, NextHeader: proto, SrcIP: net.ParseIP(x.src), DstIP: net.ParseIP(x.dst)}
		ip, network = l, l
	}
	stack := []gopacket.SerializableLayer{eth, ip}
	udp := &layers.UDP{SrcPort: 50000, DstPort: 6635}
	if err := udp.SetNetworkLayerForChecksum(network); err != nil {
		t.Fatal(err)
	}
	mpls := &layers.MPLS{Label: label, StackBottom: x.bottom, TTL: x.ttl}
	switch w.encapsulation {
	case MPLSoverUDP:
		stack = append(stack, udp, mpls)
	case MPLSoverGRE:
		gre := &layers.GRE{Protocol: layers.EthernetTypeMPLSUnicast}
		if x.gre != nil {
			x.gre(gre)
		}
		stack = append(stack, gre, mpls)
	case VXLAN:
		udp.DstPort = 4789
		innerFrom := mac(99)
		stack = append(stack, udp, &layers.VXLAN{ValidIDFlag: x.flag, VNI: label},
			&layers.Ethernet{SrcMAC: innerFrom[:], DstMAC: x.innerMAC[:], EthernetType: x.innerType})
	}
	if x.second != 0 {
		stack = append(stack, &layers.MPLS{Label: x.second, StackBottom: true, TTL: 64})
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, append(stack, gopacket.Payload(inner))...); err != nil {
		t.Fatal(err)
	}
	b := append([]byte(nil), buf.Bytes()...)
	if x.last != nil {
		b = x.last(b)
	}
	return b
}

// wrapping is what a test may change of a tunnel packet.
type wrapping struct {
	way       way
	from      int
	src, dst  string
	label     uint32
	second    uint32 // another label behind the first
	bottom    bool
	flag      bool
	tos, ttl  uint8
	flags     layers.IPv4Flag
	fragment  uint16
	innerMAC  [6]byte
	innerType layers.EthernetType
	gre       func(*layers.GRE)
	last      func([]byte) []byte
}

// inner builds an IP packet, without the padding of a short frame.
func inner(t testing.TB, p packetSpec) []byte {
	b := build(t, p)[14:]
	if b[0]>>4 == 4 {
		return b[:binary.BigEndian.Uint16(b[2:])]
	}
	return b[:40+binary.BigEndian.Uint16(b[4:])]
}
