//go:build linux

package tap

import (
	"context"
	"sync"
	"time"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// State says what happened to a watched device.
type State uint8

// The states of a watched device.
const (
	Gone State = iota // the device, or the name of its namespace, vanished: Close it
	Back              // Create or Attach can be tried again
)

// String returns "gone" or "back".
func (s State) String() string {
	if s == Gone {
		return "gone"
	}
	return "back"
}

// Event is a change of a watched device. A device alternates between Gone and
// Back.
type Event struct {
	Name, Netns string
	State       State
}

type watched struct {
	Event
	device *Device // nil while gone
	made   bool    // Create makes it anew: its namespace is all that it needs
}

// Watcher looks whether devices are still there, or there again, once a period.
// It polls: a netlink socket inside each guest's namespace would report at once,
// and would keep the namespace alive for ever. The queue of a deleted device says
// port.ErrGone at once; the Watcher also sees namespaces that are gone by name
// while our own descriptors keep them alive. All methods are safe for concurrent
// use.
type Watcher struct {
	period time.Duration
	kick   chan struct{}

	mu    sync.Mutex
	ports map[string]*watched // by name
}

// NewWatcher returns a Watcher that looks every period; 0 means 500 ms.
func NewWatcher(period time.Duration) *Watcher {
	if period <= 0 {
		period = 500 * time.Millisecond
	}
	return &Watcher{period: period, kick: make(chan struct{}, 1), ports: map[string]*watched{}}
}

// Add watches an attached device, in place of an earlier one of its name.
func (w *Watcher) Add(d *Device) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ports[d.name] = &watched{Event{d.name, d.netns, Back}, d, d.made}
}

// AddMissing watches for a device that could not be attached yet. made says that
// Create is to make it, so that its namespace is enough.
func (w *Watcher) AddMissing(name, netns string, made bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ports[name] = &watched{Event{name, netns, Gone}, nil, made}
}

// Remove forgets a device. An event that is on its way may still arrive.
func (w *Watcher) Remove(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.ports, name)
}

// Kick makes the Watcher look now: a worker has seen port.ErrGone.
func (w *Watcher) Kick() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// Run looks until ctx ends and calls report for each event, on its own goroutine.
// report may call the other methods.
func (w *Watcher) Run(ctx context.Context, report func(Event)) {
	tick := time.NewTicker(w.period)
	defer tick.Stop()
	for {
		for _, ev := range w.look() {
			report(ev)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-w.kick:
		}
	}
}

// look checks every device and returns what changed. The checks run outside the
// lock: they make system calls.
func (w *Watcher) look() []Event {
	w.mu.Lock()
	ports := make([]*watched, 0, len(w.ports))
	for _, p := range w.ports {
		ports = append(ports, p)
	}
	w.mu.Unlock()
	var events []Event
	where := identifyOnce()
	for _, p := range ports {
		state := p.now(where)
		if state == p.State {
			continue
		}
		w.mu.Lock()
		if w.ports[p.Name] == p { // not removed or replaced meanwhile
			w.ports[p.Name] = &watched{Event{p.Name, p.Netns, state}, p.device, p.made}
			if state == Gone {
				w.ports[p.Name].device = nil
			}
			events = append(events, w.ports[p.Name].Event)
		}
		w.mu.Unlock()
	}
	return events
}

// now looks at one device. A watched value never changes, so no lock is needed.
func (p *watched) now(where func(netns string) (spaceID, error)) State {
	present := false
	switch {
	case p.device != nil:
		present = p.device.alive(where)
	case p.made:
		h, err := netns.Open(p.Netns)
		if present = err == nil; present {
			h.Close()
		}
	default:
		present = attachable(p.Name, p.Netns)
	}
	if present {
		return Back
	}
	return Gone
}

// identifyOnce returns identify for one look: many devices may share a namespace.
func identifyOnce() func(netns string) (spaceID, error) {
	type answer struct {
		id  spaceID
		err error
	}
	known := map[string]answer{}
	return func(netns string) (spaceID, error) {
		a, ok := known[netns]
		if !ok {
			a.id, a.err = identify(netns)
			known[netns] = a
		}
		return a.id, a.err
	}
}

// attachable reports whether there is a TAP of that name with no other process
// on it.
func attachable(name, netns string) bool {
	sp, err := openSpace(netns)
	if err != nil {
		return false
	}
	defer sp.close()
	link, err := sp.tap(name)
	return err == nil && link.Queues+link.DisabledQueues == 0
}
