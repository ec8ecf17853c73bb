package forwarder

import (
	"net/netip"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/nat"
	"github.com/vrouter-go/vrouter/internal/policy"
	"github.com/vrouter-go/vrouter/nexthop"
)

// Stage is a step on a connection's way.
type Stage uint8

// The stages, in the order in which a packet passes them.
const (
	StageSource   Stage = iota // the sender's address on its interface
	StageArrival               // out of a tunnel, with a label that names an interface
	StageSession               // a live session has this key
	StageRoute                 // longest prefix match and its next hop
	StageNoRoute               // nothing matched
	StageSNAT                  // outside: the node's address becomes the source
	StageLocal                 // the router itself
	StageFallback              // a node address: not mapped, so the node's own
	StageUnmapped              // a service address: the port is not mapped
	StageNoMember              // a service without a usable member
	StageMember                // a member was chosen
	StageKept                  // the live session keeps its member
	StageNetwork               // network policy
	StageSecurity              // security policy
	StageBridge                // from MAC address to MAC address, not routed
	StageTunnel                // to another node, which goes on from there
	StageForward               // out of an interface
	StageEnd                   // dropped or refused
)

// Step is one stage with what it found. Fields beside Stage are set where the
// stage has them.
type Step struct {
	Stage    Stage
	VRF      uint16
	Address  [16]byte
	Bits     int // length of the matched prefix
	Route    nexthop.Route
	NextHop  nexthop.NextHop
	Floating *FloatingIP
	Service  *Service
	Member   nexthop.Member
	Hash     uint64
	Sticky   bool // the member comes from session affinity
	Verdict  policy.Verdict
	Query    policy.Query
	Reason   DropReason
	MAC      [6]byte // StageBridge: whom the frame is for; zero for a packet of a live session
	// StageTunnel, and StageArrival for the peer: the way to the other node, and for a
	// member there the address and port at which it will deliver, zero for those that
	// the packet travels with.
	Tunnel     Tunnel
	Peer       Peer
	Remote     [16]byte
	RemotePort uint16
}

// Trace records the steps of one decision. A nil Trace records nothing, which is
// what the packet path passes.
type Trace struct{ Steps []Step }

func (t *Trace) add(s Step) {
	if t != nil {
		t.Steps = append(t.Steps, s)
	}
}

func (t *Trace) route(vrf uint16, dst *[16]byte, bits int, r nexthop.Route, hop nexthop.NextHop) {
	if t != nil {
		t.add(Step{Stage: StageRoute, VRF: vrf, Address: *dst, Bits: bits, Route: r, NextHop: hop})
	}
}

func (t *Trace) noRoute(vrf uint16, dst *[16]byte) {
	if t != nil {
		t.add(Step{Stage: StageNoRoute, VRF: vrf, Address: *dst})
	}
}

func (t *Trace) masquerade(source [16]byte) {
	if t != nil {
		t.add(Step{Stage: StageSNAT, Address: source})
	}
}

func (t *Trace) local() {
	if t != nil {
		t.add(Step{Stage: StageLocal})
	}
}

func (t *Trace) fallback(fip *FloatingIP) {
	if t != nil {
		t.add(Step{Stage: StageFallback, Floating: fip})
	}
}

func (t *Trace) unmapped(fip *FloatingIP) {
	if t != nil {
		t.add(Step{Stage: StageUnmapped, Floating: fip})
	}
}

func (t *Trace) noMember(fip *FloatingIP, svc *Service) {
	if t != nil {
		t.add(Step{Stage: StageNoMember, Floating: fip, Service: svc})
	}
}

func (t *Trace) member(fip *FloatingIP, svc *Service, m *nexthop.Member, hash uint64, sticky bool) {
	if t != nil {
		t.add(Step{Stage: StageMember, Floating: fip, Service: svc, Member: *m, Hash: hash, Sticky: sticky})
	}
}

func (t *Trace) arrived(snap *Snapshot, q *question) {
	if t != nil {
		t.add(Step{Stage: StageArrival, Address: q.key.Dst, NextHop: snap.NextHops.At(q.target), Peer: snap.peerOf(q.peer)})
	}
}

func (t *Trace) tunnel(snap *Snapshot, d *decision) {
	if t == nil {
		return
	}
	hop := snap.NextHops.At(d.nextHop[flowtable.Forward])
	if hop.Kind == nexthop.Tunnel && int(hop.Index) < len(snap.Tunnels) {
		to := snap.Tunnels[hop.Index]
		t.add(Step{Stage: StageTunnel, NextHop: hop, Tunnel: to, Peer: snap.peerOf(to.Peer), Remote: d.remote, RemotePort: d.remotePort})
	}
}

// peerOf returns a node, the zero value for one that the snapshot does not have.
func (s *Snapshot) peerOf(place uint32) Peer {
	if int(place) < len(s.Peers) {
		return s.Peers[place]
	}
	return Peer{}
}

func (t *Trace) kept(member uint32, address [16]byte) {
	if t != nil {
		t.add(Step{Stage: StageKept, Member: nexthop.Member{ID: member, Address: address}})
	}
}

func (t *Trace) network(q *policy.Query, v policy.Verdict) {
	if t != nil {
		t.add(Step{Stage: StageNetwork, Query: *q, Verdict: v})
	}
}

func (t *Trace) security(q *policy.Query, v policy.Verdict) {
	if t != nil {
		t.add(Step{Stage: StageSecurity, Query: *q, Verdict: v})
	}
}

func (t *Trace) forward() {
	if t != nil {
		t.add(Step{Stage: StageForward})
	}
}

func (t *Trace) end(d *decision) {
	if t != nil {
		t.add(Step{Stage: StageEnd, Reason: d.reason})
	}
}

// Explanation is what would become of a packet, and why.
type Explanation struct {
	Verdict   string // FORWARD, DROP, REFUSE (dropped, and the sender is told) or LOCAL (the router answers)
	Reason    DropReason
	Steps     []Step
	Rule      uint32
	Member    uint32
	Floating  uint32        // FloatingIP.ID, 0 = none
	Rewritten flowtable.Key // the packet's tuple on its way out
	Output    uint16        // port, 0 = none
	Tunnel    Tunnel        // by which it leaves the node; Used is false where it stays here
	Peer      Peer          // and to where
	Session   flowtable.Ref // the live session, 0 = none
}

var verdictNames = [...]string{
	verdictDrop: "DROP", verdictRefuse: "REFUSE", verdictLocal: "LOCAL", verdictForward: "FORWARD", verdictRebind: "DROP", verdictEnd: "DROP", verdictFind: "DROP",
}

// Explain says what the forwarder would do with a packet of key that comes in on
// a port, not in a tunnel, by running the production slow path without installing
// anything and consulting the live sessions. The key's VRF is set from the port.
func (f *Forwarder) Explain(in uint16, key flowtable.Key) Explanation {
	snap := f.snapshot.Load()
	key.VRF = snap.port(in).VRF
	return f.explain(snap, key, question{in: in})
}

// ExplainTunnel is Explain for a packet that comes in through a tunnel. peer is the
// sender's place in Snapshot.Peers, to is what the label stands for (an entry of
// Snapshot.Labels), or for VXLAN the next hop of kind VRF that the VNI does.
func (f *Forwarder) ExplainTunnel(peer uint32, to nexthop.NextHop, key flowtable.Key) Explanation {
	snap := f.snapshot.Load()
	q := question{in: snap.Uplink, tunnel: true, peer: peer}
	key.VRF = to.VRF
	if to.Kind == nexthop.Interface {
		key.VRF, q.target = snap.port(to.Port).VRF, InterfaceNextHop(to.Port)
	}
	return f.explain(snap, key, q)
}

// explain answers for a packet of key, of which q says where it comes in.
func (f *Forwarder) explain(snap *Snapshot, key flowtable.Key, q question) Explanation {
	vrf, bridged := PlainVRF(key.VRF)
	itf := snap.ingress(q.in, vrf, q.tunnel)
	t := &Trace{}
	if reason := itf.addresses(&key); !bridged && itf.Kind != Absent && reason != DropUnknown {
		t.add(Step{Stage: StageSource, Address: key.Src, Reason: reason})
		return Explanation{Verdict: "DROP", Reason: reason, Steps: t.Steps, Rewritten: key}
	}
	t.add(Step{Stage: StageSource, Address: key.Src})

	reader := f.flows.NewReader()
	defer reader.Close()
	reader.Online()
	defer reader.Offline()
	q.key, q.now = key, f.Now()
	ref := f.flows.Lookup(&key, f.flows.Hash(&key))
	if ref != 0 && bridged && !q.meets(f.flows.Session(ref), ref.Direction()) {
		ref = 0 // forward would forget it
	}
	if ref != 0 {
		asked := q
		q = snap.again(f.flows.Session(ref), q.now)
		if q.outside && asked.tunnel && ref.Direction() == flowtable.Forward {
			q.tunnel, q.peer, q.target = true, asked.peer, asked.target
		}
		t.add(Step{Stage: StageSession})
	}
	var d decision
	f.decide(snap, &q, &d, t)
	if d.verdict == verdictRebind {
		if ref.Direction() == flowtable.Reply {
			d.drop(DropMemberGone, t)
		} else {
			q.live, ref = nil, 0
			f.decide(snap, &q, &d, t)
		}
	}
	if ref == 0 && d.verdict == verdictForward && !bridged && !f.distinguish(&q, &d) {
		d.drop(DropNATPorts, t)
	}
	return snap.explanation(t, &q, &d, key, ref)
}

// distinguish gives a new session the source port that insert would give it, and
// reports whether there is one.
func (f *Forwarder) distinguish(q *question, d *decision) bool {
	if d.lease {
		class, e := endpoint(&q.key)
		port, outcome := f.nat.Peek(&d.reply.Dst, class, &e, q.in, q.now)
		d.reply.DstPort = port
		return outcome == nat.Given && f.flows.Lookup(&d.reply, f.flows.Hash(&d.reply)) == 0
	}
	wanted := d.reply.DstPort
	for try := uint32(0); f.flows.Lookup(&d.reply, f.flows.Hash(&d.reply)) != 0; try++ {
		if !hasPorts(q.key.Proto) || wanted == 0 || try == maxPortTries {
			return false
		}
		d.reply.DstPort = translatedPort(wanted, uint32(f.flows.Hash(&q.key)), try)
	}
	return true
}

// addresses says why classify would drop a packet for its addresses, in its
// order, DropUnknown if it would not.
func (in *Interface) addresses(key *flowtable.Key) DropReason {
	l := header.Layout{Dst: key.Dst, Multicast: header.IsMulticast(key.Dst)}
	if reason := in.destination(RouterMAC, &l); reason != DropUnknown {
		return reason
	}
	if reason := in.source(&key.Src); reason != DropUnknown {
		return reason
	}
	if key.Src == key.Dst {
		return DropLandAttack
	}
	return DropUnknown
}

// explanation turns a decision into an answer about the direction asked for.
func (s *Snapshot) explanation(t *Trace, q *question, d *decision, key flowtable.Key, ref flowtable.Ref) Explanation {
	e := Explanation{
		Verdict: verdictNames[d.verdict], Reason: d.reason, Steps: t.Steps, Rule: d.rule,
		Member: d.member, Floating: d.fip, Rewritten: key, Session: ref,
	}
	if d.verdict != verdictForward {
		return e
	}
	dir := flowtable.Forward
	reply := d.reply
	if ref != 0 {
		dir = ref.Direction()
		reply = q.live.Key(flowtable.Reply)
	}
	switch hop := s.NextHops.At(d.nextHop[dir]); hop.Kind {
	case nexthop.Tunnel:
		e.Output = s.Uplink
		if int(hop.Index) < len(s.Tunnels) {
			e.Tunnel = s.Tunnels[hop.Index]
			e.Peer = s.peerOf(e.Tunnel.Peer)
		}
	default:
		e.Output = hop.Port
	}
	if dir == flowtable.Forward {
		e.Rewritten = reply.Reverse()
	} else {
		e.Rewritten = q.key.Reverse()
	}
	return e
}

// Prefix returns the prefix that a StageRoute matched.
func (s *Step) Prefix() netip.Prefix {
	a := netip.AddrFrom16(s.Address).Unmap()
	p, err := a.Prefix(s.Bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
