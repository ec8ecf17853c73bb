package controller

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/vrouter-go/vrouter/controller/model"
	"github.com/vrouter-go/vrouter/controller/network"
	"github.com/vrouter-go/vrouter/controller/service"
)

// Config is what a Controller is made of.
type Config struct {
	// Client reads the cluster. Make it with model.ClientConfig.
	Client kubernetes.Interface
	// Node is the name of the Node that the controller works for.
	Node string
	// Network and Service are the operator's choices.
	Network network.Options
	Service service.Options
	// Extensions reads the ClusterNetworkPolicies of a cluster that serves them. Nil: none
	// are read.
	Extensions dynamic.Interface
	// Log gets what is wrong with objects of the cluster. Default: slog.Default().
	Log *slog.Logger
	// Apply hands a change on, the first one with Full. The controller calls it from one
	// goroutine, in order, and does nothing else meanwhile.
	Apply func(Change)
	// Settle is how long a change waits for others that come with it. Default: 5 ms.
	Settle time.Duration
	// Rest is the least time between two compilations. Default: 10 ms, or as long as the
	// last one took.
	Rest time.Duration
}

// Controller follows a cluster and says what one node's agent shall have.
type Controller struct {
	config Config
}

// New returns a controller. The error says what its configuration lacks.
func New(c Config) (*Controller, error) {
	switch {
	case c.Client == nil:
		return nil, errors.New("controller: Client is missing")
	case c.Node == "":
		return nil, errors.New("controller: Node is missing; give the name of the Node object that this machine has")
	case c.Apply == nil:
		return nil, errors.New("controller: Apply is missing")
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Settle == 0 {
		c.Settle = 5 * time.Millisecond
	}
	if c.Rest == 0 {
		c.Rest = 10 * time.Millisecond
	}
	return &Controller{config: c}, nil
}

// Run follows the cluster until ctx ends, whose cause it returns. Nothing is handed on
// before all objects have been read: half a cluster would cut the other half off.
func (c *Controller) Run(ctx context.Context) error {
	watch, err := model.NewWatch(c.config.Client, c.config.Extensions, len(c.config.Network.ServiceCIDRs) == 0)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer watch.Stop()
	defer cancel()
	if err := watch.Start(ctx); err != nil {
		return err
	}
	w := newCompiler(&c.config)
	watch.Take(w.view)
	first := w.compile()
	first.Full, first.Deletes, first.Triggered = true, nil, time.Time{}
	c.config.Apply(first)
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-watch.Changed():
		}
		if !wait(ctx, c.config.Settle) {
			return context.Cause(ctx)
		}
		began := time.Now()
		watch.Take(w.view)
		change := w.compile()
		if len(change.Upserts)+len(change.Deletes) > 0 {
			c.config.Apply(change)
		}
		// A storm of events gets half of the time, whatever a compilation takes.
		if !wait(ctx, max(c.config.Rest, time.Since(began))) {
			return context.Cause(ctx)
		}
	}
}

// wait returns false when ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
