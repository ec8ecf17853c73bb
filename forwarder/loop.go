package forwarder

import (
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/vrouter-go/vrouter/internal/port"
)

const (
	// idleSleep bounds a sleep while fragments wait for their timeout.
	idleSleep = 100 * time.Millisecond
	// spareFrames is how many frames a worker has beside its batch, for
	// replies, segments and held fragments. Their memory is touched only when
	// they are used.
	spareFrames = 512
)

// newWorker returns a worker with its buffers and descriptors.
func newWorker(f *Forwarder, id int) (*Worker, error) {
	poller, err := port.NewPoller()
	if err != nil {
		return nil, err
	}
	w := &Worker{fwd: f, id: id, flows: f.flows, reader: f.flows.NewReader(), poller: poller}
	copy(w.rx[:], port.NewFrames(len(w.rx)))
	w.spare = make([]*port.Frame, 0, spareFrames)
	w.lent = make([]*port.Frame, 0, spareFrames)
	w.dirty = make([]uint16, 0, MaxPorts)
	for range spareFrames {
		w.spare = append(w.spare, port.NewFrame())
	}
	w.fragments = newFragmentTable()
	w.reader.Offline()
	return w, nil
}

// close frees the worker's descriptors.
func (w *Worker) close() error {
	w.reader.Close()
	return w.poller.Close()
}

// run is the worker's goroutine: serve what is ready, look for more as long as
// that pays, sleep.
func (w *Worker) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	w.reader.Online()
	defer w.reader.Offline()
	idle, since := false, int64(0) // since when there were no packets
	for !w.stopped.Load() {
		if w.requests.pending.Load() {
			w.serveRequests()
		}
		if w.serveReady(0) {
			idle = false
			continue
		}
		w.reader.Quiesce()
		now := w.fwd.clock()
		if !idle {
			idle, since = true, now
		}
		if !w.patience.looks(since, now) && w.sleep(since) {
			idle = false
		}
	}
}

// sleep waits for a queue, a request or the end, and reports whether there were
// packets. since is when the last ones were. The flow table does not wait for a
// sleeping worker.
//
// The worker looks once more whether it was called: the last look for packets
// may have taken the wake-up away. A call that comes later wakes the poller.
func (w *Worker) sleep(since int64) bool {
	if w.stopped.Load() || w.requests.pending.Load() {
		return false
	}
	w.begin()
	w.expireFragments(w.now)
	timeout := time.Duration(-1)
	if w.fragments.busy() {
		timeout = idleSleep
	}
	w.reader.Offline()
	n, err := w.poller.Wait(w.ready[:], timeout)
	w.reader.Online()
	if err != nil {
		n = 0 // an interrupted or broken wait is retried by the loop
	}
	if n == 0 {
		w.patience.looked = w.fwd.clock() // it slept, nobody took its turn
		return false
	}
	now := w.fwd.clock()
	w.serve(w.ready[:n])
	w.patience.woken(now-since, now)
	return true
}

// serveReady serves the queues that are readable and reports whether there were
// any.
func (w *Worker) serveReady(timeout time.Duration) bool {
	n, err := w.poller.Wait(w.ready[:], timeout)
	if err != nil || n == 0 {
		return false
	}
	w.serve(w.ready[:n])
	return true
}

// serve reads one batch from each of the queues: a queue that has more is
// reported again, behind the others.
func (w *Worker) serve(tokens []port.Token) {
	for _, token := range tokens {
		w.serveQueue(int(token))
	}
}

// step serves every queue once, for callers without descriptors to poll.
func (w *Worker) step() bool {
	w.reader.Online()
	defer w.reader.Offline()
	if w.requests.pending.Load() {
		w.serveRequests()
	}
	busy := false
	for token := range w.queues {
		busy = w.serveQueue(token) || busy
	}
	w.begin()
	w.expireFragments(w.now)
	return busy
}

// serveQueue reads one batch from a queue and processes it.
func (w *Worker) serveQueue(token int) bool {
	rq := w.queues[token]
	if rq.q == nil {
		return false
	}
	n, err := rq.q.Read(w.rx[:])
	if n > 0 {
		w.guarded(rq.port, n)
	}
	if err != nil {
		w.dropQueue(token) // the device is gone; the control path attaches it again when it returns
	}
	return n > 0
}

// guarded processes a batch and survives a panic, which is a bug: what was left
// of the batch is dropped with a reason of its own and the worker goes on.
func (w *Worker) guarded(in uint16, n int) {
	w.turn.Add(1)
	defer func() {
		v := recover()
		if v == nil {
			w.turn.Add(1)
			return
		}
		w.panics.Add(1)
		for i := range w.packets[:n] {
			if p := &w.packets[i]; p.fate != fateDone {
				w.drop(p, DropWorkerPanic)
			}
		}
		for _, p := range [...]*packet{&w.fragments.released, &w.bundled, &w.copied} {
			if p.frame != nil && p.fate != fateDone {
				w.drop(p, DropWorkerPanic)
				w.lend(p.frame)
				p.frame = nil
			}
		}
		w.flush()
		w.reader.Quiesce()
		w.turn.Add(1)
		if w.fwd.onPanic != nil {
			w.fwd.onPanic(w.id, v, debug.Stack())
		}
	}()
	w.process(in, n)
}

// addQueue starts reading a queue.
func (w *Worker) addQueue(rq rxQueue) {
	token := slices.IndexFunc(w.queues, func(r rxQueue) bool { return r.q == nil })
	if token < 0 {
		token = len(w.queues)
		w.queues = append(w.queues, rxQueue{})
	}
	w.queues[token] = rq
	w.reading.Add(1)
	if fd := rq.q.FD(); fd >= 0 {
		if err := w.poller.Add(fd, port.Token(token)); err != nil {
			w.queues[token] = rxQueue{} // the descriptor is dead: the same as ErrGone
			w.reading.Add(-1)
		}
	}
}

// dropQueue stops reading a queue.
func (w *Worker) dropQueue(token int) {
	if fd := w.queues[token].q.FD(); fd >= 0 {
		_ = w.poller.Remove(fd) // it may be gone already
	}
	w.queues[token] = rxQueue{}
	w.reading.Add(-1)
}
