//go:build linux

package load

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/afpacket"
	"github.com/vrouter-go/vrouter/internal/port/tap"
)

// TunnelLoop is one node of the floor between two nodes: it copies whole frames
// between a TAP device and an uplink, behind VXLAN headers there, and does nothing
// else. It says ready and runs until standard input ends.
type TunnelLoop struct {
	Tap          tap.Spec
	Uplink       afpacket.Spec
	MAC, PeerMAC net.HardwareAddr // of the two uplinks
	IP, PeerIP   netip.Addr       // IPv4
}

// Where the headers in front of a frame begin and end: Ethernet, IPv4, UDP, VXLAN
// (RFC 7348 section 5).
const (
	outerIP  = 14
	outerUDP = outerIP + 20
	vxlan    = outerUDP + 8
	inner    = vxlan + 8

	vxlanPort = 4789
	loopVNI   = 42
)

func tunnelLoop(args []string) error {
	var t TunnelLoop
	if err := parse(args, &t); err != nil {
		return fmt.Errorf("tunnel-loop: %w", err)
	}
	d, err := tap.Create(t.Tap)
	if err != nil {
		return err
	}
	defer d.Close()
	if rings, err := tap.NewRings(1); err == nil { // a kernel without is the vRouter's misfortune as well
		d.Batch(rings)
	}
	u, err := afpacket.Open(t.Uplink)
	if err != nil {
		return err
	}
	defer u.Close()
	if err := u.TunnelGSO(); err != nil {
		return err
	}
	headers := t.headers()
	guest, wire := d.Queues()[0], u.Queues()[0]
	thread(func() error { return shovel(guest, wire, func(f *port.Frame) bool { return wrap(f, &headers) }) })
	thread(func() error { return shovel(wire, guest, unwrap) })
	return answer(func() any { return struct{}{} })
}

// headers returns what is the same in front of every frame. The UDP checksum is
// zero, as VXLAN has it over IPv4.
func (t *TunnelLoop) headers() (h [inner]byte) {
	copy(h[0:], t.PeerMAC)
	copy(h[6:], t.MAC)
	binary.BigEndian.PutUint16(h[12:], unix.ETH_P_IP)
	ip := h[outerIP:]
	ip[0], ip[6], ip[8], ip[9] = 0x45, 0x40, 64, unix.IPPROTO_UDP // no options, DF, TTL
	copy(ip[12:], t.IP.AsSlice())
	copy(ip[16:], t.PeerIP.AsSlice())
	binary.BigEndian.PutUint16(h[outerUDP:], 1<<15) // a single path: no entropy is needed
	binary.BigEndian.PutUint16(h[outerUDP+2:], vxlanPort)
	h[vxlan] = 0x08 // the I flag
	h[vxlan+6] = loopVNI
	return h
}

// wrap puts the headers in front of a frame. It is false where the headroom is too
// short.
func wrap(f *port.Frame, headers *[inner]byte) bool {
	if f.Start < inner {
		return false
	}
	f.Start -= inner
	b := f.Bytes()
	copy(b, headers[:])
	binary.BigEndian.PutUint16(b[outerIP+2:], uint16(len(b)-outerIP))
	binary.BigEndian.PutUint16(b[outerUDP+4:], uint16(len(b)-outerUDP))
	sum := uint32(0)
	for i := outerIP; i < outerUDP; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(b[outerIP+10:], ^uint16(sum+sum>>16))
	o := &f.Offload
	if o.Flags&port.NeedsCsum != 0 {
		o.CsumStart += inner
	}
	if o.GSOType != port.GSONone {
		o.GSOType |= port.GSOTunnelIPv4
		o.OuterL4, o.InnerL3 = outerUDP, inner+14
	}
	return true
}

// unwrap takes the headers away. It is false for what is no VXLAN frame.
func unwrap(f *port.Frame) bool {
	if f.Len() < inner+14 || binary.BigEndian.Uint16(f.Bytes()[outerUDP+2:]) != vxlanPort {
		return false
	}
	f.Start += inner
	if f.Offload.Flags&port.NeedsCsum != 0 {
		f.Offload.CsumStart -= inner
	}
	return true
}

// shovel copies frames that change keeps from one queue to another, until a device
// is gone.
func shovel(from, to port.Queue, change func(*port.Frame) bool) error {
	frames := port.NewFrames(port.BatchSize)
	keep := make([]*port.Frame, 0, port.BatchSize)
	waiting := [1]unix.PollFd{{Fd: int32(from.FD()), Events: unix.POLLIN}}
	for {
		n, err := from.Read(frames)
		if err != nil {
			return fmt.Errorf("tunnel-loop: %w", err)
		}
		if n == 0 {
			_, _, _ = unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&waiting[0])), 1, 0, 0, 0, 0)
			continue
		}
		keep = keep[:0]
		for _, f := range frames[:n] {
			if change(f) {
				keep = append(keep, f)
			}
		}
		to.Write(keep) // what does not fit is lost, as on a wire
	}
}
