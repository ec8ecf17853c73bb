package haproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vrouter-go/vrouter/controller/ingress/routing"
)

// Proxy is one HAProxy and what it serves. It belongs to one goroutine; Stats and
// MetricsSocket may be called by any.
type Proxy struct {
	settings Settings
	log      *slog.Logger
	v6       bool
	lock     *os.File

	number   int       // of the last generation written
	child    *child    // nil before the first table
	loaded   *loaded   // what the worker serves; nil if that is not known
	reloaded time.Time // last time that a master read a configuration
	retryAt  time.Time // not before: after a child has ended by itself
	crashes  int       // in a row

	rejected map[string]error // certificates that HAProxy refuses, by ID
	stats    stats
}

// New prepares a Proxy, which starts with the first table. It takes the directory
// for itself and removes what an earlier run has left there.
func New(s Settings, log *slog.Logger) (*Proxy, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.Directory, 0o700); err != nil {
		return nil, fmt.Errorf("directory for HAProxy's files: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(s.Directory, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("directory for HAProxy's files: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is in use by another vrkube ingress: %w", s.Directory, err), lock.Close())
	}
	if err := s.clean(""); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &Proxy{settings: s, log: log, v6: hasIPv6(), lock: lock, rejected: make(map[string]error)}, nil
}

// Result is what came of a table.
type Result struct {
	// Again is when Apply has something left to do, with the same table; zero: nothing.
	Again time.Duration
	// Rejected are certificates that HAProxy refuses, a problem for each Ingress that
	// asks for one. Their hosts have no certificate.
	Rejected []routing.Problem
}

// Apply makes the proxy serve a table. Pods and routes change without a reload. After
// an error the proxy serves what it served before, but for pods, which are as in the
// table wherever that was possible.
func (p *Proxy) Apply(ctx context.Context, t *routing.Table) (Result, error) {
	var result Result
	t, result.Rejected = p.withoutRejected(t)
	if p.child == nil || !p.child.running() {
		if wait := time.Until(p.retryAt); wait > 0 {
			result.Again = wait
			return result, nil
		}
		return p.reload(ctx, t, result)
	}
	if p.loaded != nil {
		// Pods first: they are what cannot wait for the next reload.
		err := p.updateServers(ctx, t)
		if err == nil && !p.loaded.lacks(t, p.list(t)) {
			if err = p.updateRoutes(ctx, t); err == nil {
				result.Again = p.tend(ctx)
				return result, nil
			}
		}
		if err != nil {
			p.log.Warn("the running HAProxy could not be changed, so it is reloaded", "error", err)
			p.loaded = nil
		}
	}
	if wait := time.Until(p.reloaded.Add(p.settings.ReloadInterval)); wait > 0 {
		result.Again = wait
		return result, nil
	}
	return p.reload(ctx, t, result)
}

// list is the table's list of certificates, without the place of its files.
func (p *Proxy) list(t *routing.Table) []byte { return certificateList(t, "/") }

// reload writes a generation and makes the master read it, starting one if there is
// none.
func (p *Proxy) reload(ctx context.Context, t *routing.Table, result Result) (Result, error) {
	p.reloaded = time.Now()
	g, t, err := p.prepare(ctx, t, &result)
	if err != nil {
		p.stats.rejected.Add(1)
		return result, errors.Join(fmt.Errorf("the proxy goes on as before: %w", err), os.RemoveAll(g.dir))
	}
	if err := p.settings.use(g); err != nil {
		return result, err
	}
	started := p.child == nil || !p.child.running()
	if started {
		if p.child, err = p.settings.startChild(p.log); err != nil {
			p.child = nil
			return result, err
		}
	} else if err := p.child.cmd.Process.Signal(unix.SIGUSR2); err != nil {
		p.loaded = nil
		return result, fmt.Errorf("reload: %w", err)
	}
	pid, err := p.await(ctx, g)
	if err != nil {
		p.loaded = nil
		p.stats.rejected.Add(1)
		return result, err
	}
	p.crashes = 0
	p.loaded = newLoaded(g, t, p.list(t))
	if started {
		p.stats.starts.Add(1)
	} else {
		p.stats.reloads.Add(1)
	}
	p.stats.serve(g, pid)
	p.log.Info("haproxy serves a new configuration", "generation", g.name, "pid", pid, "routes", len(t.Routes), "backends", len(t.Backends), "certificates", len(t.Certificates))
	return result, p.settings.clean(g.name)
}

// prepare writes a generation that HAProxy takes. Certificates that it does not take
// are left out.
func (p *Proxy) prepare(ctx context.Context, t *routing.Table, result *Result) (generation, *routing.Table, error) {
	p.number++
	g, err := p.settings.write(p.number, t, p.v6)
	if err != nil {
		return g, t, err
	}
	if err = p.settings.check(ctx, g.path(configFile)); err == nil {
		return g, t, nil
	}
	found := false
	all := t.Certificates
	if t.DefaultCertificate != nil {
		all = append(slices.Clone(all), *t.DefaultCertificate)
	}
	for i := range all {
		if fault := p.settings.checkCertificate(ctx, g, all[i].ID); fault != nil {
			p.rejected[all[i].ID] = fault
			found = true
		}
	}
	if !found {
		return g, t, err
	}
	t, result.Rejected = p.withoutRejected(t)
	if g, err = p.settings.write(p.number, t, p.v6); err != nil {
		return g, t, err
	}
	return g, t, p.settings.check(ctx, g.path(configFile))
}

// withoutRejected returns the table without certificates that HAProxy has refused,
// and the problems that this makes.
func (p *Proxy) withoutRejected(t *routing.Table) (*routing.Table, []routing.Problem) {
	if len(p.rejected) == 0 {
		return t, nil
	}
	var problems []routing.Problem
	still := make(map[string]error)
	refused := func(c *routing.Certificate) bool {
		err := p.rejected[c.ID]
		if err == nil {
			return false
		}
		still[c.ID] = err
		owners := c.Ingresses
		if len(owners) == 0 {
			owners = []types.NamespacedName{{}} // the operator's
		}
		for _, owner := range owners {
			problems = append(problems, routing.Problem{Ingress: owner, Reason: "SecretInvalid",
				Message: fmt.Sprintf("Secret %s is ignored: HAProxy refuses its certificate or key, which is too weak for OpenSSL or of an unknown kind", c.Secret)})
		}
		return true
	}
	kept := *t
	kept.Certificates = nil
	for i := range t.Certificates {
		if !refused(&t.Certificates[i]) {
			kept.Certificates = append(kept.Certificates, t.Certificates[i])
		}
	}
	if d := t.DefaultCertificate; d != nil && refused(d) {
		kept.DefaultCertificate = nil
	}
	p.rejected = still
	return &kept, problems
}

// awaitTimeout bounds the start of a worker.
const awaitTimeout = 30 * time.Second

// await returns when the worker of a generation answers, and the master knows it: a
// signal to a master that is not that far is lost.
func (p *Proxy) await(ctx context.Context, g generation) (pid int, err error) {
	ctx, cancel := context.WithTimeout(ctx, awaitTimeout)
	defer cancel()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		pid, description, err := g.admin().describe(ctx)
		if err == nil && description == g.name {
			var workers string
			if workers, err = p.master().ask(ctx, "show proc"); err == nil && hasWorker(workers, pid) {
				return pid, nil
			}
		}
		select {
		case <-p.child.done:
			return 0, fmt.Errorf("haproxy ended: %w", errors.Join(p.child.err, errors.New("its last lines in the log say why")))
		case <-ctx.Done():
			return 0, fmt.Errorf("haproxy did not load %s: %w", g.name, cmpErr(err, ctx.Err()))
		case <-poll.C:
		}
	}
}

func (p *Proxy) master() socket { return socket(filepath.Join(p.settings.Directory, masterFile)) }

// hasWorker says whether the master's list of processes has a worker, old ones aside.
func hasWorker(list string, pid int) bool {
	list, _, _ = strings.Cut(list, "# old workers")
	for line := range strings.Lines(list) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == strconv.Itoa(pid) && f[1] == "worker" {
			return true
		}
	}
	return false
}

func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Ended is closed when the running HAProxy has ended; nil while there is none. The
// owner then calls Restart and Apply.
func (p *Proxy) Ended() <-chan struct{} {
	if p.child == nil {
		return nil
	}
	return p.child.done
}

// Restart notes that HAProxy has ended by itself, which it must not, and says when
// Apply starts it again.
func (p *Proxy) Restart() time.Duration {
	const first, most = 100 * time.Millisecond, 10 * time.Second
	wait := min(first<<min(p.crashes, 10), most)
	p.crashes++
	p.log.Error("haproxy ended by itself and is started again", "error", p.child.err, "in", wait)
	p.stats.crashes.Add(1)
	p.stats.serve(generation{}, 0)
	p.child, p.loaded, p.retryAt = nil, nil, time.Now().Add(wait)
	return wait
}

// Close lets connections finish until ctx ends, at most the drain timeout, stops
// HAProxy and removes its files.
func (p *Proxy) Close(ctx context.Context) error {
	var errs []error
	if p.child != nil {
		ctx, cancel := context.WithTimeout(ctx, p.settings.DrainTimeout)
		errs = append(errs, p.child.stop(ctx))
		cancel()
	}
	p.stats.serve(generation{}, 0)
	return errors.Join(append(errs, p.settings.clean(""), p.lock.Close())...)
}

// lacks says whether the table needs a configuration that is not loaded. Backends
// that are not needed any more do not count.
func (l *loaded) lacks(t *routing.Table, list []byte) bool {
	if !bytes.Equal(l.list, list) {
		return true
	}
	return slices.ContainsFunc(t.Backends, func(k routing.Backend) bool {
		have, ok := l.backends[k.Name]
		return !ok || have.http2 != k.HTTP2
	})
}
