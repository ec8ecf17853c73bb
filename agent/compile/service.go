package compile

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/nexthop"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// floatingIP is a compiled FloatingIP resource. Several may stand at one place.
type floatingIP struct {
	place    state.Place
	network  string // that it names itself, not through a parent
	ingress  bool
	egress   bool
	whole    *forwarder.Service
	mappings map[forwarder.PortKey]*forwarder.Service
	openers  []string // the interfaces that open flows with it
	local    int      // members on this node that take new flows, from anywhere or locally
}

// placeName names the slot of a place.
func placeName(p state.Place) string { return "fip " + p.Network + " " + p.Address.String() }

// compileFloatingIPs compiles the affected floating IPs, then the places where
// they stand or stood.
func (c *Compiler) compileFloatingIPs(affected []state.Key) error {
	places := map[state.Place]struct{}{}
	for name := range c.floatingIPsOf(affected) {
		k := state.Key{Kind: state.FloatingIP, Name: name}
		old := c.fips[name]
		if old != nil {
			places[old.place] = struct{}{}
		}
		fip := c.state.Get(k).GetFloatingIp()
		if fip == nil {
			c.serve(old, nil)
			c.use(k, nil)
			if err := c.lead(k, nil, false); err != nil {
				return err
			}
			delete(c.fips, name)
			delete(c.checked, name)
			c.note(name, nil)
			c.dirty.vhost = true
			continue
		}
		f, err := c.floatingIP(name, fip)
		if err != nil {
			return err
		}
		c.serve(old, f)
		c.note(name, fip)
		c.use(k, f.openers)
		c.fips[name] = f
		if delete(c.checked, name); fip.GetHealthCheck() != nil {
			c.checked[name] = fip.GetHealthCheck()
		}
		places[f.place] = struct{}{}
		c.dirty.vhost = c.dirty.vhost || !f.reachedAs(old)
	}
	if slices.ContainsFunc(affected, func(k state.Key) bool { return k.Kind == state.Fabric }) {
		for _, f := range c.fips {
			if f.place.Network == state.FabricNetwork {
				places[f.place] = struct{}{} // it may be a node address now, or no longer
			}
		}
	}
	inOrder := slices.SortedFunc(maps.Keys(places), func(a, b state.Place) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), a.Address.Compare(b.Address))
	})
	for _, p := range inOrder { // so that slots do not depend on the map's order
		if err := c.compilePlace(p); err != nil {
			return err
		}
	}
	return nil
}

// floatingIPsOf yields the names of the floating IPs among keys, and if the node's
// description is, those that have hosts as members: they may be the node now, or no longer.
func (c *Compiler) floatingIPsOf(keys []state.Key) iter.Seq[string] {
	return func(yield func(string) bool) {
		done := map[string]struct{}{}
		for name := range of(keys, state.FloatingIP) {
			if done[name] = struct{}{}; !yield(name) {
				return
			}
		}
		if !slices.ContainsFunc(keys, func(k state.Key) bool { return k.Kind == state.Fabric }) {
			return
		}
		for _, name := range slices.Sorted(maps.Keys(c.hosted)) {
			if _, had := done[name]; !had && !yield(name) {
				return
			}
		}
	}
}

// reachedAs reports whether the node reaches f where it reached old, which may be
// nil.
func (f *floatingIP) reachedAs(old *floatingIP) bool {
	return old != nil && f.place == old.place && f.network == old.network && f.ingress == old.ingress
}

// touch has interfaces compiled again.
func (c *Compiler) touch(vmis []string) {
	for _, name := range vmis {
		c.dirty.vmis[name] = struct{}{}
	}
}

func (c *Compiler) floatingIP(name string, fip *pb.FloatingIP) (*floatingIP, error) {
	f := &floatingIP{place: c.state.PlaceOf(fip), network: fip.GetVirtualNetwork()}
	f.ingress = fip.GetDirection() != pb.FloatingIP_EGRESS
	f.egress = fip.GetDirection() == pb.FloatingIP_EGRESS || fip.GetDirection() == pb.FloatingIP_BOTH
	members, err := c.members(name, fip, f.place.Address)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		if m.Interface != 0 && (m.State == nexthop.Ready || m.State == nexthop.LocalOnly) {
			f.local++
		}
	}
	if f.egress {
		for _, m := range state.Members(fip) {
			if m.GetTunnel() == nil && !m.GetHost() {
				f.openers = append(f.openers, m.GetVirtualMachineInterface())
			}
		}
	}
	template := forwarder.Service{
		Hash: hashFields(fip.GetHashFields()), Affinity: affinityTicks(fip.GetSessionAffinity()),
		ExternalLocal: fip.GetExternalTrafficPolicy() == pb.FloatingIP_LOCAL,
		InternalLocal: fip.GetInternalTrafficPolicy() == pb.FloatingIP_LOCAL,
		DirectReturn:  fip.GetDirectServerReturn(),
	}
	for _, s := range fip.GetSourceRanges() {
		if p, err := netip.ParsePrefix(s); err == nil && p.Addr().Is4() == f.place.Address.Is4() {
			template.Sources = append(template.Sources, addressRange(p))
		}
	}
	if len(fip.GetSourceRanges()) > 0 && len(template.Sources) == 0 {
		template.Sources = []forwarder.AddressRange{nobody} // the ranges are of the other family
	}
	old := c.fips[name]
	build := func(key forwarder.PortKey, members []nexthop.Member) (*forwarder.Service, error) {
		svc := template
		before := old.at(key)
		if before != nil && sameMembers(before.Group, members) {
			svc.Group = before.Group
		} else {
			g, err := nexthop.NewGroup(members)
			if err != nil {
				return nil, err
			}
			svc.Group = g
		}
		if before != nil && (before.Affinity != 0) == (svc.Affinity != 0) {
			svc.ID = before.ID
		} else { // affinities of before must not come back
			c.affinityID++
			svc.ID = c.affinityID
		}
		return &svc, nil
	}
	mappings := fip.GetFloatingIpPortMappings().GetPortMappings()
	if len(mappings) == 0 {
		f.whole, err = build(forwarder.PortKey{}, toGroup(members, nil))
		return f, err
	}
	f.mappings = make(map[forwarder.PortKey]*forwarder.Service, len(mappings))
	for _, m := range mappings {
		key := forwarder.PortKey{Proto: state.Protocol(m), Port: uint16(m.GetSrcPort())}
		if f.mappings[key], err = build(key, toGroup(members, m)); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// nobody is a range that holds no address a packet can have: the unspecified one.
var nobody = forwarder.AddressRange{Bits: 128}

// at returns the service of a mapping; the zero key is the service of an address
// without mappings.
func (f *floatingIP) at(key forwarder.PortKey) *forwarder.Service {
	switch {
	case f == nil:
		return nil
	case key == forwarder.PortKey{}:
		return f.whole
	}
	return f.mappings[key]
}

// member is a member before it is put into the group of a mapping.
type member struct {
	nexthop.Member
	vmi     string
	targets []*pb.PortMapping
}

// members returns the members of a floating IP in name order, each with its id.
// One on another node is told apart by its next hop alone: its address and port
// say what that node will map to.
func (c *Compiler) members(fipName string, fip *pb.FloatingIP, service netip.Addr) ([]member, error) {
	list := sortedMembers(fip)
	ends, err := c.memberTunnels(fipName, list)
	if err != nil {
		return nil, err
	}
	ids := make(memberIDs, len(list))
	var members []member
	for _, m := range list {
		name := m.GetVirtualMachineInterface()
		if m.GetTunnel() != nil {
			members = append(members, c.remoteMember(ids.next(fipName, name), m, ends[0]))
			ends = ends[1:]
			continue
		}
		if m.GetHost() {
			members = append(members, c.hostMember(ids.next(fipName, name), m))
			continue
		}
		v := c.vmis[name]
		spec := c.state.Interface(name)
		addr, ok := state.MemberAddress(m, spec, service)
		if v == nil || !ok || spec.GetAttachment() != nil && !state.HasAddress(spec, addr) {
			continue // its container has not come, or has gone
		}
		members = append(members, member{
			Member: nexthop.Member{
				ID: ids.next(fipName, name), Weight: uint16(max(m.GetWeight(), 1)), State: memberState(m.GetState()),
				NextHop: forwarder.InterfaceNextHop(v.port), Address: addr.As16(), Interface: v.port,
			},
			vmi: name, targets: m.GetTargetPorts(),
		})
	}
	return members, nil
}

// sortedMembers returns the members of a floating IP by name.
func sortedMembers(fip *pb.FloatingIP) []*pb.Member {
	return slices.SortedFunc(slices.Values(state.Members(fip)), func(a, b *pb.Member) int {
		return cmp.Compare(a.GetVirtualMachineInterface(), b.GetVirtualMachineInterface())
	})
}

// memberTunnels takes up the tunnels to the members on other nodes, in the order
// of the members.
func (c *Compiler) memberTunnels(fipName string, list []*pb.Member) ([]state.Endpoint, error) {
	var ends []state.Endpoint
	for _, m := range list {
		if m.GetTunnel() == nil {
			continue
		}
		end, err := c.tunnelEnd(m.GetTunnel())
		if err != nil {
			return nil, err
		}
		ends = append(ends, end)
	}
	return ends, c.lead(state.Key{Kind: state.FloatingIP, Name: fipName}, ends, true)
}

// remoteMember is a member behind a tunnel. While its node is down it takes no new
// flow.
func (c *Compiler) remoteMember(id uint32, m *pb.Member, end state.Endpoint) member {
	r := member{
		Member: nexthop.Member{
			ID: id, Weight: uint16(max(m.GetWeight(), 1)), State: memberState(m.GetState()), NextHop: c.tunnelHop(end),
		},
		vmi: m.GetVirtualMachineInterface(), targets: m.GetTargetPorts(),
	}
	if a, err := netip.ParseAddr(m.GetAddress()); err == nil {
		r.Address = a.As16()
	}
	if c.underlay.Peers[end.Remote].Down || r.State == nexthop.LocalOnly {
		r.State = nexthop.Draining
	}
	return r
}

// toGroup gives members the target port of a mapping, nil for none.
func toGroup(members []member, mapping *pb.PortMapping) []nexthop.Member {
	list := make([]nexthop.Member, len(members))
	for i, m := range members {
		list[i] = m.Member
		if mapping != nil {
			list[i].Port = m.target(mapping)
		}
	}
	return list
}

// target returns the member's own port for a mapping, else the mapping's.
func (m *member) target(mapping *pb.PortMapping) uint16 {
	for _, t := range m.targets {
		if t.GetSrcPort() == mapping.GetSrcPort() && state.Protocol(t) == state.Protocol(mapping) {
			return state.TargetPort(t)
		}
	}
	return state.TargetPort(mapping)
}

func memberState(s pb.Member_State) nexthop.State {
	switch s {
	case pb.Member_SERVING:
		return nexthop.Serving
	case pb.Member_DRAINING:
		return nexthop.Draining
	case pb.Member_LOCAL_ONLY:
		return nexthop.LocalOnly
	}
	return nexthop.Ready
}

// sameMembers reports whether a group has exactly these members.
func sameMembers(g *nexthop.Group, members []nexthop.Member) bool {
	if g.Len() != len(members) {
		return false
	}
	for _, m := range members {
		if have, ok := g.Find(m.ID); !ok || have != m {
			return false
		}
	}
	return true
}

// ticksPerSecond: session time is counted in 100 ms.
const ticksPerSecond = 10

func affinityTicks(a *pb.SessionAffinity) uint32 {
	if a.GetType() != pb.SessionAffinity_CLIENT_IP {
		return 0
	}
	if a.GetTimeoutSeconds() == 0 {
		return nexthop.DefaultAffinityTimeout
	}
	return a.GetTimeoutSeconds() * ticksPerSecond
}

func hashFields(fields []pb.FloatingIP_HashField) nexthop.HashFields {
	bits := map[pb.FloatingIP_HashField]nexthop.HashFields{
		pb.FloatingIP_SOURCE_IP:        nexthop.HashSource,
		pb.FloatingIP_DESTINATION_IP:   nexthop.HashDestination,
		pb.FloatingIP_IP_PROTOCOL:      nexthop.HashProtocol,
		pb.FloatingIP_SOURCE_PORT:      nexthop.HashSourcePort,
		pb.FloatingIP_DESTINATION_PORT: nexthop.HashDestinationPort,
	}
	var all nexthop.HashFields
	for _, f := range fields {
		all |= bits[f]
	}
	return all
}
