// Package agent holds the desired state of one node and keeps the forwarder in
// step with it. There is one way in: a transaction is checked as a whole,
// compiled, written down, published, and its ports attached, whether it comes
// from Apply, from a controller's Sync or from a file at the start.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vrouter-go/vrouter/agent/attach"
	"github.com/vrouter-go/vrouter/agent/compile"
	"github.com/vrouter-go/vrouter/agent/healthcheck"
	"github.com/vrouter-go/vrouter/agent/persist"
	"github.com/vrouter-go/vrouter/agent/ports"
	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/agent/underlay"
	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/nodeport"
	"github.com/vrouter-go/vrouter/nexthop"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Options say what an agent works with.
type Options struct {
	Node      string // the node's name, for status and controllers
	Version   string // of the daemon
	Forwarder *forwarder.Forwarder
	Driver    ports.Driver
	// Watcher finds out how the other nodes are reached and tells Agent.Underlay; nil:
	// somebody else tells it, or nobody.
	Watcher *underlay.Watcher
	// NodePorts lets the node's own processes call the ports that are mapped at its
	// addresses; nil: they cannot. Close ends it.
	NodePorts *nodeport.Table
	// StateDir is where desired state is kept; "" keeps it in memory only.
	StateDir string
	// DefaultQuota is the flow quota of an interface that gives none. 0 = a quarter
	// of the flow table, so that no interface can fill it; -1 = none.
	DefaultQuota int32
	// Timeouts are those of the forwarder, to be shown with flows.
	Timeouts flowtable.Timeouts
	Log      *slog.Logger // nil: slog.Default
	// Kernel is what the daemon found the kernel to be, shown by status; nil:
	// nothing is said.
	Kernel *pb.KernelStatus
}

// Agent is the state of a node and what keeps it in force. Its methods may be
// called from any goroutine.
type Agent struct {
	options Options
	log     *slog.Logger
	started time.Time
	ports   *ports.Reconciler
	checks  *healthcheck.Server
	live    *liveness
	names   atomic.Pointer[compile.Names]

	// turn is held by a transaction from its first check to its last port. It
	// comes before mu.
	turn     sync.Mutex
	compiler *compile.Compiler // guarded by turn
	answers  answers           // guarded by turn
	pools    *attach.Pools     // guarded by turn
	around   surroundings      // guarded by turn
	// hosts are the next hops given to hosts on the uplink's link, by MAC address;
	// guarded by turn.
	hosts     map[[6]byte]nexthop.ID
	fullHosts sync.Once // says that there are too many
	// seen is a copy of around, for those who only look.
	seen atomic.Pointer[surroundings]

	mu          sync.RWMutex // held for writing while the state changes
	state       *state.State
	programs    uint64         // the last generation that changed what the forwarder does
	store       *persist.Store // nil: memory only
	controllers controllers
	watchers    watchers
}

// New returns an agent whose forwarder has the state that was kept in StateDir.
// Close ends it.
func New(o Options) (*Agent, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	switch {
	case o.DefaultQuota == 0:
		o.DefaultQuota = int32(max(o.Forwarder.Flows().Capacity()/4, 1))
	case o.DefaultQuota < 0:
		o.DefaultQuota = 0
	}
	a := &Agent{
		options: o, log: o.Log, started: time.Now(),
		ports:       ports.NewReconciler(o.Forwarder, o.Driver, o.Log),
		compiler:    compile.New(compile.Config{DefaultQuota: o.DefaultQuota, UplinkQuota: o.uplinkQuota()}),
		answers:     newAnswers(),
		pools:       attach.NewPools(),
		hosts:       map[[6]byte]nexthop.ID{},
		state:       state.New(),
		controllers: newControllers(),
		watchers:    newWatchers(),
	}
	a.checks = healthcheck.New(a.fabricUp, o.Log)
	a.live = newLiveness(a.PeerDown, o.Log)
	if err := a.restore(); err != nil {
		return nil, err
	}
	compiled, err := a.compiler.All(a.state)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("compile the kept state: %w", err), a.closeStore())
	}
	a.programs = a.state.Generation()
	a.program(compiled)
	return a, nil
}

// uplinkQuota is half of the flow table, where interfaces have a quota at all.
func (o *Options) uplinkQuota() int32 {
	if o.DefaultQuota == 0 {
		return 0
	}
	return int32(max(o.Forwarder.Flows().Capacity()/2, 1))
}

// restore takes up the state of an earlier process.
func (a *Agent) restore() error {
	if a.options.StateDir == "" {
		return nil
	}
	store, saved, err := persist.Open(a.options.StateDir)
	if err != nil {
		return err
	}
	a.store = store
	if err := a.state.Restore(saved.Generation, saved.Resources); err != nil {
		return errors.Join(fmt.Errorf("the state kept in %s is not valid for this version: %w", a.options.StateDir, err), a.closeStore())
	}
	a.controllers.restore(saved.Elections, a.state)
	if w := store.Status().Warning; w != "" {
		a.log.Warn("state was damaged", "detail", w, "generation", saved.Generation)
	}
	// A fresh copy makes the files whole again and shows at once when the disk
	// takes no writes.
	if err := store.Compact(a.saved()); err != nil {
		a.log.Error("state is not durable", "error", err)
	}
	return nil
}

func (a *Agent) closeStore() error {
	if a.store == nil {
		return nil
	}
	return a.store.Close()
}

// saved returns the whole state for the disk.
func (a *Agent) saved() persist.Saved {
	return persist.Saved{Generation: a.state.Generation(), Resources: a.state.All(), Elections: a.controllers.elections()}
}

// program publishes a compiled generation and brings the ports in line.
func (a *Agent) program(r *compile.Result) {
	a.names.Store(r.Names)
	a.ports.Withdraw(r.Ports)
	a.options.Forwarder.Publish(r.Snapshot)
	a.ports.Set(r.Ports)
	a.checks.Set(r.HealthChecks)
	a.live.set(r.Sessions)
	if a.options.NodePorts != nil {
		a.options.NodePorts.Set(r.NodePorts.Netns, r.NodePorts.Ports)
	}
	if a.options.Watcher != nil {
		a.options.Watcher.Set(target(r))
	}
}

// fabricUp reports whether the ports that join the node with others have their
// devices.
func (a *Agent) fabricUp() bool {
	for _, p := range a.ports.Status() {
		if p.Spec.Network == state.FabricNetwork && !p.Up {
			return false
		}
	}
	return true
}

// Run takes up devices that come back and writes the policy log, until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.ports.Run(ctx) })
	g.Go(func() error { return a.checks.Run(ctx) })
	g.Go(func() error { return a.live.run(ctx) })
	g.Go(func() error { return a.drainPolicyLog(ctx) })
	if a.options.NodePorts != nil {
		g.Go(func() error { return a.options.NodePorts.Run(ctx) })
	}
	if a.options.Watcher != nil {
		g.Go(func() error { return a.options.Watcher.Run(ctx, a.Underlay) })
		g.Go(func() error { return a.askNeighbors(ctx) })
	}
	return g.Wait()
}

// Close lets go of the ports, which stay in place for the next process where
// they can, and of the files. The forwarder goes on without ports.
func (a *Agent) Close() error {
	a.turn.Lock()
	defer a.turn.Unlock()
	err := a.ports.Close()
	if a.options.NodePorts != nil {
		err = errors.Join(err, a.options.NodePorts.Close())
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.watchers.close()
	return errors.Join(err, a.closeStore())
}

// Digest identifies what desired state says.
func (a *Agent) Digest() string {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.state.Digest()
}
