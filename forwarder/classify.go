package forwarder

import (
	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
)

// classify parses and validates a frame once, refuses what its sender may not
// send, answers what is for the router at layer 2, and sets the packet's fate.
// Everything behind it may trust p.l and, for fateSession, p.key.
func (w *Worker) classify(in *Interface, p *packet) {
	b := p.bytes()
	if fault := header.Parse(b, &p.l); fault != header.FaultNone {
		w.drop(p, faultReason[fault])
		return
	}
	if in.Kind == Absent {
		w.drop(p, DropInterfaceDown)
		return
	}
	if in.Kind >= Uplink && !p.onSegment && (p.l.EtherType == header.EtherTypeARP || isDiscovery(&p.l)) {
		w.drop(p, DropUplinkLink)
		return
	}
	eth := header.Ethernet(b)
	if in.AntiSpoof && eth.Source() != in.MAC {
		w.drop(p, DropSourceMACSpoof)
		return
	}
	if p.l.EtherType == header.EtherTypeARP {
		w.arp(in, p)
		return
	}
	if isDiscovery(&p.l) {
		w.neighbour(in, p)
		return
	}
	if !w.admit(in, p, eth.Destination()) {
		return
	}
	if p.l.Src == p.l.Dst {
		w.drop(p, DropLandAttack)
		return
	}
	if !validOffload(p) {
		w.drop(p, DropOffload)
		return
	}
	if p.l.IsFragment && !w.fragment(p) {
		p.fate = fateDone // held, or dropped
		return
	}
	w.assign(in, p)
}

// admit judges who an IP frame is from and to, and floods what is for all. It returns
// false where the packet ended here.
func (w *Worker) admit(in *Interface, p *packet, to [6]byte) bool {
	var reason DropReason
	switch b := w.snap.bridge(in.VRF); {
	case b != nil && to != RouterMAC:
		if reason = w.join(in, b, p); reason == DropUnknown {
			return p.bridged // else it was flooded
		}
	case p.onSegment:
		reason = DropTunnelGroup
	default:
		if reason = in.destination(to, &p.l); reason == DropUnknown {
			reason = in.source(&p.l.Src)
		}
	}
	if reason != DropUnknown {
		w.drop(p, reason)
	}
	return reason == DropUnknown
}

// assign sets the fate of a valid packet and the key it is looked up by.
func (w *Worker) assign(in *Interface, p *packet) {
	if p.l.IsICMP() && p.l.IsFirst() {
		switch {
		case p.l.ICMPError:
			p.fate = fateICMPError
			return
		case isEcho(&p.l):
		case in.Kind == Uplink: // the node itself takes others
			p.fate = fateICMPQuery
			return
		default:
			w.drop(p, DropICMPType) // only echo has a session: a deviation from RFC 5508 REQ-1, see docs/design
			return
		}
	}
	p.key = flowtable.Key{
		Src: p.l.Src, Dst: p.l.Dst,
		SrcPort: p.l.SrcPort, DstPort: p.l.DstPort,
		VRF: in.keyVRF(p), Proto: p.l.Proto,
	}
	p.fate = fateSession
}

// isEcho reports whether an ICMP message is an echo request or reply.
func isEcho(l *header.Layout) bool {
	if l.Version == 6 {
		return l.ICMPType == header.ICMPv6EchoRequest || l.ICMPType == header.ICMPv6EchoReply
	}
	return l.ICMPType == header.ICMPv4EchoRequest || l.ICMPType == header.ICMPv4EchoReply
}

// isDiscovery reports whether a packet is one of neighbour discovery.
func isDiscovery(l *header.Layout) bool {
	return l.Proto == header.ProtoICMPv6 && isNeighbourDiscovery(l.ICMPType) && l.IsICMP() && l.IsFirst()
}

// isNeighbourDiscovery reports whether an ICMPv6 type is one of RFC 4861 §4.
func isNeighbourDiscovery(icmpType uint8) bool {
	return icmpType >= header.ICMPv6RouterSolicitation && icmpType <= header.ICMPv6Redirect
}

// destination says why a packet is not for the router to forward, DropUnknown if
// it is. The node's kernel sends to stand-ins, which are link-local to its link with
// the router.
func (in *Interface) destination(mac [6]byte, l *header.Layout) DropReason {
	switch {
	case header.IsLimitedBroadcast(l.Dst):
		return DropBroadcast // RFC 1812 §5.3.5.1; directed broadcasts have no route (RFC 2644)
	case l.Multicast:
		return DropMulticast
	case l.GroupMAC:
		return DropBroadcast // RFC 1812 §5.3.4: unicast IP inside a link-layer broadcast
	case mac != RouterMAC:
		return DropWrongMAC
	case header.IsLinkLocal(l.Dst) && (in.Kind != Host || !isStandIn(&l.Dst)):
		return DropLinkLocal // RFC 3927 §7, RFC 4291 §2.5.6
	case header.IsMartianDestination(l.Dst):
		return DropMartianDestination // RFC 1812 §5.3.7
	}
	return DropUnknown
}

// source says why the interface may not send from an address, DropUnknown if it
// may. RFC 1812 §5.3.7 martians, then RFC 2827 / 3704 strict filtering on the
// tenant side.
func (in *Interface) source(src *[16]byte) DropReason {
	switch {
	case header.IsLinkLocal(*src):
		return DropLinkLocal
	case header.IsMartianSource(*src):
		return DropMartianSource
	case in.AntiSpoof && !in.owns(src):
		return DropSourceSpoof
	}
	return DropUnknown
}

// owns reports whether the interface may use the address as its own.
func (in *Interface) owns(addr *[16]byte) bool { return contains(in.Sources, addr) }

// contains reports whether addr is in one of the ranges.
func contains(ranges []AddressRange, addr *[16]byte) bool {
	for i := range ranges {
		if ranges[i].contains(addr) {
			return true
		}
	}
	return false
}

// contains reports whether addr is in the range.
func (r *AddressRange) contains(addr *[16]byte) bool {
	if r.Bits < 96 && header.IsIPv4(*addr) {
		return false // a short IPv6 prefix holds v4-mapped addresses by their bits only
	}
	whole := int(r.Bits / 8)
	for i := 0; i < whole && i < len(addr); i++ {
		if addr[i] != r.Address[i] {
			return false
		}
	}
	if rest := r.Bits % 8; rest != 0 && whole < len(addr) {
		return (addr[whole]^r.Address[whole])>>(8-rest) == 0
	}
	return true
}
