package main

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vrouter-go/vrouter/internal/statefile"
	vrouterv1 "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// fakeAgent answers the wire contract from canned messages and remembers what it was asked.
type fakeAgent struct {
	vrouterv1.UnimplementedAgentServiceServer

	resources []*vrouterv1.Resource
	health    vrouterv1.Health_Value
	refuse    error         // answer of Apply
	asked     proto.Message // last request
}

// serve starts the fake on a socket of its own and returns the socket's path.
func (f *fakeAgent) serve(t *testing.T) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	vrouterv1.RegisterAgentServiceServer(server, f)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	return socket
}

func (f *fakeAgent) List(r *vrouterv1.ListRequest, stream grpc.ServerStreamingServer[vrouterv1.ListResponse]) error {
	for _, resource := range f.resources { // one a message: the client puts the parts together
		if len(r.GetKinds()) > 0 && !slices.Contains(r.GetKinds(), statefile.Kind(resource)) ||
			len(r.GetNames()) > 0 && !slices.Contains(r.GetNames(), resource.GetName()) {
			continue
		}
		if err := stream.Send(&vrouterv1.ListResponse{Generation: 7, Resources: []*vrouterv1.Resource{resource}}); err != nil {
			return err
		}
	}
	return stream.Send(&vrouterv1.ListResponse{Generation: 7})
}

// fip is a floating IP that the fake holds.
func (f *fakeAgent) fip(name string) *vrouterv1.FloatingIP {
	for _, r := range f.resources {
		if r.GetName() == name && r.GetFloatingIp() != nil {
			return r.GetFloatingIp()
		}
	}
	return nil
}

func (f *fakeAgent) Watch(_ *vrouterv1.WatchRequest, stream grpc.ServerStreamingServer[vrouterv1.WatchResponse]) error {
	for _, event := range []*vrouterv1.WatchResponse{
		{Generation: 7, Event: &vrouterv1.WatchResponse_Upserted{Upserted: f.resources[0]}},
		{Generation: 7, Event: &vrouterv1.WatchResponse_Synced{Synced: true}},
		{Generation: 8, Event: &vrouterv1.WatchResponse_Deleted{Deleted: &vrouterv1.ResourceKey{Kind: "VirtualNetwork", Name: "pods"}}},
	} {
		if err := stream.Send(event); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeAgent) Apply(_ context.Context, r *vrouterv1.ApplyRequest) (*vrouterv1.ApplyResponse, error) {
	f.asked = r
	if f.refuse != nil {
		return nil, f.refuse
	}
	response := &vrouterv1.ApplyResponse{DryRun: r.GetDryRun(), Generation: &vrouterv1.Generation{Number: 8, Level: vrouterv1.Generation_PROGRAMMED}}
	result := func(kind, name string, outcome vrouterv1.ResourceResult_Outcome) {
		response.Results = append(response.Results, &vrouterv1.ResourceResult{Key: &vrouterv1.ResourceKey{Kind: kind, Name: name}, Outcome: outcome})
	}
	exists := func(kind, name string) bool {
		return slices.ContainsFunc(f.resources, func(r *vrouterv1.Resource) bool { return statefile.Kind(r) == kind && r.GetName() == name })
	}
	for _, u := range r.GetUpserts() {
		outcome := vrouterv1.ResourceResult_CREATED
		if exists(statefile.Kind(u), u.GetName()) {
			outcome = vrouterv1.ResourceResult_UNCHANGED
		}
		result(statefile.Kind(u), u.GetName(), outcome)
	}
	for _, d := range r.GetDeletes() {
		outcome := vrouterv1.ResourceResult_NOT_FOUND
		if exists(d.GetKind(), d.GetName()) {
			outcome = vrouterv1.ResourceResult_DELETED
		}
		result(d.GetKind(), d.GetName(), outcome)
	}
	return response, nil
}

func (f *fakeAgent) Explain(_ context.Context, r *vrouterv1.ExplainRequest) (*vrouterv1.ExplainResponse, error) {
	f.asked = r
	if r.GetVirtualMachineInterface() == "absent" {
		return nil, status.Error(codes.NotFound, `there is no VirtualMachineInterface "absent"`)
	}
	packet := &vrouterv1.Tuple{Source: "10.244.0.11", Destination: r.GetDestination(), Protocol: r.GetProtocol(), SourcePort: 40000, DestinationPort: r.GetDestinationPort()}
	if r.GetDestinationPort() == 81 {
		return &vrouterv1.ExplainResponse{Verdict: vrouterv1.Verdict_DROP, Reason: "PORT_NOT_MAPPED", Packet: packet, Rewritten: packet, FloatingIp: "web", Generation: 7, Reply: "TCP RST",
			Doc: "the floating IP does not map this port", Remedy: "add it to floatingIpPortMappings",
			Steps: []*vrouterv1.ExplainStep{{Stage: "route", Result: "10.96.0.10/32 in services"}, {Stage: "floating-ip", Result: "no mapping for TCP port 81", Detail: "web maps 80/TCP"}}}, nil
	}
	return &vrouterv1.ExplainResponse{
		Verdict: vrouterv1.Verdict_FORWARD, Reason: "new session", Rule: "fabric-pods/2", Member: "web-2", FloatingIp: "web", Output: "web-2", Generation: 7, Packet: packet,
		Rewritten: &vrouterv1.Tuple{Source: "10.244.0.11", Destination: "10.244.0.12", Protocol: r.GetProtocol(), SourcePort: 40000, DestinationPort: 8080},
		Steps: []*vrouterv1.ExplainStep{
			{Stage: "anti-spoof", Result: "10.244.0.11 belongs to web-1"},
			{Stage: "session", Result: "none"},
			{Stage: "route", Result: "10.96.0.10/32 in services", Detail: "floating IP web"},
			{Stage: "policy", Result: "PASS by fabric-pods/2"},
			{Stage: "member", Result: "web-2", Detail: "hash 0x5f3a, bucket 17 of 251"},
			{Stage: "output", Result: "web-2"},
		},
	}, nil
}

// flows are two sessions: through a floating IP, and a denied one over IPv6.
func (f *fakeAgent) flows() []*vrouterv1.Flow {
	return []*vrouterv1.Flow{
		{Id: 17, Vrf: "pods", ReplyVrf: "pods", State: "ESTABLISHED", Verdict: vrouterv1.Verdict_FORWARD,
			Forward: &vrouterv1.Tuple{Source: "10.244.0.11", Destination: "10.96.0.10", Protocol: vrouterv1.Protocol_TCP, SourcePort: 40000, DestinationPort: 80},
			Reply:   &vrouterv1.Tuple{Source: "10.244.0.12", Destination: "10.244.0.11", Protocol: vrouterv1.Protocol_TCP, SourcePort: 8080, DestinationPort: 40000},
			Nat:     []vrouterv1.Flow_Nat{vrouterv1.Flow_DESTINATION_ADDRESS, vrouterv1.Flow_DESTINATION_PORT},
			Age:     durationpb.New(90 * time.Second), Idle: durationpb.New(1500 * time.Millisecond), Timeout: durationpb.New(7440 * time.Second),
			ForwardCounters: &vrouterv1.FlowCounters{Packets: 12, Bytes: 1400}, ReplyCounters: &vrouterv1.FlowCounters{Packets: 10, Bytes: 65000},
			Interface: "web-1", Output: "web-2", FloatingIp: "web", Member: "web-2", Rule: "fabric-pods/2", NextHop: "interface web-2", ReplyNextHop: "interface web-1"},
		{Id: 18, Vrf: "pods", ReplyVrf: "pods", State: "NEW", Verdict: vrouterv1.Verdict_DROP, DropReason: "POLICY_DENY", Rule: "p/3", Interface: "web-1",
			Forward: &vrouterv1.Tuple{Source: "fd00:244::11", Destination: "fd00:244::12", Protocol: vrouterv1.Protocol_UDP, SourcePort: 5000, DestinationPort: 53},
			Reply:   &vrouterv1.Tuple{Source: "fd00:244::12", Destination: "fd00:244::11", Protocol: vrouterv1.Protocol_UDP, SourcePort: 53, DestinationPort: 5000},
			Age:     durationpb.New(0), Idle: durationpb.New(0), Timeout: durationpb.New(300 * time.Second),
			ForwardCounters: &vrouterv1.FlowCounters{Packets: 1, Bytes: 60}, ReplyCounters: &vrouterv1.FlowCounters{}},
	}
}

func (f *fakeAgent) ListFlows(r *vrouterv1.ListFlowsRequest, stream grpc.ServerStreamingServer[vrouterv1.ListFlowsResponse]) error {
	f.asked = r
	flows := f.flows()
	if name := r.GetFilter().GetFloatingIp(); name != "" {
		flows = slices.DeleteFunc(flows, func(flow *vrouterv1.Flow) bool { return flow.GetFloatingIp() != name })
	}
	return stream.Send(&vrouterv1.ListFlowsResponse{Flows: flows})
}

func (f *fakeAgent) WatchFlows(_ *vrouterv1.WatchFlowsRequest, stream grpc.ServerStreamingServer[vrouterv1.WatchFlowsResponse]) error {
	if err := stream.Send(&vrouterv1.WatchFlowsResponse{Event: vrouterv1.WatchFlowsResponse_STARTED, Flow: f.flows()[0]}); err != nil {
		return err
	}
	return stream.Send(&vrouterv1.WatchFlowsResponse{Event: vrouterv1.WatchFlowsResponse_ENDED, Flow: f.flows()[1], Lost: 3})
}

func (f *fakeAgent) DeleteFlows(_ context.Context, r *vrouterv1.DeleteFlowsRequest) (*vrouterv1.DeleteFlowsResponse, error) {
	f.asked = r
	return &vrouterv1.DeleteFlowsResponse{Deleted: 2}, nil
}

func (f *fakeAgent) drops() []*vrouterv1.DropCounter {
	return []*vrouterv1.DropCounter{
		{Interface: "web-1", Reason: "NO_ROUTE", Packets: 41, Doc: "no route to the destination", Remedy: "join the networks by a NetworkPolicy"},
		{Interface: "vhost0", Reason: "TTL_EXPIRED", Packets: 3, Doc: "the TTL ran out", Remedy: "look for a loop"},
	}
}

func (f *fakeAgent) ListDrops(_ context.Context, r *vrouterv1.ListDropsRequest) (*vrouterv1.ListDropsResponse, error) {
	f.asked = r
	response := &vrouterv1.ListDropsResponse{Since: timestamppb.New(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC))}
	for _, d := range f.drops() {
		if r.GetInterface() == "" || r.GetInterface() == d.GetInterface() {
			response.Drops = append(response.Drops, d)
		}
	}
	return response, nil
}

func (f *fakeAgent) WatchDrops(_ *vrouterv1.WatchDropsRequest, stream grpc.ServerStreamingServer[vrouterv1.WatchDropsResponse]) error {
	drops := f.drops()[:1]
	drops[0].Increase = 5
	return stream.Send(&vrouterv1.WatchDropsResponse{Time: timestamppb.New(time.Date(2026, 11, 22, 12, 0, 1, 0, time.UTC)), Drops: drops})
}

func (f *fakeAgent) GetStatus(context.Context, *vrouterv1.GetStatusRequest) (*vrouterv1.GetStatusResponse, error) {
	now := time.Now()
	s := &vrouterv1.GetStatusResponse{
		Health: f.health, Version: "v0.1.0", Node: "node-1", StartTime: timestamppb.New(now.Add(-26*time.Hour - 5*time.Minute)),
		Generation: &vrouterv1.Generation{Number: 7, Level: vrouterv1.Generation_PROGRAMMED},
		Resources:  []*vrouterv1.ResourceCount{{Kind: "VirtualNetwork", Count: 2}, {Kind: "FloatingIP", Count: 1}},
		Persistence: &vrouterv1.Persistence{Path: "/var/lib/vrouter/state", SavedGeneration: 7, SavedAt: timestamppb.New(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)),
			RestoredGeneration: 5},
		Controllers:   []*vrouterv1.ControllerStatus{{ControllerId: "vrkube", ElectionId: 3, AcknowledgedSequence: 9, Resources: 2}},
		HeadlessSince: timestamppb.New(now.Add(-90*time.Minute - 30*time.Second)),
		Workers:       []*vrouterv1.WorkerStatus{{Id: 0, Queues: 2, Packets: 1000, Batches: 100}},
		FlowTable:     &vrouterv1.FlowTableStatus{Sessions: 2, Capacity: 1 << 20, Bytes: 192 << 20, Created: 40, Refused: 1},
		Memory:        &vrouterv1.MemoryStatus{HeapBytes: 9 << 20, ResidentBytes: 215 << 20},
		Totals:        &vrouterv1.PacketTotals{Received: 1000, Generated: 12, Transmitted: 900, Coalesced: 68, Dropped: 44},
		Ports: []*vrouterv1.PortStatus{
			{Name: "web-1", State: vrouterv1.PortStatus_UP, VirtualNetwork: "pods", Driver: "tap", Device: "tap-web1", Netns: "/run/netns/web-1", Mtu: 1500, Queues: 1,
				Features: []string{"vnet-hdr", "tso4"}, Received: &vrouterv1.PortCounters{Packets: 600, Bytes: 70000}, Transmitted: &vrouterv1.PortCounters{Packets: 500, Bytes: 60000},
				Dropped: 41, Sessions: 2, FlowQuota: 65536},
			{Name: "web-2", State: vrouterv1.PortStatus_LOST, Reason: "the device tap-web2 is gone", VirtualNetwork: "pods", Driver: "tap", Device: "tap-web2", Mtu: 1500},
		},
		Uplink: &vrouterv1.UplinkStatus{Device: "eth0", Up: true, MacAddress: "02:00:00:00:00:0a", Mtu: 9000, Addresses: []string{"192.0.2.10"},
			Encapsulations: []string{"MPLS_UDP", "VXLAN"}, TunnelOffload: true, Tunnels: 12},
		Peers: []*vrouterv1.PeerStatus{
			{Name: "node-b", Address: "192.0.2.12", Local: "192.0.2.10", State: vrouterv1.PeerStatus_UP, NextHop: "192.0.2.12", MacAddress: "02:00:00:00:00:0c", Mtu: 9000, Bfd: "Up"},
			{Name: "node-c", Address: "198.51.100.2", Local: "192.0.2.10", State: vrouterv1.PeerStatus_DOWN, Reason: "no answer from the next hop", NextHop: "192.0.2.1", Mtu: 1400},
		},
		Kernel: &vrouterv1.KernelStatus{Release: "6.18.0", Capabilities: []*vrouterv1.KernelCapability{
			{Name: "tun-uso", Presence: vrouterv1.KernelCapability_PRESENT}, {Name: "tun-tunnel-gso", Presence: vrouterv1.KernelCapability_ABSENT, Effect: "needs 6.17"},
			{Name: "huge-pages", Presence: vrouterv1.KernelCapability_UNKNOWN_UNSPECIFIED}}},
		Components: []*vrouterv1.ComponentStatus{{Name: "persistence", Health: vrouterv1.Health_HEALTHY},
			{Name: "ports", Health: f.health, Reason: "1 of 2 devices is gone: web-2"}},
	}
	return s, nil
}

// refusal is InvalidArgument as the agent sends it: one violation in the second document.
func refusal(t *testing.T) error {
	t.Helper()
	s, err := status.New(codes.InvalidArgument, "1 field is wrong").WithDetails(&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
		{Field: "upserts[1].virtualMachineInterface.addresses[0]", Description: "10.9.0.1 is in no subnet of pods (10.244.0.0/24)"}}})
	if err != nil {
		t.Fatal(err)
	}
	return s.Err()
}
