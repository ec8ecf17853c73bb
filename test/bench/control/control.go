//go:build linux

// Package control measures the control plane and what it does to packets in
// flight: how long changes take to reach the packet path, what forwarding loses
// while everything changes, and how the daemon grows. Everything is measured on
// a real daemon, over its API, with packets through TAP devices in namespaces of
// their own.
package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/vrouter-go/vrouter/internal/figure"
)

// Options say how to measure.
type Options struct {
	// Quick measures the same in less than a minute, with fewer repetitions.
	Quick bool
	// Vrouter and Vrctl are the paths of the programs under test.
	Vrouter, Vrctl string
	// Vrkube is the path of the Kubernetes control plane, and KubeBinaries the directory
	// of kube-apiserver and kube-proxy; "": what needs them is left out.
	Vrkube, KubeBinaries string
	// Log is told of progress; nil: nobody is.
	Log func(format string, args ...any)
	// Only are the parts to measure, by the names in Parts; empty: all.
	Only []string
}

// size is how much is measured.
type size struct {
	applies, applied   int // repetitions, services of one transaction
	services, routes   int // of the large state
	commits            int // transactions at the large state
	changes, changeGap int // endpoint changes under traffic; milliseconds between them
	restarts           int
	rounds             int           // of the disturbances, each beside a quiet one
	phase              time.Duration // of one stream of packets
	sessions           int           // that are listed
	ports              int           // attached devices
	idle               time.Duration // over which an idle daemon is watched
	rate               int           // packets a second of a stream
	cluster            int           // services of the cluster on a real apiserver
	clusterPhase       time.Duration // of endpoint changes there
	collections        int           // of garbage, of which memory is the least that is left; 0: memory is not measured
}

var (
	full = size{
		applies: 7, applied: 1000, services: 10_000, routes: 100_000, commits: 200, changes: 300, changeGap: 15,
		restarts: 5, rounds: 3, phase: 3 * time.Second, sessions: 500_000, ports: 1000, idle: 15 * time.Second, rate: 20_000, collections: 4,
		cluster: 10_000, clusterPhase: 30 * time.Second,
	}
	quick = size{
		applies: 3, applied: 1000, services: 10_000, routes: 100_000, commits: 30, changes: 40, changeGap: 10,
		restarts: 1, rounds: 1, phase: time.Second, sessions: 50_000, ports: 300, idle: 3 * time.Second, rate: 20_000,
		cluster: 500, clusterPhase: 5 * time.Second,
	}
)

// part is a group of figures.
type part struct {
	name string
	run  func(context.Context, *bench) error
}

// parts in the order in which they run: the state grows from one to the next.
var parts = []part{
	{"control/apply", measureApply},
	{"control/restart", measureRestart},
	{"control/change", measureChange},
	{"control/commit", measureCommit},
	{"control/loss", measureLoss},
	{"control/fairness", measureFairness},
	{"control/ports", measurePorts},
	{"kube", measureKube},
	{"kube/cluster", measureCluster},
}

// Parts are the names that Options.Only takes.
func Parts() []string {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

// bench is a run in progress.
type bench struct {
	Options
	size
	dir     string
	figures []figure.Figure
	shared  *world // of all parts but ports; see world
}

// Run measures and returns the figures. It needs root. On an error it returns
// what was measured before.
func Run(ctx context.Context, o Options) ([]figure.Figure, error) {
	if o.Quick {
		return run(ctx, o, quick)
	}
	return run(ctx, o, full)
}

func run(ctx context.Context, o Options, s size) ([]figure.Figure, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the control plane is measured with network namespaces and TAP devices, which needs root")
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	dir, err := workDir()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	// Threads that send and receive wait for no processor of Go's scheduler.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(16))
	b := &bench{Options: o, size: s, dir: dir}
	err = b.run(ctx)
	return b.figures, errors.Join(err, b.leave())
}

func (b *bench) run(ctx context.Context) error {
	for _, p := range parts {
		if len(b.Only) > 0 && !slices.Contains(b.Only, p.name) {
			continue
		}
		began := time.Now()
		if err := p.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		b.Log("%s: %s", p.name, time.Since(began).Round(100*time.Millisecond))
	}
	return ctx.Err()
}

// add takes up a figure.
func (b *bench) add(f figure.Figure, detail map[string]float64) {
	f.Detail = detail
	b.figures = append(b.figures, f)
	bar := ""
	if f.Bar != nil {
		bar = fmt.Sprintf("  [%s: met %v]", f.Bar, f.Bar.Met)
	}
	b.Log("%-36s %10.4g %s (%.4g to %.4g, %d runs) peer %.4g ratio %.3f%s", f.Name, f.Ours, f.Unit, f.Spread[0], f.Spread[1], f.Runs, f.PeerValue, f.Ratio, bar)
	for _, name := range slices.Sorted(maps.Keys(detail)) {
		b.Log("    %-60s %10.4g", name, detail[name])
	}
}

// quantile returns the q-th part of sorted values, 0 to 1.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// milliseconds returns a duration as figures have it.
func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
