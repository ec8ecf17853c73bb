package flowtable

import "math/bits"

// TCP tracking follows a connection closely enough to know when it is over, and
// not so closely that it could harm one. It never answers for an endpoint: apart
// from resets that lie outside the window it lets everything pass, and what does
// not fit the connection changes nothing (RFC 9293 section 3.10.7 decides at the
// endpoint). Each direction writes its own words: next, the end of the highest
// sequence it sent; ack, its highest acknowledgement; tcp, below.

// Bits of half.tcp.
const (
	tcpSYN    = 1 << iota // sent a SYN
	tcpFIN                // sent a FIN; next counts it
	tcpRST                // sent a reset that the receiver accepts
	tcpAcked              // sent an acknowledgement that fits; ack is valid
	tcpValid              // next is valid
	tcpScaled             // its SYN offered window scaling (RFC 7323)
	tcpStale              // sent a SYN on a live connection and nothing that fits since

	tcpScale  = 8  // 4 bits: its window scale
	tcpWindow = 12 // 5 bits: bit length of the largest window it advertised, scaled

	tcpOffer = tcpScaled | 15<<tcpScale
)

// TCP header flags that matter here (RFC 9293 section 3.1).
const (
	flagFIN = 1 << iota
	flagSYN
	flagRST
	_
	flagACK
)

// Widths of sequence space, in bytes.
const (
	unknownWindow = 30    // bit length of the widest window there is (65535<<14)
	minWindow     = 66000 // slack below the expected sequence: what one superpacket may hold
)

// TCPVerdict tells the forwarder what to do with a TCP packet.
type TCPVerdict uint8

// The verdicts of TrackTCP.
const (
	TCPPass        TCPVerdict = iota // forward it
	TCPOutOfWindow                   // drop it: a reset that the receiver cannot expect
	TCPReopen                        // a new connection on a finished session: remove that and begin anew
)

// TrackTCP follows one packet of direction dir, given as its header fields, the
// length of its payload (up to a superpacket) and its options as bytes, which
// are read only on a SYN. Workers may call it at once for both directions.
func (s *Session) TrackTCP(dir Direction, seq, ack uint32, window uint16, flags uint8, payload int, options []byte) TCPVerdict {
	me, peer := s.half(dir), s.half(dir^1)
	p := tcpSegment{seq: seq, ack: ack, end: seq + uint32(payload), window: uint32(window), flags: flags}
	if flags&(flagFIN|flagSYN|flagRST) != 0 {
		if flags&flagRST != 0 {
			return trackReset(me, peer, &p)
		}
		if flags&flagSYN != 0 {
			return s.trackSYN(me, peer, &p, options)
		}
		p.end++
	}
	if flags&flagACK != 0 { // RFC 9293 section 3.10.7.4: without ACK, drop
		trackData(me, peer, &p)
	}
	return TCPPass
}

// tcpSegment is what tracking knows of a packet.
type tcpSegment struct {
	seq, ack, end uint32 // end = seq + length, SYN and FIN counted
	window        uint32
	flags         uint8
}

// trackData follows a segment without SYN and RST.
func trackData(me, peer *half, p *tcpSegment) {
	w, pw := me.tcp.Load(), peer.tcp.Load()
	if w&tcpValid == 0 {
		if pw&tcpSYN != 0 { // a half-open end answering a SYN from its past (RFC 9293 section 3.5.1)
			return
		}
		me.next.Store(p.end) // picked up in mid-stream
	} else if !fits(me, peer, w, pw, p) {
		return
	}
	set, unset := uint32(tcpValid|tcpAcked), uint32(tcpStale)
	if next := me.next.Load(); after(p.end, next) && w&tcpFIN == 0 { // nothing comes behind a FIN
		me.next.CompareAndSwap(next, p.end) // a worker that got ahead of us has stored a later one
		unset |= tcpRST                     // RFC 7857 section 2.1: packets follow, so nobody took that reset
	}
	if highest := me.ack.Load(); w&tcpAcked == 0 {
		me.ack.Store(p.ack)
	} else if after(p.ack, highest) {
		me.ack.CompareAndSwap(highest, p.ack)
	}
	if p.flags&flagFIN != 0 {
		set |= tcpFIN
	}
	me.update(unset, set, p.window<<scale(w, pw))
}

// fits reports whether a segment lies where both ends can expect it: its
// sequence within the receiver's window (RFC 9293 section 3.10.7.4), its
// acknowledgement no further than what the receiver sent and no further back
// than a window (RFC 5961 section 5.2).
func fits(me, peer *half, w, pw uint32, p *tcpSegment) bool {
	next, room := me.next.Load(), windowOf(pw)
	limit := next
	if pw&tcpAcked != 0 {
		limit = peer.ack.Load()
	}
	if after(p.end, limit+room) && after(p.end, next) || int32(next-p.seq) > int32(max(room, minWindow)) {
		return false
	}
	if pw&tcpValid == 0 {
		return true
	}
	unacked := int32(peer.next.Load() - p.ack)
	return unacked >= 0 && unacked <= int32(max(windowOf(w), minWindow))
}

// trackSYN follows the handshake: ordinary, simultaneous (RFC 5382 REQ-2), and
// repeated.
func (s *Session) trackSYN(me, peer *half, p *tcpSegment, options []byte) TCPVerdict {
	w, pw := me.tcp.Load(), peer.tcp.Load()
	p.end++
	if p.flags&flagACK == 0 {
		if state := s.State(); state == TCPClosed || state == TCPTimeWait {
			return TCPReopen // RFC 5382 REQ-2, RFC 6191: only a SYN reopens
		}
		if w&tcpAcked != 0 || pw&tcpAcked != 0 {
			me.update(0, tcpStale, 0)
			return TCPPass // RFC 5961 section 4.2: the endpoint challenges it
		}
		me.next.Store(p.end) // the first, a repeated one, or another attempt
		me.update(tcpOffer, tcpSYN|tcpValid|offer(options), p.window)
		return TCPPass
	}
	if pw&tcpAcked != 0 && w&tcpValid != 0 && p.end != me.next.Load() {
		return TCPPass // not the SYN that the other end has acknowledged
	}
	// RFC 9293 section 3.10.7.3: it acknowledges the SYN, perhaps not the data
	// sent with it (RFC 7413).
	if unacked := peer.next.Load() - p.ack; pw&tcpValid == 0 || unacked > minWindow || w&tcpFIN != 0 {
		return TCPPass
	}
	if w&tcpAcked == 0 || pw&tcpAcked == 0 {
		me.next.Store(p.end)
		me.ack.Store(p.ack)
		me.update(tcpOffer, tcpSYN|tcpValid|tcpAcked|offer(options), p.window)
	}
	return TCPPass
}

// trackReset follows RFC 5961 section 3.2: a reset ends the connection only at
// the very sequence number that its receiver expects next. That is what the
// receiver has acknowledged or, if its acknowledgement is still under way, all
// that was sent to it. A reset elsewhere in the window is the receiver's to
// challenge; one outside is nobody's.
func trackReset(me, peer *half, p *tcpSegment) TCPVerdict {
	w, pw := me.tcp.Load(), peer.tcp.Load()
	switch {
	case w&tcpRST != 0:
		return TCPPass
	case w&tcpValid == 0 && pw&tcpValid != 0 && pw&tcpAcked == 0:
		// RFC 5961 section 3.2: in SYN-SENT it must acknowledge the SYN.
		if p.flags&flagACK == 0 || p.ack != peer.next.Load() {
			return TCPOutOfWindow
		}
	case w&tcpValid != 0 && p.seq == me.next.Load():
	case pw&tcpAcked == 0:
		return TCPPass // what the receiver expects is not known: it decides
	case (w|pw)&tcpStale != 0 && p.seq != peer.ack.Load():
		return TCPPass // one end has forgotten the connection: this may be how the other learns of it
	case p.seq != peer.ack.Load():
		if p.seq-peer.ack.Load() < windowOf(pw) {
			return TCPPass
		}
		return TCPOutOfWindow
	}
	me.update(0, tcpRST, 0)
	return TCPPass
}

// after reports whether sequence number a lies behind b (RFC 9293 section 3.4).
func after(a, b uint32) bool { return int32(a-b) > 0 }

// update clears and sets flags and counts a window in, in bytes. A loop, because
// two workers may carry packets of one direction and a FIN is not repeated.
func (h *half) update(unset, set, window uint32) {
	for {
		old := h.tcp.Load()
		w := withWindow(old&^unset|set, window)
		if w == old || h.tcp.CompareAndSwap(old, w) {
			return
		}
	}
}

// withWindow returns w with a window, in bytes, counted in.
func withWindow(w, window uint32) uint32 {
	if n := uint32(bits.Len32(window)); n > w>>tcpWindow&31 {
		return w&^(31<<tcpWindow) | n<<tcpWindow
	}
	return w
}

// windowOf returns the largest window that the sender of w advertised, rounded
// up to a power of two, in bytes.
func windowOf(w uint32) uint32 {
	if w&tcpValid == 0 {
		return 1 << unknownWindow
	}
	return 1 << (w >> tcpWindow & 31)
}

// scale returns the shift of the windows that w's sender advertises: what both
// SYNs agreed on (RFC 7323 section 2.2), and the largest if they were not seen.
func scale(w, pw uint32) uint32 {
	switch {
	case w&pw&tcpSYN == 0:
		return 14
	case w&pw&tcpScaled == 0:
		return 0
	}
	return w >> tcpScale & 15
}

// offer finds the window scale option (kind 3, RFC 7323 section 2.2) of a SYN.
func offer(options []byte) uint32 {
	for len(options) > 0 {
		kind := options[0]
		if kind == 1 { // no-operation
			options = options[1:]
			continue
		}
		if kind == 0 || len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			break
		}
		if kind == 3 && options[1] == 3 {
			return tcpScaled | uint32(min(options[2], 14))<<tcpScale
		}
		options = options[options[1]:]
	}
	return 0
}
