//go:build linux

package tap_test

import (
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/tap"
)

// BenchmarkWrite sends frames that the guest drops early: the price of writing
// one, without and with a ring, in turn.
func BenchmarkWrite(b *testing.B) {
	needRoot(b)
	plain := create(b, tap.Spec{Name: linkName("bench"), Netns: namespace(b, "bench"), Up: true})
	ringed := create(b, tap.Spec{Name: linkName("bench2"), Netns: namespace(b, "bench2"), Up: true})
	ringed.Batch(rings(b))
	queues := [2]port.Queue{plain.Queues()[0], ringed.Queues()[0]}
	for _, size := range []int{60, 1514, 9014} {
		for _, batch := range []int{1, 4, 6, 8, 16, 32, 64} {
			frames := buffers(batch)
			for _, f := range frames {
				f.End = f.Start + size
				copy(f.Bytes(), []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5})
			}
			b.Run(fmt.Sprintf("%dB/%d", size, batch), func(b *testing.B) {
				b.ReportAllocs()
				var took [2][]float64
				for b.Loop() {
					for i, q := range queues {
						start := time.Now()
						q.Write(frames)
						took[i] = append(took[i], float64(time.Since(start))/float64(batch))
					}
				}
				slices.Sort(took[0])
				slices.Sort(took[1])
				median := b.N / 2
				b.ReportMetric(took[0][median], "plain-ns/frame")
				b.ReportMetric(took[1][median], "ring-ns/frame")
				b.ReportMetric(took[1][median]/took[0][median], "ratio")
			})
		}
	}
}

// BenchmarkFlood copies what a guest sends, as fast as it can, to a socket of
// another guest: the copying thread's processor time per frame, without and with a
// ring, in turn. The sender shares the machine: compare the ratio alone.
func BenchmarkFlood(b *testing.B) {
	needRoot(b, "ip")
	var floods [2]*flood
	for i, rings := range []*tap.Rings{nil, rings(b)} {
		floods[i] = newFlood(b, i, rings)
	}
	const slice = 300 * time.Millisecond
	var cost [2][]float64
	for b.Loop() {
		for i, f := range floods {
			cost[i] = append(cost[i], f.run(b, slice))
		}
	}
	slices.Sort(cost[0])
	slices.Sort(cost[1])
	plain, ring := cost[0][b.N/2], cost[1][b.N/2]
	b.ReportMetric(plain, "plain-ns/frame")
	b.ReportMetric(ring, "ring-ns/frame")
	b.ReportMetric(ring/plain, "ratio")
}

// flood is a guest that sends and a guest that receives.
type flood struct {
	from, to port.Queue
	client   *net.UDPConn
	frames   []*port.Frame
}

func newFlood(b *testing.B, n int, rings *tap.Rings) *flood {
	f := &flood{frames: buffers(port.BatchSize)}
	nsA, nsB := namespace(b, fmt.Sprint("from", n)), namespace(b, fmt.Sprint("to", n))
	specs := [2]tap.Spec{guest(nsA, 1), guest(nsB, 2)}
	for i := range specs {
		specs[i].Name = linkName(fmt.Sprintf("f%d%d", n, i))
	}
	to := create(b, specs[1])
	to.Batch(rings)
	f.from, f.to = create(b, specs[0]).Queues()[0], to.Queues()[0]
	mustRun(b, nsA, "ip", "neigh", "replace", "10.9.0.2", "lladdr", specs[1].MAC.String(), "dev", "eth0")
	server := listenPacket(b, nsB, "udp4", "10.9.0.2:0") // never read: it drops what it has no room for
	f.client = dial(b, nsA, "udp4", server.LocalAddr().String()).(*net.UDPConn)
	return f
}

// run copies for a while and returns nanoseconds of processor time per frame.
func (f *flood) run(b *testing.B, d time.Duration) float64 {
	var stop atomic.Bool
	var sending sync.WaitGroup
	sending.Go(func() { f.send(b, &stop) })
	defer sending.Wait()
	defer stop.Store(true)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	n, before := 0, threadTime(b)
	for end := time.Now().Add(d); time.Now().Before(end); {
		k, err := f.from.Read(f.frames)
		if err != nil {
			b.Fatal(err)
		}
		f.to.Write(f.frames[:k])
		n += k
	}
	return float64(threadTime(b)-before) / float64(max(n, 1))
}

// send sends datagrams of 18 bytes, frames of 60, until stop, 64 in one call.
func (f *flood) send(b *testing.B, stop *atomic.Bool) {
	payload := make([]byte, 18)
	iov := unix.Iovec{Base: &payload[0], Len: uint64(len(payload))}
	var messages [64]struct { // struct mmsghdr
		header unix.Msghdr
		sent   uint32
		_      uint32
	}
	for i := range messages {
		messages[i].header.Iov, messages[i].header.Iovlen = &iov, 1
	}
	raw, err := f.client.SyscallConn()
	if err != nil {
		b.Error(err)
		return
	}
	if err := raw.Control(func(fd uintptr) {
		for !stop.Load() {
			_, _, _ = unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&messages)), uintptr(len(messages)), 0, 0, 0)
		}
	}); err != nil {
		b.Error(err)
	}
}

// threadTime returns the processor time of the calling thread.
func threadTime(b *testing.B) int64 {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &usage); err != nil {
		b.Fatal(err)
	}
	return usage.Utime.Nano() + usage.Stime.Nano()
}
