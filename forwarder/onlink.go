package forwarder

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/nexthop"
)

// Hosts on the uplink's link that are no nodes. A route there has OnLinkNextHop, and
// Snapshot.Neighbors says who is known; whom nobody knows yet, the agent is told of, so
// that the kernel asks for it. Only connections that policy lets pass tell, and a port
// only so many times a second, so that a scan fills neither the kernel's table nor ours.

const (
	// wantedSize is how many addresses wait for the agent in each worker, a power of two.
	wantedSize = 256
	// wantedAgain is after how many ticks an address is told again that is not known,
	// wantedFresh one that is: its entry may be an old one, which the kernel then checks.
	wantedAgain, wantedFresh = 10, 50
)

// wantedList is a ring of addresses from one worker to the agent, as the policy log is.
// When it is full, or the agent does not keep up, an address is left out: its next
// packet tells it again.
type wantedList struct {
	head, tail atomic.Uint64 // written by the worker; by the agent
	ring       [wantedSize][16]byte
	// told are the latest addresses by a hash, so that packets of one connection tell
	// once.
	told [wantedSize]toldAddress
}

// toldAddress is 20 bytes.
type toldAddress struct {
	address [16]byte
	tick    uint32
}

// want tells the agent of an address on the uplink's link that packets from port in
// are to reach, or reach already.
func (w *Worker) want(in uint16, address *[16]byte, known bool) {
	l := &w.wanted
	t := &l.told[binary.LittleEndian.Uint64(address[8:])*0x9e3779b97f4a7c15>>32%wantedSize]
	pause := uint32(wantedAgain)
	if known {
		pause = wantedFresh
	}
	if t.address == *address && w.now-t.tick < pause || !w.limits[in].wantAllowed(w.now, known) {
		return
	}
	head := l.head.Load()
	if head-l.tail.Load() == wantedSize {
		return
	}
	*t = toldAddress{address: *address, tick: w.now}
	l.ring[head%wantedSize] = *address
	l.head.Store(head + 1)
}

// DrainWanted hands every address on the uplink's link to fn that flows want to reach
// since the last call, in 16-byte form, some of them more than once. It belongs to one
// goroutine.
func (f *Forwarder) DrainWanted(fn func(address [16]byte)) {
	for _, w := range f.workers {
		l := &w.wanted
		for tail := l.tail.Load(); tail != l.head.Load(); tail++ {
			address := l.ring[tail%wantedSize]
			l.tail.Store(tail + 1)
			fn(address)
		}
	}
}

// seek returns the next hop that a route's next hop stands for: where that is
// OnLinkNextHop the one of the host with the address, if it is known.
func (d *decision) seek(snap *Snapshot, id nexthop.ID, hop nexthop.NextHop, address *[16]byte) (nexthop.ID, nexthop.NextHop) {
	if id != OnLinkNextHop {
		return id, hop
	}
	d.wanted = *address
	if known, ok := snap.Neighbors[*address]; ok {
		d.found = true
		return known, snap.NextHops.At(known)
	}
	return id, hop
}

// tell says whom a decision needs, or uses, on the uplink's link.
func (w *Worker) tell(in uint16, d *decision) {
	if d.wanted != ([16]byte{}) {
		w.want(in, &d.wanted, d.found)
	}
}

// lost drops a packet of a session that cannot go on until a host on the uplink's link
// is known. Its sender is told nothing: an ICMP error would end a TCP connection that
// begins, in Linux at least, though RFC 1122 §4.2.3.9 says that it must not; and its
// next try finds the host.
func (w *Worker) lost(p *packet, s *flowtable.Session) {
	_, host, _, _ := s.Target(flowtable.Forward)
	if s.Port() == w.snap.Uplink { // it came in there, and its answers leave directly
		key := s.Key(flowtable.Forward)
		host = &key.Src
	}
	w.want(p.in, host, false)
	w.drop(p, DropNeighborUnresolved)
}
