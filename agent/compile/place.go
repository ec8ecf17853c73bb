package compile

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/nexthop"
)

// compilePlace compiles what stands at one address: usually one floating IP,
// several where each serves ports of its own.
func (c *Compiler) compilePlace(p state.Place) error {
	name := placeName(p)
	k := state.Key{Kind: state.FloatingIP, Name: name} // no resource is called so: names hold no blank
	all := c.state.FloatingIPsAt(p)
	if len(all) == 0 || c.networks[p.Network] == nil {
		c.nameShared(name, nil)
		c.place(k, nil)
		c.dropService(name)
		return nil
	}
	f := &forwarder.FloatingIP{
		Name: all[0], Address: p.Address.As16(),
		Network: c.networks[p.Network].id, VRF: c.networks[p.Network].vrf,
	}
	owners := map[forwarder.PortKey]string{}
	for _, fipName := range all {
		part := c.fips[fipName]
		if part == nil {
			continue // compiled later in this transaction, which comes here again
		}
		f.Ingress = f.Ingress || part.ingress
		if len(all) == 1 {
			f.Whole, f.Mappings = part.whole, part.mappings
			break
		}
		if f.Mappings == nil {
			f.Mappings = map[forwarder.PortKey]*forwarder.Service{}
		}
		for key, svc := range part.mappings {
			f.Mappings[key], owners[key] = svc, fipName
		}
	}
	if p.Network == state.FabricNetwork && c.isNodeAddress(p.Address) {
		f.Fallback = forwarder.InterfaceNextHop(vhostPort)
	}
	hop, err := c.setService(name, f)
	if err != nil {
		return err
	}
	c.nameShared(name, owners)
	c.place(k, []placement{{p.Network, host(p.Address), contribution{
		class: classService, route: nexthop.Route{NextHop: hop, Network: f.Network}, leak: true,
	}}})
	return nil
}

// nameShared notes which floating IP serves which port of a shared address.
func (c *Compiler) nameShared(slot string, owners map[forwarder.PortKey]string) {
	at, known := c.serviceSlots.byName[slot]
	id := uint32(at) + 1
	if old := c.policies.names.shared[id]; !known || len(old) == 0 && len(owners) == 0 {
		return
	}
	shared := maps.Clone(c.policies.names.shared)
	if shared == nil {
		shared = map[uint32]map[forwarder.PortKey]string{}
	}
	if shared[id] = owners; len(owners) == 0 {
		delete(shared, id)
	}
	c.policies.names = &Names{rules: c.policies.names.rules, shared: shared}
}

// setService puts a service address into the snapshot and returns its next hop.
func (c *Compiler) setService(name string, f *forwarder.FloatingIP) (nexthop.ID, error) {
	slot, err := c.serviceSlots.get(name)
	if err != nil {
		return 0, err
	}
	f.ID = uint32(slot) + 1
	c.now.floating = grow(c.now.floating, slot)
	c.dirty.hops = c.dirty.hops || c.now.floating[slot] == nil
	c.now.floating[slot] = f
	return hopService + nexthop.ID(slot), nil
}

func (c *Compiler) dropService(name string) {
	if slot, ok := c.serviceSlots.byName[name]; ok {
		c.now.floating[slot] = nil
		c.dirty.hops = true
		c.serviceSlots.release(name)
	}
}

func (c *Compiler) isNodeAddress(a netip.Addr) bool {
	f := c.state.Fabric()
	return f.GetVhost0() != nil && slices.Contains(state.NodeAddresses(f), a)
}

// compileInstanceIPs routes shared addresses: to the one interface that has it,
// or to all of them by ECMP without translation.
func (c *Compiler) compileInstanceIPs(affected []state.Key) error {
	for name := range of(affected, state.InstanceIP) {
		k := state.Key{Kind: state.InstanceIP, Name: name}
		ip := c.state.Get(k).GetInstanceIp()
		slot := "iip " + name
		owners := ip.GetVirtualMachineInterfaces()
		c.use(k, owners)
		addr, err := netip.ParseAddr(ip.GetAddress())
		if err != nil || len(owners) == 0 {
			c.place(k, nil)
			c.dropService(slot)
			continue
		}
		n := c.networks[ip.GetVirtualNetwork()]
		hop, err := c.spread(slot, name, n, addr, owners)
		if err != nil {
			return err
		}
		c.place(k, []placement{{n.name, host(addr), contribution{
			class: classWorkload, route: nexthop.Route{NextHop: hop, Network: n.id}, leak: true,
		}}})
	}
	return nil
}

// spread returns the next hop to one or several interfaces that all answer for
// an address, or for all of a prefix that addr begins. With several it is a
// service without translation.
func (c *Compiler) spread(slot, name string, n *network, addr netip.Addr, vmis []string) (nexthop.ID, error) {
	if len(vmis) == 1 {
		c.dropService(slot)
		return forwarder.InterfaceNextHop(c.portOf(vmis[0])), nil
	}
	members := make([]nexthop.Member, 0, len(vmis))
	for _, vmi := range vmis {
		p := c.portOf(vmi)
		members = append(members, nexthop.Member{
			ID: memberID(slot, vmi, 0), Weight: 1,
			NextHop: forwarder.InterfaceNextHop(p), Interface: p, // no address: the destination stays
		})
	}
	group, err := nexthop.NewGroup(members)
	if err != nil {
		return 0, err
	}
	c.affinityID++
	return c.setService(slot, &forwarder.FloatingIP{
		Name: name, Address: addr.As16(), Network: n.id, VRF: n.vrf, Ingress: true,
		Whole: &forwarder.Service{ID: c.affinityID, Group: group},
	})
}

// portOf returns the port of an interface by name, vhost0 included.
func (c *Compiler) portOf(name string) uint16 {
	if name == state.Vhost0 {
		return vhostPort
	}
	return c.vmis[name].port
}

// compileRoutes puts in the routes that users give.
func (c *Compiler) compileRoutes(affected []state.Key) error {
	for name := range of(affected, state.Route) {
		k := state.Key{Kind: state.Route, Name: name}
		r := c.state.Get(k).GetRoute()
		slot := "route " + name
		n := c.networks[c.state.NetworkOfVRF(r.GetVrf())]
		prefix, err := netip.ParsePrefix(r.GetPrefix())
		if err != nil || n == nil {
			c.place(k, nil)
			c.dropService(slot)
			continue
		}
		route, leak := nexthop.Route{Network: n.id}, true
		switch first := r.GetNextHops()[0]; {
		case first.GetReceive():
			route.NextHop = hopReceive
		case first.GetDiscard():
			route.NextHop = nexthop.ID(forwarder.DropDiscardRoute)
		case first.GetVrf() != "":
			route.NextHop = hopVRF + nexthop.ID(c.networks[c.state.NetworkOfVRF(first.GetVrf())].vrf)
			leak = false // it would lead importers on to a network that no policy joins them with
		default:
			vmis := make([]string, len(r.GetNextHops()))
			for i, hop := range r.GetNextHops() {
				vmis[i] = hop.GetInterface()
			}
			route.Network = c.networkOfPort(vmis[0])
			if route.NextHop, err = c.spread(slot, name, n, prefix.Addr(), vmis); err != nil {
				return err
			}
		}
		if len(r.GetNextHops()) == 1 {
			c.dropService(slot)
		}
		c.place(k, []placement{{n.name, prefix, contribution{class: classRoute, route: route, leak: leak}}})
	}
	return nil
}

// networkOfPort returns policy's number of the network that a port stands in.
func (c *Compiler) networkOfPort(name string) uint32 {
	if name == state.Vhost0 {
		return c.networks[state.FabricNetwork].id
	}
	vmi := c.state.Get(state.Key{Kind: state.VirtualMachineInterface, Name: name}).GetVirtualMachineInterface()
	return c.networks[vmi.GetVirtualNetwork()].id
}
