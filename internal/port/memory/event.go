//go:build linux

package memory

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// event is an eventfd that is readable while frames wait. A nil event is one that
// nobody polls.
type event struct {
	eventfd int
	raised  atomic.Bool
}

func newEvent() (*event, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return &event{eventfd: fd}, nil
}

func (e *event) fd() int {
	if e == nil {
		return -1
	}
	return e.eventfd
}

// raise makes the descriptor readable.
func (e *event) raise() {
	if e == nil || e.raised.Swap(true) {
		return
	}
	one := [8]byte{1}
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(e.eventfd), uintptr(unsafe.Pointer(&one)), 8)
}

// lower makes the descriptor unreadable and reports whether it was raised: then
// the caller looks for frames again. It costs no system call when nothing was
// raised.
func (e *event) lower() bool {
	if e == nil || !e.raised.Load() {
		return false
	}
	var count [8]byte
	_, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(e.eventfd), uintptr(unsafe.Pointer(&count)), 8)
	if errno == 0 { // else raise is just about to write: it stays raised
		e.raised.Store(false)
	}
	return true
}

func (e *event) close() {
	if e != nil && e.eventfd >= 0 {
		unix.Close(e.eventfd)
		e.eventfd = -1
	}
}
