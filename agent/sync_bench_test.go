package agent_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Sizes of the large cluster that a controller describes to one node.
const (
	benchServices = 10_000
	benchMembers  = 10 // of each service
	benchPods     = 110
	benchNodes    = 500
)

// wideCluster is what one node hears of a large cluster: its own pods, a service
// address with a parent for each service, and members on all nodes.
func wideCluster(services int) []*pb.Resource {
	fabric := &pb.Fabric{
		Vhost0: &pb.Vhost{Addresses: []string{"192.0.2.10/24"}}, Uplink: &pb.Uplink{Device: "eth0"},
	}
	list := []*pb.Resource{
		{Name: "node", Spec: &pb.Resource_Fabric{Fabric: fabric}},
		{Name: "pods", Spec: &pb.Resource_VirtualNetwork{VirtualNetwork: &pb.VirtualNetwork{
			Subnets: []*pb.Subnet{{Prefix: "10.244.0.0/24", Gateway: "10.244.0.1"}}, Vni: 100, Label: 100,
		}}},
		{Name: "services", Spec: &pb.Resource_VirtualNetwork{VirtualNetwork: &pb.VirtualNetwork{Subnets: []*pb.Subnet{{Prefix: "10.96.0.0/12"}}}}},
		{Name: "use", Spec: &pb.Resource_NetworkPolicy{NetworkPolicy: &pb.NetworkPolicy{
			VirtualNetworks: []string{"pods", "services", "ip-fabric"}, Rules: []*pb.NetworkPolicyRule{{Action: pb.NetworkPolicyRule_PASS}},
		}}},
	}
	for i := range benchPods {
		list = append(list, &pb.Resource{Name: podName(i), Spec: &pb.Resource_VirtualMachineInterface{VirtualMachineInterface: &pb.VirtualMachineInterface{
			VirtualNetwork: "pods", Addresses: []string{fmt.Sprintf("10.244.0.%d", i+2)}, Labels: map[string]string{"app": fmt.Sprint(i % 20)},
		}}})
	}
	for i := range benchNodes {
		list = append(list, &pb.Resource{Name: fmt.Sprintf("pods-node-%d", i), Spec: &pb.Resource_Route{Route: &pb.Route{
			Vrf: "pods", Prefix: fmt.Sprintf("10.%d.%d.0/24", 128+i>>8, i&0xff), NextHops: []*pb.NextHop{{Target: &pb.NextHop_Tunnel{Tunnel: toNode(i)}}},
		}}})
	}
	for i := range services {
		list = append(list, clusterIP(i), clusterService(i, 0))
	}
	return list
}

func podName(i int) string { return fmt.Sprintf("shop:pod-%d", i) }

func toNode(i int) *pb.Tunnel {
	return &pb.Tunnel{Remote: fmt.Sprintf("198.18.%d.%d", i/250, i%250+1), Vni: 100, Label: 100}
}

func clusterIP(i int) *pb.Resource {
	return &pb.Resource{Name: fmt.Sprintf("shop:service-%d:clusterip-v4", i), Spec: &pb.Resource_InstanceIp{InstanceIp: &pb.InstanceIP{
		Address: fmt.Sprintf("10.96.%d.%d", i>>8, i&0xff), VirtualNetwork: "services",
	}}}
}

// clusterService has one member here and the others on other nodes; turn chooses
// among as many pods as there are.
func clusterService(i, turn int) *pb.Resource {
	f := &pb.FloatingIP{
		Parent: fmt.Sprintf("shop:service-%d:clusterip-v4", i),
		FloatingIpPortMappings: &pb.FloatingIpPortMappings{PortMappings: []*pb.PortMapping{
			{SrcPort: 80, DstPort: 8080, Protocol: pb.Protocol_TCP}, {SrcPort: 443, DstPort: 8443, Protocol: pb.Protocol_TCP},
		}},
		Members: []*pb.Member{{VirtualMachineInterface: podName((i + turn) % benchPods), State: pb.Member_READY}},
	}
	for m := 1; m < benchMembers; m++ {
		node := (i + m*37) % benchNodes
		f.Members = append(f.Members, &pb.Member{
			VirtualMachineInterface: fmt.Sprintf("shop:service-%d-%d", i, m), State: pb.Member_READY,
			Address: fmt.Sprintf("10.%d.%d.%d", 128+node>>8, node&0xff, 2+(i+m)%250), Tunnel: toNode(node),
		})
	}
	return &pb.Resource{Name: fmt.Sprintf("shop:service-%d:clusterip-v4", i), Spec: &pb.Resource_FloatingIp{FloatingIp: f}}
}

// snapshot sends a snapshot in chunks and returns when it is programmed.
func (c *controller) snapshot(sequence uint64, list []*pb.Resource) {
	c.begin(false)
	for part := range slices.Chunk(list, 1000) {
		c.send(&pb.SyncRequest{Message: &pb.SyncRequest_SnapshotChunk{SnapshotChunk: &pb.SyncSnapshotChunk{Resources: part}}})
	}
	c.end(sequence)
	m := c.recv()
	if m.GetNack() != nil {
		c.t.Fatalf("refused: %v", m.GetNack().GetReason())
	}
	c.recv()
}

// cpuTime is what the process has spent so far, which other processes do not
// change.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkSync measures what a node takes for a cluster of 10,000 services with
// 100,000 endpoints: from nothing, the same again, and one endpoint that moves.
func BenchmarkSync(b *testing.B) {
	list := wideCluster(benchServices)
	for _, disk := range []bool{false, true} {
		dir := func() string {
			if disk {
				return b.TempDir()
			}
			return ""
		}
		b.Run(fmt.Sprintf("cold/disk=%v", disk), func(b *testing.B) {
			for b.Loop() {
				r := start(b, dir())
				c := r.controller("kube", 1)
				c.recv()
				begin, spent := time.Now(), cpuTime(b)
				c.snapshot(1, list)
				b.ReportMetric(time.Since(begin).Seconds(), "s/snapshot")
				b.ReportMetric((cpuTime(b) - spent).Seconds(), "cpu-s/snapshot")
				r.stop()
			}
		})
		r := start(b, dir())
		c := r.controller("kube", 1)
		c.recv()
		c.snapshot(1, list)
		sequence := uint64(1)
		b.Run(fmt.Sprintf("again/disk=%v", disk), func(b *testing.B) {
			for b.Loop() {
				sequence++
				c.snapshot(sequence, list)
			}
		})
		b.Run(fmt.Sprintf("delta/disk=%v", disk), func(b *testing.B) {
			for b.Loop() {
				sequence++
				c.send(&pb.SyncRequest{Message: &pb.SyncRequest_Delta{Delta: &pb.SyncDelta{
					Sequence: sequence, Upserts: []*pb.Resource{clusterService(int(sequence)%benchServices, int(sequence))},
				}}})
				c.acked(sequence)
			}
		})
		r.stop()
	}
}
