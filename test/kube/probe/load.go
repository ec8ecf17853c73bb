//go:build linux

package probe

import (
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"time"
)

// Load calls a server over and over until it is stopped.
type Load struct {
	stop chan struct{}
	work sync.WaitGroup

	mu       sync.Mutex
	calls    int
	servers  map[string]int
	failures []string
}

// StartLoad begins to call from a network namespace, with a number of callers that each
// make one call after the other, a pause apart.
func StartLoad(namespace, network string, to netip.AddrPort, callers int, pause, patience time.Duration) *Load {
	l := &Load{stop: make(chan struct{}), servers: map[string]int{}}
	for range callers {
		l.work.Go(func() {
			for {
				began := time.Now()
				r := Call(namespace, network, to, patience)
				l.add(began, r)
				select {
				case <-l.stop:
					return
				case <-time.After(pause):
				}
			}
		})
	}
	return l
}

func (l *Load) add(began time.Time, r Result) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	if r.Outcome == Answered {
		l.servers[r.Server]++
	} else {
		l.failures = append(l.failures, fmt.Sprintf("%s after %v: %v", began.Format(time.StampMilli), r.Latency, r))
	}
}

// Counts returns how many calls were made so far, and how many each server answered.
func (l *Load) Counts() (calls int, servers map[string]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls, maps.Clone(l.servers)
}

// Stop ends the load and returns what Counts does, and what failed, one line a call.
func (l *Load) Stop() (calls int, servers map[string]int, failures []string) {
	close(l.stop)
	l.work.Wait()
	return l.calls, l.servers, l.failures
}
