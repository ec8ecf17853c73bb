package bench

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"

	"github.com/vrouter-go/vrouter/internal/figure"
)

// list names the tests.
func list(out io.Writer, tests []test) error {
	for _, t := range tests {
		line := fmt.Sprintf("%-40s %-12s", suite+t.name, t.unit)
		if t.bar != nil {
			line += " " + t.bar.String()
		}
		if _, err := fmt.Fprintln(out, strings.TrimRight(line, " ")); err != nil {
			return err
		}
	}
	return nil
}

// table prints figures as they come.
type table struct {
	out   io.Writer // io.Discard when JSON is wanted
	began time.Time
}

func newTable(o Options) *table {
	t := &table{out: o.Out, began: time.Now()}
	if o.JSON {
		t.out = io.Discard
	}
	fmt.Fprintf(t.out, "%s, %d processors, %s %s\n\n", processor(), runtime.NumCPU(), runtime.GOARCH, runtime.Version())
	fmt.Fprintf(t.out, "%-36s %10s %-12s %-21s %10s  %s\n", "figure", "median", "unit", "lowest-highest", "1/s, ratio", "bar")
	return t
}

// seconds is how long the run has taken.
func (t *table) seconds() float64 { return time.Since(t.began).Seconds() }

// rows prints some figures.
func (t *table) rows(list []figure.Figure) {
	for _, f := range list {
		spread := fmt.Sprintf("%s-%s", number(f.Spread[0]), number(f.Spread[1]))
		rate := ""
		if v := f.Detail["perSecond"]; v != 0 {
			rate = fmt.Sprintf("%.2f M", v/1e6)
		}
		bar := ""
		if f.Bar != nil {
			bar = f.Bar.String() + " missed"
			if f.Bar.Met {
				bar = f.Bar.String() + " met"
			}
		}
		if f.Peer != "" {
			rate = fmt.Sprintf("%.2f ×", f.Ratio)
		}
		line := fmt.Sprintf("%-36s %10s %-12s %-21s %10s  %s", f.Name, number(f.Ours), f.Unit, spread, rate, bar)
		fmt.Fprintln(t.out, strings.TrimRight(line, " "))
	}
}

// end prints the last line.
func (t *table) end(all []figure.Figure, left int) {
	bars, met := 0, 0
	for _, f := range all {
		if f.Bar != nil {
			bars++
			if f.Bar.Met {
				met++
			}
		}
	}
	fmt.Fprintf(t.out, "\n%d figures in %.0f s, %d of %d bars met.\n", len(all), t.seconds(), met, bars)
	if left > 0 {
		fmt.Fprintf(t.out, "%d figures SKIPPED; the reasons are above.\n", left)
	}
}

// number writes a value with three digits or more.
func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 1000:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}
