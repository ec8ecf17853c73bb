package forwarder

import (
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/port"
)

// completeChecksum turns the partial checksum of a frame into a complete one, for
// a port that takes no others. l is the frame's layout; bytes behind l.End are
// not part of the packet. A frame that is not partial is left alone.
func completeChecksum(f *port.Frame, l *header.Layout) {
	if f.Offload.Flags&port.NeedsCsum == 0 {
		return
	}
	b := f.Bytes()[:l.End]
	if l.Proto == header.ProtoSCTP {
		header.SCTP(b[l.L4:]).UpdateChecksum()
	} else {
		header.CompletePartial(b, int(f.Offload.CsumStart), int(f.Offload.CsumOffset))
	}
	f.Offload = port.Offload{}
}

// checksumField returns where the checksum stands in the transport header of a
// packet, or false where a device is never asked to complete one.
func checksumField(l *header.Layout) (offset uint16, ok bool) {
	switch {
	case l.Proto == header.ProtoTCP:
		return 16, true
	case l.Proto == header.ProtoUDP:
		return 6, true
	case l.Proto == header.ProtoSCTP:
		return 8, true
	case l.Proto == header.ProtoICMPv6 && l.Version == 6:
		return 2, true
	}
	return 0, false
}

// validOffload judges the metadata beside a parsed frame, which a hostile guest
// may have written, by the rules of Linux's virtio_net_hdr_to_skb, and brings it
// into the one form that the rest relies on:
//
//   - CsumStart is the transport header, CsumOffset its checksum field;
//   - a superpacket has NeedsCsum and a GSO type that fits family and protocol,
//     and its payload is longer than GSOSize, so it makes two segments at least;
//   - HdrLen, which is only a hint and never trusted, is the length of the headers;
//   - everything else is zero.
func validOffload(p *packet) bool {
	o, l := &p.frame.Offload, &p.l
	if o.Flags&port.NeedsCsum == 0 {
		// virtio 1.2 §5.1.6.2.1: who sets gso_type must set NEEDS_CSUM.
		valid := o.GSOType == port.GSONone
		*o = port.Offload{Flags: o.Flags & port.DataValid}
		return valid
	}
	field, ok := checksumField(l)
	if !ok || l.IsFragment || int32(o.CsumStart) != l.L4 || o.CsumOffset != field {
		return false
	}
	size := o.GSOSize
	if o.GSOType == port.GSONone {
		size = 0
	} else if !validSegmentation(o, l) {
		return false
	}
	*o = port.Offload{
		Flags: port.NeedsCsum, GSOType: o.GSOType, GSOSize: size,
		CsumStart: o.CsumStart, CsumOffset: field, HdrLen: uint16(l.Payload),
	}
	if l.End-l.Payload <= int32(size) { // no more than one segment: not a superpacket
		o.GSOType, o.GSOSize = port.GSONone, 0
	}
	if l.Proto == header.ProtoSCTP {
		completeChecksum(p.frame, l) // virtio knows no CRC32c to complete: no port would
	}
	return true
}

// Limits of segmentation: what one frame from a port can make another port's
// worker send. Linux refuses USO beyond 128 segments (UDP_MAX_SEGMENTS); TCP has
// no limit there, but no path has segments shorter than 88 bytes (TCP_MIN_MSS less
// options), and 1,024 of 64 bytes fill a superpacket.
const (
	maxUDPSegments = 128
	maxTCPSegments = 1024
)

// validSegmentation judges the GSO fields of a parsed frame.
func validSegmentation(o *port.Offload, l *header.Layout) bool {
	if o.GSOSize == 0 || o.GSOSize == 0xffff { // GSO_BY_FRAGS in Linux
		return false
	}
	payload, size := int(l.End-l.Payload), int(o.GSOSize)
	switch o.GSOType {
	case port.GSOTCPv4, port.GSOTCPv4 | port.GSOECN:
		return l.Version == 4 && l.Proto == header.ProtoTCP && payload <= maxTCPSegments*size
	case port.GSOTCPv6, port.GSOTCPv6 | port.GSOECN:
		return l.Version == 6 && l.Proto == header.ProtoTCP && payload <= maxTCPSegments*size
	case port.GSOUDPL4:
		return l.Proto == header.ProtoUDP && payload <= maxUDPSegments*size
	}
	return false
}
