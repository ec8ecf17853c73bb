package policy

import (
	"math/bits"
	"math/rand/v2"
)

// index finds a cell's span: open addressing with linear probing, at most half
// full, in one slice without pointers. A lookup is one or two cache lines, where a
// Go map takes four or five; new connections make many.
type index struct {
	slots []slot // a power of two, or none
	seed  uint64 // random: who writes policies cannot choose cells that collide
	shift uint8  // 64 - log2(len(slots))
}

// slot is one place of an index, 24 bytes; free while its span counts nothing.
type slot struct {
	cell cell
	span span
}

// newIndex returns an index with room for n cells.
func newIndex(n int) index {
	if n == 0 {
		return index{}
	}
	log := bits.Len(uint(2*n - 1))
	return index{slots: make([]slot, 1<<log), seed: rand.Uint64(), shift: uint8(64 - log)}
}

// place is where the search for k begins.
func (x *index) place(k cell) uint64 {
	hi, lo := bits.Mul64(uint64(k.a)<<32|uint64(k.b)^x.seed, 0xa0761d6478bd642f)
	hi, lo = bits.Mul64(hi^lo^k.rest(), 0xe7037ed1a0b428db^x.seed)
	return (hi ^ lo) >> x.shift
}

// put adds a cell that is not in the index. s must count something.
func (x *index) put(k cell, s span) {
	at := x.place(k)
	for x.slots[at].span.count != 0 {
		at = (at + 1) & uint64(len(x.slots)-1)
	}
	x.slots[at] = slot{k, s}
}

// get returns a cell's span.
func (x *index) get(k cell) (span, bool) {
	if len(x.slots) == 0 {
		return span{}, false
	}
	mask := uint64(len(x.slots) - 1)
	for at := x.place(k) & mask; ; at = (at + 1) & mask {
		switch s := &x.slots[at]; {
		case s.span.count == 0:
			return span{}, false
		case s.cell == k:
			return s.span, true
		}
	}
}
