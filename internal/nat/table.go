package nat

import (
	"slices"
	"sync"
	"sync/atomic"
)

// HoldDown is how long an unused port waits for its endpoint before another gets it,
// in ticks of 100 ms: 120 s (RFC 6888 REQ-8).
const HoldDown = 1200

// Class is a space of port numbers of its own.
type Class uint8

// The classes: what has ports, and the identifiers of ICMP and ICMPv6 queries.
const (
	TCP Class = iota
	UDP
	SCTP
	ICMP

	// NumClasses is the length of a list by Class.
	NumClasses
)

// String returns the class's name as metrics and messages write it.
func (c Class) String() string {
	if c >= NumClasses {
		return "UNKNOWN"
	}
	return [NumClasses]string{"TCP", "UDP", "SCTP", "ICMP"}[c]
}

// ClassOf returns the class of an IP protocol number, false for a protocol that has
// neither ports nor identifiers, which many endpoints cannot share an address with.
func ClassOf(proto uint8) (Class, bool) {
	switch proto {
	case 6:
		return TCP, true
	case 17:
		return UDP, true
	case 132:
		return SCTP, true
	case 1, 58:
		return ICMP, true
	}
	return 0, false
}

// Range is a range of external ports, both ends included; First is 1 or more. The
// zero Range has no ports.
type Range struct{ First, Last uint16 }

// Size is how many ports the range has.
func (r Range) Size() int {
	if r.First == 0 || r.Last < r.First {
		return 0
	}
	return int(r.Last-r.First) + 1
}

// has reports whether a port is in the range.
func (r Range) has(port uint16) bool { return r.First != 0 && port >= r.First && port <= r.Last }

// Endpoint is who an external port stands for. Comparable, without pointers.
type Endpoint struct {
	Address [16]byte // IPv4 v4-mapped
	Port    uint16   // or ICMP identifier
	VRF     uint16   // networks may have the same addresses
}

// Table is the ports of a node's addresses. Its methods may be called from any
// goroutine.
type Table struct {
	seed      [2]uint64
	mu        sync.Mutex // serialises Serve and Retire
	addresses atomic.Pointer[[]*address]
}

// address is one external address. It is in the table while it is served or a
// session still uses a port of it.
type address struct {
	address [16]byte
	classes [NumClasses]ports
}

// New returns a table without addresses. seed keys the hash that chooses ports; it
// has to be secret where packets come from strangers.
func New(seed [2]uint64) *Table {
	t := &Table{seed: seed}
	t.addresses.Store(&[]*address{})
	return t
}

// Serve lets ports of a range be given out at the addresses; other addresses stay as
// they are. Mappings outside the range stay while they are used. It takes 8.3 MiB of
// address space for a new address, of which a range of n ports comes to use 128 n
// bytes and 0.3 MiB.
func (t *Table) Serve(addresses [][16]byte, r Range) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range addresses {
		list := *t.addresses.Load()
		a := find(list, &addresses[i])
		if a == nil {
			a = &address{address: addresses[i]}
			for c := range a.classes {
				a.classes[c].init([2]uint64{mix(t.seed[0]^mixA, uint64(c)^mixB), t.seed[1]})
			}
			longer := append(slices.Clone(list), a)
			t.addresses.Store(&longer)
		}
		for c := range a.classes {
			a.classes[c].serve(r)
		}
	}
}

// Retire gives out no more ports of any address but these, and forgets the addresses
// that no session uses any more. The others leave with a later call.
func (t *Table) Retire(except [][16]byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(*t.addresses.Load()), func(a *address) bool {
		if slices.Contains(except, a.address) {
			return false
		}
		users := 0
		for c := range a.classes {
			a.classes[c].serve(Range{}) // so there will be no more of them
			users += a.classes[c].usage().Used
		}
		return users == 0
	})
	t.addresses.Store(&list)
}

// MaxOwners bounds the numbers of owners: a workload's port index is one.
const MaxOwners = 4096

// Outcome is what an endpoint was told that asked for a port.
type Outcome uint8

const (
	// Given is a port of the endpoint's own.
	Given Outcome = iota
	// Exhausted says that all ports are in use, or the address is not served.
	Exhausted
	// OverShare says that the owner has a quarter of the ports and three quarters of
	// them are in use: what is left is for others (RFC 6888 REQ-4).
	OverShare
)

// Acquire returns the external port of an endpoint at an address, the one it has or
// a new one, and counts one session more that uses it. owner is whose endpoint it is,
// below MaxOwners: what one owner may take is bounded. now is in ticks of 100 ms.
// Where the outcome is not Given nothing is counted.
func (t *Table) Acquire(external *[16]byte, c Class, e *Endpoint, owner uint16, now uint32) (port uint16, outcome Outcome) {
	if a := find(*t.addresses.Load(), external); a != nil {
		return a.classes[c].acquire(e, owner, now)
	}
	return 0, Exhausted
}

// Peek returns what Acquire would return, and counts nothing.
func (t *Table) Peek(external *[16]byte, c Class, e *Endpoint, owner uint16, now uint32) (port uint16, outcome Outcome) {
	if a := find(*t.addresses.Load(), external); a != nil {
		return a.classes[c].peek(e, owner, now)
	}
	return 0, Exhausted
}

// Release ends one session's use of an external port, which Acquire returned.
func (t *Table) Release(external *[16]byte, c Class, port uint16, now uint32) {
	if a := find(*t.addresses.Load(), external); a != nil {
		a.classes[c].release(port, now)
	}
}

// Usage is what became of the ports of one class at one address.
type Usage struct {
	Address [16]byte
	Class   Class
	Size    int    // ports in the range; 0 when the address is no longer served
	Used    int    // endpoints that have a port
	Held    int    // ports in hold-down
	Early   uint64 // ports given away before their hold-down was over
	Refused uint64 // times that there was no port
}

// Usage returns the usage of every class of every address.
func (t *Table) Usage() []Usage {
	var all []Usage
	for _, a := range *t.addresses.Load() {
		for c := range NumClasses {
			u := a.classes[c].usage()
			u.Address, u.Class = a.address, c
			all = append(all, u)
		}
	}
	return all
}

func find(list []*address, ip *[16]byte) *address {
	for _, a := range list {
		if a.address == *ip {
			return a
		}
	}
	return nil
}
