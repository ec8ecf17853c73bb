package ports

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/afpacket"
	"github.com/vrouter-go/vrouter/internal/port/tap"
)

// linkInterval is how often it is looked whether the uplink is still there: nobody
// tells.
const linkInterval = time.Second

// Node returns the driver of a node's devices: its TAPs, as TAP drives them, and its
// uplink, which is attached as it is and given back to the kernel.
func Node(rings *tap.Rings) Driver {
	taps := TAP(rings)
	u := &uplink{}
	d := taps
	d.Open = func(s Spec) (port.Device, error) {
		if s.Uplink != nil {
			return u.open(*s.Uplink)
		}
		return taps.Open(s)
	}
	d.Update = func(dev port.Device, s Spec) error {
		if _, is := dev.(*afpacket.Device); is || s.Uplink != nil {
			return tap.ErrRecreate // its look is the kernel's business; only another device or queues are asked for
		}
		return taps.Update(dev, s)
	}
	d.Watch = func(ctx context.Context, changed func(string, bool)) {
		var wg sync.WaitGroup
		wg.Go(func() { u.watch(ctx, changed) })
		taps.Watch(ctx, changed)
		wg.Wait()
	}
	d.Forget = func(device string) {
		if device != "" { // the uplink's spec names no TAP
			taps.Forget(device)
		}
	}
	d.Release = func(dev port.Device) error {
		if _, is := dev.(*afpacket.Device); is {
			return dev.Close()
		}
		return taps.Release(dev)
	}
	return d
}

// uplink is the one uplink of a node, once it was attached.
type uplink struct {
	mu  sync.Mutex
	dev *afpacket.Device
}

func (u *uplink) open(spec Uplink) (port.Device, error) {
	dev, err := afpacket.Open(afpacket.Spec{Device: spec.Device, Netns: spec.Netns, Queues: spec.Queues})
	if err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.dev = dev
	return dev, nil
}

// watch reports until ctx ends that the uplink has gone. That it has come back shows
// when it can be opened, which is tried from time to time.
func (u *uplink) watch(ctx context.Context, changed func(device string, gone bool)) {
	tick := time.NewTicker(linkInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if u.gone() {
			changed("", true)
		}
	}
}

// gone reports, once for each device, that it is not there any more. One that was
// closed since is gone as well, which the reconciler knows.
func (u *uplink) gone() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.dev == nil {
		return false
	}
	if _, err := u.dev.Link(); !errors.Is(err, port.ErrGone) {
		return false
	}
	u.dev = nil
	return true
}
