package compile

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/vrouter-go/vrouter/agent/healthcheck"
)

// healthChecks returns what the node answers load balancers outside, in order of
// port and name. Floating IPs that share a port and a family are one service, and
// the most members that one of them has here is what it is said to have.
func (c *Compiler) healthChecks() []healthcheck.Service {
	type at struct {
		port uint16
		is4  bool
	}
	services := map[at]healthcheck.Service{}
	nodes := c.nodeAddresses()
	for _, name := range slices.Sorted(maps.Keys(c.checked)) {
		f, check := c.fips[name], c.checked[name]
		where := at{uint16(check.GetPort()), f.place.Address.Is4()}
		s, known := services[where]
		if !known {
			s = healthcheck.Service{Port: where.port, Namespace: check.GetServiceNamespace(), Name: cmp.Or(check.GetServiceName(), name), Netns: c.state.Fabric().GetVhost0().GetNetns()}
			s.Addresses = slices.DeleteFunc(slices.Clone(nodes), func(a netip.Addr) bool { return a.Is4() != where.is4 })
		}
		s.Local = max(s.Local, f.local)
		services[where] = s
	}
	return slices.SortedFunc(maps.Values(services), func(a, b healthcheck.Service) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(len(a.Addresses), len(b.Addresses)), cmp.Compare(a.Name, b.Name))
	})
}
