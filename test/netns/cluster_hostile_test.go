package netns_test

import (
	"net"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

// TestClusterHostile: what somebody on the wire can make up is counted for what it is,
// and no pod sees any of it. Every packet would reach a pod's server but for the one
// thing that is wrong with it, which the first shows.
func TestClusterHostile(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterOptions{nodes: 2, roles: []string{"attacker"}})
	victim, peer := c.nodes[0], c.nodes[1]
	p, from := victim.pods[0], peer.pods[0]
	var arrived atomic.Int64
	server := p.listenUDP(p.name, evilPort)
	go func() {
		b := make([]byte, 2048)
		for {
			if _, _, err := server.ReadFromUDPAddrPort(b); err != nil {
				return
			}
			arrived.Add(1)
		}
	}()
	c.ip("attacker", "address add 192.0.2.66/24 dev eth0")
	a := &attacker{c: c, to: victim}
	a.resolve()

	outer := func() *layers.IPv4 {
		return &layers.IPv4{Version: 4, IHL: 5, TTL: 64, SrcIP: net.ParseIP(peer.address[v4]), DstIP: net.ParseIP(victim.address[v4])}
	}
	inner := func() *layers.IPv4 {
		return &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.ParseIP(from.address[v4]), DstIP: net.ParseIP(p.address[v4])}
	}
	mpls := func(label int, in *layers.IPv4) []gopacket.SerializableLayer {
		return append([]gopacket.SerializableLayer{&layers.UDP{SrcPort: 50000, DstPort: 6635}, &layers.MPLS{Label: uint32(label), StackBottom: true, TTL: 64}}, payload(in)...)
	}
	vxlan := func(vni uint32, valid bool, in *layers.IPv4) []gopacket.SerializableLayer {
		return append([]gopacket.SerializableLayer{
			&layers.UDP{SrcPort: 50000, DstPort: 4789}, &layers.VXLAN{ValidIDFlag: valid, VNI: vni},
			&layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}, DstMAC: net.HardwareAddr{0, 0, 0x5e, 0, 1, 0}, EthernetType: layers.EthernetTypeIPv4},
		}, payload(in)...)
	}
	gre := func(g layers.GRE) []gopacket.SerializableLayer {
		g.Protocol = layers.EthernetTypeMPLSUnicast
		return append([]gopacket.SerializableLayer{&g, &layers.MPLS{Label: uint32(p.label), StackBottom: true, TTL: 64}}, payload(inner())...)
	}
	changed := func(ip *layers.IPv4, change func(*layers.IPv4)) *layers.IPv4 { change(ip); return ip }
	source := func(s string) func(*layers.IPv4) { return func(ip *layers.IPv4) { ip.SrcIP = net.ParseIP(s) } }
	target := func(s string) func(*layers.IPv4) { return func(ip *layers.IPv4) { ip.DstIP = net.ParseIP(s) } }

	for _, h := range []struct {
		name   string
		outer  *layers.IPv4
		rest   []gopacket.SerializableLayer
		cut    int    // bytes off the end
		reason string // "": it arrives
	}{
		{"nothing wrong, MPLS over UDP", outer(), mpls(p.label, inner()), 0, ""},
		{"nothing wrong, VXLAN", outer(), vxlan(podsVNI, true, inner()), 0, ""},
		{"nothing wrong, MPLS over GRE", outer(), gre(layers.GRE{}), 0, ""},
		{"unknown outer source", changed(outer(), source("192.0.2.66")), mpls(p.label, inner()), 0, "TUNNEL_UNKNOWN_PEER"},
		{"our own address as outer source", changed(outer(), source(victim.address[v4])), mpls(p.label, inner()), 0, "TUNNEL_OWN_SOURCE"},
		{"a fragment", changed(outer(), func(ip *layers.IPv4) { ip.Flags = layers.IPv4MoreFragments }), mpls(p.label, inner()), 0, "TUNNEL_FRAGMENT"},
		{"a label that nobody gave out", outer(), mpls(77777, inner()), 0, "TUNNEL_LABEL"},
		{"a reserved label", outer(), mpls(3, inner()), 0, "TUNNEL_LABEL"},
		{"another node's label", outer(), mpls(from.label, inner()), 0, "TUNNEL_LABEL"},
		{"two labels", outer(), append([]gopacket.SerializableLayer{&layers.UDP{SrcPort: 50000, DstPort: 6635}, &layers.MPLS{Label: uint32(p.label), TTL: 64}}, mpls(p.label, inner())[1:]...), 0, "TUNNEL_LABEL_STACK"},
		{"a VNI that nobody has", outer(), vxlan(123456, true, inner()), 0, "TUNNEL_VNI"},
		{"VXLAN without the I flag", outer(), vxlan(podsVNI, false, inner()), 0, "TUNNEL_VNI_FLAG"},
		{"GRE with a key", outer(), gre(layers.GRE{KeyPresent: true, Key: 1}), 0, "TUNNEL_GRE"},
		{"GRE with a sequence number", outer(), gre(layers.GRE{SeqPresent: true, Seq: 1}), 0, "TUNNEL_GRE"},
		{"a tunnel in a tunnel", outer(), append(mpls(p.label, inner())[:2], append([]gopacket.SerializableLayer{
			changed(inner(), func(ip *layers.IPv4) { ip.DstIP = net.ParseIP(victim.address[v4]) }),
		}, mpls(p.label, inner())...)...), 0, "TUNNEL_NESTED"},
		{"a pod of this node as inner source", outer(), mpls(p.label, changed(inner(), source(victim.pods[1].address[v4]))), 0, "TUNNEL_SOURCE"},
		{"a destination that is not behind the label", outer(), mpls(p.label, changed(inner(), target(victim.pods[1].address[v4]))), 0, "TUNNEL_DESTINATION"},
		{"by VNI to a pod of another node", outer(), vxlan(podsVNI, true, changed(inner(), target(peer.pods[1].address[v4]))), 0, "TUNNEL_TRANSIT"},
		{"inner packet cut short", outer(), mpls(p.label, inner()), 30, "IPV4_TOTAL_LENGTH"},
		{"CE on a packet that does not know ECN", changed(outer(), func(ip *layers.IPv4) { ip.TOS = 3 }), mpls(p.label, inner()), 0, "TUNNEL_ECN"},
	} {
		t.Run(h.name, func(t *testing.T) {
			seen, dropped := arrived.Load(), uint64(0)
			if h.reason != "" {
				c.note(h.reason)
				dropped = victim.drops("", h.reason)
			}
			a.send(h.outer, h.rest, h.cut)
			if h.reason == "" {
				c.until("it arrives", func() bool { return arrived.Load() == seen+1 })
				return
			}
			c.until("it is counted as "+h.reason, func() bool { return victim.drops("", h.reason) == dropped+1 })
			if arrived.Load() != seen {
				t.Error("it arrived")
			}
		})
	}
	// What an interface of the tunnel's length says but the frame does not hold.
	t.Run("every cut of a tunnel packet", func(t *testing.T) {
		seen := arrived.Load()
		for _, rest := range [][]gopacket.SerializableLayer{mpls(p.label, inner()), vxlan(podsVNI, true, inner()), gre(layers.GRE{})} {
			for cut := 1; cut < 40; cut++ {
				a.send(outer(), rest, cut)
			}
		}
		a.send(outer(), mpls(p.label, inner()), 0)
		c.until("a whole one arrives after them", func() bool { return arrived.Load() > seen })
		if n := arrived.Load() - seen; n != 1 {
			t.Errorf("%d packets arrived; want 1", n)
		}
		c.note("TUNNEL_SHORT", "SHORT_UDP", "SHORT_IPV4", "UDP_LENGTH", "IPV4_TOTAL_LENGTH", "TUNNEL_PAYLOAD")
	})
	c.reach(t, from, p, v4)
}

// evilPort is where the pod would receive the attacker's datagrams.
const evilPort = 6666

// payload is the datagram inside.
func payload(ip *layers.IPv4) []gopacket.SerializableLayer {
	udp := &layers.UDP{SrcPort: 4000, DstPort: evilPort}
	_ = udp.SetNetworkLayerForChecksum(ip) // an IP header is a network layer
	return []gopacket.SerializableLayer{ip, udp, gopacket.Payload("is anybody in there? ...")}
}

// attacker sends made-up frames to a node's uplink.
type attacker struct {
	c     *cluster
	to    *node
	mac   net.HardwareAddr // of the node's uplink
	index int              // of the attacker's device
}

// resolve finds the MAC address to send to.
func (a *attacker) resolve() {
	a.c.t.Helper()
	a.to.in("node", func() error {
		link, err := net.InterfaceByName("eth0")
		if err == nil {
			a.mac = link.HardwareAddr
		}
		return err
	})
	a.c.in("attacker", func() error {
		link, err := net.InterfaceByName("eth0")
		if err == nil {
			a.index = link.Index
		}
		return err
	})
}

// send sends a frame with the outer header and what follows it, less cut bytes at
// its end; lengths and checksums are those of the whole, but for the outer header's.
func (a *attacker) send(outer *layers.IPv4, rest []gopacket.SerializableLayer, cut int) {
	a.c.t.Helper()
	outer.Protocol = layers.IPProtocolUDP
	if _, ok := rest[0].(*layers.GRE); ok {
		outer.Protocol = layers.IPProtocolGRE
	}
	for _, l := range rest {
		if udp, ok := l.(*layers.UDP); ok && udp.DstPort != evilPort {
			_ = udp.SetNetworkLayerForChecksum(outer)
		}
	}
	fix := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	inside, whole := gopacket.NewSerializeBuffer(), gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(inside, fix, rest...); err != nil {
		a.c.t.Fatal(err)
	}
	b := slices.Clone(inside.Bytes())
	b = b[:max(len(b)-cut, 0)]
	if outer.Protocol == layers.IPProtocolUDP && len(b) >= 8 {
		// RFC 768: none. The length stays that of the whole where only the inside is cut.
		b[6], b[7] = 0, 0
		if cut > 0 {
			b[4], b[5] = byte(len(b)>>8), byte(len(b))
		}
	}
	if err := gopacket.SerializeLayers(whole, fix,
		&layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 0x66}, DstMAC: a.mac, EthernetType: layers.EthernetTypeIPv4}, outer, gopacket.Payload(b)); err != nil {
		a.c.t.Fatal(err)
	}
	a.c.in("attacker", func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, whole.Bytes(), 0, &unix.SockaddrLinklayer{Ifindex: a.index})
	})
}
