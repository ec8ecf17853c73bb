package forwarder

import (
	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/nexthop"
)

const (
	stride = flowtable.PrefetchStride
	ahead  = flowtable.PrefetchAhead
)

// process carries one batch of n frames, w.rx[:n], received on port in, from
// the read to the flush. This is the data path, top to bottom:
//
//	out of the uplink's tunnels      arrive
//	a known session's packet?        recognise, and else
//	parse, validate, anti-spoof      classify
//	ask for the flow table's lines   PrefetchBuckets, PrefetchSessions, some packets ahead
//	find the session                 LookupHint
//	forward along it                 carry, and else
//	decide where there is none       open, redecide
//	forward                          forward
//	write to the ports               flush
//
// The whole batch sees one snapshot and one reading of the clock.
func (w *Worker) process(in uint16, n int) {
	w.begin()
	w.expireFragments(w.now)
	packets := w.packets[:n]
	w.receive(in, packets)
	tcp := w.identify(in, packets)
	w.flows.PrefetchSessions(w.hashes[:min(n, ahead)], w.hints[:min(n, ahead)], tcp)

	itf := w.snap.port(in)
	for i := range packets {
		p := &packets[i]
		if from := i + ahead; i%stride == 0 && from < n {
			w.flows.PrefetchSessions(w.hashes[from:min(n, from+stride)], w.hints[from:min(n, from+stride)], tcp)
		}
		if p.fate == fateSession {
			if p.ref = w.flows.LookupHint(&p.key, p.hash, w.hints[i]); p.ref == 0 && p.tunnel {
				p.ref = w.answered(&p.key)
			}
		}
		if p.quick {
			if w.carry(p) {
				continue
			}
			w.classify(w.ingress(p), p)
		}
		if p.fate == fateBundle {
			w.unbundle(itf, p)
			continue
		}
		w.forward(w.ingress(p), p)
		if p.l.IsFragment && p.l.FragOffset == 0 {
			w.releaseFragments(p)
		}
	}
	w.flush()
	w.reader.Quiesce()
}

// receive binds the frames of a batch to their packets and counts them.
func (w *Worker) receive(in uint16, packets []packet) {
	var bytes uint64
	at := arrival{vrf: w.snap.port(in).VRF}
	for i := range packets {
		p := &packets[i]
		p.frame, p.in, p.ref, p.fate, p.arrival = w.rx[i], in, 0, fatePending, at
		p.len = uint32(p.frame.Len())
		bytes += uint64(p.len)
	}
	c := w.counters[in].Load()
	c.rxPackets.Add(uint64(len(packets)))
	c.rxBytes.Add(bytes)
	w.batches.Add(1)
	w.moved.Add(uint64(len(packets)))
}

// identify sets the fate of each packet of a batch and, where that is to follow a
// session, the key and the hash to find it by. It reports whether TCP is among them.
func (w *Worker) identify(in uint16, packets []packet) (tcp bool) {
	itf, edge := w.snap.port(in), w.snap.edge(in)
	for i := range packets {
		p := &packets[i]
		stands, plain := itf, edge
		if itf.Kind == Uplink {
			if stands, plain = w.arrive(itf, p); stands == nil {
				continue
			}
		}
		if p.quick = w.recognise(plain, p.vrf, p); p.quick {
			p.fate = fateSession
		} else if w.classify(stands, p); p.fate == fateSession {
			p.hash = w.flows.Hash(&p.key)
		}
		if p.fate == fateSession {
			w.hashes[i] = p.hash
			tcp = tcp || p.key.Proto == header.ProtoTCP
		}
		if i%stride == stride-1 {
			w.flows.PrefetchBuckets(w.hashes[i-(stride-1) : i+1])
		}
	}
	return tcp
}

// begin takes the snapshot and the time for a batch.
func (w *Worker) begin() {
	w.snap = w.fwd.snapshot.Load()
	w.nanos = w.fwd.clock()
	w.now = w.fwd.ticks(w.nanos)
}

// processOne takes a packet that waited for others, a fragment whose head has
// come, through the steps of process.
func (w *Worker) processOne(p *packet) {
	if p.fate == fateSession {
		p.hash = w.flows.Hash(&p.key)
		if p.ref = w.flows.Lookup(&p.key, p.hash); p.ref == 0 && p.tunnel {
			p.ref = w.answered(&p.key)
		}
	}
	w.forward(w.ingress(p), p)
}

// forward moves one classified packet to its output.
func (w *Worker) forward(in *Interface, p *packet) {
	if p.fate != fateSession {
		switch p.fate {
		case fateICMPError:
			w.icmpErrorTransit(in, p)
		case fateICMPQuery:
			w.icmpQuery(p)
		}
		return
	}
	s := w.flows.Session(p.ref)
	if !s.Live() { // there is none, or it ended since the batch was looked up
		if p.ref = w.open(in, p); p.ref == 0 || p.quick && w.carry(p) {
			return
		}
		s = w.flows.Session(p.ref)
	}
	if p.bridged && !w.between(p, s) {
		if s = w.reopen(in, p); s == nil {
			return
		}
	}
	if s.Decision().Epoch() != w.snap.Epoch {
		if s = w.renew(in, p); s == nil {
			return
		}
	}
	dir := p.ref.Direction()
	nh := s.Decision().NextHop(dir)
	if nh < NumDropReasonIDs {
		if DropReason(nh) == DropNeighborUnresolved {
			w.lost(p, s)
			return
		}
		w.reject(in, p, DropReason(nh))
		return
	}
	if in.Kind >= Uplink {
		if reason := w.belongs(p, s, dir, nexthop.ID(s.Decision().NextHop(flowtable.Forward))); reason != DropUnknown {
			w.drop(p, reason)
			return
		}
		if dir == flowtable.Forward && p.target != 0 && nexthop.ID(nh) != p.target {
			if s = w.rebind(in, p); s == nil { // the other node has moved the flow to another interface here
				return
			}
			nh = s.Decision().NextHop(dir)
		}
	}
	if p.l.Proto == header.ProtoTCP && !w.track(in, p, s, dir) {
		return
	}
	w.send(in, p, s, dir, nexthop.ID(nh))
}

// track lets the session's TCP state see the packet. It returns false when the
// packet ended here: dropped, or the start of a new connection on an old tuple.
func (w *Worker) track(in *Interface, p *packet, s *flowtable.Session, dir flowtable.Direction) bool {
	if p.l.IsFragment && p.l.FragOffset != 0 {
		return true // no TCP header in here
	}
	switch trackTCP(s, dir, p) {
	case flowtable.TCPOutOfWindow:
		w.drop(p, DropTCPOutOfWindow)
		return false
	case flowtable.TCPReopen: // RFC 5382 REQ-2: a SYN on a closed connection starts a new one
		w.remove(p.ref)
		w.forward(in, p) // once: a new session is not closed
		return false
	}
	return true
}

// trackTCP hands the fields of a packet's TCP header to the session.
func trackTCP(s *flowtable.Session, dir flowtable.Direction, p *packet) flowtable.TCPVerdict {
	tcp := header.TCP(p.bytes()[p.l.L4:p.l.End])
	return s.TrackTCP(dir, tcp.Seq(), tcp.Ack(), tcp.Window(), tcp.Flags(), int(p.l.End-p.l.Payload), tcp.Options())
}

// port returns the interface at a port index; an index that the snapshot does
// not know is an absent interface.
func (s *Snapshot) port(index uint16) *Interface {
	if int(index) < len(s.Interfaces) {
		return &s.Interfaces[index]
	}
	return &absent
}

// edge returns the edge of a port, absent for an index that the snapshot does not
// know.
func (s *Snapshot) edge(index uint16) *edge {
	if int(index) < len(s.edges) {
		return &s.edges[index]
	}
	return &noEdge
}

// overlayEdge returns the edge of a VRF's overlay interface.
func (s *Snapshot) overlayEdge(vrf uint16) *edge {
	if int(vrf) < len(s.overlays) {
		return &s.overlays[vrf]
	}
	return &noEdge
}

var noEdge edge

// absent is what a port outside the snapshot looks like.
var absent Interface
