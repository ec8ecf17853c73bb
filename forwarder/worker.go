package forwarder

import (
	"sync/atomic"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/port"
)

// Worker moves packets from the queues it owns. It is one goroutine; everything
// in it is its own, but for the port counters, which it writes and others read,
// and the request list, which others write under its lock.
type Worker struct {
	fwd    *Forwarder
	id     int
	flows  *flowtable.Table
	reader *flowtable.Reader
	poller *port.Poller

	// The batch in hand. rx[i] and packets[i] belong together.
	rx      [port.BatchSize]*port.Frame
	packets [port.BatchSize]packet
	hashes  [port.BatchSize]uint64
	hints   [port.BatchSize]flowtable.Ref
	bundled packet // the part of a bundle that unbundle has in hand
	copied  packet // the copy that flood has in hand
	snap    *Snapshot
	now     uint32 // ticks of 100 ms since the forwarder's start
	nanos   int64  // the clock's reading for this batch

	// Receive queues by poller token, and output batches by port index.
	queues []rxQueue
	ready  [port.BatchSize]port.Token
	tx     [MaxPorts]*txPort
	dirty  []uint16 // ports whose output batch is not empty

	// spare are frames for what the worker itself sends; lent are those that
	// go back to spare after the flush.
	spare []*port.Frame
	lent  []*port.Frame

	counters [MaxPorts]atomic.Pointer[portCounters] // written by this worker alone
	limits   [MaxPorts]replyLimit                   // replies to the sources behind each port
	floods   [MaxPorts]floodLimit                   // copies of what came in by each port
	// overlayFloods are the same for what other nodes send, by VRF.
	overlayFloods [MaxPorts]floodLimit
	fragments     fragmentTable
	coalescer     coalescer
	decision      decision // scratch of the slow path
	lastOuter     lastOuter
	// backTunnel is the way back to another node that sendSegment has in hand.
	backTunnel tunnel
	policyLog  policyLog
	wanted     wantedList

	patience patience
	requests workerRequests
	turn     atomic.Uint64 // odd while a batch, and with it a snapshot, is in hand
	stopped  atomic.Bool
	panics   atomic.Uint64
	batches  atomic.Uint64
	moved    atomic.Uint64 // packets received
	reading  atomic.Int32  // queues
}

// rxQueue is a receive queue that the worker reads.
type rxQueue struct {
	q    port.Queue
	port uint16
}

// txPort is the worker's own queue of a port and the batch collected for it.
type txPort struct {
	q        port.Queue
	features port.Features
	prospect prospect
	n        int
	frames   [port.BatchSize]*port.Frame
}

// drop ends a packet. Every exit of the packet path that is not an output goes
// through here.
func (w *Worker) drop(p *packet, reason DropReason) {
	w.counters[p.in].Load().drops[reason].Add(1)
	p.fate = fateDone
}

// spareFrame returns an empty frame for a packet that the router makes, or nil
// when all are in use. The frame goes back by itself after the next flush, or by
// giveBack before it.
func (w *Worker) spareFrame() *port.Frame {
	if len(w.spare) == 0 {
		w.flush()
	}
	if len(w.spare) == 0 {
		return nil
	}
	f := w.spare[len(w.spare)-1]
	w.spare = w.spare[:len(w.spare)-1]
	f.Reset()
	return f
}

// lend marks a spare frame as being in an output batch until the flush.
func (w *Worker) lend(f *port.Frame) { w.lent = append(w.lent, f) }

// giveBack returns a spare frame that was not sent.
func (w *Worker) giveBack(f *port.Frame) { w.spare = append(w.spare, f) }

// enqueue appends a finished frame to the output batch of a port. It reports
// the reason when the port cannot take it.
func (w *Worker) enqueue(out uint16, f *port.Frame) DropReason {
	t := w.tx[out]
	if t == nil {
		return DropOutputGone
	}
	if t.n == len(t.frames) {
		w.flushPort(out, t)
	}
	if t.n == 0 {
		w.dirty = append(w.dirty, out)
	}
	t.frames[t.n] = f
	t.n++
	return DropUnknown
}

// generate sends a frame that the router made in answer to something that came
// in on port in: an ICMP error, a reset. f comes from spareFrame.
func (w *Worker) generate(in, out uint16, f *port.Frame) {
	c := w.counters[in].Load()
	c.generated.Add(1)
	w.lend(f)
	if reason := w.enqueue(out, f); reason != DropUnknown {
		c.drops[reason].Add(1)
	}
}

// generateFor is generate for an answer to a packet, which goes back where that
// came from.
func (w *Worker) generateFor(p *packet, f *port.Frame) {
	c := w.counters[p.in].Load()
	c.generated.Add(1)
	w.lend(f)
	if reason := w.sendBack(p, f); reason != DropUnknown {
		c.drops[reason].Add(1)
	}
}

// flush sends what the batch collected, port by port, and takes the lent frames
// back.
func (w *Worker) flush() {
	for _, out := range w.dirty {
		if t := w.tx[out]; t != nil {
			w.flushPort(out, t)
		}
	}
	w.dirty = w.dirty[:0]
	w.spare = append(w.spare, w.lent...)
	w.lent = w.lent[:0]
}

// lostReason says what each outcome of Queue.Write is called. Sent is no drop.
var lostReason = [...]DropReason{
	port.Sent:         DropUnknown,
	port.LostFull:     DropOutputFull,
	port.LostDown:     DropOutputDown,
	port.LostRejected: DropOutputRejected,
}

// flushPort writes one port's batch and counts the outcome. Losses on output
// are counted at the output port: that is where the operator must look.
func (w *Worker) flushPort(out uint16, t *txPort) {
	if t.n == 0 {
		return
	}
	frames := w.coalescer.batch(t.frames[:t.n], t.features, &t.prospect)
	t.q.Write(frames)
	c := w.counters[out].Load()
	w.coalescer.account(frames, c)
	var sent, bytes uint64
	for _, f := range frames {
		if f.Lost == port.Sent {
			sent++
			bytes += uint64(f.Len())
			continue
		}
		c.drops[lostReason[f.Lost]].Add(1)
	}
	c.txPackets.Add(sent)
	c.txBytes.Add(bytes)
	t.n = 0
}
