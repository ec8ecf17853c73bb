package memory

import (
	"sync/atomic"

	"github.com/vrouter-go/vrouter/internal/port"
)

// cacheLine keeps the two ends of a ring apart, so that they do not slow each
// other down.
const cacheLine = 64

// ring is a bounded queue of frames by copy, lock-free for one producer and one
// consumer. The slots' buffers grow to the longest frame they have held: after
// that nothing allocates.
type ring struct {
	slots []slot
	mask  uint64
	_     [cacheLine]byte
	head  atomic.Uint64 // next to pop; written by the consumer
	_     [cacheLine]byte
	tail  atomic.Uint64 // next to push; written by the producer
	_     [cacheLine]byte
}

type slot struct {
	bytes   []byte
	offload port.Offload
	time    int64
}

// newRing returns a ring of depth slots, a power of two.
func newRing(depth int) *ring {
	return &ring{slots: make([]slot, depth), mask: uint64(depth - 1)}
}

// push copies f in; false when the ring is full.
func (r *ring) push(f *port.Frame) bool {
	tail := r.tail.Load()
	if tail-r.head.Load() == uint64(len(r.slots)) {
		return false
	}
	s := &r.slots[tail&r.mask]
	s.bytes = append(s.bytes[:0], f.Bytes()...)
	s.offload, s.time = f.Offload, f.Time
	r.tail.Store(tail + 1)
	return true
}

// popAll copies the oldest frames out and returns how many.
func (r *ring) popAll(frames []*port.Frame) int {
	head := r.head.Load()
	n := min(uint64(len(frames)), r.tail.Load()-head)
	for i := range n {
		s, f := &r.slots[(head+i)&r.mask], frames[i]
		f.Reset()
		f.End = port.Headroom + copy(f.Buf[port.Headroom:], s.bytes)
		f.Offload, f.Time = s.offload, s.time
	}
	r.head.Store(head + n)
	return int(n)
}
