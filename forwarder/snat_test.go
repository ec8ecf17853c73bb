package forwarder

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/nat"
	"github.com/vrouter-go/vrouter/internal/policy"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/nexthop"
)

// outsideMAC is the gateway's.
var outsideMAC = [6]byte{2, 0, 0, 0, 1, 1}

// snatFamily is who is who in a family.
type snatFamily struct{ pod, other, node, server, router string }

var snatFamilies = map[string]snatFamily{
	"IPv4": {"10.244.0.11", "10.244.0.12", "192.0.2.10", "198.51.100.7", "198.51.100.254"},
	"IPv6": {"fd00:244::11", "fd00:244::12", "2001:db8::10", "2001:db8:51::7", "2001:db8:51::fe"},
}

// at returns the n'th server.
func (a snatFamily) at(n int) string {
	ip := netip.MustParseAddr(a.server)
	for range n {
		ip = ip.Next()
	}
	return ip.String()
}

// newSNATRig is newRig with an uplink to a gateway, by which pods may leave with
// the node's addresses and the ports of a range.
func newSNATRig(t testing.TB, ports nat.Range) *rig { return newSNATRigWorkers(t, 1, ports) }

// newSNATRigWorkers is newSNATRig with several workers.
func newSNATRigWorkers(t testing.TB, workers int, ports nat.Range) *rig {
	r := newRigWorkers(t, workers)
	slot, ok := r.f.Neighbor(outsideMAC)
	if !ok {
		t.Fatal("no slot for a neighbor")
	}
	s := r.state
	s.interfaces = append(s.interfaces, Interface{
		Kind: Uplink, VRF: fabricVRF, Network: fabricNet, MTU: 1500, MAC: mac(byte(uplinkPort)), Name: "uplink",
		Gateway4: addr("192.0.2.10"), Gateway6: addr("2001:db8::10"),
	})
	for _, p := range []string{"0.0.0.0/0", "::/0"} {
		s.vrfs[fabricVRF][netip.MustParsePrefix(p)] = nexthop.Route{NextHop: NeighborNextHop(slot), Network: fabricNet}
	}
	for i := web1Port; i <= web3Port; i++ {
		s.interfaces[i].SNAT = true
	}
	s.uplink = uplinkPort
	s.snat = SNAT{IPv4: addr("192.0.2.10"), IPv6: addr("2001:db8::10"), Ports: ports}
	r.publish()
	r.attach(uplinkPort, port.FeatureCsum|port.FeatureTSO4|port.FeatureTSO6|port.FeatureUSO)
	r.run()
	for index := range r.ports {
		r.sent(index)
	}
	return r
}

// arrive injects a frame that the gateway sends in by the uplink.
func (r *rig) arrive(s packetSpec) {
	r.t.Helper()
	b := build(r.t, s)
	m := mac(byte(uplinkPort))
	copy(b[0:], m[:])
	copy(b[6:], outsideMAC[:])
	r.inject(uplinkPort, b)
	r.run()
}

// leave sends a packet of a pod and returns it as it left by the uplink.
func (r *rig) leave(s packetSpec) gopacket.Packet {
	r.t.Helper()
	r.inject(s.from, build(r.t, s))
	r.run()
	p := r.one(uplinkPort)
	sound(r.t, p)
	if eth := p.LinkLayer().LinkFlow(); eth.Dst().String() != "02:00:00:00:01:01" || eth.Src().String() != "02:00:00:00:00:06" {
		r.t.Errorf("left from %s to %s, want the uplink's and the gateway's address", eth.Src(), eth.Dst())
	}
	return p
}

// tuple is addresses and ports as gopacket reads them; an echo's identifier stands for
// the ports.
func tuple(p gopacket.Packet) (src, dst string, sport, dport uint16) {
	flow := p.NetworkLayer().NetworkFlow()
	src, dst = flow.Src().String(), flow.Dst().String()
	switch l := p.Layers()[2].(type) {
	case *layers.TCP:
		sport, dport = uint16(l.SrcPort), uint16(l.DstPort)
	case *layers.UDP:
		sport, dport = uint16(l.SrcPort), uint16(l.DstPort)
	case *layers.SCTP:
		sport, dport = uint16(l.SrcPort), uint16(l.DstPort)
	case *layers.ICMPv4:
		sport, dport = l.Id, l.Id
	case *layers.ICMPv6:
		if echo, ok := p.Layer(layers.LayerTypeICMPv6Echo).(*layers.ICMPv6Echo); ok {
			sport, dport = echo.Identifier, echo.Identifier
		}
	}
	return src, dst, sport, dport
}

// used returns how many ports of a class are in use over both addresses.
func (r *rig) used(c nat.Class) (n int) {
	for _, u := range r.f.NAT().Usage() {
		if u.Class == c {
			n += u.Used
		}
	}
	return n
}

func ack(l *layers.TCP)    { l.ACK, l.Seq, l.Ack = true, 1001, 1001 }
func synAck(l *layers.TCP) { l.SYN, l.ACK, l.Ack = true, true, 1001 }

var standardPorts = nat.Range{First: 61000, Last: 65535}

// RFC 4787 REQ-1: a socket has one external address and port to all servers
// RFC 5382 REQ-1: the same for TCP
// RFC 4787 REQ-2: and the address is always the same
// RFC 4787 REQ-8, RFC 5382 REQ-3: nothing but the servers' answers comes back in
func TestSNATMapping(t *testing.T) {
	for family, a := range snatFamilies {
		for proto, send := range map[string]func(from uint16, src, dst string, sport, dport uint16) packetSpec{
			"TCP": func(from uint16, src, dst string, sport, dport uint16) packetSpec {
				set := syn
				if from == uplinkPort {
					set = synAck
				}
				return tcpTo(from, src, dst, sport, dport, set, "")
			},
			"UDP": func(from uint16, src, dst string, sport, dport uint16) packetSpec {
				return udpTo(from, src, dst, sport, dport, "data of odd length!")
			},
			"SCTP": sctpTo,
		} {
			t.Run(family+"/"+proto, func(t *testing.T) {
				r := newSNATRig(t, standardPorts)
				var mapped uint16
				for n := range 3 {
					for _, dport := range []uint16{443, 8443} {
						src, dst, sport, to := tuple(r.leave(send(web1Port, a.pod, a.at(n), 40000, dport)))
						if src != a.node || dst != a.at(n) || to != dport || sport < standardPorts.First {
							t.Fatalf("left as %s:%d > %s:%d", src, sport, dst, to)
						}
						if mapped == 0 {
							mapped = sport
						}
						if sport != mapped {
							t.Errorf("port %d to %s port %d, and %d to the first", sport, dst, dport, mapped)
						}
					}
				}
				if _, _, sport, _ := tuple(r.leave(send(web2Port, a.other, a.at(0), 40000, 443))); sport == mapped {
					t.Errorf("two pods share port %d", sport)
				}
				for n := range 3 {
					r.arrive(send(uplinkPort, a.at(n), a.node, 443, mapped))
					p := r.one(web1Port)
					sound(t, p)
					if src, dst, sport, dport := tuple(p); src != a.at(n) || dst != a.pod || sport != 443 || dport != 40000 {
						t.Errorf("the answer came as %s:%d > %s:%d", src, sport, dst, dport)
					}
				}
				// Another server, another port of a known one: for the node itself.
				for _, p := range []packetSpec{send(uplinkPort, a.at(4), a.node, 443, mapped), send(uplinkPort, a.at(0), a.node, 444, mapped)} {
					r.arrive(p)
					if _, dst, _, dport := tuple(r.one(vhostPort)); dst != a.node || dport != mapped {
						t.Errorf("the node got a packet to %s:%d", dst, dport)
					}
				}
			})
		}
	}
}

// RFC 5508 REQ-1: an echo identifier is translated, and pods with the same one are told apart
func TestSNATEcho(t *testing.T) {
	for family, a := range snatFamilies {
		t.Run(family, func(t *testing.T) {
			r := newSNATRig(t, standardPorts)
			src, _, one, _ := tuple(r.leave(echoTo(web1Port, a.pod, a.server, 99, 1, false, "ping")))
			_, _, same, _ := tuple(r.leave(echoTo(web1Port, a.pod, a.at(1), 99, 1, false, "ping")))
			_, _, two, _ := tuple(r.leave(echoTo(web2Port, a.other, a.server, 99, 1, false, "ping")))
			if src != a.node || one == two || one != same || one < standardPorts.First {
				t.Errorf("pings left as %s, identifiers %d, %d and %d", src, one, same, two)
			}
			r.arrive(echoTo(uplinkPort, a.server, a.node, two, 1, true, "ping"))
			p := r.one(web2Port)
			sound(t, p)
			if _, dst, id, _ := tuple(p); dst != a.other || id != 99 {
				t.Errorf("the answer came to %s with identifier %d", dst, id)
			}
			// An answer that nobody asked for does not leave, and takes nothing.
			r.inject(web1Port, build(t, echoTo(web1Port, a.pod, a.at(2), 77, 1, true, "pong")))
			r.run()
			if r.drops(web1Port, DropNATPortless) != 1 || r.used(nat.ICMP) != 2 {
				t.Errorf("%d identifiers in use, drops %v", r.used(nat.ICMP), r.allDrops())
			}
		})
	}
}

// RFC 4787 REQ-3, RFC 5382 REQ-7: a port is never shared; the connection that finds none fails
// RFC 5508 REQ-8: and is told so
// RFC 4787 REQ-11: those that have one behave as before
func TestSNATExhaustion(t *testing.T) {
	for family, a := range snatFamilies {
		t.Run(family, func(t *testing.T) {
			r := newSNATRig(t, nat.Range{First: 61000, Last: 61001})
			_, _, one, _ := tuple(r.leave(udpTo(web1Port, a.pod, a.server, 1, 7000, "q")))
			_, _, two, _ := tuple(r.leave(udpTo(web1Port, a.pod, a.server, 2, 7000, "q")))
			r.inject(web2Port, build(t, udpTo(web2Port, a.other, a.at(1), 1, 7000, "q")))
			r.run()
			refusal := r.one(web2Port)
			code4, _ := refusal.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
			code6, _ := refusal.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
			if code4 != nil && code4.TypeCode != layers.CreateICMPv4TypeCode(3, 13) || code6 != nil && code6.TypeCode != layers.CreateICMPv6TypeCode(1, 1) || code4 == nil && code6 == nil {
				t.Errorf("refused by %v", refusal)
			}
			if one == two || r.drops(web2Port, DropNATPorts) != 1 || r.sessions() != 2 || r.f.Charged(web2Port) != 0 {
				t.Errorf("ports %d and %d, %d sessions, drops %v", one, two, r.sessions(), r.allDrops())
			}
			if _, _, again, _ := tuple(r.leave(udpTo(web1Port, a.pod, a.at(2), 1, 7000, "q"))); again != one {
				t.Errorf("a mapped socket has port %d at another server, want %d", again, one)
			}
			if e := r.f.Explain(web2Port, flowtable.Key{Src: addr(a.other), Dst: addr(a.server), SrcPort: 1, DstPort: 7000, Proto: 17}); e.Reason != DropNATPorts {
				t.Errorf("explain says %s, %s", e.Verdict, e.Reason)
			}
		})
	}
}

// RFC 5382 REQ-2: a simultaneous open passes, and the mapping survives until both have closed
func TestSNATSimultaneousOpen(t *testing.T) {
	r := newSNATRig(t, standardPorts)
	a := snatFamilies["IPv4"]
	_, _, mapped, _ := tuple(r.leave(tcpTo(web1Port, a.pod, a.server, 40000, 443, syn, "")))
	r.arrive(tcpTo(uplinkPort, a.server, a.node, 443, mapped, syn, ""))
	r.one(web1Port)
	r.leave(tcpTo(web1Port, a.pod, a.server, 40000, 443, synAck, ""))
	r.arrive(tcpTo(uplinkPort, a.server, a.node, 443, mapped, synAck, ""))
	r.one(web1Port)
	if _, _, again, _ := tuple(r.leave(tcpTo(web1Port, a.pod, a.server, 40000, 443, ack, "data"))); again != mapped {
		t.Errorf("port %d, want %d", again, mapped)
	}
}

// RFC 5382 REQ-9, RFC 5508 REQ-4: an error about a translated packet reaches the pod, translated, with the router's own address
// RFC 4787 REQ-12, RFC 5382 REQ-10: and neither ends the session nor the mapping
func TestSNATErrors(t *testing.T) {
	for family, a := range snatFamilies {
		t.Run(family, func(t *testing.T) {
			r := newSNATRig(t, standardPorts)
			left := r.leave(udpTo(web1Port, a.pod, a.server, 40000, 7000, "question"))
			_, _, mapped, _ := tuple(left)
			quote := gopacket.Payload(left.Data()[14:])
			spec := packetSpec{src: a.router, dst: a.node, l4: []gopacket.SerializableLayer{
				&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4), Seq: 1400}, quote,
			}}
			if family == "IPv6" {
				spec.l4 = []gopacket.SerializableLayer{&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(2, 0)}, gopacket.Payload(append([]byte{0, 0, 5, 120}, quote...))}
			}
			r.arrive(spec)
			p := r.one(web1Port)
			sound(t, p)
			b := p.Data()[14:]
			inner := b[20+8:]
			if family == "IPv6" {
				inner = b[40+8:]
			}
			q := gopacket.NewPacket(inner, p.NetworkLayer().LayerType(), gopacket.Default)
			flow, udp := q.NetworkLayer().NetworkFlow(), q.TransportLayer().(*layers.UDP)
			outer := p.NetworkLayer().NetworkFlow()
			if outer.Src().String() != a.router || outer.Dst().String() != a.pod || flow.Src().String() != a.pod || flow.Dst().String() != a.server || udp.SrcPort != 40000 || udp.DstPort != 7000 {
				t.Errorf("the error came as %s > %s about %s:%d > %s:%d", outer.Src(), outer.Dst(), flow.Src(), udp.SrcPort, flow.Dst(), udp.DstPort)
			}
			if r.sessions() != 1 || r.used(nat.UDP) != 1 {
				t.Errorf("%d sessions, %d ports after an error", r.sessions(), r.used(nat.UDP))
			}
			if _, _, again, _ := tuple(r.leave(udpTo(web1Port, a.pod, a.server, 40000, 7000, "again"))); again != mapped {
				t.Errorf("port %d after an error, want %d", again, mapped)
			}
		})
	}
}

// TestSNATPolicy: the network's policy towards ip-fabric and the pod's own egress
// policy are asked, with the pod's address.
func TestSNATPolicy(t *testing.T) {
	a := snatFamilies["IPv4"]
	r := newSNATRig(t, standardPorts)
	r.state.policies[0].Rules = append([]policy.NetworkRule{{
		Rule: 299, SrcNetwork: podsNet, DstNetwork: fabricNet, Proto: 17,
		SrcPrefix: netip.MustParsePrefix(a.pod + "/32"), DstPrefix: netip.MustParsePrefix(a.server + "/32"), Action: policy.Deny,
	}}, r.state.policies[0].Rules...)
	r.publish()
	r.inject(web1Port, build(t, udpTo(web1Port, a.pod, a.server, 40000, 7000, "q")))
	r.run()
	if r.drops(web1Port, DropNetworkPolicy) != 1 || r.used(nat.UDP) != 0 {
		t.Errorf("a denied connection: %d ports, drops %v", r.used(nat.UDP), r.allDrops())
	}
	r.leave(udpTo(web2Port, a.other, a.server, 40000, 7000, "q"))
	r.leave(udpTo(web1Port, a.pod, a.at(1), 40000, 7000, "q"))

	r.state.policies = nil
	r.publish()
	r.inject(web3Port, build(t, udpTo(web3Port, "10.244.0.13", a.server, 40000, 7000, "q")))
	r.run()
	if r.drops(web3Port, DropNetworkPolicy) != 1 {
		t.Errorf("no policy joins the networks, and drops are %v", r.allDrops())
	}
}

// TestSNATOnlyWhereItLeaves: what has a way inside is not translated, and what has
// none outside is not routed.
func TestSNATOnlyWhereItLeaves(t *testing.T) {
	a := snatFamilies["IPv4"]
	r := newSNATRig(t, standardPorts)
	for dst, out := range map[string]uint16{"10.244.0.12": web2Port, "203.0.113.7": clientPort, "192.0.2.10": vhostPort} {
		r.inject(web1Port, build(t, udpTo(web1Port, a.pod, dst, 40000, 7000, "q")))
		r.run()
		if src, _, sport, _ := tuple(r.one(out)); src != a.pod || sport != 40000 {
			t.Errorf("to %s as %s:%d", dst, src, sport)
		}
	}
	if r.used(nat.UDP) != 0 {
		t.Errorf("%d ports in use", r.used(nat.UDP))
	}
	r.inject(clientPort, build(t, udpTo(clientPort, "203.0.113.7", a.server, 40000, 7000, "q")))
	r.run()
	if r.one(clientPort); r.drops(clientPort, DropNoRoute) != 1 {
		t.Errorf("a network without fabricSnat: drops %v", r.allDrops())
	}
	// A floating IP of one's own comes first.
	web3 := &r.state.interfaces[web3Port]
	web3.Egress = []EgressNAT{{FloatingIP: 0, VRF: fabricVRF, Address: addr("10.96.0.10")}}
	r.publish()
	if src, _, sport, _ := tuple(r.leave(udpTo(web3Port, "10.244.0.13", a.server, 40000, 7000, "q"))); src != "10.96.0.10" || sport != 40000 {
		t.Errorf("with a floating IP it left as %s:%d", src, sport)
	}
	// Its own VRF's way to ip-fabric is a way out, too.
	delete(r.state.vrfs[podsVRF], netip.MustParsePrefix("0.0.0.0/0"))
	r.state.vrfs[podsVRF][netip.MustParsePrefix("198.51.100.0/24")] = r.state.vrfs[fabricVRF][netip.MustParsePrefix("0.0.0.0/0")]
	r.publish()
	if src, _, _, _ := tuple(r.leave(udpTo(web2Port, a.other, a.server, 40000, 7000, "q"))); src != a.node {
		t.Errorf("left as %s by a route of the VRF", src)
	}
	delete(r.state.vrfs[podsVRF], netip.MustParsePrefix("198.51.100.0/24"))
	delete(r.state.vrfs[fabricVRF], netip.MustParsePrefix("0.0.0.0/0"))
	r.publish()
	r.inject(web1Port, build(t, udpTo(web1Port, a.pod, a.at(1), 40000, 7000, "q")))
	r.run()
	if r.one(web1Port); r.drops(web1Port, DropNoRoute) != 1 {
		t.Errorf("no way out: drops %v", r.allDrops())
	}
}

// TestSNATRefusals: protocols that cannot share an address, and a node without one.
func TestSNATRefusals(t *testing.T) {
	a := snatFamilies["IPv4"]
	r := newSNATRig(t, standardPorts)
	b := build(t, udpTo(web1Port, a.pod, a.server, 40000, 7000, "not really UDP"))
	b[14+9] = 50 // ESP
	fixIPv4(b[14:])
	r.inject(web1Port, b)
	r.run()
	if r.drops(web1Port, DropNATPortless) != 1 {
		t.Errorf("ESP: drops %v", r.allDrops())
	}
	r.state.snat.IPv6 = [16]byte{}
	r.publish()
	six := snatFamilies["IPv6"]
	r.inject(web1Port, build(t, udpTo(web1Port, six.pod, six.server, 40000, 7000, "q")))
	r.run()
	if r.one(web1Port); r.drops(web1Port, DropNATNoAddress) != 1 {
		t.Errorf("no IPv6 address: drops %v", r.allDrops())
	}
}

// fixIPv4 makes a header checksum right again.
func fixIPv4(ip []byte) {
	ip[10], ip[11] = 0, 0
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(ip[i])<<8 | uint32(ip[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	ip[10], ip[11] = ^byte(sum>>8), ^byte(sum)
}

// TestSNATExplained: explain foretells address and port, takes nothing, and names the
// live session's afterwards.
func TestSNATExplained(t *testing.T) {
	for family, a := range snatFamilies {
		t.Run(family, func(t *testing.T) {
			r := newSNATRig(t, standardPorts)
			key := flowtable.Key{Src: addr(a.pod), Dst: addr(a.server), SrcPort: 40000, DstPort: 7000, Proto: 17}
			said := r.f.Explain(web1Port, key)
			if said.Verdict != "FORWARD" || said.Output != uplinkPort || r.used(nat.UDP) != 0 {
				t.Fatalf("%s %s out of %d, %d ports in use", said.Verdict, said.Reason, said.Output, r.used(nat.UDP))
			}
			stages := ""
			for _, s := range said.Steps {
				stages += fmt.Sprint(s.Stage, " ")
			}
			if want := fmt.Sprint(StageSource, " ", StageNoRoute, " ", StageSNAT); len(said.Steps) < 4 || said.Steps[3].Stage != StageSNAT || said.Steps[3].Address != addr(a.node) {
				t.Errorf("steps %s, want %s after the route", stages, want)
			}
			src, _, sport, _ := tuple(r.leave(udpTo(web1Port, a.pod, a.server, 40000, 7000, "q")))
			if said.Rewritten.Src != addr(src) || said.Rewritten.SrcPort != sport {
				t.Errorf("said port %d, and it left as %s:%d", said.Rewritten.SrcPort, src, sport)
			}
			again := r.f.Explain(web1Port, key)
			if again.Session == 0 || again.Rewritten.SrcPort != sport || again.Rewritten.Src != addr(a.node) {
				t.Errorf("of the live session it says %+v", again.Rewritten)
			}
		})
	}
}

// A new translated session allocates nothing.
func TestSNATAllocations(t *testing.T) {
	r := newSNATRig(t, standardPorts)
	a := snatFamilies["IPv4"]
	frames := make([][]byte, 3000)
	for i := range frames {
		frames[i] = build(t, udpTo(web1Port, a.pod, a.server, uint16(10000+i), 7000, "q"))
	}
	w := r.f.workers[0]
	i := 0
	run := func() {
		f := w.rx[0]
		f.Reset()
		f.End = f.Start + copy(f.Buf[f.Start:], frames[i])
		i++
		w.process(web1Port, 1)
		r.sentFramesDiscard(uplinkPort)
	}
	w.reader.Online()
	defer w.reader.Offline()
	for range 2500 { // the wire's buffers grow to the frames they have held
		run()
	}
	if n := testing.AllocsPerRun(400, run); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
	if r.used(nat.UDP) < 2900 {
		t.Errorf("%d ports in use", r.used(nat.UDP))
	}
}

// sound checks the checksums of a packet. gopacket does not write all of ICMPv6 back,
// so that is summed up here.
func sound(t testing.TB, p gopacket.Packet) {
	t.Helper()
	if p.Layer(layers.LayerTypeICMPv6) == nil {
		checkSums(t, p)
		return
	}
	ip := unpadded(p.Data())[14:]
	src, _ := netip.AddrFromSlice(ip[8:24])
	dst, _ := netip.AddrFromSlice(ip[24:40])
	if sum := naiveSum(append(naivePseudo(src, dst, 58, len(ip)-40), ip[40:]...)); sum != 0xffff {
		t.Errorf("the ICMPv6 message sums up to %#04x: % x", sum, ip)
	}
}

// RFC 1027: a pod without a gateway finds the way out by proxy ARP
func TestSNATProxyARP(t *testing.T) {
	r := newSNATRig(t, standardPorts)
	for from, answered := range map[uint16]bool{web1Port: true, clientPort: false} {
		sender := map[uint16]string{web1Port: "10.244.0.11", clientPort: "203.0.113.7"}[from]
		r.inject(from, arpFrame(t, arpSpec{from: from, op: layers.ARPRequest, sender: sender, target: "198.51.100.7"}))
		r.run()
		if n := len(r.sent(from)); (n == 1) != answered || (r.drops(from, DropARPNoTarget) == 0) != answered {
			t.Errorf("port %d: %d answers, drops %v", from, n, r.allDrops())
		}
	}
}
