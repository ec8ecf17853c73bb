//go:build linux

package afpacket_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/afpacket"
	"github.com/vrouter-go/vrouter/internal/port/tap"
)

const (
	guestV4, guestV6 = "10.8.0.10", "fd00:8::10"
	plainFeatures    = port.FeatureCsum | port.FeatureTSO4 | port.FeatureTSO6 | port.FeatureUSO
)

// workload makes a guest behind a TAP that has the uplink's own MAC address, so that
// frames need no rewriting: a wire between TAP and uplink joins it to the fabric.
func workload(t testing.TB, addresses ...string) (ns string, d *tap.Device) {
	t.Helper()
	ns = namespace(t, "guest")
	mac, err := net.ParseMAC(nodeMAC)
	if err != nil {
		t.Fatal(err)
	}
	s := tap.Spec{Name: fmt.Sprintf("%s%d-g", prefix, os.Getpid()), Netns: ns, GuestName: "eth0", MAC: mac, Up: true}
	for _, a := range addresses {
		s.Addresses = append(s.Addresses, netip.MustParsePrefix(a))
	}
	if d, err = tap.Create(s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return ns, d
}

// neighbour tells one end where others are: a kernel answers ARP and ND for its own
// addresses alone.
func neighbour(t testing.TB, ns, device, mac string, addresses ...string) {
	t.Helper()
	for _, a := range addresses {
		mustRun(t, ns, "ip", "neigh", "replace", a, "lladdr", mac, "dev", device, "nud", "permanent")
	}
}

// joined is a guest that reaches the fabric through the uplink.
type joined struct {
	node, far, guest string
	uplink           *afpacket.Device
	in, out          *way // from the fabric, to the fabric
	stop             func()
}

func join(t testing.TB, queues int) *joined {
	t.Helper()
	j := &joined{}
	j.node, j.far = fabric(t)
	var d *tap.Device
	j.guest, d = workload(t, guestV4+"/24", guestV6+"/64")
	neighbour(t, j.far, "far0", nodeMAC, guestV4, guestV6)
	neighbour(t, j.guest, "eth0", farMAC, farV4, farV6)
	j.uplink = open(t, afpacket.Spec{Device: "up0", Netns: j.node, Queues: queues})
	j.in, j.out = &way{from: j.uplink, to: d}, &way{from: d, to: j.uplink}
	j.stop = connect(t, j.in, j.out)
	return j
}

func TestPing(t *testing.T) {
	needRoot(t, "ping")
	j := join(t, 1)
	mustRun(t, j.far, "ping", "-c", "2", "-i", "0.2", "-W", "5", guestV4)
	mustRun(t, j.guest, "ping", "-c", "2", "-i", "0.2", "-W", "5", farV6)
	mustRun(t, j.guest, "ping", "-c", "1", "-s", "4000", "-W", "5", farV4) // fragments
	mustRun(t, j.far, "ping", "-c", "1", "-s", "4000", "-W", "5", guestV6)
}

func TestTCPSuperpacketsCrossWhole(t *testing.T) {
	needRoot(t)
	j := join(t, 1)
	for _, c := range []struct {
		guest, far string
		gso        uint8
	}{{guestV4, farV4, port.GSOTCPv4}, {guestV6, farV6, port.GSOTCPv6}} {
		for _, w := range []struct {
			*way
			from, to, addr string
		}{{j.in, j.far, j.guest, c.guest}, {j.out, j.guest, j.far, c.far}} {
			super, types := w.super.Load(), w.types[c.gso].Load()
			transfer(t, w.from, w.to, w.addr, 16<<20)
			if w.super.Load() == super || w.types[c.gso].Load() == types {
				t.Errorf("to %s: no superpacket of type %d crossed", w.addr, c.gso)
			}
		}
	}
	if n := j.in.lost.Load() + j.out.lost.Load(); n != 0 {
		t.Errorf("%d frames lost on write", n)
	}
	t.Logf("in %d frames, %d super; out %d, %d", j.in.frames.Load(), j.in.super.Load(), j.out.frames.Load(), j.out.super.Load())
}

// One sendmsg with UDP_SEGMENT crosses as one frame and arrives as datagrams, both
// ways and in both families.
func TestUSO(t *testing.T) {
	needRoot(t)
	j := join(t, 1)
	if j.uplink.Features()&port.FeatureUSO == 0 {
		t.Skipf("SKIP-TOOL: this kernel has no USO (features %b)", j.uplink.Features())
	}
	for _, c := range []struct {
		*way
		from, to, addr string
	}{
		{j.in, j.far, j.guest, guestV4}, {j.in, j.far, j.guest, guestV6},
		{j.out, j.guest, j.far, farV4}, {j.out, j.guest, j.far, farV6},
	} {
		server := listenPacket(t, c.to, net.JoinHostPort(c.addr, "0"))
		client := dial(t, c.from, "udp", server.LocalAddr().String()).(*net.UDPConn)
		raw, err := client.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var optErr error
		if err := raw.Control(func(fd uintptr) {
			optErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1200)
		}); err != nil || optErr != nil {
			t.Fatal(err, optErr)
		}
		const datagrams = 10
		before := c.types[port.GSOUDPL4].Load()
		send(t, client, make([]byte, datagrams*1200))
		buf := make([]byte, 4096)
		for i := range datagrams {
			if n, _, err := server.ReadFrom(buf); err != nil || n != 1200 {
				t.Fatalf("%s: datagram %d: %d bytes, %v", c.addr, i, n, err)
			}
		}
		if n := c.types[port.GSOUDPL4].Load() - before; n != 1 {
			t.Errorf("%s: %d USO frames crossed; want 1", c.addr, n)
		}
	}
}

// All queues get traffic, and each flow stays in one.
func TestManyQueues(t *testing.T) {
	needRoot(t)
	j := join(t, 3)
	server := listenPacket(t, j.guest, guestV4+":0")
	buf := make([]byte, 64)
	const flows, perFlow = 64, 4
	before := j.in.frames.Load()
	for range flows {
		client := dial(t, j.far, "udp", server.LocalAddr().String())
		var last [3]int64
		for i := range perFlow {
			send(t, client, []byte("hello"))
			if _, _, err := server.ReadFrom(buf); err != nil {
				t.Fatal(err)
			}
			var now [3]int64
			moved := 0
			for q := range now {
				if now[q] = j.in.perQueue[q].Load(); i > 0 && now[q] != last[q] {
					moved++
				}
			}
			if last = now; i > 1 && moved > 1 {
				t.Errorf("packet %d of a flow moved %d queues", i, moved)
			}
		}
		client.Close()
	}
	for q := range 3 {
		if n := j.in.perQueue[q].Load(); n == 0 {
			t.Errorf("queue %d got no frame in %d flows", q, flows)
		}
	}
	if n := j.in.frames.Load() - before; n != flows*perFlow {
		t.Errorf("%d frames for %d datagrams: each belongs to one queue alone", n, flows*perFlow)
	}
	transfer(t, j.far, j.guest, guestV4, 4<<20)
	transfer(t, j.guest, j.far, farV6, 4<<20)
}
