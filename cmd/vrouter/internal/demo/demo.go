// Package demo is `vrouter demo`: the whole job on this host, with nothing but this
// binary and root. It makes namespaces, runs a daemon beside them, or one in each of
// several nodes, and sends real kernel TCP through it.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/vrouter-go/vrouter/agent/client"
)

// Options are the flags of the command.
type Options struct {
	Nodes int  // 1: one host; up to MaxNodes: that many nodes on one wire
	Keep  bool // leave everything running until interrupted
	JSON  bool // one JSON document instead of progress lines
	Out   io.Writer
	// Daemon runs a daemon that listens on a socket and keeps its state in a
	// directory, calls ready once it answers, and returns when ctx ends. Several
	// nodes have `vrouter run` each as a process of its own instead.
	Daemon func(ctx context.Context, socket, stateDir string, ready func()) error
}

// result is one step's outcome.
type result struct {
	Step    string   `json:"step"`
	OK      bool     `json:"ok"`
	Found   string   `json:"found,omitempty"`
	Detail  []string `json:"detail,omitempty"`
	Error   string   `json:"error,omitempty"`
	Seconds float64  `json:"seconds"`
}

// ErrFailed says that a step did not show what it should.
var ErrFailed = errors.New("demo failed")

// Run shows everything and cleans up, also when ctx ends early.
func Run(ctx context.Context, o Options) error {
	if os.Geteuid() != 0 {
		return errors.New("the demo makes network namespaces and TAP devices, so it needs root: try sudo vrouter demo")
	}
	if o.Nodes < 1 || o.Nodes > MaxNodes {
		return fmt.Errorf("--nodes %d: the demo has 1 to %d nodes", o.Nodes, MaxNodes)
	}
	dir, err := os.MkdirTemp("", "vrouter-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d := &demo{Options: o, began: time.Now()}
	if o.Nodes > 1 {
		err = d.runNodes(ctx, dir)
	} else {
		err = d.runHost(ctx, dir)
	}
	d.report(err)
	return err
}

// demo is a run in progress.
type demo struct {
	Options
	began   time.Time
	steps   int // without the first, which builds
	results []result
}

// runHost shows one host.
func (d *demo) runHost(ctx context.Context, dir string) error {
	d.say("vrouter demo: three networks, three web servers, one client, on this host only\n")
	w, err := newWorld()
	if err != nil {
		return err
	}
	err = d.withDaemon(ctx, w, dir)
	return errors.Join(err, w.close())
}

// withDaemon runs the steps beside a daemon and ends it.
func (d *demo) withDaemon(ctx context.Context, w *world, dir string) error {
	daemon, stop := context.WithCancel(context.WithoutCancel(ctx)) // outlives ctx, to take its devices down
	defer stop()
	socket := filepath.Join(dir, "vrouter.sock")
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- d.Daemon(daemon, socket, filepath.Join(dir, "state"), func() { close(ready) })
	}()
	select {
	case <-ready:
	case err := <-ended:
		return fmt.Errorf("the daemon ended: %w", err)
	}
	api, err := client.New(client.Config{Address: socket})
	if err == nil {
		w.api = api
		err = show(ctx, d, w, build, steps)
		if d.Keep && ctx.Err() == nil {
			d.keep(ctx, fmt.Sprintf("  vrctl --address %[1]s status\n"+
				"  vrctl --address %[1]s flow list\n"+
				"  vrctl --address %[1]s explain --vmi client-1 --dst 10.96.0.10 --proto tcp --dport 80\n"+
				"  ip netns exec %[2]s curl -s 10.96.0.10\n", socket, w.namespace("client")))
		}
		err = errors.Join(err, w.removeState(context.WithoutCancel(ctx)))
	}
	stop()
	return errors.Join(err, <-ended)
}

// step is one thing that the demo shows in a world of kind W. It returns what it
// found, one line, and lines of detail.
type step[W any] struct {
	title string
	run   func(context.Context, W) (found string, detail []string, err error)
}

// show builds the world and goes through the steps. A failed one does not keep the
// others from being shown.
func show[W any](ctx context.Context, d *demo, w W, build step[W], steps []step[W]) error {
	d.steps = len(steps)
	if !one(ctx, d, w, 0, build) {
		return ErrFailed
	}
	failed := false
	for i, s := range steps {
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted: %w", ctx.Err())
		}
		failed = !one(ctx, d, w, i+1, s) || failed
	}
	if failed {
		return ErrFailed
	}
	return nil
}

// one runs a step and tells what it found.
func one[W any](ctx context.Context, d *demo, w W, number int, s step[W]) bool {
	d.say("%2d/%d  %s\n", number, d.steps, s.title)
	start := time.Now()
	found, detail, err := s.run(ctx, w)
	r := result{Step: s.title, OK: err == nil, Found: found, Detail: detail, Seconds: time.Since(start).Seconds()}
	mark := "ok  "
	if err != nil {
		mark, r.Error, r.Found = "FAIL", err.Error(), ""
		found = r.Error
	}
	d.results = append(d.results, r)
	d.say("       %s  %s  (%.1f s)\n", mark, found, r.Seconds)
	for _, line := range detail {
		d.say("             %s\n", line)
	}
	return err == nil
}

// keep leaves everything running and says what to try.
func (d *demo) keep(ctx context.Context, commands string) {
	d.say("\nStill running. In another terminal:\n%sInterrupt (Ctrl-C) to clean up.\n", commands)
	<-ctx.Done()
}

// report ends the output.
func (d *demo) report(err error) {
	passed := 0
	for _, r := range d.results {
		if r.OK {
			passed++
		}
	}
	elapsed := time.Since(d.began).Seconds()
	if d.JSON {
		out := json.NewEncoder(d.Out)
		out.SetIndent("", "  ")
		_ = out.Encode(map[string]any{"ok": err == nil, "steps": d.results, "seconds": elapsed}) // nobody is left to tell
		return
	}
	if err != nil {
		d.say("\n%d of %d shown in %.1f s, then cleaned up. %v\n", passed, d.steps+1, elapsed, err)
		return
	}
	d.say("\nAll %d shown in %.1f s; namespaces and devices removed.\n", passed, elapsed)
}

// say prints progress, unless JSON is wanted.
func (d *demo) say(format string, args ...any) {
	if !d.JSON {
		fmt.Fprintf(d.Out, format, args...)
	}
}
