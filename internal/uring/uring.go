//go:build linux

// Package uring writes batches of buffers in one system call each, with io_uring
// (io_uring(7)). It is for descriptors whose writes never wait, as a TAP's: the
// kernel carries a batch out, one write after the other in the order given, before
// the call returns. There are no completions to wait for, no threads of the kernel,
// and nothing outlives a batch.
package uring

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MaxEntries is the most writes a ring can be made for.
const MaxEntries = 256

// Ring is a submission and a completion ring that the kernel shares with us. It
// belongs to one goroutine at a time, on whatever thread. Nothing allocates after
// New.
type Ring struct {
	fd   int
	mem  []byte // both rings
	sqes []sqe  // in memory of their own

	sqTail, sqMask         *uint32
	cqHead, cqTail, cqMask *uint32
	cqes                   []cqe

	n       int // writes added since the last Submit
	tail    uint32
	buffers []unsafe.Pointer // of the batch in hand: the SQEs hide them from the collector
	results []int32
}

// New returns a ring for batches of up to entries writes, 1 to MaxEntries. It
// fails where the kernel is older than 5.18 or io_uring is not to be had:
// sysctl kernel.io_uring_disabled, a seccomp filter, no memory.
func New(entries int) (*Ring, error) {
	if entries < 1 || entries > MaxEntries {
		return nil, fmt.Errorf("io_uring: %d entries; must be 1 to %d", entries, MaxEntries)
	}
	p := params{flags: setupSubmitAll}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("io_uring_setup: %w", errno)
	}
	r := &Ring{
		fd:      int(fd),
		buffers: make([]unsafe.Pointer, entries),
		results: make([]int32, entries),
	}
	const need = featSingleMmap | featNoDrop
	if p.features&need != need {
		return nil, errors.Join(fmt.Errorf("io_uring: features %#x; need %#x", p.features, need), r.Close())
	}
	if err := r.share(&p); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	if _, errno := r.enter(0); errno != 0 { // a filter may forbid this one alone
		return nil, errors.Join(fmt.Errorf("io_uring_enter: %w", errno), r.Close())
	}
	return r, nil
}

// share maps the rings.
func (r *Ring) share(p *params) error {
	const protection, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	size := max(uintptr(p.sq.array)+4*uintptr(p.sqEntries), uintptr(p.cq.cqes)+cqeSize*uintptr(p.cqEntries))
	mem, err := unix.Mmap(r.fd, offRings, int(size), protection, flags)
	if err != nil {
		return fmt.Errorf("io_uring: map rings: %w", err)
	}
	r.mem = mem
	raw, err := unix.Mmap(r.fd, offSQEs, int(sqeSize*uintptr(p.sqEntries)), protection, flags)
	if err != nil {
		return fmt.Errorf("io_uring: map requests: %w", err)
	}
	r.sqes = unsafe.Slice((*sqe)(unsafe.Pointer(unsafe.SliceData(raw))), p.sqEntries)
	word := func(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&mem[offset])) }
	r.sqTail, r.sqMask = word(p.sq.tail), word(p.sq.ringMask)
	r.cqHead, r.cqTail, r.cqMask = word(p.cq.head), word(p.cq.tail), word(p.cq.ringMask)
	r.cqes = unsafe.Slice((*cqe)(unsafe.Pointer(&mem[p.cq.cqes])), p.cqEntries)
	for i := range p.sqEntries {
		*word(p.sq.array + 4*i) = i // slot i of the ring is request i, for good
	}
	return nil
}

// enter submits n writes and waits for none of them: a raw system call, for it takes
// no longer than the writes themselves.
func (r *Ring) enter(n int) (int, unix.Errno) {
	done, _, errno := unix.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(n), 0, 0, 0, 0)
	return int(done), errno
}

// Size returns the most writes of one batch.
func (r *Ring) Size() int { return len(r.results) }

// Write adds a write of b to fd, which Submit carries out. At most Size of them are
// added between two calls of Submit.
func (r *Ring) Write(fd int, b []byte) {
	at := unsafe.Pointer(unsafe.SliceData(b))
	r.buffers[r.n] = at
	r.sqes[r.tail&*r.sqMask] = sqe{
		opcode: opWrite, fd: int32(fd), addr: uint64(uintptr(at)), len: uint32(len(b)),
		rwFlags: rwfNowait, userData: uint64(r.n),
	}
	r.tail++
	r.n++
}

// Submit carries out the writes added since the last call, in order, and returns
// their results: bytes written, or a negative errno (EAGAIN: it would have to
// wait). They are valid until the next Submit. There are fewer results than writes
// where the kernel took no more; the others are not done.
func (r *Ring) Submit() []int32 {
	atomic.StoreUint32(r.sqTail, r.tail)
	done := 0
	for done < r.n {
		n, errno := r.enter(r.n - done)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 || n == 0 {
			break
		}
		done += n
	}
	if done < r.n { // take the others back
		r.tail -= uint32(r.n - done)
		atomic.StoreUint32(r.sqTail, r.tail)
	}
	r.reap(done)
	runtime.KeepAlive(r.buffers)
	clear(r.buffers[:r.n])
	r.n = 0
	return r.results[:done]
}

// reap collects n results. They are all there already: every write says
// RWF_NOWAIT. Were one not, its buffer could not be given back, so it is waited
// for, with an ordinary system call.
func (r *Ring) reap(n int) {
	head := *r.cqHead
	for n > 0 {
		tail := atomic.LoadUint32(r.cqTail)
		for ; head != tail; head++ {
			c := &r.cqes[head&*r.cqMask]
			r.results[c.userData] = c.res
			n--
		}
		atomic.StoreUint32(r.cqHead, head)
		if n > 0 {
			_, _, _ = unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), 0, 1, enterGetEvents, 0, 0)
		}
	}
}

// Close gives the ring back. It must not be used afterwards.
func (r *Ring) Close() error {
	var err error
	if r.sqes != nil {
		at := (*byte)(unsafe.Pointer(unsafe.SliceData(r.sqes)))
		err = unix.Munmap(unsafe.Slice(at, uintptr(len(r.sqes))*sqeSize))
	}
	if r.mem != nil {
		err = errors.Join(err, unix.Munmap(r.mem))
	}
	if err = errors.Join(err, unix.Close(r.fd)); err != nil {
		return fmt.Errorf("io_uring: close: %w", err)
	}
	return nil
}
