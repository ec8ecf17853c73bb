// Package flowtable answers "have I seen this packet's connection?". It keeps
// one pointer-free record per connection, found by either direction's key, in
// memory of its own that the garbage collector never scans.
//
// One table is shared by all workers. Lookups take no lock and write nothing.
// Setting a session up locks one bucket for some nanoseconds, never two at a
// time. A removed record is used again only after every Reader has passed a
// quiescent point, so a worker may use what it found until its batch ends.
// Ageing runs on one control goroutine and never on the packet path.
//
// Life of a session: Alloc, SetKeys and the other setters, Insert, packets
// (Lookup, Count, Seen, TrackTCP), Remove by a worker or the Ager, grace
// period, Alloc again.
package flowtable

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"
)

// Config is what a table is made of.
type Config struct {
	// Sessions is how many connections the table can hold: 1 to MaxSessions.
	// Memory for all of them is taken at once, 192 bytes each.
	Sessions int
	// Seed of the hash; zero means random, which is what a daemon wants. Tests
	// and replay set it to get the same run twice.
	Seed [2]uint64
	// Memory, if not nil, is used instead of a mapping: 64-byte aligned, at least
	// MemorySize(Sessions) bytes, not touched by anybody else until Close. For
	// tests: the race detector sees only memory of the Go heap.
	Memory []byte
	// Memfd puts the mapping in a memory file (File), which another process can map.
	Memfd bool
}

// Table is the flow table. Its methods may be called from any goroutine; those
// that return or take a Ref need an online Reader to keep it good.
type Table struct {
	buckets  []bucket
	sessions []Session
	header   *header
	seed     [4]uint64
	region   region
	grace
}

// grace is what the reclamation of records needs to know (reclaim.go, reader.go).
type grace struct {
	_       [64]byte      // keeps the fields above on lines that are only read
	epoch   atomic.Uint64 // grows when a set of removed records starts to wait
	mu      sync.Mutex    // guards the fields below; never taken by a worker in its loop
	readers []*Reader
	waiting uint32 // removed records that wait for readers to reach target
	target  uint64
}

// New returns an empty table.
func New(c Config) (*Table, error) {
	if c.Seed == [2]uint64{} {
		var b [16]byte
		if _, err := rand.Read(b[:]); err != nil {
			return nil, err
		}
		c.Seed = [2]uint64{binary.LittleEndian.Uint64(b[:8]), binary.LittleEndian.Uint64(b[8:])}
	}
	r, err := newRegion(c)
	if err != nil {
		return nil, err
	}
	t := &Table{buckets: r.buckets, sessions: r.sessions, header: r.header, region: r}
	s := c.Seed
	t.seed = [4]uint64{s[0] | 1, s[1], mix(s[0]^mixA, s[1]^mixB) | 1, mix(s[1]^mixA, s[0]^mixB)}
	t.epoch.Store(1)
	return t, nil
}

// Close gives the memory back. No reader, Ref or Session may be used afterwards.
func (t *Table) Close() error {
	t.buckets, t.sessions, t.header = nil, nil, nil
	return t.region.release()
}

// File returns the memory file of a table made with Memfd, else nil. The table
// closes it.
func (t *Table) File() *os.File { return t.region.file }

// Capacity returns how many sessions the table can hold.
func (t *Table) Capacity() int { return len(t.sessions) - 1 }

// Live returns how many sessions are in the table. Control path: it takes a lock.
func (t *Table) Live() int {
	inserted, removed := t.totals()
	return int(inserted - removed)
}

// totals returns how many sessions were ever inserted and removed, by anybody.
func (t *Table) totals() (inserted, removed uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	removed = t.header.removed.Load() // all these first, so that Live is never negative
	for _, r := range t.readers {
		removed += r.removed.Load()
	}
	inserted = t.header.inserted.Load()
	for _, r := range t.readers {
		inserted += r.inserted.Load()
	}
	return inserted, removed
}

// Memory returns the table's size in bytes, everything included.
func (t *Table) Memory() int { return int(t.header.size) }

// place maps a hash to a bucket without a division (Lemire's fast range).
func (t *Table) place(hash uint64) uint64 {
	high, _ := bits.Mul64(hash, uint64(len(t.buckets)))
	return high
}

// probes is how many further buckets a key may lie in when its own is full.
const probes = 8

// overflow returns the i-th further bucket of a key. They follow each other in
// memory, at a place that is independent of the key's own bucket.
func (t *Table) overflow(hash uint64, i int) *bucket {
	at := t.place(hash*mixA) + uint64(i)
	if n := uint64(len(t.buckets)); at >= n {
		at -= n
	}
	return &t.buckets[at]
}

// Touch loads the line that Lookup will read first. Called for every packet of a
// batch before the first Lookup, it lets the cache misses of the batch overlap.
// The value has no meaning; it is returned so that the load is not dropped.
func (t *Table) Touch(hash uint64) uint64 { return t.buckets[t.place(hash)].meta.Load() }

// match returns a bit for each slot that carries hash's signature. It has no
// branch: which slot it will be is nothing a processor could predict.
func (b *bucket) match(hash uint64) (m uint8) {
	signature := hash & (1<<32 - 1)
	for i := range b.slots {
		different := b.slots[i].Load()>>32 ^ signature
		m |= uint8((different-1)>>63) << i
	}
	return m
}

// Session returns the record that r names. r must come from this table and be
// still good; 0 gives a record that is never live.
func (t *Table) Session(r Ref) *Session { return &t.sessions[r>>1] }

// Lookup returns the live session that k, whose Hash is hash, belongs to and the
// direction it crosses it in, or 0. It takes no lock and writes nothing.
func (t *Table) Lookup(k *Key, hash uint64) Ref {
	b := &t.buckets[t.place(hash)]
	if r := t.lookupIn(b, k, hash); r != 0 {
		return r
	}
	// A key whose own bucket was full when it came lies further on.
	for i := range int(b.meta.Load() >> metaDepth & metaDepthMask) {
		if r := t.lookupIn(t.overflow(hash, i), k, hash); r != 0 {
			return r
		}
	}
	return 0
}

// lookupIn looks for k in one bucket.
func (t *Table) lookupIn(b *bucket, k *Key, hash uint64) Ref {
	for m := b.match(hash); m != 0; m &= m - 1 {
		r := Ref(b.slots[bits.TrailingZeros8(m)].Load())
		if t.Session(r).holds(k, r.Direction()) {
			return r
		}
	}
	return 0
}

// LookupHint is Lookup for a key that PrefetchSessions gave a hint for. It is right
// whatever the hint: sessions set up or removed since then are seen.
func (t *Table) LookupHint(k *Key, hash uint64, hint Ref) Ref {
	if t.Session(hint).holds(k, hint.Direction()) {
		return hint
	}
	return t.Lookup(k, hash)
}

// Range calls fn for live sessions in table order, starting at cursor (0 at
// first), until it has looked at n records or fn returns false. It returns the
// cursor to go on with, 0 at the end. Sessions that come or go meanwhile may be
// seen or not; one that stays is seen exactly once. No worker waits for it.
// fn must not keep the Session.
func (t *Table) Range(cursor uint32, n int, fn func(Ref, *Session) bool) uint32 {
	r := t.NewReader()
	defer r.Close()
	end := uint32(t.header.fresh.Load())
	for ; n > 0 && cursor < end; n-- {
		cursor++
		ref := Ref(cursor << 1)
		if s := t.Session(ref); s.Live() && !fn(ref, s) {
			break
		}
	}
	if cursor >= end {
		return 0
	}
	return cursor
}
