// Package nodeport answers how a node's own processes reach the ports that floating IPs
// map at the node's own addresses. The kernel keeps a packet to one of its addresses to
// itself, so a rule of ours sends those that the node makes for such a port to an address
// that stands in for the node's, which leads to the forwarder.
package nodeport

import (
	"cmp"
	"net/netip"
)

// Port is one mapped port at an address of the node. Comparable.
type Port struct {
	Address  netip.Addr // of the node
	StandIn  netip.Addr // of the same family; routed to the forwarder
	Protocol uint8      // an IP protocol number with ports: TCP, UDP, SCTP
	Port     uint16     // that is called
}

// Compare orders ports by address, protocol and port.
func (p Port) Compare(o Port) int {
	return cmp.Or(p.Address.Compare(o.Address), cmp.Compare(p.Protocol, o.Protocol), cmp.Compare(p.Port, o.Port), p.StandIn.Compare(o.StandIn))
}
