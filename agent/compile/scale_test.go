package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/vrouter-go/vrouter/agent/state"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// large is a node with routes of its own and services of ten members each.
func large(routes, services int) []*pb.Resource {
	list := []*pb.Resource{
		{Name: "pods", Spec: &pb.Resource_VirtualNetwork{VirtualNetwork: &pb.VirtualNetwork{Subnets: []*pb.Subnet{{Prefix: "10.244.0.0/16"}}}}},
		{Name: "services", Spec: &pb.Resource_VirtualNetwork{VirtualNetwork: &pb.VirtualNetwork{Subnets: []*pb.Subnet{{Prefix: "10.96.0.0/12"}}}}},
		{Name: "node", Spec: &pb.Resource_Fabric{Fabric: &pb.Fabric{Vhost0: &pb.Vhost{Addresses: []string{"192.0.2.10/24"}}}}},
		{Name: "use", Spec: &pb.Resource_NetworkPolicy{NetworkPolicy: &pb.NetworkPolicy{
			VirtualNetworks: []string{"pods", "services", "ip-fabric"}, Rules: []*pb.NetworkPolicyRule{{Action: pb.NetworkPolicyRule_PASS}},
		}}},
	}
	for i := range 250 {
		list = append(list, &pb.Resource{Name: fmt.Sprintf("v%d", i), Spec: &pb.Resource_VirtualMachineInterface{VirtualMachineInterface: &pb.VirtualMachineInterface{
			VirtualNetwork: "pods", Addresses: []string{fmt.Sprintf("10.244.1.%d", i+1)}, Labels: map[string]string{"app": fmt.Sprint(i % 20)},
		}}})
	}
	for i := range routes {
		list = append(list, &pb.Resource{Name: fmt.Sprintf("r%d", i), Spec: &pb.Resource_Route{Route: &pb.Route{
			Vrf: "pods", Prefix: fmt.Sprintf("172.%d.%d.0/24", i>>8&0xff, i&0xff), NextHops: []*pb.NextHop{{Target: &pb.NextHop_Interface{Interface: "v0"}}},
		}}})
		if i >= 1<<16 {
			list[len(list)-1].GetRoute().Prefix = fmt.Sprintf("11.%d.%d.0/24", i>>8&0xff, i&0xff)
		}
	}
	for i := range services {
		list = append(list, service(i, i))
	}
	return list
}

func service(i, first int) *pb.Resource {
	f := &pb.FloatingIP{
		Address: fmt.Sprintf("10.96.%d.%d", i>>8, i&0xff), VirtualNetwork: "services",
		FloatingIpPortMappings: &pb.FloatingIpPortMappings{PortMappings: []*pb.PortMapping{{SrcPort: 80, DstPort: 8080}}},
	}
	for m := range 10 {
		f.VirtualMachineInterfaces = append(f.VirtualMachineInterfaces, fmt.Sprintf("v%d", (first+m)%250))
	}
	return &pb.Resource{Name: fmt.Sprintf("s%d", i), Spec: &pb.Resource_FloatingIp{FloatingIp: f}}
}

// BenchmarkCommit measures one transaction, validated and compiled, on a large
// node: it must cost what it touches.
func BenchmarkCommit(b *testing.B) {
	for _, size := range []struct{ routes, services int }{{0, 1000}, {100_000, 1000}, {100_000, 10_000}} {
		st, c := state.New(), New(Config{})
		tx, err := st.Begin(state.Request{Owner: "bench", Upserts: large(size.routes, size.services)})
		if err != nil {
			b.Fatal(err)
		}
		tx.Commit()
		if _, err := c.All(st); err != nil {
			b.Fatal(err)
		}
		for _, kind := range []struct {
			name string
			make func(i int) *pb.Resource
		}{
			{"member", func(i int) *pb.Resource { return service(7, i) }},
			{"service", func(i int) *pb.Resource { return service(size.services+i%1000, i) }},
			{"route", func(i int) *pb.Resource {
				return &pb.Resource{Name: "flap", Spec: &pb.Resource_Route{Route: &pb.Route{
					Vrf: "pods", Prefix: "198.51.100.0/24", NextHops: []*pb.NextHop{{Target: &pb.NextHop_Interface{Interface: fmt.Sprintf("v%d", i%250)}}},
				}}}
			}},
		} {
			b.Run(fmt.Sprintf("%s/routes=%d/services=%d", kind.name, size.routes, size.services), func(b *testing.B) {
				for i := 0; b.Loop(); i++ {
					tx, err := st.Begin(state.Request{Owner: "bench", Upserts: []*pb.Resource{kind.make(i)}})
					if err != nil {
						b.Fatal(err)
					}
					if _, err := c.Compile(st, tx.Affected()); err != nil {
						b.Fatal(err)
					}
					tx.Commit()
				}
			})
		}
	}
}

// wide is a node among 1,000 with a route to each of 100,000 workloads there, each
// with a label of its own.
func wide() []*pb.Resource {
	list := large(0, 1000)
	f := &pb.Fabric{Vhost0: &pb.Vhost{Addresses: []string{"192.0.2.10/24"}}, Uplink: &pb.Uplink{Device: "eth0"}}
	for i := range 1000 {
		f.Peers = append(f.Peers, &pb.Peer{Name: fmt.Sprintf("node-%d", i), Addresses: []string{farNode(i)}})
	}
	list = append(list, &pb.Resource{Name: "node", Spec: &pb.Resource_Fabric{Fabric: f}})
	list = slices.DeleteFunc(list, func(r *pb.Resource) bool { return r.GetFabric() != nil && r.GetFabric() != f })
	for i := range 100_000 {
		list = append(list, farRoute(fmt.Sprintf("r%d", i), i, uint32(1000+i)))
	}
	return list
}

func farNode(i int) string { return fmt.Sprintf("198.18.%d.%d", i%1000>>8, i%1000&0xff) }

func farRoute(name string, i int, label uint32) *pb.Resource {
	return &pb.Resource{Name: name, Spec: &pb.Resource_Route{Route: &pb.Route{
		Vrf: "pods", Prefix: fmt.Sprintf("11.%d.%d.%d/32", i>>16&0xff, i>>8&0xff, i&0xff),
		NextHops: []*pb.NextHop{{Target: &pb.NextHop_Tunnel{Tunnel: &pb.Tunnel{Remote: farNode(i), Label: label}}}},
	}}}
}

// BenchmarkTunnels measures one transaction, validated and compiled, on a node with
// 100,000 routes through tunnels, and what it costs to hear of the underlay.
func BenchmarkTunnels(b *testing.B) {
	st, c := state.New(), New(Config{})
	tx, err := st.Begin(state.Request{Owner: "bench", Upserts: wide()})
	if err != nil {
		b.Fatal(err)
	}
	tx.Commit()
	if _, err := c.All(st); err != nil {
		b.Fatal(err)
	}
	for _, kind := range []struct {
		name string
		make func(i int) *pb.Resource
	}{
		{"same tunnel", func(i int) *pb.Resource { return farRoute("flap", 300_000+i%1000, 1000+uint32(i%1000)) }},
		{"new tunnel", func(i int) *pb.Resource { return farRoute("flap", 200_000, 200_000+uint32(i)) }},
		{"member", func(i int) *pb.Resource {
			r := service(7, i)
			f := r.GetFloatingIp()
			for _, name := range f.GetVirtualMachineInterfaces()[:9] {
				f.Members = append(f.Members, &pb.Member{VirtualMachineInterface: name})
			}
			f.VirtualMachineInterfaces = nil
			f.Members = append(f.Members, &pb.Member{
				VirtualMachineInterface: "far", Address: "11.0.0.1", Tunnel: &pb.Tunnel{Remote: farNode(i), Label: 1000 + uint32(i%1000)},
			})
			return r
		}},
		{"interface with label", func(i int) *pb.Resource {
			r := large(0, 0)[4]
			r.GetVirtualMachineInterface().Label = 1_000_000 + uint32(i%1000)
			return r
		}},
	} {
		b.Run(kind.name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				tx, err := st.Begin(state.Request{Owner: "bench", Upserts: []*pb.Resource{kind.make(i)}})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := c.Compile(st, tx.Affected()); err != nil {
					b.Fatal(err)
				}
				tx.Commit()
			}
		})
	}
	b.Run("underlay", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			u := &Underlay{MTU: 1500, Peers: map[netip.Addr]Path{netip.MustParseAddr(farNode(i)): {Resolved: true, Down: i%2 == 0}}}
			if _, err := c.SetUnderlay(u); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkSnapshot measures a whole state of 1,000 services with ten members
// each, from its messages to a snapshot.
func BenchmarkSnapshot(b *testing.B) {
	list := large(0, 1000)
	for b.Loop() {
		st := state.New()
		tx, err := st.Begin(state.Request{Owner: "bench", Upserts: list})
		if err != nil {
			b.Fatal(err)
		}
		tx.Commit()
		if _, err := New(Config{}).All(st); err != nil {
			b.Fatal(err)
		}
	}
}
