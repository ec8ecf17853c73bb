package netns_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/agent/state"
)

// inject sends frames out of a role's device by a packet socket, past its IP
// stack.
func (h *host) inject(role string, frames ...[]byte) {
	h.t.Helper()
	h.in(role, func() error {
		itf, err := net.InterfaceByName(device(role))
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, f := range frames {
			if err := unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: itf.Index, Halen: 6}); err != nil {
				return err
			}
		}
		return nil
	})
}

var router = net.HardwareAddr{0, 0, 0x5e, 0, 1, 0}

// udpFrame makes a UDP packet to the router.
func udpFrame(t *testing.T, mac net.HardwareAddr, src, dst string, port uint16) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: mac, DstMAC: router, EthernetType: layers.EthernetTypeIPv4}
	udp := &layers.UDP{SrcPort: 4000, DstPort: layers.UDPPort(port)}
	var ip interface {
		gopacket.SerializableLayer
		gopacket.NetworkLayer
	}
	if netip.MustParseAddr(src).Is4() {
		ip = &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.ParseIP(src).To4(), DstIP: net.ParseIP(dst).To4()}
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip = &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: net.ParseIP(src), DstIP: net.ParseIP(dst)}
	}
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	return serialize(t, eth, ip, udp, gopacket.Payload("spoofed"))
}

func serialize(t *testing.T, list ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, list...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// TestSpoofing: what a pod forges is dropped, each kind under its own reason, and
// nobody sees it.
func TestSpoofing(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{})
	own := state.MAC("web-1", "")
	forged := net.HardwareAddr{2, 0, 0, 0, 0xba, 0xd}
	arp := func(mac net.HardwareAddr, ip string, op uint16) []byte {
		return serialize(t, &layers.Ethernet{SrcMAC: own, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP},
			&layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: op,
				SourceHwAddress: mac, SourceProtAddress: net.ParseIP(ip).To4(), DstHwAddress: make([]byte, 6), DstProtAddress: net.ParseIP("10.244.0.12").To4()})
	}
	nd := func(kind uint8, src, dst string, body ...byte) []byte {
		ip := &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6, SrcIP: net.ParseIP(src), DstIP: net.ParseIP(dst)}
		icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
		if err := icmp.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		return serialize(t, &layers.Ethernet{SrcMAC: own, DstMAC: router, EthernetType: layers.EthernetTypeIPv6}, ip, icmp, gopacket.Payload(body))
	}
	solicit := append(make([]byte, 4), net.ParseIP("fd00:244::12")...)
	for _, c := range []struct {
		name, reason string
		frame        []byte
	}{
		// RFC 2827, RFC 3704: ingress filtering.
		{"source IPv4", "SOURCE_SPOOF", udpFrame(t, own, "10.244.0.13", "10.244.0.12", echoPort)},
		{"source IPv6", "SOURCE_SPOOF", udpFrame(t, own, "fd00:244::13", "fd00:244::12", echoPort)},
		{"source MAC", "SOURCE_MAC_SPOOF", udpFrame(t, forged, "10.244.0.11", "10.244.0.12", echoPort)},
		{"ARP sender address", "ARP_SPOOF", arp(own, "10.244.0.13", 1)},
		{"ARP sender MAC", "ARP_SPOOF", arp(forged, "10.244.0.11", 1)},
		{"ARP reply", "ARP_NOT_REQUEST", arp(own, "10.244.0.11", 2)},
		{"ND source", "ND_SPOOF", nd(layers.ICMPv6TypeNeighborSolicitation, "fd00:244::13", "fd00:244::12", solicit...)},
		// RFC 6105: rogue router advertisements.
		{"router advertisement", "ROUTER_ADVERTISEMENT", nd(layers.ICMPv6TypeRouterAdvertisement, "fe80::1", "ff02::1", make([]byte, 12)...)},
		// RFC 1812 section 5.3.7: martian addresses.
		{"loopback", "MARTIAN_SOURCE", udpFrame(t, own, "127.0.0.1", "10.244.0.12", echoPort)},
		{"this network", "MARTIAN_SOURCE", udpFrame(t, own, "0.1.2.3", "10.244.0.12", echoPort)},
		{"class E", "MARTIAN_SOURCE", udpFrame(t, own, "240.0.0.1", "10.244.0.12", echoPort)},
		{"multicast source", "MARTIAN_SOURCE", udpFrame(t, own, "224.0.0.9", "10.244.0.12", echoPort)},
		{"IPv6 loopback", "MARTIAN_SOURCE", udpFrame(t, own, "::1", "fd00:244::12", echoPort)},
		{"to loopback", "MARTIAN_DESTINATION", udpFrame(t, own, "10.244.0.11", "127.0.0.1", echoPort)},
		{"directed broadcast", "", udpFrame(t, own, "10.244.0.11", "10.244.0.255", echoPort)},
	} {
		if c.reason == "" {
			h.inject("web-1", c.frame) // whatever the reason, nobody may see it
			continue
		}
		before := h.drops("web-1", c.reason)
		h.inject("web-1", c.frame)
		for end := time.Now().Add(patience); h.drops("web-1", c.reason) != before+1; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				out, _ := h.vrctl("drops")
				t.Errorf("%s: not dropped as %s:\n%s", c.name, c.reason, out)
				break
			}
		}
	}
	h.get(t, "web-1", at("10.244.0.12", webPort)) // the pod itself is not cut off
	files := []string{h.path("in-web-2.pcap"), h.path("in-web-3.pcap"), h.path("in-client.pcap"), h.path("in-node.pcap")}
	if found := h.tshark(`frame contains "spoofed" || icmpv6.type == 134`, files...); found != "" {
		t.Errorf("forged packets were delivered:\n%s", found)
	}
}

// TestTenants: two tenants with the same addresses never see each other's packets.
func TestTenants(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	roles := []string{"red-1", "red-2", "blue-1", "blue-2"}
	for _, tenant := range []string{"red", "blue"} {
		fmt.Fprintf(&text, `
---
kind: VirtualNetwork
name: %[1]s
spec: {subnets: [{prefix: 10.1.0.0/24, gateway: 10.1.0.254}, {prefix: "fd01::/64", gateway: "fd01::fe"}]}
`, tenant)
		for n := 1; n <= 2; n++ {
			fmt.Fprintf(&text, `
---
kind: VirtualMachineInterface
name: %[1]s-%[2]d
spec: {virtualNetwork: %[1]s, addresses: [10.1.0.%[2]d, "fd01::%[2]d"], tap: {netns: @NS@-%[1]s-%[2]d}}
`, tenant, n)
		}
	}
	h := newHost(t, options{bare: true, roles: roles, state: standardState + text.String()})
	for _, role := range roles {
		h.run(role, "ethtool", "-K", "eth0", "tx", "off")
		h.serveWeb(role, webPort)
		h.serveEcho(role, echoPort)
		h.capture(role)
	}
	for _, address := range []string{"10.1.0.2", "fd01::2"} {
		for range 10 {
			for _, tenant := range []string{"red", "blue"} {
				if server, _ := h.get(t, tenant+"-1", at(address, webPort)); server != tenant+"-2" {
					t.Fatalf("%s-1 was answered by %s", tenant, server)
				}
			}
		}
		// The same tuple in both, source port included.
		for _, tenant := range []string{"red", "blue"} {
			conn, err := h.tryDial(tenant+"-1", "udp", at(address, echoPort), net.Dialer{LocalAddr: &net.UDPAddr{Port: 7777}})
			if err != nil {
				t.Fatal(err)
			}
			server, _, err := echo(conn, []byte("tenant="+tenant))
			if err != nil || server != tenant+"-2" {
				t.Errorf("%s-1 was answered by %s, %v", tenant, server, err)
			}
			conn.Close()
		}
	}
	for _, pair := range [][2]string{{"red", "blue"}, {"blue", "red"}} {
		if found := h.tshark(fmt.Sprintf(`frame contains "tenant=%s"`, pair[1]), h.path("in-"+pair[0]+"-1.pcap"), h.path("in-"+pair[0]+"-2.pcap")); found != "" {
			t.Errorf("%s saw packets of %s:\n%s", pair[0], pair[1], found)
		}
	}
}

// TestFlowQuota: a pod that floods is bounded by its quota, and its neighbours'
// connections work on.
func TestFlowQuota(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{bare: true, state: change("labels: {app: web, zone: a}", "labels: {app: web, zone: a}\n  flowQuota: 100")})
	for _, role := range []string{"web-2", "web-3"} {
		h.serve(role)
	}
	x := h.begin(t, "web-3", at("10.244.0.12", sinkPort))
	if err := x.send(64 << 10); err != nil {
		t.Fatal(err)
	}
	mac := state.MAC("web-1", "")
	frame := udpFrame(t, mac, "10.244.0.11", "10.244.0.12", 1)
	var flood [][]byte
	for port := uint16(1000); port < 6000; port++ {
		f := append([]byte(nil), frame...)
		binary.BigEndian.PutUint16(f[14+20:], port)
		binary.BigEndian.PutUint16(f[14+20+6:], 0) // no checksum (RFC 768)
		flood = append(flood, f)
	}
	h.inject("web-1", flood...)
	h.until("the flood is refused", func() bool { return h.drops("web-1", "FLOW_QUOTA") >= 4000 })
	if p := h.port("web-1"); p.GetSessions() > 100 || p.GetFlowQuota() != 100 {
		t.Errorf("%d sessions with a quota of %d", p.GetSessions(), p.GetFlowQuota())
	}
	eachFamily(t, func(t *testing.T, a addresses) { h.get(t, "web-3", at(a.web[1], webPort)) })
	if err := x.send(1 << 20); err != nil {
		t.Error(err)
	}
	if server, err := x.finish(); err != nil || server != "web-2" {
		t.Errorf("the neighbour's transfer: %s, %v", server, err)
	}
}
