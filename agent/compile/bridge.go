package compile

import (
	"fmt"
	"maps"
	"slices"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/nexthop"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// The bridge tables of networks that bridge: what Routes say of MAC addresses, and
// flood lists.

// bridgeEntry is what a Route puts into a network's bridge table: where one MAC address
// is, or where floods go.
type bridgeEntry struct {
	network string
	mac     [6]byte // of a MAC address
	flood   bool
	hops    []nexthop.ID // one, or those of a flood list
}

// bridgeRoute takes up what a Route says of a bridge table, nil for nothing. It reports
// whether the Route is such a one.
func (c *Compiler) bridgeRoute(k state.Key, n *network, r *pb.Route) (bool, error) {
	if n == nil || r.GetMacAddress() == "" && !r.GetFlood() {
		c.setBridgeEntry(k, nil)
		return false, nil
	}
	e := &bridgeEntry{network: n.name, flood: r.GetFlood()}
	if !e.flood {
		e.mac = [6]byte(state.MAC("", r.GetMacAddress()))
	}
	var ends []state.Endpoint
	for _, hop := range r.GetNextHops() {
		if hop.GetTunnel() == nil {
			continue
		}
		end, ok := state.SegmentEndpointOf(c.state.Fabric(), hop.GetTunnel())
		if !ok {
			return true, fmt.Errorf("tunnel to %s: VXLAN does not fit", hop.GetTunnel().GetRemote())
		}
		ends = append(ends, end)
	}
	if err := c.lead(k, ends, false); err != nil {
		return true, err
	}
	for _, hop := range r.GetNextHops() {
		if hop.GetTunnel() == nil {
			e.hops = append(e.hops, c.wayTo(hop.GetInterface()).hop)
			continue
		}
		e.hops = append(e.hops, c.tunnelHop(ends[0]))
		ends = ends[1:]
	}
	c.setBridgeEntry(k, e)
	return true, nil
}

// setBridgeEntry replaces what a Route says of a bridge table.
func (c *Compiler) setBridgeEntry(k state.Key, e *bridgeEntry) {
	old := c.bridged[k]
	switch {
	case old == nil && e == nil:
		return
	case old != nil && e != nil && old.network == e.network && old.mac == e.mac && old.flood == e.flood && slices.Equal(old.hops, e.hops):
		return
	}
	for _, x := range []*bridgeEntry{old, e} {
		if x != nil {
			c.dirty.bridges[x.network] = struct{}{}
		}
	}
	if e == nil {
		delete(c.bridged, k)
	} else {
		c.bridged[k] = e
	}
	if old != nil {
		delete(c.segments[old.network], k)
	}
	if e != nil {
		if c.segments[e.network] == nil {
			c.segments[e.network] = map[state.Key]*bridgeEntry{}
		}
		c.segments[e.network][k] = e
	}
}

// compileBridges builds the bridge tables of networks that have changed. A table that
// differs by some MAC addresses is built anew: of all that a node keeps it is the
// smallest.
func (c *Compiler) compileBridges(affected []state.Key) error {
	for name := range of(affected, state.VirtualNetwork) {
		c.dirty.bridges[name] = struct{}{}
	}
	for name := range c.dirty.bridges {
		n := c.networks[name]
		if n == nil {
			continue
		}
		vn := c.state.Get(state.Key{Kind: state.VirtualNetwork, Name: name}).GetVirtualNetwork()
		if !vn.GetBridging() {
			c.now.vrfs[n.vrf].Bridge = nil
			continue
		}
		b := &forwarder.Bridge{MACs: map[[6]byte]nexthop.ID{}}
		for _, k := range slices.SortedFunc(maps.Keys(c.segments[name]), state.Key.Compare) {
			if e := c.segments[name][k]; e.flood {
				b.Flood = append(b.Flood, e.hops...)
			} else {
				b.MACs[e.mac] = e.hops[0]
			}
		}
		c.now.vrfs[n.vrf].Bridge = b
	}
	return nil
}
