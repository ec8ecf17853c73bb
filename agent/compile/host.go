package compile

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/nodeport"
	"github.com/vrouter-go/vrouter/nexthop"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// hostMember is a member that is a host: the node itself behind vhost0, or one that
// ip-fabric has the way to. While the kernel says that the way there is dead it takes no
// new flow. BFD says nothing about a host: it may well serve while its vRouter does not.
func (c *Compiler) hostMember(id uint32, m *pb.Member) member {
	r := member{
		Member: nexthop.Member{
			ID: id, Weight: uint16(max(m.GetWeight(), 1)), State: memberState(m.GetState()),
			NextHop: hopVRF + nexthop.ID(forwarder.FabricVRF),
		},
		vmi: m.GetVirtualMachineInterface(), targets: m.GetTargetPorts(),
	}
	a, err := netip.ParseAddr(m.GetAddress())
	if err != nil {
		return r
	}
	r.Address = a.As16()
	switch {
	case c.isNodeAddress(a):
		r.NextHop, r.Interface = forwarder.InterfaceNextHop(vhostPort), vhostPort
	case c.underlay.Peers[a].Unreachable:
		r.State = nexthop.Draining
	}
	return r
}

// note keeps the hosts elsewhere that a floating IP, which may be nil, has as members.
func (c *Compiler) note(name string, fip *pb.FloatingIP) {
	var hosts []netip.Addr
	some := false
	for _, m := range fip.GetMembers() {
		a, err := netip.ParseAddr(m.GetAddress())
		if !m.GetHost() || err != nil {
			continue
		}
		if some = true; !c.isNodeAddress(a) {
			hosts = append(hosts, a)
		}
	}
	for _, a := range c.hosted[name] {
		if c.hosts[a]--; c.hosts[a] == 0 {
			delete(c.hosts, a)
			c.dirty.hosts = true
		}
	}
	for _, a := range hosts {
		c.dirty.hosts = c.dirty.hosts || c.hosts[a] == 0
		c.hosts[a]++
	}
	if c.hosted[name] = hosts; !some {
		delete(c.hosted, name)
	}
}

// hostList returns the hosts elsewhere that are members, in order.
func (c *Compiler) hostList() []netip.Addr {
	if c.dirty.hosts {
		c.now.hosts = slices.SortedFunc(maps.Keys(c.hosts), netip.Addr.Compare)
	}
	return c.now.hosts
}

// exits is the table of the ways out of the uplink, where hosts are reached by them.
func (c *Compiler) exits() *nexthop.FIB {
	if len(c.hosts) == 0 || c.now.uplink == 0 {
		return nil
	}
	if !slices.Equal(c.now.exitsOf, c.underlay.Exits) || c.now.exits == nil {
		c.now.exitsOf = c.underlay.Exits
		id := c.networks[state.FabricNetwork].id
		c.now.exits = nexthop.NewFIB(func(yield func(netip.Prefix, nexthop.Route) bool) {
			for _, e := range c.now.exitsOf {
				if !yield(e.Prefix, nexthop.Route{NextHop: e.NextHop, Network: id}) {
					return
				}
			}
		})
	}
	return c.now.exits
}

// standIn is an address of the node with mapped ports, as the node's own processes
// reach it.
type standIn struct {
	address netip.Addr
	ports   []nodeport.Port
}

func standInName(p state.Place) string { return "stand-in " + p.Address.String() }

// maxStandIns is the highest number of an address that stands in.
const maxStandIns = 254

// openToNode lets the node's own processes call the ports that are mapped at an address
// of the node, which its kernel would keep: f is what stands there, nil if nothing does
// any more. Where there are more such addresses than numbers, the node does not reach
// the last ones.
func (c *Compiler) openToNode(p state.Place, f *forwarder.FloatingIP, owners map[forwarder.PortKey]string) error {
	if p.Network != state.FabricNetwork {
		return nil // another network may have the same address for somebody else
	}
	name := standInName(p)
	k := state.Key{Kind: state.FloatingIP, Name: name} // no resource is called so
	if f == nil || !f.Ingress || len(f.Mappings) == 0 || f.Fallback == 0 {
		if _, had := c.standIns[p.Address]; had {
			c.nameShared(name, nil)
			c.place(k, nil)
			c.dropService(name)
			c.standInSlots.release(name)
			delete(c.standIns, p.Address)
			c.dirty.nodePorts, c.dirty.vhost = true, true
		}
		return nil
	}
	number, err := c.standInSlots.get(name)
	if err != nil {
		return nil
	}
	f.StandIn = forwarder.StandIn(uint8(number), p.Address.Is4())
	private := *f
	private.Address, private.StandIn, private.Fallback, private.Private = f.StandIn, [16]byte{}, 0, true
	hop, err := c.setService(name, &private)
	if err != nil {
		return err
	}
	c.nameShared(name, owners)
	s := standIn{address: netip.AddrFrom16(f.StandIn).Unmap()}
	c.place(k, []placement{{p.Network, host(s.address), contribution{class: classService, route: nexthop.Route{NextHop: hop, Network: f.Network}}}})
	for key := range f.Mappings {
		s.ports = append(s.ports, nodeport.Port{Address: p.Address, StandIn: s.address, Protocol: key.Proto, Port: key.Port})
	}
	slices.SortFunc(s.ports, nodeport.Port.Compare)
	old, had := c.standIns[p.Address]
	if !had || !slices.Equal(old.ports, s.ports) {
		c.dirty.nodePorts, c.dirty.vhost = true, c.dirty.vhost || !had
	}
	c.standIns[p.Address] = s
	return nil
}

// NodePorts are the mapped ports at the node's own addresses.
type NodePorts struct {
	Netns string // where the node's addresses are; "" is the daemon's own
	Ports []nodeport.Port
}

// nodePorts returns them in order. The list is that of before while nothing changes.
func (c *Compiler) nodePorts() NodePorts {
	if c.dirty.nodePorts {
		c.now.nodePorts = nil
		for _, s := range c.standIns {
			c.now.nodePorts = append(c.now.nodePorts, s.ports...)
		}
		slices.SortFunc(c.now.nodePorts, nodeport.Port.Compare)
	}
	return NodePorts{Netns: c.state.Fabric().GetVhost0().GetNetns(), Ports: c.now.nodePorts}
}
