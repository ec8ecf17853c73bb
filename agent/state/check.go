package state

import (
	"net/netip"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// checker looks at resources in the light of the state that they stand in.
type checker struct {
	*State
	report  *report
	deleted map[Key]struct{} // by the transaction at hand
}

// deletes refuses what must not go.
func (c *checker) deletes(keys []Key) {
	for i, k := range keys {
		if k == (Key{VirtualNetwork, FabricNetwork}) {
			c.report.list = append(c.report.list, Violation{
				Upsert: -1, Request: "deletes[" + itoa(i) + "]", Resource: k, Field: "name",
				Description: "ip-fabric always exists and cannot be deleted; apply it without subnets to clear it",
			})
		}
	}
}

// limits refuses a state that is larger than the forwarder can take.
func (c *checker) limits() {
	total := 0
	for _, kind := range Kinds {
		total += c.Count(kind)
	}
	for _, l := range [...]struct {
		what      string
		have, max int
	}{
		{"resources", total, MaxResources},
		{"VirtualMachineInterfaces", c.Count(VirtualMachineInterface), MaxInterfaces},
		{"VirtualNetworks", c.Count(VirtualNetwork), MaxNetworks},
	} {
		if l.have > l.max {
			c.report.list = append(c.report.list, Violation{
				Upsert: -1, Request: "upserts",
				Description: "makes " + itoa(l.have) + " " + l.what + ", and a node takes at most " + itoa(l.max) + "; delete some first",
			})
		}
	}
}

// resource checks one resource of the state, if it is there.
func (c *checker) resource(k Key) {
	o := c.objects[k.Kind][k.Name]
	if o == nil {
		return
	}
	for _, r := range o.refs {
		switch _, going := c.deleted[r.to]; {
		case c.Has(r.to):
		case going:
			c.report.add(k, r.field, "names %s, which this transaction deletes; delete or change %s too", r.to, k)
		default:
			c.report.add(k, r.field, "names %s, which does not exist; create it in the same transaction, or correct the name", r.to)
		}
	}
	c.claims(k, o)
	switch x := o.res.GetSpec().(type) {
	case *pb.Resource_VirtualNetwork:
		c.network(k, x.VirtualNetwork)
	case *pb.Resource_VirtualMachineInterface:
		c.vmi(k, x.VirtualMachineInterface)
	case *pb.Resource_InstanceIp:
		c.instanceIP(k, x.InstanceIp)
	case *pb.Resource_FloatingIp:
		c.floatingIP(k, x.FloatingIp)
	case *pb.Resource_NetworkPolicy:
		c.networkPolicy(k, x.NetworkPolicy)
	case *pb.Resource_AddressSet:
		c.addressSet(k, x.AddressSet)
	case *pb.Resource_SecurityPolicy:
		c.securityPolicy(k, x.SecurityPolicy)
	case *pb.Resource_Route:
		c.route(k, x.Route)
	case *pb.Resource_Fabric:
		c.fabric(k, x.Fabric)
	case *pb.Resource_Attachment:
		c.attachment(k, x.Attachment)
	}
}

// claims refuses what another resource, or another field of this one, has.
func (c *checker) claims(k Key, o *object) {
	seen := map[thing]string{}
	for _, cl := range o.claims {
		if cl.what == claimUse || cl.what == claimService {
			continue // shared on purpose: users of a VRF; floating IPs with other ports
		}
		if field, ok := seen[cl.thing]; ok {
			c.report.add(k, cl.field, "%s %s is given already in %s; leave one out", cl.what, cl.value, field)
			continue
		}
		seen[cl.thing] = cl.field
		for other := range c.claimed[cl.thing] {
			if other != k {
				c.report.add(k, cl.field, "%s", taken(cl.thing, other))
				break
			}
		}
	}
}

// taken says that a thing belongs to somebody else.
func taken(t thing, other Key) string {
	where := ""
	switch t.what {
	case claimAddress, claimMAC:
		where = " in network " + t.scope
	case claimDevice:
		if t.scope != "" {
			where = " in " + t.scope
		}
	case claimRoute:
		return "VRF " + t.scope + " has a route to " + t.value + " already: " + other.String() + "; list several interfaces in its nextHops for ECMP"
	case claimFlood:
		return "VRF " + t.scope + " has a flood list already: " + other.String() + "; list the other nodes in its nextHops"
	case claimFabric:
		return "the node is described by " + other.String() + " already; change that one, or delete it in the same transaction"
	}
	return t.what + " " + t.value + where + " belongs to " + other.String() + "; choose another, or delete that one in the same transaction"
}

// unicast refuses addresses that no workload or service can have.
func (c *checker) unicast(k Key, field, s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	what := ""
	switch {
	case err != nil:
		return a, false // the message's own rule has said so
	case a.Is4In6():
		what = "is an IPv4 address in IPv6 clothes; write " + a.Unmap().String()
	case a.IsUnspecified(), a.IsMulticast(), a.IsLoopback(), a.IsLinkLocalUnicast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		what = "is not an address that can be routed; give a unicast address that is not link-local or loopback"
	case a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 224):
		what = "is in a reserved block (RFC 6890); give a unicast address"
	}
	if what != "" {
		c.report.add(k, field, "%s %s", a, what)
	}
	return a, what == ""
}

// subnet returns the subnet of a network that holds an address.
func (c *checker) subnet(network string, a netip.Addr) (netip.Prefix, bool) {
	for _, sn := range c.Get(Key{VirtualNetwork, network}).GetVirtualNetwork().GetSubnets() {
		if p, err := netip.ParsePrefix(sn.GetPrefix()); err == nil && p.Contains(a) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}
