//go:build linux

package control

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// guest is a workload: a packet socket on its device. It sends and sees raw
// frames; the kernel of its namespace takes no part, so that what is measured is
// the vRouter.
type guest struct {
	space string
	fd    int
	link  int
	mac   [6]byte
	addr  [4]byte
}

// openGuest takes over the device eth0 of a namespace.
func openGuest(space, address string) (g *guest, err error) {
	err = netns.Do(space, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		g = &guest{space: space, fd: -1, link: link.Attrs().Index, addr: netip.MustParseAddr(address).As4()}
		copy(g.mac[:], link.Attrs().HardwareAddr)
		return g.open()
	})
	if err == nil {
		err = g.mute()
	}
	if err != nil {
		return nil, fmt.Errorf("guest in %s: %w", space, errors.Join(err, g.close()))
	}
	return g, nil
}

// mute gives the device another MAC address than the one that frames come to: the
// kernel drops what is for others at once and answers nothing.
func (g *guest) mute() error {
	return netns.Do(g.space, func() error {
		link, err := netlink.LinkByIndex(g.link)
		if err != nil {
			return err
		}
		return netlink.LinkSetHardwareAddr(link, net.HardwareAddr{0x06, 0, 0, 0, 0, 1})
	})
}

// receiveBuffer of a packet socket, in bytes: what a preempted reader of ours may
// fall behind.
const receiveBuffer = 64 << 20

func (g *guest) open() (err error) {
	const ipv4 = unix.ETH_P_IP>>8 | unix.ETH_P_IP&0xff<<8 // network order
	if g.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, ipv4); err != nil {
		return err
	}
	return errors.Join(
		unix.Bind(g.fd, &unix.SockaddrLinklayer{Protocol: ipv4, Ifindex: g.link}),
		unix.SetsockoptInt(g.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer),
		unix.SetsockoptInt(g.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptInt(g.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1),
		unix.SetsockoptTimeval(g.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000}),
	)
}

func (g *guest) close() error {
	if g == nil || g.fd < 0 {
		return nil
	}
	return unix.Close(g.fd)
}

// missed returns how many packets our own socket dropped since the last call:
// the measurement's loss, not the vRouter's.
func (g *guest) missed() (uint64, error) {
	s, err := unix.GetsockoptTpacketStats(g.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, err
	}
	return uint64(s.Drops), nil
}

// refused returns how many frames the device's queue towards the vRouter has
// dropped because it was full.
func (g *guest) refused() (n uint64, err error) {
	err = netns.Do(g.space, func() error {
		link, err := netlink.LinkByIndex(g.link)
		if err != nil {
			return err
		}
		n = link.Attrs().Statistics.TxDropped
		return nil
	})
	return n, err
}

const (
	batchSize = 64
	frameSize = 14 + 20 + 8 + payloadSize
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	unix.Msghdr
	n uint32
	_ [4]byte
}

// batch is the buffers of one sendmmsg or recvmmsg. It belongs to one goroutine.
type batch struct {
	headers [batchSize]mmsghdr
	vectors [batchSize]unix.Iovec
	frames  [batchSize]frame
	control [batchSize][64]byte
}

func newBatch() *batch {
	b := &batch{}
	for i := range b.headers {
		b.vectors[i].Base = &b.frames[i][0]
		b.vectors[i].SetLen(frameSize)
		b.headers[i].Iov = &b.vectors[i]
		b.headers[i].SetIovlen(1)
	}
	return b
}

// send sends the first n frames and returns how many went out. What the device
// refuses is gone.
func (g *guest) send(b *batch, n int) (sent int, err error) {
	for first := 0; first < n; {
		done, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(g.fd), uintptr(unsafe.Pointer(&b.headers[first])), uintptr(n-first), 0, 0, 0)
		switch errno {
		case 0:
			sent += int(done)
			first += int(done)
		case unix.EINTR:
		case unix.ENOBUFS, unix.ENETDOWN, unix.EIO: // full, or nobody is attached
			first++
		default:
			return sent, fmt.Errorf("send: %w", errno)
		}
	}
	return sent, nil
}

// receive waits for frames, at most the socket's timeout, and returns how many
// there are.
func (g *guest) receive(b *batch) (int, error) {
	for i := range b.headers {
		b.headers[i].Control = &b.control[i][0]
		b.headers[i].SetControllen(len(b.control[i]))
	}
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(g.fd), uintptr(unsafe.Pointer(&b.headers[0])), batchSize, unix.MSG_WAITFORONE, 0, 0)
	switch errno {
	case 0:
		return int(n), nil
	case unix.EAGAIN, unix.EINTR, unix.ENETDOWN:
		return 0, nil
	}
	return 0, fmt.Errorf("receive: %w", errno)
}

// arrived returns when the kernel took the i-th frame of a batch, in Unix
// nanoseconds.
func (b *batch) arrived(i int) int64 {
	c := &b.control[i]
	if b.headers[i].Controllen < 32 || *(*int32)(unsafe.Pointer(&c[12])) != unix.SCM_TIMESTAMPNS {
		return time.Now().UnixNano()
	}
	t := (*unix.Timespec)(unsafe.Pointer(&c[16]))
	return t.Nano()
}

// onThread locks the calling goroutine to a thread of another priority, nice
// steps behind the process's (nice(2); before it where negative), so that the
// measuring side is not what waits. Call the returned function at the end.
func onThread(nice int) func() {
	runtime.LockOSThread()
	own, err := unix.Getpriority(unix.PRIO_PROCESS, os.Getpid())
	own = 20 - own // getpriority(2): the kernel returns it so
	if err != nil {
		own = 0
	}
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), own+nice) // without it the measurement is only coarser
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1000, 0, 0, 0)            // the same
	return func() {
		_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), own)
		runtime.UnlockOSThread()
	}
}
