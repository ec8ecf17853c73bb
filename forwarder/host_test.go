package forwarder

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/nat"
	"github.com/vrouter-go/vrouter/internal/policy"
	"github.com/vrouter-go/vrouter/nexthop"
)

// The ports of members that are hosts, and the id of the first.
const (
	hostTarget        = 6443
	hostMember uint32 = 201
)

// serviceOf is the floating IP of a family, and standInOf what stands in for the node.
var (
	serviceOf = map[string]string{"IPv4": "10.96.0.10", "IPv6": "fd00:96::10"}
	standInOf = map[string]string{"IPv4": "169.254.118.1", "IPv6": "fd76:726f:7574:6572::1"}
)

// elsewhere is a member that is a host of the fabric, own one that is the node itself.
func elsewhere(id uint32, address string) nexthop.Member {
	return nexthop.Member{ID: id, Weight: 1, NextHop: vrfID + nexthop.ID(fabricVRF), Address: addr(address), Port: hostTarget}
}

func own(id uint32, address string) nexthop.Member {
	return nexthop.Member{ID: id, Weight: 1, NextHop: InterfaceNextHop(vhostPort), Address: addr(address), Port: hostTarget, Interface: vhostPort}
}

// newHostRig is newSNATRig, where no network may leave by the node's address, with
// other members behind the floating IPs of both families, and the node's address itself a
// floating IP with a stand-in, whose port 30080 leads to the same members.
func newHostRig(t testing.TB, members func(a snatFamily) []nexthop.Member) *rig {
	r := newSNATRig(t, standardPorts)
	for i := range r.state.interfaces {
		r.state.interfaces[i].SNAT = false
	}
	r.host(members)
	for _, family := range []string{"IPv4", "IPv6"} {
		a, s := snatFamilies[family], r.state
		of := s.floating[map[string]int{"IPv4": 0, "IPv6": 1}[family]]
		ports := map[PortKey]*Service{{6, nodePort}: of.Mappings[PortKey{6, 80}], {17, nodePort}: of.Mappings[PortKey{17, 80}]}
		node := &FloatingIP{
			ID: uint32(len(s.floating) + 1), Name: "nodeport", Address: addr(a.node), Network: fabricNet, VRF: fabricVRF, Ingress: true,
			Mappings: ports, Fallback: InterfaceNextHop(vhostPort), StandIn: addr(standInOf[family]),
		}
		private := &FloatingIP{
			ID: node.ID + 1, Name: "nodeport", Address: node.StandIn, Network: fabricNet, VRF: fabricVRF, Ingress: true, Mappings: ports, Private: true,
		}
		for _, f := range []*FloatingIP{node, private} {
			s.floating = append(s.floating, f)
			hop := nexthop.Route{NextHop: fipID + nexthop.ID(f.ID-1), Network: fabricNet}
			s.vrfs[fabricVRF][single(netip.AddrFrom16(f.Address).Unmap().String())] = hop
			if f == node {
				s.vrfs[podsVRF][single(a.node)] = hop
			}
		}
	}
	r.publish()
	return r
}

// host gives every service members of its own family and publishes them.
func (r *rig) host(members func(a snatFamily) []nexthop.Member) {
	r.t.Helper()
	r.state.members(r.t, func(list []nexthop.Member) []nexthop.Member {
		family := "IPv6"
		if len(list) == 0 || header.IsIPv4(list[0].Address) {
			family = "IPv4"
		}
		return members(snatFamilies[family])
	})
	r.publish()
}

func theServer(a snatFamily) []nexthop.Member {
	return []nexthop.Member{elsewhere(hostMember, a.server)}
}
func theNode(a snatFamily) []nexthop.Member { return []nexthop.Member{own(hostMember, a.node)} }

// hostProtocols build a first packet, or with back an answer.
var hostProtocols = map[string]func(from uint16, src, dst string, sport, dport uint16, back bool) packetSpec{
	"TCP": func(from uint16, src, dst string, sport, dport uint16, back bool) packetSpec {
		if back {
			return tcpTo(from, src, dst, sport, dport, synAck, "")
		}
		return tcpTo(from, src, dst, sport, dport, syn, "")
	},
	"UDP": func(from uint16, src, dst string, sport, dport uint16, _ bool) packetSpec {
		return udpTo(from, src, dst, sport, dport, "data of odd length!")
	},
	"SCTP": func(from uint16, src, dst string, sport, dport uint16, _ bool) packetSpec {
		return sctpTo(from, src, dst, sport, dport)
	},
}

// send injects a packet where it comes in, from the gateway if that is the uplink.
func (r *rig) send(s packetSpec) {
	r.t.Helper()
	if s.from == uplinkPort {
		r.arrive(s)
		return
	}
	r.inject(s.from, build(r.t, s))
	r.run()
}

// expect takes the one packet that came out and compares its ends.
func (r *rig) expect(out uint16, src string, sport uint16, dst string, dport uint16) gopacket.Packet {
	r.t.Helper()
	p := r.one(out)
	sound(r.t, p)
	gotSrc, gotDst, gotSport, gotDport := tuple(p)
	if sport == 0 {
		sport = gotSport
	}
	if gotSrc != src || gotDst != dst || gotSport != sport || gotDport != dport {
		r.t.Errorf("out of port %d came %s:%d > %s:%d; want %s:%d > %s:%d", out, gotSrc, gotSport, gotDst, gotDport, src, sport, dst, dport)
	}
	return p
}

// eachHostCaller runs a test for every protocol, family and who calls: a pod, the node
// and somebody outside.
func eachHostCaller(t *testing.T, members func(a snatFamily) []nexthop.Member, f func(t *testing.T, r *rig, family, proto string, in uint16, caller string)) {
	for family, a := range snatFamilies {
		for proto := range hostProtocols {
			for in, caller := range map[uint16]string{web1Port: a.pod, vhostPort: a.node, uplinkPort: a.router} {
				t.Run(fmt.Sprintf("%s/%s/port %d", family, proto, in), func(t *testing.T) { f(t, newHostRig(t, members), family, proto, in, caller) })
			}
		}
	}
}

// Whoever calls a host elsewhere leaves with the node's address, whatever fabricSnat says,
// and gets its answers from the address that it called.
//
// RFC 4787 REQ-1: one socket is one address and port to all members
func TestHostMemberElsewhere(t *testing.T) {
	eachHostCaller(t, theServer, func(t *testing.T, r *rig, family, proto string, in uint16, caller string) {
		a, send := snatFamilies[family], hostProtocols[proto]
		r.send(send(in, caller, serviceOf[family], 40000, 80, false))
		_, _, mapped, _ := tuple(r.expect(uplinkPort, a.node, 0, a.server, hostTarget))
		if mapped < standardPorts.First {
			t.Errorf("it left from port %d, outside the range", mapped)
		}
		for range 2 {
			r.send(send(uplinkPort, a.server, a.node, hostTarget, mapped, true))
			r.expect(in, serviceOf[family], 80, caller, 40000)
			r.publish() // decided anew, and the same
			r.send(send(in, caller, serviceOf[family], 40000, 80, false))
			r.expect(uplinkPort, a.node, mapped, a.server, hostTarget)
		}
		// Another one with the same port is told apart.
		r.send(send(web2Port, a.other, serviceOf[family], 40000, 80, false))
		if _, _, other, _ := tuple(r.expect(uplinkPort, a.node, 0, a.server, hostTarget)); other == mapped {
			t.Errorf("two callers share port %d", mapped)
		}
		r.host(func(snatFamily) []nexthop.Member { return nil })
		r.f.Flows().Range(0, r.f.Flows().Capacity()+1, func(ref flowtable.Ref, _ *flowtable.Session) bool { return r.f.EndSession(ref) || true })
		if n := r.used(nat.TCP) + r.used(nat.UDP) + r.used(nat.SCTP); n != 0 || r.f.Charged(in) != 0 {
			t.Errorf("%d ports are still in use, %d sessions charged", n, r.f.Charged(in))
		}
	})
}

// The node itself is reached by vhost0. A pod keeps its address; whom the node's kernel
// would answer by another way, itself among them, is seen as the service.
func TestHostMemberOwnNode(t *testing.T) {
	eachHostCaller(t, theNode, func(t *testing.T, r *rig, family, proto string, in uint16, caller string) {
		a, send := snatFamilies[family], hostProtocols[proto]
		as := serviceOf[family]
		if in == web1Port {
			as = caller
		}
		r.send(send(in, caller, serviceOf[family], 40000, 80, false))
		r.expect(vhostPort, as, 40000, a.node, hostTarget)
		for range 2 {
			r.send(send(vhostPort, a.node, as, hostTarget, 40000, true))
			r.expect(in, serviceOf[family], 80, caller, 40000)
			r.publish()
		}
		if r.used(nat.TCP)+r.used(nat.UDP)+r.used(nat.SCTP) != 0 {
			t.Error("a port of the node's is taken for a connection that stays here")
		}
	})
}

// A node's port leads to the same members, for those outside by the node's address, for
// its own processes by what stands in for it; nobody else can call that.
func TestHostMemberNodePort(t *testing.T) {
	for family, a := range snatFamilies {
		stand := standInOf[family]
		t.Run(family, func(t *testing.T) {
			r := newHostRig(t, theServer)
			r.send(tcpTo(uplinkPort, a.router, a.node, 40000, nodePort, syn, ""))
			_, _, mapped, _ := tuple(r.expect(uplinkPort, a.node, 0, a.server, hostTarget))
			r.send(tcpTo(uplinkPort, a.server, a.node, hostTarget, mapped, synAck, ""))
			r.expect(uplinkPort, a.node, nodePort, a.router, 40000)
			r.send(tcpTo(vhostPort, a.node, stand, 40000, nodePort, syn, ""))
			_, _, mapped, _ = tuple(r.expect(uplinkPort, a.node, 0, a.server, hostTarget))
			r.send(tcpTo(uplinkPort, a.server, a.node, hostTarget, mapped, synAck, ""))
			r.expect(vhostPort, stand, nodePort, a.node, 40000)

			r.host(theNode)
			for _, by := range []struct {
				in           uint16
				from, called string
			}{{uplinkPort, a.router, a.node}, {vhostPort, a.node, stand}} {
				r.send(tcpTo(by.in, by.from, by.called, 40001, nodePort, syn, ""))
				r.expect(vhostPort, stand, 40001, a.node, hostTarget)
				r.publish()
				r.send(tcpTo(vhostPort, a.node, stand, hostTarget, 40001, synAck, ""))
				r.expect(by.in, by.called, nodePort, by.from, 40001)
				r.send(tcpTo(by.in, by.from, by.called, 40001, nodePort, ack, ""))
				r.expect(vhostPort, stand, 40001, a.node, hostTarget)
				r.send(tcpTo(by.in, by.from, by.called, 40001, nodePort, func(l *layers.TCP) { l.RST, l.Seq = true, 1001 }, ""))
				r.one(vhostPort)
				r.f.Flows().Range(0, r.f.Flows().Capacity()+1, func(ref flowtable.Ref, _ *flowtable.Session) bool { return r.f.EndSession(ref) || true })
			}
			// Two outside with one port are told apart.
			r.send(tcpTo(uplinkPort, a.router, a.node, 40002, nodePort, syn, ""))
			r.expect(vhostPort, stand, 40002, a.node, hostTarget)
			r.send(tcpTo(uplinkPort, a.at(3), a.node, 40002, nodePort, syn, ""))
			_, _, second, _ := tuple(r.expect(vhostPort, stand, 0, a.node, hostTarget))
			r.send(tcpTo(vhostPort, a.node, stand, hostTarget, second, synAck, ""))
			r.expect(uplinkPort, a.node, nodePort, a.at(3), 40002)
			if second == 40002 {
				t.Error("two callers outside are one to the node")
			}

			for in, from := range map[uint16]string{uplinkPort: a.router, web1Port: a.pod} {
				r.send(tcpTo(in, from, stand, 40003, nodePort, syn, ""))
				for i := range r.ports {
					for _, b := range r.sent(i) {
						if p := decode(b); in == uplinkPort || p.Layer(layers.LayerTypeICMPv4) == nil && p.Layer(layers.LayerTypeICMPv6) == nil {
							t.Errorf("called from port %d the stand-in led to port %d: %v", in, i, p)
						}
					}
				}
			}
		})
	}
}

// Members that are pods and hosts share the connections, and each caller its member.
func TestHostAndPodMembers(t *testing.T) {
	for family, a := range snatFamilies {
		t.Run(family, func(t *testing.T) {
			r := newHostRig(t, func(a snatFamily) []nexthop.Member {
				pod := nexthop.Member{ID: web2ID, Weight: 1, NextHop: InterfaceNextHop(web2Port), Address: addr(a.other), Port: 8080, Interface: web2Port}
				return []nexthop.Member{pod, elsewhere(hostMember, a.server), own(hostMember+1, a.node)}
			})
			seen := map[uint16]int{}
			for sport := uint16(40000); sport < 40048; sport++ {
				for range 2 { // a repetition, under another snapshot
					r.send(tcpTo(web1Port, a.pod, serviceOf[family], sport, 80, syn, ""))
					out := uint16(0)
					for i := range r.ports {
						if len(r.sent(i)) == 1 {
							out = i
						}
					}
					seen[out]++
					r.publish()
				}
			}
			if len(seen) != 3 || seen[0] != 0 || slices.ContainsFunc([]uint16{web2Port, uplinkPort, vhostPort}, func(p uint16) bool { return seen[p]%2 != 0 || seen[p] < 8 }) {
				t.Errorf("connections by port: %v; drops %v", seen, r.allDrops())
			}
		})
	}
}

// An error about a packet on its way to a host reaches who sent it, about what it sent;
// one of the caller's about an answer reaches the host, about what that sent.
//
// RFC 5508 REQ-4, RFC 5508 REQ-5
func TestHostMemberErrors(t *testing.T) {
	for _, members := range []func(snatFamily) []nexthop.Member{theServer, theNode} {
		for family, a := range snatFamilies {
			for in, caller := range map[uint16]string{web1Port: a.pod, vhostPort: a.node, uplinkPort: a.router} {
				t.Run(fmt.Sprintf("%s/port %d", family, in), func(t *testing.T) {
					r := newHostRig(t, members)
					r.send(udpTo(in, caller, serviceOf[family], 40000, 80, "question"))
					out := map[bool]uint16{true: uplinkPort, false: vhostPort}[len(r.f.NAT().Usage()) > 0 && r.used(nat.UDP) == 1]
					left := r.one(out)
					src, dst, sport, _ := tuple(left)
					r.hostError(family, out, dst, src, left)
					p := r.one(in)
					sound(t, p)
					if from, to, about := errorEnds(t, p); from != serviceOf[family] || to != caller || about != fmt.Sprintf("%s:40000 > %s:80", caller, serviceOf[family]) {
						t.Errorf("the caller was told by %s about %s", from, about)
					}
					r.send(udpTo(out, dst, src, hostTarget, sport, "answer"))
					answer := r.one(in)
					r.hostError(family, in, caller, serviceOf[family], answer)
					p = r.one(out)
					sound(t, p)
					if _, to, about := errorEnds(t, p); to != dst || about != fmt.Sprintf("%s:%d > %s:%d", dst, hostTarget, src, sport) {
						t.Errorf("the member at %s was told about %s", to, about)
					}
					if r.sessions() != 1 {
						t.Errorf("%d sessions", r.sessions())
					}
				})
			}
		}
	}
}

// hostError sends a port unreachable about a frame that was sent.
func (r *rig) hostError(family string, in uint16, src, dst string, about gopacket.Packet) {
	r.t.Helper()
	quote := about.Data()[14:]
	spec := packetSpec{from: in, src: src, dst: dst, l4: []gopacket.SerializableLayer{
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 3)}, gopacket.Payload(quote),
	}}
	if family == "IPv6" {
		spec.l4 = []gopacket.SerializableLayer{&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(1, 4)}, gopacket.Payload(append(make([]byte, 4), quote...))}
	}
	r.send(spec)
}

// errorEnds reads who tells whom about what.
func errorEnds(t *testing.T, p gopacket.Packet) (src, dst, about string) {
	t.Helper()
	flow := p.NetworkLayer().NetworkFlow()
	b := p.Data()[14:]
	at := 28
	if p.NetworkLayer().LayerType() == layers.LayerTypeIPv6 {
		at = 48
	}
	q := gopacket.NewPacket(b[at:], p.NetworkLayer().LayerType(), gopacket.Default)
	udp, ok := q.TransportLayer().(*layers.UDP)
	if !ok {
		t.Fatalf("not about a datagram: %v", p)
	}
	inner := q.NetworkLayer().NetworkFlow()
	return flow.Src().String(), flow.Dst().String(), fmt.Sprintf("%s:%d > %s:%d", inner.Src(), udp.SrcPort, inner.Dst(), udp.DstPort)
}

// A connection by TCP stays with a host that has left the service, and with a service
// that is deleted; datagrams go to the others at once. It outlives a time without a way.
func TestHostMemberChurn(t *testing.T) {
	for name, members := range map[string]func(snatFamily) []nexthop.Member{"elsewhere": theServer, "own": theNode} {
		for family, a := range snatFamilies {
			t.Run(name+"/"+family, func(t *testing.T) {
				r := newHostRig(t, members)
				all := slices.Clone(r.state.floating)
				out := map[string]uint16{"elsewhere": uplinkPort, "own": vhostPort}[name]
				r.send(tcpTo(web1Port, a.pod, serviceOf[family], 40000, 80, syn, ""))
				_, _, mapped, _ := tuple(r.one(out))
				r.send(udpTo(web1Port, a.pod, serviceOf[family], 40000, 80, "q"))
				r.one(out)
				goesOn := func(when string) {
					t.Helper()
					r.send(tcpTo(web1Port, a.pod, serviceOf[family], 40000, 80, ack, ""))
					if _, _, sport, dport := tuple(r.one(out)); sport != mapped || dport != hostTarget {
						t.Errorf("%s: it goes on from port %d to %d", when, sport, dport)
					}
				}
				r.host(func(a snatFamily) []nexthop.Member {
					return []nexthop.Member{{ID: web2ID, Weight: 1, NextHop: InterfaceNextHop(web2Port), Address: addr(a.other), Port: 8080, Interface: web2Port}}
				})
				goesOn("the member has left")
				r.send(udpTo(web1Port, a.pod, serviceOf[family], 40000, 80, "q"))
				r.expect(web2Port, a.pod, 40000, a.other, 8080)

				gone := single(serviceOf[family])
				routes := [2]nexthop.Route{r.state.vrfs[podsVRF][gone], r.state.vrfs[fabricVRF][gone]}
				delete(r.state.vrfs[podsVRF], gone)
				delete(r.state.vrfs[fabricVRF], gone)
				r.state.floating = slices.Clone(r.state.floating)
				r.state.floating[map[string]int{"IPv4": 0, "IPv6": 1}[family]] = nil
				r.publish()
				goesOn("the service is deleted")
				r.state.floating, r.state.vrfs[podsVRF][gone], r.state.vrfs[fabricVRF][gone] = all, routes[0], routes[1]
				r.publish()
				goesOn("and is there again")
				if name == "own" {
					return
				}
				for _, p := range []string{"0.0.0.0/0", "::/0"} {
					delete(r.state.vrfs[fabricVRF], netip.MustParsePrefix(p))
				}
				r.publish()
				r.send(tcpTo(web1Port, a.pod, serviceOf[family], 40000, 80, ack, ""))
				if r.one(web1Port); r.drops(web1Port, DropNoRoute) != 1 {
					t.Errorf("without a way: drops %v", r.allDrops())
				}
				// A tunnel is no way for it, the uplink's own routes are.
				slot, _ := r.f.Neighbor(outsideMAC)
				way := nexthop.Route{NextHop: NeighborNextHop(slot), Network: fabricNet}
				r.state.tunnels = []Tunnel{{Used: true}}
				r.state.peers = []Peer{{Name: "node-2", Address: addr(a.server), Local: addr(a.node), MTU: 1500, Resolved: true}}
				r.state.vrfs[fabricVRF][single(a.server)] = nexthop.Route{NextHop: tunnelID, Network: fabricNet}
				r.state.exits = nexthop.NewFIB(func(yield func(netip.Prefix, nexthop.Route) bool) {
					_ = yield(netip.MustParsePrefix("0.0.0.0/0"), way) && yield(netip.MustParsePrefix("::/0"), way)
				})
				r.publish()
				goesOn("by the node's own way")
				r.state.snat.IPv4, r.state.snat.IPv6 = addr("192.0.2.99"), addr("2001:db8::99")
				r.publish()
				r.send(tcpTo(web1Port, a.pod, serviceOf[family], 40000, 80, ack, ""))
				if r.drops(web1Port, DropNATWithdrawn) != 1 {
					t.Errorf("the node's address is another: drops %v", r.allDrops())
				}
			})
		}
	}
}

// A host on the link whose address nobody knows is asked for, and its caller's next try
// finds it.
func TestHostMemberOnLink(t *testing.T) {
	for family, a := range snatFamilies {
		t.Run(family, func(t *testing.T) {
			r := newHostRig(t, theServer)
			r.onLink(nil)
			call := tcpTo(web1Port, a.pod, serviceOf[family], 40000, 80, syn, "")
			r.send(call)
			if told := r.wanted(); !slices.Equal(told, []string{a.server}) || r.drops(web1Port, DropNeighborUnresolved) != 1 || r.sessions() != 0 || r.used(nat.TCP) != 0 {
				t.Errorf("told %v, %d sessions, drops %v", told, r.sessions(), r.allDrops())
			}
			r.onLink(map[string][6]byte{a.server: outsideMAC})
			r.send(call)
			r.expect(uplinkPort, a.node, 0, a.server, hostTarget)
		})
	}
}

// SecurityPolicy is asked about the pod and the host, NetworkPolicy about what was dialled; and
// a pod always reaches its own node.
func TestHostMemberPolicy(t *testing.T) {
	for family, a := range snatFamilies {
		t.Run(family, func(t *testing.T) {
			r := newHostRig(t, theServer)
			allow := func(block string) {
				r.state.security = []policy.SecurityPolicy{{
					Subjects: []uint32{policy.FirstIdentity + uint32(web1Port)}, Egress: true,
					Rules: []policy.SecurityRule{{
						Rule: 500, Direction: policy.Egress, Peers: []policy.Peer{{Block: netip.MustParsePrefix(block)}},
						Ports: []policy.PortMatch{{Proto: 6, Ports: policy.PortRange{From: hostTarget, To: hostTarget}}},
					}},
				}}
				r.publish()
			}
			allow(single(serviceOf[family]).String())
			r.send(tcpTo(web1Port, a.pod, serviceOf[family], 40000, 80, syn, ""))
			if r.drops(web1Port, DropSecurityEgress) != 1 || r.used(nat.TCP) != 0 {
				t.Errorf("the service's address is not what is allowed: drops %v", r.allDrops())
			}
			allow(single(a.server).String())
			r.send(tcpTo(web1Port, a.pod, serviceOf[family], 40000, 80, syn, ""))
			r.expect(uplinkPort, a.node, 0, a.server, hostTarget)
			r.host(theNode)
			r.send(tcpTo(web1Port, a.pod, serviceOf[family], 40001, 80, syn, ""))
			r.expect(vhostPort, a.pod, 40001, a.node, hostTarget)
			r.state.policies = nil
			r.publish()
			r.send(tcpTo(web2Port, a.other, a.node, 40001, nodePort, syn, ""))
			if r.drops(web2Port, DropNetworkPolicy) != 1 {
				t.Errorf("no policy joins the networks: drops %v", r.allDrops())
			}
		})
	}
}

// Explain says what the packet path does, and takes no port.
func TestHostMemberExplain(t *testing.T) {
	for family, a := range snatFamilies {
		r := newHostRig(t, theServer)
		e := r.f.Explain(web1Port, flowtable.Key{Src: addr(a.pod), Dst: addr(serviceOf[family]), SrcPort: 40000, DstPort: 80, Proto: 6})
		if e.Verdict != "FORWARD" || e.Output != uplinkPort || e.Member != hostMember || e.Rewritten.Src != addr(a.node) || e.Rewritten.Dst != addr(a.server) || r.used(nat.TCP) != 0 {
			t.Errorf("%s: %+v", family, e)
		}
		r.send(tcpTo(web1Port, a.pod, serviceOf[family], 40000, 80, syn, ""))
		if _, _, sport, _ := tuple(r.one(uplinkPort)); sport != e.Rewritten.SrcPort {
			t.Errorf("%s: it left from port %d, and explain said %d", family, sport, e.Rewritten.SrcPort)
		}
	}
}

// A member that is a host is none of the node's workloads, whatever ip-fabric knows: who
// may call the service may not for that call into a network that is none of its own.
func TestHostMemberIsNoWorkload(t *testing.T) {
	eachHostCaller(t, func(a snatFamily) []nexthop.Member { return []nexthop.Member{elsewhere(hostMember, a.other)} },
		func(t *testing.T, r *rig, family, proto string, in uint16, caller string) {
			a := snatFamilies[family]
			r.state.vrfs[fabricVRF][single(a.other)] = nexthop.Route{NextHop: InterfaceNextHop(web2Port), Network: podsNet}
			r.publish()
			r.send(hostProtocols[proto](in, caller, serviceOf[family], 40000, 80, false))
			if got := r.sent(web2Port); len(got) != 0 {
				t.Errorf("the workload got %d packets", len(got))
			}
		})
}
