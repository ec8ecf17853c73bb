package underlay

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Hosts on the uplink's link that are neither peers nor gateways. Those that the kernel
// knows are in the view. It is made to ask for those that flows want to reach
// (Watcher.Ask), and to look again whether they are still there while flows do.

const (
	// maxAsked bounds the hosts that the kernel is made to look after.
	maxAsked = 1024
	// maxOpen bounds how many of them have not answered yet: the kernel's own table is
	// shared with the node, and holds 1,024 entries unless it is told otherwise.
	maxOpen = 256
	// askPause is the time before the kernel is told of a host again.
	askPause = time.Second
	// askedFor is how long a host is looked after that no flow has named again.
	askedFor = 10 * time.Minute
)

// onLink lists the hosts on the link that the kernel knows.
func (s *space) onLink() map[netip.Addr][6]byte {
	known := map[netip.Addr][6]byte{}
	for a, e := range s.entries {
		if e.host && e.state == Resolved && isHost(e.mac) && s.isOnLink(a) {
			known[a] = e.mac
		}
	}
	if over := len(known) - MaxNeighbors; over > 0 {
		oldest := slices.SortedFunc(maps.Keys(known), func(a, b netip.Addr) int { return cmp.Compare(s.entries[a].since, s.entries[b].since) })
		for _, a := range oldest[:over] {
			delete(known, a)
		}
	}
	return known
}

// isHost reports whether a MAC address is that of one host.
func isHost(mac [6]byte) bool { return mac[0]&1 == 0 && mac != [6]byte{} }

// isOnLink reports whether an address lies in a prefix of the uplink's link.
func (s *space) isOnLink(a netip.Addr) bool {
	if a.IsLinkLocalUnicast() || a.IsMulticast() || slices.Contains(s.found.addresses, a) {
		return false
	}
	return slices.ContainsFunc(s.found.exits, func(x Exit) bool { return !x.Gateway.IsValid() && x.Prefix.Contains(a) })
}

// ask has the kernel find hosts, those that it would send to directly by the uplink.
// Where they are too many, the one that no flow has named for longest is left to itself.
func (s *space) ask(list []netip.Addr, now time.Time) {
	open := 0
	for a := range s.asked {
		if s.isOpen(a) {
			open++
		}
	}
	for _, a := range list {
		named, before := s.asked[a]
		fresh := s.isOpen(a) && !before
		if before && now.Sub(named) < askPause || fresh && open >= maxOpen || !s.isOnLink(a) || s.byOthers(a) || !s.leadsTo(a) {
			continue
		}
		if fresh {
			open++
		}
		if !before && len(s.asked) >= maxAsked {
			delete(s.asked, slices.MinFunc(slices.Collect(maps.Keys(s.asked)), func(a, b netip.Addr) int { return s.asked[a].Compare(s.asked[b]) }))
		}
		s.asked[a] = now
		s.use(a)
	}
}

// isOpen reports whether a host that the kernel asks for has not answered yet, and may.
func (s *space) isOpen(a netip.Addr) bool { return s.entries[a].state == Unresolved }

// byOthers reports whether somebody else looks after an address.
func (s *space) byOthers(a netip.Addr) bool {
	_, kept := s.kept[a]
	return kept || s.entries[a].fixed || s.entries[a].managed
}

// leadsTo reports whether the kernel itself would ask for an address on the uplink's
// link: it is no broadcast address, and no rule leads it elsewhere.
func (s *space) leadsTo(a netip.Addr) bool {
	list, err := s.h.RouteGet(a.AsSlice())
	return err == nil && len(list) > 0 && list[0].LinkIndex == s.found.link.Index && list[0].Type == unix.RTN_UNICAST && !gateway(&list[0]).IsValid()
}

// use tells the kernel that an address is used, as a packet of its own to there would:
// it asks for one that it does not know, and looks after one that it has not heard of
// for a while.
func (s *space) use(a netip.Addr) {
	// The worst is that a packet of the flow asks again.
	_ = s.h.NeighSet(&netlink.Neigh{LinkIndex: s.found.link.Index, IP: a.AsSlice(), Flags: netlink.NTF_USE})
}

// tend looks after the hosts that were asked for. Those that did not answer leave the
// kernel's table, so that what is asked for in vain takes no room there.
func (s *space) tend(now time.Time) {
	for a, named := range s.asked {
		e, there := s.entries[a]
		switch {
		case s.byOthers(a) || now.Sub(named) > askedFor || !s.isOnLink(a):
			delete(s.asked, a)
		case there && e.state == Failed:
			delete(s.asked, a)
			_ = s.h.NeighDel(&netlink.Neigh{LinkIndex: s.found.link.Index, IP: a.AsSlice()}) // gone already: as well
		case !there && now.Sub(named) > refresh: // the kernel has forgotten it, or never took it
			delete(s.asked, a)
		case there && e.state == Resolved:
			s.use(a)
		}
	}
}
