package agent

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/vrouter-go/vrouter/agent/compile"
	"github.com/vrouter-go/vrouter/agent/underlay"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/nexthop"
)

// surroundings are what is known of the other nodes beside desired state. Guarded by
// turn.
type surroundings struct {
	view underlay.View
	dead map[netip.Addr]struct{} // peers that do not answer though a way leads there
}

// Underlay takes up how the other nodes are reached now. It is published at once,
// under the generation that is in force, and nothing else changes.
func (a *Agent) Underlay(v underlay.View) {
	a.turn.Lock()
	defer a.turn.Unlock()
	old, addresses := a.around.view.Link.Index, a.around.view.Addresses
	a.around.view = v
	a.republish()
	if !slices.Equal(addresses, v.Addresses) {
		a.renewHostPorts()
	}
	if snap := a.options.Forwarder.Snapshot(); old != 0 && old != v.Link.Index && snap.Uplink != 0 {
		a.ports.LinkChanged(snap.Uplink) // it was deleted; what has its name now is another
	}
}

// PeerDown takes up that a node does not answer at an address though a way leads
// there, or that it does again: no new flow goes to a node that is down.
func (a *Agent) PeerDown(peer netip.Addr, down bool) {
	a.turn.Lock()
	defer a.turn.Unlock()
	if _, was := a.around.dead[peer]; was == down {
		return
	}
	dead := maps.Clone(a.around.dead)
	if dead == nil {
		dead = map[netip.Addr]struct{}{}
	}
	if dead[peer] = struct{}{}; !down {
		delete(dead, peer)
	}
	a.around.dead = dead
	a.republish()
}

// republish compiles what is known of the other nodes into the state in force.
func (a *Agent) republish() {
	seen := a.around // what it holds never changes
	a.seen.Store(&seen)
	u := a.around.compiled()
	u.Exits = a.exits()
	u.Neighbors = a.neighbors()
	r, err := a.compiler.SetUnderlay(u)
	if err != nil {
		a.log.Error("the ways to the other nodes cannot be programmed", "error", err)
		return
	}
	a.program(r)
}

// exits are the routes out of the uplink to its link, and those whose gateway is
// resolved.
func (a *Agent) exits() []compile.Exit {
	var list []compile.Exit
	for _, x := range a.around.view.Exits {
		if !x.Gateway.IsValid() {
			list = append(list, compile.Exit{Prefix: x.Prefix, NextHop: forwarder.OnLinkNextHop})
			continue
		}
		if x.MAC == ([6]byte{}) {
			continue
		}
		if slot, ok := a.options.Forwarder.Neighbor(x.MAC); ok {
			list = append(list, compile.Exit{Prefix: x.Prefix, NextHop: forwarder.NeighborNextHop(slot)})
		}
	}
	return list
}

// maxHosts is how many MAC addresses of hosts on the uplink's link get a slot in the
// forwarder. Slots are never taken back; the rest are for gateways, and for those who
// open connections from there.
const maxHosts = forwarder.MaxNeighbors / 2

// neighbors are the next hops of the hosts on the uplink's link.
func (a *Agent) neighbors() map[[16]byte]nexthop.ID {
	list := make(map[[16]byte]nexthop.ID, len(a.around.view.Neighbors))
	for address, mac := range a.around.view.Neighbors {
		hop, had := a.hosts[mac]
		if !had {
			slot, ok := uint32(0), len(a.hosts) < maxHosts
			if ok {
				slot, ok = a.options.Forwarder.Neighbor(mac)
			}
			if !ok {
				a.fullHosts.Do(func() {
					a.log.Warn("more hosts on the uplink's link than can be told apart; new ones are not reached until the daemon starts again",
						"hosts", len(a.hosts))
				})
				continue
			}
			hop = forwarder.NeighborNextHop(slot)
			a.hosts[mac] = hop
		}
		list[address.As16()] = hop
	}
	return list
}

// askInterval is how soon the kernel is asked for a host that a flow wants to reach.
const askInterval = 50 * time.Millisecond

// askNeighbors has the kernel find the hosts on the uplink's link that flows want to
// reach.
func (a *Agent) askNeighbors(ctx context.Context) error {
	tick := time.NewTicker(askInterval)
	defer tick.Stop()
	var list []netip.Addr
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		list = list[:0]
		a.options.Forwarder.DrainWanted(func(address [16]byte) { list = append(list, netip.AddrFrom16(address).Unmap()) })
		if len(list) > 0 {
			a.options.Watcher.Ask(list)
		}
	}
}

// compiled writes the surroundings as the compiler takes them.
func (s *surroundings) compiled() *compile.Underlay {
	u := &compile.Underlay{
		MAC: s.view.Link.MAC, MTU: int32(min(s.view.Link.MTU, maxMTU)), Addresses: s.view.Addresses,
		Peers: make(map[netip.Addr]compile.Path, len(s.view.Paths)),
	}
	for peer, p := range s.view.Paths {
		u.Peers[peer] = compile.Path{
			MAC: p.MAC, Resolved: p.State == underlay.Resolved, MTU: int32(min(p.MTU, maxMTU)),
		}
		if p.State == underlay.Failed || p.State == underlay.NoRoute {
			way := u.Peers[peer]
			way.Down, way.Unreachable = true, true
			u.Peers[peer] = way
		}
	}
	for peer := range s.dead {
		p := u.Peers[peer]
		p.Down = true
		u.Peers[peer] = p
	}
	return u
}

// known returns what is known of the other nodes.
func (a *Agent) known() *surroundings {
	if s := a.seen.Load(); s != nil {
		return s
	}
	return &surroundings{}
}

// maxMTU is the longest IP packet in bytes: an uplink may take frames of more.
const maxMTU = 65535

// maxWatchedHosts bounds the members elsewhere that the kernel is made to know before a
// flow wants to reach them: its table is the node's. Others are asked for then.
const maxWatchedHosts = 512

// target is what has to be watched for a snapshot.
func target(r *compile.Result) underlay.Target {
	up := r.Snapshot.Uplink
	if up == 0 || r.Ports[up] == nil || r.Ports[up].Uplink == nil {
		return underlay.Target{}
	}
	t := underlay.Target{Device: r.Ports[up].Uplink.Device, Netns: r.Ports[up].Uplink.Netns}
	peers := make(map[netip.Addr]struct{}, len(r.Snapshot.Peers))
	for i := range r.Snapshot.Peers {
		if p := &r.Snapshot.Peers[i]; p.Address != (forwarder.Peer{}).Address {
			peer := netip.AddrFrom16(p.Address).Unmap()
			peers[peer] = struct{}{}
			t.Peers = append(t.Peers, peer)
		}
	}
	for _, h := range r.Hosts[:min(len(r.Hosts), maxWatchedHosts)] {
		if _, known := peers[h]; !known {
			t.Peers = append(t.Peers, h)
		}
	}
	return t
}
