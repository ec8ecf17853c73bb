package forwarder

import (
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/policy"
	"github.com/vrouter-go/vrouter/nexthop"
)

// Broadcast and multicast of a bridging network: a copy for each other interface
// here and, of what came in here, one for each other node (composite replication).

// floodLimit is a token bucket for the copies that the worker makes because of one
// port, or of what other nodes send into one VRF, so that a broadcast storm costs a
// node a fixed part of its time. The zero value is full. 8 bytes, pointer-free.
type floodLimit struct{ last, spent uint32 }

// Copies per tick of 100 ms, and the depth of the bucket, which is more than the
// largest network has interfaces on a node and nodes in a flood list.
const floodRate, floodBurst = 5000, 10000 // 50,000 copies a second

// allowed takes the tokens for n copies, or none.
func (l *floodLimit) allowed(now, n uint32) bool {
	if ticks := now - l.last; ticks != 0 {
		l.last = now
		l.spent -= min(l.spent, saturate(ticks, floodRate))
	}
	if n > floodBurst-l.spent {
		return false
	}
	l.spent += n
	return true
}

// floodIP floods an IP packet to a group, or says why it is dropped.
func (w *Worker) floodIP(in *Interface, b *bridge, p *packet) DropReason {
	switch {
	case p.l.Multicast:
		if header.IsMartianDestination(p.l.Dst) {
			return DropMartianDestination
		}
	case p.l.Version != 4 || w.who(in, p.in, &p.l.Dst) != holderNone:
		return DropBroadcast // RFC 1122 §3.3.6: unicast IP inside a link-layer broadcast
	} // else it may be a broadcast address of the subnet, which nobody has
	if !validOffload(p) {
		return DropOffload
	}
	if !p.tunnel && w.snap.Policy.Isolates(policy.Egress, in.Identity) {
		return DropFloodIsolated
	}
	return w.flood(b, p, false)
}

// flood sends a packet to everybody on its segment but where it came from, or says
// why to nobody. What came by a tunnel stays here (split horizon). Interfaces that
// SecurityPolicy closes get what is essential only: without ARP and neighbour
// discovery nobody whom their policy lets in could reach them.
func (w *Worker) flood(b *bridge, p *packet, essential bool) DropReason {
	tunnels := b.control.Flood
	if p.tunnel {
		tunnels = nil
	}
	left := len(tunnels)
	for i := range b.ports {
		if b.ports[i].takes(p, essential) {
			left++
		}
	}
	if left == 0 {
		return DropFloodNobody
	}
	limit := &w.floods[p.in]
	if p.tunnel {
		limit = &w.overlayFloods[p.vrf%MaxPorts]
	}
	if !limit.allowed(w.now, uint32(left)) {
		return DropFloodLimit
	}
	for i := range b.ports {
		if b.ports[i].takes(p, essential) {
			left--
			w.copyTo(p, InterfaceNextHop(b.ports[i].index), left == 0)
		}
	}
	for _, to := range tunnels {
		left--
		w.copyTo(p, to, left == 0)
	}
	return DropUnknown
}

// takes reports whether the interface gets a copy of a flooded packet.
func (s *segmentPort) takes(p *packet, essential bool) bool {
	return (p.tunnel || s.index != p.in) && (essential || !s.isolated)
}

// copyTo sends a copy of a packet out of a next hop; the last one is the packet
// itself. A copy that cannot be made or sent is counted as any packet.
func (w *Worker) copyTo(p *packet, to nexthop.ID, last bool) {
	if last {
		w.passOn(p, to)
		return
	}
	c := w.counters[p.in].Load()
	c.generated.Add(1)
	f := w.spareFrame()
	if f == nil {
		c.drops[DropNoBuffer].Add(1)
		return
	}
	f.End += copy(f.Buf[f.Start:], p.bytes())
	f.Offload, f.Time = p.frame.Offload, p.frame.Time
	q := &w.copied
	*q = packet{frame: f, in: p.in, len: p.len, fate: fatePending, arrival: p.arrival, l: p.l}
	w.passOn(q, to)
	w.lend(f) // only now, as in releaseOne
	q.frame = nil
}
