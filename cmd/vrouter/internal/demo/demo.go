// Package demo is `vrouter demo`: one host, the whole job, with nothing but this
// binary and root. It makes namespaces, runs a daemon beside them, and sends real
// kernel TCP through it.
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
	Keep bool // leave everything running until interrupted
	JSON bool // one JSON document instead of progress lines
	Out  io.Writer
	// Daemon runs a daemon that listens on a socket and keeps its state in a
	// directory, calls ready once it answers, and returns when ctx ends.
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
	dir, err := os.MkdirTemp("", "vrouter-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d := &demo{Options: o, socket: filepath.Join(dir, "vrouter.sock"), began: time.Now()}
	d.say("vrouter demo: three networks, three web servers, one client, on this host only\n")
	if d.world, err = newWorld(); err != nil {
		return err
	}
	err = d.withDaemon(ctx, dir)
	err = errors.Join(err, d.world.close())
	d.report(err)
	return err
}

// demo is a run in progress.
type demo struct {
	Options
	socket  string
	began   time.Time
	world   *world
	results []result
}

// withDaemon runs the steps beside a daemon and ends it.
func (d *demo) withDaemon(ctx context.Context, dir string) error {
	daemon, stop := context.WithCancel(context.WithoutCancel(ctx)) // outlives ctx, to take its devices down
	defer stop()
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- d.Daemon(daemon, d.socket, filepath.Join(dir, "state"), func() { close(ready) })
	}()
	select {
	case <-ready:
	case err := <-ended:
		return fmt.Errorf("the daemon ended: %w", err)
	}
	api, err := client.New(client.Config{Address: d.socket})
	if err == nil {
		d.world.api = api
		err = d.show(ctx)
		if d.Keep && ctx.Err() == nil {
			d.keep(ctx)
		}
		err = errors.Join(err, d.world.removeState(context.WithoutCancel(ctx)))
	}
	stop()
	return errors.Join(err, <-ended)
}

// show goes through the steps. A failed one does not keep the others from being
// shown.
func (d *demo) show(ctx context.Context) error {
	build := step{"build: 5 namespaces, 5 TAP devices, 4 networks, 3 floating IPs, 2 policies", func(ctx context.Context, w *world) (string, []string, error) {
		n, err := w.applyState(ctx)
		if err == nil {
			err = w.serve()
		}
		return fmt.Sprintf("%d resources applied over gRPC", n), nil, err
	}}
	if !d.one(ctx, 0, build) {
		return ErrFailed
	}
	failed := false
	for i, s := range steps {
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted: %w", ctx.Err())
		}
		failed = !d.one(ctx, i+1, s) || failed
	}
	if failed {
		return ErrFailed
	}
	return nil
}

// one runs a step and tells what it found.
func (d *demo) one(ctx context.Context, number int, s step) bool {
	d.say("%2d/%d  %s\n", number, len(steps), s.title)
	start := time.Now()
	found, detail, err := s.run(ctx, d.world)
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

// keep leaves everything running.
func (d *demo) keep(ctx context.Context) {
	d.say("\nStill running. In another terminal:\n"+
		"  vrctl --address %s status\n"+
		"  vrctl --address %s flow list\n"+
		"  vrctl --address %s explain --vmi client-1 --dst 10.96.0.10 --proto tcp --dport 80\n"+
		"  ip netns exec %s curl -s 10.96.0.10\n"+
		"Interrupt (Ctrl-C) to clean up.\n", d.socket, d.socket, d.socket, d.world.namespace("client"))
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
		d.say("\n%d of %d shown in %.1f s, then cleaned up. %v\n", passed, len(steps)+1, elapsed, err)
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
