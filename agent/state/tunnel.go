package state

import (
	"net"
	"net/netip"
	"slices"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Endpoint is where a tunnel leads: the other node, the encapsulation that follows
// from what both nodes take, and what the packet is for there. Two tunnels with
// equal endpoints are one.
type Endpoint struct {
	Remote        netip.Addr
	Encapsulation pb.Encapsulation_Value
	Identifier    uint32  // MPLS label or VNI
	InnerMAC      [6]byte // where VXLAN frames go inside; of no meaning in MPLS, and then the router's
}

// String returns the endpoint as flows show it: 192.0.2.12 MPLS_UDP 100017.
func (e Endpoint) String() string {
	text := e.Remote.String() + " " + e.Encapsulation.String() + " " + itoa(int(e.Identifier))
	if e.InnerMAC != innerRouterMAC {
		text += " " + net.HardwareAddr(e.InnerMAC[:]).String()
	}
	return text
}

// innerRouterMAC is what every vRouter answers with inside a VXLAN frame.
var innerRouterMAC = [6]byte(MAC("", routerMAC))

// Encapsulations returns the ways to other nodes that a node takes, the preferred
// one first.
func Encapsulations(f *pb.Fabric) []pb.Encapsulation_Value {
	if list := f.GetEncapsulations(); len(list) > 0 {
		return list
	}
	return allEncapsulations[:]
}

var allEncapsulations = [...]pb.Encapsulation_Value{pb.Encapsulation_MPLS_UDP, pb.Encapsulation_VXLAN, pb.Encapsulation_MPLS_GRE}

// EndpointOf returns where a tunnel leads from a node; false where the two have no
// encapsulation in common that the tunnel gives an identifier for.
func EndpointOf(f *pb.Fabric, t *pb.Tunnel) (Endpoint, bool) {
	remote, err := netip.ParseAddr(t.GetRemote())
	if err != nil {
		return Endpoint{}, false
	}
	for _, e := range Encapsulations(f) {
		id := identifier(t, e)
		if id == 0 || !takes(t, e) {
			continue
		}
		end := Endpoint{Remote: remote, Encapsulation: e, Identifier: id, InnerMAC: innerRouterMAC}
		if e == pb.Encapsulation_VXLAN && t.GetMacAddress() != "" {
			end.InnerMAC = [6]byte(MAC("", t.GetMacAddress()))
		}
		return end, true
	}
	return Endpoint{}, false
}

// SegmentEndpointOf is EndpointOf for a tunnel that carries frames of a network that
// bridges: it goes by VXLAN or not at all, and the frames keep their MAC addresses.
func SegmentEndpointOf(f *pb.Fabric, t *pb.Tunnel) (Endpoint, bool) {
	remote, err := netip.ParseAddr(t.GetRemote())
	if err != nil || t.GetVni() == 0 || !takes(t, pb.Encapsulation_VXLAN) || !slices.Contains(Encapsulations(f), pb.Encapsulation_VXLAN) {
		return Endpoint{}, false
	}
	return Endpoint{Remote: remote, Encapsulation: pb.Encapsulation_VXLAN, Identifier: t.GetVni(), InnerMAC: innerRouterMAC}, true
}

// takes reports whether the other node supports an encapsulation.
func takes(t *pb.Tunnel, e pb.Encapsulation_Value) bool {
	return len(t.GetEncapsulations()) == 0 || slices.Contains(t.GetEncapsulations(), e)
}

// identifier is what a tunnel gives for an encapsulation; 0: nothing.
func identifier(t *pb.Tunnel, e pb.Encapsulation_Value) uint32 {
	if e == pb.Encapsulation_VXLAN {
		return t.GetVni()
	}
	return t.GetLabel()
}

// BorrowsAddresses reports whether the node's port takes the addresses of the
// uplink, because nobody gives it any.
func BorrowsAddresses(f *pb.Fabric) bool {
	return f.GetUplink() != nil && f.GetVhost0() != nil && len(f.GetVhost0().GetAddresses()) == 0
}

// tunnelNeeds is what of the node's description the meaning of a tunnel depends on.
func tunnelNeeds(f *pb.Fabric) (needs []string) {
	if f.GetUplink() != nil {
		needs = append(needs, "uplink")
	}
	for _, e := range Encapsulations(f) {
		needs = append(needs, e.String())
	}
	for _, a := range NodeAddresses(f) {
		needs = append(needs, a.String())
	}
	return needs
}

// tunnel checks a way to another node in the light of this one.
func (c *checker) tunnel(k Key, field string, t *pb.Tunnel) {
	if c.remote(k, field, t) {
		if _, ok := EndpointOf(c.Fabric(), t); !ok {
			c.encapsulation(k, field, c.Fabric(), t)
		}
	}
}

// remote checks where a tunnel leads. It returns false where this node has none.
func (c *checker) remote(k Key, field string, t *pb.Tunnel) bool {
	f := c.Fabric()
	if f.GetUplink() == nil {
		c.report.add(k, field, "leads to another node, and this one has no uplink; add Fabric spec.uplink")
		return false
	}
	if remote, ok := c.unicast(k, field+".remote", t.GetRemote()); ok {
		own := NodeAddresses(f)
		sameFamily := func(a netip.Addr) bool { return a.Is4() == remote.Is4() }
		switch {
		case slices.Contains(own, remote):
			c.report.add(k, field+".remote", "%s is this node's own address; give that of the other node, or name the interface without a tunnel", remote)
		case !slices.ContainsFunc(own, sameFamily) && !BorrowsAddresses(f):
			c.report.add(k, field+".remote", "%s is %s, and the node has no %s address to send from; add one to Fabric spec.vhost0.addresses or spec.nodeAddresses",
				remote, family(remote), family(remote))
		}
	}
	return true
}

// segmentTunnel checks a tunnel that carries frames of a network that bridges.
func (c *checker) segmentTunnel(k Key, field string, t *pb.Tunnel) {
	if !c.remote(k, field, t) {
		return
	}
	f := c.Fabric()
	switch {
	case t.GetVni() == 0:
		c.report.add(k, field+".vni", "is missing: frames go by VXLAN; give the vni of the network")
	case !takes(t, pb.Encapsulation_VXLAN):
		c.report.add(k, field+".encapsulations", "lack VXLAN, and nothing else carries frames; add it, or leave encapsulations out")
	case !slices.Contains(Encapsulations(f), pb.Encapsulation_VXLAN):
		c.report.add(k, field, "carries frames, for which this node needs VXLAN, and has %s; add it to Fabric spec.encapsulations", encapsulationNames(f))
	case t.GetMacAddress() != "":
		c.report.add(k, field+".macAddress", "is for routed packets, and frames keep their own MAC addresses; leave it out")
	}
}

// encapsulation says why none can be chosen.
func (c *checker) encapsulation(k Key, field string, f *pb.Fabric, t *pb.Tunnel) {
	for _, e := range Encapsulations(f) {
		switch {
		case !takes(t, e):
		case e == pb.Encapsulation_VXLAN:
			c.report.add(k, field+".vni", "is missing: %s, which the nodes have in common, needs one; give the vni of the destination's network", e)
			return
		default:
			c.report.add(k, field+".label", "is missing: %s, which the nodes have in common, needs one; give the label that the other node gave to the interface or VRF", e)
			return
		}
	}
	c.report.add(k, field+".encapsulations", "has none of those of this node (%s); add one of them, or the other node's to Fabric spec.encapsulations", encapsulationNames(f))
}

func encapsulationNames(f *pb.Fabric) (names string) {
	for i, e := range Encapsulations(f) {
		if i > 0 {
			names += ", "
		}
		names += e.String()
	}
	return names
}
