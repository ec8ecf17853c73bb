package compile

import (
	"net/netip"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/policy"
	"github.com/vrouter-go/vrouter/nexthop"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// vmi is a compiled virtual machine interface.
type vmi struct {
	port     uint16
	identity uint32
}

// defaultMTU is a port's MTU where none is given, in bytes.
const defaultMTU = 1500

// dummyGateway4 is the source of ICMP errors towards a port whose subnet has no
// gateway: the IPv4 dummy address (RFC 7600 §4.8, IANA special registry).
var dummyGateway4 = netip.AddrFrom4([4]byte{192, 0, 0, 8})

// compilePorts gives new interfaces their port and takes it from deleted ones,
// and routes their addresses.
func (c *Compiler) compilePorts(affected []state.Key) error {
	for name := range of(affected, state.VirtualMachineInterface) {
		k := state.Key{Kind: state.VirtualMachineInterface, Name: name}
		spec := c.state.Interface(name)
		if spec == nil {
			c.dropPort(name)
			c.place(k, nil)
			continue
		}
		if c.vmis[name] == nil {
			slot, err := c.portSlots.get(name)
			if err != nil {
				return err
			}
			c.vmis[name] = &vmi{port: uint16(slot)}
			c.now.interfaces = grow(c.now.interfaces, slot)
			c.now.specs = grow(c.now.specs, slot)
		}
		c.touch([]string{name})
		c.place(k, c.addressRoutes(name, spec))
	}
	return nil
}

func (c *Compiler) dropPort(name string) {
	v := c.vmis[name]
	if v == nil {
		return
	}
	c.now.interfaces[v.port] = forwarder.Interface{}
	c.now.specs[v.port] = nil
	c.policies.identities.release(v.identity)
	c.portSlots.release(name)
	delete(c.vmis, name)
}

// addressRoutes leads to an interface's own addresses and to the single addresses
// among its allowed pairs.
func (c *Compiler) addressRoutes(name string, spec *pb.VirtualMachineInterface) []placement {
	n := c.networks[spec.GetVirtualNetwork()]
	route := nexthop.Route{NextHop: forwarder.InterfaceNextHop(c.vmis[name].port), Network: n.id}
	var list []placement
	for _, s := range spec.GetAddresses() {
		if a, err := netip.ParseAddr(s); err == nil {
			list = append(list, placement{n.name, host(a), contribution{class: classWorkload, route: route, leak: true}})
		}
	}
	for _, pair := range spec.GetAllowedAddressPairs() {
		if p, err := netip.ParsePrefix(pair.GetPrefix()); err == nil && p.IsSingleIP() {
			list = append(list, placement{n.name, p, contribution{class: classPair, route: route, leak: true}})
		}
	}
	return list
}

// compileInterfaces builds what the packet path knows of each touched interface.
func (c *Compiler) compileInterfaces([]state.Key) error {
	for _, name := range names(c.dirty.vmis) {
		spec := c.state.Interface(name)
		if spec == nil {
			continue
		}
		v := c.vmis[name]
		identity := c.policies.identities.acquire(spec)
		c.policies.identities.release(v.identity)
		v.identity = identity
		c.now.interfaces[v.port] = c.workload(name, spec, v)
		if state.Waiting(spec) {
			c.now.specs[v.port] = nil
		} else if d := c.deviceSpec(name, spec, v.port); c.now.specs[v.port] == nil || !d.Equal(c.now.specs[v.port]) {
			c.now.specs[v.port] = d
		}
	}
	return nil
}

func (c *Compiler) workload(name string, spec *pb.VirtualMachineInterface, v *vmi) forwarder.Interface {
	n := c.networks[spec.GetVirtualNetwork()]
	g4, g6 := c.gateways(spec)
	itf := forwarder.Interface{
		Kind: forwarder.Workload, VRF: n.vrf, Network: n.id, Identity: v.identity,
		MTU: int32(mtu(spec.GetTap().GetMtu())), Quota: c.config.DefaultQuota,
		AntiSpoof: spec.AntiSpoof == nil || spec.GetAntiSpoof(),
		MAC:       [6]byte(state.MAC(name, spec.GetMacAddress())), Name: name,
		Gateway4: dummyGateway4.As16(),
	}
	if spec.GetFlowQuota() != 0 {
		itf.Quota = int32(spec.GetFlowQuota())
	}
	if g4.IsValid() {
		itf.Gateway4 = g4.As16()
	}
	if g6.IsValid() {
		itf.Gateway6 = g6.As16()
	}
	for _, s := range spec.GetAddresses() {
		if a, err := netip.ParseAddr(s); err == nil {
			itf.Sources = append(itf.Sources, addressRange(host(a)))
		}
	}
	for _, pair := range spec.GetAllowedAddressPairs() {
		if p, err := netip.ParsePrefix(pair.GetPrefix()); err == nil {
			itf.Sources = append(itf.Sources, addressRange(p))
		}
	}
	_, itf.SNAT = c.leaving[spec.GetVirtualNetwork()]
	c.addServices(name, &itf)
	return itf
}

// gateways returns the gateway addresses of the subnets that hold an interface's
// first address of each family; the zero Addr where there is none.
func (c *Compiler) gateways(spec *pb.VirtualMachineInterface) (g4, g6 netip.Addr) {
	for _, s := range spec.GetAddresses() {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Is4() && g4.IsValid() || a.Is6() && g6.IsValid() {
			continue
		}
		_, g := c.subnetOf(spec.GetVirtualNetwork(), a)
		if a.Is4() {
			g4 = g
		} else {
			g6 = g
		}
	}
	return g4, g6
}

// subnetOf returns the subnet of a network that holds a, and its gateway.
func (c *Compiler) subnetOf(network string, a netip.Addr) (netip.Prefix, netip.Addr) {
	vn := c.state.Get(state.Key{Kind: state.VirtualNetwork, Name: network}).GetVirtualNetwork()
	for _, sn := range vn.GetSubnets() {
		if p, err := netip.ParsePrefix(sn.GetPrefix()); err == nil && p.Contains(a) {
			g, _ := netip.ParseAddr(sn.GetGateway())
			return p, g
		}
	}
	return host(a), netip.Addr{}
}

func addressRange(p netip.Prefix) forwarder.AddressRange {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return forwarder.AddressRange{Address: p.Addr().As16(), Bits: uint8(bits)}
}

func mtu(given uint32) uint32 {
	if given == 0 {
		return defaultMTU
	}
	return given
}

// compileFabric builds the node's own port and routes its addresses there.
func (c *Compiler) compileFabric(affected []state.Key) error {
	touched := false
	for name := range of(affected, state.Fabric) {
		touched = true
		k := state.Key{Kind: state.Fabric, Name: name}
		f := c.state.Get(k).GetFabric()
		if f.GetVhost0() == nil {
			c.place(k, nil)
			continue
		}
		n := c.networks[state.FabricNetwork]
		route := nexthop.Route{NextHop: forwarder.InterfaceNextHop(vhostPort), Network: n.id}
		var list []placement
		for _, a := range c.nodeAddresses() {
			list = append(list, placement{n.name, host(a), contribution{class: classNode, route: route, leak: true}})
		}
		c.place(k, list)
	}
	if touched || c.now.nodes == nil {
		c.now.nodes = map[[16]byte]struct{}{}
		for _, a := range c.nodeAddresses() {
			c.now.nodes[a.As16()] = struct{}{}
		}
		c.dirty.vhost = true
	}
	return nil
}

// compileVhost builds the node's own port, which exists while Fabric describes
// it. What it reaches depends on everything else.
func (c *Compiler) compileVhost([]state.Key) error {
	if !c.dirty.vhost && !c.dirty.joins {
		return nil
	}
	v := c.state.Fabric().GetVhost0()
	if v == nil {
		c.now.interfaces[vhostPort], c.now.specs[vhostPort] = forwarder.Interface{}, nil
		return nil
	}
	n := c.networks[state.FabricNetwork]
	itf := forwarder.Interface{
		Kind: forwarder.Host, VRF: n.vrf, Network: n.id, Identity: policy.IdentityNode,
		MTU: int32(mtu(v.GetMtu())), MAC: [6]byte(state.MAC(state.Vhost0, v.GetMacAddress())),
		Name: state.Vhost0, Gateway4: dummyGateway4.As16(), Serves: c.targets(vhostPort),
	}
	for _, a := range c.nodeAddresses() {
		itf.Sources = append(itf.Sources, addressRange(host(a)))
		if _, g := c.subnetOf(state.FabricNetwork, a); g.Is4() {
			itf.Gateway4 = g.As16()
		} else if g.Is6() {
			itf.Gateway6 = g.As16()
		}
	}
	c.now.interfaces[vhostPort] = itf
	if d := c.vhostSpec(v); c.now.specs[vhostPort] == nil || !d.Equal(c.now.specs[vhostPort]) {
		c.now.specs[vhostPort] = d
	}
	return nil
}
