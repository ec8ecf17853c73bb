package forwarder

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/memory"
	"github.com/vrouter-go/vrouter/nexthop"
)

// road is a real forwarder with one worker and three in-memory ports in one
// network: port i is host 10.0.0.i and fd00::i. The clock is the test's.
type road struct {
	t     testing.TB
	f     *Forwarder
	w     *Worker
	dev   [4]*memory.Device
	nanos int64
	sent  [4]uint64
	got   [4]uint64
	drain []*port.Frame
	own   [4]uint64 // frames the router sent of itself when the port was plugged in
}

// roadConfig is what differs from test to test.
type roadConfig struct {
	features [4]port.Features
	mtu      [4]int32 // 0 = 1500
}

func newRoad(t testing.TB, c roadConfig) *road {
	t.Helper()
	r := &road{t: t}
	f, err := New(Config{Workers: 1, Sessions: 4096, AffinityEntries: 64, Clock: func() int64 { return r.nanos }})
	if err != nil {
		t.Fatal(err)
	}
	r.f, r.w = f, f.workers[0]
	t.Cleanup(func() {
		for i := uint16(1); i <= 3; i++ {
			if dev := f.Detach(i); dev != nil {
				_ = dev.Close()
			}
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	hops := make([]nexthop.NextHop, 4)
	snap := &Snapshot{Interfaces: make([]Interface, 4)}
	fib := (*nexthop.FIB)(nil)
	for i := uint16(1); i <= 3; i++ {
		mtu := c.mtu[i]
		if mtu == 0 {
			mtu = 1500
		}
		snap.Interfaces[i] = Interface{Kind: Workload, Network: 1, MTU: mtu, MAC: roadMAC(i)}
		hops[i] = nexthop.NextHop{Kind: nexthop.Interface, Port: i}
		for _, v := range []int{4, 6} {
			a := roadAddr(v, i)
			fib = fib.With(netip.PrefixFrom(a, a.BitLen()), nexthop.Route{NextHop: InterfaceNextHop(i), Network: 1})
		}
	}
	snap.VRFs = []VRF{{Name: "road", FIB: fib}}
	if snap.NextHops, err = nexthop.NewTable(hops); err != nil {
		t.Fatal(err)
	}
	f.Publish(snap)
	for i := uint16(1); i <= 3; i++ {
		r.dev[i], err = memory.New(memory.Config{Name: "road", Depth: 2048, Features: c.features[i]})
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Attach(i, r.dev[i]); err != nil {
			t.Fatal(err)
		}
	}
	for range port.BatchSize {
		r.drain = append(r.drain, port.NewFrame())
	}
	r.run()
	for i := 1; i <= 3; i++ {
		r.take(i) // what the router announced of itself
		r.own[i] = r.f.PortCounters(uint16(i)).Generated
	}
	return r
}

func roadMAC(i uint16) [6]byte { return [6]byte{2, 0, 0, 0, 0, byte(i)} }

func roadAddr(version int, i uint16) netip.Addr {
	if version == 4 {
		return netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
	}
	return netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(i)})
}

// inject gives frames to port in, without letting the worker run.
func (r *road) inject(in int, frames ...*port.Frame) {
	r.t.Helper()
	if n := r.dev[in].Inject(0, frames...); n != len(frames) {
		r.t.Fatalf("port %d took %d of %d frames", in, n, len(frames))
	}
	r.sent[in] += uint64(len(frames))
}

// run lets the worker work until nothing moves.
func (r *road) run() {
	for r.f.Step() {
	}
}

// take returns what port out sent, each frame in a buffer of its own size.
func (r *road) take(out int) []*port.Frame {
	var all []*port.Frame
	for n := r.dev[out].Drain(0, r.drain); n != 0; n = r.dev[out].Drain(0, r.drain) {
		for _, f := range r.drain[:n] {
			c := *f
			c.Buf = bytes.Clone(f.Bytes())
			c.Start, c.End = 0, len(c.Buf)
			all = append(all, &c)
		}
	}
	r.got[out] += uint64(len(all))
	return all
}

// pass moves the clock on.
func (r *road) pass(ticks int) { r.nanos += int64(ticks) * TickNanos }

// conserve checks that no packet appeared or vanished: what the ports were given
// and what the router made is what was sent, merged into what was sent, dropped with a reason, or is held.
func (r *road) conserve() {
	r.t.Helper()
	var sum PortCounters
	var injected uint64
	for i := uint16(1); i <= 3; i++ {
		c := r.f.PortCounters(i)
		if c.RxPackets != r.sent[i] {
			r.t.Errorf("port %d: rx %d, was given %d", i, c.RxPackets, r.sent[i])
		}
		injected += r.sent[i]
		if c.TxPackets != r.got[i] {
			r.t.Errorf("port %d: tx %d, sent %d", i, c.TxPackets, r.got[i])
		}
		sum.TxPackets += c.TxPackets
		sum.Generated += c.Generated
		sum.Coalesced += c.Coalesced
		sum.Held += c.Held
		for reason, n := range c.Drops {
			sum.Drops[reason] += n
		}
	}
	var drops uint64
	for _, n := range sum.Drops {
		drops += n
	}
	if sum.Drops[DropUnknown] != 0 {
		r.t.Errorf("%d drops of unknown reason", sum.Drops[DropUnknown])
	}
	if injected+sum.Generated != sum.TxPackets+sum.Coalesced+drops+sum.Held {
		r.t.Errorf("conservation: rx %d + generated %d != tx %d + coalesced %d + drops %d + held %d",
			injected, sum.Generated, sum.TxPackets, sum.Coalesced, drops, sum.Held)
	}
	var held uint64
	for i := range r.w.fragments.datagrams {
		held += uint64(r.w.fragments.datagrams[i].held)
	}
	if held != sum.Held {
		r.t.Errorf("held counters say %d, the table holds %d", sum.Held, held)
	}
	if n := len(r.w.spare) + len(r.w.lent); n != spareFrames {
		r.t.Errorf("%d spare frames of %d are left", n, spareFrames)
	}
}

// generated returns how many frames the router made because of a port's packets.
func (r *road) generated(in uint16) uint64 { return r.f.PortCounters(in).Generated - r.own[in] }

// drops returns a port's count of one reason.
func (r *road) drops(in uint16, reason DropReason) uint64 { return r.f.PortCounters(in).Drops[reason] }

// part is one fragment as a test writes it. Its bytes are made by hand, from the
// RFCs, so that no code under test is its own witness.
type part struct {
	version  int
	src, dst uint16 // ports of the road
	proto    uint8
	id       uint32
	offset   int // bytes
	more     bool
	options  []byte // IPv4
	before   []byte // IPv6: extension headers before the fragment header, the first a hop-by-hop one
	data     []byte
	dontFrag bool
}

func (q part) frame() *port.Frame {
	f := port.NewFrame()
	dst, src := RouterMAC, roadMAC(q.src)
	b := append(append(append([]byte{}, dst[:]...), src[:]...), 0x08, 0x00)
	a, z := roadAddr(q.version, q.src), roadAddr(q.version, q.dst)
	if q.version == 4 {
		flags := uint16(q.offset / 8)
		if q.more {
			flags |= 0x2000
		}
		if q.dontFrag {
			flags |= 0x4000
		}
		ip := make([]byte, 20, 60)
		ip[0] = byte(0x40 | (20+len(q.options))/4)
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(q.options)+len(q.data)))
		binary.BigEndian.PutUint16(ip[4:], uint16(q.id))
		binary.BigEndian.PutUint16(ip[6:], flags)
		ip[8], ip[9] = 64, q.proto
		copy(ip[12:], a.AsSlice())
		copy(ip[16:], z.AsSlice())
		ip = append(ip, q.options...)
		binary.BigEndian.PutUint16(ip[10:], ^naiveSum(ip))
		b = append(b, ip...)
	} else {
		b[12], b[13] = 0x86, 0xdd
		ip := make([]byte, 40)
		ip[0] = 0x60
		binary.BigEndian.PutUint16(ip[4:], uint16(len(q.before)+8+len(q.data)))
		ip[6], ip[7] = 44, 64
		if len(q.before) != 0 {
			ip[6] = 0
		}
		copy(ip[8:], a.AsSlice())
		copy(ip[24:], z.AsSlice())
		frag := make([]byte, 8)
		frag[0] = q.proto
		word := uint16(q.offset)
		if q.more {
			word |= 1
		}
		binary.BigEndian.PutUint16(frag[2:], word)
		binary.BigEndian.PutUint32(frag[4:], q.id)
		b = append(append(append(b, ip...), q.before...), frag...)
	}
	b = append(b, q.data...)
	f.End += copy(f.Buf[f.End:], b)
	return f
}

// naiveSum is RFC 1071 word by word.
func naiveSum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		word := uint32(b[i]) << 8
		if i+1 < len(b) {
			word |= uint32(b[i+1])
		}
		sum += word
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// naivePseudo is the pseudo-header of a message of n bytes (RFC 9293, RFC 8200 §8.1).
func naivePseudo(a, z netip.Addr, proto uint8, n int) []byte {
	b := append(a.AsSlice(), z.AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	return binary.BigEndian.AppendUint32(b, uint32(proto))
}

// udpDatagram is a UDP datagram with n bytes of data, checksum included.
func udpDatagram(version int, src, dst uint16, n int) []byte {
	b := make([]byte, 8+n)
	binary.BigEndian.PutUint16(b, 1000+src)
	binary.BigEndian.PutUint16(b[2:], 2000+dst)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	for i := range n {
		b[8+i] = byte(i*7 + i>>8)
	}
	sum := ^naiveSum(append(naivePseudo(roadAddr(version, src), roadAddr(version, dst), 17, len(b)), b...))
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[6:], sum)
	return b
}

// cutDatagram cuts a datagram into parts of at most size bytes.
func cutDatagram(whole part, size int) []part {
	var parts []part
	for at := 0; at < len(whole.data); at += size {
		q := whole
		q.offset = at
		q.data = whole.data[at:min(at+size, len(whole.data))]
		q.more = at+size < len(whole.data)
		parts = append(parts, q)
	}
	return parts
}

// naive puts datagrams together as RFC 791 §3.2 describes, from frames on a wire.
type naive struct {
	data map[uint32][]byte
	have map[uint32][]bool
	end  map[uint32]int
}

func newNaive() *naive {
	return &naive{map[uint32][]byte{}, map[uint32][]bool{}, map[uint32]int{}}
}

// add takes a frame and returns the datagram that it completes, if it does.
func (n *naive) add(t testing.TB, f *port.Frame) (id uint32, whole []byte) {
	t.Helper()
	b := f.Bytes()
	var offset, start, end int
	var more bool
	if b[12] == 0x08 {
		start = 14 + int(b[14]&15)*4
		end = 14 + int(binary.BigEndian.Uint16(b[16:]))
		if naiveSum(b[14:start]) != 0xffff {
			t.Errorf("wrong IPv4 header checksum in % x", b[14:start])
		}
		id = uint32(binary.BigEndian.Uint16(b[18:]))
		word := binary.BigEndian.Uint16(b[20:])
		offset, more = int(word&0x1fff)*8, word&0x2000 != 0
	} else {
		at := 54
		for next := b[20]; next != 44; at += 8 + int(b[at+1])*8 {
			next = b[at]
		}
		end = 54 + int(binary.BigEndian.Uint16(b[18:]))
		start = at + 8
		id = binary.BigEndian.Uint32(b[at+4:])
		word := binary.BigEndian.Uint16(b[at+2:])
		offset, more = int(word&^7), word&1 != 0
	}
	if n.data[id] == nil {
		n.data[id], n.have[id], n.end[id] = make([]byte, 65536), make([]bool, 65536), -1
	}
	copy(n.data[id][offset:], b[start:end])
	for i := offset; i < offset+end-start; i++ {
		n.have[id][i] = true
	}
	if !more {
		n.end[id] = offset + end - start
	}
	if n.end[id] < 0 || bytes.IndexByte(boolBytes(n.have[id][:n.end[id]]), 0) >= 0 {
		return id, nil
	}
	whole = n.data[id][:n.end[id]]
	delete(n.data, id)
	return id, whole
}

func boolBytes(v []bool) []byte {
	b := make([]byte, len(v))
	for i := range v {
		if v[i] {
			b[i] = 1
		}
	}
	return b
}
