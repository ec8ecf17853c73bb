package forwarder

import (
	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/nat"
	"github.com/vrouter-go/vrouter/nexthop"
)

// Source translation: a workload of a network that may leaves by the uplink with the
// node's address, and a port that stands for its own to all destinations (RFC 4787
// REQ-1). decide finds that it is so and with which address; which port follows when
// the session is made (lease), and is given back when it ends (ended).
//
// Nothing but the replies of a session comes in (address and port dependent
// filtering, RFC 4787 §5): the session's key is all that there is to be found.

// SNAT is what connections take as their source that leave by the uplink. The zero
// value is none.
type SNAT struct {
	IPv4, IPv6 [16]byte  // the node's addresses; zero: none of the family
	Ports      nat.Range // those that sessions share, for each address and protocol
}

// source returns the address that a packet to dst leaves with.
func (s *SNAT) source(dst *[16]byte) (address [16]byte, ok bool) {
	address = s.IPv6
	if header.IsIPv4(*dst) {
		address = s.IPv4
	}
	return address, address != [16]byte{}
}

// addresses lists the addresses whose ports are given out.
func (s *SNAT) addresses() [][16]byte {
	var list [][16]byte
	for _, a := range [...][16]byte{s.IPv4, s.IPv6} {
		if a != ([16]byte{}) {
			list = append(list, a)
		}
	}
	return list
}

// withdrew reports whether a live session has left the interface with a source that
// it may not have any more. Who calls a member elsewhere needs no leave.
func (s *SNAT) withdrew(in *Interface, live *flowtable.Session) bool {
	if !live.Leased() {
		return false
	}
	reply := live.Key(flowtable.Reply)
	source, ok := s.source(&reply.Dst)
	return !in.SNAT && live.Member() == 0 || !ok || source != reply.Dst
}

// mayLeave reports whether a connection is translated if it leaves by the uplink: a
// live one keeps the source that it began with.
func (q *question) mayLeave(in *Interface) bool {
	return in.SNAT && (q.live == nil || q.live.Leased())
}

// outside finds the way out of the node for what the sender's own VRF does not lead to,
// or for a session that has left before.
func (s *Snapshot) outside(dst *[16]byte) (route nexthop.Route, bits int, ok bool) {
	route, bits, ok = s.lookup(FabricVRF, dst)
	return route, bits, ok && s.NextHops.At(route.NextHop).Kind == nexthop.Neighbor
}

// masquerade gives a connection that leaves by the uplink the node's address as its
// source. It returns why it cannot, DropUnknown if it can.
func (d *decision) masquerade(snap *Snapshot, q *question, t *Trace) DropReason {
	source, ok := snap.SNAT.source(&q.key.Dst)
	if !ok {
		return DropNATNoAddress
	}
	if _, ok := nat.ClassOf(q.key.Proto); !ok || q.key.SrcPort == 0 { // an echo reply has no identifier of its own
		return DropNATPortless
	}
	d.reply.Dst, d.lease = source, true
	t.masquerade(source)
	return DropUnknown
}

// endpoint is who leases a port: the key of a new session, as the port table sees it.
func endpoint(key *flowtable.Key) (nat.Class, nat.Endpoint) {
	class, _ := nat.ClassOf(key.Proto) // masquerade has asked
	return class, nat.Endpoint{Address: key.Src, Port: key.SrcPort, VRF: key.VRF}
}

// lease takes the external port of a new session. It says why there is none (RFC 4787
// REQ-3: never one that somebody else has), DropUnknown if it has one.
func (w *Worker) lease(s *flowtable.Session, q *question, d *decision) DropReason {
	class, e := endpoint(&q.key)
	port, outcome := w.fwd.nat.Acquire(&d.reply.Dst, class, &e, q.in, w.now)
	if outcome != nat.Given {
		return leaseReason[outcome]
	}
	d.reply.DstPort = port
	s.SetLeased()
	return DropUnknown
}

// leaseReason says what each outcome of nat.Table.Acquire is called. Given is no drop.
var leaseReason = [...]DropReason{nat.Given: DropUnknown, nat.Exhausted: DropNATPorts, nat.OverShare: DropNATShare}

// release gives the external port of a reply key back.
func (f *Forwarder) release(reply *flowtable.Key, now uint32) {
	if class, ok := nat.ClassOf(reply.Proto); ok {
		f.nat.Release(&reply.Dst, class, reply.DstPort, now)
	}
}

// ended settles the accounts of a session that was removed, once, by who removed it.
func (f *Forwarder) ended(s *flowtable.Session, now uint32) {
	f.refund(s.Port())
	if s.Leased() {
		reply := s.Key(flowtable.Reply)
		f.release(&reply, now)
	}
}

// NAT returns the port table of source translation, for its statistics.
func (f *Forwarder) NAT() *nat.Table { return f.nat }
