package forwarder

import (
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/port"
)

// smallestMTU is what every network must carry in one piece (RFC 791 §3.2): the
// longest header and eight bytes of data.
const smallestMTU = header.IPv4MaximumLength + 8

// split sends an IPv4 packet that may be fragmented out in fragments of at most the
// MTU, in order (RFC 791 §3.2, RFC 4787 REQ-13). The packet may be a
// fragment itself, or a superpacket whose segments are longer than the MTU. p's
// own frame is not sent.
func (w *Worker) split(p *packet, x *exit) {
	if p.superpacket() {
		w.segment(p, x)
		return
	}
	completeChecksum(p.frame, &p.l) // no device sees all fragments
	c := w.counters[p.in].Load()
	for at := p.l.L4; at < p.l.End; {
		if at > p.l.L4 {
			c.generated.Add(1)
		}
		f := w.spareFrame()
		if f == nil {
			w.drop(p, DropNoBuffer)
			return
		}
		at = cutFragment(f, p, at, max(x.mtu, smallestMTU))
		w.sendPiece(p.in, x, f)
	}
}

// splitSegment fragments segment f of the superpacket p, which came from
// spareFrame, and gives its frame back.
func (w *Worker) splitSegment(p *packet, f *port.Frame, x *exit) {
	piece := packet{frame: f, in: p.in, l: p.l}
	piece.l.End = int32(f.Len())
	w.split(&piece, x)
	w.giveBack(f)
}

// cutFragment writes the fragment of p whose data begins at byte at of p's frame
// into the empty frame f, as long as the MTU allows, and returns where the next
// one begins.
func cutFragment(f *port.Frame, p *packet, at int32, mtu int) int32 {
	src, l := p.bytes(), &p.l
	f.End += copy(f.Buf[f.Start:], src[:l.L3+header.IPv4MinimumLength])
	options := header.IPv4(src[l.L3:]).Options()
	if at == l.L4 {
		f.End += copy(f.Buf[f.End:], options)
	} else {
		f.End += copyOptions(f.Buf[f.End:], options)
	}
	length := f.Len() - int(l.L3)
	size, flags := int(l.End-at), uint16(0)
	if l.MoreFragments {
		flags = header.IPv4MoreFragments
	}
	if length+size > mtu {
		size, flags = (mtu-length)&^7, header.IPv4MoreFragments
	}
	next := at + int32(size)
	f.End += copy(f.Buf[f.End:], src[at:next])
	f.Time = p.frame.Time
	ip := header.IPv4(f.Bytes()[l.L3:])
	ip[0] = 4<<4 | uint8(length/4)
	ip.SetTotalLength(len(ip))
	ip.SetFragment(flags, l.FragOffset+uint16(at-l.L4))
	ip.UpdateChecksum()
	return next
}

// Parts of an IPv4 option's first byte (RFC 791 §3.1).
const (
	optionEnd    = 0
	optionNop    = 1
	optionCopied = 0x80 // the option goes into every fragment
)

// copyOptions writes those options that every fragment carries to dst, padded to
// a multiple of four bytes, and returns how many bytes that is. header.Parse has
// accepted the options, so their lengths are right.
func copyOptions(dst, options []byte) int {
	n := 0
	for i := 0; i < len(options) && options[i] != optionEnd; {
		size := 1
		if options[i] != optionNop {
			size = int(options[i+1])
		}
		if options[i]&optionCopied != 0 {
			n += copy(dst[n:], options[i:i+size])
		}
		i += size
	}
	for n%4 != 0 {
		dst[n] = optionEnd
		n++
	}
	return n
}
