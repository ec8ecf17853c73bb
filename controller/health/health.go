// Package health answers whether a node's control plane is well: to the kubelet,
// which starts it again, to load balancers, which send the node no more traffic,
// and to Prometheus.
package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/vrouter-go/vrouter/controller/agentsync"
)

// How long something may last before it is a fault.
const (
	// outOfReach is how long the agent may be away: a restart takes less.
	outOfReach = 10 * time.Second
	// late is how long a change may wait for the agent before the node no longer
	// forwards as the cluster says; stuck, before we are at fault.
	late  = 60 * time.Second
	stuck = 3 * time.Minute
)

// Probe judges. Its methods may be called from any goroutine.
type Probe struct {
	// Sync returns how far the agent is in step.
	Sync func() agentsync.Status
	// Node returns "" while the node takes traffic, else why it does not; nil: it
	// always does.
	Node func() string
}

// verdict is one answer.
type verdict struct {
	OK bool `json:"ok"`
	// Reason is why not.
	Reason string `json:"reason,omitempty"`
	// As kube-proxy writes them.
	CurrentTime  time.Time  `json:"currentTime"`
	LastUpdated  *time.Time `json:"lastUpdated,omitempty"`
	NodeEligible *bool      `json:"nodeEligible,omitempty"`
}

// live reports whether this process does its work. It is no fault of it that others
// are away: to start again would not bring them back.
func (p Probe) live() (reason string) {
	st := p.Sync()
	if st.Connected && !st.Waiting.IsZero() && time.Since(st.Waiting) > stuck {
		return fmt.Sprintf("a change waits since %s though the agent is connected", st.Waiting.UTC().Format(time.RFC3339))
	}
	return ""
}

// ready reports whether the agent has what the cluster says.
func (p Probe) ready() (reason string) {
	st := p.Sync()
	switch {
	case !st.Ready && st.Desired == 0:
		return "the cluster's objects have not been read yet"
	case !st.Ready && st.Broken != "":
		return "the agent is out of reach: " + st.Broken
	case !st.Ready:
		return "the first snapshot is not programmed yet"
	case !st.Connected && time.Since(st.Since) > outOfReach:
		return fmt.Sprintf("the agent is out of reach since %s: %s", st.Since.UTC().Format(time.RFC3339), st.Broken)
	case !st.Waiting.IsZero() && time.Since(st.Waiting) > late:
		return fmt.Sprintf("the agent has not taken up a change since %s", st.Waiting.UTC().Format(time.RFC3339))
	}
	return ""
}

// Handler returns the handler of /healthz, /livez and /readyz, and of /metrics
// where a registry is given.
func (p Probe) Handler(registry prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { answer(w, verdict{Reason: p.live()}) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, verdict{Reason: p.ready()}) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, p.health()) })
	if registry != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	}
	return mux
}

// health reports whether the node should get traffic, as kube-proxy's healthz does
// (KEP-3836): not while it is being deleted.
func (p Probe) health() verdict {
	v := verdict{Reason: p.ready()}
	if since := p.Sync().Since; !since.IsZero() {
		v.LastUpdated = &since
	}
	eligible := true
	if p.Node != nil {
		if reason := p.Node(); reason != "" {
			eligible = false
			if v.Reason == "" {
				v.Reason = reason
			}
		}
	}
	v.NodeEligible = &eligible
	return v
}

func answer(w http.ResponseWriter, v verdict) {
	v.OK, v.CurrentTime = v.Reason == "", time.Now()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if !v.OK {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(v) // the other side may be gone
}

// CheckMetricsAddress refuses where metrics must not be served: they have no
// authentication.
func CheckMetricsAddress(address string) error {
	if strings.HasPrefix(address, "unix:") || address == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("%q must be a loopback address with a port, for example 127.0.0.1:9470, or unix:PATH: metrics have no authentication", address)
	}
	return nil
}

// requestTimeout bounds what a slow client costs.
const requestTimeout = 10 * time.Second

// Serve serves a handler on an address (host:port, or unix:PATH) until ctx ends. An
// empty address serves nothing.
func Serve(ctx context.Context, address string, h http.Handler) error {
	if address == "" {
		<-ctx.Done()
		return nil
	}
	l, err := listen(address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: h, ReadTimeout: requestTimeout, WriteTimeout: requestTimeout, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case <-ctx.Done():
		err = server.Close()
		if why := <-ended; !errors.Is(why, http.ErrServerClosed) {
			return fmt.Errorf("%s: %w", address, why)
		}
		return err
	case err := <-ended:
		return fmt.Errorf("%s: %w", address, err)
	}
}

func listen(address string) (net.Listener, error) {
	path, unix := strings.CutPrefix(address, "unix:")
	if !unix {
		return net.Listen("tcp", address)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", path)
}
