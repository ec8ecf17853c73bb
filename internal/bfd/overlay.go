//go:build linux

package bfd

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/netns"
)

// overlay sends a session's packets into a device whose other end carries them on,
// whatever the kernel's routes say: a frame to Router, with the headers that the
// kernel would have written.
type overlay struct {
	fd     int
	device string
	router [6]byte
	fields header.IPFields
	ports  [2]uint16 // source, destination
}

func openOverlay(ns string, p Peer, source, to uint16) (*overlay, error) {
	o := &overlay{
		device: p.Device, router: p.Router, ports: [2]uint16{source, to},
		fields: header.IPFields{
			Source: p.Local.As16(), Destination: p.Remote.As16(), PayloadLength: header.UDPLength + packetSize,
			Proto: header.ProtoUDP, TTL: onlink, TOS: control, DontFragment: true,
		},
	}
	err := netns.Do(ns, func() (err error) {
		o.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0) // receives nothing
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	return o, nil
}

// send sends a control packet. The device is looked for each time: it comes and goes
// with the daemon that holds its other end.
func (o *overlay) send(control []byte) error {
	var b [header.IPv6Length + header.UDPLength + packetSize]byte
	n := header.PutIP(b[:], &o.fields)
	datagram := b[n : n+o.fields.PayloadLength]
	copy(datagram[header.UDPLength:], control)
	header.PutUDP(datagram, &o.fields.Source, &o.fields.Destination, o.ports[0], o.ports[1])

	request, err := unix.NewIfreq(o.device)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(o.fd, unix.SIOCGIFINDEX, request); err != nil {
		return fmt.Errorf("device %s: %w", o.device, err)
	}
	protocol := uint16(unix.ETH_P_IPV6)
	if header.IsIPv4(o.fields.Source) {
		protocol = unix.ETH_P_IP
	}
	var inOrder [2]byte
	binary.BigEndian.PutUint16(inOrder[:], protocol)
	to := &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16(inOrder[:]), Ifindex: int(request.Uint32()), Halen: 6}
	copy(to.Addr[:], o.router[:])
	return unix.Sendto(o.fd, b[:n+len(datagram)], unix.MSG_DONTWAIT, to)
}

func (o *overlay) close() { unix.Close(o.fd) }
