package agent_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/port"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// TestBridging turns on bridging: a frame to a MAC address arrives as it was sent, its
// session is listed as bridged, and explain tells the same, for MAC addresses behind an
// interface and those of nobody too.
func TestBridging(t *testing.T) {
	r := start(t, "")
	r.apply(&pb.ApplyRequest{Upserts: resources(t,
		`{"name":"segment","virtualNetwork":{"bridging":true,"subnets":[{"prefix":"10.244.0.0/24"}]}}`,
		`{"name":"web-1","virtualMachineInterface":{"virtualNetwork":"segment","addresses":["10.244.0.11"],"macAddress":"02:00:00:00:00:01"}}`,
		`{"name":"web-2","virtualMachineInterface":{"virtualNetwork":"segment","addresses":["10.244.0.12"],"macAddress":"02:00:00:00:00:02"}}`,
		`{"name":"behind","route":{"vrf":"segment","macAddress":"02:00:00:00:00:03","nextHops":[{"interface":"web-2"}]}}`,
	)})
	send := func(mac [6]byte, dst string) *port.Frame {
		f := syn(t, dst, 80)
		header.Ethernet(f.Bytes()).SetDestination(mac)
		return f
	}
	to, behind := [6]byte{2, 0, 0, 0, 0, 2}, [6]byte{2, 0, 0, 0, 0, 3}
	r.device("web-1").Inject(0, send(to, "10.244.0.12"), send(behind, "10.244.0.13"))
	for range 2 {
		r.received("web-2")
	}
	flows := r.flows(&pb.FlowFilter{Vrf: "segment"})
	if len(flows) != 2 || !flows[0].GetBridged() || flows[0].GetOutput() != "web-2" || flows[0].GetRule() != "default/same-network" {
		t.Errorf("flows %v", flows)
	}
	for _, c := range []struct {
		mac, dst, reason, output string
	}{
		{"02:00:00:00:00:02", "10.244.0.12", "live session", "web-2"},
		{"02:00:00:00:00:03", "10.244.0.12", "live session", "web-2"}, // behind one interface: the ends are the same
		{"02:00:00:00:00:03", "10.244.0.99", "new session", "web-2"},
		{"02:00:00:00:00:04", "10.244.0.12", "BRIDGE_UNKNOWN_MAC", ""},
		{"", "10.244.0.12", "new session", "web-2"},
	} {
		x, err := r.api.Explain(t.Context(), &pb.ExplainRequest{
			VirtualMachineInterface: "web-1", Destination: c.dst, DestinationMac: c.mac, Protocol: pb.Protocol_TCP, SourcePort: 40000, DestinationPort: 80,
		})
		if err != nil {
			t.Fatal(err)
		}
		at := slices.IndexFunc(x.GetSteps(), func(s *pb.ExplainStep) bool { return s.GetStage() == "bridge" })
		if x.GetReason() != c.reason || x.GetOutput() != c.output || (at >= 0) != (c.mac != "") ||
			at >= 0 && c.reason != "live session" && !strings.Contains(x.GetSteps()[at].GetResult(), c.mac) {
			t.Errorf("%s to %s: %v", c.mac, c.dst, x)
		}
	}
}
