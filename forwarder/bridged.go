package forwarder

import (
	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/nexthop"
)

// Sessions of bridged packets. A routed session is one between addresses; a bridged
// one is between the ends that the MAC addresses of its packets stand for, and every
// packet is held to them.

// between reports whether a live session is between the ends that a bridged packet
// of it has. Of one that policy refuses nobody knows the ends any more: its opener's
// packets go on being refused, and an answer asks anew once policy may have changed.
func (w *Worker) between(p *packet, s *flowtable.Session) bool {
	d, dir := s.Decision(), p.ref.Direction()
	to, from := nexthop.ID(d.NextHop(dir)), nexthop.ID(d.NextHop(1-dir))
	if to.IsDiscard() {
		return dir == flowtable.Forward || d.Epoch() == w.snap.Epoch
	}
	return to == p.target && from == p.back
}

// reopen forgets a session between other ends than those of a bridged packet of it,
// and opens one for the packet. It returns nil when the packet ended here.
func (w *Worker) reopen(in *Interface, p *packet) *flowtable.Session {
	w.remove(p.ref)
	if p.ref = w.open(in, p); p.ref == 0 {
		return nil
	}
	return w.flows.Session(p.ref)
}

// meet gives a question about a live session the ends that a bridged packet of it
// has.
func (q *question) meet(p *packet) {
	q.target, q.back = p.target, p.back
	if p.ref.Direction() == flowtable.Reply {
		q.target, q.back = p.back, p.target
	}
}

// meets reports whether a live session is between the ends that a question about a
// bridged packet of one of its directions names.
func (q *question) meets(s *flowtable.Session, dir flowtable.Direction) bool {
	to, from := nexthop.ID(s.Decision().NextHop(dir)), nexthop.ID(s.Decision().NextHop(1-dir))
	return to.IsDiscard() || to == q.target && from == q.back
}

// decideBridged is decide for a bridged packet: no route, no floating IP, no TTL,
// but both policies.
func (f *Forwarder) decideBridged(snap *Snapshot, q *question, d *decision, t *Trace) {
	vrf, _ := PlainVRF(q.key.VRF)
	in := snap.ingress(q.in, vrf, q.tunnel)
	if !in.speaks(&q.key) {
		d.end(DropSourceInterfaceGone, t)
		return
	}
	d.nextHop = [2]nexthop.ID{flowtable.Forward: q.target, flowtable.Reply: q.back}
	d.srcNet, d.dstNet = in.Network, in.Network
	t.bridged(snap, q)
	out, reason := snap.segmentEnd(vrf, q.target)
	if reason != DropUnknown {
		d.drop(reason, t)
		return
	}
	if !f.permit(snap, q, d, in, out, t) {
		return
	}
	d.verdict = verdictForward
	t.tunnel(snap, d)
	t.forward()
}

// speaks reports whether an interface may send from the source of a session's key in
// the key's VRF; see sends.
func (in *Interface) speaks(key *flowtable.Key) bool {
	vrf, bridged := PlainVRF(key.VRF)
	if bridged && header.IsLinkLocal(key.Src) && !header.IsIPv4(key.Src) { // segmentSource
		return in.Kind != Absent && in.VRF == vrf
	}
	return in.sends(vrf, &key.Src)
}

// segmentEnd returns the interface at the end of a bridged way out of a VRF, or says
// why there is none.
func (s *Snapshot) segmentEnd(vrf uint16, to nexthop.ID) (*Interface, DropReason) {
	switch hop := s.NextHops.At(to); hop.Kind {
	case nexthop.Interface:
		if out := s.port(hop.Port); out.Kind == Workload && out.VRF == vrf {
			return out, DropUnknown
		}
	case nexthop.Tunnel:
		switch {
		case int(hop.Index) >= len(s.tunnels) || int(vrf) >= len(s.VRFs):
			return &absent, DropTunnelGone
		case s.tunnels[hop.Index].reason == DropTunnelGone || s.tunnels[hop.Index].reason == DropPeerDown:
			return &absent, s.tunnels[hop.Index].reason
		case s.VRFs[vrf].Overlay.Kind == Absent:
			return &absent, DropTunnelReturn
		}
		return &s.VRFs[vrf].Overlay, DropUnknown
	}
	return &absent, DropOutputGone
}

// ExplainBridged is Explain for a packet that a workload sends to a MAC address other
// than the router's.
func (f *Forwarder) ExplainBridged(in uint16, mac [6]byte, key flowtable.Key) Explanation {
	snap := f.snapshot.Load()
	itf := snap.port(in)
	key.VRF = itf.VRF | bridgedVRF
	t := &Trace{}
	refuse := func(reason DropReason) Explanation {
		t.add(Step{Stage: StageEnd, Reason: reason})
		return Explanation{Verdict: "DROP", Reason: reason, Steps: t.Steps, Rewritten: key}
	}
	b := snap.bridge(itf.VRF)
	switch {
	case itf.Kind == Absent:
		return refuse(DropInterfaceDown)
	case b == nil:
		return refuse(DropWrongMAC)
	case !itf.speaks(&key):
		t.add(Step{Stage: StageSource, Address: key.Src, Reason: DropSourceSpoof})
		return refuse(DropSourceSpoof)
	}
	to := b.find(mac)
	if to == 0 || portOf(to) == in {
		t.add(Step{Stage: StageBridge, VRF: itf.VRF, MAC: mac})
		return refuse(DropBridgeUnknownMAC)
	}
	return f.explain(snap, key, question{in: in, target: to, back: InterfaceNextHop(in), mac: mac})
}

func (t *Trace) bridged(snap *Snapshot, q *question) {
	if t != nil {
		vrf, _ := PlainVRF(q.key.VRF)
		t.add(Step{Stage: StageBridge, VRF: vrf, MAC: q.mac, NextHop: snap.NextHops.At(q.target), Route: nexthop.Route{NextHop: q.target}})
	}
}
