//go:build linux

package tap

import (
	"encoding/binary"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/port"
)

// onSocket returns a queue whose device is a socket, so that what it has sent can
// be looked at, and the other end of that.
func onSocket(t testing.TB, rings *Rings) (*queue, int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return &queue{fd: fds[0], rings: rings}, fds[1]
}

// roomy gives a socket room for all that a test sends.
func roomy(t testing.TB, q *queue) {
	t.Helper()
	if err := unix.SetsockoptInt(q.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 64<<20); err != nil {
		t.Skipf("SKIP-PRIVILEGED: a larger socket buffer needs root: %v", err)
	}
}

// numbered returns n frames that carry a writer's number and their own.
func numbered(n, writer int) []*port.Frame {
	frames := make([]*port.Frame, n)
	for i := range frames {
		f := port.NewFrame()
		f.End = f.Start + 60
		f.Lost = port.LostDown // Write has to set it
		frames[i] = f
		number(f, writer, i)
	}
	return frames
}

func number(f *port.Frame, writer, i int) {
	binary.BigEndian.PutUint16(f.Bytes()[12:], uint16(writer))
	binary.BigEndian.PutUint32(f.Bytes()[14:], uint32(i))
}

// next reads a frame and returns its numbers; false when nothing waits.
func next(t testing.TB, fd int) (writer, i, length int, ok bool) {
	t.Helper()
	var buf [1 << 16]byte
	n, err := unix.Read(fd, buf[:])
	if err == unix.EAGAIN {
		return 0, 0, 0, false
	}
	if err != nil || n < 18 {
		t.Fatalf("read: %d, %v", n, err)
	}
	return int(binary.BigEndian.Uint16(buf[12:])), int(binary.BigEndian.Uint32(buf[14:])), n, true
}

func newRings(t testing.TB) *Rings {
	t.Helper()
	r, err := NewRings(2)
	if err != nil {
		t.Skipf("SKIP-TOOL: %v", err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// roads are the ways a batch can take. All must look the same from outside.
func roads(t *testing.T, test func(t *testing.T, rings *Rings)) {
	t.Run("plain", func(t *testing.T) { test(t, nil) })
	t.Run("ring", func(t *testing.T) { test(t, newRings(t)) })
	t.Run("no ring is free", func(t *testing.T) {
		r := newRings(t)
		for s := r.take(); s != nil; s = r.take() {
			defer r.give(s)
		}
		test(t, r)
	})
	t.Run("no rings", func(t *testing.T) { test(t, &Rings{}) })
}

// A batch of any length and mixture is sent whole and in order, but for the frames
// that cannot be sent.
func TestBatchesKeepTheirOrder(t *testing.T) {
	kinds := map[string]func(i int) (length int, ok bool){
		"small":              func(int) (int, bool) { return 60, true },
		"jumbo":              func(i int) (int, bool) { return maxRingFrame - i%2, true },
		"a long one between": func(i int) (int, bool) { return 60 + 40000*(i%12/11), true },
		"long and small":     func(i int) (int, bool) { return 60 + 20000*(i%2), true },
		"a runt between":     func(i int) (int, bool) { return 60 - 50*(i%5/4), i%5 != 4 },
		"runts":              func(int) (int, bool) { return 13, false },
	}
	roads(t, func(t *testing.T, rings *Rings) {
		for name, kind := range kinds {
			for _, n := range []int{0, 1, minRingBatch - 1, minRingBatch, 13, maxRingBatch, maxRingBatch + 1, maxRingBatch + minRingBatch} {
				q, far := onSocket(t, rings)
				roomy(t, q)
				frames := numbered(n, 7)
				for i, f := range frames {
					length, _ := kind(i)
					f.End = f.Start + length
				}
				q.Write(frames)
				for i, f := range frames {
					length, ok := kind(i)
					if !ok {
						if f.Lost != port.LostRejected {
							t.Fatalf("%s, %d of %d: lost %d; want LostRejected", name, i, n, f.Lost)
						}
						continue
					}
					writer, number, got, _ := next(t, far)
					if f.Lost != port.Sent || writer != 7 || number != i || got != length {
						t.Fatalf("%s, %d of %d: lost %d, arrived: number %d with %d bytes; want %d", name, i, n, f.Lost, number, got, length)
					}
				}
				if _, number, _, more := next(t, far); more {
					t.Fatalf("%s: number %d came twice or was never given", name, number)
				}
			}
		}
	})
}

// What finds the device full is lost, there and then: it does not come later.
func TestAFullDeviceLosesTheRest(t *testing.T) {
	roads(t, func(t *testing.T, rings *Rings) {
		q, far := onSocket(t, rings)
		frames, sent, full := numbered(port.BatchSize, 0), 0, false
		for !full && sent < 1<<16 {
			for i, f := range frames {
				number(f, 0, sent+i)
			}
			q.Write(frames)
			for i, f := range frames {
				switch {
				case f.Lost == port.Sent && !full:
					sent++
				case f.Lost == port.LostFull:
					full = true
				default:
					t.Fatalf("frame %d of the batch: lost %d", i, f.Lost)
				}
			}
		}
		for i := range sent {
			if _, number, _, ok := next(t, far); !ok || number != i {
				t.Fatalf("frame %d: %d, %v", i, number, ok)
			}
		}
		if _, _, _, more := next(t, far); more || !full {
			t.Errorf("full %v, more than was sent %v", full, more)
		}
	})
}

// A device that is gone for one batch is no matter to the next, on the same ring.
func TestAGoneDeviceLosesAll(t *testing.T) {
	roads(t, func(t *testing.T, rings *Rings) {
		there, _ := onSocket(t, rings)
		gone := &queue{fd: -1, rings: rings}
		frames := numbered(port.BatchSize, 0)
		for _, c := range []struct {
			q    *queue
			want port.Lost
		}{{gone, port.LostDown}, {there, port.Sent}} {
			c.q.Write(frames)
			for i, f := range frames {
				if f.Lost != c.want {
					t.Fatalf("frame %d: lost %d; want %d", i, f.Lost, c.want)
				}
			}
		}
	})
}

// More writers than rings, on two queues: each writer's frames stay in order.
func TestWritersAtOnce(t *testing.T) {
	const writers, batches, size = 8, 40, maxRingBatch + minRingBatch
	roads(t, func(t *testing.T, rings *Rings) {
		var queues [2]*queue
		var far [2]int
		for i := range queues {
			queues[i], far[i] = onSocket(t, rings)
			roomy(t, queues[i])
		}
		var done sync.WaitGroup
		for w := range writers {
			done.Go(func() {
				frames := numbered(size, w)
				for b := range batches {
					for i, f := range frames {
						number(f, w, b*size+i)
					}
					queues[w%2].Write(frames)
					for _, f := range frames {
						if f.Lost != port.Sent {
							t.Errorf("writer %d: lost %d", w, f.Lost)
						}
					}
				}
			})
		}
		done.Wait()
		var seen [writers]int
		for i := range far {
			for w, n, _, ok := next(t, far[i]); ok; w, n, _, ok = next(t, far[i]) {
				if n != seen[w] || w%2 != i {
					t.Fatalf("writer %d on queue %d: number %d; want %d", w, i, n, seen[w])
				}
				seen[w]++
			}
		}
		for w, n := range seen {
			if n != batches*size {
				t.Errorf("writer %d: %d frames arrived of %d", w, n, batches*size)
			}
		}
	})
}

// Each ring has one user at a time, also when it has been lent before.
func TestRingsAreLentOnce(t *testing.T) {
	r := newRings(t)
	for round := range 3 {
		held := map[*sharedRing]bool{}
		for s := r.take(); s != nil; s = r.take() {
			if held[s] {
				t.Fatal("a ring was lent twice")
			}
			held[s] = true
		}
		if len(held) != len(r.list) || len(held) == 0 {
			t.Errorf("round %d: %d of %d rings lent", round, len(held), len(r.list))
		}
		for s := range held {
			r.give(s)
		}
	}
}
