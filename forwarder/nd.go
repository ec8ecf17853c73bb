package forwarder

import (
	"github.com/vrouter-go/vrouter/internal/header"
)

// RouterLinkLocal is the router's link-local address on every port: RouterMAC in
// modified EUI-64 form (RFC 4291 Appendix A).
var RouterLinkLocal = [16]byte{0: 0xfe, 1: 0x80, 8: 0x02, 10: 0x5e, 11: 0xff, 12: 0xfe, 14: 0x01}

// allNodes is ff02::1, every node of the link (RFC 4291 §2.7.1).
var allNodes = [16]byte{0: 0xff, 1: 0x02, 15: 0x01}

// ndHopLimit is what neighbour discovery must carry, so that no router can have
// passed it on (RFC 4861 §7.1.1).
const ndHopLimit = 255

// neighbour answers neighbour discovery, ARP's counterpart for IPv6: the router
// stands in for every address that the sender's VRF can reach. header.Parse has
// judged hop limit, code, options and addresses (RFC 4861 §7.1).
func (w *Worker) neighbour(in *Interface, p *packet) {
	segment := w.segmentOf(in, p)
	reason := w.ndSender(in, p)
	if reason == DropUnknown {
		reason = w.ndReason(in, p)
	}
	if segment != nil && (reason == DropNDNoTarget || reason == DropNDAnnouncement || reason == DropWrongMAC) {
		w.hand(segment, p)
		return
	}
	if reason != DropUnknown {
		w.drop(p, reason)
		return
	}
	b := p.bytes()
	target := header.NeighborSolicitation(b[p.l.L4:p.l.End]).Target()
	link, here := w.linkAddress(in, p, &target)
	if !here {
		w.drop(p, DropNDNoTarget)
		return
	}
	dst, flags := p.l.Src, header.NDRouter|header.NDSolicited
	mac := header.Ethernet(b).Source()
	if header.IsUnspecified(dst) {
		// RFC 4861 §7.2.4: the asker has no address yet, so everybody is told.
		dst, flags, mac = allNodes, header.NDRouter, header.MulticastMAC(allNodes)
	}
	if target == RouterLinkLocal || w.who(in, p.in, &target) == holderRouter {
		flags |= header.NDOverride // not where the router only stands in (§7.2.4)
	}
	if link != RouterMAC {
		flags &^= header.NDRouter // nobody on the segment is a router here
	}
	p.frame.End = p.frame.Start + advertisementLength
	putAdvertisement(p.frame.Bytes(), mac, &header.NDFields{
		Source: target, Destination: dst, Target: target, LinkAddress: link, Flags: flags,
	})
	header.Ethernet(p.frame.Bytes()).SetSource(link)
	w.answer(p, advertisementLength)
}

// ndSender says why the sender of a neighbour discovery message is not believed,
// DropUnknown if it is.
func (w *Worker) ndSender(in *Interface, p *packet) DropReason {
	b := w.snap.bridge(in.VRF)
	if b == nil && !asked(p) {
		return DropWrongMAC
	}
	if reason := verifyICMP(p); reason != DropUnknown {
		return reason
	}
	if reason := in.ndSource(p); reason != DropUnknown {
		return reason
	}
	mac, target, ok := linkOption(p)
	switch {
	case p.tunnel && (p.l.Src == RouterLinkLocal || w.snap.has(in.VRF, &p.l.Src)),
		p.tunnel && ok && (mac == RouterMAC || b != nil && b.isLocal(mac)):
		return DropNDSpoof // another node has nobody with an address that is here
	case p.l.ICMPType != header.ICMPv6NeighborAdvertisement:
		return DropUnknown
	case p.tunnel && (target == RouterLinkLocal || w.snap.has(in.VRF, &target)),
		in.AntiSpoof && (ok && mac != in.MAC || target == RouterLinkLocal || !header.IsLinkLocal(target) && !in.owns(&target)):
		return DropNDSpoof
	}
	return DropUnknown
}

// linkOption returns the MAC address that a solicitation or advertisement says its
// sender has, if it does, and its target.
func linkOption(p *packet) (mac [6]byte, target [16]byte, ok bool) {
	m := p.bytes()[p.l.L4:p.l.End]
	switch p.l.ICMPType {
	case header.ICMPv6NeighborSolicitation:
		mac, ok = header.NeighborSolicitation(m).SourceLinkAddress()
		return mac, header.NeighborSolicitation(m).Target(), ok
	case header.ICMPv6NeighborAdvertisement:
		mac, ok = header.NeighborAdvertisement(m).TargetLinkAddress()
		return mac, header.NeighborAdvertisement(m).Target(), ok
	}
	return mac, target, false
}

// ndReason says why a neighbour discovery message is not answered, DropUnknown
// if it is.
func (w *Worker) ndReason(in *Interface, p *packet) DropReason {
	switch p.l.ICMPType {
	case header.ICMPv6NeighborSolicitation:
		if !asked(p) {
			return DropWrongMAC // in a network that bridges: for somebody on the segment
		}
		return w.ndTarget(in, p)
	case header.ICMPv6NeighborAdvertisement:
		return DropNDAnnouncement
	case header.ICMPv6RouterSolicitation:
		return DropRouterDiscovery
	case header.ICMPv6RouterAdvertisement:
		return DropRouterAdvertisement // RFC 6105
	}
	return DropNDRedirect
}

// ndSource checks that the sender speaks for itself. Link-local sources pass,
// because a workload makes its own (RFC 4862 §5.3) and its MAC is verified.
func (in *Interface) ndSource(p *packet) DropReason {
	src := &p.l.Src
	if header.IsUnspecified(*src) {
		return DropUnknown
	}
	if header.IsMartianSource(*src) {
		return DropMartianSource
	}
	if !in.AntiSpoof {
		return DropUnknown
	}
	if *src == RouterLinkLocal || !header.IsLinkLocal(*src) && !in.owns(src) {
		return DropNDSpoof
	}
	if p.l.ICMPType == header.ICMPv6NeighborSolicitation {
		ns := header.NeighborSolicitation(p.bytes()[p.l.L4:p.l.End])
		if mac, ok := ns.SourceLinkAddress(); ok && mac != in.MAC {
			return DropNDSpoof
		}
	}
	return DropUnknown
}

// ndTarget says why a solicitation's target is not answered for.
func (w *Worker) ndTarget(in *Interface, p *packet) DropReason {
	target := header.NeighborSolicitation(p.bytes()[p.l.L4:p.l.End]).Target()
	if target == RouterLinkLocal {
		return DropUnknown
	}
	detection := header.IsUnspecified(p.l.Src) // RFC 4862 §5.4.2
	switch w.who(in, p.in, &target) {
	case holderRouter, holderOther:
		return DropUnknown // RFC 4862 §5.4.4: to the asker, the address is a duplicate
	case holderRouted:
		if !detection {
			return DropUnknown
		}
	case holderNone:
		if !detection || w.snap.bridge(in.VRF) != nil {
			return DropNDNoTarget // where it bridges, the holder is to hear of it
		}
	}
	return DropNDDuplicateDetection
}

// advertisementLength is the length of the frame that putAdvertisement writes.
const advertisementLength = header.EthernetLength + header.IPv6Length + header.NDLength

// putAdvertisement writes a neighbour advertisement with all its headers into b.
func putAdvertisement(b []byte, mac [6]byte, f *header.NDFields) {
	header.PutEthernet(b, header.EthernetFields{Destination: mac, Source: RouterMAC, Type: header.EtherTypeIPv6})
	header.PutIPv6(b[header.EthernetLength:], &header.IPFields{
		Source: f.Source, Destination: f.Destination,
		PayloadLength: header.NDLength, Proto: header.ProtoICMPv6, TTL: ndHopLimit,
	})
	header.PutNeighborAdvertisement(b[header.EthernetLength+header.IPv6Length:], f)
}

// announce tells the workload behind a freshly attached port where its gateways
// are, in case it remembers them from elsewhere: a gratuitous ARP request (RFC
// 5227 §3) and an unsolicited neighbour advertisement (RFC 4861 §7.2.6), one of
// each.
func (w *Worker) announce(snap *Snapshot, portIndex uint16) {
	in := snap.port(portIndex)
	if in.Kind == Absent || in.Kind == Uplink { // who is on the uplink's link is not ours to say
		return
	}
	if gateway := in.Gateway4; !header.IsUnspecified(gateway) {
		w.announceARP(portIndex, gateway)
	}
	w.announceND(portIndex, in.gateway6())
	if gateway := in.gateway6(); gateway != RouterLinkLocal {
		w.announceND(portIndex, RouterLinkLocal)
	}
}

// gateway6 is the address that the router speaks IPv6 from on this interface.
func (in *Interface) gateway6() [16]byte {
	if header.IsUnspecified(in.Gateway6) {
		return RouterLinkLocal
	}
	return in.Gateway6
}

// announceARP sends an ARP announcement of addr out of a port.
func (w *Worker) announceARP(portIndex uint16, addr [16]byte) {
	f := w.spareFrame()
	if f == nil {
		return
	}
	f.End = f.Start + header.EthernetLength + header.ARPLength
	b := f.Bytes()
	header.PutEthernet(b, header.EthernetFields{Destination: header.BroadcastMAC(), Source: RouterMAC, Type: header.EtherTypeARP})
	header.PutARP(b[header.EthernetLength:], &header.ARPFields{
		Operation: header.ARPRequest, SenderMAC: RouterMAC, SenderIP: addr, TargetIP: addr,
	})
	w.generate(portIndex, portIndex, f)
}

// announceND sends an unsolicited neighbour advertisement of addr out of a port.
func (w *Worker) announceND(portIndex uint16, addr [16]byte) {
	f := w.spareFrame()
	if f == nil {
		return
	}
	f.End = f.Start + advertisementLength
	putAdvertisement(f.Bytes(), header.MulticastMAC(allNodes), &header.NDFields{
		Source: addr, Destination: allNodes, Target: addr, LinkAddress: RouterMAC,
		Flags: header.NDRouter | header.NDOverride,
	})
	w.generate(portIndex, portIndex, f)
}
