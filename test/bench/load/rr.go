//go:build linux

package load

import (
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// echo sends back what comes until the connection ends.
func echo(fd int) {
	defer unix.Close(fd)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // one message is under way at a time anyhow
	message := make([]byte, 4096)
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&message[0])), uintptr(len(message)))
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 || n == 0 || !writeAll(fd, message[:n]) {
			return
		}
	}
}

func writeAll(fd int, b []byte) bool {
	for len(b) > 0 {
		n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		switch errno {
		case 0:
			b = b[n:]
		case unix.EINTR:
		default:
			return false
		}
	}
	return true
}

func readAll(fd int, b []byte) bool {
	for len(b) > 0 {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		switch {
		case errno == unix.EINTR:
		case errno != 0 || n == 0:
			return false
		default:
			b = b[n:]
		}
	}
	return true
}

// RR says what a request-response client does: one message of Size bytes at a
// time over one TCP connection.
type RR struct {
	To      string
	Size    int
	Seconds float64
}

// Answers is how long the answers took, in nanoseconds.
type Answers struct {
	Count                int
	P50, P99, P999, Most int64
}

func roundTrips(args []string) error {
	var r RR
	if err := parse(args, &r); err != nil {
		return fmt.Errorf("rr: %w", err)
	}
	leaveWithParent()
	ended := make(chan Answers, 1)
	thread(func() error {
		times, err := r.run()
		ended <- summarize(times)
		return err
	})
	return say(<-ended)
}

// run measures round trips. The first tenth of the time warms up.
func (r *RR) run() ([]int64, error) {
	fd, err := open(unix.SOCK_STREAM, r.To, unix.Connect)
	if err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return nil, err
	}
	message := make([]byte, r.Size)
	times := make([]int64, 0, 1<<20)
	begin := nanotime()
	warm, end := begin+seconds(r.Seconds/10), begin+seconds(r.Seconds)
	for now := begin; now < end; {
		if !writeAll(fd, message) || !readAll(fd, message) {
			return nil, fmt.Errorf("%s: the connection broke after %d round trips", r.To, len(times))
		}
		then := now
		if now = nanotime(); now >= warm {
			times = append(times, now-then)
		}
	}
	return times, nil
}

// summarize sorts times and picks the percentiles.
func summarize(times []int64) Answers {
	if len(times) == 0 {
		return Answers{}
	}
	slices.Sort(times)
	at := func(share float64) int64 { return times[min(int(share*float64(len(times))), len(times)-1)] }
	return Answers{Count: len(times), P50: at(0.5), P99: at(0.99), P999: at(0.999), Most: times[len(times)-1]}
}
