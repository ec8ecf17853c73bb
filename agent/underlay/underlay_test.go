package underlay

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vrouter-go/vrouter/internal/netns"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const prefix = "vrtunder"

// lab is a node, two peers on its link, and one behind a router on that link, each in
// a namespace of its own, with the kernel's own stack everywhere.
type lab struct {
	t     *testing.T
	names map[string]string // namespace by role

	mu   sync.Mutex
	view View
	news int
}

var (
	near  = netip.MustParseAddr("192.0.2.20")
	near6 = netip.MustParseAddr("2001:db8::20")
	far   = netip.MustParseAddr("198.51.100.2")
	far6  = netip.MustParseAddr("2001:db8:1::2")
	dead  = netip.MustParseAddr("192.0.2.99")
)

func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIP-PRIVILEGED: makes network namespaces")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("SKIP-TOOL: ip (iproute2) is not installed")
	}
	if _, err := netns.Cleanup(prefix); err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, names: map[string]string{}}
	for _, role := range []string{"switch", "node", "near", "router", "far"} {
		name := netns.Name(prefix, role)
		if _, err := netns.Create(name); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := netns.Delete(name); err != nil {
				t.Error(err)
			}
		})
		l.names[role] = name
	}
	l.ip("switch", "link add br0 type bridge")
	l.ip("switch", "link set br0 up")
	for _, role := range []string{"node", "near", "router"} {
		l.ip("switch", "link add "+role+" mtu 1500 type veth peer name eth0 netns "+l.names[role])
		l.ip("switch", "link set "+role+" master br0 up")
	}
	l.ip("router", "link add eth1 type veth peer name eth0 netns "+l.names["far"])
	l.up("node", "eth0", "192.0.2.10/24", "2001:db8::10/64")
	l.up("near", "eth0", "192.0.2.20/24", "2001:db8::20/64")
	l.up("router", "eth0", "192.0.2.1/24", "2001:db8::1/64")
	l.up("router", "eth1", "198.51.100.1/24", "2001:db8:1::1/64")
	l.up("far", "eth0", "198.51.100.2/24", "2001:db8:1::2/64")
	l.ip("node", "route add default via 192.0.2.1")
	l.ip("node", "-6 route add default via 2001:db8::1")
	return l
}

func (l *lab) up(role, device string, addresses ...string) {
	l.ip(role, "link set "+device+" up")
	for _, a := range addresses {
		flags := ""
		if strings.Contains(a, ":") {
			flags = " nodad"
		}
		l.ip(role, "addr add "+a+" dev "+device+flags)
	}
}

func (l *lab) ip(role, args string) string {
	l.t.Helper()
	out, err := exec.Command("ip", append([]string{"-n", l.names[role]}, strings.Fields(args)...)...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("ip -n %s %s: %v\n%s", role, args, err, out)
	}
	return string(out)
}

// mac is the address that a namespace's kernel says it has.
func (l *lab) mac(role string) [6]byte {
	l.t.Helper()
	fields := strings.Fields(l.ip(role, "-o link show eth0"))
	mac, err := net.ParseMAC(fields[slices.Index(fields, "link/ether")+1])
	if err != nil {
		l.t.Fatal(err)
	}
	return [6]byte(mac)
}

// start watches the node's uplink.
func (l *lab) start(peers ...netip.Addr) *Watcher {
	l.t.Helper()
	w := New(slog.New(slog.DiscardHandler))
	w.Set(Target{Device: "eth0", Netns: l.names["node"], Peers: peers})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.Run(ctx, func(v View) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.view, l.news = v, l.news+1
		}); err != nil {
			l.t.Error(err)
		}
	})
	l.t.Cleanup(func() { cancel(); wg.Wait() })
	return w
}

func (l *lab) eventually(what string, holds func(*View) bool) {
	l.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		l.mu.Lock()
		v := l.view
		l.mu.Unlock()
		if holds(&v) {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("did not come to pass: %s\nlast view: %+v\n%s", what, v, l.ip("node", "neigh show"))
		}
	}
}

func (l *lab) resolved(peer netip.Addr, mac [6]byte) func(*View) bool {
	return func(v *View) bool { return v.Paths[peer].State == Resolved && v.Paths[peer].MAC == mac }
}

// TestPaths follows the ways to peers on the link and behind a router, of both
// families, and a peer that nobody is.
func TestPaths(t *testing.T) {
	l := newLab(t)
	l.start(near, near6, far, far6, dead)
	l.eventually("near", l.resolved(near, l.mac("near")))
	l.eventually("near by IPv6", l.resolved(near6, l.mac("near")))
	l.eventually("far, by the router", l.resolved(far, l.mac("router")))
	l.eventually("far by IPv6, by the router", l.resolved(far6, l.mac("router")))
	l.eventually("nobody", func(v *View) bool { return v.Paths[dead].State == Failed })
	l.eventually("link and exits", func(v *View) bool {
		return v.Link.MTU == 1500 && v.Link.Up && v.Link.MAC == l.mac("node") && v.Problem == "" &&
			slices.Equal(v.Addresses, []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")}) &&
			len(v.Exits) == 4 && v.Exits[0].Prefix.String() == "0.0.0.0/0" && v.Exits[0].MAC == l.mac("router") && v.Exits[2].Prefix.String() == "::/0" &&
			v.Exits[1] == Exit{Prefix: netip.MustParsePrefix("192.0.2.0/24")} && v.Exits[3] == Exit{Prefix: netip.MustParsePrefix("2001:db8::/64")}
	})
	if shown := l.ip("node", "neigh show 192.0.2.20"); !strings.Contains(shown, "managed") {
		t.Logf("kernel without NTF_EXT_MANAGED, or an old ip: %s", shown)
	}
}

// TestNeighborChanges gives a peer another MAC address: the kernel learns it from the
// peer's next packet, and so do we.
func TestNeighborChanges(t *testing.T) {
	l := newLab(t)
	l.start(near, near6)
	l.eventually("near", l.resolved(near, l.mac("near")))
	l.eventually("near by IPv6", l.resolved(near6, l.mac("near")))
	l.ip("near", "link set eth0 address 02:00:00:00:00:77")
	for _, node := range []string{"192.0.2.10", "2001:db8::10"} {
		l.ip("near", "neigh flush dev eth0")
		_ = exec.Command("ip", "netns", "exec", l.names["near"], "ping", "-c1", "-W1", node).Run() // its ARP request or solicitation is what counts
	}
	l.eventually("the new address", l.resolved(near, [6]byte{2, 0, 0, 0, 0, 0x77}))
	l.eventually("the new address by IPv6", l.resolved(near6, [6]byte{2, 0, 0, 0, 0, 0x77}))
}

// TestRoutesChange moves a peer from one gateway to another, then off the uplink.
func TestRoutesChange(t *testing.T) {
	l := newLab(t)
	w := l.start(far)
	l.eventually("by the router", l.resolved(far, l.mac("router")))
	l.ip("node", "route add 198.51.100.0/24 via 192.0.2.20 mtu 1400")
	l.eventually("by the other peer, with the route's MTU", func(v *View) bool {
		return l.resolved(far, l.mac("near"))(v) && v.Paths[far].MTU == 1400 && v.Paths[far].NextHop == near
	})
	l.ip("node", "link add other type veth peer name another")
	l.up("node", "another")
	l.up("node", "other", "203.0.113.1/24")
	l.ip("node", "route replace 198.51.100.0/24 dev other")
	l.eventually("off the uplink", func(v *View) bool { return v.Paths[far].State == NoRoute })
	w.Set(Target{Device: "eth0", Netns: l.names["node"], Peers: []netip.Addr{near}})
	l.eventually("another peer", func(v *View) bool { _, old := v.Paths[far]; return !old && l.resolved(near, l.mac("near"))(v) })
}

// TestLinkChanges takes the uplink down and up, changes its MTU, and deletes it and
// makes it again.
func TestLinkChanges(t *testing.T) {
	l := newLab(t)
	l.start(near)
	l.eventually("near", l.resolved(near, l.mac("near")))
	l.ip("switch", "link set node down") // the carrier goes
	l.eventually("down", func(v *View) bool { return !v.Link.Up && v.Paths[near].State == NoRoute })
	l.ip("switch", "link set node up")
	l.eventually("up again", func(v *View) bool { return v.Link.Up && l.resolved(near, l.mac("near"))(v) })
	l.ip("node", "link set eth0 mtu 1400")
	l.eventually("the MTU", func(v *View) bool { return v.Link.MTU == 1400 && v.Paths[near].MTU == 1400 })

	var index int
	l.eventually("an index", func(v *View) bool { index = v.Link.Index; return true })
	l.ip("switch", "link del node")
	l.eventually("gone", func(v *View) bool { return v.Link.Index == 0 && v.Paths[near].State == NoRoute && v.Problem != "" })
	l.ip("switch", "link add node type veth peer name eth0 netns "+l.names["node"])
	l.ip("switch", "link set node master br0 up")
	l.up("node", "eth0", "192.0.2.10/24")
	l.eventually("back, as another link", func(v *View) bool {
		return v.Link.Index != 0 && v.Link.Index != index && l.resolved(near, l.mac("near"))(v)
	})
}

// TestNamespaceComesBack deletes the uplink's namespace and makes it again.
func TestNamespaceComesBack(t *testing.T) {
	l := newLab(t)
	l.start(near)
	l.eventually("near", l.resolved(near, l.mac("near")))
	if err := netns.Delete(l.names["node"]); err != nil {
		t.Fatal(err)
	}
	l.eventually("gone", func(v *View) bool { return v.Paths[near].State == NoRoute && v.Problem != "" })
	if _, err := netns.Create(l.names["node"]); err != nil {
		t.Fatal(err)
	}
	// The switch's end went with the namespace's, or goes once nobody holds it.
	_ = exec.Command("ip", "-n", l.names["switch"], "link", "del", "node").Run()
	l.ip("switch", "link add node type veth peer name eth0 netns "+l.names["node"])
	l.ip("switch", "link set node master br0 up")
	l.up("node", "eth0", "192.0.2.10/24")
	l.eventually("near again", l.resolved(near, l.mac("near")))
}

// TestLetGo holds that neighbors are the kernel's own again after the end.
func TestLetGo(t *testing.T) {
	l := newLab(t)
	w := l.start(near)
	l.eventually("near", l.resolved(near, l.mac("near")))
	w.Set(Target{})
	l.eventually("nothing", func(v *View) bool { return v.Link.Index == 0 && len(v.Paths) == 0 })
	if shown := l.ip("node", "neigh show 192.0.2.20"); strings.Contains(shown, "managed") {
		t.Errorf("still managed: %s", shown)
	}
}
