//go:build linux

package uring

import "unsafe"

// The kernel's interface, from <linux/io_uring.h>.
const (
	opWrite = 23 // IORING_OP_WRITE

	// setupSubmitAll: a refused request does not keep those behind it back. It also
	// makes sure of Linux 5.18, and with it of TAPs that know rwfNowait (5.11).
	setupSubmitAll = 1 << 7

	enterGetEvents = 1 << 0

	featSingleMmap = 1 << 0
	featNoDrop     = 1 << 1

	offRings = 0          // IORING_OFF_SQ_RING: both rings, with featSingleMmap
	offSQEs  = 0x10000000 // IORING_OFF_SQES

	// rwfNowait (<linux/fs.h> RWF_NOWAIT): what would have to wait is -EAGAIN.
	// Without it the kernel would hand such a request to a thread of its own, also
	// where the descriptor is non-blocking.
	rwfNowait = 8
)

// sqe is struct io_uring_sqe, as far as a write uses it.
type sqe struct {
	opcode   uint8
	flags    uint8
	ioprio   uint16
	fd       int32
	off      uint64
	addr     uint64
	len      uint32
	rwFlags  uint32
	userData uint64
	_        [3]uint64
}

// cqe is struct io_uring_cqe.
type cqe struct {
	userData uint64
	res      int32
	flags    uint32
}

// params is struct io_uring_params.
type params struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFd uint32

	_  [3]uint32
	sq struct {
		head, tail, ringMask, ringEntries, flags, dropped, array, _ uint32

		userAddr uint64
	}
	cq struct {
		head, tail, ringMask, ringEntries, overflow, cqes, flags, _ uint32

		userAddr uint64
	}
}

const (
	sqeSize = unsafe.Sizeof(sqe{})
	cqeSize = unsafe.Sizeof(cqe{})
)
