//go:build linux

package port

import (
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Token names a registered descriptor in the answer of Poller.Wait. Every value
// but the largest is the caller's to use.
type Token uint64

const (
	wakeToken Token = 1<<64 - 1
	// maxEvents is the most descriptors that one Wait reports.
	maxEvents = 256
)

// Poller waits for queues to become readable (epoll, level-triggered, so that
// what one Wait does not report the next one does). Wait belongs to one
// goroutine; Add, Remove and Wake may be called from any. Nothing here allocates
// after NewPoller.
type Poller struct {
	epfd, wakefd int
	waking       atomic.Bool // a wake-up is written and not yet read
	events       [maxEvents]unix.EpollEvent
}

// NewPoller returns a Poller with nothing registered.
func NewPoller() (*Poller, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("poller: epoll_create1: %w", err)
	}
	wakefd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		unix.Close(epfd)
		return nil, fmt.Errorf("poller: eventfd: %w", err)
	}
	p := &Poller{epfd: epfd, wakefd: wakefd}
	if err := p.Add(wakefd, wakeToken); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Add watches fd and reports it as token when it is readable, or broken: the
// reader learns from Queue.Read which.
func (p *Poller) Add(fd int, token Token) error {
	// Fd and Pad together are the 64-bit epoll_data_t.
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(token), Pad: int32(token >> 32)}
	if err := unix.EpollCtl(p.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("poller: add descriptor %d: %w", fd, err)
	}
	return nil
}

// Remove stops watching fd. It must come before fd is closed.
func (p *Poller) Remove(fd int) error {
	if err := unix.EpollCtl(p.epfd, unix.EPOLL_CTL_DEL, fd, nil); err != nil {
		return fmt.Errorf("poller: remove descriptor %d: %w", fd, err)
	}
	return nil
}

// Wait fills tokens with those that are ready and returns how many. A timeout of
// 0 looks and returns at once; a negative one waits for ever; others are rounded
// up to a millisecond. It returns 0 early after Wake or a signal.
//
// With timeout 0 the call is a raw one: it cannot block, so the scheduler need
// not know. Otherwise the thread's P is given up while it sleeps.
func (p *Poller) Wait(tokens []Token, timeout time.Duration) (int, error) {
	if len(tokens) == 0 {
		return 0, nil
	}
	most := min(len(tokens), maxEvents)
	var n uintptr
	var errno unix.Errno
	if timeout == 0 {
		n, _, errno = unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epfd),
			uintptr(unsafe.Pointer(&p.events)), uintptr(most), 0, 0, 0)
	} else {
		n, _, errno = unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epfd),
			uintptr(unsafe.Pointer(&p.events)), uintptr(most), uintptr(milliseconds(timeout)), 0, 0)
	}
	if errno != 0 {
		if errno == unix.EINTR {
			return 0, nil
		}
		return 0, errno
	}
	ready := 0
	for i := range p.events[:n] {
		ev := &p.events[i]
		token := Token(uint32(ev.Fd)) | Token(uint32(ev.Pad))<<32
		if token == wakeToken {
			p.drainWake()
			continue
		}
		tokens[ready] = token
		ready++
	}
	return ready, nil
}

// milliseconds returns d as epoll wants it, never 0 for a positive d: that would
// spin.
func milliseconds(d time.Duration) int {
	if d < 0 {
		return -1
	}
	return int(min((d+time.Millisecond-1)/time.Millisecond, 1<<31-1))
}

// Wake makes the current Wait, or else the next one, return at once. Many calls
// before that Wait count as one.
func (p *Poller) Wake() {
	if p.waking.Swap(true) {
		return
	}
	one := [8]byte{1}
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(p.wakefd), uintptr(unsafe.Pointer(&one)), 8)
}

// drainWake reads the eventfd before it clears waking: a Wake that falls between
// the two is served by the Wait that is returning now.
func (p *Poller) drainWake() {
	var count [8]byte
	_, _, _ = unix.RawSyscall(unix.SYS_READ, uintptr(p.wakefd), uintptr(unsafe.Pointer(&count)), 8)
	p.waking.Store(false)
}

// Close releases the Poller. No other method may run then or later.
func (p *Poller) Close() error {
	unix.Close(p.wakefd)
	if err := unix.Close(p.epfd); err != nil {
		return fmt.Errorf("poller: close: %w", err)
	}
	return nil
}
