package forwarder

import (
	"net/netip"
	"slices"

	"github.com/vrouter-go/vrouter/internal/policy"
	"github.com/vrouter-go/vrouter/nexthop"
)

// MaxPorts is the highest number of attached ports; port indices run from 1 to
// MaxPorts-1.
const MaxPorts = 4096

// FabricVRF is the VRF of the ip-fabric network, which always exists.
const FabricVRF uint16 = 0

// RouterMAC is the MAC address the vRouter answers with on every port, the one
// Contrail users know (VRRP range, RFC 5798 §7.3).
var RouterMAC = [6]byte{0x00, 0x00, 0x5e, 0x00, 0x01, 0x00}

// InterfaceKind says what stands behind a port.
type InterfaceKind uint8

const (
	// Absent is a port index that nothing uses; packets to it are dropped.
	Absent InterfaceKind = iota
	// Workload is a virtual machine interface: a pod or a VM. It is not trusted.
	Workload
	// Host is vhost0: the node's own IP stack. Its sources are checked for
	// martians only, because the node's kernel may forward for others.
	Host
	// Uplink is the fabric port: the device that joins the node with others. It is
	// in FabricVRF. Tunnel packets come in by it and are taken apart; of the rest,
	// what no session and no floating IP claims goes to vhost0 as it is.
	Uplink
	// Overlay is where packets out of tunnels stand: one for each VRF, without a
	// port of its own (VRF.Overlay). Who sent them was checked on another node.
	Overlay
)

// Interface is one port as the packet path sees it. Interfaces are values of an
// immutable snapshot: the control path builds them, workers read them.
type Interface struct {
	Kind      InterfaceKind
	VRF       uint16
	Network   uint32 // policy.Query's network id
	Identity  uint32 // policy identity of the workload's labels
	MTU       int32  // bytes of an IP packet, 1280 to 65535
	Quota     int32  // most sessions this port may hold as initiator; 0 = no limit
	AntiSpoof bool   // drop frames whose MAC, IP or ARP sender is not the interface's own
	MAC       [6]byte
	Name      string // the VMI's name, for Explain
	// Gateway4 and Gateway6 are the addresses that ICMP errors towards this
	// port come from. Gateway6 falls back to RouterLinkLocal when zero.
	Gateway4, Gateway6 [16]byte
	// Sources are the addresses the port may send from, host addresses and
	// allowed address pairs, v4-mapped.
	Sources []AddressRange
	// Egress are the floating IPs whose address the workload takes when it
	// opens a connection into their VRF (direction BOTH or EGRESS).
	Egress []EgressNAT
	// Serves are the target ports at which the workload answers for services.
	Serves []PortKey
	// SNAT says that connections of the workload that leave by the uplink take the
	// node's address as their source.
	SNAT bool
}

// AddressRange is a prefix in 16-byte form. Bits counts from the first of the
// 128 bits, so an IPv4 /24 has 120.
type AddressRange struct {
	Address [16]byte
	Bits    uint8
}

// EgressNAT is a floating IP an interface may open connections from.
type EgressNAT struct {
	FloatingIP uint32   // index in Snapshot.FloatingIPs
	VRF        uint16   // where the destination is looked up
	Address    [16]byte // the source after translation
}

// VRF is one routing instance.
type VRF struct {
	Name string
	FIB  *nexthop.FIB
	// Overlay is the interface at which packets that come through a tunnel enter the
	// VRF. Its Kind is Overlay where other nodes may send to the VRF, else Absent.
	Overlay Interface
	// Bridge is what there is to know of MAC addresses where the network bridges, nil
	// where it does not.
	Bridge *Bridge
}

// PortKey selects a mapping of a floating IP.
type PortKey struct {
	Proto uint8
	Port  uint16
}

// FloatingIP is a service address. A FloatingIP without mappings translates
// every protocol and port one to one.
type FloatingIP struct {
	ID       uint32 // stable for its life; shown as the session's floating IP
	Name     string
	Address  [16]byte
	Network  uint32
	VRF      uint16
	Ingress  bool                 // reachable from outside (direction INGRESS or BOTH)
	Egress   bool                 // connections are opened from it (direction EGRESS or BOTH, or workloads own it)
	Mappings map[PortKey]*Service // nil: Whole applies
	Whole    *Service             // the 1:1 service; nil when there are mappings
	// Fallback is where traffic to an unmapped port goes when the address is
	// also a node address; 0 means such traffic is refused.
	Fallback nexthop.ID
	// StandIn is, at a node address, the address that stands in for it between the
	// forwarder and the node's kernel, which keeps packets with its own addresses to
	// itself (StandIn); zero: there is none.
	StandIn [16]byte
	// Private says that the address is such a stand-in: the node alone may call it, and
	// what goes to another node leaves with the member's own address.
	Private bool
}

// Service is one (protocol, port) of a floating IP and the members behind it.
type Service struct {
	ID    uint32 // stable; the key of session affinity
	Group *nexthop.Group
	// ExternalLocal and InternalLocal keep new flows from outside, and those of this
	// node, to members on this node (the traffic policy Local of Kubernetes).
	ExternalLocal, InternalLocal bool
	// DirectReturn lets the member's node answer a client outside by itself.
	DirectReturn bool
	Hash         nexthop.HashFields
	Affinity     uint32 // ClientIP affinity timeout in ticks; 0 = none
	// Sources are where new flows may come from; empty: from everywhere.
	Sources []AddressRange
}

// Snapshot is the state of the forwarder at one epoch. It is built by the
// control path, never changes after Publish, and a packet sees one snapshot
// from start to end.
type Snapshot struct {
	// Epoch is set by Publish, 1 to 1<<24-1, wrapping past 0.
	Epoch uint32
	// Generation is the agent's own number for the state, shown by status.
	Generation  uint64
	Interfaces  []Interface // by port index; 0 is unused
	VRFs        []VRF       // by VRF index; 0 is ip-fabric
	NextHops    nexthop.Table
	FloatingIPs []*FloatingIP // by the Index of a FloatingIP next hop
	Policy      *policy.Set
	// NodeAddresses are this node's own addresses: SecurityPolicy lets them
	// reach local pods whatever it says (Kubernetes: probes).
	NodeAddresses map[[16]byte]struct{}

	// Uplink is the index of the fabric port, 0 where there is none.
	Uplink  uint16
	Tunnels []Tunnel // by the Index of a Tunnel next hop; the zero value is unused
	Peers   []Peer   // the other nodes, by Tunnel.Peer; the zero value is unused
	// Labels is where a packet goes that arrives with an MPLS label: an interface's
	// next hop, or a VRF's to be looked up in; 0 is an unknown label. By label.
	Labels []nexthop.ID
	// VNIs is the VRF that a VXLAN network identifier stands for.
	VNIs map[uint32]uint16
	// SNAT is what interfaces with SNAT take as their source, and all who call a member
	// that is a host elsewhere.
	SNAT SNAT
	// Exits are the node's own ways out of the uplink, to hosts of the fabric that a
	// route of ip-fabric leads to by a tunnel; nil: none.
	Exits *nexthop.FIB
	// Neighbors are the next hops, of NeighborNextHop, of the hosts on the uplink's link
	// that are known, by address in 16-byte form: what OnLinkNextHop stands for there.
	Neighbors map[[16]byte]nexthop.ID

	// dialled are the floating IPs at an address, as places in FloatingIPs; set by
	// Publish, and shared with the snapshot before where nothing else is dialled.
	dialled map[[16]byte][]uint32
	// edges are the interfaces as known sessions see them, by port index, and
	// sources the ranges that they refer to; set by Publish (edge.go). overlays are
	// the edges of the VRFs' Overlay interfaces.
	edges    []edge
	overlays []edge
	sources  []sourceRange
	// tunnels are the outer headers of Tunnels, and nodes the places of Peers by
	// address; set by Publish (tunnel.go).
	tunnels []tunnel
	nodes   map[[16]byte]uint32
	// bridges are the segments of the VRFs that bridge, by VRF, nil where none does; set
	// by Publish (bridge.go).
	bridges []bridge
	// host is the index of vhost0, 0 where there is none; set by Publish.
	host uint16
}

// index builds what the packet path looks up besides what the control path gave.
// before is the snapshot that s follows.
func (s *Snapshot) index(before *Snapshot) {
	s.makeEdges()
	s.makeBridges()
	s.makeTunnels(before)
	s.host = uint16(max(0, slices.IndexFunc(s.Interfaces, func(itf Interface) bool { return itf.Kind == Host })))
	if before.dialled != nil && slices.EqualFunc(s.FloatingIPs, before.FloatingIPs, dialledAlike) {
		s.dialled = before.dialled
		return
	}
	s.dialled = make(map[[16]byte][]uint32, len(s.FloatingIPs))
	places := make([]uint32, len(s.FloatingIPs)) // one allocation for all but the shared addresses
	for i, fip := range s.FloatingIPs {
		if fip == nil {
			continue
		}
		if had, ok := s.dialled[fip.Address]; ok {
			s.dialled[fip.Address] = append(had, uint32(i))
			continue
		}
		places[i] = uint32(i)
		s.dialled[fip.Address] = places[i : i+1 : i+1]
	}
}

// dialledAlike reports whether two floating IPs, nil for none, stand at the same
// place.
func dialledAlike(a, b *FloatingIP) bool {
	return a == b || a != nil && b != nil && a.Address == b.Address && a.Network == b.Network
}

// InterfaceNextHop is the id of the next hop that sends to a port. Every
// snapshot has these, so a session's next hop outlives snapshots.
func InterfaceNextHop(port uint16) nexthop.ID {
	return nexthop.ID(uint32(NumDropReasonIDs) + uint32(port))
}

// MaxNeighbors is how many hosts and gateways on the uplink's link can be told
// apart by their MAC address at once.
const MaxNeighbors = 4096

// NeighborNextHop returns the id of the next hop that sends out of the uplink to the
// neighbor in a slot, 0 to MaxNeighbors-1. Every snapshot has these.
func NeighborNextHop(slot uint32) nexthop.ID {
	return nexthop.ID(NumDropReasonIDs + MaxPorts + slot%MaxNeighbors)
}

// OnLinkNextHop is the id of the next hop of routes to the uplink's own link: it sends
// to whoever of Snapshot.Neighbors has the destination's address, and asks the agent
// for who is not among them (DrainWanted). Every snapshot has it. No session does.
const OnLinkNextHop = nexthop.ID(NumDropReasonIDs + MaxPorts + MaxNeighbors)

// FirstFreeNextHop is the lowest id that the control path may give to other
// next hops: below it are the discards, the interfaces and the neighbors.
const FirstFreeNextHop = OnLinkNextHop + 1

// FixedNextHops returns the next hops that every snapshot has, from
// nexthop.FirstID to FirstFreeNextHop-1, for the control path to append its own.
// uplink is the index of the fabric port, 0 for none.
func FixedNextHops(uplink uint16) []nexthop.NextHop {
	hops := make([]nexthop.NextHop, 0, FirstFreeNextHop-nexthop.FirstID)
	for port := range uint16(MaxPorts) {
		hops = append(hops, nexthop.NextHop{Kind: nexthop.Interface, Port: port})
	}
	for slot := range uint32(MaxNeighbors) {
		hops = append(hops, nexthop.NextHop{Kind: nexthop.Neighbor, Port: uplink, Index: slot})
	}
	return append(hops, nexthop.NextHop{Kind: nexthop.Neighbor, Port: uplink, Index: MaxNeighbors}) // OnLinkNextHop: nobody's slot
}

// NumDropReasonIDs is how many next hop ids are kept for discards, one for each
// possible DropReason.
const NumDropReasonIDs = 256

// Address16 returns the 16-byte form of an address, IPv4 as ::ffff:a.b.c.d.
func Address16(a netip.Addr) [16]byte { return a.As16() }
