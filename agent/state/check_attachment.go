package state

import (
	"fmt"
	"net/netip"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// pools refuses prefixes from which no interface could be given an address.
func (c *checker) pools(k Key, vn *pb.VirtualNetwork) {
	var before []netip.Prefix
	for i, s := range vn.GetPools() {
		field := fmt.Sprintf("spec.pools[%d]", i)
		p, err := netip.ParsePrefix(s)
		if err != nil {
			continue // the message's own rule has said so
		}
		if subnet, ok := c.subnet(k.Name, p.Addr()); !ok || subnet.Bits() > p.Bits() {
			c.report.add(k, field, "%s is inside no subnet of the network; give a part of one, or add the subnet", p)
		}
		for j, other := range before {
			if p.Overlaps(other) {
				c.report.add(k, field, "%s overlaps %s (pools[%d]); give disjoint prefixes", p, other, j)
			}
		}
		before = append(before, p)
	}
}

// waiting checks what an interface may say of the device that a container runtime
// brings.
func (c *checker) waiting(k Key, tap *pb.Tap) {
	for _, f := range [...]struct {
		name  string
		given bool
	}{{"name", tap.GetName() != ""}, {"netns", tap.GetNetns() != ""}, {"guestName", tap.GetGuestName() != ""}, {"existing", tap.GetExisting()}} {
		if f.given {
			c.report.add(k, "spec.tap."+f.name, "comes from the container runtime with attachment; leave it out, or leave attachment out")
		}
	}
}

// attachment checks one by itself: the interface and the network that it is for need
// not be there.
func (c *checker) attachment(k Key, at *pb.Attachment) {
	for i, s := range at.GetAddresses() {
		c.unicast(k, fmt.Sprintf("spec.addresses[%d]", i), s)
	}
	if at.GetMacAddress() != "" && MAC("", at.GetMacAddress()).String() == routerMAC {
		c.report.add(k, "spec.macAddress", "%s is the vRouter's own; choose another", routerMAC)
	}
	type port struct {
		servicePort
		ip string
	}
	seen := map[port]int{}
	for i, hp := range at.GetHostPorts() {
		p := port{servicePort{protocolOf(hp), uint16(hp.GetHostPort())}, hp.GetHostIp()}
		if j, ok := seen[p]; ok {
			c.report.add(k, fmt.Sprintf("spec.hostPorts[%d].hostPort", i), "%s port %d is given already in hostPorts[%d]; leave one out", pb.Protocol_Value(p.proto), p.port, j)
		}
		seen[p] = i
		if a, err := netip.ParseAddr(hp.GetHostIp()); err == nil && !a.IsUnspecified() {
			c.unicast(k, fmt.Sprintf("spec.hostPorts[%d].hostIp", i), hp.GetHostIp())
		}
	}
}
