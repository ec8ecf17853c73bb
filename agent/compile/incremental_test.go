package compile

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/forwarder"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// TestIncrementalEqualsFull holds that a history of transactions compiles to what
// its last state compiles to from nothing, and that a refused transaction leaves
// neither the state nor what is compiled from it changed.
func TestIncrementalEqualsFull(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		st, c := state.New(), New(Config{DefaultQuota: 100})
		if rapid.Bool().Draw(t, "world") {
			tx, err := st.Begin(state.Request{Owner: "test", Upserts: world()})
			if err != nil {
				t.Fatal(err)
			}
			tx.Commit()
		}
		if _, err := c.All(st); err != nil {
			t.Fatal(err)
		}
		accepted, seen := 0, &Underlay{}
		for range rapid.IntRange(1, 25).Draw(t, "transactions") {
			if n := rapid.IntRange(0, len(underlays)).Draw(t, "underlay"); n > 0 {
				seen = underlays[n-1]
				if _, err := c.SetUnderlay(seen); err != nil {
					t.Fatal(err)
				}
			}
			before := st.Digest()
			req := state.Request{Owner: rapid.SampledFrom([]string{"test", "test", "test", state.OwnerCNI}).Draw(t, "owner"), Borrowed: seen.Addresses}
			for range rapid.IntRange(1, 4).Draw(t, "upserts") {
				req.Upserts = append(req.Upserts, drawResource(t))
			}
			for range rapid.IntRange(0, 2).Draw(t, "deletes") {
				req.Deletes = append(req.Deletes, state.KeyOf(drawResource(t)))
			}
			tx, err := st.Begin(req)
			if err != nil {
				if st.Digest() != before {
					t.Fatalf("refused (%v), but the digest changed", err)
				}
				continue
			}
			affected := tx.Affected()
			last, err := c.Compile(st, affected)
			if err != nil {
				t.Fatal(err)
			}
			if rapid.Bool().Draw(t, "roll back") { // as after an error further on
				tx.Rollback()
				if st.Digest() != before {
					t.Fatal("rolled back, but the digest changed")
				}
				if last, err = c.Compile(st, affected); err != nil {
					t.Fatal(err)
				}
			} else {
				tx.Commit()
			}
			accepted++
			fresh := New(Config{DefaultQuota: 100})
			if _, err := fresh.All(st); err != nil {
				t.Fatal(err)
			}
			full, err := fresh.SetUnderlay(seen)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(dump(full), dump(last)); diff != "" {
				t.Fatalf("after %d transactions (-full +incremental):\n%s", accepted, diff)
			}
		}
	})
}

// underlays are what a node may find out about its surroundings.
var underlays = []*Underlay{
	{},
	{MAC: [6]byte{2, 0, 0, 0, 0, 1}, MTU: 9000, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fd00:2::1")}},
	{
		MTU: 9000, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.7")},
		Peers: map[netip.Addr]Path{netip.MustParseAddr("192.0.2.21"): {Down: true}, netip.MustParseAddr("198.51.100.9"): {Down: true, Unreachable: true}, netip.MustParseAddr("192.0.2.22"): {Resolved: true, MAC: [6]byte{2, 0, 0, 0, 0, 22}}},
		Exits: []Exit{{Prefix: netip.MustParsePrefix("0.0.0.0/0"), NextHop: forwarder.NeighborNextHop(1)}},
	},
}

// world is a state in which most of what drawResource draws is valid.
func world() []*pb.Resource {
	var list []*pb.Resource
	list = append(list, &pb.Resource{Name: "node", Spec: &pb.Resource_Fabric{Fabric: &pb.Fabric{
		Vhost0: &pb.Vhost{Addresses: []string{"192.0.2.1/24"}}, Uplink: &pb.Uplink{Device: "eth0"},
	}}})
	for i := 1; i <= 3; i++ {
		list = append(list, &pb.Resource{Name: fmt.Sprintf("n%d", i), Spec: &pb.Resource_VirtualNetwork{VirtualNetwork: &pb.VirtualNetwork{
			Subnets: []*pb.Subnet{{Prefix: "10.1.0.0/24"}, {Prefix: "fd00::/64"}},
		}}})
	}
	for i := 1; i <= 5; i++ {
		vmi := &pb.VirtualMachineInterface{VirtualNetwork: fmt.Sprintf("n%d", i%3+1), Addresses: []string{fmt.Sprintf("10.1.0.%d", i+10)}}
		if i > 3 {
			vmi.Addresses, vmi.Attachment = nil, &pb.AttachmentRequest{Uid: "a"}
		}
		list = append(list, &pb.Resource{Name: fmt.Sprintf("v%d", i), Spec: &pb.Resource_VirtualMachineInterface{VirtualMachineInterface: vmi}})
	}
	for i := 1; i <= 2; i++ {
		list = append(list, &pb.Resource{Name: fmt.Sprintf("a%d", i), Spec: &pb.Resource_AddressSet{AddressSet: &pb.AddressSet{Addresses: []string{"10.1.0.12"}}}})
	}
	return append(list, &pb.Resource{Name: "f1", Spec: &pb.Resource_FloatingIp{FloatingIp: &pb.FloatingIP{
		VirtualNetwork: state.FabricNetwork, Address: "192.0.2.1", VirtualMachineInterfaces: []string{"v1"},
	}}})
}

// drawResource draws from a world so small that resources meet all the time.
func drawResource(t *rapid.T) *pb.Resource {
	n := func(limit int) int { return rapid.IntRange(1, limit).Draw(t, "n") }
	pick := func(list ...string) string { return rapid.SampledFrom(list).Draw(t, "pick") }
	label := func() uint32 { return rapid.SampledFrom([]uint32{0, 0, 17, 18, 19}).Draw(t, "label") }
	tunnel := func() *pb.Tunnel {
		return &pb.Tunnel{
			Remote: pick("192.0.2.21", "192.0.2.22", "fd00:2::21"), Label: rapid.SampledFrom([]uint32{17, 18}).Draw(t, "out"),
			Vni: rapid.SampledFrom([]uint32{0, 5}).Draw(t, "vni"), MacAddress: pick("", "02:00:00:00:00:99"),
		}
	}
	networks := []string{"n1", "n2", "n3", state.FabricNetwork}
	vmis := func() []string {
		return rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"v1", "v2", "v3", "v4", "v5"}), 0, 3, rapid.ID).Draw(t, "vmis")
	}
	switch n(12) {
	case 1, 2:
		i := n(3)
		return &pb.Resource{Name: fmt.Sprintf("n%d", i), Spec: &pb.Resource_VirtualNetwork{VirtualNetwork: &pb.VirtualNetwork{
			Subnets: []*pb.Subnet{{Prefix: "10.1.0.0/24", Gateway: pick("", "10.1.0.1", "10.1.0.254")}, {Prefix: "fd00::/64", Gateway: "fd00::1"}},
			Vrf:     pick("", "", fmt.Sprintf("vrf%d", i)), Label: label(), Vni: rapid.SampledFrom([]uint32{0, 0, 5, 6}).Draw(t, "vni"),
			Bridging:   rapid.Bool().Draw(t, "bridging"),
			FabricSnat: rapid.Bool().Draw(t, "leaves"),
		}}}
	case 3, 4:
		i := n(5)
		if rapid.Bool().Draw(t, "waits") {
			return &pb.Resource{Name: fmt.Sprintf("v%d", i), Spec: &pb.Resource_VirtualMachineInterface{VirtualMachineInterface: &pb.VirtualMachineInterface{
				VirtualNetwork: pick(networks[:3]...), Attachment: &pb.AttachmentRequest{Uid: pick("a", "b")}, Label: label(),
				Labels: map[string]string{"app": pick("a", "b")},
			}}}
		}
		return &pb.Resource{Name: fmt.Sprintf("v%d", i), Spec: &pb.Resource_VirtualMachineInterface{VirtualMachineInterface: &pb.VirtualMachineInterface{
			VirtualNetwork: pick(networks[:3]...), Addresses: []string{fmt.Sprintf("10.1.0.%d", i+10+n(2)), fmt.Sprintf("fd00::%d", i+10)},
			Labels: map[string]string{"app": pick("a", "b"), "job": pick("1", "2", "3", "4")}, Namespace: pick("", "ns"), NamespaceLabels: map[string]string{"team": pick("x", "y")},
			NamedPorts:          []*pb.NamedPort{{Name: pick("web", "dns"), Port: rapid.SampledFrom([]uint32{80, 443}).Draw(t, "named port")}},
			AllowedAddressPairs: []*pb.AllowedAddressPair{{Prefix: pick("10.1.0.99/32", "10.9.0.0/16")}}, Label: label(),
		}}}
	case 5, 6:
		f := &pb.FloatingIP{VirtualNetwork: pick(networks...), Address: pick("10.1.0.50", "10.96.0.1", "192.0.2.1"), VirtualMachineInterfaces: vmis()}
		f.Direction = pb.FloatingIP_Direction(n(4) - 1)
		if rapid.Bool().Draw(t, "mapped") {
			f.FloatingIpPortMappings = &pb.FloatingIpPortMappings{PortMappings: []*pb.PortMapping{{SrcPort: uint32(n(3)), DstPort: 8080, Protocol: pb.Protocol_TCP}}}
		}
		if rapid.Bool().Draw(t, "with remote") {
			for _, name := range f.GetVirtualMachineInterfaces() {
				f.Members = append(f.Members, &pb.Member{VirtualMachineInterface: name, Address: pick("", "", "10.1.0.71")})
			}
			f.VirtualMachineInterfaces = nil
			for i := range n(2) {
				f.Members = append(f.Members, &pb.Member{VirtualMachineInterface: fmt.Sprintf("far%d", i), Address: "10.1.1.1", Weight: uint32(n(2)), Tunnel: tunnel()})
			}
			for i := range n(3) - 1 {
				f.Members = append(f.Members, &pb.Member{VirtualMachineInterface: fmt.Sprintf("host%d", i), Address: pick("192.0.2.1", "192.0.2.2", "192.0.2.21", "198.51.100.9"), Host: true})
			}
		}
		if rapid.Bool().Draw(t, "by parent") {
			f.Address, f.VirtualNetwork, f.Parent = "", "", pick("i1", "i2")
		}
		return &pb.Resource{Name: fmt.Sprintf("f%d", n(4)), Spec: &pb.Resource_FloatingIp{FloatingIp: f}}
	case 7:
		switch n(5) {
		case 3:
			r := &pb.Route{Vrf: pick("n1", "n2", "vrf1"), MacAddress: pick("", "02:00:00:00:00:97", "02:00:00:00:00:98")}
			r.Flood = r.GetMacAddress() == ""
			r.NextHops = []*pb.NextHop{{Target: &pb.NextHop_Tunnel{Tunnel: &pb.Tunnel{Remote: pick("192.0.2.21", "192.0.2.22"), Vni: uint32(n(2) + 4)}}}}
			if !r.GetFlood() && rapid.Bool().Draw(t, "here") {
				r.NextHops[0].Target = &pb.NextHop_Interface{Interface: pick("v1", "v2")}
			}
			return &pb.Resource{Name: fmt.Sprintf("r%d", n(3)), Spec: &pb.Resource_Route{Route: r}}
		case 1:
			return &pb.Resource{Name: fmt.Sprintf("i%d", n(2)), Spec: &pb.Resource_InstanceIp{InstanceIp: &pb.InstanceIP{
				Address: pick("10.1.0.60", "10.1.0.61"), VirtualNetwork: pick(networks[:3]...), VirtualMachineInterfaces: vmis(),
			}}}
		case 2:
			hop := &pb.NextHop{Target: &pb.NextHop_Discard{Discard: true}}
			hops := []*pb.NextHop{hop}
			switch n(6) {
			case 5:
				hop.Target = &pb.NextHop_Tunnel{Tunnel: tunnel()}
			case 6:
				hop.Target = &pb.NextHop_Tunnel{Tunnel: tunnel()}
				hops = append(hops, &pb.NextHop{Weight: uint32(n(3)), Target: &pb.NextHop_Tunnel{Tunnel: tunnel()}}, &pb.NextHop{Target: &pb.NextHop_Interface{Interface: pick("v1", "v2")}})
			case 1:
				hop.Target = &pb.NextHop_Vrf{Vrf: pick(networks...)}
			case 2:
				hop.Target = &pb.NextHop_Interface{Interface: pick("v1", "v2", state.Vhost0)}
			case 3:
				hop.Target = &pb.NextHop_Receive{Receive: true}
			}
			return &pb.Resource{Name: fmt.Sprintf("r%d", n(3)), Spec: &pb.Resource_Route{Route: &pb.Route{
				Vrf: pick("n1", "n2", "vrf1", state.FabricNetwork), Prefix: pick("0.0.0.0/0", "10.1.0.12/32", "198.51.100.0/24", "192.0.2.21/32"), NextHops: hops,
			}}}
		}
		f := &pb.Fabric{Vhost0: &pb.Vhost{Addresses: []string{pick("192.0.2.1/24", "192.0.2.2/24")}}}
		if rapid.Bool().Draw(t, "borrows") {
			f.Vhost0.Addresses = nil
		}
		if n(4) > 1 {
			f.Uplink = &pb.Uplink{Device: "eth0"}
			if rapid.Bool().Draw(t, "ports") {
				f.SnatPorts = &pb.PortRange{Start: 2000, End: uint32(2000 + n(2))}
			}
			f.Peers = []*pb.Peer{{Name: pick("b", "c"), Addresses: []string{pick("192.0.2.21", "192.0.2.23")}}}
			if rapid.Bool().Draw(t, "vxlan first") {
				f.Encapsulations = []pb.Encapsulation_Value{pb.Encapsulation_VXLAN, pb.Encapsulation_MPLS_UDP}
			}
		}
		return &pb.Resource{Name: "node", Spec: &pb.Resource_Fabric{Fabric: f}}
	case 12:
		i := n(3) + 2
		at := &pb.Attachment{
			Uid: pick("a", "a", "b"), ContainerId: pick("c", "d"), Netns: fmt.Sprintf("/run/netns/%d", i), VirtualNetwork: pick(networks[i%3], networks[i%3], "n1"),
			Addresses: []string{fmt.Sprintf("10.1.0.%d", 70+n(2))}, MacAddress: pick("", "02:00:00:00:00:71"),
		}
		for range n(3) - 1 {
			at.HostPorts = append(at.HostPorts, &pb.HostPort{HostPort: uint32(n(3)), ContainerPort: 8080, HostIp: pick("", "0.0.0.0", "192.0.2.1")})
		}
		return &pb.Resource{Name: fmt.Sprintf("v%d", i), Spec: &pb.Resource_Attachment{Attachment: at}}
	case 8:
		attached := rapid.SliceOfNDistinct(rapid.SampledFrom(networks), 1, 4, rapid.ID).Draw(t, "attached")
		return &pb.Resource{Name: fmt.Sprintf("p%d", n(2)), Spec: &pb.Resource_NetworkPolicy{NetworkPolicy: &pb.NetworkPolicy{
			VirtualNetworks: attached,
			Rules: []*pb.NetworkPolicyRule{{
				Source: &pb.PolicyEndpoint{VirtualNetwork: pick("", attached[0])}, Direction: pb.NetworkPolicyRule_Direction(n(2)),
				Action: pb.NetworkPolicyRule_Action(n(2)), Protocol: pb.Protocol_TCP, Name: pick("", "x"),
			}},
		}}}
	case 10:
		var list []string
		for range n(3) {
			list = append(list, pick("10.1.0.0/24", "10.1.0.12", "10.1.0.13", "10.1.0.14", "fd00::11"))
		}
		return &pb.Resource{Name: fmt.Sprintf("a%d", n(2)), Spec: &pb.Resource_AddressSet{AddressSet: &pb.AddressSet{Addresses: list[1:]}}}
	}
	return &pb.Resource{Name: fmt.Sprintf("s%d", n(4)), Spec: &pb.Resource_SecurityPolicy{SecurityPolicy: drawSecurityPolicy(t)}}
}

func drawSecurityPolicy(t *rapid.T) *pb.SecurityPolicy {
	n := func(limit int) int { return rapid.IntRange(1, limit).Draw(t, "n") }
	pick := func(list ...string) string { return rapid.SampledFrom(list).Draw(t, "pick") }
	app := func() *pb.LabelSelector {
		return &pb.LabelSelector{MatchLabels: map[string]string{"app": pick("a", "b")}}
	}
	sp := &pb.SecurityPolicy{Namespace: pick("", "ns"), Subject: app(), Tier: pb.SecurityPolicy_Tier(n(3))}
	if n(4) == 1 {
		sp.Subject.MatchLabels["job"] = pick("1", "2")
	}
	if sp.GetTier() != pb.SecurityPolicy_NAMESPACE {
		sp.Namespace, sp.NamespaceSelector = "", &pb.LabelSelector{MatchLabels: map[string]string{"team": pick("x", "y")}}
		sp.Priority = uint32(n(2))
	}
	for range n(2) {
		rule := &pb.SecurityRule{Name: pick("", "", "one", "two"), Peers: []*pb.SecurityPeer{{Selector: app()}}}
		switch {
		case rapid.Bool().Draw(t, "set"):
			rule.Peers = []*pb.SecurityPeer{{AddressSet: pick("a1", "a2")}}
		case sp.GetNamespaceSelector() != nil:
			rule.Peers[0].NamespaceSelector = &pb.LabelSelector{}
		}
		if sp.GetNamespaceSelector() != nil {
			rule.Action = pb.SecurityRule_Action(n(3))
		}
		if rapid.Bool().Draw(t, "egress") {
			rule.Ports = []*pb.SecurityPort{{Port: 80}}
			sp.Egress = append(sp.Egress, rule)
			continue
		}
		rule.Ports = []*pb.SecurityPort{{Name: pick("web", "dns"), Protocol: pb.Protocol_TCP}}
		sp.Ingress = append(sp.Ingress, rule)
	}
	return sp
}
