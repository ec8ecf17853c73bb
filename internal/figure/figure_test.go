package figure_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vrouter-go/vrouter/internal/figure"
)

func TestMedianSpreadAndRatio(t *testing.T) {
	f := figure.Against("tcp/bulk", "Gb/s", []float64{9, 12, 10}, "kernel", []float64{6, 4, 5, 5}, figure.AtLeast("ratio", 2))
	want := figure.Figure{
		Name: "tcp/bulk", Unit: "Gb/s", Ours: 10, Peer: "kernel", PeerValue: 5, Ratio: 2,
		Spread: [2]float64{9, 12}, PeerSpread: [2]float64{4, 6}, Runs: 3,
		Bar: &figure.Bar{Of: "ratio", Least: 2, Met: true},
	}
	if diff := cmp.Diff(want, f); diff != "" {
		t.Error(diff)
	}
}

func TestBars(t *testing.T) {
	for _, c := range []struct {
		bar  *figure.Bar
		met  bool
		text string
	}{
		{figure.AtMost("ours", 50), true, "ours ≤ 50"},
		{figure.AtMost("ours", 49), false, "ours ≤ 49"},
		{figure.AtMost("ours", 0), false, "ours ≤ 0"},
		{figure.AtLeast("ours", 51), false, "ours ≥ 51"},
	} {
		f := figure.New("x", "ns", []float64{50}, c.bar)
		if f.Bar.Met != c.met || f.Bar.String() != c.text {
			t.Errorf("%v: met %v; want %v, %q", f.Bar, f.Bar.Met, c.met, c.text)
		}
		if c.bar.Met {
			t.Error("the caller's bar was changed")
		}
	}
}

func TestListSurvivesJSON(t *testing.T) {
	list := []figure.Figure{figure.New("a", "ns", []float64{1, 2}, nil), figure.New("b", "%", []float64{0}, figure.AtMost("ours", 0))}
	var b bytes.Buffer
	if err := figure.Write(&b, list); err != nil {
		t.Fatal(err)
	}
	back, err := figure.Read(&b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(list, back); diff != "" {
		t.Error(diff)
	}
}
