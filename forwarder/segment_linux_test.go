//go:build linux

package forwarder

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/afpacket"
	"github.com/vrouter-go/vrouter/internal/port/tap"
	"github.com/vrouter-go/vrouter/nexthop"
)

// Two nodes and a host whose kernel speaks VXLAN, on one wire of veths and a bridge,
// all in namespaces. Each node has one pod behind a TAP, the host stands in the pods'
// network by itself:
//
//	web-1 ─ node 0 ═╗         ╔═ node 1 ─ web-2
//	                ╠═ wire ══╣
//	                ╚═ kernel: vx0, 10.244.0.99
const (
	kernelUnderlay            = "192.0.2.30"
	kernelV4, kernelV6        = "10.244.0.99", "fd00:244::99"
	kernelPeer         uint32 = 1
	kernelTunnel       uint16 = 20 // place in Tunnels
	fileSize                  = 4 << 20
	group4, group6            = "239.1.2.3", "ff05::1:3"
	groupPort                 = 5000
	patient                   = 10 * time.Second
)

// wire is the namespaces and the nodes that stand on it.
type wire struct {
	t      *testing.T
	nodes  [2]*rig
	pods   [2]string // namespaces
	kernel string
}

func newWire(t *testing.T) *wire {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIP-PRIVILEGED: TAP devices, packet sockets and namespaces need root")
	}
	w := &wire{t: t}
	between := space(t, "wire")
	inside(t, between, "ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
	inside(t, between, "ip", "link", "set", "br0", "up")
	plug := func(i int, name, mac string, addresses ...string) string {
		ns := space(t, name)
		end := fmt.Sprintf("end%d", i)
		inside(t, between, "ip", "link", "add", end, "type", "veth", "peer", "name", "up0", "address", mac, "netns", ns[strings.LastIndexByte(ns, '/')+1:])
		inside(t, between, "ip", "link", "set", end, "master", "br0", "up")
		inside(t, ns, "ip", "link", "set", "up0", "up")
		for _, a := range addresses {
			inside(t, ns, "ip", "addr", "add", a, "dev", "up0", "nodad")
		}
		return ns
	}
	for n := range w.nodes {
		m := uplinkMAC(n)
		ns := plug(n, fmt.Sprintf("node%d", n), net.HardwareAddr(m[:]).String(), nodeOf[4][n]+"/24", nodeOf[6][n]+"/64")
		w.node(n, ns)
	}
	w.kernel = plug(2, "kernel", "02:00:00:01:00:1e", kernelUnderlay+"/24")
	k := kernelMAC
	inside(t, w.kernel, "ip", "link", "add", "vx0", "address", net.HardwareAddr(k[:]).String(), "mtu", "1400",
		"type", "vxlan", "id", fmt.Sprint(firstVNI+uint32(podsVRF)), "local", kernelUnderlay, "dstport", "4789", "dev", "up0")
	for n := range w.nodes { // all that it is told: where to flood
		inside(t, w.kernel, "bridge", "fdb", "append", "00:00:00:00:00:00", "dev", "vx0", "dst", nodeOf[4][n])
	}
	inside(t, w.kernel, "ip", "link", "set", "vx0", "up")
	inside(t, w.kernel, "ip", "addr", "add", kernelV4+"/24", "dev", "vx0")
	inside(t, w.kernel, "ip", "addr", "add", kernelV6+"/64", "dev", "vx0", "nodad")
	return w
}

// space makes a namespace that lives as long as the test.
func space(t *testing.T, suffix string) string {
	t.Helper()
	name := netns.Name("vrl2", suffix)
	ns, err := netns.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(name); err != nil {
			t.Error(err)
		}
	})
	return ns
}

// node starts a node with its pod.
func (w *wire) node(n int, ns string) {
	t := w.t
	s := segmentState(n, way{VXLAN, 4})
	s.tunnels = append(s.tunnels, make([]Tunnel, int(kernelTunnel)+1-len(s.tunnels))...)
	s.tunnels[kernelTunnel] = Tunnel{Peer: kernelPeer, Encapsulation: VXLAN, Identifier: firstVNI + uint32(podsVRF), InnerMAC: kernelMAC, Used: true}
	s.peers = append(s.peers, Peer{
		Name: "kernel", Address: addr(kernelUnderlay), Local: addr(nodeOf[4][n]), Neighbor: [6]byte{2, 0, 0, 1, 0, 0x1e}, Resolved: true, MTU: underlayMTU,
	})
	delete(s.bridges[podsVRF].MACs, kernelMAC)
	r := newRigOf(t, 1, s)
	w.nodes[n] = r
	up, err := afpacket.Open(afpacket.Spec{Device: "up0", Netns: ns})
	if err != nil {
		t.Fatal(err)
	}
	index := web1Port + uint16(n)
	w.pods[n] = space(t, fmt.Sprintf("pod%d", n))
	m := mac(byte(index))
	pod, err := tap.Create(tap.Spec{
		Name: fmt.Sprintf("vrl2-%d-%d", os.Getpid(), n), Netns: w.pods[n], GuestName: "eth0", MAC: m[:], Up: true, MTU: 1400,
		Addresses: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.244.0.1%d/24", n+1)), netip.MustParsePrefix(fmt.Sprintf("fd00:244::1%d/64", n+1))},
		GatewayV4: netip.MustParseAddr("10.244.0.1"), GatewayV6: netip.MustParseAddr("fd00:244::1"),
	})
	if err != nil {
		t.Fatal(err)
	}
	devices := map[uint16]port.Device{uplinkPort: up, index: pod}
	for i, d := range devices {
		if err := r.f.Detach(i).Close(); err != nil {
			t.Fatal(err)
		}
		delete(r.ports, i)
		if err := r.f.Attach(i, d); err != nil {
			t.Fatal(err)
		}
	}
	stop := r.running()
	t.Cleanup(func() {
		stop()
		for i, d := range devices {
			r.f.Detach(i)
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
		if n := r.f.Panics(); n != 0 {
			t.Errorf("%d panics", n)
		}
	})
}

// both changes what both nodes are told.
func (w *wire) both(change func(s *state)) {
	for _, r := range w.nodes {
		change(r.state)
		r.publish()
	}
}

// drops lists what both nodes dropped.
func (w *wire) drops() string { return fmt.Sprint(w.nodes[0].allDrops(), w.nodes[1].allDrops()) }

// talk pings and sends a file both ways between two namespaces, the pings by ttl.
func (w *wire) talk(from, to, toV4, toV6, fromV4, fromV6 string, ttl int) {
	w.t.Helper()
	for _, a := range [][2]string{{toV4, fromV4}, {toV6, fromV6}} {
		for _, d := range [][2]string{{from, a[0]}, {to, a[1]}} {
			out := inside(w.t, d[0], "ping", "-n", "-c", "2", "-i", "0.2", "-W", "5", d[1])
			if !strings.Contains(out, fmt.Sprintf("ttl=%d ", ttl)) {
				w.t.Errorf("%s: want TTL %d\n%s", d[1], ttl, out)
			}
		}
		w.transfer(from, to, a[0])
		w.transfer(to, from, a[1])
	}
	if w.t.Failed() {
		w.t.Fatalf("drops %s", w.drops())
	}
}

// transfer sends random bytes by TCP and compares what arrived.
func (w *wire) transfer(from, to, address string) {
	w.t.Helper()
	var l net.Listener
	err := netns.Do(to, func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(address, "0"))
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	defer l.Close()
	got := make(chan [sha256.Size]byte, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			close(got)
			return
		}
		defer c.Close()
		h := sha256.New()
		_, _ = io.Copy(h, c)
		got <- [sha256.Size]byte(h.Sum(nil))
	}()
	data := make([]byte, fileSize)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(data)
	err = netns.Do(from, func() error {
		c, err := net.DialTimeout("tcp", l.Addr().String(), patient)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(2 * patient))
		_, err = io.Copy(c, bytes.NewReader(data))
		return err
	})
	if err != nil {
		w.t.Fatalf("to %s: %v; drops %s", address, err, w.drops())
	}
	if sum := <-got; sum != sha256.Sum256(data) {
		w.t.Errorf("to %s: other bytes arrived", address)
	}
}

// The kernel's VXLAN device, which knows nothing but where to flood, finds the pods by
// ARP and neighbour discovery and talks with them: routed where the network does not
// bridge, and where it does and the control plane names no MAC address of the kernel's;
// bridged where it names one.
func TestKernelVXLANFindsPods(t *testing.T) {
	w := newWire(t)
	talk := func(ttl int) {
		t.Helper()
		for n := range w.pods {
			w.talk(w.kernel, w.pods[n], fmt.Sprintf("10.244.0.1%d", n+1), fmt.Sprintf("fd00:244::1%d", n+1), kernelV4, kernelV6, ttl)
		}
	}
	forget := func() {
		inside(t, w.kernel, "ip", "neigh", "flush", "dev", "vx0")
		for _, ns := range w.pods {
			inside(t, ns, "ip", "neigh", "flush", "dev", "eth0")
		}
	}
	to := nexthop.Route{NextHop: tunnelID + nexthop.ID(kernelTunnel), Network: podsNet}
	routes := func(s *state, add bool) {
		for _, p := range []string{kernelV4 + "/32", kernelV6 + "/128"} {
			if delete(s.vrfs[podsVRF], netip.MustParsePrefix(p)); add {
				s.vrfs[podsVRF][netip.MustParsePrefix(p)] = to
			}
		}
	}
	bridges := [2]map[uint16]*Bridge{w.nodes[0].state.bridges, w.nodes[1].state.bridges}
	bridged := func(bridging, named bool) {
		for n, r := range w.nodes {
			r.state.bridges = nil
			if !bridging {
				continue
			}
			was := bridges[n][podsVRF]
			b := &Bridge{MACs: map[[6]byte]nexthop.ID{}, Flood: append([]nexthop.ID{to.NextHop}, was.Flood...)}
			for m, id := range was.MACs {
				b.MACs[m] = id
			}
			if named {
				b.MACs[kernelMAC] = to.NextHop
			}
			r.state.bridges = map[uint16]*Bridge{podsVRF: b}
		}
	}
	for _, c := range []struct {
		name                    string
		bridging, named, routed bool
		ttl                     int
	}{
		{"routed", false, false, true, 63},
		{"bridging, a MAC address that is not known", true, false, true, 63},
		{"bridged, an address that is not known", true, true, false, 64},
		{"bridged, and a route", true, true, true, 64},
	} {
		t.Log(c.name)
		bridged(c.bridging, c.named)
		w.both(func(s *state) { routes(s, c.routed) })
		forget()
		talk(c.ttl)
	}
}

// Pods on two nodes and the kernel hear each other's multicast, by real sockets, and
// pods whose MAC addresses the control plane names talk as on one segment.
func TestMulticastBetweenNodes(t *testing.T) {
	w := newWire(t)
	for n, r := range w.nodes {
		b := r.state.bridges[podsVRF]
		b.Flood = append(b.Flood, tunnelID+nexthop.ID(kernelTunnel))
		other := [2]uint16{web2Port, web1Port}[n]
		r.state.tunnels[other].InnerMAC = mac(byte(other))
		r.publish()
	}
	w.talk(w.pods[0], w.pods[1], "10.244.0.12", "fd00:244::12", "10.244.0.11", "fd00:244::11", 64)
	hosts := map[string]string{w.pods[0]: "eth0", w.pods[1]: "eth0", w.kernel: "vx0"}
	for _, g := range []string{group4, group6} {
		heard := map[string]*net.UDPConn{}
		for ns, device := range hosts {
			err := netns.Do(ns, func() error {
				itf, err := net.InterfaceByName(device)
				if err != nil {
					return err
				}
				heard[ns], err = net.ListenMulticastUDP("udp", itf, &net.UDPAddr{IP: net.ParseIP(g), Port: groupPort})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			defer heard[ns].Close()
		}
		inside(t, w.kernel, "ip", "route", "replace", "239.0.0.0/8", "dev", "vx0")
		inside(t, w.kernel, "ip", "-6", "route", "replace", "multicast", group6+"/128", "dev", "vx0", "table", "local")
		for sender, device := range hosts {
			text := fmt.Sprintf("%s from %s", g, sender)
			err := netns.Do(sender, func() error {
				to := net.JoinHostPort(g, fmt.Sprint(groupPort))
				if g == group6 {
					to = net.JoinHostPort(g+"%"+device, fmt.Sprint(groupPort))
				}
				c, err := net.Dial("udp", to)
				if err != nil {
					return err
				}
				defer c.Close()
				_, err = c.Write([]byte(text))
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			for ns, c := range heard { // its own, too: the kernel loops it back
				_ = c.SetReadDeadline(time.Now().Add(patient))
				b := make([]byte, 200)
				n, err := c.Read(b)
				if err != nil || string(b[:n]) != text {
					t.Errorf("%s heard %q: %v; want %q; drops %s", ns, b[:n], err, text, w.drops())
				}
			}
		}
		for ns, c := range heard { // once each
			_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			b := make([]byte, 200)
			if n, err := c.Read(b); err == nil {
				t.Errorf("%s heard %q again", ns, b[:n])
			}
		}
	}
}
