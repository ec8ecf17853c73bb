package underlay

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// known holds that a host on the link is in the view with a MAC address.
func known(a netip.Addr, mac [6]byte) func(*View) bool {
	return func(v *View) bool { return v.Neighbors[a] == mac }
}

// unknown holds that it is not in the view.
func unknown(a netip.Addr) func(*View) bool {
	return func(v *View) bool { _, there := v.Neighbors[a]; return v.Link.Up && !there }
}

// TestNeighborsOnTheLink follows hosts that are no peers: asked for by us or talked to by
// the kernel, with another MAC address, gone. What is not on the link is not asked for.
func TestNeighborsOnTheLink(t *testing.T) {
	l := newLab(t)
	w := l.start()
	l.eventually("the link", func(v *View) bool { return len(v.Exits) == 4 })
	l.eventually("nobody", unknown(near))
	l.ip("node", "route add 192.0.2.64/29 via 192.0.2.1")
	// Neither a host behind the router, nor a broadcast, nor the node itself is a neighbor.
	w.Ask([]netip.Addr{far, far6, netip.MustParseAddr("192.0.2.255"), netip.MustParseAddr("192.0.2.65"), netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("fe80::1"), netip.MustParseAddr("ff02::1"), near, near6})
	l.eventually("near", known(near, l.mac("near")))
	l.eventually("near by IPv6", known(near6, l.mac("near")))
	for _, a := range []string{"198.51.100.2", "2001:db8:1::2", "192.0.2.255", "192.0.2.65", "192.0.2.10", "fe80::1"} {
		if shown := l.ip("node", "neigh show nud all dev eth0 to "+a); shown != "" {
			t.Errorf("the kernel was made to ask for %s: %s", a, shown)
		}
	}
	l.mu.Lock()
	for a := range l.view.Neighbors {
		if a != near && a != near6 && a != netip.MustParseAddr("192.0.2.1") && a != netip.MustParseAddr("2001:db8::1") {
			t.Errorf("a neighbor that is none: %s", a)
		}
	}
	l.mu.Unlock()

	l.ip("node", "neigh replace 192.0.2.30 lladdr 02:00:00:00:00:30 dev eth0 nud stale") // as an ARP request leaves it
	l.eventually("one that the kernel has heard of", known(netip.MustParseAddr("192.0.2.30"), [6]byte{2, 0, 0, 0, 0, 0x30}))
	l.ip("node", "neigh replace 192.0.2.31 lladdr 02:00:00:00:00:31 dev eth0 nud noarp")
	l.ip("node", "neigh replace 192.0.2.32 lladdr 03:00:00:00:00:32 dev eth0 nud permanent")
	l.ip("node", "neigh replace 198.51.100.9 lladdr 02:00:00:00:00:33 dev eth0 nud permanent") // not in a prefix of the link
	l.ip("node", "neigh replace 192.0.2.34 lladdr 02:00:00:00:00:34 dev eth0 nud permanent")
	l.eventually("the administrator's own", known(netip.MustParseAddr("192.0.2.34"), [6]byte{2, 0, 0, 0, 0, 0x34}))
	for _, a := range []string{"192.0.2.31", "192.0.2.32", "198.51.100.9"} {
		l.eventually("without "+a, unknown(netip.MustParseAddr(a)))
	}

	l.ip("near", "link set eth0 address 02:00:00:00:00:77")
	for _, node := range []string{"192.0.2.10", "2001:db8::10"} {
		l.ip("near", "neigh flush dev eth0")
		_ = exec.Command("ip", "netns", "exec", l.names["near"], "ping", "-c1", "-W1", node).Run() // its ARP request or solicitation is what counts
	}
	l.eventually("the new address", known(near, [6]byte{2, 0, 0, 0, 0, 0x77}))
	l.eventually("the new address by IPv6", known(near6, [6]byte{2, 0, 0, 0, 0, 0x77}))
	l.ip("node", "neigh del 192.0.2.20 dev eth0")
	l.eventually("forgotten", unknown(near))
	w.Ask([]netip.Addr{near})
	l.eventually("asked for again", known(near, [6]byte{2, 0, 0, 0, 0, 0x77}))
	l.ip("switch", "link set node down")
	l.eventually("no link", func(v *View) bool { return !v.Link.Up && len(v.Neighbors) == 0 })
}

// TestNeighborIsLookedAfter holds that a host that flows go to is asked again whether it
// is there, though the kernel sends nothing to it: it takes another MAC address without a
// word, and then leaves.
func TestNeighborIsLookedAfter(t *testing.T) {
	l := newLab(t)
	l.run("node", "sysctl", "-qw", "net.ipv4.neigh.eth0.base_reachable_time_ms=500", "net.ipv4.neigh.eth0.delay_first_probe_time=1")
	l.ip("near", "link set eth0 arp off") // it does not answer
	l.ip("node", "neigh replace 192.0.2.20 lladdr 02:00:00:00:00:66 dev eth0 nud stale")
	w := l.start()
	l.eventually("what the kernel believes", known(near, [6]byte{2, 0, 0, 0, 0, 0x66}))
	w.Ask([]netip.Addr{near})
	l.eventually("that it is not so", unknown(near))
	l.eventually("its entry gone", func(*View) bool { return l.ip("node", "neigh show 192.0.2.20") == "" })
	l.ip("near", "link set eth0 arp on")
	w.Ask([]netip.Addr{near})
	l.eventually("found", known(near, l.mac("near")))
	l.ip("near", "link set eth0 arp off")
	l.ip("node", "neigh replace 192.0.2.20 lladdr 02:00:00:00:00:67 dev eth0 nud stale") // nothing of the kernel's uses it
	l.eventually("what the kernel believes now", known(near, [6]byte{2, 0, 0, 0, 0, 0x67}))
	l.eventually("gone, seen by itself", unknown(near))
}

// TestAskingIsBounded asks for more hosts than may be asked for at once, of which none
// answers: the kernel's table has no more entries than that, and none in the end, and a
// host that is there is found afterwards.
func TestAskingIsBounded(t *testing.T) {
	l := newLab(t)
	w := l.start()
	l.eventually("the link", func(v *View) bool { return len(v.Exits) == 4 })
	var list []netip.Addr
	a := netip.MustParseAddr("2001:db8::1:1")
	for range 2 * maxAsked {
		list = append(list, a)
		a = a.Next()
	}
	w.Ask(list)
	entries := func() int { return strings.Count(l.ip("node", "-6 neigh show nud all"), "2001:db8::1:") }
	l.eventually("as many as may be", func(*View) bool { return entries() == maxOpen })
	l.eventually("none", func(*View) bool { return entries() == 0 })
	there := known(near6, l.mac("near"))
	l.eventually("one that is there", func(v *View) bool {
		w.Ask([]netip.Addr{near6}) // again and again, as packets do: the watcher may still have to hear that there is room
		return there(v)
	})
}

// TestLatestNeighborsStay holds the bound of the list of hosts on the link.
func TestLatestNeighborsStay(t *testing.T) {
	s := &space{entries: map[netip.Addr]entry{}, found: routes{exits: []Exit{{Prefix: netip.MustParsePrefix("2001:db8::/64")}}}}
	a := netip.MustParseAddr("2001:db8::1:1")
	var first netip.Addr
	for i := range MaxNeighbors + 10 {
		if i == 9 {
			first = a
		}
		s.note(a, &netlink.Neigh{IP: a.AsSlice(), State: netlink.NUD_STALE, HardwareAddr: []byte{2, 0, 0, 0, byte(i >> 8), byte(i)}})
		a = a.Next()
	}
	list := s.onLink()
	if _, kept := list[first]; len(list) != MaxNeighbors || kept {
		t.Errorf("%d hosts, the tenth among them: %v", len(list), kept)
	}
	if _, kept := list[first.Next()]; !kept {
		t.Error("the eleventh is not among them")
	}
}

func (l *lab) run(role string, command ...string) {
	l.t.Helper()
	if out, err := exec.Command("ip", append([]string{"netns", "exec", l.names[role]}, command...)...).CombinedOutput(); err != nil {
		l.t.Fatalf("%v: %v\n%s", command, err, out)
	}
}
