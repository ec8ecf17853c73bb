package header

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// witness builds random valid packets with gopacket, which shares no code with
// this package, and says what Parse must find in them.
type witness struct {
	r      *rand.Rand
	want   Layout
	layers []gopacket.SerializableLayer
	next   uint8 // protocol number of the transport
	net    gopacket.NetworkLayer
}

func (w *witness) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(w.r.Uint32())
	}
	return b
}

func (w *witness) port() uint16 { return uint16(1 + w.r.IntN(0xffff)) }

// ethernet adds the link layer.
func (w *witness) ethernet(kind layers.EthernetType) {
	src, dst := w.bytes(6), w.bytes(6)
	src[0] &^= 1
	w.want.GroupMAC = dst[0]&1 != 0
	w.want.EtherType = uint16(kind)
	w.want.L3 = 14
	w.layers = append(w.layers, &layers.Ethernet{SrcMAC: src, DstMAC: dst, EthernetType: kind})
}

// ip4 adds an IPv4 header, now and then with options.
func (w *witness) ip4() {
	w.ethernet(layers.EthernetTypeIPv4)
	p := &layers.IPv4{Version: 4, TOS: uint8(w.r.Uint32()), Id: uint16(w.r.Uint32()), TTL: uint8(w.r.Uint32()),
		Protocol: layers.IPProtocol(w.next), SrcIP: w.bytes(4), DstIP: w.bytes(4)}
	w.want.L4 = 34
	if w.r.IntN(4) == 0 {
		p.Options = []layers.IPv4Option{{OptionType: 0x94, OptionLength: 4, OptionData: []byte{0, 0}}}
		w.want.L4 += 4
	}
	if w.r.IntN(2) == 0 {
		p.Flags = layers.IPv4DontFragment
		w.want.DontFragment = true
	}
	w.want.Version, w.want.Proto, w.want.TTL, w.want.TOS, w.want.FragID = 4, w.next, p.TTL, p.TOS, uint32(p.Id)
	w.want.Multicast = p.DstIP.IsMulticast() || p.DstIP.Equal(net.IPv4bcast)
	w.addresses(p.SrcIP, p.DstIP)
	w.layers, w.net = append(w.layers, p), p
}

// ip6 adds an IPv6 header, now and then with destination options.
func (w *witness) ip6() {
	w.ethernet(layers.EthernetTypeIPv6)
	p := &layers.IPv6{Version: 6, TrafficClass: uint8(w.r.Uint32()), FlowLabel: w.r.Uint32() & 0xfffff,
		HopLimit: uint8(w.r.Uint32()), NextHeader: layers.IPProtocol(w.next), SrcIP: w.bytes(16), DstIP: w.bytes(16)}
	w.want.L4 = 54
	w.want.Version, w.want.Proto, w.want.TTL, w.want.TOS, w.want.DontFragment = 6, w.next, p.HopLimit, p.TrafficClass, true
	w.want.Multicast = p.DstIP.IsMulticast()
	w.addresses(p.SrcIP, p.DstIP)
	w.layers, w.net = append(w.layers, p), p
	if w.r.IntN(4) == 0 {
		p.NextHeader = layers.IPProtocolIPv6Destination
		// gopacket writes an IPv6Destination without options only as raw bytes.
		w.layers = append(w.layers, gopacket.Payload{w.next, 0, 1, 4, 0, 0, 0, 0})
		w.want.L4 += 8
	}
}

func (w *witness) addresses(src, dst net.IP) {
	s, _ := netip.AddrFromSlice(src)
	d, _ := netip.AddrFromSlice(dst)
	w.want.Src, w.want.Dst = s.As16(), d.As16()
}

// transport adds the header that belongs to next.
func (w *witness) transport() {
	w.want.Payload = w.want.L4 + 8
	switch w.next {
	case ProtoTCP:
		t := &layers.TCP{SrcPort: layers.TCPPort(w.port()), DstPort: layers.TCPPort(w.port()), Seq: w.r.Uint32(),
			Ack: w.r.Uint32(), ACK: true, PSH: w.r.IntN(2) == 0, FIN: w.r.IntN(4) == 0, CWR: w.r.IntN(4) == 0, Window: 512}
		w.want.Payload = w.want.L4 + 20
		if w.r.IntN(2) == 0 {
			t.Options = []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 0xb4}}}
			w.want.Payload += 4
		}
		w.want.SrcPort, w.want.DstPort = uint16(t.SrcPort), uint16(t.DstPort)
		w.want.TCPFlags = TCPAck
		for flag, set := range map[uint8]bool{TCPPsh: t.PSH, TCPFin: t.FIN, TCPCwr: t.CWR} {
			if set {
				w.want.TCPFlags |= flag
			}
		}
		if err := t.SetNetworkLayerForChecksum(w.net); err != nil {
			panic(err)
		}
		w.layers = append(w.layers, t)
	case ProtoUDP:
		u := &layers.UDP{SrcPort: layers.UDPPort(w.port()), DstPort: layers.UDPPort(w.port())}
		w.want.SrcPort, w.want.DstPort = uint16(u.SrcPort), uint16(u.DstPort)
		if err := u.SetNetworkLayerForChecksum(w.net); err != nil {
			panic(err)
		}
		w.layers = append(w.layers, u)
	case ProtoSCTP:
		s := &layers.SCTP{SrcPort: layers.SCTPPort(w.port()), DstPort: layers.SCTPPort(w.port()), VerificationTag: w.r.Uint32()}
		w.want.SrcPort, w.want.DstPort = uint16(s.SrcPort), uint16(s.DstPort)
		w.want.Payload = w.want.L4 + 12
		w.layers = append(w.layers, s)
	case ProtoICMP:
		m := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: w.port(), Seq: 1}
		w.want.ICMPType, w.want.SrcPort = 8, m.Id
		w.layers = append(w.layers, m)
	case ProtoICMPv6:
		m := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(129, 0)}
		e := &layers.ICMPv6Echo{Identifier: w.port(), SeqNumber: 1}
		w.want.ICMPType, w.want.DstPort = 129, e.Identifier
		if err := m.SetNetworkLayerForChecksum(w.net); err != nil {
			panic(err)
		}
		w.layers = append(w.layers, m, e)
	}
}

// frame serialises the layers and sets the ends in want. gopacket pads short
// frames to 60 bytes, so the end is counted, not measured.
func (w *witness) frame(t *testing.T, payload []byte) []byte {
	t.Helper()
	w.want.End = w.want.Payload + int32(len(payload))
	buf := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, options, append(w.layers, gopacket.Payload(payload))...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestParseEqualsGopacket(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(5, 6))
	seen := map[[2]uint8]int{}
	for range 20_000 {
		w := witness{r: r}
		if r.IntN(2) == 0 {
			w.next = []uint8{ProtoTCP, ProtoUDP, ProtoSCTP, ProtoICMP}[r.IntN(4)]
			w.ip4()
		} else {
			w.next = []uint8{ProtoTCP, ProtoUDP, ProtoSCTP, ProtoICMPv6}[r.IntN(4)]
			w.ip6()
		}
		w.transport()
		frame := w.frame(t, w.bytes(4+r.IntN(64)))
		var got Layout
		if fault := Parse(frame, &got); fault != FaultNone {
			t.Fatalf("fault %v\n% x", fault, frame)
		}
		if got != w.want {
			t.Fatalf("layout (-gopacket +got):\n%s\n% x", cmp.Diff(w.want, got), frame)
		}
		if !VerifyL4(frame, &got) {
			t.Fatalf("gopacket's checksum is refused: %+v\n% x", got, frame)
		}
		// One flipped bit in the transport part must be noticed, wherever it is.
		at := int(got.L4) + r.IntN(int(got.End-got.L4))
		frame[at] ^= 1 << r.IntN(8)
		var flipped Layout
		if Parse(frame, &flipped) == FaultNone && flipped.Proto == got.Proto && VerifyL4(frame, &flipped) {
			if !(got.Proto == ProtoUDP && UDP(frame[got.L4:]).Length() != int(got.End-got.L4)) {
				t.Fatalf("a flipped bit at %d went unnoticed\n% x", at, frame)
			}
		}
		seen[[2]uint8{got.Version, got.Proto}]++
	}
	if len(seen) != 8 {
		t.Errorf("not every family and protocol occurred: %v", seen)
	}
}

// Views and Parse agree with gopacket's reading of the same bytes.
func TestViewsEqualGopacket(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(7, 8))
	for range 5_000 {
		w := witness{r: r, next: ProtoTCP}
		is4 := r.IntN(2) == 0
		if is4 {
			w.ip4()
		} else {
			w.ip6()
		}
		w.transport()
		frame := w.frame(t, w.bytes(8))
		var l Layout
		if fault := Parse(frame, &l); fault != FaultNone {
			t.Fatal(fault)
		}
		link := w.layers[0].(*layers.Ethernet)
		e := Ethernet(frame)
		if e.Source() != [6]byte(link.SrcMAC) || e.Destination() != [6]byte(link.DstMAC) || e.Type() != uint16(link.EthernetType) {
			t.Fatalf("Ethernet view differs: % x", frame[:14])
		}
		var seg *layers.TCP
		for _, layer := range w.layers {
			if s, ok := layer.(*layers.TCP); ok {
				seg = s
			}
		}
		v := TCP(frame[l.L4:])
		if v.Seq() != seg.Seq || v.Ack() != seg.Ack || v.Window() != seg.Window || v.Checksum() != seg.Checksum ||
			len(v.Options()) != v.DataOffset()-TCPMinimumLength {
			t.Fatalf("TCP view differs: % x", frame[l.L4:])
		}
		if is4 {
			p, ref := IPv4(frame[l.L3:]), w.net.(*layers.IPv4)
			if p.Checksum() != ref.Checksum || p.ID() != ref.Id || p.TotalLength() != int(ref.Length) || p.Source() != l.Src ||
				p.Destination() != l.Dst || p.DontFragment() != (ref.Flags&layers.IPv4DontFragment != 0) || p.TOS() != ref.TOS {
				t.Fatalf("IPv4 view differs: % x", frame[l.L3:l.L4])
			}
			continue
		}
		p, ref := IPv6(frame[l.L3:]), w.net.(*layers.IPv6)
		if p.FlowLabel() != ref.FlowLabel || p.TrafficClass() != ref.TrafficClass || p.PayloadLength() != int(ref.Length) ||
			p.Source() != l.Src || p.Destination() != l.Dst || p.HopLimit() != ref.HopLimit {
			t.Fatalf("IPv6 view differs: % x", frame[l.L3:l.L4])
		}
	}
}
