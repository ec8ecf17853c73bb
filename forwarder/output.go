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
	var x exit
	if reason := w.exit(nh, &x); reason != DropUnknown {
		w.reject(in, p, reason)
		return
	}
	if p.bridged {
		if reason := x.keep(p); reason != DropUnknown {
			w.drop(p, reason)
			return
		}
	} else if p.l.TTL <= 1 {
		w.icmpError(in, p, DropTTL, timeExceeded, 0) // RFC 1812 §5.3.1, RFC 8200 §3
		return
	}
	large := segmentLength(p) > x.mtu
	if large && (p.l.Version == 6 || p.l.DontFragment) {
		w.icmpError(in, p, DropMTU, packetTooBig, uint32(x.mtu)) // RFC 1191 §4, RFC 8201
		return
	}
	to := s.Key(1 - dir).Reverse()
	if reason := translate(p, &to); reason != DropUnknown {
		w.drop(p, reason)
		return
	}
	if p.l.Proto == header.ProtoTCP && p.l.TCPFlags&header.TCPSyn != 0 && p.l.IsFirst() {
		w.clamp(p, s, dir, &x)
	}
	if x.tunnel != nil {
		x.flow = flowHash(&to)
	}
	s.Count(dir, uint64(p.len), 1)
	s.Seen(w.now)
	w.emit(p, &x, large)
}

// output forwards an ICMP error, which belongs to no session of its own and
// about which no error is ever sent (RFC 1812 §4.3.2.7).
func (w *Worker) output(p *packet, nh nexthop.ID) {
	var x exit
	if p.bridged {
		w.passOn(p, nh)
		return
	}
	reason := w.exit(nh, &x)
	switch {
	case reason != DropUnknown:
		w.drop(p, reason)
	case p.l.TTL <= 1:
		w.drop(p, DropTTL)
	case int(p.l.End-p.l.L3) > x.mtu:
		w.drop(p, DropMTU)
	default:
		x.flow = flowHash(&flowtable.Key{Src: p.l.Src, Dst: p.l.Dst, Proto: p.l.Proto})
		w.emit(p, &x, false)
	}
}

// emit sends a packet on to the next hop.
func (w *Worker) emit(p *packet, x *exit, large bool) {
	if !x.keeps {
		decrementTTL(p.bytes(), &p.l)
	}
	w.put(p, x, large)
}

// put writes the L2 header and appends the packet to the batch of its way out, in
// the shape that the device takes: a superpacket whole where the device can segment,
// partial checksums completed where it can not.
func (w *Worker) put(p *packet, x *exit, large bool) {
	f := p.frame
	f.End = f.Start + int(p.l.End) // Ethernet padding does not travel
	x.address(f)
	p.fate = fateDone
	switch {
	case p.superpacket() && !x.takes(f):
		w.segment(p, x)
		return
	case large:
		w.split(p, x)
		return
	case !x.takes(f): // a partial checksum
		completeChecksum(f, &p.l)
	}
	if reason := w.leave(f, x); reason != DropUnknown {
		w.drop(p, reason)
	}
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
