package agentsync_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/vrouter-go/vrouter/agent"
	"github.com/vrouter-go/vrouter/agent/client"
	"github.com/vrouter-go/vrouter/agent/ports"
	"github.com/vrouter-go/vrouter/agent/rpc"
	"github.com/vrouter-go/vrouter/controller/agentsync"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/memory"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a real daemon over memory devices that can be stopped and started.
type node struct {
	t      testing.TB
	dir    string // of its state and its socket
	client *client.Client
	agent  *agent.Agent
	stop   func()

	mu      sync.Mutex
	devices map[string]*memory.Device
}

func newNode(t testing.TB) *node {
	t.Helper()
	n := &node{t: t, dir: t.TempDir()}
	c, err := client.New(client.Config{Address: n.socket()})
	if err != nil {
		t.Fatal(err)
	}
	n.client = c
	n.start()
	t.Cleanup(func() { n.stop(); c.Close() })
	return n
}

func (n *node) socket() string { return filepath.Join(n.dir, "vrouter.sock") }

// start runs the daemon with the state that the last one left.
func (n *node) start() {
	n.t.Helper()
	n.devices = map[string]*memory.Device{}
	log := slog.New(slog.DiscardHandler)
	fwd, err := forwarder.New(forwarder.Config{Workers: 1, Sessions: 4096})
	if err != nil {
		n.t.Fatal(err)
	}
	moving, stopMoving := context.WithCancel(context.Background())
	serving, stopServing := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	run := func(ctx context.Context, f func(context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil {
				n.t.Error(err)
			}
		})
	}
	run(moving, fwd.Run)
	n.agent, err = agent.New(agent.Options{
		Node: "test", Version: "test", Forwarder: fwd, Driver: ports.Memory("memory", n.open), StateDir: filepath.Join(n.dir, "state"), Log: log,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	server, err := rpc.Listen(rpc.Options{Socket: n.socket(), Log: log}, agent.NewService(n.agent))
	if err != nil {
		n.t.Fatal(err)
	}
	run(serving, server.Run)
	run(serving, n.agent.Run)
	n.stop = sync.OnceFunc(func() {
		stopServing()
		if err := n.agent.Close(); err != nil {
			n.t.Error(err)
		}
		stopMoving()
		wg.Wait()
		if err := fwd.Close(); err != nil {
			n.t.Error(err)
		}
	})
}

func (n *node) open(s ports.Spec) (port.Device, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	d, err := memory.New(memory.Config{Name: s.Name, Poll: true})
	if err == nil {
		n.devices[s.Name] = d
	}
	return d, err
}

func (n *node) device(name string) *memory.Device {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.devices[name]
}

// holds returns what the agent has, by key, without owner and generation.
func (n *node) holds() map[agentsync.Key]*pb.Resource {
	n.t.Helper()
	list, _, err := n.client.List(n.t.Context(), &pb.ListRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	all := map[agentsync.Key]*pb.Resource{}
	for _, r := range list {
		r.Owner, r.Generation = "", 0
		all[agentsync.KeyOf(r)] = r
	}
	return all
}

// generation is the number of transactions that changed the agent's state.
func (n *node) generation() uint64 { return n.agent.Status().GetGeneration().GetNumber() }

// controller is a running Syncer.
type controller struct {
	*agentsync.Syncer
	stop func()
}

// controller runs a Syncer against a socket.
func (n *node) controller(socket string) *controller {
	s := agentsync.New(agentsync.Options{Agent: client.Config{Address: socket}, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	c := &controller{s, sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Error(err)
		}
	})}
	n.t.Cleanup(c.stop)
	return c
}

// settle waits until everything is in the agent.
func (c *controller) settle(t failer) agentsync.Status {
	t.Helper()
	eventually(t, "the agent is in step", func() bool {
		st := c.Status()
		return st.Synced && st.Settled
	})
	return c.Status()
}

// full is a change that names all there should be.
func full(list ...*pb.Resource) agentsync.Change { return agentsync.Change{Full: true, Upserts: list} }

// resource reads a resource in its JSON form.
func resource(t testing.TB, text string) *pb.Resource {
	t.Helper()
	r := &pb.Resource{}
	if err := protojson.Unmarshal([]byte(text), r); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return r
}

func resources(t testing.TB, texts ...string) (list []*pb.Resource) {
	t.Helper()
	for _, text := range texts {
		list = append(list, resource(t, text))
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

// equal compares what the agent has with what it should have.
func equal(have map[agentsync.Key]*pb.Resource, want []*pb.Resource) error {
	wanted := map[agentsync.Key]*pb.Resource{}
	for _, r := range want {
		wanted[agentsync.KeyOf(r)] = r
	}
	for k, r := range wanted {
		switch {
		case have[k] == nil:
			return fmt.Errorf("%s is missing", k)
		case !proto.Equal(have[k], r):
			return fmt.Errorf("%s is %v, want %v", k, have[k], r)
		}
	}
	for _, k := range slices.Collect(maps.Keys(have)) {
		if wanted[k] == nil {
			return fmt.Errorf("%s is there and should not", k)
		}
	}
	return nil
}

// failer is a test, or one history of a property test, which is then made smaller.
type failer interface {
	Helper()
	Fatal(args ...any)
}

// eventually waits for a condition.
func eventually(t failer, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("did not come to pass: " + what)
		}
	}
}

// wire is a socket in front of another that can be cut, at once or after so many
// bytes.
type wire struct {
	t        testing.TB
	socket   string
	to       string
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex
	open   map[net.Conn]struct{}
	budget int64 // bytes until the next cut; below 0: none
	down   bool  // nobody gets through
}

func newWire(t testing.TB, to string) *wire {
	t.Helper()
	w := &wire{t: t, socket: filepath.Join(t.TempDir(), "wire.sock"), to: to, open: map[net.Conn]struct{}{}, budget: -1}
	l, err := net.Listen("unix", w.socket)
	if err != nil {
		t.Fatal(err)
	}
	w.listener = l
	w.wg.Go(w.accept)
	t.Cleanup(func() {
		l.Close()
		w.cut()
		w.wg.Wait()
	})
	return w
}

func (w *wire) accept() {
	for {
		near, err := w.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("unix", w.to)
		w.mu.Lock()
		if err != nil || w.down {
			w.mu.Unlock()
			near.Close()
			if far != nil {
				far.Close()
			}
			continue
		}
		w.open[near], w.open[far] = struct{}{}, struct{}{}
		w.mu.Unlock()
		w.wg.Go(func() { w.carry(near, far) })
		w.wg.Go(func() { w.carry(far, near) })
	}
}

func (w *wire) carry(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if n = w.spend(n); n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil || n == 0 {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				w.t.Log(err)
			}
			return
		}
	}
}

// spend takes bytes from the budget and cuts where it ends.
func (w *wire) spend(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.budget < 0 || n == 0 {
		return n
	}
	if int64(n) <= w.budget {
		w.budget -= int64(n)
		return n
	}
	n, w.budget = int(w.budget), -1
	w.cutLocked()
	return n
}

// cutAfter cuts everything when so many more bytes have passed.
func (w *wire) cutAfter(bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.budget = bytes
}

// cut ends every connection.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cutLocked()
}

func (w *wire) cutLocked() {
	for c := range w.open {
		c.Close()
	}
	clear(w.open)
}
