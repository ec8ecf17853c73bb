package forwarder

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/port"
)

func TestEdgeIsOneCacheLine(t *testing.T) {
	if n := unsafe.Sizeof(edge{}); n != 64 {
		t.Errorf("an edge has %d bytes", n)
	}
}

// twins are two forwarders in the same state, of which the second has no quick
// path.
type twins struct {
	t            *testing.T
	quick, plain *rig
	random       *rand.Rand
}

func (tw *twins) publish() {
	tw.quick.publish()
	tw.plain.publish()
	tw.plain.f.snapshot.Load().edges = nil
	tw.plain.f.snapshot.Load().overlays = nil
}

// run gives both the same frames and compares everything that leaves them.
func (tw *twins) run(in uint16, frames []*port.Frame) (sent [][]byte) {
	tw.t.Helper()
	for _, f := range frames {
		g := port.NewFrame()
		g.End = g.Start + copy(g.Buf[g.Start:], f.Bytes())
		g.Offload = f.Offload
		tw.quick.injectFrame(in, f)
		tw.plain.injectFrame(in, g)
	}
	tw.quick.run()
	tw.plain.run()
	for i := range tw.quick.ports {
		got, want := tw.quick.sentFrames(i), tw.plain.sentFrames(i)
		if len(got) != len(want) {
			tw.t.Fatalf("port %d: the quick path sent %d frames, classify %d; drops %v, %v", i, len(got), len(want), tw.quick.allDrops(), tw.plain.allDrops())
		}
		for j := range got {
			if !bytes.Equal(got[j].Bytes(), want[j].Bytes()) || got[j].Offload != want[j].Offload {
				tw.t.Fatalf("port %d, frame %d:\nquick    %x %+v\nclassify %x %+v", i, j, got[j].Bytes(), got[j].Offload, want[j].Bytes(), want[j].Offload)
			}
			sent = append(sent, got[j].Bytes())
		}
	}
	if diff := cmp.Diff(tw.plain.allDrops(), tw.quick.allDrops()); diff != "" {
		tw.t.Fatalf("drops differ: %s", diff)
	}
	return sent
}

// answer turns a frame that was sent to a workload into the workload's answer:
// everything that is a pair changes places, which leaves every checksum right.
func answer(frame []byte) []byte {
	b := append([]byte(nil), frame...)
	swap := func(at, n int) {
		for i := range n {
			b[at+i], b[at+n+i] = b[at+n+i], b[at+i]
		}
	}
	swap(0, 6)
	if b[12] == 0x08 {
		swap(26, 4)
		swap(34, 2)
		return b
	}
	swap(22, 16)
	swap(54, 2)
	return b
}

// The quick path is a short cut, not another road: whatever frame comes, with
// whatever metadata, what leaves is what leaves without it.
func TestQuickPathDoesTheSame(t *testing.T) {
	seed := rand.Uint64()
	tw := &twins{t: t, quick: newRig(t), plain: newRig(t), random: rand.New(rand.NewPCG(seed, 1))}
	t.Logf("seed %d", seed)
	tw.publish()
	bases := tw.conversations()
	tw.mustBeQuick(bases)
	for round := range 4000 {
		base := bases[tw.random.IntN(len(bases))]
		var frames []*port.Frame
		for range 1 + tw.random.IntN(12) {
			frames = append(frames, tw.mutant(base.frame))
		}
		tw.run(base.in, frames)
		if round%500 == 499 {
			tw.publish()
		}
	}
	if diff := cmp.Diff(tw.sessions(tw.plain), tw.sessions(tw.quick)); diff != "" {
		t.Errorf("sessions differ: %s", diff)
	}
}

// conversation is a packet of a session that both twins know, and where it enters.
type conversation struct {
	in    uint16
	frame []byte
}

// conversations opens sessions, to floating IPs and to workloads, and returns a
// packet of each direction.
func (tw *twins) conversations() (list []conversation) {
	for _, fam := range bothFamilies {
		for sport := uint16(1); sport < 9; sport++ {
			for _, dst := range []string{fam.fip, fam.web[0]} {
				syn := build(tw.t, tcpTo(clientPort, fam.client, dst, sport, 80, func(l *layers.TCP) { l.SYN = true }, ""))
				data := build(tw.t, tcpTo(clientPort, fam.client, dst, sport, 80, func(l *layers.TCP) { l.ACK, l.Seq, l.Ack = true, 1, 1 }, "some data"))
				udp := build(tw.t, udpTo(clientPort, fam.client, dst, sport, 80, "a datagram"))
				for _, b := range [][]byte{syn, data, udp} {
					f := port.NewFrame()
					f.End = f.Start + copy(f.Buf[f.Start:], b)
					for _, out := range tw.run(clientPort, []*port.Frame{f}) {
						if &b[0] != &syn[0] {
							list = append(list, conversation{uint16(out[5]), answer(out)})
						}
					}
				}
				list = append(list, conversation{clientPort, data}, conversation{clientPort, udp})
			}
		}
	}
	return list
}

// mustBeQuick checks that packets of known sessions are never classified.
func (tw *twins) mustBeQuick(bases []conversation) {
	tw.t.Helper()
	for _, base := range bases {
		f := port.NewFrame()
		f.End = f.Start + copy(f.Buf[f.Start:], base.frame)
		p := &tw.quick.f.workers[0].packets[0]
		p.l.End = -1
		if tw.run(base.in, []*port.Frame{f}); !p.quick || p.l.End != -1 {
			tw.t.Errorf("not quick: in %d %x", base.in, base.frame)
		}
	}
}

// mutant returns a frame with little or much wrong with it, and half of the time
// nothing.
func (tw *twins) mutant(base []byte) *port.Frame {
	r := tw.random
	f := port.NewFrame()
	f.End = f.Start + copy(f.Buf[f.Start:], base)
	l4, tcp := 34, base[23] == header.ProtoTCP
	if base[12] == 0x86 {
		l4, tcp = 54, base[20] == header.ProtoTCP
	}
	field := 6
	if tcp {
		field = 16
	}
	b := f.Bytes()
	switch r.IntN(12) {
	case 0: // any byte
		b[r.IntN(len(b))] ^= byte(1 << r.IntN(8))
	case 1: // any byte behind a right checksum
		b[r.IntN(len(b))] = byte(r.Uint32())
		if l4 == 34 {
			header.IPv4(b[14:]).UpdateChecksum()
		}
	case 2:
		f.End -= r.IntN(f.Len())
	case 3: // padding
		f.End += r.IntN(40)
	case 4: // the checksums that have two ways to be written
		binary.BigEndian.PutUint16(b[l4+field:], []uint16{0, 0xffff}[r.IntN(2)])
	case 5:
		f.Offload.Flags = port.DataValid
	case 6, 7: // partial, and then perhaps not as it should be
		f.Offload = port.Offload{Flags: port.NeedsCsum, CsumStart: uint16(l4), CsumOffset: uint16(field), HdrLen: uint16(r.IntN(99))}
		binary.BigEndian.PutUint16(b[l4+field:], uint16(r.Uint32()))
		switch r.IntN(6) {
		case 0:
			f.Offload.CsumStart++
		case 1:
			f.Offload.CsumOffset = uint16(r.IntN(20))
		case 2:
			f.Offload.GSOType, f.Offload.GSOSize = uint8(r.IntN(6)), uint16(r.IntN(5))
		}
	}
	return f
}

// sessions returns what both twins must have noted about their sessions.
func (tw *twins) sessions(r *rig) map[flowtable.Key][4]uint64 {
	m := map[flowtable.Key][4]uint64{}
	r.f.flows.Range(0, 1<<20, func(_ flowtable.Ref, s *flowtable.Session) bool {
		fb, fp := s.Counters(flowtable.Forward)
		rb, rp := s.Counters(flowtable.Reply)
		m[s.Key(flowtable.Forward)] = [4]uint64{fb, fp, rb, rp}
		return true
	})
	return m
}

// The same holds for packets to and from other nodes and for those from outside.
func TestQuickPathDoesTheSameThroughTunnels(t *testing.T) {
	for _, w := range allWays() {
		seed := rand.Uint64()
		tw := &twins{
			t: t, quick: newRigOf(t, 1, nodeState(0, w)), plain: newRigOf(t, 1, nodeState(0, w)), random: rand.New(rand.NewPCG(seed, 1)),
		}
		t.Logf("%v: seed %d", w, seed)
		tw.publish()
		bases := tw.conversationsAcross(w)
		for _, base := range bases {
			tw.run(base.in, []*port.Frame{base.make(base.plain())}) // opens the session
		}
		for _, base := range bases {
			p := &tw.quick.f.workers[0].packets[0]
			p.l.End = -1
			tw.run(base.in, []*port.Frame{base.make(base.plain())})
			if !p.quick || p.l.End != -1 {
				t.Errorf("%v: not quick: in %d %x", w, base.in, base.frame)
			}
		}
		for round := range 600 {
			base := bases[tw.random.IntN(len(bases))]
			var frames []*port.Frame
			for range 1 + tw.random.IntN(12) {
				frames = append(frames, base.make(tw.mutant(base.frame)))
			}
			tw.run(base.in, frames)
			if round%100 == 99 {
				tw.publish()
			}
		}
		if diff := cmp.Diff(tw.sessions(tw.plain), tw.sessions(tw.quick)); diff != "" {
			t.Errorf("%v: sessions differ: %s", w, diff)
		}
	}
}

// across is a conversation of which make turns a frame into what comes in.
type across struct {
	in    uint16
	frame []byte
	make  func(*port.Frame) *port.Frame
}

func (a *across) plain() *port.Frame {
	f := port.NewFrame()
	f.End = f.Start + copy(f.Buf[f.Start:], a.frame)
	return f
}

// conversationsAcross returns packets of node 0's workloads to those of node 1, packets
// that come the other way, and from outside.
func (tw *twins) conversationsAcross(w way) (list []across) {
	as := func(f *port.Frame) *port.Frame { return f }
	wrapped := func(f *port.Frame) *port.Frame { return tw.wrapped(w, f) }
	fromOutside := func(f *port.Frame) *port.Frame {
		if f.Len() >= header.EthernetLength {
			to := uplinkMAC(0)
			copy(f.Bytes(), to[:])
			copy(f.Bytes()[6:], gateway[:])
		}
		return f
	}
	ack := func(l *layers.TCP) { l.ACK, l.Seq, l.Ack = true, 1, 1 }
	for i, fam := range bothFamilies {
		out := outsideFamilies[i]
		for sport := uint16(1); sport < 4; sport++ {
			list = append(list,
				across{web1Port, build(tw.t, tcpTo(web1Port, fam.web[0], fam.web[1], sport, 80, ack, "data to a workload there")), as},
				across{web1Port, build(tw.t, udpTo(web1Port, fam.web[0], fam.web[2], sport, 80, "a datagram")), as},
				across{clientPort, build(tw.t, udpTo(clientPort, fam.client, fam.fip, sport, 80, "to a service")), as},
				across{uplinkPort, build(tw.t, tcpTo(0, fam.web[1], fam.web[0], 100+sport, 80, ack, "data from a workload there")), wrapped},
				across{uplinkPort, build(tw.t, udpTo(0, fam.web[2], fam.web[0], 100+sport, 80, "a datagram")), wrapped},
				across{uplinkPort, build(tw.t, udpTo(0, fam.web[1], fam.web[0], 80, sport, "an answer")), wrapped},
				across{uplinkPort, build(tw.t, udpTo(0, out.client, out.service, sport, 80, "from outside")), fromOutside},
			)
		}
	}
	return list
}

// wrapped puts a frame, however broken, into a tunnel packet for node 0.
func (tw *twins) wrapped(w way, f *port.Frame) *port.Frame {
	label := labelOf + uint32(web1Port)
	if w.encapsulation == VXLAN {
		label = firstVNI + uint32(podsVRF)
	}
	if f.Len() < header.EthernetLength+1 {
		return f
	}
	packet := append([]byte(nil), f.Bytes()[header.EthernetLength:]...)
	whole := w.wrap(tw.t, label, packet, nil)
	g := port.NewFrame()
	g.End = g.Start + copy(g.Buf[g.Start:], whole)
	g.Offload = f.Offload
	if g.Offload.Flags&port.NeedsCsum != 0 {
		g.Offload.CsumStart += uint16(len(whole) - len(packet) - header.EthernetLength)
	}
	return g
}
