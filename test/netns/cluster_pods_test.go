package netns_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// way is an encapsulation between addresses of a family.
type way struct {
	encapsulation string
	underlay      family
}

var ways = []way{{"MPLS_UDP", v4}, {"VXLAN", v4}, {"MPLS_GRE", v4}, {"MPLS_UDP", v6}, {"VXLAN", v6}, {"MPLS_GRE", v6}}

func (w way) String() string { return w.encapsulation + " over " + w.underlay.String() }

// filter selects the tunnel packets of a way.
func (w way) filter() string {
	f := map[string]string{"MPLS_UDP": "udp.dstport == 6635 && mpls", "VXLAN": "udp.dstport == 4789 && vxlan", "MPLS_GRE": "gre && mpls"}[w.encapsulation]
	return f + map[family]string{v4: " && ip.src == 192.0.2.0/24", v6: " && ipv6.src == 2001:db8:10::/64"}[w.underlay]
}

// TestClusterPods: pods reach each other across nodes by each encapsulation, over
// IPv4 and IPv6, with IPv4 and IPv6 inside, while the control plane changes from one
// to the next.
func TestClusterPods(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterOptions{})
	from, to := c.nodes[0].pods[0], c.nodes[1].pods[0]
	for i, w := range ways {
		t.Run(w.String(), func(t *testing.T) {
			c.plan.encapsulations, c.plan.underlay = w.encapsulation, w.underlay
			c.sync()
			wire := c.tap(fmt.Sprint("way-", i))
			for f := range service {
				c.reach(t, from, to, family(f))
				c.reach(t, to, from, family(f))
			}
			if n := len(wire.frames(w.filter(), "frame.number")); n < 100 {
				t.Errorf("%d packets on the wire are %v", n, w)
			}
		})
	}
}

// reach checks ping, TCP with checked bytes, and UDP from one pod to another.
func (c *cluster) reach(t *testing.T, from, to *pod, f family) {
	t.Helper()
	from.run(from.name, "ping", "-c", "2", "-i", "0.05", "-W", "3", to.address[f])
	if server := from.upload(t, from.name, at(to.address[f], sinkPort), 256<<10); server != to.name {
		t.Errorf("%s answered for %s", server, to.name)
	}
	if server, seen := from.get(t, from.name, at(to.address[f], webPort)); server != to.name || seen != from.address[f] {
		t.Errorf("%s answered and saw %s; want %s and %s", server, seen, to.name, from.address[f])
	}
	conn := from.dial(t, from.name, "udp", at(to.address[f], echoPort))
	server, seen, err := echo(conn, bytes.Repeat([]byte{'x'}, 1200))
	if err != nil || server != to.name || !strings.HasPrefix(seen, at(from.address[f], 0)[:len(at(from.address[f], 0))-1]) {
		t.Errorf("UDP: %s saw %s: %v", server, seen, err)
	}
}
