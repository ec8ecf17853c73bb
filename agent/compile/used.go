package compile

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/forwarder"
)

// An interface may be a member of every service of the node. What services give
// it is therefore kept beside it, and a transaction changes what it touches.

// use notes which interfaces a resource gives an address to send from.
func (c *Compiler) use(k state.Key, vmis []string) {
	if slices.Equal(c.uses[k], vmis) {
		return
	}
	for _, name := range c.uses[k] {
		if delete(c.used[name], k); len(c.used[name]) == 0 {
			delete(c.used, name)
		}
	}
	for _, name := range vmis {
		if c.used[name] == nil {
			c.used[name] = map[state.Key]struct{}{}
		}
		c.used[name][k] = struct{}{}
	}
	if c.uses[k] = vmis; len(vmis) == 0 {
		delete(c.uses, k)
	}
}

// serve notes which ports of interfaces a floating IP leads to, instead of those
// that it led to. Both may be nil.
func (c *Compiler) serve(old, f *floatingIP) {
	old.eachTarget(func(port uint16, key forwarder.PortKey) {
		c.dirty.vhost = c.dirty.vhost || port == vhostPort
		if c.served[port][key]--; c.served[port][key] == 0 {
			delete(c.served[port], key)
		}
		if len(c.served[port]) == 0 {
			delete(c.served, port)
		}
	})
	f.eachTarget(func(port uint16, key forwarder.PortKey) {
		c.dirty.vhost = c.dirty.vhost || port == vhostPort
		if c.served[port] == nil {
			c.served[port] = map[forwarder.PortKey]int{}
		}
		c.served[port][key]++
	})
}

// eachTarget calls do for each mapping's members: the interface's port and where
// it answers.
func (f *floatingIP) eachTarget(do func(port uint16, at forwarder.PortKey)) {
	if f == nil {
		return
	}
	for key, svc := range f.mappings {
		for i := range svc.Group.Len() {
			m := svc.Group.Member(i)
			if m.Interface == 0 {
				continue // on another node, which maps
			}
			do(m.Interface, forwarder.PortKey{Proto: key.Proto, Port: m.Port})
		}
	}
}

// addServices adds what an interface has from the services that name it: shared
// addresses to send from, floating IPs to open flows with, ports it answers at.
func (c *Compiler) addServices(name string, itf *forwarder.Interface) {
	for _, k := range slices.SortedFunc(maps.Keys(c.used[name]), state.Key.Compare) {
		if k.Kind == state.InstanceIP {
			if a, err := netip.ParseAddr(c.state.Get(k).GetInstanceIp().GetAddress()); err == nil {
				itf.Sources = append(itf.Sources, addressRange(host(a)))
			}
			continue
		}
		f := c.fips[k.Name]
		itf.Egress = append(itf.Egress, forwarder.EgressNAT{
			FloatingIP: uint32(c.serviceSlots.byName[placeName(f.place)]),
			VRF:        c.networks[f.place.Network].vrf, Address: f.place.Address.As16(),
		})
	}
	itf.Serves = c.targets(c.vmis[name].port)
}

// targets are the ports at which an interface answers for services.
func (c *Compiler) targets(port uint16) []forwarder.PortKey {
	return slices.SortedFunc(maps.Keys(c.served[port]), func(a, b forwarder.PortKey) int {
		return (int(a.Proto)<<16 | int(a.Port)) - (int(b.Proto)<<16 | int(b.Port))
	})
}
