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

// slot is one place of an index, 24 bytes; free while its span counts nothing. The
// cell is in the form of words: a lookup that wrote a cell field by field and read
// it back in whole would wait for the processor's store buffer each time.
type slot struct {
	ab, rest uint64
	span     span
}

// newIndex returns an index with room for n cells.
func newIndex(n int) index {
	if n == 0 {
		return index{}
	}
	log := bits.Len(uint(2*n - 1))
	return index{slots: make([]slot, 1<<log), seed: rand.Uint64(), shift: uint8(64 - log)}
}

// place is where the search for a cell begins.
func (x *index) place(ab, rest uint64) uint64 {
	hi, lo := bits.Mul64(ab^x.seed, 0xa0761d6478bd642f)
	hi, lo = bits.Mul64(hi^lo^rest, 0xe7037ed1a0b428db^x.seed)
	return (hi ^ lo) >> x.shift
}

// put adds a cell that is not in the index. s must count something.
func (x *index) put(k cell, s span) {
	ab, rest := k.words()
	at := x.place(ab, rest)
	for x.slots[at].span.count != 0 {
		at = (at + 1) & uint64(len(x.slots)-1)
	}
	x.slots[at] = slot{ab, rest, s}
}

// get returns the span of a cell, given as words; it counts nothing if there is
// none.
func (x *index) get(ab, rest uint64) span {
	if len(x.slots) == 0 {
		return span{}
	}
	mask := uint64(len(x.slots) - 1)
	for at := x.place(ab, rest) & mask; ; at = (at + 1) & mask {
		if s := &x.slots[at]; s.span.count == 0 || s.ab == ab && s.rest == rest {
			return s.span
		}
	}
}
