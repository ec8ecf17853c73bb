package forwarder

import (
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/port"
)

// ndSpec describes a neighbour discovery message; what is left out is what an
// honest web-1 would send.
type ndSpec struct {
	from       uint16
	kind       uint8
	src, dst   string // dst: the solicited-node group of target
	target     string
	slla       string // source link-layer address option; "-" = none
	ethernet   string // destination MAC
	hopLimit   uint8
	wantReason DropReason
	wantFlags  uint8 // of the advertisement; 0 = no answer
}

// The flags of an advertisement, as gopacket decodes them.
const (
	ndR, ndS, ndO = 0x80, 0x40, 0x20
)

func ndFrame(t testing.TB, s ndSpec) []byte {
	t.Helper()
	m := mac(byte(s.from))
	target := net.ParseIP(s.target)
	dst := net.ParseIP(s.dst)
	if dst == nil {
		dst = net.IP{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, target[13], target[14], target[15]}
	}
	ether := net.HardwareAddr{0x33, 0x33, dst[12], dst[13], dst[14], dst[15]}
	if s.ethernet != "" {
		ether = mustMAC(t, s.ethernet)
	}
	var options layers.ICMPv6Options
	if s.slla != "-" && s.src != "::" {
		hw := net.HardwareAddr(m[:])
		if s.slla != "" {
			hw = mustMAC(t, s.slla)
		}
		options = append(options, layers.ICMPv6Option{Type: layers.ICMPv6OptSourceAddress, Data: hw})
	}
	kinds := map[uint8]gopacket.SerializableLayer{
		layers.ICMPv6TypeNeighborSolicitation:  &layers.ICMPv6NeighborSolicitation{TargetAddress: target, Options: options},
		layers.ICMPv6TypeNeighborAdvertisement: &layers.ICMPv6NeighborAdvertisement{TargetAddress: target, Flags: ndO},
		layers.ICMPv6TypeRouterSolicitation:    &layers.ICMPv6RouterSolicitation{Options: options},
		layers.ICMPv6TypeRouterAdvertisement:   &layers.ICMPv6RouterAdvertisement{RouterLifetime: 1800},
		layers.ICMPv6TypeRedirect:              &layers.ICMPv6Redirect{TargetAddress: target, DestinationAddress: target},
	}
	eth := &layers.Ethernet{SrcMAC: m[:], DstMAC: ether, EthernetType: layers.EthernetTypeIPv6}
	ip := &layers.IPv6{Version: 6, HopLimit: s.hopLimit, NextHeader: layers.IPProtocolICMPv6, SrcIP: net.ParseIP(s.src), DstIP: dst}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(s.kind, 0)}
	if err := icmp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, eth, ip, icmp, kinds[s.kind]); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestNeighbourDiscovery(t *testing.T) {
	t.Parallel()
	const web1, linkLocal = "fd00:244::11", "fe80::200:ff:fe00:3"
	const router = "fe80::200:5eff:fe00:100"
	tests := map[string]ndSpec{
		// RFC 4861 §7.2.4: override only for the router's own addresses.
		"gateway":              {src: web1, target: "fd00:244::1", wantFlags: ndR | ndS | ndO},
		"gateway, unicast":     {src: web1, dst: "fd00:244::1", target: "fd00:244::1", ethernet: "00:00:5e:00:01:00", wantFlags: ndR | ndS | ndO},
		"gateway, no option":   {src: web1, target: "fd00:244::1", slla: "-", wantFlags: ndR | ndS | ndO},
		"from link-local":      {src: linkLocal, target: "fd00:244::1", wantFlags: ndR | ndS | ndO},
		"router's link-local":  {src: linkLocal, target: router, wantFlags: ndR | ndS | ndO},
		"another pod":          {src: web1, target: "fd00:244::12", wantFlags: ndR | ndS},
		"floating IP":          {src: web1, target: "fd00:96::10", wantFlags: ndR | ndS},
		"behind default route": {src: web1, target: "2001:db8:ffff::1", wantFlags: ndR | ndS},
		"through another VRF":  {src: web1, target: "2001:db8:51::1", wantFlags: ndR | ndS},
		"node, foreign source": {from: vhostPort, src: "2001:db8::77", target: web1, wantFlags: ndR | ndS},

		"discarding route":  {src: web1, target: "fd00:244::99", wantReason: DropNDNoTarget},
		"other link-local":  {src: web1, target: "fe80::1", wantReason: DropNDNoTarget},
		"own address":       {src: web1, target: "fd00:244::21", wantReason: DropNDDuplicateDetection},
		"own route":         {src: web1, target: "fd00:244:9::9", wantReason: DropNDDuplicateDetection},
		"another's source":  {src: "fd00:244::2:1", target: "fd00:244::1", wantReason: DropNDSpoof},
		"router's source":   {src: router, target: "fd00:244::1", wantReason: DropNDSpoof},
		"another's option":  {src: web1, target: "fd00:244::1", slla: "02:00:00:00:00:04", wantReason: DropNDSpoof},
		"loopback source":   {from: vhostPort, src: "::1", target: web1, wantReason: DropMartianSource},
		"to another MAC":    {src: web1, dst: "fd00:244::1", target: "fd00:244::1", ethernet: "02:00:00:00:00:99", wantReason: DropWrongMAC},
		"from beyond":       {src: web1, target: "fd00:244::1", hopLimit: 254, wantReason: DropNDHopLimit},
		"multicast target":  {src: web1, dst: "fd00:244::1", target: "ff02::1", ethernet: "00:00:5e:00:01:00", wantReason: DropNDFormat},
		"advertisement":     {kind: 136, src: web1, dst: "ff02::1", target: web1, wantReason: DropNDAnnouncement},
		"poisoning":         {kind: 136, src: "fd00:244::1", dst: "ff02::1", target: "fd00:244::1", wantReason: DropNDSpoof},
		"solicits a router": {kind: 133, src: linkLocal, dst: "ff02::2", wantReason: DropRouterDiscovery},
		"claims to route":   {kind: 134, src: linkLocal, dst: "ff02::1", wantReason: DropRouterAdvertisement},
		"redirects":         {kind: 137, src: linkLocal, dst: "fd00:244::12", target: web1, ethernet: "00:00:5e:00:01:00", wantReason: DropNDRedirect},

		// RFC 4862 §5.4: duplicate address detection comes from ::. It is answered
		// only where the address certainly is somebody else's.
		"detect own address":   {src: "::", target: web1, wantReason: DropNDDuplicateDetection},
		"detect own linklocal": {src: "::", target: linkLocal, wantReason: DropNDDuplicateDetection},
		"detect gateway":       {src: "::", target: "fd00:244::1", wantFlags: ndR | ndO},
		"detect router":        {src: "::", target: router, wantFlags: ndR | ndO},
		"detect another pod's": {src: "::", target: "fd00:244::12", wantFlags: ndR},
		"detect default route": {src: "::", target: "2001:db8:ffff::1", wantReason: DropNDDuplicateDetection},
		"detect unallocated":   {src: "::", target: "fd00:244::99", wantReason: DropNDDuplicateDetection},
		"detect to unicast":    {src: "::", dst: "fd00:244::1", target: web1, ethernet: "00:00:5e:00:01:00", wantReason: DropNDFormat},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := newNeighbourRig(t)
			if tt.from == 0 {
				tt.from = web1Port
			}
			if tt.kind == 0 {
				tt.kind = layers.ICMPv6TypeNeighborSolicitation
			}
			if tt.hopLimit == 0 {
				tt.hopLimit = 255
			}
			r.inject(tt.from, ndFrame(t, tt))
			r.run()
			if tt.wantFlags == 0 {
				r.silent(tt.from, tt.wantReason)
				return
			}
			checkAdvertisement(t, r.one(tt.from), &tt)
		})
	}
}

// checkAdvertisement holds an advertisement to RFC 4861 §7.2.4 and §4.4.
func checkAdvertisement(t *testing.T, got gopacket.Packet, tt *ndSpec) {
	t.Helper()
	checkSums(t, got)
	na, ok := got.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
	if !ok {
		t.Fatalf("no advertisement in %v", got)
	}
	ip := got.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
	eth := got.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
	asker := mac(byte(tt.from))
	wantDst, wantMAC := net.ParseIP(tt.src), net.HardwareAddr(asker[:])
	if tt.src == "::" {
		wantDst, wantMAC = net.ParseIP("ff02::1"), net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
	}
	if !na.TargetAddress.Equal(net.ParseIP(tt.target)) || na.Flags != tt.wantFlags {
		t.Errorf("target %v, flags %#x; want %v, %#x", na.TargetAddress, na.Flags, tt.target, tt.wantFlags)
	}
	if len(na.Options) != 1 || na.Options[0].Type != layers.ICMPv6OptTargetAddress || string(na.Options[0].Data) != string(RouterMAC[:]) {
		t.Errorf("options %v, want the router's MAC as target link-layer address", na.Options)
	}
	if ip.HopLimit != 255 || !ip.DstIP.Equal(wantDst) || !ip.SrcIP.Equal(net.ParseIP(tt.target)) {
		t.Errorf("IPv6 %v > %v hop limit %d", ip.SrcIP, ip.DstIP, ip.HopLimit)
	}
	if eth.DstMAC.String() != wantMAC.String() || string(eth.SrcMAC) != string(RouterMAC[:]) {
		t.Errorf("Ethernet %v > %v, want to %v", eth.SrcMAC, eth.DstMAC, wantMAC)
	}
}

// RFC 4861 §7.1.1: a neighbor solicitation with a wrong ICMP checksum is silently discarded
func TestNeighbourDiscoveryChecksum(t *testing.T) {
	t.Parallel()
	solicitation := ndSpec{
		from: web1Port, kind: layers.ICMPv6TypeNeighborSolicitation, hopLimit: 255, src: "fd00:244::11", target: "fd00:244::1",
	}
	r := newRig(t)
	b := ndFrame(t, solicitation)
	b[14+40+2] ^= 1
	r.inject(web1Port, b)
	r.run()
	r.silent(web1Port, DropICMPChecksum)

	t.Run("left to the device", func(t *testing.T) {
		r := newRig(t)
		r.injectFrame(web1Port, partialICMPv6(t, ndFrame(t, solicitation)))
		r.run()
		checkSums(t, r.one(web1Port))
	})
	t.Run("left to the device, outside the frame", func(t *testing.T) {
		r := newRig(t)
		f := partialICMPv6(t, ndFrame(t, solicitation))
		f.Offload.CsumOffset = 2000
		r.injectFrame(web1Port, f)
		r.run()
		r.silent(web1Port, DropOffload)
	})
}

// partialICMPv6 returns a frame whose ICMPv6 checksum is left to the device.
func partialICMPv6(t testing.TB, b []byte) *port.Frame {
	t.Helper()
	f := port.NewFrame()
	f.End = f.Start + copy(f.Buf[f.Start:], b)
	ip := header.IPv6(f.Bytes()[14:])
	src, dst := ip.Source(), ip.Destination()
	header.ICMPv6(f.Bytes()[54:]).SetChecksum(header.PseudoHeader(&src, &dst, header.ProtoICMPv6, ip.PayloadLength()))
	f.Offload = port.Offload{Flags: port.NeedsCsum, CsumStart: 54, CsumOffset: 2}
	return f
}

// RFC 5227 §3: an ARP announcement is a request with sender and target the same address
// RFC 4861 §7.2.6: an unsolicited advertisement goes to all nodes, S clear, O set
func TestAnnounce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	before := r.f.PortCounters(web1Port)
	if dev := r.f.Detach(web1Port); dev != nil {
		dev.Close()
	}
	r.attach(web1Port, 0)
	r.run()
	frames := r.sent(web1Port)
	if len(frames) != 3 {
		t.Fatalf("%d frames announced, want ARP for the gateway, ND for the gateway and the link-local address", len(frames))
	}
	if c := r.f.PortCounters(web1Port); c.Generated != before.Generated+3 || c.TxPackets != before.TxPackets+3 {
		t.Errorf("generated %d, sent %d", c.Generated-before.Generated, c.TxPackets-before.TxPackets)
	}
	arp, ok := decode(frames[0]).Layer(layers.LayerTypeARP).(*layers.ARP)
	gateway := net.ParseIP("10.244.0.1")
	if !ok || arp.Operation != layers.ARPRequest || !net.IP(arp.SourceProtAddress).Equal(gateway) ||
		!net.IP(arp.DstProtAddress).Equal(gateway) || string(arp.SourceHwAddress) != string(RouterMAC[:]) ||
		string(arp.DstHwAddress) != string(make([]byte, 6)) || string(frames[0][:6]) != "\xff\xff\xff\xff\xff\xff" {
		t.Errorf("gratuitous ARP: %v", decode(frames[0]))
	}
	for i, target := range []string{"fd00:244::1", "fe80::200:5eff:fe00:100"} {
		checkAdvertisement(t, decode(frames[i+1]), &ndSpec{from: web1Port, src: "::", target: target, wantFlags: ndR | ndO})
	}
}

// An interface that the snapshot does not have is not spoken to, and one
// without gateways hears of the link-local address only.
func TestAnnounceWithoutGateways(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := &r.state.interfaces[web1Port]
	in.Gateway4, in.Gateway6 = [16]byte{}, [16]byte{}
	r.state.interfaces[web2Port] = Interface{}
	r.publish()
	for index, want := range map[uint16]int{web1Port: 1, web2Port: 0} {
		if dev := r.f.Detach(index); dev != nil {
			dev.Close()
		}
		r.attach(index, 0)
		r.run()
		if frames := r.sent(index); len(frames) != want {
			t.Errorf("port %d: %d frames, want %d", index, len(frames), want)
		}
	}
}
