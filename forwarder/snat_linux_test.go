//go:build linux

package forwarder

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/nat"
	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/internal/port/tap"
)

// outsideWorld is a pod, the node itself and the world behind the uplink, each a
// kernel of its own in a namespace:
//
//	pod ──TAP── forwarder ──TAP── router ──veth, MTU 1300── server
//	node ──TAP──┘  vhost0           │
//	  └──veth───────────────────────┘
//
// The node sends by the link that the uplink takes from it, which is here a link of
// its own.
type outsideWorld struct {
	r                         *rig
	pod, node, router, server string
}

// outsideMTU is what the router's link to the server takes.
const outsideMTU = 1300

func newOutsideWorld(t *testing.T) *outsideWorld {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIP-PRIVILEGED: TAP devices need root")
	}
	w := &outsideWorld{r: newSNATRig(t, standardPorts)}
	for role, ns := range map[string]*string{"pod": &w.pod, "node": &w.node, "router": &w.router, "server": &w.server} {
		name := netns.Name("vrt", "snat-"+role)
		path, err := netns.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := netns.Delete(name); err != nil {
				t.Error(err)
			}
		})
		*ns = path
	}
	for i := range w.r.state.interfaces {
		itf := &w.r.state.interfaces[i]
		itf.Gateway4, itf.Gateway6 = addr("10.244.0.1"), addr("fd00:244::1")
	}
	w.r.publish()
	podMAC, nodeMAC := mac(byte(web1Port)), mac(byte(vhostPort))
	w.device(t, web1Port, w.pod, podMAC, "10.244.0.1", "fd00:244::1", "10.244.0.11/24", "fd00:244::11/64")
	w.device(t, vhostPort, w.node, nodeMAC, "", "", "192.0.2.10/32", "2001:db8::10/128")
	w.device(t, uplinkPort, w.router, outsideMAC, "", "", "192.0.2.1/24", "2001:db8::1/64")

	// Nobody but the node's kernel answers for the node on the uplink, and it is not there.
	m := mac(byte(uplinkPort))
	inside(t, w.router, "ip", "link", "add", "beyond", "mtu", fmt.Sprint(outsideMTU), "type", "veth", "peer", "name", "eth0", "mtu", fmt.Sprint(outsideMTU), "netns", netns.Name("vrt", "snat-server"))
	inside(t, w.server, "ip", "link", "set", "eth0", "up")
	inside(t, w.router, "ip", "link", "set", "beyond", "up")
	for _, f := range []struct{ node, router, server, bits string }{
		{"192.0.2.10", "198.51.100.254", "198.51.100.7", "/24"}, {"2001:db8::10", "2001:db8:51::fe", "2001:db8:51::7", "/64"},
	} {
		inside(t, w.router, "ip", "neigh", "replace", f.node, "lladdr", net.HardwareAddr(m[:]).String(), "dev", "eth0", "nud", "permanent")
		inside(t, w.router, "ip", "addr", "add", f.router+f.bits, "dev", "beyond", "nodad")
		inside(t, w.server, "ip", "addr", "add", f.server+f.bits, "dev", "eth0", "nodad")
		inside(t, w.server, "ip", "route", "add", "default", "via", f.router)
	}
	inside(t, w.router, "ip", "link", "add", "direct", "type", "veth", "peer", "name", "eth1", "netns", netns.Name("vrt", "snat-node"))
	for _, f := range []struct{ router, node, bits, source string }{
		{"198.18.0.1", "198.18.0.2", "/30", "192.0.2.10"}, {"2001:db8:18::1", "2001:db8:18::2", "/64", "2001:db8::10"},
	} {
		inside(t, w.router, "ip", "addr", "add", f.router+f.bits, "dev", "direct", "nodad")
		inside(t, w.router, "ip", "link", "set", "direct", "up")
		inside(t, w.node, "ip", "addr", "add", f.node+f.bits, "dev", "eth1", "nodad")
		inside(t, w.node, "ip", "link", "set", "eth1", "up")
		inside(t, w.node, "ip", "route", "add", "default", "via", f.router, "src", f.source)
	}
	for _, ns := range []string{w.router, w.node} { // ways there and back differ
		inside(t, ns, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.eth0.rp_filter=0")
	}
	inside(t, w.router, "sysctl", "-qw", "net.ipv4.conf.direct.rp_filter=0")
	inside(t, w.router, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")

	stop := w.r.running()
	t.Cleanup(stop) // before the devices go
	return w
}

// device puts a kernel behind a port.
func (w *outsideWorld) device(t *testing.T, index uint16, ns string, m [6]byte, gate4, gate6 string, addresses ...string) {
	t.Helper()
	spec := tap.Spec{Name: fmt.Sprintf("vrt%d-sn%d", os.Getpid(), index), Netns: ns, GuestName: "eth0", MAC: m[:], Up: true}
	for _, a := range addresses {
		spec.Addresses = append(spec.Addresses, netip.MustParsePrefix(a))
	}
	if gate4 != "" {
		spec.GatewayV4, spec.GatewayV6 = netip.MustParseAddr(gate4), netip.MustParseAddr(gate6)
	}
	if err := w.r.f.Detach(index).Close(); err != nil {
		t.Fatal(err)
	}
	delete(w.r.ports, index)
	dev, err := tap.Create(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.r.f.Attach(index, dev); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.r.f.Detach(index)
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
}

// serve starts servers in a namespace that live as long as the test: a datagram is
// answered by its sender's address, a stream by that line and then by what came.
func serve(t *testing.T, ns, address string) {
	t.Helper()
	var packets net.PacketConn
	var listener net.Listener
	err := netns.Do(ns, func() (err error) {
		if packets, err = net.ListenPacket("udp", address); err == nil {
			listener, err = net.Listen("tcp", address)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { packets.Close(); listener.Close() })
	go func() {
		b := make([]byte, 65536)
		for {
			n, from, err := packets.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo(append([]byte(from.String()+"\n"), b[:n]...), from)
		}
	}()
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := fmt.Fprintln(c, c.RemoteAddr()); err == nil {
					_, _ = io.Copy(c, c)
				}
			}()
		}
	}()
}

// dial connects from a namespace.
func dial(t *testing.T, ns, network, local, address string) (c net.Conn, err error) {
	t.Helper()
	d := net.Dialer{Timeout: 10 * time.Second}
	if local != "" {
		if d.LocalAddr, err = net.ResolveUDPAddr("udp", local); network == "tcp" {
			d.LocalAddr, err = net.ResolveTCPAddr("tcp", local)
		}
	}
	if err == nil {
		err = netns.Do(ns, func() (err error) { c, err = d.Dial(network, address); return err })
	}
	if c != nil {
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	}
	return c, err
}

// seen asks a server over UDP as whom it sees a pod's socket, with size bytes more.
func seen(t *testing.T, c net.Conn, size int) netip.AddrPort {
	t.Helper()
	b, n := make([]byte, 65536), 0
	var err error
	for range 3 {
		if _, err = c.Write(make([]byte, size)); err == nil {
			n, err = c.Read(b)
		}
		if !errors.Is(err, syscall.EMSGSIZE) { // the kernel has learnt the path's MTU by it (RFC 8201)
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	line, rest, _ := strings.Cut(string(b[:n]), "\n")
	if len(rest) != size {
		t.Errorf("%d bytes came back, want %d", len(rest), size)
	}
	from, err := netip.ParseAddrPort(line)
	if err != nil {
		t.Fatal(err)
	}
	return from
}

// Linux kernels are the judges of source translation: that of a pod, of the node, of
// a router outside and of a server beyond it.
//
// RFC 4787 REQ-1, RFC 5382 REQ-1: one socket is seen as one address and port by two servers
// RFC 4787 REQ-14: datagrams in fragments get through both ways
// RFC 4787 REQ-13, RFC 5382 REQ-9, RFC 5508 REQ-4: errors of routers and servers outside reach the socket
func TestKernelsLeaveByTheNode(t *testing.T) {
	w := newOutsideWorld(t)
	for _, a := range []struct{ family, pod, node, server, other, router, gateway string }{
		{"IPv4", "10.244.0.11", "192.0.2.10", "198.51.100.7", "198.51.100.254", "192.0.2.1", "10.244.0.1"},
		{"IPv6", "fd00:244::11", "2001:db8::10", "2001:db8:51::7", "2001:db8:51::fe", "2001:db8::1", "fd00:244::1"},
	} {
		node := netip.MustParseAddr(a.node)
		at := func(ip string, port int) string { return net.JoinHostPort(ip, fmt.Sprint(port)) }
		serve(t, w.server, at(a.server, 7000))
		serve(t, w.router, at(a.other, 7000))

		t.Run("UDP "+a.family, func(t *testing.T) {
			var first netip.AddrPort
			for _, server := range []string{a.server, a.other} {
				c, err := dial(t, w.pod, "udp", at(a.pod, 40001), at(server, 7000))
				if err != nil {
					t.Fatal(err)
				}
				from := seen(t, c, 100)
				if first == (netip.AddrPort{}) {
					first = from
				}
				if from != first || from.Addr() != node || from.Port() < standardPorts.First {
					t.Errorf("%s sees %s; want the node's %s, and the same as the first: %s", server, from, node, first)
				}
				seen(t, c, 5000) // in fragments
				c.Close()
			}
		})
		t.Run("TCP "+a.family, func(t *testing.T) {
			c, err := dial(t, w.pod, "tcp", "", at(a.server, 7000))
			if err != nil {
				t.Fatal(err)
			}
			if sum, from := transferred(t, c, 8<<20); from.Addr() != node || from.Port() < standardPorts.First {
				t.Errorf("the server sees %s, want the node's %s (%x)", from, node, sum[:4])
			}
		})
		t.Run("ping and traceroute "+a.family, func(t *testing.T) {
			inside(t, w.pod, "ping", "-c2", "-i0.2", "-W5", a.server)
			inside(t, w.pod, "ping", "-c1", "-W5", "-s4000", a.server)
			out := inside(t, w.pod, "traceroute", "-n", "-q1", "-w5", "-m4", a.server)
			for _, hop := range []string{a.gateway, a.router, a.server} {
				if !strings.Contains(out, hop) {
					t.Errorf("traceroute does not show %s:\n%s", hop, out)
				}
			}
		})
		t.Run("refused "+a.family, func(t *testing.T) {
			for _, network := range []string{"tcp", "udp"} {
				if err := netns.Do(w.pod, func() error { return exchange(network, at(a.server, 9), 10) }); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("%s to a closed port: %v", network, err)
				}
			}
		})
		t.Run("path MTU "+a.family, func(t *testing.T) {
			inside(t, w.pod, "ip", "route", "flush", "cache")
			inside(t, w.pod, "ip", "-6", "route", "flush", "cache")
			if mtu := pathMTU(t, w.pod, at(a.server, 7000)); mtu != outsideMTU {
				t.Errorf("the pod has learnt MTU %d, want %d", mtu, outsideMTU)
			}
		})
		t.Run("from outside "+a.family, func(t *testing.T) {
			// A socket that takes what anybody sends asks one server, and another calls.
			var socket net.PacketConn
			if err := netns.Do(w.pod, func() (err error) { socket, err = net.ListenPacket("udp", at(a.pod, 40002)); return err }); err != nil {
				t.Fatal(err)
			}
			defer socket.Close()
			_ = socket.SetDeadline(time.Now().Add(20 * time.Second))
			ask := func() string {
				if _, err := socket.WriteTo([]byte("who am I?"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at(a.server, 7000)))); err != nil {
					t.Fatal(err)
				}
				b := make([]byte, 100)
				n, from, err := socket.ReadFrom(b)
				if err != nil || from.String() != at(a.server, 7000) {
					t.Fatalf("from %v: %q, %v", from, b[:n], err)
				}
				mapped, _, _ := strings.Cut(string(b[:n]), "\n")
				return mapped
			}
			mapped := ask()
			if err := netns.Do(w.server, func() error { return exchange("udp", mapped, 10) }); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("a datagram to %s: %v, want the node's refusal", mapped, err)
			}
			if again := ask(); again != mapped {
				t.Errorf("the pod is seen as %s and then as %s", mapped, again)
			}
			if _, err := dial(t, w.server, "tcp", "", mapped); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("a call to %s: %v, want the node's refusal", mapped, err)
			}
			serve(t, w.node, at(a.node, 7000)) // what the node listens at is reached as before
			c, err := dial(t, w.server, "udp", "", at(a.node, 7000))
			if err != nil {
				t.Fatal(err)
			}
			if from := seen(t, c, 10); from.Addr() != netip.MustParseAddr(a.server) {
				t.Errorf("the node sees %s, want %s", from, a.server)
			}
		})
	}
	// All that were opened are accounted for when they end.
	w.r.f.Flows().Range(0, w.r.f.Flows().Capacity()+1, func(ref flowtable.Ref, _ *flowtable.Session) bool {
		w.r.f.EndSession(ref)
		return true
	})
	for c := range nat.NumClasses {
		if n := w.r.used(c); n != 0 {
			t.Errorf("%d %s ports are in use after the last session", n, c)
		}
	}
}

// transferred sends size bytes to an echo and gets them back. It returns their sum and
// as whom the server sees the sender.
func transferred(t *testing.T, c net.Conn, size int) (sum [32]byte, from netip.AddrPort) {
	t.Helper()
	go func() {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(i * 7 >> 3)
		}
		_, _ = c.Write(b)
	}()
	var line []byte
	for one := make([]byte, 1); ; line = append(line, one[0]) {
		if _, err := io.ReadFull(c, one); err != nil {
			t.Fatal(err)
		}
		if one[0] == '\n' {
			break
		}
	}
	from, err := netip.ParseAddrPort(string(line))
	if err != nil {
		t.Fatal(err)
	}
	h, want := sha256.New(), sha256.New()
	if _, err := io.CopyN(h, c, int64(size)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i * 7 >> 3)
	}
	want.Write(b)
	if sum = [32]byte(h.Sum(nil)); sum != [32]byte(want.Sum(nil)) {
		t.Error("what came back is not what was sent")
	}
	return sum, from
}
