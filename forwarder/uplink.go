package forwarder

import (
	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/nexthop"
)

// The uplink: what comes in by it is a tunnel packet, which unwrap takes apart, or
// belongs to a session or a floating IP, or is the node's own.

// ingress is the interface at which a packet stands: that of the port, or where it
// came out of a tunnel that of its VRF.
func (s *Snapshot) ingress(port, vrf uint16, tunnel bool) *Interface {
	if tunnel && int(vrf) < len(s.VRFs) {
		return &s.VRFs[vrf].Overlay
	}
	return s.port(port)
}

// ingress is the interface at which a packet stands under the batch's snapshot.
func (w *Worker) ingress(p *packet) *Interface { return w.snap.ingress(p.in, p.vrf, p.tunnel) }

// opener is the interface that a session was opened at, by the port that it is
// charged to and the VRF of its key: the uplink is in FabricVRF only, and in all
// others it stands for the overlay.
func (s *Snapshot) opener(port, vrf uint16) *Interface {
	vrf, _ = PlainVRF(vrf)
	return s.ingress(port, vrf, port != 0 && port == s.Uplink && vrf != FabricVRF)
}

// arrive takes a frame that came in by the uplink to where it stands: out of its
// tunnel, or as it is, with Ethernet addresses like those of a frame from any other
// port. It returns nil where the packet ended here or is to be cut first.
func (w *Worker) arrive(uplink *Interface, p *packet) (*Interface, *edge) {
	p.quick, p.l.IsFragment = false, false
	b := p.bytes()
	if len(b) < header.EthernetLength {
		w.drop(p, DropShortEthernet)
		return nil, nil
	}
	eth := header.Ethernet(b)
	switch to := eth.Destination(); {
	case header.IsGroupMAC(eth.Source()):
		w.drop(p, DropEthernetSource)
		return nil, nil
	case header.IsGroupMAC(to):
		w.drop(p, DropBroadcast) // the kernel has its own copy
		return nil, nil
	case to != uplink.MAC:
		w.drop(p, DropWrongMAC)
		return nil, nil
	}
	var o outer
	if w.findOuter(p, &o) {
		if reason := w.unwrap(p, &o); reason != DropUnknown {
			w.drop(p, reason)
		}
		if p.fate != fatePending {
			return nil, nil
		}
		return w.ingress(p), w.snap.overlayEdge(p.vrf)
	}
	p.mac = eth.Source()
	eth.SetDestination(RouterMAC)
	eth.SetSource(uplink.MAC)
	return uplink, w.snap.edge(p.in)
}

// unbundle cuts a superpacket of tunnel packets, which a device made of what another
// node sent one by one, and takes each through the packet path.
func (w *Worker) unbundle(uplink *Interface, p *packet) {
	var o outer
	w.findOuter(p, &o)                      // as in arrive,
	o.datagram(p.bytes(), &p.frame.Offload) // which has judged it
	size := int(p.frame.Offload.GSOSize)
	payload := o.l4 + header.UDPLength
	c := w.counters[p.in].Load()
	p.fate = fateDone
	for at := payload; at < o.end; at += size {
		if at > payload {
			c.generated.Add(1)
		}
		f := w.spareFrame()
		if f == nil {
			c.drops[DropNoBuffer].Add(1)
			continue
		}
		cutBundle(f, p, &o, at, min(at+size, o.end))
		q := &w.bundled
		*q = packet{frame: f, in: p.in, len: uint32(f.Len()), fate: fatePending, arrival: arrival{vrf: uplink.VRF}}
		if in, _ := w.arrive(uplink, q); in != nil {
			w.classify(in, q)
			w.processOne(q)
			if q.l.IsFragment && q.l.FragOffset == 0 {
				w.releaseFragments(q)
			}
		}
		w.lend(f) // only now, as in releaseOne
		q.frame = nil
	}
}

// cutBundle writes the tunnel packet whose UDP payload is [from, to) of the bundle p
// into the empty frame f.
func cutBundle(f *port.Frame, p *packet, o *outer, from, to int) {
	src := p.bytes()
	f.End += copy(f.Buf[f.Start:], src[:o.l4+header.UDPLength])
	f.End += copy(f.Buf[f.End:], src[from:to])
	f.Time = p.frame.Time
	b := f.Bytes()
	if o.v6 {
		ip := header.IPv6(b[outerL3:])
		ip.SetPayloadLength(len(ip) - header.IPv6Length)
	} else {
		ip := header.IPv4(b[outerL3:])
		ip.SetTotalLength(len(ip))
		ip.UpdateChecksum()
	}
	header.UDP(b[o.l4:]).SetLength(len(b) - o.l4)
	// The device that made the bundle has verified each, or is still to sum them up.
	f.Offload.Flags = port.DataValid
}

// belongs says why a packet that came in by the uplink may not use the session that
// has its key, DropUnknown if it may: outside there is nobody with an address that is
// here. The session is one under the present snapshot, forward its next hop.
func (w *Worker) belongs(p *packet, s *flowtable.Session, dir flowtable.Direction, forward nexthop.ID) DropReason {
	outside := s.Port() == p.in
	if dir == flowtable.Reply {
		outside = portOf(forward) == 0
	}
	switch {
	case outside:
		return DropUnknown
	case p.tunnel:
		return DropTunnelSource
	}
	return DropUplinkSource
}

// follows reports whether a packet that came in by the uplink may use the session that
// has its key and goes where its label says.
func (w *Worker) follows(p *packet, s *flowtable.Session, dir flowtable.Direction, forward nexthop.ID) bool {
	return w.belongs(p, s, dir, forward) == DropUnknown && (dir == flowtable.Reply || p.target == 0 || p.target == forward)
}

// forNode reports whether a packet that came in by the uplink and has no session is
// the node's own: to an address of the node, and not to a port that a floating IP
// maps there. Else the reason is DropUnknown if it is for a floating IP.
func (w *Worker) forNode(p *packet) (bool, DropReason) {
	hop, _ := w.snap.follow(FabricVRF, &p.l.Dst)
	if hop.Kind == nexthop.FloatingIP {
		fip := w.snap.FloatingIPs[hop.Index]
		return fip.Fallback != 0 && fip.service(p.l.Proto, p.l.DstPort) == nil, DropUnknown
	}
	_, node := w.snap.NodeAddresses[p.l.Dst]
	return node, DropUplinkDestination
}

// icmpQuery takes an ICMP message from the uplink that is neither an error nor echo:
// no session has such.
func (w *Worker) icmpQuery(p *packet) {
	switch node, reason := w.forNode(p); {
	case node:
		w.handOver(p)
	case reason != DropUnknown:
		w.drop(p, reason)
	default:
		w.drop(p, DropICMPType)
	}
}

// handOver sends a packet that is the node's own to vhost0 as it is: the node is the
// host that it was sent to, so it is no hop on the way (RFC 1812 §2.2.1). Its kernel
// takes what comes by vhost0 from an address that is here for what it claims to be, so
// that is asked here.
func (w *Worker) handOver(p *packet) {
	if hop, _ := w.snap.follow(FabricVRF, &p.l.Src); w.snap.isHere(hop, &p.l.Src) {
		w.drop(p, DropUplinkSource)
		return
	}
	host := w.snap.port(w.snap.host)
	x := exit{port: w.snap.host, mtu: maxOuterLength, mac: host.MAC, from: p.mac}
	if reason := w.attached(host, &x); reason != DropUnknown {
		w.drop(p, reason)
		return
	}
	w.put(p, &x, false)
}
