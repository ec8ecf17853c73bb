package underlay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routes is what was read of the uplink, its addresses and the ways out of it,
// before anything is said about neighbors.
type routes struct {
	link      Link
	addresses []netip.Addr
	paths     map[netip.Addr]Path
	exits     []Exit
}

// read reads the uplink and the ways to the peers. A device that is not there is no
// error: nobody is reached.
func (s *space) read() error {
	found := routes{paths: make(map[netip.Addr]Path, len(s.peers))}
	link, err := s.h.LinkByName(s.device)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
	case err != nil:
		return fmt.Errorf("find %s: %w", s.device, err)
	default:
		attrs := link.Attrs()
		const running = unix.IFF_UP | unix.IFF_RUNNING
		found.link = Link{Index: attrs.Index, MTU: attrs.MTU, Up: attrs.RawFlags&running == running}
		copy(found.link.MAC[:], attrs.HardwareAddr)
		if found.addresses, err = s.addresses(link); err != nil {
			return err
		}
		if found.exits, err = s.exits(attrs.Index); err != nil {
			return err
		}
	}
	for _, p := range s.peers {
		found.paths[p] = s.pathTo(p, &found.link)
	}
	if found.link.Index != s.found.link.Index {
		clear(s.entries)
		clear(s.kept)
		clear(s.asked)
	}
	s.found = found
	return s.readNeighbors()
}

// pathTo asks the kernel for the way to a peer.
func (s *space) pathTo(peer netip.Addr, link *Link) Path {
	if !link.Up {
		return Path{State: NoRoute}
	}
	list, err := s.h.RouteGet(peer.AsSlice())
	if err != nil || len(list) == 0 || list[0].LinkIndex != link.Index || list[0].Type != unix.RTN_UNICAST {
		return Path{State: NoRoute}
	}
	p := Path{NextHop: gateway(&list[0]), MTU: link.MTU}
	if !p.NextHop.IsValid() {
		p.NextHop = peer
	}
	if m := list[0].MTU; m > 0 && m < p.MTU {
		p.MTU = m
	}
	return p
}

// gateway returns a route's gateway, of either family (RFC 8950); the zero Addr where
// it has none.
func gateway(r *netlink.Route) netip.Addr {
	if a, ok := netip.AddrFromSlice(r.Gw); ok {
		return a.Unmap()
	}
	if via, ok := r.Via.(*netlink.Via); ok {
		if a, ok := netip.AddrFromSlice(via.Addr); ok {
			return a.Unmap()
		}
	}
	return netip.Addr{}
}

// addresses lists the uplink's addresses that other nodes can reach.
func (s *space) addresses(link netlink.Link) ([]netip.Addr, error) {
	have, err := dump(func() ([]netlink.Addr, error) { return s.h.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var list []netip.Addr
	for _, a := range have {
		ip, ok := netip.AddrFromSlice(a.IP)
		ip = ip.Unmap()
		if ok && !ip.IsLinkLocalUnicast() && !ip.IsLoopback() && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 && !slices.Contains(list, ip) {
			list = append(list, ip)
		}
	}
	return list, nil
}

// exits lists the routes out of the uplink, by a gateway or to its link.
func (s *space) exits(index int) ([]Exit, error) {
	have, err := dump(func() ([]netlink.Route, error) {
		return s.h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: index, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	best := map[netip.Prefix]netlink.Route{}
	for _, r := range have {
		p, ok := destination(&r)
		if !ok || r.Type != unix.RTN_UNICAST || p.Bits() > 0 && (p.Addr().IsLinkLocalUnicast() || p.Addr().IsMulticast()) {
			continue
		}
		if other, ok := best[p]; !ok || r.Priority < other.Priority {
			best[p] = r
		}
	}
	var list []Exit
	for p, r := range best {
		list = append(list, Exit{Prefix: p, Gateway: gateway(&r)})
	}
	slices.SortFunc(list, func(a, b Exit) int {
		if d := a.Prefix.Addr().Compare(b.Prefix.Addr()); d != 0 {
			return d
		}
		return a.Prefix.Bits() - b.Prefix.Bits()
	})
	return list, nil
}

// destination returns a route's prefix; a default route may come without.
func destination(r *netlink.Route) (netip.Prefix, bool) {
	if r.Dst == nil {
		if r.Family == netlink.FAMILY_V6 {
			return netip.PrefixFrom(netip.IPv6Unspecified(), 0), true
		}
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0), true
	}
	a, ok := netip.AddrFromSlice(r.Dst.IP)
	bits, size := r.Dst.Mask.Size()
	if size == 8*net.IPv4len {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, bits), ok
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
