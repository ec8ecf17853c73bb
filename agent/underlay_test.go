package agent_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/agent/underlay"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/nexthop"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// cluster is a node with one pod and a service whose other member is on node-b; all
// members of the service "afar" are there.
var cluster = []string{
	`{"name":"node","fabric":{"vhost0":{"addresses":["192.0.2.10/24"]},"uplink":{"device":"eth0"},"peers":[{"name":"node-b","addresses":["192.0.2.12"]},{"name":"node-c","addresses":["192.0.2.13"]}]}}`,
	`{"name":"pods","virtualNetwork":{"label":100000,"subnets":[{"prefix":"10.244.0.0/24","gateway":"10.244.0.1"}]}}`,
	`{"name":"services","virtualNetwork":{}}`,
	`{"name":"web-1","virtualMachineInterface":{"virtualNetwork":"pods","macAddress":"02:00:00:00:00:01","addresses":["10.244.0.11"]}}`,
	`{"name":"afar","floatingIp":{"address":"10.96.0.20","virtualNetwork":"services","floatingIpPortMappings":{"portMappings":[{"srcPort":80,"dstPort":8080}]},
		"members":[{"virtualMachineInterface":"web-9","address":"10.244.1.11","tunnel":{"remote":"192.0.2.12","label":100017}}]}}`,
	`{"name":"beyond","route":{"vrf":"pods","prefix":"10.244.1.0/24","nextHops":[{"tunnel":{"remote":"192.0.2.12","label":100000}}]}}`,
	`{"name":"use","networkPolicy":{"virtualNetworks":["pods","services"],"rules":[{"action":"PASS","protocol":"TCP"}]}}`,
}

// reached is a view in which node-b is on the link and node-c does not answer.
var reached = underlay.View{
	Link:      underlay.Link{Index: 2, MAC: [6]byte{2, 0, 0, 0, 0, 10}, MTU: 9000, Up: true},
	Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.10")},
	Paths: map[netip.Addr]underlay.Path{
		netip.MustParseAddr("192.0.2.12"): {NextHop: netip.MustParseAddr("192.0.2.12"), MAC: [6]byte{2, 0, 0, 0, 0, 12}, State: underlay.Resolved, MTU: 8000},
		netip.MustParseAddr("192.0.2.13"): {NextHop: netip.MustParseAddr("192.0.2.13"), State: underlay.Failed, MTU: 9000},
	},
	Exits: []underlay.Exit{{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("192.0.2.1"), MAC: [6]byte{2, 0, 0, 0, 0, 1}}},
}

// TestUnderlayIsPublished holds that news of the other nodes reach the forwarder under
// the generation in force, keep what does not depend on them, and stay with the next
// transaction.
func TestUnderlayIsPublished(t *testing.T) {
	r := start(t, "")
	r.apply(&pb.ApplyRequest{Upserts: resources(t, cluster...)})
	before := r.forwarder.Snapshot()
	r.agent.Underlay(reached)
	after := r.forwarder.Snapshot()
	if after.Epoch == before.Epoch || after.Generation != before.Generation || r.status().GetGeneration().GetLevel() != pb.Generation_PROGRAMMED {
		t.Errorf("epoch %d after %d, generation %d after %d", after.Epoch, before.Epoch, after.Generation, before.Generation)
	}
	for i := range after.VRFs {
		if i != 0 && after.VRFs[i].FIB != before.VRFs[i].FIB {
			t.Errorf("VRF %s has another table", after.VRFs[i].Name)
		}
	}
	if &after.Tunnels[0] != &before.Tunnels[0] || &after.Labels[0] != &before.Labels[0] {
		t.Error("tunnels or labels were copied")
	}
	check := func(when string) {
		t.Helper()
		snap := r.forwarder.Snapshot()
		b, c := &snap.Peers[0], &snap.Peers[1]
		if b.Name != "node-b" || !b.Resolved || b.Down || b.Neighbor != [6]byte{2, 0, 0, 0, 0, 12} || b.MTU != 8000 || !c.Down || c.Resolved {
			t.Errorf("%s: peers %+v", when, snap.Peers)
		}
		if up := &snap.Interfaces[snap.Uplink]; up.MTU != 9000 || up.MAC != [6]byte{2, 0, 0, 0, 0, 10} {
			t.Errorf("%s: uplink %+v", when, up)
		}
		outside := netip.MustParseAddr("203.0.113.1").As16()
		if route, ok := snap.VRFs[0].FIB.Lookup(&outside); !ok || snap.NextHops.At(route.NextHop).Kind != nexthop.Neighbor {
			t.Errorf("%s: no way out by the gateway", when)
		}
	}
	check("published")
	r.apply(&pb.ApplyRequest{Upserts: resources(t, `{"name":"more","virtualNetwork":{}}`)})
	check("after a transaction")

	st := r.status()
	if u := st.GetUplink(); !u.GetUp() || u.GetMtu() != 9000 || u.GetDevice() != "eth0" || u.GetTunnels() != 2 || len(u.GetEncapsulations()) != 3 {
		t.Errorf("uplink %v", u)
	}
	if p := st.GetPeers(); len(p) != 2 || p[0].GetState() != pb.PeerStatus_UP || p[0].GetMacAddress() != "02:00:00:00:00:0c" ||
		p[1].GetState() != pb.PeerStatus_DOWN || !strings.Contains(p[1].GetReason(), "no answer") {
		t.Errorf("peers %v", p)
	}
}

// TestPeerDown holds that a node that does not answer takes no new flow until it does
// again.
func TestPeerDown(t *testing.T) {
	r := start(t, "")
	r.apply(&pb.ApplyRequest{Upserts: resources(t, cluster...)})
	r.agent.Underlay(reached)
	ask := &pb.ExplainRequest{VirtualMachineInterface: "web-1", Destination: "10.96.0.20", Protocol: pb.Protocol_TCP, DestinationPort: 80}
	verdict := func() *pb.ExplainResponse {
		t.Helper()
		x, err := r.api.Explain(t.Context(), ask)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	x := verdict()
	text := x.String()
	if x.GetVerdict() != pb.Verdict_FORWARD || x.GetMember() != "web-9" || x.GetOutput() != "uplink" ||
		!strings.Contains(text, "node-b maps 10.96.0.20:80 to 10.244.1.11:8080 out of web-9") || !strings.Contains(text, "to node-b at 192.0.2.12, MPLS_UDP label 100017") {
		t.Errorf("explain: %s", text)
	}
	b := netip.MustParseAddr("192.0.2.12")
	r.agent.PeerDown(b, true)
	if x := verdict(); x.GetVerdict() != pb.Verdict_DROP {
		t.Errorf("while node-b is down: %v", x)
	}
	if p := r.status().GetPeers()[0]; p.GetState() != pb.PeerStatus_DOWN || !strings.Contains(p.GetReason(), "BFD") {
		t.Errorf("peer %v", p)
	}
	r.agent.PeerDown(b, false)
	if x := verdict(); x.GetVerdict() != pb.Verdict_FORWARD {
		t.Errorf("when node-b is back: %v", x)
	}
}

// TestTunnelTraffic sends a packet to a service whose member is on node-b: gopacket
// reads the label that node-b gave and the address and port that were dialled, and the
// flow is listed with the tunnel and the member behind it.
func TestTunnelTraffic(t *testing.T) {
	r := start(t, "")
	r.apply(&pb.ApplyRequest{Upserts: resources(t, cluster...)})
	r.agent.Underlay(reached)
	r.device("web-1").Inject(0, syn(t, "10.96.0.20", 80))
	var sent gopacket.Packet
	frame := port.NewFrame()
	eventually(t, "a packet out of the uplink", func() bool {
		if r.device("uplink").Drain(0, []*port.Frame{frame}) == 0 {
			return false
		}
		sent = gopacket.NewPacket(slices.Clone(frame.Bytes()), layers.LayerTypeEthernet, gopacket.Default)
		return true
	})
	eth, ip := sent.LinkLayer().(*layers.Ethernet), sent.NetworkLayer().(*layers.IPv4)
	udp := sent.TransportLayer().(*layers.UDP)
	if eth.DstMAC.String() != "02:00:00:00:00:0c" || eth.SrcMAC.String() != "02:00:00:00:00:0a" ||
		ip.SrcIP.String() != "192.0.2.10" || ip.DstIP.String() != "192.0.2.12" || udp.DstPort != 6635 {
		t.Errorf("outer headers: %v", sent)
	}
	inner := gopacket.NewPacket(udp.Payload, layers.LayerTypeMPLS, gopacket.Default)
	mpls, ok := inner.Layer(layers.LayerTypeMPLS).(*layers.MPLS)
	tcp, ok2 := inner.Layer(layers.LayerTypeTCP).(*layers.TCP)
	if !ok || !ok2 || mpls.Label != 100017 || tcp.DstPort != 80 || inner.NetworkLayer().(*layers.IPv4).DstIP.String() != "10.96.0.20" {
		t.Errorf("inner packet: %v", inner)
	}
	flows := r.flows(&pb.FlowFilter{VirtualMachineInterface: "web-9"})
	if len(flows) != 1 || flows[0].GetNextHop() != "tunnel node-b MPLS_UDP 100017" || flows[0].GetMember() != "web-9" ||
		flows[0].GetFloatingIp() != "afar" || flows[0].GetOutput() != "uplink" {
		t.Errorf("flows to web-9: %v", flows)
	}
}

// TestHostsOnTheLink holds that the link's prefix and the hosts that are known there reach
// the forwarder, that a route of the operator's inside the prefix goes before them, and
// that hosts alone rebuild no table.
func TestHostsOnTheLink(t *testing.T) {
	r := start(t, "")
	r.apply(&pb.ApplyRequest{Upserts: resources(t, append(cluster,
		`{"name":"not-there","route":{"vrf":"ip-fabric","prefix":"192.0.2.128/25","nextHops":[{"tunnel":{"remote":"192.0.2.12","label":100000}}]}}`)...)})
	v := reached
	v.Exits = append(slices.Clone(v.Exits), underlay.Exit{Prefix: netip.MustParsePrefix("192.0.2.0/24")})
	r.agent.Underlay(v)
	before := r.forwarder.Snapshot()
	v.Neighbors = map[netip.Addr][6]byte{netip.MustParseAddr("192.0.2.77"): {2, 0, 0, 0, 0, 77}, netip.MustParseAddr("192.0.2.200"): {2, 0, 0, 0, 0, 78}}
	r.agent.Underlay(v)
	snap := r.forwarder.Snapshot()
	if snap.VRFs[0].FIB != before.VRFs[0].FIB {
		t.Error("another table for the sake of hosts")
	}
	host, hidden := netip.MustParseAddr("192.0.2.77").As16(), netip.MustParseAddr("192.0.2.200").As16()
	slot, _ := r.forwarder.Neighbor([6]byte{2, 0, 0, 0, 0, 77})
	if route, ok := snap.VRFs[0].FIB.Lookup(&host); !ok || route.NextHop != forwarder.OnLinkNextHop || snap.Neighbors[host] != forwarder.NeighborNextHop(slot) {
		t.Errorf("next hop %d, known %v", route.NextHop, snap.Neighbors)
	}
	if route, ok := snap.VRFs[0].FIB.Lookup(&hidden); !ok || snap.NextHops.At(route.NextHop).Kind != nexthop.Tunnel {
		t.Errorf("the operator's route gave way to a host: %v", snap.NextHops.At(route.NextHop))
	}

	// More hosts than half of the slots: the other half stays for others.
	v.Neighbors = map[netip.Addr][6]byte{}
	a := netip.MustParseAddr("192.0.2.0")
	for i := range 3000 {
		a = a.Next()
		v.Neighbors[a] = [6]byte{2, 1, 0, 0, byte(i >> 8), byte(i)}
	}
	r.agent.Underlay(v)
	if n := len(r.forwarder.Snapshot().Neighbors); n < forwarder.MaxNeighbors/2-2 || n > forwarder.MaxNeighbors/2 {
		t.Errorf("%d hosts have slots", n)
	}
}
