package netns_test

import (
	"fmt"
	"strings"
	"testing"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// TestClusterKernelFindsPods: a host with the kernel's VXLAN device, which is told
// nothing but where to flood, finds the pods of two nodes and exchanges real TCP with
// them, where their network routes and where it bridges.
func TestClusterKernelFindsPods(t *testing.T) {
	t.Parallel()
	need(t, "bridge")
	c := newCluster(t, clusterOptions{nodes: 2, roles: []string{"kernel"}})
	// What kernels send to all by themselves, which nobody else is there to get or may send.
	c.note("MARTIAN_SOURCE", "TUNNEL_GROUP", "FLOOD_NOBODY", "ARP_ANNOUNCEMENT", "ND_ANNOUNCEMENT", "ARP_NO_TARGET", "ND_NO_TARGET")
	k := stranger{name: "kernel", address: [2]string{"10.244.9.9", "fd00:244::9:9"}, mac: "02:00:5e:00:00:99", remote: "192.0.2.50"}
	c.ip("kernel", "address add "+k.remote+"/24 dev eth0")
	c.serve("kernel")
	for _, bridging := range []bool{false, true} {
		t.Run(fmt.Sprintf("bridging %v", bridging), func(t *testing.T) {
			c.plan.bridging, c.plan.strangers = bridging, []stranger{k}
			c.sync()
			c.ip("kernel", fmt.Sprintf("link add vx0 address %s type vxlan id %d dstport 4789 local %s", k.mac, podsVNI, k.remote))
			defer c.ip("kernel", "link del vx0")
			for _, n := range c.nodes {
				c.run("kernel", strings.Fields("bridge fdb append 00:00:00:00:00:00 dev vx0 dst "+n.address[v4])...)
			}
			c.ip("kernel", "link set vx0 up")
			c.ip("kernel", "address add "+k.address[v4]+"/16 dev vx0")
			c.ip("kernel", "address add "+k.address[v6]+"/64 dev vx0 nodad")
			ttl := map[bool]string{false: "ttl=63 ", true: "ttl=64 "}[bridging]
			for _, n := range c.nodes {
				p := n.pods[0]
				c.until(n.name+" knows the way to the kernel", func() bool {
					answer, err := n.api.Explain(t.Context(), &pb.ExplainRequest{
						VirtualMachineInterface: p.name, Destination: k.address[v4], Protocol: pb.Protocol_TCP, DestinationPort: webPort,
					})
					return err == nil && answer.GetVerdict() == pb.Verdict_FORWARD
				})
				for f := range service {
					p.run(p.name, "ip", "neigh", "flush", "dev", "eth0")
					if out := p.run(p.name, "ping", "-c", "2", "-i", "0.05", "-W", "3", k.address[f]); !strings.Contains(out, ttl) {
						t.Errorf("want %s\n%s", ttl, out)
					}
					c.run("kernel", "ping", "-c", "2", "-i", "0.05", "-W", "3", p.address[f])
					if server := p.upload(t, p.name, at(k.address[f], sinkPort), 8<<20); server != "kernel" {
						t.Errorf("%s received it", server)
					}
					if server := c.upload(t, "kernel", at(p.address[f], sinkPort), 8<<20); server != p.name {
						t.Errorf("%s received it", server)
					}
				}
			}
		})
	}
}
