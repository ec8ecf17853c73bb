package forwarder

import "github.com/vrouter-go/vrouter/internal/header"

// Only the first fragment of a datagram carries ports, so the others are told
// theirs by what the first one said (RFC 6146 §3.4, RFC 4787 REQ-14). Nothing is
// put together: fragments travel on as fragments, at once when their first one
// is known, otherwise they wait for it and follow it in the order of arrival.
// This file is the life of a fragment; datagram.go is what is kept of it.
//
// All fragments of a datagram must come in on queues of one worker. The kernel
// sees to that: it picks a TAP queue by a hash that leaves ports out for
// fragments.

// fragment finds the datagram of p, which is a fragment that header.Parse and
// the checks of classify accepted. It returns true when p has its ports and may
// go on, false when p was held or dropped. The caller processes a first fragment
// and then calls releaseFragments.
func (w *Worker) fragment(p *packet) bool {
	t := &w.fragments
	key := datagramKey(p)
	i := t.find(&key)
	if i == 0 {
		if i = w.newDatagram(&key); i == 0 {
			w.drop(p, DropFragmentLimit)
			return false
		}
	}
	d := &t.datagrams[i]
	reason := d.reason
	if reason == DropUnknown {
		if reason = d.add(&p.l); reason != DropUnknown && reason != DropFragmentDuplicate {
			w.refuseDatagram(i, reason)
		}
	}
	if reason != DropUnknown {
		w.drop(p, reason)
		return false
	}
	if p.l.IsFirst() {
		d.open(&p.l, w.now+openTicks)
	}
	if !d.opened {
		w.hold(p, i)
		return false
	}
	p.l.Proto, p.l.SrcPort, p.l.DstPort = d.proto, d.srcPort, d.dstPort
	if d.complete() && d.held == 0 {
		t.remove(i)
	}
	return true
}

// datagramKey returns the key of the datagram that p is a part of.
func datagramKey(p *packet) fragmentKey {
	k := fragmentKey{src: p.l.Src, dst: p.l.Dst, id: p.l.FragID, in: p.in, vrf: p.vrf, tunnel: p.tunnel}
	if p.bridged {
		k.vrf |= bridgedVRF
	}
	if p.l.Version == 4 {
		k.proto = p.l.Proto // RFC 791 §3.2: part of the key, RFC 8200 §4.5: not part of it
	}
	return k
}

// unfollowable says why a datagram with this first fragment is refused as a
// whole, DropUnknown if it is not.
func unfollowable(l *header.Layout) DropReason {
	switch {
	case !l.IsICMP() || isEcho(l):
		return DropUnknown
	case l.ICMPError:
		// RFC 1812 §4.3.2.3 and RFC 4443 §2.4 c keep errors below any MTU, and
		// the checksum, which RFC 5508 REQ-3 wants verified, covers all fragments.
		return DropICMPErrorFormat
	}
	return DropICMPType
}

// hold copies p away until its datagram's first fragment comes. A fragment is
// copied, not kept in its frame: a frame's buffer is 64 KiB, a fragment rarely
// more than 1,500 bytes, and the batch keeps its frames.
func (w *Worker) hold(p *packet, i uint16) {
	data := p.bytes()[:p.l.End]
	if !w.makeRoom(i, chunksFor(len(data))) {
		w.refuseDatagram(i, DropFragmentLimit) // it could never be completed
		w.drop(p, DropFragmentLimit)
		return
	}
	w.fragments.push(i, data)
	w.counters[p.in].Load().held.Add(1)
	p.fate = fateDone
}

// releaseFragments sends the fragments that waited for head on their way, in the
// order in which they came. It is called for every first fragment, behind it.
func (w *Worker) releaseFragments(head *packet) {
	t := &w.fragments
	if t.live == 0 {
		return
	}
	key := datagramKey(head)
	i := t.find(&key)
	if i == 0 {
		return
	}
	d := &t.datagrams[i]
	if !d.opened || d.held == 0 {
		return
	}
	for d.held != 0 {
		w.releaseOne(head, d)
	}
	if d.complete() {
		t.remove(i)
	}
}

// releaseOne takes the fragment that waited longest through the packet path.
func (w *Worker) releaseOne(head *packet, d *datagram) {
	t := &w.fragments
	f := w.spareFrame()
	if f == nil {
		t.pop(d, nil)
		w.dropHeld(d.key.in, 1, DropNoBuffer)
		return
	}
	t.pop(d, f)
	w.counters[d.key.in].Load().held.Add(^uint64(0))
	f.Time = head.frame.Time
	p := &t.released
	*p = packet{frame: f, in: d.key.in, len: uint32(f.Len()), arrival: head.arrival}
	header.Parse(f.Bytes(), &p.l) // the same bytes were accepted when they came
	p.l.Proto, p.l.SrcPort, p.l.DstPort = d.proto, d.srcPort, d.dstPort
	w.assign(w.ingress(p), p)
	w.processOne(p)
	w.lend(f) // only now: a flush inside processOne must not hand it out again
	p.frame = nil
}

// dropHeld counts held fragments of a port as dropped.
func (w *Worker) dropHeld(in uint16, n uint64, reason DropReason) {
	c := w.counters[in].Load()
	c.held.Add(-n)
	c.drops[reason].Add(n)
}

// dropWaiting drops all fragments that wait in a datagram.
func (w *Worker) dropWaiting(d *datagram, reason DropReason) {
	n := uint64(d.held)
	for d.held != 0 {
		w.fragments.pop(d, nil)
	}
	if n != 0 {
		w.dropHeld(d.key.in, n, reason)
	}
}

// refuseDatagram drops what waits in a datagram and remembers why, so that what
// still comes of it is dropped for the same reason (RFC 5722 §3, RFC 8200 §4.5:
// the fragments "not yet received" included).
func (w *Worker) refuseDatagram(i uint16, reason DropReason) {
	d := &w.fragments.datagrams[i]
	w.dropWaiting(d, reason)
	d.reason, d.expires = reason, w.now+openTicks
}

// endDatagram drops what waits in a datagram and forgets it.
func (w *Worker) endDatagram(i uint16, reason DropReason) {
	w.dropWaiting(&w.fragments.datagrams[i], reason)
	w.fragments.remove(i)
}

// newDatagram starts to follow a datagram. In a full table, and for a sender that
// has its share, an older datagram makes room: a flood of first or only
// fragments costs its own sender first, and never a datagram whose fragments come
// together. It returns 0 when there is no table.
func (w *Worker) newDatagram(key *fragmentKey) uint16 {
	t := &w.fragments
	if len(t.datagrams) == 0 {
		return 0
	}
	for {
		own := t.shares[key.share()].datagrams >= datagramShare
		if !own && t.freeDatagram != 0 {
			return t.insert(key, w.now+holdTicks)
		}
		v := t.victim(key.share(), 0, own, false)
		if v == 0 {
			return 0
		}
		w.endDatagram(v, DropFragmentLimit)
	}
}

// makeRoom ends datagrams other than i until its sender may hold n chunks more. It
// reports false when that is not possible.
func (w *Worker) makeRoom(i uint16, n int) bool {
	t := &w.fragments
	share := t.datagrams[i].key.share()
	for {
		own := int(t.shares[share].chunks)+n > chunkShare
		if !own && t.freeChunks >= n {
			return true
		}
		v := t.victim(share, i, own, true)
		if v == 0 {
			return false
		}
		w.endDatagram(v, DropFragmentLimit)
	}
}

// expireFragments ends the datagrams whose time is over. It looks at the table
// at most once per tick, so it may be called for every batch and must be called
// while busy reports true. No ICMP "reassembly time exceeded" is sent: that is
// for the host that puts the datagram together (RFC 792, RFC 4443 §3.3).
func (w *Worker) expireFragments(now uint32) {
	t := &w.fragments
	if t.live == 0 || now == t.swept {
		return
	}
	t.swept = now
	for i := 1; i < len(t.datagrams); i++ {
		if d := &t.datagrams[i]; d.used && int32(now-d.expires) >= 0 {
			w.endDatagram(uint16(i), DropFragmentTimeout)
		}
	}
}
