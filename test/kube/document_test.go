//go:build linux && kube

package kube_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

const document = "../../docs/KUBE-PROXY-DIFFERENCES.md"

// difference is a cell in which ours and kube-proxy do not the same.
type difference struct {
	cell         cell
	ours, theirs string
}

// row is a row of the document: a pattern of cells, the outcomes in them, and the reason.
type row struct{ pattern, ours, theirs, reason string }

func (r row) String() string {
	return fmt.Sprintf("| `%s` | %s | %s | %s |\n", r.pattern, r.ours, r.theirs, r.reason)
}

// matches reports whether a row is about a cell.
func (r row) matches(c cell) bool {
	fields, patterns := strings.Fields(c.String()), strings.Fields(r.pattern)
	if len(patterns) != len(fields) {
		return false
	}
	for i, p := range patterns {
		if p != "*" && !slices.Contains(strings.Split(p, "/"), fields[i]) {
			return false
		}
	}
	return true
}

// of fills in the outcomes: each pair of them once, in the same line of both columns.
func (r row) of(list []difference) row {
	var ours, theirs []string
	seen := map[[2]string]bool{}
	for _, d := range list {
		if pair := [2]string{d.ours, d.theirs}; !seen[pair] {
			seen[pair] = true
			ours, theirs = append(ours, d.ours), append(theirs, d.theirs)
		}
	}
	r.ours, r.theirs = strings.Join(ours, "<br>"), strings.Join(theirs, "<br>")
	return r
}

// judge compares the differences found with those that are documented. A difference
// belongs to the first row that matches it.
func judge(t *testing.T, found []difference) {
	t.Helper()
	before, rows, after := documented(t)
	groups := make([][]difference, len(rows))
	var unknown []row
	for _, d := range found {
		i := slices.IndexFunc(rows, func(r row) bool { return r.matches(d.cell) })
		if i < 0 {
			unknown = append(unknown, row{pattern: d.cell.String()}.of([]difference{d}))
			continue
		}
		groups[i] = append(groups[i], d)
	}
	var text strings.Builder
	for i, r := range rows {
		now := r.of(groups[i])
		switch {
		case len(groups[i]) == 0 && *update:
			continue
		case len(groups[i]) == 0:
			t.Errorf("%s lists a difference that is none any more: %v", document, r)
		case now != r && !*update:
			t.Errorf("the difference is another than %s says\nsays  %vnow   %v", document, r, now)
		case r.reason == "":
			t.Errorf("%s gives no reason for %v", document, now)
		}
		text.WriteString(now.String())
	}
	for _, r := range unknown {
		t.Errorf("a difference that %s does not list: a bug, or a row with its reason: %v", document, r)
		text.WriteString(r.String())
	}
	if *update {
		if err := os.WriteFile(document, []byte(before+text.String()+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// documented reads the table and what stands around it.
func documented(t *testing.T) (before string, rows []row, after string) {
	t.Helper()
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	const head = "|---|---|---|---|\n"
	before, rest, ok := strings.Cut(string(text), head)
	if !ok {
		t.Fatalf("%s has no table of four columns", document)
	}
	for strings.HasPrefix(rest, "| ") {
		line, tail, _ := strings.Cut(rest, "\n")
		rest = tail
		cells := strings.Split(strings.TrimSuffix(strings.TrimPrefix(line, "| "), " |"), " | ")
		if len(cells) != 4 {
			t.Fatalf("%s: a row of %d cells: %s", document, len(cells), line)
		}
		rows = append(rows, row{strings.Trim(cells[0], "`"), cells[1], cells[2], strings.TrimSpace(cells[3])})
	}
	return before + head, rows, rest
}
