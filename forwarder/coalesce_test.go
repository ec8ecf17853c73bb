package forwarder

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/vrouter-go/vrouter/internal/port"
)

const allFeatures = port.FeatureCsum | port.FeatureTSO4 | port.FeatureTSO6 | port.FeatureUSO

func TestMergeSize(t *testing.T) {
	if n := unsafe.Sizeof(merge{}); n != 20 {
		t.Errorf("a merge has %d bytes, its comment says 20", n)
	}
}

// plain describes a frame of a flow as a guest sends it. Its fields are what a
// test varies; frame writes it out byte by byte, without the packages under test.
type plain struct {
	version, proto int
	flow           byte // last byte of the source address
	size           int  // bytes of payload
	fill           byte
	id             uint16
	df, fragment   bool
	ttl, tos       byte
	label          byte // of the flow, IPv6
	seq, ack       uint32
	flags          byte
	window, urgent uint16
	options        []byte // TCP
	ipOptions      []byte // IPv4
	surplus        int    // bytes behind the UDP datagram
	padding        int    // bytes behind the IP packet
	sum            sums
	gso            uint16
}

// sums is how a frame's checksum comes.
type sums int

const (
	partialSum sums = iota
	completeSum
	wrongSum
	wrongPartialSum
	noSum // UDP over IPv4
)

// frame writes the packet.
func (p plain) frame() *port.Frame {
	f := port.NewFrame()
	b := append(f.Buf[f.Start:f.Start:len(f.Buf)], 2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1)
	l4 := binary.BigEndian.AppendUint16(nil, 1000+uint16(p.flow))
	l4 = binary.BigEndian.AppendUint16(l4, 80)
	at := 6
	if p.proto == 17 {
		l4 = binary.BigEndian.AppendUint16(l4, uint16(8+p.size))
		l4 = append(l4, 0, 0)
	} else {
		at = 16
		l4 = binary.BigEndian.AppendUint32(l4, p.seq)
		l4 = binary.BigEndian.AppendUint32(l4, p.ack)
		l4 = append(l4, byte(5+len(p.options)/4)<<4, p.flags)
		l4 = binary.BigEndian.AppendUint16(l4, p.window)
		l4 = append(l4, 0, 0)
		l4 = binary.BigEndian.AppendUint16(l4, p.urgent)
		l4 = append(l4, p.options...)
	}
	for i := range p.size {
		l4 = append(l4, p.fill+byte(i*7))
	}
	l4 = append(l4, make([]byte, p.surplus)...)
	b = p.network(b, len(l4))
	f.End = f.Start + len(b) + len(l4) + p.padding
	copy(f.Buf[f.Start+len(b):], l4)
	p.checksum(f, len(b), at, len(l4))
	return f
}

// network appends EtherType and IP header.
func (p plain) network(b []byte, n int) []byte {
	if p.version == 6 {
		b = append(b, 0x86, 0xdd, 0x60|p.tos>>4, p.tos<<4, 0, p.label)
		b = binary.BigEndian.AppendUint16(b, uint16(n))
		b = append(b, byte(p.proto), p.ttl)
		b = append(b, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, p.flow)
		return append(b, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1)
	}
	b = append(b, 8, 0)
	start := len(b)
	b = append(b, 0x45+byte(len(p.ipOptions)/4), p.tos)
	b = binary.BigEndian.AppendUint16(b, uint16(20+len(p.ipOptions)+n))
	b = binary.BigEndian.AppendUint16(b, p.id)
	word := uint16(0)
	if p.df {
		word |= 0x4000
	}
	if p.fragment {
		word |= 0x2000
	}
	b = binary.BigEndian.AppendUint16(b, word)
	b = append(b, p.ttl, byte(p.proto), 0, 0, 10, 0, 0, p.flow, 10, 0, 1, 1)
	b = append(b, p.ipOptions...)
	binary.BigEndian.PutUint16(b[start+10:], ^naiveSum(b[start:]))
	return b
}

// checksum writes the transport checksum as p.sum says.
func (p plain) checksum(f *port.Frame, start, at, n int) {
	b := f.Bytes()[:start+n]
	pseudo := naivePseudoSum(b, start)
	switch p.sum {
	case partialSum, wrongPartialSum:
		f.Offload = port.Offload{Flags: port.NeedsCsum, CsumStart: uint16(start), CsumOffset: uint16(at)}
		if p.gso != 0 {
			f.Offload.GSOSize, f.Offload.GSOType = p.gso, port.GSOUDPL4
			if p.proto == 6 {
				f.Offload.GSOType = map[int]uint8{4: port.GSOTCPv4, 6: port.GSOTCPv6}[p.version]
			}
		}
		binary.BigEndian.PutUint16(b[start+at:], pseudo+uint16(p.sum/wrongPartialSum))
	case completeSum, wrongSum:
		binary.BigEndian.PutUint16(b[start+at:], pseudo)
		naiveComplete(b, start, at)
		b[start+at+1] += byte(p.sum / wrongSum)
	}
}

// naivePseudoSum is the sum of the pseudo-header of the message at start.
func naivePseudoSum(b []byte, start int) uint16 {
	addresses, proto := b[26:34], b[23]
	if b[12] == 0x86 {
		addresses, proto = b[22:54], b[20]
	}
	h := append([]byte(nil), addresses...)
	return naiveSum(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(h, uint32(len(b)-start)), uint32(proto)))
}

// naiveComplete does what a device does with a partial checksum.
func naiveComplete(b []byte, start, at int) {
	sum := ^naiveSum(b[start:])
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[start+at:], sum)
}

// naiveWire returns the packets that a frame is on a wire: the segments of a
// superpacket, checksums complete. The identification of an IPv4 packet that must
// not be fragmented is left out, with the header checksum over it.
func naiveWire(t testing.TB, f *port.Frame) (wire [][]byte) {
	t.Helper()
	o, b := f.Offload, append([]byte(nil), f.Bytes()...)
	start := int(o.CsumStart)
	switch {
	case o.Flags&port.NeedsCsum == 0:
		wire = [][]byte{b}
	case o.GSOType == port.GSONone:
		if at := int(o.CsumOffset); start+at+2 <= len(b) {
			naiveComplete(b, start, at)
		}
		wire = [][]byte{b}
	default:
		if sum := naivePseudoSum(b, start); binary.BigEndian.Uint16(b[start+int(o.CsumOffset):]) != sum {
			t.Errorf("a superpacket's partial checksum is %#x, want %#x", b[start+int(o.CsumOffset):][:2], sum)
		}
		if b[12] == 8 && (naiveSum(b[14:34]) != 0xffff || int(binary.BigEndian.Uint16(b[16:])) != len(b)-14) ||
			b[12] == 0x86 && int(binary.BigEndian.Uint16(b[18:])) != len(b)-54 {
			t.Errorf("a superpacket of %d bytes has the IP header % x", len(b), b[14:34])
		}
		if o.GSOType == port.GSOUDPL4 && int(binary.BigEndian.Uint16(b[start+4:])) != len(b)-start {
			t.Errorf("a superpacket's UDP length is %#x", b[start+4:][:2])
		}
		wire = naiveSegments(b, o)
	}
	for _, p := range wire {
		if len(p) >= 34 && p[12] == 8 && p[13] == 0 && p[14] == 0x45 && p[20] == 0x40 {
			if naiveSum(p[14:34]) != 0xffff {
				continue // no packet at all
			}
			copy(p[18:], []byte{0, 0})
			copy(p[24:], []byte{0, 0})
		}
	}
	return wire
}

// naiveSegments cuts a superpacket.
func naiveSegments(b []byte, o port.Offload) (wire [][]byte) {
	start := int(o.CsumStart)
	headers := start + 8
	if o.GSOType != port.GSOUDPL4 {
		headers = start + int(b[start+12]>>4)*4
	}
	for i, at := 0, headers; at < len(b); i, at = i+1, at+int(o.GSOSize) {
		end := min(at+int(o.GSOSize), len(b))
		p := append(append([]byte(nil), b[:headers]...), b[at:end]...)
		if p[12] == 8 {
			binary.BigEndian.PutUint16(p[16:], uint16(len(p)-14))
			binary.BigEndian.PutUint16(p[18:], binary.BigEndian.Uint16(b[18:])+uint16(i))
			copy(p[24:], []byte{0, 0})
			binary.BigEndian.PutUint16(p[24:], ^naiveSum(p[14:34]))
		} else {
			binary.BigEndian.PutUint16(p[18:], uint16(len(p)-54))
		}
		if o.GSOType == port.GSOUDPL4 {
			binary.BigEndian.PutUint16(p[start+4:], uint16(len(p)-start))
		} else {
			binary.BigEndian.PutUint32(p[start+4:], binary.BigEndian.Uint32(b[start+4:])+uint32(at-headers))
			if end != len(b) {
				p[start+13] &^= 0x09 // FIN, PSH
			}
		}
		binary.BigEndian.PutUint16(p[start+int(o.CsumOffset):], naivePseudoSum(p, start))
		naiveComplete(p, start, int(o.CsumOffset))
		wire = append(wire, p)
	}
	return wire
}

// coalesced runs the frames through a coalescer as one batch and checks what
// comes out against what went in: flow by flow the same packets in the same order.
func coalesced(t testing.TB, features port.Features, in []*port.Frame) []*port.Frame {
	t.Helper()
	want, got := map[string][]string{}, map[string][]string{}
	collect := func(to map[string][]string, frames []*port.Frame) {
		for _, f := range frames {
			flow := naiveFlow(f.Bytes())
			for _, p := range naiveWire(t, f) {
				to[flow] = append(to[flow], string(p))
			}
		}
	}
	collect(want, in)
	c := new(coalescer)
	out := c.batch(slices.Clone(in), features, new(prospect))
	collect(got, out)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the packets on the wire changed (-in +out):\n%s", diff)
	}
	if len(out)+c.joined != len(in) {
		t.Errorf("%d frames became %d, %d counted as merged", len(in), len(out), c.joined)
	}
	for i, f := range out {
		if !features.Accepts(f.Offload) && !slices.Contains(in, f) {
			t.Errorf("frame %d: the port does not take %+v", i, f.Offload)
		}
		if n := int(c.merges[i].segments); n > maxMerged || n > 1 && len(naiveWire(t, f)) != n {
			t.Errorf("frame %d: %d segments counted", i, n)
		}
	}
	return out
}

// naiveFlow names a frame's flow: by addresses, as each flow has its own.
func naiveFlow(b []byte) string {
	switch {
	case len(b) >= 54 && b[12] == 0x86:
		return string(b[22:54])
	case len(b) >= 34:
		return string(b[26:34])
	}
	return ""
}

// tcpFrom and udpFrom are frames of standard flows.
func udpFrom(version int) plain {
	return plain{version: version, proto: 17, flow: 1, size: 100, df: true, ttl: 63}
}

func tcpFrom(version int) plain {
	return plain{
		version: version, proto: 6, flow: 2, size: 1000, df: true, ttl: 63, seq: 0xffffff00, ack: 7, flags: 0x10,
		window: 500, options: []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2},
	}
}

// train returns n frames of a flow that can be merged, each changed by change.
func train(first plain, n int, change func(i int, p *plain)) []*port.Frame {
	var frames []*port.Frame
	for i := range n {
		p := first
		p.fill = byte(i)
		p.id += uint16(i)
		p.seq += uint32(i * first.size)
		if change != nil {
			change(i, &p)
		}
		frames = append(frames, p.frame())
	}
	return frames
}

// What makes one packet of several, and what does not: the rules of Linux GRO.
func TestCoalesce(t *testing.T) {
	at := func(i int, change func(*plain)) func(int, *plain) {
		return func(j int, p *plain) {
			if i == j {
				change(p)
			}
		}
	}
	udp4, udp6, tcp4, tcp6 := udpFrom(4), udpFrom(6), tcpFrom(4), tcpFrom(6)
	bare := tcp4
	bare.options = nil
	mayFragment := func(p plain) plain { p.df = false; return p }
	for _, tt := range []struct {
		name   string
		first  plain
		n      int
		change func(i int, p *plain)
		want   int // frames
	}{
		{"alone", udp4, 1, nil, 1},
		{"UDP, IPv4", udp4, 5, nil, 1},
		{"UDP, IPv6", udp6, 5, nil, 1},
		{"TCP, IPv4", tcp4, 5, nil, 1},
		{"TCP, IPv6", tcp6, 5, nil, 1},
		{"as many as there are in a batch", udp4, 64, nil, 1},
		{"complete checksums", udp4, 5, func(_ int, p *plain) { p.sum = completeSum }, 1},
		{"complete and partial checksums", tcp6, 6, func(i int, p *plain) { p.sum = sums(i % 2) }, 1},
		{"a wrong checksum", udp6, 5, at(2, func(p *plain) { p.sum = wrongSum }), 3},
		{"a wrong checksum first", tcp4, 5, at(0, func(p *plain) { p.sum = wrongSum }), 2},
		{"a wrong partial checksum", udp4, 5, at(2, func(p *plain) { p.sum = wrongPartialSum }), 3},
		{"a wrong partial checksum first", udp4, 5, at(0, func(p *plain) { p.sum = wrongPartialSum }), 2},
		{"no checksum", udp4, 5, func(_ int, p *plain) { p.sum = noSum }, 5},
		{"a short one ends a merge", udp4, 5, at(2, func(p *plain) { p.size = 99 }), 2},
		{"a long one begins a merge", udp4, 5, at(2, func(p *plain) { p.size = 101 }), 3},
		{"an empty one stays as it is", udp6, 5, at(2, func(p *plain) { p.size = 0 }), 3},
		{"all empty", udp4, 5, func(_ int, p *plain) { p.size = 0 }, 5},
		{"surplus behind the datagram", udp4, 5, at(2, func(p *plain) { p.surplus = 2 }), 3},
		{"padding behind the packet", udp4, 5, at(2, func(p *plain) { p.size, p.padding = 96, 4 }), 3},
		{"another TTL", udp6, 5, at(2, func(p *plain) { p.ttl-- }), 3},
		{"another TOS", udp4, 5, at(2, func(p *plain) { p.tos = 3 }), 3},
		{"another flow label", udp6, 5, at(2, func(p *plain) { p.label = 3 }), 3},
		{"a fragment", udp4, 5, at(2, func(p *plain) { p.fragment = true }), 3},
		{"IPv4 options", udp4, 5, at(2, func(p *plain) { p.ipOptions = []byte{1, 1, 1, 0} }), 3},
		{"another DF", mayFragment(udp4), 5, at(2, func(p *plain) { p.df = true }), 3},
		{"identifications count up", mayFragment(udp4), 5, func(_ int, p *plain) { p.id += 0xfffe }, 1},
		{"identifications stay", mayFragment(tcp4), 5, func(_ int, p *plain) { p.id = 7 }, 5},
		{"an identification left out", mayFragment(tcp4), 5, func(i int, p *plain) { p.id += uint16(i / 2) }, 3},
		{"identifications mean nothing", udp4, 5, func(_ int, p *plain) { p.id = 0 }, 1}, // RFC 6864 §4.1
		{"a superpacket", udp4, 5, at(2, func(p *plain) { p.gso, p.size = 20, 100 }), 3},
		{"a superpacket first", tcp4, 5, at(0, func(p *plain) { p.gso, p.size = 500, 1000 }), 2},
		{"PSH ends a merge", tcp4, 5, at(2, func(p *plain) { p.flags |= 8 }), 2},
		{"PSH at once", tcp4, 5, at(0, func(p *plain) { p.flags |= 8 }), 2},
		{"each pushed", tcp6, 5, func(_ int, p *plain) { p.flags |= 8 }, 5},
		{"FIN", tcp4, 5, at(4, func(p *plain) { p.flags |= 1 }), 2},
		{"RST", tcp4, 5, at(2, func(p *plain) { p.flags |= 4 }), 3},
		{"URG", tcp4, 5, at(2, func(p *plain) { p.flags |= 0x20 }), 3},
		{"urgent pointer", tcp4, 5, at(2, func(p *plain) { p.urgent = 1 }), 3},
		{"ECE", tcp4, 5, at(2, func(p *plain) { p.flags |= 0x40 }), 3},
		{"CWR", tcp4, 5, func(_ int, p *plain) { p.flags |= 0x80 }, 5},
		{"a gap", tcp4, 5, func(i int, p *plain) { p.seq += uint32(i / 2 * 1000) }, 3},
		{"sent again", tcp4, 4, func(i int, p *plain) { p.seq -= uint32(i / 2 * 2000) }, 2},
		{"another acknowledgement", tcp4, 5, at(2, func(p *plain) { p.ack++ }), 3},
		{"another window", tcp4, 5, at(2, func(p *plain) { p.window++ }), 3},
		{"another timestamp", tcp4, 5, at(2, func(p *plain) { p.options = []byte{1, 1, 8, 10, 0, 0, 0, 2, 0, 0, 0, 2} }), 3},
		{"other options", tcp4, 5, at(2, func(p *plain) { p.options = nil }), 3},
		{"options in place of payload", bare, 5, at(2, func(p *plain) { p.options, p.size = []byte{1, 1, 1, 1}, 996 }), 3},
		{"acknowledgements only", tcp4, 5, func(_ int, p *plain) { p.size = 0 }, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if out := coalesced(t, allFeatures, train(tt.first, tt.n, tt.change)); len(out) != tt.want {
				t.Errorf("%d frames became %d, want %d", tt.n, len(out), tt.want)
			}
		})
	}
}

// Every bit up to the ports tells flows apart, but for those of the lengths, the
// IPv4 identification and the header checksum.
func TestSameFlow(t *testing.T) {
	for version, free := range map[int][]int{4: {16, 17, 18, 19, 24, 25}, 6: {18, 19}} {
		f := udpFrom(version).frame()
		b := f.Bytes()
		for bit := range 8 * (len(b) - 104) {
			other := slices.Clone(b)
			other[bit/8] ^= 1 << (bit % 8)
			if got, want := sameFlow(b, other), slices.Contains(free, bit/8); got != want {
				t.Errorf("IPv%d: frames that differ in byte %d are one flow: %t", version, bit/8, got)
			}
		}
	}
}

// RFC 768: a UDP checksum of 0 is none, also where the sum happens to be 0
func TestCoalesceZeroSum(t *testing.T) {
	p := udpFrom(4)
	p.sum = noSum
	in := train(p, 4, nil)
	for _, f := range in {
		b := f.Bytes()
		at := len(b) - 2
		b[at], b[at+1] = 0, 0
		sum := ^naiveSum(append(binary.BigEndian.AppendUint16(nil, naivePseudoSum(b, 34)), b[34:]...))
		binary.BigEndian.PutUint16(b[at:], sum)
	}
	if out := coalesced(t, allFeatures, in); len(out) != 4 {
		t.Errorf("4 frames became %d", len(out))
	}
}

// A merged packet is as long as an IP packet can be, and no longer.
func TestCoalesceLength(t *testing.T) {
	for _, tt := range []struct{ size, n, first int }{
		{1400, 60, 46}, // 46 × 1400 + 28 = 64,428
		{1024, 64, 63},
		{8192, 8, 7},
	} {
		for _, version := range []int{4, 6} {
			p := udpFrom(version)
			p.size = tt.size
			out := coalesced(t, allFeatures, train(p, tt.n, nil))
			if n := len(naiveWire(t, out[0])); len(out) != 2 || n != tt.first {
				t.Errorf("IPv%d, %d × %d bytes: %d frames, the first one of %d segments", version, tt.n, tt.size, len(out), n)
			}
		}
	}
}

// Only what the port takes is merged.
func TestCoalesceFeatures(t *testing.T) {
	kinds := []struct {
		frame   plain
		feature port.Features
	}{
		{udpFrom(4), port.FeatureUSO}, {udpFrom(6), port.FeatureUSO},
		{tcpFrom(4), port.FeatureTSO4}, {tcpFrom(6), port.FeatureTSO6},
	}
	for features := range allFeatures + 1 {
		for _, k := range kinds {
			want := 4
			if features&port.FeatureCsum != 0 && features&k.feature != 0 {
				want = 1
			}
			if out := coalesced(t, features, train(k.frame, 4, nil)); len(out) != want {
				t.Errorf("features %04b, IPv%d, protocol %d: %d frames, want %d", features, k.frame.version, k.frame.proto, len(out), want)
			}
		}
	}
}

// Frames of other flows between those of a flow do not part them; what may belong
// to any flow does.
func TestCoalesceInterleaved(t *testing.T) {
	var flows []plain
	slots := map[int]bool{}
	for i := byte(0); len(flows) < 8; i++ { // flows that do not get in each other's way
		p := []plain{udpFrom(4), udpFrom(6), tcpFrom(4), tcpFrom(6)}[i%4]
		p.flow = i
		if slot, _ := flowSlot(p.frame().Bytes()); !slots[slot] {
			slots[slot] = true
			flows = append(flows, p)
		}
	}
	var in []*port.Frame
	for i := range 64 {
		p := flows[i%8]
		p.seq += uint32(i / 8 * p.size)
		in = append(in, p.frame())
	}
	if out := coalesced(t, allFeatures, in); len(out) != 8 {
		t.Errorf("8 flows became %d frames", len(out))
	}
	arp := port.NewFrame()
	arp.End += copy(arp.Buf[arp.Start:], make([]byte, 60))
	in = slices.Concat(train(udpFrom(4), 3, nil), []*port.Frame{arp}, train(udpFrom(4), 3, nil))
	if out := coalesced(t, allFeatures, in); len(out) != 3 || out[1] != arp {
		t.Errorf("%d frames around one that nobody knows, want 2", len(out)-1)
	}
}

// What is merged is what arrives: random batches of a few flows, with everything
// in them that Linux GRO looks at, come out the same when they are cut again.
func TestCoalesceProperty(t *testing.T) {
	merged := 0
	rapid.Check(t, func(rt *rapid.T) {
		flows := make([]plain, rapid.IntRange(1, 5).Draw(rt, "flows"))
		for i := range flows {
			p := udpFrom(4)
			if rapid.Bool().Draw(rt, "tcp") {
				p = tcpFrom(4)
			}
			p.version = rapid.SampledFrom([]int{4, 6}).Draw(rt, "version")
			p.flow, p.df = byte(i), rapid.Bool().Draw(rt, "df")
			p.size = rapid.SampledFrom([]int{1, 17, 18, 100, 1448, 9000}).Draw(rt, "size")
			p.sum = sums(rapid.IntRange(0, 1).Draw(rt, "sum"))
			flows[i] = p
		}
		var in []*port.Frame
		for range rapid.IntRange(1, port.BatchSize).Draw(rt, "frames") {
			flow := &flows[rapid.IntRange(0, len(flows)-1).Draw(rt, "flow")]
			flow.id++
			flow.fill++
			p := *flow
			disturb(rt, &p)
			flow.seq = p.seq + uint32(p.size)
			flow.id, flow.ack = p.id, p.ack
			in = append(in, p.frame())
		}
		n := len(in)
		merged += n - len(coalesced(t, allFeatures, in))
		if t.Failed() {
			rt.FailNow()
		}
	})
	if merged == 0 {
		t.Error("nothing was merged")
	}
}

// disturb changes one field of a frame, mostly none.
func disturb(rt *rapid.T, p *plain) {
	changes := []func(){
		func() { p.size = rapid.IntRange(0, p.size).Draw(rt, "shorter") },
		func() { p.size += rapid.IntRange(1, 20).Draw(rt, "longer") },
		func() { p.sum = sums(rapid.IntRange(0, int(wrongPartialSum)).Draw(rt, "sum")) },
		func() { p.sum = noSum * sums(p.proto/17) },
		func() { p.ttl-- },
		func() { p.tos++ },
		func() { p.label++ },
		func() { p.fragment = true },
		func() { p.ipOptions = []byte{1, 1, 1, 0} },
		func() { p.id += 2 },
		func() { p.id-- },
		func() { p.seq += rapid.Uint32().Draw(rt, "gap") },
		func() { p.seq -= uint32(p.size) },
		func() { p.ack++ },
		func() { p.flags |= 8 },
		func() { p.flags = rapid.Byte().Draw(rt, "flags") },
		func() { p.window++ },
		func() { p.urgent++ },
		func() { p.options = p.options[:len(p.options)/8*4] },
		func() { p.surplus = p.proto / 17 },
		func() { p.padding = 1 },
		func() {
			if p.size > 1 {
				p.gso, p.sum = uint16(p.size+1)/2, partialSum
			}
		},
	}
	if i := rapid.IntRange(0, 8*len(changes)).Draw(rt, "change"); i < len(changes) {
		changes[i]()
	}
}

// FuzzCoalesce gives the coalescer frames of any bytes with any offload metadata,
// but for the IPv4 header checksum, which is right in a frame on its way out. Nothing panics, and each packet that goes in comes out once.
func FuzzCoalesce(f *testing.F) {
	for _, p := range []plain{udpFrom(4), udpFrom(6), tcpFrom(4), tcpFrom(6)} {
		for _, sum := range []sums{partialSum, completeSum} {
			p.sum = sum
			t := train(p, 2, nil)
			f.Add(t[0].Bytes(), t[1].Bytes(), t[0].Offload.Flags, t[0].Offload.CsumStart, t[0].Offload.CsumOffset)
		}
	}
	f.Fuzz(func(t *testing.T, a, b []byte, flags uint8, start, offset uint16) {
		var in []*port.Frame
		for _, data := range [][]byte{a, b, b, a, b} {
			frame := port.NewFrame()
			frame.End += copy(frame.Buf[frame.Start:], data)
			frame.Offload = port.Offload{Flags: flags, CsumStart: start, CsumOffset: offset}
			if p := frame.Bytes(); len(p) >= 34 && p[12] == 8 && p[13] == 0 && p[14] == 0x45 { // others were dropped on input
				copy(p[24:], []byte{0, 0})
				binary.BigEndian.PutUint16(p[24:], ^naiveSum(p[14:34]))
			}
			in = append(in, frame)
		}
		wire := func(frames []*port.Frame) (all []string) {
			for _, f := range frames {
				for _, p := range naiveWire(t, f) {
					all = append(all, string(p))
				}
			}
			slices.Sort(all)
			return all
		}
		want := wire(in)
		c := new(coalescer)
		if diff := cmp.Diff(want, wire(c.batch(slices.Clone(in), allFeatures, new(prospect)))); diff != "" {
			t.Errorf("the packets on the wire changed (-in +out):\n%s", diff)
		}
	})
}

// Frames through the whole path leave as one, and each is counted, also when the
// port loses them.
func TestCoalesceCounted(t *testing.T) {
	for _, fam := range bothFamilies {
		r := newRig(t)
		inject := func() {
			for i := range 10 {
				p := udpTo(clientPort, fam.client, fam.fip, 40000, 80, fmt.Sprintf("payload %d", i))
				p.df = true
				r.inject(clientPort, build(t, p))
			}
		}
		inject()
		r.run()
		var out uint16
		for i := range r.ports {
			if frames := r.sentFrames(i); len(frames) == 1 {
				out = i
				if f := frames[0]; f.Offload.GSOType != port.GSOUDPL4 || f.Offload.GSOSize != 9 {
					t.Errorf("%s: offload %+v", fam.name, f.Offload)
				}
				for i, p := range naiveWire(t, frames[0]) {
					if want := fmt.Sprintf("payload %d", i); !bytes.HasSuffix(p, []byte(want)) {
						t.Errorf("%s: %q does not end with %q", fam.name, p, want)
					}
				}
			}
		}
		if out == 0 {
			t.Fatalf("%s: no port sent one frame", fam.name)
		}
		if c := r.f.PortCounters(out); c.Coalesced != 9 {
			t.Errorf("%s: %d frames counted as merged, want 9", fam.name, c.Coalesced)
		}
		r.ports[out].Fail()
		inject()
		r.run()
		if c := r.f.PortCounters(out); c.Coalesced != 9 || c.Drops[DropOutputDown] != 10 {
			t.Errorf("%s: a port that is down: %d merged, %d lost; want 9 and 10", fam.name, c.Coalesced, c.Drops[DropOutputDown])
		}
	}
}

// Flows are spread over the slots well enough: of 8, mostly each has its own.
func TestFlowSlots(t *testing.T) {
	for _, version := range []int{4, 6} {
		used := map[int]int{}
		for i := range 256 {
			p := udpFrom(version)
			p.flow = byte(i)
			slot, ok := flowSlot(p.frame().Bytes())
			if !ok || slot < 0 || slot >= flowSlots {
				t.Fatalf("IPv%d: slot %d, %t", version, slot, ok)
			}
			used[slot]++
		}
		if len(used) < flowSlots*3/4 { // 111 by chance
			t.Errorf("IPv%d: 256 flows use %d of %d slots", version, len(used), flowSlots)
		}
	}
}

// A port whose long batches have nothing to merge is looked at ever more rarely,
// up to every 16th time, until something was merged.
func TestProspect(t *testing.T) {
	many := train(udpFrom(4), port.BatchSize, func(i int, p *plain) { p.flow = byte(i) })
	var p prospect
	c := new(coalescer)
	merges := func(in []*port.Frame) bool { return len(c.batch(slices.Clone(in), allFeatures, &p)) < len(in) }
	// batches returns after how many batches one was merged.
	batches := func() (n int) {
		for !merges(train(udpFrom(4), 2, nil)) {
			n++
		}
		return n
	}
	for i, want := range []int{0, 1, 0, 15, 0} {
		switch want {
		case 1:
			merges(many)
		case 15:
			for range 100 {
				merges(many)
			}
			for p.rest != maxPause {
				merges(many)
			}
		}
		if n := batches(); n != want {
			t.Errorf("step %d: merged after %d batches, want %d", i, n, want)
		}
	}
	for range 100 {
		merges(train(udpFrom(4), longBatch-1, func(i int, p *plain) { p.flow = byte(i) }))
	}
	if n := batches(); n != 0 {
		t.Errorf("after short batches: merged after %d batches, want 0", n)
	}
}

// A batch costs no allocation, merged or not.
func TestCoalesceAllocations(t *testing.T) {
	c := new(coalescer)
	in := slices.Concat(train(tcpFrom(6), 32, nil), train(udpFrom(4), 32, nil))
	end := in[0].End
	frames := slices.Clone(in)
	if n := testing.AllocsPerRun(100, func() {
		copy(frames, in)
		for _, f := range in {
			f.Offload.GSOType, f.End = port.GSONone, min(f.End, end)
		}
		c.batch(frames, allFeatures, new(prospect))
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkCoalesce is the cost per frame of a full batch: of different flows,
// where nothing merges; of flows whose frames must stay apart; and of one flow.
func BenchmarkCoalesce(b *testing.B) {
	for _, bb := range []struct {
		name   string
		change func(i int, p *plain)
		first  plain
	}{
		{"flows/IPv4", func(i int, p *plain) { p.flow = byte(i) }, udpFrom(4)},
		{"flows/IPv6", func(i int, p *plain) { p.flow = byte(i) }, udpFrom(6)},
		{"flows/superpackets", func(i int, p *plain) { p.flow, p.gso = byte(i), 500 }, tcpFrom(4)},
		{"apart/acknowledgements", func(_ int, p *plain) { p.size = 0 }, tcpFrom(4)},
		{"apart/superpackets", func(_ int, p *plain) { p.gso = 500 }, tcpFrom(4)},
		{"one/UDP-100-partial", nil, udpFrom(4)},
		{"one/UDP-100-partial-IPv6", nil, udpFrom(6)},
		{"one/UDP-100-complete", func(_ int, p *plain) { p.sum = completeSum }, udpFrom(4)},
		{"one/TCP-1000-partial", nil, tcpFrom(4)},
		{"one/TCP-1000-complete", func(_ int, p *plain) { p.sum = completeSum }, tcpFrom(4)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			in := train(bb.first, port.BatchSize, bb.change)
			kept := make([]port.Frame, len(in))
			headers := make([][80]byte, len(in))
			for i, f := range in {
				kept[i] = *f
				copy(headers[i][:], f.Bytes())
			}
			frames := make([]*port.Frame, len(in))
			c := new(coalescer)
			for i := 0; i < b.N; i += len(in) {
				copy(frames, in)
				for j := range in {
					if in[j].End != kept[j].End || in[j].Offload != kept[j].Offload {
						*in[j] = kept[j]
						copy(in[j].Bytes(), headers[j][:])
					}
				}
				c.batch(frames, allFeatures, new(prospect))
			}
		})
	}
}
