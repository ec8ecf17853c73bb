package flowtable

import (
	"encoding/binary"
	"math/bits"
)

// Key names one direction of a connection as its packets arrive: the routing
// table they arrive in and their 5-tuple. It is comparable, holds no pointer and
// is 40 bytes long. Addresses are 16 bytes; IPv4 is written v4-mapped
// (::ffff:a.b.c.d, RFC 4291 section 2.5.5.2).
type Key struct {
	Src, Dst [16]byte
	// SrcPort and DstPort are host-order numbers. An ICMP echo request carries
	// its identifier in SrcPort and 0 in DstPort, a reply the other way round,
	// so that Reverse works; protocols without ports have 0 in both.
	SrcPort, DstPort uint16
	VRF              uint16 // where the packet was looked up; 0 is ip-fabric
	Proto            uint8  // IP protocol number
	_                uint8
}

// Reverse returns the key of the packets that answer k in the same VRF.
func (k Key) Reverse() Key {
	return Key{Src: k.Dst, Dst: k.Src, SrcPort: k.DstPort, DstPort: k.SrcPort, VRF: k.VRF, Proto: k.Proto}
}

// Direction says which way a packet crosses its session.
type Direction uint8

// The two directions of a session.
const (
	Forward Direction = 0 // initiator to responder
	Reply   Direction = 1 // responder to initiator
)

// Ref names one direction of one session: session index<<1 | direction. Zero is
// no session. A Ref stays good until its holder's Reader next calls Quiesce or
// Offline; the table may give the record to another connection after that.
type Ref uint32

// Direction returns the direction that r names.
func (r Ref) Direction() Direction { return Direction(r & 1) }

// Index returns the session's place in the table, from 1; 0 for no session.
func (r Ref) Index() uint32 { return uint32(r >> 1) }

// Other returns the same session in the opposite direction.
func (r Ref) Other() Ref { return r ^ 1 }

// Odd constants of wyhash (Wang Yi), used where two seed words must become four.
const (
	mixA = 0xa0761d6478bd642f
	mixB = 0xe7037ed1a0b428db
)

// Hash returns k's position in the table. It is seeded, so that nobody outside
// can choose colliding keys, and differs from boot to boot: keep it out of
// decisions that nodes must share, such as ECMP.
func (t *Table) Hash(k *Key) uint64 {
	return t.HashWords(binary.LittleEndian.Uint64(k.Src[:8]), binary.LittleEndian.Uint64(k.Src[8:]),
		binary.LittleEndian.Uint64(k.Dst[:8]), binary.LittleEndian.Uint64(k.Dst[8:]),
		uint64(k.SrcPort)|uint64(k.DstPort)<<16|uint64(k.VRF)<<32|uint64(k.Proto)<<48)
}

// HashWords is Hash of a key in registers: the addresses as little-endian words,
// and in rest the source port, the destination port, the VRF and the protocol,
// 16 bits each from the lowest on.
func (t *Table) HashWords(srcHi, srcLo, dstHi, dstLo, rest uint64) uint64 {
	a := mix(srcHi^t.seed[0], srcLo^t.seed[1])
	b := mix(dstHi^t.seed[2], dstLo^t.seed[3])
	return mix(mix(a^rest, b^mixA)^t.seed[0], mixB)
}

// mix folds the 128-bit product of x and y (the round of wyhash).
func mix(x, y uint64) uint64 {
	high, low := bits.Mul64(x, y)
	return high ^ low
}
