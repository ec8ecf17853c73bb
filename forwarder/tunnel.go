package forwarder

import (
	"encoding/binary"
	"slices"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/nexthop"
)

// Tunnels on their way out: what stands in front of a packet to another node. The
// headers of a tunnel differ from packet to packet in lengths, checksums, class and
// entropy only, so they are copied from a template.

// maxOuter is the longest template: Ethernet, IPv6, UDP, VXLAN, inner Ethernet.
const maxOuter = header.EthernetLength + header.IPv6Length + header.UDPLength + header.VXLANLength + header.EthernetLength

const (
	outerL3  = header.EthernetLength
	outerTTL = 64
	labelTTL = 64

	// entropyPort is the first of the source ports, and entropyMask how many bits of
	// the flow's hash they show (RFC 7510 §3, RFC 7348 §5: 49152 to 65535).
	entropyPort, entropyMask = 0xc000, 0x3fff
	flowLabelMask            = 0xfffff // RFC 6438 §3
	maxOuterLength           = 65535   // of an IP packet, as its header writes it
)

// tunnel is a Tunnel boiled down to what a packet needs that leaves by it. 128
// bytes, two cache lines; made by Publish, read-only afterwards.
type tunnel struct {
	header  [maxOuter]byte
	length  uint8      // of header
	gso     uint8      // the tunnel bit of a superpacket's type, 0 where there are none
	reason  DropReason // why nothing can be sent, DropUnknown if it can
	v6      bool       // the outer family
	udp     bool       // not GRE
	bridged bool       // an Ethernet header stands behind the tunnel's
	down    bool       // the peer is: only the node itself may go on trying
	mtu     int32      // bytes of an inner IP packet
	peer    uint32     // place in Snapshot.Peers
	sum     uint32     // IPv4: of the header's words as they are; IPv6: of the pseudo-header's without the length
	since   uint32     // the epoch in which it got its place; 0 is longer ago than any session's decision
	_       [17]byte
}

// forgetting is how many epochs the place of a tunnel is known to be new: longer than a
// decision is kept (flowtable's staleEpochs, 1 << 22, and a round of the ager). The
// templates are made again every refreshing epochs for it, so that no since is ever as old
// as half the range of epochs, where newer would take it for the future.
const (
	forgetting = 5 << 20
	refreshing = 1 << 20
)

// makeTunnels makes the templates of all tunnels and the list of nodes. Where
// nothing of theirs has changed they are those of the snapshot before.
func (s *Snapshot) makeTunnels(before *Snapshot) {
	uplink := s.port(s.Uplink)
	if slices.Equal(s.Peers, before.Peers) && before.nodes != nil {
		s.nodes = before.nodes
	} else {
		s.nodes = make(map[[16]byte]uint32, len(s.Peers))
		for i := range s.Peers {
			if s.Peers[i].Address != ([16]byte{}) { // else a place that no node has: it is not the one that sends from ::
				s.nodes[s.Peers[i].Address] = uint32(i)
			}
		}
	}
	if was := before.port(before.Uplink); slices.Equal(s.Peers, before.Peers) && slices.Equal(s.Tunnels, before.Tunnels) &&
		uplink.MAC == was.MAC && uplink.Kind == was.Kind && s.Epoch%refreshing != 0 {
		s.tunnels = before.tunnels
		return
	}
	s.tunnels = make([]tunnel, len(s.Tunnels))
	for i := range s.Tunnels {
		s.tunnels[i] = s.newTunnel(&s.Tunnels[i], uplink)
		s.tunnels[i].since = s.since(i, before)
	}
}

// since returns the epoch in which the place of a tunnel was given to it.
func (s *Snapshot) since(i int, before *Snapshot) uint32 {
	if i >= len(before.tunnels) || s.Tunnels[i] != before.Tunnels[i] || s.peerAddress(i) != before.peerAddress(i) {
		return s.Epoch
	}
	since := before.tunnels[i].since
	if since != 0 && (s.Epoch-since)&flowtable.EpochMask > forgetting {
		return 0
	}
	return since
}

// peerAddress is where a tunnel leads, zero where it leads nowhere.
func (s *Snapshot) peerAddress(i int) [16]byte {
	if peer := s.Tunnels[i].Peer; int(peer) < len(s.Peers) {
		return s.Peers[peer].Address
	}
	return [16]byte{}
}

// tunnelOf returns the tunnel that a session's decision leads through, nil where it leads
// through none, and where the tunnel is gone and another has its place.
func (s *Snapshot) tunnelOf(d flowtable.Decision, dir flowtable.Direction) *tunnel {
	hop := s.NextHops.At(nexthop.ID(d.NextHop(dir)))
	if hop.Kind != nexthop.Tunnel || int(hop.Index) >= len(s.tunnels) || d.Epoch() == 0 {
		return nil
	}
	if t := &s.tunnels[hop.Index]; !newer(t.since, d.Epoch()) {
		return t
	}
	return nil
}

// newTunnel makes the template of one tunnel.
func (s *Snapshot) newTunnel(to *Tunnel, uplink *Interface) tunnel {
	t := tunnel{reason: DropTunnelGone, peer: to.Peer}
	if !to.Used || int(to.Peer) >= len(s.Peers) || to.Encapsulation >= numEncapsulations || uplink.Kind != Uplink {
		return t
	}
	peer := &s.Peers[to.Peer]
	if header.IsIPv4(peer.Address) != header.IsIPv4(peer.Local) {
		return t
	}
	t.down = peer.Down
	if t.reason = DropUnknown; !peer.Resolved {
		t.reason = DropNeighborUnresolved
	}
	t.v6 = !header.IsIPv4(peer.Address)
	t.udp = to.Encapsulation != MPLSoverGRE
	t.bridged = to.Encapsulation == VXLAN
	t.putOuter(peer, uplink.MAC)
	t.putInner(to, int(t.length))
	t.mtu = max(peer.MTU-int32(t.length)+header.EthernetLength, smallestMTU) // no path, however wrong, makes it negative
	return t
}

// putOuter writes Ethernet, IP and UDP.
func (t *tunnel) putOuter(peer *Peer, source [6]byte) {
	etherType, proto := header.EtherTypeIPv4, header.ProtoUDP
	if t.v6 {
		etherType = header.EtherTypeIPv6
	}
	if !t.udp {
		proto = header.ProtoGRE
	}
	header.PutEthernet(t.header[:], header.EthernetFields{Destination: peer.Neighbor, Source: source, Type: etherType})
	// RFC 7348 §4.3: nobody makes fragments of it.
	at := outerL3 + header.PutIP(t.header[outerL3:], &header.IPFields{
		Source: peer.Local, Destination: peer.Address, Proto: proto, TTL: outerTTL, DontFragment: true,
	})
	if t.v6 {
		t.sum = uint32(header.PseudoHeader(&peer.Local, &peer.Address, proto, 0))
	} else {
		ip := header.IPv4(t.header[outerL3:])
		ip.SetTotalLength(0)
		ip.SetChecksum(0)
		t.sum = uint32(header.Checksum(ip[:header.IPv4MinimumLength], 0))
	}
	if t.udp {
		at += header.UDPLength
		t.gso = port.GSOTunnelIPv4
		if t.v6 {
			t.gso = port.GSOTunnelIPv6
		}
	}
	t.length = uint8(at)
}

// putInner writes what follows UDP or IP at byte at: label or network identifier.
func (t *tunnel) putInner(to *Tunnel, at int) {
	switch to.Encapsulation {
	case MPLSoverGRE:
		header.PutGRE(t.header[at:], header.EtherTypeMPLS)
		at += header.GRELength
		fallthrough
	case MPLSoverUDP:
		header.PutMPLS(t.header[at:], to.Identifier, labelTTL)
		at += header.MPLSLength
	case VXLAN:
		header.PutVXLAN(t.header[at:], to.Identifier)
		at += header.VXLANLength
		header.PutEthernet(t.header[at:], header.EthernetFields{Destination: to.InnerMAC, Source: RouterMAC})
		at += header.EthernetLength
	}
	if t.udp {
		udp := header.UDP(t.header[outerL3+t.ipLength():])
		udp.SetDstPort(header.PortMPLS)
		if t.bridged {
			udp.SetDstPort(header.PortVXLAN)
		}
	}
	t.length = uint8(at)
}

// ipLength is the length of the outer IP header.
func (t *tunnel) ipLength() int {
	if t.v6 {
		return header.IPv6Length
	}
	return header.IPv4MinimumLength
}

// offload returns what stands beside a superpacket or partial frame once it is in
// the tunnel.
func (t *tunnel) offload(o port.Offload) port.Offload {
	if o.Flags&port.NeedsCsum == 0 {
		return port.Offload{} // DataValid is about the inner checksum
	}
	grown := uint16(t.length) - header.EthernetLength
	o.CsumStart += grown
	o.HdrLen += grown
	if o.GSOType != port.GSONone {
		o.GSOType |= t.gso
		o.OuterL4, o.InnerL3 = uint16(outerL3+t.ipLength()), uint16(t.length)
	}
	return o
}

// takes reports whether a frame can be put into the tunnel as it is for a device
// with these features. A superpacket must fit the outer length fields; GRE has none.
func (t *tunnel) takes(f *port.Frame, features port.Features) bool {
	if f.Offload.GSOType != port.GSONone && (t.gso == 0 || f.Len()+int(t.length)-2*header.EthernetLength > maxOuterLength) {
		return false
	}
	return features.Accepts(t.offload(f.Offload))
}

// encapsulate puts the frame, an IP packet behind an Ethernet header that is
// replaced, into the tunnel. flow is a hash of the packet's flow. The frame's device
// takes it as it is, or it is plain and complete. keeps says that the MAC addresses of
// the frame are those inside, in a tunnel by VXLAN.
func (t *tunnel) encapsulate(f *port.Frame, flow uint32, keeps bool) {
	inner := f.Buf[f.Start:f.End]
	macs := [12]byte(inner)
	innerType := binary.BigEndian.Uint16(inner[12:])
	tos := uint8(0)
	switch innerType {
	case header.EtherTypeIPv4:
		tos = inner[header.EthernetLength+1]
	case header.EtherTypeIPv6:
		tos = header.IPv6(inner[header.EthernetLength:]).TrafficClass()
	}
	f.Start -= int(t.length) - header.EthernetLength // a frame begins Headroom bytes or more into its buffer
	b := f.Buf[f.Start:f.End]
	copy(b, t.header[:t.length])
	if t.bridged {
		binary.BigEndian.PutUint16(b[t.length-2:], innerType)
		if keeps {
			*(*[12]byte)(b[t.length-header.EthernetLength:]) = macs
		}
	}
	f.Offload = t.offload(f.Offload)
	l4 := t.setIP(b, tos, flow)
	if !t.udp {
		return
	}
	udp := header.UDP(b[l4:])
	udp.SetSrcPort(entropyPort | uint16(flow&entropyMask))
	udp.SetLength(len(udp))
	if t.v6 { // over IPv4 it is 0: RFC 7510 §3, RFC 7348 §5
		udp.SetChecksum(t.checksum(b, udp, &f.Offload))
	}
}

// setIP writes what an outer IP header has of its own and returns where it ends.
// RFC 6040 §4.1, normal mode: the ECN field is the inner one's. RFC 2983: so is the
// DSCP.
func (t *tunnel) setIP(b []byte, tos uint8, flow uint32) int {
	if t.v6 {
		ip := header.IPv6(b[outerL3:])
		ip.SetTrafficClass(tos)
		ip.SetFlowLabel(flow & flowLabelMask)
		ip.SetPayloadLength(len(ip) - header.IPv6Length)
		return outerL3 + header.IPv6Length
	}
	ip := header.IPv4(b[outerL3:])
	ip.SetTOS(tos)
	ip.SetTotalLength(len(ip))
	ip.SetChecksum(^header.Fold16(uint64(t.sum) + uint64(tos) + uint64(len(ip))))
	return outerL3 + header.IPv4MinimumLength
}

// checksum returns the outer UDP checksum over IPv6, udp being the datagram in frame
// b. For a superpacket that is the sum of the pseudo-header, which the device goes on
// from. Where the inner checksum is partial its field tells what the bytes from
// CsumStart on will add up to once it is complete: to its complement. So they need
// not be read (Linux lco_csum).
func (t *tunnel) checksum(b []byte, udp header.UDP, o *port.Offload) uint16 {
	pseudo := header.Fold16(uint64(t.sum) + uint64(len(udp)))
	if o.GSOType != port.GSONone {
		return pseudo
	}
	covered := []byte(udp)
	if o.Flags&port.NeedsCsum != 0 {
		field := int(o.CsumStart) + int(o.CsumOffset)
		pseudo = header.Fold16(uint64(pseudo) + uint64(^binary.BigEndian.Uint16(b[field:])))
		covered = b[len(b)-len(udp) : o.CsumStart]
	}
	if sum := ^header.Checksum(covered, pseudo); sum != 0 {
		return sum
	}
	return 0xffff // RFC 768
}
