package header

// VerifyL4 reports whether the transport checksum of a frame that Parse accepted
// is right: TCP, UDP, ICMP, ICMPv6 and SCTP. It is for frames with complete
// checksums; one that a device is still to complete (virtio NEEDS_CSUM), or has
// verified (DATA_VALID), is not to be given. Where there is nothing to verify it
// reports true: other protocols, ARP, and fragments, whose checksum covers the
// whole datagram.
func VerifyL4(frame []byte, l *Layout) bool {
	if l.IsFragment {
		return true
	}
	seg := frame[l.L4:l.End]
	switch {
	case l.Proto == ProtoTCP:
		return l.sumIsRight(seg)
	case l.Proto == ProtoUDP:
		u := UDP(seg)
		if u.Checksum() == 0 {
			return l.Version == 4 // RFC 8200 §8.1: no UDP without checksum over IPv6
		}
		return l.sumIsRight(seg[:u.Length()])
	case l.Proto == ProtoSCTP:
		return SCTP(seg).Checksum() == SCTPChecksum(seg)
	case l.IsICMP() && l.Version == 4:
		return Checksum(seg, 0) == 0xffff
	case l.IsICMP():
		return l.sumIsRight(seg)
	}
	return true
}

// sumIsRight verifies a checksum that counts the pseudo-header.
func (l *Layout) sumIsRight(message []byte) bool {
	return Checksum(message, PseudoHeader(&l.Src, &l.Dst, l.Proto, len(message))) == 0xffff
}
