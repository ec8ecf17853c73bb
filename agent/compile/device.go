package compile

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/vrouter-go/vrouter/agent/ports"
	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/internal/port/tap"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// deviceSpec is the device of an interface. Inside a namespace it gets the
// interface's addresses and default routes; a device that stays in the daemon's
// own namespace gets none, for that would give the node the workload's address.
func (c *Compiler) deviceSpec(name string, spec *pb.VirtualMachineInterface, port uint16) *ports.Spec {
	t := spec.GetTap()
	device, guest := state.TapNames(name, t)
	s := &ports.Spec{
		Port: port, Name: name, Network: spec.GetVirtualNetwork(), Existing: t.GetExisting(),
		Tap: tap.Spec{
			Name: device, Netns: t.GetNetns(), GuestName: guest,
			MAC: state.MAC(name, spec.GetMacAddress()), MTU: int(mtu(t.GetMtu())),
			Queues: int(max(t.GetQueues(), 1)), Up: true,
		},
	}
	if t.GetExisting() || t.GetNetns() == "" {
		return s
	}
	for _, a := range spec.GetAddresses() {
		if addr, err := netip.ParseAddr(a); err == nil {
			subnet, _ := c.subnetOf(spec.GetVirtualNetwork(), addr)
			s.Tap.Addresses = append(s.Tap.Addresses, netip.PrefixFrom(addr, subnet.Bits()))
		}
	}
	s.Tap.GatewayV4, s.Tap.GatewayV6 = c.gateways(spec)
	return s
}

// vhostSpec is the node's own device, with routes to everything that the node may
// reach through it.
func (c *Compiler) vhostSpec(v *pb.Vhost) *ports.Spec {
	name := state.VhostName(v)
	s := &ports.Spec{
		Port: vhostPort, Name: state.Vhost0, Network: state.FabricNetwork,
		Tap: tap.Spec{
			Name: name, Netns: v.GetNetns(), GuestName: name,
			MAC: state.MAC(state.Vhost0, v.GetMacAddress()), MTU: int(mtu(v.GetMtu())),
			Queues: int(max(v.GetQueues(), 1)), Up: true,
			Loose: c.state.Fabric().GetUplink() != nil, // what comes in by it leaves by the uplink
		},
	}
	var own []netip.Prefix
	for _, a := range v.GetAddresses() {
		if p, err := netip.ParsePrefix(a); err == nil {
			s.Tap.Addresses = append(s.Tap.Addresses, p)
			own = append(own, p.Masked())
		}
	}
	if state.BorrowsAddresses(c.state.Fabric()) {
		for _, a := range c.underlay.Addresses {
			s.Tap.Addresses = append(s.Tap.Addresses, host(a))
		}
	}
	routes := c.reachable()
	if len(v.GetRoutes()) > 0 {
		routes = nil
		for _, r := range v.GetRoutes() {
			if p, err := netip.ParsePrefix(r); err == nil {
				routes = append(routes, p)
			}
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(c.standIns), netip.Addr.Compare) {
		routes = append(routes, host(c.standIns[a].address))
	}
	for _, p := range routes {
		if !covered(p, own) {
			s.Tap.Routes = append(s.Tap.Routes, tap.Route{Dst: p})
		}
	}
	return s
}

// reachable returns the prefixes that a NetworkPolicy lets the node open flows
// to: subnets of the networks, the service addresses outside them, and what routes of
// the node's own network have on other nodes.
func (c *Compiler) reachable() []netip.Prefix {
	fabric := c.networks[state.FabricNetwork]
	networks := append([]string{fabric.name}, fabric.imports...)
	var prefixes []netip.Prefix
	for _, name := range networks {
		vn := c.state.Get(state.Key{Kind: state.VirtualNetwork, Name: name}).GetVirtualNetwork()
		for _, sn := range vn.GetSubnets() {
			if p, err := netip.ParsePrefix(sn.GetPrefix()); err == nil {
				prefixes = append(prefixes, p)
			}
		}
	}
	subnets := len(prefixes)
	for _, name := range networks {
		for k := range c.state.Referring(state.Key{Kind: state.VirtualNetwork, Name: name}) {
			if k.Kind != state.FloatingIP {
				continue
			}
			f := c.fips[k.Name]
			if f == nil || !f.ingress || covered(host(f.place.Address), prefixes[:subnets]) || c.isNodeAddress(f.place.Address) {
				continue
			}
			prefixes = append(prefixes, host(f.place.Address))
		}
	}
	prefixes = append(prefixes, c.beyond(fabric)...)
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
		if d := a.Addr().Compare(b.Addr()); d != 0 {
			return d
		}
		return a.Bits() - b.Bits()
	})
	return slices.Compact(prefixes)
}

// beyond returns the prefixes that routes of a network lead to through one tunnel each.
// Not where the tunnel's own end is among them, and no single address, which may be a
// node's: those are the kernel's to reach.
func (c *Compiler) beyond(n *network) (prefixes []netip.Prefix) {
	for p, list := range n.own {
		if list[0].class != classRoute || p.IsSingleIP() {
			continue
		}
		if ends := c.leads[list[0].from]; len(ends) == 1 && !p.Contains(ends[0].Remote) {
			prefixes = append(prefixes, p)
		}
	}
	return prefixes
}

// covered reports whether one of list holds all of p.
func covered(p netip.Prefix, list []netip.Prefix) bool {
	return slices.ContainsFunc(list, func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) })
}
