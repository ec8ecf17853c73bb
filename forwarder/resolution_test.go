package forwarder

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/internal/header"
)

// RFC 9161: an address on the segment is answered with its owner's MAC address, a routed one with the
// router's, and a question about any other is passed on
func TestAddressResolutionOnASegment(t *testing.T) {
	p := newSegment(t, 4)
	r := p.nodes[0]
	everybody := []int{int(alias1Port), int(alias2Port), 100 + int(web2Port), 100 + int(web3Port), 100 + int(alias1Port), 100 + int(alias2Port)}
	for target, want := range map[string][6]byte{
		"10.244.0.70": aliasMAC(0, alias1Port), "10.244.0.1": RouterMAC, "10.244.0.12": RouterMAC /* over a route */, "10.96.0.10": RouterMAC, "203.0.113.7": RouterMAC,
	} {
		r.inject(web1Port, arpFrame(t, arpSpec{from: web1Port, op: layers.ARPRequest, sender: "10.244.0.11", target: target}))
		p.run()
		a := p.one(0, web1Port).Layer(layers.LayerTypeARP).(*layers.ARP)
		if [6]byte(a.SourceHwAddress) != want || a.Operation != layers.ARPReply {
			t.Errorf("%s: %v", target, a)
		}
	}
	for _, s := range []arpSpec{
		{from: web1Port, op: layers.ARPRequest, sender: "10.244.0.11", target: "10.244.0.200"}, // an unknown address
		{from: web1Port, op: layers.ARPRequest, sender: "10.244.0.11", target: "10.244.0.11"},  // an announcement
		{from: web1Port, op: layers.ARPReply, sender: "10.244.0.11", target: "10.244.0.11"},
	} {
		frame := arpFrame(t, s)
		r.inject(web1Port, bytes.Clone(frame))
		p.run()
		p.reached(frame, everybody...)
	}
	answer := arpFrame(t, arpSpec{from: web1Port, op: layers.ARPReply, sender: "10.244.0.11", target: "10.244.0.71", ethernet: "02:00:00:00:01:07"})
	r.inject(web1Port, bytes.Clone(answer))
	p.run()
	p.reached(answer, 100+int(alias1Port))
	spoof := arpFrame(t, arpSpec{from: web1Port, op: layers.ARPReply, sender: "10.244.0.70", target: "10.244.0.71", ethernet: "02:00:00:00:01:07"})
	r.inject(web1Port, spoof)
	p.run()
	if p.nothing(); r.drops(web1Port, DropARPSpoof) != 1 {
		t.Errorf("drops %s", p.drops())
	}
	// The owner of a tunnel's inner MAC address, once that is in the bridge table.
	p.both(func(s *state) { s.tunnels[web2Port].InnerMAC = mac(byte(web2Port)) })
	r.inject(web1Port, arpFrame(t, arpSpec{from: web1Port, op: layers.ARPRequest, sender: "10.244.0.11", target: "10.244.0.12"}))
	p.run()
	if a := p.one(0, web1Port).Layer(layers.LayerTypeARP).(*layers.ARP); [6]byte(a.SourceHwAddress) != mac(byte(web2Port)) {
		t.Errorf("%v", a)
	}
}

// discovery is a neighbour discovery message with right checksum.
func discovery(t testing.TB, from, to [6]byte, src, dst string, l gopacket.SerializableLayer, kind uint8) []byte {
	eth := &layers.Ethernet{SrcMAC: from[:], DstMAC: to[:], EthernetType: layers.EthernetTypeIPv6}
	ip := &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6, SrcIP: net.ParseIP(src), DstIP: net.ParseIP(dst)}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
	_ = icmp.SetNetworkLayerForChecksum(ip) // an IP layer it is
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, icmp, l); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func solicitation(t testing.TB, from [6]byte, src, target string) []byte {
	group := header.SolicitedNode(addr(target))
	return discovery(t, from, header.MulticastMAC(group), src, netip.AddrFrom16(group).String(), &layers.ICMPv6NeighborSolicitation{
		TargetAddress: net.ParseIP(target), Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptSourceAddress, Data: from[:]}},
	}, layers.ICMPv6TypeNeighborSolicitation)
}

func advertisement(t testing.TB, from, to [6]byte, src, dst, target string) []byte {
	return discovery(t, from, to, src, dst, &layers.ICMPv6NeighborAdvertisement{
		Flags: 0x20, TargetAddress: net.ParseIP(target), Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptTargetAddress, Data: from[:]}},
	}, layers.ICMPv6TypeNeighborAdvertisement)
}

func TestNeighbourDiscoveryOnASegment(t *testing.T) {
	p := newSegment(t, 4)
	r := p.nodes[0]
	m := mac(byte(web1Port))
	everybody := []int{int(alias1Port), int(alias2Port), 100 + int(web2Port), 100 + int(web3Port), 100 + int(alias1Port), 100 + int(alias2Port)}
	for target, want := range map[string][6]byte{"fd00:244::70": aliasMAC(0, alias1Port), "fd00:244::1": RouterMAC, "fd00:244::12": RouterMAC} {
		r.inject(web1Port, solicitation(t, m, "fd00:244::11", target))
		p.run()
		got := p.one(0, web1Port)
		checkSums(t, got)
		a := got.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
		if len(a.Options) != 1 || [6]byte(a.Options[0].Data) != want || a.Router() != (want == RouterMAC) || [6]byte(got.LinkLayer().(*layers.Ethernet).SrcMAC) != want {
			t.Errorf("%s: %v", target, got)
		}
	}
	for _, q := range [][]byte{
		solicitation(t, m, "fd00:244::11", "fd00:244::dead"), // unknown
		solicitation(t, m, "fe80::11", "fe80::12"),           // link-local
		advertisement(t, m, header.MulticastMAC(allNodes), "fd00:244::11", "ff02::1", "fd00:244::11"),
	} {
		r.inject(web1Port, bytes.Clone(q))
		p.run()
		p.reached(q, everybody...)
	}
	q := advertisement(t, m, aliasMAC(1, alias2Port), "fe80::11", "fe80::12", "fe80::11")
	r.inject(web1Port, bytes.Clone(q))
	p.run()
	p.reached(q, 100+int(alias2Port))
	for i, q := range [][]byte{
		advertisement(t, m, aliasMAC(1, alias2Port), "fe80::11", "fe80::12", "fd00:244::70"), // another's address
		advertisement(t, m, aliasMAC(1, alias2Port), "fe80::11", "fe80::12", "fe80::200:5eff:fe00:100"),
	} {
		r.inject(web1Port, q)
		p.run()
		if p.nothing(); r.drops(web1Port, DropNDSpoof) != uint64(i+1) {
			t.Errorf("drops %s", p.drops())
		}
	}
}

// A node of another kind asks on the wire, in a network that bridges and in one that
// does not, and is answered in its tunnel with the pod's MAC address.
func TestQuestionsFromTheWire(t *testing.T) {
	for _, bridging := range []bool{true, false} {
		for _, underlay := range []int{4, 6} {
			p := newSegment(t, underlay)
			r := p.nodes[0]
			if !bridging {
				p.both(func(s *state) { s.bridges = nil })
			}
			m := strangeMAC // who it is does not matter
			vni := firstVNI + uint32(podsVRF)
			ask := func(frame []byte) {
				r.inject(uplinkPort, p.way.wrapFrame(t, vni, frame))
				r.run()
			}
			answer := func() gopacket.Packet {
				t.Helper()
				frames := r.sent(uplinkPort)
				if len(frames) != 1 {
					t.Fatalf("bridging %v: %d answers; drops %v", bridging, len(frames), r.allDrops())
				}
				pk := decode(frames[0])
				vx := pk.Layer(layers.LayerTypeVXLAN).(*layers.VXLAN)
				if vx.VNI != vni {
					t.Errorf("VNI %d", vx.VNI)
				}
				if src, dst, _ := ends(t, pk.NetworkLayer()); src != nodeOf[underlay][0] || dst != nodeOf[underlay][1] {
					t.Errorf("%s > %s", src, dst)
				}
				return decode(vx.Payload)
			}
			for target, want := range map[string][6]byte{"10.244.0.11": mac(byte(web1Port)), "10.244.0.70": aliasMAC(0, alias1Port), "10.244.0.1": RouterMAC} {
				for _, to := range [][6]byte{broadcast, want} { // the kernel asks its neighbours again by unicast
					ask(framed(m, to, arpFrame(t, arpSpec{from: web2Port, hw: net.HardwareAddr(m[:]).String(), op: layers.ARPRequest, sender: "10.244.0.99", target: target})))
					got := answer()
					a := got.Layer(layers.LayerTypeARP).(*layers.ARP)
					eth := got.LinkLayer().(*layers.Ethernet)
					if [6]byte(a.SourceHwAddress) != want || [6]byte(eth.SrcMAC) != want || [6]byte(eth.DstMAC) != m {
						t.Errorf("%s: %v", target, got)
					}
				}
			}
			ask(solicitation(t, m, "fd00:244::99", "fd00:244::11"))
			got := answer()
			checkSums(t, got)
			if a := got.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement); [6]byte(a.Options[0].Data) != mac(byte(web1Port)) {
				t.Errorf("%v", got)
			}
			for i, c := range []struct {
				reason DropReason
				frame  []byte
			}{
				{DropARPSpoof, arpFrame(t, arpSpec{from: web2Port, hw: "02:00:00:09:09:09", op: layers.ARPRequest, sender: "10.244.0.11", target: "10.244.0.70"})},
				{DropARPSpoof, arpFrame(t, arpSpec{from: web2Port, hw: "02:00:00:09:09:09", op: layers.ARPReply, sender: "10.244.0.1", target: "10.244.0.70"})},
				{DropARPSpoof, arpFrame(t, arpSpec{from: web2Port, hw: "00:00:5e:00:01:00", op: layers.ARPRequest, sender: "10.244.0.99", target: "10.244.0.70"})},
				{DropNDSpoof, advertisement(t, m, header.MulticastMAC(allNodes), "fe80::1", "ff02::1", "fd00:244::11")},
				{DropNDSpoof, solicitation(t, m, "fd00:244::11", "fd00:244::70")},
				{DropTunnelSourceMAC, solicitation(t, RouterMAC, "fd00:244::99", "fd00:244::70")},
				{DropEthernetSource, solicitation(t, broadcast, "fd00:244::99", "fd00:244::70")},
				{DropRouterAdvertisement, discovery(t, m, header.MulticastMAC(allNodes), "fe80::9", "ff02::1", gopacket.Payload(make([]byte, 12)), 134)},
			} {
				was := r.drops(uplinkPort, c.reason)
				if c.frame[12] == 8 {
					framed(m, broadcast, c.frame)
				}
				ask(c.frame)
				if r.drops(uplinkPort, c.reason) != was+1 {
					t.Errorf("bridging %v, %d: want %v, drops %v", bridging, i, c.reason, r.allDrops())
				}
			}
			ask(framed(m, broadcast, arpFrame(t, arpSpec{from: web2Port, hw: "02:00:00:09:09:09", op: layers.ARPRequest, sender: "10.244.0.99", target: "10.244.0.12"})))
			if r.drops(uplinkPort, DropARPNoTarget) != 1 && !bridging {
				t.Errorf("for a pod of another node: drops %v", r.allDrops())
			}
			if len(r.sent(uplinkPort)) != 0 {
				t.Error("it came back")
			}
		}
	}
}
