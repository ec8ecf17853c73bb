//go:build linux

package afpacket

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/port"
)

const (
	ethHdrLen = 14
	// fewLong is how many frames one system call moves where frames are long. Calls
	// are raw: a garbage collection waits for one, so none may take long.
	fewLong = 8
	// long is where a frame's bytes cost more than its system call.
	long = 4096
	// maxRefused is how many frames that the kernel could not describe one Read
	// passes over.
	maxRefused = 64
)

// queue is a packet socket to receive from, one to send to, and the way for tunnel
// superpackets. System calls are raw, as those of a TAP: both sockets are
// non-blocking, and sending runs the device's transmit function to its end.
type queue struct {
	in, out  int
	tunnel   int // descriptor of the private TAP; -1: none
	features port.Features

	// Read's goroutine only.
	batch batch
	most  int // messages of the next system call
	down  bool

	cut, refused atomic.Uint64 // written by Read's goroutine
}

// message is struct mmsghdr of <sys/socket.h>.
type message struct {
	header unix.Msghdr
	length uint32
}

// batch is the argument of recvmmsg and sendmmsg.
type batch struct {
	messages [port.BatchSize]message
	vectors  [port.BatchSize]unix.Iovec
}

func newQueue(in, out, tunnel int, features port.Features) *queue {
	q := &queue{in: in, out: out, tunnel: tunnel, features: features, most: port.BatchSize}
	for i := range q.batch.messages {
		q.batch.messages[i].header.Iov = &q.batch.vectors[i]
		q.batch.messages[i].header.SetIovlen(1)
	}
	return q
}

// FD implements port.Queue.
func (q *queue) FD() int { return q.in }

// Read implements port.Queue. The vnet header goes into the headroom just in front
// of each frame. A device that is down has no frames; it goes on when it is up.
func (q *queue) Read(frames []*port.Frame) (int, error) {
	n, refused := 0, 0
	for n < len(frames) {
		want := min(len(frames)-n, q.most)
		got, errno := q.receive(frames[n : n+want])
		switch errno {
		case 0:
			kept, bytes := q.finish(frames[n:n+want], got)
			n += kept
			q.most = port.BatchSize
			if bytes > got*long {
				q.most = fewLong
			}
			if got < want {
				return n, nil
			}
		case unix.EINTR:
		case unix.EINVAL: // a kind of superpacket that a vnet header has no word for
			q.refused.Add(1)
			if refused++; refused == maxRefused {
				return n, nil
			}
		default: // EAGAIN; ENETDOWN, once, where the device went down
			q.down = q.down || errno != unix.EAGAIN
			if n == 0 && q.down && unbound(q.in) {
				return 0, port.ErrGone
			}
			return n, nil
		}
	}
	return n, nil
}

// receive fills frames from the socket, in one system call.
func (q *queue) receive(frames []*port.Frame) (int, unix.Errno) {
	for i, f := range frames {
		buf := f.Buf[port.Headroom-port.VnetLen:]
		q.batch.vectors[i].Base = unsafe.SliceData(buf)
		q.batch.vectors[i].SetLen(len(buf))
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(q.in),
		uintptr(unsafe.Pointer(&q.batch.messages)), uintptr(len(frames)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// finish makes frames of what the first got messages brought, and returns how many
// are whole, and their bytes. One that did not fit is counted and left out.
func (q *queue) finish(frames []*port.Frame, got int) (kept, bytes int) {
	if got > 0 {
		q.down = false
	}
	for i, from := range frames[:got] {
		m := &q.batch.messages[i]
		if m.header.Flags&unix.MSG_TRUNC != 0 || m.length < port.VnetLen+ethHdrLen {
			q.cut.Add(1)
			continue
		}
		f, end := frames[kept], port.Headroom-port.VnetLen+int(m.length)
		if f != from {
			copy(f.Buf[port.Headroom-port.VnetLen:end], from.Buf[port.Headroom-port.VnetLen:end])
		}
		f.Reset()
		f.End = end
		f.Offload = port.DecodeVnet((*[port.VnetLen]byte)(f.Buf[port.Headroom-port.VnetLen:]))
		bytes += f.Len()
		kept++
	}
	return kept, bytes
}

// Write implements port.Queue. Frames go through the socket, as many in a row as
// there are; tunnel superpackets go one by one through the TAP, which has passed
// them on to the device when its write returns: order is kept. Sent means that the
// kernel took the frame; what the TAP hands to a device that is down is lost there.
func (q *queue) Write(frames []*port.Frame) {
	for len(frames) > 0 {
		n := run(frames)
		if n == 0 {
			n = 1
			frames[0].Lost = q.writeTunnel(frames[0])
		} else {
			q.send(frames[:n])
		}
		frames = frames[n:]
	}
}

// run returns how many frames at the front may share a system call of the socket.
func run(frames []*port.Frame) int {
	bytes := 0
	for i, f := range frames {
		if i == port.BatchSize || bytes >= fewLong*port.MaxFrame || isTunnel(f) {
			return i
		}
		bytes += f.Len()
	}
	return len(frames)
}

func isTunnel(f *port.Frame) bool {
	return f.Offload.GSOType&(port.GSOTunnelIPv4|port.GSOTunnelIPv6) != 0
}

// send sends up to BatchSize frames through the socket. Several goroutines may, so
// the batch is the caller's own.
func (q *queue) send(frames []*port.Frame) {
	var b batch
	var of [port.BatchSize]*port.Frame // the frame of each message
	n := 0
	for _, f := range frames {
		buf := q.encode(f, port.VnetLen)
		if buf == nil {
			f.Lost = port.LostRejected
			continue
		}
		f.Lost = port.Sent
		b.vectors[n].Base = unsafe.SliceData(buf)
		b.vectors[n].SetLen(len(buf))
		// Not by a method of batch: b would have to be on the heap.
		b.messages[n].header.Iov = &b.vectors[n]
		b.messages[n].header.SetIovlen(1)
		of[n] = f
		n++
	}
	for i := 0; i < n; {
		sent, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(q.out),
			uintptr(unsafe.Pointer(&b.messages[i])), uintptr(n-i), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0: // what stopped it, if anything, the next call tells
			i += int(sent)
		case unix.EINTR:
		case unix.EAGAIN, unix.ENETDOWN, unix.ENXIO, unix.ENODEV: // about the socket, not the frame
			for ; i < n; i++ {
				of[i].Lost = lost(errno)
			}
		default:
			of[i].Lost = lost(errno)
			i++
		}
	}
}

// writeTunnel sends one frame through the TAP.
func (q *queue) writeTunnel(f *port.Frame) port.Lost {
	buf := q.encode(f, port.VnetTunnelLen)
	if buf == nil {
		return port.LostRejected
	}
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(q.tunnel),
			uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)))
		if errno != unix.EINTR {
			return lost(errno)
		}
	}
}

// encode builds a vnet header of n bytes in the headroom of f and returns what is
// to be written, nil for a frame that the device cannot take.
func (q *queue) encode(f *port.Frame, n int) []byte {
	if f.Start < n || f.Len() < ethHdrLen || !q.features.Accepts(f.Offload) {
		return nil
	}
	buf := f.Buf[f.Start-n : f.End]
	if !port.EncodeVnet(buf[:n], f) {
		return nil
	}
	return buf
}

// lost says what a failed send means (packet_snd and tun_get_user in the kernel).
func lost(errno unix.Errno) port.Lost {
	switch errno {
	case 0:
		return port.Sent
	case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
		return port.LostFull
	case unix.ENETDOWN, unix.ENXIO, unix.ENODEV, unix.EIO, unix.EBADFD, unix.EBADF: // EIO: the TAP is down
		return port.LostDown
	}
	return port.LostRejected // EINVAL: the header; EMSGSIZE: longer than the MTU
}
