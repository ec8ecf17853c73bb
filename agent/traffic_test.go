package agent_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/port"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// syn is the first packet of a TCP connection from web-1.
func syn(t *testing.T, dst string, dport uint16) *port.Frame {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: forwarder.RouterMAC[:], EthernetType: layers.EthernetTypeIPv4}
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: net.IP{10, 244, 0, 11}, DstIP: net.ParseIP(dst)}
	tcp := &layers.TCP{SrcPort: 40000, DstPort: layers.TCPPort(dport), SYN: true, Seq: 1, Window: 65535}
	if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, tcp); err != nil {
		t.Fatal(err)
	}
	f := port.NewFrame()
	f.End = f.Start + copy(f.Buf[f.Start:], b.Bytes())
	return f
}

// received waits for a TCP packet to an interface.
func (r *rig) received(name string) *layers.TCP {
	r.t.Helper()
	var tcp *layers.TCP
	frame := port.NewFrame()
	eventually(r.t, "a packet to "+name, func() bool {
		for r.device(name).Drain(0, []*port.Frame{frame}) == 1 {
			p := gopacket.NewPacket(frame.Bytes(), layers.LayerTypeEthernet, gopacket.Default)
			if l, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP); ok {
				tcp = l
				return true
			}
		}
		return false
	})
	return tcp
}

func (r *rig) flows(filter *pb.FlowFilter) []*pb.Flow {
	r.t.Helper()
	stream, err := r.api.ListFlows(r.t.Context(), &pb.ListFlowsRequest{Filter: filter})
	if err != nil {
		r.t.Fatal(err)
	}
	var list []*pb.Flow
	for {
		part, err := stream.Recv()
		if err == io.EOF {
			return list
		}
		if err != nil {
			r.t.Fatal(err)
		}
		list = append(list, part.GetFlows()...)
	}
}

// TestTraffic follows a connection through a floating IP: the packet arrives
// translated, the flow is listed under its names, explain knows it, and ending it
// ends it.
func TestTraffic(t *testing.T) {
	r := start(t, "")
	r.apply(&pb.ApplyRequest{Upserts: resources(t, world...)})
	r.device("web-1").Inject(0, syn(t, "10.96.0.10", 80))
	if tcp := r.received("web-2"); tcp.DstPort != 8080 || tcp.SrcPort != 40000 {
		t.Errorf("arrived as %d → %d, want 40000 → 8080", tcp.SrcPort, tcp.DstPort)
	}

	flows := r.flows(nil)
	if len(flows) != 1 {
		t.Fatalf("flows %v, want one", flows)
	}
	f := flows[0]
	if f.GetFloatingIp() != "web" || f.GetMember() != "web-2" || f.GetInterface() != "web-1" || f.GetOutput() != "web-2" ||
		f.GetRule() != "use/1" || f.GetVrf() != "pods" || f.GetState() != "SYN_SENT" || f.GetVerdict() != pb.Verdict_FORWARD ||
		f.GetForwardCounters().GetPackets() != 1 || len(f.GetNat()) != 2 {
		t.Errorf("flow %v", f)
	}
	for name, filter := range map[string]*pb.FlowFilter{
		"source": {Source: "10.244.0.0/24"}, "destination": {Destination: "10.96.0.10"}, "after translation": {Destination: "10.244.0.12"},
		"protocol": {Protocol: pb.Protocol_TCP}, "port": {Port: 8080}, "vmi": {VirtualMachineInterface: "web-2"}, "fip": {FloatingIp: "web"}, "rule": {Rule: "use/1"},
	} {
		if len(r.flows(filter)) != 1 {
			t.Errorf("filter by %s does not find it", name)
		}
	}
	for name, filter := range map[string]*pb.FlowFilter{
		"source": {Source: "10.244.0.12"}, "protocol": {Protocol: pb.Protocol_UDP}, "port": {Port: 81}, "vrf": {Vrf: "services"}, "state": {State: "ESTABLISHED"}, "bytes": {MinBytes: 1000},
	} {
		if len(r.flows(filter)) != 0 {
			t.Errorf("filter by another %s finds it", name)
		}
	}

	x, err := r.api.Explain(t.Context(), &pb.ExplainRequest{VirtualMachineInterface: "web-1", Destination: "10.96.0.10", Protocol: pb.Protocol_TCP, SourcePort: 40000, DestinationPort: 80})
	if err != nil {
		t.Fatal(err)
	}
	if x.GetReason() != "live session" || x.GetSession() == nil || x.GetRewritten().GetDestinationPort() != 8080 || x.GetMember() != "web-2" || x.GetFloatingIp() != "web" {
		t.Errorf("explain %v", x)
	}
	deleted, err := r.api.DeleteFlows(t.Context(), &pb.DeleteFlowsRequest{Filter: &pb.FlowFilter{FloatingIp: "web"}})
	if err != nil || deleted.GetDeleted() != 1 || len(r.flows(nil)) != 0 {
		t.Errorf("deleted %v, %v; left %v", deleted, err, r.flows(nil))
	}
}

// TestExplainDrops holds that explain names the reason that the packet path
// counts.
func TestExplainDrops(t *testing.T) {
	r := start(t, "")
	r.apply(&pb.ApplyRequest{Upserts: resources(t, world...)})
	for _, tc := range []struct {
		dst    string
		port   uint16
		reason string
		reply  string
	}{
		{"10.96.0.10", 81, "FLOATING_IP_PORT", "TCP RST"},
		{"198.51.100.1", 80, "NO_ROUTE", "ICMP network unreachable"},
	} {
		x, err := r.api.Explain(t.Context(), &pb.ExplainRequest{VirtualMachineInterface: "web-1", Destination: tc.dst, Protocol: pb.Protocol_TCP, DestinationPort: uint32(tc.port)})
		if err != nil {
			t.Fatal(err)
		}
		if x.GetVerdict() != pb.Verdict_DROP || x.GetReason() != tc.reason || x.GetReply() != tc.reply || x.GetDoc() == "" || x.GetRemedy() == "" {
			t.Errorf("explain %v, want %s", x, tc.reason)
		}
		r.device("web-1").Inject(0, syn(t, tc.dst, tc.port))
		eventually(t, tc.reason+" counted", func() bool {
			drops, err := r.api.ListDrops(t.Context(), &pb.ListDropsRequest{Interface: "web-1", Reason: tc.reason})
			return err == nil && len(drops.GetDrops()) == 1 && drops.GetDrops()[0].GetPackets() == 1
		})
	}
	if _, err := r.api.Explain(t.Context(), &pb.ExplainRequest{VirtualMachineInterface: "nobody", Destination: "10.0.0.1"}); status.Code(err) != codes.NotFound {
		t.Errorf("an unknown interface: %v", err)
	}
	tot := r.status().GetTotals()
	if tot.GetReceived()+tot.GetGenerated() != tot.GetTransmitted()+tot.GetCoalesced()+tot.GetDropped()+tot.GetHeld() {
		t.Errorf("packets are not conserved: %v", tot)
	}
	all, err := r.api.ListDrops(t.Context(), &pb.ListDropsRequest{IncludeZero: true})
	if err != nil || len(all.GetDrops()) < int(forwarder.NumDropReasons) {
		t.Errorf("%d reasons, %v; want at least %d", len(all.GetDrops()), err, forwarder.NumDropReasons)
	}
}

func TestWatchFlowsAndDrops(t *testing.T) {
	r := start(t, "")
	r.apply(&pb.ApplyRequest{Upserts: resources(t, world...)})
	r.device("web-1").Inject(0, syn(t, "10.96.0.10", 80))
	r.received("web-2")
	flows, err := r.api.WatchFlows(t.Context(), &pb.WatchFlowsRequest{Interval: durationpb.New(100 * time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	next := func(want pb.WatchFlowsResponse_Event, dport uint32) {
		t.Helper()
		e, err := flows.Recv()
		if err != nil || e.GetEvent() != want || e.GetFlow().GetForward().GetDestinationPort() != dport {
			t.Fatalf("%v, %v; want %v of port %d", e, err, want, dport)
		}
	}
	next(pb.WatchFlowsResponse_PRESENT, 80)
	r.device("web-1").Inject(0, syn(t, "10.244.0.12", 22))
	next(pb.WatchFlowsResponse_STARTED, 22)
	if _, err := r.api.DeleteFlows(t.Context(), &pb.DeleteFlowsRequest{Filter: &pb.FlowFilter{DestinationPort: 80}}); err != nil {
		t.Fatal(err)
	}
	next(pb.WatchFlowsResponse_ENDED, 80)

	drops, err := r.api.WatchDrops(t.Context(), &pb.WatchDropsRequest{Interval: durationpb.New(100 * time.Millisecond), Reason: "NO_ROUTE"})
	if err != nil {
		t.Fatal(err)
	}
	r.device("web-1").Inject(0, syn(t, "198.51.100.1", 80))
	eventually(t, "a drop is reported", func() bool {
		e, err := drops.Recv()
		return err == nil && len(e.GetDrops()) == 1 && e.GetDrops()[0].GetIncrease() == 1
	})
}
