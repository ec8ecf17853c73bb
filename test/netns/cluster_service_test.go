package netns_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// eachPodFamily runs a test for IPv4 and IPv6, one after the other.
func eachPodFamily(t *testing.T, f func(t *testing.T, f family)) {
	for _, family := range []family{v4, v6} {
		t.Run(family.String(), func(t *testing.T) { f(t, family) })
	}
}

// TestClusterService: one service address, members on all nodes.
func TestClusterService(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterOptions{})
	members := c.serviceMembers()
	eachPodFamily(t, func(t *testing.T, f family) {
		wire := c.tap(f.String())
		t.Run("every member answers each node's pods and sees their address", func(t *testing.T) {
			for _, n := range c.nodes {
				client := n.pods[1]
				got := map[string]int{}
				for range 40 {
					server, seen := client.get(t, client.name, at(service[f], 80))
					if got[server]++; seen != client.address[f] {
						t.Fatalf("%s saw %s; want %s", server, seen, client.address[f])
					}
				}
				if len(got) != len(members) {
					t.Errorf("%s: %v answered; want all of %d", client.name, got, len(members))
				}
			}
		})
		t.Run("checked transfers, and datagrams", func(t *testing.T) {
			for _, n := range c.nodes {
				n.upload(t, n.pods[1].name, at(service[f], sinkPort), 1<<20)
				if _, _, err := echo(n.dial(t, n.pods[1].name, "udp", at(service[f], 9000)), []byte("hello")); err != nil {
					t.Error(err)
				}
			}
		})
		// The source node takes the service's address off the replies' way: member's
		// node to client's node, nobody between.
		t.Run("replies go straight to the client's node", func(t *testing.T) {
			ip := [2]string{"ip", "ipv6"}[f]
			replies := wire.frames(fmt.Sprintf("%s.src == %s && tcp", ip, service[f]), "ip.src", "ip.dst", "ipv6.dst", "frame.protocols")
			if len(replies) < 50 {
				t.Fatalf("%d replies on the wire", len(replies))
			}
			home := map[string]string{} // the node of a pod, by their addresses
			for _, p := range c.pods() {
				home[p.address[f]] = p.node.address[v4]
			}
			for _, r := range replies {
				outer, _ := pair(r[1])
				_, client := pair(r[1])
				if f == v6 {
					client = r[2]
				}
				if home[client] != outer {
					t.Fatalf("a reply to %s went to node %s: %v", client, outer, r)
				}
			}
		})
		t.Run("a member calls its own service and answers itself", func(t *testing.T) {
			for _, m := range members {
				c.until(m.name+" is chosen for itself", func() bool {
					server, _ := m.get(t, m.name, at(service[f], 80))
					return server == m.name
				})
			}
		})
		t.Run("the node calls the service", func(t *testing.T) {
			got := map[string]bool{}
			for range 40 {
				server, seen := c.nodes[0].get(t, "node", at(service[f], 80))
				if got[server] = true; seen != c.nodes[0].address[f] {
					t.Fatalf("%s saw %s; want the node's address %s", server, seen, c.nodes[0].address[f])
				}
			}
			if len(got) != len(members) {
				t.Errorf("%v answered", got)
			}
		})
	})
	t.Run("a drained member finishes what it has and gets nothing new", func(t *testing.T) {
		client := c.nodes[0].pods[1]
		x := client.begin(t, client.name, at(serviceV4, sinkPort))
		if err := x.send(1 << 20); err != nil {
			t.Fatal(err)
		}
		drained := c.memberOf(client, x)
		c.plan.members = map[*pod]string{}
		for _, m := range members {
			c.plan.members[m] = map[bool]string{true: "DRAINING", false: "READY"}[m == drained]
		}
		c.sync()
		for range 40 {
			if server, _ := client.get(t, client.name, at(serviceV4, 80)); server == drained.name {
				t.Fatalf("%s got a new connection", server)
			}
		}
		if err := x.send(1 << 20); err != nil {
			t.Fatal(err)
		}
		if server, err := x.finish(); err != nil || server != drained.name {
			t.Errorf("%s finished it: %v; want %s", server, err, drained.name)
		}
		c.plan.members = nil
		c.sync()
	})
}

// pair splits what tshark says of a field that a tunnel packet has twice.
func pair(s string) (outer, inner string) {
	for i := range s {
		if s[i] == ',' {
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// serviceMembers returns the pods behind the service.
func (c *cluster) serviceMembers() (members []*pod) {
	for _, p := range c.pods() {
		if _, ok := c.plan.members[p]; ok || c.plan.members == nil && p == p.node.pods[0] {
			members = append(members, p)
		}
	}
	return members
}

// memberOf returns the member that a client's transfer goes to, as the client's node
// says.
func (c *cluster) memberOf(client *pod, x *transfer) *pod {
	c.t.Helper()
	local := netip.MustParseAddrPort(x.conn.LocalAddr().String())
	for _, flow := range client.flows(&pb.FlowFilter{Source: local.Addr().String(), SourcePort: uint32(local.Port()), DestinationPort: sinkPort}) {
		for _, p := range c.pods() {
			if flow.GetMember() == p.name {
				return p
			}
		}
	}
	c.t.Fatalf("%s: no flow from %v to a member", client.name, local)
	return nil
}

// TestClusterSpread: 65,536 flows over 8 members on three nodes differ by less than
// 5 percent, and every one of them arrives.
func TestClusterSpread(t *testing.T) {
	t.Parallel()
	const flows, members = 65536, 8
	c := newCluster(t, clusterOptions{pods: 3, sessions: 4 * flows, plan: plan{flowQuota: 2 * flows}})
	c.plan.members = map[*pod]string{}
	counts := map[*pod]*atomic.Int64{}
	for _, p := range c.pods()[:members] {
		c.plan.members[p] = "READY"
		counts[p] = p.count()
	}
	c.sync()
	client := c.pods()[members]
	total := func() (n int64) {
		for _, count := range counts {
			n += count.Load()
		}
		return n
	}
	var sent int64
	client.in(client.name, func() error {
		for i := range flows {
			// 32,768 source ports to each of two service ports.
			if err := sendOne(16384+i/2, countPort+i%2); err != nil {
				return err
			}
			if sent++; sent%128 == 0 { // no faster than the members' kernels take them
				c.until("datagrams arrive", func() bool { return total() > sent-256 })
			}
		}
		return nil
	})
	c.until("every datagram arrives", func() bool { return total() == flows })
	const mean = flows / members
	for p, count := range counts {
		if n := count.Load(); n < mean*95/100 || n > mean*105/100 {
			t.Errorf("%s has %d flows; want %d within 5 percent", p.name, n, mean)
		}
	}
}

// countPort and the one above are mapped to themselves.
const countPort = 7000

// count counts the datagrams that come to a pod at countPort and the one above.
func (p *pod) count() *atomic.Int64 {
	p.t.Helper()
	n := &atomic.Int64{}
	for port := range 2 {
		conn := p.listenUDP(p.name, countPort+port)
		raw, err := conn.SyscallConn()
		if err != nil {
			p.t.Fatal(err)
		}
		var forced error
		err = raw.Control(func(fd uintptr) { forced = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20) })
		if err := errors.Join(err, forced); err != nil {
			p.t.Fatal(err)
		}
		go func() {
			b := make([]byte, 64)
			for {
				if _, _, err := conn.ReadFromUDPAddrPort(b); err != nil {
					return
				}
				n.Add(1)
			}
		}()
	}
	return n
}

// sendOne sends one datagram to the service from the calling thread's namespace.
func sendOne(from, to int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: from}); err != nil {
		return err
	}
	return unix.Sendto(fd, []byte("one"), 0, &unix.SockaddrInet4{Port: to, Addr: netip.MustParseAddr(serviceV4).As4()})
}

// shift makes the next of the changes that the control plane of TestClusterChurn goes
// through: members come, go and drain, and a pod's route goes and comes back. Late in
// the test no member goes, and tunnels change their encapsulation instead: a
// connection to a member that the service has lost knows its way only as it was.
func (c *cluster) shift(change int, late bool) {
	states := []string{"READY", "DRAINING", "SERVING"}
	c.plan.members = map[*pod]string{}
	for i, p := range c.pods() {
		if late || (i+change)%4 != 0 {
			c.plan.members[p] = states[(i+change)%3]
		}
	}
	c.plan.strangers = nil
	if change%2 == 0 {
		c.plan.strangers = []stranger{{name: "stranger", address: [2]string{"10.244.9.9", "fd00:244::9:9"}, remote: outsideV4, mac: "02:00:5e:00:00:99"}}
	}
	if late {
		c.plan.encapsulations = []string{"VXLAN, MPLS_UDP", "MPLS_UDP, VXLAN"}[change%2]
	}
}

// TestClusterChurn: 1,000 transfers at a time, every byte checked, while members
// and routes change, and tunnels their encapsulation.
func TestClusterChurn(t *testing.T) {
	t.Parallel()
	const transfers, pieces = 1000, 8
	c := newCluster(t, clusterOptions{})
	c.note("MTU") // VXLAN takes more of it than MPLS
	clients := c.pods()
	// The members of the beginning have all transfers.
	open := make([]*transfer, transfers)
	var wg sync.WaitGroup
	gate := make(chan struct{}, 64) // connections that open at a time
	for i := range open {
		wg.Go(func() {
			gate <- struct{}{}
			defer func() { <-gate }()
			client, f := clients[i%len(clients)], family(i%2)
			conn, err := client.tryDial(client.name, "tcp", at(service[f], sinkPort), net.Dialer{Timeout: patience})
			if err != nil {
				t.Errorf("%s: %v", client.name, err)
				return
			}
			open[i] = &transfer{conn: conn}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	var sent, done atomic.Int64
	finished := make(chan struct{})
	// Each piece but the first waits for a change, so that there are some during all of
	// the transfers, however fast these are.
	var changed [pieces - 1]chan struct{}
	for i := range changed {
		changed[i] = make(chan struct{})
	}
	for _, x := range open {
		wg.Go(func() {
			for piece := range pieces {
				if piece > 0 {
					<-changed[piece-1]
				}
				if err := x.conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
					t.Error(err)
				}
				if err := x.send(32 << 10); err != nil {
					t.Errorf("after %d bytes: %v", x.bytes, err)
					return
				}
				sent.Add(1)
			}
			if _, err := x.finish(); err != nil {
				t.Errorf("after %d bytes: %v", x.bytes, err)
			}
			done.Add(1)
		})
	}
	go func() { wg.Wait(); close(finished) }()
	changes := 0
	defer func() {
		for i := changes; i < len(changed); i++ { // a change has failed
			close(changed[i])
		}
		<-finished
	}()
	for going := true; going; changes++ {
		c.shift(changes, sent.Load() > transfers*pieces/2)
		c.sync()
		if changes < len(changed) {
			close(changed[changes])
		}
		select {
		case <-finished:
			going = false
		default:
		}
	}
	if changes < len(changed) {
		t.Errorf("only %d changes while transfers ran", changes)
	}
	t.Logf("%d changes under %d transfers", changes, transfers)
}
