package ingress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// health is what health and metrics say; any goroutine reads it.
type health struct {
	serving  atomic.Bool // a table has been put into force
	draining atomic.Bool // told to stop

	failures                 atomic.Int64 // tables that could not be put into force
	failing                  atomic.Bool  // the last one
	compileNanos, applyNanos atomic.Int64 // of the last one
	tables                   atomic.Int64
}

func (h *health) compiled(d time.Duration) {
	h.tables.Add(1)
	h.compileNanos.Store(int64(d))
}

func (h *health) applied(d time.Duration, err error) {
	h.applyNanos.Store(int64(d))
	h.failing.Store(err != nil)
	if err != nil {
		h.failures.Add(1)
	}
}

// serve answers health and metrics until ctx ends.
func (c *Controller) serve(ctx context.Context, address string) error {
	network := "tcp"
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", path
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("health and metrics: %w", err)
		}
	}
	listener, err := new(net.ListenConfig).Listen(ctx, network, address)
	if err != nil {
		return fmt.Errorf("health and metrics: %w", err)
	}
	server := &http.Server{Handler: c.handler(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // ends Serve
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("health and metrics: %w", err)
	}
	return nil
}

func (c *Controller) handler() http.Handler {
	mux := http.NewServeMux()
	answer := func(path string, fault func() string) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			if why := fault(); why != "" {
				http.Error(w, why, http.StatusServiceUnavailable)
				return
			}
			fmt.Fprintln(w, "ok")
		})
	}
	answer("/healthz", c.unhealthy)
	answer("/readyz", c.notReady)
	mux.Handle("GET /metrics", promhttp.HandlerFor(c.registry(), promhttp.HandlerOpts{}))
	mux.Handle("GET /metrics/haproxy", c.haproxyMetrics())
	return mux
}

// unhealthy says why this process cannot do its work any more; before the first table
// it is still on its way.
func (c *Controller) unhealthy() string {
	if c.health.serving.Load() && c.proxy.Stats().PID == 0 && !c.health.draining.Load() {
		return "haproxy does not run"
	}
	return ""
}

// notReady says why nobody should send requests here.
func (c *Controller) notReady() string {
	switch {
	case c.health.draining.Load():
		return "stopping"
	case !c.health.serving.Load():
		return "no configuration is in force yet"
	}
	return c.unhealthy()
}

// haproxyMetrics passes on what HAProxy says of itself.
func (c *Controller) haproxyMetrics() http.Handler {
	transport := &http.Transport{
		DisableKeepAlives: true, // the next generation has another socket
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			path := c.proxy.MetricsSocket()
			if path == "" {
				return nil, errors.New("haproxy does not run")
			}
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}
	return &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host, r.Out.URL.Path = "http", "haproxy", "/metrics"
	}}
}

// registry holds the controller's own metrics, all of which are read when asked for.
func (c *Controller) registry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	gauge := func(name, help string, read func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "vrkube_ingress", Name: name, Help: help}, read))
	}
	counter := func(name, help string, read func() int64) {
		r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "vrkube_ingress", Name: name, Help: help}, func() float64 { return float64(read()) }))
	}
	size := func(name, help string, read func() int) {
		gauge(name, help, func() float64 {
			if c.table.Load() == nil {
				return 0
			}
			return float64(read())
		})
	}
	size("ingresses", "Ingresses of our classes.", func() int { return len(c.table.Load().Ingresses) })
	size("routes", "Rules and default backends in force.", func() int { return len(c.table.Load().Routes) })
	size("backends", "Ports of Services that are served.", func() int { return len(c.table.Load().Backends) })
	size("certificates", "Certificates from Secrets.", func() int { return len(c.table.Load().Certificates) })
	size("problems", "Things in Ingresses that have no effect; Events say which.", func() int { return len(c.table.Load().Problems) })
	counter("tables_total", "Tables made of the cluster's objects.", c.health.tables.Load)
	counter("failures_total", "Tables that could not be put into force.", c.health.failures.Load)
	gauge("failing", "1 while the last table is not in force and HAProxy serves an older one.", func() float64 { return float64(bit(c.health.failing.Load())) })
	gauge("compile_seconds", "Time to make the last table.", func() float64 { return time.Duration(c.health.compileNanos.Load()).Seconds() })
	gauge("apply_seconds", "Time to put the last table into force.", func() float64 { return time.Duration(c.health.applyNanos.Load()).Seconds() })
	counter("status_writes_total", "Writes to the status of Ingresses.", c.status.writes.Load)
	counter("haproxy_starts_total", "Starts of HAProxy.", func() int64 { return c.proxy.Stats().Starts })
	counter("haproxy_reloads_total", "Reloads of HAProxy.", func() int64 { return c.proxy.Stats().Reloads })
	counter("haproxy_changes_total", "Changes through HAProxy's runtime socket, without a reload.", func() int64 { return c.proxy.Stats().Changes })
	counter("haproxy_rejected_total", "Configurations that HAProxy did not take.", func() int64 { return c.proxy.Stats().Rejected })
	counter("haproxy_crashes_total", "HAProxy processes that ended by themselves.", func() int64 { return c.proxy.Stats().Crashes })
	gauge("haproxy_draining_servers", "Pods that take no new requests and still have connections.", func() float64 { return float64(c.proxy.Stats().Draining) })
	return r
}
