package forwarder

import (
	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/nexthop"
)

// send translates a packet as its session says and puts it on its way out. The
// order matters: errors quote the packet as it came (RFC 1812 §4.3.2.3), so
// what can fail is checked before the first byte changes.
func (w *Worker) send(in *Interface, p *packet, s *flowtable.Session, dir flowtable.Direction, nh nexthop.ID) {
	outPort := portOf(nh)
	out := w.snap.port(outPort)
	if out.Kind == Absent || w.tx[outPort] == nil {
		w.reject(in, p, DropOutputGone)
		return
	}
	if p.l.TTL <= 1 {
		w.icmpError(in, p, DropTTL, timeExceeded, 0) // RFC 1812 §5.3.1, RFC 8200 §3
		return
	}
	large := segmentLength(p) > int(out.MTU)
	if large && (p.l.Version == 6 || p.l.DontFragment) {
		w.icmpError(in, p, DropMTU, packetTooBig, uint32(out.MTU)) // RFC 1191 §4, RFC 8201
		return
	}
	to := s.Key(1 - dir).Reverse()
	if reason := translate(p, &to); reason != DropUnknown {
		w.drop(p, reason)
		return
	}
	s.Count(dir, uint64(p.len), 1)
	s.Seen(w.now)
	w.emit(p, outPort, out, large)
}

// output forwards an ICMP error, which belongs to no session of its own and
// about which no error is ever sent (RFC 1812 §4.3.2.7).
func (w *Worker) output(p *packet, nh nexthop.ID) {
	outPort := portOf(nh)
	out := w.snap.port(outPort)
	switch {
	case out.Kind == Absent || w.tx[outPort] == nil:
		w.drop(p, DropOutputGone)
	case p.l.TTL <= 1:
		w.drop(p, DropTTL)
	case int(p.l.End-p.l.L3) > int(out.MTU):
		w.drop(p, DropMTU)
	default:
		w.emit(p, outPort, out, false)
	}
}

// emit writes the TTL and the L2 header and appends the packet to the output
// port's batch, in the shape that the port takes: a superpacket whole where the
// port can segment, partial checksums completed where it can not.
func (w *Worker) emit(p *packet, outPort uint16, out *Interface, large bool) {
	f := p.frame
	f.End = f.Start + int(p.l.End) // Ethernet padding does not travel
	b := f.Bytes()
	decrementTTL(b, &p.l)
	eth := header.Ethernet(b)
	eth.SetDestination(out.MAC)
	eth.SetSource(RouterMAC)

	features := w.tx[outPort].features
	switch {
	case p.superpacket() && !features.Accepts(f.Offload):
		w.segment(p, outPort, features)
		p.fate = fateDone
		return
	case large:
		w.split(p, outPort, int(out.MTU))
		p.fate = fateDone
		return
	case !features.Accepts(f.Offload): // a partial checksum
		completeChecksum(f, &p.l)
	}
	if reason := w.enqueue(outPort, f); reason != DropUnknown {
		w.drop(p, reason)
	}
	p.fate = fateDone
}

// decrementTTL lowers the TTL or hop limit by one and repairs the IPv4 header
// checksum by difference (RFC 1624 §3).
func decrementTTL(b []byte, l *header.Layout) {
	if l.Version == 6 {
		header.IPv6(b[l.L3:]).DecrementHopLimit()
		return
	}
	header.IPv4(b[l.L3:]).DecrementTTL()
}
