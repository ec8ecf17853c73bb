package forwarder

import (
	"encoding/binary"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/nexthop"
)

// An ICMP error on its way through belongs to the session whose packet it
// quotes. It travels against that packet, so it crosses the session in the
// opposite direction, and both its own addresses and the quoted headers are
// turned back into what the packet's sender knows (RFC 5508 §4). It may do
// nothing else to the session: neither refresh nor end it (RFC 5508 REQ-6, RFC
// 4787 REQ-12, RFC 5382 REQ-10), because anybody can forge one (RFC 5927).

// icmpErrorTransit forwards an ICMP error.
func (w *Worker) icmpErrorTransit(in *Interface, p *packet) {
	var inner header.Layout
	if reason := quoted(in, p, &inner); reason != DropUnknown {
		w.drop(p, reason)
		return
	}
	here := false
	if in.Kind >= Uplink { // RFC 5927 §4, as in quoted: what is for somebody here never went that way,
		hop, _ := w.snap.follow(in.VRF, &inner.Dst)
		if here = w.snap.isHere(hop, &inner.Dst); here && hop.Kind != nexthop.FloatingIP { // unless a session says so
			w.drop(p, DropICMPErrorSpoof)
			return
		}
	}
	key := flowtable.Key{
		Src: inner.Dst, Dst: inner.Src,
		SrcPort: inner.DstPort, DstPort: inner.SrcPort,
		VRF: in.keyVRF(p), Proto: inner.Proto,
	}
	ref := w.flows.Lookup(&key, w.flows.Hash(&key))
	if ref == 0 && p.tunnel {
		ref = w.answered(&key)
	}
	if ref == 0 {
		if in.Kind == Uplink && !here {
			if node, _ := w.forNode(p); node {
				w.handOver(p) // about something that the node itself sent
				return
			}
		}
		w.drop(p, DropICMPErrorNoSession) // RFC 5508 REQ-4, REQ-5
		return
	}
	s := w.flows.Session(ref)
	dir := ref.Direction()
	hops, reason := w.waysOf(s, dir)
	if reason == DropUnknown && in.Kind >= Uplink && w.belongs(p, s, dir, hops[flowtable.Forward]) != DropUnknown {
		reason = DropICMPErrorSpoof
	}
	if reason != DropUnknown {
		w.drop(p, reason)
		return
	}
	if p.bridged && hops[dir] != p.target {
		w.drop(p, DropICMPErrorMismatch)
		return
	}
	original := s.Key(1 - dir)
	translateError(p, &inner, &original)
	w.output(p, hops[dir])
}

// quoted reads the packet that an ICMP error quotes and says why the error is
// not believed, DropUnknown if it is.
func quoted(in *Interface, p *packet, inner *header.Layout) DropReason {
	if p.l.IsFragment {
		return DropICMPErrorFormat
	}
	if reason := verifyICMP(p); reason != DropUnknown {
		return reason // RFC 5508 REQ-3
	}
	switch header.ParseInner(quote(p), inner) {
	case header.FaultNone:
	case header.FaultQuotedVersion:
		return DropQuotedVersion
	default:
		return DropICMPErrorFormat
	}
	switch {
	case inner.Version != p.l.Version:
		return DropICMPErrorFormat
	case inner.ICMPError || !inner.IsFirst():
		return DropICMPErrorFormat // RFC 1812 §4.3.2.7: nobody may send an error about these
	case inner.IsICMP() && !isEcho(inner):
		return DropICMPErrorNoSession // of the queries, only echo has sessions
	case inner.Src != p.l.Dst:
		return DropICMPErrorMismatch // RFC 792: an error goes to the source of the packet that it quotes
	case in.AntiSpoof && !in.owns(&inner.Dst):
		return DropICMPErrorSpoof // RFC 5927 §4: only who could have received it may complain
	}
	return DropUnknown
}

// quote returns the bytes that an ICMP error quotes, without the ICMP extensions
// that may follow (RFC 5508 REQ-3 d; RFC 4884 §5: the quote then is of at least
// 128 bytes).
func quote(p *packet) []byte {
	b := p.bytes()
	all := b[p.l.Payload:p.l.End]
	length := header.ICMPv4(b[p.l.L4:]).QuotedLength()
	if p.l.Version == 6 {
		length = header.ICMPv6(b[p.l.L4:]).QuotedLength()
		if p.l.ICMPType == header.ICMPv6PacketTooBig {
			return all // the MTU stands where the length would
		}
	}
	if length >= 128 && length < len(all) {
		return all[:length]
	}
	return all
}

// waysOf returns the next hops of a session's directions under the snapshot of this
// batch, or why a packet of direction dir has none. A session that was decided under
// an older one is decided about without changing it: its next own packet does that.
func (w *Worker) waysOf(s *flowtable.Session, dir flowtable.Direction) (hops [2]nexthop.ID, reason DropReason) {
	if d := s.Decision(); d.Epoch() == w.snap.Epoch {
		hops = [2]nexthop.ID{nexthop.ID(d.NextHop(flowtable.Forward)), nexthop.ID(d.NextHop(flowtable.Reply))}
		if nh := hops[dir]; nh.IsDiscard() {
			return hops, DropReason(nh)
		}
		return hops, DropUnknown
	}
	q := w.askAgain(s, nil)
	d := &w.decision
	w.fwd.decide(w.snap, &q, d, nil)
	switch d.verdict {
	case verdictForward:
		return d.nextHop, DropUnknown
	case verdictDrop, verdictRefuse, verdictEnd:
		return hops, d.reason
	}
	return hops, DropICMPErrorNoSession // its binding is void
}

// translateError turns an ICMP error into what the sender of the quoted packet
// can understand. original is the packet's key as its sender wrote it. Lengths do
// not change; type, code, MTU and extensions stay (RFC 5508 REQ-4 b, REQ-5 b).
// The checksums change by difference, so a sum that was wrong in the quote stays
// wrong.
func translateError(p *packet, inner *header.Layout, original *flowtable.Key) {
	b, l := p.bytes(), &p.l
	// RFC 5508 REQ-4 c: the error goes to the quoted packet's first source. One
	// that comes from the packet's destination seems to come from the address
	// that was called (REQ-5 c); a router on the way keeps its own, so that
	// traceroute and path MTU discovery name the hop that it was.
	src, dst := l.Src, original.Src
	if src == inner.Dst {
		src = original.Dst
	}
	change := translateQuote(quote(p), inner, original)
	outer := header.AddressDelta(&l.Src, &src).Add(header.AddressDelta(&l.Dst, &dst))
	if l.Version == 6 {
		ip := header.IPv6(b[l.L3:])
		ip.SetSource(src)
		ip.SetDestination(dst)
		change = change.Add(outer) // RFC 4443 §2.3: the pseudo-header counts
	} else {
		ip := header.IPv4(b[l.L3:])
		ip.SetSource(src)
		ip.SetDestination(dst)
		ip.SetChecksum(outer.Apply(ip.Checksum()))
	}
	m := header.ICMPv4(b[l.L4:])
	m.SetChecksum(change.Apply(m.Checksum()))
	l.Src, l.Dst = src, dst
}

// translateQuote gives the quoted packet q its original addresses and ports and
// returns the difference that this makes to the sum over q.
func translateQuote(q []byte, inner *header.Layout, original *flowtable.Key) header.Delta {
	addresses := header.AddressDelta(&inner.Src, &original.Src).Add(header.AddressDelta(&inner.Dst, &original.Dst))
	change := addresses
	if inner.Version == 6 {
		ip := header.IPv6(q)
		ip.SetSource(original.Src)
		ip.SetDestination(original.Dst)
	} else {
		ip := header.IPv4(q)
		was := ip.Checksum()
		ip.SetSource(original.Src)
		ip.SetDestination(original.Dst)
		ip.SetChecksum(addresses.Apply(was))
		change = change.Add(header.WordDelta(was, ip.Checksum()))
	}
	return change.Add(translateQuotedL4(q[inner.L4:inner.End], inner, original, addresses))
}

// translateQuotedL4 writes the original ports into the quoted transport header
// and repairs its checksum where the quote reaches that far. SCTP's CRC32c stays
// as it is: it cannot be repaired from a part of the packet, and a sender knows
// its packet by ports and verification tag (RFC 9260 §10.1).
func translateQuotedL4(seg []byte, inner *header.Layout, original *flowtable.Key, addresses header.Delta) header.Delta {
	ports := header.WordDelta(inner.SrcPort, original.SrcPort).Add(header.WordDelta(inner.DstPort, original.DstPort))
	sumAt, covered := 0, addresses.Add(ports)
	switch inner.Proto {
	case header.ProtoTCP:
		sumAt = 16
		putPorts(seg, original)
	case header.ProtoUDP:
		sumAt = 6
		putPorts(seg, original)
	case header.ProtoSCTP:
		putPorts(seg, original)
		return ports
	case header.ProtoICMP, header.ProtoICMPv6:
		if !inner.IsICMP() {
			return 0
		}
		sumAt = 2
		if inner.Version == 4 {
			covered = ports // no pseudo-header
		}
		putEcho(seg, inner, original)
	default:
		return 0
	}
	if len(seg) < sumAt+2 {
		return ports
	}
	was := binary.BigEndian.Uint16(seg[sumAt:])
	is := covered.Apply(was)
	if inner.Proto == header.ProtoUDP {
		is = covered.ApplyUDP(was)
	}
	binary.BigEndian.PutUint16(seg[sumAt:], is)
	return ports.Add(header.WordDelta(was, is))
}

// putPorts writes the ports of a key, which are at the same place in TCP, UDP
// and SCTP.
func putPorts(seg []byte, key *flowtable.Key) {
	binary.BigEndian.PutUint16(seg[0:], key.SrcPort)
	binary.BigEndian.PutUint16(seg[2:], key.DstPort)
}

// putEcho writes the identifier of an echo message, which is the source port of
// a request's key and the destination port of a reply's.
func putEcho(seg []byte, inner *header.Layout, key *flowtable.Key) {
	id := key.DstPort
	if isEchoRequest(inner) {
		id = key.SrcPort
	}
	header.ICMPv4(seg).SetEchoID(id)
}
