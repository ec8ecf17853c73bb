package header

// quotedL4Length is what an ICMP error quotes at least behind the IP header
// (RFC 792, RFC 1812 §4.3.2.3): the ports, and TCP's sequence number.
const quotedL4Length = 8

// ParseInner reads the packet that an ICMP error quotes, b being what follows
// the ICMP header up to the end of the error. The quote may be cut short: IP
// lengths beyond b count up to its end, and of the transport header the first 8
// bytes are enough. End leaves out ICMP extensions behind the quote (RFC 4884).
// Offsets are relative to b.
//
// TCPFlags is 0 where the quote ends before them. Flags, ports of 0, options and
// fragment lengths are not judged: the packet has passed someone's parser
// already, and it counts only if it matches a session. A wrong IPv4 header
// checksum is a fault (RFC 5508 REQ-3 a); the transport checksum is never looked
// at (REQ-3 c).
func ParseInner(b []byte, l *Layout) Fault {
	*l = Layout{}
	if len(b) == 0 {
		return FaultQuotedVersion
	}
	switch b[0] >> 4 {
	case 4:
		l.EtherType = EtherTypeIPv4
		return l.parseIPv4(b, true)
	case 6:
		l.EtherType = EtherTypeIPv6
		return l.parseIPv6(b, true)
	}
	return FaultQuotedVersion
}

// parseQuotedL4 reads the first bytes of a transport header that may be cut
// short.
func (l *Layout) parseQuotedL4(seg []byte) Fault {
	var length int32
	var fault Fault
	switch {
	case l.Proto == ProtoTCP:
		length, fault = TCPMinimumLength, FaultShortTCP
	case l.Proto == ProtoUDP:
		length, fault = UDPLength, FaultShortUDP
	case l.Proto == ProtoSCTP:
		length, fault = SCTPLength, FaultShortSCTP
	case l.IsICMP():
		length, fault = ICMPLength, FaultShortICMP
	default:
		return FaultNone
	}
	if len(seg) < quotedL4Length {
		return fault
	}
	if l.IsICMP() {
		l.setICMP(seg)
	} else {
		l.SrcPort, l.DstPort = Ports(seg).SrcPort(), Ports(seg).DstPort()
	}
	if l.Proto == ProtoTCP && len(seg) > tcpFlags {
		l.TCPFlags = TCP(seg).Flags()
		length = max(length, int32(TCP(seg).DataOffset()))
	}
	l.Payload = min(l.L4+length, l.End)
	return FaultNone
}
