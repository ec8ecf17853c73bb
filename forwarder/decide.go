package forwarder

import (
	"net/netip"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/policy"
	"github.com/vrouter-go/vrouter/nexthop"
)

// verdict is the fate of a connection.
type verdict uint8

const (
	verdictDrop    verdict = iota // end here, with decision.reason
	verdictRefuse                 // end here and tell the sender
	verdictLocal                  // for the router itself
	verdictForward                // out of decision.nextHop
	verdictRebind                 // a live session's binding is void: forget it and decide anew
	verdictEnd                    // a live session has lost one of its ends: forget it
	verdictFind                   // drop, and have the agent find out who has the address on the uplink's link
)

// question is a connection to decide about, as its first packet shows it.
type question struct {
	in   uint16 // port where the initiator is
	key  flowtable.Key
	live *flowtable.Session // the session that has this key already; nil for a new one
	now  uint32

	// Of a connection that came in by the uplink (arrival.go).
	outside bool       // of a live one: it did
	tunnel  bool       // out of a tunnel
	peer    uint32     // then the node that it comes from, nowhere if that is forgotten
	target  nexthop.ID // and the interface that its label stands for, 0 if the VRF's routes say where it goes
	back    nexthop.ID // of a live one: where its answers have gone so far
	// Of a bridged connection target and back are the next hops of its ends
	// (bridged.go), and mac, for Explain, is the address that target has.
	mac [6]byte
}

// decision is the answer.
type decision struct {
	verdict  verdict
	reason   DropReason
	log      bool
	rule     uint32        // the policy rule that decided
	reply    flowtable.Key // the reply direction's key: NAT is where it differs from key.Reverse()
	nextHop  [2]nexthop.ID // by direction
	member   uint32        // floating IP member, 0 = none
	fip      uint32        // 1 + index of the floating IP, 0 = none
	service  *Service      // the mapping, nil = none
	remember bool          // the member is to be noted for session affinity
	srcNet   uint32        // networks as the policy saw them
	dstNet   uint32
	lease    bool // the source is the node's address, with a port that install takes
	// remote is where another node will take the packet, if it maps the port there;
	// zero where nothing is mapped behind a tunnel.
	remote     [16]byte
	remotePort uint16
	orphan     bool // the floating IP cannot be reached any more; only the workload keeps the session alive
	// wanted is the host on the uplink's link that the connection, or its answers, go to
	// or could go to; zero for none. found says that it is known.
	wanted [16]byte
	found  bool
}

// maxVRFHops bounds a chain of VRF next hops.
const maxVRFHops = 4

// decide is the slow path, the one function that says what becomes of a
// connection: route, next hop, floating IP and member, network policy, security
// policy. It reads the snapshot and the affinity table and changes nothing, so
// that Explain runs it too. t records the steps when it is not nil.
//
// For a live session the binding and the member stay while they are valid.
func (f *Forwarder) decide(snap *Snapshot, q *question, d *decision, t *Trace) {
	*d = decision{reply: q.key.Reverse()}
	if _, bridged := PlainVRF(q.key.VRF); bridged {
		f.decideBridged(snap, q, d, t)
		return
	}
	in := snap.ingress(q.in, q.key.VRF, q.tunnel)
	if !in.sends(q.key.VRF, &q.key.Src) {
		d.end(DropSourceInterfaceGone, t)
		return
	}
	if q.live != nil && snap.SNAT.withdrew(in, q.live) {
		d.end(DropNATWithdrawn, t)
		return
	}
	d.srcNet = in.Network
	d.nextHop[flowtable.Reply] = InterfaceNextHop(q.in)
	if in.Kind >= Uplink && !d.answers(snap, in, q, t) {
		return
	}

	// Route, then next hop, then the member where a floating IP stands there. A label
	// that names an interface takes the place of the route.
	var route nexthop.Route
	var hop nexthop.NextHop
	var reason DropReason
	labelled := q.tunnel && q.target != 0
	if !labelled {
		route, hop, reason = f.route(snap, in, q, d, t)
		if hop.Kind == nexthop.Tunnel && !q.tunnel && !q.staysUnbound() {
			if found, ok := snap.openAt(&q.key, route.Network); ok {
				hop = found
			}
		}
		if q.tunnel && hop.Kind != nexthop.Interface && hop.Kind != nexthop.FloatingIP && hop.Kind != nexthop.Receive {
			if found, ok := snap.served(&q.key); ok { // what was dialled is no address of this VRF
				hop, reason = found, DropUnknown
			}
		}
	}
	ok := false
	switch {
	case q.tunnel && snap.isNested(&q.key):
		d.drop(DropTunnelNested, t)
	case labelled:
		ok = f.deliver(snap, q, d, t)
	case q.bound() && !d.keepsSource(q):
		d.verdict = verdictRebind
	case q.bound() && hop.Kind != nexthop.FloatingIP:
		ok = f.keepOrphan(snap, q, d, t)
	case reason != DropUnknown:
		d.drop(reason, t)
	default:
		ok = f.resolve(snap, route, hop, q, d, t)
	}
	if !ok {
		return
	}

	d.direct(snap, q)
	if in.Kind == Overlay && d.nextHop[flowtable.Reply].IsDiscard() {
		if d.wanted != ([16]byte{}) { // answers left directly, and who they go to is not known just now
			d.find(t)
			return
		}
		d.end(DropTunnelReturn, t)
		return
	}

	// The way out, which gives the reply its VRF.
	out, reason := snap.way(d.nextHop[flowtable.Forward], q)
	if reason != DropUnknown {
		d.lose(reason, q, t)
		return
	}
	d.reply.VRF = out.VRF
	if snap.forges(in, out, &q.key, &d.reply) {
		d.end(DropTunnelForged, t)
		return
	}
	if reason := replyFault(&d.reply); reason != DropUnknown {
		d.end(reason, t)
		return
	}
	if q.live != nil && !sameBinding(q.live.Key(flowtable.Reply), d.reply) {
		d.verdict = verdictRebind
		return
	}

	// Policy: networks as the sender sees them, pods as they are.
	if !f.permit(snap, q, d, in, out, t) {
		return
	}
	if d.nextHop[flowtable.Forward] == OnLinkNextHop {
		d.find(t)
		return
	}
	d.verdict = verdictForward
	t.tunnel(snap, d)
	t.forward()
}

// way returns the interface that a next hop leads out of, for a tunnel the one that
// its answers come in at, or says why it leads nowhere.
func (s *Snapshot) way(id nexthop.ID, q *question) (*Interface, DropReason) {
	out := &absent
	switch hop := s.NextHops.At(id); hop.Kind {
	case nexthop.Interface:
		out = s.port(hop.Port)
	case nexthop.Neighbor:
		out = s.port(s.Uplink)
	case nexthop.Discard:
		if id != 0 { // a host that has no way now
			return out, DropReason(id)
		}
	case nexthop.Tunnel:
		switch {
		case int(hop.Index) >= len(s.tunnels) || int(q.key.VRF) >= len(s.VRFs):
			return out, DropTunnelGone
		case s.tunnels[hop.Index].reason == DropTunnelGone:
			return out, DropTunnelGone
		case s.tunnels[hop.Index].down && s.port(q.in).Kind != Host: // BFD finds out from there that the peer is back
			return out, DropPeerDown
		}
		out = &s.VRFs[q.key.VRF].Overlay
		if out.Kind == Absent {
			return out, DropTunnelReturn // what is sent there could not be answered
		}
		return out, DropUnknown
	}
	if out.Kind == Absent {
		return out, DropOutputGone
	}
	return out, DropUnknown
}

// lose ends a decision that has no way out. A connection to a member of which the
// protocol lets others take over is decided anew.
func (d *decision) lose(reason DropReason, q *question, t *Trace) {
	if q.bound() && reason != DropOutputGone && !outlivesMember(q.key.Proto) {
		d.verdict = verdictRebind
		return
	}
	d.drop(reason, t)
}

// replyFault says why a connection cannot have the answers that its reply key
// describes, DropUnknown if it can: what classify says of a packet, for the member
// that was configured instead of the one that was dialled. The packets of a session
// are not asked again (quick.go).
func replyFault(reply *flowtable.Key) DropReason {
	switch {
	case reply.Src == reply.Dst:
		return DropLandAttack
	case header.IsLinkLocal(reply.Src):
		return DropLinkLocal
	case header.IsMartianSource(reply.Src), header.IsMartianDestination(reply.Src):
		return DropMartianDestination
	}
	return DropUnknown
}

// bound reports whether the question is about a live session with a member.
func (q *question) bound() bool { return q.live != nil && q.live.Member() != 0 }

// staysUnbound reports whether the question is about a connection with a node itself,
// at a port that a floating IP may have taken since: it ends where it began.
func (q *question) staysUnbound() bool {
	return q.live != nil && !q.bound() && outlivesMember(q.key.Proto)
}

// sends reports whether the interface is the one that may send from an address
// in a VRF. A port or VRF whose number has gone to another owner is not: what the
// former owner opened must not reach the new one.
func (in *Interface) sends(vrf uint16, src *[16]byte) bool {
	return in.Kind != Absent && in.VRF == vrf && (!in.AntiSpoof || in.owns(src))
}

// keepsSource reports whether the source address that route found is the one that
// a live session with a member has: the service's where the member calls itself, the
// node's or a stand-in where the member is a host.
func (d *decision) keepsSource(q *question) bool {
	source := q.live.Key(flowtable.Reply).Dst
	return source == d.reply.Dst || source == q.key.Dst || q.live.Leased() || isStandIn(&source)
}

// resolve follows the route's next hop to a port. It returns false when the
// decision is final.
func (f *Forwarder) resolve(snap *Snapshot, route nexthop.Route, hop nexthop.NextHop, q *question, d *decision, t *Trace) bool {
	d.dstNet = route.Network
	switch hop.Kind {
	case nexthop.Interface:
		return true
	case nexthop.Tunnel, nexthop.Neighbor:
		if !q.tunnel {
			return true
		}
		d.drop(DropTunnelTransit, t) // so that nothing goes round
		return false
	case nexthop.FloatingIP:
		return f.balance(snap, snap.FloatingIPs[hop.Index], q, d, t)
	case nexthop.Receive:
		d.verdict = verdictLocal
		t.local()
		return false
	}
	d.drop(DropDiscardRoute, t)
	return false
}

// sameBinding reports whether two reply keys stand for one NAT binding. The
// initiator's port may differ: install translates it when it must.
func sameBinding(a, b flowtable.Key) bool {
	a.DstPort, b.DstPort = 0, 0
	return a == b
}

// route finds where the destination is: by the interface's own VRF, or by the
// VRF of a floating IP the workload may open connections from, whichever has
// the longer prefix; on a tie the floating IP wins (as in Contrail). Where neither
// leads there it is outside, if the workload may go there with the node's address. A
// live session keeps the source address that it has. It returns the next hop, or why
// there is none.
func (f *Forwarder) route(snap *Snapshot, in *Interface, q *question, d *decision, t *Trace) (nexthop.Route, nexthop.NextHop, DropReason) {
	if q.live != nil && q.live.Leased() && !q.bound() {
		route, bits, ok := snap.outside(&q.key.Dst)
		return f.walk(snap, in, FabricVRF, route, bits, ok, q, d, t)
	}
	route, bits, ok := snap.lookup(in.VRF, &q.key.Dst)
	vrf := in.VRF
	source, fixed := in.sourceOf(q, ok)
	for i := range in.Egress {
		e := &in.Egress[i]
		if family(&e.Address) != family(&q.key.Dst) || e.Address == q.key.Dst || fixed && e.Address != source {
			continue
		}
		r, b, found := snap.lookup(e.VRF, &q.key.Dst)
		if !found || ok && b < bits && !fixed {
			continue
		}
		route, bits, ok, vrf = r, b, true, e.VRF
		d.reply.Dst = e.Address
		d.fip = e.FloatingIP + 1
		d.srcNet = snap.FloatingIPs[e.FloatingIP].Network
	}
	if !ok && q.mayLeave(in) {
		t.noRoute(vrf, &q.key.Dst)
		vrf = FabricVRF
		route, bits, ok = snap.outside(&q.key.Dst)
	}
	return f.walk(snap, in, vrf, route, bits, ok, q, d, t)
}

// walk goes from a route in a VRF, of ok says there is one, to a next hop that is
// no VRF.
func (f *Forwarder) walk(snap *Snapshot, in *Interface, vrf uint16, route nexthop.Route, bits int, ok bool,
	q *question, d *decision, t *Trace,
) (nexthop.Route, nexthop.NextHop, DropReason) {
	for hops := 0; ok; hops++ {
		hop := snap.NextHops.At(route.NextHop)
		t.route(vrf, &q.key.Dst, bits, route, hop)
		if hop.Kind == nexthop.Discard {
			break
		}
		if hop.Kind != nexthop.VRF {
			route.NextHop, hop = d.seek(snap, route.NextHop, hop, &q.key.Dst)
			d.nextHop[flowtable.Forward] = route.NextHop
			if hop.Kind == nexthop.Neighbor && d.fip == 0 && q.mayLeave(in) {
				return route, hop, d.masquerade(snap, q, t)
			}
			return route, hop, DropUnknown
		}
		if hops == maxVRFHops {
			return route, nexthop.NextHop{}, DropVRFLoop
		}
		vrf = hop.VRF
		route, bits, ok = snap.lookup(vrf, &q.key.Dst)
	}
	if ok {
		return route, nexthop.NextHop{}, DropDiscardRoute
	}
	t.noRoute(vrf, &q.key.Dst)
	return route, nexthop.NextHop{}, DropNoRoute
}

// sourceOf returns the source address that a live session was opened with, if
// the interface still has it and, for its own address, a route to go by.
func (in *Interface) sourceOf(q *question, routed bool) (source [16]byte, fixed bool) {
	if q.live == nil {
		return source, false
	}
	source = q.live.Key(flowtable.Reply).Dst
	if source == q.key.Src || source == q.key.Dst { // its own, or the service's where it calls itself
		return source, routed
	}
	for i := range in.Egress {
		if in.Egress[i].Address == source {
			return source, true
		}
	}
	return source, false
}

// lookup finds the route of an address in a VRF and the length of its prefix.
func (s *Snapshot) lookup(vrf uint16, addr *[16]byte) (nexthop.Route, int, bool) {
	if int(vrf) >= len(s.VRFs) || s.VRFs[vrf].FIB == nil {
		return nexthop.Route{}, 0, false
	}
	route, prefix, ok := s.VRFs[vrf].FIB.LookupPrefix(addr)
	return route, prefix.Bits(), ok
}

// permit asks both policies. NetworkPolicy sees the connection before NAT: from
// the source network to the network of the address that was dialled, with the
// port that was dialled. SecurityPolicy sees the pods after NAT, as Kubernetes
// does.
func (f *Forwarder) permit(snap *Snapshot, q *question, d *decision, in, out *Interface, t *Trace) bool {
	pq := policy.Query{
		SrcNetwork: d.srcNet, DstNetwork: d.dstNet,
		Src: q.key.Src, Dst: q.key.Dst,
		Proto: q.key.Proto, SrcPort: q.key.SrcPort, DstPort: q.key.DstPort,
	}
	if in.Kind == Overlay {
		d.rule = uint32(policy.RuleSourceNode)
	} else if v, known := snap.network(&pq, d.orphan); known {
		t.network(&pq, v)
		d.rule, d.log = uint32(v.Rule), v.Log
		if !v.Pass {
			d.drop(DropNetworkPolicy, t)
			return false
		}
	} else {
		d.rule = q.live.Rule() // the service is deleted, and its rule perhaps with it
	}
	pq.Dst, pq.DstPort = d.reply.Src, d.reply.SrcPort
	if d.remotePort != 0 {
		pq.DstPort = d.remotePort
	}
	if d.remote != [16]byte{} {
		pq.Dst = d.remote
	}
	src := snap.identity(in, &q.key.Src)
	dst := snap.identity(out, &pq.Dst)
	sv := securityOf(snap.Policy, &pq, src, dst, in, out)
	t.security(&pq, sv)
	d.log = d.log || sv.Log
	if sv.Rule >= policy.FirstRule || !sv.Pass {
		d.rule = uint32(sv.Rule)
	}
	if sv.Pass {
		return true
	}
	if sv.Stage == policy.StageEgress {
		d.drop(DropSecurityEgress, t)
	} else {
		d.drop(DropSecurityIngress, t)
	}
	return false
}

// securityOf asks SecurityPolicy about the ends that are here: of a connection from
// another node the receiver, of one to another node the sender. The other end is
// the other node's to judge.
func securityOf(set *policy.Set, pq *policy.Query, src, dst uint32, in, out *Interface) policy.Verdict {
	switch {
	case in.Kind == Overlay:
		return set.Ingress(pq, src, dst)
	case out.Kind == Overlay:
		return set.Egress(pq, src, dst)
	}
	return set.Security(pq, src, dst)
}

// network asks NetworkPolicy. For an orphan the route does not tell the network
// that was dialled: a policy that is withdrawn takes the route along. Then the
// floating IPs at that address tell; known is false where there is none, because
// the service was deleted, which takes no connection its leave away.
func (s *Snapshot) network(pq *policy.Query, orphan bool) (v policy.Verdict, known bool) {
	if !orphan {
		return s.Policy.Network(pq), true
	}
	for _, place := range s.dialled[pq.Dst] {
		pq.DstNetwork = s.FloatingIPs[place].Network
		v, known = s.Policy.Network(pq), true
		if v.Pass {
			break
		}
	}
	return v, known
}

// identity is what SecurityPolicy knows an address behind an interface as.
func (s *Snapshot) identity(itf *Interface, addr *[16]byte) uint32 {
	if itf.Kind != Host && itf.Kind != Uplink {
		return itf.Identity
	}
	if _, ok := s.NodeAddresses[*addr]; ok {
		return policy.IdentityNode
	}
	return policy.IdentityWorld
}

// drop ends the decision with a reason.
func (d *decision) drop(reason DropReason, t *Trace) {
	d.verdict, d.reason = verdictDrop, reason
	t.end(d)
}

// end ends the decision, and the session that it is about, with a reason.
func (d *decision) end(reason DropReason, t *Trace) {
	d.verdict, d.reason = verdictEnd, reason
	t.end(d)
}

// find ends the decision for as long as nobody is known to have the wanted address.
func (d *decision) find(t *Trace) {
	d.verdict, d.reason = verdictFind, DropNeighborUnresolved
	t.end(d)
}

// refuse ends the decision with a reason that the sender is told.
func (d *decision) refuse(reason DropReason, t *Trace) {
	d.verdict, d.reason = verdictRefuse, reason
	t.end(d)
}

// portOf returns the port behind an interface next hop, 0 for any other.
func portOf(id nexthop.ID) uint16 {
	if id < NumDropReasonIDs || id >= NumDropReasonIDs+MaxPorts {
		return 0
	}
	return uint16(id - NumDropReasonIDs)
}

// family is 4 or 6.
func family(addr *[16]byte) uint8 {
	if netip.AddrFrom16(*addr).Is4In6() {
		return 4
	}
	return 6
}
