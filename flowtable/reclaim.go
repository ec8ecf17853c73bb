package flowtable

// Alloc returns an unused session, all zero, or 0 when the table is full. The
// caller owns it until Insert succeeds, and gives it back with Free otherwise.
// Workers use their Reader's Alloc.
func (t *Table) Alloc() Ref {
	var one [1]uint32
	if t.take(one[:]) == 0 {
		t.header.full.Add(1)
		return 0
	}
	return Ref(one[0] << 1)
}

// take fills list with unused records, used ones first, and returns how many
// there were.
func (t *Table) take(list []uint32) int {
	h := t.header
	for head := h.free.Load(); uint32(head) != 0; head = h.free.Load() {
		n, index := 0, uint32(head)
		for n < len(list) && index != 0 && int(index) < len(t.sessions) {
			list[n] = index
			index = t.sessions[index].reply.extra.Load() // no link if others were faster; then the swap fails
			n++
		}
		// The tag keeps a stack that was popped and pushed meanwhile from looking the same.
		if h.free.CompareAndSwap(head, (head>>32+1)<<32|uint64(index)) {
			for _, index := range list[:n] {
				t.sessions[index].reply.extra.Store(0)
			}
			return n
		}
	}
	for {
		used := h.fresh.Load()
		n := min(uint64(len(list)), uint64(t.Capacity())-used)
		if n == 0 || h.fresh.CompareAndSwap(used, used+n) {
			for i := range list[:n] {
				list[i] = uint32(used) + uint32(i) + 1
			}
			return int(n)
		}
	}
}

// Free gives back a session that Alloc returned and Insert did not take.
func (t *Table) Free(r Ref) {
	if index := r.Index(); index != 0 {
		t.release(index, index)
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

// retire puts a chain of removed records on the stack of those that wait.
func (t *Table) retire(first, last uint32) {
	limbo := &t.header.limbo
	for {
		head := limbo.Load()
		t.sessions[last].reply.extra.Store(uint32(head))
		if limbo.CompareAndSwap(head, uint64(first)) {
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
