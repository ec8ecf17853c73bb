//go:build linux

package load

import (
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// burst is how many datagrams one system call sends or receives at most.
const burst = 16

// mmsghdr is struct mmsghdr of <sys/socket.h> on 64-bit machines.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// messages are the headers and buffers of one sendmmsg or recvmmsg.
type messages struct {
	headers [burst]mmsghdr
	vectors [burst]unix.Iovec
	data    [burst][]byte
}

// newMessages makes messages of size bytes each.
func newMessages(size int) *messages {
	m := &messages{}
	for i := range m.headers {
		m.data[i] = make([]byte, size)
		m.vectors[i].Base = &m.data[i][0]
		m.vectors[i].SetLen(size)
		m.headers[i].hdr.Iov = &m.vectors[i]
		m.headers[i].hdr.SetIovlen(1)
	}
	return m
}

// call sends or receives up to n messages. An interrupted call moved none.
func (m *messages) call(number uintptr, fd, n int, flags uintptr) (int, error) {
	moved, _, errno := unix.RawSyscall6(number, uintptr(fd), uintptr(unsafe.Pointer(&m.headers[0])), uintptr(n), flags, 0, 0)
	switch errno {
	case 0:
		return int(moved), nil
	case unix.EINTR, unix.ECONNREFUSED, unix.ENOBUFS, unix.EAGAIN:
		return 0, nil
	}
	return 0, errno
}

// socketAddress returns what the kernel takes for an IPv4 address and port.
func socketAddress(text string) (unix.Sockaddr, error) {
	a, err := netip.ParseAddrPort(text)
	if err != nil {
		return nil, err
	}
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}, nil
}

// open makes a blocking socket of a type and prepares it by an address.
func open(kind int, address string, prepare func(int, unix.Sockaddr) error) (int, error) {
	to, err := socketAddress(address)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if kind == unix.SOCK_DGRAM { // large queues, so that losses are the forwarder's
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) // without it the system's own limit holds
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20)
	}
	if err := prepare(fd, to); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("%s: %w", address, err)
	}
	return fd, nil
}

// nanotime is the monotonic clock, the same in all processes.
func nanotime() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail with these arguments
	return ts.Nano()
}

// sleepUntil waits until the monotonic clock says t.
func sleepUntil(t int64) {
	left := t - nanotime()
	if left <= 0 {
		return
	}
	ts := unix.NsecToTimespec(left)
	_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0) // waking early is no harm
}

// preciseSleep makes the calling thread wake when it asked to, not up to 50 µs
// later (prctl(2), PR_SET_TIMERSLACK).
func preciseSleep() {
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // without it pacing is coarser
}

// seconds converts to a duration in nanoseconds.
func seconds(s float64) int64 { return int64(s * float64(time.Second)) }
