//go:build linux

package tap_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/internal/port/tap"
)

// link, addrs and routes are what `ip -j` tells.
type link struct {
	Ifname, Address, Ifalias string
	MTU                      int
	Txqlen                   int
	Flags                    []string
	Addrs                    []struct {
		Local     string
		Prefixlen int
		Scope     string
		Tentative bool
	} `json:"addr_info"`
}

func show(t *testing.T, ns, name string) link {
	t.Helper()
	return ipJSON[link](t, ns, "addr", "show", "dev", name)[0]
}

// globals returns the addresses that are not link-local, ready for use.
func (l link) globals(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, a := range l.Addrs {
		if a.Scope == "global" {
			if a.Tentative {
				t.Errorf("address %s is tentative", a.Local)
			}
			all = append(all, fmt.Sprintf("%s/%d", a.Local, a.Prefixlen))
		}
	}
	slices.Sort(all)
	return all
}

func routes(t *testing.T, ns string) []string {
	t.Helper()
	var all []string
	for _, family := range []string{"-4", "-6"} {
		for _, r := range ipJSON[struct{ Dst, Gateway, Dev, Protocol string }](t, ns, family, "route", "show") {
			if r.Protocol == "118" {
				all = append(all, strings.TrimSpace(r.Dst+" "+r.Gateway))
			}
		}
	}
	slices.Sort(all)
	return all
}

func prefixes(list ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range list {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

func podSpec(ns string) tap.Spec {
	return tap.Spec{
		Name: linkName("pod"), Netns: ns, GuestName: "eth0",
		MAC:       net.HardwareAddr{2, 0, 0, 0, 1, 1},
		Addresses: prefixes("10.244.0.11/24", "10.244.0.12/24", "fd00:244::11/64"),
		Routes: []tap.Route{
			{Dst: netip.MustParsePrefix("10.96.0.0/12"), Via: netip.MustParseAddr("10.244.0.1")},
			{Dst: netip.MustParsePrefix("192.0.2.0/24")},
			{Dst: netip.MustParsePrefix("198.51.100.0/24"), Via: netip.MustParseAddr("203.0.113.9"), Onlink: true},
			{Dst: netip.MustParsePrefix("2001:db8::/32")},
		},
		GatewayV4: netip.MustParseAddr("10.244.0.1"), GatewayV6: netip.MustParseAddr("fd00:244::1"),
		MTU: 1450, Queues: 2, TxQueueLen: 2000, Up: true,
	}
}

// What the kernel says about the guest's end is what the Spec says, also when it
// is applied again and when it changes.
func TestSpecIsWhatTheKernelShows(t *testing.T) {
	needRoot(t, "ip")
	ns := namespace(t, "a")
	s := podSpec(ns)
	d := create(t, s)
	check := func(step string, wantAddrs, wantRoutes []string) {
		t.Helper()
		l := show(t, ns, "eth0")
		if l.Address != s.MAC.String() || l.MTU != s.MTU || l.Txqlen != s.TxQueueLen ||
			l.Ifalias != "vrouter "+s.Name || !slices.Contains(l.Flags, "LOWER_UP") {
			t.Errorf("%s: link %+v", step, l)
		}
		if diff := cmp.Diff(wantAddrs, l.globals(t)); diff != "" {
			t.Errorf("%s: addresses:\n%s", step, diff)
		}
		if diff := cmp.Diff(wantRoutes, routes(t, ns)); diff != "" {
			t.Errorf("%s: routes:\n%s", step, diff)
		}
	}
	addrs := []string{"10.244.0.11/24", "10.244.0.12/24", "fd00:244::11/64"}
	all := []string{"10.96.0.0/12 10.244.0.1", "192.0.2.0/24", "198.51.100.0/24 203.0.113.9",
		"2001:db8::/32", "default 10.244.0.1", "default fd00:244::1"}
	check("created", addrs, all)
	for range 2 {
		if err := d.ApplyLink(s); err != nil {
			t.Fatal(err)
		}
		check("applied again", addrs, all)
	}
	// The first address is the primary of the second: removing it takes both.
	s.Addresses = prefixes("10.244.0.12/24", "fd00:244::12/64")
	s.Routes = s.Routes[1:2]
	s.GatewayV6 = netip.MustParseAddr("fd00:244::2")
	s.MAC, s.MTU, s.TxQueueLen = net.HardwareAddr{2, 0, 0, 0, 1, 2}, 9000, 8000
	if err := d.ApplyLink(s); err != nil {
		t.Fatal(err)
	}
	check("changed", []string{"10.244.0.12/24", "fd00:244::12/64"},
		[]string{"192.0.2.0/24", "default 10.244.0.1", "default fd00:244::2"})

	// What a user does by hand is undone, except routes of his own.
	mustRun(t, ns, "ip", "link", "set", "eth0", "down")
	mustRun(t, ns, "ip", "addr", "add", "10.1.1.1/24", "dev", "eth0")
	mustRun(t, ns, "ip", "link", "set", "eth0", "up")
	mustRun(t, ns, "ip", "route", "add", "10.7.0.0/16", "dev", "eth0")
	if err := d.ApplyLink(s); err != nil {
		t.Fatal(err)
	}
	check("repaired", []string{"10.244.0.12/24", "fd00:244::12/64"},
		[]string{"192.0.2.0/24", "default 10.244.0.1", "default fd00:244::2"})
	if out := mustRun(t, ns, "ip", "route", "show", "10.7.0.0/16"); out == "" {
		t.Error("a route of the user was removed")
	}
	s.Up = false
	if err := d.ApplyLink(s); err != nil {
		t.Fatal(err)
	}
	if l := show(t, ns, "eth0"); slices.Contains(l.Flags, "UP") {
		t.Errorf("flags %v; want down", l.Flags)
	}
}

// A pod with a host address reaches its gateway on the link.
func TestGatewayOutsideTheAddresses(t *testing.T) {
	needRoot(t, "ip")
	ns := namespace(t, "a")
	create(t, tap.Spec{
		Name: linkName("pod"), Netns: ns, Up: true, Addresses: prefixes("10.244.0.11/32", "fd00:244::11/128"),
		GatewayV4: netip.MustParseAddr("169.254.1.1"), GatewayV6: netip.MustParseAddr("fd00:ffff::1"),
	})
	if diff := cmp.Diff([]string{"default 169.254.1.1", "default fd00:ffff::1"}, routes(t, ns)); diff != "" {
		t.Error(diff)
	}
}

func TestIPv6IsQuietAndReadyAtOnce(t *testing.T) {
	needRoot(t)
	ns := namespace(t, "a")
	if err := netns.Do(ns, func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
	}); err != nil {
		t.Fatal(err)
	}
	create(t, guest(ns, 1))
	for file, want := range map[string]string{"accept_dad": "0", "router_solicitations": "0", "accept_ra": "0", "disable_ipv6": "0"} {
		if got := mustRun(t, ns, "cat", "/proc/sys/net/ipv6/conf/eth0/"+file); strings.TrimSpace(got) != want {
			t.Errorf("%s is %s; want %s", file, got, want)
		}
	}
	if got := show(t, ns, "eth0").globals(t); !slices.Contains(got, "fd00:9::1/64") {
		t.Errorf("addresses %v", got)
	}
}

// When Create returns, packets to every IPv6 address are delivered: the kernel
// has made the local routes, which it does in the background.
func TestIPv6AddressesAreDeliveredAtOnce(t *testing.T) {
	needRoot(t)
	ns := namespace(t, "a")
	for i := range 5 {
		s := tap.Spec{Name: linkName(fmt.Sprint(i)), Netns: ns, Up: true}
		for j := range 8 {
			s.Addresses = append(s.Addresses, netip.MustParsePrefix(fmt.Sprintf("fd00:9:%d::%d/64", i, j+1)))
		}
		create(t, s)
		if err := netns.Do(ns, func() error {
			for _, a := range s.Addresses {
				routes, err := netlink.RouteGet(a.Addr().AsSlice())
				if err != nil || routes[0].Type != unix.RTN_LOCAL {
					t.Errorf("%v: route %v, %v; want a local one", a, routes, err)
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// In the node's own namespace there are routes of others: never replace them.
func TestRoutesOfOthersAreNotReplaced(t *testing.T) {
	needRoot(t, "ip")
	ns := namespace(t, "a")
	mustRun(t, ns, "ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
	mustRun(t, ns, "ip", "addr", "add", "192.0.2.1/24", "dev", "up0")
	mustRun(t, ns, "ip", "link", "set", "up0", "up")
	mustRun(t, ns, "ip", "route", "add", "10.96.0.0/12", "via", "192.0.2.9")
	s := podSpec(ns)
	_, err := tap.Create(s)
	if err == nil || !strings.Contains(err.Error(), "10.96.0.0/12") {
		t.Errorf("Create: %v; want an error that names the route", err)
	}
	if out := mustRun(t, ns, "ip", "route", "show", "10.96.0.0/12"); !strings.Contains(out, "up0") {
		t.Errorf("route of another device is now %q", out)
	}
	if hasLink(t, ns, "eth0") {
		t.Error("the failed Create left its device")
	}
}

func TestApplyLinkSaysWhatCannotChange(t *testing.T) {
	needRoot(t)
	ns, other := namespace(t, "a"), namespace(t, "b")
	s := guest(ns, 1)
	d := create(t, s)
	for name, change := range map[string]func(*tap.Spec){
		"name":   func(s *tap.Spec) { s.Name = "vrt-else" },
		"netns":  func(s *tap.Spec) { s.Netns = other },
		"queues": func(s *tap.Spec) { s.Queues = 4 },
	} {
		changed := s
		change(&changed)
		if err := d.ApplyLink(changed); !errors.Is(err, tap.ErrRecreate) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v; want ErrRecreate", name, err)
		}
	}
	s.GuestName = "net1"
	if err := d.ApplyLink(s); err != nil {
		t.Fatal(err)
	}
	if got := show(t, ns, "net1").globals(t); len(got) != 2 {
		t.Errorf("renamed device has addresses %v", got)
	}
}

func TestSpecIsValidated(t *testing.T) {
	for want, change := range map[string]func(*tap.Spec){
		"name":         func(s *tap.Spec) { s.Name = "" },
		"name:":        func(s *tap.Spec) { s.Name = "a-name-too-long-for-linux" },
		"guestName":    func(s *tap.Spec) { s.GuestName = "a/b" },
		"guestName:":   func(s *tap.Spec) { s.GuestName = "eth%d" }, // the kernel would pick a number
		"mac":          func(s *tap.Spec) { s.MAC = net.HardwareAddr{1, 0, 0, 0, 0, 1} },
		"mtu":          func(s *tap.Spec) { s.MTU = 70000 },
		"IPv6":         func(s *tap.Spec) { s.MTU = 1000 },
		"queues":       func(s *tap.Spec) { s.Queues = 1000 },
		"txQueueLen":   func(s *tap.Spec) { s.TxQueueLen = -1 },
		"addresses[1]": func(s *tap.Spec) { s.Addresses[1] = netip.Prefix{} },
		"addresses[0]": func(s *tap.Spec) { s.Addresses[0] = netip.MustParsePrefix("224.0.0.1/32") },
		"routes[1]":    func(s *tap.Spec) { s.Routes[1].Dst = netip.MustParsePrefix("192.0.2.1/24") },
		"routes[0]":    func(s *tap.Spec) { s.Routes[0].Via = netip.MustParseAddr("fd00::1") },
		"gatewayV4":    func(s *tap.Spec) { s.GatewayV4 = s.GatewayV6 },
		"gatewayV6":    func(s *tap.Spec) { s.GatewayV6 = s.GatewayV4 },
	} {
		s := podSpec("/run/netns/none")
		change(&s)
		if _, err := tap.Create(s); err == nil || errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
