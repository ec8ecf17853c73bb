package forwarder

import (
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/port"
)

// What the router says itself: echo replies from its own addresses, refusals,
// and ICMP errors. All of it goes back out of the port that the packet came in
// on, to the MAC address it came from, whatever the routes say: whoever sent a
// packet hears what became of it. To other nodes it goes as answers of a session
// would (sendBack).

// replyTTL is the TTL and hop limit of what the router makes itself (RFC 1700).
const replyTTL = 64

// local takes a packet whose destination is the router itself. It answers echo
// requests (RFC 1812 §4.3.3.6, RFC 4443 §4.2) and refuses everything else.
func (w *Worker) local(p *packet) {
	if p.l.IsICMP() {
		if !isEchoRequest(&p.l) {
			w.drop(p, DropNoGatewayService) // an answer to nothing is not answered
			return
		}
		w.echo(p)
		return
	}
	w.refuse(p, DropNoGatewayService)
}

// isEchoRequest reports whether an ICMP packet is an echo request or a part of
// one. A fragment without ICMP header has the request's identifier as source
// port, as its first fragment had (a reply's would be the destination port).
func isEchoRequest(l *header.Layout) bool {
	if !l.IsFirst() {
		return l.DstPort == 0
	}
	if l.Version == 6 {
		return l.ICMPType == header.ICMPv6EchoRequest
	}
	return l.ICMPType == header.ICMPv4EchoRequest
}

// echo turns an echo request into its reply, in place. A fragmented request is
// answered fragment by fragment: the identification stays, and the checksum,
// which covers all of them, changes only by the type in the first.
func (w *Worker) echo(p *packet) {
	if reason := verifyICMP(p); reason != DropUnknown {
		w.drop(p, reason)
		return
	}
	b := p.bytes()
	eth := header.Ethernet(b)
	eth.SetDestination(eth.Source())
	eth.SetSource(RouterMAC)
	reply := header.ICMPv4EchoReply
	if p.l.Version == 6 {
		reply = header.ICMPv6EchoReply
		ip := header.IPv6(b[p.l.L3:])
		ip.SetSource(p.l.Dst)
		ip.SetDestination(p.l.Src)
		ip.SetHopLimit(replyTTL)
	} else {
		ip := header.IPv4(b[p.l.L3:])
		ip.SetSource(p.l.Dst)
		ip.SetDestination(p.l.Src)
		ip.SetTTL(replyTTL)
		ip.UpdateChecksum()
	}
	if p.l.IsFirst() {
		m := header.ICMPv4(b[p.l.L4:]) // the echo messages of both families are alike
		change := header.WordDelta(uint16(m.Type())<<8, uint16(reply)<<8)
		m.SetType(reply)
		m.SetChecksum(change.Apply(m.Checksum()))
	}
	w.answer(p, int(p.l.End))
}

// verifyICMP checks the checksum of an ICMP message that is not fragmented. One
// that the sender left to its device is completed first, so that behind here
// every ICMP checksum is whole.
func verifyICMP(p *packet) DropReason {
	if p.partial() {
		if !validOffload(p) {
			return DropOffload
		}
		completeChecksum(p.frame, &p.l)
	}
	if !header.VerifyL4(p.bytes(), &p.l) {
		return DropICMPChecksum
	}
	return DropUnknown
}

// refuse drops a packet and tells its sender at once that nobody listens: with
// a reset for TCP (RFC 9293 §3.10.7.1), else with ICMP port unreachable. Both
// come from the address that was called, as if its host had answered, so that
// sockets bound to that peer accept them. p is
// as it came in.
func (w *Worker) refuse(p *packet, reason DropReason) {
	w.drop(p, reason)
	if !answerable(&p.l) {
		return
	}
	if p.l.Proto == header.ProtoTCP {
		if p.l.IsFragment || p.l.TCPFlags&header.TCPRst != 0 {
			return // a fragment does not tell its segment's length; a reset answers no reset
		}
		if w.limits[p.in].refusalAllowed(w.now) {
			w.reset(p)
		}
		return
	}
	if w.limits[p.in].refusalAllowed(w.now) {
		w.sendError(p, &p.l.Dst, portUnreachable, 0)
	}
}

// reset answers a TCP segment as a host without a listener does. RFC 9293
// §3.10.7.1: "If the ACK bit is off, sequence number zero is used", and the
// reset acknowledges the segment; "if the ACK bit is on", the reset takes its
// sequence number from there.
func (w *Worker) reset(p *packet) {
	if !p.partial() && !header.VerifyL4(p.bytes(), &p.l) {
		return // RFC 9293 §3.1: a segment with a wrong checksum was never received
	}
	segment := header.TCP(p.bytes()[p.l.L4:p.l.End])
	f, body := w.reply(p, &p.l.Dst, header.ProtoTCP, 0, header.TCPMinimumLength)
	if f == nil {
		return
	}
	fields := header.TCPFields{SrcPort: p.l.DstPort, DstPort: p.l.SrcPort}
	if p.l.TCPFlags&header.TCPAck != 0 {
		fields.Seq, fields.Flags = segment.Ack(), header.TCPRst
	} else {
		fields.Ack, fields.Flags = segment.Seq()+segmentSpace(&p.l), header.TCPRst|header.TCPAck
	}
	header.PutTCP(body, &p.l.Dst, &p.l.Src, fields)
	w.generateFor(p, f)
}

// segmentSpace is SEG.LEN of RFC 9293 §3.4: the sequence numbers that a segment
// takes, SYN and FIN included.
func segmentSpace(l *header.Layout) uint32 {
	n := uint32(l.End - l.Payload)
	if l.TCPFlags&header.TCPSyn != 0 {
		n++
	}
	if l.TCPFlags&header.TCPFin != 0 {
		n++
	}
	return n
}

// reply begins a packet of the router's own to the sender of p: Ethernet and IP
// headers, with room for length bytes behind them. It returns nil when there is
// no free frame.
func (w *Worker) reply(p *packet, src *[16]byte, proto, tos uint8, length int) (*port.Frame, []byte) {
	f := w.spareFrame()
	if f == nil {
		return nil, nil
	}
	f.Time = p.frame.Time
	b := f.Buf[f.Start:]
	header.PutEthernet(b, header.EthernetFields{
		Destination: header.Ethernet(p.bytes()).Source(), Source: RouterMAC, Type: p.l.EtherType,
	})
	// RFC 6864 §4.1: with DF set the identification means nothing.
	n := header.EthernetLength + header.PutIP(b[header.EthernetLength:], &header.IPFields{
		Source: *src, Destination: p.l.Src,
		PayloadLength: length, Proto: proto, TTL: replyTTL, TOS: tos, DontFragment: true,
	})
	f.End = f.Start + n + length
	return f, b[n : n+length]
}
