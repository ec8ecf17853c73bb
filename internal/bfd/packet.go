package bfd

import (
	"encoding/binary"
	"strconv"
	"time"
)

// State is that of a session, with the wire's values (RFC 5880 §4.1).
type State uint8

// The states of a session (RFC 5880 §6.2).
const (
	// AdminDown: taken out of service on purpose, says nothing about the path.
	AdminDown State = 0
	// Down: the peer is not heard, or has just said that it does not hear us.
	Down State = 1
	// Init: the peer is heard and does not know that yet.
	Init State = 2
	// Up: both hear each other.
	Up State = 3
)

func (s State) String() string {
	switch s {
	case AdminDown:
		return "AdminDown"
	case Down:
		return "Down"
	case Init:
		return "Init"
	case Up:
		return "Up"
	}
	return "State(" + strconv.Itoa(int(s)) + ")"
}

// Diagnostic says why a session last left Up, with the wire's values 0–31
// (RFC 5880 §4.1).
type Diagnostic uint8

// The diagnostics that a Speaker gives itself; a peer may send others.
const (
	NoDiagnostic       Diagnostic = 0
	TimeExpired        Diagnostic = 1 // nothing was heard for the detection time
	NeighborDown       Diagnostic = 3 // the peer said that it does not hear us, or went on purpose
	AdministrativeDown Diagnostic = 7 // this side went on purpose
)

func (d Diagnostic) String() string {
	names := [...]string{
		"No Diagnostic",
		"Control Detection Time Expired",
		"Echo Function Failed",
		"Neighbor Signaled Session Down",
		"Forwarding Plane Reset",
		"Path Down",
		"Concatenated Path Down",
		"Administratively Down",
		"Reverse Concatenated Path Down",
	}
	if int(d) < len(names) {
		return names[d]
	}
	return "Diagnostic(" + strconv.Itoa(int(d)) + ")"
}

// Sizes of a control packet in bytes (RFC 5880 §4.1).
const (
	packetSize   = 24 // without authentication
	authMinSize  = 26 // the least with an authentication section
	protoVersion = 1
)

// Bits of the second byte, below the state.
const (
	bitPoll       = 0x20
	bitFinal      = 0x10
	bitAuth       = 0x04
	bitDemand     = 0x02
	bitMultipoint = 0x01
)

// packet is the mandatory section of a control packet (RFC 5880 §4.1). Intervals
// are whole microseconds. The C bit is not kept: a peer's makes no difference to
// us, and ours is 0, since the agent is the control plane.
type packet struct {
	state               State
	diag                Diagnostic
	poll, final         bool
	auth, demand        bool
	mult                uint8 // 1–255
	my, your            uint32
	minTx, minRx, minEc time.Duration // Desired Min TX, Required Min RX, Required Min Echo RX
}

// decode reads a UDP payload and makes those checks of RFC 5880 §6.8.6 that need
// nothing but the packet, in the order of that section. The packet is of use only
// with discardNone. Bytes behind the packet's own length are ignored.
func decode(b []byte) (packet, discard) {
	if len(b) < 4 { // too short even to tell its length
		return packet{}, discardLength
	}
	if b[0]>>5 != protoVersion {
		return packet{}, discardVersion
	}
	length, least := int(b[3]), packetSize
	if b[1]&bitAuth != 0 {
		least = authMinSize
	}
	if length < least || length > len(b) {
		return packet{}, discardLength
	}
	p := packet{
		diag:   Diagnostic(b[0] & 0x1f),
		state:  State(b[1] >> 6),
		poll:   b[1]&bitPoll != 0,
		final:  b[1]&bitFinal != 0,
		auth:   b[1]&bitAuth != 0,
		demand: b[1]&bitDemand != 0,
		mult:   b[2],
		my:     binary.BigEndian.Uint32(b[4:]),
		your:   binary.BigEndian.Uint32(b[8:]),
		minTx:  microseconds(b[12:]),
		minRx:  microseconds(b[16:]),
		minEc:  microseconds(b[20:]),
	}
	switch {
	case p.mult == 0:
		return packet{}, discardMultiplier
	case b[1]&bitMultipoint != 0:
		return packet{}, discardMultipoint
	case p.my == 0:
		return packet{}, discardMyDiscriminator
	}
	return p, discardNone
}

func microseconds(b []byte) time.Duration {
	return time.Duration(binary.BigEndian.Uint32(b)) * time.Microsecond
}

// encode writes the packet, without authentication.
func (p packet) encode() [packetSize]byte {
	var b [packetSize]byte
	b[0] = protoVersion<<5 | byte(p.diag)&0x1f
	b[1] = byte(p.state) << 6
	for _, bit := range [...]struct {
		on   bool
		mask byte
	}{{p.poll, bitPoll}, {p.final, bitFinal}, {p.demand, bitDemand}} {
		if bit.on {
			b[1] |= bit.mask
		}
	}
	b[2], b[3] = p.mult, packetSize
	binary.BigEndian.PutUint32(b[4:], p.my)
	binary.BigEndian.PutUint32(b[8:], p.your)
	binary.BigEndian.PutUint32(b[12:], uint32(p.minTx/time.Microsecond))
	binary.BigEndian.PutUint32(b[16:], uint32(p.minRx/time.Microsecond))
	binary.BigEndian.PutUint32(b[20:], uint32(p.minEc/time.Microsecond))
	return b
}
