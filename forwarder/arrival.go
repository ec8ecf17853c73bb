package forwarder

import (
	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/nexthop"
)

// Connections that come in by the uplink: what decide asks about them that it does
// not ask about others, and where their answers go.

// nowhere stands for the peer of a session that is not known any more.
const nowhere = ^uint32(0)

// ask returns the question about a packet's connection, as its first packet asks it.
func (w *Worker) ask(p *packet) question {
	return question{in: p.in, key: p.key, now: w.now, tunnel: p.tunnel, peer: p.peer, target: p.target, back: p.back}
}

// askAgain returns the question about a live session. What its first packet told and
// its key does not, its latest decision tells; p, which may be nil, is a packet of
// its forward direction.
func (w *Worker) askAgain(s *flowtable.Session, p *packet) question {
	q := w.snap.again(s, w.now)
	switch {
	case p == nil || p.bridged || !q.outside || q.in != p.in:
	case p.tunnel:
		q.tunnel, q.peer, q.target = true, p.peer, p.target
	default: // the gateway may be another one by now
		if hop, reason := w.fwd.neighborHop(p.mac); reason == DropUnknown {
			q.tunnel, q.target, q.back = false, 0, hop
		}
	}
	return q
}

// again returns the question about a live session.
func (s *Snapshot) again(live *flowtable.Session, now uint32) question {
	q := question{in: live.Port(), key: live.Key(flowtable.Forward), live: live, now: now}
	if _, bridged := PlainVRF(q.key.VRF); bridged {
		q.target, q.back = nexthop.ID(live.Decision().NextHop(flowtable.Forward)), nexthop.ID(live.Decision().NextHop(flowtable.Reply))
		q.outside = q.in == s.Uplink
		q.tunnel, q.peer = q.outside, nowhere
		return q
	}
	if q.in == 0 || q.in != s.Uplink {
		return q
	}
	d := live.Decision()
	q.outside, q.back = true, nexthop.ID(d.NextHop(flowtable.Reply))
	switch hop, back := s.NextHops.At(q.back), s.tunnelOf(d, flowtable.Reply); {
	case back != nil:
		q.tunnel, q.peer = true, back.peer
	case hop.Kind != nexthop.Neighbor || q.key.VRF != FabricVRF:
		q.tunnel, q.peer = true, nowhere // its answers have no way, or leave directly
	}
	if forward := nexthop.ID(d.NextHop(flowtable.Forward)); portOf(forward) != 0 {
		q.target = forward
	}
	return q
}

// answers sets where the answers to a connection go that came in by the uplink. It
// returns false when the decision is final.
func (d *decision) answers(snap *Snapshot, in *Interface, q *question, t *Trace) bool {
	hop, route := snap.follow(q.key.VRF, &q.key.Src)
	if snap.isHere(hop, &q.key.Src) && !snap.comesBack(q) {
		reason := DropUplinkSource
		if q.tunnel {
			reason = DropTunnelSource
		}
		d.end(reason, t)
		return false
	}
	if in.Kind == Uplink {
		d.nextHop[flowtable.Reply] = q.back // of a new session: install knows
		return true
	}
	d.nextHop[flowtable.Reply] = snap.returnHop(hop, route.NextHop, &q.key.Src, q.peer)
	return true
}

// comesBack reports whether a connection is one of this node's own processes to a port
// of another node that has chosen a member here. The kernel sent it out by the uplink,
// and its answers go back the way that it came.
func (s *Snapshot) comesBack(q *question) bool {
	if _, own := s.NodeAddresses[q.key.Src]; !own || !q.tunnel || int(q.peer) >= len(s.Peers) {
		return false
	}
	called, ok := s.nodes[q.key.Dst]
	return ok && s.isOneNode(called, q.peer)
}

// isOneNode reports whether two of Peers are addresses of one node.
func (s *Snapshot) isOneNode(a, b uint32) bool { return a == b || s.Peers[a].Name == s.Peers[b].Name }

// direct lets a member here answer a client outside by this node's own uplink, where
// its floating IP allows that and the way to the client is known. Until it is,
// answers go through the node that the connection came in by.
func (d *decision) direct(snap *Snapshot, q *question) {
	if !q.tunnel || d.service == nil || !d.service.DirectReturn {
		return
	}
	if hop, _ := snap.follow(q.key.VRF, &q.key.Src); hop.Kind == nexthop.Tunnel || hop.Kind == nexthop.FloatingIP {
		return // not outside: an address of the overlay
	}
	hop, route := snap.follow(FabricVRF, &q.key.Src)
	if id, hop := d.seek(snap, route.NextHop, hop, &q.key.Src); hop.Kind == nexthop.Neighbor && id != OnLinkNextHop {
		d.nextHop[flowtable.Reply] = id
	}
}

// placesAt returns the places of the floating IPs that a connection from another node
// may have dialled. An address of that node or a third is one of this node's own
// here: a node's port is open on all nodes, and the one that the client called has
// chosen a member here.
func (s *Snapshot) placesAt(addr *[16]byte) []uint32 {
	if places := s.dialled[*addr]; len(places) > 0 {
		return places
	}
	if peer, ok := s.nodes[*addr]; ok {
		return s.dialled[s.Peers[peer].Local]
	}
	return nil
}

// isAnswer reports whether a packet out of a tunnel, which no session here has, is what
// a service says to a caller. A session of its own would stand in the caller's way: with
// the service as its initiator it leads the caller's packets to where this one came from,
// not to the member. So the caller's next packet opens the session (this matters after a
// restart). What can be from somebody who calls is none: from a port of an address that
// connections are opened from, other than TCP from a port that is mapped.
func (s *Snapshot) isAnswer(p *packet) bool {
	if p.l.Proto == header.ProtoTCP && p.l.TCPFlags&header.TCPSyn != 0 {
		return false
	}
	call := p.key.Reverse()
	hop, route := s.follow(s.homeOf(&p.key), &call.Dst)
	if hop.Kind != nexthop.FloatingIP {
		open, ok := s.openAt(&call, route.Network)
		if !ok {
			return false
		}
		hop = open
	}
	fip := s.FloatingIPs[hop.Index]
	if !fip.Ingress || fip.service(call.Proto, call.DstPort) == nil {
		return false
	}
	return call.Proto == header.ProtoTCP && fip.Whole == nil || !fip.Egress && fip.Fallback == 0
}

// openAt returns the next hop of the floating IP that a port of another node is open by,
// which a sender here calls. What is mapped at this node's own address in a network is
// open at every node's, with the same members, so the choice is made here, as for any
// other service: the other node would have to send the connection on.
func (s *Snapshot) openAt(key *flowtable.Key, network uint32) (hop nexthop.NextHop, ok bool) {
	peer, ok := s.nodes[key.Dst]
	if !ok {
		return nexthop.NextHop{}, false
	}
	for _, place := range s.dialled[s.Peers[peer].Local] {
		fip := s.FloatingIPs[place]
		if fip.Fallback != 0 && fip.Ingress && fip.Network == network && fip.Mappings[PortKey{Proto: key.Proto, Port: key.DstPort}] != nil {
			return nexthop.NextHop{Kind: nexthop.FloatingIP, Index: place}, true
		}
	}
	return nexthop.NextHop{}, false
}

// served returns the next hop of the floating IP that a connection out of a tunnel is
// for whose label or VNI is that of a whole VRF: one with a member there, or one of
// ip-fabric with a member here, whom other networks call by it (wayTo).
func (s *Snapshot) served(key *flowtable.Key) (hop nexthop.NextHop, ok bool) {
	for _, place := range s.placesAt(&key.Dst) {
		svc := s.FloatingIPs[place].service(key.Proto, key.DstPort)
		if svc == nil {
			continue
		}
		for i := range svc.Group.Len() {
			if m := svc.Group.Member(i); m.Interface != 0 && (s.port(m.Interface).VRF == key.VRF || s.FloatingIPs[place].VRF == FabricVRF) {
				return nexthop.NextHop{Kind: nexthop.FloatingIP, Index: place}, true
			}
		}
	}
	return nexthop.NextHop{}, false
}

// answered finds the session whose answer has a key that no session has, 0 for none.
// What a workload here sends to a node's own address is answered by that node's
// ip-fabric, where one route may lead to all workloads of this node, of whatever network,
// so the answer arrives in ip-fabric here. The session's own key is one of the workload's VRF.
func (w *Worker) answered(key *flowtable.Key) flowtable.Ref {
	home := *key
	if home.VRF = w.snap.homeOf(key); home.VRF == key.VRF {
		return 0
	}
	ref := w.flows.Lookup(&home, w.flows.Hash(&home))
	if ref.Direction() != flowtable.Reply {
		return 0
	}
	return ref
}

// homeOf returns the VRF of who a packet is for, as its sender there sees it: another
// than the key's where ip-fabric has a route to a workload here.
func (s *Snapshot) homeOf(key *flowtable.Key) uint16 {
	if key.VRF != FabricVRF {
		return key.VRF
	}
	hop, _ := s.follow(FabricVRF, &key.Dst)
	if to := s.port(hop.Port); hop.Kind == nexthop.Interface && to.Kind == Workload {
		return to.VRF
	}
	return FabricVRF
}

// follow returns the route to an address, behind any VRF next hops, and its next hop; a
// discard where there is none.
func (s *Snapshot) follow(vrf uint16, addr *[16]byte) (hop nexthop.NextHop, route nexthop.Route) {
	for range maxVRFHops + 1 {
		route, _, ok := s.lookup(vrf, addr)
		if !ok {
			break
		}
		if hop = s.NextHops.At(route.NextHop); hop.Kind != nexthop.VRF {
			return hop, route
		}
		vrf = hop.VRF
	}
	return nexthop.NextHop{}, nexthop.Route{}
}

// isHere reports whether an address whose next hop is known is one of this node's: a
// workload's, the router's, the node's own.
func (s *Snapshot) isHere(hop nexthop.NextHop, addr *[16]byte) bool {
	if _, node := s.NodeAddresses[*addr]; node || hop.Kind == nexthop.Receive {
		return true
	}
	itf := s.port(hop.Port)
	return hop.Kind == nexthop.Interface && itf.Kind == Workload && itf.owns(addr)
}

// returnHop returns where answers to another node's packet go, whose source src has a
// next hop: to the node that has the address, or back to the one that the packet came
// from. 0 is nowhere.
func (s *Snapshot) returnHop(hop nexthop.NextHop, id nexthop.ID, src *[16]byte, peer uint32) nexthop.ID {
	switch hop.Kind {
	case nexthop.Tunnel:
		// A node's own process that called a port of a third node did so without its
		// vRouter, which would not know the answers.
		if owner, node := s.nodes[*src]; !node || int(peer) >= len(s.Peers) || s.isOneNode(owner, peer) {
			return id
		}
	case nexthop.FloatingIP: // several have the address, or a workload there calls from it
		if svc := s.FloatingIPs[hop.Index].Whole; svc != nil {
			for i := range svc.Group.Len() {
				to := svc.Group.Member(i).NextHop
				if h := s.NextHops.At(to); h.Kind == nexthop.Tunnel && int(h.Index) < len(s.tunnels) && s.tunnels[h.Index].peer == peer {
					return to
				}
			}
		}
	}
	if int(peer) < len(s.Peers) {
		return s.Peers[peer].Return
	}
	return 0
}

// deliver binds a connection from another node to the interface that its label names:
// as it is where the interface has the address, through the mapping of a floating IP
// that the interface serves, or because a route leads there. It returns false when
// the decision is final.
func (f *Forwarder) deliver(snap *Snapshot, q *question, d *decision, t *Trace) bool {
	itf := snap.port(portOf(q.target))
	d.nextHop[flowtable.Forward], d.dstNet = q.target, itf.Network
	t.arrived(snap, q)
	if itf.has(&q.key.Dst) {
		return true
	}
	for _, place := range snap.placesAt(&q.key.Dst) {
		fip := snap.FloatingIPs[place]
		svc := fip.service(q.key.Proto, q.key.DstPort)
		if svc == nil {
			continue
		}
		m, ok := svc.Group.Through(q.target)
		if !ok {
			continue
		}
		d.fip, d.service = fip.ID, svc
		if q.bound() && m.ID == q.live.Member() && d.keep(snap, fip, &m, q, t) {
			return true
		}
		t.member(fip, svc, &m, 0, false)
		d.bind(snap, fip, &m, q, t) // to an interface here, which nothing stands in the way of
		return true
	}
	if q.bound() {
		return f.keepOrphan(snap, q, d, t)
	}
	if hop, _ := snap.follow(q.key.VRF, &q.key.Dst); itf.owns(&q.key.Dst) || hop == snap.NextHops.At(q.target) {
		return true
	}
	d.drop(DropTunnelDestination, t)
	return false
}

// has reports whether an address is one of the interface's own.
func (in *Interface) has(addr *[16]byte) bool {
	for i := range in.Sources {
		if in.Sources[i].Bits == 128 && in.Sources[i].Address == *addr {
			return true
		}
	}
	return false
}

// isNested reports whether a connection is that of another node's tunnels to this
// one.
func (s *Snapshot) isNested(key *flowtable.Key) bool {
	return isTunnelPort(key.Proto, key.DstPort) && s.isNode(&key.Dst)
}

// isTunnelPort reports whether what is sent to a port of a node may be a tunnel packet.
func isTunnelPort(proto uint8, port uint16) bool {
	return proto == header.ProtoGRE || proto == header.ProtoUDP && (port == header.PortMPLS || port == header.PortVXLAN)
}

// isNode reports whether an address is one of this node's own.
func (s *Snapshot) isNode(addr *[16]byte) bool {
	_, node := s.NodeAddresses[*addr]
	return node
}

// forges reports whether packets of a connection, or its answers, would leave by the
// uplink as tunnel packets from this node's address. Other nodes believe these,
// whatever label they carry, so only the node itself may send them.
func (s *Snapshot) forges(in, out *Interface, key, reply *flowtable.Key) bool {
	switch {
	case in.Kind == Host || out.Kind == Host:
		return false
	case out.Kind == Uplink && isTunnelPort(reply.Proto, reply.SrcPort):
		return s.isNode(&reply.Dst)
	case in.Kind == Uplink && isTunnelPort(key.Proto, key.SrcPort):
		return s.isNode(&key.Dst)
	}
	return false
}

// sendBack sends a frame of the router's own, an IP packet or an ARP packet, to where
// p came from, which it answers.
func (w *Worker) sendBack(p *packet, f *port.Frame) DropReason {
	if p.onSegment {
		return w.sendSegment(p, f)
	}
	if p.tunnel {
		hop, route := w.snap.follow(p.vrf, &p.l.Src)
		back := w.snap.returnHop(hop, route.NextHop, &p.l.Src, p.peer)
		if back.IsDiscard() {
			return DropTunnelReturn
		}
		x := exit{}
		if reason := w.exit(back, &x); reason != DropUnknown {
			return reason
		}
		if f.Len()-header.EthernetLength > x.mtu {
			return DropMTU
		}
		x.flow = flowHash(&flowtable.Key{Src: p.l.Dst, Dst: p.l.Src, Proto: p.l.Proto})
		return w.leave(f, &x)
	}
	if in := w.snap.port(p.in); in.Kind == Uplink {
		x := exit{mac: p.mac, from: in.MAC}
		x.address(f)
	}
	return w.enqueue(p.in, f)
}
