package netns_test

import (
	"fmt"

	"strings"
	"syscall"
	"testing"
	"time"
)

// TestClusterNode: the nodes' own processes and pods of other nodes reach each other
// by vhost0; the world outside reaches nodes as before.
func TestClusterNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterOptions{})
	one, two := c.nodes[0], c.nodes[1]
	eachPodFamily(t, func(t *testing.T, f family) {
		for _, p := range []*pod{one.pods[0], two.pods[0]} {
			t.Run("node-1 to "+p.name+" and back", func(t *testing.T) {
				one.run("node", "ping", "-c", "1", "-W", "3", p.address[f])
				if server, seen := one.get(t, "node", at(p.address[f], webPort)); server != p.name || seen != one.address[f] {
					t.Errorf("%s answered and saw %s; want %s and %s", server, seen, p.name, one.address[f])
				}
				one.upload(t, "node", at(p.address[f], sinkPort), 4<<20)
				p.run(p.name, "ping", "-c", "1", "-W", "3", one.address[f])
				if server, seen := p.get(t, p.name, at(one.address[f], nodeWebPort)); server != "node" || seen != p.address[f] {
					t.Errorf("%s answered and saw %s; want node and %s", server, seen, p.address[f])
				}
			})
		}
		t.Run("nodes and outside", func(t *testing.T) {
			for _, n := range c.nodes {
				c.run("outside", "ping", "-c", "1", "-W", "3", n.address[f])
				if server, seen := c.get(t, "outside", at(n.address[f], nodeWebPort)); server != "node" || seen != outside[f] {
					t.Errorf("%s: %s answered and saw %s; want node and %s", n.name, server, seen, outside[f])
				}
			}
			if _, seen := one.get(t, "node", at(two.address[f], nodeWebPort)); seen != one.address[f] {
				t.Errorf("node-2 saw %s; want %s", seen, one.address[f])
			}
		})
	})
}

// TestClusterLongLived: a connection to a node's own address, as SSH has it, lives
// through the uplink's detaching and attaching, the end of the daemon by a signal it
// cannot see, and its restart.
func TestClusterLongLived(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterOptions{nodes: 2})
	n := c.nodes[0]
	n.serve("node")
	var open []*transfer
	for f := range service {
		open = append(open, c.begin(t, "outside", at(n.address[f], sinkPort)))
	}
	step := func(what string, change func()) {
		t.Helper()
		change()
		for f, x := range open {
			if err := x.send(2 << 20); err != nil {
				t.Fatalf("%s, %v: %v", what, family(f), err)
			}
			if _, seen := c.get(t, "outside", at(n.address[f], nodeWebPort)); seen != outside[f] {
				t.Errorf("%s, %v: a new connection is seen as %s", what, family(f), seen)
			}
		}
	}
	step("attached", func() {})
	step("detached", func() { c.plan.detached = true; c.sync() })
	step("attached again", func() { c.plan.detached = false; c.sync(); n.waitPorts() })
	step("kill -9", func() { n.stop(syscall.SIGKILL) })
	step("started again", func() { n.start(); n.waitPorts() })
	step("SIGTERM", func() { n.stop(syscall.SIGTERM) })
	step("and started", func() { n.start(); n.waitPorts() })
	for f, x := range open {
		if _, err := x.finish(); err != nil {
			t.Errorf("%v: %v", family(f), err)
		}
	}
	// The pods' traffic is back as well.
	c.reach(t, n.pods[0], c.nodes[1].pods[0], v4)
	c.reach(t, c.nodes[1].pods[0], n.pods[0], v6)
}

// TestClusterNodeKilled: a node dies under traffic. Its own connections break,
// all others go on, and when the control plane knows it nothing new goes there.
func TestClusterNodeKilled(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterOptions{})
	victim := c.nodes[2]
	client := c.nodes[0].pods[1]
	open := map[*pod][]*transfer{}
	c.until("every member has connections", func() bool {
		x := client.begin(t, client.name, at(serviceV4, sinkPort))
		if err := x.send(64 << 10); err != nil {
			t.Fatal(err)
		}
		m := c.memberOf(client, x)
		open[m] = append(open[m], x)
		return len(open) == 3 && len(open[victim.pods[0]]) > 1
	})
	victim.stop(syscall.SIGKILL)
	victim.dead = true
	c.ip("wire", "link set n3 down")
	check := func(what string) {
		t.Helper()
		for m, list := range open {
			if m.node == victim {
				continue
			}
			for _, x := range list {
				if err := x.send(256 << 10); err != nil {
					t.Errorf("%s: a connection to %s: %v", what, m.name, err)
				}
			}
		}
	}
	check("killed")
	c.plan.gone = map[*pod]bool{victim.pods[0]: true, victim.pods[1]: true}
	c.sync()
	for range 40 {
		if server, _ := client.get(t, client.name, at(serviceV4, 80)); server == victim.pods[0].name {
			t.Fatal("the dead answered")
		}
	}
	check("the control plane knows")
	for m, list := range open {
		for _, x := range list {
			if err := x.conn.SetDeadline(time.Now().Add(patience)); err != nil {
				t.Error(err)
			}
			if m.node == victim {
				if err := x.conn.SetDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
					t.Error(err)
				}
			}
			if server, err := x.finish(); (err == nil) != (m.node != victim) {
				t.Errorf("a connection to %s ended at %q with %v", m.name, server, err)
			}
		}
	}
	// Packets of the broken connections end here: no route leads to their member.
	c.note("MEMBER_GONE", "NO_ROUTE", "TCP_NO_SESSION")
}

// TestClusterGateway: a node on another wire is reached by a gateway, and the gateway's
// MAC address may change.
func TestClusterGateway(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterOptions{routed: true})
	near, far := c.nodes[0].pods[0], c.nodes[2].pods[0]
	for _, underlay := range []family{v4, v6} {
		t.Run("underlay "+underlay.String(), func(t *testing.T) {
			c.plan.underlay = underlay
			c.sync()
			for f := range service {
				c.reach(t, near, far, family(f))
				c.reach(t, far, near, family(f))
			}
		})
	}
	t.Run("another router takes over", func(t *testing.T) {
		c.plan.underlay = v4
		c.sync()
		x := near.begin(t, near.name, at(far.address[v4], sinkPort))
		if err := x.send(1 << 20); err != nil {
			t.Fatal(err)
		}
		c.ip("router", "link set r0 address 02:00:5e:10:00:01")
		c.run("router", "arping", "-q", "-c", "2", "-U", "-I", "r0", "192.0.2.254")
		if err := x.send(1 << 20); err != nil {
			t.Fatal(err)
		}
		if _, err := x.finish(); err != nil {
			t.Error(err)
		}
	})
}

// TestClusterKernelVXLAN: a host with nothing but the kernel's VXLAN device exchanges
// real TCP with a pod, both ways (RFC 7348).
func TestClusterKernelVXLAN(t *testing.T) {
	t.Parallel()
	need(t, "bridge")
	c := newCluster(t, clusterOptions{nodes: 2, roles: []string{"kernel"}})
	n := c.nodes[0]
	p := n.pods[0]
	k := stranger{name: "kernel", address: [2]string{"10.244.9.9", "fd00:244::9:9"}, mac: "02:00:5e:00:00:99"}
	remote := [2]string{"192.0.2.50", "2001:db8:10::50"}
	c.ip("kernel", "address add "+remote[v4]+"/24 dev eth0")
	c.ip("kernel", "address add "+remote[v6]+"/64 dev eth0 nodad")
	c.serve("kernel")
	for _, underlay := range []family{v4, v6} {
		t.Run("underlay "+underlay.String(), func(t *testing.T) {
			k.remote = remote[underlay]
			c.plan.underlay, c.plan.strangers = underlay, []stranger{k}
			c.sync()
			c.ip("kernel", fmt.Sprintf("link add vx0 address %s type vxlan id %d dstport 4789 local %s nolearning", k.mac, podsVNI, remote[underlay]))
			defer c.ip("kernel", "link del vx0")
			c.ip("kernel", "link set vx0 up")
			c.ip("kernel", "address add "+k.address[v4]+"/16 dev vx0")
			c.ip("kernel", "address add "+k.address[v6]+"/64 dev vx0 nodad")
			c.run("kernel", strings.Fields("bridge fdb append 00:00:5e:00:01:00 dev vx0 dst "+n.address[underlay])...)
			for f := range service {
				c.ip("kernel", "neigh replace "+p.address[f]+" lladdr 00:00:5e:00:01:00 dev vx0 nud permanent")
			}
			c.acquaint()
			for f := range service {
				p.run(p.name, "ping", "-c", "2", "-i", "0.05", "-W", "3", k.address[f])
				c.run("kernel", "ping", "-c", "2", "-i", "0.05", "-W", "3", p.address[f])
				if server := p.upload(t, p.name, at(k.address[f], sinkPort), 8<<20); server != "kernel" {
					t.Errorf("%s received it", server)
				}
				if server := c.upload(t, "kernel", at(p.address[f], sinkPort), 8<<20); server != p.name {
					t.Errorf("%s received it", server)
				}
				if _, seen := c.get(t, "kernel", at(p.address[f], webPort)); seen != k.address[f] {
					t.Errorf("%s saw %s; want %s", p.name, seen, k.address[f])
				}
			}
		})
	}
}
