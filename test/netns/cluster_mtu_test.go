package netns_test

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// overhead is what a way puts before an inner IP packet, in bytes: IP header, then
// UDP and label (RFC 7510), UDP, VXLAN and Ethernet header (RFC 7348), or GRE and
// label (RFC 4023).
func (w way) overhead() int {
	return map[string]int{"MPLS_UDP": 8 + 4, "VXLAN": 8 + 8 + 14, "MPLS_GRE": 4 + 4}[w.encapsulation] + [2]int{20, 40}[w.underlay]
}

// TestClusterMTU: pods of MTU 1500 over a wire of 1500: what is too long for the
// tunnel is told to the sender with the MTU that is left, and TCP never gets there.
func TestClusterMTU(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterOptions{nodes: 2})
	c.note("MTU")
	from, to := c.nodes[0].pods[0], c.nodes[1].pods[0]
	for _, w := range ways {
		t.Run(w.String(), func(t *testing.T) {
			c.plan.encapsulations, c.plan.underlay = w.encapsulation, w.underlay
			c.sync()
			for f := range service {
				c.tooBig(t, from, to, family(f), 1500, 1500-w.overhead())
				if server := from.upload(t, from.name, at(to.address[f], sinkPort), 2<<20); server != to.name {
					t.Errorf("%s received it", server)
				}
			}
		})
	}
	// The clamp is what keeps TCP from finding out by losing packets: no segment of
	// a connection is longer than what both SYNs, as lowered, allow.
	t.Run("SYNs are lowered to what fits", func(t *testing.T) {
		w := way{"MPLS_UDP", v4}
		c.plan.encapsulations, c.plan.underlay = "", v4
		c.sync()
		wire := c.tap("syn")
		for f := range service {
			to.upload(t, to.name, at(from.address[f], sinkPort), 64<<10)
			syn := wire.frames(fmt.Sprintf("tcp.flags.syn == 1 && tcp.flags.ack == 0 && tcp.dstport == %d && %s.dst == %s && udp.dstport == 6635", sinkPort, [2]string{"ip", "ipv6"}[f], from.address[f]), "tcp.options.mss_val")
			if want := fmt.Sprint(1500 - w.overhead() - [2]int{40, 60}[f]); len(syn) == 0 || syn[len(syn)-1][0] != want {
				t.Errorf("%v: MSS %v on the wire; want %s", family(f), syn, want)
			}
		}
	})
	// RFC 4787 REQ-14, RFC 7348 section 4.3: datagrams longer than the MTU go in inner
	// fragments, which the receiver's kernel joins.
	t.Run("fragments", func(t *testing.T) {
		c.note("FRAGMENT_TIMEOUT") // of a datagram with a fragment that was too long
		for f := range service {
			for _, target := range []string{at(to.address[f], echoPort), at(service[f], 9000)} {
				for _, size := range []int{1400, 3000, 8192, 40000} {
					c.comesBack(t, from, target, size)
				}
			}
			from.run(from.name, "ping", "-c", "1", "-W", "5", "-s", "4000", to.address[f])
		}
	})
}

// comesBack waits until a datagram of a size comes back from an echo server. One that
// is too long is lost, and its sender's kernel cuts the next: once for the question,
// once for the answer.
func (c *cluster) comesBack(t *testing.T, from *pod, target string, size int) {
	t.Helper()
	conn := from.dial(t, from.name, "udp", target)
	c.until(fmt.Sprintf("%d bytes come back from %s", size, target), func() bool {
		if err := conn.SetDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		_, _, err := echo(conn, bytes.Repeat([]byte{'x'}, size))
		return err == nil
	})
}

// tooBig checks that packets that fill the pod's MTU are answered with the path's,
// and that the sender's kernel believes it.
func (c *cluster) tooBig(t *testing.T, from, to *pod, f family, mtu, path int) {
	t.Helper()
	from.run(from.name, "ip", fmt.Sprintf("-%d", []int{4, 6}[f]), "route", "flush", "cache")
	header := [2]int{28, 48}[f]
	out, _ := from.try(from.name, "ping", "-c", "1", "-W", "2", "-M", "do", "-s", fmt.Sprint(mtu-header), to.address[f])
	if !strings.Contains(out, fmt.Sprint(path)) || strings.Contains(out, "1 received") {
		t.Errorf("%v: ping of %d bytes: want to be told %d\n%s", f, mtu, path, out)
	}
	if out := from.run(from.name, "ip", "route", "get", to.address[f]); !strings.Contains(out, fmt.Sprintf("mtu %d", path)) {
		t.Errorf("%v: ip route get: want mtu %d: %s", f, path, out)
	}
	from.run(from.name, "ping", "-c", "1", "-W", "3", "-M", "do", "-s", fmt.Sprint(path-header), to.address[f])
}

// TestClusterMTUMixed: pods of 9000 over a wire of 1500, and pods of 1500 over a wire
// of 9000, which then carries whole packets of the pods.
func TestClusterMTUMixed(t *testing.T) {
	t.Parallel()
	for _, m := range []struct{ pod, wire int }{{9000, 1500}, {1500, 9000}} {
		t.Run(fmt.Sprintf("pods %d over wire %d", m.pod, m.wire), func(t *testing.T) {
			c := newCluster(t, clusterOptions{nodes: 2, podMTU: m.pod, wireMTU: m.wire})
			from, to := c.nodes[0].pods[0], c.nodes[1].pods[0]
			wire := c.tap("all")
			for f := range service {
				if m.pod > m.wire {
					c.note("MTU")
					c.tooBig(t, from, to, family(f), m.pod, m.wire-32)
				} else {
					from.run(from.name, "ping", "-c", "1", "-W", "3", "-M", "do", "-s", fmt.Sprint(m.pod-[2]int{28, 48}[f]), to.address[f])
					if len(wire.frames(fmt.Sprintf("frame.len == %d && udp.dstport == 6635", 14+32+m.pod), "frame.len")) == 0 {
						t.Error("the packet did not cross the wire whole")
					}
				}
				from.upload(t, from.name, at(to.address[f], sinkPort), 4<<20)
				from.upload(t, from.name, at(service[f], sinkPort), 4<<20)
				c.comesBack(t, from, at(to.address[f], echoPort), 8192)
			}
		})
	}
}

// TestClusterSuperpackets: with offloads on, TCP crosses a UDP tunnel in frames longer
// than the wire's MTU where the kernel knows such (6.17), and every other tunnel in
// segments.
func TestClusterSuperpackets(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterOptions{nodes: 2, offloads: true})
	from, to := c.nodes[0].pods[0], c.nodes[1].pods[0]
	for i, w := range ways {
		t.Run(w.String(), func(t *testing.T) {
			c.plan.encapsulations, c.plan.underlay = w.encapsulation, w.underlay
			c.sync()
			wire := c.tap(fmt.Sprint("way-", i))
			for f := range service {
				if server := from.upload(t, from.name, at(to.address[f], sinkPort), 32<<20); server != to.name {
					t.Errorf("%s received it", server)
				}
			}
			whole := len(wire.frames("frame.len > 1514 && "+w.filter(), "frame.len"))
			if can := kernelAtLeast(6, 17) && w.encapsulation != "MPLS_GRE"; can != (whole > 100) {
				t.Errorf("%d superpackets on the wire; want some: %v", whole, can)
			}
		})
	}
}

// kernelAtLeast reports whether the running kernel has a version.
func kernelAtLeast(major, minor int) bool {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	var a, b int
	if _, scanned := fmt.Sscanf(string(release), "%d.%d", &a, &b); err != nil || scanned != nil {
		return false
	}
	return a > major || a == major && b >= minor
}
