package header

import "encoding/binary"

// Lengths in bytes of the fixed IPv6 header and of the fragment header.
const (
	IPv6Length         = 40
	IPv6FragmentLength = 8
)

const (
	ip6VersionClassFlow = 0
	ip6PayloadLength    = 4
	ip6NextHeader       = 6
	ip6HopLimit         = 7
	ip6Source           = 8
	ip6Destination      = 24

	fragNextHeader = 0
	fragOffset     = 2
	fragID         = 4
)

// IPv6 is a packet from its IPv6 header (RFC 8200). Safe with IPv6Length bytes.
type IPv6 []byte

// Version returns the version nibble, 6 in a valid packet.
func (p IPv6) Version() uint8 { return p[ip6VersionClassFlow] >> 4 }

// TrafficClass returns the traffic class byte: DSCP and ECN.
func (p IPv6) TrafficClass() uint8 {
	return uint8(binary.BigEndian.Uint16(p[ip6VersionClassFlow:]) >> 4)
}

// FlowLabel returns the 20-bit flow label (RFC 6437).
func (p IPv6) FlowLabel() uint32 {
	return binary.BigEndian.Uint32(p[ip6VersionClassFlow:]) & 0xfffff
}

// PayloadLength returns the bytes after the fixed header, extension headers included.
func (p IPv6) PayloadLength() int { return int(binary.BigEndian.Uint16(p[ip6PayloadLength:])) }

// NextHeader returns the type of the header behind the fixed one.
func (p IPv6) NextHeader() uint8 { return p[ip6NextHeader] }

// HopLimit returns the hop limit.
func (p IPv6) HopLimit() uint8 { return p[ip6HopLimit] }

// Source returns the source address.
func (p IPv6) Source() [16]byte { return [16]byte(p[ip6Source:]) }

// Destination returns the destination address.
func (p IPv6) Destination() [16]byte { return [16]byte(p[ip6Destination:]) }

// SetTrafficClass writes the traffic class byte.
func (p IPv6) SetTrafficClass(class uint8) {
	w := binary.BigEndian.Uint16(p[ip6VersionClassFlow:])
	binary.BigEndian.PutUint16(p[ip6VersionClassFlow:], w&0xf00f|uint16(class)<<4)
}

// SetFlowLabel writes the flow label, of which the low 20 bits count.
func (p IPv6) SetFlowLabel(label uint32) {
	w := binary.BigEndian.Uint32(p[ip6VersionClassFlow:])
	binary.BigEndian.PutUint32(p[ip6VersionClassFlow:], w&^0xfffff|label&0xfffff)
}

// SetPayloadLength writes the bytes after the fixed header.
func (p IPv6) SetPayloadLength(n int) { binary.BigEndian.PutUint16(p[ip6PayloadLength:], uint16(n)) }

// SetHopLimit writes the hop limit.
func (p IPv6) SetHopLimit(n uint8) { p[ip6HopLimit] = n }

// SetSource writes the source address; no header checksum covers it, the
// transport's does (AddressDelta).
func (p IPv6) SetSource(a [16]byte) { *(*[16]byte)(p[ip6Source:]) = a }

// SetDestination writes the destination address; see SetSource.
func (p IPv6) SetDestination(a [16]byte) { *(*[16]byte)(p[ip6Destination:]) = a }

// DecrementHopLimit takes 1 from the hop limit, which must not be 0.
func (p IPv6) DecrementHopLimit() { p[ip6HopLimit]-- }

// IPv6Fragment is a packet from its fragment header (RFC 8200 §4.5). Safe with
// IPv6FragmentLength bytes, as at Layout.FragHeader when that is not 0.
type IPv6Fragment []byte

// NextHeader returns the type of the first header of the fragmentable part.
func (f IPv6Fragment) NextHeader() uint8 { return f[fragNextHeader] }

// Offset returns where the data belongs in the fragmentable part, in bytes.
func (f IPv6Fragment) Offset() uint16 { return binary.BigEndian.Uint16(f[fragOffset:]) &^ 7 }

// MoreFragments reports the M flag.
func (f IPv6Fragment) MoreFragments() bool { return f[fragOffset+1]&1 != 0 }

// ID returns the identification, unique for source and destination while the
// datagram may be reassembled.
func (f IPv6Fragment) ID() uint32 { return binary.BigEndian.Uint32(f[fragID:]) }
