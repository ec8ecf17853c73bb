//go:build linux

package uring

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func newRing(t testing.TB, entries int) *Ring {
	t.Helper()
	r, err := New(entries)
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

// sockets returns two ends that carry whole messages and never wait: what a TAP
// is, without privileges.
func sockets(t testing.TB) (a, b int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return fds[0], fds[1]
}

// message returns message n: as long as its number says, so that lengths are
// told apart too.
func message(n int) []byte {
	return bytes.Repeat([]byte{byte(n)}, 1+n%50)
}

// expect reads messages first to last with plain system calls: a second witness.
func expect(t *testing.T, fd, first, last int) {
	t.Helper()
	buf := make([]byte, 100)
	for i := first; i <= last; i++ {
		n, err := unix.Read(fd, buf)
		if err != nil || !bytes.Equal(buf[:n], message(i)) {
			t.Fatalf("message %d: %x, %v", i, buf[:max(n, 0)], err)
		}
	}
}

func TestWritesKeepTheirOrder(t *testing.T) {
	r := newRing(t, 16)
	a, b := sockets(t)
	sent := 0
	for round := range 100 { // the ring turns over many times
		n := round%r.Size() + 1
		for i := range n {
			r.Write(a, message(sent+i))
		}
		results := r.Submit()
		if len(results) != n {
			t.Fatalf("%d results of %d requests", len(results), n)
		}
		for i, got := range results {
			if int(got) != len(message(sent+i)) {
				t.Fatalf("message %d: result %d", sent+i, got)
			}
		}
		expect(t, b, sent, sent+n-1)
		sent += n
	}
}

func TestARefusedRequestKeepsNoOtherBack(t *testing.T) {
	r := newRing(t, 8)
	a, b := sockets(t)
	r.Write(a, message(0))
	r.Write(-1, message(9))
	r.Write(a, message(1))
	r.Write(a, message(2))
	want := []int32{1, -int32(unix.EBADF), 2, 3}
	if got := r.Submit(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("results %d; want %d", got, want)
	}
	expect(t, b, 0, 2)
}

// What finds no room is refused, in its place, and not tried again behind our back.
func TestAFullDescriptorIsNotWaitedFor(t *testing.T) {
	r := newRing(t, 64)
	a, b := sockets(t)
	sent, refused := 0, 0
	for refused == 0 && sent < 1<<16 {
		for i := range r.Size() {
			r.Write(a, message(sent+i))
		}
		for i, n := range r.Submit() {
			switch {
			case n == -int32(unix.EAGAIN):
				refused++
			case n < 0:
				t.Fatal(unix.Errno(-n))
			case refused > 0:
				t.Fatalf("request %d went through behind one that was refused", i)
			default:
				sent++
			}
		}
	}
	if refused == 0 {
		t.Fatal("the socket never filled up")
	}
	expect(t, b, 0, sent-1)
	if n, err := unix.Read(b, make([]byte, 100)); err != unix.EAGAIN {
		t.Errorf("after all that was sent: %d, %v", n, err)
	}
}

func TestNothingAllocates(t *testing.T) {
	r := newRing(t, 16)
	a, b := sockets(t)
	out, in := message(20), make([]byte, 100)
	if n := testing.AllocsPerRun(100, func() {
		for range 8 {
			r.Write(a, out)
		}
		for _, n := range r.Submit() {
			if got, err := unix.Read(b, in); int(n) != len(out) || got != len(out) || err != nil {
				t.Fatal(n, got, err)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// The ring keeps a buffer from the collector until it has been used, no longer.
func TestBuffersLiveUntilTheyAreUsed(t *testing.T) {
	r := newRing(t, 4)
	a, _ := sockets(t)
	var collected atomic.Bool
	func() {
		b := make([]byte, 1<<16)
		runtime.AddCleanup(&b[0], func(int) { collected.Store(true) }, 0)
		r.Write(a, b)
	}()
	for range 3 {
		runtime.GC()
	}
	if collected.Load() {
		t.Fatal("the buffer was collected before it was written")
	}
	if n := r.Submit()[0]; n != 1<<16 {
		t.Fatal(n)
	}
	for end := time.Now().Add(20 * time.Second); !collected.Load(); runtime.GC() {
		if time.Now().After(end) {
			t.Fatal("the ring still holds the buffer")
		}
	}
}

// The kernel would never do this of itself: a request goes to one of its threads.
func TestALateResultIsWaitedFor(t *testing.T) {
	r := newRing(t, 4)
	a, b := sockets(t)
	for i := range 100 {
		for j := range 4 {
			r.Write(a, message(i))
			if j%2 == 1 {
				r.sqes[(r.tail-1)&*r.sqMask].flags = 1 << 4 // IOSQE_ASYNC
			}
		}
		for _, n := range r.Submit() {
			if int(n) != len(message(i)) {
				t.Fatal(n)
			}
		}
		for range 4 {
			expect(t, b, i, i)
		}
	}
}

// Without a kernel that takes them, requests have no result and leave no trace.
func TestABrokenRing(t *testing.T) {
	r := newRing(t, 4)
	a, b := sockets(t)
	fd := r.fd
	r.fd = -1
	r.Write(a, message(1))
	r.Write(a, message(2))
	if got := r.Submit(); len(got) != 0 {
		t.Errorf("results %d", got)
	}
	r.fd = fd
	r.Write(a, message(3))
	if got := r.Submit(); len(got) != 1 || got[0] != 4 {
		t.Errorf("results %d; want one", got)
	}
	expect(t, b, 3, 3)
}

func TestSizes(t *testing.T) {
	for _, n := range []int{-1, 0, MaxEntries + 1} {
		if _, err := New(n); err == nil {
			t.Errorf("New(%d) worked", n)
		}
	}
	for _, n := range []int{1, 3, MaxEntries} {
		if got := newRing(t, n).Size(); got != n {
			t.Errorf("a ring for %d has room for %d", n, got)
		}
	}
	if sqeSize != 64 || cqeSize != 16 || unsafe.Sizeof(params{}) != 120 {
		t.Errorf("sizes %d, %d, %d; the kernel's are 64, 16, 120", sqeSize, cqeSize, unsafe.Sizeof(params{}))
	}
}

// Where a seccomp filter forbids io_uring, as container runtimes do, New says so.
// The filter cannot be taken off again: a process of its own has it.
func TestForbiddenBySeccomp(t *testing.T) {
	const env = "URING_TEST_FORBID"
	calls := map[string]uint32{"setup": unix.SYS_IO_URING_SETUP, "enter": unix.SYS_IO_URING_ENTER}
	if call, child := calls[os.Getenv(env)]; child {
		if err := forbid(call); err != nil {
			t.Skipf("SKIP-TOOL: %v", err)
		}
		if _, err := New(4); !errors.Is(err, unix.EPERM) {
			t.Errorf("New: %v; want EPERM", err)
		}
		return
	}
	newRing(t, 4)
	for call := range calls {
		cmd := exec.Command(os.Args[0], "-test.run=^TestForbiddenBySeccomp$", "-test.v")
		cmd.Env = append(os.Environ(), env+"="+call)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", call, err, out)
		}
	}
}

// forbid makes a system call fail with EPERM in all threads, for good.
func forbid(call uint32) error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program))); errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}
