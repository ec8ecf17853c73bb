package header

import "encoding/binary"

// The functions below stand in the order in which a frame meets them: Ethernet,
// ARP or IP, the IPv6 extension headers, fragmentation, transport. Those that
// take quoted serve ParseInner as well, where the packet may be cut short.

// maxExtensionHeaders bounds the walk over IPv6 extension headers. RFC 8200 §4.1
// names seven places for them in a packet that uses every one.
const maxExtensionHeaders = 8

// maxDatagram is the longest IP datagram (IPv4) or payload (IPv6) in bytes.
const maxDatagram = 65535

// Parse judges the Ethernet frame once and fills l. After FaultNone the views at
// the offsets in l are safe (see the package comment). For ARP, l has EtherType,
// GroupMAC, L3, L4, Payload and End only. Transport checksums are left to
// VerifyL4, because a frame from a device with offloads has none yet.
func Parse(frame []byte, l *Layout) Fault {
	*l = Layout{}
	if len(frame) < EthernetLength {
		return FaultShortEthernet
	}
	l.EtherType = Ethernet(frame).Type()
	l.GroupMAC = frame[ethDestination]&1 != 0
	l.L3 = EthernetLength
	if frame[ethSource]&1 != 0 {
		return FaultEthernetSource
	}
	switch l.EtherType {
	case EtherTypeIPv4:
		return l.parseIPv4(frame, false)
	case EtherTypeIPv6:
		return l.parseIPv6(frame, false)
	case EtherTypeARP:
		return l.parseARP(frame)
	case EtherTypeVLAN, EtherTypeQinQ:
		return FaultVLAN
	}
	return FaultEtherType
}

func (l *Layout) parseARP(b []byte) Fault {
	arp := ARP(b[l.L3:])
	if len(arp) < ARPLength {
		return FaultShortARP
	}
	if !arp.IsValid() {
		return FaultARPFormat
	}
	l.End = l.L3 + ARPLength
	l.L4, l.Payload = l.End, l.End
	return FaultNone
}

func (l *Layout) parseIPv4(b []byte, quoted bool) Fault {
	p := IPv4(b[l.L3:])
	if len(p) < IPv4MinimumLength {
		return FaultShortIPv4
	}
	if p.Version() != 4 {
		return FaultIPv4Version
	}
	l.Version = 4
	header, total := p.HeaderLength(), p.TotalLength()
	if header < IPv4MinimumLength || header > len(p) {
		return FaultIPv4HeaderLength
	}
	if total > len(p) && quoted {
		total = len(p)
	}
	if total < header || total > len(p) {
		return FaultIPv4TotalLength
	}
	if !p.hasRightChecksum(header) {
		return FaultIPv4Checksum
	}
	l.setIPv4(p)
	l.L4 = l.L3 + int32(header)
	l.Payload = l.L4
	l.End = l.L3 + int32(total)
	if header > IPv4MinimumLength && !quoted {
		if fault := checkOptions(p.Options()); fault != FaultNone {
			return fault
		}
	}
	if l.IsFragment {
		if fault := l.checkFragment(header, quoted); fault != FaultNone || !l.IsFirst() {
			return fault
		}
	}
	return l.parseL4(b[l.L4:l.End], quoted)
}

// setIPv4 copies the fields of an IPv4 header.
func (l *Layout) setIPv4(p IPv4) {
	binary.LittleEndian.PutUint64(l.Src[8:], uint64(binary.LittleEndian.Uint32(p[ip4Source:]))<<32|mappedPrefix)
	binary.LittleEndian.PutUint64(l.Dst[8:], uint64(binary.LittleEndian.Uint32(p[ip4Destination:]))<<32|mappedPrefix)
	fragment := p.fragment()
	l.FragID = uint32(p.ID())
	l.FragOffset = fragment << 3
	l.MoreFragments = fragment&IPv4MoreFragments != 0
	l.IsFragment = fragment&(IPv4MoreFragments|0x1fff) != 0
	l.DontFragment = fragment&IPv4DontFragment != 0
	l.Proto = p.Protocol()
	l.TTL = p.TTL()
	l.TOS = p.TOS()
	l.Multicast = p[ip4Destination]&0xf0 == 0xe0 || binary.BigEndian.Uint32(p[ip4Destination:]) == 0xffffffff
}

func (l *Layout) parseIPv6(b []byte, quoted bool) Fault {
	p := IPv6(b[l.L3:])
	if len(p) < IPv6Length {
		return FaultShortIPv6
	}
	if p.Version() != 6 {
		return FaultIPv6Version
	}
	l.Version = 6
	end := IPv6Length + p.PayloadLength()
	if end > len(p) {
		if !quoted {
			return FaultIPv6PayloadLength
		}
		end = len(p)
	}
	l.Src, l.Dst = p.Source(), p.Destination()
	l.TTL = p.HopLimit()
	l.TOS = p.TrafficClass()
	l.DontFragment = true // RFC 8200 §4.5: fragmentation only by the source
	l.Multicast = l.Dst[0] == 0xff
	l.End = l.L3 + int32(end)
	if IsIPv4(l.Src) || IsIPv4(l.Dst) {
		return FaultIPv6MappedAddress
	}
	fault := l.walkExtensions(b[:l.End], p.NextHeader(), quoted)
	if fault != FaultNone || !l.IsFirst() {
		return fault
	}
	return l.parseL4(b[l.L4:l.End], quoted)
}

// walkExtensions follows the chain of extension headers in b, which begins with
// a header of type next behind the fixed one, and sets Proto and L4. Options
// inside hop-by-hop and destination headers are not the forwarder's to judge
// (RFC 8200 §4.8, RFC 9673).
func (l *Layout) walkExtensions(b []byte, next uint8, quoted bool) Fault {
	at := int(l.L3) + IPv6Length
	for n := 0; n <= maxExtensionHeaders; n++ {
		l.Proto = next
		l.L4, l.Payload = int32(at), int32(at)
		if next != extHopByHop && next != extRouting && next != extDestination && next != extFragment {
			return FaultNone
		}
		if len(b)-at < 8 {
			return l.short(FaultIPv6ExtensionHeaders)
		}
		h := b[at:]
		length := 8
		if next != extFragment {
			length += int(h[1]) * 8
		}
		if length > len(h) {
			return l.short(FaultIPv6ExtensionHeaders)
		}
		var fault Fault
		switch {
		case next == extHopByHop && n > 0:
			fault = FaultIPv6ExtensionHeaders // RFC 8200 §4.1: first or nowhere
		case next == extRouting:
			fault = checkRouting(h)
		case next == extFragment:
			fault = l.parseFragment(h, int32(at), quoted)
		}
		if fault != FaultNone || !l.IsFirst() {
			return fault
		}
		next = h[0]
		at += length
	}
	return FaultIPv6ExtensionHeaders
}

// checkRouting judges a routing header of at least 8 bytes: type at 2, segments
// left at 3 (RFC 8200 §4.4).
func checkRouting(h []byte) Fault {
	if h[2] == 0 {
		return FaultIPv6RoutingHeader0 // RFC 5095 §3
	}
	if h[3] != 0 {
		return FaultIPv6SourceRoute
	}
	return FaultNone
}

// parseFragment reads the IPv6 fragment header h at offset at. Where it leads to
// a fragment other than the first, it sets Proto, L4 and Payload to the data.
func (l *Layout) parseFragment(h IPv6Fragment, at int32, quoted bool) Fault {
	if l.FragHeader != 0 {
		return FaultIPv6ExtensionHeaders
	}
	l.FragHeader = at
	l.FragID = h.ID()
	l.FragOffset = h.Offset()
	l.MoreFragments = h.MoreFragments()
	l.IsFragment = l.FragOffset != 0 || l.MoreFragments
	if !l.IsFragment {
		return FaultNone // RFC 6946 §4: an atomic fragment is a whole packet
	}
	l.Proto = h.NextHeader()
	l.L4 = at + IPv6FragmentLength
	l.Payload = l.L4
	// The fragment header itself does not count: it goes when the parts are joined.
	return l.checkFragment(int(at-l.L3)-IPv6Length, quoted)
}

// checkFragment judges the fragment whose data is [L4, End). before counts the
// bytes that share the limit of 65535 with the reassembled data.
func (l *Layout) checkFragment(before int, quoted bool) Fault {
	if quoted {
		return FaultNone // cut short, and already judged on its way
	}
	data := int(l.End - l.L4)
	if data == 0 || l.MoreFragments && data%8 != 0 {
		return FaultFragmentLength
	}
	if before+int(l.FragOffset)+data > maxDatagram {
		return FaultFragmentTooLong
	}
	if l.FragOffset == 8 && l.Proto == ProtoTCP {
		return FaultFragmentOffset1 // RFC 3128 §3
	}
	return FaultNone
}

// short returns fault, or in a first fragment FaultTinyFragment: there it is not
// the packet that is short but the cut that is early.
func (l *Layout) short(fault Fault) Fault {
	if l.IsFragment {
		return FaultTinyFragment // RFC 1858 §3.1, RFC 7112 §5
	}
	return fault
}

// parseL4 judges the transport header at the start of seg, which ends with the
// datagram.
func (l *Layout) parseL4(seg []byte, quoted bool) Fault {
	switch {
	case quoted:
		return l.parseQuotedL4(seg)
	case l.Proto == ProtoTCP:
		return l.parseTCP(seg)
	case l.Proto == ProtoUDP:
		return l.parseUDP(seg)
	case l.Proto == ProtoSCTP:
		return l.parseSCTP(seg)
	case l.IsICMP():
		return l.parseICMP(seg)
	}
	return FaultNone
}

func (l *Layout) parseTCP(seg TCP) Fault {
	if len(seg) < TCPMinimumLength {
		return l.short(FaultShortTCP)
	}
	l.SrcPort, l.DstPort, l.TCPFlags = seg.SrcPort(), seg.DstPort(), seg.Flags()
	offset := seg.DataOffset()
	if offset < TCPMinimumLength {
		return FaultTCPDataOffset
	}
	if offset > len(seg) {
		return l.short(FaultTCPDataOffset)
	}
	if validTCPFlags>>(l.TCPFlags&0x3f)&1 == 0 {
		return FaultTCPFlags
	}
	if l.SrcPort == 0 || l.DstPort == 0 {
		return FaultPortZero
	}
	l.Payload = l.L4 + int32(offset)
	return FaultNone
}

func (l *Layout) parseUDP(seg UDP) Fault {
	if len(seg) < UDPLength {
		return l.short(FaultShortUDP)
	}
	l.SrcPort, l.DstPort = seg.SrcPort(), seg.DstPort()
	// A first fragment's length field speaks of the whole datagram.
	if n := seg.Length(); n < UDPLength || n > len(seg) && !l.IsFragment {
		return FaultUDPLength
	}
	if l.DstPort == 0 {
		return FaultPortZero
	}
	l.Payload = l.L4 + UDPLength
	return FaultNone
}

func (l *Layout) parseSCTP(seg SCTP) Fault {
	if len(seg) < SCTPMinimumLength {
		return l.short(FaultShortSCTP)
	}
	l.SrcPort, l.DstPort = seg.SrcPort(), seg.DstPort()
	if l.SrcPort == 0 || l.DstPort == 0 {
		return FaultPortZero // RFC 9260 §3.1
	}
	l.Payload = l.L4 + SCTPLength
	return FaultNone
}

func (l *Layout) parseICMP(seg []byte) Fault {
	if len(seg) < ICMPLength {
		return l.short(FaultShortICMP)
	}
	l.setICMP(seg)
	l.Payload = l.L4 + ICMPLength
	if l.Version == 6 && l.ICMPType >= ICMPv6RouterSolicitation && l.ICMPType <= ICMPv6Redirect {
		return l.checkND(seg)
	}
	return FaultNone
}

// setICMP copies the fields of an ICMP or ICMPv6 header, an echo's identifier as
// a port.
func (l *Layout) setICMP(seg []byte) {
	l.ICMPType, l.ICMPCode = seg[icmpType], seg[icmpCode]
	request, reply := ICMPv4EchoRequest, ICMPv4EchoReply
	if l.Version == 6 {
		request, reply = ICMPv6EchoRequest, ICMPv6EchoReply
		l.ICMPError = IsICMPv6Error(l.ICMPType)
	} else {
		l.ICMPError = IsICMPv4Error(l.ICMPType)
	}
	switch l.ICMPType {
	case request:
		l.SrcPort = ICMPv4(seg).EchoID()
	case reply:
		l.DstPort = ICMPv4(seg).EchoID()
	}
}
