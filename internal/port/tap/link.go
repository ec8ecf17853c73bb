//go:build linux

package tap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// space is a namespace with a netlink socket in it. Both keep the namespace
// alive, so a space is closed as soon as a step is done.
type space struct {
	path string // as given; "" is ours
	ns   vnetns.NsHandle
	h    *netlink.Handle
	id   spaceID
}

// spaceID identifies a namespace by the inode of its nsfs file.
type spaceID struct{ dev, ino uint64 }

func openSpace(path string) (*space, error) {
	ns, err := netns.Open(path)
	if err != nil {
		return nil, err
	}
	sp := &space{path: path, ns: ns}
	if sp.id, err = identify(path); err == nil {
		sp.h, err = netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	}
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("network namespace %s: %w", netns.Path(path), err)
	}
	return sp, nil
}

func (sp *space) close() {
	sp.h.Close()
	sp.ns.Close()
}

func identify(path string) (spaceID, error) {
	var st unix.Stat_t
	if err := unix.Stat(netns.Path(path), &st); err != nil {
		return spaceID{}, err
	}
	return spaceID{uint64(st.Dev), st.Ino}, nil
}

// alias is the mark of a device made by us.
func alias(name string) string { return "vrouter " + name }

func isNotFound(err error) bool {
	var missing netlink.LinkNotFoundError
	return errors.As(err, &missing)
}

// tap returns the TAP called name.
func (sp *space) tap(name string) (*netlink.Tuntap, error) {
	link, err := sp.h.LinkByName(name)
	if isNotFound(err) {
		return nil, fmt.Errorf("%w in network namespace %s", ErrNoDevice, netns.Path(sp.path))
	}
	if err != nil {
		return nil, err
	}
	tap, ok := link.(*netlink.Tuntap)
	if !ok || tap.Mode != unix.IFF_TAP {
		return nil, fmt.Errorf("%w but a %s", ErrNotTAP, link.Type())
	}
	return tap, nil
}

// made returns the device that an earlier Create of s.Name left in the guest's
// namespace, under whatever name, or nil. It fails where the guest name is taken
// by a device that is not ours.
func (sp *space) made(s Spec) (*netlink.Tuntap, error) {
	link, err := sp.h.LinkByName(s.GuestName)
	if err == nil {
		tap, ok := link.(*netlink.Tuntap)
		if !ok || link.Attrs().Alias != alias(s.Name) {
			return nil, fmt.Errorf("%s in network namespace %s: %w", s.GuestName, netns.Path(sp.path), ErrNotOurs)
		}
		return tap, nil
	}
	if !isNotFound(err) {
		return nil, err
	}
	if s.Netns == "" {
		return nil, nil // no other name in our own namespace: clearName looks at Name
	}
	links, err := dump(sp.h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	for _, link := range links {
		if tap, ok := link.(*netlink.Tuntap); ok && link.Attrs().Alias == alias(s.Name) {
			return tap, nil
		}
	}
	return nil, nil
}

// clearName makes s.Name free in our own namespace: a device of ours that a crash
// left there half made is deleted, any other is an error.
func (sp *space) clearName(s Spec) error {
	link, err := sp.h.LinkByName(s.Name)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if link.Attrs().Alias != alias(s.Name) {
		return ErrNotOurs
	}
	if tap, ok := link.(*netlink.Tuntap); ok && tap.Queues+tap.DisabledQueues > 0 {
		return ErrBusy
	}
	if err := sp.h.LinkDel(link); err != nil {
		return fmt.Errorf("delete what a crash left: %w", err)
	}
	return nil
}

// move puts a link of ours into the guest's namespace and returns its index there.
func (sp *space) move(link netlink.Link, guest *space) (int, error) {
	if err := sp.h.LinkSetNsFd(link, int(guest.ns)); err != nil {
		return 0, fmt.Errorf("move to network namespace %s: %w", netns.Path(guest.path), err)
	}
	moved, err := guest.h.LinkByName(link.Attrs().Name)
	if err != nil {
		return 0, fmt.Errorf("find the device in network namespace %s: %w", netns.Path(guest.path), err)
	}
	return moved.Attrs().Index, nil
}

// apply makes the link with that index what s says. Steps that are done already
// are left out, so a second apply changes nothing.
func (sp *space) apply(s Spec, index int) error {
	link, err := sp.h.LinkByIndex(index)
	if err != nil {
		return fmt.Errorf("find link %d: %w", index, err)
	}
	if err := sp.applyLink(s, link); err != nil {
		return err
	}
	if err := sp.applySysctls(s); err != nil {
		return err
	}
	if s.Up {
		err = sp.h.LinkSetUp(link)
	} else {
		err = sp.h.LinkSetDown(link)
	}
	if err != nil {
		return fmt.Errorf("set up=%v: %w", s.Up, err)
	}
	if err := sp.applyAddresses(s, link); err != nil {
		return err
	}
	if !s.Up {
		return nil // the kernel takes no routes through a link that is down
	}
	return sp.applyRoutes(s, link)
}

func (sp *space) applyLink(s Spec, link netlink.Link) error {
	attrs := link.Attrs()
	if attrs.Name != s.GuestName {
		if err := sp.h.LinkSetDown(link); err != nil { // kernels before 6.2 rename only then
			return fmt.Errorf("set down: %w", err)
		}
		if err := sp.h.LinkSetName(link, s.GuestName); err != nil {
			return fmt.Errorf("rename %s to %s: %w", attrs.Name, s.GuestName, err)
		}
	}
	if s.MAC != nil && attrs.HardwareAddr.String() != s.MAC.String() {
		if err := sp.h.LinkSetHardwareAddr(link, s.MAC); err != nil {
			return fmt.Errorf("set mac %s: %w", s.MAC, err)
		}
	}
	if s.MTU != 0 && attrs.MTU != s.MTU {
		if err := sp.h.LinkSetMTU(link, s.MTU); err != nil {
			return fmt.Errorf("set mtu %d: %w", s.MTU, err)
		}
	}
	if attrs.TxQLen != s.TxQueueLen {
		if err := sp.h.LinkSetTxQLen(link, s.TxQueueLen); err != nil {
			return fmt.Errorf("set txqueuelen %d: %w", s.TxQueueLen, err)
		}
	}
	return nil
}

// applySysctls makes IPv6 quiet on the link: no duplicate address detection, so
// that addresses work at once, and no router solicitations, as routes come from
// us. /proc/sys may be read-only in a container, so only what s cannot do without
// is an error. The kernel takes the larger of a link's rp_filter and that of all
// links, and 2 is the largest; it goes with the link.
func (sp *space) applySysctls(s Spec) error {
	conf := filepath.Join("/proc/sys/net/ipv6/conf", s.GuestName)
	return netns.Do(sp.path, func() error {
		for _, file := range []string{"accept_ra", "autoconf", "router_solicitations", "accept_dad"} {
			_ = os.WriteFile(filepath.Join(conf, file), []byte("0"), 0)
		}
		if s.Loose {
			file := filepath.Join("/proc/sys/net/ipv4/conf", s.GuestName, "rp_filter")
			if have, err := os.ReadFile(file); err != nil || have[0] != '2' {
				if err := os.WriteFile(file, []byte("2"), 0); err != nil {
					return fmt.Errorf("packets whose senders are behind another link would be dropped: %w", err)
				}
			}
		}
		if !s.hasV6() {
			return nil
		}
		if off, err := os.ReadFile(filepath.Join(conf, "disable_ipv6")); err != nil || off[0] == '0' {
			return nil
		}
		if err := os.WriteFile(filepath.Join(conf, "disable_ipv6"), []byte("0"), 0); err != nil {
			return fmt.Errorf("IPv6 is off in the namespace and cannot be turned on: %w", err)
		}
		return nil
	})
}

// dump calls a netlink dump again when the tables changed while it ran.
func dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range 5 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}
