package ports

import (
	"context"
	"errors"
	"fmt"

	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/afpacket"
	"github.com/vrouter-go/vrouter/internal/port/tap"
)

// TAP returns the driver of real devices: it makes a TAP where it shall be made,
// takes over one that is there, and attaches the uplink by packet sockets. All write through rings, which outlive the
// driver; nil: frame by frame.
func TAP(rings *tap.Rings) Driver {
	watcher := tap.NewWatcher(0)
	return Driver{
		Name: "tap",
		Open: func(s Spec) (port.Device, error) {
			dev, err := openTAP(s)
			if err != nil {
				watcher.AddMissing(s.Tap.Name, s.Tap.Netns, !s.Existing)
				return nil, err
			}
			dev.Batch(rings)
			watcher.Add(dev)
			return &watchedTAP{dev, watcher}, nil
		},
		Uplink: func(u Uplink) (port.Device, error) { return afpacket.Open(afpacket.Spec(u)) },
		Update: func(d port.Device, s Spec) error {
			if s.Existing {
				return nil // its look is its maker's business
			}
			return d.(*watchedTAP).ApplyLink(s.Tap)
		},
		Watch: func(ctx context.Context, changed func(string, bool)) {
			watcher.Run(ctx, func(e tap.Event) { changed(e.Name, e.State == tap.Gone) })
		},
		Forget: watcher.Remove,
		Missing: func(path string) error {
			h, err := netns.Open(path)
			if err != nil {
				return err
			}
			return h.Close()
		},
		Discard: tap.Discard,
		Release: func(d port.Device) error {
			w := d.(*watchedTAP)
			w.watcher.Remove(w.Name())
			return w.Detach()
		},
	}
}

func openTAP(s Spec) (*tap.Device, error) {
	if s.Existing {
		return tap.Attach(s.Tap.Name, s.Tap.Netns, s.Tap.Queues)
	}
	return tap.Create(s.Tap)
}

// watchedTAP is a TAP that the watcher forgets when it is closed.
type watchedTAP struct {
	*tap.Device
	watcher *tap.Watcher
}

// Close implements port.Device.
func (w *watchedTAP) Close() error {
	w.watcher.Remove(w.Name())
	return w.Device.Close()
}

// Memory returns a driver over devices that the caller makes, for tests, replay
// and bench. A name that open does not know leaves its port without a device.
func Memory(name string, open func(Spec) (port.Device, error)) Driver {
	return Driver{Name: name, Open: func(s Spec) (port.Device, error) {
		dev, err := open(s)
		if err == nil && dev == nil {
			return nil, fmt.Errorf("interface %s: %w", s.Name, errNoDevice)
		}
		return dev, err
	}}
}

var errNoDevice = errors.New("no device was given for it")
