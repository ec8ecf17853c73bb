package forwarder

import (
	"testing"

	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/nexthop"
)

// bothFamilies are the two address bothFamilies of the standard state, so that each
// test runs for both.
var bothFamilies = []struct {
	name, client, fip, node string
	web                     [3]string
}{
	{"IPv4", "203.0.113.7", "10.96.0.10", "192.0.2.10", [3]string{"10.244.0.11", "10.244.0.12", "10.244.0.13"}},
	{"IPv6", "2001:db8:113::7", "fd00:96::10", "2001:db8::10", [3]string{"fd00:244::11", "fd00:244::12", "fd00:244::13"}},
}

// ends returns source and destination address and TTL of a decoded packet.
func ends(t *testing.T, l any) (src, dst string, ttl uint8) {
	t.Helper()
	switch ip := l.(type) {
	case *layers.IPv4:
		return ip.SrcIP.String(), ip.DstIP.String(), ip.TTL
	case *layers.IPv6:
		return ip.SrcIP.String(), ip.DstIP.String(), ip.HopLimit
	}
	t.Fatalf("not an IP packet: %T", l)
	return
}

// memberPort returns the web server port that a session of the floating IP went
// to.
func memberPort(s *flowtable.Session) uint16 { return web1Port + uint16(s.Member()-firstMem) }

func TestFloatingIPTranslatesBothWays(t *testing.T) {
	for _, fam := range bothFamilies {
		t.Run(fam.name, func(t *testing.T) {
			r := newRig(t)
			r.inject(clientPort, build(t, tcpTo(clientPort, fam.client, fam.fip, 40000, 80, syn, "")))
			r.run()
			s := r.session()
			out := memberPort(s)
			p := r.one(out)
			checkSums(t, p)
			src, dst, ttl := ends(t, p.NetworkLayer())
			tcp := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
			if src != fam.client || dst != fam.web[out-web1Port] || ttl != 63 || tcp.SrcPort != 40000 || tcp.DstPort != 8080 {
				t.Errorf("to the member: %s:%d > %s:%d ttl %d", src, tcp.SrcPort, dst, tcp.DstPort, ttl)
			}
			eth := p.LinkLayer().(*layers.Ethernet)
			if want := mac(byte(out)); [6]byte(eth.DstMAC) != want || [6]byte(eth.SrcMAC) != RouterMAC {
				t.Errorf("MACs %v > %v", eth.SrcMAC, eth.DstMAC)
			}

			r.inject(out, build(t, tcpTo(out, fam.web[out-web1Port], fam.client, 8080, 40000, func(l *layers.TCP) { l.SYN, l.ACK, l.Ack = true, true, 1001 }, "")))
			r.run()
			p = r.one(clientPort)
			checkSums(t, p)
			src, dst, _ = ends(t, p.NetworkLayer())
			tcp = p.Layer(layers.LayerTypeTCP).(*layers.TCP)
			if src != fam.fip || dst != fam.client || tcp.SrcPort != 80 || tcp.DstPort != 40000 {
				t.Errorf("to the client: %s:%d > %s:%d", src, tcp.SrcPort, dst, tcp.DstPort)
			}
			if r.sessions() != 1 {
				t.Errorf("%d sessions, want 1 for both directions", r.sessions())
			}
		})
	}
}

func TestUnmappedPortIsRefused(t *testing.T) {
	for _, fam := range bothFamilies {
		t.Run(fam.name, func(t *testing.T) {
			r := newRig(t)
			r.inject(clientPort, build(t, tcpTo(clientPort, fam.client, fam.fip, 40000, 443, syn, "")))
			r.run()
			p := r.one(clientPort)
			checkSums(t, p)
			tcp, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
			if !ok || !tcp.RST || !tcp.ACK || tcp.Ack != 1001 || tcp.SrcPort != 443 {
				t.Errorf("want a reset that acknowledges the SYN, got %v", p)
			}
			r.inject(clientPort, build(t, udpTo(clientPort, fam.client, fam.fip, 40000, 443, "x")))
			r.run()
			p = r.one(clientPort)
			if src, _, _ := ends(t, p.NetworkLayer()); src != fam.fip {
				t.Errorf("unreachable comes from %s, want the service %s", src, fam.fip)
			}
			if n := r.drops(clientPort, DropFloatingIPPort); n != 2 || r.sessions() != 0 {
				t.Errorf("%d drops, %d sessions", n, r.sessions())
			}
		})
	}
}

func TestServiceWithoutMemberIsRefused(t *testing.T) {
	for _, fam := range bothFamilies {
		t.Run(fam.name, func(t *testing.T) {
			r := newRig(t)
			r.state.members(t, func([]nexthop.Member) []nexthop.Member { return nil })
			r.publish()
			r.inject(clientPort, build(t, tcpTo(clientPort, fam.client, fam.fip, 40000, 80, syn, "")))
			r.run()
			if tcp, ok := r.one(clientPort).Layer(layers.LayerTypeTCP).(*layers.TCP); !ok || !tcp.RST {
				t.Error("want a reset")
			}
			if r.drops(clientPort, DropFloatingIPNoMember) != 1 {
				t.Errorf("drops %v", r.allDrops())
			}
		})
	}
}

func TestHairpinReachesItself(t *testing.T) {
	for _, fam := range bothFamilies {
		t.Run(fam.name, func(t *testing.T) {
			r := newRig(t)
			r.state.members(t, func(m []nexthop.Member) []nexthop.Member { return m[:1] })
			r.publish()
			r.inject(web1Port, build(t, tcpTo(web1Port, fam.web[0], fam.fip, 40000, 80, syn, "")))
			r.run()
			p := r.one(web1Port)
			checkSums(t, p)
			src, dst, _ := ends(t, p.NetworkLayer())
			if src != fam.fip || dst != fam.web[0] {
				t.Fatalf("%s > %s, want the service address as source", src, dst)
			}
			r.inject(web1Port, build(t, tcpTo(web1Port, fam.web[0], fam.fip, 8080, 40000, func(l *layers.TCP) { l.SYN, l.ACK, l.Ack = true, true, 1001 }, "")))
			r.run()
			p = r.one(web1Port)
			checkSums(t, p)
			src, dst, _ = ends(t, p.NetworkLayer())
			tcp := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
			if src != fam.fip || dst != fam.web[0] || tcp.SrcPort != 80 || tcp.DstPort != 40000 {
				t.Errorf("%s:%d > %s:%d", src, tcp.SrcPort, dst, tcp.DstPort)
			}
		})
	}
}

// TestLiveFlowStaysWhileItsMemberLives goes through 3→1→3→2 members, draining
// and removal: a TCP session never moves.
func TestLiveFlowStaysWhileItsMemberLives(t *testing.T) {
	r := newRig(t)
	all := []nexthop.Member{}
	r.state.members(t, func(m []nexthop.Member) []nexthop.Member { all = append(all[:0], m...); return m })
	r.inject(clientPort, build(t, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 80, syn, "")))
	r.run()
	s := r.session()
	member, out := s.Member(), memberPort(s)
	r.one(out)

	check := func(what string) {
		t.Helper()
		r.publish()
		r.inject(clientPort, build(t, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 80, func(l *layers.TCP) { l.ACK, l.Seq = true, 1001 }, "data")))
		r.run()
		r.one(out)
		if got := r.session().Member(); got != member {
			t.Errorf("%s: member %d, want %d", what, got, member)
		}
	}
	keep := func(filter func(nexthop.Member) bool) func([]nexthop.Member) []nexthop.Member {
		return func(m []nexthop.Member) (kept []nexthop.Member) {
			for _, x := range m {
				if filter(x) {
					kept = append(kept, x)
				}
			}
			return kept
		}
	}
	check("unchanged")
	v4 := r.state.floating
	r.state.floating = v4[:1]
	full := func([]nexthop.Member) []nexthop.Member { return append([]nexthop.Member(nil), all...) }
	all = nil
	r.state.members(t, func(m []nexthop.Member) []nexthop.Member { all = append(all, m...); return m })
	all = all[:3]
	r.state.members(t, keep(func(m nexthop.Member) bool { return m.ID == member }))
	check("3→1")
	r.state.members(t, full)
	check("1→3")
	r.state.members(t, func(m []nexthop.Member) []nexthop.Member {
		for i := range m {
			if m[i].ID == member {
				m[i].State = nexthop.Draining
			}
		}
		return m
	})
	check("draining")
	r.state.members(t, keep(func(m nexthop.Member) bool { return m.ID != member }))
	check("removed from the service, its workload still there")

	r.state.interfaces[out] = Interface{}
	for v := range r.state.vrfs {
		for p, route := range r.state.vrfs[v] {
			if route.NextHop == InterfaceNextHop(out) {
				delete(r.state.vrfs[v], p)
			}
		}
	}
	r.publish()
	r.inject(clientPort, build(t, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 80, func(l *layers.TCP) { l.ACK, l.Seq = true, 1001 }, "data")))
	r.run()
	if r.drops(clientPort, DropMemberGone) != 1 {
		t.Errorf("workload gone: drops %v", r.allDrops())
	}
}

// TestUnmappedFlowGoesOn takes the mapping away from under a live session, also
// where the address is the node's and unmapped traffic is for the node.
func TestUnmappedFlowGoesOn(t *testing.T) {
	for _, fallback := range []nexthop.ID{0, InterfaceNextHop(vhostPort)} {
		r := newRig(t)
		r.state.floating[0].Fallback = fallback
		r.publish()
		r.inject(clientPort, build(t, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 80, syn, "")))
		r.run()
		out := memberPort(r.session())
		r.one(out)
		without := *r.state.floating[0]
		without.Mappings = map[PortKey]*Service{}
		r.state.floating[0] = &without
		r.publish()
		r.inject(clientPort, build(t, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 80, func(l *layers.TCP) { l.ACK, l.Seq = true, 1001 }, "data")))
		r.run()
		r.one(out)
	}
}

func TestUDPOfARemovedMemberIsDecidedAnew(t *testing.T) {
	for _, fam := range bothFamilies {
		t.Run(fam.name, func(t *testing.T) {
			r := newRig(t)
			datagram := build(t, udpTo(clientPort, fam.client, fam.fip, 5353, 80, "hello"))
			r.inject(clientPort, datagram)
			r.run()
			was := r.session().Member()
			old := memberPort(r.session())
			r.one(old)
			r.state.members(t, func(m []nexthop.Member) (kept []nexthop.Member) {
				for _, x := range m {
					if x.ID != was {
						kept = append(kept, x)
					}
				}
				return kept
			})
			r.publish()
			r.inject(old, build(t, udpTo(old, fam.web[old-web1Port], fam.client, 8080, 5353, "late")))
			r.run()
			if r.drops(old, DropMemberGone) != 1 {
				t.Errorf("late reply of the removed member: drops %v", r.allDrops())
			}
			r.inject(clientPort, datagram)
			r.run()
			if got := r.session().Member(); got == was {
				t.Error("still the removed member")
			}
			r.one(memberPort(r.session()))
		})
	}
}

func TestSourcePortIsTranslatedWhenRepliesWouldClash(t *testing.T) {
	r := newRig(t)
	r.state.members(t, func(m []nexthop.Member) []nexthop.Member { return m[:1] })
	r.publish()
	r.inject(clientPort,
		build(t, tcpTo(clientPort, "203.0.113.7", "10.244.0.11", 40000, 8080, syn, "")),
		build(t, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 80, syn, "")))
	r.run()
	frames := r.sent(web1Port)
	if len(frames) != 2 || r.sessions() != 2 {
		t.Fatalf("%d frames, %d sessions, want 2 and 2", len(frames), r.sessions())
	}
	p := decode(frames[1])
	checkSums(t, p)
	port := p.Layer(layers.LayerTypeTCP).(*layers.TCP).SrcPort
	if port == 40000 || port < 1024 {
		t.Fatalf("source port %d, want another one above 1023", port)
	}
	r.inject(web1Port, build(t, tcpTo(web1Port, "10.244.0.11", "203.0.113.7", 8080, uint16(port), func(l *layers.TCP) { l.SYN, l.ACK, l.Ack = true, true, 1001 }, "")))
	r.run()
	reply := r.one(clientPort)
	checkSums(t, reply)
	tcp := reply.Layer(layers.LayerTypeTCP).(*layers.TCP)
	if tcp.SrcPort != 80 || tcp.DstPort != 40000 {
		t.Errorf("reply %d > %d, want 80 > 40000", tcp.SrcPort, tcp.DstPort)
	}
}

func TestPolicyChangeStopsALiveFlow(t *testing.T) {
	r := newRig(t)
	ack := func(l *layers.TCP) { l.ACK, l.Seq = true, 1001 }
	r.inject(clientPort, build(t, tcpTo(clientPort, "203.0.113.7", "10.244.0.11", 40000, 22, syn, "")))
	r.inject(vhostPort, build(t, tcpTo(vhostPort, "192.0.2.10", "10.244.0.11", 40001, 22, syn, "")))
	r.run()
	if got := len(r.sent(web1Port)); got != 2 {
		t.Fatalf("%d SYNs arrived, want 2", got)
	}
	allowed := r.state.policies[0].Rules
	r.state.policies[0].Rules = allowed[:1]
	r.publish()
	r.inject(clientPort, build(t, tcpTo(clientPort, "203.0.113.7", "10.244.0.11", 40000, 22, ack, "x")))
	r.inject(vhostPort, build(t, tcpTo(vhostPort, "192.0.2.10", "10.244.0.11", 40001, 22, ack, "x")))
	r.run()
	r.one(web1Port)
	if r.drops(clientPort, DropNetworkPolicy) != 1 {
		t.Errorf("drops %v", r.allDrops())
	}
	r.state.policies[0].Rules = allowed
	r.publish()
	r.inject(clientPort, build(t, tcpTo(clientPort, "203.0.113.7", "10.244.0.11", 40000, 22, ack, "x")))
	r.run()
	r.one(web1Port)
}

func TestRestartDoesNotShowTheMembersAddress(t *testing.T) {
	r := newRig(t)
	r.state.interfaces[web1Port].Serves = []PortKey{{Proto: 6, Port: 8080}}
	r.publish()
	r.inject(web1Port, build(t, tcpTo(web1Port, "10.244.0.11", "203.0.113.7", 8080, 40000, func(l *layers.TCP) { l.ACK, l.PSH = true, true }, "late data")))
	r.run()
	if r.drops(web1Port, DropTCPNoSession) != 1 || len(r.sent(clientPort)) != 0 {
		t.Errorf("drops %v", r.allDrops())
	}
	// The client's own next packet opens the session again.
	r.inject(clientPort, build(t, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 80, func(l *layers.TCP) { l.ACK = true }, "x")))
	r.run()
	if r.sessions() != 1 {
		t.Errorf("%d sessions", r.sessions())
	}
}

func TestQuotaBoundsOneWorkload(t *testing.T) {
	r := newRig(t)
	r.state.interfaces[clientPort].Quota = 3
	r.publish()
	for i := range uint16(5) {
		r.inject(clientPort, build(t, udpTo(clientPort, "203.0.113.7", "10.244.0.11", 1000+i, 53, "q")))
	}
	r.run()
	if r.sessions() != 3 || r.drops(clientPort, DropFlowQuota) != 2 {
		t.Fatalf("%d sessions, drops %v", r.sessions(), r.allDrops())
	}
	// RFC 4787 REQ-5: the sessions leave after 300 s and make room.
	r.nanos += 301 * 1e9
	r.f.Sweep()
	if r.sessions() != 0 || r.f.Charged(clientPort) != 0 {
		t.Errorf("%d sessions, %d charged after the timeout", r.sessions(), r.f.Charged(clientPort))
	}
}

func TestNothingAllocatesPerPacket(t *testing.T) {
	r := newRig(t)
	hit := build(t, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 80, func(l *layers.TCP) { l.ACK = true }, "payload"))
	opens := uint16(1)
	cases := map[string]func() []byte{
		"session hit with NAT": func() []byte { return hit },
		"refused":              func() []byte { return build(t, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 81, syn, "")) },
		"new session": func() []byte {
			opens++
			return build(t, udpTo(clientPort, "203.0.113.7", "10.96.0.10", opens, 80, "x"))
		},
		"spoofed": func() []byte { return build(t, udpTo(clientPort, "203.0.113.8", "10.96.0.10", 1, 80, "x")) },
	}
	for name, frame := range cases {
		t.Run(name, func(t *testing.T) {
			w := r.f.workers[0]
			run := func(b []byte) {
				f := w.rx[0]
				f.Reset()
				f.End = f.Start + copy(f.Buf[f.Start:], b)
				w.process(clientPort, 1)
				for i := range r.ports {
					r.sentFramesDiscard(i)
				}
			}
			w.reader.Online()
			defer w.reader.Offline()
			for range 8 * ringDepth { // the wire's buffers grow to the frames they have held
				run(frame())
			}
			frames := make([][]byte, 51)
			for i := range frames {
				frames[i] = frame()
			}
			i := 0
			if n := testing.AllocsPerRun(50, func() { run(frames[i]); i++ }); n != 0 {
				t.Errorf("%v allocations a packet", n)
			}
		})
	}
}

// RFC 3927 §7: a member whose address must not be forwarded from could never
// answer, so no session is opened with it; the same for a member that has the
// address that the connection comes from.
func TestMemberThatCannotAnswerGetsNoSession(t *testing.T) {
	for _, c := range []struct {
		member string
		reason DropReason
	}{
		{"169.254.10.10", DropLinkLocal},
		{"127.0.0.1", DropMartianDestination},
		{"10.244.0.12", DropUnknown},
	} {
		r := newRig(t)
		r.state.members(t, func(list []nexthop.Member) []nexthop.Member {
			if list[0].Address == addr("10.244.0.11") {
				list = list[1:2]
				list[0].Address = addr(c.member)
			}
			return list
		})
		r.publish()
		r.inject(clientPort, build(t, udpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 80, "x")))
		r.run()
		if got := r.f.flows.Live(); (got == 1) != (c.reason == DropUnknown) {
			t.Errorf("%s: %d sessions", c.member, got)
		}
		if c.reason != DropUnknown && r.drops(clientPort, c.reason) != 1 {
			t.Errorf("%s: dropped %v; want %v", c.member, r.allDrops(), c.reason)
		}
	}
}
