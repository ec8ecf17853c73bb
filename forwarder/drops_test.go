package forwarder

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"
)

var updateDrops = flag.Bool("update-drops", false, "write docs/DROPS.md")

// dropGroup is a run of reasons under one comment in drop.go.
type dropGroup struct {
	title   string
	reasons []string // Go names, in order
}

// dropGroups reads the enum from its source, the only place that has the Go
// names, the order and the headings together.
func dropGroups(t *testing.T) []dropGroup {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "drop.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	groups := []dropGroup{{title: "Never"}}
	for _, decl := range file.Decls {
		enum, ok := decl.(*ast.GenDecl)
		if !ok || enum.Tok != token.CONST {
			continue
		}
		for _, spec := range enum.Specs {
			value := spec.(*ast.ValueSpec)
			name := value.Names[0].Name
			if name == "NumDropReasons" {
				return groups
			}
			if name != "DropUnknown" && value.Doc != nil {
				title := strings.TrimSuffix(strings.TrimSpace(value.Doc.Text()), ".")
				groups = append(groups, dropGroup{title: title})
			}
			last := &groups[len(groups)-1]
			last.reasons = append(last.reasons, name)
		}
	}
	t.Fatal("drop.go has no NumDropReasons")
	return nil
}

func TestDropReasonsAreDescribed(t *testing.T) {
	t.Parallel()
	seen := make(map[string]DropReason)
	causes := make(map[string]DropReason)
	var r DropReason
	for _, group := range dropGroups(t) {
		for _, name := range group.reasons {
			d := r.Describe()
			if d.Name == "" || d.Cause == "" || d.Remedy == "" {
				t.Errorf("%s (%d): blank description %+v", name, r, d)
			}
			if want := strings.ToUpper(strings.TrimPrefix(name, "Drop")); strings.ReplaceAll(d.Name, "_", "") != want {
				t.Errorf("%s (%d) is called %q", name, r, d.Name)
			}
			if old, ok := seen[d.Name]; ok {
				t.Errorf("%s: reasons %d and %d share the name", d.Name, old, r)
			}
			if old, ok := causes[d.Cause]; ok {
				t.Errorf("%s and %s share a cause", old, r)
			}
			if !strings.HasSuffix(d.Cause, ".") && !strings.HasSuffix(d.Cause, ").") {
				t.Errorf("%s: the cause is no sentence: %q", name, d.Cause)
			}
			if !strings.HasSuffix(d.Remedy, ".") {
				t.Errorf("%s: the remedy is no sentence: %q", name, d.Remedy)
			}
			seen[d.Name], causes[d.Cause] = r, r
			r++
		}
	}
	if r != NumDropReasons {
		t.Errorf("drop.go names %d reasons, NumDropReasons is %d", r, NumDropReasons)
	}
	if got := DropReason(255).String(); got != "UNKNOWN" {
		t.Errorf("a reason beyond the list is called %q", got)
	}
}

// TestDropsDocument holds docs/DROPS.md to the enum. `go generate ./forwarder`
// writes it.
func TestDropsDocument(t *testing.T) {
	const path = "../docs/DROPS.md"
	want := renderDrops(dropGroups(t))
	if *updateDrops {
		if err := os.MkdirAll("../docs", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; run go generate ./forwarder", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s does not match forwarder/drops.go; run go generate ./forwarder", path)
	}
}

// renderDrops writes the drop table as Markdown.
func renderDrops(groups []dropGroup) []byte {
	var b bytes.Buffer
	b.WriteString(`# Drop reasons

<!-- Generated from forwarder/drop.go and forwarder/drops.go by "go generate ./forwarder"; do not edit. -->

Every packet that is not sent on ends with exactly one of these reasons. ` + "`vrctl drops`" + ` counts them per interface: at the
interface that the packet came in on, except for OUTPUT_FULL, OUTPUT_DOWN and OUTPUT_REJECTED, which are counted at the interface
that could not take it. Always: received + generated = sent + coalesced + dropped + held.

The reasons stand in the order in which a packet meets them. *Cause* is what happened; *what to do* is for the operator who sees
the counter grow.
`)
	var r DropReason
	for _, group := range groups {
		fmt.Fprintf(&b, "\n## %s\n\n| reason | cause | what to do |\n|---|---|---|\n", group.title)
		for range group.reasons {
			d := r.Describe()
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", d.Name, cell(d.Cause), cell(d.Remedy))
			r++
		}
	}
	return b.Bytes()
}

// cell makes a text safe for a table cell.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
