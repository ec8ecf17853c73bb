package flowtable

import "sync/atomic"

// Alloc returns an unused session, all zero, or 0 when the table is full. The
// caller owns it until Insert succeeds, and gives it back with Free otherwise.
func (t *Table) Alloc() Ref {
	h := t.header
	for {
		head := h.free.Load()
		index := uint32(head)
		if index == 0 {
			break
		}
		next := t.sessions[index].reply.extra.Load()
		// The tag keeps a stack that was popped and pushed meanwhile from looking the same.
		if h.free.CompareAndSwap(head, (head>>32+1)<<32|uint64(next)) {
			t.sessions[index].reply.extra.Store(0)
			return Ref(index << 1)
		}
	}
	for {
		used := h.fresh.Load()
		if used >= uint64(t.Capacity()) {
			h.full.Add(1)
			return 0
		}
		if h.fresh.CompareAndSwap(used, used+1) {
			return Ref(used+1) << 1
		}
	}
}

// Free gives back a session that Alloc returned and Insert did not take.
func (t *Table) Free(r Ref) {
	if r.Index() != 0 {
		t.release(r.Index(), r.Index())
	}
}

// release clears the chain of unused records from first to last and puts it on
// the free stack.
func (t *Table) release(first, last uint32) {
	for i := first; ; i = t.sessions[i].reply.extra.Load() {
		t.sessions[i].clear()
		if i == last {
			break
		}
	}
	for {
		head := t.header.free.Load()
		t.sessions[last].reply.extra.Store(uint32(head))
		if t.header.free.CompareAndSwap(head, (head>>32+1)<<32|uint64(first)) {
			return
		}
	}
}

// clear empties a record that nobody else uses. Whoever walks the table or the
// free stack may still look at attr and at the link, which is left as it is.
func (s *Session) clear() {
	s.attr.Store(0)
	s.forward = half{}
	s.addr, s.ports, s.vrf = [4][16]byte{}, [4]uint16{}, [2]uint16{}
	s.decision.Store(0)
	s.member.Store(0)
	s.lastSeen.Store(0)
	s.reply.bytes.Store(0)
	s.reply.packets.Store(0)
	s.reply.next.Store(0)
	s.reply.ack.Store(0)
	s.reply.tcp.Store(0)
}

// retire puts a removed record on the stack of those that wait.
func (t *Table) retire(index uint32) {
	limbo := &t.header.limbo
	for {
		head := limbo.Load()
		t.sessions[index].reply.extra.Store(uint32(head))
		if limbo.CompareAndSwap(head, uint64(index)) {
			return
		}
	}
}

// Reclaim makes up to budget removed records usable again, those that no reader
// can still hold, and returns how many. Ager.Sweep calls it; only who has no Ager
// needs to. It never waits for a reader.
func (t *Table) Reclaim(budget int) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	done := 0
	for done < budget {
		if t.waiting == 0 {
			t.waiting = uint32(t.header.limbo.Swap(0))
			if t.waiting == 0 {
				break
			}
			t.target = t.epoch.Add(1)
		}
		if !t.passed() {
			break
		}
		first, last, n := t.waiting, t.waiting, 1
		for ; done+n < budget; n++ {
			next := t.sessions[last].reply.extra.Load()
			if next == 0 {
				break
			}
			last = next
		}
		t.waiting = t.sessions[last].reply.extra.Load()
		t.release(first, last)
		done += n
	}
	return done
}

// passed reports whether every reader has been quiet since target was set.
func (t *Table) passed() bool {
	for _, r := range t.readers {
		if at := r.at.Load(); at != 0 && at < t.target {
			return false
		}
	}
	return true
}

// Reader is one worker's (or one control goroutine's) right to use what Lookup
// returns. It starts online and belongs to one goroutine.
type Reader struct {
	_     [64]byte
	at    atomic.Uint64 // the epoch of the last quiet moment; 0 = offline
	table *Table
	_     [48]byte
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
	if now := r.table.epoch.Load(); r.at.Load() != now {
		r.at.Store(now)
	}
}

// Offline says the same for as long as the worker sleeps, so that nobody waits for it.
func (r *Reader) Offline() { r.at.Store(0) }

// Online ends Offline. It comes before the first Lookup.
func (r *Reader) Online() { r.at.Store(r.table.epoch.Load()) }

// Close removes the reader from its table.
func (r *Reader) Close() {
	t := r.table
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, other := range t.readers {
		if other == r {
			t.readers[i] = t.readers[len(t.readers)-1]
			t.readers = t.readers[:len(t.readers)-1]
			return
		}
	}
}
