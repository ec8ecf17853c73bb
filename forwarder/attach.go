package forwarder

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/vrouter-go/vrouter/internal/port"
)

// workerRequests is how the control path hands work to a worker. The worker
// looks at pending once per loop and takes the lock only when it is set.
type workerRequests struct {
	pending atomic.Bool
	mu      sync.Mutex
	list    []portRequest // guarded by mu
}

// portRequest attaches or detaches a port on one worker. Queues that the worker
// reads are in rx; tx is its own queue for output, nil to detach.
type portRequest struct {
	port     uint16
	rx       []port.Queue
	tx       *txPort
	announce bool
	done     *sync.WaitGroup
}

// ErrPortInUse is returned by Attach for a port index that has a device.
var ErrPortInUse = errors.New("port has a device already")

// Attach gives a port its device. Receive queues are spread over the workers;
// each worker sends on a queue of its own where the device has enough. The port
// must be in the published snapshot for its packets to go anywhere.
func (f *Forwarder) Attach(index uint16, dev port.Device) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if index == 0 || index >= MaxPorts {
		return fmt.Errorf("port %d: index outside 1 to %d", index, MaxPorts-1)
	}
	if f.devices[index] != nil {
		return fmt.Errorf("port %d: %w: %s", index, ErrPortInUse, f.devices[index].Name())
	}
	f.devices[index] = dev
	queues := dev.Queues()
	var done sync.WaitGroup
	for i, w := range f.workers {
		r := portRequest{
			port: index, done: &done, announce: i == 0,
			tx: &txPort{q: queues[i%len(queues)], features: dev.Features()},
		}
		for j, q := range queues {
			if (int(index)+j)%len(f.workers) == i {
				r.rx = append(r.rx, q)
			}
		}
		f.ask(w, r)
	}
	f.await(&done)
	return nil
}

// Detach takes a port's device away and returns it; nil if there was none. When
// it returns no worker uses the device any more, so that it can be closed.
func (f *Forwarder) Detach(index uint16) port.Device {
	f.mu.Lock()
	defer f.mu.Unlock()
	if index >= MaxPorts || f.devices[index] == nil {
		return nil
	}
	dev := f.devices[index]
	f.devices[index] = nil
	var done sync.WaitGroup
	for _, w := range f.workers {
		f.ask(w, portRequest{port: index, done: &done})
	}
	f.await(&done)
	return dev
}

// Device returns the device attached to a port, nil if there is none.
func (f *Forwarder) Device(index uint16) port.Device {
	f.mu.Lock()
	defer f.mu.Unlock()
	if index >= MaxPorts {
		return nil
	}
	return f.devices[index]
}

// ask queues a request for a worker and wakes it.
func (f *Forwarder) ask(w *Worker, r portRequest) {
	r.done.Add(1)
	w.requests.mu.Lock()
	w.requests.list = append(w.requests.list, r)
	w.requests.pending.Store(true)
	w.requests.mu.Unlock()
	w.poller.Wake()
}

// await waits until the workers have served their requests. Without running
// workers the caller serves them.
func (f *Forwarder) await(done *sync.WaitGroup) {
	if !f.running {
		for _, w := range f.workers {
			w.serveRequests()
		}
	}
	done.Wait()
}

// serveRequests carries out what the control path asked for.
func (w *Worker) serveRequests() {
	w.requests.mu.Lock()
	list := w.requests.list
	w.requests.list = nil
	w.requests.pending.Store(false)
	w.requests.mu.Unlock()
	for i := range list {
		r := &list[i]
		w.unplug(r.port)
		if r.tx != nil {
			w.plug(r)
		}
		r.done.Done()
	}
}

// plug takes a port into service.
func (w *Worker) plug(r *portRequest) {
	if w.counters[r.port].Load() == nil {
		w.counters[r.port].Store(new(portCounters))
	}
	w.tx[r.port] = r.tx
	for _, q := range r.rx {
		w.addQueue(rxQueue{q: q, port: r.port})
	}
	if r.announce {
		w.begin()
		w.announce(w.snap, r.port)
		w.flush()
	}
}

// unplug takes a port out of service. What the port's fragments were waiting
// for will not come; they expire like any other.
func (w *Worker) unplug(index uint16) {
	w.flush()
	w.tx[index] = nil
	for token := range w.queues {
		if w.queues[token].q != nil && w.queues[token].port == index {
			w.dropQueue(token)
		}
	}
}
