package forwarder

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"unsafe"

	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/policy"
	"github.com/vrouter-go/vrouter/nexthop"
)

// A list of told addresses stays 20 bytes for each.
func TestToldAddressSize(t *testing.T) {
	if n := unsafe.Sizeof(toldAddress{}); n != 20 {
		t.Errorf("%d bytes", n)
	}
}

// wanted returns the addresses that the agent is told of.
func (r *rig) wanted() (list []string) {
	r.f.DrainWanted(func(a [16]byte) { list = append(list, netip.AddrFrom16(a).Unmap().String()) })
	return list
}

// onLink has the uplink's link in the routes, with the hosts that are known there.
func (r *rig) onLink(known map[string][6]byte) {
	r.t.Helper()
	s := r.state
	for _, p := range []string{"198.51.100.0/24", "2001:db8:51::/64"} {
		s.vrfs[fabricVRF][netip.MustParsePrefix(p)] = nexthop.Route{NextHop: OnLinkNextHop, Network: fabricNet}
	}
	s.neighbors = map[[16]byte]nexthop.ID{}
	for a, mac := range known {
		slot, ok := r.f.Neighbor(mac)
		if !ok {
			r.t.Fatal("no slot for a neighbor")
		}
		s.neighbors[addr(a)] = NeighborNextHop(slot)
	}
	r.publish()
}

// A pod reaches a host on the uplink's link as soon as it is known: the first packets
// are lost, silently, and the agent is told; what follows goes to the host itself, and a
// session outlives the time in which the host is forgotten.
func TestOnLinkHost(t *testing.T) {
	for family, a := range snatFamilies {
		t.Run(family, func(t *testing.T) {
			r := newSNATRig(t, standardPorts)
			r.onLink(nil)
			call := tcpTo(web1Port, a.pod, a.server, 40000, 443, syn, "")
			send := func(s packetSpec) {
				t.Helper()
				r.inject(s.from, build(t, s))
				r.run()
			}
			for i, want := range [][]string{{a.server}, nil, {a.server}} {
				send(call)
				if got := r.wanted(); !slices.Equal(got, want) {
					t.Errorf("SYN %d: told %v, want %v", i, got, want)
				}
				r.nanos += int64(600e6)
			}
			for index := range r.ports { // an ICMP error would end the connection
				if out := r.sent(index); len(out) != 0 {
					t.Errorf("port %d sent %v", index, decode(out[0]))
				}
			}
			if r.drops(web1Port, DropNeighborUnresolved) != 3 || r.sessions() != 0 || r.f.Charged(web1Port) != 0 {
				t.Errorf("%d sessions, drops %v", r.sessions(), r.allDrops())
			}
			key := flowtable.Key{Src: addr(a.pod), Dst: addr(a.server), SrcPort: 1, DstPort: 443, Proto: 6}
			if e := r.f.Explain(web1Port, key); e.Verdict != "DROP" || e.Reason != DropNeighborUnresolved || len(r.wanted()) != 0 {
				t.Errorf("explain says %s, %s", e.Verdict, e.Reason)
			}

			r.onLink(map[string][6]byte{a.server: outsideMAC})
			r.nanos += int64(6e9)
			src, _, mapped, _ := tuple(r.leave(call))
			if src != a.node {
				t.Errorf("left as %s", src)
			}
			if got := r.wanted(); !slices.Equal(got, []string{a.server}) { // so that it is looked after
				t.Errorf("told %v of a host in use", got)
			}
			r.arrive(tcpTo(uplinkPort, a.server, a.node, 443, mapped, synAck, ""))
			r.one(web1Port)
			segment := tcpTo(web1Port, a.pod, a.server, 40000, 443, ack, "")
			for range 2 {
				r.leave(segment)
			}

			r.onLink(nil) // forgotten
			r.nanos += int64(2e9)
			for i, want := range [][]string{{a.server}, nil} {
				send(segment)
				if got := r.wanted(); !slices.Equal(got, want) {
					t.Errorf("segment %d to one that was forgotten: told %v, want %v", i, got, want)
				}
			}
			other := [6]byte{2, 0, 0, 0, 9, 9}
			r.onLink(map[string][6]byte{a.server: other}) // and found again, as another
			send(segment)
			p := r.one(uplinkPort)
			if _, _, port, _ := tuple(p); port != mapped || [6]byte(p.LinkLayer().(*layers.Ethernet).DstMAC) != other {
				t.Errorf("goes on as port %d, want %d: %v", port, mapped, p.LinkLayer())
			}
		})
	}
}

// Nobody makes the kernel ask for hosts but those whom policy lets reach them, and they
// only so often; one port's scan does not cost another its turn.
func TestOnLinkScan(t *testing.T) {
	for family, a := range snatFamilies {
		t.Run(family, func(t *testing.T) {
			r := newSNATRig(t, standardPorts)
			r.onLink(nil)
			rules := r.state.policies
			r.state.policies = []policy.NetworkPolicy{{Networks: []uint32{fabricNet, podsNet}, Rules: []policy.NetworkRule{
				{Rule: 900, SrcNetwork: podsNet, DstNetwork: fabricNet, Action: policy.Deny, Both: true},
			}}}
			r.publish()
			r.inject(web1Port, build(t, udpTo(web1Port, a.pod, a.server, 1, 7, "x")))
			r.run()
			if got := r.wanted(); len(got) != 0 || r.drops(web1Port, DropNetworkPolicy) != 1 {
				t.Errorf("told %v of what policy forbids; drops %v", got, r.allDrops())
			}
			r.state.policies = rules
			r.publish()
			seen := map[string]bool{}
			for n := range 200 {
				r.inject(web1Port, build(t, udpTo(web1Port, a.pod, a.at(n), 1, 7, "x")))
				r.run()
			}
			for _, address := range r.wanted() {
				seen[address] = true
			}
			if len(seen) != wantedBurst {
				t.Errorf("told of %d hosts, want %d", len(seen), wantedBurst)
			}
			r.inject(web2Port, build(t, udpTo(web2Port, a.other, a.at(220), 1, 7, "x")))
			r.run()
			if got := r.wanted(); !slices.Equal(got, []string{a.at(220)}) {
				t.Errorf("told %v for another pod", got)
			}
			clear(seen)
			for n := range 100 { // ten seconds
				r.nanos += int64(100e6)
				r.inject(web1Port, build(t, udpTo(web1Port, a.pod, a.at(n), 2, 7, "x")))
				r.inject(web1Port, build(t, udpTo(web1Port, a.pod, a.at(n+100), 2, 7, "x")))
				r.run()
				for _, address := range r.wanted() {
					seen[address] = true
				}
			}
			if len(seen) < 90 || len(seen) > 100 {
				t.Errorf("told of %d hosts in ten seconds: %v", len(seen), slices.Sorted(maps.Keys(seen)))
			}
		})
	}
}

// Direct server return to a client on the member's own link: answers go by the node that
// was called until the client is known, and nothing is lost.
func TestDirectServerReturnOnLink(t *testing.T) {
	eachExternal(t, func(t *testing.T, p *pair, family int) {
		p.services(func(svc *Service) { svc.DirectReturn = true })
		p.services(keep(t, func(m nexthop.Member) bool { return m.ID != web1ID }))
		p.nodes[1].onLink(nil)
		node, member, got := p.call(family, 40000, syn, "")
		if node != 1 || got == nil {
			t.Fatalf("node %d; drops %s", node, p.drops())
		}
		if told := p.nodes[1].wanted(); !slices.Equal(told, []string{outsideOf[family]}) {
			t.Errorf("told %v", told)
		}
		if by, _ := p.answer(family, node, member, 40000, accept); by != 0 {
			t.Fatalf("left by node %d, which does not know the client", by)
		}
		p.nodes[1].onLink(map[string][6]byte{outsideOf[family]: callerMAC})
		by, frame := p.answer(family, node, member, 40000, accept)
		checkSums(t, frame)
		if src, dst, _ := ends(t, frame.NetworkLayer()); by != 1 || src != nodeOf[family][0] || dst != outsideOf[family] {
			t.Fatalf("left by node %d: %v", by, frame)
		}
		if eth := frame.Layer(layers.LayerTypeEthernet).(*layers.Ethernet); [6]byte(eth.DstMAC) != callerMAC || [6]byte(eth.SrcMAC) != uplinkMAC(1) {
			t.Fatalf("Ethernet addresses: %v", eth)
		}
		p.nodes[1].onLink(nil)
		p.nodes[1].nanos += int64(2e9)
		p.nodes[1].inject(member, build(t, tcpTo(member, map[int]string{4: "10.244.0.1", 6: "fd00:244::1"}[family]+fmt.Sprint(1+member-web1Port), outsideOf[family], 8080, 40000, accept, "")))
		p.run()
		if told := p.nodes[1].wanted(); !slices.Equal(told, []string{outsideOf[family]}) || p.nodes[1].sessions() != 1 {
			t.Errorf("told %v when the client was forgotten; drops %s", told, p.drops())
		}
		p.nodes[1].onLink(map[string][6]byte{outsideOf[family]: callerMAC})
		if by, _ := p.answer(family, node, member, 40000, accept); by != 1 {
			t.Errorf("left by node %d when the client was known again; drops %s", by, p.drops())
		}
	})
}
