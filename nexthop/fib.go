package nexthop

import (
	"iter"
	"net/netip"

	"github.com/gaissmai/bart"
)

// Route is what a FIB knows about a prefix. 8 bytes, no pointers.
type Route struct {
	NextHop ID
	// Network is the virtual network that the destination belongs to, for the
	// network policy; 0 = none.
	Network uint32
}

// FIB holds the routes of one VRF, IPv4 and IPv6, by longest prefix. It never
// changes: With and Without return a new FIB that shares all but the path to
// the changed prefix, so one change costs about a microsecond at any size. Any
// number of goroutines may read it. A nil *FIB is an empty one.
//
// Addresses are 16 bytes with IPv4 v4-mapped; IPv4 routes answer for IPv4
// addresses only, ::/0 included.
type FIB bart.Table[Route]

func (f *FIB) table() *bart.Table[Route] { return (*bart.Table[Route])(f) }

// NewFIB builds a FIB from many routes at once; of two with the same prefix the
// later wins. Prefixes may have host bits set, which are ignored; an invalid
// prefix is skipped.
func NewFIB(routes iter.Seq2[netip.Prefix, Route]) *FIB {
	t := new(bart.Table[Route])
	for prefix, route := range routes {
		if prefix = canonical(prefix); prefix.IsValid() {
			t.Insert(prefix, route)
		}
	}
	return (*FIB)(t)
}

// With returns f with the route of prefix added or replaced.
func (f *FIB) With(prefix netip.Prefix, route Route) *FIB {
	if f == nil {
		f = new(FIB)
	}
	prefix = canonical(prefix)
	if !prefix.IsValid() {
		return f
	}
	return (*FIB)(f.table().InsertPersist(prefix, route))
}

// Without returns f without the route of prefix, or f itself if there is none.
func (f *FIB) Without(prefix netip.Prefix) *FIB {
	prefix = canonical(prefix)
	if _, ok := f.Get(prefix); !ok {
		return f
	}
	return (*FIB)(f.table().DeletePersist(prefix))
}

// Get returns the route of exactly this prefix.
func (f *FIB) Get(prefix netip.Prefix) (Route, bool) {
	prefix = canonical(prefix)
	if f == nil || !prefix.IsValid() {
		return Route{}, false
	}
	return f.table().Get(prefix)
}

// Lookup returns the route of the longest prefix that holds addr; false means
// that there is none. It does not allocate. For the packet path.
func (f *FIB) Lookup(addr *[16]byte) (Route, bool) {
	if f == nil {
		return Route{}, false
	}
	return f.table().Lookup(netip.AddrFrom16(*addr).Unmap())
}

// LookupPrefix is Lookup that also names the prefix that matched, for explain.
func (f *FIB) LookupPrefix(addr *[16]byte) (Route, netip.Prefix, bool) {
	if f == nil {
		return Route{}, netip.Prefix{}, false
	}
	a := netip.AddrFrom16(*addr).Unmap()
	prefix, route, ok := f.table().LookupPrefixLPM(netip.PrefixFrom(a, a.BitLen()))
	return route, prefix, ok
}

// Len is the number of routes.
func (f *FIB) Len() int {
	if f == nil {
		return 0
	}
	return f.table().Size()
}

// All yields every route, IPv4 before IPv6, each in prefix order.
func (f *FIB) All() iter.Seq2[netip.Prefix, Route] {
	if f == nil {
		return func(func(netip.Prefix, Route) bool) {}
	}
	return f.table().AllSorted()
}

// canonical clears host bits and writes a v4-mapped prefix as the IPv4 prefix
// that it is, so that ::ffff:10.0.0.0/104 and 10.0.0.0/8 are one route.
func canonical(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}
