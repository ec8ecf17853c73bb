//go:build linux

package bfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// Ports of RFC 5881 §4 and RFC 5883 §5.
const (
	portSingleHop = 3784
	portMultihop  = 4784
	firstSource   = 49152
	lastSource    = 65535
)

// control is the traffic class of routing protocols, CS6 (RFC 4594 §3.2): where a
// link is full, BFD must not be what is lost.
const control = 0xc0

// readBatch bounds how many packets are taken while the speaker's lock is held.
const readBatch = 64

// family holds the kernel's names for what differs between IPv4 and IPv6
// (ip(7), ipv6(7)).
type family struct {
	domain, level           int
	ttl, class, free        int // options of a sender
	wantTTL, wantInfo       int // options of a listener
	ttlMessage, infoMessage int // control messages that these bring
}

func familyOf(v6 bool) family {
	if v6 {
		return family{
			domain: unix.AF_INET6, level: unix.IPPROTO_IPV6,
			ttl: unix.IPV6_UNICAST_HOPS, class: unix.IPV6_TCLASS, free: unix.IPV6_FREEBIND,
			wantTTL: unix.IPV6_RECVHOPLIMIT, wantInfo: unix.IPV6_RECVPKTINFO,
			ttlMessage: unix.IPV6_HOPLIMIT, infoMessage: unix.IPV6_PKTINFO,
		}
	}
	return family{
		domain: unix.AF_INET, level: unix.IPPROTO_IP,
		ttl: unix.IP_TTL, class: unix.IP_TOS, free: unix.IP_FREEBIND,
		wantTTL: unix.IP_RECVTTL, wantInfo: unix.IP_PKTINFO,
		ttlMessage: unix.IP_TTL, infoMessage: unix.IP_PKTINFO,
	}
}

// sockaddr is the kernel's form; link is the index of a link-local address's link.
func sockaddr(a netip.Addr, port int, link uint32) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Port: port, Addr: a.As16(), ZoneId: link}
}

// open makes a UDP socket with options set to values, bound to an address. It
// belongs to the calling thread's namespace.
func open(f family, at unix.Sockaddr, options ...[2]int) (int, error) {
	fd, err := unix.Socket(f.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if f.domain == unix.AF_INET6 { // IPv4 has a socket of its own
		err = unix.SetsockoptInt(fd, f.level, unix.IPV6_V6ONLY, 1)
	}
	for _, o := range options {
		if err == nil {
			err = unix.SetsockoptInt(fd, f.level, o[0], o[1])
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("setsockopt: %w", err)
	}
	if err := unix.Bind(fd, at); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// sender is the socket that a session sends by.
type sender struct {
	fd      int    // holds the source port even where overlay sends
	port    uint16 // source port
	to      unix.Sockaddr
	overlay *overlay // nil: the kernel's routes lead to the peer
}

// openSender opens the socket of a session. taken reports source ports that other
// sessions have.
func openSender(ns string, p Peer, link uint32, taken func(uint16) bool) (sender, error) {
	f := familyOf(p.Local.Is6())
	to := portSingleHop
	if p.Multihop {
		to = portMultihop
	}
	out := sender{to: sockaddr(p.Remote, to, link)}
	err := netns.Do(ns, func() error {
		// RFC 5881 §4: one source port from this range for each session, for its life.
		const ports = lastSource - firstSource + 1
		start := rand.IntN(ports)
		for i := range ports {
			port := firstSource + (start+i)%ports
			if taken(uint16(port)) {
				continue
			}
			// The address may come later, and RFC 5881 §5 wants TTL 255; over several hops
			// it is what lets the other side see how many there were.
			fd, err := open(f, sockaddr(p.Local, port, link), [2]int{f.ttl, onlink}, [2]int{f.class, control}, [2]int{f.free, 1})
			if errors.Is(err, unix.EADDRINUSE) {
				continue
			}
			out.fd, out.port = fd, uint16(port)
			return err
		}
		return fmt.Errorf("no source port in %d–%d is free", firstSource, lastSource)
	})
	if err == nil && p.Device != "" {
		if out.overlay, err = openOverlay(ns, p, out.port, uint16(to)); err != nil {
			unix.Close(out.fd)
		}
	}
	if err != nil {
		return sender{}, fmt.Errorf("BFD peer %q: send from %s: %w", p.Name, p.Local, err)
	}
	return out, nil
}

// send sends a packet or says why the kernel would not have it. It never waits.
func (s sender) send(p packet) error {
	b := p.encode()
	if s.overlay != nil {
		return s.overlay.send(b[:])
	}
	return unix.Sendto(s.fd, b[:], unix.MSG_DONTWAIT, s.to)
}

func (s sender) close() {
	if s.overlay != nil {
		s.overlay.close()
	}
	unix.Close(s.fd)
}

// linkIndex returns the index of a zone's link, 0 for no zone.
func linkIndex(ns, zone string) (index uint32, err error) {
	if zone == "" {
		return 0, nil
	}
	err = netns.Do(ns, func() error {
		link, err := net.InterfaceByName(zone)
		if err == nil {
			index = uint32(link.Index)
		}
		return err
	})
	return index, err
}

// entrance is what one listener takes in.
type entrance struct{ v6, multihop bool }

func (p Peer) entrance() entrance { return entrance{p.Local.Is6(), p.Multihop} }

// listener is a socket that packets come in by.
type listener struct {
	entrance
	family family
	file   *os.File // for the runtime's poller
}

func openListener(ns string, e entrance) (*listener, error) {
	f, port, any := familyOf(e.v6), portSingleHop, netip.IPv4Unspecified()
	if e.multihop {
		port = portMultihop
	}
	if e.v6 {
		any = netip.IPv6Unspecified()
	}
	fd := -1
	err := netns.Do(ns, func() (err error) {
		fd, err = open(f, sockaddr(any, port, 0), [2]int{f.wantTTL, 1}, [2]int{f.wantInfo, 1})
		return err
	})
	if errors.Is(err, unix.EADDRINUSE) {
		err = fmt.Errorf("%w (another BFD daemon runs here; find it with `ss -lunp 'sport = :%d'`)", err, port)
	}
	if err != nil {
		return nil, fmt.Errorf("BFD: listen on [%s]:%d: %w", any, port, err)
	}
	return &listener{e, f, os.NewFile(uintptr(fd), "bfd")}, nil
}

// drain hands up to most waiting packets to take and reports whether none is left.
// It may run beside serve.
func (l *listener) drain(fd, most int, take func([]byte, arrival)) (empty bool) {
	var b [256]byte // a control packet's length is one byte
	var oob [128]byte
	taken := 0
	for range most {
		n, oobn, _, from, err := unix.Recvmsg(fd, b[:], oob[:], unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return true
		}
		if err != nil {
			continue // reading an error of the socket clears it
		}
		take(b[:n], l.arrival(from, oob[:oobn]))
		taken++
	}
	return taken == 0
}

// arrival reads the way that a packet came from its control messages.
func (l *listener) arrival(from unix.Sockaddr, oob []byte) arrival {
	a := arrival{ttl: -1, multihop: l.multihop}
	switch from := from.(type) {
	case *unix.SockaddrInet4:
		a.remote = netip.AddrFrom4(from.Addr)
	case *unix.SockaddrInet6:
		a.remote = netip.AddrFrom16(from.Addr)
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return a // the TTL stays unknown, and nobody accepts that
	}
	for _, m := range messages {
		if int(m.Header.Level) != l.family.level {
			continue
		}
		switch kind := int(m.Header.Type); {
		case kind == l.family.ttlMessage && len(m.Data) >= 4:
			a.ttl = int(int32(binary.NativeEndian.Uint32(m.Data)))
		case kind == l.family.infoMessage && l.v6 && len(m.Data) >= unix.SizeofInet6Pktinfo:
			a.local = netip.AddrFrom16([16]byte(m.Data)) // struct in6_pktinfo: address, link
			a.link = binary.NativeEndian.Uint32(m.Data[16:])
		case kind == l.family.infoMessage && !l.v6 && len(m.Data) >= unix.SizeofInet4Pktinfo:
			a.local = netip.AddrFrom4([4]byte(m.Data[8:])) // struct in_pktinfo: link, ours, the header's
			a.link = binary.NativeEndian.Uint32(m.Data)
		}
	}
	return a
}

// serve calls ready whenever packets wait, until the listener is closed. ready must
// leave none behind.
func (l *listener) serve(ready func(fd int)) error {
	raw, err := l.file.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		ready(int(fd))
		return false // wait for more
	})
}

// peek calls fn with the descriptor beside serve.
func (l *listener) peek(fn func(fd int)) {
	if raw, err := l.file.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { fn(int(fd)) }) // fails when closed, and then there is nothing
	}
}
