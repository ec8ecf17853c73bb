package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/vrouter-go/vrouter/agent"
	"github.com/vrouter-go/vrouter/agent/config"
	"github.com/vrouter-go/vrouter/agent/metrics"
	"github.com/vrouter-go/vrouter/agent/ports"
	"github.com/vrouter-go/vrouter/agent/rpc"
	"github.com/vrouter-go/vrouter/agent/underlay"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/nodeport"
	"github.com/vrouter-go/vrouter/internal/port/tap"
)

func runCommand() *cobra.Command {
	path := config.DefaultPath
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the daemon: forwarder and agent",
		Long: `Example:
  vrouter run --config /etc/vrouter/vrouter.yaml
  vrctl status

Runs until SIGTERM or SIGINT. TAP devices and the state stay in place for the
next start, which forwards as before without a controller.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := config.Load(path)
			if err != nil {
				return err
			}
			log := c.Log.Logger(cmd.ErrOrStderr())
			return daemon(cmd.Context(), c, log, func() {
				if err := dropPrivileges(); err != nil {
					log.Warn("privileges were not dropped", "error", err)
				}
				notifyReady()
			})
		},
	}
	cmd.Flags().StringVar(&path, "config", path, "configuration file")
	return cmd
}

// spareProcessors of Go's scheduler are for all that does not move packets.
const spareProcessors = 2

// daemon runs everything until ctx ends or a part fails. It calls ready when the
// API answers and the kept state is in force.
func daemon(ctx context.Context, c *config.Config, log *slog.Logger, ready func()) (err error) {
	fwd, err := forwarder.New(forwarder.Config{
		Workers: c.Forwarder.Workers, Sessions: c.Forwarder.Sessions,
		AffinityEntries: c.Forwarder.AffinityEntries, Timeouts: c.Timeouts.Table(),
		OnPanic: func(worker int, value any, stack []byte) {
			log.Error("worker panicked, the rest of its batch is lost", "worker", worker, "panic", value, "stack", string(stack))
		},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fwd.Close()) }()
	rings, ringsErr := tap.NewRings(len(fwd.Workers()))
	defer func() { err = errors.Join(err, rings.Close()) }() // after the workers have stopped
	// A busy worker gives its processor of Go's scheduler to nobody for 10 ms at a
	// time, and gets it back as late. So the API and the garbage collector have
	// processors of their own, and the kernel shares out the real ones.
	runtime.GOMAXPROCS(len(fwd.Workers()) + spareProcessors)

	// Workers run from the start and until the last port is gone: attaching waits
	// for them.
	moving, stopMoving := context.WithCancel(context.WithoutCancel(ctx))
	moved := make(chan error, 1)
	go func() { moved <- fwd.Run(moving) }()
	defer func() {
		stopMoving()
		err = errors.Join(err, <-moved)
	}()

	// A second daemon must not touch the state or the devices of the one that runs.
	lock, err := rpc.TakeLock(c.Socket)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	a, err := agent.New(agent.Options{
		Node: c.Node, Version: version(), Forwarder: fwd, Driver: ports.TAP(rings), Watcher: underlay.New(log), NodePorts: nodeport.New(log), StateDir: c.StateDir,
		DefaultQuota: c.Forwarder.DefaultFlowQuota, Timeouts: c.Timeouts.Table(), Log: log, Kernel: kernelStatus(ringsErr),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	server, err := rpc.Listen(c.RPC(log), agent.NewService(a))
	if err != nil {
		return err
	}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.Run(ctx) })
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error { return metrics.Serve(ctx, c.Metrics.Socket, c.Metrics.Address, a) })
	log.Info("vrouter runs", "version", version(), "node", c.Node, "socket", c.Socket, "generation", a.Status().GetGeneration().GetNumber())
	ready()
	return g.Wait()
}

// version is that of the build.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

// notifyReady tells systemd, where it asked, that the daemon is up (sd_notify(3)).
func notifyReady() {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if err := sdNotify(path, "READY=1"); err != nil {
		fmt.Fprintln(os.Stderr, "vrouter: systemd was not told that the daemon is up:", err)
	}
}

// demoDaemon is the daemon that `vrouter demo` runs beside its namespaces: this
// one, with everything but the paths at its defaults.
func demoDaemon(ctx context.Context, socket, stateDir string, ready func()) error {
	c, err := config.Parse("of the demo", fmt.Appendf(nil, "socket: %q\nstateDir: %q\nlog: {level: error}\n", socket, stateDir))
	if err != nil {
		return err
	}
	return daemon(ctx, c, c.Log.Logger(os.Stderr), ready)
}
