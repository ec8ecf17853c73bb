package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vrouter-go/vrouter/internal/figure"
)

// figures are one of each kind.
func figures() []figure.Figure {
	udp := figure.Against("e2e/udp-small", "packets/s", []float64{300, 310, 290}, "kernel", []float64{100, 120, 110}, figure.AtLeast("ratio", 1.5))
	udp.Detail = map[string]float64{"ours: cpu/core-0": 99}
	return []figure.Figure{
		figure.New("memory/hit/nat/v4/10k", "ns/packet", []float64{48}, figure.AtMost("ours", 50)),
		figure.New("memory/hit/nat/v4/1M", "ns/packet", []float64{70, 60}, nil),
		udp,
		figure.Against("e2e/udp-small", "packets/s", []float64{300, 310, 290}, "ovs & <co>", []float64{400}, figure.AtLeast("ratio", 2)),
		figure.New("control/loss", "packets", []float64{0, 0}, figure.AtMost("ours", 0)),
	}
}

// The page stands by itself, its plots are well-formed, and text cannot become
// markup.
func TestPage(t *testing.T) {
	var b bytes.Buffer
	if err := HTML(&b, figures(), Machine{Facts: []Fact{{"kernel", "<b>6</b>"}}}); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	if m := regexp.MustCompile(`(?i)(src|href)=|url\(|@import|<script|<b>`).FindString(text); m != "" {
		t.Errorf("the page holds %q", m)
	}
	for _, want := range []string{"3 of 4", "hit/nat/v4<small>ns/packet, lower is better", "udp-small<small>packets/s, higher is better", "ovs &amp; &lt;co&gt;", "ours: cpu/core-0"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in the page", want)
		}
	}
	plots := regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(text, -1)
	if len(plots) != 3 {
		t.Errorf("%d plots; want 3", len(plots))
	}
	for _, plot := range plots {
		wellFormed(t, plot)
	}
}

func wellFormed(t *testing.T, text string) {
	t.Helper()
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Errorf("%v in\n%s", err, text)
			return
		}
	}
}

// Siblings share a plot, peers stand in it once each, and of several limits the
// one that is missed is drawn.
func TestSections(t *testing.T) {
	got := sections(figures())
	want := []section{
		{"memory", titles["memory"], []group{{"memory/hit/nat/v4", "ns/packet", []row{
			{Label: "10k", Value: 48, Spread: [2]float64{48, 48}, Ours: true, Limit: 50, Upper: true, Met: true},
			{Label: "1M", Value: 65, Spread: [2]float64{60, 70}, Ours: true},
		}}}},
		{"e2e", titles["e2e"], []group{{"e2e/udp-small", "packets/s", []row{
			{Label: "vRouter", Value: 300, Spread: [2]float64{290, 310}, Ours: true, Limit: 800},
			{Label: "kernel", Value: 110, Spread: [2]float64{100, 120}},
			{Label: "ovs & <co>", Value: 400, Spread: [2]float64{400, 400}},
		}}}},
		{"control", titles["control"], []group{{"control", "packets", []row{
			{Label: "loss", Ours: true, Upper: true, Met: true, Limited: true},
		}}}},
	}
	for i := range want { // Limited follows from the rest but for limits of 0
		for j := range want[i].Groups {
			for k, r := range want[i].Groups[j].Rows {
				want[i].Groups[j].Rows[k].Limited = r.Limited || r.Limit != 0
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Lone rows whose names differ in one part stand together.
func TestLoneRowsJoin(t *testing.T) {
	var list []figure.Figure
	for _, name := range []string{"memory/drop/spoof/v4", "memory/hit/nat/10k", "memory/drop/policy/v4", "memory/floor/v4", "memory/hit/nat/1M"} {
		list = append(list, figure.New(name, "ns/packet", []float64{1}, nil))
	}
	var got []string
	for _, g := range sections(list)[0].Groups {
		text := g.Name + ":"
		for _, r := range g.Rows {
			text += " " + r.Label
		}
		got = append(got, text)
	}
	want := []string{"memory/drop: spoof/v4 policy/v4", "memory/hit/nat: 10k 1M", "memory/floor: v4"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTable(t *testing.T) {
	const want = `* kernel: 6.18

Median, and in parentheses the lowest and the highest repetition.

| figure | vRouter | peer | peer's | ratio | asked for | |
|---|---|---|---|---|---|---|
| memory/hit/nat/v4/10k | 48.0 ns/packet |  |  |  | ours ≤ 50 | met |
| e2e/udp-small | 300 (290–310) packets/s | kernel | 110 (100–120) | 2.73 | ratio ≥ 1.5 | met |
| e2e/udp-small | 300 (290–310) packets/s | ovs & <co> | 400 | 0.75 | ratio ≥ 2 | **missed** |
| control/loss | 0 packets |  |  |  | ours ≤ 0 | met |

| figure | value |
|---|---|
| memory/hit/nat/v4/1M | 65.0 (60.0–70.0) ns/packet |
`
	m := Machine{Facts: []Fact{{"kernel", "6.18"}}}
	if diff := cmp.Diff(want, Table(figures(), m)); diff != "" {
		t.Error(diff)
	}
	path := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(path, []byte("above\n"+begin+"\nold\n"+end+"\nbelow\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the marks are still there after the first
		if err := Update(path, figures(), m); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("above\n"+begin+"\n"+want+end+"\nbelow\n", string(text)); diff != "" {
		t.Error(diff)
	}
}

func TestUpdateNeedsMarks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page.md")
	for _, text := range []string{"", begin, end + begin, end} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := Update(path, figures(), Machine{}); err == nil || !strings.Contains(err.Error(), begin) {
			t.Errorf("%q: %v", text, err)
		}
		if now, err := os.ReadFile(path); err != nil || string(now) != text {
			t.Errorf("%q became %q, %v", text, now, err)
		}
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 0.00123: "0.0012", 0.5: "0.50", 9.994: "9.99", 12.34: "12.3", 999: "999", 1000: "1,000", 303019: "303,019", 1234567: "1,234,567", -1234: "-1,234", -123: "-123",
	} {
		if got := Number(v); got != want {
			t.Errorf("%v: %q; want %q", v, got, want)
		}
	}
}

func TestThisMachine(t *testing.T) {
	m := ThisMachine(time.Unix(0, 0))
	if len(m.Facts) < 4 || m.Facts[0] != (Fact{"measured", "1970-01-01 00:00 UTC"}) {
		t.Errorf("%+v", m)
	}
}
