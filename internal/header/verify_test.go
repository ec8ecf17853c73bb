package header

import "testing"

// RFC 768: over IPv4 a UDP checksum of 0 means none
// RFC 8200 §8.1: over IPv6 it is wrong
// RFC 9868 §7: surplus behind the UDP length is not covered by the checksum
// RFC 5508 REQ-3: an ICMP error's own checksum is verified
func TestVerifyL4(t *testing.T) {
	t.Parallel()
	summed := func(src, dst string, surplus ...byte) []byte {
		b := append(make([]byte, UDPLength), 0xaa, 0xbb)
		s, d := addr(src), addr(dst)
		PutUDP(b, &s, &d, 5, 53)
		return append(b, surplus...)
	}
	ping := func(code uint8) []byte {
		b := make([]byte, ICMPLength)
		PutICMP(b, &families[0].src, &families[0].dst, ICMPFields{Type: ICMPv4EchoRequest, Rest: 1})
		b[1] = code
		return b
	}
	chunk := sctp(5, 6)
	SCTP(chunk).UpdateChecksum()
	arp := make([]byte, EthernetLength+ARPLength)
	PutEthernet(arp, EthernetFields{Type: EtherTypeARP})
	PutARP(arp[EthernetLength:], &ARPFields{Operation: ARPRequest})
	tests := []struct {
		name  string
		frame []byte
		want  bool
	}{
		{"UDP", v4(ProtoUDP, summed("10.0.0.1", "10.0.0.2"), nil), true},
		{"UDP for another address", v4(ProtoUDP, summed("10.0.0.1", "10.0.0.3"), nil), false},
		{"UDP, addresses exchanged sum the same", v4(ProtoUDP, summed("10.0.0.2", "10.0.0.1"), nil), true},
		{"UDP without checksum", v4(ProtoUDP, udp(5, 53, 8), nil), true},
		{"UDP with surplus", v4(ProtoUDP, summed("10.0.0.1", "10.0.0.2", 1, 2, 3), nil), true},
		{"UDP and padding", append(v4(ProtoUDP, summed("10.0.0.1", "10.0.0.2"), nil), 1, 2, 3), true},
		{"IPv6 UDP", v6(ProtoUDP, summed("fd00::1", "fd00::2"), nil), true},
		{"IPv6 UDP without checksum", v6(ProtoUDP, udp(5, 53, 8), nil), false},
		{"TCP, field 0", v4(ProtoTCP, tcp(TCPSyn), nil), false},
		{"ICMP", v4(ProtoICMP, ping(0), nil), true},
		{"ICMP changed", v4(ProtoICMP, ping(1), nil), false},
		{"ICMPv6, field 0", v6(ProtoICMPv6, icmp(128, 0), nil), false},
		{"SCTP", v6(ProtoSCTP, chunk, nil), true},
		{"SCTP, field 0", v6(ProtoSCTP, sctp(5, 6), nil), false},
		{"first fragment", v4(ProtoUDP, udp(5, 53, 99), func(p IPv4) { p.SetFragment(IPv4MoreFragments, 0) }), true},
		{"later fragment", v4(ProtoUDP, []byte{1, 2, 3}, func(p IPv4) { p.SetFragment(0, 80) }), true},
		{"GRE", v4(47, []byte{1, 2, 3}, nil), true},
		{"ARP", arp, true},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			var l Layout
			if fault := Parse(c.frame, &l); fault != FaultNone {
				t.Fatal(fault)
			}
			if got := VerifyL4(c.frame, &l); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}
