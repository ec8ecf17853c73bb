package bfd

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// ways are the kinds of session between the ends of the link, as left has them.
var ways = []struct {
	name, local, remote string
	multihop            bool
}{
	{"v4", "10.99.0.1", "10.99.0.2", false},
	{"v6", "fd99::1", "fd99::2", false},
	{"link-local", "fe80::1%left", "fe80::2%left", false},
	{"v4-multihop", "10.99.0.1", "10.99.0.2", true},
	{"v6-multihop", "fd99::1", "fd99::2", true},
}

// bothEnds are the peers of left and of right.
func bothEnds() (left, right []Peer) {
	for _, w := range ways {
		left = append(left, peerOf(w.name, w.local, w.remote, w.multihop))
		right = append(right, peerOf(w.name, strings.ReplaceAll(w.remote, "left", "right"), strings.ReplaceAll(w.local, "left", "right"), w.multihop))
	}
	return left, right
}

func TestTwoSpeakers(t *testing.T) {
	left, right := pair(t)
	ours, theirs := bothEnds()
	a, b := start(t, left, ours...), start(t, right, theirs...)
	a.wait("left up", isUp)
	b.wait("right up", isUp)
	for _, w := range ways {
		if c := a.waitTold(0, w.name, true); c.Diagnostic != NoDiagnostic || c.Orderly {
			t.Errorf("told %+v", c)
		}
	}
	// RFC 5881 §4: a source port of its own for each session, from 49152 to 65535
	ports := map[uint16]bool{}
	for _, s := range a.Status().Sessions {
		if ports[s.SourcePort] || s.SourcePort < 49152 {
			t.Errorf("source port %d of %s", s.SourcePort, s.Peer.Name)
		}
		ports[s.SourcePort] = true
	}
	// The same set again, in another order and with other intervals, keeps all sessions.
	before := a.Status().Sessions
	slices.Reverse(ours)
	for i := range ours {
		ours[i].TransmitInterval, ours[i].Multiplier = 200*ms, 25
	}
	a.set(ours...)
	b.wait("the new intervals", func(s SessionStatus) bool {
		return s.RemoteTransmit == 200*ms && s.RemoteMultiplier == 25 && s.DetectionTime == 5*time.Second
	})
	a.wait("confirmed", isUp)
	for i, s := range a.Status().Sessions {
		if s.Since != before[i].Since || s.Discriminator != before[i].Discriminator || s.SourcePort != before[i].SourcePort {
			t.Errorf("%+v\nbefore %+v", s, before[i])
		}
	}
	// One peer fewer: the others stay, and the other side sees an orderly end.
	from := b.tells()
	a.set(slices.DeleteFunc(slices.Clone(ours), func(p Peer) bool { return p.Name == "v4" })...)
	if c := b.waitTold(from, "v4", false); !c.Orderly || c.Diagnostic != NeighborDown {
		t.Errorf("told %+v", c)
	}
	a.wait("the others", isUp)
	if n := len(a.Status().Sessions); n != len(ways)-1 {
		t.Errorf("%d sessions", n)
	}
	// RFC 5880 §6.8.16: the end of a speaker is an orderly end of all its sessions
	from = b.tells()
	a.stop()
	for _, w := range ways[1:] {
		if c := b.waitTold(from, w.name, false); !c.Orderly || c.Diagnostic != NeighborDown {
			t.Errorf("told %+v", c)
		}
	}
	if err := a.Set(nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Set after the end: %v", err)
	}
}

func TestLinkDown(t *testing.T) {
	left, right := pair(t)
	ours, theirs := bothEnds()
	a, b := start(t, left, ours...), start(t, right, theirs...)
	a.wait("left up", isUp)
	b.wait("right up", isUp)
	command(t, "ip", "-n", right, "link", "set", "right", "down")
	for _, w := range ways {
		if c := a.waitTold(0, w.name, false); c.Diagnostic != TimeExpired || c.Orderly {
			t.Errorf("told %+v", c)
		}
	}
	until(t, "send errors", func() (string, bool) {
		return "", b.status("v6-multihop").SendErrors > 0 && b.status("v6-multihop").LastSendError != ""
	})
}

// talker is a peer made of bare sockets, whose packets the test writes.
type talker struct {
	*testing.T
	fd   int
	port int
}

func newTalker(t *testing.T, ns string, p Peer) *talker {
	k := &talker{T: t, port: portSingleHop}
	if p.Multihop {
		k.port = portMultihop
	}
	f := familyOf(p.Local.Is6())
	err := netns.Do(ns, func() (err error) {
		k.fd, err = open(f, sockaddr(p.Local, k.port, 0), [2]int{f.wantTTL, 1}, [2]int{f.wantInfo, 1})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(k.fd) })
	return k
}

// say sends a packet with a TTL.
func (k *talker) say(p Peer, out packet, ttl int) {
	k.Helper()
	f := familyOf(p.Local.Is6())
	if err := unix.SetsockoptInt(k.fd, f.level, f.ttl, ttl); err != nil {
		k.Fatal(err)
	}
	b := out.encode()
	if err := unix.Sendto(k.fd, b[:], 0, sockaddr(p.Remote, k.port, 0)); err != nil {
		k.Fatal(err)
	}
}

// RFC 5881 §5: packets leave with a TTL of 255, and those that arrive with less are discarded
// RFC 5082 §3: over several hops, those that arrive with less than the configured TTL are discarded
// RFC 5881 §4: packets go to port 3784
func TestTTL(t *testing.T) {
	left, right := pair(t)
	for _, w := range ways {
		if w.name == "link-local" {
			continue // TestTwoSpeakers
		}
		t.Run(w.name, func(t *testing.T) {
			ours, theirs := peerOf("peer", w.local, w.remote, w.multihop), peerOf("peer", w.remote, w.local, w.multihop)
			least := 255
			if w.multihop {
				ours.MinTTL, least = 200, 200
			}
			k := newTalker(t, right, theirs)
			a := start(t, left, ours)
			out := packet{state: Down, mult: 255, my: 99, minTx: time.Second, minRx: time.Second}
			k.say(theirs, out, least-1)
			until(t, "discarded", func() (string, bool) { return "", a.Status().Discarded["ttl"] == 1 })
			if s := a.status("peer"); s.State != Down || s.Received != 0 {
				t.Errorf("%+v", s)
			}
			k.say(theirs, out, least)
			a.wait("Init", func(s SessionStatus) bool { return s.State == Init && s.RemoteDiscriminator == 99 })
			l := &listener{entrance: theirs.entrance(), family: familyOf(theirs.Local.Is6())}
			seen := 0
			until(t, "packets", func() (string, bool) {
				l.drain(k.fd, 10, func(b []byte, a arrival) {
					if p, why := decode(b); why != discardNone || a.ttl != 255 || a.remote != ours.Local || a.local != ours.Remote {
						t.Errorf("%+v, %v, by %+v", p, why, a)
					}
					seen++
				})
				return "", seen >= 3
			})
		})
	}
}

// A process that stood still must not take its own silence for the peer's.
func TestStandstill(t *testing.T) {
	left, right := pair(t)
	ours, theirs := peerOf("peer", "10.99.0.1", "10.99.0.2", false), peerOf("peer", "10.99.0.2", "10.99.0.1", false)
	k := newTalker(t, right, theirs)
	a := start(t, left, ours)
	out := packet{state: Down, mult: 3, my: 99, minTx: 100 * ms, minRx: time.Second}
	k.say(theirs, out, 255)
	a.wait("Init", func(s SessionStatus) bool { return s.State == Init })
	out.state, out.your = Up, a.status("peer").Discriminator
	k.say(theirs, out, 255)
	a.wait("up", func(s SessionStatus) bool { return s.State == Up })
	a.Speaker.mu.Lock() // neither timer nor reader can go on
	defer a.Speaker.mu.Unlock()
	m := a.members["peer"]
	before := m.received
	for !m.session.expired(time.Now()) {
		k.say(theirs, out, 255)
		time.Sleep(time.Until(m.session.heard.Add(m.session.detection())))
	}
	k.say(theirs, out, 255)
	a.tickAt(time.Now()) // the timer is the first that goes on
	if m.session.state != Up || m.downs != 0 || m.received == before {
		t.Errorf("%+v", m.status())
	}
}

func TestSetRefusesWhole(t *testing.T) {
	left, _ := pair(t)
	good := peerOf("good", "10.99.0.1", "10.99.0.2", false)
	a := start(t, left, good)
	for _, c := range []struct {
		name   string
		change func(p *Peer)
		want   string
	}{
		{"no name", func(p *Peer) { p.Name = "" }, "no name"},
		{"name twice", func(p *Peer) { p.Name = "good" }, "twice"},
		{"same addresses", func(p *Peer) { p.Multihop = false }, "same addresses"},
		{"families", func(p *Peer) { p.Remote = netip.MustParseAddr("fd99::2") }, "one family"},
		{"unspecified", func(p *Peer) { p.Remote = netip.IPv4Unspecified() }, "unicast address"},
		{"multicast", func(p *Peer) { p.Remote = netip.MustParseAddr("224.0.0.5") }, "unicast address"},
		{"link-local", func(p *Peer) { p.Remote = netip.MustParseAddr("fe80::2%left") }, "link-local"},
		{"no zone", func(p *Peer) { p.Multihop = false; p.Remote = netip.MustParseAddr("fe80::2") }, "needs a zone"},
		{"no address", func(p *Peer) { p.Local = Peer{}.Local }, "unicast address"},
		{"to itself", func(p *Peer) { p.Remote = p.Local }, "both"},
		{"interval", func(p *Peer) { p.ReceiveInterval = 9 * ms }, "receive interval 9ms"},
		{"long interval", func(p *Peer) { p.TransmitInterval = time.Hour }, "transmit interval 1h"},
		{"TTL", func(p *Peer) { p.Multihop = false; p.MinTTL = 250 }, "minimum TTL 250"},
	} {
		bad := peerOf("bad", "10.99.0.1", "10.99.0.2", true)
		c.change(&bad)
		if err := a.Set([]Peer{good, bad}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q in it", c.name, err, c.want)
		}
	}
	// A port that is taken: nothing changes, and it says by whom one finds out.
	k := newTalker(t, left, peerOf("", "10.99.0.1", "10.99.0.2", true))
	err := a.Set([]Peer{peerOf("far", "10.99.0.1", "10.99.0.2", true)})
	if !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "4784") {
		t.Errorf("taken port %d: %v", k.port, err)
	}
	if all := a.Status().Sessions; len(all) != 1 || all[0].Peer.Name != "good" {
		t.Errorf("%+v", all)
	}
}

// An address that is not there yet is no error: it comes, and the session with it.
func TestAddressComesLater(t *testing.T) {
	left, right := pair(t)
	a := start(t, left, peerOf("peer", "10.99.0.11", "10.99.0.2", false))
	b := start(t, right, peerOf("peer", "10.99.0.2", "10.99.0.11", false))
	until(t, "send errors", func() (string, bool) { return "", a.status("peer").Sent+a.status("peer").SendErrors > 0 })
	command(t, "ip", "-n", left, "addr", "add", "10.99.0.11/24", "dev", "left")
	a.wait("left up", isUp)
	b.wait("right up", isUp)
}
