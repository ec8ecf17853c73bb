package nat

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

var (
	node  = [16]byte{10: 0xff, 11: 0xff, 12: 192, 13: 0, 14: 2, 15: 10}
	node6 = [16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 10}
)

func endpoint(n int) *Endpoint {
	return &Endpoint{Address: [16]byte{10: 0xff, 11: 0xff, 12: 10, 13: 244, 14: byte(n >> 8), 15: byte(n)}, Port: uint16(40000 + n), VRF: uint16(1 + n%3)}
}

func serving(r Range) *Table {
	t := New([2]uint64{rand.Uint64(), rand.Uint64()})
	t.Serve([][16]byte{node, node6}, r)
	return t
}

func TestSlotSize(t *testing.T) {
	if n := unsafe.Sizeof(slot{}); n != 32 {
		t.Errorf("a slot has %d bytes, want 32", n)
	}
}

// model says what a table may do, with maps: it does not foresee which port comes,
// it judges the one that came.
type model struct {
	table    *Table
	serving  Range
	now      uint32
	sessions map[Endpoint]int
	ports    map[Endpoint]uint16 // of those with sessions
	owners   map[uint16]Endpoint // the reverse
	held     map[uint16]heldPort
}

type heldPort struct {
	endpoint Endpoint
	since    uint32
}

// taken is how many ports of the range are in use, and in use or held.
func (m *model) taken() (inUse, busy int) {
	for p := range m.owners {
		if m.serving.has(p) {
			inUse++
		}
	}
	return inUse, inUse + len(m.held)
}

func (m *model) acquire(t *rapid.T) {
	e := *endpoint(rapid.IntRange(0, 60).Draw(t, "endpoint"))
	peeked, could := peek(m.table, &node, UDP, &e, m.now)
	port, ok := acquire(m.table, &node, UDP, &e, m.now)
	if port != peeked || ok != could {
		t.Fatalf("Peek said %d, %v and Acquire gave %d, %v", peeked, could, port, ok)
	}
	inUse, busy := m.taken()
	if have, live := m.ports[e]; live {
		if !ok || port != have {
			t.Fatalf("port %d, %v for an endpoint that has %d (RFC 4787 REQ-1)", port, ok, have)
		}
		m.sessions[e]++
		return
	}
	if !ok {
		if inUse < m.serving.Size() {
			t.Fatalf("refused with %d of %d ports in use", inUse, m.serving.Size())
		}
		return
	}
	if !m.serving.has(port) {
		t.Fatalf("port %d is outside %v", port, m.serving)
	}
	if other, shared := m.owners[port]; shared {
		t.Fatalf("port %d is %v's (RFC 4787 REQ-3)", port, other)
	}
	if h, was := m.held[port]; was && h.endpoint != e && m.now-h.since < HoldDown {
		if busy < m.serving.Size() {
			t.Fatalf("port %d given away after %d ticks with %d of %d ports busy (RFC 6888 REQ-8)", port, m.now-h.since, busy, m.serving.Size())
		}
		for p, o := range m.held {
			if o.since < h.since {
				t.Fatalf("port %d, held since %d, given away before %d, held since %d", port, h.since, p, o.since)
			}
		}
	}
	for p, h := range m.held {
		if h.endpoint == e && p != port && m.now-h.since < HoldDown {
			t.Fatalf("port %d for an endpoint for which %d is held", port, p)
		}
	}
	delete(m.held, port)
	m.sessions[e], m.ports[e], m.owners[port] = 1, port, e
}

func (m *model) release(t *rapid.T) {
	e := *endpoint(rapid.IntRange(0, 60).Draw(t, "endpoint"))
	port, live := m.ports[e]
	if !live {
		return
	}
	m.table.Release(&node, UDP, port, m.now)
	if m.sessions[e]--; m.sessions[e] > 0 {
		return
	}
	delete(m.ports, e)
	delete(m.owners, port)
	if m.serving.has(port) {
		m.held[port] = heldPort{e, m.now}
	}
}

func (m *model) serve(t *rapid.T) {
	first := uint16(rapid.IntRange(61000, 61100).Draw(t, "first"))
	m.serving = Range{first, first + uint16(rapid.IntRange(0, 70).Draw(t, "more"))}
	m.table.Serve([][16]byte{node}, m.serving)
	for p := range m.held {
		if !m.serving.has(p) {
			delete(m.held, p)
		}
	}
}

// check compares what the table counts.
func (m *model) check(t *rapid.T) {
	for _, u := range m.table.Usage() {
		switch {
		case u.Address == node && u.Class == UDP:
			expired := 0
			for _, h := range m.held {
				if m.now-h.since >= HoldDown {
					expired++ // the table lets them go little by little
				}
			}
			if u.Used != len(m.ports) || u.Held > len(m.held) || u.Held < len(m.held)-expired {
				t.Fatalf("%d used and %d held, want %d and %d (%d expired)", u.Used, u.Held, len(m.ports), len(m.held), expired)
			}
		case u.Used+u.Held != 0:
			t.Fatalf("ports in use where nobody asked: %+v", u)
		}
	}
}

// RFC 4787 REQ-1, REQ-3: judged step by step by a model of maps
// RFC 5382 REQ-1, REQ-7: the same for every class of ports
// RFC 6888 REQ-8: an unused port is held for 120 s for its endpoint, unless all others are busy
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{
			serving: Range{61000, 61040}, now: rapid.Uint32().Draw(t, "clock"),
			sessions: map[Endpoint]int{}, ports: map[Endpoint]uint16{}, owners: map[uint16]Endpoint{}, held: map[uint16]heldPort{},
		}
		m.table = New([2]uint64{rapid.Uint64().Draw(t, "seed"), 1})
		m.table.Serve([][16]byte{node, node6}, m.serving)
		t.Repeat(map[string]func(*rapid.T){
			"acquire": m.acquire, "again": m.acquire, "release": m.release, "serve": m.serve,
			"wait": func(t *rapid.T) { m.now += uint32(rapid.IntRange(0, HoldDown).Draw(t, "ticks")) },
			"":     m.check,
		})
	})
}

// RFC 4787 REQ-3, RFC 5382 REQ-7: when all ports are in use there is none, and nobody shares one
func TestExhaustion(t *testing.T) {
	const first, last = 61000, 65535
	table := serving(Range{first, last})
	seen := map[uint16]bool{}
	for n := range last - first + 1 {
		port, ok := acquire(table, &node, TCP, endpoint(n), 0)
		if !ok || seen[port] || port < first {
			t.Fatalf("endpoint %d: port %d, %v; given out before: %v", n, port, ok, seen[port])
		}
		seen[port] = true
	}
	if port, ok := acquire(table, &node, TCP, endpoint(9999), 0); ok {
		t.Fatalf("port %d out of a range that is in use", port)
	}
	// Others go on: mapped endpoints, the other classes, the other address.
	if _, ok := acquire(table, &node, TCP, endpoint(7), 0); !ok {
		t.Error("a mapped endpoint was refused")
	}
	for _, c := range []Class{UDP, SCTP, ICMP} {
		if _, ok := acquire(table, &node, c, endpoint(9999), 0); !ok {
			t.Errorf("%s was refused because of TCP", c)
		}
	}
	if _, ok := acquire(table, &node6, TCP, endpoint(9999), 0); !ok {
		t.Error("one address was refused because of the other")
	}
	// The port that comes free goes on at once, for there is no other.
	given, _ := peek(table, &node, TCP, endpoint(5), 0)
	table.Release(&node, TCP, given, 1)
	if port, ok := acquire(table, &node, TCP, endpoint(9999), 2); !ok || port != given {
		t.Errorf("port %d, %v; want %d", port, ok, given)
	}
	for _, u := range table.Usage() {
		if u.Address == node && u.Class == TCP && (u.Refused != 1 || u.Early != 1 || u.Used != u.Size) {
			t.Errorf("usage %+v", u)
		}
	}
}

// RFC 6888 REQ-8: for 120 s only its former endpoint gets a port again
func TestHoldDown(t *testing.T) {
	table := serving(Range{61000, 61001})
	mine, _ := acquire(table, &node, UDP, endpoint(1), 100)
	table.Release(&node, UDP, mine, 100)
	other, _ := acquire(table, &node, UDP, endpoint(2), 101)
	if other == mine {
		t.Fatal("the port went to another endpoint at once, with one free")
	}
	if again, _ := acquire(table, &node, UDP, endpoint(1), 102); again != mine {
		t.Errorf("port %d, want %d, which was held for it", again, mine)
	}
	table.Release(&node, UDP, mine, 200)
	table.Release(&node, UDP, other, 300)
	if got, ok := acquire(table, &node, UDP, endpoint(3), 200+HoldDown); !ok || got != mine {
		t.Errorf("port %d, %v; want %d, whose time is over", got, ok, mine)
	}
	for _, u := range table.Usage() {
		if u.Early != 0 {
			t.Errorf("given away early: %+v", u)
		}
	}
}

// RFC 6056 §3.3.3: the port depends on a secret and on the endpoint, and all of the range is used evenly
func TestPortsAreSpread(t *testing.T) {
	r := Range{61000, 65535}
	table, other := serving(r), serving(r)
	var buckets [16]int
	const rounds = 4096
	alike := 0
	for n := range rounds {
		port, _ := peek(table, &node, TCP, endpoint(n), 0)
		buckets[int(port-r.First)*len(buckets)/r.Size()]++
		if twin, _ := peek(other, &node, TCP, endpoint(n), 0); twin == port {
			alike++
		}
	}
	if alike > 16 {
		t.Errorf("two secrets gave %d of %d endpoints the same port", alike, rounds)
	}
	for i, n := range buckets { // 256 ± 15.5; 6 standard deviations
		if n < 256-93 || n > 256+93 {
			t.Errorf("bucket %d of 16 has %d of %d", i, n, rounds)
		}
	}
}

// Mappings survive a change of the range and of the addresses while they are used.
func TestRetire(t *testing.T) {
	table := serving(Range{61000, 61010})
	port, _ := acquire(table, &node, TCP, endpoint(1), 0)
	table.Serve([][16]byte{node}, Range{62000, 62010})
	if again, ok := acquire(table, &node, TCP, endpoint(1), 1); !ok || again != port {
		t.Errorf("port %d, %v after the range changed; want %d", again, ok, port)
	}
	if fresh, ok := acquire(table, &node, TCP, endpoint(2), 1); !ok || fresh < 62000 || fresh > 62010 {
		t.Errorf("new port %d, %v outside the new range", fresh, ok)
	}
	table.Retire([][16]byte{node6})
	if _, ok := acquire(table, &node, TCP, endpoint(3), 2); ok {
		t.Error("an address that is not served gave a port")
	}
	table.Serve([][16]byte{node}, Range{61000, 61010}) // it comes back, and its mappings are there
	if again, ok := peek(table, &node, TCP, endpoint(1), 3); !ok || again != port {
		t.Errorf("port %d, %v after the address came back; want %d", again, ok, port)
	}
	for range 2 {
		table.Release(&node, TCP, port, 4)
	}
	second, _ := peek(table, &node, TCP, endpoint(2), 4)
	table.Release(&node, TCP, second, 4)
	table.Retire([][16]byte{node6})
	if n := len(table.Usage()); n != int(NumClasses) {
		t.Errorf("%d classes left, want those of one address", n)
	}
	table.Release(&node, TCP, port, 5) // nothing to release, and nothing happens
}

// Several workers at once: nobody shares a port, and an endpoint has one.
func TestConcurrent(t *testing.T) {
	r := Range{61000, 61063}
	table := serving(r)
	var owners [1 << 16]atomic.Int64 // endpoint<<32 | sessions, by port
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(worker), 1))
			type lease struct {
				n    int
				port uint16
			}
			var leases []lease
			drop := func() {
				l := leases[0]
				leases = leases[1:]
				owners[l.port].Add(-1)
				for { // the last one out forgets the owner before the port may go to another
					v := owners[l.port].Load()
					if v&(1<<32-1) != 0 || owners[l.port].CompareAndSwap(v, 0) {
						break
					}
				}
				table.Release(&node, UDP, l.port, uint32(rng.IntN(5000)))
			}
			for range 20_000 {
				n := 1 + rng.IntN(90)
				port, ok := acquire(table, &node, UDP, endpoint(n), uint32(rng.IntN(5000)))
				if ok {
					for {
						v := owners[port].Load()
						if owner := int(v >> 32); owner != 0 && owner != n {
							t.Errorf("port %d is endpoint %d's and was given to %d", port, owner, n)
							return
						}
						if owners[port].CompareAndSwap(v, int64(n)<<32|(v&(1<<32-1)+1)) {
							break
						}
					}
					leases = append(leases, lease{n, port})
				}
				if len(leases) > 12 || !ok && len(leases) > 0 {
					drop()
				}
			}
			for len(leases) > 0 {
				drop()
			}
		})
	}
	wg.Wait()
	for _, u := range table.Usage() {
		if u.Used != 0 {
			t.Errorf("left over: %+v", u)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	table := serving(Range{61000, 65535})
	e, now := endpoint(1), uint32(0)
	if n := testing.AllocsPerRun(1000, func() {
		now++
		e.Port++
		port, _ := acquire(table, &node, TCP, e, now)
		table.Release(&node, TCP, port, now)
	}); n != 0 {
		t.Errorf("%v allocations for a session, want 0", n)
	}
}

func BenchmarkAcquireRelease(b *testing.B) {
	for _, c := range []struct {
		name string
		full int
	}{{"empty", 0}, {"99-percent", 4490}} {
		b.Run(c.name, func(b *testing.B) {
			table := serving(Range{61000, 65535})
			for n := range c.full {
				acquire(table, &node, TCP, endpoint(n), 0)
			}
			e, now := endpoint(9999), uint32(0)
			for b.Loop() {
				now++
				e.Port++
				port, _ := acquire(table, &node, TCP, e, now)
				table.Release(&node, TCP, port, now)
			}
		})
	}
}

// acquire and peek ask for an endpoint that is its owner's only one.
func acquire(t *Table, external *[16]byte, c Class, e *Endpoint, now uint32) (uint16, bool) {
	port, outcome := t.Acquire(external, c, e, e.Port, now)
	return port, outcome == Given
}

func peek(t *Table, external *[16]byte, c Class, e *Endpoint, now uint32) (uint16, bool) {
	port, outcome := t.Peek(external, c, e, e.Port, now)
	return port, outcome == Given
}

// TestShare: one owner may have all but a quarter of the ports; who has less than a
// quarter goes on getting some, and what an owner gives back counts no more.
func TestShare(t *testing.T) {
	table := New([2]uint64{1, 2})
	table.Serve([][16]byte{node}, Range{First: 61000, Last: 61999})
	const greedy, modest = 7, 8
	given := []uint16{}
	for n := range 1000 {
		e := endpoint(n)
		port, outcome := table.Acquire(&node, TCP, e, greedy, 0)
		if outcome == OverShare {
			break
		}
		given = append(given, port)
	}
	if len(given) != 750 {
		t.Fatalf("the greedy owner has %d of 1000 ports; want 750", len(given))
	}
	for n := range 250 {
		if _, outcome := table.Acquire(&node, TCP, endpoint(2000+n), modest, 0); outcome != Given {
			t.Fatalf("the modest owner's port %d: %v", n, outcome)
		}
	}
	if _, outcome := table.Acquire(&node, TCP, endpoint(3000), modest, 0); outcome != Exhausted {
		t.Errorf("with all ports in use: %v", outcome)
	}
	if port, outcome := table.Acquire(&node, TCP, endpoint(0), greedy, 0); outcome != Given || port != given[0] {
		t.Errorf("an endpoint that has a port: %d, %v", port, outcome)
	}
	table.Release(&node, TCP, given[0], 0)
	for _, port := range given {
		table.Release(&node, TCP, port, 1)
	}
	if _, outcome := table.Acquire(&node, TCP, endpoint(4000), greedy, HoldDown+10); outcome != Given {
		t.Errorf("after all are given back: %v", outcome)
	}
}
