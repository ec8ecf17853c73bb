//go:build linux

package tap

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// RouteProtocol marks the routes made here (`ip route` shows "proto 118"), so
// that routes of others on the link are left alone.
const RouteProtocol netlink.RouteProtocol = 118

// applyAddresses makes the link's addresses those of s. IPv6 link-local addresses
// that s does not name are the kernel's and stay.
func (sp *space) applyAddresses(s Spec, link netlink.Link) error {
	list := func() ([]netlink.Addr, error) {
		return dump(func() ([]netlink.Addr, error) { return sp.h.AddrList(link, netlink.FAMILY_ALL) })
	}
	have, err := list()
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range have {
		p := prefixOf(a.IPNet)
		if slices.Contains(s.Addresses, p) || p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
			continue
		}
		if err := sp.h.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %v: %w", p, err)
		}
	}
	// An address that goes takes its secondaries along: look again.
	if have, err = list(); err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, p := range s.Addresses {
		if slices.ContainsFunc(have, func(a netlink.Addr) bool { return prefixOf(a.IPNet) == p }) {
			continue
		}
		a := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := sp.h.AddrAdd(link, a); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add address %v: %w", p, err)
		}
		if s.Up && p.Addr().Is6() {
			sp.awaitLocal(p.Addr())
		}
	}
	return nil
}

// awaitLocal waits until the kernel delivers packets for a new IPv6 address. Also
// without duplicate address detection its local route comes from a work queue
// (addrconf_dad_work), milliseconds after the address; what arrives in between
// is dropped. A second is the most it may take us.
func (sp *space) awaitLocal(a netip.Addr) {
	for range 500 {
		routes, err := sp.h.RouteGet(a.AsSlice())
		if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// applyRoutes makes our routes through the link those of s.
func (sp *space) applyRoutes(s Spec, link netlink.Link) error {
	index := link.Attrs().Index
	filter := &netlink.Route{LinkIndex: index, Protocol: RouteProtocol}
	have, err := dump(func() ([]netlink.Route, error) {
		return sp.h.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	want := s.routes()
	for _, r := range have {
		if slices.ContainsFunc(want, func(w Route) bool { return sameRoute(w, r) }) {
			continue
		}
		if err := sp.h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route %v: %w", r.Dst, err)
		}
	}
	for _, r := range want {
		if err := sp.addRoute(r, index); err != nil {
			return err
		}
	}
	return nil
}

// addRoute adds a route and never replaces one: the namespace may be the node's
// own, with routes of others. The same route on the same link, from an earlier
// apply or the kernel's own for an address, serves as well.
func (sp *space) addRoute(r Route, index int) error {
	nr := &netlink.Route{LinkIndex: index, Dst: ipNet(r.Dst), Protocol: RouteProtocol}
	switch {
	case r.Via.IsValid():
		nr.Gw = r.Via.AsSlice()
	case r.Dst.Addr().Is4():
		nr.Scope = netlink.SCOPE_LINK
	}
	if r.Onlink {
		nr.Flags = int(netlink.FLAG_ONLINK)
	}
	err := sp.h.RouteAdd(nr)
	if errors.Is(err, unix.EEXIST) {
		same, lerr := dump(func() ([]netlink.Route, error) {
			return sp.h.RouteListFiltered(family(r.Dst), nr, netlink.RT_FILTER_OIF|netlink.RT_FILTER_DST)
		})
		if lerr == nil && slices.ContainsFunc(same, func(have netlink.Route) bool { return sameRoute(r, have) }) {
			return nil
		}
		return fmt.Errorf("add route %v: there is another route to it (`ip route get %v` shows it): %w", r.Dst, r.Dst.Addr(), err)
	}
	if err != nil {
		return fmt.Errorf("add route %v via %v: %w", r.Dst, r.Via, err)
	}
	return nil
}

// sameRoute reports whether the kernel's route is the one wanted.
func sameRoute(want Route, have netlink.Route) bool {
	via, _ := netip.AddrFromSlice(have.Gw)
	dst := netip.PrefixFrom(netip.IPv4Unspecified(), 0) // a default route may come without
	switch {
	case have.Dst != nil:
		dst = prefixOf(have.Dst)
	case have.Family == netlink.FAMILY_V6:
		dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return dst == want.Dst && via.Unmap() == want.Via
}

func family(p netip.Prefix) int {
	if p.Addr().Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefixOf(n *net.IPNet) netip.Prefix {
	addr, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits)
}
