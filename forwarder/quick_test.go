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
