package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/nodeport"
	"github.com/vrouter-go/vrouter/nexthop"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// hosts is a floating IP of the services with members that are hosts.
func hosts(name, network, address string, members ...string) *pb.Resource {
	f := &pb.FloatingIP{
		VirtualNetwork: network, Address: address,
		FloatingIpPortMappings: &pb.FloatingIpPortMappings{PortMappings: []*pb.PortMapping{{SrcPort: 443, DstPort: 6443}}},
	}
	for i, a := range members {
		f.Members = append(f.Members, &pb.Member{VirtualMachineInterface: fmt.Sprintf("host-%d", i), Address: a, Host: true})
	}
	return &pb.Resource{Name: name, Spec: &pb.Resource_FloatingIp{FloatingIp: f}}
}

// memberAt returns the member of a floating IP at an address.
func memberAt(t *testing.T, s *forwarder.Snapshot, name, address string) nexthop.Member {
	t.Helper()
	for _, f := range s.FloatingIPs {
		if f == nil || f.Name != name || f.Private {
			continue
		}
		for _, svc := range f.Mappings {
			for i := range svc.Group.Len() {
				if m := svc.Group.Member(i); m.Address == netip.MustParseAddr(address).As16() {
					return m
				}
			}
		}
	}
	t.Fatalf("%s has no member at %s", name, address)
	return nexthop.Member{}
}

// TestHostMembers: which member the node itself is follows the node's description, which
// take new flows follows the ways, and the node's ports and address are given out while any
// member is elsewhere.
func TestHostMembers(t *testing.T) {
	h := newHistory(t)
	api := []*pb.Resource{hosts("api", "pods", "10.96.0.1", "192.0.2.10", "192.0.2.12")}
	snap := h.apply(api)
	ip, other := memberAt(t, snap, "api", "192.0.2.10"), memberAt(t, snap, "api", "192.0.2.12")
	if ip.Interface != vhostPort || ip.NextHop != forwarder.InterfaceNextHop(vhostPort) {
		t.Errorf("the node itself is %+v", ip)
	}
	if hop := snap.NextHops.At(other.NextHop); other.Interface != 0 || hop.Kind != nexthop.VRF || hop.VRF != forwarder.FabricVRF || other.Port != 6443 {
		t.Errorf("the other is %+v by %+v", other, hop)
	}
	if snap.SNAT.IPv4 != netip.MustParseAddr("192.0.2.10").As16() || snap.SNAT.Ports.Size() == 0 {
		t.Errorf("callers leave by %+v", snap.SNAT)
	}
	if !slices.Contains(snap.Interfaces[vhostPort].Serves, forwarder.PortKey{Proto: 6, Port: 6443}) {
		t.Errorf("vhost0 answers at %v", snap.Interfaces[vhostPort].Serves)
	}

	way := netip.MustParseAddr("192.0.2.12")
	for _, c := range []struct {
		path Path
		want nexthop.State
	}{{Path{Resolved: true}, nexthop.Ready}, {Path{Down: true}, nexthop.Ready}, {Path{Down: true, Unreachable: true}, nexthop.Draining}, {Path{}, nexthop.Ready}} {
		exits := []Exit{{Prefix: netip.MustParsePrefix("192.0.2.0/24"), NextHop: forwarder.OnLinkNextHop}}
		r, err := h.c.SetUnderlay(&Underlay{Peers: map[netip.Addr]Path{way: c.path}, Exits: exits})
		if err != nil {
			t.Fatal(err)
		}
		if m := memberAt(t, r.Snapshot, "api", "192.0.2.12"); m.State != c.want {
			t.Errorf("%+v: the member is %s, want %s", c.path, m.State, c.want)
		}
		addr := way.As16()
		if route, ok := r.Snapshot.Exits.Lookup(&addr); !ok || route.NextHop != forwarder.OnLinkNextHop || !slices.Equal(r.Hosts, []netip.Addr{way}) {
			t.Errorf("the way out is %v, %v; hosts %v", route, ok, r.Hosts)
		}
	}

	snap = h.apply([]*pb.Resource{{Name: "node", Spec: &pb.Resource_Fabric{Fabric: &pb.Fabric{
		Vhost0: &pb.Vhost{Addresses: []string{"192.0.2.12/24"}}, Uplink: &pb.Uplink{Device: "eth0"},
	}}}})
	if memberAt(t, snap, "api", "192.0.2.12").Interface != vhostPort || memberAt(t, snap, "api", "192.0.2.10").Interface != 0 {
		t.Error("the node has another address, and its member is the former one")
	}
	snap = h.apply(nil, state.Key{Kind: state.FloatingIP, Name: "api"})
	if snap.SNAT != (forwarder.SNAT{}) || snap.Exits != nil || len(h.c.hosts)+len(h.c.hosted) != 0 || len(snap.Interfaces[vhostPort].Serves) != 0 {
		t.Errorf("no member is a host any more: %+v, hosts %v", snap.SNAT, h.c.hosts)
	}
}

// TestNodePorts: the node's processes get what stands in for its addresses while ports
// are mapped there.
func TestNodePorts(t *testing.T) {
	h := newHistory(t)
	compiled := func(upserts []*pb.Resource, deletes ...state.Key) *Result {
		t.Helper()
		tx, err := h.st.Begin(state.Request{Owner: "test", Upserts: upserts, Deletes: deletes})
		if err != nil {
			t.Fatal(err)
		}
		r, err := h.c.Compile(h.st, tx.Affected())
		if err != nil {
			t.Fatal(err)
		}
		tx.Commit()
		return r
	}
	stand := netip.AddrFrom16(forwarder.StandIn(1, true)).Unmap()
	r := compiled([]*pb.Resource{hosts("np", state.FabricNetwork, "192.0.2.10", "192.0.2.12"), hosts("vip", state.FabricNetwork, "198.51.100.80", "192.0.2.12")})
	want := []nodeport.Port{{Address: netip.MustParseAddr("192.0.2.10"), StandIn: stand, Protocol: 6, Port: 443}}
	if !slices.Equal(r.NodePorts.Ports, want) {
		t.Errorf("the node calls %v, want %v", r.NodePorts.Ports, want)
	}
	routed := false
	for _, x := range r.Ports[vhostPort].Tap.Routes {
		routed = routed || x.Dst == host(stand)
	}
	if !routed {
		t.Errorf("vhost0 has routes %v", r.Ports[vhostPort].Tap.Routes)
	}
	more := hosts("np2", state.FabricNetwork, "192.0.2.10", "192.0.2.12")
	more.GetFloatingIp().GetFloatingIpPortMappings().GetPortMappings()[0].SrcPort = 80
	if r = compiled([]*pb.Resource{more}); len(r.NodePorts.Ports) != 2 || r.NodePorts.Ports[0].Port != 80 || r.NodePorts.Ports[0].StandIn != stand {
		t.Errorf("with another at the address: %v", r.NodePorts.Ports)
	}
	addr := stand.As16()
	if route, ok := r.Snapshot.VRFs[forwarder.FabricVRF].FIB.Lookup(&addr); !ok || r.Snapshot.NextHops.At(route.NextHop).Kind != nexthop.FloatingIP {
		t.Errorf("the stand-in leads to %v, %v", route, ok)
	}
	for vrf := range r.Snapshot.VRFs[1:] {
		if fib := r.Snapshot.VRFs[vrf+1].FIB; fib != nil {
			if _, ok := fib.Lookup(&addr); ok {
				t.Errorf("VRF %d has the stand-in", vrf+1)
			}
		}
	}
	tenants := hosts("tenants", "pods", "192.0.2.10", "192.0.2.12") // the same address in another network
	key := func(name string) state.Key { return state.Key{Kind: state.FloatingIP, Name: name} }
	for _, r := range []*Result{compiled([]*pb.Resource{tenants}), compiled(nil, key("tenants"))} {
		if len(r.NodePorts.Ports) != 2 || len(h.c.standIns) != 1 {
			t.Errorf("beside another network's: %v", r.NodePorts.Ports)
		}
	}
	if r = compiled(nil, key("np"), key("np2")); len(r.NodePorts.Ports) != 0 || len(h.c.standIns) != 0 {
		t.Errorf("nothing is mapped at the node: %v", r.NodePorts.Ports)
	}
}

// TestHostMemberRefused: what a member that is a host cannot be is said where it stands.
func TestHostMemberRefused(t *testing.T) {
	h := newHistory(t)
	refused := func(what string, upserts []*pb.Resource) {
		t.Helper()
		if _, err := h.st.Begin(state.Request{Owner: "test", Upserts: upserts}); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	refused("another family", []*pb.Resource{hosts("api", "pods", "10.96.0.1", "2001:db8::1")})
	refused("a group", []*pb.Resource{hosts("api", "pods", "10.96.0.1", "224.0.0.1")})
	refused("itself", []*pb.Resource{hosts("api", state.FabricNetwork, "198.51.100.80", "198.51.100.80")})
	both := hosts("api", "pods", "10.96.0.1", "192.0.2.12")
	both.GetFloatingIp().Direction = pb.FloatingIP_BOTH
	refused("direction BOTH", []*pb.Resource{both})
	h.apply([]*pb.Resource{hosts("api", "pods", "10.96.0.1", "192.0.2.10", "192.0.2.12")})
	refused("the uplink goes", []*pb.Resource{{Name: "node", Spec: &pb.Resource_Fabric{Fabric: &pb.Fabric{Vhost0: &pb.Vhost{Addresses: []string{"192.0.2.10/24"}}}}}})
}
