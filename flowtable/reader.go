package flowtable

import "sync/atomic"

// spareRecords is how many unused records a worker keeps at hand.
const spareRecords = 16

// Reader is one worker's (or one control goroutine's) right to use what Lookup
// returns. It starts online and belongs to one goroutine.
//
// Its Alloc, Free, Insert and Remove do what the table's do, but touch what all
// workers share once for many sessions, so that two workers that set sessions up
// do not pass its cache lines to and fro for each.
type Reader struct {
	_        [64]byte
	at       atomic.Uint64 // the epoch of the last quiet moment; 0 = offline
	table    *Table
	inserted atomic.Uint64 // by this reader
	removed  atomic.Uint64
	first    uint32 // chain of records removed since the last quiet moment
	last     uint32
	spares   uint32
	spare    [spareRecords]uint32
	_        [64]byte
}

// NewReader adds a reader, online. Control path: it takes a lock.
func (t *Table) NewReader() *Reader {
	r := &Reader{table: t}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.readers = append(t.readers, r)
	r.Online()
	return r
}

// Quiesce says that the worker holds no Ref or Session now. Once per batch.
func (r *Reader) Quiesce() {
	r.flush()
	if now := r.table.epoch.Load(); r.at.Load() != now {
		r.at.Store(now)
	}
}

// Offline says the same for as long as the worker sleeps, so that nobody waits for it.
func (r *Reader) Offline() {
	r.flush()
	for ; r.spares > 0; r.spares-- {
		r.table.Free(Ref(r.spare[r.spares-1] << 1))
	}
	r.at.Store(0)
}

// Online ends Offline. It comes before the first Lookup.
func (r *Reader) Online() { r.at.Store(r.table.epoch.Load()) }

// Close removes the reader from its table.
func (r *Reader) Close() {
	r.Offline()
	t := r.table
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, other := range t.readers {
		if other == r {
			t.header.inserted.Add(r.inserted.Load())
			t.header.removed.Add(r.removed.Load())
			t.readers[i] = t.readers[len(t.readers)-1]
			t.readers = t.readers[:len(t.readers)-1]
			return
		}
	}
}

// Alloc is Table.Alloc. A full table may hold a few records back for workers that
// are awake; Offline gives them up.
func (r *Reader) Alloc() Ref {
	if r.spares == 0 {
		if r.spares = uint32(r.table.take(r.spare[:])); r.spares == 0 {
			r.table.header.full.Add(1)
			return 0
		}
	}
	r.spares--
	if r.spares > 0 { // the next one's lines come while this one is worked on
		prefetchSession(&r.table.sessions[r.spare[r.spares-1]])
	}
	return Ref(r.spare[r.spares] << 1)
}

// Free is Table.Free.
func (r *Reader) Free(ref Ref) {
	index := ref.Index()
	if r.spares == spareRecords || index == 0 {
		r.table.Free(ref)
		return
	}
	s := r.table.Session(ref)
	s.clear()
	s.reply.extra.Store(0)
	r.spare[r.spares] = index
	r.spares++
}

// Insert is Table.Insert.
func (r *Reader) Insert(ref Ref) (Outcome, Ref) {
	got, other := r.table.insert(ref)
	if got == Inserted {
		r.inserted.Add(1)
	}
	return got, other
}

// Remove is Table.Remove. The record starts its grace period at the next Quiesce.
func (r *Reader) Remove(ref Ref) bool {
	if !r.table.withdraw(ref) {
		return false
	}
	r.removed.Add(1)
	index := ref.Index()
	if r.last == 0 {
		r.last = index
	}
	r.table.sessions[index].reply.extra.Store(r.first)
	r.first = index
	return true
}

// flush hands the removed records over.
func (r *Reader) flush() {
	if r.last != 0 {
		r.table.retire(r.first, r.last)
		r.first, r.last = 0, 0
	}
}
