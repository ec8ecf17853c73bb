//go:build linux

package tap

import (
	"unsafe"

	"github.com/vrouter-go/vrouter/internal/port"
	"golang.org/x/sys/unix"
)

const ethHdrLen = 14

// queue is one descriptor of a TAP. Reads and writes are raw system calls: the
// scheduler is not told. The descriptor is non-blocking, a read copies one packet
// out of a ring, and a write runs the guest's receive path to its end and never
// waits for the guest, so neither can block. A garbage collection may have to wait
// for one, an estimated 5 to 20 µs for a superpacket.
type queue struct {
	fd       int
	hdr      int // bytes of vnet header in front of each frame: port.VnetMergeLen or 0
	features port.Features
	rings    *Rings // nil: each frame has its own write()
}

// FD implements port.Queue.
func (q *queue) FD() int { return q.fd }

// Read implements port.Queue. One read() moves a vnet header and a frame, the
// header into the headroom just in front of the frame.
func (q *queue) Read(frames []*port.Frame) (int, error) {
	for i := 0; i < len(frames); {
		f := frames[i]
		buf := f.Buf[port.Headroom-q.hdr:]
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(q.fd),
			uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)))
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN:
			return i, nil
		case errno != 0 && i > 0:
			return i, nil // the next Read says so again
		case errno != 0: // EBADFD: the device was deleted under us
			return 0, port.ErrGone
		}
		f.Reset()
		f.End = port.Headroom + max(int(n)-q.hdr, 0)
		if q.hdr != 0 {
			f.Offload = port.DecodeVnet((*[port.VnetLen]byte)(buf))
		}
		i++
	}
	return len(frames), nil
}

// Write implements port.Queue. Frames that are not long go through a ring, as many
// in a row as there are; all others by a write() each. Both send in order, and both
// have sent when they return.
func (q *queue) Write(frames []*port.Frame) {
	for len(frames) > 0 {
		n := q.ringBatch(frames)
		sent := 0
		if n >= minRingBatch {
			sent = q.writeRing(frames[:n])
		}
		n = max(n, 1)
		for _, f := range frames[sent:n] {
			f.Lost = q.writeOne(f)
		}
		frames = frames[n:]
	}
}

// ringBatch returns how many frames at the front could share a system call.
func (q *queue) ringBatch(frames []*port.Frame) int {
	if q.rings == nil {
		return 0
	}
	for i, f := range frames {
		if f.Len() > maxRingFrame || i == maxRingBatch {
			return i
		}
	}
	return len(frames)
}

// writeRing sends frames in one system call and returns for how many of them, from
// the front, it knows what became of them: none where all rings are in use.
func (q *queue) writeRing(frames []*port.Frame) int {
	ring := q.rings.take()
	if ring == nil {
		return 0
	}
	for _, f := range frames {
		buf := q.encode(f)
		if buf == nil {
			f.Lost = port.LostRejected
			continue
		}
		f.Lost = port.Sent
		ring.Write(q.fd, buf)
	}
	results := ring.Submit()
	for i, f := range frames {
		if f.Lost == port.LostRejected {
			continue
		}
		if len(results) == 0 { // the kernel took no more
			q.rings.give(ring)
			return i
		}
		if results[0] < 0 {
			f.Lost = lost(unix.Errno(-results[0]))
		}
		results = results[1:]
	}
	q.rings.give(ring)
	return len(frames)
}

// encode builds the vnet header of f in its headroom and returns what is to be
// written, nil for a frame that the device cannot take.
func (q *queue) encode(f *port.Frame) []byte {
	if f.Start < q.hdr || f.Len() < ethHdrLen || !q.features.Accepts(f.Offload) {
		return nil
	}
	buf := f.Buf[f.Start-q.hdr : f.End]
	if q.hdr != 0 && !port.EncodeVnet(buf[:q.hdr], f) {
		return nil
	}
	return buf
}

// writeOne sends one frame.
func (q *queue) writeOne(f *port.Frame) port.Lost {
	buf := q.encode(f)
	if buf == nil {
		return port.LostRejected
	}
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(q.fd),
			uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)))
		if errno != unix.EINTR {
			return lost(errno)
		}
	}
}

// lost says what a failed write() means (tun_get_user in the kernel).
func lost(errno unix.Errno) port.Lost {
	switch errno {
	case 0:
		return port.Sent
	case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
		return port.LostFull
	case unix.EIO, unix.EBADFD, unix.EBADF, unix.ENODEV: // EIO: the guest's end is down
		return port.LostDown
	}
	return port.LostRejected // EINVAL: the kernel does not like header or length
}
