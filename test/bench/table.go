package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/vrouter-go/vrouter/internal/figure"
	"github.com/vrouter-go/vrouter/test/bench/report"
)

// foreignMost is how much of a core, in percent, others may take before a
// measurement counts as disturbed. Interrupts of idle cores are 20 of it where a
// load makes them sleep and wake all the time.
const foreignMost = 30

// disturbed says whether others took much of the machine.
func (s sample) disturbed() bool { return s.detail["cpu/foreign"] > foreignMost }

// text renders a sample's values and what the cores did.
func (w workload) text(s sample) string {
	var parts []string
	for i, m := range w.metrics {
		parts = append(parts, report.Number(s.values[i]))
		if i == len(w.metrics)-1 {
			parts = append(parts, m.unit)
		}
	}
	busy := ""
	if s.disturbed() {
		busy = fmt.Sprintf("  NOT QUIET: others took %.0f %%", s.detail["cpu/foreign"])
	}
	return fmt.Sprintf("%-24s  cores %.0f+%.0f %%%s", strings.Join(parts, " "), s.detail["cpu/core-0"], s.detail["cpu/core-1"], busy)
}

// printTable prints the figures for a reader at a terminal.
func printTable(w io.Writer, figures []figure.Figure) {
	width := len("figure")
	for _, f := range figures {
		width = max(width, len(f.Name))
	}
	row := fmt.Sprintf("%%-%ds %%-12s %%28s   %%-9s %%28s  %%6s  %%s\n", width)
	fmt.Fprintf(w, "\n"+row, "figure", "unit", "ours (lowest-highest)", "peer", "peer (lowest-highest)", "ratio", "bar")
	for _, f := range figures {
		theirs, ratio, bar := "", "", ""
		if f.Peer != "" {
			theirs = value(f.PeerValue, f.PeerSpread)
			ratio = fmt.Sprintf("%.2f", f.Ratio)
		}
		if f.Bar != nil {
			bar = f.Bar.String() + " met"
			if !f.Bar.Met {
				bar = f.Bar.String() + " MISSED"
			}
		}
		fmt.Fprintf(w, row, f.Name, f.Unit, value(f.Ours, f.Spread), f.Peer, theirs, ratio, bar)
	}
}

func value(v float64, spread [2]float64) string {
	return fmt.Sprintf("%s (%s-%s)", report.Number(v), report.Number(spread[0]), report.Number(spread[1]))
}
