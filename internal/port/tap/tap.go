//go:build linux

// Package tap attaches workloads through TAP devices: it makes them (Create),
// moves their network end into the guest's namespace and configures it there, or
// takes over one that somebody else made (Attach). The descriptors stay here;
// each is one port.Queue that moves superpackets whole, with their virtio_net_hdr.
//
// Devices made here are marked with the interface alias "vrouter NAME". Only a
// marked device is ever adopted, replaced or deleted.
package tap

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/songgao/water"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/internal/port"
)

var (
	// ErrBusy says that another process holds a queue of the device.
	ErrBusy = errors.New("another process is attached (is another vrouter or a VM running on it?)")
	// ErrNotOurs says that the wanted name belongs to a device we did not make.
	ErrNotOurs = errors.New("a device of that name exists and was not made by vrouter (attach to it, or delete it with `ip link del`)")
	// ErrNoDevice says that there is no device of that name.
	ErrNoDevice = errors.New("no such device")
	// ErrNotTAP says that the device is of another kind.
	ErrNotTAP = errors.New("the device is not a TAP")
	// ErrRecreate says that a change needs Close and Create.
	ErrRecreate = errors.New("cannot change on a live device: close it and create it again")
)

// Device is an attached TAP. Queues belong to their workers; all other methods
// are for the control path and may be called from any goroutine.
type Device struct {
	name     string // identity: Spec.Name, or the link's name when attached
	features port.Features
	queues   []port.Queue
	space    spaceID // the guest's namespace as it was when attached
	netns    string  // and how it was given

	made      bool // by Create: Close removes it
	ifindex   int  // in the guest's namespace; valid if made
	foundVnet int  // vnet header length to restore on Close; 0: none

	mu  sync.Mutex
	fds []int // guarded by mu; nil once closed
}

// Name implements port.Device: Spec.Name, or the name given to Attach.
func (d *Device) Name() string { return d.name }

// Netns returns the namespace of the guest end as it was given.
func (d *Device) Netns() string { return d.netns }

// Features implements port.Device.
func (d *Device) Features() port.Features { return d.features }

// Queues implements port.Device.
func (d *Device) Queues() []port.Queue { return d.queues }

// Batch makes the queues write through rings, which stay the caller's and must
// outlive the device. It must come before the first Write. nil: frame by frame.
func (d *Device) Batch(rings *Rings) {
	for _, q := range d.queues {
		q.(*queue).rings = rings
	}
}

// Create makes the TAP that s asks for, or adopts the one that an earlier process
// made under the same name, and configures its guest end. Errors name the field
// or the step; they wrap ErrNotOurs, ErrBusy, os.ErrNotExist (namespace).
func Create(s Spec) (*Device, error) {
	s = s.withDefaults()
	if err := s.validate(); err != nil {
		return nil, err
	}
	d, err := create(s)
	if err != nil {
		return nil, fmt.Errorf("tap %s: %w", s.Name, err)
	}
	return d, nil
}

func create(s Spec) (*Device, error) {
	guest, err := openSpace(s.Netns)
	if err != nil {
		return nil, err
	}
	defer guest.close()
	link, err := guest.made(s)
	if err != nil {
		return nil, err
	}
	var d *Device
	if link != nil {
		d, err = adopt(s, guest, link)
	} else {
		d, err = build(s, guest)
	}
	if err != nil {
		return nil, err
	}
	if err := guest.apply(s, d.ifindex); err != nil {
		if link != nil {
			return nil, errors.Join(err, d.Detach())
		}
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// madeFlags are those of a queue of a device made here. A multi-queue device has
// all of its 256 transmit queues in the kernel whether they are attached or not,
// each with room for three times TxQueueLen: 25 MB and 100 ms for one that needs
// a single queue.
func madeFlags(multi bool) uint16 {
	if multi {
		return unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE
	}
	return unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR
}

// build makes a device in our own namespace, attaches its queues, and moves its
// network end to the guest. In this order the descriptors belong to our namespace
// and do not keep the guest's alive: when the guest's goes, so does the device.
func build(s Spec, guest *space) (*Device, error) {
	home, err := openSpace("")
	if err != nil {
		return nil, err
	}
	defer home.close()
	if err := home.clearName(s); err != nil {
		return nil, err
	}
	link, err := home.makePersistent(s)
	if err != nil {
		return nil, err
	}
	d := &Device{name: s.Name, netns: s.Netns, made: true, space: guest.id, ifindex: link.Attrs().Index}
	if err := d.open("", s.Name, madeFlags(s.Queues > 1), s.Queues); err != nil {
		return nil, errors.Join(err, home.h.LinkDel(link))
	}
	if s.Netns == "" {
		return d, nil
	}
	if d.ifindex, err = home.move(link, guest); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// makePersistent makes a TAP through water and marks it as ours. It persists only
// from then on: one that a crash leaves without the mark would be nobody's for ever.
// water knows no vnet header, and the queue that is attached first fixes it, so
// water's own descriptor is closed before we attach any.
func (sp *space) makePersistent(s Spec) (netlink.Link, error) {
	w, err := water.New(water.Config{
		DeviceType: water.TAP,
		PlatformSpecificParams: water.PlatformSpecificParams{
			Name: s.Name, MultiQueue: s.Queues > 1,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make device: %w (needs CAP_NET_ADMIN and %s)", err, cloneDevice)
	}
	defer w.Close()
	link, err := sp.h.LinkByName(s.Name)
	if err != nil {
		return nil, fmt.Errorf("find the device just made: %w", err)
	}
	if err := sp.h.LinkSetAlias(link, alias(s.Name)); err != nil {
		return nil, fmt.Errorf("mark device: %w", err)
	}
	file, ok := w.ReadWriteCloser.(*os.File)
	if !ok {
		return nil, fmt.Errorf("make device: water holds a %T and no file", w.ReadWriteCloser)
	}
	if err := setPersist(int(file.Fd()), true); err != nil {
		return nil, err
	}
	return link, nil
}

// adopt attaches to a device that an earlier process of ours left. Its queues
// have to be opened inside the guest's namespace, which they then keep alive: the
// Watcher reports such a namespace gone when its name goes.
func adopt(s Spec, guest *space, link *netlink.Tuntap) (*Device, error) {
	if link.Queues+link.DisabledQueues > 0 {
		return nil, ErrBusy
	}
	multi := link.Flags&netlink.TUNTAP_MULTI_QUEUE != 0
	if link.Mode != unix.IFF_TAP || s.Queues > 1 && !multi {
		if err := guest.h.LinkDel(link); err != nil {
			return nil, fmt.Errorf("replace a device that cannot have the queues: %w", err)
		}
		return build(s, guest)
	}
	d := &Device{name: s.Name, netns: s.Netns, made: true, space: guest.id, ifindex: link.Attrs().Index}
	if err := d.open(s.Netns, link.Attrs().Name, madeFlags(multi), s.Queues); err != nil {
		return nil, err
	}
	return d, nil
}

// Attach takes over the TAP called name in a namespace given by name or path (""
// is ours), with up to queues queues if the device is multi-queue and one if not.
// It changes nothing that the guest sees. A device without vnet header has no
// offloads: Features is 0. Errors wrap ErrNoDevice, ErrNotTAP, ErrBusy,
// os.ErrNotExist (namespace).
func Attach(name, netns string, queues int) (*Device, error) {
	d, err := attach(name, netns, queues)
	if err != nil {
		return nil, fmt.Errorf("tap %s: %w", name, err)
	}
	return d, nil
}

func attach(name, netns string, queues int) (*Device, error) {
	guest, err := openSpace(netns)
	if err != nil {
		return nil, err
	}
	defer guest.close()
	link, err := guest.tap(name)
	if err != nil {
		return nil, err
	}
	if link.Queues+link.DisabledQueues > 0 {
		return nil, ErrBusy
	}
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI)
	flags |= uint16(link.Flags) & (unix.IFF_MULTI_QUEUE | unix.IFF_VNET_HDR)
	if flags&unix.IFF_MULTI_QUEUE == 0 {
		queues = 1
	}
	d := &Device{name: name, netns: netns, space: guest.id}
	if err := d.open(netns, name, flags, min(max(queues, 1), MaxQueues)); err != nil {
		return nil, err
	}
	// The guest sends nothing until the kernel has noticed, up to a second later,
	// that the device has a carrier now. Asking for the link makes it look at once
	// (linux facd15dfd691, in 6.8; create asks anyway).
	if _, err := guest.tap(name); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// open attaches the queues of the link called name in a namespace, and turns on
// the offloads if the flags ask for a vnet header.
func (d *Device) open(ns, name string, flags uint16, queues int) error {
	err := netns.Do(ns, func() error {
		for i := range queues {
			fd, err := openQueue(name, flags)
			if err != nil {
				return fmt.Errorf("queue %d of %d: %w", i+1, queues, err)
			}
			d.fds = append(d.fds, fd)
		}
		return nil
	})
	hdr := 0
	if err == nil && flags&unix.IFF_VNET_HDR != 0 {
		hdr = port.VnetMergeLen
		if !d.made {
			d.foundVnet, err = unix.IoctlGetInt(d.fds[0], unix.TUNGETVNETHDRSZ)
		}
		if err == nil {
			d.features, err = setOffloads(d.fds[0])
		}
	}
	if err != nil {
		return errors.Join(err, d.Detach())
	}
	for _, fd := range d.fds {
		d.queues = append(d.queues, &queue{fd: fd, hdr: hdr, features: d.features})
	}
	return nil
}

// ApplyLink changes the guest end of a device made by Create to what s says: MAC,
// MTU, queue length, addresses, routes, name, up or down. A device deleted under
// us answers port.ErrGone; another namespace or number of queues ErrRecreate.
func (d *Device) ApplyLink(s Spec) error {
	s = s.withDefaults()
	if err := s.validate(); err != nil {
		return err
	}
	if err := d.applyLink(s); err != nil {
		return fmt.Errorf("tap %s: %w", s.Name, err)
	}
	return nil
}

func (d *Device) applyLink(s Spec) error {
	switch {
	case !d.made:
		return ErrNotOurs
	case s.Name != d.name:
		return fmt.Errorf("name %s: %w", d.name, ErrRecreate)
	case s.Netns != d.netns:
		return fmt.Errorf("netns %q: %w", d.netns, ErrRecreate)
	case s.Queues != len(d.queues):
		return fmt.Errorf("queues %d: %w", len(d.queues), ErrRecreate)
	}
	guest, err := openSpace(s.Netns)
	if err != nil {
		return err
	}
	defer guest.close()
	link, err := guest.h.LinkByIndex(d.ifindex)
	if guest.id != d.space || isNotFound(err) || err == nil && link.Attrs().Alias != alias(d.name) {
		return port.ErrGone
	}
	if err != nil {
		return err
	}
	return guest.apply(s, d.ifindex)
}

// Close implements port.Device: a device made by Create is removed, an attached
// one is left as it was found. Closing again does nothing.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	if len(d.fds) > 0 && d.made {
		err = setPersist(d.fds[0], false)
	}
	if len(d.fds) > 0 && d.foundVnet != 0 {
		err = restoreVnet(d.fds[0], d.foundVnet)
	}
	if errors.Is(err, unix.EBADFD) { // deleted under us
		err = nil
	}
	if err = errors.Join(err, d.closeQueues()); err != nil {
		return fmt.Errorf("tap %s: close: %w", d.name, err)
	}
	return nil
}

// Detach closes the queues and leaves the device, its addresses and the guest's
// sockets in place for the next process's Create or Attach: a restart. Frames
// that the guest sends meanwhile are lost.
func (d *Device) Detach() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closeQueues()
}

func (d *Device) closeQueues() error {
	var err error
	for _, fd := range d.fds {
		err = errors.Join(err, unix.Close(fd))
	}
	d.fds = nil
	return err
}

// alive reports whether the device is still there behind our queues, in the
// namespace where it was. where tells which one has a name now.
func (d *Device) alive(where func(netns string) (spaceID, error)) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.fds) == 0 {
		return false
	}
	if _, err := queueFlags(d.fds[0]); err != nil {
		return false
	}
	id, err := where(d.netns)
	return err == nil && id == d.space
}
