package bench

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/port"
)

const (
	// freshSessions is how many sessions a round opens at most, beside those that
	// stand.
	freshSessions = 1 << 17
	// queues is how many receive queues the client has, all of one generator: a
	// step of the forwarder serves each once, so that what a step does besides
	// hardly counts.
	queues = 64
)

// rig is a forwarder in a world, with a client that sends what a figure wants and
// members that take everything. It belongs to one goroutine, whose thread is the
// worker.
type rig struct {
	world
	fwd    *forwarder.Forwarder
	snap   *forwarder.Snapshot
	gen    *generator
	frames []*port.Frame // for the floor
	opened uint32        // flows of fresh sessions so far
	teams  [maxTeam + 1]*team
	kept   uint64 // what stages computed, so that they must compute it
}

// tableSize is the capacity of a world's flow table: a sixteenth more than the
// standing sessions and what a round opens.
func (w world) tableSize() int { return w.sessions + freshSessions + (w.sessions+freshSessions)/16 }

// memory is about what a rig takes, in bytes.
func (w world) memory() int {
	const frames, route, floatingIP, member = 64 << 20, 300, 1500, 64
	return flowtable.MemorySize(w.tableSize()) + frames + w.routes*route + w.floating*(floatingIP+w.members*member)
}

// reserve is the memory in bytes that a measurement leaves to others.
const reserve = 256 << 20

// fits reports whether there is memory for a rig, and how much there is.
func (w world) fits() (free int, ok bool) {
	free = kilobytes("/proc/meminfo", "MemAvailable")
	return free, free == 0 || w.memory()+reserve <= free
}

// newRig builds a world, its defaults filled in, and opens its standing sessions.
func newRig(w world) (*rig, error) {
	r := &rig{world: w, gen: &generator{random: 1}, frames: port.NewFrames(port.BatchSize)}
	var err error
	if r.snap, err = w.snapshot(); err != nil {
		return nil, err
	}
	if r.fwd, err = forwarder.New(forwarder.Config{Workers: 1, Sessions: w.tableSize()}); err != nil {
		return nil, err
	}
	r.fwd.Publish(r.snap)
	client := make(device, queues)
	for i := range client {
		client[i] = r.gen
	}
	err = r.fwd.Attach(clientPort, client)
	for i := range w.members {
		err = errors.Join(err, r.fwd.Attach(firstMember+uint16(i), device{&sink{}}))
	}
	if err == nil && w.sessions > 0 {
		_, err = r.send(w.traffic(w.standing), w.sessions, 0, 0, forwarder.DropUnknown)
	}
	if live := r.fwd.Flows().Live(); err == nil && live != w.sessions {
		err = fmt.Errorf("%d of %d sessions opened", live, w.sessions)
	}
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

// close frees the forwarder.
func (r *rig) close() error {
	r.fwd.Detach(clientPort)
	for i := range r.members {
		r.fwd.Detach(firstMember + uint16(i))
	}
	errs := []error{r.fwd.Close()}
	for _, t := range r.teams {
		if t != nil {
			errs = append(errs, t.close())
		}
	}
	return errors.Join(errs...)
}

// hugePages is about the share of the flow table that lies in huge pages. Where
// that is little, a hit on a large table costs several times as much.
func (r *rig) hugePages() float64 {
	huge := kilobytes("/proc/self/smaps_rollup", "AnonHugePages")
	return min(1, float64(huge)/float64(r.fwd.Flows().Memory()))
}

// send carries n packets through the forwarder and returns what one took, in
// nanoseconds of CPU time, the generator included. Every packet must end the same
// way; with DropUnknown that is to be forwarded.
func (r *rig) send(t traffic, n int, flows, first uint32, want forwarder.DropReason) (float64, error) {
	before := r.fwd.PortCounters(clientPort)
	r.gen.load(t, n, flows, first)
	start := cpuTime()
	for r.gen.left > 0 {
		if !r.fwd.Step() {
			return 0, errors.New("the forwarder reads no packets")
		}
	}
	took := cpuTime() - start
	after := r.fwd.PortCounters(clientPort)
	if got := after.RxPackets - before.RxPackets; got != uint64(n) {
		return 0, fmt.Errorf("%d of %d packets arrived", got, n)
	}
	for i := range after.Drops {
		expected := uint64(0)
		if reason := forwarder.DropReason(i); reason == want && want != forwarder.DropUnknown {
			expected = uint64(n)
		}
		if dropped := after.Drops[i] - before.Drops[i]; dropped != expected {
			return 0, fmt.Errorf("%d of %d packets were dropped as %v; want %d", dropped, n, forwarder.DropReason(i), expected)
		}
	}
	return float64(took) / float64(n), nil
}

// floor returns what the generator and the sink take for a packet.
func (r *rig) floor(t traffic, n int, flows, first uint32) float64 {
	r.gen.load(t, n, flows, first)
	var q port.Queue = r.gen // called as the forwarder calls it
	start := cpuTime()
	for r.gen.left > 0 {
		got, _ := q.Read(r.frames) // never fails
		q.Write(r.frames[:got])
	}
	return float64(cpuTime()-start) / float64(n)
}

// remove ends the fresh sessions of a table and makes their records usable again.
// The standing ones came first, so the others are behind them, but for the few
// records that workers kept in hand. It returns the nanoseconds of CPU time for
// each.
func remove(flows *flowtable.Table, standing int) (float64, error) {
	const inHand = 1024
	reader := flows.NewReader()
	defer reader.Close()
	removed := 0
	start := cpuTime()
	flows.Range(uint32(max(standing-inHand, 0)), flows.Capacity(), func(ref flowtable.Ref, s *flowtable.Session) bool {
		source := s.Key(flowtable.Forward).Src
		if binary.BigEndian.Uint32(source[12:]) >= freshSources && reader.Remove(ref) {
			removed++
		}
		return true
	})
	reader.Offline()
	for flows.Reclaim(flows.Capacity()) > 0 {
	}
	took := cpuTime() - start
	if live := flows.Live(); live != standing {
		return 0, fmt.Errorf("%d sessions remain; want the %d standing ones", live, standing)
	}
	return float64(took) / float64(max(removed, 1)), nil
}
