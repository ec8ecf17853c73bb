package header

import "testing"

// faultCases has for each fault the frames that meet it and no other.
func faultCases() map[Fault]map[string][]byte {
	ok4 := v4(ProtoTCP, tcp(TCPSyn), nil)
	eight := make([]byte, 8)
	hop255 := func(p IPv6) { p.SetHopLimit(255) }
	unspecified := func(dst string) func(IPv6) {
		return func(p IPv6) { p.SetHopLimit(255); p.SetSource([16]byte{}); p.SetDestination(addr(dst)) }
	}
	withOptions := func(options ...byte) []byte {
		b := v4(ProtoUDP, join(options, udp(5, 53, 8)), nil)
		p := IPv4(b[EthernetLength:])
		p[0] = 4<<4 | byte(5+len(options)/4)
		p.UpdateChecksum()
		return b
	}
	manyExtensions := []byte{}
	for range maxExtensionHeaders {
		manyExtensions = append(manyExtensions, extDestination, 0, 1, 4, 0, 0, 0, 0)
	}
	manyExtensions = append(manyExtensions, ProtoUDP, 0, 1, 4, 0, 0, 0, 0)
	ethertype := func(hi, lo byte) []byte {
		b := join(ok4)
		b[12], b[13] = hi, lo
		return b
	}
	arp := make([]byte, EthernetLength+ARPLength)
	PutEthernet(arp, EthernetFields{Type: EtherTypeARP})
	PutARP(arp[EthernetLength:], &ARPFields{Operation: ARPRequest})
	arpWith := func(at int, v byte) []byte {
		b := join(arp)
		b[EthernetLength+at] = v
		return b
	}
	set := func(b []byte, at int, v byte) []byte {
		b = join(b)
		b[at] = v
		return b
	}
	return map[Fault]map[string][]byte{
		FaultNone: {
			"IPv4 TCP SYN":           ok4,
			"ARP request":            arp,
			"options NOP, end":       withOptions(1, 1, 1, 0),
			"router alert":           withOptions(0x94, 4, 0, 0),
			"eight extensions":       v6(extDestination, join(manyExtensions[8:], udp(5, 53, 8)), nil),
			"UDP source port 0":      v4(ProtoUDP, udp(0, 53, 8), nil),
			"UDP surplus":            v4(ProtoUDP, join(udp(5, 53, 8), eight), nil),
			"ESP":                    v4(50, eight, nil),
			"AH in IPv6":             v6(51, eight, nil),
			"ICMP number in IPv6":    v6(ProtoICMP, nil, nil),
			"ICMPv6 number in IPv4":  v4(ProtoICMPv6, nil, nil),
			"no next header":         v6(59, nil, nil),
			"routing, no hops left":  v6(extRouting, join([]byte{ProtoUDP, 0, 2, 0, 0, 0, 0, 0}, udp(5, 53, 8)), nil),
			"DAD solicitation":       v6(ProtoICMPv6, nd(ICMPv6NeighborSolicitation, "fd00::9"), unspecified("ff02::1:ff00:9")),
			"router solicitation":    v6(ProtoICMPv6, icmp(ICMPv6RouterSolicitation, 0), hop255),
			"DF on a fragment":       v4(ProtoUDP, eight, func(p IPv4) { p.SetFragment(IPv4DontFragment, 16) }),
			"longest IPv4 fragment":  v4(ProtoUDP, make([]byte, 65535-20-65512), func(p IPv4) { p.SetFragment(0, 65512) }),
			"evil bit (RFC 3514)":    v4(ProtoUDP, udp(5, 53, 8), func(p IPv4) { p[ip4Fragment] |= 0x80 }),
			"group destination MAC":  set(ok4, 0, 0x01),
			"padding after datagram": join(ok4, eight),
		},
		FaultShortEthernet:  {"empty": {}, "13 bytes": ok4[:13]},
		FaultEthernetSource: {"multicast": set(ok4, 6, 0x01), "broadcast": set(ok4, 6, 0xff)},
		FaultVLAN:           {"802.1Q": ethertype(0x81, 0), "802.1ad": ethertype(0x88, 0xa8)},
		FaultEtherType:      {"LLDP": ethertype(0x88, 0xcc), "802.3 length": ethertype(0, 46)},
		FaultShortARP:       {"27 bytes": arp[:EthernetLength+27], "none": arp[:EthernetLength]},
		FaultARPFormat: {
			"hardware type": arpWith(1, 6), "protocol type": arpWith(2, 0x86), "hardware length": arpWith(4, 8),
			"protocol length": arpWith(5, 16), "operation 0": arpWith(7, 0), "RARP": arpWith(7, 3),
		},
		FaultShortIPv4:        {"19 bytes": ok4[:EthernetLength+19], "none": ok4[:EthernetLength]},
		FaultIPv4Version:      {"5": set(ok4, 14, 0x55), "6": set(ok4, 14, 0x65)},
		FaultIPv4HeaderLength: {"16": set(ok4, 14, 0x44), "beyond frame": set(ok4, 14, 0x4f)},
		FaultIPv4TotalLength: {
			"below header": v4(ProtoUDP, eight, func(p IPv4) { p.SetTotalLength(19) }),
			"beyond frame": v4(ProtoUDP, eight, func(p IPv4) { p.SetTotalLength(29) }),
			"0":            v4(ProtoUDP, eight, func(p IPv4) { p.SetTotalLength(0) }),
		},
		FaultIPv4Checksum: {"TTL flipped": set(ok4, 22, 63), "checksum 0": set(set(ok4, 24, 0), 25, 0)},
		FaultIPv4Options: {
			"length 0": withOptions(7, 0, 0, 0), "length 1": withOptions(7, 1, 0, 0),
			"beyond header": withOptions(7, 5, 0, 0), "length missing": withOptions(1, 1, 1, 7),
		},
		FaultIPv4SourceRoute: {
			"loose": withOptions(131, 3, 4, 0), "strict": withOptions(137, 3, 4, 0), "behind NOP": withOptions(1, 131, 3, 4),
		},
		FaultShortIPv6:         {"39 bytes": v6(59, nil, nil)[:EthernetLength+39], "none": v6(59, nil, nil)[:EthernetLength]},
		FaultIPv6Version:       {"4": v6(59, nil, func(p IPv6) { p[0] = 0x45 })},
		FaultIPv6PayloadLength: {"beyond frame": v6(59, nil, func(p IPv6) { p.SetPayloadLength(1) })},
		FaultIPv6MappedAddress: {
			"source":      v6(59, nil, func(p IPv6) { p.SetSource(addr("::ffff:10.0.0.1")) }),
			"destination": v6(59, nil, func(p IPv6) { p.SetDestination(addr("::ffff:10.0.0.1")) }),
		},
		FaultIPv6ExtensionHeaders: {
			"nine":                      v6(extDestination, join(manyExtensions, udp(5, 53, 8)), nil),
			"hop-by-hop second":         v6(extDestination, join([]byte{extHopByHop, 0, 1, 4, 0, 0, 0, 0}, []byte{ProtoUDP, 0, 1, 4, 0, 0, 0, 0}), nil),
			"hop-by-hop twice":          v6(extHopByHop, join([]byte{extHopByHop, 0, 1, 4, 0, 0, 0, 0}, []byte{ProtoUDP, 0, 1, 4, 0, 0, 0, 0}), nil),
			"7 bytes":                   v6(extDestination, make([]byte, 7), nil),
			"longer than packet":        v6(extDestination, []byte{ProtoUDP, 1, 1, 4, 0, 0, 0, 0}, nil),
			"none left":                 v6(extHopByHop, nil, nil),
			"two fragment headers":      v6(extFragment, join(fragment(extFragment, 0, false), fragment(ProtoUDP, 0, false), udp(5, 53, 8)), nil),
			"fragment header truncated": v6(extFragment, fragment(ProtoUDP, 0, true)[:7], nil),
		},
		FaultIPv6RoutingHeader0: {
			"hops left":    v6(extRouting, join([]byte{59, 0, 0, 1, 0, 0, 0, 0}), nil),
			"no hops left": v6(extRouting, join([]byte{59, 0, 0, 0, 0, 0, 0, 0}), nil),
		},
		FaultIPv6SourceRoute: {"segment routing": v6(extRouting, join([]byte{59, 0, 4, 1, 0, 0, 0, 0}), nil)},
		FaultTinyFragment: {
			"TCP 16 of 20":           v4(ProtoTCP, tcp(TCPSyn)[:16], func(p IPv4) { p.SetFragment(IPv4MoreFragments, 0) }),
			"TCP options cut":        v4(ProtoTCP, join(set(tcp(TCPSyn), tcpDataOffset, 0x70), make([]byte, 4)), func(p IPv4) { p.SetFragment(IPv4MoreFragments, 0) }),
			"SCTP 8 of 16":           v4(ProtoSCTP, sctp(5, 6)[:8], func(p IPv4) { p.SetFragment(IPv4MoreFragments, 0) }),
			"IPv6 TCP 16 of 20":      v6(extFragment, join(fragment(ProtoTCP, 0, true), tcp(TCPSyn)[:16]), nil),
			"IPv6 chain cut":         v6(extFragment, join(fragment(extDestination, 0, true), []byte{ProtoTCP, 1, 1, 4, 0, 0, 0, 0}), nil),
			"IPv6 chain cut further": v6(extFragment, join(fragment(extDestination, 0, true), []byte{ProtoTCP, 0, 1, 4, 0, 0, 0, 0}), nil),
		},
		FaultFragmentOffset1: {
			"IPv4":      v4(ProtoTCP, eight, func(p IPv4) { p.SetFragment(0, 8) }),
			"IPv4 more": v4(ProtoTCP, eight, func(p IPv4) { p.SetFragment(IPv4MoreFragments, 8) }),
			"IPv6":      v6(extFragment, join(fragment(ProtoTCP, 8, false), eight), nil),
		},
		FaultFragmentLength: {
			"IPv4 empty": v4(ProtoUDP, nil, func(p IPv4) { p.SetFragment(0, 80) }),
			"IPv4 odd":   v4(ProtoUDP, make([]byte, 9), func(p IPv4) { p.SetFragment(IPv4MoreFragments, 80) }),
			"IPv6 empty": v6(extFragment, fragment(ProtoUDP, 80, true), nil),
			"IPv6 odd":   v6(extFragment, join(fragment(ProtoUDP, 80, true), make([]byte, 12)), nil),
		},
		FaultFragmentTooLong: {
			"IPv4": v4(ProtoUDP, make([]byte, 65535-20-65512+1), func(p IPv4) { p.SetFragment(0, 65512) }),
			"IPv6": v6(extFragment, join(fragment(ProtoUDP, 65528, false), eight), nil),
			"IPv6 with extension in front": v6(extHopByHop,
				join([]byte{extFragment, 0, 1, 4, 0, 0, 0, 0}, fragment(ProtoUDP, 65520, true), eight), nil),
		},
		FaultShortTCP:      {"IPv6, padding does not count": join(v6(ProtoTCP, tcp(TCPSyn)[:12], nil), eight), "IPv4": v4(ProtoTCP, tcp(TCPSyn)[:19], nil), "IPv6": v6(ProtoTCP, nil, nil)},
		FaultTCPDataOffset: {"16": v4(ProtoTCP, set(tcp(TCPSyn), tcpDataOffset, 0x40), nil), "24 of 20": v4(ProtoTCP, set(tcp(TCPSyn), tcpDataOffset, 0x60), nil)},
		FaultTCPFlags: {
			"null": v4(ProtoTCP, tcp(0), nil), "SYN+FIN": v4(ProtoTCP, tcp(TCPSyn|TCPFin), nil),
			"SYN+RST": v4(ProtoTCP, tcp(TCPSyn|TCPRst), nil), "FIN": v4(ProtoTCP, tcp(TCPFin), nil),
			"Xmas": v4(ProtoTCP, tcp(TCPFin|TCPPsh|TCPUrg), nil), "all": v6(ProtoTCP, tcp(0xff), nil),
			"ECE alone": v6(ProtoTCP, tcp(TCPEce), nil),
		},
		FaultShortUDP:  {"IPv4": v4(ProtoUDP, udp(5, 53, 8)[:7], nil), "IPv6": v6(ProtoUDP, nil, nil)},
		FaultUDPLength: {"IPv6, padding does not count": join(v6(ProtoUDP, udp(5, 53, 16), nil), eight), "IPv4, padding does not count": join(v4(ProtoUDP, udp(5, 53, 16), nil), eight), "7": v4(ProtoUDP, udp(5, 53, 7), nil), "9 of 8": v4(ProtoUDP, udp(5, 53, 9), nil), "0": v6(ProtoUDP, udp(5, 53, 0), nil)},
		FaultShortSCTP: {"15": v4(ProtoSCTP, sctp(5, 6)[:15], nil)},
		FaultPortZero: {
			"TCP source":       v4(ProtoTCP, set(set(tcp(TCPSyn), 0, 0), 1, 0), nil),
			"TCP destination":  v4(ProtoTCP, set(tcp(TCPSyn), 3, 0), nil),
			"UDP destination":  v4(ProtoUDP, udp(5, 0, 8), nil),
			"SCTP source":      v4(ProtoSCTP, sctp(0, 6), nil),
			"SCTP destination": v6(ProtoSCTP, sctp(5, 0), nil),
		},
		FaultShortICMP:  {"IPv4": v4(ProtoICMP, icmp(8, 0)[:7], nil), "IPv6": v6(ProtoICMPv6, icmp(128, 0)[:7], nil)},
		FaultNDHopLimit: {"solicitation": v6(ProtoICMPv6, nd(ICMPv6NeighborSolicitation, "fd00::9"), nil), "router advertisement": v6(ProtoICMPv6, nd(ICMPv6RouterAdvertisement, "::"), nil)},
		FaultNDFragment: {
			"first":  v6(extFragment, join(fragment(ProtoICMPv6, 0, true), nd(ICMPv6NeighborSolicitation, "fd00::9")), hop255),
			"atomic": v6(extFragment, join(fragment(ProtoICMPv6, 0, false), nd(ICMPv6NeighborSolicitation, "fd00::9")), hop255),
		},
		FaultNDFormat: {
			"code":                 v6(ProtoICMPv6, set(nd(ICMPv6NeighborSolicitation, "fd00::9"), 1, 1), hop255),
			"short":                v6(ProtoICMPv6, nd(ICMPv6NeighborSolicitation, "fd00::9")[:23], hop255),
			"multicast target":     v6(ProtoICMPv6, nd(ICMPv6NeighborAdvertisement, "ff02::9"), hop255),
			"option length 0":      v6(ProtoICMPv6, nd(ICMPv6NeighborSolicitation, "fd00::9", 1, 0, 0, 0, 0, 0, 0, 0), hop255),
			"option too long":      v6(ProtoICMPv6, nd(ICMPv6NeighborSolicitation, "fd00::9", 1, 2, 0, 0, 0, 0, 0, 0), hop255),
			"option cut":           v6(ProtoICMPv6, nd(ICMPv6NeighborSolicitation, "fd00::9", 1, 1, 0), hop255),
			"DAD not to the group": v6(ProtoICMPv6, nd(ICMPv6NeighborSolicitation, "fd00::9"), unspecified("fd00::9")),
			"DAD names its MAC":    v6(ProtoICMPv6, nd(ICMPv6NeighborSolicitation, "fd00::9", 1, 1, 2, 0, 0, 0, 0, 1), unspecified("ff02::1:ff00:9")),
			"solicited to a group": v6(ProtoICMPv6, set(nd(ICMPv6NeighborAdvertisement, "fd00::9"), 4, NDSolicited), func(p IPv6) { p.SetHopLimit(255); p.SetDestination(addr("ff02::1")) }),
		},
	}
}

// RFC 1812 §5.2.2: bad length, checksum, version, IHL or total length is discarded, each with its own reason
// RFC 7126 §4.3: IPv4 packets with a loose or strict source route are dropped
// RFC 5095 §3: routing header type 0 is dropped
// RFC 1858 §3: tiny first fragments are dropped
// RFC 3128 §3: TCP fragments at offset 8 are dropped
// RFC 7112 §5: an IPv6 first fragment without the whole header chain is dropped
// RFC 8200 §4.5: fragments of a wrong length, or past 65535 bytes, are dropped
// RFC 6946 §4: an atomic fragment is a whole packet
// RFC 6980 §5: neighbor discovery behind a fragment header is ignored
// RFC 4861 §7.1: neighbor discovery is validated before it is believed
// RFC 768: UDP source port 0 is legal, a length below 8 is not
// RFC 9260 §3.1: SCTP port 0 is dropped
func TestEveryFault(t *testing.T) {
	t.Parallel()
	cases := faultCases()
	for fault := range NumFaults {
		if fault == FaultQuotedVersion {
			continue // ParseInner only: TestParseInnerFaults
		}
		if len(cases[fault]) == 0 {
			t.Errorf("%v: no frame meets it", fault)
		}
		for name, frame := range cases[fault] {
			t.Run(fault.String()+"/"+name, func(t *testing.T) {
				var l Layout
				if got := Parse(frame, &l); got != fault {
					t.Errorf("got %v, want %v\n% x\n%+v", got, fault, frame, l)
				}
			})
		}
	}
}

func TestFaultNames(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for f := range NumFaults {
		if name := f.String(); name == "" || seen[name] {
			t.Errorf("fault %d: name %q is empty or taken", f, name)
		}
		seen[f.String()] = true
	}
	if got := NumFaults.String(); got != "INVALID_FAULT" {
		t.Errorf("NumFaults.String() = %q", got)
	}
}

// RFC 9293 §3.10.7: a segment opens, resets or acknowledges; nothing else is forwarded
func TestTCPFlagSet(t *testing.T) {
	t.Parallel()
	// Linux net/netfilter/nf_conntrack_proto_tcp.c, tcp_valid_flags, as a second witness.
	netfilter := map[uint8]bool{
		TCPSyn: true, TCPSyn | TCPUrg: true, TCPSyn | TCPAck: true, TCPRst: true, TCPRst | TCPAck: true,
		TCPFin | TCPAck: true, TCPFin | TCPAck | TCPUrg: true, TCPAck: true, TCPAck | TCPUrg: true,
	}
	for flags := range 256 {
		want := FaultTCPFlags
		if netfilter[uint8(flags)&^(TCPPsh|TCPEce|TCPCwr)] {
			want = FaultNone
		}
		var l Layout
		if got := Parse(v4(ProtoTCP, tcp(uint8(flags)), nil), &l); got != want {
			t.Errorf("flags %08b: %v, want %v", flags, got, want)
		}
	}
}
