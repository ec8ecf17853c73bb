package report

import (
	"fmt"
	"os"
	"strings"

	"github.com/vrouter-go/vrouter/internal/figure"
)

// Between these lines stands what Update writes.
const (
	begin = "<!-- results:begin -->"
	end   = "<!-- results:end -->"
)

// Table returns the machine and the figures as Markdown. Figures with a limit or
// a peer come first, the others, of which there are many, after them.
func Table(figures []figure.Figure, m Machine) string {
	var b strings.Builder
	for _, f := range m.Facts {
		fmt.Fprintf(&b, "* %s: %s\n", f.Name, f.Value)
	}
	b.WriteString("\nMedian, and in parentheses the lowest and the highest repetition.\n")
	var compared, alone []figure.Figure
	for _, f := range figures {
		if f.Peer != "" || f.Bar != nil {
			compared = append(compared, f)
		} else {
			alone = append(alone, f)
		}
	}
	if len(compared) > 0 {
		b.WriteString("\n| figure | vRouter | peer | peer's | ratio | asked for | |\n|---|---|---|---|---|---|---|\n")
		for _, f := range compared {
			b.WriteString(comparedRow(f))
		}
	}
	if len(alone) > 0 {
		b.WriteString("\n| figure | value |\n|---|---|\n")
		for _, f := range alone {
			fmt.Fprintf(&b, "| %s | %s %s |\n", f.Name, withSpread(f.Ours, f.Spread), f.Unit)
		}
	}
	return b.String()
}

func comparedRow(f figure.Figure) string {
	theirs, ratio, asked, met := "", "", "", ""
	if f.Peer != "" {
		theirs, ratio = withSpread(f.PeerValue, f.PeerSpread), Number(f.Ratio)
	}
	if f.Bar != nil {
		asked, met = f.Bar.String(), "met"
		if !f.Bar.Met {
			met = "**missed**"
		}
	}
	return fmt.Sprintf("| %s | %s %s | %s | %s | %s | %s | %s |\n", f.Name, withSpread(f.Ours, f.Spread), f.Unit, f.Peer, theirs, ratio, asked, met)
}

func withSpread(v float64, spread [2]float64) string {
	if spread[0] == spread[1] {
		return Number(v)
	}
	return fmt.Sprintf("%s (%s–%s)", Number(v), Number(spread[0]), Number(spread[1]))
}

// Update replaces what stands between the two marks of a Markdown document by the
// table. A document without marks is left alone and is an error.
func Update(path string, figures []figure.Figure, m Machine) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	head, rest, ok := strings.Cut(string(text), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s: the lines %s and %s are missing, between which the results go", path, begin, end)
	}
	return os.WriteFile(path, []byte(head+begin+"\n"+Table(figures, m)+end+tail), 0o644)
}
