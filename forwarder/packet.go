package forwarder

import (
	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/nexthop"
)

// packet is a frame and what the worker knows about it. A worker keeps one
// beside each frame of its batch and reuses it; it lives until the flush.
type packet struct {
	frame *port.Frame
	len   uint32 // bytes as received, Ethernet header included
	in    uint16 // ingress port index
	fate  fate
	arrival

	// Of a recognised packet (quick.go): where its transport header and payload
	// begin and its datagram ends, counted from the frame's first byte.
	quick       bool
	l4, payload uint16
	end         uint32

	// key, hash and ref are valid where fate is fateSession.
	ref  flowtable.Ref
	hash uint64
	key  flowtable.Key

	// l is valid after parse accepted the frame, and not at all while quick holds.
	// Offsets count from the frame's first byte.
	l header.Layout
}

// arrival is where a packet stands that has come in, and where it came from. The
// interface is Snapshot.ingress. 28 bytes.
type arrival struct {
	vrf       uint16  // the VRF that it is in
	tunnel    bool    // it was in a tunnel
	onSegment bool    // by VXLAN, and it has the MAC addresses that it had there
	bridged   bool    // it is to leave with the MAC addresses that it has (bridge.go)
	mac       [6]byte // from the uplink, not in a tunnel: who on the link sent it
	vni       uint32  // in a tunnel by VXLAN: the network identifier
	// In a tunnel: the node that sent it, as place in Snapshot.Peers, and the
	// interface that its label stands for, 0 where the VRF's routes are to be asked.
	peer   uint32
	target nexthop.ID
	// Of a bridged packet target is the next hop of the MAC address that it is for,
	// and back that of the one that it is from.
	back nexthop.ID
}

// fate is what classify decided about a packet.
type fate uint8

const (
	fateDone      fate = iota // sent, dropped, held or answered: nothing left to do
	fatePending               // not classified yet
	fateSession               // look the key up and forward
	fateICMPError             // translate by the session it quotes
	fateICMPQuery             // from the uplink and no echo: the node's, or nobody's
	fateBundle                // a superpacket of tunnel packets, to be cut before they are unwrapped
)

// bytes returns the frame's bytes.
func (p *packet) bytes() []byte { return p.frame.Bytes() }

// superpacket reports whether the frame stands for several segments.
func (p *packet) superpacket() bool { return p.frame.Offload.GSOType != port.GSONone }

// partial reports whether the L4 checksum holds only the pseudo-header sum.
func (p *packet) partial() bool { return p.frame.Offload.Flags&port.NeedsCsum != 0 }
