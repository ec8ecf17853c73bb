package forwarder

import (
	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/nexthop"
)

// Which member of a floating IP a connection has: this file chooses one for a new
// connection and keeps a live one where it is.

// balance binds the connection to a member of a floating IP and sets the reply
// key and the forward next hop. It returns false when the decision is final.
func (f *Forwarder) balance(snap *Snapshot, fip *FloatingIP, q *question, d *decision, t *Trace) bool {
	if !fip.Ingress || fip.Private && snap.port(q.in).Kind != Host {
		d.drop(DropFloatingIPDirection, t)
		return false
	}
	svc := fip.service(q.key.Proto, q.key.DstPort)
	if fip.Fallback != 0 && !q.bound() && (svc == nil || q.staysUnbound()) {
		// A node address: what is not mapped is for the node itself.
		d.nextHop[flowtable.Forward] = fip.Fallback
		d.dstNet = fip.Network
		t.fallback(fip)
		return true
	}
	d.fip = fip.ID
	d.service = svc
	if q.bound() {
		return f.keepMember(snap, fip, q, d, t)
	}
	if svc == nil {
		t.unmapped(fip)
		d.refuse(DropFloatingIPPort, t)
		return false
	}
	if q.live != nil && d.adoptMember(snap, fip, svc, q, t) {
		return true
	}
	if len(svc.Sources) > 0 && !contains(svc.Sources, &q.key.Src) {
		d.drop(DropFloatingIPSource, t) // loadBalancerSourceRanges of Kubernetes: dropped, not refused
		return false
	}
	return f.chooseMember(snap, fip, svc, q, d, t)
}

// chooseMember picks the member of a new connection: the one session affinity
// remembers, else the one the ECMP hash points at. It must be on this node where
// another node has sent the connection here, and where the traffic policy says so.
func (f *Forwarder) chooseMember(snap *Snapshot, fip *FloatingIP, svc *Service, q *question, d *decision, t *Trace) bool {
	policy := svc.isLocal(snap.port(q.in).Kind, q.tunnel)
	here := q.tunnel || policy
	var m nexthop.Member
	found, sticky := false, false
	if svc.Affinity != 0 {
		if id, ok := f.affinity.Get(&q.key.Src, svc.ID, q.now); ok {
			m, found = svc.Group.Find(id)
			found = found && (m.State == nexthop.Ready || here && m.State == nexthop.LocalOnly) && (!here || m.Interface != 0)
			sticky = found
		}
	}
	hash := nexthop.HashTuple(svc.Hash, &q.key.Src, &q.key.Dst, q.key.SrcPort, q.key.DstPort, q.key.Proto)
	if !found {
		index, ok := svc.Group.Select(hash)
		if here && (!q.tunnel || !ok || svc.Group.Member(index).Interface == 0) { // what another node chose is kept
			index, ok = svc.Group.SelectLocal(hash)
		}
		switch {
		case ok:
			m = svc.Group.Member(index)
		case policy && svc.Group.Usable() > 0: // others have members: a refusal would be wrong
			t.noMember(fip, svc)
			d.drop(DropFloatingIPNoLocalMember, t)
			return false
		default:
			t.noMember(fip, svc)
			d.refuse(DropFloatingIPNoMember, t)
			return false
		}
	}
	d.remember = svc.Affinity != 0
	t.member(fip, svc, &m, hash, sticky)
	if reason := d.bind(snap, fip, &m, q, t); reason != DropUnknown {
		d.drop(reason, t)
		return false
	}
	return true
}

// isLocal reports whether the traffic policy keeps a new connection on this node that
// comes in at an interface of some kind. What another node has sent here is past it.
func (svc *Service) isLocal(kind InterfaceKind, tunnel bool) bool {
	if kind == Uplink {
		return svc.ExternalLocal && !tunnel
	}
	return svc.InternalLocal
}

// bind makes m the connection's member. Behind a tunnel the other node maps the port,
// if it knows what was dialled. It returns why the member cannot be reached, DropUnknown
// if it can.
func (d *decision) bind(snap *Snapshot, fip *FloatingIP, m *nexthop.Member, q *question, t *Trace) DropReason {
	d.member = m.ID
	d.nextHop[flowtable.Forward] = snap.wayTo(fip, m, q)
	kind := snap.NextHops.At(m.NextHop).Kind
	if kind == nexthop.Tunnel && !fip.Private {
		d.remote, d.remotePort = m.Address, m.Port
		return DropUnknown
	}
	if m.Address != ([16]byte{}) { // else the members of a route, which take any destination
		d.reply.Src = m.Address
	}
	if m.Port != 0 {
		d.reply.SrcPort = m.Port
	}
	switch {
	case kind == nexthop.VRF:
		return d.reach(snap, q, t)
	case snap.isOwnHost(m) && snap.answersElsewhere(q):
		d.reply.Dst = fip.standIn(&q.key.Dst)
	case m.Address == q.key.Src:
		// The member calls itself. With its own address as source its kernel
		// would refuse the packet as martian, so the address that it dialled stands in.
		d.reply.Dst = q.key.Dst
	}
	return DropUnknown
}

// wayTo returns the next hop to a member. The answers of one on another node come by the
// network that its tunnel names. A floating IP of ip-fabric, a node's port say, is open to
// networks whose workloads cannot talk to the member's: a caller in one is led to the
// member's node by its own network, if that leads there, and its answers come by that.
func (s *Snapshot) wayTo(fip *FloatingIP, m *nexthop.Member, q *question) nexthop.ID {
	if fip.VRF != FabricVRF || q.key.VRF == FabricVRF {
		return m.NextHop
	}
	to := s.NextHops.At(m.NextHop)
	if to.Kind != nexthop.Tunnel {
		return m.NextHop
	}
	own, route := s.follow(q.key.VRF, &m.Address)
	if own.Kind == nexthop.Tunnel && int(max(own.Index, to.Index)) < len(s.tunnels) && s.tunnels[own.Index].peer == s.tunnels[to.Index].peer {
		return route.NextHop
	}
	return m.NextHop
}

// keepMember keeps a live session on its member. The binding stands while the
// floating IP still lists the member, draining or not; a TCP or SCTP session
// outlives even that while its workload does (Kubernetes keeps them through
// conntrack); any other protocol is decided anew at once.
func (f *Forwarder) keepMember(snap *Snapshot, fip *FloatingIP, q *question, d *decision, t *Trace) bool {
	if d.service != nil {
		if m, ok := d.service.Group.Find(q.live.Member()); ok && d.keep(snap, fip, &m, q, t) {
			return true
		}
	}
	return f.keepOrphan(snap, q, d, t)
}

// adoptMember binds a live session, opened while its address was that of one
// workload alone, to that workload now that it is one of several.
func (d *decision) adoptMember(snap *Snapshot, fip *FloatingIP, svc *Service, q *question, t *Trace) bool {
	for i := range svc.Group.Len() {
		m := svc.Group.Member(i)
		if snap.wayTo(fip, &m, q) == nexthop.ID(q.live.Decision().NextHop(flowtable.Forward)) && d.keep(snap, fip, &m, q, t) {
			return true
		}
	}
	return false
}

// keep stays with a member, if the live session's binding is still what the
// member stands for.
func (d *decision) keep(snap *Snapshot, fip *FloatingIP, m *nexthop.Member, q *question, t *Trace) bool {
	reply := q.live.Key(flowtable.Reply)
	address, port := m.Address, m.Port
	if q.tunnel && m.Interface == 0 {
		return false // it has moved away, and nothing goes from tunnel to tunnel
	}
	kind := snap.NextHops.At(m.NextHop).Kind
	if kind == nexthop.Tunnel && !fip.Private {
		d.remote, d.remotePort = address, port
		address, port = q.key.Dst, q.key.DstPort
	}
	routed := address == [16]byte{}
	if !routed && address != reply.Src || port != 0 && port != reply.SrcPort {
		return false
	}
	d.member, d.reply = m.ID, reply
	d.nextHop[flowtable.Forward] = snap.wayTo(fip, m, q)
	if kind == nexthop.VRF && !d.keepsHost(snap, q) {
		return false
	}
	t.kept(m.ID, reply.Src)
	return true
}

// outlivesMember reports whether connections of a protocol stay with a workload
// that has left the service: where both ends keep state, a move would break them.
func outlivesMember(proto uint8) bool { return proto == header.ProtoTCP || proto == header.ProtoSCTP }

// keepOrphan keeps a connection whose floating IP or mapping no longer has its
// member, as long as the member's workload is there.
func (f *Forwarder) keepOrphan(snap *Snapshot, q *question, d *decision, t *Trace) bool {
	reply := q.live.Key(flowtable.Reply)
	if outlivesMember(q.key.Proto) && (q.live.Leased() || snap.isNode(&reply.Src)) && d.keepsHost(snap, q) {
		route, _, _ := snap.lookup(FabricVRF, &reply.Src)
		d.orphan, d.dstNet = reply.Src != q.key.Dst, route.Network
		d.member, d.reply = q.live.Member(), reply
		t.kept(d.member, reply.Src)
		return true
	}
	route, _, ok := snap.lookup(reply.VRF, &reply.Src)
	hop := nexthop.NextHop{}
	if ok {
		hop = snap.NextHops.At(route.NextHop)
	}
	was := nexthop.ID(q.live.Decision().NextHop(flowtable.Forward))
	there := hop.Kind == nexthop.Interface && (was.IsDiscard() || was == route.NextHop) // not another that has its address now
	translated := reply.Src != q.key.Dst
	out := snap.tunnelOf(q.live.Decision(), flowtable.Forward)
	if !q.tunnel && out != nil && out.reason != DropTunnelGone { // the other node knows whether its workload is there
		there, translated, route = true, true, nexthop.Route{NextHop: was, Network: route.Network}
	}
	switch {
	case !outlivesMember(q.key.Proto), !there && !translated && ok:
		d.verdict = verdictRebind // others take over, at once
		return false
	case !there:
		d.end(DropMemberGone, t)
		return false
	}
	d.orphan, d.dstNet = translated, route.Network
	d.member, d.reply = q.live.Member(), reply
	d.nextHop[flowtable.Forward] = route.NextHop
	t.kept(d.member, reply.Src)
	return true
}

// service returns the mapping for a protocol and port, nil if there is none.
func (fip *FloatingIP) service(proto uint8, dstPort uint16) *Service {
	if fip.Whole != nil {
		return fip.Whole
	}
	return fip.Mappings[PortKey{Proto: proto, Port: dstPort}]
}
