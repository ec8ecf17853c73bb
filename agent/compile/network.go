package compile

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/nexthop"
)

// network is a compiled virtual network: its VRF, the routes of its own and the
// networks whose routes it takes over.
type network struct {
	name    string
	vrf     uint16
	id      uint32 // policy's number
	own     map[netip.Prefix][]contribution
	imports []string // networks that a policy lets it open flows into, in order; see askers
	// exports are the networks that import this one.
	exports map[string]struct{}
	fib     *nexthop.FIB
}

// class orders contributions to one prefix: the lowest wins.
type class uint8

const (
	classGateway class = iota
	classService       // before node addresses: ports that are not mapped fall through to the node
	classWorkload
	classNode
	classPair // several interfaces may allow themselves one address: the first name wins
	classRoute
	classSubnet // addresses that nobody has
	classExit   // what the kernel would send out of the uplink
)

// contribution is what one resource says about a prefix.
type contribution struct {
	class class
	from  state.Key
	route nexthop.Route
	leak  bool // other networks take it over
}

// placement is a contribution with its place.
type placement struct {
	network string
	prefix  netip.Prefix
	contribution
}

type prefixAt struct {
	network string
	prefix  netip.Prefix
}

// compileNetworks makes and unmakes networks, and puts their gateways in, and
// discards for what their subnets have not given to anybody.
func (c *Compiler) compileNetworks(affected []state.Key) error {
	if err := c.ensureNetwork(state.FabricNetwork); err != nil {
		return err
	}
	for name := range of(affected, state.VirtualNetwork) {
		k := state.Key{Kind: state.VirtualNetwork, Name: name}
		if !c.state.Has(k) {
			continue // finishNetworks: others may still point here
		}
		if err := c.ensureNetwork(name); err != nil {
			return err
		}
		n := c.networks[name]
		vn := c.state.Get(k).GetVirtualNetwork()
		if vrf := state.VRFName(name, vn); c.now.vrfs[n.vrf].Name != vrf {
			c.now.vrfs[n.vrf].Name = vrf
		}
		var list []placement
		for _, sn := range vn.GetSubnets() {
			if p, err := netip.ParsePrefix(sn.GetPrefix()); err == nil {
				list = append(list, placement{name, p, contribution{
					class: classSubnet, route: nexthop.Route{NextHop: nexthop.ID(forwarder.DropAddressUnassigned), Network: n.id}, leak: true,
				}})
			}
			if g, err := netip.ParseAddr(sn.GetGateway()); err == nil {
				list = append(list, placement{name, host(g), contribution{
					class: classGateway, route: nexthop.Route{NextHop: hopReceive, Network: n.id},
				}})
			}
		}
		c.dirty.vhost = c.place(k, list) || c.dirty.vhost
	}
	return nil
}

func (c *Compiler) ensureNetwork(name string) error {
	if c.networks[name] != nil {
		return nil
	}
	slot, err := c.vrfSlots.get(name)
	if err != nil {
		return err
	}
	n := &network{
		name: name, vrf: uint16(slot), id: uint32(slot) + 1,
		own: map[netip.Prefix][]contribution{}, exports: map[string]struct{}{},
	}
	c.networks[name] = n
	c.now.vrfs = grow(c.now.vrfs, slot)
	c.now.vrfs[slot].Name = name
	c.setHop(hopVRF+nexthop.ID(slot), nexthop.NextHop{Kind: nexthop.VRF, VRF: uint16(slot)})
	c.dirty.joins = true
	return nil
}

// finishNetworks drops deleted networks and brings the routing tables up to date.
func (c *Compiler) finishNetworks(affected []state.Key) error {
	for name := range of(affected, state.VirtualNetwork) {
		k := state.Key{Kind: state.VirtualNetwork, Name: name}
		if n := c.networks[name]; n != nil && !c.state.Has(k) {
			c.dirty.vhost = c.place(k, nil) || c.dirty.vhost
			c.setImports(n, nil)
			for importer := range n.exports {
				o := c.networks[importer]
				c.setImports(o, slices.DeleteFunc(slices.Clone(o.imports), func(s string) bool { return s == name }))
			}
			c.now.vrfs[n.vrf] = forwarder.VRF{}
			c.vrfSlots.release(name)
			delete(c.networks, name)
			delete(c.segments, name)
		}
	}
	c.updateTables()
	return nil
}

// place replaces what a resource put into the networks and reports whether that
// is another than before.
func (c *Compiler) place(k state.Key, list []placement) (changed bool) {
	old := c.routes[k]
	for i := range list {
		list[i].from = k
	}
	if slices.Equal(old, list) {
		return false
	}
	for _, p := range old {
		if n := c.networks[p.network]; n != nil {
			rest := slices.DeleteFunc(slices.Clone(n.own[p.prefix]), func(o contribution) bool { return o.from == k })
			if n.own[p.prefix] = rest; len(rest) == 0 {
				delete(n.own, p.prefix)
			}
			c.dirty.prefixes[prefixAt{p.network, p.prefix}] = struct{}{}
		}
	}
	for _, p := range list {
		n := c.networks[p.network]
		if n == nil {
			continue
		}
		all := append(slices.Clone(n.own[p.prefix]), p.contribution)
		slices.SortFunc(all, func(a, b contribution) int { return cmp.Or(cmp.Compare(a.class, b.class), a.from.Compare(b.from)) })
		n.own[p.prefix] = all
		c.dirty.prefixes[prefixAt{p.network, p.prefix}] = struct{}{}
	}
	if c.routes[k] = list; len(list) == 0 {
		delete(c.routes, k)
	}
	return true
}

// setImports changes whose routes a network takes over. Its table is then built
// anew.
func (c *Compiler) setImports(n *network, imports []string) {
	if slices.Equal(n.imports, imports) {
		return
	}
	for _, name := range n.imports {
		if m := c.networks[name]; m != nil {
			delete(m.exports, n.name)
		}
	}
	n.imports = imports
	for _, name := range imports {
		c.networks[name].exports[n.name] = struct{}{}
	}
	n.fib = nil
	if n.name == state.FabricNetwork {
		c.dirty.vhost = true
	}
}

// updateTables changes the routing tables where a prefix or the imports changed.
func (c *Compiler) updateTables() {
	todo := map[string]map[netip.Prefix]struct{}{}
	mark := func(name string, p netip.Prefix) {
		if todo[name] == nil {
			todo[name] = map[netip.Prefix]struct{}{}
		}
		todo[name][p] = struct{}{}
	}
	for at := range c.dirty.prefixes {
		n := c.networks[at.network]
		if n == nil {
			continue
		}
		mark(at.network, at.prefix)
		for importer := range n.exports {
			mark(importer, at.prefix)
		}
	}
	for _, n := range c.networks {
		prefixes := todo[n.name]
		if n.fib == nil || len(prefixes) > 1000 && len(prefixes) > n.fib.Len()/8 {
			n.fib = nexthop.NewFIB(c.allRoutes(n))
		} else {
			for p := range prefixes {
				if route, ok := c.best(n, p); ok {
					if have, found := n.fib.Get(p); !found || have != route {
						n.fib = n.fib.With(p, route)
					}
				} else {
					n.fib = n.fib.Without(p)
				}
			}
		}
		c.now.vrfs[n.vrf].FIB = n.fib
	}
}

// allRoutes yields the route of every prefix that n or a network it imports has.
func (c *Compiler) allRoutes(n *network) iter.Seq2[netip.Prefix, nexthop.Route] {
	return func(yield func(netip.Prefix, nexthop.Route) bool) {
		for _, name := range append([]string{n.name}, n.imports...) {
			for p := range c.networks[name].own {
				if route, ok := c.best(n, p); ok && !yield(p, route) {
					return
				}
			}
		}
	}
}

// best returns the route of a prefix in a network: its own, else that of a
// network it imports. Where several have the prefix a service wins, as in
// Contrail, then the first of imports, which is by name.
func (c *Compiler) best(n *network, p netip.Prefix) (nexthop.Route, bool) {
	if own := n.own[p]; len(own) > 0 {
		return own[0].route, true
	}
	var found *contribution
	for _, name := range n.imports {
		list := c.networks[name].own[p]
		i := slices.IndexFunc(list, func(o contribution) bool { return o.leak })
		if i >= 0 && (found == nil || list[i].class < found.class) {
			found = &list[i]
		}
	}
	if found == nil {
		return nexthop.Route{}, false
	}
	return found.route, true
}

// host returns the prefix of one address.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// grow returns list long enough to have index i.
func grow[T any](list []T, i int) []T {
	if i < len(list) {
		return list
	}
	return append(list, make([]T, i+1-len(list))...)
}

// names returns a set's members in order.
func names(set map[string]struct{}) []string { return slices.Sorted(maps.Keys(set)) }
