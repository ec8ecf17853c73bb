package forwarder

import (
	"net"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/nexthop"
)

// arpSpec describes an ARP packet; what is left out is what an honest web-1
// would send.
type arpSpec struct {
	from         uint16
	op           uint16
	sender, hw   string // protocol and hardware address of the sender
	target       string
	ethernet     string // destination MAC
	wantReason   DropReason
	wantAnswered bool
}

func arpFrame(t testing.TB, s arpSpec) []byte {
	t.Helper()
	m := mac(byte(s.from))
	hw := net.HardwareAddr(m[:])
	if s.hw != "" {
		hw = mustMAC(t, s.hw)
	}
	dst := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	if s.ethernet != "" {
		dst = mustMAC(t, s.ethernet)
	}
	eth := &layers.Ethernet{SrcMAC: m[:], DstMAC: dst, EthernetType: layers.EthernetTypeARP}
	arp := &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
		Operation: s.op, SourceHwAddress: hw, SourceProtAddress: net.ParseIP(s.sender).To4(),
		DstHwAddress: make([]byte, 6), DstProtAddress: net.ParseIP(s.target).To4(),
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{}, eth, arp); err != nil {
		t.Fatal(err)
	}
	return append(buf.Bytes(), make([]byte, 18)...) // padded to 60 bytes, as a wire would
}

func mustMAC(t testing.TB, s string) net.HardwareAddr {
	t.Helper()
	m, err := net.ParseMAC(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestARP(t *testing.T) {
	t.Parallel()
	const request, reply, web1 = layers.ARPRequest, layers.ARPReply, "10.244.0.11"
	tests := map[string]arpSpec{
		"gateway":              {op: request, sender: web1, target: "10.244.0.1", wantAnswered: true},
		"gateway, unicast":     {op: request, sender: web1, target: "10.244.0.1", ethernet: "00:00:5e:00:01:00", wantAnswered: true},
		"another pod":          {op: request, sender: web1, target: "10.244.0.12", wantAnswered: true},
		"floating IP":          {op: request, sender: web1, target: "10.96.0.10", wantAnswered: true},
		"behind default route": {op: request, sender: web1, target: "8.8.8.8", wantAnswered: true},
		"through another VRF":  {op: request, sender: web1, target: "198.51.100.1", wantAnswered: true},

		"discarding route":     {op: request, sender: web1, target: "10.244.0.99", wantReason: DropARPNoTarget},
		"routes in a circle":   {op: request, sender: web1, target: "198.18.0.1", wantReason: DropARPNoTarget},
		"link-local":           {op: request, sender: web1, target: "169.254.1.1", wantReason: DropARPNoTarget},
		"within own range":     {op: request, sender: "10.244.0.41", target: "10.244.0.42", wantReason: DropARPNoTarget},
		"own address":          {op: request, sender: web1, target: "10.244.0.21", wantReason: DropARPDuplicateDetection},
		"own route":            {op: request, sender: web1, target: "10.244.9.9", wantReason: DropARPDuplicateDetection},
		"announcement":         {op: request, sender: web1, target: web1, wantReason: DropARPAnnouncement},
		"announcing reply":     {op: reply, sender: web1, target: web1, wantReason: DropARPAnnouncement},
		"reply":                {op: reply, sender: web1, target: "10.244.0.12", wantReason: DropARPNotRequest},
		"another's IP":         {op: request, sender: "10.244.0.12", target: "10.244.0.1", wantReason: DropARPSpoof},
		"the gateway's IP":     {op: request, sender: "10.244.0.1", target: "10.244.0.1", wantReason: DropARPSpoof},
		"poisoning reply":      {op: reply, sender: "10.244.0.1", target: "10.244.0.12", wantReason: DropARPSpoof},
		"another's MAC":        {op: request, sender: web1, hw: "02:00:00:00:00:04", target: "10.244.0.1", wantReason: DropARPSpoof},
		"a group's MAC":        {op: request, sender: web1, hw: "01:00:00:00:00:04", target: "10.244.0.1", wantReason: DropARPSpoof},
		"to another MAC":       {op: request, sender: web1, target: "10.244.0.1", ethernet: "02:00:00:00:00:99", wantReason: DropWrongMAC},
		"node, foreign sender": {from: vhostPort, op: request, sender: "192.0.2.77", target: web1, wantAnswered: true},
		"node, loopback":       {from: vhostPort, op: request, sender: "127.0.0.1", target: web1, wantReason: DropMartianSource},
		"node, own address":    {from: vhostPort, op: request, sender: "192.0.2.10", target: "192.0.2.10", wantReason: DropARPAnnouncement},

		// RFC 5227 §2.1.1: probes come from 0.0.0.0. They are answered only where
		// the address certainly is somebody else's.
		"probe own address":   {op: request, sender: "0.0.0.0", target: web1, wantReason: DropARPDuplicateDetection},
		"probe gateway":       {op: request, sender: "0.0.0.0", target: "10.244.0.1", wantAnswered: true},
		"probe another pod's": {op: request, sender: "0.0.0.0", target: "10.244.0.12", wantAnswered: true},
		"probe default route": {op: request, sender: "0.0.0.0", target: "8.8.8.8", wantReason: DropARPDuplicateDetection},
		"probe unallocated":   {op: request, sender: "0.0.0.0", target: "10.244.0.99", wantReason: DropARPNoTarget},
		"probe another's MAC": {op: request, sender: "0.0.0.0", hw: "02:00:00:00:00:04", target: web1, wantReason: DropARPSpoof},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := newNeighbourRig(t)
			if tt.from == 0 {
				tt.from = web1Port
			}
			before := r.f.PortCounters(tt.from)
			r.inject(tt.from, arpFrame(t, tt))
			r.run()
			if !tt.wantAnswered {
				r.silent(tt.from, tt.wantReason)
				return
			}
			got := r.one(tt.from)
			arp, ok := got.Layer(layers.LayerTypeARP).(*layers.ARP)
			if !ok {
				t.Fatalf("no ARP in %v", got)
			}
			eth := got.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
			asker := mac(byte(tt.from))
			if arp.Operation != reply || string(arp.SourceHwAddress) != string(RouterMAC[:]) ||
				string(arp.DstHwAddress) != string(asker[:]) ||
				!net.IP(arp.SourceProtAddress).Equal(net.ParseIP(tt.target)) ||
				!net.IP(arp.DstProtAddress).Equal(net.ParseIP(tt.sender)) {
				t.Errorf("wrong reply: %v", got)
			}
			if string(eth.SrcMAC) != string(RouterMAC[:]) || string(eth.DstMAC) != string(asker[:]) || len(got.Data()) != 42 {
				t.Errorf("wrong frame: %v", got)
			}
			if c := r.f.PortCounters(tt.from); c.RxPackets != 1 || c.TxPackets != before.TxPackets+1 || c.Generated != before.Generated {
				t.Errorf("counters %+v; want the request turned in place", c)
			}
		})
	}
}

// newNeighbourRig is newRig with a default route, a discarding subnet, VRF next
// hops and a second own address for web-1.
func newNeighbourRig(t testing.TB) *rig {
	r := newRig(t)
	web1 := &r.state.interfaces[web1Port]
	for _, a := range []string{"10.244.0.21", "fd00:244::21"} {
		web1.Sources = append(web1.Sources, AddressRange{Address: addr(a), Bits: 128})
	}
	// A range that it may send from does not make every address in it the workload's.
	web1.Sources = append(web1.Sources, AddressRange{Address: addr("10.244.0.40"), Bits: 126})
	toClients := vrfID + nexthop.ID(clientVRF)
	pods, clients := r.state.vrfs[podsVRF], r.state.vrfs[clientVRF]
	for _, p := range []string{"0.0.0.0/0", "::/0"} {
		pods[netip.MustParsePrefix(p)] = nexthop.Route{NextHop: InterfaceNextHop(vhostPort), Network: fabricNet}
	}
	for _, p := range []string{"10.244.0.0/24", "fd00:244::/64"} {
		pods[netip.MustParsePrefix(p)] = nexthop.Route{NextHop: nexthop.ID(DropDiscardRoute), Network: podsNet}
	}
	for _, p := range []string{"10.244.9.0/24", "fd00:244:9::/64"} {
		pods[netip.MustParsePrefix(p)] = nexthop.Route{NextHop: InterfaceNextHop(web1Port), Network: podsNet}
	}
	for _, p := range []string{"198.51.100.0/24", "198.18.0.0/15", "2001:db8:51::/48"} {
		pods[netip.MustParsePrefix(p)] = nexthop.Route{NextHop: toClients}
	}
	for _, p := range []string{"198.51.100.0/24", "2001:db8:51::/48"} {
		clients[netip.MustParsePrefix(p)] = nexthop.Route{NextHop: InterfaceNextHop(clientPort)}
	}
	clients[netip.MustParsePrefix("198.18.0.0/15")] = nexthop.Route{NextHop: vrfID + nexthop.ID(podsVRF)}
	r.publish()
	return r
}

// silent expects that no port sent anything and that the one packet from a port
// ended with a reason.
func (r *rig) silent(from uint16, reason DropReason) {
	r.t.Helper()
	for i := range r.ports {
		if frames := r.sent(i); len(frames) != 0 {
			r.t.Errorf("port %d sent %v", i, decode(frames[0]))
		}
	}
	if r.drops(from, reason) != 1 {
		r.t.Errorf("drops %v, want one %v", r.allDrops(), reason)
	}
}
