package header

// NDMinimumLength is the length in bytes of a neighbor solicitation or
// advertisement without options; NDLinkAddressLength that of the option that
// carries an Ethernet address.
const (
	NDMinimumLength     = 24
	NDLinkAddressLength = 8
)

// Flags of a neighbor advertisement (RFC 4861 §4.4), as in its first flag byte.
const (
	NDRouter    uint8 = 0x80
	NDSolicited uint8 = 0x40
	NDOverride  uint8 = 0x20
)

const (
	ndFlags   = 4
	ndTarget  = 8
	ndOptions = 24

	ndSourceLinkAddress uint8 = 1
	ndTargetLinkAddress uint8 = 2

	ndHopLimit = 255 // RFC 4861 §7.1: a lower one has crossed a router
)

// NeighborSolicitation is the ICMPv6 message of type 135 (RFC 4861 §4.3), safe
// after Parse accepted the frame.
type NeighborSolicitation []byte

// Target returns the address that is asked for, never a multicast one.
func (n NeighborSolicitation) Target() [16]byte { return [16]byte(n[ndTarget:]) }

// SourceLinkAddress returns the asker's MAC address; ok is false where the
// option is absent, as it is in duplicate address detection.
func (n NeighborSolicitation) SourceLinkAddress() (mac [6]byte, ok bool) {
	return linkAddress(n, ndSourceLinkAddress)
}

// NeighborAdvertisement is the ICMPv6 message of type 136 (RFC 4861 §4.4), safe
// after Parse accepted the frame.
type NeighborAdvertisement []byte

// Flags returns NDRouter, NDSolicited and NDOverride.
func (n NeighborAdvertisement) Flags() uint8 { return n[ndFlags] }

// Target returns the address that is announced, never a multicast one.
func (n NeighborAdvertisement) Target() [16]byte { return [16]byte(n[ndTarget:]) }

// TargetLinkAddress returns the MAC address that is announced; ok is false
// where the option is absent.
func (n NeighborAdvertisement) TargetLinkAddress() (mac [6]byte, ok bool) {
	return linkAddress(n, ndTargetLinkAddress)
}

// linkAddress finds the option kind among options that checkND accepted.
func linkAddress(message []byte, kind uint8) (mac [6]byte, ok bool) {
	for o := message[ndOptions:]; len(o) >= NDLinkAddressLength; o = o[int(o[1])*8:] {
		if o[0] == kind {
			return [6]byte(o[2:]), true
		}
		if o[1] == 0 {
			break
		}
	}
	return mac, false
}

// checkND judges the neighbor discovery message m.
func (l *Layout) checkND(m []byte) Fault {
	if l.IsFragment || l.FragHeader != 0 {
		return FaultNDFragment // RFC 6980 §5
	}
	if l.TTL != ndHopLimit {
		return FaultNDHopLimit
	}
	if l.ICMPCode != 0 {
		return FaultNDFormat
	}
	if l.ICMPType != ICMPv6NeighborSolicitation && l.ICMPType != ICMPv6NeighborAdvertisement {
		return FaultNone
	}
	if len(m) < NDMinimumLength || IsMulticast([16]byte(m[ndTarget:])) || !validOptions(m[ndOptions:]) {
		return FaultNDFormat
	}
	if l.ICMPType == ICMPv6NeighborAdvertisement {
		// RFC 4861 §7.1.2: an announcement to a group answers nobody.
		if IsMulticast(l.Dst) && m[ndFlags]&NDSolicited != 0 {
			return FaultNDFormat
		}
		return FaultNone
	}
	// RFC 4861 §7.1.1: without a source address the question is duplicate address
	// detection, goes to the solicited-node group and names no link address.
	if IsUnspecified(l.Src) {
		if _, ok := linkAddress(m, ndSourceLinkAddress); ok || !IsSolicitedNode(l.Dst) {
			return FaultNDFormat
		}
	}
	return FaultNone
}

// validOptions reports whether the ND options fill o exactly (RFC 4861 §4.6:
// lengths in units of 8 bytes, never 0).
func validOptions(o []byte) bool {
	for len(o) > 0 {
		if len(o) < 8 || o[1] == 0 || int(o[1])*8 > len(o) {
			return false
		}
		o = o[int(o[1])*8:]
	}
	return true
}

// NDFields is what PutNeighborSolicitation and PutNeighborAdvertisement write.
type NDFields struct {
	Source, Destination [16]byte // of the IPv6 header, for the checksum
	Target              [16]byte
	LinkAddress         [6]byte // goes into the source or target link address option
	Flags               uint8   // advertisement only
}

// NDLength is the length in bytes of what PutNeighborSolicitation and
// PutNeighborAdvertisement write.
const NDLength = NDMinimumLength + NDLinkAddressLength

// PutNeighborSolicitation writes a solicitation with the source link address
// option into the first NDLength bytes of b, checksum included.
func PutNeighborSolicitation(b []byte, f *NDFields) {
	putND(b[:NDLength], ICMPv6NeighborSolicitation, 0, ndSourceLinkAddress, f)
}

// PutNeighborAdvertisement writes an advertisement with the target link address
// option into the first NDLength bytes of b, checksum included.
func PutNeighborAdvertisement(b []byte, f *NDFields) {
	putND(b[:NDLength], ICMPv6NeighborAdvertisement, f.Flags, ndTargetLinkAddress, f)
}

func putND(b []byte, kind, flags, option uint8, f *NDFields) {
	copy(b[ndTarget:], f.Target[:])
	b[ndOptions], b[ndOptions+1] = option, 1
	copy(b[ndOptions+2:], f.LinkAddress[:])
	PutICMP(b, &f.Source, &f.Destination, ICMPFields{Type: kind, Rest: uint32(flags) << 24})
}
