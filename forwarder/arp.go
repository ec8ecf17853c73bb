package forwarder

import (
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/nexthop"
)

// arp answers an ARP packet. The router stands in for every address that the
// sender's VRF can reach (proxy ARP, RFC 1027): the gateway, other workloads,
// floating IPs, so that all traffic comes to it. It learns nothing from ARP:
// the control plane says who is where. In a network that bridges it answers for those
// on the segment with their own addresses (RFC 9161), and passes on what it
// cannot answer.
func (w *Worker) arp(in *Interface, p *packet) {
	b := p.bytes()
	a := header.ARP(b[p.l.L3:])
	sender, target := a.SenderIP(), a.TargetIP()
	segment := w.segmentOf(in, p)
	reason := w.arpSender(in, p, a, &sender)
	if reason == DropUnknown && segment != nil && (a.Operation() != header.ARPRequest || sender == target) {
		w.hand(segment, p) // an answer or an announcement
		return
	}
	if reason == DropUnknown {
		reason = w.arpReason(in, p, a, &sender, &target)
	}
	mac, here := w.linkAddress(in, p, &target)
	switch {
	case segment != nil && (reason == DropARPNoTarget || reason == DropWrongMAC):
		w.hand(segment, p)
		return
	case reason == DropUnknown && !here:
		reason = DropARPNoTarget
	}
	if reason != DropUnknown {
		w.drop(p, reason)
		return
	}
	asker := a.SenderMAC()
	header.PutARP(a, &header.ARPFields{
		Operation: header.ARPReply,
		SenderMAC: mac, SenderIP: target,
		TargetMAC: asker, TargetIP: sender,
	})
	header.PutEthernet(b, header.EthernetFields{Destination: asker, Source: mac, Type: header.EtherTypeARP})
	w.answer(p, int(p.l.End))
}

// arpSender says why the sender of an ARP packet is not believed, DropUnknown if it
// is. Another node has nobody with an address that is here.
func (w *Worker) arpSender(in *Interface, p *packet, a header.ARP, sender *[16]byte) DropReason {
	probe := header.IsUnspecified(*sender) // RFC 5227 §2.1.1
	mac := a.SenderMAC()
	switch b := w.snap.bridge(in.VRF); {
	case b == nil && !asked(p):
		return DropWrongMAC
	case header.IsGroupMAC(mac) || in.AntiSpoof && (mac != in.MAC || !probe && !in.owns(sender)):
		return DropARPSpoof
	case p.tunnel && (mac == RouterMAC || b != nil && b.isLocal(mac) || w.snap.has(in.VRF, sender)):
		return DropARPSpoof
	case !probe && header.IsMartianSource(*sender):
		return DropMartianSource
	}
	return DropUnknown
}

// arpReason says why an ARP packet is not answered, DropUnknown if it is.
func (w *Worker) arpReason(in *Interface, p *packet, a header.ARP, sender, target *[16]byte) DropReason {
	probe := header.IsUnspecified(*sender)
	switch {
	case !asked(p):
		return DropWrongMAC // in a network that bridges: for somebody on the segment
	case *sender == *target:
		return DropARPAnnouncement // RFC 5227 §3
	case a.Operation() != header.ARPRequest:
		return DropARPNotRequest
	}
	switch w.who(in, p.in, target) {
	case holderSelf:
		return DropARPDuplicateDetection
	case holderNone:
		return DropARPNoTarget
	case holderRouted:
		if probe {
			return DropARPDuplicateDetection
		}
	}
	return DropUnknown
}

// holder says who has an address, as seen from one port.
type holder uint8

const (
	holderNone   holder = iota // no route, or one that discards
	holderSelf                 // the port itself: whoever answered would fake a duplicate
	holderRouted               // somewhere behind a prefix: reachable, but maybe nobody's
	holderOther                // exactly this address is somebody else's: a workload's, a service's
	holderRouter               // the router's own: a gateway
)

// who finds the holder of an address in the VRF of the interface at port index.
func (w *Worker) who(in *Interface, index uint16, addr *[16]byte) holder {
	for i := range in.Sources {
		if in.Sources[i].Bits == 128 && in.Sources[i].Address == *addr {
			return holderSelf
		}
	}
	hop, host := w.snap.hop(in.VRF, addr)
	if hop == (nexthop.NextHop{}) && in.SNAT && !header.IsLinkLocal(*addr) {
		if _, _, ok := w.snap.outside(addr); ok {
			return holderRouted
		}
	}
	switch {
	case hop.Kind == nexthop.Discard || hop.Kind == nexthop.VRF:
		return holderNone
	case hop.Kind == nexthop.Receive:
		return holderRouter
	case hop.Kind == nexthop.Interface && hop.Port == index:
		return holderSelf
	case host:
		return holderOther
	case header.IsLinkLocal(*addr):
		return holderNone // a default route says nothing about the link (RFC 3927 §7)
	}
	return holderRouted
}

// hop returns the next hop of an address, behind any VRF next hops, and whether
// the route is for this address alone. Without a route it discards.
func (s *Snapshot) hop(vrf uint16, addr *[16]byte) (hop nexthop.NextHop, host bool) {
	for range maxVRFHops + 1 {
		route, bits, ok := s.lookup(vrf, addr)
		if !ok {
			return nexthop.NextHop{}, false
		}
		hop = s.NextHops.At(route.NextHop)
		if hop.Kind != nexthop.VRF {
			return hop, bits == 128 || bits == 32 && header.IsIPv4(*addr)
		}
		vrf = hop.VRF
	}
	return hop, false
}

// toRouter reports whether a frame is addressed to the router's MAC or to a
// group. A neighbour that asks another MAC holds an old entry; left unanswered
// it asks everybody.
func toRouter(p *packet) bool {
	return p.l.GroupMAC || header.Ethernet(p.bytes()).Destination() == RouterMAC
}

// answer sends the packet's own frame, which now holds length bytes of an
// answer, back out of the port it came from.
func (w *Worker) answer(p *packet, length int) {
	f := p.frame
	f.End = f.Start + length
	f.Offload = port.Offload{}
	p.fate = fateDone
	if reason := w.sendBack(p, f); reason != DropUnknown {
		w.drop(p, reason)
	}
}
