package ports

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/tap"
)

// retryInterval is how often a device that could not be opened is tried again,
// beside what the driver reports.
const retryInterval = time.Second

// Reconciler opens and closes devices until the forwarder's ports are those that
// are wanted. Its methods may be called from any goroutine.
type Reconciler struct {
	forwarder *forwarder.Forwarder
	driver    Driver
	log       *slog.Logger

	mu   sync.Mutex // serialises everything that opens and closes
	have map[uint16]*attached
}

// attached is a wanted port: its device, or why it has none.
type attached struct {
	spec *Spec
	dev  port.Device // nil: lost
	err  error       // why
}

// NewReconciler returns a reconciler without ports.
func NewReconciler(f *forwarder.Forwarder, d Driver, log *slog.Logger) *Reconciler {
	return &Reconciler{forwarder: f, driver: d, log: log, have: map[uint16]*attached{}}
}

// Withdraw takes away the ports that are not wanted any more. It comes before a
// snapshot is published: an index that goes to another interface must not lead to
// the former one's device for a moment.
func (r *Reconciler) Withdraw(want []*Spec) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.withdraw(want)
}

func (r *Reconciler) withdraw(want []*Spec) {
	for index, a := range r.have {
		if int(index) < len(want) && want[index] != nil && sameDevice(want[index], a.spec) {
			continue
		}
		r.close(a)
		if r.driver.Forget != nil && a.spec.Uplink == nil {
			r.driver.Forget(a.spec.Tap.Name)
		}
		delete(r.have, index)
	}
}

// Set makes the wanted ports, by index, those of the forwarder. A device that
// cannot be opened is no error: the port is lost until it can be.
func (r *Reconciler) Set(want []*Spec) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.withdraw(want)
	for index, spec := range want {
		if spec == nil {
			continue
		}
		a := r.have[uint16(index)]
		switch {
		case a == nil:
			a = &attached{spec: spec}
			r.have[uint16(index)] = a
			r.open(a)
		case a.spec == spec:
		case a.dev == nil:
			a.spec = spec
			r.open(a)
		default:
			r.update(a, spec)
		}
	}
}

// open attaches a port's device.
func (r *Reconciler) open(a *attached) {
	dev, err := r.device(a.spec)
	name, netns := a.spec.device()
	if err == nil {
		if err = r.forwarder.Attach(a.spec.Port, dev); err != nil {
			err = errors.Join(err, dev.Close())
		}
	}
	if err != nil {
		if a.err == nil || a.err.Error() != err.Error() {
			r.log.Warn("port has no device", "interface", a.spec.Name, "device", name, "netns", netns, "error", err)
		}
		a.err = err
		return
	}
	a.dev, a.err = dev, nil
	r.log.Info("port attached", "interface", a.spec.Name, "port", a.spec.Port, "device", name, "netns", netns)
}

// device opens the device that a spec asks for.
func (r *Reconciler) device(s *Spec) (port.Device, error) {
	if s.Uplink != nil && r.driver.Uplink != nil {
		return r.driver.Uplink(*s.Uplink)
	}
	return r.driver.Open(*s)
}

// sameDevice reports whether two specs are about one device, whatever it looks like.
func sameDevice(a, b *Spec) bool {
	nameA, _ := a.device()
	nameB, _ := b.device()
	return nameA == nameB && (a.Uplink == nil) == (b.Uplink == nil)
}

// close takes a port's device away.
func (r *Reconciler) close(a *attached) {
	if a.dev == nil {
		return
	}
	r.forwarder.Detach(a.spec.Port)
	if err := a.dev.Close(); err != nil {
		r.log.Warn("device did not close", "interface", a.spec.Name, "error", err)
	}
	a.dev = nil
	r.log.Info("port detached", "interface", a.spec.Name, "port", a.spec.Port)
}

// update brings an open device to a changed spec.
func (r *Reconciler) update(a *attached, spec *Spec) {
	old := a.spec
	a.spec = spec
	if old.Equal(spec) {
		return
	}
	err := tap.ErrRecreate
	if old.Existing == spec.Existing && spec.Uplink == nil {
		err = nil
		if r.driver.Update != nil {
			err = r.driver.Update(a.dev, *spec)
		}
	}
	switch {
	case err == nil:
		a.err = nil
	case errors.Is(err, tap.ErrRecreate), errors.Is(err, port.ErrGone):
		a.spec = old
		r.close(a)
		a.spec = spec
		r.open(a)
	default:
		a.err = fmt.Errorf("the device keeps its former settings: %w", err)
		r.log.Warn("device could not be changed", "interface", spec.Name, "error", err)
	}
}

// Run takes up devices that vanish and return until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	if r.driver.Watch != nil {
		wg.Go(func() { r.driver.Watch(ctx, r.changed) })
	}
	tick := time.NewTicker(retryInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			wg.Wait()
			return nil
		case <-tick.C:
			r.retry()
		}
	}
}

// changed is told by the driver that a device went or came.
func (r *Reconciler) changed(device string, gone bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.have {
		if a.spec.Uplink != nil || a.spec.Tap.Name != device {
			continue
		}
		if gone {
			r.close(a)
			a.err = errors.New("the device is gone; it is picked up again when it returns")
		}
		if a.dev == nil {
			r.open(a)
		}
	}
}

// LinkChanged closes the device of a port whose link went or is another one now, and
// opens what is there.
func (r *Reconciler) LinkChanged(index uint16) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.have[index]; a != nil {
		r.close(a)
		r.open(a)
	}
}

// Attached returns the wanted port of an interface, nil if there is none, after another
// try where its device is lost.
func (r *Reconciler) Attached(name string) *Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.have {
		if a.spec.Name == name {
			if a.dev == nil {
				r.open(a)
			}
			s := r.status(a)
			return &s
		}
	}
	return nil
}

// Missing says why a namespace cannot hold a device; nil: it can, or nobody knows.
func (r *Reconciler) Missing(netns string) error {
	if r.driver.Missing == nil {
		return nil
	}
	return r.driver.Missing(netns)
}

// Discard removes what a crash has left of a device that no port has.
func (r *Reconciler) Discard(device, netns string) error {
	if r.driver.Discard == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.have {
		if name, at := a.spec.device(); name == device && at == netns {
			return nil
		}
	}
	return r.driver.Discard(device, netns)
}

// retry tries the lost ports again.
func (r *Reconciler) retry() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.have {
		if a.dev == nil {
			r.open(a)
		}
	}
}

// Close detaches every port. The devices stay for the next process where the
// driver can leave them.
func (r *Reconciler) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for index, a := range r.have {
		if a.dev == nil {
			continue
		}
		r.forwarder.Detach(index)
		release := port.Device.Close
		if r.driver.Release != nil && a.spec.Uplink == nil {
			release = r.driver.Release
		}
		errs = append(errs, release(a.dev))
	}
	clear(r.have)
	return errors.Join(errs...)
}

// Status is one wanted port.
type Status struct {
	Spec     *Spec
	Driver   string
	Up       bool
	Reason   string // why it is not up, or what could not be changed
	Queues   int
	Features port.Features
}

// Status returns the wanted ports by index.
func (r *Reconciler) Status() map[uint16]Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make(map[uint16]Status, len(r.have))
	for index, a := range r.have {
		list[index] = r.status(a)
	}
	return list
}

func (r *Reconciler) status(a *attached) Status {
	s := Status{Spec: a.spec, Driver: r.driver.Name, Up: a.dev != nil}
	if a.spec.Uplink != nil && r.driver.Uplink != nil {
		s.Driver = "packet"
	}
	if a.dev != nil {
		s.Queues, s.Features = len(a.dev.Queues()), a.dev.Features()
	}
	if a.err != nil {
		s.Reason = a.err.Error()
	}
	return s
}
