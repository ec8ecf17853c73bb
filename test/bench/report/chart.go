package report

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Sizes of a plot, in SVG user units.
const (
	plotWidth  = 640
	labelWidth = 190
	valueWidth = 150
	rowHeight  = 24
	barHeight  = 14
	barSpace   = plotWidth - labelWidth - valueWidth
)

// draw renders a group as horizontal bars with whiskers from the lowest to the
// highest repetition, and a dashed line where a value must end up to be good
// enough.
func draw(g group) string {
	top := 0.0
	for _, r := range g.Rows {
		top = max(top, r.Value, r.Spread[1], r.Limit)
	}
	if top == 0 || math.IsInf(top, 0) || math.IsNaN(top) {
		top = 1
	}
	x := func(v float64) float64 { return labelWidth + barSpace*max(0, v)/top }
	height := rowHeight*len(g.Rows) + 8
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" role="img" aria-label="%s in %s">`, plotWidth, height, html.EscapeString(g.Name), html.EscapeString(g.Unit))
	for i, r := range g.Rows {
		r.draw(&b, 4+float64(i)*rowHeight, x)
	}
	limits(&b, g, height, x)
	b.WriteString("</svg>")
	return b.String()
}

// draw renders one bar at height y.
func (r row) draw(b *strings.Builder, y float64, x func(float64) float64) {
	class := "peer"
	if r.Ours {
		class = "ours"
	}
	middle := y + rowHeight/2
	fmt.Fprintf(b, `<text class="label" x="%d" y="%.1f">%s</text>`, labelWidth-8, middle, html.EscapeString(r.Label))
	fmt.Fprintf(b, `<rect class="%s" x="%d" y="%.1f" width="%.1f" height="%d" rx="2"/>`, class, labelWidth, middle-barHeight/2, max(1, x(r.Value)-labelWidth), barHeight)
	if r.Spread[1] > r.Spread[0] {
		low, high := x(r.Spread[0]), x(r.Spread[1])
		fmt.Fprintf(b, `<path class="whisker" d="M%.1f %.1fH%.1fM%.1f %.1fv8M%.1f %.1fv8"/>`, low, middle, high, low, middle-4, high, middle-4)
	}
	text := Number(r.Value)
	if r.Limited {
		sign := "≥"
		if r.Upper {
			sign = "≤"
		}
		mark := "✗"
		if r.Met {
			mark = "✓"
		}
		text += fmt.Sprintf("  %s %s %s", mark, sign, Number(r.Limit))
	}
	fmt.Fprintf(b, `<text class="value" x="%d" y="%.1f">%s</text>`, labelWidth+barSpace+10, middle, html.EscapeString(text))
}

// limits draws the dashed lines: one through the plot where only one row has a
// limit, and one through each row otherwise.
func limits(b *strings.Builder, g group, height int, x func(float64) float64) {
	var with []int
	for i, r := range g.Rows {
		if r.Limited {
			with = append(with, i)
		}
	}
	for _, i := range with {
		r := g.Rows[i]
		class := "limit"
		if !r.Met {
			class = "limit missed"
		}
		from, to := 4+i*rowHeight, 4+(i+1)*rowHeight
		if len(with) == 1 {
			from, to = 2, height-2
		}
		fmt.Fprintf(b, `<path class="%s" d="M%.1f %dV%d"/>`, class, x(r.Limit), from, to)
	}
}
