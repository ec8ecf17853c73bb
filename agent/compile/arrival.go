package compile

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/nexthop"
)

// What other nodes may send here: labels of interfaces and networks, and VNIs.

// arrival is what a resource lets other nodes send to it by.
type arrival struct {
	label, vni uint32 // 0: none
	network    string
}

// overlayMAC is the address of the interface behind which the other nodes are,
// locally administered. No frame with it leaves the node.
var overlayMAC = [6]byte{0x02, 0x00, 0x5e, 0x00, 0x01, 0x00}

// compileArrivals brings labels and VNIs up to date. What a resource gives up in a
// transaction another may take, so all is given up first.
func (c *Compiler) compileArrivals(affected []state.Key) error {
	fresh := map[state.Key]arrival{}
	for _, k := range affected {
		var now arrival
		switch k.Kind {
		case state.VirtualMachineInterface:
			if vmi := c.state.Get(k).GetVirtualMachineInterface(); vmi.GetLabel() != 0 {
				now = arrival{label: vmi.GetLabel(), network: vmi.GetVirtualNetwork()}
			}
		case state.VirtualNetwork:
			if vn := c.state.Get(k).GetVirtualNetwork(); vn.GetLabel() != 0 || vn.GetVni() != 0 {
				now = arrival{label: vn.GetLabel(), vni: vn.GetVni(), network: k.Name}
			}
			c.dirty.overlays[k.Name] = struct{}{} // its gateways may have changed
		default:
			continue
		}
		hop := c.arrivalHop(k)
		if c.arrivals[k] == now && (now.label == 0 || c.labelHop(now.label) == hop) {
			continue
		}
		c.giveUp(c.arrivals[k])
		delete(c.arrivals, k)
		if now != (arrival{}) {
			fresh[k] = now
		}
	}
	for k, now := range fresh {
		c.arrivals[k] = now
		c.takeUp(k, now)
	}
	n := len(c.now.labels)
	for n > 0 && c.now.labels[n-1] == 0 {
		n--
	}
	c.now.labels = c.now.labels[:n]
	return nil
}

// arrivalHop is where a label of a resource leads; 0 where the resource is gone.
func (c *Compiler) arrivalHop(k state.Key) nexthop.ID {
	if v := c.vmis[k.Name]; k.Kind == state.VirtualMachineInterface && v != nil {
		return forwarder.InterfaceNextHop(v.port)
	}
	if n := c.networks[k.Name]; k.Kind == state.VirtualNetwork && n != nil {
		return hopVRF + nexthop.ID(n.vrf)
	}
	return 0
}

func (c *Compiler) labelHop(label uint32) nexthop.ID {
	if int(label) < len(c.now.labels) {
		return c.now.labels[label]
	}
	return 0
}

func (c *Compiler) giveUp(a arrival) {
	if a.label != 0 {
		c.setLabel(a.label, 0)
	}
	if a.vni != 0 {
		c.changeVNIs()
		delete(c.now.vnis, a.vni)
	}
	if a.network != "" {
		c.entrances[a.network]--
		c.dirty.overlays[a.network] = struct{}{}
	}
}

func (c *Compiler) takeUp(k state.Key, a arrival) {
	if a.label != 0 {
		c.setLabel(a.label, c.arrivalHop(k))
	}
	if a.vni != 0 {
		c.changeVNIs()
		c.now.vnis[a.vni] = c.networks[a.network].vrf
	}
	c.entrances[a.network]++
	c.dirty.overlays[a.network] = struct{}{}
}

// setLabel changes the list of labels, which the last snapshot shares.
func (c *Compiler) setLabel(label uint32, hop nexthop.ID) {
	if !c.dirty.labels {
		c.dirty.labels = true
		c.now.labels = slices.Clone(c.now.labels)
	}
	c.now.labels = grow(c.now.labels, int(label))
	c.now.labels[label] = hop
}

func (c *Compiler) changeVNIs() {
	if !c.dirty.vnis {
		c.dirty.vnis = true
		if c.now.vnis = maps.Clone(c.now.vnis); c.now.vnis == nil {
			c.now.vnis = map[uint32]uint16{}
		}
	}
}

// compileOverlays builds the interface at which packets from other nodes enter a
// VRF, where they may. It comes before deleted networks are dropped.
func (c *Compiler) compileOverlays([]state.Key) error {
	if c.dirty.uplink {
		for name := range c.entrances {
			c.dirty.overlays[name] = struct{}{}
		}
	}
	for name := range c.dirty.overlays {
		n := c.networks[name]
		if c.entrances[name] == 0 {
			delete(c.entrances, name)
		}
		if n == nil {
			continue
		}
		c.now.vrfs[n.vrf].Overlay = forwarder.Interface{}
		if c.entrances[name] > 0 {
			c.now.vrfs[n.vrf].Overlay = c.overlay(n)
		}
	}
	return nil
}

func (c *Compiler) overlay(n *network) forwarder.Interface {
	local4, local6 := c.localAddresses()
	itf := forwarder.Interface{
		Kind: forwarder.Overlay, VRF: n.vrf, Network: n.id, MTU: c.uplinkMTU(), MAC: overlayMAC,
		Name: "overlay " + n.name, Gateway4: errorSource(local4), Gateway6: local6.As16(),
	}
	found4, found6 := false, false
	vn := c.state.Get(state.Key{Kind: state.VirtualNetwork, Name: n.name}).GetVirtualNetwork()
	for _, sn := range vn.GetSubnets() {
		switch g, err := netip.ParseAddr(sn.GetGateway()); {
		case err != nil:
		case g.Is4() && !found4:
			itf.Gateway4, found4 = g.As16(), true
		case g.Is6() && !found6:
			itf.Gateway6, found6 = g.As16(), true
		}
	}
	return itf
}

// errorSource is an IPv4 address for ICMP errors to come from: a, else the dummy.
func errorSource(a netip.Addr) [16]byte {
	if a.Is4() {
		return a.As16()
	}
	return dummyGateway4.As16()
}
