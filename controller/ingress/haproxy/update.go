package haproxy

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/vrouter-go/vrouter/controller/ingress/routing"
)

// loaded is what a worker serves, as it was loaded and changed since.
type loaded struct {
	generation generation
	list       []byte // certificates
	routes     []string
	backends   map[string]*loadedBackend
}

type loadedBackend struct {
	http2   bool
	servers map[string]time.Time // by name: since when it drains; zero: it takes requests
}

func newLoaded(g generation, t *routing.Table, list []byte) *loaded {
	l := &loaded{generation: g, list: list, routes: entries(t), backends: make(map[string]*loadedBackend)}
	for i := range t.Backends {
		k := &loadedBackend{http2: t.Backends[i].HTTP2, servers: make(map[string]time.Time)}
		for _, s := range t.Backends[i].Servers {
			k.servers[s.Name()] = time.Time{}
		}
		l.backends[t.Backends[i].Name] = k
	}
	return l
}

// updateServers makes the servers of all loaded backends those of the table. New ones
// come before old ones go, so that a backend whose pods all change is never empty.
func (p *Proxy) updateServers(ctx context.Context, t *routing.Table) error {
	wanted := make(map[string]bool)
	var errs []error
	for i := range t.Backends {
		k := &t.Backends[i]
		have := p.loaded.backends[k.Name]
		if have == nil || have.http2 != k.HTTP2 {
			continue // comes with a reload
		}
		for _, s := range k.Servers {
			wanted[k.Name+"/"+s.Name()] = true
			errs = append(errs, p.raise(ctx, k, have, s))
		}
	}
	for name, have := range p.loaded.backends {
		for server, since := range have.servers {
			if path := name + "/" + server; since.IsZero() && !wanted[path] {
				if err := p.admin().do(ctx, "set server "+path+" state drain"); err != nil {
					errs = append(errs, err)
					continue
				}
				have.servers[server] = time.Now()
				p.stats.changes.Add(1)
			}
		}
	}
	return errors.Join(errs...)
}

// raise makes a server take requests.
func (p *Proxy) raise(ctx context.Context, k *routing.Backend, have *loadedBackend, s routing.Server) error {
	path := k.Name + "/" + s.Name()
	since, known := have.servers[s.Name()]
	if known && since.IsZero() {
		return nil
	}
	if !known {
		if err := p.admin().do(ctx, "add server "+k.Name+"/"+serverLine(k, s), "New server registered"); err != nil {
			return err
		}
		have.servers[s.Name()] = time.Now() // it is there, and takes nothing yet
	}
	if err := p.admin().do(ctx, "set server "+path+" state ready"); err != nil {
		return err
	}
	have.servers[s.Name()] = time.Time{}
	p.stats.changes.Add(1)
	return nil
}

// updateRoutes makes the map of routes that of the table.
func (p *Proxy) updateRoutes(ctx context.Context, t *routing.Table) error {
	routes := entries(t)
	if slices.Equal(routes, p.loaded.routes) {
		return nil
	}
	if err := p.admin().replaceMap(ctx, p.loaded.generation.path(routesFile), routes); err != nil {
		return err
	}
	p.loaded.routes = routes
	p.stats.changes.Add(1)
	return nil
}

func (p *Proxy) admin() socket { return p.loaded.generation.admin() }

// drainTime is how long a server drains before it is deleted, and how often the
// deletion of one that has connections is tried.
const drainTime = 2 * time.Second

// tend deletes drained servers, and says when there is more to do; zero: nothing. A
// server with connections cannot be deleted; they go on.
func (p *Proxy) tend(ctx context.Context) time.Duration {
	left, next := 0, time.Duration(0)
	for name, have := range p.loaded.backends {
		for server, since := range have.servers {
			if since.IsZero() {
				continue
			}
			wait := time.Until(since.Add(drainTime))
			if wait <= 0 {
				if p.remove(ctx, name+"/"+server) {
					delete(have.servers, server)
					continue
				}
				wait = drainTime
			}
			left++
			if next == 0 || wait < next {
				next = wait
			}
		}
	}
	p.stats.draining.Store(int64(left))
	return next
}

// remove deletes a drained server, unless it has connections. Maintenance, without
// which nothing is deleted, ends none either.
func (p *Proxy) remove(ctx context.Context, path string) bool {
	if err := p.admin().do(ctx, "set server "+path+" state maint"); err != nil {
		p.log.Warn("a drained server could not be taken out", "server", path, "error", err)
		return false
	}
	reply, err := p.admin().ask(ctx, "del server "+path)
	return err == nil && strings.HasPrefix(reply, "Server deleted")
}
