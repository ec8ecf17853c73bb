package header

import (
	"bytes"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// decode reads a frame with gopacket, fails on any error and hands out its layers.
func decode(t *testing.T, frame []byte) gopacket.Packet {
	t.Helper()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.NoCopy)
	if e := p.ErrorLayer(); e != nil {
		t.Fatalf("gopacket: %v\n% x", e.Error(), frame)
	}
	return p
}

// reserialise writes the layers of a decoded frame anew, with gopacket's own
// lengths and checksums, and wants the same bytes.
func reserialise(t *testing.T, frame []byte, ls ...gopacket.SerializableLayer) {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	if got := buf.Bytes()[:len(frame)]; !bytes.Equal(got, frame) {
		t.Errorf("gopacket writes\n% x\nwe write\n% x", got, frame)
	}
}

var (
	testMACs = EthernetFields{Destination: [6]byte{2, 0, 0, 0, 0, 2}, Source: [6]byte{2, 0, 0, 0, 0, 1}}
	families = []struct {
		name      string
		src, dst  [16]byte
		etherType uint16
	}{
		{"IPv4", addr("10.0.0.1"), addr("10.0.0.2"), EtherTypeIPv4},
		{"IPv6", addr("fd00::1"), addr("fd00::2"), EtherTypeIPv6},
	}
)

// build writes Ethernet and IP in front of a message of n bytes and returns the
// frame and the message's place.
func build(src, dst [16]byte, etherType uint16, proto, ttl uint8, n int) (frame, message []byte) {
	frame = bytes.Repeat([]byte{0xee}, EthernetLength+IPv6Length+n) // what was there before must not show
	link := testMACs
	link.Type = etherType
	PutEthernet(frame, link)
	h := PutIP(frame[EthernetLength:], &IPFields{Source: src, Destination: dst, PayloadLength: n,
		ID: 77, Proto: proto, TTL: ttl, TOS: 0xc0, DontFragment: true})
	frame = frame[:EthernetLength+h+n]
	return frame, frame[EthernetLength+h:]
}

// checkOurs parses a frame we built.
func checkOurs(t *testing.T, frame []byte) Layout {
	t.Helper()
	var l Layout
	if fault := Parse(frame, &l); fault != FaultNone {
		t.Fatalf("our own frame: %v\n% x", fault, frame)
	}
	if !VerifyL4(frame, &l) {
		t.Fatalf("our own checksum is wrong\n% x", frame)
	}
	return l
}

func TestPutTCPAndUDP(t *testing.T) {
	t.Parallel()
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			frame, m := build(f.src, f.dst, f.etherType, ProtoTCP, 64, TCPMinimumLength)
			PutTCP(m, &f.src, &f.dst, TCPFields{SrcPort: 80, DstPort: 4000, Seq: 7, Ack: 8, Flags: TCPRst | TCPAck, Window: 9})
			checkOurs(t, frame)
			p := decode(t, frame)
			seg := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
			if !seg.RST || !seg.ACK || seg.SYN || seg.Seq != 7 || seg.Ack != 8 || seg.Window != 9 || seg.SrcPort != 80 || seg.DstPort != 4000 {
				t.Errorf("gopacket reads %+v", seg)
			}
			if err := seg.SetNetworkLayerForChecksum(p.NetworkLayer()); err != nil {
				panic(err)
			}
			reserialise(t, frame, p.LinkLayer().(*layers.Ethernet), p.NetworkLayer().(gopacket.SerializableLayer), seg)

			frame, m = build(f.src, f.dst, f.etherType, ProtoUDP, 64, UDPLength+5)
			copy(m[UDPLength:], "hello")
			PutUDP(m, &f.src, &f.dst, 7777, 4000)
			checkOurs(t, frame)
			p = decode(t, frame)
			dgram := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
			if err := dgram.SetNetworkLayerForChecksum(p.NetworkLayer()); err != nil {
				panic(err)
			}
			reserialise(t, frame, p.LinkLayer().(*layers.Ethernet), p.NetworkLayer().(gopacket.SerializableLayer),
				dgram, gopacket.Payload("hello"))
		})
	}
}

func TestPutICMP(t *testing.T) {
	t.Parallel()
	quoted := v4(ProtoTCP, tcp(TCPSyn), nil)[EthernetLength:]
	frame, m := build(families[0].src, families[0].dst, EtherTypeIPv4, ProtoICMP, 64, ICMPLength+len(quoted))
	copy(m[ICMPLength:], quoted)
	PutICMP(m, &families[0].src, &families[0].dst, ICMPFields{Type: ICMPv4DestinationUnreachable, Code: ICMPv4FragmentationNeeded, Rest: 1400})
	l := checkOurs(t, frame)
	if v := ICMPv4(m); !l.ICMPError || v.Type() != 3 || v.Code() != 4 || v.MTU() != 1400 || v.QuotedLength() != 0 || !bytes.Equal(v.Quoted(), quoted) {
		t.Errorf("view reads % x", m)
	}
	reference := decode(t, frame).Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
	if reference.TypeCode.String() != "DestinationUnreachable(FragmentationNeeded)" || reference.Seq != 1400 {
		t.Errorf("gopacket reads %v, next-hop MTU %d", reference.TypeCode, reference.Seq)
	}

	frame, m = build(families[1].src, families[1].dst, EtherTypeIPv6, ProtoICMPv6, 64, ICMPLength+6)
	copy(m[ICMPLength:], "echoed")
	PutICMP(m, &families[1].src, &families[1].dst, ICMPFields{Type: ICMPv6EchoReply, Rest: 0xbeef<<16 | 9})
	checkOurs(t, frame)
	if v := ICMPv6(m); v.EchoID() != 0xbeef || v.EchoSequence() != 9 || string(v.Quoted()) != "echoed" {
		t.Errorf("view reads % x", m)
	}
	p := decode(t, frame)
	reply := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
	if err := reply.SetNetworkLayerForChecksum(p.NetworkLayer()); err != nil {
		panic(err)
	}
	reserialise(t, frame, p.LinkLayer().(*layers.Ethernet), p.NetworkLayer().(gopacket.SerializableLayer), reply,
		p.Layer(layers.LayerTypeICMPv6Echo).(*layers.ICMPv6Echo), gopacket.Payload("echoed"))
}

// RFC 826: an ARP reply as gopacket reads it
func TestPutARP(t *testing.T) {
	t.Parallel()
	frame := bytes.Repeat([]byte{0xee}, EthernetLength+ARPLength)
	link := testMACs
	link.Type = EtherTypeARP
	PutEthernet(frame, link)
	f := ARPFields{Operation: ARPReply, SenderMAC: [6]byte{2, 5: 1}, TargetMAC: [6]byte{2, 5: 2},
		SenderIP: addr("10.0.0.1"), TargetIP: addr("10.0.0.2")}
	PutARP(frame[EthernetLength:], &f)
	checkOurs(t, frame)
	a := ARP(frame[EthernetLength:])
	if got := (ARPFields{a.Operation(), a.SenderMAC(), a.TargetMAC(), a.SenderIP(), a.TargetIP()}); got != f {
		t.Errorf("view reads %+v", got)
	}
	ref := decode(t, frame).Layer(layers.LayerTypeARP).(*layers.ARP)
	if ref.Operation != layers.ARPReply || !net.IP(ref.SourceProtAddress).Equal(net.IP{10, 0, 0, 1}) ||
		!net.IP(ref.DstProtAddress).Equal(net.IP{10, 0, 0, 2}) || !bytes.Equal(ref.SourceHwAddress, f.SenderMAC[:]) {
		t.Errorf("gopacket reads %+v", ref)
	}
}

// RFC 4861 §4.3, §4.4: solicitation and advertisement as gopacket reads them
func TestPutNeighbor(t *testing.T) {
	t.Parallel()
	f := NDFields{Source: addr("fd00::1"), Target: addr("fd00::2"), LinkAddress: [6]byte{2, 5: 1}}
	f.Destination = SolicitedNode(f.Target)
	frame, m := build(f.Source, f.Destination, EtherTypeIPv6, ProtoICMPv6, 255, NDLength)
	PutNeighborSolicitation(m, &f)
	checkOurs(t, frame)
	ns := decode(t, frame).Layer(layers.LayerTypeICMPv6NeighborSolicitation).(*layers.ICMPv6NeighborSolicitation)
	if ns.TargetAddress.String() != "fd00::2" || len(ns.Options) != 1 || ns.Options[0].Type != layers.ICMPv6OptSourceAddress ||
		!bytes.Equal(ns.Options[0].Data, f.LinkAddress[:]) {
		t.Errorf("gopacket reads %+v", ns)
	}
	if mac, ok := NeighborSolicitation(m).SourceLinkAddress(); !ok || mac != f.LinkAddress || NeighborSolicitation(m).Target() != f.Target {
		t.Errorf("view reads %x %v", mac, ok)
	}

	f = NDFields{Source: addr("fd00::2"), Destination: addr("fd00::1"), Target: addr("fd00::2"),
		LinkAddress: [6]byte{2, 5: 2}, Flags: NDSolicited | NDOverride}
	frame, m = build(f.Source, f.Destination, EtherTypeIPv6, ProtoICMPv6, 255, NDLength)
	PutNeighborAdvertisement(m, &f)
	checkOurs(t, frame)
	na := decode(t, frame).Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
	if !na.Solicited() || !na.Override() || na.Router() || na.TargetAddress.String() != "fd00::2" ||
		na.Options[0].Type != layers.ICMPv6OptTargetAddress || !bytes.Equal(na.Options[0].Data, f.LinkAddress[:]) {
		t.Errorf("gopacket reads %+v", na)
	}
	v := NeighborAdvertisement(m)
	if mac, ok := v.TargetLinkAddress(); !ok || mac != f.LinkAddress || v.Flags() != f.Flags || v.Target() != f.Target {
		t.Errorf("view reads %x %v", mac, ok)
	}
	if _, ok := NeighborSolicitation(m).SourceLinkAddress(); ok {
		t.Error("a target option was taken for a source option")
	}
}

// The setters that a rewrite uses write what the accessors read, and nothing else.
func TestSetters(t *testing.T) {
	t.Parallel()
	b := make([]byte, 64)
	p4 := IPv4(b)
	p4[0] = 0x45
	p4.SetTOS(1)
	p4.SetTotalLength(64)
	p4.SetID(2)
	p4.SetFragment(IPv4MoreFragments, 1480)
	p4.SetTTL(3)
	p4.SetSource(addr("1.2.3.4"))
	p4.SetDestination(addr("5.6.7.8"))
	p4.UpdateChecksum()
	if p4.TOS() != 1 || p4.TotalLength() != 64 || p4.ID() != 2 || !p4.MoreFragments() || p4.DontFragment() ||
		p4.FragmentOffset() != 1480 || p4.TTL() != 3 || p4.Protocol() != 0 || p4.Source() != addr("1.2.3.4") ||
		p4.Destination() != addr("5.6.7.8") || naiveSum(b[:20], 0) != 0xffff || !bytes.Equal(b[20:], make([]byte, 44)) {
		t.Errorf("IPv4: % x", b)
	}
	clear(b)
	p6 := IPv6(b)
	p6[0] = 0x60
	p6.SetTrafficClass(0xab)
	p6.SetFlowLabel(0xfff12345)
	p6.SetPayloadLength(24)
	p6.SetHopLimit(9)
	p6.DecrementHopLimit()
	p6.SetSource(addr("fd00::1"))
	p6.SetDestination(addr("fd00::2"))
	if p6.Version() != 6 || p6.TrafficClass() != 0xab || p6.FlowLabel() != 0x12345 || p6.PayloadLength() != 24 || p6.HopLimit() != 8 ||
		p6.NextHeader() != 0 || p6.Source() != addr("fd00::1") || p6.Destination() != addr("fd00::2") || !bytes.Equal(b[40:], make([]byte, 24)) {
		t.Errorf("IPv6: % x", b)
	}
	clear(b)
	s := SCTP(b)
	s.SetSrcPort(1)
	s.SetDstPort(2)
	s[12] = SCTPInit
	s.UpdateChecksum()
	if s.SrcPort() != 1 || s.DstPort() != 2 || s.Tag() != 0 || s.FirstChunk() != SCTPInit || s.Checksum() != SCTPChecksum(b) {
		t.Errorf("SCTP: % x", b)
	}
	m4, m6 := ICMPv4(make([]byte, 8)), ICMPv6(make([]byte, 8))
	m4.SetType(1)
	m4.SetChecksum(2)
	m4.SetEchoID(3)
	m4.SetMTU(4)
	if m4.Type() != 1 || m4.Code() != 0 || m4.Checksum() != 2 || m4.EchoID() != 3 || m4.EchoSequence() != 4 || m4.MTU() != 4 {
		t.Errorf("ICMPv4: % x", m4)
	}
	m6.SetType(1)
	m6.SetChecksum(2)
	m6.SetMTU(0x12345)
	if m6.Type() != 1 || m6.Code() != 0 || m6.Checksum() != 2 || m6.MTU() != 0x12345 {
		t.Errorf("ICMPv6: % x", m6)
	}
	m4[5], m6[4] = 32, 16
	if m4.QuotedLength() != 128 || m6.QuotedLength() != 128 { // RFC 4884 §5
		t.Errorf("quoted length: %d, %d", m4.QuotedLength(), m6.QuotedLength())
	}
}

// Ports reads and writes what the three transports do, and ChecksumOffset is where
// they keep their sum.
func TestPorts(t *testing.T) {
	t.Parallel()
	b := make([]byte, TCPMinimumLength)
	Ports(b).SetSrcPort(0x1234)
	Ports(b).SetDstPort(0x5678)
	if Ports(b).SrcPort() != 0x1234 || TCP(b).SrcPort() != 0x1234 || UDP(b).SrcPort() != 0x1234 || SCTP(b).SrcPort() != 0x1234 ||
		Ports(b).DstPort() != 0x5678 || TCP(b).DstPort() != 0x5678 || UDP(b).DstPort() != 0x5678 || SCTP(b).DstPort() != 0x5678 {
		t.Errorf("% x", b)
	}
	for proto, set := range map[uint8]func([]byte){
		ProtoTCP:    func(b []byte) { TCP(b).SetChecksum(0xabcd) },
		ProtoUDP:    func(b []byte) { UDP(b).SetChecksum(0xabcd) },
		ProtoICMP:   func(b []byte) { ICMPv4(b).SetChecksum(0xabcd) },
		ProtoICMPv6: func(b []byte) { ICMPv6(b).SetChecksum(0xabcd) },
	} {
		clear(b)
		set(b)
		if got := bytes.Index(b, []byte{0xab, 0xcd}); got != ChecksumOffset(proto) {
			t.Errorf("protocol %d: the sum is at %d, ChecksumOffset says %d", proto, got, ChecksumOffset(proto))
		}
	}
	if ChecksumOffset(ProtoSCTP) != -1 || ChecksumOffset(47) != -1 {
		t.Error("SCTP and GRE have no Internet checksum")
	}
}
