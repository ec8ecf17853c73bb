package compile

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/nexthop"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
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
		return c.openToNode(p, nil, nil)
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
		f.Egress = f.Egress || part.egress
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
	if err := c.openToNode(p, f, owners); err != nil {
		return err
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
	c.now.floating[slot] = f
	c.setHop(hopService(slot), nexthop.NextHop{Kind: nexthop.FloatingIP, Index: uint32(slot)})
	return hopService(slot), nil
}

func (c *Compiler) dropService(name string) {
	if slot, ok := c.serviceSlots.byName[name]; ok {
		c.now.floating[slot] = nil
		c.setHop(hopService(slot), nexthop.NextHop{})
		c.serviceSlots.release(name)
	}
}

func (c *Compiler) isNodeAddress(a netip.Addr) bool {
	return c.state.Fabric().GetVhost0() != nil && slices.Contains(c.nodeAddresses(), a)
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
		ways := make([]way, len(owners))
		for i, owner := range owners {
			ways[i] = c.wayTo(owner)
		}
		hop, err := c.spread(slot, name, n, addr, ways)
		if err != nil {
			return err
		}
		c.place(k, []placement{{n.name, host(addr), contribution{
			class: classWorkload, route: nexthop.Route{NextHop: hop, Network: n.id}, leak: true,
		}}})
	}
	return nil
}

// way is one of the next hops that share an address or a prefix.
type way struct {
	name string // tells it apart from the others
	hop  nexthop.ID
	port uint16 // of the interface; 0 for a tunnel
	// weight is the share, 0 for 1; down says that it takes no new flow.
	weight uint32
	down   bool
}

// wayTo is the way to an interface of this node.
func (c *Compiler) wayTo(vmi string) way {
	p := c.portOf(vmi)
	return way{name: vmi, hop: forwarder.InterfaceNextHop(p), port: p}
}

// spread returns the next hop to one or several ways that all lead to an address,
// or to all of a prefix that addr begins. With several it is a service without
// translation.
func (c *Compiler) spread(slot, name string, n *network, addr netip.Addr, ways []way) (nexthop.ID, error) {
	if len(ways) == 1 {
		c.dropService(slot)
		return ways[0].hop, nil
	}
	ways = slices.SortedFunc(slices.Values(ways), func(a, b way) int { return strings.Compare(a.name, b.name) })
	ids := memberIDs{}
	members := make([]nexthop.Member, 0, len(ways))
	for _, w := range ways {
		m := nexthop.Member{
			ID: ids.next(slot, w.name), Weight: uint16(max(w.weight, 1)),
			NextHop: w.hop, Interface: w.port, // no address: the destination stays
		}
		if w.down {
			m.State = nexthop.Draining
		}
		members = append(members, m)
	}
	group, err := nexthop.NewGroup(members)
	if err != nil {
		return 0, err
	}
	c.affinityID++
	return c.setService(slot, &forwarder.FloatingIP{
		Name: name, Address: addr.As16(), Network: n.id, VRF: n.vrf, Ingress: true, Egress: true,
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
		bridged, err := c.bridgeRoute(k, n, r)
		if err != nil {
			return err
		}
		prefix, err := netip.ParsePrefix(r.GetPrefix())
		if err != nil || n == nil {
			c.dirty.vhost = c.place(k, nil) || c.dirty.vhost
			c.dropService(slot)
			if bridged {
				continue
			}
			if err := c.lead(k, nil, false); err != nil {
				return err
			}
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
			ways, err := c.ways(k, r)
			if err != nil {
				return err
			}
			if i := slices.IndexFunc(r.GetNextHops(), func(h *pb.NextHop) bool { return h.GetInterface() != "" }); i >= 0 {
				route.Network = c.networkOfPort(r.GetNextHops()[i].GetInterface())
			}
			if route.NextHop, err = c.spread(slot, name, n, prefix.Addr(), ways); err != nil {
				return err
			}
		}
		if len(r.GetNextHops()) == 1 {
			c.dropService(slot)
			if r.GetNextHops()[0].GetTunnel() == nil {
				if err := c.lead(k, nil, false); err != nil {
					return err
				}
			}
		}
		c.dirty.vhost = c.place(k, []placement{{n.name, prefix, contribution{class: classRoute, route: route, leak: leak}}}) || c.dirty.vhost
	}
	return nil
}

// ways returns the interfaces and tunnels that a route leads to.
func (c *Compiler) ways(k state.Key, r *pb.Route) ([]way, error) {
	ways := make([]way, len(r.GetNextHops()))
	var ends []state.Endpoint
	for i, hop := range r.GetNextHops() {
		if hop.GetTunnel() == nil {
			ways[i] = c.wayTo(hop.GetInterface())
		} else {
			end, err := c.tunnelEnd(hop.GetTunnel())
			if err != nil {
				return nil, err
			}
			ends = append(ends, end)
		}
		ways[i].weight = hop.GetWeight()
	}
	if err := c.lead(k, ends, len(ways) > 1); err != nil {
		return nil, err
	}
	for i, hop := range r.GetNextHops() {
		if hop.GetTunnel() != nil {
			end := ends[0]
			ends = ends[1:]
			ways[i].name, ways[i].hop, ways[i].down = end.String(), c.tunnelHop(end), c.underlay.Peers[end.Remote].Down
		}
	}
	return ways, nil
}

// networkOfPort returns policy's number of the network that a port stands in.
func (c *Compiler) networkOfPort(name string) uint32 {
	if name == state.Vhost0 {
		return c.networks[state.FabricNetwork].id
	}
	return c.networks[c.state.Interface(name).GetVirtualNetwork()].id
}
