package bench

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/port"
)

const (
	// maxTeam is how many workers are compared with one.
	maxTeam = 2
	// laneQueues is how many queues each worker reads. Each is always readable,
	// so a worker asks the kernel once for as many batches.
	laneQueues = 16
	// laneFirst is how far apart the fresh flows of two workers are.
	laneFirst = 1 << 30
)

// team is a forwarder whose workers run, as in the daemon, each with a generator
// of its own flows.
type team struct {
	fwd   *forwarder.Forwarder
	lanes []*lane
	fds   []int
}

// lane is what one worker reads, and how long it took. Its fields belong to the
// worker while the forwarder runs.
type lane struct {
	gen          generator
	processor    int
	unpin        func()
	began, ended int64 // CPU time of the worker's thread
	done         chan struct{}
}

// laneQueue is a queue of a lane, with a descriptor to poll.
type laneQueue struct {
	*lane
	sink
	fd int
}

// FD implements port.Queue.
func (q *laneQueue) FD() int { return q.fd }

// Read implements port.Queue. The time begins with the first packet and ends when
// the worker, having carried the last, asks for more.
func (q *laneQueue) Read(frames []*port.Frame) (int, error) {
	l := q.lane
	if l.unpin == nil {
		l.unpin = pin(l.processor)
		l.began = cpuTime()
	}
	n, err := l.gen.Read(frames)
	if n == 0 && l.ended == 0 {
		l.ended = cpuTime()
		l.unpin()
		close(l.done)
	}
	return n, err
}

// newTeam returns a running world of so many workers. Each has as many standing
// sessions as the world says.
func newTeam(w world, workers int) (*team, error) {
	snap, err := w.snapshot()
	if err != nil {
		return nil, err
	}
	fwd, err := forwarder.New(forwarder.Config{Workers: workers, Sessions: maxTeam * w.tableSize()})
	if err != nil {
		return nil, err
	}
	t := &team{fwd: fwd}
	fwd.Publish(snap)
	for i := range workers {
		t.lanes = append(t.lanes, &lane{gen: generator{random: uint64(i)}, processor: i})
	}
	var client device
	for i := range workers * laneQueues {
		fd, err := unix.Eventfd(1, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			return nil, errors.Join(err, t.close())
		}
		t.fds = append(t.fds, fd)
		// Forwarder.Attach deals queues to workers in turn.
		client = append(client, &laneQueue{lane: t.lanes[i%workers], fd: fd})
	}
	err = fwd.Attach(clientPort, client)
	for i := range w.members {
		err = errors.Join(err, fwd.Attach(firstMember+uint16(i), device{&sink{}}))
	}
	if err == nil {
		_, err = t.send(w.traffic(w.standing), w.sessions, 0, func(i int) uint32 { return uint32(i * w.sessions) })
	}
	if live := fwd.Flows().Live(); err == nil && live != workers*w.sessions {
		err = fmt.Errorf("%d of %d sessions opened", live, workers*w.sessions)
	}
	if err != nil {
		return nil, errors.Join(err, t.close())
	}
	return t, nil
}

// send has every worker carry n packets, from its own first flow on, and returns
// how many they carry in a second of CPU time, together.
func (t *team) send(tr traffic, n int, flows uint32, first func(lane int) uint32) (float64, error) {
	for i, l := range t.lanes {
		l.gen.load(tr, n, flows, first(i))
		l.unpin, l.ended, l.done = nil, 0, make(chan struct{})
	}
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- t.fwd.Run(ctx) }()
	for _, l := range t.lanes {
		<-l.done
	}
	stop()
	if err := <-ran; err != nil {
		return 0, err
	}
	for reason, dropped := range t.fwd.PortCounters(clientPort).Drops {
		if dropped != 0 {
			return 0, fmt.Errorf("%d packets were dropped as %v", dropped, forwarder.DropReason(reason))
		}
	}
	rate := 0.0
	for _, l := range t.lanes {
		rate += float64(n) * 1e9 / float64(l.ended-l.began)
	}
	return rate, nil
}

// close frees the forwarder and the descriptors.
func (t *team) close() error {
	for i := range uint16(forwarder.MaxPorts) {
		t.fwd.Detach(i)
	}
	for _, fd := range t.fds {
		_ = unix.Close(fd) // nothing was written to it
	}
	return t.fwd.Close()
}

// team returns the rig's forwarder with so many workers.
func (r *rig) team(workers int) (*team, error) {
	if r.teams[workers] == nil {
		t, err := newTeam(r.world, workers)
		if err != nil {
			return nil, err
		}
		r.teams[workers] = t
	}
	return r.teams[workers], nil
}

// together compares maxTeam workers with one, each with n packets of standing
// sessions or with n that open one.
func together(fresh bool) func(*rig, int) (sample, error) {
	return func(r *rig, n int) (s sample, err error) {
		rates := [maxTeam + 1]float64{}
		for _, workers := range [...]int{1, maxTeam} {
			t, err := r.team(workers)
			if err != nil {
				return s, err
			}
			if fresh {
				rates[workers], err = t.open(r.world, min(n, freshSessions), r.opened)
			} else {
				rates[workers], err = t.send(r.traffic(r.standing), 4*n, uint32(r.sessions), func(i int) uint32 { return uint32(i * r.sessions) })
			}
			if err != nil {
				return s, err
			}
		}
		r.opened += uint32(n)
		return sample{value: rates[maxTeam] / 1e6, peer: rates[1] / 1e6}, nil
	}
}

// open has every worker open n sessions, and removes them.
func (t *team) open(w world, n int, first uint32) (float64, error) {
	rate, err := t.send(w.traffic(toService).fresh(), n, 0, func(i int) uint32 { return uint32(i)*laneFirst + first })
	if err == nil {
		_, err = remove(t.fwd.Flows(), len(t.lanes)*w.sessions)
	}
	return rate, err
}
