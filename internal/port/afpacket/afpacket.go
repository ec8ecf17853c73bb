//go:build linux

// Package afpacket attaches a node's uplink, the Ethernet device towards the
// fabric, which stays the kernel's: its address, ARP, neighbour discovery and DHCP
// go on as before, while all other unicast IP traffic to the device's address is the
// forwarder's. Packet sockets receive and send it, superpackets whole; a table of
// nftables, the guard, keeps the kernel's own stack from receiving it as well. Both
// end with the process, however that ends: the link is the kernel's again.
//
// # What arrives of a tunnel superpacket
//
// A UDP tunnel's superpacket (VXLAN, MPLS over UDP; from the kernel's tunnel device
// behind a veth, or written by another node's forwarder) arrives whole, as one frame,
// but the vnet header of a packet socket has no word for the tunnel. Offload is that
// of the inner packet:
//
//   - GSOType is GSOTCPv4, GSOTCPv6 or GSOUDPL4, of the inner family, with no tunnel
//     bit; GSOSize is the inner payload of each segment.
//   - Flags has NeedsCsum; CsumStart is the inner TCP or UDP header, from the first
//     byte of the outer Ethernet header.
//   - OuterL4 and InnerL3 are 0. HdrLen is the sender's linear length: no use.
//   - The outer UDP checksum is 0, or only the folded sum of the outer pseudo-header:
//     it proves nothing and must not be verified. Lengths in the outer IP and UDP
//     headers are those of the whole superpacket.
//
// So a receiver tells it from an ordinary superpacket by CsumStart, which lies behind
// the outer UDP header. Taking the outer headers off and CsumStart down by their length
// makes it an ordinary one. It must not be sent on encapsulated without its tunnel bit:
// the outer headers of its segments would be wrong.
//
// A tunnel frame that is no superpacket may also have NeedsCsum at the inner header
// (the outer checksum, if any, is complete then), or at the outer UDP header.
package afpacket

import (
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/internal/port"
)

// MaxQueues is the most queues a Device may have: what a fanout group holds.
const MaxQueues = 256

var (
	// ErrBusy says that another process holds the device's guard.
	ErrBusy = errors.New("another process is attached to this uplink (is another vrouter running?)")
	// ErrNoDevice says that there is no device of that name.
	ErrNoDevice = errors.New("no such device")
	// ErrNotEthernet says that the device is of another kind.
	ErrNotEthernet = errors.New("not an Ethernet device")
)

// Spec says which device is attached, and how.
type Spec struct {
	Device string // name of the uplink
	Netns  string // its namespace, by path or name; "" is ours
	Queues int    // 1 to MaxQueues; 0 is 1
}

// Link is the uplink as the kernel has it.
type Link struct {
	Name  string
	Index int
	MAC   net.HardwareAddr
	MTU   int  // bytes
	Up    bool // set up and with a carrier
}

// Stats counts received frames that no Read returned, since Open.
type Stats struct {
	Full    uint64 // lost in the kernel: the queue's socket buffer was full
	Cut     uint64 // longer than a Frame (BIG TCP), or shorter than an Ethernet header
	Refused uint64 // superpackets of a kind that a vnet header cannot describe
}

// Device is an attached uplink. Queues belong to their workers; all other methods
// are for the control path and may be called from any goroutine. The device's
// namespace stays alive as long as it is attached.
type Device struct {
	name     string
	ifindex  int
	features port.Features
	queues   []port.Queue

	noTunnel error // why FeatureTunnelGSO is absent

	mu     sync.Mutex // guards what follows
	h      *netlink.Handle
	in     []int
	out    []int
	tunnel *tunnelDevice // nil: none
	guard  *guard        // nil once closed
	full   uint64
}

// Open attaches the uplink that s names: from then on its traffic is ours. Errors
// name the step; they wrap ErrBusy, ErrNoDevice, ErrNotEthernet, os.ErrNotExist
// (namespace).
func Open(s Spec) (*Device, error) {
	if s.Queues == 0 {
		s.Queues = 1
	}
	if s.Queues < 1 || s.Queues > MaxQueues {
		return nil, fmt.Errorf("uplink %s: queues: %d must be 1 to %d", s.Device, s.Queues, MaxQueues)
	}
	ns, err := netns.Open(s.Netns)
	if err != nil {
		return nil, fmt.Errorf("uplink %s: %w", s.Device, err)
	}
	defer ns.Close()
	d := &Device{name: s.Device}
	if err := d.open(s, ns); err != nil {
		return nil, fmt.Errorf("uplink %s: %w", s.Device, errors.Join(err, d.Close()))
	}
	return d, nil
}

// open takes the steps in an order in which no frame ever has two owners: receivers
// that take nothing, the guard, receivers that take what the guard holds back.
func (d *Device) open(s Spec, ns vnetns.NsHandle) error {
	if err := d.find(s, ns); err != nil {
		return err
	}
	if err := netns.Do(s.Netns, func() error { return d.openSockets(s.Queues) }); err != nil {
		return err
	}
	d.noTunnel = netns.Do(s.Netns, d.openTunnel)
	tunnel := -1
	if d.tunnel != nil {
		tunnel = d.tunnel.fd
	}
	for i := range d.in {
		d.queues = append(d.queues, newQueue(d.in[i], d.out[i], tunnel, d.features))
	}
	var err error
	if d.guard, err = newGuard(ns, s.Device); err != nil {
		return err
	}
	for _, fd := range d.in {
		if err := setFilter(fd, takeOurs()); err != nil {
			return err
		}
	}
	return nil
}

func (d *Device) find(s Spec, ns vnetns.NsHandle) error {
	var err error
	if d.h, err = netlink.NewHandleAt(ns, unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("network namespace %s: %w", netns.Path(s.Netns), err)
	}
	found, err := d.h.LinkByName(s.Device)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return fmt.Errorf("%w in network namespace %s", ErrNoDevice, netns.Path(s.Netns))
	}
	if err != nil {
		return err
	}
	if found.Attrs().EncapType != "ether" {
		return fmt.Errorf("%w but %s", ErrNotEthernet, found.Attrs().EncapType)
	}
	d.ifindex = found.Attrs().Index
	return nil
}

func (d *Device) openSockets(queues int) error {
	for range queues {
		in, err := openReceiver(d.ifindex)
		if err != nil {
			return err
		}
		d.in = append(d.in, in)
		out, err := openSender(d.ifindex)
		if err != nil {
			return err
		}
		d.out = append(d.out, out)
	}
	if queues > 1 {
		return fanOut(d.in)
	}
	return nil
}

// openTunnel finds out what the kernel can send beyond TCP superpackets.
func (d *Device) openTunnel() error {
	// Any packet socket with a vnet header: the kernel segments and sums in software
	// what the device cannot.
	d.features = port.FeatureCsum | port.FeatureTSO4 | port.FeatureTSO6
	name := fmt.Sprintf("vrt-%d", d.ifindex)
	t, err := newTunnelTAP(name)
	if err != nil {
		return err
	}
	if t.knowsUSO() {
		d.features |= port.FeatureUSO
	}
	if err := t.connect(name, d.name, d.ifindex); err != nil {
		return errors.Join(err, t.close())
	}
	d.tunnel = t
	d.features |= port.FeatureTunnelGSO
	return nil
}

// Name implements port.Device: the uplink's name when it was attached.
func (d *Device) Name() string { return d.name }

// Features implements port.Device.
func (d *Device) Features() port.Features { return d.features }

// Queues implements port.Device.
func (d *Device) Queues() []port.Queue { return d.queues }

// TunnelGSO returns nil if the device takes tunnel superpackets, and otherwise says
// what is missing.
func (d *Device) TunnelGSO() error { return d.noTunnel }

// Link returns the uplink as it is now, or port.ErrGone: deleted, renamed, moved to
// another namespace, or closed. A renamed device counts as gone because its guard
// went with the name (seen on Linux 6.18). A sleeping worker is not woken when its
// device goes, so whoever supervises devices asks here from time to time, and closes
// one that is gone: its guard would take hold of the next device of that name.
func (d *Device) Link() (Link, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.out) == 0 || unbound(d.out[0]) {
		return Link{}, port.ErrGone
	}
	found, err := d.h.LinkByIndex(d.ifindex)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return Link{}, port.ErrGone
	}
	if err != nil {
		return Link{}, fmt.Errorf("uplink %s: look: %w", d.name, err)
	}
	a := found.Attrs()
	if a.Name != d.name {
		return Link{}, fmt.Errorf("uplink %s: renamed to %s: %w", d.name, a.Name, port.ErrGone)
	}
	const up = unix.IFF_UP | unix.IFF_RUNNING
	return Link{Name: a.Name, Index: a.Index, MAC: a.HardwareAddr, MTU: a.MTU, Up: a.RawFlags&up == up}, nil
}

// Stats returns the counts of all queues together.
func (d *Device) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, fd := range d.in {
		// Asking sets the socket's own count to zero.
		if s, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			d.full += uint64(s.Drops)
		}
	}
	stats := Stats{Full: d.full}
	for _, q := range d.queues {
		stats.Cut += q.(*queue).cut.Load()
		stats.Refused += q.(*queue).refused.Load()
	}
	return stats
}

// Close implements port.Device: the uplink is the kernel's again. Closing again does
// nothing.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	// Receivers first: no frame may have two owners.
	err := errors.Join(closeAll(d.in), closeAll(d.out))
	d.in, d.out = nil, nil
	if d.guard != nil {
		err = errors.Join(err, d.guard.close())
	}
	if d.tunnel != nil {
		err = errors.Join(err, d.tunnel.close())
	}
	if d.h != nil {
		d.h.Close()
	}
	d.guard, d.tunnel, d.h = nil, nil, nil
	if err != nil {
		return fmt.Errorf("uplink %s: close: %w", d.name, err)
	}
	return nil
}
