package flowtable

import "runtime"

// Outcome says what became of an Insert.
type Outcome uint8

// The outcomes of Insert.
const (
	Inserted Outcome = iota // the session is in the table
	Exists                  // the connection has a session already: use the returned Ref
	Conflict                // another connection uses the reply key: change the binding and try again
	Full                    // no free slot near either key
)

// A bucket's meta word changes only while its lock bit is held.
const (
	metaLock      = 1
	metaDepth     = 8 // how many further buckets its keys reach into
	metaDepthMask = 0xff
	metaCount     = 16 // how many of its keys lie in further buckets
)

// claimed is the state of one attempt to put a key into the index.
type claimed uint8

const (
	claimDone  claimed = iota // the key is ours
	claimTaken                // a live session has it
	claimBusy                 // a session that is being inserted may have it
	claimFull                 // no free slot
)

// Insert puts a session, with the keys in its record, into the table. Only for
// Inserted has the caller given the session away; otherwise it still owns the
// record, and frees it or changes the keys and tries again. The Ref returned
// with Exists or Conflict names the other session and, for Exists, the direction
// in which the forward key crosses it (two ends that open the same connection at
// once, RFC 5382 REQ-2, meet here).
//
// The two keys are claimed in the order of their hashes, whoever inserts them,
// and the session becomes visible only when it has both. So of two workers that
// insert the same connection one waits for the other, never both for each other,
// and no packet finds a session whose binding may still be taken back.
// Workers use their Reader's Insert.
func (t *Table) Insert(r Ref) (Outcome, Ref) {
	got, other := t.insert(r)
	if got == Inserted {
		t.header.inserted.Add(1)
	}
	return got, other
}

// insert is Insert but for the count.
func (t *Table) insert(r Ref) (Outcome, Ref) {
	r &^= 1
	s := t.Session(r)
	forward, reply := s.Key(Forward), s.Key(Reply)
	first, second := t.claimFor(&forward, r), t.claimFor(&reply, r|1)
	if second.before(&first) {
		first, second = second, first
	}
	prefetchBucket(&t.buckets[t.place(second.hash)]) // both misses at once
	for {
		got, owner := t.claim(&first)
		if got == claimDone && forward != reply { // equal: one entry serves both
			if got, owner = t.claim(&second); got != claimDone {
				t.unlink(&first)
			}
		}
		switch got {
		case claimDone:
			s.attr.Or(attrLive)
			return Inserted, r
		case claimFull:
			t.header.full.Add(1)
			return Full, 0
		}
		if other := t.Lookup(&forward, t.Hash(&forward)); other != 0 {
			return Exists, other
		}
		if t.Session(owner).Live() {
			return Conflict, owner
		} // else it was removed meanwhile
	}
}

// Remove takes a session out of the table: from now on no Lookup finds it. It
// returns true for the one caller that removed it, who settles accounts (quota,
// logs). The record is used again after the grace period. Workers use their
// Reader's Remove.
func (t *Table) Remove(r Ref) bool {
	if !t.withdraw(r) {
		return false
	}
	t.header.removed.Add(1)
	t.retire(r.Index(), r.Index())
	return true
}

// withdraw is Remove but for the count and for giving the record back.
func (t *Table) withdraw(r Ref) bool {
	r &^= 1
	s := t.Session(r)
	for {
		attr := s.attr.Load()
		if attr&(attrLive|attrDead) != attrLive {
			return false
		}
		if s.attr.CompareAndSwap(attr, attr|attrDead) {
			break
		}
	}
	forward, reply := s.Key(Forward), s.Key(Reply)
	c := t.claimFor(&forward, r)
	t.unlink(&c)
	if forward != reply {
		c = t.claimFor(&reply, r|1)
		t.unlink(&c)
	}
	return true
}

// claim is a key on its way into or out of the index.
type claim struct {
	key  *Key
	hash uint64
	ref  Ref
}

func (t *Table) claimFor(k *Key, r Ref) claim { return claim{k, t.Hash(k), r} }

// before orders two keys the same way for everybody who claims them.
func (c *claim) before(d *claim) bool {
	if c.hash != d.hash {
		return c.hash < d.hash
	}
	return less(c.key, d.key)
}

// less orders different keys of equal hash by their bytes.
func less(a, b *Key) bool {
	if a.Src != b.Src {
		return string(a.Src[:]) < string(b.Src[:])
	}
	if a.Dst != b.Dst {
		return string(a.Dst[:]) < string(b.Dst[:])
	}
	return uint64(a.SrcPort)<<32|uint64(a.DstPort)<<16|uint64(a.VRF) <
		uint64(b.SrcPort)<<32|uint64(b.DstPort)<<16|uint64(b.VRF)
}

// slot is the entry of c's key.
func (c *claim) slot() uint64 { return c.hash<<32 | uint64(c.ref) }

// claim puts c's key into the index unless a live session has it.
func (t *Table) claim(c *claim) (claimed, Ref) {
	for spins := 1; ; spins++ {
		b := &t.buckets[t.place(c.hash)]
		meta := b.lock()
		got, owner := t.owner(b, c, meta)
		if got == claimDone {
			got, meta = t.occupy(b, c, meta)
		}
		b.unlock(meta)
		if got != claimBusy {
			return got, owner
		}
		relax(spins)
	}
}

// owner looks for another session that has c's key or may be about to. Dead ones
// do not count: whoever removes them clears exactly their own slots.
func (t *Table) owner(b *bucket, c *claim, meta uint64) (claimed, Ref) {
	if got, r := t.ownerIn(b, c); got != claimDone {
		return got, r
	}
	for i := range int(meta >> metaDepth & metaDepthMask) {
		if got, r := t.ownerIn(t.overflow(c.hash, i), c); got != claimDone {
			return got, r
		}
	}
	return claimDone, 0
}

func (t *Table) ownerIn(b *bucket, c *claim) (claimed, Ref) {
	for i := range b.slots {
		v := b.slots[i].Load()
		if v == 0 || v>>32 != c.hash&(1<<32-1) || Ref(v).Index() == c.ref.Index() {
			continue
		}
		s := t.Session(Ref(v))
		attr := s.attr.Load()
		switch {
		case attr&attrDead != 0:
		case attr&attrLive == 0:
			return claimBusy, Ref(v) // its keys are not ours to read yet
		case s.holds(c.key, Ref(v).Direction()):
			return claimTaken, Ref(v)
		}
	}
	return claimDone, 0
}

// occupy writes c's slot into its own bucket or, if that is full, into a further
// one. The caller holds b's lock; other buckets' keys may overflow into the same
// slots, so each is taken by compare-and-swap.
func (t *Table) occupy(b *bucket, c *claim, meta uint64) (claimed, uint64) {
	if b.take(c.slot()) {
		return claimDone, meta
	}
	for i := range probes {
		further := t.overflow(c.hash, i)
		if further == b {
			continue // a slot that has come free there meanwhile would not be counted out again
		}
		if further.take(c.slot()) {
			depth := max(meta>>metaDepth&metaDepthMask, uint64(i)+1)
			return claimDone, meta&^(metaDepthMask<<metaDepth) + depth<<metaDepth + 1<<metaCount
		}
	}
	return claimFull, meta
}

// unlink clears c's slot.
func (t *Table) unlink(c *claim) {
	b := &t.buckets[t.place(c.hash)]
	if b.drop(c.slot()) {
		return
	}
	meta := b.lock()
	for i := range int(meta >> metaDepth & metaDepthMask) {
		if t.overflow(c.hash, i).drop(c.slot()) {
			meta -= 1 << metaCount
			break
		}
	}
	if meta>>metaCount == 0 {
		meta = 0
	}
	b.unlock(meta)
}

// take writes v into an empty slot.
func (b *bucket) take(v uint64) bool {
	for i := range b.slots {
		if b.slots[i].Load() == 0 && b.slots[i].CompareAndSwap(0, v) {
			return true
		}
	}
	return false
}

// drop empties the slot that holds v.
func (b *bucket) drop(v uint64) bool {
	for i := range b.slots {
		if b.slots[i].Load() == v && b.slots[i].CompareAndSwap(v, 0) {
			return true
		}
	}
	return false
}

// lock returns b's meta word without the lock bit, which is now held.
func (b *bucket) lock() uint64 {
	for spins := 1; ; spins++ {
		meta := b.meta.Load()
		if meta&metaLock == 0 && b.meta.CompareAndSwap(meta, meta|metaLock) {
			return meta
		}
		relax(spins)
	}
}

// unlock stores the new meta word and lets the lock go.
func (b *bucket) unlock(meta uint64) { b.meta.Store(meta &^ metaLock) }

// relax waits a moment; the holder may have lost its processor.
func relax(spins int) {
	if spins%64 == 0 {
		runtime.Gosched()
	}
}
