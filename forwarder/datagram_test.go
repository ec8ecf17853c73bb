package forwarder

import (
	"bytes"
	"testing"
	"unsafe"

	"github.com/vrouter-go/vrouter/internal/port"
	"pgregory.net/rapid"
)

func TestDatagramSizes(t *testing.T) {
	if n := unsafe.Sizeof(fragmentKey{}); n != 44 {
		t.Errorf("fragmentKey has %d bytes, documented are 44", n)
	}
	if n := unsafe.Sizeof(datagram{}); n != 332 {
		t.Errorf("datagram has %d bytes, documented are 332", n)
	}
	if n := unsafe.Sizeof(chunk{}); n != 8 {
		t.Errorf("chunk has %d bytes, documented are 8", n)
	}
}

// RFC 6146 §4: FRAGMENT_MIN is 2 s
func TestFragmentTimes(t *testing.T) {
	if holdTicks*TickNanos < 2e9+2*TickNanos {
		t.Error("fragments may wait less than 2 s")
	}
	if openTicks < holdTicks {
		t.Error("an open datagram is forgotten before one that waits")
	}
}

// The table gives back what was stored, in order, however it was cut and
// interleaved: against a queue of slices for each datagram.
func TestFragmentStore(t *testing.T) {
	f := port.NewFrame()
	rapid.Check(t, func(rt *rapid.T) {
		ft := newFragmentTable()
		model := map[uint16][][]byte{}
		var live []uint16
		rt.Repeat(map[string]func(*rapid.T){
			"insert": func(rt *rapid.T) {
				if len(live) == 8 {
					rt.Skip("enough")
				}
				k := fragmentKey{id: rapid.Uint32Range(0, 1<<20).Draw(rt, "id"), in: 1}
				if i := ft.find(&k); i != 0 {
					rt.Skip("there already")
				}
				i := ft.insert(&k, 0)
				if ft.find(&k) != i {
					rt.Fatal("not found after insert")
				}
				live, model[i] = append(live, i), nil
			},
			"push": func(rt *rapid.T) {
				if len(live) == 0 {
					rt.Skip("none")
				}
				i := rapid.SampledFrom(live).Draw(rt, "datagram")
				data := bytes.Repeat([]byte{rapid.Byte().Draw(rt, "byte")}, rapid.IntRange(1, 3*chunkSize).Draw(rt, "length"))
				if len(model[i]) == maxFragments || ft.freeChunks < chunksFor(len(data)) {
					rt.Skip("full")
				}
				ft.push(i, data)
				model[i] = append(model[i], data)
			},
			"pop": func(rt *rapid.T) {
				if len(live) == 0 {
					rt.Skip("none")
				}
				i := rapid.SampledFrom(live).Draw(rt, "datagram")
				if len(model[i]) == 0 {
					rt.Skip("empty")
				}
				f.Reset()
				ft.pop(&ft.datagrams[i], f)
				if !bytes.Equal(f.Bytes(), model[i][0]) {
					rt.Fatalf("popped %d bytes, want %d", f.Len(), len(model[i][0]))
				}
				model[i] = model[i][1:]
			},
			"": func(rt *rapid.T) {
				for i, queue := range model {
					if int(ft.datagrams[i].held) != len(queue) {
						rt.Fatalf("datagram %d holds %d, want %d", i, ft.datagrams[i].held, len(queue))
					}
				}
			},
		})
		for _, i := range live {
			for ft.datagrams[i].held != 0 {
				ft.pop(&ft.datagrams[i], nil)
			}
			ft.remove(i)
		}
		if ft.live != 0 || ft.freeChunks != maxChunks || ft.shares[1] != (fragmentShare{}) {
			rt.Fatalf("left: %d datagrams, %d chunks, %+v", ft.live, maxChunks-ft.freeChunks, ft.shares[1])
		}
	})
}

// The zero value refuses fragments and does not panic.
func TestZeroFragmentTable(t *testing.T) {
	w := &Worker{}
	w.counters[1].Store(new(portCounters))
	p := parsed(t, part{version: 4, src: 1, dst: 2, proto: 17, id: 1, more: true, data: udpDatagram(4, 1, 2, 64)[:64]}.frame())
	if w.fragment(p) || w.counters[1].Load().drops[DropFragmentLimit].Load() != 1 {
		t.Error("the zero table took a fragment")
	}
	w.expireFragments(1000)
	w.releaseFragments(p)
}
