package forwarder

import (
	"encoding/binary"

	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/port"
)

// segmentLength returns the bytes of IP packet that p is on a link: of the
// longest segment where p is a superpacket. This is what an MTU limits.
func segmentLength(p *packet) int {
	n := p.l.End - p.l.L3
	if p.superpacket() {
		n = min(n, p.l.Payload-p.l.L3+int32(p.frame.Offload.GSOSize))
	}
	return int(n)
}

// segment cuts a superpacket that validOffload accepted into the segments that it
// stands for and sends them out, in order, with partial checksums where the device
// completes them. Segments beyond the MTU are fragmented. p's own frame is not sent.
func (w *Worker) segment(p *packet, x *exit) {
	payload, size := int(p.l.End-p.l.Payload), int(p.frame.Offload.GSOSize)
	n := (payload + size - 1) / size
	large := segmentLength(p) > x.mtu
	partial := x.device.features&port.FeatureCsum != 0 && !large
	c := w.counters[p.in].Load()
	c.generated.Add(uint64(n - 1))
	for i := range n {
		f := w.spareFrame()
		if f == nil {
			c.drops[DropNoBuffer].Add(uint64(n - i))
			return
		}
		cutSegment(f, p, i, partial)
		if large {
			w.splitSegment(p, f, x)
		} else {
			w.sendPiece(p.in, x, f)
		}
	}
}

// sendPiece sends a frame that came from spareFrame and is a part of a packet
// that came in on port in.
func (w *Worker) sendPiece(in uint16, x *exit, f *port.Frame) {
	w.lend(f)
	if reason := w.leave(f, x); reason != DropUnknown {
		w.counters[in].Load().drops[reason].Add(1)
	}
}

// cutSegment writes segment i of the superpacket p into the empty frame f. Its
// headers are p's as they stand in the frame, after NAT, with what differs from
// segment to segment set: lengths, IPv4 identification, sequence number, flags,
// checksums.
func cutSegment(f *port.Frame, p *packet, i int, partial bool) {
	src, l, size := p.bytes(), &p.l, int(p.frame.Offload.GSOSize)
	from := int(l.Payload) + i*size
	to := min(from+size, int(l.End))
	f.End += copy(f.Buf[f.Start:], src[:l.Payload])
	f.End += copy(f.Buf[f.End:], src[from:to])
	f.Time = p.frame.Time
	b := f.Bytes()
	source, destination := setNetworkHeader(b, l, i)
	seg := b[l.L4:]
	if l.Proto == header.ProtoTCP {
		setTCPSegment(seg, i*size, i == 0, to == int(l.End))
	} else {
		header.UDP(seg).SetLength(len(seg)) // each datagram has a length of its own
	}
	setTransportChecksum(seg, &source, &destination, l, partial)
	if partial {
		f.Offload = port.Offload{
			Flags: port.NeedsCsum, HdrLen: p.frame.Offload.HdrLen,
			CsumStart: p.frame.Offload.CsumStart, CsumOffset: p.frame.Offload.CsumOffset,
		}
	}
}

// setNetworkHeader makes the IP header of a superpacket that of its segment i,
// which is the packet b, and returns the packet's addresses. Each IPv4 segment
// gets an identification of its own (RFC 6864 §4.2), as if the sender had sent it.
func setNetworkHeader(b []byte, l *header.Layout, i int) (src, dst [16]byte) {
	if l.Version == 6 {
		ip := header.IPv6(b[l.L3:])
		ip.SetPayloadLength(len(ip) - header.IPv6Length)
		return ip.Source(), ip.Destination()
	}
	ip := header.IPv4(b[l.L3:])
	ip.SetTotalLength(len(ip))
	ip.SetID(ip.ID() + uint16(i))
	ip.UpdateChecksum()
	return ip.Source(), ip.Destination()
}

// setTCPSegment makes the TCP header of a superpacket that of the segment whose
// data begins offset bytes into the superpacket's.
func setTCPSegment(tcp header.TCP, offset int, first, last bool) {
	tcp.SetSeq(tcp.Seq() + uint32(offset))
	flags := tcp.Flags()
	if !first {
		flags &^= header.TCPCwr // RFC 3168 §6.1.2: one CWR for one reduction
	}
	if !last {
		flags &^= header.TCPFin | header.TCPPsh // they stand behind the last byte
	}
	tcp.SetFlags(flags)
}

// setTransportChecksum writes the checksum of a TCP segment or UDP datagram:
// complete, or only the sum of the pseudo-header for a device to go on from.
func setTransportChecksum(seg []byte, src, dst *[16]byte, l *header.Layout, partial bool) {
	at, _ := checksumField(l)
	field := seg[at : at+2]
	if partial {
		binary.BigEndian.PutUint16(field, header.PseudoHeader(src, dst, l.Proto, len(seg)))
		return
	}
	binary.BigEndian.PutUint16(field, 0)
	binary.BigEndian.PutUint16(field, header.TransportChecksum(src, dst, l.Proto, seg))
}
