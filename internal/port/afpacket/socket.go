//go:build linux

package afpacket

import (
	"errors"
	"fmt"
	"math/bits"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	// receiveBuffer is what the kernel may hold for a queue that is not read, in
	// bytes; the kernel doubles it, for its own structures. That is 40,000 small
	// frames, which the worst pause of a worker, 20 ms, takes at two million a second,
	// or 450 superpackets. It is memory in use only while frames wait.
	receiveBuffer = 16 << 20
	// sendBuffer bounds what is on its way through a slow device's queue.
	sendBuffer = 8 << 20
)

// newSocket makes a packet socket of the calling thread's namespace that passes
// nothing: protocol 0 receives no frame.
func newSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("packet socket: %w (needs CAP_NET_RAW)", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("packet socket: PACKET_VNET_HDR: %w", err)
	}
	return fd, nil
}

// openSender makes a socket that sends through the device with that index. It is
// not the one that receives: an error that waits for a reader would otherwise be
// told to the next sender, and lost to the reader.
func openSender(ifindex int) (int, error) {
	fd, err := newSocket()
	if err != nil {
		return -1, err
	}
	if err = setBuffer(fd, unix.SO_SNDBUFFORCE, sendBuffer); err == nil {
		err = bind(fd, 0, ifindex)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// openReceiver makes a socket that is bound to the device with that index and takes
// nothing yet.
func openReceiver(ifindex int) (int, error) {
	fd, err := newSocket()
	if err != nil {
		return -1, err
	}
	if err = setBuffer(fd, unix.SO_RCVBUFFORCE, receiveBuffer); err == nil {
		err = setFilter(fd, takeNothing())
	}
	if err == nil {
		if err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			err = fmt.Errorf("packet socket: PACKET_IGNORE_OUTGOING: %w (needs Linux 4.20)", err)
		}
	}
	if err == nil {
		err = bind(fd, unix.ETH_P_ALL, ifindex)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func setBuffer(fd, option, size int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, size); err != nil {
		return fmt.Errorf("packet socket: buffer of %d MiB: %w (needs CAP_NET_ADMIN)", size>>20, err)
	}
	return nil
}

func bind(fd, protocol, ifindex int) error {
	// The protocol is in network byte order on every host.
	address := &unix.SockaddrLinklayer{Protocol: bits.ReverseBytes16(uint16(protocol)), Ifindex: ifindex}
	if err := unix.Bind(fd, address); err != nil {
		return fmt.Errorf("packet socket: bind to interface %d: %w", ifindex, err)
	}
	return nil
}

// setFilter replaces a socket's filter in one step.
func setFilter(fd int, program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return fmt.Errorf("packet socket: filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil {
		return fmt.Errorf("packet socket: attach filter: %w", err)
	}
	return nil
}

// fanOut spreads flows over the receivers by the kernel's flow hash. Fragments are
// not put together: they go by their addresses.
func fanOut(fds []int) error {
	const mode = unix.PACKET_FANOUT_HASH | unix.PACKET_FANOUT_FLAG_IGNORE_OUTGOING
	group := 0
	for i, fd := range fds {
		argument := group | mode<<16
		if i == 0 { // the kernel finds a number that is free
			argument |= unix.PACKET_FANOUT_FLAG_UNIQUEID << 16
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_FANOUT, argument); err != nil {
			return fmt.Errorf("packet socket: join fanout as queue %d of %d: %w", i+1, len(fds), err)
		}
		if i == 0 {
			value, err := unix.GetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_FANOUT)
			if err != nil {
				return fmt.Errorf("packet socket: fanout group: %w", err)
			}
			group = value & 0xffff
		}
	}
	return nil
}

// unbound reports whether the device that a socket was bound to is gone: the kernel
// then sets the socket's interface to -1. A device that is only down stays.
func unbound(fd int) bool {
	var address unix.RawSockaddrLinklayer
	size := uint32(unsafe.Sizeof(address))
	_, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd),
		uintptr(unsafe.Pointer(&address)), uintptr(unsafe.Pointer(&size)))
	return errno != 0 || address.Ifindex == -1
}

// closeAll closes descriptors.
func closeAll(fds []int) error {
	var err error
	for _, fd := range fds {
		err = errors.Join(err, unix.Close(fd))
	}
	return err
}
