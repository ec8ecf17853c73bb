package bench

import (
	"encoding/binary"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/internal/port"
)

// gopacket, which knows nothing of our encoder, reads the frames that the
// generator makes as the packets of the flow that it was asked for, and finds
// every checksum and length right.
func TestGeneratedPackets(t *testing.T) {
	for _, six := range []bool{false, true} {
		w := world{six: six, floating: 3, routes: 1000}.defaults()
		for _, k := range []kind{toService, toServiceTCP, toPod, toRoutes, spoofed, unrouted, denied} {
			for _, z := range []size{small, imix, super} {
				tr := w.traffic(k)
				tr.size = z
				if z == super {
					tr.tcp = true
				}
				for _, first := range []uint32{0, 1, 77_777, 1<<31 + 5} {
					checkFrames(t, tr, first)
				}
			}
		}
	}
}

// checkFrames reads a batch of frames of a traffic.
func checkFrames(t *testing.T, tr traffic, first uint32) {
	t.Helper()
	g, frames := &generator{}, make([]*port.Frame, 30)
	for i := range frames {
		frames[i] = port.NewFrame()
	}
	g.load(tr, 25, 0, first)
	n, err := g.Read(frames)
	if more, _ := g.Read(frames[n:]); n != 25 || err != nil || more != 0 {
		t.Fatalf("read %d frames, then %d, %v; want the 25 that were asked for", n, more, err)
	}
	for i, f := range frames[:n] {
		p := gopacket.NewPacket(f.Bytes(), layers.LayerTypeEthernet, gopacket.Default)
		if e := p.ErrorLayer(); e != nil {
			t.Fatalf("%+v: %v", tr, e.Error())
		}
		if got, want := tuple(p), tr.expect(first+uint32(i)); got != want {
			t.Fatalf("%+v, flow %d: %v, want %v", tr, first+uint32(i), got, want)
		}
		checkSums(t, p, f)
	}
}

// endpoints are what a packet shows of its flow.
type endpoints struct {
	src, dst         string
	srcPort, dstPort uint16
	tcp              bool
}

// expect is the flow's key in gopacket's terms.
func (t traffic) expect(flow uint32) endpoints {
	k := t.key(flow)
	return endpoints{net.IP(k.Src[:]).String(), net.IP(k.Dst[:]).String(), k.SrcPort, k.DstPort, k.Proto == 6}
}

func tuple(p gopacket.Packet) (e endpoints) {
	flow := p.NetworkLayer().NetworkFlow()
	e.src, e.dst = flow.Src().String(), flow.Dst().String()
	switch l := p.TransportLayer().(type) {
	case *layers.UDP:
		e.srcPort, e.dstPort = uint16(l.SrcPort), uint16(l.DstPort)
	case *layers.TCP:
		e.srcPort, e.dstPort, e.tcp = uint16(l.SrcPort), uint16(l.DstPort), true
	}
	return e
}

// checkSums compares the frame with what gopacket would have written.
func checkSums(t *testing.T, p gopacket.Packet, f *port.Frame) {
	t.Helper()
	var list []gopacket.SerializableLayer
	for _, l := range p.Layers() {
		switch l := l.(type) {
		case *layers.UDP:
			_ = l.SetNetworkLayerForChecksum(p.NetworkLayer())
		case *layers.TCP:
			_ = l.SetNetworkLayerForChecksum(p.NetworkLayer())
		}
		list = append(list, l.(gopacket.SerializableLayer))
	}
	want := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(want, gopacket.SerializeOptions{ComputeChecksums: true}, list...); err != nil {
		t.Fatal(err)
	}
	got := f.Bytes()
	if f.Offload.Flags&port.NeedsCsum != 0 {
		at := f.Offload.CsumStart + f.Offload.CsumOffset
		sum := binary.BigEndian.Uint16(got[at:]) // of the pseudo-header; the rest has still to be added
		total := uint32(sum)
		clear(got[at : at+2])
		for i := int(f.Offload.CsumStart); i < len(got); i += 2 {
			total += uint32(got[i])<<8 + uint32(got[i+1])
		}
		for total > 0xffff {
			total = total>>16 + total&0xffff
		}
		binary.BigEndian.PutUint16(got[at:], ^uint16(total))
	}
	if string(got) != string(want.Bytes()) {
		t.Fatalf("gopacket writes\n% x, the generator\n% x", want.Bytes()[:80], got[:80])
	}
}

// Random flows are those that were asked for, all of them sooner or later.
func TestRandomFlows(t *testing.T) {
	g := &generator{flows: 10, random: 1}
	seen := map[uint32]int{}
	for range 1000 {
		seen[g.choose()]++
	}
	for flow := range uint32(10) {
		if seen[flow] < 50 || len(seen) != 10 {
			t.Fatalf("1000 choices among 10 flows: %v", seen)
		}
	}
}
