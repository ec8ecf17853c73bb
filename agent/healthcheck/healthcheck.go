// Package healthcheck answers load balancers outside the cluster that ask whether
// this node has members of a service: HTTP on the service's health-check node
// port, with the answers of kube-proxy (k8s.io/kubernetes pkg/proxy/healthcheck).
package healthcheck

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// Service is what one health-check node port speaks for.
type Service struct {
	// Addresses are where it is answered: the node's own of the service's family.
	Addresses       []netip.Addr
	Netns           string // where the addresses are; "" is the daemon's own
	Port            uint16 // 1 to 65535
	Namespace, Name string // of the service, for the answer
	// Local is how many members on this node take new flows.
	Local int
}

// Server holds the listeners. Its methods may be called from any goroutine.
type Server struct {
	log *slog.Logger
	// healthy reports whether the node forwards; where it does not, every answer
	// is that of a node without members (KEP-3836).
	healthy func() bool
	retry   chan struct{}

	mu        sync.Mutex
	listeners map[netip.AddrPort]*listener
}

// listener is a wanted address and port: its server, or why it has none.
type listener struct {
	service Service
	server  *http.Server // nil: not open
	err     error        // why
}

const (
	// retryInterval is how often an address that could not be bound is tried again:
	// it may not be on the node yet.
	retryInterval = time.Second
	// A load balancer asks in one small request. Who takes longer is let go, so that
	// nobody holds descriptors by being slow.
	requestTimeout = 5 * time.Second
	maxHeader      = 4 << 10
)

// New returns a server without services.
func New(healthy func() bool, log *slog.Logger) *Server {
	return &Server{
		log: log, healthy: healthy, retry: make(chan struct{}, 1),
		listeners: map[netip.AddrPort]*listener{},
	}
}

// Set makes the services those that are answered for. Listeners that stay are not
// touched. It does not wait for sockets to open.
func (s *Server) Set(services []Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := map[netip.AddrPort]struct{}{}
	for _, service := range services {
		for _, a := range service.Addresses {
			at := netip.AddrPortFrom(a, service.Port)
			wanted[at] = struct{}{}
			if s.listeners[at] == nil {
				s.listeners[at] = &listener{}
			}
			s.listeners[at].service = service
		}
	}
	for at, l := range s.listeners {
		if _, ok := wanted[at]; !ok {
			l.close()
			delete(s.listeners, at)
		}
	}
	select {
	case s.retry <- struct{}{}:
	default:
	}
}

// Run opens listeners until ctx ends, and closes them then.
func (s *Server) Run(ctx context.Context) error {
	tick := time.NewTicker(retryInterval)
	defer tick.Stop()
	for {
		s.open()
		select {
		case <-ctx.Done():
			s.mu.Lock()
			defer s.mu.Unlock()
			for at, l := range s.listeners {
				l.close()
				delete(s.listeners, at)
			}
			return nil
		case <-s.retry:
		case <-tick.C:
		}
	}
}

// open tries every listener that is not open.
func (s *Server) open() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for at, l := range s.listeners {
		if l.server != nil {
			continue
		}
		socket, err := listen(l.service.Netns, at)
		if err != nil {
			if l.err == nil || l.err.Error() != err.Error() {
				s.log.Warn("health check is not answered; trying again", "address", at, "error", err)
			}
			l.err = err
			continue
		}
		l.err = nil
		l.server = &http.Server{
			Handler:     s.handler(l),
			ReadTimeout: requestTimeout, WriteTimeout: requestTimeout, IdleTimeout: requestTimeout,
			MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		}
		go func(server *http.Server) {
			if err := server.Serve(socket); !errors.Is(err, http.ErrServerClosed) {
				s.log.Error("health check ended", "address", at, "error", err)
			}
		}(l.server)
	}
}

// listen opens the socket of an address in a namespace.
func listen(space string, at netip.AddrPort) (l net.Listener, err error) {
	open := func() error {
		l, err = net.Listen("tcp", at.String())
		return err
	}
	if space == "" {
		err = open()
	} else {
		err = netns.Do(space, open)
	}
	return l, err
}

func (l *listener) close() {
	if l.server != nil {
		_ = l.server.Close() // answers in flight are a load balancer's to repeat
	}
	l.server = nil
}

// answer is the body, field for field that of kube-proxy.
type answer struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int  `json:"localEndpoints"`
	ServiceProxyHealthy bool `json:"serviceProxyHealthy"`
}

// handler answers for what a listener speaks for.
func (s *Server) handler(l *listener) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		service := l.service
		s.mu.Unlock()
		var a answer
		a.Service.Namespace, a.Service.Name = service.Namespace, service.Name
		a.LocalEndpoints, a.ServiceProxyHealthy = service.Local, s.healthy()
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(a.LocalEndpoints))
		if a.LocalEndpoints == 0 || !a.ServiceProxyHealthy {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(a) // the other side may be gone
	})
}

// Problems returns the listeners that are not open, and why, in order.
func (s *Server) Problems() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for at, l := range s.listeners {
		if l.err != nil {
			list = append(list, fmt.Sprintf("health check at %s: %v", at, l.err))
		}
	}
	slices.Sort(list)
	return list
}
