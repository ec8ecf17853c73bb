package forwarder

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/policy"
	"github.com/vrouter-go/vrouter/nexthop"
)

// What the router answers to a packet from another node goes back there: echo, resets,
// unreachables, time exceeded.
func TestRouterAnswersThroughTunnels(t *testing.T) {
	for _, w := range allWays() {
		for i, fam := range bothFamilies {
			gw := []string{"10.244.0.1", "fd00:244::1"}[i]
			echo := []gopacket.SerializableLayer{&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: 1, Seq: 1}, gopacket.Payload("ping")}
			if i == 1 {
				echo = []gopacket.SerializableLayer{&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(128, 0)}, gopacket.Payload("\x00\x01\x00\x01ping")}
			}
			last := udpTo(web2Port, fam.web[1], fam.web[0], 1, 2, "x")
			last.ttl = 1
			p := newPair(t, w)
			for name, spec := range map[string]packetSpec{
				"echo":          {src: fam.web[1], dst: gw, l4: echo},
				"reset":         tcpTo(web2Port, fam.web[1], gw, 1, 2, syn, ""),
				"unreachable":   udpTo(web2Port, fam.web[1], gw, 1, 2, "x"),
				"time exceeded": last,
			} {
				label := vrfLabel + uint32(podsVRF)
				if w.encapsulation == VXLAN {
					label = firstVNI + uint32(podsVRF)
				}
				p.nodes[0].inject(uplinkPort, w.wrap(t, label, inner(t, spec), nil))
				p.nodes[0].run()
				frames := p.nodes[0].sent(uplinkPort)
				if len(frames) != 1 {
					t.Errorf("%v %s %s: %d answers; drops %s", w, fam.name, name, len(frames), p.drops())
					continue
				}
				o := w.witness(t, frames[0])
				src, dst, ttl := ends(t, o.inner.NetworkLayer())
				if dst != fam.web[1] || src != gw || ttl != replyTTL || w.encapsulation != VXLAN && o.label != labelOf+uint32(web2Port) {
					t.Errorf("%v %s %s: %s > %s ttl %d, label %d", w, fam.name, name, src, dst, ttl, o.label)
				}
			}
		}
	}
}

// An ICMP error of a workload behind one node about a packet from another arrives,
// translated back.
func TestICMPErrorsCrossTunnels(t *testing.T) {
	for _, w := range allWays() {
		for i, fam := range bothFamilies {
			p := newPair(t, w)
			p.remoteMembers()
			a, b := p.nodes[0], p.nodes[1]
			a.inject(clientPort, build(t, udpTo(clientPort, fam.client, fam.fip, 4000, 80, "x")))
			p.run()
			out := memberPort(b.session())
			got := p.one(1, out).Data()
			quote := got[14:]
			spec := packetSpec{from: out, src: fam.web[out-web1Port], dst: fam.client, l4: []gopacket.SerializableLayer{
				&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 3)}, gopacket.Payload(quote)}}
			if i == 1 {
				spec.l4 = []gopacket.SerializableLayer{&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(1, 4)}, gopacket.Payload(append([]byte{0, 0, 0, 0}, quote...))}
			}
			b.inject(out, build(t, spec))
			p.run()
			if len(p.outer[1]) != 1 {
				t.Fatalf("%v %s: %d errors between the nodes; drops %s", w, fam.name, len(p.outer[1]), p.drops())
			}
			answer := p.one(0, clientPort)
			checkSums(t, answer)
			if src, dst, _ := ends(t, answer.NetworkLayer()); src != fam.fip || dst != fam.client {
				t.Errorf("%v %s: %s > %s", w, fam.name, src, dst)
			}
			var l header.Layout
			at := []int{42, 62}[i]
			if fault := header.ParseInner(answer.Data()[at:], &l); fault != 0 || l.Dst != addr(fam.fip) || l.DstPort != 80 || l.SrcPort != 4000 {
				t.Errorf("%v %s: quotes %+v", w, fam.name, l)
			}
		}
	}
}

// A dead node takes no new flow and ends none: what is sent there is dropped, the
// sender told, until it is back or, without connections, others take over.
func TestDeadNode(t *testing.T) {
	p := newPair(t, way{MPLSoverUDP, 4})
	a := p.nodes[0]
	udp := build(t, udpTo(web1Port, "10.244.0.11", "10.244.0.12", 1, 2, "x"))
	a.inject(web1Port, udp)
	p.run()
	p.one(1, web2Port)
	a.state.peers[0].Down = true
	a.publish()
	a.inject(web1Port, udp)
	a.run()
	if _, ok := p.one(0, web1Port).Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); !ok || a.drops(web1Port, DropPeerDown) != 1 {
		t.Errorf("drops %s", p.drops())
	}
	a.state.peers[0].Down = false
	a.publish()
	a.inject(web1Port, udp)
	p.run()
	p.one(1, web2Port)

	// A service: only the members of the living.
	for sport := uint16(100); ; sport++ {
		a.inject(clientPort, build(t, udpTo(clientPort, "203.0.113.7", "10.96.0.10", sport, 80, "x")))
		p.run()
		if len(p.outer[0]) == 1 {
			p.one(1, memberPort(p.newest(1)))
			udp = build(t, udpTo(clientPort, "203.0.113.7", "10.96.0.10", sport, 80, "x"))
			break
		}
		p.one(0, web1Port)
	}
	a.state.peers[0].Down = true
	a.state.members(t, func(m []nexthop.Member) []nexthop.Member { // as the control plane does then
		m[1].State, m[2].State = nexthop.Draining, nexthop.Draining
		return m
	})
	a.publish()
	a.inject(clientPort, udp)
	p.run()
	p.one(0, web1Port)
}

// newest returns a node's session that was created last.
func (p *pair) newest(node int) (found *flowtable.Session) {
	p.nodes[node].f.flows.Range(0, 1<<20, func(_ flowtable.Ref, s *flowtable.Session) bool {
		if found == nil || s.Member() != 0 {
			found = s
		}
		return true
	})
	return found
}

func TestUnresolvedNeighborAndLostTunnel(t *testing.T) {
	for want, change := range map[DropReason]func(s *state){
		DropNeighborUnresolved: func(s *state) { s.peers[0].Resolved = false },
		DropTunnelGone:         func(s *state) { s.tunnels[web2Port].Used = false },
		DropPeerDown:           func(s *state) { s.peers[0].Down = true },
	} {
		for _, live := range []bool{false, true} {
			p := newPair(t, way{MPLSoverUDP, 4})
			a := p.nodes[0]
			frame := build(t, udpTo(web1Port, "10.244.0.11", "10.244.0.12", 1, 2, "x"))
			if live {
				a.inject(web1Port, frame)
				p.run()
				p.one(1, web2Port)
			}
			change(a.state)
			a.publish()
			a.inject(web1Port, frame)
			p.run()
			if a.drops(web1Port, want) != 1 {
				t.Errorf("%v, live %v: drops %s", want, live, p.drops())
			}
			p.one(0, web1Port) // is told
		}
	}
}

// A connection outlives its service, but not the tunnel that it has: where the tunnel's
// place has gone to another, to another tenant's network say, it ends.
func TestTunnelsPlaceGoesToAnother(t *testing.T) {
	for what, change := range map[string]func(s *state, tunnel *Tunnel){
		"to another network": func(_ *state, tunnel *Tunnel) { tunnel.Identifier = vrfLabel + 2 },
		"to another node": func(s *state, _ *Tunnel) {
			s.peers[0].Address = addr("192.0.2.77")
		},
		"to nobody": func(_ *state, tunnel *Tunnel) { *tunnel = Tunnel{} },
		"stays":     func(*state, *Tunnel) {},
	} {
		t.Run(what, func(t *testing.T) {
			p := newPair(t, way{MPLSoverUDP, 4})
			p.remoteMembers()
			a := p.nodes[0]
			a.inject(clientPort, build(t, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 4000, 80, syn, "")))
			p.run()
			member := memberPort(p.nodes[1].session())
			p.one(1, member)
			a.state.floating = nil // no service is left
			a.state.withdraw("10.96.0.10/32")
			for range 3 { // some commits later
				a.publish()
			}
			data := build(t, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 4000, 80, ack, "x"))
			a.inject(clientPort, data)
			p.run()
			p.one(1, member)

			change(a.state, &a.state.tunnels[member])
			a.publish()
			a.inject(clientPort, data)
			a.run()
			if left := len(a.sent(uplinkPort)) == 1; left != (what == "stays") {
				t.Errorf("left the node: %v; drops %s", left, p.drops())
			}
		})
	}
}

// For as long as decisions are kept, one from before a tunnel had its place is told from
// one since, also where epochs come round; and one of today never is taken for older.
func TestTunnelsPlaceGrowsOld(t *testing.T) {
	const kept = 1<<22 + 1<<19 // flowtable's staleEpochs and some commits of the ager's round
	for _, start := range []uint32{10, refreshing, flowtable.EpochMask - 5, flowtable.EpochMask / 2} {
		s := nodeState(0, way{MPLSoverUDP, 4})
		at := func(age uint32) uint32 { return (start+age-1)%flowtable.EpochMask + 1 } // as Publish counts
		before := &Snapshot{Epoch: start, Tunnels: s.tunnels, Peers: s.peers}
		before.makeTunnels(&Snapshot{})
		for age := uint32(1); age < 3*flowtable.EpochMask; age++ {
			epoch := at(age)
			if epoch%refreshing != 0 && epoch%refreshing != refreshing-1 && age%(1<<18) != 0 {
				continue // nothing is made anew there
			}
			next := &Snapshot{Epoch: epoch, Tunnels: s.tunnels, Peers: s.peers}
			next.makeTunnels(before)
			before = next
			since := next.tunnels[web2Port].since
			if newer(since, epoch) {
				t.Fatalf("from %d on, %d epochs later: a decision of now is older than the tunnel, since %d", start, age, since)
			}
			if age < kept && !newer(since, at(flowtable.EpochMask-1)) {
				t.Fatalf("from %d on, %d epochs later: a decision of before is taken for the tunnel's, since %d", start, age, since)
			}
		}
	}
}

// A node that has forgotten its sessions lets no service open one to a caller: such a
// session would lead the caller astray. The caller's next packet finds its member again.
func TestServiceOpensNoSessionToItsCaller(t *testing.T) {
	for _, w := range allWays() {
		for _, fam := range bothFamilies {
			t.Run(w.String()+" "+fam.name, func(t *testing.T) {
				p := newPair(t, w)
				p.remoteMembers()
				for i, protocol := range []string{"tcp", "udp"} {
					sport := uint16(40000 + i)
					send := func(data string) packetSpec {
						if protocol == "udp" {
							return udpTo(clientPort, fam.client, fam.fip, sport, 80, data)
						}
						return tcpTo(clientPort, fam.client, fam.fip, sport, 80, func(l *layers.TCP) {
							l.SYN, l.ACK = data == "", data != ""
							l.Seq, l.Ack = 1000+min(uint32(len(data)), 1), 5001*min(uint32(len(data)), 1)
						}, data)
					}
					answer := func(from uint16, data string) packetSpec {
						if protocol == "udp" {
							return udpTo(from, fam.web[from-web1Port], fam.client, 8080, sport, data)
						}
						return tcpTo(from, fam.web[from-web1Port], fam.client, 8080, sport, func(l *layers.TCP) {
							l.SYN, l.ACK, l.Seq, l.Ack = data == "", true, 5000+min(uint32(len(data)), 1), 1001
						}, data)
					}
					reached := func() (member uint16) {
						t.Helper()
						for _, index := range []uint16{web2Port, web3Port} {
							if len(p.nodes[1].sent(index)) > 0 {
								member = index
							}
						}
						if member == 0 {
							t.Fatalf("%s: nobody was reached; drops %s", protocol, p.drops())
						}
						return member
					}
					p.nodes[0].inject(clientPort, build(t, send("")))
					p.run()
					member := reached()
					p.nodes[1].inject(member, build(t, answer(member, "")))
					p.run()
					p.one(0, clientPort)

					fresh := newRigOf(t, 1, p.nodes[0].state)
					p.nodes[0] = fresh
					for range 3 {
						p.nodes[1].inject(member, build(t, answer(member, "greeting")))
						p.run()
					}
					p.nothing()
					if got := fresh.drops(uplinkPort, DropTunnelAnswer); got != 3 {
						t.Errorf("%s: %d answers dropped as such, want 3; drops %s", protocol, got, p.drops())
					}
					p.nodes[0].inject(clientPort, build(t, send("hello")))
					p.run()
					if again := reached(); again != member {
						t.Errorf("%s: was with the member at %d, now at %d", protocol, member, again)
					}
					p.nodes[1].inject(member, build(t, answer(member, "greeting")))
					p.run()
					got := p.one(0, clientPort)
					if src, _, _ := ends(t, got.NetworkLayer()); src != fam.fip {
						t.Errorf("%s: answered by %s", protocol, src)
					}
				}
			})
		}
	}
}

// A workload that moves takes its connections' addresses along: the old node's
// sessions do not keep its packets.
func TestWorkloadMovesToThisNode(t *testing.T) {
	w := way{MPLSoverUDP, 4}
	p := newPair(t, w)
	a, b := p.nodes[0], p.nodes[1]
	a.inject(web1Port, build(t, udpTo(web1Port, "10.244.0.11", "10.244.0.12", 1, 2, "x")))
	p.run()
	p.one(1, web2Port)
	b.state.interfaces[web1Port].Kind = Workload
	for v := range b.state.vrfs {
		for prefix, r := range b.state.vrfs[v] {
			if r.NextHop == tunnelID+nexthop.ID(web1Port) {
				r.NextHop = InterfaceNextHop(web1Port)
				b.state.vrfs[v][prefix] = r
			}
		}
	}
	b.attach(web1Port, portFeatures)
	b.publish()
	b.run()
	b.sent(web1Port)
	again := build(t, udpTo(web1Port, "10.244.0.11", "10.244.0.12", 1, 2, "x"))
	b.inject(web1Port, again, again)
	p.run()
	if n := len(b.sent(web2Port)); n == 0 {
		t.Errorf("nothing arrived; drops %s", p.drops())
	}
	b.inject(web2Port, build(t, udpTo(web2Port, "10.244.0.12", "10.244.0.11", 2, 1, "answer")))
	p.run()
	p.one(1, web1Port)
}

// The label says where: a flow that the source moves to another workload of the same
// node goes there.
func TestLabelMovesTheFlow(t *testing.T) {
	for _, proto := range []string{"first packet", "later packet"} {
		w := way{MPLSoverUDP, 4}
		p := newPair(t, w)
		b := p.nodes[0] // the receiver here
		b.state.port(web2Port, Workload, podsVRF, podsNet, "web-2", "10.244.0.12", "fd00:244::12")
		b.state.labels[labelOf+uint32(web2Port)] = InterfaceNextHop(web2Port)
		b.state.members(t, func(m []nexthop.Member) []nexthop.Member {
			m[1].NextHop, m[1].Interface = InterfaceNextHop(web2Port), web2Port
			return m
		})
		b.attach(web2Port, portFeatures)
		b.publish()
		b.run()
		b.sent(web2Port)
		b.state.members(t, func(m []nexthop.Member) []nexthop.Member { return m })
		question := inner(t, udpTo(0, "198.51.100.9", "10.96.0.10", 7, 80, "x"))
		first := w.wrap(t, labelOf+uint32(web1Port), question, nil)
		second := w.wrap(t, labelOf+uint32(web2Port), question, nil)
		b.inject(uplinkPort, first)
		if proto == "later packet" {
			b.inject(uplinkPort, first)
		}
		b.run()
		if len(b.sent(web1Port)) == 0 {
			t.Fatalf("drops %s", p.drops())
		}
		b.inject(uplinkPort, second, second)
		b.run()
		if n := len(b.sent(web2Port)); n != 2 || b.sessions() != 1 {
			t.Errorf("%d arrived, %d sessions; drops %s", n, b.sessions(), p.drops())
		}
	}
}

// NetworkPolicy is the source's business, the receiver's SecurityPolicy that of the
// destination.
func TestPoliciesOfTwoNodes(t *testing.T) {
	w := way{MPLSoverUDP, 4}
	p := newPair(t, w)
	a, b := p.nodes[0], p.nodes[1]
	b.state.policies = nil
	b.publish()
	a.inject(clientPort, build(t, udpTo(clientPort, "203.0.113.7", "10.244.0.12", 1, 2, "x")))
	p.run()
	p.one(1, web2Port)
	if rule := b.session().Rule(); rule != uint32(policy.RuleSourceNode) {
		t.Errorf("rule %v", policy.RuleID(rule))
	}
	a.state.policies = nil
	a.publish()
	a.inject(clientPort, build(t, udpTo(clientPort, "203.0.113.7", "10.244.0.12", 1, 2, "x")))
	p.run()
	if a.drops(clientPort, DropNetworkPolicy) != 1 {
		t.Errorf("drops %s", p.drops())
	}
	b.state.security = []policy.SecurityPolicy{{Subjects: []uint32{policy.FirstIdentity + uint32(web2Port)}, Ingress: true}}
	b.publish()
	a.inject(web1Port, build(t, udpTo(web1Port, "10.244.0.11", "10.244.0.12", 1, 3, "x")))
	p.run()
	if b.drops(uplinkPort, DropSecurityIngress) != 1 {
		t.Errorf("drops %s", p.drops())
	}
	p.nothing()
}

// Each end's SecurityPolicy is asked at its own node, about the other end as it is: a
// pod of the other node by its address, which a set of addresses holds, and a client
// of a service there by its own.
func TestSecurityPolicyKnowsPodsOfOtherNodes(t *testing.T) {
	p := newPair(t, way{MPLSoverUDP, 4})
	p.remoteMembers()
	a, b := p.nodes[0], p.nodes[1]
	one := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	rule := func(d policy.Direction, set uint32) []policy.SecurityRule {
		return []policy.SecurityRule{{Rule: policy.FirstRule, Direction: d, Peers: []policy.Peer{{Set: set}}}}
	}
	b.state.security = []policy.SecurityPolicy{{Subjects: []uint32{policy.FirstIdentity + uint32(web2Port)}, Ingress: true, Rules: rule(policy.Ingress, 1)}}
	b.state.addresses = []policy.AddressChange{{Set: 1, Add: one("10.244.0.11/32")}}
	b.publish()
	arrives := func(from uint16, src string, sport uint16, pass bool) {
		t.Helper()
		before := b.drops(uplinkPort, DropSecurityIngress)
		b.sent(web2Port)
		a.inject(from, build(t, udpTo(from, src, "10.244.0.12", sport, 3, "x")))
		p.run()
		if n := len(b.sent(web2Port)); (n == 1) != pass || (b.drops(uplinkPort, DropSecurityIngress) == before) != pass {
			t.Errorf("from %s: %d arrived, drops %s", src, n, p.drops())
		}
	}
	arrives(web1Port, "10.244.0.11", 1, true)
	arrives(clientPort, "203.0.113.7", 1, false)
	b.state.addresses = []policy.AddressChange{{Set: 1, Add: one("203.0.113.0/24")}}
	b.publish()
	arrives(web1Port, "10.244.0.11", 2, false)
	arrives(web1Port, "10.244.0.11", 1, false) // the live session is judged again
	arrives(clientPort, "203.0.113.7", 2, true)

	a.state.security = []policy.SecurityPolicy{{Subjects: []uint32{policy.FirstIdentity + uint32(clientPort)}, Egress: true, Rules: rule(policy.Egress, 1)}}
	a.state.addresses = []policy.AddressChange{{Set: 1, Add: one("10.244.0.12/32")}}
	a.publish()
	arrives(clientPort, "203.0.113.7", 3, true)
	a.state.addresses = nil
	a.publish()
	a.inject(clientPort, build(t, udpTo(clientPort, "203.0.113.7", "10.244.0.12", 4, 3, "x")))
	p.run()
	if n := a.drops(clientPort, DropSecurityEgress); n != 1 {
		t.Errorf("the source's node let %d of 1 out; drops %s", 1-n, p.drops())
	}
}

func TestExplainAcrossNodes(t *testing.T) {
	p := newPair(t, way{MPLSoverUDP, 4})
	p.remoteMembers()
	a, b := p.nodes[0], p.nodes[1]
	key := flowtable.Key{Src: addr("203.0.113.7"), Dst: addr("10.96.0.10"), SrcPort: 4000, DstPort: 80, Proto: 6}
	e := a.f.Explain(clientPort, key)
	var step *Step
	for i := range e.Steps {
		if e.Steps[i].Stage == StageTunnel {
			step = &e.Steps[i]
		}
	}
	if step == nil || e.Verdict != "FORWARD" || e.Output != uplinkPort || e.Peer.Name != "other" || e.Rewritten.Dst != key.Dst {
		t.Fatalf("%+v", e)
	}
	out := web1Port + uint16(e.Member-firstMem)
	if step.Tunnel.Identifier != labelOf+uint32(out) || step.Remote != addr(bothFamilies[0].web[out-web1Port]) || step.RemotePort != 8080 {
		t.Errorf("%+v", step)
	}
	e = b.f.ExplainTunnel(0, nexthop.NextHop{Kind: nexthop.Interface, Port: out}, key)
	if e.Verdict != "FORWARD" || e.Output != out || e.Rewritten.DstPort != 8080 || e.Steps[1].Stage != StageArrival || e.Steps[1].Peer.Name != "other" {
		t.Errorf("%+v", e)
	}
	e = b.f.ExplainTunnel(0, nexthop.NextHop{Kind: nexthop.VRF, VRF: podsVRF}, key)
	if e.Verdict != "FORWARD" || e.Rewritten.DstPort != 8080 {
		t.Errorf("%+v", e)
	}
}

// Neither way of a packet through a tunnel allocates.
func TestNoAllocationsThroughTunnels(t *testing.T) {
	for _, w := range allWays() {
		p := newPair(t, w)
		p.uplinks(portFeatures)
		label := labelOf + uint32(web1Port)
		if w.encapsulation == VXLAN {
			label = firstVNI + uint32(podsVRF)
		}
		r := p.nodes[0]
		opens := uint16(1)
		for name, next := range map[string]func() (uint16, []byte){
			"out": func() (uint16, []byte) {
				return web1Port, build(t, udpTo(web1Port, "10.244.0.11", "10.244.0.12", 1, 2, "x"))
			},
			"in": func() (uint16, []byte) {
				return uplinkPort, w.wrap(t, label, inner(t, udpTo(0, "10.244.0.12", "10.244.0.11", 3, 4, "x")), nil)
			},
			"new in": func() (uint16, []byte) {
				opens++
				return uplinkPort, w.wrap(t, label, inner(t, udpTo(0, "10.244.0.12", "10.244.0.11", opens, 5, "x")), nil)
			},
			"unknown": func() (uint16, []byte) {
				return uplinkPort, w.wrap(t, label, inner(t, udpTo(0, "10.244.0.12", "10.244.0.11", 3, 4, "x")), func(x *wrapping) {
					x.src = map[int]string{4: "192.0.2.99", 6: "2001:db8::99"}[w.underlay]
				})
			},
			"too big": func() (uint16, []byte) {
				spec := udpTo(web1Port, "10.244.0.11", "10.244.0.12", 1, 2, strings.Repeat("x", 1472))
				spec.df = true
				return web1Port, build(t, spec)
			},
		} {
			wk := r.f.workers[0]
			run := func(in uint16, b []byte) {
				f := wk.rx[0]
				f.Reset()
				f.End = f.Start + copy(f.Buf[f.Start:], b)
				wk.process(in, 1)
				for i := range r.ports {
					r.sentFramesDiscard(i)
				}
			}
			wk.reader.Online()
			in, b := next()
			for range 4 * ringDepth {
				run(in, b)
			}
			frames := make([][]byte, 51)
			for i := range frames {
				_, frames[i] = next()
			}
			i := 0
			if n := testing.AllocsPerRun(50, func() { run(in, frames[i]); i++ }); n != 0 {
				t.Errorf("%v, %s: %v allocations a packet", w, name, n)
			}
			wk.reader.Offline()
		}
	}
}

// A frame of the wire's shortest length carries its padding no further.
func TestPaddingStaysBehind(t *testing.T) {
	w := way{MPLSoverUDP, 4}
	p := newPair(t, w)
	b := build(t, udpTo(web1Port, "10.244.0.11", "10.244.0.12", 1, 2, "x"))
	p.nodes[0].inject(web1Port, append(b, make([]byte, 20)...))
	p.run()
	if n := int(binary.BigEndian.Uint16(p.outer[0][0][16:])); n != 20+8+4+29 {
		t.Errorf("outer length %d", n)
	}
	w.witness(t, p.outer[0][0])
}
