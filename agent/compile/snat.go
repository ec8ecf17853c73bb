package compile

import (
	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/nat"
)

// compileSNAT notes which networks leave by the node's address. Their interfaces are
// affected with them, as all that name a network.
func (c *Compiler) compileSNAT(affected []state.Key) error {
	for name := range of(affected, state.VirtualNetwork) {
		if c.state.Get(state.Key{Kind: state.VirtualNetwork, Name: name}).GetVirtualNetwork().GetFabricSnat() {
			c.leaving[name] = struct{}{}
		} else {
			delete(c.leaving, name)
		}
	}
	return nil
}

// snat is what they take as their source: of each family the first address of the
// node's port, else of its other ones. Where no network leaves, and no member is a
// host elsewhere, there is none, so that no port table is kept.
func (c *Compiler) snat() (s forwarder.SNAT) {
	f := c.state.Fabric()
	if len(c.leaving) == 0 && len(c.hosts) == 0 || f.GetUplink() == nil {
		return s
	}
	ports := state.SnatPorts(f)
	s.Ports = nat.Range{First: ports.First, Last: ports.Last}
	local4, local6 := c.localAddresses()
	if local4.Is4() {
		s.IPv4 = local4.As16()
	}
	if !local6.IsUnspecified() {
		s.IPv6 = local6.As16()
	}
	return s
}
