package agent_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// waiting is a world whose second server comes by a container runtime.
var waiting = []string{
	world[0], world[1], world[2],
	`{"name":"shop:web-2","virtualMachineInterface":{"virtualNetwork":"pods","attachment":{"uid":"u2"}}}`,
	`{"name":"web","floatingIp":{"address":"10.96.0.10","virtualNetwork":"services","floatingIpPortMappings":{"portMappings":[{"srcPort":80,"dstPort":8080}]},"virtualMachineInterfaces":["shop:web-2"]}}`,
	`{"name":"exact","floatingIp":{"address":"10.96.0.11","virtualNetwork":"services","floatingIpPortMappings":{"portMappings":[{"srcPort":80,"dstPort":8080}]},"members":[{"virtualMachineInterface":"shop:web-2","address":"10.244.0.2"}]}}`,
	world[5],
	`{"name":"node","fabric":{"vhost0":{"addresses":["192.0.2.10/24"]}}}`,
}

func web2() *pb.AttachRequest {
	return &pb.AttachRequest{Name: "shop:web-2", Uid: "u2", ContainerId: "c2", Netns: "/run/netns/c2", HostPorts: []*pb.HostPort{{HostPort: 8080}}}
}

// TestAttachedMemberServes holds that services may name a pod before it has come, and
// lead to it from the moment that Attach returns until Detach.
func TestAttachedMemberServes(t *testing.T) {
	r := start(t, "")
	r.apply(&pb.ApplyRequest{Upserts: resources(t, waiting...)})
	if r.device("shop:web-2") != nil || len(r.status().GetPorts()) != 2 {
		t.Errorf("a device before the container: %v", r.status().GetPorts())
	}
	answer, err := r.api.Attach(t.Context(), web2())
	if err != nil {
		t.Fatal(err)
	}
	if a := answer.GetAddresses(); len(a) != 1 || a[0].GetAddress() != "10.244.0.2/24" || a[0].GetGateway() != "10.244.0.1" || answer.GetMtu() != 1500 || answer.GetMacAddress() == "" || answer.GetVirtualNetwork() != "pods" {
		t.Errorf("answer %v", answer)
	}
	for _, service := range []string{"10.96.0.10", "10.96.0.11"} {
		r.device("web-1").Inject(0, syn(t, service, 80))
		if tcp := r.received("shop:web-2"); tcp.DstPort != 8080 {
			t.Errorf("%s: arrived at port %d, want 8080", service, tcp.DstPort)
		}
	}
	generation := r.status().GetGeneration().GetNumber()
	again, err := r.api.Attach(t.Context(), web2())
	if err != nil || again.String() != answer.String() || r.status().GetGeneration().GetNumber() != generation {
		t.Errorf("again: %v, %v; want %v and generation %d", again, err, answer, generation)
	}
	for _, c := range []struct {
		container, guest string
		found            bool
	}{{"c1", "", false}, {"c2", "net1", false}, {"c2", "eth0", true}, {"c2", "", false}} {
		gone, err := r.api.Detach(t.Context(), &pb.DetachRequest{Name: "shop:web-2", ContainerId: c.container, GuestName: c.guest, Netns: "/run/netns/c2"})
		if err != nil || gone.GetFound() != c.found {
			t.Fatalf("detach %v: %v, %v", c, gone, err)
		}
	}
	if got := r.list(); len(got) != len(waiting) {
		t.Errorf("left %v", got)
	}
	// The next container has another address than one of the services knows.
	req := web2()
	req.Addresses, req.HostPorts = []string{"10.244.0.9"}, nil
	if _, err := r.api.Attach(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	for service, member := range map[string]string{"10.96.0.10": "shop:web-2", "10.96.0.11": ""} {
		x, err := r.api.Explain(t.Context(), &pb.ExplainRequest{VirtualMachineInterface: "web-1", Destination: service, Protocol: pb.Protocol_TCP, DestinationPort: 80})
		if err != nil || x.GetMember() != member {
			t.Errorf("%s leads to %q (%v); want %q", service, x.GetMember(), err, member)
		}
	}
}

// TestAttachmentOutlivesControllers holds that sweeps do not touch attachments, that
// host ports do not hold up a controller, and that what it sends again works at once.
func TestAttachmentOutlivesControllers(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir)
	c := r.controller("kube", 1)
	c.recv()
	c.begin(false)
	c.chunk(waiting...)
	c.end(1)
	c.acked(1)
	answer, err := r.api.Attach(t.Context(), web2())
	if err != nil {
		t.Fatal(err)
	}
	port := "shop:web-2:hostport:192.0.2.10"
	if !slices.Contains(r.list(), port) {
		t.Fatalf("no host port: %v", r.list())
	}
	c.begin(true)
	c.end(2)
	c.acked(2)
	if got := r.list(); !slices.Equal(got, []string{"shop:web-2"}) {
		t.Errorf("left %v, want the attachment alone", got)
	}
	r.stop()

	again := start(t, dir)
	if got := again.list(); !slices.Equal(got, []string{"shop:web-2"}) {
		t.Errorf("after a restart %v, want the attachment", got)
	}
	for _, ctl := range again.status().GetControllers() {
		if ctl.GetControllerId() == "cni" {
			t.Errorf("cni is taken for a controller: %v", ctl)
		}
	}
	c = again.controller("kube", 1)
	c.recv()
	c.begin(false)
	c.chunk(waiting...)
	c.end(1)
	c.acked(1)
	again.device("web-1").Inject(0, syn(t, "10.96.0.10", 80))
	again.received("shop:web-2")
	if got := again.list(); !slices.Contains(got, port) {
		t.Errorf("the host port has not come back: %v", got)
	}
	if now, err := again.api.Attach(t.Context(), web2()); err != nil || now.GetAddresses()[0].GetAddress() != answer.GetAddresses()[0].GetAddress() {
		t.Errorf("after a restart: %v, %v", now, err)
	}
	hello, err := again.api.Sync(t.Context())
	if err == nil {
		err = hello.Send(&pb.SyncRequest{Message: &pb.SyncRequest_Hello{Hello: &pb.SyncHello{ControllerId: "cni"}}})
	}
	if err == nil {
		_, err = hello.Recv()
	}
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("a controller called cni: %v", err)
	}
}

// TestAttachLeavesNothingBehind holds for every way in which an Attach can fail.
func TestAttachLeavesNothingBehind(t *testing.T) {
	r := start(t, "")
	r.apply(&pb.ApplyRequest{Upserts: resources(t, append(waiting,
		`{"name":"dry","virtualNetwork":{}}`,
		`{"name":"shop:dry","virtualMachineInterface":{"virtualNetwork":"dry","attachment":{"uid":"u"}}}`,
		`{"name":"fixed","virtualMachineInterface":{"virtualNetwork":"pods","attachment":{"uid":"u"},"addresses":["10.244.0.99"],"macAddress":"02:00:00:00:00:99"}}`,
		`{"name":"np","floatingIp":{"address":"192.0.2.10","virtualNetwork":"ip-fabric","floatingIpPortMappings":{"portMappings":[{"srcPort":31000}]},"virtualMachineInterfaces":["web-1"]}}`,
	)...)})
	r.mu.Lock()
	r.refuse["broken"] = errors.New("no room on the node")
	r.mu.Unlock()
	r.apply(&pb.ApplyRequest{Upserts: resources(t, `{"name":"broken","virtualMachineInterface":{"virtualNetwork":"pods","attachment":{"uid":"u"}}}`)})
	before := r.agent.Digest()
	for _, c := range []struct {
		what   string
		change func(*pb.AttachRequest)
		code   codes.Code
		says   string
	}{
		{"nobody knows the pod", func(r *pb.AttachRequest) { r.Name = "shop:unknown" }, codes.Aborted, "no controller has told"},
		{"another pod of the name", func(r *pb.AttachRequest) { r.Uid = "u3" }, codes.Aborted, "is that of pod u2"},
		{"an interface with a device of its own", func(r *pb.AttachRequest) { r.Name = "web-1" }, codes.FailedPrecondition, "brings its own device"},
		{"no subnets", func(r *pb.AttachRequest) { r.Name, r.Uid = "shop:dry", "" }, codes.FailedPrecondition, "no subnets"},
		{"a device that cannot be made", func(r *pb.AttachRequest) { r.Name, r.Uid = "broken", "" }, codes.FailedPrecondition, "no room on the node"},
		{"a host port of a service", func(r *pb.AttachRequest) { r.HostPorts[0].HostPort = 31000 }, codes.AlreadyExists, "FloatingIP/np"},
		{"an address of somebody", func(r *pb.AttachRequest) { r.Addresses = []string{"10.244.0.11"} }, codes.AlreadyExists, "VirtualMachineInterface/web-1"},
		{"an address outside", func(r *pb.AttachRequest) { r.Addresses = []string{"10.9.0.11"} }, codes.InvalidArgument, "in no subnet"},
		{"the broadcast address", func(r *pb.AttachRequest) { r.Addresses = []string{"10.244.0.255"} }, codes.InvalidArgument, "broadcast"},
		{"a group's MAC address", func(r *pb.AttachRequest) { r.MacAddress = "01:00:00:00:00:01" }, codes.InvalidArgument, "unicast MAC"},
		{"somebody's MAC address", func(r *pb.AttachRequest) { r.MacAddress = "02:00:00:00:00:01" }, codes.InvalidArgument, "belongs to VirtualMachineInterface/web-1"},
		{"other than the interface's MAC address", func(r *pb.AttachRequest) { r.Name, r.Uid, r.MacAddress = "fixed", "u", "02:00:00:00:00:98" }, codes.InvalidArgument, "has 02:00:00:00:00:99"},
		{"other than the interface's address", func(r *pb.AttachRequest) { r.Name, r.Uid, r.Addresses = "fixed", "u", []string{"10.244.0.98"} }, codes.InvalidArgument, "has 10.244.0.99"},
		{"a network that is not there", func(r *pb.AttachRequest) { r.VirtualNetwork = "nowhere" }, codes.FailedPrecondition, "no VirtualNetwork nowhere"},
		{"another's interface", func(r *pb.AttachRequest) { r.VirtualNetwork = "pods" }, codes.FailedPrecondition, "belongs to operator"},
		{"a relative namespace", func(r *pb.AttachRequest) { r.Netns = "c2" }, codes.InvalidArgument, "absolute"},
	} {
		req := web2()
		c.change(req)
		ctx, cancel := context.WithTimeout(t.Context(), 1200*time.Millisecond)
		_, err := r.api.Attach(ctx, req)
		cancel()
		if status.Code(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want %v and %q", c.what, err, c.code, c.says)
		}
		if r.agent.Digest() != before {
			t.Fatalf("%s: something is left: %v", c.what, r.list())
		}
	}
	if _, err := r.api.Attach(t.Context(), &pb.AttachRequest{Name: "fixed", ContainerId: "c", Netns: "/run/netns/c"}); err != nil {
		t.Errorf("an interface with addresses of its own: %v", err)
	}
}

// TestAttachWaits holds that Attach returns as soon as the interface is there, and that
// a caller who has gone is attached to nothing.
func TestAttachWaits(t *testing.T) {
	r := start(t, "")
	r.apply(&pb.ApplyRequest{Upserts: resources(t, waiting[0])})
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		req := web2()
		req.ContainerId, req.HostPorts = "c1", nil
		_, err := r.api.Attach(ctx, req)
		left <- err
	}()
	leave()
	if err := <-left; status.Code(err) != codes.Canceled {
		t.Errorf("who has gone gets %v", err)
	}
	stays := make(chan error, 1)
	go func() {
		req := web2()
		req.HostPorts = nil
		_, err := r.api.Attach(t.Context(), req)
		stays <- err
	}()
	for i := range 3 { // other changes wake it for nothing
		r.apply(&pb.ApplyRequest{Upserts: resources(t, fmt.Sprintf(`{"name":"n%d","virtualNetwork":{}}`, i))})
	}
	r.apply(&pb.ApplyRequest{Upserts: resources(t, waiting[3])})
	if err := <-stays; err != nil {
		t.Error(err)
	}
	list, err := r.api.List(t.Context(), &pb.ListRequest{Kinds: []string{"Attachment"}})
	if err != nil {
		t.Fatal(err)
	}
	part, err := list.Recv()
	if err != nil || len(part.GetResources()) != 1 || part.GetResources()[0].GetAttachment().GetContainerId() != "c2" || part.GetResources()[0].GetOwner() != "cni" {
		t.Errorf("%v, %v", part, err)
	}
}

// TestAttachAtOnce holds that callers at the same moment get different addresses, round
// after round.
func TestAttachAtOnce(t *testing.T) {
	r := start(t, "")
	const pods = 20
	upserts := []string{`{"name":"pods","virtualNetwork":{"subnets":[{"prefix":"10.244.0.0/27","gateway":"10.244.0.1"}]}}`}
	for i := range pods {
		upserts = append(upserts, fmt.Sprintf(`{"name":"p%d","virtualMachineInterface":{"virtualNetwork":"pods","attachment":{"uid":"u"}}}`, i))
	}
	r.apply(&pb.ApplyRequest{Upserts: resources(t, upserts...)})
	attach := func(i int) (string, error) {
		answer, err := r.api.Attach(t.Context(), &pb.AttachRequest{Name: fmt.Sprintf("p%d", i), ContainerId: fmt.Sprint(i), Netns: fmt.Sprintf("/run/netns/%d", i)})
		if err != nil {
			return "", err
		}
		return answer.GetAddresses()[0].GetAddress(), nil
	}
	for round := range 4 {
		var mu sync.Mutex
		given := map[string]int{}
		var wg sync.WaitGroup
		for i := range pods {
			wg.Go(func() {
				a, err := attach(i)
				if err != nil {
					t.Errorf("round %d: %v", round, err)
				}
				mu.Lock()
				defer mu.Unlock()
				if other, taken := given[a]; taken {
					t.Errorf("round %d: %d and %d have %s", round, i, other, a)
				}
				given[a] = i
			})
		}
		wg.Wait()
		for i := range pods {
			wg.Go(func() {
				if _, err := r.api.Detach(t.Context(), &pb.DetachRequest{Name: fmt.Sprintf("p%d", i), ContainerId: fmt.Sprint(i)}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
}
