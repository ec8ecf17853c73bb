// Package underlay answers how the node reaches the other nodes: it watches the
// uplink, the kernel's routes and its neighbors, and has the kernel keep the
// neighbors fresh that tunnels are sent to.
package underlay

import (
	"maps"
	"net/netip"
	"slices"
)

// Target is what is watched.
type Target struct {
	Device string       // the uplink; "": nothing is watched
	Netns  string       // the namespace that it stands in; "": the daemon's
	Peers  []netip.Addr // the other nodes, and other hosts that are to be reached at once
}

// equal reports whether two targets are the same.
func (t *Target) equal(o *Target) bool {
	return t.Device == o.Device && t.Netns == o.Netns && slices.Equal(t.Peers, o.Peers)
}

// View is what is found at one moment. It never changes.
type View struct {
	Link Link
	// Addresses of the uplink that other nodes can reach, in the kernel's order;
	// link-local ones and those that duplicate detection has not passed are left out.
	Addresses []netip.Addr
	Paths     map[netip.Addr]Path // by peer
	// Exits are the kernel's routes out of the uplink, in order of the prefix.
	Exits []Exit
	// Neighbors are the MAC addresses of the hosts on the uplink's link that the kernel
	// knows, and would send to, by address: those in the prefix of an exit without a
	// gateway, at most MaxNeighbors, the latest.
	Neighbors map[netip.Addr][6]byte
	// Problem says why less is known than could be: no such namespace or device, or a
	// kernel that does not answer. "": none.
	Problem string
}

// Link is the uplink.
type Link struct {
	Index int // in its namespace; 0: it is not there
	MAC   [6]byte
	MTU   int  // bytes of an IP packet
	Up    bool // up, with a carrier
}

// Path is the way to one peer.
type Path struct {
	NextHop netip.Addr // the peer itself where it is on the link, else its gateway
	MAC     [6]byte    // of the next hop, valid while State is Resolved
	State   State
	MTU     int // bytes of an IP packet: the link's, or less where the route says so
}

// MaxNeighbors is how many hosts on the link a view has.
const MaxNeighbors = 4096

// Exit is a route out of the uplink, by way of a gateway or to the link itself.
type Exit struct {
	Prefix  netip.Prefix
	Gateway netip.Addr // the zero Addr: none, the destination is on the link
	MAC     [6]byte    // of the gateway; all zero: not resolved
}

// State says how far a path is known.
type State uint8

const (
	// Unresolved is the state until the next hop answers for the first time.
	Unresolved State = iota
	// Resolved has the next hop's MAC address.
	Resolved
	// Failed is a next hop that does not answer, until it does again.
	Failed
	// NoRoute is a peer that the kernel has no route to, or not by the uplink.
	NoRoute

	numStates
)

// String returns the state as status shows it.
func (s State) String() string {
	if s >= numStates {
		return "unknown"
	}
	return [numStates]string{"unresolved", "resolved", "no answer from the next hop", "no route by the uplink"}[s]
}

func (v *View) equal(o *View) bool {
	return v.Link == o.Link && v.Problem == o.Problem && slices.Equal(v.Addresses, o.Addresses) &&
		slices.Equal(v.Exits, o.Exits) && maps.Equal(v.Paths, o.Paths) && maps.Equal(v.Neighbors, o.Neighbors)
}
