package compile

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/nexthop"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Sessions keep the next hop of a tunnel, so a tunnel has one place in the
// snapshot for as long as any resource leads through it.

// tunnel is a tunnel in use.
type tunnel struct {
	slot  int
	users int // resources that lead through it, once for each time
}

// lead notes the tunnels that a resource leads through, instead of those that it
// led through. grouped says that it chooses among them, so that it has to know
// which of the nodes behind them are down.
func (c *Compiler) lead(k state.Key, ends []state.Endpoint, grouped bool) error {
	for _, end := range ends {
		t := c.tunnels[end]
		if t == nil {
			slot, err := c.tunnelSlots.get(end)
			if err != nil {
				return err
			}
			p, err := c.acquirePeer(end.Remote)
			if err != nil {
				return err
			}
			t = &tunnel{slot: slot}
			c.tunnels[end] = t
			c.changeTunnel(slot, forwarder.Tunnel{
				Peer: uint32(p.slot), Encapsulation: encapsulation(end.Encapsulation),
				Identifier: end.Identifier, InnerMAC: end.InnerMAC, Used: true,
			})
		}
		t.users++
	}
	for _, end := range c.leads[k] {
		if t := c.tunnels[end]; t != nil {
			if t.users--; t.users == 0 {
				c.dirty.idle = append(c.dirty.idle, end) // another resource may take it up yet
			}
		}
	}
	delete(c.leads, k)
	delete(c.groups, k)
	if len(ends) > 0 {
		c.leads[k] = ends
		if grouped {
			c.groups[k] = ends
		}
	}
	return nil
}

// changeTunnel changes the list of tunnels, which the last snapshot shares.
func (c *Compiler) changeTunnel(slot int, t forwarder.Tunnel) {
	if !c.dirty.tunnels {
		c.dirty.tunnels = true
		c.now.tunnels = append(make([]forwarder.Tunnel, 0, len(c.now.tunnels)*9/8+16), c.now.tunnels...)
	}
	c.now.tunnels = grow(c.now.tunnels, slot)
	c.now.tunnels[slot] = t
	hop := nexthop.NextHop{}
	if t.Used {
		hop = nexthop.NextHop{Kind: nexthop.Tunnel, Index: uint32(slot)}
	}
	c.setHop(hopTunnel(slot), hop)
}

// dropIdleTunnels takes back the places of tunnels that nothing leads through any
// more.
func (c *Compiler) dropIdleTunnels([]state.Key) error {
	for _, end := range c.dirty.idle {
		t := c.tunnels[end]
		if t == nil || t.users > 0 {
			continue
		}
		c.changeTunnel(t.slot, forwarder.Tunnel{})
		c.tunnelSlots.release(end)
		delete(c.tunnels, end)
		c.releasePeer(end.Remote)
	}
	return nil
}

// tunnelHop is the next hop of a tunnel that some resource leads through.
func (c *Compiler) tunnelHop(end state.Endpoint) nexthop.ID { return hopTunnel(c.tunnels[end].slot) }

func encapsulation(e pb.Encapsulation_Value) forwarder.Encapsulation {
	switch e {
	case pb.Encapsulation_VXLAN:
		return forwarder.VXLAN
	case pb.Encapsulation_MPLS_GRE:
		return forwarder.MPLSoverGRE
	}
	return forwarder.MPLSoverUDP
}

// peer is another node's address that the snapshot has.
type peer struct {
	slot  int
	users int    // tunnels to it, and the node's description where it lists it
	name  string // from the node's description; "" there is none
}

func (c *Compiler) acquirePeer(a netip.Addr) (*peer, error) {
	p := c.peers[a]
	if p == nil {
		slot, err := c.peerSlots.get(a)
		if err != nil {
			return nil, err
		}
		p = &peer{slot: slot}
		c.peers[a] = p
		c.dirty.peers = true
	}
	p.users++
	return p, nil
}

func (c *Compiler) releasePeer(a netip.Addr) {
	p := c.peers[a]
	if p.users--; p.users == 0 {
		c.peerSlots.release(a)
		delete(c.peers, a)
		c.dirty.peers = true
	}
}

// compileNodes takes up the other nodes that the description of this one lists.
func (c *Compiler) compileNodes(affected []state.Key) error {
	if !slices.ContainsFunc(affected, func(k state.Key) bool { return k.Kind == state.Fabric }) {
		return nil
	}
	listed := map[netip.Addr]string{}
	for _, p := range c.state.Fabric().GetPeers() {
		for _, s := range p.GetAddresses() {
			if a, err := netip.ParseAddr(s); err == nil {
				listed[a] = p.GetName()
			}
		}
	}
	if maps.Equal(listed, c.listed) {
		return nil
	}
	c.dirty.peers = true
	inOrder := slices.SortedFunc(maps.Keys(listed), netip.Addr.Compare) // so that slots do not depend on the map's order
	for _, a := range inOrder {
		p := c.peers[a]
		if _, had := c.listed[a]; !had {
			var err error
			if p, err = c.acquirePeer(a); err != nil {
				return err
			}
		}
		p.name = listed[a]
	}
	for a := range c.listed {
		if _, stays := listed[a]; !stays {
			c.peers[a].name = ""
			c.releasePeer(a)
		}
	}
	c.listed = listed
	return nil
}

// finishPeers brings the list of the other nodes up to date. It comes after the
// routing tables, which say where a node's own VRF is.
func (c *Compiler) finishPeers([]state.Key) error {
	fib := c.now.vrfs[forwarder.FabricVRF].FIB
	if !c.dirty.peers && !c.dirty.tunnels && fib == c.peersFIB {
		return nil
	}
	c.peersFIB = fib
	local4, local6 := c.localAddresses()
	list := make([]forwarder.Peer, c.peerSlots.end())
	for a, p := range c.peers {
		path := c.underlay.Peers[a]
		v := forwarder.Peer{
			Name: p.name, Address: a.As16(), Local: local6.As16(),
			Neighbor: path.MAC, Resolved: path.Resolved, Down: path.Down, MTU: path.MTU,
		}
		if a.Is4() {
			v.Local = local4.As16()
		}
		if v.Name == "" {
			v.Name = a.String()
		}
		if v.MTU == 0 {
			v.MTU = c.uplinkMTU()
		}
		v.Return = c.returnTo(fib, &v.Address, uint32(p.slot))
		list[p.slot] = v
	}
	if !slices.Equal(list, c.now.peers) {
		c.now.peers = list
	}
	return nil
}

// returnTo is the tunnel to a node's own VRF: that of the node's route to it.
func (c *Compiler) returnTo(fib *nexthop.FIB, addr *[16]byte, slot uint32) nexthop.ID {
	route, ok := fib.Lookup(addr)
	if !ok {
		return 0
	}
	at, isTunnel := tunnelAt(route.NextHop)
	if !isTunnel || at >= len(c.now.tunnels) || c.now.tunnels[at].Peer != slot {
		return 0
	}
	return route.NextHop
}

// localAddresses are those that tunnels start from, one of each family: the first
// of vhost0's, else the first of the node's others. Unspecified where there is
// none.
func (c *Compiler) localAddresses() (local4, local6 netip.Addr) {
	f := c.state.Fabric()
	all := c.nodeAddresses()
	others := len(f.GetNodeAddresses())
	local4, local6 = netip.IPv6Unspecified(), netip.IPv6Unspecified()
	for _, a := range append(slices.Clone(all[others:]), all[:others]...) {
		switch {
		case a.Is4() && !local4.Is4():
			local4 = a
		case a.Is6() && local6.IsUnspecified():
			local6 = a
		}
	}
	return local4, local6
}

// tunnelEnd returns where a tunnel leads.
func (c *Compiler) tunnelEnd(t *pb.Tunnel) (state.Endpoint, error) {
	end, ok := state.EndpointOf(c.state.Fabric(), t)
	if !ok {
		return end, fmt.Errorf("tunnel to %s: no encapsulation fits", t.GetRemote())
	}
	return end, nil
}
