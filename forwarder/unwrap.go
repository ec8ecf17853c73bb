package forwarder

import (
	"encoding/binary"
	"math/bits"

	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/nexthop"
)

// Tunnels on their way in. A tunnel packet is taken apart in place: its frame then
// begins with an Ethernet header before the inner IP header, as if a workload had
// sent it, and everything behind here treats it so. Only nodes that the control plane
// has named are believed.

// outer is what is known of a tunnel packet's outer headers. Offsets count from the
// frame's first byte.
type outer struct {
	src, dst [16]byte
	l4       int // UDP or GRE
	end      int // of the IP packet, and later of the datagram
	tos      uint8
	proto    uint8
	v6       bool
	vxlan    bool
	fragment bool
}

// findOuter reports whether the frame is a tunnel packet for this node, and reads its
// outer headers. What is none, or cannot be read, it leaves to classify.
func (w *Worker) findOuter(p *packet, o *outer) bool {
	b := p.bytes()
	if !o.plain(b) && !o.parse(b, p) {
		return false
	}
	switch o.proto {
	case header.ProtoGRE:
	case header.ProtoUDP:
		switch binary.BigEndian.Uint16(b[o.l4+2:]) {
		case header.PortMPLS:
		case header.PortVXLAN:
			o.vxlan = true
		default:
			return false
		}
	default:
		return false
	}
	if o.src == w.lastOuter.src && o.dst == w.lastOuter.dst && w.lastOuter.epoch == w.snap.Epoch {
		return true
	}
	_, ok := w.snap.NodeAddresses[o.dst]
	return ok
}

// plain reads, into the empty o, outer headers without options, extensions and fragments. Of UDP and
// GRE the first 8 bytes are in the frame, and the IP packet is not longer than that.
func (o *outer) plain(b []byte) bool {
	const shortest = outerL3 + header.IPv4MinimumLength + header.UDPLength
	if len(b) < shortest {
		return false
	}
	switch binary.BigEndian.Uint16(b[12:]) {
	case header.EtherTypeIPv4:
		h := (*[header.IPv4MinimumLength]byte)(b[outerL3:])
		if h[0] != 0x45 || binary.BigEndian.Uint16(h[6:])&^header.IPv4DontFragment != 0 {
			return false
		}
		x, y, z := binary.LittleEndian.Uint64(h[0:]), binary.LittleEndian.Uint64(h[8:]), binary.LittleEndian.Uint32(h[16:])
		sum, carry := bits.Add64(x, y, 0)
		if sum, carry = bits.Add64(sum, uint64(z), carry); header.Fold16(sum+carry) != 0xffff {
			return false
		}
		binary.LittleEndian.PutUint64(o.src[8:], y&^(1<<32-1)|mappedIPv4)
		binary.LittleEndian.PutUint64(o.dst[8:], uint64(z)<<32|mappedIPv4)
		o.tos, o.proto = h[1], h[9]
		o.l4, o.end = outerL3+header.IPv4MinimumLength, outerL3+int(binary.BigEndian.Uint16(h[2:]))
	case header.EtherTypeIPv6:
		ip := header.IPv6(b[outerL3:])
		if len(b) < shortest+header.IPv6Length-header.IPv4MinimumLength || ip.Version() != 6 {
			return false
		}
		o.src, o.dst, o.tos, o.proto, o.v6 = ip.Source(), ip.Destination(), ip.TrafficClass(), ip.NextHeader(), true
		o.l4 = outerL3 + header.IPv6Length
		o.end = o.l4 + ip.PayloadLength()
	default:
		return false
	}
	return o.end <= len(b) && o.l4+header.UDPLength <= o.end
}

// parse reads all others. It leaves the layout in p.
func (o *outer) parse(b []byte, p *packet) bool {
	l := &p.l
	if header.Parse(b, l) != header.FaultNone || l.Version == 0 || !l.IsFirst() || l.End-l.L4 < header.UDPLength {
		l.IsFragment = false
		return false
	}
	*o = outer{
		src: l.Src, dst: l.Dst, l4: int(l.L4), end: int(l.End), tos: l.TOS, proto: l.Proto, v6: l.Version == 6, fragment: l.IsFragment,
	}
	l.IsFragment = false
	return true
}

// lastOuter is the pair of addresses that the last tunnel packet of a worker had.
type lastOuter struct {
	src, dst [16]byte
	peer     uint32
	epoch    uint32
}

// peer finds the node that a tunnel packet comes from.
func (w *Worker) peer(o *outer) (uint32, DropReason) {
	last := &w.lastOuter
	if o.src == last.src && o.dst == last.dst && last.epoch == w.snap.Epoch {
		return last.peer, DropUnknown
	}
	if _, own := w.snap.NodeAddresses[o.src]; own {
		return 0, DropTunnelOwnSource
	}
	peer, ok := w.snap.nodes[o.src]
	if !ok {
		return 0, DropTunnelUnknownPeer
	}
	*last = lastOuter{src: o.src, dst: o.dst, peer: peer, epoch: w.snap.Epoch}
	return peer, DropUnknown
}

// unwrap takes a tunnel packet apart, or says why it is dropped. A bundle it leaves
// whole, with a fate of its own.
func (w *Worker) unwrap(p *packet, o *outer) DropReason {
	peer, reason := w.peer(o)
	if reason != DropUnknown {
		return reason
	}
	if o.fragment {
		w.refuseOuter(p)
		return DropTunnelFragment
	}
	b := p.bytes()
	if o.proto == header.ProtoUDP {
		if reason := o.datagram(b, &p.frame.Offload); reason != DropUnknown {
			return reason
		}
		if isBundle(&p.frame.Offload, o) {
			p.fate = fateBundle
			return DropUnknown
		}
	}
	p.tunnel, p.peer = true, peer
	at, etherType, reason := w.identifier(p, o)
	if reason != DropUnknown {
		return reason
	}
	if reason := decapsulateECN(b[at:o.end], etherType, o.tos); reason != DropUnknown {
		return reason
	}
	expose(p.frame, at, o.end)
	p.len = uint32(p.frame.Len())
	if p.onSegment {
		return DropUnknown
	}
	header.PutEthernet(p.bytes(), header.EthernetFields{
		Destination: RouterMAC, Source: w.snap.VRFs[p.vrf].Overlay.MAC, Type: etherType,
	})
	return DropUnknown
}

// refuseOuter has the fragments follow their first one.
func (w *Worker) refuseOuter(p *packet) {
	key := datagramKey(p)
	i := w.fragments.find(&key)
	if i == 0 {
		i = w.newDatagram(&key)
	}
	if i != 0 {
		w.refuseDatagram(i, DropTunnelFragment)
	}
}

// isBundle reports whether the frame stands for several tunnel packets: its UDP
// datagrams are the segments.
func isBundle(o *port.Offload, out *outer) bool {
	return o.GSOType == port.GSOUDPL4 && o.Flags&port.NeedsCsum != 0 && int(o.CsumStart) == out.l4 &&
		o.GSOSize != 0 && out.end-out.l4-header.UDPLength > int(o.GSOSize) &&
		out.end-out.l4-header.UDPLength <= maxUDPSegments*int(o.GSOSize)
}

// datagram judges the outer UDP header and sets end to the datagram's. A checksum
// that a device has verified, or that is still to be made, is not looked at.
func (o *outer) datagram(b []byte, offload *port.Offload) DropReason {
	udp := header.UDP(b[o.l4:o.end])
	n := udp.Length()
	if n < header.UDPLength || n > len(udp) {
		return DropUDPLength
	}
	o.end = o.l4 + n
	if offload.Flags&(port.DataValid|port.NeedsCsum) != 0 {
		return DropUnknown
	}
	if udp.Checksum() == 0 {
		if o.v6 {
			return DropTunnelChecksum
		}
		return DropUnknown
	}
	if header.Checksum(udp[:n], header.PseudoHeader(&o.src, &o.dst, header.ProtoUDP, n)) != 0xffff {
		return DropTunnelChecksum
	}
	return DropUnknown
}

// identifier reads what stands between the outer headers and the inner packet and
// sets where the packet goes. It returns where the inner packet begins, and its
// EtherType.
func (w *Worker) identifier(p *packet, o *outer) (at int, etherType uint16, reason DropReason) {
	b := p.bytes()[:o.end]
	at = o.l4 + header.UDPLength
	if o.vxlan {
		return w.network(p, b, at)
	}
	if o.proto == header.ProtoGRE {
		gre := header.GRE(b[o.l4:]) // outer has seen 8 bytes
		if !gre.Plain() || gre.Protocol() != header.EtherTypeMPLS {
			return 0, 0, DropTunnelGRE
		}
		at = o.l4 + header.GRELength
	}
	if len(b) < at+header.MPLSLength+1 {
		return 0, 0, DropTunnelShort
	}
	label := header.MPLS(b[at:])
	if !label.Bottom() {
		return 0, 0, DropTunnelLabelStack
	}
	if label.TTL() == 0 { // RFC 3032 §2.4.2: it is not to be forwarded in any way
		return 0, 0, DropTunnelTTL
	}
	if !w.label(p, label.Label()) {
		return 0, 0, DropTunnelLabel
	}
	at += header.MPLSLength
	switch b[at] >> 4 { // RFC 4928 §2: a label does not say what follows
	case 4:
		return at, header.EtherTypeIPv4, DropUnknown
	case 6:
		return at, header.EtherTypeIPv6, DropUnknown
	}
	return 0, 0, DropTunnelPayload
}

// label finds what an MPLS label stands for and reports whether there is such a one.
func (w *Worker) label(p *packet, label uint32) bool {
	if int(label) >= len(w.snap.Labels) {
		return false
	}
	id := w.snap.Labels[label]
	if id.IsDiscard() {
		return false
	}
	switch hop := w.snap.NextHops.At(id); hop.Kind {
	case nexthop.Interface:
		p.target, p.vrf = InterfaceNextHop(hop.Port), w.snap.port(hop.Port).VRF
		return w.snap.port(hop.Port).Kind != Absent && w.hasOverlay(p.vrf)
	case nexthop.VRF:
		p.target, p.vrf = 0, hop.VRF
		return w.hasOverlay(p.vrf)
	}
	return false
}

// network reads a VXLAN header and the Ethernet header behind it, at byte at.
func (w *Worker) network(p *packet, b []byte, at int) (int, uint16, DropReason) {
	if len(b) < at+header.VXLANLength+header.EthernetLength {
		return 0, 0, DropTunnelShort
	}
	vxlan := header.VXLAN(b[at:])
	if !vxlan.HasVNI() {
		return 0, 0, DropTunnelVNIFlag
	}
	vrf, ok := w.snap.VNIs[vxlan.VNI()]
	if !ok || !w.hasOverlay(vrf) {
		return 0, 0, DropTunnelVNI
	}
	p.target, p.vrf = 0, vrf
	at += header.VXLANLength
	p.vni = vxlan.VNI()
	eth := header.Ethernet(b[at:])
	switch etherType := eth.Type(); etherType {
	case header.EtherTypeIPv4, header.EtherTypeIPv6, header.EtherTypeARP:
		return at + header.EthernetLength, etherType, w.segmentFrame(p, eth)
	case header.EtherTypeVLAN, header.EtherTypeQinQ:
		return 0, 0, DropVLAN // RFC 7348 §6.1
	}
	return 0, 0, DropTunnelPayload
}

// segmentFrame judges the MAC addresses of a frame out of a tunnel by VXLAN and says
// whether it keeps them: if it is for all, if it asks who has an address, or if it is
// bridged. Any other is routed, whomever it is for, and so is what a router or somebody
// whom the control plane does not know has sent to a workload: where the answer
// cannot be bridged the question is not.
func (w *Worker) segmentFrame(p *packet, eth header.Ethernet) DropReason {
	from, to := eth.Source(), eth.Destination()
	b := w.snap.bridge(p.vrf)
	p.onSegment = header.IsGroupMAC(to) || eth.Type() == header.EtherTypeARP || seemsDiscovery(eth)
	switch {
	case header.IsGroupMAC(from):
		return DropEthernetSource
	case p.onSegment:
	case to == RouterMAC || b == nil:
		return DropUnknown
	case portOf(b.find(to)) == 0:
		return DropBridgeUnknownMAC
	default:
		if p.onSegment = from != RouterMAC && b.find(from) != 0; !p.onSegment {
			return DropUnknown
		}
	}
	if from == RouterMAC || b != nil && b.isLocal(from) {
		return DropTunnelSourceMAC
	}
	return DropUnknown
}

// seemsDiscovery reports whether a frame is one of neighbour discovery, which has no
// extension headers (RFC 6980 §5 forbids the likely one). classify has the last word.
func seemsDiscovery(eth header.Ethernet) bool {
	const icmp = header.EthernetLength + header.IPv6Length
	return eth.Type() == header.EtherTypeIPv6 && len(eth) > icmp &&
		header.IPv6(eth[header.EthernetLength:]).NextHeader() == header.ProtoICMPv6 && isNeighbourDiscovery(eth[icmp])
}

// hasOverlay reports whether other nodes may send to a VRF.
func (w *Worker) hasOverlay(vrf uint16) bool {
	return int(vrf) < len(w.snap.VRFs) && w.snap.VRFs[vrf].Overlay.Kind == Overlay
}

// decapsulateECN tells the inner packet, which may be anything, of the congestion
// that the tunnel met.
func decapsulateECN(b []byte, etherType uint16, outerTOS uint8) DropReason {
	v6 := etherType == header.EtherTypeIPv6
	if etherType == header.EtherTypeARP || v6 && len(b) < header.IPv6Length || len(b) < header.IPv4MinimumLength {
		return DropUnknown // classify says what is wrong with it
	}
	was := header.IPv4(b).TOS()
	if v6 {
		was = header.IPv6(b).TrafficClass()
	}
	is, ok := header.Decapsulated(was, outerTOS)
	switch {
	case !ok:
		return DropTunnelECN
	case is == was:
	case v6:
		header.IPv6(b).SetTrafficClass(is)
	default:
		ip := header.IPv4(b)
		ip.SetTOS(is)
		ip.SetChecksum(header.WordDelta(uint16(was), uint16(is)).Apply(ip.Checksum()))
	}
	return DropUnknown
}

// expose makes the inner packet [at, end) of the frame the frame, with room for an
// Ethernet header before it, and its metadata those of the inner packet. Metadata
// about the outer checksum goes with the outer headers.
func expose(f *port.Frame, at, end int) {
	shift := at - header.EthernetLength
	f.End = f.Start + end
	f.Start += shift
	o := &f.Offload
	if o.Flags&port.NeedsCsum == 0 || int(o.CsumStart) < at {
		f.Offload = port.Offload{GSOType: o.GSOType &^ (port.GSOTunnelIPv4 | port.GSOTunnelIPv6)} // a superpacket without is refused
		return
	}
	f.Offload = port.Offload{
		Flags: o.Flags & port.NeedsCsum, GSOType: o.GSOType &^ (port.GSOTunnelIPv4 | port.GSOTunnelIPv6), GSOSize: o.GSOSize,
		CsumStart: o.CsumStart - uint16(shift), CsumOffset: o.CsumOffset,
	}
}
