package header

// IP protocol numbers that the forwarder looks into (IANA "Protocol Numbers").
// All others are carried by address alone.
const (
	ProtoICMP   uint8 = 1
	ProtoTCP    uint8 = 6
	ProtoUDP    uint8 = 17
	ProtoICMPv6 uint8 = 58
	ProtoSCTP   uint8 = 132
)

// IPv6 extension headers (RFC 8200 §4) that Parse walks.
const (
	extHopByHop    uint8 = 0
	extRouting     uint8 = 43
	extFragment    uint8 = 44
	extDestination uint8 = 60
)

// IPFields is what PutIP writes. The family is that of Source.
type IPFields struct {
	Source, Destination [16]byte
	PayloadLength       int // bytes behind the header, at most 65515 for IPv4, 65535 for IPv6
	ID                  uint16
	Proto, TTL, TOS     uint8
	DontFragment        bool // IPv4 only, as is ID
}

// PutIP writes an IPv4 header without options or an IPv6 header at the start of
// b, by the family of f.Source, and returns its length in bytes.
func PutIP(b []byte, f *IPFields) int {
	if IsIPv4(f.Source) {
		PutIPv4(b, f)
		return IPv4MinimumLength
	}
	PutIPv6(b, f)
	return IPv6Length
}

// PutIPv4 writes an IPv4 header without options, checksum included, into the
// first IPv4MinimumLength bytes of b.
func PutIPv4(b []byte, f *IPFields) {
	p := IPv4(b[:IPv4MinimumLength])
	p[ip4VersionLength] = 4<<4 | IPv4MinimumLength/4
	p.SetTOS(f.TOS)
	p.SetTotalLength(IPv4MinimumLength + f.PayloadLength)
	p.SetID(f.ID)
	flags := uint16(0)
	if f.DontFragment {
		flags = IPv4DontFragment
	}
	p.SetFragment(flags, 0)
	p.SetTTL(f.TTL)
	p[ip4Protocol] = f.Proto
	p.SetSource(f.Source)
	p.SetDestination(f.Destination)
	p.UpdateChecksum()
}

// PutIPv6 writes an IPv6 header with flow label 0 into the first IPv6Length
// bytes of b.
func PutIPv6(b []byte, f *IPFields) {
	p := IPv6(b[:IPv6Length])
	p[0], p[1], p[2], p[3] = 6<<4|f.TOS>>4, f.TOS<<4, 0, 0
	p.SetPayloadLength(f.PayloadLength)
	p[ip6NextHeader] = f.Proto
	p.SetHopLimit(f.TTL)
	p.SetSource(f.Source)
	p.SetDestination(f.Destination)
}
