package state

import (
	"fmt"
	"slices"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Ports is a range of ports, both ends included.
type Ports struct{ First, Last uint16 }

// defaultSnatPorts lies between what kernels choose from (32768 to 60999) and the
// end, and above the NodePorts (30000 to 32767).
var defaultSnatPorts = Ports{61000, 65535}

// SnatPorts returns the ports that source translation to the node's addresses has.
func SnatPorts(f *pb.Fabric) Ports {
	r := f.GetSnatPorts()
	if r == nil {
		return defaultSnatPorts
	}
	return Ports{uint16(r.GetStart()), uint16(max(r.GetStart(), r.GetEnd()))}
}

// snatOf is what of the node's description source translation depends on; the zero
// Ports where there is none.
func snatOf(f *pb.Fabric) Ports {
	if f.GetUplink() == nil {
		return Ports{}
	}
	return SnatPorts(f)
}

// fabricSnat checks that a network's workloads can leave by the node's address.
func (c *checker) fabricSnat(k Key, vn *pb.VirtualNetwork) {
	switch {
	case !vn.GetFabricSnat():
	case k.Name == FabricNetwork:
		c.report.add(k, "spec.fabricSnat", "%s is the network that others are translated into; leave it out here", FabricNetwork)
	case c.Fabric().GetUplink() == nil:
		c.report.add(k, "spec.fabricSnat", "needs an uplink for the packets to leave by; add Fabric spec.uplink")
	}
}

// snatPorts refuses a mapping at a node address that lies in the range of source
// translation: a client there could not be told from a server here.
func (c *checker) snatPorts(k Key, place Place, fip *pb.FloatingIP) {
	f := c.Fabric()
	r := snatOf(f)
	if place.Network != FabricNetwork || r == (Ports{}) || !slices.Contains(NodeAddresses(f), place.Address) {
		return
	}
	for i, m := range fip.GetFloatingIpPortMappings().GetPortMappings() {
		if p := uint16(m.GetSrcPort()); p >= r.First && p <= r.Last {
			c.report.add(k, fmt.Sprintf("spec.floatingIpPortMappings.portMappings[%d].srcPort", i),
				"%d at the node address %s is among the ports that networks with fabricSnat leave by (%d to %d); choose another port, or change Fabric spec.snatPorts",
				p, place.Address, r.First, r.Last)
		}
	}
}
