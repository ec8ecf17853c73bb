package agent_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/vrouter-go/vrouter/agent"
	"github.com/vrouter-go/vrouter/agent/ports"
	"github.com/vrouter-go/vrouter/agent/rpc"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/memory"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a daemon over memory devices, and a client of its real socket.
type rig struct {
	t         testing.TB
	agent     *agent.Agent
	forwarder *forwarder.Forwarder
	api       pb.AgentServiceClient
	stop      func()

	mu      sync.Mutex
	devices map[string]*memory.Device
	refuse  map[string]error // interfaces whose device cannot be opened
}

// start runs a daemon; stateDir "" keeps state in memory.
func start(t testing.TB, stateDir string) *rig {
	t.Helper()
	r := &rig{t: t, devices: map[string]*memory.Device{}, refuse: map[string]error{}}
	log := slog.New(slog.DiscardHandler)
	fwd, err := forwarder.New(forwarder.Config{Workers: 2, Sessions: 4096})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := fwd.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	r.forwarder = fwd
	driver := ports.Memory("memory", r.open)
	r.agent, err = agent.New(agent.Options{Node: "test", Version: "test", Forwarder: fwd, Driver: driver, StateDir: stateDir, Log: log})
	if err != nil {
		cancel()
		wg.Wait()
		t.Fatal(errors.Join(err, fwd.Close()))
	}
	socket := filepath.Join(t.TempDir(), "vrouter.sock")
	server, err := rpc.Listen(rpc.Options{Socket: socket, Log: log}, agent.NewService(r.agent))
	if err != nil {
		t.Fatal(err)
	}
	serving, endServing := context.WithCancel(context.Background())
	wg.Go(func() {
		if err := server.Run(serving); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() {
		if err := r.agent.Run(serving); err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	r.api = pb.NewAgentServiceClient(conn)
	r.stop = sync.OnceFunc(func() {
		conn.Close()
		endServing()
		if err := r.agent.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		wg.Wait()
		if err := fwd.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

func (r *rig) open(s ports.Spec) (port.Device, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.refuse[s.Name]; err != nil {
		return nil, err
	}
	d, err := memory.New(memory.Config{Name: s.Name, Poll: true})
	if err == nil {
		r.devices[s.Name] = d
	}
	return d, err
}

func (r *rig) device(name string) *memory.Device {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.devices[name]
}

// resources reads resources in their JSON form.
func resources(t testing.TB, texts ...string) []*pb.Resource {
	t.Helper()
	var list []*pb.Resource
	for _, text := range texts {
		r := &pb.Resource{}
		if err := protojson.Unmarshal([]byte(text), r); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		list = append(list, r)
	}
	return list
}

// world is two pods behind a service.
var world = []string{
	`{"name":"pods","virtualNetwork":{"subnets":[{"prefix":"10.244.0.0/24","gateway":"10.244.0.1"}]}}`,
	`{"name":"services","virtualNetwork":{}}`,
	`{"name":"web-1","virtualMachineInterface":{"virtualNetwork":"pods","macAddress":"02:00:00:00:00:01","addresses":["10.244.0.11"]}}`,
	`{"name":"web-2","virtualMachineInterface":{"virtualNetwork":"pods","macAddress":"02:00:00:00:00:02","addresses":["10.244.0.12"]}}`,
	`{"name":"web","floatingIp":{"address":"10.96.0.10","virtualNetwork":"services","floatingIpPortMappings":{"portMappings":[{"srcPort":80,"dstPort":8080}]},"virtualMachineInterfaces":["web-2"]}}`,
	`{"name":"use","networkPolicy":{"virtualNetworks":["pods","services"],"rules":[{"action":"PASS","protocol":"TCP"}]}}`,
}

func (r *rig) apply(req *pb.ApplyRequest) *pb.ApplyResponse {
	r.t.Helper()
	answer, err := r.api.Apply(r.t.Context(), req)
	if err != nil {
		r.t.Fatal(err)
	}
	return answer
}

// list returns the names of all resources as kind/name.
func (r *rig) list() []string {
	r.t.Helper()
	stream, err := r.api.List(r.t.Context(), &pb.ListRequest{})
	if err != nil {
		r.t.Fatal(err)
	}
	names := []string{}
	for {
		part, err := stream.Recv()
		if err != nil {
			return names
		}
		for _, res := range part.GetResources() {
			names = append(names, res.GetName())
		}
	}
}

func (r *rig) status() *pb.GetStatusResponse {
	r.t.Helper()
	st, err := r.api.GetStatus(r.t.Context(), &pb.GetStatusRequest{})
	if err != nil {
		r.t.Fatal(err)
	}
	return st
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("did not come to pass: " + what)
		}
	}
}
