package ingress

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/vrouter-go/vrouter/controller/ingress/haproxy"
	"github.com/vrouter-go/vrouter/controller/ingress/routing"
)

// DefaultController is spec.controller of the IngressClasses that are ours.
const DefaultController = "vrouter.io/ingress"

// Options are what the operator says.
type Options struct {
	Proxy   haproxy.Settings
	Routing routing.Options
	Publish Publish
	Address string // of health and metrics, host:port or unix:PATH; empty: none

	// ShutdownDelay is how long the proxy goes on after it is told to stop, not ready,
	// so that nobody sends it new connections any more when it stops listening.
	ShutdownDelay time.Duration
	// StopTimeout is how long connections may then go on.
	StopTimeout time.Duration

	Log *slog.Logger
}

// Timing of the loop.
const (
	coalesce   = 50 * time.Millisecond // shortest time between two tables
	retryAfter = 10 * time.Second      // after a table that could not be served
)

// Controller is the loop and what it shares with health, metrics and status.
type Controller struct {
	options Options
	log     *slog.Logger
	watch   *watch
	secrets *secrets
	events  *events
	status  *status
	proxy   *haproxy.Proxy

	compiler *routing.Compiler
	kick     chan struct{} // something has changed; holds one

	table  atomic.Pointer[routing.Table] // the last one that was made
	health health
}

// Run serves Ingresses until ctx ends and connections have finished. It returns an
// error when it could not begin, or when connections were cut at the end.
func Run(ctx context.Context, client kubernetes.Interface, o Options) error {
	proxy, err := haproxy.New(o.Proxy, o.Log)
	if err != nil {
		return err
	}
	// What runs beside the loop goes on while the proxy drains.
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	var beside sync.WaitGroup
	defer beside.Wait()
	defer stop()
	c := &Controller{
		options: o, log: o.Log, proxy: proxy, compiler: routing.NewCompiler(o.Routing), kick: make(chan struct{}, 1),
		events: newEvents(inner, client, o.Log),
	}
	c.watch = newWatch(client, o.Publish, c.log, c.changed, c.concerns)
	c.secrets = newSecrets(inner, client, c.log, c.changed)
	c.status = newStatus(client, o.Publish, c.watch, c.log)
	failed := make(chan error, 1)
	if o.Address != "" {
		beside.Go(func() {
			if err := c.serve(inner, o.Address); err != nil {
				failed <- err
			}
		})
	}
	if err := c.watch.start(ctx, inner); err != nil {
		if ctx.Err() != nil {
			err = nil // told to stop before it began
		}
		return errors.Join(err, proxy.Close(inner))
	}
	beside.Go(func() { c.status.run(inner) })
	c.changed()
	err = c.loop(ctx, inner, failed)
	closing, cancel := context.WithTimeout(inner, max(o.StopTimeout, time.Millisecond))
	defer cancel()
	err = errors.Join(err, proxy.Close(closing))
	stop()
	c.watch.wait()
	c.secrets.wait()
	return err
}

// changed asks for another table, soon.
func (c *Controller) changed() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// concerns says whether a Service is one that an Ingress names.
func (c *Controller) concerns(service types.NamespacedName) bool {
	t := c.table.Load()
	return t == nil || t.Services[service]
}

// loop makes tables and applies them. It is the one goroutine that touches the proxy.
func (c *Controller) loop(stop, inner context.Context, failed <-chan error) error {
	var ending <-chan time.Time
	stopped := stop.Done()
	due := time.NewTimer(time.Hour)
	defer due.Stop()
	for last := (time.Time{}); ; {
		select {
		case <-stopped:
			c.log.Info("stopping: not ready from now on", "serving", c.options.ShutdownDelay)
			c.health.draining.Store(true)
			stopped, ending = nil, time.After(c.options.ShutdownDelay)
			continue
		case <-ending:
			return nil
		case err := <-failed:
			return err
		case <-c.kick:
			if wait := time.Until(last.Add(coalesce)); wait > 0 {
				select {
				case <-time.After(wait):
				case <-inner.Done():
				}
			}
			last = time.Now()
			c.compile(inner)
		case <-c.proxy.Ended():
			due.Reset(c.proxy.Restart())
			continue
		case <-due.C:
		}
		if again := c.apply(inner); again > 0 {
			due.Reset(again)
		} else {
			due.Stop()
		}
	}
}

// compile makes the table. What it names for the first time is watched first.
func (c *Controller) compile(ctx context.Context) {
	begin := time.Now()
	objects := c.watch.objects(c.secrets.get)
	t := c.compiler.Compile(objects)
	if c.secrets.want(ctx, t.Secrets) {
		objects = c.watch.objects(c.secrets.get)
		t = c.compiler.Compile(objects)
	}
	old := c.table.Swap(t)
	for service := range t.Services {
		if old != nil && !old.Services[service] {
			// What changed of it while this table was made was of no concern then.
			c.changed()
			break
		}
	}
	c.health.compiled(time.Since(begin))
}

// apply serves the last table and returns when to do so again; zero: when there is
// another.
func (c *Controller) apply(ctx context.Context) time.Duration {
	t := c.table.Load()
	begin := time.Now()
	result, err := c.proxy.Apply(ctx, t)
	c.health.applied(time.Since(begin), err)
	c.events.report(slices.Concat(t.Problems, result.Rejected), c.watch.ingress)
	if err != nil {
		c.log.Error("the Ingresses could not be put into force", "error", err, "retry", retryAfter)
		return retryAfter
	}
	if c.proxy.Stats().PID != 0 {
		c.health.serving.Store(true)
		c.status.publish(t.Ingresses)
	}
	return result.Again
}
