package bench

import (
	"encoding/binary"
	"math/bits"

	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/port"
)

// generator is a queue from which the forwarder reads packets of a traffic. It
// writes headers only, with right checksums over a payload of zeros; the bytes
// behind them are whatever the frame holds, for nothing reads them. What it costs
// is measured apart, as the floor. It belongs to one goroutine.
type generator struct {
	sink
	left   int // packets still to come
	shapes [12]*shape
	cursor int
	t      traffic

	first  uint32 // flow to begin at
	flows  uint32 // how many from there on to choose from at random; 0: one after another
	random uint64

	l4, sumAt int // transport header and its checksum, from the frame's first byte
}

// load sets what comes next: n packets of the flows from first on, uniformly random
// among so many, or for flows 0 in order.
func (g *generator) load(t traffic, n int, flows, first uint32) {
	if g.shapes[0] == nil || g.t != t {
		g.compose(t)
	}
	g.left, g.flows, g.first = n, flows, first
}

// compose builds the headers of a traffic.
func (g *generator) compose(t traffic) {
	g.t = t
	known := map[int]*shape{}
	for i, length := range t.size.frames(t.overhead()) {
		if known[length] == nil {
			s := t.shapeOf(length)
			known[length] = &s
		}
		g.shapes[i] = known[length]
	}
	g.l4, g.sumAt = t.overhead()-header.UDPLength, t.overhead()-2
	if t.tcp {
		g.l4 = t.overhead() - header.TCPMinimumLength
		g.sumAt = g.l4 + 16
	}
}

// Read implements port.Queue.
func (g *generator) Read(frames []*port.Frame) (int, error) {
	n := min(len(frames), g.left)
	for _, f := range frames[:n] {
		g.write(f)
	}
	g.left -= n
	return n, nil
}

// write makes f the next packet.
func (g *generator) write(f *port.Frame) {
	flow := g.first
	if g.flows != 0 {
		flow += g.choose()
	} else {
		g.first++
	}
	s := g.shapes[g.cursor]
	if g.cursor++; g.cursor == len(g.shapes) {
		g.cursor = 0
	}
	f.Start, f.End, f.Offload = port.Headroom, port.Headroom+s.length, s.offload
	b := (*[headerBytes]byte)(f.Buf[port.Headroom:])
	*b = s.header
	src, dst, srcPort := g.t.place(flow)
	differ := src>>16 + src&0xffff + dst>>16 + dst&0xffff
	binary.BigEndian.PutUint16(b[g.l4&63:], srcPort)
	sum := fold(s.l4Sum + differ)
	if s.offload.Flags == 0 {
		if sum = ^fold(uint32(sum) + uint32(srcPort)); sum == 0 {
			sum = 0xffff // RFC 768: 0 is no checksum
		}
	}
	binary.BigEndian.PutUint16(b[g.sumAt:], sum)
	if g.t.six {
		binary.BigEndian.PutUint32(b[34:], src)
		binary.BigEndian.PutUint32(b[50:], dst)
		return
	}
	binary.BigEndian.PutUint16(b[24:], ^fold(s.ipSum+differ))
	binary.BigEndian.PutUint32(b[26:], src)
	binary.BigEndian.PutUint32(b[30:], dst)
}

// choose returns a random number below flows (wyrand).
func (g *generator) choose() uint32 {
	g.random += 0xa0761d6478bd642f
	hi, lo := bits.Mul64(g.random, g.random^0xe7037ed1a0b428db)
	n, _ := bits.Mul32(uint32(hi^lo), g.flows)
	return n
}

// fold adds the carries of a sum of 16-bit words.
func fold(sum uint32) uint16 {
	sum = sum>>16 + sum&0xffff
	return uint16(sum>>16 + sum)
}

// sink is a queue that takes everything and has nothing to read.
type sink struct{}

// Read implements port.Queue.
func (*sink) Read([]*port.Frame) (int, error) { return 0, nil }

// Write implements port.Queue.
func (*sink) Write(frames []*port.Frame) {
	for _, f := range frames {
		f.Lost = port.Sent
	}
}

// FD implements port.Queue: there is nothing to poll.
func (*sink) FD() int { return -1 }

// device is a port.Device over queues of the benchmark's own.
type device []port.Queue

// Name implements port.Device.
func (device) Name() string { return "bench" }

// Features implements port.Device: all of them, as a TAP's.
func (device) Features() port.Features {
	return port.FeatureCsum | port.FeatureTSO4 | port.FeatureTSO6 | port.FeatureUSO
}

// Queues implements port.Device.
func (d device) Queues() []port.Queue { return d }

// Close implements port.Device.
func (device) Close() error { return nil }
