package differential

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

const document = "../../docs/DIFFERENCES.md"

// difference is a row of docs/DIFFERENCES.md.
type difference struct {
	key, sent, ours, kernel, reason string
}

func (d difference) row() string {
	return fmt.Sprintf("| `%s` | `%s` | %s | %s | %s |\n", d.key, d.sent, code(d.ours), code(d.kernel), d.reason)
}

// code quotes an outcome.
func code(outcome string) string {
	if outcome == "nothing" {
		return outcome
	}
	return "`" + strings.ReplaceAll(outcome, "; ", "`<br>`") + "`"
}

// judge compares the differences found with those documented.
func judge(t *testing.T, found []difference) {
	t.Helper()
	before, known, after := documented(t)
	var rows strings.Builder
	for i, f := range found {
		d, ok := known[f.key]
		delete(known, f.key)
		f.reason = d.reason
		found[i] = f
		rows.WriteString(f.row())
		switch {
		case *update:
		case !ok:
			t.Errorf("a difference that docs/DIFFERENCES.md does not list: a bug, or a row with its reason\n%s", f.row())
		case f.row() != d.row():
			t.Errorf("the difference is another than docs/DIFFERENCES.md says\nsays  %snow   %s", d.row(), f.row())
		}
		if f.reason == "" && ok || *update && f.reason == "" {
			t.Errorf("%s has no reason in docs/DIFFERENCES.md:\n%s", f.key, f.row())
		}
	}
	if *update {
		if err := os.WriteFile(document, []byte(before+rows.String()+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, d := range known {
		t.Errorf("docs/DIFFERENCES.md lists a difference that is none any more: %s", d.row())
	}
}

// documented reads the table of differences and what stands around it.
func documented(t *testing.T) (before string, rows map[string]difference, after string) {
	t.Helper()
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	const head = "|---|---|---|---|---|\n"
	before, rest, ok := strings.Cut(string(text), head)
	if !ok {
		t.Fatalf("%s has no table of five columns", document)
	}
	rows = map[string]difference{}
	for strings.HasPrefix(rest, "| ") {
		line, tail, _ := strings.Cut(rest, "\n")
		rest = tail
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if len(cells) == 4 {
			cells = append(cells, "")
		}
		if len(cells) != 5 {
			t.Fatalf("%s: a row of %d cells: %s", document, len(cells), line)
		}
		plain := func(s string) string { return strings.Trim(strings.ReplaceAll(s, "`<br>`", "; "), "` ") }
		d := difference{plain(cells[0]), plain(cells[1]), plain(cells[2]), plain(cells[3]), strings.TrimSpace(cells[4])}
		rows[d.key] = d
	}
	return before + head, rows, rest
}
