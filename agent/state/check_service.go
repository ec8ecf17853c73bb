package state

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

func (c *checker) floatingIP(k Key, fip *pb.FloatingIP) {
	place := c.PlaceOf(fip)
	field := "spec.address"
	if fip.GetAddress() == "" {
		field = "spec.parent"
	}
	if !place.Address.IsValid() {
		return // a bad address or parent, reported already
	}
	if _, ok := c.unicast(k, field, place.Address.String()); !ok {
		return
	}
	c.addressOwners(k, field, place, fip)
	c.sharing(k, field, place, fip)
	c.snatPorts(k, place, fip)
	for i, m := range Members(fip) {
		c.member(k, i, place, fip, m)
	}
	for i, s := range fip.GetSourceRanges() {
		if p, err := netip.ParsePrefix(s); err == nil && p.Addr().Is4In6() {
			c.report.add(k, fmt.Sprintf("spec.sourceRanges[%d]", i), "%s is an IPv4 prefix in IPv6 form, which no packet has; write it as IPv4", p)
		}
	}
	c.healthCheck(k, place, fip)
}

// healthCheck refuses a port that answers for another service already, or that is
// a NodePort.
func (c *checker) healthCheck(k Key, place Place, fip *pb.FloatingIP) {
	h := fip.GetHealthCheck()
	if h == nil {
		return
	}
	const field = "spec.healthCheck.port"
	nodes := NodeAddresses(c.Fabric())
	if !BorrowsAddresses(c.Fabric()) && !slices.ContainsFunc(nodes, func(a netip.Addr) bool { return a.Is4() == place.Address.Is4() }) {
		c.report.add(k, field, "the node has no %s address to answer at; add one to Fabric spec.vhost0.addresses or spec.nodeAddresses", family(place.Address))
	}
	for other := range c.claimed[thing{claimUse, "health check", itoa(int(h.GetPort()))}] {
		o := c.Get(other).GetFloatingIp().GetHealthCheck()
		if o.GetServiceNamespace() != h.GetServiceNamespace() || cmp.Or(o.GetServiceName(), other.Name) != cmp.Or(h.GetServiceName(), k.Name) {
			c.report.add(k, field, "port %d answers for %s already; choose another, or give both the same serviceNamespace and serviceName", h.GetPort(), other)
		}
	}
	for _, a := range nodes {
		for _, name := range c.FloatingIPsAt(Place{FabricNetwork, a}) {
			if _, ok := mappingsOf(c.Get(Key{FloatingIP, name}).GetFloatingIp())[servicePort{uint8(pb.Protocol_TCP), uint16(h.GetPort())}]; ok {
				c.report.add(k, field, "TCP port %d of the node is mapped by FloatingIP/%s; choose another port", h.GetPort(), name)
			}
		}
	}
}

// addressOwners refuses a floating IP at an address that somebody else has. The
// node's own addresses are no clash: ports that are not mapped are the node's.
func (c *checker) addressOwners(k Key, field string, place Place, fip *pb.FloatingIP) {
	at := thing{claimAddress, place.Network, place.Address.String()}
	for owner := range c.claimed[at] {
		switch {
		case owner.Kind == Fabric:
		case owner == Key{InstanceIP, fip.GetParent()}:
			if len(c.Get(owner).GetInstanceIp().GetVirtualMachineInterfaces()) > 0 {
				c.report.add(k, field, "%s has interfaces of its own at %s, and only one of them can answer; leave its virtualMachineInterfaces out", owner, place.Address)
			}
		default:
			c.report.add(k, field, "%s", taken(at, owner))
		}
	}
}

// sharing lets several floating IPs have one address, as the NodePorts of a node
// do, while each serves ports of its own.
func (c *checker) sharing(k Key, field string, place Place, fip *pb.FloatingIP) {
	mine := mappingsOf(fip)
	for _, name := range c.FloatingIPsAt(place) {
		if name == k.Name {
			continue
		}
		other := c.Get(Key{FloatingIP, name}).GetFloatingIp()
		theirs := mappingsOf(other)
		if len(mine) == 0 || len(theirs) == 0 || egress(fip) || egress(other) {
			c.report.add(k, field, "%s in network %s belongs to FloatingIP/%s; two floating IPs share an address only when both have port mappings and direction INGRESS",
				place.Address, place.Network, name)
			continue
		}
		for p, i := range mine {
			if _, ok := theirs[p]; ok {
				c.report.add(k, fmt.Sprintf("spec.floatingIpPortMappings.portMappings[%d].srcPort", i),
					"%s port %d at %s is served by FloatingIP/%s; choose another port", pb.Protocol_Value(p.proto), p.port, place.Address, name)
			}
		}
	}
}

type servicePort struct {
	proto uint8
	port  uint16
}

func mappingsOf(fip *pb.FloatingIP) map[servicePort]int {
	ports := map[servicePort]int{}
	for i, m := range fip.GetFloatingIpPortMappings().GetPortMappings() {
		ports[servicePort{Protocol(m), uint16(m.GetSrcPort())}] = i
	}
	return ports
}

func egress(fip *pb.FloatingIP) bool {
	return fip.GetDirection() == pb.FloatingIP_EGRESS || fip.GetDirection() == pb.FloatingIP_BOTH
}

func (c *checker) member(k Key, i int, place Place, fip *pb.FloatingIP, m *pb.Member) {
	field := fmt.Sprintf("spec.members[%d]", i)
	nameField := field + ".virtualMachineInterface"
	if len(fip.GetVirtualMachineInterfaces()) > 0 {
		nameField = fmt.Sprintf("spec.virtualMachineInterfaces[%d]", i)
	}
	name := m.GetVirtualMachineInterface()
	vmi := c.Interface(name)
	if vmi == nil && m.GetTunnel() == nil && !m.GetHost() {
		return // reported as dangling
	}
	a, ok := MemberAddress(m, vmi, place.Address)
	switch {
	case m.GetHost():
		c.hostMember(k, field, place, fip, m)
	case m.GetTunnel() != nil:
		c.remoteMember(k, field, place, m, a)
		if vmi != nil {
			c.report.add(k, nameField, "%s is an interface of this node, and the tunnel leads to another; leave tunnel out, or give the name of the other node's interface", name)
		}
	case vmi.GetAttachment() != nil && m.GetAddress() == "":
		// Its addresses come and go with the container; it is a member while it has one.
	case !ok:
		c.report.add(k, nameField, "%s has no %s address, and the floating IP is %s; give the interface one, or leave it out", name, family(place.Address), place.Address)
	case m.GetAddress() != "" && a.Is4() != place.Address.Is4():
		c.report.add(k, field+".address", "%s must be of the same family as the floating IP %s", a, place.Address)
	case m.GetAddress() != "" && vmi.GetAttachment() == nil && !HasAddress(vmi, a):
		c.report.add(k, field+".address", "%s is not an address of %s; give one of its addresses or of its allowedAddressPairs", a, name)
	}
	mapped := mappingsOf(fip)
	for j, t := range m.GetTargetPorts() {
		if _, ok := mapped[servicePort{Protocol(t), uint16(t.GetSrcPort())}]; !ok {
			c.report.add(k, fmt.Sprintf("%s.targetPorts[%d].srcPort", field, j), "%s port %d is not among floatingIpPortMappings; map it there first",
				pb.Protocol_Value(Protocol(t)), t.GetSrcPort())
		}
	}
}

// remoteMember checks a member that another node has, at address a.
func (c *checker) remoteMember(k Key, field string, place Place, m *pb.Member, a netip.Addr) {
	if _, ok := c.unicast(k, field+".address", m.GetAddress()); ok && a.Is4() != place.Address.Is4() {
		c.report.add(k, field+".address", "%s must be of the same family as the floating IP %s", a, place.Address)
	}
	c.tunnel(k, field+".tunnel", m.GetTunnel())
}

// hostMember checks a member that is a host of the fabric.
func (c *checker) hostMember(k Key, field string, place Place, fip *pb.FloatingIP, m *pb.Member) {
	f := c.Fabric()
	a, ok := c.unicast(k, field+".address", m.GetAddress())
	own := slices.Contains(NodeAddresses(f), a)
	switch {
	case !ok:
	case a.Is4() != place.Address.Is4():
		c.report.add(k, field+".address", "%s must be of the same family as the floating IP %s", a, place.Address)
	case a == place.Address && !own && !BorrowsAddresses(f):
		c.report.add(k, field+".address", "%s is the floating IP itself; give the host's address", a)
	case own && f.GetVhost0() == nil:
		c.report.add(k, field+".address", "%s is this node, which is reached by vhost0, and there is none; add Fabric spec.vhost0", a)
	case !own && f.GetUplink() == nil:
		c.report.add(k, field+".address", "%s is a host outside, and the node has no uplink; add Fabric spec.uplink", a)
	}
	if egress(fip) {
		c.report.add(k, field+".host", "a host opens no connections with the floating IP; give direction INGRESS, or leave the member out")
	}
}

// HasAddress reports whether an interface may be reached at an address: one of its
// own, or a single one among its allowed pairs.
func HasAddress(vmi *pb.VirtualMachineInterface, a netip.Addr) bool {
	for _, s := range vmi.GetAddresses() {
		if canonical(s) == a.String() {
			return true
		}
	}
	for _, pair := range vmi.GetAllowedAddressPairs() {
		if p, err := netip.ParsePrefix(pair.GetPrefix()); err == nil && p.IsSingleIP() && p.Addr() == a {
			return true
		}
	}
	return false
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

func (c *checker) networkPolicy(k Key, np *pb.NetworkPolicy) {
	attached := map[string]bool{}
	for _, name := range np.GetVirtualNetworks() {
		attached[name] = true
	}
	names := map[string]int{}
	for i, rule := range np.GetRules() {
		field := fmt.Sprintf("spec.rules[%d]", i)
		if j, ok := names[rule.GetName()]; ok && rule.GetName() != "" {
			c.report.add(k, field+".name", "%q is the name of rules[%d]; give each rule its own", rule.GetName(), j)
		}
		names[rule.GetName()] = i
		for _, end := range [...]struct {
			name string
			pb   *pb.PolicyEndpoint
		}{{"source", rule.GetSource()}, {"destination", rule.GetDestination()}} {
			if vn := end.pb.GetVirtualNetwork(); vn != "" && !attached[vn] {
				c.report.add(k, field+"."+end.name+".virtualNetwork", "the policy is not attached to %s, so the rule would never match; add %s to virtualNetworks", vn, vn)
			}
		}
		src, serr := netip.ParsePrefix(rule.GetSource().GetPrefix())
		dst, derr := netip.ParsePrefix(rule.GetDestination().GetPrefix())
		if serr == nil && derr == nil && src.Addr().Is4() != dst.Addr().Is4() {
			c.report.add(k, field+".destination.prefix", "%s and %s are of two families, so the rule would never match; write one rule for each family", src, dst)
		}
	}
}

// maxAddressViolations bounds what is said about one AddressSet.
const maxAddressViolations = 10

func (c *checker) addressSet(k Key, as *pb.AddressSet) {
	said := 0
	for i, s := range as.GetAddresses() {
		if _, err := ParseAddressOrPrefix(s); err != nil {
			if said++; said > maxAddressViolations {
				return
			}
			c.report.add(k, fmt.Sprintf("spec.addresses[%d]", i), "%v", err)
		}
	}
}

// ParseAddressOrPrefix reads an element of an AddressSet: an address, which is a
// prefix of its own, or a prefix whose host bits are zero. The error says what would
// be right.
func ParseAddressOrPrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		var a netip.Addr
		if a, err = netip.ParseAddr(s); err == nil && a.Zone() == "" {
			p = netip.PrefixFrom(a, a.BitLen())
		}
	}
	switch {
	case !p.IsValid():
		return netip.Prefix{}, fmt.Errorf("%q is no address and no prefix; give for example 10.244.1.7, fd00:244::7 or 192.0.2.0/24", s)
	case p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%s is IPv4 in IPv6 clothes; write %s", s, p.Addr().Unmap())
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("%s has host bits; write %s, or the address without a length", s, p.Masked())
	}
	return p, nil
}

func (c *checker) securityPolicy(k Key, sp *pb.SecurityPolicy) {
	cluster := sp.GetNamespaceSelector() != nil
	for _, list := range [...]struct {
		name  string
		rules []*pb.SecurityRule
	}{{"ingress", sp.GetIngress()}, {"egress", sp.GetEgress()}} {
		names := map[string]int{}
		for i, rule := range list.rules {
			field := fmt.Sprintf("spec.%s[%d]", list.name, i)
			if j, ok := names[rule.GetName()]; ok && rule.GetName() != "" {
				c.report.add(k, field+".name", "%q is the name of %s[%d]; give each rule its own", rule.GetName(), list.name, j)
			}
			names[rule.GetName()] = i
			for j, peer := range rule.GetPeers() {
				c.ipBlock(k, fmt.Sprintf("%s.peers[%d].ipBlock", field, j), peer.GetIpBlock())
				if cluster && peer.GetSelector() != nil && peer.GetNamespaceSelector() == nil {
					c.report.add(k, fmt.Sprintf("%s.peers[%d].selector", field, j), "the policy is in no namespace, and a selector alone stays in the policy's own; give namespaceSelector too, {} for all")
				}
			}
			for j, port := range rule.GetPorts() {
				if port.GetName() != "" && list.name == "egress" {
					c.report.add(k, fmt.Sprintf("%s.ports[%d].name", field, j), "egress rules take numbers, because the interface here does not know the ports of its peers; write one rule for each number, with the peers that have it")
				}
			}
		}
	}
}

func (c *checker) ipBlock(k Key, field string, b *pb.IpBlock) {
	cidr, err := netip.ParsePrefix(b.GetCidr())
	if err != nil {
		return
	}
	for i, s := range b.GetExcept() {
		if p, err := netip.ParsePrefix(s); err == nil && (p.Bits() < cidr.Bits() || !cidr.Overlaps(p)) {
			c.report.add(k, fmt.Sprintf("%s.except[%d]", field, i), "%s is not inside %s; give a part of it", p, cidr)
		}
	}
}
