package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vrouter-go/vrouter/agent/compile"
	"github.com/vrouter-go/vrouter/internal/bfd"
)

// liveness watches the other nodes by BFD, as far as desired state asks for it. Its
// methods may be called from any goroutine.
type liveness struct {
	log  *slog.Logger
	down func(peer netip.Addr, down bool) // told of what the sessions find
	want chan compile.Sessions            // the latest that is not taken up yet

	mu      sync.Mutex
	speaker *bfd.Speaker // nil: nobody is watched
	problem error        // why the sessions are not those that are wanted
}

// livenessRetry is how often sessions that the kernel refused are tried again.
const livenessRetry = time.Second

func newLiveness(down func(netip.Addr, bool), log *slog.Logger) *liveness {
	return &liveness{log: log, down: down, want: make(chan compile.Sessions, 1)}
}

// set says which sessions are wanted from now on. It does not wait. One goroutine at
// a time may call it.
func (l *liveness) set(s compile.Sessions) {
	select {
	case <-l.want: // nobody has taken up what was wanted before
	default:
	}
	l.want <- s
}

// run keeps the sessions until ctx ends.
func (l *liveness) run(ctx context.Context) error {
	var have compile.Sessions
	end := func() {}
	defer func() { end() }()
	retry := time.NewTicker(livenessRetry)
	defer retry.Stop()
	for {
		wanted := have
		select {
		case <-ctx.Done():
			return nil
		case wanted = <-l.want:
		case <-retry.C:
			if l.trouble() == nil {
				continue
			}
		}
		if l.speaker == nil && len(wanted.Peers) == 0 {
			have = wanted
			continue
		}
		if l.speaker == nil || wanted.Netns != have.Netns {
			end()
			end = l.start(ctx, wanted.Netns)
		}
		err := l.speaker.Set(wanted.Peers)
		if err != nil && l.trouble() == nil {
			l.log.Error("nodes are not watched", "error", err)
		}
		l.note(err)
		for _, p := range have.Peers {
			if !slices.ContainsFunc(wanted.Peers, func(o bfd.Peer) bool { return o.Remote == p.Remote }) {
				l.down(p.Remote, false) // nobody watches it any more
			}
		}
		have = wanted
	}
}

// start begins to speak in a namespace and returns what ends it.
func (l *liveness) start(ctx context.Context, netns string) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	speaker := bfd.New(bfd.Config{Netns: netns, Log: l.log, Changed: func(c bfd.Change) {
		if c.Up {
			l.log.Info("node answers", "peer", c.Peer)
		} else {
			l.log.Warn("node does not answer", "peer", c.Peer, "diagnostic", c.Diagnostic, "orderly", c.Orderly)
		}
		// RFC 5882 §3.2: a session that was taken out of service says nothing about the
		// path.
		l.down(c.Remote, !c.Up && !c.Orderly)
	}})
	l.mu.Lock()
	l.speaker = speaker
	l.mu.Unlock()
	var running sync.WaitGroup
	running.Go(func() {
		if err := speaker.Run(ctx); err != nil {
			l.note(err)
		}
	})
	return func() {
		cancel()
		running.Wait()
	}
}

func (l *liveness) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.problem = err
}

func (l *liveness) trouble() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.problem
}

// complaint says which nodes do not answer, "" if all that are watched do.
func (l *liveness) complaint() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.problem != nil {
		return fmt.Sprintf("nodes are not watched: %v", l.problem)
	}
	if l.speaker == nil {
		return ""
	}
	var silent []string
	for _, s := range l.speaker.Status().Sessions {
		if s.State != bfd.Up {
			silent = append(silent, fmt.Sprintf("%s is %v since %s (%v)", s.Peer.Name, s.State, s.Since.UTC().Format("2006-01-02T15:04:05Z"), s.Diagnostic))
		}
	}
	return strings.Join(silent, "; ")
}

// sessions returns the state of each session by the peer's address.
func (l *liveness) sessions() map[netip.Addr]bfd.SessionStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.speaker == nil {
		return nil
	}
	list := map[netip.Addr]bfd.SessionStatus{}
	for _, s := range l.speaker.Status().Sessions {
		list[s.Peer.Remote] = s
	}
	return list
}
