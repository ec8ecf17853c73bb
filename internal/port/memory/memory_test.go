package memory_test

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ port.Device = (*memory.Device)(nil)

func newDevice(t testing.TB, c memory.Config) *memory.Device {
	t.Helper()
	d, err := memory.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// numbered returns a frame of size bytes that carries n.
func numbered(n, size int) *port.Frame {
	f := port.NewFrame()
	f.End = f.Start + size
	copy(f.Bytes(), fmt.Appendf(nil, "%08d", n))
	f.Time = int64(n)
	return f
}

func empty(n int) []*port.Frame {
	frames := make([]*port.Frame, n)
	for i := range frames {
		frames[i] = port.NewFrame()
	}
	return frames
}

func TestFramesCrossUnchanged(t *testing.T) {
	const all = port.FeatureCsum | port.FeatureTSO4
	d := newDevice(t, memory.Config{Name: "m0", Queues: 2, Depth: 4, Features: all})
	if d.Name() != "m0" || d.Features() != all || len(d.Queues()) != 2 || d.Queues()[0].FD() != -1 {
		t.Fatalf("device %q %v %d", d.Name(), d.Features(), len(d.Queues()))
	}
	in := numbered(7, 60000)
	in.Offload = port.Offload{Flags: port.NeedsCsum, GSOType: port.GSOTCPv4, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}
	if n := d.Inject(1, in); n != 1 {
		t.Fatalf("Inject took %d", n)
	}
	frames := empty(4)
	frames[0].Start = 3 // what an earlier use left
	if n, err := d.Queues()[0].Read(frames); n != 0 || err != nil {
		t.Errorf("the other queue: %d, %v", n, err)
	}
	if n, err := d.Queues()[1].Read(frames); n != 1 || err != nil {
		t.Fatalf("Read: %d, %v", n, err)
	}
	if diff := cmp.Diff(in, frames[0]); diff != "" {
		t.Errorf("frame changed:\n%s", diff)
	}
	frames[0].Start -= 8 // a header put in front
	want := bytes.Clone(frames[0].Bytes())
	d.Queues()[0].Write(frames[:1])
	out := empty(4)
	if n := d.Drain(0, out); n != 1 || frames[0].Lost != port.Sent {
		t.Fatalf("Drain: %d, lost %d", n, frames[0].Lost)
	}
	if !bytes.Equal(out[0].Bytes(), want) || out[0].Offload != in.Offload {
		t.Error("the frame written differs from the frame drained")
	}
}

func TestWriteSaysWhyAFrameIsLost(t *testing.T) {
	d := newDevice(t, memory.Config{Depth: 2, Features: port.FeatureCsum})
	q := d.Queues()[0]
	gso := numbered(1, 3000)
	gso.Offload = port.Offload{Flags: port.NeedsCsum, GSOType: port.GSOTCPv4, GSOSize: 1448}
	lost := func(frames ...*port.Frame) []port.Lost {
		q.Write(frames)
		var all []port.Lost
		for _, f := range frames {
			all = append(all, f.Lost)
		}
		return all
	}
	got := lost(gso, numbered(2, 13), numbered(3, 60), numbered(4, 60), numbered(5, 60))
	want := []port.Lost{port.LostRejected, port.LostRejected, port.Sent, port.Sent, port.LostFull}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	d.Fail()
	if diff := cmp.Diff([]port.Lost{port.LostDown}, lost(numbered(6, 60))); diff != "" {
		t.Error(diff)
	}
}

func TestReadDrainsBeforeItSaysGone(t *testing.T) {
	d := newDevice(t, memory.Config{Poll: true})
	p, err := port.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	q, frames, tokens := d.Queues()[0], empty(2), make([]port.Token, 1)
	if err := p.Add(q.FD(), 9); err != nil {
		t.Fatal(err)
	}
	d.Inject(0, numbered(1, 60))
	d.Fail()
	if n, err := q.Read(frames); n != 1 || err != nil {
		t.Errorf("Read: %d, %v; want the frame that was waiting", n, err)
	}
	for range 2 {
		if n, err := q.Read(frames); n != 0 || err != port.ErrGone {
			t.Errorf("Read: %d, %v; want ErrGone", n, err)
		}
		if n, _ := p.Wait(tokens, 0); n != 1 {
			t.Error("a dead queue must poll readable")
		}
	}
}

// The rings against the naive model: a slice with a limit.
func TestQueueIsABoundedFIFO(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		depth := 1 << rapid.IntRange(0, 4).Draw(rt, "log depth")
		d := newDevice(t, memory.Config{Depth: depth, Poll: rapid.Bool().Draw(rt, "poll")})
		q, frames := d.Queues()[0], empty(8)
		var in, out []int64
		next := 0
		rt.Repeat(map[string]func(*rapid.T){
			"inject": func(rt *rapid.T) {
				next++
				if took := d.Inject(0, numbered(next, 60+next%9)); took != min(1, depth-len(in)) {
					rt.Fatalf("Inject took %d with %d of %d waiting", took, len(in), depth)
				} else if took == 1 {
					in = append(in, int64(next))
				}
			},
			"read": func(rt *rapid.T) {
				n, err := q.Read(frames[:rapid.IntRange(0, 8).Draw(rt, "batch")])
				if err != nil {
					rt.Fatal(err)
				}
				for i := range n {
					if frames[i].Time != in[i] {
						rt.Fatalf("frame %d is %d; want %d", i, frames[i].Time, in[i])
					}
				}
				in = in[n:]
			},
			"write": func(rt *rapid.T) {
				next++
				f := numbered(next, 60)
				q.Write([]*port.Frame{f})
				if (f.Lost == port.Sent) != (len(out) < depth) {
					rt.Fatalf("lost %d with %d of %d waiting", f.Lost, len(out), depth)
				}
				if f.Lost == port.Sent {
					out = append(out, int64(next))
				}
			},
			"drain": func(rt *rapid.T) {
				n := d.Drain(0, frames)
				if n != min(len(out), len(frames)) {
					rt.Fatalf("drained %d of %d", n, len(out))
				}
				for i := range n {
					if frames[i].Time != out[i] {
						rt.Fatalf("frame %d is %d; want %d", i, frames[i].Time, out[i])
					}
				}
				out = out[n:]
			},
		})
	})
}

// A sleeping reader never misses a frame: run with -race.
func TestSleepingReaderSeesEveryFrame(t *testing.T) {
	d := newDevice(t, memory.Config{Depth: 8, Poll: true})
	p, err := port.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Add(d.Queues()[0].FD(), 1); err != nil {
		t.Fatal(err)
	}
	const total = 20000
	var wg sync.WaitGroup
	wg.Go(func() {
		f := numbered(0, 60)
		for n := 0; n < total; {
			f.Time = int64(n)
			n += d.Inject(0, f)
		}
	})
	q, frames, tokens := d.Queues()[0], empty(4), make([]port.Token, 1)
	deadline := time.Now().Add(time.Minute)
	for next := int64(0); next < total; {
		ready, err := p.Wait(tokens, 20*time.Second)
		if err == nil && ready == 0 && time.Now().Before(deadline) {
			continue // a signal ended the wait
		}
		if err != nil || ready == 0 {
			t.Fatalf("slept for ever after %d frames: %v", next, err)
		}
		n, err := q.Read(frames)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range frames[:n] {
			if f.Time != next {
				t.Fatalf("frame %d; want %d", f.Time, next)
			}
			next++
		}
	}
	wg.Wait()
}

func TestNothingAllocates(t *testing.T) {
	for _, poll := range []bool{false, true} {
		d := newDevice(t, memory.Config{Depth: 16, Poll: poll})
		q, frames := d.Queues()[0], empty(8)
		for _, f := range frames {
			f.End = f.Start + 1500
		}
		cycle := func() {
			d.Inject(0, frames...)
			n, _ := q.Read(frames)
			q.Write(frames[:n])
			d.Drain(0, frames)
		}
		for range 4 {
			cycle() // let the slots grow
		}
		if n := testing.AllocsPerRun(100, cycle); n != 0 {
			t.Errorf("poll %v: %v allocations per cycle", poll, n)
		}
	}
}
