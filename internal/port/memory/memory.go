// Package memory is a port that lives in memory, for tests, replay and bench: the
// forwarder sees a port.Device, its owner puts frames in with Inject and takes
// what the forwarder sent with Drain. Same calls in the same order, same result.
package memory

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/vrouter-go/vrouter/internal/port"
)

// Config says what a Device is like.
type Config struct {
	Name     string
	Queues   int           // 1 or more; 0 is 1
	Depth    int           // frames that each queue holds each way; 0 is 1024; rounded up to a power of two
	Features port.Features // Write refuses frames that these do not cover, as a TAP does
	Poll     bool          // give each queue an eventfd (Linux), so that a worker can sleep on it
}

// Device is the in-memory port.Device. Inject, Drain, Fail and Close may be
// called from any goroutine.
type Device struct {
	name     string
	features port.Features
	queues   []port.Queue
}

// New returns a Device.
func New(c Config) (*Device, error) {
	depth := 1
	for depth < max(c.Depth, 1) {
		depth *= 2
	}
	if c.Depth == 0 {
		depth = 1024
	}
	d := &Device{name: c.Name, features: c.Features}
	for range max(c.Queues, 1) {
		q := &queue{features: c.Features, in: newRing(depth), out: newRing(depth)}
		if c.Poll {
			var err error
			if q.event, err = newEvent(); err != nil {
				d.Close()
				return nil, fmt.Errorf("memory port %s: %w", c.Name, err)
			}
		}
		d.queues = append(d.queues, q)
	}
	return d, nil
}

// Name implements port.Device.
func (d *Device) Name() string { return d.name }

// Features implements port.Device.
func (d *Device) Features() port.Features { return d.features }

// Queues implements port.Device.
func (d *Device) Queues() []port.Queue { return d.queues }

// Inject copies frames, with their Offload and Time, into what queue i will read
// and returns how many there was room for.
func (d *Device) Inject(i int, frames ...*port.Frame) int {
	q := d.queues[i].(*queue)
	q.control.Lock()
	defer q.control.Unlock()
	n := 0
	for n < len(frames) && q.in.push(frames[n]) {
		n++
	}
	if n > 0 {
		q.event.raise()
	}
	return n
}

// Drain copies the oldest frames that the forwarder wrote to queue i into frames
// and returns how many there were.
func (d *Device) Drain(i int, frames []*port.Frame) int {
	q := d.queues[i].(*queue)
	q.control.Lock()
	defer q.control.Unlock()
	return q.out.popAll(frames)
}

// Fail makes the device behave as one that was deleted: Read answers
// port.ErrGone, Write loses its frames with port.LostDown.
func (d *Device) Fail() {
	for _, q := range d.queues {
		q.(*queue).gone.Store(true)
		q.(*queue).event.raise()
	}
}

// Close implements port.Device.
func (d *Device) Close() error {
	for _, q := range d.queues {
		q.(*queue).gone.Store(true)
		q.(*queue).event.close()
	}
	return nil
}

// queue is two bounded rings, each with one user at each end: control sees to
// that on the owner's side, writers on the forwarder's.
type queue struct {
	features port.Features
	in, out  *ring
	event    *event // nil: not pollable
	gone     atomic.Bool
	control  sync.Mutex
	writers  sync.Mutex // a ring has one producer, and workers may share a queue
}

// FD implements port.Queue.
func (q *queue) FD() int { return q.event.fd() }

// Read implements port.Queue.
func (q *queue) Read(frames []*port.Frame) (int, error) {
	n := q.in.popAll(frames)
	if n < len(frames) {
		n += q.again(frames[n:])
	}
	if n == 0 && q.gone.Load() {
		q.event.raise() // as a deleted TAP, it polls readable until it is removed
		return 0, port.ErrGone
	}
	return n, nil
}

// again lowers the event of a ring that was empty and looks once more, for frames
// injected in between. It raises the event again where there may be more of these than
// it takes: nobody else would.
func (q *queue) again(frames []*port.Frame) int {
	if !q.event.lower() {
		return 0
	}
	n := q.in.popAll(frames)
	if n == len(frames) {
		q.event.raise()
	}
	return n
}

// Write implements port.Queue.
func (q *queue) Write(frames []*port.Frame) {
	gone := q.gone.Load()
	q.writers.Lock()
	defer q.writers.Unlock()
	for _, f := range frames {
		switch {
		case gone:
			f.Lost = port.LostDown
		case f.Len() < ethHdrLen || !q.features.Accepts(f.Offload):
			f.Lost = port.LostRejected
		case !q.out.push(f):
			f.Lost = port.LostFull
		default:
			f.Lost = port.Sent
		}
	}
}

const ethHdrLen = 14
