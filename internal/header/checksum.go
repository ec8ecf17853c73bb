package header

import (
	"encoding/binary"
	"math/bits"
)

// Checksum adds the 16-bit words of b to initial in one's complement arithmetic
// (RFC 1071) and returns the folded sum, not inverted: a checksum field is its
// complement, and the sum over data with a right checksum is 0xffff. An odd last
// byte counts as if a 0 followed, so of several pieces summed in turn only the
// last may have an odd length.
func Checksum(b []byte, initial uint16) uint16 {
	// The sum does not depend on byte order (RFC 1071 §2 B): it runs over
	// little-endian words with end-around carry and is swapped once at the end.
	sum, carry := uint64(bits.ReverseBytes16(initial)), uint64(0)
	for len(b) >= 64 {
		w := b[:64:64]
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[0:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[8:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[16:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[24:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[32:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[40:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[48:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[56:]), carry)
		b = b[64:]
	}
	for len(b) >= 8 {
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b), carry)
		b = b[8:]
	}
	if len(b) > 0 {
		sum, carry = bits.Add64(sum, tail(b), carry)
	}
	return bits.ReverseBytes16(Fold16(sum + carry)) // never wraps: a carry leaves sum below its maximum
}

// tail returns up to 7 bytes as a little-endian word.
func tail(b []byte) (w uint64) {
	if len(b) >= 4 {
		w = uint64(binary.LittleEndian.Uint32(b))
		b = b[4:]
		return w | tail3(b)<<32
	}
	return tail3(b)
}

// tail3 returns up to 3 bytes as a little-endian word.
func tail3(b []byte) (w uint64) {
	for i, c := range b {
		w |= uint64(c) << (8 * i)
	}
	return w
}

// Fold32 adds the two 32-bit words of sum with end-around carry: the rotated sum
// carries into the half that is kept. It is Fold16 half way, for sums that go on.
func Fold32(sum uint64) uint32 { return uint32((sum + bits.RotateLeft64(sum, 32)) >> 32) }

// Fold16 adds the four 16-bit words of sum with end-around carry (RFC 1071 §1).
func Fold16(sum uint64) uint16 {
	half := Fold32(sum)
	return uint16((half + bits.RotateLeft32(half, 16)) >> 16)
}

// addressSum returns the folded sum of an address. The 0xffff in a v4-mapped
// address is zero in one's complement, so the sum is right for both families.
func addressSum(a *[16]byte) uint16 {
	sum, carry := bits.Add64(binary.BigEndian.Uint64(a[:]), binary.BigEndian.Uint64(a[8:]), 0)
	return Fold16(sum + carry) // never wraps, as in Checksum
}

// PseudoHeader returns the folded sum, not inverted, of the pseudo-header of a
// TCP, UDP or ICMPv6 message of length bytes (RFC 9293 §3.1, RFC 8200 §8.1): the
// initial value for Checksum, and what the checksum field holds while a device is
// to complete it.
func PseudoHeader(src, dst *[16]byte, proto uint8, length int) uint16 {
	return Fold16(uint64(addressSum(src)) + uint64(addressSum(dst)) + uint64(proto) + uint64(length))
}

// TransportChecksum returns the value for the checksum field of a TCP, UDP or
// ICMPv6 message, whose checksum field must be 0. For UDP a sum of 0 is sent as
// 0xffff (RFC 768).
func TransportChecksum(src, dst *[16]byte, proto uint8, message []byte) uint16 {
	sum := ^Checksum(message, PseudoHeader(src, dst, proto, len(message)))
	if sum == 0 && proto == ProtoUDP {
		return 0xffff
	}
	return sum
}

// CompletePartial turns a partial checksum into a complete one, as a device with
// checksum offload would (virtio 1.2 §5.1.6.2, Linux skb_checksum_help): the
// field at start+offset holds the folded pseudo-header sum and gets the
// complement of the sum from start to the end of b; 0 is written as 0xffff,
// which is the same to TCP and right for UDP. b must end where the datagram
// ends. It reports false, and writes nothing, where the field is not inside b.
func CompletePartial(b []byte, start, offset int) bool {
	if start < 0 || offset < 0 || start > len(b) || offset > len(b)-start-2 {
		return false
	}
	sum := ^Checksum(b[start:], 0)
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[start+offset:], sum)
	return true
}

// Delta is the one's-complement difference that a change of header fields makes
// to a checksum: the sum of ~m + m' over all changed words (RFC 1624 §3, eqn. 3).
// It is computed once per flow and applied per packet. The zero value changes
// nothing.
type Delta uint16

// WordDelta returns the difference of one aligned 16-bit field: a port, an echo
// identifier, a checksum inside a quoted packet.
func WordDelta(from, to uint16) Delta { return newDelta(uint64(^from) + uint64(to)) }

// AddressDelta returns the difference of one address, of either family.
func AddressDelta(from, to *[16]byte) Delta {
	return newDelta(uint64(^addressSum(from)) + uint64(addressSum(to)))
}

// Add returns the difference that both changes make together.
func (d Delta) Add(e Delta) Delta { return newDelta(uint64(d) + uint64(e)) }

// Negate returns the difference of the reverse change.
func (d Delta) Negate() Delta { return newDelta(uint64(^d)) }

// newDelta folds a sum. 0xffff is the other zero of one's complement; writing it
// as 0 makes the identity the zero value and keeps a checksum that nothing
// changed exactly as it was.
func newDelta(sum uint64) Delta {
	d := Fold16(sum)
	if d == 0xffff {
		return 0
	}
	return Delta(d)
}

// Apply returns the checksum field after the change. RFC 1624 eqn. 3:
// HC' = ~(~HC + ~m + m').
func (d Delta) Apply(sum uint16) uint16 {
	s := uint32(^sum) + uint32(d)
	return ^uint16(s>>16 + s)
}

// ApplyUDP is Apply for the checksum field of UDP: 0 means that the sender made
// none and stays 0; a result of 0 is written as 0xffff (RFC 768, RFC 3022 §4.1).
func (d Delta) ApplyUDP(sum uint16) uint16 {
	if sum == 0 {
		return 0
	}
	if sum = d.Apply(sum); sum == 0 {
		return 0xffff
	}
	return sum
}

// ApplyPartial is for a field that holds the folded pseudo-header sum, not
// inverted, because a device is to complete it. Only the difference of the
// addresses belongs here: ports lie in what the device sums itself.
func (d Delta) ApplyPartial(sum uint16) uint16 {
	s := uint32(sum) + uint32(d)
	return uint16(s>>16 + s)
}
