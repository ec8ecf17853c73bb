//go:build linux

package tap

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/uring"
)

const (
	// minRingBatch is the fewest frames that a ring pays for: entering one costs
	// more than a plain write(), each frame in it a quarter less.
	minRingBatch = 6
	// maxRingBatch is the most frames of one system call. A garbage collection may
	// have to wait for it, some 150 µs where every frame reaches a socket; but
	// batches are long only where much is waiting anyway.
	maxRingBatch = port.BatchSize
	// maxRingFrame is the longest frame that goes through a ring, in bytes: a jumbo
	// frame. What a ring saves is little beside the copying of a superpacket, and
	// a batch of those would hold a garbage collection up for long.
	maxRingFrame = 9216
)

// Rings are the io_urings through which the devices of a process write batches of
// frames that are not long, one system call for a batch. They belong to no device
// and to no worker: a writer takes one that is free and gives it back. Where none
// is free it writes frame by frame. The zero value and nil have none.
//
// A ring knows no descriptor beyond a batch, so it has no part in the life of a
// device.
type Rings struct {
	list []*sharedRing
	// near has the ring that each processor used last: its memory is in that
	// processor's cache. The collector may empty it.
	near sync.Pool
}

// sharedRing is a ring and who has it.
type sharedRing struct {
	*uring.Ring
	busy atomic.Bool
}

// NewRings returns n rings, for as many writers at once; further ones write frame by
// frame. Where the kernel gives none, nil comes
// with the reason; writing works all the same.
func NewRings(n int) (*Rings, error) {
	r := &Rings{}
	for range n {
		ring, err := uring.New(maxRingBatch)
		if err != nil {
			_ = r.Close()
			return nil, fmt.Errorf("tap: no rings: %w", err)
		}
		r.list = append(r.list, &sharedRing{Ring: ring})
	}
	return r, nil
}

// Close frees the rings. No device may be writing then or later.
func (r *Rings) Close() error {
	if r == nil {
		return nil
	}
	var first error
	for _, s := range r.list {
		if err := s.Ring.Close(); err != nil && first == nil {
			first = err
		}
	}
	r.list = nil
	return first
}

// take returns a ring that is the caller's until give, or nil.
func (r *Rings) take() *sharedRing {
	if r == nil {
		return nil
	}
	if s, _ := r.near.Get().(*sharedRing); s != nil && s.busy.CompareAndSwap(false, true) {
		return s
	}
	for _, s := range r.list {
		if !s.busy.Load() && s.busy.CompareAndSwap(false, true) {
			return s
		}
	}
	return nil
}

func (r *Rings) give(s *sharedRing) {
	s.busy.Store(false)
	r.near.Put(s)
}
