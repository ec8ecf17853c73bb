// Package pcap is a port over capture files: it reads frames from one and writes
// what the forwarder sends to another. Replay drives it: capture times are the
// clock, and the same input gives the same output, byte for byte.
package pcap

import (
	"io"

	"github.com/vrouter-go/vrouter/internal/port"
)

// Config says what a Device is like.
type Config struct {
	Name string
	In   *Reader // frames to receive; nil: none. Closed with the Device
	Out  *Writer // where frames go; nil: nowhere. Closed with the Device
	// Gated holds frames back until Admit lets them through, so that several
	// devices can be merged by time.
	Gated bool
}

// Device is a port.Device with one queue, over capture files. It takes plain
// frames only (Features is 0), so that a file never holds a partial checksum. All
// methods and the queue belong to one goroutine.
type Device struct {
	name   string
	q      queue
	queues []port.Queue // &q
}

type queue struct {
	in        *Reader
	out       *Writer
	gated     bool
	admitted  int   // frames that Read may still return, if gated
	now       int64 // time of sent frames that have none
	truncated int
	err       error // first failure of either file
}

// New returns a Device over c's files.
func New(c Config) *Device {
	d := &Device{name: c.Name, q: queue{in: c.In, out: c.Out, gated: c.Gated}}
	d.queues = []port.Queue{&d.q}
	return d
}

// Name implements port.Device.
func (d *Device) Name() string { return d.name }

// Features implements port.Device.
func (d *Device) Features() port.Features { return 0 }

// Queues implements port.Device.
func (d *Device) Queues() []port.Queue { return d.queues }

// Peek returns the capture time of the next frame; false when there is none.
func (d *Device) Peek() (ns int64, ok bool) {
	if d.q.in == nil {
		return 0, false
	}
	p, err := d.q.in.Peek()
	return p.Time, err == nil
}

// Admit lets Read return n more frames of a gated device.
func (d *Device) Admit(n int) { d.q.admitted += n }

// SetTime sets the time, in ns since the epoch, that sent frames without one get.
func (d *Device) SetTime(ns int64) { d.q.now = ns }

// Truncated returns how many frames were received cut short by their capture.
func (d *Device) Truncated() int { return d.q.truncated }

// Err returns the first error of reading or writing; reaching the end is none.
func (d *Device) Err() error { return d.q.err }

// Close implements port.Device: it closes both files and returns Err or the first
// error of closing.
func (d *Device) Close() error {
	err := d.q.err
	if d.q.in != nil {
		if cerr := d.q.in.Close(); err == nil {
			err = cerr
		}
	}
	if d.q.out != nil {
		if cerr := d.q.out.Close(); err == nil {
			err = cerr
		}
	}
	d.q.in, d.q.out = nil, nil
	return err
}

// FD implements port.Queue: files are not polled.
func (q *queue) FD() int { return -1 }

// Read implements port.Queue. A file that cannot be read on ends the queue with
// its error, after the frames before it.
func (q *queue) Read(frames []*port.Frame) (int, error) {
	if q.gated {
		frames = frames[:min(len(frames), q.admitted)]
	}
	if q.in == nil {
		return 0, nil
	}
	for n, f := range frames {
		p, err := q.in.Next()
		if err != nil && err != io.EOF {
			q.fail(err)
			if n == 0 {
				return 0, err
			}
		}
		if err != nil {
			return n, nil
		}
		f.Reset()
		f.End = f.Start + copy(f.Buf[f.Start:], p.Data)
		f.Time = p.Time
		q.admitted--
		if p.Truncated() {
			q.truncated++
		}
	}
	return len(frames), nil
}

// Write implements port.Queue.
func (q *queue) Write(frames []*port.Frame) {
	for _, f := range frames {
		f.Lost = q.writeOne(f)
	}
}

func (q *queue) writeOne(f *port.Frame) port.Lost {
	if f.Len() < ethHdrLen || !port.Features(0).Accepts(f.Offload) {
		return port.LostRejected
	}
	if q.out == nil {
		return port.Sent
	}
	ns := f.Time
	if ns == 0 {
		ns = q.now
	}
	if err := q.out.Write(ns, f.Bytes()); err != nil {
		q.fail(err)
		return port.LostDown
	}
	return port.Sent
}

func (q *queue) fail(err error) {
	if q.err == nil {
		q.err = err
	}
}

const ethHdrLen = 14
