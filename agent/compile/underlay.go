package compile

import (
	"net/netip"
	"slices"

	"github.com/vrouter-go/vrouter/agent/ports"
	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/nexthop"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Underlay is what the node has found out about its uplink and the ways to the
// other nodes. Nobody desires it, so it is no part of the state and of no
// generation. It never changes once it is given.
type Underlay struct {
	MAC [6]byte // of the uplink; zero: not known
	MTU int32   // of the uplink, in bytes of an IP packet; 0: not known
	// Addresses of the uplink that can be reached from other nodes, in order.
	Addresses []netip.Addr
	// Peers are the ways to the other nodes, and to other hosts that are members, by
	// their address; one that is missing is not resolved.
	Peers map[netip.Addr]Path
	// Exits lead out of the uplink to what is no node of ours, in order of the
	// prefix, each prefix once.
	Exits []Exit
	// Neighbors are the next hops of the hosts on the uplink's link that are known, by
	// address in 16-byte form.
	Neighbors map[[16]byte]nexthop.ID
}

// Path is the way to another node.
type Path struct {
	MAC      [6]byte // of the next hop, valid while Resolved
	Resolved bool
	Down     bool // known to be out of reach
	// Unreachable says so of the way alone: the kernel has none, or nobody answers on it.
	Unreachable bool
	MTU         int32 // bytes of an outer IP packet; 0: the uplink's
}

// Exit is a route of the kernel's out of the uplink.
type Exit struct {
	Prefix  netip.Prefix
	NextHop nexthop.ID // forwarder.NeighborNextHop of the gateway's slot, or forwarder.OnLinkNextHop
}

// SetUnderlay compiles the last state again with what has been found out since,
// which costs what depends on it: the other nodes, and the groups with members on
// a node that went down or came back. The generation stays the state's.
func (c *Compiler) SetUnderlay(u *Underlay) (*Result, error) {
	old := c.underlay
	c.underlay = u
	var affected []state.Key
	for k, ends := range c.groups {
		if slices.ContainsFunc(ends, func(e state.Endpoint) bool { return old.Peers[e.Remote].Down != u.Peers[e.Remote].Down }) {
			affected = append(affected, k)
		}
	}
	for name, hosts := range c.hosted {
		if slices.ContainsFunc(hosts, func(a netip.Addr) bool { return old.Peers[a].Unreachable != u.Peers[a].Unreachable }) {
			affected = append(affected, state.Key{Kind: state.FloatingIP, Name: name})
		}
	}
	if !slices.Equal(old.Addresses, u.Addresses) || old.MAC != u.MAC || old.MTU != u.MTU || !slices.Equal(old.Exits, u.Exits) {
		k := state.Key{Kind: state.Fabric} // nobody describes the node
		for name := range c.state.Of(state.Fabric) {
			k.Name = name
		}
		affected = append(affected, k)
	}
	slices.SortFunc(affected, state.Key.Compare)
	affected = slices.Compact(affected)
	c.underlayChanged = true
	return c.Compile(c.state, affected)
}

// nodeAddresses are the node's own: those that the state gives, and the uplink's
// where the node's port takes them.
func (c *Compiler) nodeAddresses() []netip.Addr {
	f := c.state.Fabric()
	list := state.NodeAddresses(f)
	if !state.BorrowsAddresses(f) {
		return list
	}
	for _, a := range c.underlay.Addresses {
		if !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list
}

func (c *Compiler) uplinkMTU() int32 {
	if c.underlay.MTU == 0 {
		return defaultMTU
	}
	return c.underlay.MTU
}

// exitKey holds the routes out of the uplink; no resource is called so.
var exitKey = state.Key{Kind: state.Fabric, Name: "uplink routes"}

// compileUplink builds the fabric port, which exists while Fabric describes it.
func (c *Compiler) compileUplink(affected []state.Key) error {
	if !slices.ContainsFunc(affected, func(k state.Key) bool { return k.Kind == state.Fabric }) {
		return nil
	}
	c.dirty.uplink, c.dirty.peers = true, true
	u := c.state.Fabric().GetUplink()
	if u == nil {
		c.now.interfaces[uplinkPort], c.now.specs[uplinkPort], c.now.uplink = forwarder.Interface{}, nil, 0
		c.place(exitKey, nil)
		return nil
	}
	n := c.networks[state.FabricNetwork]
	local4, local6 := c.localAddresses()
	itf := forwarder.Interface{
		Kind: forwarder.Uplink, VRF: n.vrf, Network: n.id, MTU: c.uplinkMTU(), MAC: c.underlay.MAC, Quota: c.config.UplinkQuota,
		Name: state.Uplink, Gateway4: errorSource(local4), Gateway6: local6.As16(),
	}
	if itf.MAC == ([6]byte{}) {
		itf.MAC = [6]byte(state.MAC(state.Uplink, ""))
	}
	c.now.interfaces[uplinkPort], c.now.uplink = itf, uplinkPort
	if d := uplinkSpec(u); c.now.specs[uplinkPort] == nil || !d.Equal(c.now.specs[uplinkPort]) {
		c.now.specs[uplinkPort] = d
	}
	list := make([]placement, len(c.underlay.Exits))
	for i, e := range c.underlay.Exits {
		// Networks that a policy joins with the node's own do not take these over: a
		// route says so where a workload shall reach the outside under its own address.
		list[i] = placement{n.name, e.Prefix, contribution{class: classExit, route: nexthop.Route{NextHop: e.NextHop, Network: n.id}}}
	}
	c.place(exitKey, list)
	return nil
}

// neighbors are the hosts on the uplink's link that are known, while there is one.
func (c *Compiler) neighbors() map[[16]byte]nexthop.ID {
	if c.now.uplink == 0 {
		return nil
	}
	return c.underlay.Neighbors
}

func uplinkSpec(u *pb.Uplink) *ports.Spec {
	return &ports.Spec{
		Port: uplinkPort, Name: state.Uplink, Network: state.FabricNetwork,
		Uplink: &ports.Uplink{Device: u.GetDevice(), Netns: u.GetNetns(), Queues: int(max(u.GetQueues(), 1))},
	}
}
