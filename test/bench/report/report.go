// Package report renders figures for readers: a page with plots that needs
// nothing but itself, and a table in a Markdown document.
package report

import (
	_ "embed" // the page
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"

	"github.com/vrouter-go/vrouter/internal/figure"
)

//go:embed page.html
var page string

// HTML writes a page with a plot for each group of figures and a table of all.
// It refers to nothing outside itself.
func HTML(w io.Writer, figures []figure.Figure, m Machine) error {
	t, err := template.New("page").Funcs(template.FuncMap{
		"number": Number, "better": better, "short": short, "drawn": func(g group) template.HTML { return template.HTML(draw(g)) },
	}).Parse(page)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	var verdicts []figure.Figure
	met := 0
	for _, f := range figures {
		if f.Bar == nil {
			continue
		}
		verdicts = append(verdicts, f)
		if f.Bar.Met {
			met++
		}
	}
	return t.Execute(w, map[string]any{
		"Machine": m, "Sections": sections(figures), "Figures": figures, "Bars": verdicts, "Met": met,
	})
}

// section is a part of the page: all groups whose names begin alike.
type section struct {
	Name, Title string
	Groups      []group
}

// group is what one plot shows: rows with the same unit.
type group struct {
	Name, Unit string
	Rows       []row
}

// row is one value with its spread, and the limit it must keep, if there is one.
type row struct {
	Label      string
	Value      float64
	Spread     [2]float64
	Ours       bool
	Limited    bool
	Limit      float64
	Upper, Met bool // Upper: the limit is the most
}

// titles of the sections, by the first part of a figure's name.
var titles = map[string]string{
	"e2e":     "End to end, beside its peers",
	"overlay": "Between two nodes, beside the kernel's VXLAN",
	"control": "Control plane, loss, scale and fairness",
	"memory":  "In memory",
}

// sections groups figures in their order.
func sections(figures []figure.Figure) []section {
	var list []section
	for _, f := range figures {
		first, _, _ := strings.Cut(f.Name, "/")
		title, ok := titles[first]
		if !ok {
			first, title = "memory", titles["memory"]
		}
		i := slices.IndexFunc(list, func(s section) bool { return s.Name == first })
		if i < 0 {
			list = append(list, section{Name: first, Title: title})
			i = len(list) - 1
		}
		list[i].add(f)
	}
	for i := range list {
		list[i].join()
	}
	return list
}

// join puts plots of a single row together where their names differ in the last
// part only: drop/spoof with v4 and drop/policy with v4 become drop.
func (s *section) join() {
	type key struct{ parent, unit string }
	keyOf := func(g group) key { return key{g.Name[:max(0, strings.LastIndex(g.Name, "/"))], g.Unit} }
	lone := func(g group) bool { return len(g.Rows) == 1 && strings.Contains(g.Name, "/") }
	count := map[key]int{}
	for _, g := range s.Groups {
		if lone(g) {
			count[keyOf(g)]++
		}
	}
	var groups []group
	at := map[key]int{}
	for _, g := range s.Groups {
		k := keyOf(g)
		if !lone(g) || count[k] < 2 {
			groups = append(groups, g)
			continue
		}
		if _, ok := at[k]; !ok {
			at[k] = len(groups)
			groups = append(groups, group{Name: k.parent, Unit: k.unit})
		}
		r := g.Rows[0]
		r.Label = strings.TrimPrefix(g.Name, k.parent+"/") + "/" + r.Label
		groups[at[k]].Rows = append(groups[at[k]].Rows, r)
	}
	s.Groups = groups
}

// add puts a figure into its group. Figures with a peer stand beside their peers
// under their own name, those without beside their siblings.
func (s *section) add(f figure.Figure) {
	name, label := f.Name, "vRouter"
	if f.Peer == "" {
		if i := strings.LastIndex(f.Name, "/"); i > 0 {
			name, label = f.Name[:i], f.Name[i+1:]
		}
	}
	i := slices.IndexFunc(s.Groups, func(g group) bool { return g.Name == name && g.Unit == f.Unit })
	if i < 0 {
		s.Groups = append(s.Groups, group{Name: name, Unit: f.Unit})
		i = len(s.Groups) - 1
	}
	g := &s.Groups[i]
	mine := row{Label: label, Value: f.Ours, Spread: f.Spread, Ours: true}
	if f.Bar != nil {
		mine.Limited, mine.Met = true, f.Bar.Met
		mine.Upper = f.Bar.Least == 0
		mine.Limit = max(f.Bar.Least, f.Bar.Most)
		if f.Bar.Of == "ratio" {
			mine.Limit *= f.PeerValue
		}
	}
	if f.Peer == "" {
		g.Rows = append(g.Rows, mine)
		return
	}
	if len(g.Rows) == 0 {
		g.Rows = append(g.Rows, mine)
	} else if mine.Limited && (!g.Rows[0].Limited || g.Rows[0].Met && !mine.Met) {
		g.Rows[0] = mine // one that is missed is drawn rather than one that is met
	}
	g.Rows = append(g.Rows, row{Label: f.Peer, Value: f.PeerValue, Spread: f.PeerSpread})
}

// better says which way a unit's values are better.
func better(unit string) string {
	if strings.HasSuffix(unit, "/s") {
		return "higher is better"
	}
	return "lower is better"
}

// short leaves out the section's name.
func short(name string) string {
	first, rest, ok := strings.Cut(name, "/")
	if _, known := titles[first]; ok && known {
		return rest
	}
	return name
}

// Number writes a value with at least three digits and, above a thousand, with
// commas.
func Number(v float64) string {
	switch a := max(v, -v); {
	case v == 0:
		return "0"
	case a >= 1000:
		return commas(fmt.Sprintf("%.0f", v))
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 0.01:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.2g", v)
}

// commas separates thousands in digits with an optional sign.
func commas(digits string) string {
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
