//go:build linux

package memory

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/port"
)

// Frames that come between a reader's two looks, more than it has room for, are not
// forgotten: the descriptor stays readable as long as any is left.
func TestReaderIsToldOfWhatItLeaves(t *testing.T) {
	d, err := New(Config{Poll: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	f := port.NewFrame()
	f.End = f.Start + 60
	if n := d.Inject(0, f, f, f, f, f); n != 5 {
		t.Fatal(n)
	}
	q, frames := d.queues[0].(*queue), port.NewFrames(2)
	for left := 5; left > 0; {
		poll := []unix.PollFd{{Fd: int32(q.FD()), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, 0); n != 1 {
			t.Fatalf("%d frames are left, and nobody is told: %v", left, err)
		}
		left -= q.again(frames)
	}
}
