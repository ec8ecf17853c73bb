package flowtable

import "math/bits"

// Who has a batch to look up asks the memory for it ahead of time, so that the
// cache misses of its packets overlap with each other and with the work on them:
// PrefetchBuckets for PrefetchStride packets at a time, as soon as their hashes are
// known, and PrefetchSessions for as many, PrefetchAhead packets before they are
// looked up. All at once would not do: a processor waits when more lines are under
// way than it has buffers for misses, some 20.
const (
	PrefetchStride = 8
	PrefetchAhead  = PrefetchStride
)

// touchBuckets is PrefetchBuckets without assembly: it loads instead.
func (t *Table) touchBuckets(hashes []uint64) (sum uint64) {
	for _, hash := range hashes {
		sum += t.Touch(hash)
	}
	return sum
}

// touchSessions is PrefetchSessions without assembly.
func (t *Table) touchSessions(hashes []uint64, hints []Ref) (sum uint64) {
	for i, hash := range hashes {
		b := &t.buckets[t.place(hash)]
		hints[i] = 0
		if m := b.match(hash); m != 0 {
			hints[i] = Ref(b.slots[bits.TrailingZeros8(m)].Load())
			s := t.Session(hints[i])
			sum += s.forward.bytes.Load() + s.decision.Load() + s.reply.bytes.Load()
		}
	}
	return sum
}
