package header

import (
	"encoding/binary"
	"math/bits"
)

// IPv4 header lengths in bytes: without options, and with as many as fit.
const (
	IPv4MinimumLength = 20
	IPv4MaximumLength = 60
)

// IPv4 flags as SetFragment takes them, in the top bits of the fragment word.
const (
	IPv4MoreFragments uint16 = 0x2000
	IPv4DontFragment  uint16 = 0x4000
)

const (
	ip4VersionLength = 0
	ip4TOS           = 1
	ip4TotalLength   = 2
	ip4ID            = 4
	ip4Fragment      = 6
	ip4TTL           = 8
	ip4Protocol      = 9
	ip4Checksum      = 10
	ip4Source        = 12
	ip4Destination   = 16
)

// IPv4 is a packet from its IPv4 header (RFC 791). Safe with IPv4MinimumLength
// bytes; Options and UpdateChecksum need HeaderLength bytes.
type IPv4 []byte

// Version returns the version nibble, 4 in a valid packet.
func (p IPv4) Version() uint8 { return p[ip4VersionLength] >> 4 }

// HeaderLength returns the header's length in bytes, options included.
func (p IPv4) HeaderLength() int { return int(p[ip4VersionLength]&0xf) * 4 }

// TOS returns the type of service byte: DSCP and ECN (RFC 2474, RFC 3168).
func (p IPv4) TOS() uint8 { return p[ip4TOS] }

// TotalLength returns the datagram's length in bytes, header included.
func (p IPv4) TotalLength() int { return int(binary.BigEndian.Uint16(p[ip4TotalLength:])) }

// ID returns the identification field.
func (p IPv4) ID() uint16 { return binary.BigEndian.Uint16(p[ip4ID:]) }

// DontFragment reports the DF flag.
func (p IPv4) DontFragment() bool { return p.fragment()&IPv4DontFragment != 0 }

// MoreFragments reports the MF flag.
func (p IPv4) MoreFragments() bool { return p.fragment()&IPv4MoreFragments != 0 }

// FragmentOffset returns where the payload belongs in the datagram, in bytes.
func (p IPv4) FragmentOffset() uint16 { return p.fragment() << 3 }

func (p IPv4) fragment() uint16 { return binary.BigEndian.Uint16(p[ip4Fragment:]) }

// TTL returns the time to live.
func (p IPv4) TTL() uint8 { return p[ip4TTL] }

// Protocol returns the protocol number of the payload.
func (p IPv4) Protocol() uint8 { return p[ip4Protocol] }

// Checksum returns the header checksum field.
func (p IPv4) Checksum() uint16 { return binary.BigEndian.Uint16(p[ip4Checksum:]) }

// Source returns the source address, v4-mapped.
func (p IPv4) Source() [16]byte { return mapped([4]byte(p[ip4Source:])) }

// Destination returns the destination address, v4-mapped.
func (p IPv4) Destination() [16]byte { return mapped([4]byte(p[ip4Destination:])) }

// Options returns the header's options, empty in most packets.
func (p IPv4) Options() []byte { return p[IPv4MinimumLength:p.HeaderLength()] }

// SetTOS writes the type of service byte; the checksum is the caller's.
func (p IPv4) SetTOS(tos uint8) { p[ip4TOS] = tos }

// SetTotalLength writes the datagram's length in bytes; the checksum is the caller's.
func (p IPv4) SetTotalLength(n int) { binary.BigEndian.PutUint16(p[ip4TotalLength:], uint16(n)) }

// SetID writes the identification field; the checksum is the caller's.
func (p IPv4) SetID(id uint16) { binary.BigEndian.PutUint16(p[ip4ID:], id) }

// SetFragment writes the flags (IPv4DontFragment, IPv4MoreFragments) and the
// offset in bytes, a multiple of 8; the checksum is the caller's.
func (p IPv4) SetFragment(flags, offset uint16) {
	binary.BigEndian.PutUint16(p[ip4Fragment:], flags|offset>>3)
}

// SetTTL writes the time to live; the checksum is the caller's.
func (p IPv4) SetTTL(ttl uint8) { p[ip4TTL] = ttl }

// SetChecksum writes the header checksum field.
func (p IPv4) SetChecksum(sum uint16) { binary.BigEndian.PutUint16(p[ip4Checksum:], sum) }

// SetSource writes the source address from its v4-mapped form; the checksum is
// the caller's (AddressDelta).
func (p IPv4) SetSource(a [16]byte) { *(*[4]byte)(p[ip4Source:]) = [4]byte(a[12:]) }

// SetDestination writes the destination address from its v4-mapped form; the
// checksum is the caller's (AddressDelta).
func (p IPv4) SetDestination(a [16]byte) { *(*[4]byte)(p[ip4Destination:]) = [4]byte(a[12:]) }

// UpdateChecksum computes the header checksum anew and writes it.
func (p IPv4) UpdateChecksum() {
	p.SetChecksum(0)
	p.SetChecksum(^Checksum(p[:p.HeaderLength()], 0))
}

// hasRightChecksum reports whether the header of length bytes, at least
// IPv4MinimumLength, sums to 0xffff. Headers without options, nearly all of them,
// take three loads.
func (p IPv4) hasRightChecksum(length int) bool {
	if length != IPv4MinimumLength {
		return Checksum(p[:length], 0) == 0xffff
	}
	_ = p[IPv4MinimumLength-1]
	sum, carry := bits.Add64(binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:]), 0)
	sum, carry = bits.Add64(sum, uint64(binary.LittleEndian.Uint32(p[16:])), carry)
	return Fold16(sum+carry) == 0xffff // never wraps, as in Checksum
}

// DecrementTTL takes 1 from the TTL, which must not be 0, and repairs the
// checksum. RFC 1624 §3: the word TTL|Protocol falls by 0x0100.
func (p IPv4) DecrementTTL() {
	p[ip4TTL]--
	p.SetChecksum(Delta(0xffff - 0x0100).Apply(p.Checksum()))
}

// IPv4 options that name the hops to visit (RFC 791 §3.1).
const (
	optionEnd               = 0
	optionNoOperation       = 1
	optionLooseSourceRoute  = 131
	optionStrictSourceRoute = 137
)

// checkOptions walks an IPv4 header's options.
func checkOptions(options []byte) Fault {
	for i := 0; i < len(options); {
		switch options[i] {
		case optionEnd:
			return FaultNone
		case optionNoOperation:
			i++
			continue
		case optionLooseSourceRoute, optionStrictSourceRoute:
			// RFC 7126 §4.3, §4.4: packets with LSRR or SSRR are dropped by default.
			return FaultIPv4SourceRoute
		}
		if i+1 >= len(options) || options[i+1] < 2 || i+int(options[i+1]) > len(options) {
			return FaultIPv4Options
		}
		i += int(options[i+1])
	}
	return FaultNone
}
