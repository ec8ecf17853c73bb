package forwarder

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/vrouter-go/vrouter/internal/port"
	"pgregory.net/rapid"
)

// permutations calls yield with every order of 0..n-1.
func permutations(n int, yield func([]int)) {
	var walk func(order []int)
	walk = func(order []int) {
		if len(order) == n {
			yield(order)
			return
		}
		for i := range n {
			if !slices.Contains(order, i) {
				walk(append(order, i))
			}
		}
	}
	walk(make([]int, 0, n))
}

// wantOrder is the order in which fragments leave that arrived in order: the
// first one leads those that waited for it.
func wantOrder(arrived []int) []int {
	head := slices.Index(arrived, 0)
	return append(append([]int{0}, arrived[:head]...), arrived[head+1:]...)
}

// RFC 4787 REQ-14: fragments are forwarded whatever the order they come in
func TestFragmentsInEveryOrder(t *testing.T) {
	r := newRoad(t, roadConfig{})
	id := uint32(100)
	for _, version := range []int{4, 6} {
		for n := 2; n <= 4; n++ {
			permutations(n, func(order []int) {
				for _, together := range []bool{true, false} { // in one batch, or one by one
					id++
					whole := part{version: version, src: 1, dst: 2, proto: 17, id: id, data: udpDatagram(version, 1, 2, 64*n-10)}
					inOrder(t, r, cutDatagram(whole, 64), order, together)
				}
			})
		}
	}
	r.conserve()
	if r.w.fragments.busy() {
		t.Error("complete datagrams are still followed")
	}
}

// inOrder sends parts in an order and checks what comes out of port 2.
func inOrder(t *testing.T, r *road, parts []part, order []int, together bool) {
	t.Helper()
	for _, i := range order {
		r.inject(1, parts[i].frame())
		if !together {
			r.run()
		}
	}
	r.run()
	got := r.take(2)
	if len(got) != len(parts) {
		t.Fatalf("IPv%d, order %v: %d of %d fragments came out", parts[0].version, order, len(got), len(parts))
	}
	ports := newNaive()
	for k, i := range wantOrder(order) {
		if !bytes.HasSuffix(got[k].Bytes(), parts[i].data) {
			t.Errorf("IPv%d, order %v: fragment %d did not leave at place %d", parts[0].version, order, i, k)
		}
		_, whole := ports.add(t, got[k])
		if k == len(parts)-1 {
			var want []byte
			for _, q := range parts {
				want = append(want, q.data...)
			}
			if !bytes.Equal(whole, want) {
				t.Errorf("IPv%d, order %v: the datagram is not what was sent", parts[0].version, order)
			}
		}
	}
}

// RFC 4787 REQ-14: any order of any number of datagrams, against a naive reassembler
func TestFragmentsAgainstModel(t *testing.T) {
	r := newRoad(t, roadConfig{})
	id := uint32(1)
	rapid.Check(t, func(rt *rapid.T) {
		var parts []part
		sent := map[uint32][]byte{}
		for range rapid.IntRange(1, 5).Draw(rt, "datagrams") {
			id++
			version := rapid.SampledFrom([]int{4, 6}).Draw(rt, "version")
			whole := part{
				version: version, src: 1, dst: 2, proto: 17, id: id,
				data: udpDatagram(version, 1, 2, rapid.IntRange(100, 5000).Draw(rt, "length")),
			}
			sent[id] = whole.data
			parts = append(parts, cutDatagram(whole, 8*rapid.IntRange(12, 180).Draw(rt, "size"))...)
		}
		parts = rapid.Permutation(parts).Draw(rt, "order")
		batch := rapid.IntRange(1, len(parts)).Draw(rt, "batch")
		for len(parts) > 0 {
			n := min(batch, len(parts))
			for _, q := range parts[:n] {
				r.inject(1, q.frame())
			}
			parts = parts[n:]
			r.run()
		}
		model := newNaive()
		for _, f := range r.take(2) {
			if id, whole := model.add(t, f); whole != nil {
				if !bytes.Equal(whole, sent[id]) {
					rt.Fatalf("datagram %d is not what was sent", id)
				}
				delete(sent, id)
			}
		}
		if len(sent) != 0 {
			rt.Fatalf("%d datagrams did not arrive", len(sent))
		}
		r.conserve()
	})
}

// overlap is a set of fragments of which the last one is one too many.
type overlap struct {
	name   string
	parts  []extent // in order of arrival; length 8*n
	last   []bool
	reason DropReason
}

var overlaps = []overlap{
	{"tail over head", []extent{{0, 64}, {56, 64}}, []bool{false, false}, DropFragmentOverlap},
	{"inside", []extent{{0, 128}, {32, 32}}, []bool{false, false}, DropFragmentOverlap},
	{"around", []extent{{32, 32}, {0, 128}}, []bool{false, false}, DropFragmentOverlap},
	{"same start, longer", []extent{{0, 64}, {0, 72}}, []bool{false, false}, DropFragmentOverlap},
	{"same start, shorter", []extent{{0, 64}, {0, 56}}, []bool{false, false}, DropFragmentOverlap},
	{"head over what waits", []extent{{56, 64}, {0, 64}}, []bool{false, false}, DropFragmentOverlap},
	{"two ends", []extent{{64, 64}, {128, 64}}, []bool{true, true}, DropFragmentOverlap},
	{"end before data", []extent{{128, 64}, {64, 64}}, []bool{false, true}, DropFragmentOverlap},
	{"data behind the end", []extent{{64, 64}, {128, 64}}, []bool{true, false}, DropFragmentOverlap},
	{"the end again, not as end", []extent{{64, 64}, {64, 64}}, []bool{true, false}, DropFragmentOverlap},
	{"a middle again, as end", []extent{{64, 64}, {64, 64}}, []bool{false, true}, DropFragmentOverlap},
}

// RFC 5722 §4: all fragments of a datagram with an overlap are discarded, later ones included
// RFC 1858 §4: an overlapping fragment does not rewrite the header that was judged
func TestOverlappingFragments(t *testing.T) {
	for _, version := range []int{4, 6} {
		for _, o := range overlaps {
			t.Run(fmt.Sprintf("IPv%d/%s", version, o.name), func(t *testing.T) {
				r := newRoad(t, roadConfig{})
				whole := part{version: version, src: 1, dst: 2, proto: 17, id: 9, data: udpDatagram(version, 1, 2, 400)}
				opened, bad := 0, 0
				for i, e := range o.parts {
					q := whole
					q.offset, q.more = int(e.start), !o.last[i]
					q.data = whole.data[e.start : e.start+e.length]
					r.inject(1, q.frame())
					r.run()
					if e.start == 0 && i == 0 {
						opened++ // the head was on its way before the overlap showed
					} else {
						bad++
					}
				}
				if n := r.drops(1, o.reason); n != uint64(bad) {
					t.Errorf("%s counted %d times with the overlap, want %d", o.reason, n, bad)
				}
				for _, q := range cutDatagram(whole, 200) { // and all that follows
					r.inject(1, q.frame())
					r.run()
					bad++
				}
				if n := len(r.take(2)); n != opened {
					t.Errorf("%d fragments came out, want %d", n, opened)
				}
				if n := r.drops(1, o.reason); n != uint64(bad) {
					t.Errorf("%s counted %d times, want %d", o.reason, n, bad)
				}
				r.conserve()
			})
		}
	}
}

// RFC 8200 §4.5: an exact duplicate of a fragment is dropped alone
func TestDuplicateFragments(t *testing.T) {
	for _, version := range []int{4, 6} {
		r := newRoad(t, roadConfig{})
		parts := cutDatagram(part{version: version, src: 1, dst: 2, proto: 17, id: 9, data: udpDatagram(version, 1, 2, 400)}, 136)
		for _, i := range []int{2, 2, 0, 2, 0, 1} {
			r.inject(1, parts[i].frame())
			r.run()
		}
		model, got := newNaive(), r.take(2)
		for i, f := range got {
			if _, whole := model.add(t, f); (whole != nil) != (i == 2) {
				t.Errorf("IPv%d: the datagram was not complete with its last fragment", version)
			}
		}
		if len(got) != 3 || r.drops(1, DropFragmentDuplicate) != 3 {
			t.Errorf("IPv%d: %d fragments out, %d duplicates dropped; want 3 and 3", version, len(got), r.drops(1, DropFragmentDuplicate))
		}
		r.conserve()
	}
}

// RFC 6946 §4: an atomic fragment is a packet of its own, whatever fragments share its key
func TestAtomicFragment(t *testing.T) {
	r := newRoad(t, roadConfig{})
	whole := part{version: 6, src: 1, dst: 2, proto: 17, id: 9, data: udpDatagram(6, 1, 2, 200)}
	r.inject(1, cutDatagram(whole, 64)[1].frame(), whole.frame())
	r.run()
	if got := r.take(2); len(got) != 1 {
		t.Errorf("%d packets came out, want the atomic fragment alone", len(got))
	}
	if c := r.f.PortCounters(1); c.Held != 1 {
		t.Errorf("held %d, want 1", c.Held)
	}
	r.conserve()
}

// RFC 8200 §4.5: fragments may name another next header than the first one, whose alone counts
func TestFragmentsWithOtherNextHeader(t *testing.T) {
	r := newRoad(t, roadConfig{})
	options := []byte{17, 0, 1, 4, 0, 0, 0, 0} // destination options, PadN, then UDP
	whole := part{version: 6, src: 1, dst: 2, proto: 60, id: 9, before: []byte{44, 0, 1, 4, 0, 0, 0, 0}}
	whole.data = append(options, udpDatagram(6, 1, 2, 300)...)
	parts := cutDatagram(whole, 96)
	parts[2].proto = 17
	for _, i := range []int{2, 0, 1, 3} {
		r.inject(1, parts[i].frame())
		r.run()
	}
	if got := r.take(2); len(got) != 4 {
		t.Errorf("%d of 4 fragments came out", len(got))
	}
	if n := r.f.Charged(1); n != 1 {
		t.Errorf("%d sessions, want 1 for the whole datagram", n)
	}
	if r.w.fragments.busy() {
		t.Error("the complete datagram is still followed")
	}
	r.conserve()
}

// RFC 791 §3.2: fragments belong together by source, destination, protocol and identification
func TestFragmentsOfOthers(t *testing.T) {
	head := part{version: 4, src: 1, dst: 2, proto: 17, id: 9, more: true, data: udpDatagram(4, 1, 2, 400)[:136]}
	rest := part{version: 4, src: 1, dst: 2, proto: 17, id: 9, offset: 136, data: make([]byte, 272)}
	for name, change := range map[string]func(*part){
		"identification": func(q *part) { q.id++ },
		"protocol":       func(q *part) { q.proto = 6 },
		"destination":    func(q *part) { q.dst = 3 },
	} {
		r := newRoad(t, roadConfig{})
		other := rest
		change(&other)
		r.inject(1, other.frame(), head.frame())
		r.run()
		if got := r.take(2); len(got) != 1 {
			t.Errorf("another %s: %d fragments came out, want the first one alone", name, len(got))
		}
		r.conserve()
	}
	r := newRoad(t, roadConfig{})
	r.inject(3, rest.frame()) // the same datagram, of another port
	r.inject(1, head.frame())
	r.run()
	if got := r.take(2); len(got) != 1 {
		t.Errorf("another port: %d fragments came out, want the first one alone", len(got))
	}
	r.conserve()
}

// RFC 4443 §2.4: ICMP that is no echo is not forwarded in fragments
// RFC 5508 REQ-3: an error whose checksum cannot be verified is dropped, all of it
func TestFragmentedICMP(t *testing.T) {
	for _, c := range []struct {
		version int
		proto   uint8
		first   []byte
		reason  DropReason
	}{
		{4, 1, []byte{8, 0, 0, 0, 0, 7, 0, 1}, DropUnknown},
		{4, 1, []byte{3, 3, 0, 0, 0, 0, 0, 0}, DropICMPErrorFormat},
		{4, 1, []byte{13, 0, 0, 0, 0, 7, 0, 1}, DropICMPType},
		{6, 58, []byte{128, 0, 0, 0, 0, 7, 0, 1}, DropUnknown},
		{6, 58, []byte{1, 4, 0, 0, 0, 0, 0, 0}, DropICMPErrorFormat},
		{6, 58, []byte{200, 0, 0, 0, 0, 7, 0, 1}, DropICMPType},
	} {
		r := newRoad(t, roadConfig{})
		parts := cutDatagram(part{version: c.version, src: 1, dst: 2, proto: c.proto, id: 9, data: append(c.first, make([]byte, 200)...)}, 80)
		for _, i := range []int{1, 0, 2} {
			r.inject(1, parts[i].frame())
		}
		r.run()
		want := 3
		if c.reason != DropUnknown {
			want = 0
			if n := r.drops(1, c.reason); n != 3 {
				t.Errorf("IPv%d ICMP type %d: %s counted %d times, want 3", c.version, c.first[0], c.reason, n)
			}
		}
		if n := len(r.take(2)); n != want {
			t.Errorf("IPv%d ICMP type %d: %d fragments out, want %d", c.version, c.first[0], n, want)
		}
		r.conserve()
	}
}

// RFC 6146 §4: fragments wait at least FRAGMENT_MIN, 2 s, for the first one
func TestFragmentsWaitForTheirHead(t *testing.T) {
	r := newRoad(t, roadConfig{})
	parts := cutDatagram(part{version: 4, src: 1, dst: 2, proto: 17, id: 9, data: udpDatagram(4, 1, 2, 400)}, 136)
	r.inject(1, parts[1].frame())
	r.run()
	r.pass(20)
	r.run()
	if c := r.f.PortCounters(1); c.Held != 1 {
		t.Fatalf("after 2 s: held %d, want 1", c.Held)
	}
	r.pass(holdTicks - 20)
	r.run()
	if c := r.f.PortCounters(1); c.Held != 0 || c.Drops[DropFragmentTimeout] != 1 {
		t.Errorf("after %d ticks: held %d, timed out %d; want 0 and 1", holdTicks, c.Held, c.Drops[DropFragmentTimeout])
	}
	r.conserve()
}

// A worker that always finds packets, and so never sleeps, expires fragments too.
func TestFragmentsExpireUnderLoad(t *testing.T) {
	r := newRoad(t, roadConfig{})
	parts := cutDatagram(part{version: 4, src: 1, dst: 2, proto: 17, id: 9, data: udpDatagram(4, 1, 2, 400)}, 136)
	r.inject(1, parts[1].frame())
	r.run()
	r.pass(holdTicks)
	r.inject(1, part{version: 4, src: 1, dst: 2, proto: 17, data: udpDatagram(4, 1, 2, 64)}.frame())
	r.w.reader.Online()
	for token := range r.w.queues {
		r.w.serveQueue(token)
	}
	r.w.reader.Offline()
	if n := r.drops(1, DropFragmentTimeout); n != 1 {
		t.Errorf("%d fragments timed out, want 1", n)
	}
	r.take(2)
	r.conserve()
}

// RFC 791 §3.2: the ports of a first fragment serve those that follow for 15 s
func TestHeadIsRemembered(t *testing.T) {
	r := newRoad(t, roadConfig{})
	parts := cutDatagram(part{version: 4, src: 1, dst: 2, proto: 17, id: 9, data: udpDatagram(4, 1, 2, 400)}, 136)
	r.inject(1, parts[0].frame())
	r.run()
	r.pass(openTicks - 1)
	r.inject(1, parts[1].frame())
	r.run()
	if n := len(r.take(2)); n != 2 {
		t.Fatalf("%d fragments out before the time is over, want 2", n)
	}
	r.pass(1)
	r.run()
	if r.w.fragments.busy() {
		t.Error("the datagram is followed beyond its time")
	}
	r.inject(1, parts[2].frame())
	r.run()
	if c := r.f.PortCounters(1); c.Held != 1 {
		t.Errorf("held %d, want 1: nobody knows the ports any more", c.Held)
	}
	if c := r.f.PortCounters(1); c.Drops[DropFragmentTimeout] != 0 {
		t.Error("a datagram in which nothing waits timed out as if a packet were lost")
	}
	r.take(2)
	r.conserve()
}

// RFC 792: who does not reassemble sends no "reassembly time exceeded"
func TestNoReassemblyTimeExceeded(t *testing.T) {
	r := newRoad(t, roadConfig{})
	parts := cutDatagram(part{version: 4, src: 1, dst: 2, proto: 17, id: 9, data: udpDatagram(4, 1, 2, 400)}, 136)
	r.inject(1, parts[1].frame())
	r.run()
	r.pass(1000)
	r.run()
	if n := len(r.take(1)); n != 0 {
		t.Errorf("%d packets went back to the sender", n)
	}
	r.conserve()
}

// RFC 4787 REQ-14: fragments out of order must not let an attacker exhaust memory (RFC 8900 §3.6)
func TestFragmentFlood(t *testing.T) {
	for _, c := range []struct {
		name   string
		offset int
		size   int
	}{
		{"first fragments only", 0, 64},
		{"no first fragments", 1480, 64},
		{"no first fragments, long ones", 8, 9000},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRoad(t, roadConfig{mtu: [4]int32{0, 9100, 9100, 9100}})
			for id := range uint32(10_000) {
				q := part{version: 6, src: 1, dst: 2, proto: 17, id: id, offset: c.offset, more: true, data: udpDatagram(6, 1, 2, c.size-8)}
				r.inject(1, q.frame())
				if id%512 == 511 {
					r.run()
					r.take(2)
				}
			}
			r.run()
			r.take(2)
			ft := &r.w.fragments
			if n := ft.shares[1]; n.datagrams > datagramShare || n.chunks > chunkShare {
				t.Errorf("port 1 has %d datagrams and %d chunks, its share is %d and %d", n.datagrams, n.chunks, datagramShare, chunkShare)
			}
			parts := cutDatagram(part{version: 4, src: 3, dst: 2, proto: 17, id: 1, data: udpDatagram(4, 3, 2, 4000)}, 1400)
			for _, i := range []int{2, 1, 0} { // another port is not concerned
				r.inject(3, parts[i].frame())
				r.run()
			}
			if n := len(r.take(2)); n != 3 {
				t.Errorf("%d of 3 fragments of another port came out", n)
			}
			r.conserve()
			r.pass(openTicks)
			r.run()
			if ft.busy() || ft.freeChunks != maxChunks {
				t.Errorf("after the flood %d datagrams and %d chunks are still in use", ft.live, maxChunks-ft.freeChunks)
			}
			r.conserve()
		})
	}
}

// RFC 8900 §3.6: all tunnels come in by one port, and the network behind one of
// them that floods takes nothing from the others, which share that port.
func TestFragmentFloodOfOneNetwork(t *testing.T) {
	w := &Worker{fragments: newFragmentTable()}
	const uplink, flooder, other = 2, 1, 2
	w.counters[uplink].Store(new(portCounters))
	keep := fragmentKey{in: uplink, vrf: other, tunnel: true, id: 1}
	if w.newDatagram(&keep) == 0 {
		t.Fatal("no datagram in an empty table")
	}
	for id := range uint32(4 * maxDatagrams) {
		if w.newDatagram(&fragmentKey{in: uplink, vrf: flooder, tunnel: true, id: id}) == 0 {
			t.Fatalf("no datagram %d", id)
		}
	}
	ft := &w.fragments
	if ft.find(&keep) == 0 {
		t.Error("the flood of one network has driven out another's datagram")
	}
	if n := ft.shares[(&fragmentKey{vrf: flooder, tunnel: true}).share()].datagrams; n != datagramShare {
		t.Errorf("the network that floods has %d datagrams, its share is %d", n, datagramShare)
	}
	if n := ft.shares[uplink].datagrams; n != 0 {
		t.Errorf("the uplink itself has %d datagrams", n)
	}
}

// RFC 8900 §3.6: a port that others have left nothing still gets its share
func TestFullFragmentTable(t *testing.T) {
	w := &Worker{fragments: newFragmentTable()}
	for in := range uint16(8) {
		w.counters[in].Store(new(portCounters))
	}
	for in := range uint16(8) {
		for id := range uint32(datagramShare) {
			if i := w.newDatagram(&fragmentKey{in: in, id: id}); i == 0 {
				t.Fatalf("port %d: no datagram %d", in, id)
			}
		}
	}
	ft := &w.fragments
	if ft.live != maxDatagrams {
		t.Errorf("%d datagrams are followed, want %d", ft.live, maxDatagrams)
	}
	if n := ft.shares[7].datagrams; n < datagramShare/4 {
		t.Errorf("the last port has %d datagrams", n)
	}
	if w.newDatagram(&fragmentKey{in: 9, id: 1}) == 0 {
		t.Error("a new port gets nothing")
	}
}

// RFC 791 §3.2: more fragments than the longest datagram needs are a waste of room
func TestTooManyFragments(t *testing.T) {
	r := newRoad(t, roadConfig{})
	whole := part{version: 4, src: 1, dst: 2, proto: 17, id: 9, data: udpDatagram(4, 1, 2, 8*(maxFragments+5))}
	for _, q := range cutDatagram(whole, 8) {
		r.inject(1, q.frame())
		r.run()
	}
	if n := len(r.take(2)); n != maxFragments {
		t.Errorf("%d fragments out, want %d", n, maxFragments)
	}
	if n := r.drops(1, DropFragmentLimit); n != 6 {
		t.Errorf("%d dropped, want 6", n)
	}
	r.conserve()
}

// The smallest MTU a port may have cuts the longest datagram into no more
// fragments than are followed.
func TestLongestDatagramFits(t *testing.T) {
	if n := (65535 - 20 + 1255) / 1256; n > maxFragments {
		t.Errorf("a 65,535 byte datagram has %d fragments, %d are followed", n, maxFragments)
	}
	r := newRoad(t, roadConfig{})
	whole := part{version: 6, src: 1, dst: 2, proto: 17, id: 9, data: udpDatagram(6, 1, 2, 65527-8)}
	parts := cutDatagram(whole, 1232)
	for i := range parts {
		r.inject(1, parts[len(parts)-1-i].frame())
	}
	r.run()
	model := newNaive()
	for i, f := range r.take(2) {
		if _, got := model.add(t, f); (got != nil) != (i == len(parts)-1) {
			t.Fatalf("fragment %d of %d completed the datagram", i, len(parts))
		} else if got != nil && !bytes.Equal(got, whole.data) {
			t.Error("the datagram is not what was sent")
		}
	}
	r.conserve()
}

// Fragments that come together, in order or not, allocate nothing.
func TestFragmentAllocations(t *testing.T) {
	r := newRoad(t, roadConfig{})
	parts := cutDatagram(part{version: 6, src: 1, dst: 2, proto: 17, id: 9, data: udpDatagram(6, 1, 2, 4000)}, 1400)
	var frames []*port.Frame
	for _, i := range []int{1, 0, 2} {
		frames = append(frames, parts[i].frame())
	}
	once := func() {
		r.inject(1, frames...)
		r.f.Step()
		r.dev[2].Drain(0, r.drain)
	}
	for range 2048 { // the rings' buffers have seen it all
		once()
	}
	if n := testing.AllocsPerRun(100, once); n != 0 {
		t.Errorf("%v allocations for three fragments", n)
	}
}
