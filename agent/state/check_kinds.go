package state

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

func itoa(n int) string { return strconv.Itoa(n) }

// routerMAC is the address that the vRouter answers with (forwarder.RouterMAC).
const routerMAC = "00:00:5e:00:01:00"

func (c *checker) network(k Key, vn *pb.VirtualNetwork) {
	c.pools(k, vn)
	if k.Name != FabricNetwork && vn.GetVrf() == FabricNetwork {
		c.report.add(k, "spec.vrf", "%s is the VRF of the node's own network; choose another name", FabricNetwork)
	}
	if vn.GetBridging() && k.Name == FabricNetwork {
		c.report.add(k, "spec.bridging", "ip-fabric is the link of the uplink, which the node's kernel is on itself; leave bridging out")
	}
	c.fabricSnat(k, vn)
	var prefixes []netip.Prefix
	for i, sn := range vn.GetSubnets() {
		field := fmt.Sprintf("spec.subnets[%d]", i)
		p, err := netip.ParsePrefix(sn.GetPrefix())
		if err != nil {
			continue
		}
		if p.Bits() == 0 || p.Addr().IsMulticast() || p.Addr().IsLoopback() || p.Addr().Is4In6() || p.Addr().IsLinkLocalUnicast() {
			c.report.add(k, field+".prefix", "%s cannot be a subnet; give a unicast prefix such as 10.244.0.0/24 or fd00:244::/64", p)
			continue
		}
		for j, other := range prefixes {
			if p.Overlaps(other) {
				c.report.add(k, field+".prefix", "%s overlaps %s (subnets[%d]); give disjoint prefixes, or one that holds both", p, other, j)
			}
		}
		prefixes = append(prefixes, p)
		if sn.GetGateway() == "" {
			continue
		}
		g, ok := c.unicast(k, field+".gateway", sn.GetGateway())
		switch {
		case !ok:
		case !p.Contains(g):
			c.report.add(k, field+".gateway", "%s is not inside %s; give an address of the subnet, for example %s", g, p, p.Addr().Next())
		case edge(p, g):
			c.report.add(k, field+".gateway", "%s is the network or broadcast address of %s; give another address, for example %s", g, p, p.Addr().Next())
		}
	}
}

// edge reports whether a is the network or broadcast address of an IPv4 subnet
// that has them (RFC 3021: /31 and /32 have none).
func edge(p netip.Prefix, a netip.Addr) bool {
	if !p.Addr().Is4() || p.Bits() > 30 {
		return false
	}
	return a == p.Addr() || !p.Contains(a.Next())
}

func (c *checker) vmi(k Key, vmi *pb.VirtualMachineInterface) {
	if k.Name == Vhost0 {
		c.report.add(k, "name", "%s is the node's own port (Fabric); choose another name", Vhost0)
	}
	if k.Name == Uplink {
		c.report.add(k, "name", "%s is the node's fabric port (Fabric); choose another name", Uplink)
	}
	if vmi.GetMacAddress() != "" && MAC("", vmi.GetMacAddress()).String() == routerMAC {
		c.report.add(k, "spec.macAddress", "%s is the vRouter's own; choose another", routerMAC)
	}
	for i, s := range vmi.GetAddresses() {
		c.hosted(k, fmt.Sprintf("spec.addresses[%d]", i), vmi.GetVirtualNetwork(), s)
	}
	own := MAC(k.Name, vmi.GetMacAddress()).String()
	for i, pair := range vmi.GetAllowedAddressPairs() {
		if pair.GetMacAddress() != "" && MAC("", pair.GetMacAddress()).String() != own {
			c.report.add(k, fmt.Sprintf("spec.allowedAddressPairs[%d].macAddress", i),
				"a second MAC address on one interface is not supported; leave it out, or give the interface's own, %s", own)
		}
	}
	tap := vmi.GetTap()
	if vmi.GetAttachment() != nil {
		c.waiting(k, tap)
		return
	}
	if tap.GetExisting() && tap.GetName() == "" {
		c.report.add(k, "spec.tap.name", "must be given with existing: true: the name of the TAP that is there")
	}
	if tap.GetExisting() && tap.GetGuestName() != "" && tap.GetGuestName() != tap.GetName() {
		c.report.add(k, "spec.tap.guestName", "an existing TAP keeps its name %s; leave guestName out", tap.GetName())
	}
	if tap.GetNetns() == "" && tap.GetGuestName() != "" && tap.GetGuestName() != tap.GetName() && tap.GetName() != "" && !tap.GetExisting() {
		c.report.add(k, "spec.tap.guestName", "without netns the device keeps one name; leave guestName or name out")
	}
}

// hosted checks an address that a workload shall have.
func (c *checker) hosted(k Key, field, network, s string) {
	a, ok := c.unicast(k, field, s)
	if !ok {
		return
	}
	vn := Key{VirtualNetwork, network}
	if !c.Has(vn) {
		return // reported as dangling
	}
	p, ok := c.subnet(network, a)
	switch {
	case !ok:
		c.report.add(k, field, "%s is in no subnet of network %s; give an address of one, or add the subnet", a, network)
	case edge(p, a):
		c.report.add(k, field, "%s is the network or broadcast address of %s; give another address", a, p)
	}
	for _, fip := range c.FloatingIPsAt(Place{network, a}) {
		if f := (Key{FloatingIP, fip}); f != k && c.Get(f).GetFloatingIp().GetParent() == "" {
			c.report.add(k, field, "%s", taken(thing{claimAddress, network, a.String()}, f))
		}
	}
}

func (c *checker) instanceIP(k Key, ip *pb.InstanceIP) {
	a, ok := c.unicast(k, "spec.address", ip.GetAddress())
	if !ok {
		return
	}
	if len(ip.GetVirtualMachineInterfaces()) > 0 {
		c.hosted(k, "spec.address", ip.GetVirtualNetwork(), ip.GetAddress())
		for _, fip := range c.FloatingIPsAt(Place{ip.GetVirtualNetwork(), a}) {
			c.report.add(k, "spec.virtualMachineInterfaces",
				"FloatingIP/%s has this address too, and only one of them can answer; leave the interfaces to the floating IP", fip)
		}
	}
	for i, name := range ip.GetVirtualMachineInterfaces() {
		vmi := c.Interface(name)
		if vmi != nil && vmi.GetVirtualNetwork() != ip.GetVirtualNetwork() {
			c.report.add(k, fmt.Sprintf("spec.virtualMachineInterfaces[%d]", i),
				"%s stands in network %s and the address in %s; give interfaces of that network, or use a FloatingIP", name, vmi.GetVirtualNetwork(), ip.GetVirtualNetwork())
		}
	}
}

func (c *checker) route(k Key, r *pb.Route) {
	own := c.NetworkOfVRF(r.GetVrf())
	if own == "" {
		c.report.add(k, "spec.vrf", "no network has the VRF %s; give a network's vrf, which is its name where it gives none", r.GetVrf())
	}
	if r.GetMacAddress() != "" || r.GetFlood() {
		c.segmentRoute(k, own, r)
		return
	}
	p, err := netip.ParsePrefix(r.GetPrefix())
	if err != nil {
		return
	}
	if p.Addr().Is4In6() || p.Addr().IsMulticast() || p.Addr().IsLoopback() {
		c.report.add(k, "spec.prefix", "%s cannot be routed; give a unicast prefix", p)
	}
	seen := map[string]int{}
	ends := map[Endpoint]int{}
	for i, hop := range r.GetNextHops() {
		field := fmt.Sprintf("spec.nextHops[%d]", i)
		if t := hop.GetTunnel(); t != nil {
			c.tunnel(k, field+".tunnel", t)
			if end, ok := EndpointOf(c.Fabric(), t); ok {
				if j, ok := ends[end]; ok {
					c.report.add(k, field+".tunnel", "leads where nextHops[%d] leads already; leave one out, and give a heavier share by weight", j)
				}
				ends[end] = i
			}
		}
		if name := hop.GetInterface(); name != "" {
			if j, ok := seen[name]; ok {
				c.report.add(k, field+".interface", "%s is given already in nextHops[%d]; leave one out", name, j)
			}
			seen[name] = i
			if name == Vhost0 && c.Fabric().GetVhost0() == nil {
				c.report.add(k, field+".interface", "vhost0 does not exist: no Fabric resource describes it; add one with spec.vhost0")
			}
			if name == Vhost0 && len(r.GetNextHops()) > 1 {
				c.report.add(k, field+".interface", "vhost0 cannot share a route; let it stand alone")
			}
		}
		if vrf := hop.GetVrf(); vrf != "" {
			switch {
			case c.NetworkOfVRF(vrf) == "":
				c.report.add(k, field+".vrf", "no network has the VRF %s; give a network's vrf, which is its name where it gives none", vrf)
			case c.loops(r.GetVrf(), vrf):
				c.report.add(k, field+".vrf", "leads from VRF %s back to itself; a packet would be looked up for ever", r.GetVrf())
			}
		}
	}
}

// segmentRoute checks a MAC address or a flood list of a network.
func (c *checker) segmentRoute(k Key, network string, r *pb.Route) {
	field := "spec.flood"
	if r.GetMacAddress() != "" {
		field = "spec.macAddress"
	}
	if network != "" && !c.Get(Key{VirtualNetwork, network}).GetVirtualNetwork().GetBridging() {
		c.report.add(k, field, "is for networks that bridge, and %s does not; set bridging: true there, or give a prefix", network)
	}
	if r.GetMacAddress() != "" && MAC("", r.GetMacAddress()).String() == routerMAC {
		c.report.add(k, field, "%s is the vRouter's own on every node; give that of a workload", routerMAC)
	}
	seen := map[Endpoint]int{}
	for i, hop := range r.GetNextHops() {
		field := fmt.Sprintf("spec.nextHops[%d]", i)
		switch name := hop.GetInterface(); {
		case name == Vhost0:
			c.report.add(k, field+".interface", "vhost0 is in ip-fabric, which does not bridge; name an interface of %s", network)
		case name != "":
			if vmi := c.Get(Key{VirtualMachineInterface, name}).GetVirtualMachineInterface(); vmi != nil && vmi.GetVirtualNetwork() != network {
				c.report.add(k, field+".interface", "%s is in network %s; name an interface of %s", name, vmi.GetVirtualNetwork(), network)
			}
		}
		if t := hop.GetTunnel(); t != nil {
			c.segmentTunnel(k, field+".tunnel", t)
			if end, ok := SegmentEndpointOf(c.Fabric(), t); ok {
				if j, ok := seen[end]; ok {
					c.report.add(k, field+".tunnel", "leads where nextHops[%d] leads already; leave one out", j)
				}
				seen[end] = i
			}
		}
	}
}

// loops reports whether routes lead from VRF at back to VRF start.
func (c *checker) loops(start, at string) bool {
	visited := map[string]bool{}
	var visit func(string) bool
	visit = func(vrf string) bool {
		if vrf == start {
			return true
		}
		if visited[vrf] {
			return false
		}
		visited[vrf] = true
		for k := range c.claimed[thing{claimUse, "vrf", vrf}] {
			r := c.Get(k).GetRoute()
			if r.GetVrf() == vrf && r.GetNextHops()[0].GetVrf() != "" && visit(r.GetNextHops()[0].GetVrf()) {
				return true
			}
		}
		return false
	}
	return visit(at)
}

func (c *checker) fabric(k Key, f *pb.Fabric) {
	for i, s := range f.GetNodeAddresses() {
		c.unicast(k, fmt.Sprintf("spec.nodeAddresses[%d]", i), s)
	}
	if f.GetVhost0() == nil && len(f.GetNodeAddresses()) > 0 {
		c.report.add(k, "spec.vhost0", "must be given with nodeAddresses: it is where packets to them go")
	}
	for i, s := range f.GetVhost0().GetAddresses() {
		if p, err := netip.ParsePrefix(s); err == nil {
			field := fmt.Sprintf("spec.vhost0.addresses[%d]", i)
			if a, ok := c.unicast(k, field, p.Addr().String()); ok && edge(p.Masked(), a) {
				c.report.add(k, field, "%s is the network or broadcast address of %s; give a host's address", a, p.Masked())
			}
		}
	}
	if f.GetUplink() != nil && f.GetVhost0() == nil {
		c.report.add(k, "spec.vhost0", "must be given with uplink: it is where the packets go that come in for the node itself")
	}
	if f.GetSnatPorts() != nil && f.GetUplink() == nil {
		c.report.add(k, "spec.snatPorts", "are of no use without an uplink, which is where translated packets leave; add spec.uplink, or leave them out")
	}
	if r := SnatPorts(f); f.GetSnatPorts() != nil {
		for _, p := range tunnelPorts {
			if p >= r.First && p <= r.Last {
				c.report.add(k, "spec.snatPorts", "%d to %d has UDP port %d, by which the other nodes' tunnels come; choose a range without it", r.First, r.Last, p)
			}
		}
	}
	own := NodeAddresses(f)
	for i, peer := range f.GetPeers() {
		for j, s := range peer.GetAddresses() {
			field := fmt.Sprintf("spec.peers[%d].addresses[%d]", i, j)
			if a, ok := c.unicast(k, field, s); ok && slices.Contains(own, a) {
				c.report.add(k, field, "%s is this node's own address; leave the node itself out of peers", a)
			}
		}
		if peer.GetBfd() != nil && f.GetUplink() == nil {
			c.report.add(k, fmt.Sprintf("spec.peers[%d].bfd", i), "there is no way to other nodes to watch; add spec.uplink, or leave bfd out")
		}
	}
	if mac := f.GetVhost0().GetMacAddress(); mac != "" && MAC("", mac).String() == routerMAC {
		c.report.add(k, "spec.vhost0.macAddress", "%s is the vRouter's own; choose another", routerMAC)
	}
}
