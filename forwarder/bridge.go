package forwarder

import (
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/policy"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/nexthop"
)

// Bridging: a network whose interfaces, here and on other nodes, are one Ethernet
// segment beside the routing (docs/design/0013-bridging.md). Who has which MAC
// address the control plane says; nothing is learned from frames.

// Bridge is what the control plane says of a VRF whose network bridges. A value of
// an immutable snapshot.
type Bridge struct {
	// MACs are the next hops of MAC addresses beyond those of the interfaces in the
	// VRF: tunnels by VXLAN, and interfaces that others stand behind.
	MACs map[[6]byte]nexthop.ID
	// Flood are the tunnels by VXLAN to all other nodes of the network.
	Flood []nexthop.ID
}

// bridge is a Bridge with the interfaces of its VRF; made by Publish, read-only
// afterwards. control is nil where the network does not bridge.
type bridge struct {
	control *Bridge
	local   map[[6]byte]nexthop.ID
	ports   []segmentPort
}

// segmentPort is an interface of a bridging network.
type segmentPort struct {
	index    uint16
	isolated bool // SecurityPolicy selects it for ingress
}

// makeBridges makes the bridges of the VRFs that have one.
func (s *Snapshot) makeBridges() {
	s.bridges = nil
	for v := range s.VRFs {
		if s.VRFs[v].Bridge == nil {
			continue
		}
		if s.bridges == nil {
			s.bridges = make([]bridge, len(s.VRFs))
		}
		s.bridges[v] = bridge{control: s.VRFs[v].Bridge, local: map[[6]byte]nexthop.ID{}}
	}
	if s.bridges == nil {
		return
	}
	for i := range s.Interfaces {
		itf := &s.Interfaces[i]
		b := s.bridge(itf.VRF)
		if itf.Kind != Workload || b == nil {
			continue
		}
		b.local[itf.MAC] = InterfaceNextHop(uint16(i))
		b.ports = append(b.ports, segmentPort{uint16(i), s.Policy.Isolates(policy.Ingress, itf.Identity)})
	}
}

// bridge returns the bridge of a VRF, nil where its network does not bridge.
func (s *Snapshot) bridge(vrf uint16) *bridge {
	if int(vrf) < len(s.bridges) && s.bridges[vrf].control != nil {
		return &s.bridges[vrf]
	}
	return nil
}

// find returns the next hop of a MAC address; 0 where it is nobody's.
func (b *bridge) find(mac [6]byte) nexthop.ID {
	if hop, ok := b.local[mac]; ok {
		return hop
	}
	return b.control.MACs[mac]
}

// isLocal reports whether a MAC address is that of an interface here, or the
// router's.
func (b *bridge) isLocal(mac [6]byte) bool {
	_, ok := b.local[mac]
	return ok || mac == RouterMAC
}

// bridgedVRF marks the VRF of a session's key: the session is one between MAC
// addresses. So a tuple that is routed and the same tuple that is bridged are two
// sessions, and what is bridged meets no NAT.
const bridgedVRF uint16 = 1 << 15

// PlainVRF returns the VRF that a session's key names, and whether its packets are
// bridged there instead of routed.
func PlainVRF(vrf uint16) (plain uint16, bridged bool) {
	return vrf &^ bridgedVRF, vrf&bridgedVRF != 0
}

// keyVRF is the VRF of a packet's key.
func (in *Interface) keyVRF(p *packet) uint16 {
	if p.bridged {
		return in.VRF | bridgedVRF
	}
	return in.VRF
}

// join judges an IP frame of a bridging network that is not for the router. A
// unicast frame it makes a bridged packet, with the next hops of both its MAC
// addresses; all others end here.
func (w *Worker) join(in *Interface, b *bridge, p *packet) DropReason {
	if reason := w.segmentSource(in, p); reason != DropUnknown {
		return reason
	}
	if p.l.GroupMAC {
		return w.floodIP(in, b, p)
	}
	switch {
	case p.l.Multicast:
		return DropMulticast // RFC 1112 §6.4: a group's packets go to a group's MAC address
	case header.IsMartianDestination(p.l.Dst):
		return DropMartianDestination
	}
	eth := header.Ethernet(p.bytes())
	to := w.segmentHop(b, p, eth.Destination())
	if to == 0 {
		return DropBridgeUnknownMAC
	}
	p.bridged, p.target, p.back = true, to, InterfaceNextHop(p.in)
	if p.tunnel {
		p.back = b.find(eth.Source()) // unwrap has seen that it is known
	}
	return DropUnknown
}

// segmentHop is the next hop of a MAC address for a packet: not where it came from,
// and for what came by a tunnel an interface here, so that nothing goes round. 0:
// there is none.
func (w *Worker) segmentHop(b *bridge, p *packet, mac [6]byte) nexthop.ID {
	to := b.find(mac)
	if port := portOf(to); port == 0 && p.tunnel || port == p.in {
		return 0
	}
	return to
}

// segmentSource is Interface.source for a frame that stays on its segment, where
// link-local addresses are at home: a workload makes its own (RFC 4862 §5.3), and
// its MAC address is verified.
func (w *Worker) segmentSource(in *Interface, p *packet) DropReason {
	src := &p.l.Src
	switch {
	case header.IsLinkLocal(*src) && p.l.Version == 6:
		if *src == RouterLinkLocal {
			return DropSourceSpoof
		}
		return DropUnknown
	case header.IsMartianSource(*src):
		return DropMartianSource
	case in.AntiSpoof && !in.owns(src):
		return DropSourceSpoof
	case p.tunnel && w.snap.has(in.VRF, src):
		return DropTunnelSource
	}
	return DropUnknown
}

// has reports whether an address of a VRF is one of this node's.
func (s *Snapshot) has(vrf uint16, addr *[16]byte) bool {
	hop, _ := s.follow(vrf, addr)
	return s.isHere(hop, addr)
}

// segmentOf returns the bridge that a frame may be passed on by, nil where there is
// none or the frame is for the router.
func (w *Worker) segmentOf(in *Interface, p *packet) *bridge {
	if header.Ethernet(p.bytes()).Destination() == RouterMAC {
		return nil
	}
	return w.snap.bridge(in.VRF)
}

// hand sends a frame without a session, ARP or neighbour discovery, on in its
// bridging network: to whom it is addressed, or to all.
func (w *Worker) hand(b *bridge, p *packet) {
	if p.l.EtherType == header.EtherTypeARP {
		p.frame.Offload = port.Offload{}
	} else if !validOffload(p) {
		w.drop(p, DropOffload)
		return
	}
	if p.l.GroupMAC {
		if reason := w.flood(b, p, true); reason != DropUnknown {
			w.drop(p, reason)
		}
		return
	}
	to := w.segmentHop(b, p, header.Ethernet(p.bytes()).Destination())
	if to == 0 {
		w.drop(p, DropBridgeUnknownMAC)
		return
	}
	w.passOn(p, to)
}

// passOn sends a packet that has no session out of a next hop with the MAC addresses
// that it has.
func (w *Worker) passOn(p *packet, to nexthop.ID) {
	var x exit
	if reason := w.segmentExit(p, to, &x); reason != DropUnknown {
		w.drop(p, reason)
		return
	}
	large := segmentLength(p) > x.mtu
	if large && (p.l.Version != 4 || p.l.DontFragment) {
		w.drop(p, DropMTU)
		return
	}
	w.put(p, &x, large)
}

// segmentExit is exit for a packet that keeps its MAC addresses.
func (w *Worker) segmentExit(p *packet, to nexthop.ID, x *exit) DropReason {
	if reason := w.exit(to, x); reason != DropUnknown {
		return reason
	}
	return x.keep(p)
}

// keep has a packet leave with the MAC addresses that it has, in a tunnel too.
func (x *exit) keep(p *packet) DropReason {
	if x.tunnel != nil && !x.tunnel.bridged {
		return DropTunnelGone // a label carries no Ethernet header
	}
	eth := header.Ethernet(p.bytes())
	x.keeps, x.mac, x.from = true, eth.Destination(), eth.Source()
	x.flow = linkHash(&p.l)
	return DropUnknown
}

// linkHash is flowHash for packets without a session.
func linkHash(l *header.Layout) uint32 {
	return uint32(nexthop.HashTuple(nexthop.HashAll, &l.Src, &l.Dst, 0, 0, l.Proto))
}

// linkAddress returns the MAC address that a sender in an interface's VRF, which asks
// for a routed IP address, gets told: the owner's where it is on the sender's
// segment, else the router's. ok is false where another node is to answer.
func (w *Worker) linkAddress(in *Interface, p *packet, addr *[16]byte) (mac [6]byte, ok bool) {
	b := w.snap.bridge(in.VRF)
	switch hop, _ := w.snap.hop(in.VRF, addr); hop.Kind {
	case nexthop.Interface:
		if itf := w.snap.port(hop.Port); itf.Kind == Workload && itf.VRF == in.VRF && (b != nil || p.tunnel) {
			return itf.MAC, true
		}
	case nexthop.Neighbor:
		return RouterMAC, !p.tunnel
	case nexthop.Tunnel:
		if p.tunnel {
			return mac, false
		}
		if b == nil || int(hop.Index) >= len(w.snap.Tunnels) {
			break
		}
		if t := &w.snap.Tunnels[hop.Index]; b.control.MACs[t.InnerMAC] != 0 {
			return t.InnerMAC, true
		}
	}
	return RouterMAC, true
}

// asked reports whether a question (ARP, neighbour solicitation) is the router's to
// answer: to everybody or to the router, and from another node to anybody here, for
// whom the router stands in there.
func asked(p *packet) bool { return toRouter(p) || p.onSegment }

// sendSegment sends a frame of the router's own through a tunnel by VXLAN back to the
// node that p came from, on the segment that it came by.
func (w *Worker) sendSegment(p *packet, f *port.Frame) DropReason {
	uplink := w.snap.port(w.snap.Uplink)
	w.backTunnel = w.snap.newTunnel(&Tunnel{Peer: p.peer, Encapsulation: VXLAN, Identifier: p.vni, Used: true}, uplink)
	t := &w.backTunnel
	if t.reason != DropUnknown {
		return t.reason
	}
	eth := header.Ethernet(f.Bytes())
	x := exit{port: w.snap.Uplink, mtu: int(t.mtu), tunnel: t, keeps: true, mac: eth.Destination(), from: eth.Source(), flow: linkHash(&p.l)}
	if reason := w.attached(uplink, &x); reason != DropUnknown {
		return reason
	}
	if f.Len()-header.EthernetLength > x.mtu {
		return DropMTU
	}
	return w.leave(f, &x)
}
