package forwarder

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/nexthop"
)

// gateway is who sends to a node's uplink from outside.
var gateway = [6]byte{2, 0, 0, 3, 0, 1}

// outside makes a frame that a workload would send one that comes in by node 0's
// uplink, from a MAC address.
func outside(b []byte, from [6]byte) []byte {
	to := uplinkMAC(0)
	copy(b[0:], to[:])
	copy(b[6:], from[:])
	return b
}

var outsideFamilies = []struct{ name, client, node, service string }{
	{"IPv4", "198.51.100.7", nodeOf[4][0], "10.96.0.10"},
	{"IPv6", "2001:db8:51::7", nodeOf[6][0], "fd00:96::10"},
}

// What is the node's own goes to vhost0 as it is: no session, no hop.
func TestNodesOwnPacketsAreHandedOver(t *testing.T) {
	for _, fam := range outsideFamilies {
		p := newPair(t, way{MPLSoverUDP, 4})
		r := p.nodes[0]
		icmp := []gopacket.SerializableLayer{&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(13, 0), Id: 1}, gopacket.Payload("timestamp...")}
		quote := inner(t, udpTo(0, fam.node, fam.client, 5, 6, "sent by the node"))
		problem := []gopacket.SerializableLayer{&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 3)}, gopacket.Payload(quote)}
		if fam.name == "IPv6" {
			icmp = []gopacket.SerializableLayer{&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(139, 0)}, gopacket.Payload("node information")}
			problem = []gopacket.SerializableLayer{&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(1, 4)}, gopacket.Payload(append([]byte{0, 0, 0, 0}, quote...))}
		}
		for name, spec := range map[string]packetSpec{
			"UDP":            udpTo(0, fam.client, fam.node, 1, 22, "x"),
			"TCP SYN":        tcpTo(0, fam.client, fam.node, 1, 22, syn, ""),
			"TCP data":       tcpTo(0, fam.client, fam.node, 1, 22, func(l *layers.TCP) { l.ACK = true }, "data"),
			"TCP reset":      tcpTo(0, fam.client, fam.node, 1, 22, func(l *layers.TCP) { l.RST = true }, ""),
			"TCP SYN ACK":    tcpTo(0, fam.client, fam.node, 80, 4000, func(l *layers.TCP) { l.SYN, l.ACK = true, true }, ""),
			"last hop":       {src: fam.client, dst: fam.node, ttl: 1, l4: udpTo(0, fam.client, fam.node, 1, 22, "x").l4},
			"ICMP query":     {src: fam.client, dst: fam.node, l4: icmp},
			"ICMP error":     {src: fam.client, dst: fam.node, l4: problem},
			"own port 6636":  udpTo(0, fam.client, fam.node, 6635, 6636, "x"),
			"longer than it": udpTo(0, fam.client, fam.node, 1, 22, strings.Repeat("x", 3000)),
		} {
			b := outside(build(t, spec), gateway)
			r.inject(uplinkPort, b)
			p.run()
			frames := r.sent(vhostPort)
			if len(frames) != 1 || r.sessions() != 0 {
				t.Errorf("%s %s: %d frames, %d sessions; drops %s", fam.name, name, len(frames), r.sessions(), p.drops())
				continue
			}
			got, to := frames[0], mac(byte(vhostPort))
			if string(got[14:]) != string(b[14:len(got)]) || [6]byte(got) != to || [6]byte(got[6:]) != gateway {
				t.Errorf("%s %s: % x became % x", fam.name, name, b, got)
			}
		}
		p.nothing()
	}
}

func TestFragmentsForTheNodeAreHandedOver(t *testing.T) {
	p := newPair(t, way{MPLSoverUDP, 4})
	whole := outside(build(t, udpTo(0, "198.51.100.7", nodeOf[4][0], 1, 22, strings.Repeat("z", 2000))), gateway)
	cut := func(from, to int, flags uint16) []byte {
		b := append(append([]byte(nil), whole[:34]...), whole[34+from:34+to]...)
		ip := header.IPv4(b[14:])
		ip.SetTotalLength(len(ip))
		binary.BigEndian.PutUint16(b[20:], flags|uint16(from/8))
		ip.UpdateChecksum()
		return b
	}
	p.nodes[0].inject(uplinkPort, cut(1000, 2008, 0), cut(0, 1000, header.IPv4MoreFragments))
	p.run()
	if n := len(p.nodes[0].sent(vhostPort)); n != 2 || p.nodes[0].sessions() != 0 {
		t.Errorf("%d fragments; drops %s", n, p.drops())
	}
}

// A superpacket for the node is cut where vhost0 takes none.
func TestSuperpacketForTheNode(t *testing.T) {
	for _, features := range []port.Features{portFeatures, 0} {
		p := newPair(t, way{MPLSoverUDP, 4})
		r := p.nodes[0]
		r.f.Detach(vhostPort)
		r.ports[vhostPort].Close()
		r.attach(vhostPort, features)
		r.run()
		r.sent(vhostPort)
		f := superpacket(t, 0, "198.51.100.7", nodeOf[4][0], 1, 22, 1000, 10)
		outside(f.Bytes(), gateway)
		r.injectFrame(uplinkPort, f)
		p.run()
		want := 1
		if features == 0 {
			want = 10
		}
		if n := len(r.sent(vhostPort)); n != want {
			t.Errorf("%d frames, want %d; drops %s", n, want, p.drops())
		}
	}
}

// A connection from outside to a floating IP is answered to the MAC address that it
// came from.
func TestServiceFromOutside(t *testing.T) {
	for _, fam := range outsideFamilies {
		for node := range 2 { // where the member is
			for _, w := range allWays() {
				p := newPair(t, w)
				p.both(func(s *state) {
					s.members(t, func(m []nexthop.Member) []nexthop.Member { return m[node : node+1] })
					// Workloads reach the world by way of the node, as they do without others.
					s.policies[0].Rules[0].Both = true
				})
				a, b := p.nodes[0], p.nodes[node]
				member, out := bothFamilies[0].web[node], web1Port+uint16(node)
				if fam.name == "IPv6" {
					member = bothFamilies[1].web[node]
				}
				a.inject(uplinkPort, outside(build(t, tcpTo(0, fam.client, fam.service, 4000, 80, syn, "")), gateway))
				p.run()
				got := p.one(node, out)
				checkSums(t, got)
				if src, dst, _ := ends(t, got.NetworkLayer()); src != fam.client || dst != member {
					t.Errorf("%v %s: %s > %s", w, fam.name, src, dst)
				}
				for range 2 {
					b.inject(out, build(t, tcpTo(out, member, fam.client, 8080, 4000, func(l *layers.TCP) { l.SYN, l.ACK, l.Ack = true, true, 1001 }, "")))
					p.nodes[1].run()
					for _, f := range p.nodes[1].sentFrames(uplinkPort) {
						a.injectFrame(uplinkPort, f)
					}
					a.run()
					frames := a.sent(uplinkPort)
					if len(frames) != 1 {
						t.Fatalf("%v %s, member on node %d: %d answers; drops %s", w, fam.name, node, len(frames), p.drops())
					}
					answer := decode(frames[0])
					checkSums(t, answer)
					eth, tcp := answer.LinkLayer().(*layers.Ethernet), answer.Layer(layers.LayerTypeTCP).(*layers.TCP)
					if src, dst, _ := ends(t, answer.NetworkLayer()); src != fam.service || dst != fam.client || tcp.SrcPort != 80 || tcp.DstPort != 4000 {
						t.Errorf("%v %s: %s:%d > %s", w, fam.name, src, tcp.SrcPort, dst)
					}
					if [6]byte(eth.DstMAC) != gateway || [6]byte(eth.SrcMAC) != uplinkMAC(0) {
						t.Errorf("%v %s: MACs %v > %v", w, fam.name, eth.SrcMAC, eth.DstMAC)
					}
					p.both(func(*state) {}) // and once more after the session was decided again
				}
			}
		}
	}
}

func TestBadUplinkPackets(t *testing.T) {
	for _, c := range []struct {
		name  string
		frame func(t *testing.T) []byte
		want  DropReason
	}{
		{"to nobody", func(t *testing.T) []byte { return build(t, udpTo(0, "198.51.100.7", "10.244.0.11", 1, 2, "x")) }, DropUplinkDestination},
		{"to nobody, IPv6", func(t *testing.T) []byte { return build(t, udpTo(0, "2001:db8:51::7", "fd00:244::11", 1, 2, "x")) }, DropUplinkDestination},
		{"from a workload", func(t *testing.T) []byte { return build(t, udpTo(0, "10.244.0.11", "10.96.0.10", 1, 80, "x")) }, DropUplinkSource},
		{"from the node", func(t *testing.T) []byte { return build(t, udpTo(0, nodeOf[4][0], "10.96.0.10", 1, 80, "x")) }, DropUplinkSource},
		{"martian", func(t *testing.T) []byte { return build(t, udpTo(0, "127.0.0.1", "10.96.0.10", 1, 80, "x")) }, DropMartianSource},
		{"port not mapped", func(t *testing.T) []byte { return build(t, udpTo(0, "198.51.100.7", "10.96.0.10", 1, 81, "x")) }, DropFloatingIPPort},
		{"ARP", func(t *testing.T) []byte {
			b := build(t, udpTo(0, "198.51.100.7", "10.96.0.10", 1, 80, "0123456789012345678901234567890"))
			binary.BigEndian.PutUint16(b[12:], header.EtherTypeARP)
			header.PutARP(b[14:], &header.ARPFields{Operation: header.ARPRequest, SenderMAC: gateway, SenderIP: addr("192.0.2.1"), TargetIP: addr(nodeOf[4][0])})
			return b
		}, DropUplinkLink},
	} {
		p := newPair(t, way{MPLSoverUDP, 4})
		r := p.nodes[0]
		r.inject(uplinkPort, outside(c.frame(t), gateway))
		r.run()
		if r.drops(uplinkPort, c.want) != 1 || r.sessions() != 0 {
			t.Errorf("%s: drops %s; want %v", c.name, p.drops(), c.want)
		}
		frames := r.sent(uplinkPort)
		if c.want != DropFloatingIPPort {
			if len(frames) != 0 {
				t.Errorf("%s: answered", c.name)
			}
			p.nothing()
			continue
		}
		if len(frames) != 1 || [6]byte(frames[0]) != gateway || [6]byte(frames[0][6:]) != uplinkMAC(0) {
			t.Errorf("%s: answers %x", c.name, frames)
		}
	}
	for name, change := range map[string]func([]byte){
		"other MAC":      func(b []byte) { b[5] = 99 },
		"broadcast":      func(b []byte) { mac := header.BroadcastMAC(); copy(b, mac[:]) },
		"source MAC":     func(b []byte) { b[6] |= 1 },
		"shorter than a": func([]byte) {},
	} {
		p := newPair(t, way{MPLSoverUDP, 4})
		b := outside(build(t, udpTo(0, "198.51.100.7", nodeOf[4][0], 1, 22, "x")), gateway)
		if change(b); name == "shorter than a" {
			b = b[:13]
		}
		p.nodes[0].inject(uplinkPort, b)
		p.run()
		p.nothing()
	}
}

// Sessions of local workloads are nobody's outside.
func TestSessionOfTheNodeCannotBeForgedFromOutside(t *testing.T) {
	p := newPair(t, way{MPLSoverUDP, 4})
	r := p.nodes[0]
	r.inject(vhostPort, build(t, udpTo(vhostPort, nodeOf[4][0], "10.244.0.11", 1, 2, "x")))
	r.run()
	p.one(0, web1Port)
	r.inject(uplinkPort, outside(build(t, udpTo(0, nodeOf[4][0], "10.244.0.11", 1, 2, "forged")), gateway))
	p.run()
	if r.drops(uplinkPort, DropUplinkSource) != 1 {
		t.Errorf("drops %s", p.drops())
	}
	p.nothing()
}

// A slot stays its MAC address's, two addresses have two, and a full table says so.
func TestNeighborSlots(t *testing.T) {
	r := newRig(t)
	slots := map[uint32][6]byte{}
	full := 0
	for i := range 3 * MaxNeighbors / 2 {
		mac := [6]byte{2, byte(i >> 8), byte(i), 7, 7, 7}
		slot, ok := r.f.Neighbor(mac)
		if !ok {
			full++
			continue
		}
		if had, taken := slots[slot]; taken {
			t.Fatalf("slot %d has %x and %x", slot, had, mac)
		}
		slots[slot] = mac
	}
	for slot, mac := range slots {
		again, _ := r.f.Neighbor(mac)
		if got, ok := r.f.neighbors.at(slot); again != slot || !ok || got != mac {
			t.Fatalf("slot %d of %x is %d with %x", slot, mac, again, got)
		}
	}
	if len(slots) > MaxNeighbors || len(slots) < MaxNeighbors*9/10 || full < MaxNeighbors/2 {
		t.Errorf("%d slots, %d refused", len(slots), full)
	}
}

// Strangers on the link take a part of the slots only, and who has one keeps it.
func TestNeighborSlotsOfStrangers(t *testing.T) {
	r := newRig(t)
	taken := 0
	for i := range 2 * MaxNeighbors {
		if _, ok := r.f.neighbors.slot([6]byte{2, byte(i >> 8), byte(i), 7, 7, 7}, true); ok {
			taken++
		}
	}
	if taken != maxLearned {
		t.Errorf("strangers took %d slots; want %d", taken, maxLearned)
	}
	if _, ok := r.f.neighbors.slot([6]byte{2, 0, 1, 7, 7, 7}, true); !ok {
		t.Error("a stranger that has a slot has lost it")
	}
	for i := range MaxNeighbors / 4 {
		if _, ok := r.f.Neighbor([6]byte{2, byte(i >> 8), byte(i), 8, 8, 8}); !ok {
			t.Fatalf("no slot for known neighbor %d", i)
		}
	}
}

// A route to a gateway leads out of the uplink to its MAC address, and what comes back
// finds the workload.
func TestWorkloadReachesAGateway(t *testing.T) {
	for i, fam := range outsideFamilies {
		p := newPair(t, way{MPLSoverUDP, 4})
		r := p.nodes[0]
		slot, ok := r.f.Neighbor(gateway)
		if !ok {
			t.Fatal("no slot")
		}
		prefix := netip.MustParsePrefix([]string{"198.51.100.0/24", "2001:db8:51::/48"}[i])
		r.state.vrfs[podsVRF][prefix] = nexthop.Route{NextHop: NeighborNextHop(slot), Network: podsNet}
		r.publish()
		pod := bothFamilies[i].web[0]
		for range 3 { // the first by the slow path, the others by the quick one
			r.inject(web1Port, build(t, udpTo(web1Port, pod, fam.client, 7, 9999, "out")))
			r.run()
			got := p.one(0, uplinkPort)
			checkSums(t, got)
			if eth := got.LinkLayer().(*layers.Ethernet); [6]byte(eth.DstMAC) != gateway || [6]byte(eth.SrcMAC) != uplinkMAC(0) {
				t.Errorf("MACs %v > %v", eth.SrcMAC, eth.DstMAC)
			}
			r.inject(uplinkPort, outside(build(t, udpTo(0, fam.client, pod, 9999, 7, "back")), gateway))
			r.run()
			checkSums(t, p.one(0, web1Port))
		}
		if r.sessions() != 1 {
			t.Errorf("%d sessions", r.sessions())
		}
	}
}
