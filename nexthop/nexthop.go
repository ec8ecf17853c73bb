package nexthop

import (
	"errors"
	"strconv"
)

// ID names a next hop. It fits in 20 bits, because a session keeps two of them
// beside its epoch in one atomic word.
type ID uint32

const (
	// FirstID is the first id that is not a discard. Ids below it discard, and the
	// id is the drop reason; 0 discards without a better reason.
	FirstID ID = 256
	// MaxID is the largest id.
	MaxID ID = 1<<20 - 1
)

// IsDiscard reports whether id drops the packet; the id is then the reason.
func (id ID) IsDiscard() bool { return id < FirstID }

// Kind says what a next hop does with a packet.
type Kind uint8

// The kinds. The zero value discards, so that nothing leaves by accident.
const (
	// Discard drops the packet. NextHop.Index is the drop reason (0 to 255).
	Discard Kind = iota
	// Receive hands the packet to the vRouter itself: gateway addresses.
	Receive
	// Interface sends the packet out of NextHop.Port, vhost0 included.
	Interface
	// VRF looks the destination up again in NextHop.VRF.
	VRF
	// FloatingIP is a service address: NextHop.Index is its place in the snapshot's
	// list of floating IPs, which holds the port mappings and the ECMP group.
	FloatingIP
	// Tunnel sends the packet to another node: NextHop.Index is its place in the
	// snapshot's list of tunnels.
	Tunnel
	// Neighbor sends the packet out of NextHop.Port, the uplink, to the neighbor in
	// slot NextHop.Index of the forwarder's list.
	Neighbor

	numKinds
)

// String returns the kind's name as it is printed by vrctl.
func (k Kind) String() string {
	if k >= numKinds {
		return "kind(" + strconv.Itoa(int(k)) + ")"
	}
	return [numKinds]string{"discard", "receive", "interface", "vrf", "floating-ip", "tunnel", "neighbor"}[k]
}

// NextHop is what to do with a packet. It holds no pointers and is comparable.
// Which fields count depends on Kind. 12 bytes.
type NextHop struct {
	Kind  Kind
	Port  uint16 // Interface, Neighbor: the port's index, 1 and up
	VRF   uint16 // VRF: where to look again
	Index uint32 // FloatingIP, Tunnel: place in the snapshot's list; Neighbor: slot; Discard: the drop reason
}

// Table is the immutable list of next hops by id. The zero value discards
// everything. It is passed by value; copies share the list.
type Table struct {
	hops []NextHop // hops[:FirstID] are the discards
}

// ErrTooManyNextHops means that a table would need an id above MaxID.
var ErrTooManyNextHops = errors.New("nexthop: more than " + strconv.Itoa(int(MaxID-FirstID)+1) + " next hops; remove ports, networks or floating IPs")

// NewTable returns the table in which hops[i] has the id FirstID+i. It copies
// hops.
func NewTable(hops []NextHop) (Table, error) {
	if len(hops) > int(MaxID-FirstID)+1 {
		return Table{}, ErrTooManyNextHops
	}
	t := make([]NextHop, int(FirstID)+len(hops))
	for id := range FirstID {
		t[id] = NextHop{Kind: Discard, Index: uint32(id)}
	}
	copy(t[FirstID:], hops)
	return Table{hops: t}, nil
}

// At returns the next hop of id; an id that the table does not have discards.
func (t Table) At(id ID) NextHop {
	if uint(id) < uint(len(t.hops)) {
		return t.hops[id]
	}
	return NextHop{}
}

// Len is the number of ids in the table, the 256 discards included; ids are
// below it.
func (t Table) Len() int { return len(t.hops) }
