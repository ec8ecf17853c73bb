//go:build linux

package load

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/port/tap"
)

// tapLoop is the floor of the medium: it makes the two TAP devices that its
// arguments describe and copies whole superpackets from each to the other, and
// does nothing else. It says ready and runs until standard input ends.
func tapLoop(args []string) error {
	var specs [2]tap.Spec
	if err := parse(args, &specs); err != nil {
		return fmt.Errorf("tap-loop: %w", err)
	}
	var devices [2]*tap.Device
	for i, s := range specs {
		d, err := tap.Create(s)
		if err != nil {
			return err
		}
		defer d.Close()
		devices[i] = d
	}
	a, b := devices[0].Queues()[0].FD(), devices[1].Queues()[0].FD()
	thread(func() error { return forward(a, b) })
	thread(func() error { return forward(b, a) })
	return answer(func() any { return struct{}{} })
}

// forward copies frames, each with its vnet header, until a device is gone.
func forward(from, to int) error {
	frame := make([]byte, 1<<16+64)
	at := uintptr(unsafe.Pointer(&frame[0]))
	waiting := [1]unix.PollFd{{Fd: int32(from), Events: unix.POLLIN}}
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(from), at, uintptr(len(frame)))
		switch errno {
		case 0:
			// A frame that the other end does not take is lost, as on a wire.
			_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(to), at, n)
		case unix.EINTR:
		case unix.EAGAIN:
			_, _, _ = unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&waiting[0])), 1, 0, 0, 0, 0)
		default:
			return errors.Join(errors.New("tap-loop: a device is gone"), errno)
		}
	}
}
