package header

import (
	"encoding/binary"
	"testing"
)

// touch calls every accessor that the validity contract calls safe for l, with
// b cut to its end and capacity, so that one byte too far panics.
func touch(t *testing.T, b []byte, l *Layout, quoted bool) {
	t.Helper()
	if l.L3 < 0 || l.L4 < l.L3 || l.Payload < l.L4 || l.End < l.Payload || int(l.End) > len(b) {
		t.Fatalf("offsets out of order: %+v, %d bytes", l, len(b))
	}
	b = b[:l.End:l.End]
	l3, l4 := b[l.L3:], b[l.L4:]
	switch l.Version {
	case 4:
		p := IPv4(l3)
		_ = p.Options()
		if p.Source() != l.Src || p.Destination() != l.Dst || !IsIPv4(l.Src) || p.FragmentOffset() != l.FragOffset ||
			p.MoreFragments() != l.MoreFragments || p.DontFragment() != l.DontFragment || p.TTL() != l.TTL || p.TOS() != l.TOS {
			t.Fatalf("IPv4 view and layout differ: %+v", l)
		}
	case 6:
		p := IPv6(l3)
		if p.Source() != l.Src || p.Destination() != l.Dst || IsIPv4(l.Src) || IsIPv4(l.Dst) || p.HopLimit() != l.TTL ||
			p.TrafficClass() != l.TOS {
			t.Fatalf("IPv6 view and layout differ: %+v", l)
		}
		if l.FragHeader != 0 {
			f := IPv6Fragment(b[l.FragHeader:])
			if f.Offset() != l.FragOffset || f.MoreFragments() != l.MoreFragments || f.ID() != l.FragID {
				t.Fatalf("fragment header and layout differ: %+v", l)
			}
			_ = f.NextHeader()
		}
	default:
		a := ARP(l3)
		_, _, _, _, _ = a.Operation(), a.SenderMAC(), a.SenderIP(), a.TargetMAC(), a.TargetIP()
		return
	}
	if l.IsFragment != (l.MoreFragments || l.FragOffset != 0) {
		t.Fatalf("fragment flags differ: %+v", l)
	}
	if !l.IsFirst() {
		if l.SrcPort != 0 || l.DstPort != 0 || l.TCPFlags != 0 || l.ICMPType != 0 || l.ICMPError || l.Payload != l.L4 {
			t.Fatalf("a later fragment has a transport header: %+v", l)
		}
		return
	}
	if quoted {
		touchQuoted(t, l4, l)
		return
	}
	touchTransport(t, l4, l)
	before := string(b)
	VerifyL4(b, l)
	if string(b) != before {
		t.Fatal("VerifyL4 wrote to the frame")
	}
}

func touchQuoted(t *testing.T, l4 []byte, l *Layout) {
	t.Helper()
	switch {
	case l.Proto == ProtoTCP, l.Proto == ProtoUDP, l.Proto == ProtoSCTP:
		if v := TCP(l4[:quotedL4Length:quotedL4Length]); v.SrcPort() != l.SrcPort || v.DstPort() != l.DstPort {
			t.Fatalf("ports differ: %+v", l)
		}
	case l.IsICMP():
		_, _ = ICMPv4(l4).Type(), ICMPv4(l4).EchoSequence()
	}
}

func touchTransport(t *testing.T, l4 []byte, l *Layout) {
	t.Helper()
	switch {
	case l.Proto == ProtoTCP:
		v := TCP(l4)
		_, _, _, _, _ = v.Options(), v.Seq(), v.Ack(), v.Window(), v.Checksum()
		if v.SrcPort() != l.SrcPort || v.DstPort() != l.DstPort || v.Flags() != l.TCPFlags || int32(v.DataOffset()) != l.Payload-l.L4 {
			t.Fatalf("TCP view and layout differ: %+v", l)
		}
	case l.Proto == ProtoUDP:
		v := UDP(l4)
		_ = v.Checksum()
		if v.SrcPort() != l.SrcPort || v.DstPort() != l.DstPort || !l.IsFragment && v.Length() > len(l4) {
			t.Fatalf("UDP view and layout differ: %+v", l)
		}
	case l.Proto == ProtoSCTP:
		v := SCTP(l4)
		_, _, _ = v.Tag(), v.Checksum(), v.FirstChunk()
		if v.SrcPort() != l.SrcPort || v.DstPort() != l.DstPort {
			t.Fatalf("SCTP view and layout differ: %+v", l)
		}
	case l.IsICMP():
		v := ICMPv4(l4)
		_, _, _, _ = v.Quoted(), v.QuotedLength(), v.EchoSequence(), v.MTU()
		if v.Type() != l.ICMPType || v.Code() != l.ICMPCode {
			t.Fatalf("ICMP view and layout differ: %+v", l)
		}
		if l.Version == 6 && l.ICMPType == ICMPv6NeighborSolicitation {
			_ = NeighborSolicitation(l4).Target()
			NeighborSolicitation(l4).SourceLinkAddress()
		}
		if l.Version == 6 && l.ICMPType == ICMPv6NeighborAdvertisement {
			_, _ = NeighborAdvertisement(l4).Target(), NeighborAdvertisement(l4).Flags()
			NeighborAdvertisement(l4).TargetLinkAddress()
		}
	}
}

// repairIPv4 makes the header checksum of the packet right, so that fuzzing gets
// past it.
func repairIPv4(p IPv4) {
	if len(p) >= IPv4MinimumLength && p.Version() == 4 && p.HeaderLength() >= IPv4MinimumLength && p.HeaderLength() <= len(p) {
		p.UpdateChecksum()
	}
}

// RFC 1812 §5.2.2: no frame, however built, makes the parser panic, write to it or point outside it
func FuzzParse(f *testing.F) {
	for _, c := range parseCases {
		f.Add(unhex(f, c.frame), true)
	}
	for _, frames := range faultCases() {
		for _, frame := range frames {
			f.Add(frame, false)
		}
	}
	f.Fuzz(func(t *testing.T, frame []byte, repair bool) {
		frame = frame[:len(frame):len(frame)]
		if repair && len(frame) >= EthernetLength && Ethernet(frame).Type() == EtherTypeIPv4 {
			repairIPv4(IPv4(frame[EthernetLength:]))
		}
		before := string(frame)
		var l Layout
		fault := Parse(frame, &l)
		if fault >= NumFaults || fault == FaultQuotedVersion {
			t.Fatalf("fault %d", fault)
		}
		if string(frame) != before {
			t.Fatal("Parse wrote to the frame")
		}
		if fault != FaultNone {
			return
		}
		touch(t, frame, &l, false)
		var again Layout
		if Parse(frame[:l.End], &again) != FaultNone || again != l {
			t.Fatalf("padding matters:\n%+v\n%+v", l, again)
		}
	})
}

// RFC 792: the packet quoted in an ICMP error may be cut anywhere behind its first 8 transport bytes
func FuzzParseInner(f *testing.F) {
	for _, c := range parseCases {
		if frame := unhex(f, c.frame); c.want.Version != 0 {
			f.Add(frame[EthernetLength:], true)
			f.Add(frame[EthernetLength:c.want.L4], true)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, repair bool) {
		b = b[:len(b):len(b)]
		if repair {
			repairIPv4(b)
		}
		var l Layout
		fault := ParseInner(b, &l)
		if fault >= NumFaults {
			t.Fatalf("fault %d", fault)
		}
		if fault == FaultNone {
			touch(t, b, &l, true)
		}
		quoteOfWhole(t, b)
	})
}

// quoteOfWhole checks that a packet which Parse accepts is found the same when an
// ICMP error quotes the first bytes of it.
func quoteOfWhole(t *testing.T, b []byte) {
	t.Helper()
	frame := make([]byte, EthernetLength, EthernetLength+len(b))
	PutEthernet(frame, EthernetFields{Type: EtherTypeIPv4})
	if len(b) > 0 && b[0]>>4 == 6 {
		binary.BigEndian.PutUint16(frame[ethType:], EtherTypeIPv6)
	}
	var whole, quote Layout
	if Parse(append(frame, b...), &whole) != FaultNone {
		return
	}
	cut := min(int(whole.L4)+quotedL4Length, int(whole.End)) - EthernetLength
	if fault := ParseInner(b[:cut], &quote); fault != FaultNone {
		t.Fatalf("the quote of a good packet: %v\n%+v", fault, whole)
	}
	if quote.Src != whole.Src || quote.Dst != whole.Dst || quote.Proto != whole.Proto || quote.SrcPort != whole.SrcPort ||
		quote.DstPort != whole.DstPort || quote.FragID != whole.FragID || quote.L4 != whole.L4-EthernetLength {
		t.Fatalf("the quote reads differently:\n%+v\n%+v", whole, quote)
	}
}
