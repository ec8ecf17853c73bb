package attach

import (
	"net/netip"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vrouter-go/vrouter/agent/state"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Pools give out addresses of a node's networks. They keep no list of what is given:
// desired state is that, so an address is free as soon as nothing has it, and nothing
// leaks. They belong to whoever holds the turn to change state.
type Pools struct {
	// last is the address given last of each prefix: the next one is looked for behind
	// it, so that an address that has become free comes back as late as it can, when
	// its former peers have forgotten it.
	last map[netip.Prefix]netip.Addr
}

// NewPools returns pools that have given nothing yet. They go on behind the address of
// the newest attachment that a state holds.
func NewPools() *Pools { return &Pools{last: map[netip.Prefix]netip.Addr{}} }

// Families returns which families of addresses a network gives.
func Families(st *state.State, network string) (v4, v6 bool) {
	for _, p := range prefixes(st, network) {
		v4, v6 = v4 || p.Addr().Is4(), v6 || p.Addr().Is6()
	}
	return v4, v6
}

// Give returns a free address of a network's pools. The error is ResourceExhausted
// where every one is taken. The same address comes again only after a round, but for
// the state to change in between: the caller writes down what it was given.
func (l *Pools) Give(st *state.State, network string, v4 bool) (netip.Addr, error) {
	size := 0
	for _, p := range prefixes(st, network) {
		if p.Addr().Is4() != v4 {
			continue
		}
		size++
		if a, ok := l.search(st, network, p); ok {
			l.last[p] = a
			return a, nil
		}
	}
	family := "IPv6"
	if v4 {
		family = "IPv4"
	}
	return netip.Addr{}, status.Errorf(codes.ResourceExhausted,
		"network %s has no free %s address: all of its %d pools are taken, on this node by whatever network; delete pods, or give VirtualNetwork %s more pools", network, family, size, network)
}

// search looks once around a prefix. It ends soon in a large one, for no more
// addresses are taken than there are resources.
func (l *Pools) search(st *state.State, network string, p netip.Prefix) (netip.Addr, bool) {
	start, ok := l.last[p]
	if !ok {
		start = newest(st, p)
	}
	for a := next(p, start); ; a = next(p, a) {
		if free(st, network, a) {
			return a, true
		}
		if a == start {
			return netip.Addr{}, false
		}
	}
}

// next returns the address behind a in a prefix, the first one behind the last.
func next(p netip.Prefix, a netip.Addr) netip.Addr {
	if n := a.Next(); n.IsValid() && p.Contains(n) {
		return n
	}
	return p.Addr()
}

// newest returns the address in a prefix that was given last, the prefix's own address
// where none was.
func newest(st *state.State, p netip.Prefix) netip.Addr {
	at, generation := p.Addr(), uint64(0)
	for _, r := range st.Of(state.Attachment) {
		for _, s := range r.GetAttachment().GetAddresses() {
			a, err := netip.ParseAddr(s)
			if err == nil && p.Contains(a) && (r.GetGeneration() > generation || r.GetGeneration() == generation && a.Compare(at) > 0) {
				at, generation = a, r.GetGeneration()
			}
		}
	}
	return at
}

// free reports whether an address may be given: it is nobody's in whatever network,
// and a host's in its subnet.
func free(st *state.State, network string, a netip.Addr) bool {
	if _, taken := st.HolderOf(a); taken || a.IsMulticast() || a.IsLinkLocalUnicast() {
		return false
	}
	for _, s := range subnets(st, network) {
		// RFC 3021: two addresses are a whole subnet; RFC 4291 §2.6.1: the first address
		// of an IPv6 subnet is its routers'.
		if p := s; p.Contains(a) && p.Bits() < a.BitLen()-1 && (a == p.Addr() || a.Is4() && !p.Contains(a.Next())) {
			return false
		}
	}
	return true
}

func subnets(st *state.State, network string) []netip.Prefix {
	var list []netip.Prefix
	for _, sn := range networkOf(st, network).GetSubnets() {
		if p, err := netip.ParsePrefix(sn.GetPrefix()); err == nil {
			list = append(list, p)
		}
	}
	return list
}

// prefixes returns a network's pools, its subnets where it has none.
func prefixes(st *state.State, network string) []netip.Prefix {
	var list []netip.Prefix
	for _, s := range networkOf(st, network).GetPools() {
		if p, err := netip.ParsePrefix(s); err == nil {
			list = append(list, p)
		}
	}
	if len(list) == 0 {
		return subnets(st, network)
	}
	return list
}

func networkOf(st *state.State, network string) *pb.VirtualNetwork {
	return st.Get(state.Key{Kind: state.VirtualNetwork, Name: network}).GetVirtualNetwork()
}
