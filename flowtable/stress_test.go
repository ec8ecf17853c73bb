package flowtable

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// The stress test: workers open, find and remove few connections, as often as
// they can, so that they meet in every step. Run with -race.
const (
	stressSessions    = 80 // with what four workers keep at hand, too few at times
	stressConnections = 40 // flows; each may be opened from either end
	stressWorkers     = 4
)

// stress is the table and what each worker did to each flow.
type stress struct {
	table    *Table
	inserted [stressConnections]atomic.Int64
	removed  [stressConnections]atomic.Int64
	done     atomic.Bool
}

// mark is what a session of key k must carry: readers check that they never see
// another session's record under their key.
func mark(k Key) uint32 { return uint32(k.SrcPort)<<16 | uint32(k.DstPort) }

// worker opens, finds and removes connections until its steps are used up.
func (s *stress) worker(t *testing.T, seed uint64, steps int) {
	rng := rand.New(rand.NewPCG(seed, 1))
	reader := s.table.NewReader()
	defer reader.Close()
	for range steps {
		i := rng.IntN(stressConnections)
		k := flow(i)
		if rng.IntN(2) == 0 {
			k = k.Reverse()
		}
		r := s.table.find(k)
		if r == 0 {
			r = s.open(t, reader, i, k, rng)
		}
		if r != 0 {
			s.use(t, r, k)
			if rng.IntN(4) == 0 && s.remove(reader, r, rng) {
				s.removed[i].Add(1)
			}
		}
		switch rng.IntN(20) {
		case 0:
			reader.Offline()
			runtime.Gosched()
			reader.Online()
		default:
			reader.Quiesce()
		}
	}
}

// open sets up a session for key k of flow i. From the flow's own end it may try
// a reply port that clashes with other flows before it takes the flow's own, as
// NAT does; the other end then finds its way barred, and gives up.
func (s *stress) open(t *testing.T, reader *Reader, i int, k Key, rng *rand.Rand) Ref {
	r := reader.Alloc()
	if r == 0 {
		return 0 // waiting for readers
	}
	record := s.table.Session(r)
	record.SetMember(mark(k))
	reply := k.Reverse()
	if k == flow(i) && rng.IntN(2) == 0 {
		reply.DstPort = uint16(20_000 + i%3)
	}
	for {
		record.SetKeys(k, reply)
		switch got, other := reader.Insert(r); got {
		case Inserted:
			s.inserted[i].Add(1)
			return r
		case Exists:
			reader.Free(r)
			return other
		case Conflict:
			if reply == k.Reverse() {
				reader.Free(r)
				return 0
			}
			reply = k.Reverse()
		default:
			t.Errorf("Insert = %d", got)
			reader.Free(r)
			return 0
		}
	}
}

// remove removes by the worker's reader or by the table, as a control goroutine does.
func (s *stress) remove(reader *Reader, r Ref, rng *rand.Rand) bool {
	if rng.IntN(2) == 0 {
		return s.table.Remove(r)
	}
	return reader.Remove(r)
}

// use checks and writes what a packet of key k does to its session.
func (s *stress) use(t *testing.T, r Ref, k Key) {
	record := s.table.Session(r)
	forward := record.Key(Forward)
	if record.Key(r.Direction()) != k || record.Member() != mark(forward) {
		t.Errorf("%v led to a session of %v marked %#x", k, forward, record.Member())
	}
	record.Seen(1)
	record.Count(r.Direction(), 100, 1)
	record.TrackTCP(r.Direction(), 1, 1, 1, flagACK, 1, nil)
}

// control reclaims, ages and lists while the workers run.
func (s *stress) control(t *testing.T) {
	ager := NewAger(s.table, Timeouts{}, nil, func(*Session) { t.Error("a young session expired") })
	defer ager.Close()
	for !s.done.Load() {
		ager.Sweep(2, stressSessions)
		s.table.Range(0, stressSessions, func(_ Ref, record *Session) bool {
			if forward := record.Key(Forward); record.Member() != mark(forward) {
				t.Errorf("listed %v marked %#x", forward, record.Member())
			}
			return true
		})
		runtime.Gosched()
	}
}

// No session is lost, doubled or handed out twice, whoever meets whom.
func TestStress(t *testing.T) {
	s := &stress{table: newTable(t, stressSessions)}
	steps := 30_000
	if testing.Short() {
		steps = 3_000
	}
	var workers, control sync.WaitGroup
	control.Go(func() { s.control(t) })
	for w := range stressWorkers {
		workers.Go(func() { s.worker(t, uint64(w), steps) })
	}
	workers.Wait()
	s.done.Store(true)
	control.Wait()

	live := 0
	for i := range stressConnections {
		r, back := s.table.find(flow(i)), s.table.find(flow(i).Reverse())
		balance := s.inserted[i].Load() - s.removed[i].Load()
		if present := r != 0 || back != 0; balance != 0 && balance != 1 || present != (balance == 1) {
			t.Errorf("flow %d: inserted %d, removed %d, found %d and %d", i, s.inserted[i].Load(), s.removed[i].Load(), r, back)
		}
		live += int(balance)
	}
	if slots, _ := indexUse(s.table); s.table.Live() != live || slots != 2*live {
		t.Errorf("%d live, table says %d, %d slots in use", live, s.table.Live(), slots)
	}
	s.drain(t)
}

// drain removes everything and expects every record back.
func (s *stress) drain(t *testing.T) {
	s.table.Range(0, stressSessions, func(r Ref, _ *Session) bool { return s.table.Remove(r) })
	for s.table.Reclaim(stressSessions) != 0 {
	}
	if slots, further := indexUse(s.table); slots != 0 || further != 0 {
		t.Errorf("empty, but %d slots in use, %d keys in further buckets", slots, further)
	}
	seen := map[Ref]bool{}
	for r := s.table.Alloc(); r != 0; r = s.table.Alloc() {
		if seen[r] {
			t.Fatalf("%d was handed out twice", r)
		}
		seen[r] = true
	}
	if len(seen) != stressSessions {
		t.Errorf("%d of %d records came back", len(seen), stressSessions)
	}
}

// An Insert that meets a session still being inserted under the same key waits
// for it, and then finds it there.
func TestInsertWaitsForTheOther(t *testing.T) {
	table := newTable(t, 10)
	pair := func() (Ref, *Session) {
		r := table.Alloc()
		table.Session(r).SetKeys(flow(1), flow(1).Reverse())
		return r, table.Session(r)
	}
	first, s := pair()
	second, _ := pair()
	forward, reply := s.Key(Forward), s.Key(Reply)
	for _, c := range []claim{table.claimFor(&forward, first), table.claimFor(&reply, first|1)} {
		if got, _ := table.claim(&c); got != claimDone { // as far as Insert gets before it is interrupted
			t.Fatal(got)
		}
	}
	type result struct {
		outcome Outcome
		ref     Ref
	}
	done := make(chan result, 1)
	go func() {
		outcome, ref := table.Insert(second)
		done <- result{outcome, ref}
	}()
	for range 1000 {
		runtime.Gosched()
	}
	select {
	case got := <-done:
		t.Fatalf("did not wait: %+v", got)
	default:
	}
	s.attr.Or(attrLive)
	if got := <-done; got != (result{Exists, first}) {
		t.Errorf("got %+v, want Exists, %d", got, first)
	}
}

// Two workers claim the same two keys in the same order, whichever end each
// calls forward; otherwise they could wait for each other for ever.
func TestClaimOrderIsEverybodys(t *testing.T) {
	table := newTable(t, 10)
	for i := range 100 {
		a, b := flow(i), flow(i).Reverse()
		x, y := table.claimFor(&a, 2), table.claimFor(&b, 3)
		u, v := table.claimFor(&b, 4), table.claimFor(&a, 5)
		if x.before(&y) == y.before(&x) || x.before(&y) != v.before(&u) {
			t.Fatalf("flow %d has no order", i)
		}
		if less(&a, &b) == less(&b, &a) || less(&a, &a) {
			t.Fatalf("flow %d: equal hashes would have no order", i)
		}
	}
	a, b := flow(1), flow(1)
	if b.DstPort++; less(&a, &b) == less(&b, &a) {
		t.Error("ports do not count")
	}
}

// The free stack never looks the same twice, so that a worker interrupted in
// Alloc cannot take a record that was used meanwhile.
func TestFreeStackChanges(t *testing.T) {
	table := newTable(t, 2)
	seen := map[uint64]bool{}
	for range 100 {
		a, b := table.Alloc(), table.Alloc()
		table.Free(b)
		table.Free(a)
		if head := table.header.free.Load(); seen[head] {
			t.Fatalf("%#x again", head)
		} else {
			seen[head] = true
		}
	}
}
