package compile

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/vrouter-go/vrouter/agent/state"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// manyPolicies is a node with 110 pods of 40 applications and policies that select
// them, each with two rules whose peers are sets of addresses out of 10,000.
func manyPolicies(policies int) []*pb.Resource {
	list := []*pb.Resource{
		{Name: "pods", Spec: &pb.Resource_VirtualNetwork{VirtualNetwork: &pb.VirtualNetwork{Subnets: []*pb.Subnet{{Prefix: "10.244.0.0/16"}}}}},
	}
	for i := range 110 {
		list = append(list, pod(i, fmt.Sprint(i%40)))
	}
	for i := range policies / 4 {
		s := &pb.AddressSet{}
		for j := range 100 {
			n := (i*37 + j) % 10_000
			s.Addresses = append(s.Addresses, fmt.Sprintf("10.245.%d.%d", n>>8, n&0xff))
		}
		list = append(list, &pb.Resource{Name: fmt.Sprintf("set-%d", i), Spec: &pb.Resource_AddressSet{AddressSet: s}})
	}
	for i := range policies {
		list = append(list, appPolicy(i, policies, 80))
	}
	return list
}

func pod(i int, app string) *pb.Resource {
	return &pb.Resource{Name: fmt.Sprintf("v%d", i), Spec: &pb.Resource_VirtualMachineInterface{VirtualMachineInterface: &pb.VirtualMachineInterface{
		VirtualNetwork: "pods", Addresses: []string{fmt.Sprintf("10.244.1.%d", i+1)}, Namespace: "shop", Labels: map[string]string{"app": app},
	}}}
}

func appPolicy(i, policies int, port uint32) *pb.Resource {
	rule := func(k int, port uint32) *pb.SecurityRule {
		return &pb.SecurityRule{
			Peers: []*pb.SecurityPeer{{AddressSet: fmt.Sprintf("set-%d", (i+k)%(policies/4))}},
			Ports: []*pb.SecurityPort{{Protocol: pb.Protocol_TCP, Port: port}, {Protocol: pb.Protocol_UDP, Port: 53}},
		}
	}
	return &pb.Resource{Name: fmt.Sprintf("policy-%d", i), Spec: &pb.Resource_SecurityPolicy{SecurityPolicy: &pb.SecurityPolicy{
		Namespace: "shop", Subject: &pb.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprint(i % 40)}},
		Ingress: []*pb.SecurityRule{rule(0, port), rule(1, port+1)}, Egress: []*pb.SecurityRule{rule(2, port)},
	}}}
}

// BenchmarkSecurityCommit measures one transaction, checked and compiled, among
// 1,000 policies.
func BenchmarkSecurityCommit(b *testing.B) {
	const policies = 1000
	for _, c := range []struct {
		name   string
		change func(i int) *pb.Resource
	}{
		{"address comes or goes", func(i int) *pb.Resource {
			s := &pb.AddressSet{}
			for j := range 99 + i%2 {
				s.Addresses = append(s.Addresses, fmt.Sprintf("10.245.0.%d", j))
			}
			return &pb.Resource{Name: "set-0", Spec: &pb.Resource_AddressSet{AddressSet: s}}
		}},
		{"pod takes known labels", func(i int) *pb.Resource { return pod(0, fmt.Sprint(i%40)) }},
		{"pod takes new labels", func(i int) *pb.Resource {
			p := pod(0, "0")
			p.GetVirtualMachineInterface().Labels["job"] = fmt.Sprint(i)
			return p
		}},
		{"policy changes", func(i int) *pb.Resource { return appPolicy(0, policies, uint32(80+i%2)) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			st, compiler := state.New(), New(Config{})
			tx, err := st.Begin(state.Request{Owner: "bench", Upserts: manyPolicies(policies)})
			if err != nil {
				b.Fatal(err)
			}
			tx.Commit()
			if _, err := compiler.All(st); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			before := processorTime(b)
			for i := 0; b.Loop(); i++ {
				tx, err := st.Begin(state.Request{Owner: "bench", Upserts: []*pb.Resource{c.change(i)}})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := compiler.Compile(st, tx.Affected()); err != nil {
					b.Fatal(err)
				}
				tx.Commit()
			}
			b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op") // whoever else is busy
		})
	}
}

func processorTime(b *testing.B) int64 {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return r.Utime.Nano() + r.Stime.Nano()
}
