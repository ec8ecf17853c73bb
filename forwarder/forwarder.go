package forwarder

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/nat"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/nexthop"
)

// TickNanos is the length of a session tick in nanoseconds: 100 ms.
const TickNanos = int64(100 * time.Millisecond)

// Config says how large a forwarder is. The zero value is a working default.
type Config struct {
	// Workers is the number of goroutines that move packets; 0 = one for every two
	// processors that Go may use, at least one.
	Workers int
	// Sessions is the capacity of the flow table, default 524288.
	Sessions int
	// AffinityEntries bounds what session affinity remembers, default 65536.
	AffinityEntries int
	// Timeouts are the idle times after which sessions leave; zero fields take
	// the RFC's defaults.
	Timeouts flowtable.Timeouts
	// Clock returns nanoseconds that never go back; nil = the monotonic clock.
	// Tests and replay drive it.
	Clock func() int64
	// Seed keys the hashes of the flow table and of the ports of source translation;
	// zero = random. Only replay sets it.
	Seed [2]uint64
	// FlowMemory, when set, holds the flow table instead of a mapping of its
	// own.
	FlowMemory []byte
	// OnPanic is told of a recovered panic in a worker; nil = ignored. The
	// worker goes on either way.
	OnPanic func(worker int, value any, stack []byte)
}

// Forwarder owns the workers, the flow table and the published snapshot. Its
// methods may be called from any goroutine.
type Forwarder struct {
	flows    *flowtable.Table
	affinity *nexthop.Affinity
	nat      *nat.Table
	snapshot atomic.Pointer[Snapshot]
	workers  []*Worker
	clock    func() int64
	start    int64
	charged  [MaxPorts]atomic.Int32 // sessions by the port that opened them
	ager     *flowtable.Ager
	// neighbors are the hosts on the uplink's link that sessions answer to.
	neighbors neighborTable
	onPanic   func(worker int, value any, stack []byte)

	mu      sync.Mutex // serialises Publish, Attach, Detach and Run
	devices [MaxPorts]port.Device
	epoch   uint32
	running bool
}

// New returns a forwarder that drops everything until a snapshot is published
// and ports are attached.
func New(c Config) (*Forwarder, error) {
	if c.Workers == 0 {
		c.Workers = max(1, runtime.GOMAXPROCS(0)/2) // the workloads need theirs
	}
	if c.Sessions == 0 {
		c.Sessions = 512 << 10
	}
	if c.AffinityEntries == 0 {
		c.AffinityEntries = 64 << 10
	}
	if c.Clock == nil {
		c.Clock = monotonic()
	}
	key := c.key()
	flows, err := flowtable.New(flowtable.Config{Sessions: c.Sessions, Seed: c.Seed, Memory: c.FlowMemory})
	if err != nil {
		return nil, fmt.Errorf("forwarder: flow table of %d sessions: %w", c.Sessions, err)
	}
	f := &Forwarder{
		flows:    flows,
		affinity: nexthop.NewAffinity(c.AffinityEntries),
		nat:      nat.New(key),
		clock:    c.Clock,
		start:    c.Clock(),
		onPanic:  c.OnPanic,
	}
	f.neighbors.key = key[0] ^ key[1]>>1
	f.ager = flowtable.NewAger(flows, c.Timeouts, f.abandoned, func(s *flowtable.Session) { f.ended(s, f.Now()) })
	f.snapshot.Store(emptySnapshot())
	for i := range c.Workers {
		w, err := newWorker(f, i)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		f.workers = append(f.workers, w)
	}
	return f, nil
}

// key returns what keys the hashes of the port table and the neighbors.
func (c *Config) key() [2]uint64 {
	if c.Seed != ([2]uint64{}) {
		return c.Seed
	}
	return [2]uint64{rand.Uint64(), rand.Uint64()}
}

// monotonic returns a clock in nanoseconds since now.
func monotonic() func() int64 {
	base := time.Now()
	return func() int64 { return int64(time.Since(base)) }
}

// ticks turns a clock reading into session time.
func (f *Forwarder) ticks(nanos int64) uint32 { return uint32((nanos - f.start) / TickNanos) }

// Now returns the present session time in ticks of 100 ms since the start.
func (f *Forwarder) Now() uint32 { return f.ticks(f.clock()) }

// Flows returns the flow table, for listings.
func (f *Forwarder) Flows() *flowtable.Table { return f.flows }

// Ager returns what removes idle sessions, for its statistics.
func (f *Forwarder) Ager() *flowtable.Ager { return f.ager }

// Affinity returns the session affinity table, for its statistics.
func (f *Forwarder) Affinity() *nexthop.Affinity { return f.affinity }

// WorkerStats is what one worker has done since the start.
type WorkerStats struct {
	Queues  int // receive queues that it reads now
	Packets uint64
	Batches uint64
	Panics  uint64 // survived
}

// Workers returns each worker's statistics.
func (f *Forwarder) Workers() []WorkerStats {
	stats := make([]WorkerStats, len(f.workers))
	for i, w := range f.workers {
		stats[i] = WorkerStats{
			Queues: int(w.reading.Load()), Packets: w.moved.Load(), Batches: w.batches.Load(), Panics: w.panics.Load(),
		}
	}
	return stats
}

// Snapshot returns the published snapshot. It must not be changed.
func (f *Forwarder) Snapshot() *Snapshot { return f.snapshot.Load() }

// Publish makes a snapshot the one that packets see, as a whole: a packet sees
// the old state or the new, never a mix. When it returns no worker uses an
// older snapshot any more. It sets the snapshot's epoch; after Publish the
// snapshot must not change. Sessions are decided again, one by one,
// when their next packet comes.
func (f *Forwarder) Publish(s *Snapshot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.epoch = f.epoch%flowtable.EpochMask + 1
	s.Epoch = f.epoch
	s.index(f.snapshot.Load())
	sources := s.SNAT.addresses()
	f.nat.Serve(sources, s.SNAT.Ports)
	f.snapshot.Store(s)
	f.ager.SetEpoch(s.Epoch)
	for _, w := range f.workers {
		w.pass()
	}
	f.nat.Retire(sources) // no worker asks for others any more
}

// pass waits until the worker has let go of the batch that it has in hand. A
// batch that begins after the snapshot was stored sees the new one.
func (w *Worker) pass() {
	for turn := w.turn.Load(); turn%2 == 1 && w.turn.Load() == turn; {
		time.Sleep(10 * time.Microsecond)
	}
}

// Close frees the flow table and the workers' descriptors. Run must have
// returned and every port must be detached.
func (f *Forwarder) Close() error {
	var errs []error
	for _, w := range f.workers {
		errs = append(errs, w.close())
	}
	f.ager.Close()
	return errors.Join(append(errs, f.flows.Close())...)
}

// Run moves packets until ctx ends. It returns after every worker has stopped.
func (f *Forwarder) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	f.mu.Lock()
	f.running = true
	f.mu.Unlock()
	for _, w := range f.workers {
		wg.Go(w.run)
	}
	wg.Go(func() { f.age(ctx) })
	<-ctx.Done()
	f.mu.Lock() // Attach and Detach hold it while they wait for a worker
	defer f.mu.Unlock()
	for _, w := range f.workers {
		w.stopped.Store(true)
		w.poller.Wake()
	}
	wg.Wait()
	f.running = false
	for _, w := range f.workers {
		w.stopped.Store(false)
	}
	return nil
}

// Age sweep: a full turn of the clock hand takes about a second at the default
// table size.
const (
	sweepInterval = 100 * time.Millisecond
	sweepBudget   = 64 << 10
)

// age removes idle sessions in the background, off the packet path.
func (f *Forwarder) age(ctx context.Context) {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f.ager.Sweep(f.Now(), sweepBudget)
		}
	}
}

// abandoned reports whether the workload that opened a session is gone, or the
// address that it left with, so that the session need not wait for its timeout.
func (f *Forwarder) abandoned(s *flowtable.Session) bool {
	key, snap := s.Key(flowtable.Forward), f.snapshot.Load()
	in := snap.opener(s.Port(), key.VRF)
	return !in.speaks(&key) || snap.SNAT.withdrew(in, s)
}

// Step lets every worker serve all its queues once, in order, in the caller's
// goroutine, and reports whether a packet moved. It is for replay and tests and
// must not run beside Run.
func (f *Forwarder) Step() bool {
	busy := false
	for _, w := range f.workers {
		busy = w.step() || busy
	}
	return busy
}

// Sweep ages sessions once, for callers that drive the clock themselves.
func (f *Forwarder) Sweep() { f.ager.Sweep(f.Now(), f.flows.Capacity()) }

// emptySnapshot is the state before the first Publish: no ports, no routes.
func emptySnapshot() *Snapshot {
	return &Snapshot{}
}

// PortCounters returns a port's totals over all workers.
func (f *Forwarder) PortCounters(index uint16) PortCounters {
	var total PortCounters
	for _, w := range f.workers {
		if c := w.counters[index].Load(); c != nil {
			c.add(&total)
		}
	}
	return total
}

// Charged returns how many sessions a port holds as initiator.
func (f *Forwarder) Charged(index uint16) int { return int(f.charged[index].Load()) }

// Panics returns how many panics workers have survived.
func (f *Forwarder) Panics() uint64 {
	var n uint64
	for _, w := range f.workers {
		n += w.panics.Load()
	}
	return n
}
