package forwarder

import (
	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
)

// open decides about a packet that had no session when its batch was looked up
// and installs one. It returns 0 when the packet ended here.
func (w *Worker) open(in *Interface, p *packet) flowtable.Ref {
	if ref := w.flows.Lookup(&p.key, p.hash); ref != 0 {
		return ref // an earlier packet of the batch, or another worker, opened it
	}
	if in.Kind == Uplink {
		switch node, reason := w.forNode(p); {
		case node:
			w.handOver(p)
			return 0
		case reason != DropUnknown:
			w.drop(p, reason)
			return 0
		}
	}
	if reason := in.mayOpen(p); reason != DropUnknown {
		w.drop(p, reason)
		return 0
	}
	if p.tunnel && w.snap.isAnswer(p) {
		w.drop(p, DropTunnelAnswer)
		return 0
	}
	q := w.ask(p)
	d := &w.decision
	w.fwd.decide(w.snap, &q, d, nil)
	switch d.verdict {
	case verdictForward:
		return w.install(in, p, &q, d)
	case verdictLocal:
		w.local(p)
	case verdictFind:
		w.tell(p.in, d)
		w.drop(p, d.reason)
	case verdictRefuse:
		w.refuse(p, d.reason)
	default:
		if d.log {
			w.note(d, p)
		}
		w.reject(in, p, d.reason)
	}
	return 0
}

// reject drops a packet and, where the standard asks for it, tells the sender.
func (w *Worker) reject(in *Interface, p *packet, reason DropReason) {
	switch reason {
	case DropNoRoute, DropNATNoAddress:
		w.icmpError(in, p, reason, noRoute, 0) // RFC 1812 §5.2.7.1, RFC 4443 §3.1
	case DropOutputGone, DropMemberGone, DropTunnelGone, DropPeerDown, DropNeighborUnresolved:
		w.icmpError(in, p, reason, hostUnreachable, 0) // RFC 1812 §5.2.7.1, RFC 4443 §3.1
	case DropFlowTableFull, DropFlowQuota, DropNATPorts, DropNATShare:
		w.icmpError(in, p, reason, adminProhibited, 0) // RFC 5508 REQ-8
	default:
		w.drop(p, reason)
	}
}

// mayOpen says why a packet cannot be the first of a session. A TCP reset never
// is. Neither is a segment that answers for a service: forwarding it under a
// session of its own would show the client the member's address, so the
// client's next packet opens the session instead (this matters after a restart).
func (in *Interface) mayOpen(p *packet) DropReason {
	if p.l.Proto != header.ProtoTCP {
		return DropUnknown
	}
	if !p.l.IsFirst() {
		return DropTCPNoSession // the first fragment came before and opened none
	}
	switch flags := p.l.TCPFlags; {
	case flags&header.TCPRst != 0:
		return DropTCPNoSession
	case flags&header.TCPSyn != 0 && flags&header.TCPAck == 0:
		return DropUnknown
	case flags&header.TCPSyn != 0 || in.serves(header.ProtoTCP, p.l.SrcPort):
		return DropTCPNoSession
	}
	return DropUnknown
}

// serves reports whether the interface is a member of a service with that
// target port.
func (in *Interface) serves(proto uint8, targetPort uint16) bool {
	for _, k := range in.Serves {
		if k.Proto == proto && k.Port == targetPort {
			return true
		}
	}
	return false
}

// install makes a decision a session, both directions of it.
func (w *Worker) install(in *Interface, p *packet, q *question, d *decision) flowtable.Ref {
	if in.Kind == Uplink {
		hop, reason := w.fwd.neighborHop(p.mac)
		if reason != DropUnknown {
			w.drop(p, reason)
			return 0
		}
		d.nextHop[flowtable.Reply] = hop
	}
	if !w.fwd.charge(p.in, in.Quota) {
		w.reject(in, p, DropFlowQuota)
		return 0
	}
	ref := w.reader.Alloc()
	if ref == 0 {
		w.fwd.refund(p.in)
		w.reject(in, p, DropFlowTableFull)
		return 0
	}
	s := w.flows.Session(ref)
	s.SetPort(p.in)
	s.SetMember(d.member)
	s.SetRule(d.rule)
	s.Begin(w.now)
	s.SetDecision(w.snap.Epoch, uint32(d.nextHop[flowtable.Forward]), uint32(d.nextHop[flowtable.Reply]))

	if d.lease {
		if reason := w.lease(s, q, d); reason != DropUnknown {
			w.reader.Free(ref)
			w.fwd.refund(p.in)
			w.reject(in, p, reason)
			return 0
		}
	}
	got, reason := w.insert(ref, s, q, d)
	if got != ref {
		if d.lease {
			w.fwd.release(&d.reply, w.now)
		}
		w.reader.Free(ref)
		w.fwd.refund(p.in)
		if reason != DropUnknown {
			w.reject(in, p, reason)
		}
		return got
	}
	if d.remember {
		w.fwd.affinity.Put(&q.key.Src, d.service.ID, d.member, w.now, d.service.Affinity)
	}
	if d.log {
		w.note(d, p)
	}
	w.tell(p.in, d)
	return ref
}

// maxPortTries is how many other source ports are tried when the reply key
// belongs to another connection.
const maxPortTries = 128

// insert publishes a session. When its replies could not be told from another
// connection's, because a client uses one source port both to a service and to
// the member behind it, the source port is translated.
func (w *Worker) insert(ref flowtable.Ref, s *flowtable.Session, q *question, d *decision) (flowtable.Ref, DropReason) {
	wanted := d.reply.DstPort
	for try := uint32(0); ; try++ {
		s.SetKeys(q.key, d.reply)
		switch outcome, other := w.reader.Insert(ref); outcome {
		case flowtable.Inserted:
			return ref, DropUnknown
		case flowtable.Exists: // another worker was first, or another packet of this batch
			return other, DropUnknown
		case flowtable.Full:
			return 0, DropFlowTableFull
		}
		if d.lease || !hasPorts(q.key.Proto) || wanted == 0 || try == maxPortTries { // an echo reply has no port of its own
			return 0, DropNATPorts
		}
		d.reply.DstPort = translatedPort(wanted, uint32(w.flows.Hash(&q.key)), try)
	}
}

// hasPorts reports whether a protocol has ports, or an identifier that serves as
// one, so that a translated one can tell connections apart.
func hasPorts(proto uint8) bool {
	switch proto {
	case header.ProtoTCP, header.ProtoUDP, header.ProtoSCTP, header.ProtoICMP, header.ProtoICMPv6:
		return true
	}
	return false
}

// translatedPort is the try'th substitute for a source port, of the same class:
// below 1024 or not (RFC 4787 REQ-3a), in an order that cannot be guessed
// (RFC 6056 §3.3.3: the hash is keyed).
func translatedPort(wanted uint16, hash, try uint32) uint16 {
	low, size := uint32(1024), uint32(65536-1024)
	if wanted < 1024 {
		low, size = 1, 1023
	}
	return uint16(low + (hash+try*7919)%size) // 7919 is prime to both sizes: no port comes twice
}

// renew decides again about a session that was decided under an older
// snapshot. It returns nil when the packet ended here.
func (w *Worker) renew(in *Interface, p *packet) *flowtable.Session {
	s := w.flows.Session(p.ref)
	if newer(s.Decision().Epoch(), w.snap.Epoch) {
		return s // another worker has seen a later commit than this batch
	}
	first := p
	if p.ref.Direction() == flowtable.Reply {
		first = nil
	}
	q := w.askAgain(s, first)
	if p.bridged {
		q.meet(p)
	}
	d := &w.decision
	w.fwd.decide(w.snap, &q, d, nil)
	switch d.verdict {
	case verdictForward:
		w.tell(s.Port(), d)
		s.SetRule(d.rule)
		s.SetMember(d.member)
		settle(s, flowtable.NewDecision(w.snap.Epoch, uint32(d.nextHop[flowtable.Forward]), uint32(d.nextHop[flowtable.Reply])))
		return s
	case verdictRebind:
		return w.rebind(in, p)
	case verdictEnd:
		w.remove(p.ref)
		w.reject(in, p, d.reason)
		return nil
	case verdictLocal:
		d.reason = DropNoGatewayService
	}
	s.SetRule(d.rule)
	settle(s, flowtable.NewDecision(w.snap.Epoch, uint32(d.reason), uint32(d.reason)))
	return s
}

// settle records a decision about a live session, unless another worker has
// recorded one of a newer epoch.
func settle(s *flowtable.Session, d flowtable.Decision) {
	for old := s.Decision(); !newer(old.Epoch(), d.Epoch()); old = s.Decision() {
		if s.SwapDecision(old, d) {
			return
		}
	}
}

// newer reports whether epoch a came after epoch b. Epochs wrap, so newer means
// less than half the range ahead; 0 is no epoch.
func newer(a, b uint32) bool {
	ahead := (a - b) & flowtable.EpochMask
	return a != 0 && ahead != 0 && ahead < flowtable.EpochMask/2
}

// rebind forgets a session whose binding is void. The initiator's packet starts
// a new one; the former member's is dropped, for nobody knows its address.
func (w *Worker) rebind(in *Interface, p *packet) *flowtable.Session {
	dir := p.ref.Direction()
	w.remove(p.ref)
	if dir == flowtable.Reply {
		w.drop(p, DropMemberGone)
		return nil
	}
	if p.ref = w.open(in, p); p.ref == 0 {
		return nil
	}
	return w.flows.Session(p.ref)
}

// remove ends a session.
func (w *Worker) remove(ref flowtable.Ref) {
	if w.reader.Remove(ref) {
		w.fwd.ended(w.flows.Session(ref), w.now) // the record waits until this batch is over
	}
}

// charge counts a session against the quota of the port that opens it.
func (f *Forwarder) charge(in uint16, quota int32) bool {
	if n := f.charged[in].Add(1); quota > 0 && n > quota {
		f.charged[in].Add(-1)
		return false
	}
	return true
}

// refund gives back what charge took.
func (f *Forwarder) refund(in uint16) { f.charged[in].Add(-1) }
