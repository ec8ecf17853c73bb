package haproxy

import "sync/atomic"

// stats are counters that other goroutines read.
type stats struct {
	starts, reloads, changes, rejected, crashes atomic.Int64
	draining, pid                               atomic.Int64
	socket                                      atomic.Pointer[string]
}

func (s *stats) serve(g generation, pid int) {
	path := ""
	if pid != 0 {
		path = g.path(statsFile)
	}
	s.socket.Store(&path)
	s.pid.Store(int64(pid))
}

// Stats count since the start.
type Stats struct {
	Starts   int64 // of a master
	Reloads  int64
	Changes  int64 // through the runtime socket, without a reload
	Rejected int64 // configurations that HAProxy did not take
	Crashes  int64 // masters that ended by themselves
	Draining int64 // servers that are going, now
	PID      int64 // of the worker, now; 0: none serves
}

// Stats returns the counters.
func (p *Proxy) Stats() Stats {
	s := &p.stats
	return Stats{
		Starts: s.starts.Load(), Reloads: s.reloads.Load(), Changes: s.changes.Load(), Rejected: s.rejected.Load(), Crashes: s.crashes.Load(),
		Draining: s.draining.Load(), PID: s.pid.Load(),
	}
}

// MetricsSocket is the path of the Unix socket on which the worker serves its own
// metrics over HTTP; empty while there is no worker.
func (p *Proxy) MetricsSocket() string {
	if path := p.stats.socket.Load(); path != nil {
		return *path
	}
	return ""
}
