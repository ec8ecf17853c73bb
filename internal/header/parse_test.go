package header

import (
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
)

func TestLayoutSize(t *testing.T) {
	t.Parallel()
	if got := unsafe.Sizeof(Layout{}); got != 80 {
		t.Errorf("Layout is %d bytes; its comment says 80", got)
	}
}

// The packets of this table are written by hand from the RFCs' diagrams, their
// IP header checksums computed outside this package.
var parseCases = []struct {
	name  string
	frame string
	want  Layout
}{
	{
		name: "IPv4 TCP SYN with options, padded to 60 bytes",
		frame: eth + `0800
			45 10 00 2c 1c 46 40 00 40 06 0a 74 | TOS 10, ID 1c46, DF, TTL 64, TCP
			0a 00 00 01 0a 00 00 02
			30 39 00 50 00 00 00 01 00 00 00 00 60 02 fa f0 00 00 00 00 02 04 05 b4 | 12345 > 80 SYN, MSS 1460
			00 00`,
		want: Layout{EtherType: EtherTypeIPv4, Version: 4, L3: 14, L4: 34, Payload: 58, End: 58, Proto: 6,
			Src: addr("10.0.0.1"), Dst: addr("10.0.0.2"), SrcPort: 12345, DstPort: 80, TTL: 64, TOS: 0x10,
			FragID: 0x1c46, DontFragment: true, TCPFlags: TCPSyn},
	},
	{
		name: "IPv4 UDP with a router alert option",
		frame: eth + `0800
			46 00 00 22 00 07 00 00 01 11 10 be | IHL 6, TTL 1
			0a 00 00 01 0a 00 00 02 94 04 00 00
			00 05 00 35 00 0a 00 00 68 69`,
		want: Layout{EtherType: EtherTypeIPv4, Version: 4, L3: 14, L4: 38, Payload: 46, End: 48, Proto: 17,
			Src: addr("10.0.0.1"), Dst: addr("10.0.0.2"), SrcPort: 5, DstPort: 53, TTL: 1, FragID: 7},
	},
	{
		name: "IPv4 echo request to a group, group MAC",
		frame: `01005e000001 020000000001 0800
			45 00 00 1c 00 00 00 00 01 01 cf df
			0a 00 00 01 e0 00 00 01
			08 00 39 0f be ef 00 01`,
		want: Layout{EtherType: EtherTypeIPv4, Version: 4, L3: 14, L4: 34, Payload: 42, End: 42, Proto: 1,
			Src: addr("10.0.0.1"), Dst: addr("224.0.0.1"), SrcPort: 0xbeef, TTL: 1,
			ICMPType: 8, GroupMAC: true, Multicast: true},
	},
	{
		name: "IPv4 echo reply",
		frame: eth + `0800
			45 00 00 1c 00 00 00 00 40 01 66 df 0a 00 00 01 0a 00 00 02
			00 00 41 0f be ef 00 01`,
		want: Layout{EtherType: EtherTypeIPv4, Version: 4, L3: 14, L4: 34, Payload: 42, End: 42, Proto: 1,
			Src: addr("10.0.0.1"), Dst: addr("10.0.0.2"), DstPort: 0xbeef, TTL: 64},
	},
	{
		name: "IPv4 last fragment of TCP",
		frame: eth + `0800
			45 00 00 1a 00 09 00 b9 40 06 66 1a 0a 00 00 01 0a 00 00 02
			30 39 00 50 aa bb`,
		want: Layout{EtherType: EtherTypeIPv4, Version: 4, L3: 14, L4: 34, Payload: 34, End: 40, Proto: 6,
			Src: addr("10.0.0.1"), Dst: addr("10.0.0.2"), TTL: 64, FragID: 9, FragOffset: 1480, IsFragment: true},
	},
	{
		name: "IPv4 first fragment of UDP: the length field is the datagram's",
		frame: eth + `0800
			45 00 00 1c 00 09 20 00 40 11 46 c6 0a 00 00 01 0a 00 00 02
			00 05 00 35 10 00 00 00`,
		want: Layout{EtherType: EtherTypeIPv4, Version: 4, L3: 14, L4: 34, Payload: 42, End: 42, Proto: 17,
			Src: addr("10.0.0.1"), Dst: addr("10.0.0.2"), SrcPort: 5, DstPort: 53, TTL: 64, FragID: 9,
			IsFragment: true, MoreFragments: true},
	},
	{
		name: "IPv4 GRE is not looked into",
		frame: eth + `0800
			45 00 00 18 00 00 00 00 40 2f 66 b5 0a 00 00 01 0a 00 00 02
			00 00 08 00`,
		want: Layout{EtherType: EtherTypeIPv4, Version: 4, L3: 14, L4: 34, Payload: 34, End: 38, Proto: 47,
			Src: addr("10.0.0.1"), Dst: addr("10.0.0.2"), TTL: 64},
	},
	{
		name: "IPv4 port unreachable",
		frame: eth + `0800
			45 00 00 38 00 00 00 00 40 01 66 c3 0a 00 00 01 0a 00 00 02
			03 03 00 00 00 00 00 00
			45 00 00 20 00 00 00 00 3f 11 67 cb 0a 00 00 02 0a 00 00 01 00 35 00 05 00 0c 00 00`,
		want: Layout{EtherType: EtherTypeIPv4, Version: 4, L3: 14, L4: 34, Payload: 42, End: 70, Proto: 1,
			Src: addr("10.0.0.1"), Dst: addr("10.0.0.2"), TTL: 64, ICMPType: 3, ICMPCode: 3, ICMPError: true},
	},
	{
		name: "IPv6 TCP with traffic class and flow label",
		frame: eth + `86dd
			6b 81 23 45 00 14 06 3f | class b8, flow 12345
			fd000000000000000000000000000001 fd000000000000000000000000000002
			00 50 30 39 00 00 00 01 00 00 00 02 50 10 00 ff 00 00 00 00`,
		want: Layout{EtherType: EtherTypeIPv6, Version: 6, L3: 14, L4: 54, Payload: 74, End: 74, Proto: 6,
			Src: addr("fd00::1"), Dst: addr("fd00::2"), SrcPort: 80, DstPort: 12345, TTL: 63, TOS: 0xb8,
			DontFragment: true, TCPFlags: TCPAck},
	},
	{
		name: "IPv6 hop-by-hop, destination options, UDP",
		frame: eth + `86dd
			60 00 00 00 00 20 00 40
			fd000000000000000000000000000001 fd000000000000000000000000000002
			3c 00 05 02 00 00 01 00 | hop-by-hop: router alert, PadN
			11 01 01 0c 00 00 00 00 00 00 00 00 00 00 00 00 | destination: PadN 12
			00 05 00 35 00 08 ff ff`,
		want: Layout{EtherType: EtherTypeIPv6, Version: 6, L3: 14, L4: 78, Payload: 86, End: 86, Proto: 17,
			Src: addr("fd00::1"), Dst: addr("fd00::2"), SrcPort: 5, DstPort: 53, TTL: 64, DontFragment: true},
	},
	{
		name: "IPv6 first fragment of an echo request",
		frame: eth + `86dd
			60 00 00 00 00 18 2c 40
			fd000000000000000000000000000001 fd000000000000000000000000000002
			3a 00 00 01 ca fe ba be
			80 00 00 00 be ef 00 01 00 00 00 00 00 00 00 00`,
		want: Layout{EtherType: EtherTypeIPv6, Version: 6, L3: 14, L4: 62, Payload: 70, End: 78, Proto: 58,
			Src: addr("fd00::1"), Dst: addr("fd00::2"), SrcPort: 0xbeef, TTL: 64, DontFragment: true,
			FragHeader: 54, FragID: 0xcafebabe, IsFragment: true, MoreFragments: true, ICMPType: 128},
	},
	{
		name: "IPv6 last fragment: the next header may be an extension",
		frame: eth + `86dd
			60 00 00 00 00 0b 2c 40
			fd000000000000000000000000000001 fd000000000000000000000000000002
			3c 00 05 a8 ca fe ba be
			01 02 03`,
		want: Layout{EtherType: EtherTypeIPv6, Version: 6, L3: 14, L4: 62, Payload: 62, End: 65, Proto: 60,
			Src: addr("fd00::1"), Dst: addr("fd00::2"), TTL: 64, DontFragment: true,
			FragHeader: 54, FragID: 0xcafebabe, FragOffset: 1448, IsFragment: true},
	},
	{
		name: "IPv6 atomic fragment is a whole packet",
		frame: eth + `86dd
			60 00 00 00 00 10 2c 40
			fd000000000000000000000000000001 fd000000000000000000000000000002
			11 00 00 00 00 00 00 2a
			00 05 00 35 00 08 00 00`,
		want: Layout{EtherType: EtherTypeIPv6, Version: 6, L3: 14, L4: 62, Payload: 70, End: 70, Proto: 17,
			Src: addr("fd00::1"), Dst: addr("fd00::2"), SrcPort: 5, DstPort: 53, TTL: 64, DontFragment: true,
			FragHeader: 54, FragID: 42},
	},
	{
		name: "IPv6 SCTP INIT",
		frame: eth + `86dd
			60 00 00 00 00 10 84 40
			fd000000000000000000000000000001 fd000000000000000000000000000002
			0b 59 0b 5a 00 00 00 00 00 00 00 00 01 00 00 04`,
		want: Layout{EtherType: EtherTypeIPv6, Version: 6, L3: 14, L4: 54, Payload: 66, End: 70, Proto: 132,
			Src: addr("fd00::1"), Dst: addr("fd00::2"), SrcPort: 2905, DstPort: 2906, TTL: 64, DontFragment: true},
	},
	{
		name: "IPv6 neighbor solicitation",
		frame: `3333ff000002 020000000001 86dd
			60 00 00 00 00 20 3a ff
			fd000000000000000000000000000001 ff0200000000000000000001ff000002
			87 00 00 00 00 00 00 00 fd000000000000000000000000000002 01 01 02 00 00 00 00 01`,
		want: Layout{EtherType: EtherTypeIPv6, Version: 6, L3: 14, L4: 54, Payload: 62, End: 86, Proto: 58,
			Src: addr("fd00::1"), Dst: addr("ff02::1:ff00:2"), TTL: 255, DontFragment: true,
			ICMPType: 135, GroupMAC: true, Multicast: true},
	},
	{
		name: "ARP request, padded",
		frame: `ffffffffffff 020000000001 0806
			0001 0800 06 04 0001 020000000001 0a000001 000000000000 0a000002
			000000000000000000000000000000000000`,
		want: Layout{EtherType: EtherTypeARP, L3: 14, L4: 42, Payload: 42, End: 42, GroupMAC: true},
	},
	{
		name: "limited broadcast",
		frame: `ffffffffffff 020000000001 0800
			45 00 00 1c 00 00 00 00 40 11 7a d2 00 00 00 00 ff ff ff ff
			00 44 00 43 00 08 00 00`,
		want: Layout{EtherType: EtherTypeIPv4, Version: 4, L3: 14, L4: 34, Payload: 42, End: 42, Proto: 17,
			Src: addr("0.0.0.0"), Dst: addr("255.255.255.255"), SrcPort: 68, DstPort: 67, TTL: 64,
			GroupMAC: true, Multicast: true},
	},
}

// RFC 8200 §4.1: extension headers are walked to the upper-layer header
// RFC 815 §3: a fragment is known by its identification, offset and more flag
// RFC 768: a first fragment's UDP length is that of the whole datagram
func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range parseCases {
		t.Run(c.name, func(t *testing.T) {
			got := Layout{L3: 99, FragHeader: 7, TCPFlags: 3, ICMPError: true} // as a used one
			if fault := Parse(unhex(t, c.frame), &got); fault != FaultNone {
				t.Fatalf("fault %v", fault)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("layout (-want +got):\n%s", diff)
			}
		})
	}
}

// Every frame of the table, cut at every length, is parsed without a panic and
// never judged whole once a byte of the datagram is missing.
func TestParseTruncated(t *testing.T) {
	t.Parallel()
	for _, c := range parseCases {
		frame := unhex(t, c.frame)
		for n := range frame {
			var l Layout
			fault := Parse(frame[:n:n], &l)
			if ok := fault == FaultNone; ok != (n >= int(c.want.End)) {
				t.Errorf("%s: first %d bytes: %v", c.name, n, fault)
			}
		}
	}
}

func TestParseInner(t *testing.T) {
	t.Parallel()
	v4tcp := v4(ProtoTCP, tcp(TCPSyn), nil)[EthernetLength:]
	v6udp := v6(ProtoUDP, udp(5, 53, 4096), func(p IPv6) { p.SetPayloadLength(4096) })[EthernetLength:]
	withOptions := join(v4tcp[:20], []byte{131, 7, 4, 1, 2, 3, 4, 0}, v4tcp[20:])
	withOptions[0] = 0x47
	IPv4(withOptions).UpdateChecksum()
	long := v4(ProtoTCP, tcp(TCPAck), func(p IPv4) { p.SetTotalLength(1500) })[EthernetLength:]
	base4 := Layout{EtherType: EtherTypeIPv4, Version: 4, Src: addr("10.0.0.1"), Dst: addr("10.0.0.2"), TTL: 64, FragID: 0x1234}
	base6 := Layout{EtherType: EtherTypeIPv6, Version: 6, Src: addr("fd00::1"), Dst: addr("fd00::2"), TTL: 64, DontFragment: true}
	with := func(l Layout, edit func(*Layout)) Layout { edit(&l); return l }
	tests := []struct {
		name string
		b    []byte
		want Layout
	}{
		{"TCP, 8 bytes of it", v4tcp[:28], with(base4, func(l *Layout) {
			l.L4, l.Payload, l.End, l.Proto, l.SrcPort, l.DstPort = 20, 28, 28, ProtoTCP, 1000, 80
		})},
		{"TCP, to its flags", v4tcp[:34], with(base4, func(l *Layout) {
			l.L4, l.Payload, l.End, l.Proto, l.SrcPort, l.DstPort, l.TCPFlags = 20, 34, 34, ProtoTCP, 1000, 80, TCPSyn
		})},
		{"TCP with data cut", join(long, make([]byte, 100)), with(base4, func(l *Layout) {
			l.L4, l.Payload, l.End, l.Proto, l.SrcPort, l.DstPort, l.TCPFlags = 20, 40, 140, ProtoTCP, 1000, 80, TCPAck
		})},
		{"TCP, RFC 4884 padding and extensions behind it", join(v4tcp, make([]byte, 88+8)), with(base4, func(l *Layout) {
			l.L4, l.Payload, l.End, l.Proto, l.SrcPort, l.DstPort, l.TCPFlags = 20, 40, 40, ProtoTCP, 1000, 80, TCPSyn
		})},
		{"IP options are passed over", withOptions[:36], with(base4, func(l *Layout) {
			l.L4, l.Payload, l.End, l.Proto, l.SrcPort, l.DstPort = 28, 36, 36, ProtoTCP, 1000, 80
		})},
		{"IPv6 UDP, data cut", v6udp, with(base6, func(l *Layout) {
			l.L4, l.Payload, l.End, l.Proto, l.SrcPort, l.DstPort = 40, 48, 48, ProtoUDP, 5, 53
		})},
		{"IPv6 atomic fragment", v6(extFragment, join(fragment(ProtoUDP, 0, false), udp(5, 53, 8)), nil)[EthernetLength:],
			with(base6, func(l *Layout) {
				l.L4, l.Payload, l.End, l.Proto, l.SrcPort, l.DstPort = 48, 56, 56, ProtoUDP, 5, 53
				l.FragHeader, l.FragID = 40, 0xcafebabe
			})},
		{"echo request", v4(ProtoICMP, icmp(8, 0), nil)[EthernetLength:], with(base4, func(l *Layout) {
			l.L4, l.Payload, l.End, l.Proto, l.SrcPort, l.ICMPType = 20, 28, 28, ProtoICMP, 0xbeef, 8
		})},
		{"IPv6 echo reply", v6(ProtoICMPv6, icmp(129, 0), nil)[EthernetLength:], with(base6, func(l *Layout) {
			l.L4, l.Payload, l.End, l.Proto, l.DstPort, l.ICMPType = 40, 48, 48, ProtoICMPv6, 0xbeef, 129
		})},
		{"SCTP, 8 bytes of it", v4(ProtoSCTP, sctp(7, 9), nil)[EthernetLength:42], with(base4, func(l *Layout) {
			l.L4, l.Payload, l.End, l.Proto, l.SrcPort, l.DstPort = 20, 28, 28, ProtoSCTP, 7, 9
		})},
		{"an ICMP error in an ICMP error is told", v4(ProtoICMP, icmp(3, 1), nil)[EthernetLength:], with(base4, func(l *Layout) {
			l.L4, l.Payload, l.End, l.Proto, l.ICMPType, l.ICMPCode, l.ICMPError = 20, 28, 28, ProtoICMP, 3, 1, true
		})},
		{"later fragment", v4(ProtoTCP, []byte{1}, func(p IPv4) { p.SetFragment(IPv4MoreFragments, 8) })[EthernetLength:], with(base4, func(l *Layout) {
			l.L4, l.Payload, l.End, l.Proto, l.FragOffset, l.IsFragment, l.MoreFragments = 20, 20, 21, ProtoTCP, 8, true, true
		})},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			var got Layout
			if fault := ParseInner(c.b, &got); fault != FaultNone {
				t.Fatalf("fault %v", fault)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("layout (-want +got):\n%s", diff)
			}
		})
	}
}

// A good packet is recognised by any quote of it that holds the IP headers and 8
// bytes more, and by no shorter one.
func TestParseInnerTruncated(t *testing.T) {
	t.Parallel()
	for _, c := range parseCases {
		if c.want.Version == 0 {
			continue
		}
		packet := unhex(t, c.frame)[EthernetLength:c.want.End]
		need := int(c.want.L4) - EthernetLength
		if c.want.Payload > c.want.L4 {
			need += quotedL4Length
		}
		for n := range len(packet) + 1 {
			var l Layout
			fault := ParseInner(packet[:n:n], &l)
			if ok := fault == FaultNone; ok != (n >= need) {
				t.Errorf("%s: first %d bytes: %v", c.name, n, fault)
			}
			if fault == FaultNone && (l.SrcPort != c.want.SrcPort || l.DstPort != c.want.DstPort || l.Proto != c.want.Proto) {
				t.Errorf("%s: first %d bytes: %+v", c.name, n, l)
			}
		}
	}
}

// RFC 5508 REQ-3: an ICMP error whose quoted IP header has a wrong checksum is dropped; options in it are traversed
// RFC 792: a quote holds the IP header and at least 8 bytes of what follows
func TestParseInnerFaults(t *testing.T) {
	t.Parallel()
	inner := func(frame []byte) []byte { return frame[EthernetLength:] }
	v4tcp := inner(v4(ProtoTCP, tcp(TCPSyn), nil))
	bad := join(v4tcp)
	bad[8]--
	tests := []struct {
		name string
		b    []byte
		want Fault
	}{
		{"empty", nil, FaultQuotedVersion},
		{"version 5", []byte{0x55, 0, 0}, FaultQuotedVersion},
		{"IPv4 short", v4tcp[:19], FaultShortIPv4},
		{"IPv4 checksum", bad, FaultIPv4Checksum},
		{"IPv4 total length below header", inner(v4(ProtoTCP, tcp(TCPSyn), func(p IPv4) { p.SetTotalLength(19) })), FaultIPv4TotalLength},
		{"TCP 7 bytes", v4tcp[:27], FaultShortTCP},
		{"UDP 7 bytes", inner(v4(ProtoUDP, udp(5, 53, 8), nil))[:27], FaultShortUDP},
		{"SCTP 7 bytes", inner(v4(ProtoSCTP, sctp(5, 53), nil))[:27], FaultShortSCTP},
		{"ICMP 7 bytes", inner(v4(ProtoICMP, icmp(8, 0), nil))[:27], FaultShortICMP},
		{"IPv6 short", inner(v6(59, nil, nil))[:39], FaultShortIPv6},
		{"IPv6 extensions cut", inner(v6(extDestination, []byte{ProtoTCP, 1, 0, 0, 0, 0, 0, 0}, nil)), FaultIPv6ExtensionHeaders},
		{"IPv6 mapped address", inner(v6(59, nil, func(p IPv6) { p.SetSource(addr("::ffff:1.2.3.4")) })), FaultIPv6MappedAddress},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			var l Layout
			if got := ParseInner(c.b, &l); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}
