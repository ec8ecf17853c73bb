package nexthop

import (
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
)

// DefaultAffinityTimeout is the lifetime of a ClientIP affinity without a new
// connection, in ticks of 100 ms: 10,800 s, as in Kubernetes.
const DefaultAffinityTimeout uint32 = 10_800 * 10

// affinityWays is the number of entries in a bucket.
const affinityWays = 4

// Affinity remembers which member a client of a service was sent to
// (sessionAffinity: ClientIP). It is one flat, pointer-free array of a fixed
// size, allocated up front and never scanned by the garbage collector. Several
// workers may use it at once: each bucket has a lock word, held for a few
// nanoseconds. It is used for new flows only.
//
// The agent gives a service a new id each time its affinity is switched on, so
// entries of before never come back; they run out by themselves.
type Affinity struct {
	buckets   []affinityBucket // a power of two
	seed      uint64           // random per table, so that clients cannot aim at one bucket
	evictions atomic.Uint64
}

// affinityBucket is two cache lines, 128 bytes.
type affinityBucket struct {
	lock    atomic.Uint32 // 1 = held; guards entries
	entries [affinityWays]affinityEntry
	_       [12]byte
}

// affinityEntry is 28 bytes. service 0 marks it empty.
type affinityEntry struct {
	client  [16]byte
	service uint32
	member  uint32
	expires uint32 // tick
}

// NewAffinity returns a table for at least entries clients, rounded up to a
// power of two and at least 4; 32 bytes each.
func NewAffinity(entries int) *Affinity {
	n := 1
	for n*affinityWays < entries {
		n *= 2
	}
	return &Affinity{buckets: make([]affinityBucket, n), seed: rand.Uint64()}
}

// Get returns the member that client was last sent to. False means that there
// is none or that it has run out at tick now. The caller makes sure that the
// member still takes new flows. service is ≥ 1.
func (a *Affinity) Get(client *[16]byte, service, now uint32) (member uint32, ok bool) {
	b := a.lock(client, service)
	for i := range b.entries {
		e := &b.entries[i]
		if e.service == service && e.client == *client && e.live(now) {
			member, ok = e.member, true
			break
		}
	}
	b.lock.Store(0)
	return member, ok
}

// Put remembers member for client until timeout ticks after now; each new
// connection calls it, which refreshes the entry. In a full bucket the entry
// that would run out first gives way, and Evictions counts it. service is ≥ 1;
// timeout is below 2^31 ticks.
func (a *Affinity) Put(client *[16]byte, service, member, now, timeout uint32) {
	b := a.lock(client, service)
	e := b.place(client, service, now)
	evicted := e.live(now) && (e.service != service || e.client != *client)
	*e = affinityEntry{client: *client, service: service, member: member, expires: now + timeout}
	b.lock.Store(0)
	if evicted {
		a.evictions.Add(1)
	}
}

// Evictions is the number of affinities that ended early because their bucket
// was full. If it grows, the table is too small.
func (a *Affinity) Evictions() uint64 { return a.evictions.Load() }

// Bytes is the memory of the table.
func (a *Affinity) Bytes() int { return len(a.buckets) * 128 }

// Live counts the affinities in force at tick now. It walks the whole table, a
// bucket at a time; for status, not for the packet path.
func (a *Affinity) Live(now uint32) (n int) {
	for i := range a.buckets {
		b := &a.buckets[i]
		b.acquire()
		for j := range b.entries {
			if b.entries[j].live(now) {
				n++
			}
		}
		b.lock.Store(0)
	}
	return n
}

// lock finds the bucket of client and service and takes its lock.
func (a *Affinity) lock(client *[16]byte, service uint32) *affinityBucket {
	h := fold(binary.LittleEndian.Uint64(client[:8])^a.seed, binary.LittleEndian.Uint64(client[8:])^ecmpSeed0)
	h = fold(h^uint64(service), a.seed^ecmpSeed1)
	b := &a.buckets[h&uint64(len(a.buckets)-1)]
	b.acquire()
	return b
}

// acquire spins: the holder needs nanoseconds, unless its thread was preempted,
// for which the spinner steps aside.
func (b *affinityBucket) acquire() {
	for spins := 0; !b.lock.CompareAndSwap(0, 1); spins++ {
		if spins > 64 {
			runtime.Gosched()
		}
	}
}

// place returns the entry to write: the client's own, else a free or expired
// one, else the one that would run out first.
func (b *affinityBucket) place(client *[16]byte, service, now uint32) *affinityEntry {
	victim := &b.entries[0]
	for i := range b.entries {
		e := &b.entries[i]
		if e.service == service && e.client == *client {
			return e
		}
		if e.left(now) < victim.left(now) {
			victim = e
		}
	}
	return victim
}

// live reports whether the entry holds an affinity in force at tick now.
func (e *affinityEntry) live(now uint32) bool { return e.left(now) > 0 }

// left is the number of ticks until the entry runs out, ≤ 0 if it has or is
// empty. Ticks wrap after 13 years, so only differences are compared.
func (e *affinityEntry) left(now uint32) int32 {
	if e.service == 0 {
		return 0
	}
	return int32(e.expires - now)
}
