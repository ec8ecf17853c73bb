package forwarder

import "github.com/vrouter-go/vrouter/internal/header"

// errorKind is an ICMP error that the router sends.
type errorKind uint8

const (
	timeExceeded    errorKind = iota // the TTL ran out
	packetTooBig                     // longer than the next MTU: "fragmentation needed" for IPv4
	noRoute                          // no route to the destination's network
	hostUnreachable                  // a route, but no host at its end
	adminProhibited                  // policy or lack of resources forbids it
	portUnreachable                  // nobody listens
	numErrorKinds
)

// errorTypes are the type and code of each kind, for IPv4 (RFC 792, RFC 1812
// §5.2.7.1) and IPv6 (RFC 4443 §3).
var errorTypes = [numErrorKinds][2]header.ICMPFields{
	timeExceeded: {
		{Type: header.ICMPv4TimeExceeded},
		{Type: header.ICMPv6TimeExceeded},
	},
	packetTooBig: {
		{Type: header.ICMPv4DestinationUnreachable, Code: header.ICMPv4FragmentationNeeded},
		{Type: header.ICMPv6PacketTooBig},
	},
	noRoute: {
		{Type: header.ICMPv4DestinationUnreachable, Code: header.ICMPv4NetUnreachable},
		{Type: header.ICMPv6DestinationUnreachable, Code: header.ICMPv6NoRoute},
	},
	hostUnreachable: {
		{Type: header.ICMPv4DestinationUnreachable, Code: header.ICMPv4HostUnreachable},
		{Type: header.ICMPv6DestinationUnreachable, Code: header.ICMPv6AddressUnreachable},
	},
	adminProhibited: {
		{Type: header.ICMPv4DestinationUnreachable, Code: header.ICMPv4AdminProhibited},
		{Type: header.ICMPv6DestinationUnreachable, Code: header.ICMPv6AdminProhibited},
	},
	portUnreachable: {
		{Type: header.ICMPv4DestinationUnreachable, Code: header.ICMPv4PortUnreachable},
		{Type: header.ICMPv6DestinationUnreachable, Code: header.ICMPv6PortUnreachable},
	},
}

const (
	// maxErrorV4 and maxErrorV6 bound an error, IP header included: RFC 1812
	// §4.3.2.3 says 576 bytes, RFC 4443 §2.4 c the minimum MTU of IPv6.
	maxErrorV4, maxErrorV6 = 576, 1280
	// errorTOS is precedence 6, internetwork control (RFC 1812 §4.3.2.5).
	errorTOS = 6 << 5
)

// dummyIPv4 is where errors come from when the interface has no IPv4 gateway:
// 192.0.0.8 (RFC 7600 §4.8), as in Linux. No one can reach it, all can see it.
var dummyIPv4 = [16]byte{10: 0xff, 11: 0xff, 12: 192, 15: 8}

// icmpError drops a packet and tells its sender why. mtu counts for packetTooBig
// only. p is as it came in: an error quotes what its receiver sent, so it must be
// called before the first byte of the packet changes. It makes the frame unfit
// for anything else.
func (w *Worker) icmpError(in *Interface, p *packet, reason DropReason, kind errorKind, mtu uint32) {
	w.drop(p, reason)
	if answerable(&p.l) && w.limits[p.in].errorAllowed(w.now) {
		w.sendError(p, in.errorSource(p.l.Version), kind, mtu)
	}
}

// errorSource is the address that errors towards an interface come from.
func (in *Interface) errorSource(version uint8) *[16]byte {
	switch {
	case version == 6 && header.IsUnspecified(in.Gateway6):
		return &RouterLinkLocal
	case version == 6:
		return &in.Gateway6
	case header.IsUnspecified(in.Gateway4):
		return &dummyIPv4
	}
	return &in.Gateway4
}

// answerable reports whether an error may be sent about a packet. RFC 1812
// §4.3.2.7 and RFC 4443 §2.4 e: never about an ICMP error, a packet to a group on
// either layer, a fragment other than the first, or from a source that is no
// single host. The exception of RFC 4443 for packet-too-big and multicast does
// not arise: multicast is not forwarded.
func answerable(l *header.Layout) bool {
	return l.Version != 0 && !l.ICMPError && l.IsFirst() && !l.Multicast && !l.GroupMAC &&
		!header.IsMartianSource(l.Src)
}

// sendError sends an ICMP error about p to its sender.
func (w *Worker) sendError(p *packet, src *[16]byte, kind errorKind, mtu uint32) {
	asOnTheWire(p)
	proto, family, limit := header.ProtoICMP, 0, maxErrorV4-header.IPv4MinimumLength
	if p.l.Version == 6 {
		proto, family, limit = header.ProtoICMPv6, 1, maxErrorV6-header.IPv6Length
	}
	quote := p.bytes()[p.l.L3:p.l.End]
	quote = quote[:min(len(quote), limit-header.ICMPLength)]
	f, body := w.reply(p, src, proto, errorTOS, header.ICMPLength+len(quote))
	if f == nil {
		return
	}
	copy(body[header.ICMPLength:], quote)
	fields := errorTypes[kind][family]
	fields.Rest = mtu
	header.PutICMP(body, src, &p.l.Src, fields)
	w.generateFor(p, f)
}

// asOnTheWire makes p the packet that its sender's device would have put on a
// wire, for the quote: the first segment of a superpacket, with a complete
// checksum. Linux takes a quote without these, for it looks at the ports and
// the sequence number only; tools that match quotes to probes by length or
// checksum (Paris traceroute) do not, nor does anybody who reads a capture. The
// checksums of SCTP and ICMP, which no sender leaves to its TAP, stay.
func asOnTheWire(p *packet) {
	l := &p.l
	if !p.superpacket() {
		completeChecksum(p.frame, l)
		return
	}
	l.End = l.Payload + int32(p.frame.Offload.GSOSize)
	b := p.bytes()[:l.End]
	src, dst := setNetworkHeader(b, l, 0)
	segment := b[l.L4:]
	if l.Proto == header.ProtoTCP {
		setTCPSegment(segment, 0, true, false)
	} else {
		header.UDP(segment).SetLength(len(segment))
	}
	setTransportChecksum(segment, &src, &dst, l, false)
}
