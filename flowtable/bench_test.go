package flowtable

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

const (
	benchBatch = 64
	benchKeys  = 1 << 20 // packets, their flows uniformly random
	benchRound = 1 << 13
)

// rounds repeats a short round of so many packets and reports the shortest and
// the median time of a packet. On a machine that others use too, the shortest is
// what the code costs; a round is over before the scheduler takes the core away.
func rounds(b *testing.B, packets int, round func()) {
	var times []time.Duration
	for b.Loop() {
		start := time.Now()
		round()
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	per := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / float64(packets) }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(per(times[0]), "best-ns/packet")
	b.ReportMetric(per(times[len(times)/2]), "median-ns/packet")
}

// benchTable returns a table of n live sessions, all it can hold.
func benchTable(b *testing.B, n int) *Table {
	b.Helper()
	t, err := New(Config{Sessions: n, Seed: [2]uint64{1, 2}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = t.Close() })
	for i := range n {
		open(b, t, flow(i))
	}
	return t
}

// traffic returns the keys of a run's packets, both directions.
func traffic(t *Table, seed uint64) []Key {
	rng := rand.New(rand.NewPCG(seed, 4))
	keys := make([]Key, benchKeys)
	for i := range keys {
		r := t.find(flow(rng.IntN(t.Capacity())))
		keys[i] = t.Session(r).Key(Direction(rng.IntN(2)))
	}
	return keys
}

// BenchmarkHit is what the flow table costs a packet of a live session: hash,
// lookup, last seen, counters, decision. One at a time; after a batch's Touch;
// after the prefetch.
func BenchmarkHit(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000, 10_000_000} {
		t := benchTable(b, n)
		keys := traffic(t, 3)
		for name, hit := range map[string]func(*Table, []Key, int) uint64{
			"single": hitSingle, "touch": hitTouch, "prefetch": hitPrefetch,
		} {
			b.Run(name+"/"+strconv.Itoa(n), func(b *testing.B) {
				at := 0
				rounds(b, benchRound, func() {
					hit(t, keys[at:at+benchRound], benchRound)
					at = (at + benchRound) % benchKeys
				})
			})
		}
	}
}

// used is the part of a hit that follows the lookup.
func used(t *Table, r Ref) uint64 {
	s := t.Session(r)
	s.Seen(1)
	s.Count(r.Direction(), 64, 1)
	return uint64(s.Decision().NextHop(r.Direction()))
}

func hitSingle(t *Table, keys []Key, n int) (sum uint64) {
	for i := range n {
		k := &keys[i+int(sum)] // sum is 0: the next lookup waits for this one
		sum += used(t, t.Lookup(k, t.Hash(k)))
	}
	return sum
}

func hitTouch(t *Table, keys []Key, n int) (sum uint64) {
	var hashes [benchBatch]uint64
	for i := 0; i < n; i += benchBatch {
		batch := keys[i:][:benchBatch]
		for j := range batch {
			hashes[j] = t.Hash(&batch[j])
			sum += t.Touch(hashes[j])
		}
		for j := range batch {
			sum += used(t, t.Lookup(&batch[j], hashes[j]))
		}
	}
	return sum
}

func hitPrefetch(t *Table, keys []Key, n int) (sum uint64) {
	var hashes [benchBatch]uint64
	var hints [benchBatch]Ref
	for i := 0; i < n; i += benchBatch {
		batch := keys[i:][:benchBatch]
		for j := range batch {
			hashes[j] = t.Hash(&batch[j])
		}
		t.PrefetchBuckets(hashes[:])
		t.PrefetchSessions(hashes[:PrefetchAhead], hints[:], false)
		for j := range batch {
			if from := j + PrefetchAhead; j%PrefetchStride == 0 && from < benchBatch {
				t.PrefetchSessions(hashes[from:from+PrefetchStride], hints[from:], false)
			}
			sum += used(t, t.LookupHint(&batch[j], hashes[j], hints[j]))
		}
	}
	return sum
}

// BenchmarkSetUp opens one session and removes another, two keys each, in a
// table that is half full; the control work of reclaiming is included.
func BenchmarkSetUp(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			t, err := New(Config{Sessions: n, Seed: [2]uint64{1, 2}})
			if err != nil {
				b.Fatal(err)
			}
			defer t.Close()
			c := newChurn(t, n/2, 0)
			c.run(n) // past the first use of every record
			rounds(b, benchRound/8, func() { c.run(benchRound / 8) })
		})
	}
}

// churn keeps a fixed number of sessions live, replacing the oldest.
type churn struct {
	table  *Table
	reader *Reader
	live   []Ref
	at     int
	flow   int
}

func newChurn(t *Table, live, firstFlow int) *churn {
	c := &churn{table: t, reader: t.NewReader(), live: make([]Ref, live), flow: firstFlow}
	c.reader.Offline()
	return c
}

func (c *churn) run(n int) {
	c.reader.Online()
	for i := range n {
		r := c.reader.Alloc()
		k := flow(c.flow)
		c.table.Session(r).SetKeys(k, k.Reverse())
		if got, _ := c.reader.Insert(r); got != Inserted {
			panic("flowtable: no room for a session in a half-full table")
		}
		if old := c.live[c.at]; old != 0 {
			c.reader.Remove(old)
		}
		c.live[c.at] = r
		c.at = (c.at + 1) % len(c.live)
		c.flow++
		if i%benchBatch == 0 {
			c.reader.Quiesce()
			if c.flow < 1<<30 { // one of the workers is the control goroutine as well
				c.table.Reclaim(4 * benchBatch)
			}
		}
	}
	c.reader.Offline()
}

// BenchmarkWorkers is BenchmarkHit and BenchmarkSetUp by one worker and by two
// at once on one table; the time is that of all their packets together, so two
// workers that do not hinder each other halve it.
func BenchmarkWorkers(b *testing.B) {
	t := benchTable(b, 1_000_000)
	keys := traffic(t, 3)
	setup, err := New(Config{Sessions: 1_000_000, Seed: [2]uint64{1, 2}})
	if err != nil {
		b.Fatal(err)
	}
	defer setup.Close()
	churns := [2]*churn{newChurn(setup, 100_000, 0), newChurn(setup, 100_000, 1<<30)}
	at := [2]int{0, benchKeys / 2}
	for name, work := range map[string]func(worker, n int){
		"hit": func(worker, n int) {
			hitPrefetch(t, keys[at[worker]:], n)
			at[worker] = (at[worker] + n) % benchKeys
		},
		"setup": func(worker, n int) { churns[worker].run(n) },
	} {
		for _, workers := range []int{1, 2} {
			b.Run(name+"/"+strconv.Itoa(workers), func(b *testing.B) {
				// The second worker spins between rounds: waking it would take as
				// long as a good part of one.
				var asked, done atomic.Int64
				stop := make(chan struct{})
				if workers == 2 {
					go func() {
						defer close(stop)
						for next := int64(1); ; next++ {
							for asked.Load() < next {
								if asked.Load() < 0 {
									return
								}
							}
							work(1, benchRound)
							done.Store(next)
						}
					}()
				}
				rounds(b, workers*benchRound, func() {
					next := asked.Add(1)
					work(0, benchRound)
					for workers == 2 && done.Load() < next {
					}
				})
				if asked.Store(-1); workers == 2 {
					<-stop
				}
			})
		}
	}
}

// BenchmarkTrackTCP follows a data segment and its acknowledgement.
func BenchmarkTrackTCP(b *testing.B) {
	t := benchTable(b, 1)
	s := t.Session(t.find(flow(0)))
	s.TrackTCP(Forward, 99, 0, 65535, flagSYN, 0, nil)
	s.TrackTCP(Reply, 999, 100, 65535, flagSYN|flagACK, 0, nil)
	s.TrackTCP(Forward, 100, 1000, 65535, flagACK, 0, nil)
	next := uint32(100)
	rounds(b, 2*benchRound, func() {
		for range benchRound {
			s.TrackTCP(Forward, next, 1000, 65535, flagACK, 1000, nil)
			next += 1000
			s.TrackTCP(Reply, 1000, next, 65535, flagACK, 0, nil)
		}
	})
	if s.State() != TCPEstablished {
		b.Fatal(s.State())
	}
}

// BenchmarkSweep passes one record that stays.
func BenchmarkSweep(b *testing.B) {
	t := benchTable(b, 1_000_000)
	a := NewAger(t, Timeouts{}, nil, nil)
	defer a.Close()
	rounds(b, benchRound, func() { a.Sweep(1, benchRound) })
}
