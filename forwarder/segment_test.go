package forwarder

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/port"
	"pgregory.net/rapid"
)

// super is a superpacket as a test writes it.
type super struct {
	version   int
	proto     uint8 // 6 or 17
	l3options int   // bytes: IPv4 options, or an IPv6 destination options header
	l4options int   // bytes of TCP options
	payload   []byte
	size      int // payload of a segment
	id        uint16
	seq       uint32
	flags     uint8
	dontFrag  bool
}

// frame builds the superpacket with a partial checksum, port 1 to port 2.
func (s super) frame() *port.Frame {
	a, z := roadAddr(s.version, 1), roadAddr(s.version, 2)
	l4 := make([]byte, 8)
	field, gso := 6, port.GSOUDPL4
	binary.BigEndian.PutUint16(l4, 1001)
	binary.BigEndian.PutUint16(l4[2:], 2002)
	if s.proto == 6 {
		l4 = append(l4, make([]byte, 12+s.l4options)...)
		for i := 20; i < len(l4); i++ {
			l4[i] = 1 // no-operation
		}
		binary.BigEndian.PutUint32(l4[4:], s.seq)
		binary.BigEndian.PutUint32(l4[8:], 0x01020304)
		l4[12], l4[13] = byte(len(l4)/4)<<4, s.flags
		field, gso = 16, port.GSOTCPv4
		if s.version == 6 {
			gso = port.GSOTCPv6
		}
	} else {
		binary.BigEndian.PutUint16(l4[4:], uint16(8+len(s.payload)))
	}
	l4 = append(l4, s.payload...)
	binary.BigEndian.PutUint16(l4[field:], naiveSum(naivePseudo(a, z, s.proto, len(l4))))
	q := part{version: s.version, src: 1, dst: 2, proto: s.proto, id: uint32(s.id), dontFrag: s.dontFrag, data: l4}
	if s.version == 4 {
		q.options = bytes.Repeat([]byte{1}, s.l3options)
	}
	f := q.frame()
	start := 34 + s.l3options
	if s.version == 6 { // the fragment header makes room for the destination options
		b := f.Bytes()
		b[20] = s.proto
		tail := bytes.Clone(b[62:])
		f.End = f.Start + 54
		if s.l3options != 0 {
			b[20] = 60
			f.End += copy(f.Buf[f.End:], append([]byte{s.proto, byte(s.l3options/8 - 1), 1, byte(s.l3options - 4)}, make([]byte, s.l3options-4)...))
		}
		f.End += copy(f.Buf[f.End:], tail)
		binary.BigEndian.PutUint16(f.Bytes()[18:], uint16(f.Len()-54))
		start = 54 + s.l3options
	}
	f.Offload = port.Offload{
		Flags: port.NeedsCsum, GSOType: gso, GSOSize: uint16(s.size), HdrLen: 3, // a lie
		CsumStart: uint16(start), CsumOffset: uint16(field),
	}
	return f
}

func drawSuper(t *rapid.T) super {
	s := super{
		version: rapid.SampledFrom([]int{4, 6}).Draw(t, "version"),
		proto:   rapid.SampledFrom([]uint8{6, 17}).Draw(t, "protocol"),
		id:      rapid.Uint16().Draw(t, "id"),
		seq:     rapid.Uint32().Draw(t, "sequence"),
		flags:   header.TCPAck | rapid.SampledFrom([]uint8{0, header.TCPPsh, header.TCPFin, header.TCPFin | header.TCPPsh, header.TCPCwr, header.TCPCwr | header.TCPEce | header.TCPPsh}).Draw(t, "flags"),
	}
	s.l3options = 4 * rapid.IntRange(0, 10).Draw(t, "IP options")
	if s.version == 6 {
		s.l3options = 8 * rapid.IntRange(0, 3).Draw(t, "extension header")
	}
	limit := maxUDPSegments
	if s.proto == 6 {
		s.l4options = 4 * rapid.IntRange(0, 10).Draw(t, "TCP options")
		limit = 200
	}
	s.size = rapid.IntRange(1, 1400).Draw(t, "size")
	n := rapid.IntRange(s.size+1, min(limit*s.size+1, 65000)).Draw(t, "payload")
	s.payload = make([]byte, min(n, limit*s.size))
	seed := rapid.Byte().Draw(t, "seed")
	for i := range s.payload {
		s.payload[i] = seed + byte(i*31) + byte(i>>8)
	}
	return s
}

// parsed is the packet that classify makes of a frame.
func parsed(t testing.TB, f *port.Frame) *packet {
	t.Helper()
	p := &packet{frame: f, in: 1, len: uint32(f.Len())}
	if fault := header.Parse(f.Bytes(), &p.l); fault != header.FaultNone {
		t.Fatalf("header.Parse: %s", fault)
	}
	return p
}

// judgeSegment decodes a segment with gopacket, which knows nothing of our code,
// and compares it with what Linux would have sent for segment i of s
// (tcp_gso_segment, __udp_gso_segment). It returns the segment's payload.
func judgeSegment(t testing.TB, s super, f *port.Frame, i int, last bool, partial bool) []byte {
	t.Helper()
	pkt := gopacket.NewPacket(f.Bytes(), layers.LayerTypeEthernet, gopacket.Default)
	if e := pkt.ErrorLayer(); e != nil {
		t.Fatalf("segment %d: %v", i, e.Error())
	}
	l3 := f.Bytes()[14:]
	var l4 []byte
	if s.version == 4 {
		ip := pkt.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
		if naiveSum(l3[:ip.IHL*4]) != 0xffff {
			t.Errorf("segment %d: wrong IPv4 checksum", i)
		}
		if int(ip.Length) != len(l3) || ip.Id != s.id+uint16(i) || int(ip.IHL) != 5+s.l3options/4 {
			t.Errorf("segment %d: IPv4 length %d of %d, id %d, header %d", i, ip.Length, len(l3), ip.Id, ip.IHL)
		}
		l4 = ip.Payload
	} else {
		ip := pkt.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
		if int(ip.Length) != len(l3)-40 {
			t.Errorf("segment %d: IPv6 payload length %d of %d", i, ip.Length, len(l3)-40)
		}
		l4 = l3[40+s.l3options:]
	}
	return judgeTransport(t, s, pkt, f, l4, i, last, partial)
}

func judgeTransport(t testing.TB, s super, pkt gopacket.Packet, f *port.Frame, l4 []byte, i int, last, partial bool) []byte {
	t.Helper()
	pseudo := naivePseudo(roadAddr(s.version, 1), roadAddr(s.version, 2), s.proto, len(l4))
	field, payload := 6, []byte(nil)
	if s.proto == 6 {
		tcp := pkt.Layer(layers.LayerTypeTCP).(*layers.TCP)
		field, payload = 16, tcp.Payload
		fin, psh, cwr := s.flags&1 != 0 && last, s.flags&8 != 0 && last, s.flags&0x80 != 0 && i == 0
		if tcp.Seq != s.seq+uint32(i*s.size) || tcp.FIN != fin || tcp.PSH != psh || tcp.CWR != cwr || !tcp.ACK || tcp.ECE != (s.flags&0x40 != 0) {
			t.Errorf("segment %d: sequence %d, flags FIN %t PSH %t CWR %t ECE %t", i, tcp.Seq, tcp.FIN, tcp.PSH, tcp.CWR, tcp.ECE)
		}
	} else {
		udp := pkt.Layer(layers.LayerTypeUDP).(*layers.UDP)
		payload = udp.Payload
		if int(udp.Length) != len(l4) || udp.Checksum == 0 {
			t.Errorf("segment %d: UDP length %d of %d, checksum %#x", i, udp.Length, len(l4), udp.Checksum)
		}
	}
	got := binary.BigEndian.Uint16(l4[field:])
	if !partial {
		if naiveSum(append(pseudo, l4...)) != 0xffff || f.Offload != (port.Offload{}) {
			t.Errorf("segment %d: checksum %#x is wrong, offload %+v", i, got, f.Offload)
		}
		return payload
	}
	start := uint16(f.Len() - len(l4))
	want := port.Offload{Flags: port.NeedsCsum, CsumStart: start, CsumOffset: uint16(field), HdrLen: uint16(f.Len() - len(payload))}
	if got != naiveSum(pseudo) || f.Offload != want {
		t.Errorf("segment %d: partial checksum %#x, offload %+v, want %#x, %+v", i, got, f.Offload, naiveSum(pseudo), want)
	}
	return payload
}

// RFC 9293 §3.4: the segments of a superpacket carry its bytes once each, in sequence
// RFC 3168 §6.1.2: CWR is set on the first segment alone
// RFC 6864 §4.2: each IPv4 segment has an identification of its own
func TestCutSegment(t *testing.T) {
	scratch := port.NewFrame()
	rapid.Check(t, func(rt *rapid.T) {
		s := drawSuper(rt)
		partial := rapid.Bool().Draw(rt, "partial")
		p := parsed(t, s.frame())
		if !validOffload(p) || !p.superpacket() {
			rt.Fatalf("superpacket refused: %+v, %+v", p.frame.Offload, p.l)
		}
		var payload []byte
		longest, n := 0, (len(s.payload)+s.size-1)/s.size
		for i := range n {
			scratch.Reset()
			cutSegment(scratch, p, i, partial)
			longest = max(longest, scratch.Len()-14)
			payload = append(payload, judgeSegment(t, s, scratch, i, i == n-1, partial)...)
		}
		if !bytes.Equal(payload, s.payload) {
			rt.Fatal("the segments' payload is not the superpacket's")
		}
		if got := segmentLength(p); got != longest {
			rt.Fatalf("segmentLength = %d, the longest segment has %d", got, longest)
		}
		if t.Failed() {
			rt.FailNow()
		}
	})
}

// A superpacket passes whole where the port takes it, else in segments, in order
// and counted.
func TestSuperpacketToEachKindOfPort(t *testing.T) {
	all := port.FeatureCsum | port.FeatureTSO4 | port.FeatureTSO6 | port.FeatureUSO
	for _, features := range []port.Features{0, port.FeatureCsum, all} {
		for _, version := range []int{4, 6} {
			r := newRoad(t, roadConfig{features: [4]port.Features{2: features}})
			s := super{version: version, proto: 17, size: 1000, payload: make([]byte, 60_500), id: 7}
			for i := range s.payload {
				s.payload[i] = byte(i >> 3)
			}
			r.inject(1, s.frame(), s.frame())
			r.run()
			got := r.take(2)
			if features == all {
				if len(got) != 2 || got[0].Offload.GSOSize != 1000 || got[0].Offload.HdrLen != uint16(got[0].Len()-60_500) {
					t.Errorf("IPv%d: %d frames for a port that segments itself, offload %+v", version, len(got), got[0].Offload)
				}
				r.conserve()
				continue
			}
			if len(got) != 122 {
				t.Fatalf("IPv%d: %d segments, want 122", version, len(got))
			}
			var payload []byte
			for i, f := range got[:61] {
				payload = append(payload, judgeSegment(t, s, f, i, i == 60, features != 0)...)
			}
			if !bytes.Equal(payload, s.payload) {
				t.Errorf("IPv%d: the payload changed on the way", version)
			}
			if n := r.generated(1); n != 120 {
				t.Errorf("IPv%d: %d frames generated, want 120", version, n)
			}
			r.conserve()
		}
	}
}

// RFC 791 §3.2: segments beyond the MTU of the port are fragmented where the sender allows it
func TestSegmentsBeyondMTU(t *testing.T) {
	for _, features := range []port.Features{0, port.FeatureCsum | port.FeatureUSO} {
		r := newRoad(t, roadConfig{features: [4]port.Features{2: features}, mtu: [4]int32{2: 1280}})
		s := super{version: 4, proto: 17, size: 1400, payload: make([]byte, 10_000), id: 7}
		r.inject(1, s.frame())
		r.run()
		model, datagrams := newNaive(), 0
		for _, f := range r.take(2) {
			if f.Len()-14 > 1280 || f.Offload != (port.Offload{}) {
				t.Errorf("a frame of %d bytes with offload %+v", f.Len(), f.Offload)
			}
			if id, whole := model.add(t, f); whole != nil {
				if naiveSum(append(naivePseudo(roadAddr(4, 1), roadAddr(4, 2), 17, len(whole)), whole...)) != 0xffff {
					t.Errorf("datagram %d: wrong UDP checksum", id)
				}
				datagrams++
			}
		}
		if datagrams != 8 {
			t.Errorf("%d datagrams arrived, want 8", datagrams)
		}
		r.conserve()
	}
}

// RFC 1191 §4, RFC 8201 §4: a superpacket whose segments are too long, and that may not be fragmented, is told the MTU
func TestSuperpacketTooBig(t *testing.T) {
	for _, version := range []int{4, 6} {
		r := newRoad(t, roadConfig{mtu: [4]int32{2: 1280}})
		s := super{version: version, proto: 17, size: 1400, payload: make([]byte, 10_000), dontFrag: true}
		r.inject(1, s.frame())
		r.run()
		if n := len(r.take(2)); n != 0 {
			t.Errorf("IPv%d: %d frames passed", version, n)
		}
		if n := len(r.take(1)); n != 1 {
			t.Errorf("IPv%d: %d errors went back, want 1", version, n)
		}
		r.conserve()
	}
}

// A worker without a spare frame drops what it cannot make, and counts it.
func TestSegmentWithoutBuffers(t *testing.T) {
	r := newRoad(t, roadConfig{})
	kept := r.w.spare
	r.w.spare = append([]*port.Frame{}, kept[:5]...)
	s := super{version: 4, proto: 17, size: 1000, payload: make([]byte, 60_000)}
	r.dev[2].Fail() // frames come back only when they are written
	r.inject(1, s.frame())
	r.run()
	r.w.spare = append([]*port.Frame{}, kept...)
	r.take(2)
	if n := r.generated(1); n != 59 {
		t.Errorf("%d generated, want 59", n)
	}
	r.conserve()

	r = newRoad(t, roadConfig{})
	kept = r.w.spare
	r.w.spare = nil
	r.inject(1, s.frame(), cutDatagram(part{version: 4, src: 1, dst: 2, proto: 17, data: udpDatagram(4, 1, 2, 3000)}, 4000)[0].frame())
	r.run()
	r.w.spare = kept
	if n := r.drops(1, DropNoBuffer); n != 61 {
		t.Errorf("%d dropped for want of a buffer, want 61", n)
	}
	r.conserve()
}

// Segmentation allocates nothing.
func TestSegmentAllocations(t *testing.T) {
	r := newRoad(t, roadConfig{mtu: [4]int32{2: 1280}})
	frames := []*port.Frame{
		super{version: 6, proto: 17, size: 1000, payload: make([]byte, 50_000)}.frame(),
		super{version: 4, proto: 17, size: 1400, payload: make([]byte, 50_000)}.frame(),
	}
	once := func() {
		r.inject(1, frames...)
		r.f.Step()
		for r.dev[2].Drain(0, r.drain) != 0 {
		}
	}
	for range 4096 { // every buffer of the output ring has held the longest frame
		once()
	}
	if n := testing.AllocsPerRun(100, once); n != 0 {
		t.Errorf("%v allocations for two superpackets", n)
	}
}

// FuzzSegment gives the forwarder a frame with any offload metadata. Nothing
// panics, nothing is lost uncounted, and what comes out of a port without
// offloads is plain, within the MTU and well formed.
func FuzzSegment(f *testing.F) {
	for _, s := range []super{
		{version: 4, proto: 6, size: 1448, payload: make([]byte, 5000), flags: 0x18},
		{version: 6, proto: 17, size: 700, payload: make([]byte, 3000), l3options: 8},
		{version: 4, proto: 17, size: 1400, payload: make([]byte, 3000)},
	} {
		frame := s.frame()
		o := frame.Offload
		f.Add(frame.Bytes(), o.Flags, o.GSOType, o.HdrLen, o.GSOSize, o.CsumStart, o.CsumOffset)
	}
	r := newRoad(f, roadConfig{mtu: [4]int32{2: 1280}})
	f.Fuzz(func(t *testing.T, data []byte, flags, kind uint8, hdrLen, size, start, offset uint16) {
		r.t = t
		frame := port.NewFrame()
		frame.End += copy(frame.Buf[frame.Start:], data)
		frame.Offload = port.Offload{Flags: flags, GSOType: kind, HdrLen: hdrLen, GSOSize: size, CsumStart: start, CsumOffset: offset}
		r.inject(1, frame)
		r.run()
		for _, g := range append(r.take(1), append(r.take(2), r.take(3)...)...) {
			var l header.Layout
			if fault := header.Parse(g.Bytes(), &l); fault != header.FaultNone || g.Offload.GSOType != 0 || g.Offload.Flags&port.NeedsCsum != 0 {
				t.Errorf("sent a frame with fault %s, offload %+v", fault, g.Offload)
			}
		}
		if r.f.Panics() != 0 {
			t.Fatal("a worker panicked")
		}
		r.conserve()
		r.forget()
	})
}
