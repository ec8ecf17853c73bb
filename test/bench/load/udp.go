//go:build linux

package load

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hello is the first byte of a datagram that wants an answer. It is not counted.
const hello = 'H'

// receive counts datagrams for ever.
func receive(fd int, count *atomic.Uint64) error {
	m := newMessages(2048)
	var names [burst]unix.RawSockaddrInet4
	for i := range m.headers {
		m.headers[i].hdr.Name = (*byte)(unsafe.Pointer(&names[i]))
	}
	for {
		for i := range m.headers {
			m.headers[i].hdr.Namelen = unix.SizeofSockaddrInet4
		}
		n, err := m.call(unix.SYS_RECVMMSG, fd, burst, unix.MSG_WAITFORONE)
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		got := uint64(0)
		for i := range n {
			if m.data[i][0] != hello {
				got++
				continue
			}
			// An answer that is lost is asked for again.
			_, _, _ = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&m.data[i][0])), 1, 0,
				uintptr(unsafe.Pointer(&names[i])), unix.SizeofSockaddrInet4)
		}
		count.Add(got)
	}
}

// UDP says what a UDP sender does: datagrams of Size bytes to To over so many
// flows, Rate in a second (0: as fast as it can), for so many seconds. It prints
// an empty document once all flows are established and a Sent at the end.
type UDP struct {
	To      string
	Flows   int
	Size    int
	Rate    float64
	Seconds float64
}

// Sent is what a sender has sent.
type Sent struct {
	Datagrams uint64
	Nanos     int64 // how long it took
}

func sendUDP(args []string) error {
	var s UDP
	if err := parse(args, &s); err != nil {
		return fmt.Errorf("udp: %w", err)
	}
	leaveWithParent()
	ended := make(chan Sent, 1)
	thread(func() error {
		flows, err := s.establish()
		if err != nil {
			return err
		}
		if err := say(struct{}{}); err != nil {
			return err
		}
		r, err := s.send(flows)
		ended <- r
		return err
	})
	return say(<-ended)
}

// establish opens the flows and waits for an answer on each.
func (s *UDP) establish() ([]int, error) {
	var flows []int
	for range s.Flows {
		fd, err := open(unix.SOCK_DGRAM, s.To, unix.Connect)
		if err != nil {
			return nil, err
		}
		if err := greet(fd); err != nil {
			return nil, fmt.Errorf("%s: %w", s.To, err)
		}
		flows = append(flows, fd)
	}
	return flows, nil
}

// greet asks for an answer up to 20 times.
func greet(fd int) error {
	patience := unix.NsecToTimeval(seconds(0.1))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		return err
	}
	message := []byte{hello}
	var err error
	for range 20 {
		if _, err = unix.Write(fd, message); err != nil {
			continue // refused: nobody is there yet
		}
		if _, err = unix.Read(fd, message); err == nil {
			return nil
		}
	}
	return fmt.Errorf("no answer from the receiver: %w", err)
}

// send sends, a burst to one flow after the other.
func (s *UDP) send(flows []int) (Sent, error) {
	preciseSleep()
	m := newMessages(s.Size)
	begin := nanotime()
	end := begin + seconds(s.Seconds)
	var sent uint64
	for i := 0; ; i++ {
		now := nanotime()
		if now >= end {
			return Sent{Datagrams: sent, Nanos: now - begin}, nil
		}
		if s.Rate > 0 {
			due := begin + int64(float64(sent+burst)/s.Rate*1e9)
			sleepUntil(min(due, end))
		}
		n, err := m.call(unix.SYS_SENDMMSG, flows[i%len(flows)], burst, 0)
		if err != nil {
			return Sent{}, fmt.Errorf("send: %w", err)
		}
		sent += uint64(n)
	}
}
