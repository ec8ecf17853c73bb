package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vrouter-go/vrouter/internal/figure"
	"github.com/vrouter-go/vrouter/test/bench/control"
	"github.com/vrouter-go/vrouter/test/bench/peer"
	"github.com/vrouter-go/vrouter/test/bench/report"
)

// run measures what was asked for and writes what was found, also when a part
// failed.
func run(ctx context.Context, o options) error {
	if os.Geteuid() != 0 {
		return errors.New("the benchmark makes network namespaces and TAP devices, so it needs root: try sudo")
	}
	left, err := peer.Cleanup(os.TempDir())
	if err != nil {
		return err
	}
	for _, name := range left {
		progress("removed %s, left by a run that was killed", name)
	}
	if o.vrouter, err = binary(o.vrouter); err != nil {
		return err
	}
	began := time.Now()
	if o.memory && o.control && len(o.only) > 0 {
		progress("in memory, end to end, between nodes and control plane: about %s, with the usual rounds", o.duration())
	}
	var figures []figure.Figure
	for _, part := range o.parts() {
		if ctx.Err() != nil {
			break
		}
		progress("== %s", part.title)
		found, perr := part.run(ctx, o)
		figures = append(figures, found...)
		if perr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", part.title, perr))
		}
	}
	if ctx.Err() != nil {
		return errors.New("interrupted: nothing was written")
	}
	printTable(os.Stdout, figures)
	progress("took %v", time.Since(began).Round(time.Second))
	return errors.Join(err, o.write(figures, report.ThisMachine(began)))
}

// duration says how long a run of all parts takes.
func (o options) duration() string {
	if o.quick {
		return "three minutes"
	}
	return "three quarters of an hour"
}

// part is one of the things that a run measures.
type part struct {
	title string
	run   func(context.Context, options) ([]figure.Figure, error)
}

// parts returns what was asked for.
func (o options) parts() []part {
	var list []part
	if o.memory {
		list = append(list, part{"in memory", inMemory})
	}
	for _, s := range suites() {
		if slices.ContainsFunc(s.workloads, func(w workload) bool { return slices.Contains(o.only, s.full(w)) }) {
			list = append(list, part{s.title, func(ctx context.Context, o options) ([]figure.Figure, error) { return sideBySide(ctx, o, s) }})
		}
	}
	if o.control {
		list = append(list, part{"control plane", controlPlane})
	}
	if o.kube {
		list = append(list, part{"Kubernetes", kubernetes})
	} else if o.cluster {
		list = append(list, part{"Kubernetes", func(ctx context.Context, o options) ([]figure.Figure, error) {
			return measureControl(ctx, o, []string{"kube/cluster"})
		}})
	}
	return list
}

// binary returns the path of a binary that is there.
func binary(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%w (make build)", err)
	}
	return path, nil
}

// inMemory runs `vrouter bench`.
func inMemory(ctx context.Context, o options) ([]figure.Figure, error) {
	args := []string{"bench", "--json"}
	if o.quick {
		args = append(args, "--quick")
	}
	cmd := exec.CommandContext(ctx, o.vrouter, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, err
	}
	return figure.Read(&out)
}

// controlPlane measures the control plane, with vrctl from beside vrouter.
func controlPlane(ctx context.Context, o options) ([]figure.Figure, error) {
	return measureControl(ctx, o, slices.DeleteFunc(control.Parts(), isKube))
}

// kubernetes measures what a cluster's controller brings to a node, with vrkube from
// beside vrouter.
func kubernetes(ctx context.Context, o options) ([]figure.Figure, error) {
	return measureControl(ctx, o, slices.DeleteFunc(control.Parts(), func(name string) bool { return !isKube(name) }))
}

func isKube(part string) bool { return strings.HasPrefix(part, "kube") }

func measureControl(ctx context.Context, o options, parts []string) ([]figure.Figure, error) {
	vrctl, err := binary(filepath.Join(filepath.Dir(o.vrouter), "vrctl"))
	if err != nil {
		return nil, err
	}
	vrkube, err := binary(filepath.Join(filepath.Dir(o.vrouter), "vrkube"))
	if err != nil {
		return nil, err
	}
	return control.Run(ctx, control.Options{
		Quick: o.quick, Vrouter: o.vrouter, Vrctl: vrctl, Vrkube: vrkube, KubeBinaries: o.kubeBinaries, Only: parts, Log: progress,
	})
}

// write writes the files that were asked for. Where nothing was measured, what an
// earlier run wrote stays.
func (o options) write(figures []figure.Figure, m report.Machine) error {
	if len(figures) == 0 {
		return nil
	}
	var err error
	if o.out != "" {
		err = create(o.out, func(w io.Writer) error { return figure.Write(w, figures) })
	}
	if o.html != "" {
		err = errors.Join(err, create(o.html, func(w io.Writer) error { return report.HTML(w, figures, m) }))
	}
	if o.docs != "" {
		err = errors.Join(err, report.Update(o.docs, figures, m))
	}
	return err
}

// create writes a file through a buffer, so that a failure leaves the old one.
func create(path string, write func(io.Writer) error) error {
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}
