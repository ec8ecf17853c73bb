// Package bench is `vrouter bench`: what the engine costs in memory, without a
// system call. A generator that copies headers into frames stands where a TAP
// device would, and a sink where packets leave; everything between is the
// production forwarder, driven through its exported API.
//
// plan.go lists the figures, world.go builds the configuration they are measured
// in, rig.go carries packets through the forwarder, and this file runs them.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/vrouter-go/vrouter/internal/figure"
)

// Options are the arguments of the command.
type Options struct {
	Names    []string // prefixes or patterns of figures; none: all
	JSON     bool     // a list of figures instead of a table
	Quick    bool     // fewer figures, fewer repetitions
	List     bool     // say what there is to measure, and measure nothing
	Out      io.Writer
	Progress io.Writer
}

// prefix of all names, which tells these figures from others in one list.
const suite = "memory/"

// ErrBadName says that a name selects no figure.
var ErrBadName = errors.New("there is no such figure; vrouter bench --list names them")

// effort is how long a mode measures.
type effort struct {
	repetitions int
	operations  int // of one repetition
}

var (
	fullEffort  = effort{repetitions: 15, operations: 1 << 17}
	quickEffort = effort{repetitions: 5, operations: 1 << 16}
)

// Run measures what the options select and writes it to o.Out.
func Run(ctx context.Context, o Options) error {
	tests, err := choose(plan(), o)
	if err != nil {
		return err
	}
	if o.List {
		return list(o.Out, tests)
	}
	e := fullEffort
	if o.Quick {
		e = quickEffort
	}
	runtime.LockOSThread() // and never unlocked: the thread is pinned, and ends with the goroutine
	pin(0)
	t := newTable(o)
	var figures []figure.Figure
	tests, left := affordable(tests, o.Progress)
	worlds := slices.Collect(byWorld(tests))
	for i, group := range worlds {
		w := group[0].world
		fmt.Fprintf(o.Progress, "%3.0f s  %d/%d  %s\n", t.seconds(), i+1, len(worlds), w)
		if free, ok := w.fits(); !ok {
			fmt.Fprintf(o.Progress, "SKIPPED %d figures, %s%s first: they need %d MB of memory, and %d MB are available\n",
				len(group), suite, group[0].name, (w.memory()+reserve)>>20, free>>20)
			left += len(group)
			continue
		}
		found, err := measure(ctx, group, e)
		if err != nil {
			return err
		}
		figures = append(figures, found...)
		t.rows(found)
	}
	t.end(figures, left)
	if o.JSON {
		return figure.Write(o.Out, figures)
	}
	return nil
}

// choose returns the tests that the options select, in the plan's order.
func choose(all []test, o Options) ([]test, error) {
	var list []test
	used := make([]bool, len(o.Names))
	for _, t := range all {
		wanted := len(o.Names) == 0 && (t.quick || !o.Quick)
		for i, name := range o.Names {
			if t.matches(name) {
				wanted, used[i] = true, true
			}
		}
		if wanted {
			list = append(list, t)
		}
	}
	if i := slices.Index(used, false); i >= 0 {
		return nil, fmt.Errorf("invalid argument %q: %w", o.Names[i], ErrBadName)
	}
	return list, nil
}

// affordable leaves out the tests for which there are not enough processors, says
// so, and returns how many they are.
func affordable(tests []test, progress io.Writer) (list []test, left int) {
	for _, t := range tests {
		if t.processors > runtime.NumCPU() {
			fmt.Fprintf(progress, "SKIPPED %s%s: it needs %d processors, and there are %d\n", suite, t.name, t.processors, runtime.NumCPU())
			left++
			continue
		}
		list = append(list, t)
	}
	return list, left
}

// matches reports whether a prefix or pattern selects the test.
func (t *test) matches(name string) bool {
	name = strings.TrimPrefix(name, suite)
	ok, err := path.Match(name, t.name)
	return ok && err == nil || strings.HasPrefix(t.name, name)
}

// byWorld yields the tests of each world together, in the order in which the
// worlds occur first.
func byWorld(tests []test) func(func([]test) bool) {
	return func(yield func([]test) bool) {
		var order []world
		groups := map[world][]test{}
		for _, t := range tests {
			if groups[t.world] == nil {
				order = append(order, t.world)
			}
			groups[t.world] = append(groups[t.world], t)
		}
		for _, w := range order {
			if !yield(groups[w]) {
				return
			}
		}
	}
}

// measure builds the world of some tests and repeats them in turn, so that drift
// of the machine meets all alike.
func measure(ctx context.Context, tests []test, e effort) (list []figure.Figure, err error) {
	r, err := newRig(tests[0].world)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", tests[0].world, err)
	}
	defer func() { err = errors.Join(err, r.close()) }()
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	samples := make([][]sample, len(tests))
	for repetition := range e.repetitions + 1 {
		for i, t := range tests {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			s, err := t.round(r, e.operations)
			if err != nil {
				return nil, fmt.Errorf("%s%s: %w", suite, t.name, err)
			}
			if repetition > 0 { // the first one warms up
				samples[i] = append(samples[i], s)
			}
		}
	}
	for i, t := range tests {
		f := t.figure(samples[i])
		if f.Detail != nil {
			f.Detail["hugePages"] = r.hugePages()
		}
		list = append(list, f)
	}
	return list, nil
}

// figure sums up the repetitions.
func (t *test) figure(samples []sample) figure.Figure {
	ours := values(samples, func(s sample) float64 { return s.value })
	f := figure.New(suite+t.name, t.unit, ours, t.bar)
	if t.peer != "" {
		f = figure.Against(suite+t.name, t.unit, ours, t.peer, values(samples, func(s sample) float64 { return s.peer }), t.bar)
	}
	for name := range samples[0].detail {
		if f.Detail == nil {
			f.Detail = map[string]float64{}
		}
		f.Detail[name] = figure.New("", "", values(samples, func(s sample) float64 { return s.detail[name] }), nil).Ours
	}
	return f
}

func values(samples []sample, of func(sample) float64) (list []float64) {
	for _, s := range samples {
		list = append(list, of(s))
	}
	return list
}
