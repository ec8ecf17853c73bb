package bfd

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// What a zero field of a Peer means. docs/design/0010-bfd.md says why.
const (
	DefaultInterval   = 300 * time.Millisecond
	DefaultMultiplier = 3
	// DefaultMinTTL lets one router stand between the nodes of a multihop session.
	DefaultMinTTL = 254
	// onlink is the TTL that only the sender's own link has (RFC 5881 §5, RFC 5082).
	onlink = 255
)

// The range of intervals. Below it, a scheduler's or a collector's pause on a busy
// node looks like its death; above it, nobody needs BFD.
const (
	MinInterval = 10 * time.Millisecond
	MaxInterval = time.Minute
)

// Peer is one session that should be.
type Peer struct {
	// Name identifies the peer in reports; unique within a Speaker, not empty.
	Name string
	// Local and Remote are the session's addresses, of one family. Local need not be
	// there yet. Link-local IPv6 addresses have the zone (interface) of their link.
	Local, Remote netip.Addr
	// Multihop makes it a session after RFC 5883; else the peer is a neighbour on a
	// link (RFC 5881).
	Multihop bool
	// MinTTL is the lowest TTL or hop limit, 1–255, with which the peer's packets may
	// arrive over several hops: 255 less the routers in between. It is what keeps those
	// further away from ending the session with a forged packet. 0 is DefaultMinTTL.
	// Without Multihop it is 255 and must be left 0 or say so.
	MinTTL uint8
	// Device, if given, is where the peer's packets are sent into, to the MAC address
	// Router, instead of where the kernel's routes lead: the node's own port of an
	// overlay, so that the session lives and dies with the tunnel to the peer. It is
	// for multihop sessions.
	Device string
	Router [6]byte
	// TransmitInterval is how often we would send and ReceiveInterval how often we
	// would be sent to, from MinInterval to MaxInterval; the slower of both sides
	// counts for each direction. 0 is DefaultInterval. A part below 1 µs is cut off.
	TransmitInterval, ReceiveInterval time.Duration
	// Multiplier is how many packets in a row the peer may miss before it calls us
	// dead. 0 is DefaultMultiplier.
	Multiplier uint8
}

// complete fills in defaults and brings addresses to one form.
func (p Peer) complete() Peer {
	p.Local, p.Remote = p.Local.Unmap(), p.Remote.Unmap()
	if p.MinTTL == 0 {
		p.MinTTL = DefaultMinTTL
		if !p.Multihop {
			p.MinTTL = onlink
		}
	}
	if p.TransmitInterval == 0 {
		p.TransmitInterval = DefaultInterval
	}
	if p.ReceiveInterval == 0 {
		p.ReceiveInterval = DefaultInterval
	}
	if p.Multiplier == 0 {
		p.Multiplier = DefaultMultiplier
	}
	p.TransmitInterval = p.TransmitInterval.Truncate(time.Microsecond)
	p.ReceiveInterval = p.ReceiveInterval.Truncate(time.Microsecond)
	return p
}

// check says everything that is wrong with a complete peer.
func (p Peer) check() error {
	var errs []error
	wrong := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("BFD peer %q: %w", p.Name, fmt.Errorf(format, args...)))
	}
	if p.Name == "" {
		wrong("it has no name; give it the node's")
	}
	for _, a := range [...]struct {
		what string
		addr netip.Addr
	}{{"local", p.Local}, {"remote", p.Remote}} {
		switch {
		case !a.addr.IsValid() || a.addr.IsUnspecified() || a.addr.IsMulticast():
			wrong("%s address %s: want the unicast address of a node", a.what, a.addr)
		case linkLocal(a.addr) && p.Multihop:
			wrong("%s address %s is link-local, and a multihop session crosses links; use a global address", a.what, a.addr)
		case linkLocal(a.addr) != (a.addr.Zone() != ""):
			wrong("%s address %s: a link-local address needs a zone (fe80::1%%eth0), others have none", a.what, a.addr)
		}
	}
	if p.Local.Is4() != p.Remote.Is4() || p.Local.Zone() != p.Remote.Zone() {
		wrong("local address %s and remote address %s must be of one family and zone", p.Local, p.Remote)
	}
	if p.Local == p.Remote {
		wrong("local and remote address are both %s", p.Local)
	}
	if p.Device != "" && !p.Multihop {
		wrong("device %s: only a multihop session can be sent into a device; make the peer multihop", p.Device)
	}
	if !p.Multihop && p.MinTTL != onlink {
		wrong("minimum TTL %d: a neighbour's packets arrive with 255 (RFC 5881 §5); leave it out, or make the peer multihop", p.MinTTL)
	}
	for _, i := range [...]struct {
		what string
		d    time.Duration
	}{{"transmit", p.TransmitInterval}, {"receive", p.ReceiveInterval}} {
		if i.d < MinInterval || i.d > MaxInterval {
			wrong("%s interval %v: want %v to %v", i.what, i.d, MinInterval, MaxInterval)
		}
	}
	return errors.Join(errs...)
}

func linkLocal(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }

func (p Peer) timing() timing {
	return timing{tx: p.TransmitInterval, rx: p.ReceiveInterval, mult: p.Multiplier}
}

// identity is what a session keeps for its life.
func (p Peer) identity() Peer {
	return Peer{Name: p.Name, Local: p.Local, Remote: p.Remote, Multihop: p.Multihop, Device: p.Device, Router: p.Router}
}
