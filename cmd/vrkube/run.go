package main

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/vrouter-go/vrouter/agent/client"
	"github.com/vrouter-go/vrouter/controller/agentsync"
	"github.com/vrouter-go/vrouter/controller/health"
	"github.com/vrouter-go/vrouter/controller/model"
)

func runCommand() *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Follow the cluster and keep the node's agent in step, until SIGTERM or SIGINT",
		Long: `Example:
  vrkube run --node node-1 --kubeconfig /etc/vrouter/vrkube.kubeconfig --uplink eth0

Runs on each node beside vrouter; nothing has to be elected. The agent keeps what it
has while vrkube is away, and what has not changed meanwhile makes no change when it
comes back. Of other nodes' pods and endpoints it tells the agent only what this node
needs to reach them.

/livez fails when vrkube should be started again, /readyz until the agent has
programmed what the cluster says, /healthz also while the node is being deleted.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.complete(); err != nil {
				return err
			}
			config, err := o.cluster()
			if err != nil {
				return err
			}
			return run(cmd.Context(), o, config, o.logger(cmd.ErrOrStderr()))
		},
	}
	o.flags(cmd.Flags())
	return cmd
}

// Requests are few: lists and watches at the start. The limits of a client-go
// client would only make the start slower.
const (
	requestsPerSecond = 50
	requestBurst      = 100
)

// run does everything until ctx ends or a part fails.
func run(ctx context.Context, o *options, config *rest.Config, log *slog.Logger) error {
	apiserver := health.NewAPIServer()
	config = model.ClientConfig(config)
	config.UserAgent = "vrkube/" + version()
	config.QPS, config.Burst = requestsPerSecond, requestBurst
	config.Wrap(apiserver.Wrap)
	cluster, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	custom := rest.CopyConfig(config) // custom resources come in JSON only
	custom.ContentType, custom.AcceptContentTypes = "", ""
	extensions, err := dynamic.NewForConfig(custom)
	if err != nil {
		return err
	}
	sync := agentsync.New(agentsync.Options{Agent: client.Config{Address: o.agent}, Log: log})
	node, err := health.NewNode(cluster, o.node)
	if err != nil {
		return err
	}
	probe := health.Probe{Sync: sync.Status, Node: node.Ineligible}
	registry := prometheus.NewRegistry()
	registry.MustRegister(sync, apiserver, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	log.Info("vrkube runs", "version", version(), "node", o.node, "apiserver", config.Host, "agent", o.agent)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return follow(ctx, o, cluster, extensions, log, sync.Set) })
	g.Go(func() error { return sync.Run(ctx) })
	g.Go(func() error { return node.Run(ctx) })
	g.Go(func() error { return health.Serve(ctx, o.metrics, probe.Handler(registry)) })
	g.Go(func() error { return health.Serve(ctx, o.healthz, probe.Handler(nil)) })
	err = g.Wait()
	log.Info("vrkube ends; the agent forwards as before", "error", err)
	return err
}
