package forwarder

import (
	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/port"
)

// packet is a frame and what the worker knows about it. A worker keeps one
// beside each frame of its batch and reuses it; it lives until the flush.
type packet struct {
	frame *port.Frame
	in    uint16 // ingress port index
	len   uint32 // bytes as received, Ethernet header included

	// l is valid after parse accepted the frame. Offsets count from the frame's
	// first byte.
	l header.Layout
	// key, hash and ref are valid after classify said fateSession.
	key  flowtable.Key
	hash uint64
	ref  flowtable.Ref

	fate fate
}

// fate is what classify decided about a packet.
type fate uint8

const (
	fateDone      fate = iota // sent, dropped, held or answered: nothing left to do
	fatePending               // not classified yet
	fateSession               // look the key up and forward
	fateICMPError             // translate by the session it quotes
)

// bytes returns the frame's bytes.
func (p *packet) bytes() []byte { return p.frame.Bytes() }

// superpacket reports whether the frame stands for several segments.
func (p *packet) superpacket() bool { return p.frame.Offload.GSOType != port.GSONone }

// partial reports whether the L4 checksum holds only the pseudo-header sum.
func (p *packet) partial() bool { return p.frame.Offload.Flags&port.NeedsCsum != 0 }
