package underlay

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

const (
	// coalesce is how long changes gather before they are reported.
	coalesce = 10 * time.Millisecond
	// reopen is the pause before a namespace that went is looked for again.
	reopen = time.Second
	// refresh is how often everything is read anew, whatever was reported: routing
	// rules change without a word.
	refresh = 5 * time.Second
)

// Watcher watches one uplink. Set may be called from any goroutine, Run from one.
type Watcher struct {
	log  *slog.Logger
	kick chan struct{} // the target changed

	asks chan struct{} // there are addresses in asking

	mu     sync.Mutex
	target Target
	asking []netip.Addr // at most maxAsked
}

// New returns a watcher that watches nothing yet.
func New(log *slog.Logger) *Watcher {
	return &Watcher{log: log, kick: make(chan struct{}, 1), asks: make(chan struct{}, 1)}
}

// Set says what to watch from now on. The peers belong to the watcher afterwards.
func (w *Watcher) Set(t Target) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.target.equal(&t) {
		return
	}
	w.target = t
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// Ask has the kernel find hosts on the uplink's link, and look after them for the next
// ten minutes. Those that are found are in the next view. Addresses that are not on the
// link are passed over, and those that are too many. Any goroutine may call it; the list
// stays the caller's.
func (w *Watcher) Ask(list []netip.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asking = append(w.asking, list[:min(len(list), maxAsked-len(w.asking))]...)
	select {
	case w.asks <- struct{}{}:
	default:
	}
}

// takeAsked returns what was asked for since the last call.
func (w *Watcher) takeAsked() []netip.Addr {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.asking
	w.asking = nil
	return list
}

func (w *Watcher) wanted() Target {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.target
}

// Run watches until ctx ends and calls report, on its own goroutine, with every
// view that differs from the one before, at most once in 10 ms.
func (w *Watcher) Run(ctx context.Context, report func(View)) error {
	last := View{}
	tell := func(v View) {
		if !v.equal(&last) {
			last = v
			report(v)
		}
	}
	for ctx.Err() == nil {
		t := w.wanted()
		if t.Device == "" {
			tell(View{})
			select {
			case <-ctx.Done():
			case <-w.kick:
			}
			continue
		}
		err := w.watch(ctx, t, tell)
		if err == nil {
			continue // another target, or the end
		}
		w.log.Warn("the uplink cannot be watched", "device", t.Device, "netns", t.Netns, "error", err)
		tell(unreachable(t.Peers, err))
		select {
		case <-ctx.Done():
		case <-w.kick:
		case <-time.After(reopen):
		}
	}
	return nil
}

// unreachable is the view of an uplink that is not there.
func unreachable(peers []netip.Addr, err error) View {
	v := View{Paths: map[netip.Addr]Path{}, Problem: err.Error()}
	for _, p := range peers {
		v.Paths[p] = Path{State: NoRoute}
	}
	return v
}

// errLost says that the kernel has dropped news, or that the namespace is another.
var errLost = errors.New("the kernel's news were interrupted")

// watch follows one uplink. It returns nil when the target's namespace or device is
// another or ctx ends.
func (w *Watcher) watch(ctx context.Context, t Target, tell func(View)) error {
	s, err := open(t)
	if err != nil {
		return err
	}
	defer s.close()
	again := time.NewTicker(refresh)
	defer again.Stop()
	settle := time.NewTimer(0)
	defer settle.Stop()
	gathering := true
	gather := func() {
		if !gathering {
			gathering = true
			settle.Reset(coalesce)
		}
	}
	for {
		select {
		case <-ctx.Done():
			s.letGo()
			return nil
		case <-w.kick:
			next := w.wanted()
			if next.Device != t.Device || next.Netns != t.Netns {
				s.letGo()
				return nil
			}
			t, s.peers, s.stale = next, next.Peers, true
			gather()
		case <-w.asks:
			s.ask(w.takeAsked(), time.Now())
		case n, ok := <-s.neighbors:
			if !ok {
				return errLost
			}
			if s.neighbor(n) {
				gather()
			}
		case _, ok := <-s.changes:
			if !ok {
				return errLost
			}
			s.stale = true
			gather()
		case <-again.C:
			if s.moved() {
				s.letGo()
				return errMoved
			}
			s.stale = true
			gather()
			s.tend(time.Now())
		case <-settle.C:
			gathering = false
			v, err := s.view()
			if err != nil {
				return err
			}
			tell(v)
		}
	}
}
