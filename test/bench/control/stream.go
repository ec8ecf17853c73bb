//go:build linux

package control

import (
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Frames carry UDP from a client to a service, with who sent them and when
// behind the header: magic and stream, sequence number, Unix nanoseconds.
const (
	payloadSize = 24
	atUDP       = 14 + 20
	atPayload   = atUDP + 8
	magic       = 0x76727463_00000000
	firstPort   = 2000
)

// routerMAC is the vRouter's address on every link.
var routerMAC = [6]byte{0, 0, 0x5e, 0, 1, 0}

// frame is one packet on the wire.
type frame [frameSize]byte

// dress writes the headers of a frame from g to a service; port and payload
// follow for each one.
func (g *guest) dress(f *frame, to [4]byte) {
	copy(f[0:], routerMAC[:])
	copy(f[6:], g.mac[:])
	binary.BigEndian.PutUint16(f[12:], unix.ETH_P_IP)
	ip := f[14:34]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], frameSize-14)
	copy(ip[12:], g.addr[:])
	f.aim(to)
	binary.BigEndian.PutUint16(f[atUDP+2:], servicePort)
	binary.BigEndian.PutUint16(f[atUDP+4:], 8+payloadSize)
}

// aim gives a frame its destination, and the checksum that goes with it. The
// header before it is constant but for the source.
func (f *frame) aim(to [4]byte) {
	ip := f[14:34]
	copy(ip[16:], to[:])
	ip[10], ip[11] = 0, 0
	sum := uint32(0)
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum))
}

// turn makes a frame the answer to itself. Exchanged addresses leave the
// checksum as it is (RFC 1071 section 2); UDP has none here.
func (f *frame) turn() {
	var mac [6]byte
	copy(mac[:], f[0:6])
	copy(f[0:6], routerMAC[:])
	copy(f[6:12], mac[:])
	var addr [4]byte
	copy(addr[:], f[26:30])
	copy(f[26:30], f[30:34])
	copy(f[30:34], addr[:])
	f[atUDP], f[atUDP+1], f[atUDP+2], f[atUDP+3] = f[atUDP+2], f[atUDP+3], f[atUDP], f[atUDP+1]
}

// source is where the frames of a stream come from and go to.
type source struct {
	*guest
	rate  int // packets a second; 0 = as many as it can
	ports int // source ports, used in turn
	to    [4]byte
	// next, when given, turns the destination at every round of the ports.
	next func(round int) [4]byte
	// nice is the sender's priority, as nice(2) has it.
	nice int
}

// stream is packets that are sent, seen at a member and sent back. Its counters
// may be read at any time.
type stream struct {
	id       uint32
	sent     atomic.Int64 // put into the device's queue
	refused  atomic.Int64 // the queue was full, or nobody attached
	there    atomic.Int64 // seen by members
	back     atomic.Int64 // answers seen by the client
	lastBack atomic.Int64 // when the last one came, Unix nanoseconds

	mu     sync.Mutex
	delays []uint32 // nanoseconds from the client to a member; guarded by mu
	stop   atomic.Bool
	done   chan struct{}
	err    error // of the sender, once done is closed
}

// newStream returns a stream that is known apart from others.
func newStream() *stream {
	return &stream{id: uint32(time.Now().UnixNano()), done: make(chan struct{}), delays: make([]uint32, 0, 1<<20)}
}

// start sends frames until end is called.
func (x *stream) start(s source) {
	go func() {
		defer close(x.done)
		defer onThread(s.nice)()
		x.err = x.send(s)
	}()
}

// send sends what is due and sleeps in between.
func (x *stream) send(s source) error {
	b := newBatch()
	for i := range b.frames {
		s.dress(&b.frames[i], s.to)
	}
	began := time.Now()
	for n := int64(0); !x.stop.Load(); {
		due := int64(batchSize)
		if s.rate > 0 {
			due = min(int64(time.Since(began).Seconds()*float64(s.rate))-n, batchSize)
		}
		if due <= 0 {
			pause := unix.NsecToTimespec(int64(time.Second) / int64(s.rate))
			_ = unix.Nanosleep(&pause, nil) // an early return is as good
			continue
		}
		stamp := time.Now().UnixNano()
		for i := range b.frames[:due] {
			f, seq := &b.frames[i], n+int64(i)
			binary.BigEndian.PutUint16(f[atUDP:], uint16(firstPort+seq%int64(s.ports)))
			if s.next != nil {
				f.aim(s.next(int(seq / int64(s.ports))))
			}
			binary.BigEndian.PutUint64(f[atPayload:], magic|uint64(x.id))
			binary.BigEndian.PutUint64(f[atPayload+8:], uint64(seq))
			binary.BigEndian.PutUint64(f[atPayload+16:], uint64(stamp))
		}
		sent, err := s.guest.send(b, int(due))
		if err != nil {
			return err
		}
		n += due
		x.sent.Add(int64(sent))
		x.refused.Add(due - int64(sent))
	}
	return nil
}

// end stops the sender and waits for the last answers.
func (x *stream) end() error {
	x.stop.Store(true)
	<-x.done
	for deadline := time.Now().Add(time.Second); x.back.Load() < x.sent.Load() && time.Now().Before(deadline); {
		time.Sleep(2 * time.Millisecond)
	}
	return x.err
}

// lost is what went into the device's queue, or did not fit, and was not
// answered.
func (x *stream) lost() int64 { return x.sent.Load() + x.refused.Load() - x.back.Load() }

// sorted returns the delays in microseconds in order. The stream must have ended.
func (x *stream) sorted() []float64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	list := make([]float64, len(x.delays))
	for i, d := range x.delays {
		list[i] = float64(d) / 1000
	}
	slices.Sort(list)
	return list
}

// listener reads what comes to a guest and gives it to the stream that listens.
type listener struct {
	*guest
	member bool        // it notes delays, a client counts answers
	echo   atomic.Bool // a member sends back
	stream atomic.Pointer[stream]
	// alarm is called, once, with the arrival of the first packet after since.
	since atomic.Int64
	alarm chan int64

	stop atomic.Bool
	wg   sync.WaitGroup
	err  error // once closed
}

func listen(g *guest, member bool) *listener {
	l := &listener{guest: g, member: member, alarm: make(chan int64, 1)}
	l.echo.Store(member)
	l.wg.Go(func() {
		defer onThread(0)()
		b := newBatch()
		for !l.stop.Load() && l.err == nil {
			l.err = l.round(b)
		}
	})
	return l
}

// round takes one batch.
func (l *listener) round(b *batch) error {
	n, err := l.receive(b)
	if err != nil || n == 0 {
		return err
	}
	x := l.stream.Load()
	kept := 0
	for i := range b.frames[:n] {
		f := &b.frames[i]
		if x == nil || binary.BigEndian.Uint64(f[atPayload:]) != magic|uint64(x.id) {
			continue
		}
		l.note(x, f, b.arrived(i))
		if l.echo.Load() {
			if kept != i {
				b.frames[kept] = *f
			}
			b.frames[kept].turn()
			kept++
		}
	}
	if kept == 0 {
		return nil
	}
	for i := range b.headers[:kept] {
		b.headers[i].Control = nil
		b.headers[i].SetControllen(0)
	}
	_, err = l.guest.send(b, kept)
	return err
}

// note takes down one packet.
func (l *listener) note(x *stream, f *frame, at int64) {
	if !l.member {
		x.back.Add(1)
		x.lastBack.Store(at)
	} else {
		x.there.Add(1)
		d := at - int64(binary.BigEndian.Uint64(f[atPayload+16:]))
		x.mu.Lock()
		if len(x.delays) < cap(x.delays) {
			x.delays = append(x.delays, uint32(min(max(d, 0), 1<<32-1)))
		}
		x.mu.Unlock()
	}
	if since := l.since.Load(); since != 0 && at >= since && l.since.CompareAndSwap(since, 0) {
		l.alarm <- at
	}
}

// arm has the first packet from now on reported on alarm.
func (l *listener) arm() int64 {
	select {
	case <-l.alarm:
	default:
	}
	now := time.Now().UnixNano()
	l.since.Store(now)
	return now
}

// close stops listening and closes the guest.
func (l *listener) close() error {
	if l == nil {
		return nil
	}
	l.stop.Store(true)
	l.wg.Wait()
	return errors.Join(l.err, l.guest.close())
}
