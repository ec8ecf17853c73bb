package nat

import (
	"encoding/binary"
	"math/bits"
	"runtime"
	"sync/atomic"
)

const (
	numPorts = 1 << 16
	numHeads = 1 << 15
	// expireBudget is how many ports one call lets out of hold-down: more than one,
	// so that it keeps pace with the sessions that end, and few, for others wait.
	expireBudget = 8
)

// state is what a port is doing.
type state uint8

const (
	free state = iota // nobody's
	used              // slot.count sessions use it
	held              // its last session ended at tick slot.count
)

// slot is one external port and the endpoint that has it, or had it last while it is
// held. 32 bytes without pointers; the slot's index is the port. Port 0 is nobody's,
// so 0 ends every list.
type slot struct {
	endpoint Endpoint
	chain    uint16 // the next slot with the same head
	older    uint16 // held: neighbours in the order in which they were released; used: who has it
	newer    uint16
	state    state
	_        uint8
	count    uint32
}

// ports is the ports of one class at one address. lock guards everything but seed.
type ports struct {
	seed    [2]uint64
	lock    atomic.Uint32
	serving Range
	slots   []slot   // by port
	heads   []uint16 // the first slot of a chain of used and held ones, by hash
	busy    []uint64 // a bit by port: not free
	oldest  uint16   // the queue of held ports
	newest  uint16
	owned   []uint16 // used ports, by owner
	counts  Usage
}

func (p *ports) init(seed [2]uint64) {
	p.seed = seed
	p.slots = make([]slot, numPorts)
	p.heads = make([]uint16, numHeads)
	p.busy = make([]uint64, numPorts/64)
	p.owned = make([]uint16, MaxOwners)
}

// enter takes the lock, which is held for one search, some microseconds at most.
func (p *ports) enter() {
	for spins := 1; !p.lock.CompareAndSwap(0, 1); spins++ {
		if spins%64 == 0 {
			runtime.Gosched() // the holder may have lost its processor
		}
	}
}

func (p *ports) leave() { p.lock.Store(0) }

// serve changes the range. Held ports outside the new one become free: nobody is
// given them.
func (p *ports) serve(r Range) {
	p.enter()
	if p.serving != r {
		p.serving, p.counts.Size = r, r.Size()
		for port := p.oldest; port != 0; {
			next := p.slots[port].newer
			if !r.has(port) {
				p.free(port)
			}
			port = next
		}
	}
	p.leave()
}

func (p *ports) usage() Usage {
	p.enter()
	u := p.counts
	p.leave()
	return u
}

// acquire gives an endpoint its port and counts a session.
func (p *ports) acquire(e *Endpoint, owner uint16, now uint32) (port uint16, outcome Outcome) {
	p.enter()
	if port, outcome = p.ask(e, owner, now); outcome == Given {
		p.take(port, e, owner, now)
	} else {
		p.counts.Refused++
	}
	p.leave()
	return port, outcome
}

// peek is acquire without the effect.
func (p *ports) peek(e *Endpoint, owner uint16, now uint32) (port uint16, outcome Outcome) {
	p.enter()
	port, outcome = p.ask(e, owner, now)
	p.leave()
	return port, outcome
}

// ask returns the port that an endpoint gets, or why it gets none.
func (p *ports) ask(e *Endpoint, owner uint16, now uint32) (port uint16, outcome Outcome) {
	port = p.choose(e, now)
	share := p.serving.Size() / 4
	switch {
	case port == 0:
		return 0, Exhausted
	case p.slots[port].state != used && share > 0 && int(p.owned[owner%MaxOwners]) >= share && p.counts.Used >= p.serving.Size()-share:
		return 0, OverShare
	}
	return port, Given
}

// release ends one session's use of a port.
func (p *ports) release(port uint16, now uint32) {
	p.enter()
	s := &p.slots[port]
	if s.state == used {
		if s.count--; s.count == 0 {
			p.counts.Used--
			p.owned[s.older]--
			p.hold(port, now)
		}
	}
	p.leave()
}

// choose returns the port that an endpoint has, else a free one, else the one that
// has been held the longest; 0 where all are in use. It lets ports out of hold-down
// whose time is over.
func (p *ports) choose(e *Endpoint, now uint32) uint16 {
	for range expireBudget {
		if p.oldest == 0 || int32(now-p.slots[p.oldest].count) < HoldDown {
			break
		}
		p.free(p.oldest)
	}
	hash := p.hash(e)
	for port := p.heads[hash%numHeads]; port != 0; port = p.slots[port].chain {
		if p.slots[port].endpoint == *e {
			return port
		}
	}
	size := p.serving.Size()
	if size == 0 {
		return 0
	}
	start := int(p.serving.First) + int(hash>>32)%size
	if port := p.firstFree(start, int(p.serving.Last)); port != 0 {
		return port
	}
	if port := p.firstFree(int(p.serving.First), start-1); port != 0 {
		return port
	}
	return p.oldest
}

// firstFree returns the lowest free port from first to last, 0 if there is none.
func (p *ports) firstFree(first, last int) uint16 {
	for port := first; port <= last; port = port&^63 + 64 {
		open := ^p.busy[port/64] >> (port % 64)
		if open == 0 {
			continue
		}
		if port += bits.TrailingZeros64(open); port <= last {
			return uint16(port)
		}
	}
	return 0
}

// take gives a port that ask returned to an endpoint of an owner's.
func (p *ports) take(port uint16, e *Endpoint, owner uint16, now uint32) {
	s := &p.slots[port]
	switch {
	case s.state == used:
		s.count++
		return
	case s.state == held && s.endpoint == *e:
		p.unqueue(port)
	default:
		if s.state == held {
			if int32(now-s.count) < HoldDown {
				p.counts.Early++
			}
			p.free(port)
		}
		head := &p.heads[p.hash(e)%numHeads]
		s.endpoint, s.chain = *e, *head
		*head = port
		p.busy[port/64] |= 1 << (port % 64)
	}
	s.state, s.count, s.older = used, 1, owner%MaxOwners
	p.owned[s.older]++
	p.counts.Used++
}

// hold puts a port whose last session has ended at the end of the queue.
func (p *ports) hold(port uint16, now uint32) {
	s := &p.slots[port]
	s.state, s.count, s.older, s.newer = held, now, p.newest, 0
	if p.newest != 0 {
		p.slots[p.newest].newer = port
	} else {
		p.oldest = port
	}
	p.newest = port
	p.counts.Held++
	if !p.serving.has(port) {
		p.free(port)
	}
}

// unqueue takes a held port out of the queue.
func (p *ports) unqueue(port uint16) {
	s := &p.slots[port]
	if s.older != 0 {
		p.slots[s.older].newer = s.newer
	} else {
		p.oldest = s.newer
	}
	if s.newer != 0 {
		p.slots[s.newer].older = s.older
	} else {
		p.newest = s.older
	}
	s.older, s.newer = 0, 0
	p.counts.Held--
}

// free makes a held port nobody's.
func (p *ports) free(port uint16) {
	p.unqueue(port)
	s := &p.slots[port]
	link := &p.heads[p.hash(&s.endpoint)%numHeads]
	for *link != port {
		link = &p.slots[*link].chain
	}
	*link = s.chain
	*s = slot{}
	p.busy[port/64] &^= 1 << (port % 64)
}

// Odd constants of wyhash (Wang Yi).
const (
	mixA = 0xa0761d6478bd642f
	mixB = 0xe7037ed1a0b428db
)

// hash is where the search for an endpoint's port begins, keyed by the seed.
func (p *ports) hash(e *Endpoint) uint64 {
	a := mix(binary.LittleEndian.Uint64(e.Address[:8])^p.seed[0], binary.LittleEndian.Uint64(e.Address[8:])^p.seed[1])
	return mix(mix(a^(uint64(e.Port)|uint64(e.VRF)<<16), p.seed[1]^mixA)^p.seed[0], mixB)
}

// mix folds the 128-bit product of x and y.
func mix(x, y uint64) uint64 {
	high, low := bits.Mul64(x, y)
	return high ^ low
}
