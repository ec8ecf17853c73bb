package nexthop

import (
	"encoding/binary"
	"math/bits"
)

// HashFields is the set of packet fields that choose an ECMP member, as in
// Contrail's ecmp-hashing-include-fields. The zero value stands for all five:
// nothing configured is the default, and no field at all would send every flow
// to one member.
type HashFields uint8

// The fields, one bit each.
const (
	HashSource HashFields = 1 << iota
	HashDestination
	HashProtocol
	HashSourcePort
	HashDestinationPort

	// HashAll is the default.
	HashAll = HashSource | HashDestination | HashProtocol | HashSourcePort | HashDestinationPort
)

// The published constants of the ECMP hash: the first 64-bit words of the
// fraction of pi. They are part of what nodes agree on and never change; the
// golden values in hash_test.go hold them.
const (
	ecmpSeed0 = 0x243f6a8885a308d3
	ecmpSeed1 = 0x13198a2e03707344
	ecmpSeed2 = 0xa4093822299f31d0
	ecmpSeed3 = 0x082efa98ec4e6c89
)

// HashTuple hashes the chosen fields of a packet. Equal input gives equal output
// on every node and after every restart: the seed is fixed, unlike that of the
// flow table, which is random per boot so that it cannot be flooded. Fields that
// are not chosen count as zero. Addresses are 16 bytes, IPv4 v4-mapped; ports are
// 0 for protocols without ports.
func HashTuple(fields HashFields, src, dst *[16]byte, srcPort, dstPort uint16, proto uint8) uint64 {
	if fields&HashAll == 0 {
		fields = HashAll
	}
	var s0, s1, d0, d1, rest uint64
	if fields&HashSource != 0 {
		s0, s1 = binary.LittleEndian.Uint64(src[:8]), binary.LittleEndian.Uint64(src[8:])
	}
	if fields&HashDestination != 0 {
		d0, d1 = binary.LittleEndian.Uint64(dst[:8]), binary.LittleEndian.Uint64(dst[8:])
	}
	if fields&HashSourcePort != 0 {
		rest |= uint64(srcPort) << 32
	}
	if fields&HashDestinationPort != 0 {
		rest |= uint64(dstPort) << 16
	}
	if fields&HashProtocol != 0 {
		rest |= uint64(proto)
	}
	h := fold(s0^ecmpSeed0, s1^ecmpSeed1)
	h = fold(d0^h^ecmpSeed2, d1^ecmpSeed3)
	h = fold(rest^ecmpSeed1, h^ecmpSeed2)
	return fold(h^ecmpSeed3, ecmpSeed0)
}

// fold multiplies to 128 bits and folds the halves, which mixes every input bit
// into every output bit.
func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}
