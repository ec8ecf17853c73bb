package forwarder

import "github.com/vrouter-go/vrouter/nexthop"

// Encapsulation is a way to carry a packet to another node.
type Encapsulation uint8

const (
	// MPLSoverUDP is an MPLS label behind UDP port 6635 (RFC 7510).
	MPLSoverUDP Encapsulation = iota
	// VXLAN is a frame behind UDP port 4789 (RFC 7348).
	VXLAN
	// MPLSoverGRE is an MPLS label behind GRE (RFC 4023).
	MPLSoverGRE

	numEncapsulations
)

// String returns the encapsulation's name as the API spells it.
func (e Encapsulation) String() string {
	if e >= numEncapsulations {
		return "UNKNOWN"
	}
	return [numEncapsulations]string{"MPLS_UDP", "VXLAN", "MPLS_GRE"}[e]
}

// Tunnel is one way into another node: who, how, and what the packet is for there.
// A value of an immutable snapshot.
type Tunnel struct {
	Peer          uint32 // index in Snapshot.Peers
	Encapsulation Encapsulation
	// Identifier is the MPLS label or the VNI.
	Identifier uint32
	// InnerMAC is what VXLAN frames are sent to inside; RouterMAC where the control
	// path has no other.
	InnerMAC [6]byte
	Used     bool // false: a place in the list that no tunnel has
}

// Peer is another node. A value of an immutable snapshot.
type Peer struct {
	Name string // for Explain; its address where the control path gives no name
	// Address and Local are the outer addresses of tunnels to it, v4-mapped.
	Address, Local [16]byte
	// Neighbor is the MAC address of the next hop towards it, valid while Resolved.
	Neighbor [6]byte
	Resolved bool
	// Down says that the node is dead (BFD, or the control plane): no new flow
	// takes a member there, and what is sent there is dropped.
	Down bool
	// MTU is the most bytes of an outer IP packet on the way to it.
	MTU int32
	// Return is where replies go that no route leads back to: a tunnel to the
	// node's own VRF; 0 where there is none.
	Return nexthop.ID
}
