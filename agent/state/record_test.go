package state

import (
	"fmt"
	"runtime"
	"testing"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// TestRecordsAffectNobody holds that a load balancer is checked like any resource
// and that nothing has to be compiled for it, nor for what it names.
func TestRecordsAffectNobody(t *testing.T) {
	s := newBase(t)
	begin := func(req Request) *Transaction {
		t.Helper()
		tx, err := s.Begin(req)
		if err != nil {
			t.Fatal(err)
		}
		tx.Commit()
		return tx
	}
	record := `{"name":"other","loadBalancer":{"floatingIps":["web"],"instanceIps":["shared"]}}`
	for _, req := range []Request{{Upserts: resources(t, record)}, {Deletes: []Key{{LoadBalancer, "other"}}}} {
		if tx := begin(req); len(tx.Affected()) != 0 || tx.Programs() || len(tx.Changes()) != 1 {
			t.Errorf("affects %v, programs %v, changes %d", tx.Affected(), tx.Programs(), len(tx.Changes()))
		}
	}
	web := `{"name":"web","floatingIp":{"address":"10.96.0.10","virtualNetwork":"services"}}`
	tx := begin(Request{Upserts: resources(t, record, web)})
	for _, k := range tx.Affected() {
		if k.Kind == LoadBalancer {
			t.Errorf("%s is affected", k)
		}
	}
	if !tx.Programs() || len(tx.Affected()) == 0 {
		t.Error("the floating IP is forgotten")
	}
}

func resources(t *testing.T, texts ...string) []*pb.Resource {
	var list []*pb.Resource
	for _, text := range texts {
		list = append(list, resource(t, text))
	}
	return list
}

// balancers are n load balancers of ten members, each with a floating IP.
func balancers(n int) (floating, records []*pb.Resource) {
	floating = append(floating, &pb.Resource{Name: "services", Spec: &pb.Resource_VirtualNetwork{VirtualNetwork: &pb.VirtualNetwork{}}})
	for i := range n {
		name := fmt.Sprintf("shop:web-%d", i)
		floating = append(floating, &pb.Resource{Name: name + ":clusterip-v4", Spec: &pb.Resource_FloatingIp{FloatingIp: &pb.FloatingIP{
			Address: fmt.Sprintf("10.%d.%d.%d", 96+i>>16, i>>8&0xff, i&0xff), VirtualNetwork: "services",
			FloatingIpPortMappings: &pb.FloatingIpPortMappings{PortMappings: []*pb.PortMapping{{SrcPort: 80, DstPort: 8080}}},
		}}})
		pool := &pb.Pool{TargetPort: "http"}
		for m := range 10 {
			pool.Members = append(pool.Members, &pb.PoolMember{VirtualMachineInterface: fmt.Sprintf("shop:web-%d-%d", i, m),
				Address: fmt.Sprintf("10.244.%d.%d", i&0xff, m+1), Port: 8080, State: pb.Member_READY, Node: "node-a"})
		}
		records = append(records, &pb.Resource{Name: name, Spec: &pb.Resource_LoadBalancer{LoadBalancer: &pb.LoadBalancer{
			Service: &pb.ServiceReference{Namespace: "shop", Name: fmt.Sprintf("web-%d", i)}, FloatingIps: []string{name + ":clusterip-v4"},
			Listeners: []*pb.Listener{{Name: "http", Port: 80, Pool: pool}},
		}}})
	}
	return floating, records
}

// BenchmarkLoadBalancers measures what 10,000 load balancers of ten members cost:
// to take them all up, to change one, and the memory that they stay in.
func BenchmarkLoadBalancers(b *testing.B) {
	floating, records := balancers(10_000)
	fill := func() *State {
		s := New()
		tx, err := s.Begin(Request{Owner: "vrkube", Upserts: floating})
		if err != nil {
			b.Fatal(err)
		}
		tx.Commit()
		return s
	}
	take := func(s *State, list []*pb.Resource) {
		tx, err := s.Begin(Request{Owner: "vrkube", Upserts: list})
		if err != nil {
			b.Fatal(err)
		}
		if tx.Commit(); tx.Programs() {
			b.Fatal("the forwarder would be told")
		}
	}
	b.Run("all", func(b *testing.B) {
		heap := func() uint64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		for b.Loop() {
			b.StopTimer()
			s := fill()
			before := heap()
			b.StartTimer()
			take(s, records)
			b.StopTimer()
			b.ReportMetric(float64(heap()-before)/float64(len(records)), "B/balancer")
			runtime.KeepAlive(s)
			b.StartTimer()
		}
	})
	b.Run("one", func(b *testing.B) {
		s := fill()
		take(s, records)
		for i := 0; b.Loop(); i++ {
			records[7].GetLoadBalancer().GetListeners()[0].GetPool().Members[0].Port = uint32(i%60000 + 1)
			take(s, records[7:8])
		}
	})
}
