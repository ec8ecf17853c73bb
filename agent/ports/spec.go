// Package ports keeps the forwarder's ports and the devices behind them in step
// with desired state: it opens, changes and closes devices, notices when one
// vanishes and takes it up again when it returns.
package ports

import (
	"context"
	"reflect"

	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/tap"
)

// Spec is the device that a port shall have.
type Spec struct {
	Port     uint16   // index in the forwarder
	Name     string   // the VMI's name, or vhost0
	Network  string   // the virtual network that it stands in
	Existing bool     // somebody else makes the TAP: it is only attached
	Tap      tap.Spec // what it looks like
	// Uplink is the device of the fabric port, which is there and stays the kernel's;
	// nil: the port has a TAP. Tap is empty otherwise.
	Uplink *Uplink
}

// Uplink names the device that joins the node with the others.
type Uplink struct {
	Device string
	Netns  string // the namespace that it stands in; "": the daemon's
	Queues int    // 1 and up
}

// device returns the name of the device and the namespace that it ends up in.
func (s *Spec) device() (name, netns string) {
	if s.Uplink != nil {
		return s.Uplink.Device, s.Uplink.Netns
	}
	return s.Tap.Name, s.Tap.Netns
}

// Equal reports whether two specs ask for the same device.
func (s *Spec) Equal(o *Spec) bool { return reflect.DeepEqual(s, o) }

// Driver opens and changes devices. Its functions are called by one goroutine at
// a time. Those beside Open and Uplink are about TAPs alone.
type Driver struct {
	Name string // as status shows it: tap, memory, pcap
	Open func(Spec) (port.Device, error)
	// Uplink opens the device of the fabric port; nil: Open does, with a Spec that has
	// an Uplink.
	Uplink func(Uplink) (port.Device, error)
	// Update makes an open device look as spec says; tap.ErrRecreate means that it
	// must be closed and opened again. nil: devices have nothing to change.
	Update func(port.Device, Spec) error
	// Watch reports, until ctx ends, devices that went or can be opened again, by
	// the name in their spec; nil: they do neither.
	Watch func(ctx context.Context, changed func(device string, gone bool))
	// Forget ends the watch over a device that is not wanted any more; nil: there
	// is none.
	Forget func(device string)
	// Missing says why a namespace cannot hold a device; nil: it can. nil: whatever.
	Missing func(netns string) error
	// Discard removes a device of ours that no port has, wherever a crash has left it:
	// in the daemon's own namespace or in netns. nil: nothing stays.
	Discard func(device, netns string) error
	// Release lets go of a device at the end of the daemon; nil = Close. A TAP
	// stays in place for the next process.
	Release func(port.Device) error
}
