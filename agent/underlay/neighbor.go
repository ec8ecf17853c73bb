package underlay

import (
	"fmt"
	"maps"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// entry is one of the kernel's neighbors.
type entry struct {
	mac   [6]byte
	state State // Resolved, Failed or Unresolved
	fixed bool  // the administrator's own: it is left alone
	// managed says that the kernel keeps it fresh by itself (NTF_EXT_MANAGED, Linux 5.16).
	managed bool
	host    bool   // a neighbor with a MAC address of its own, not one for which none is asked
	since   uint64 // when it came to its address, among all others
}

// usable are the states in which the kernel itself sends to a neighbor's address.
const usable = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE | netlink.NUD_PERMANENT | netlink.NUD_NOARP

// readNeighbors reads the kernel's neighbors on the uplink.
func (s *space) readNeighbors() error {
	if s.found.link.Index == 0 {
		return nil
	}
	have, err := dump(func() ([]netlink.Neigh, error) { return s.h.NeighList(s.found.link.Index, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list neighbors: %w", err)
	}
	seen := make(map[netip.Addr]struct{}, len(have))
	for _, n := range have {
		if a, ok := netip.AddrFromSlice(n.IP); ok {
			seen[a.Unmap()] = struct{}{}
			s.note(a.Unmap(), &n)
		}
	}
	maps.DeleteFunc(s.entries, func(a netip.Addr, _ entry) bool {
		_, there := seen[a]
		return !there
	})
	maps.DeleteFunc(s.kept, func(a netip.Addr, _ struct{}) bool { return !s.entries[a].managed })
	return nil
}

// neighbor takes up news of a neighbor and reports whether it is one on the uplink.
func (s *space) neighbor(n netlink.NeighUpdate) bool {
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok || n.LinkIndex != s.found.link.Index {
		return false
	}
	a = a.Unmap()
	if n.Type == unix.RTM_DELNEIGH {
		delete(s.entries, a)
		delete(s.kept, a) // it goes with the entry
		return true
	}
	return s.note(a, &n.Neigh)
}

// note keeps what the kernel says of a neighbor and reports whether that is new.
func (s *space) note(a netip.Addr, n *netlink.Neigh) bool {
	old := s.entries[a]
	e := entry{
		state: old.state, managed: n.FlagsExt&netlink.NTF_EXT_MANAGED != 0, since: old.since,
		fixed: n.State&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) != 0 || n.Flags&netlink.NTF_EXT_LEARNED != 0,
		host:  n.State&netlink.NUD_NOARP == 0,
	}
	switch {
	case n.State&usable != 0 && len(n.HardwareAddr) == len(e.mac):
		e.state = Resolved
		copy(e.mac[:], n.HardwareAddr)
	case n.State&netlink.NUD_FAILED != 0:
		e.state = Failed
	case old.state == Resolved:
		e.state = Unresolved // asked for anew; one that failed stays failed until it answers
	}
	if e.mac != old.mac {
		s.news++
		e.since = s.news
	}
	s.entries[a] = e
	return e != old
}

// view says what is known now, and has the kernel look after the next hops.
func (s *space) view() (View, error) {
	if s.stale {
		if err := s.read(); err != nil {
			return View{}, err
		}
		s.stale = false
	}
	v := View{Link: s.found.link, Addresses: s.found.addresses, Paths: make(map[netip.Addr]Path, len(s.found.paths))}
	if s.found.link.Index == 0 {
		v.Problem = "there is no device " + s.device + " in its namespace; it is picked up when it comes"
	}
	hops := map[netip.Addr]struct{}{}
	for peer, p := range s.found.paths {
		if p.State != NoRoute {
			e := s.entries[p.NextHop]
			p.State, p.MAC = e.state, e.mac
			hops[p.NextHop] = struct{}{}
		}
		v.Paths[peer] = p
	}
	for _, x := range s.found.exits {
		if v.Link.Up && x.Gateway.IsValid() {
			x.MAC = s.entries[x.Gateway].mac
			hops[x.Gateway] = struct{}{}
		}
		v.Exits = append(v.Exits, x)
	}
	s.keep(hops)
	if v.Link.Up {
		v.Neighbors = s.onLink()
	}
	return v, nil
}

// keep has the kernel keep next hops fresh, and no longer those that are none any
// more. A kernel before 5.16 takes the wish for a use of the entry: it asks the
// neighbor whether it is still there, once. It is told again with each reading.
func (s *space) keep(hops map[netip.Addr]struct{}) {
	for a := range hops {
		if _, told := s.kept[a]; told || s.entries[a].fixed {
			continue
		}
		s.kept[a] = struct{}{}
		// Without an address and a state the kernel only changes the flags, and asks the
		// network where it does not know.
		err := s.h.NeighSet(&netlink.Neigh{LinkIndex: s.found.link.Index, IP: a.AsSlice(), Flags: netlink.NTF_USE, FlagsExt: netlink.NTF_EXT_MANAGED})
		if err != nil {
			delete(s.kept, a) // again with the next reading
		}
	}
	for a := range s.kept {
		if _, still := hops[a]; !still {
			s.release(a)
		}
	}
}

// letGo leaves the neighbors to themselves.
func (s *space) letGo() {
	for a := range s.kept {
		s.release(a)
	}
}

// release takes the flag from an entry; the kernel then forgets it when it likes.
func (s *space) release(a netip.Addr) {
	delete(s.kept, a)
	e, ok := s.entries[a]
	if !ok || !e.managed {
		return
	}
	n := &netlink.Neigh{LinkIndex: s.found.link.Index, IP: a.AsSlice(), State: netlink.NUD_STALE, HardwareAddr: net.HardwareAddr(e.mac[:])}
	if e.state != Resolved {
		_ = s.h.NeighDel(n) // gone already: as well
		return
	}
	_ = s.h.NeighSet(n) // the worst is that the kernel goes on asking for it
}
