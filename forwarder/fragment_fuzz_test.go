package forwarder

import (
	"bytes"
	"testing"
)

// hostileParts reads a sequence of fragments from fuzz input, five bytes each:
// kind, identification, place, length, and the time that passes before it.
func hostileParts(script []byte, yield func(q part, ticks int)) {
	protos := []uint8{17, 6, 1, 58, 132, 47}
	for ; len(script) >= 5; script = script[5:] {
		kind, id, place, length, ticks := script[0], script[1], script[2], script[3], script[4]
		q := part{
			version: 4 + 2*int(kind>>1&1), src: 1 + uint16(kind>>2&1), dst: 3,
			proto: protos[int(kind>>5)%len(protos)],
			id:    uint32(id), offset: 8 * int(place), more: kind&1 != 0,
			data: make([]byte, 8*int(length&0x7f)+int(length>>7)),
		}
		if kind&8 != 0 {
			q.offset = 65528 - q.offset // near the end of what a datagram can be
		}
		if kind&16 != 0 && len(q.data) > 8 {
			copy(q.data, []byte{0x03, 0xe9, 0x07, 0xd3, 0x00, 0x40, 0, 1}) // ports, as UDP
		} else if len(q.data) >= 20 {
			copy(q.data, []byte{8, 0, 0, 1, 0, 7, 0, 1, 0, 0, 0, 0, 0x50, 0x02}) // an echo request, a TCP SYN
		}
		yield(q, int(ticks))
	}
}

// FuzzFragment sends sequences of hostile fragments through the forwarder: it
// never panics, keeps to its limits, and accounts for every packet.
func FuzzFragment(f *testing.F) {
	f.Add([]byte{0x11, 1, 0, 8, 0, 0x11, 1, 8, 8, 0, 0x10, 1, 16, 8, 0})                // in order
	f.Add([]byte{0x10, 1, 16, 8, 0, 0x11, 1, 8, 8, 0, 0x11, 1, 0, 8, 0})                // backwards
	f.Add([]byte{0x13, 2, 0, 8, 0, 0x13, 2, 7, 8, 0, 0x12, 2, 16, 8, 0})                // IPv6, overlap
	f.Add([]byte{0x11, 3, 8, 8, 0, 0x11, 3, 8, 8, 40, 0x11, 3, 0, 8, 0})                // duplicate, timeout
	f.Add([]byte{0x18, 4, 0, 8, 0, 0x19, 4, 1, 127, 0, 0x0f, 4, 0, 0x81, 0})            // the end of what can be
	f.Add([]byte{0x41, 5, 2, 8, 0, 0x41, 5, 0, 8, 0, 0x43, 6, 0, 1, 0, 0xc1, 6})        // ICMP, tiny
	f.Add(bytes.Repeat([]byte{0x11, 7, 9, 127, 0, 0x15, 8, 0, 127, 0}, 40))             // two ports
	f.Add(bytes.Repeat([]byte{0x81, 9, 3, 4, 0, 0x83, 10, 3, 4, 0, 7, 7, 7, 7, 7}, 20)) // SCTP
	r := newRoad(f, roadConfig{mtu: [4]int32{3: 1280}})
	f.Fuzz(func(t *testing.T, script []byte) {
		r.t = t
		n := 0
		hostileParts(script, func(q part, ticks int) {
			r.pass(ticks)
			r.inject(int(q.src), q.frame())
			if n++; n%7 == 0 { // batches of several lengths
				r.run()
			}
			if n%500 == 0 {
				r.run()
				for i := 1; i <= 3; i++ {
					r.take(i)
				}
			}
		})
		r.run()
		for i := 1; i <= 3; i++ {
			r.take(i)
		}
		if r.f.Panics() != 0 {
			t.Fatal("a worker panicked")
		}
		r.conserve()
		r.bounded()
		r.forget()
	})
}

// forget lets every session and fragment run out, so that one input meets the
// same state as the next.
func (r *road) forget() {
	r.pass(7440 * 10 * 2)
	r.run()
	for range 4 {
		r.f.Sweep()
	}
}

// bounded checks the fragment table against its limits and itself.
func (r *road) bounded() {
	r.t.Helper()
	ft := &r.w.fragments
	live, chunks, shares := 0, 0, map[uint32]fragmentShare{}
	for i := 1; i < len(ft.datagrams); i++ {
		d := &ft.datagrams[i]
		if !d.used {
			continue
		}
		live++
		chunks += int(d.chunks)
		s := shares[d.key.share()]
		s.datagrams++
		s.chunks += d.chunks
		shares[d.key.share()] = s
		if found := ft.find(&d.key); found != uint16(i) {
			r.t.Errorf("datagram %d is found as %d", i, found)
		}
	}
	if live != ft.live || chunks+ft.freeChunks != maxChunks {
		r.t.Errorf("%d datagrams live, counted %d; %d chunks used, %d free", ft.live, live, chunks, ft.freeChunks)
	}
	for of, s := range shares {
		if s != ft.shares[of] || s.datagrams > datagramShare || s.chunks > chunkShare {
			r.t.Errorf("share %d has %+v, counted %+v", of, ft.shares[of], s)
		}
	}
	free := 0
	for c := ft.freeChunk; c != 0; c = ft.chunks[c].next {
		free++
	}
	if free != ft.freeChunks {
		r.t.Errorf("%d chunks in the free list, %d counted", free, ft.freeChunks)
	}
}
