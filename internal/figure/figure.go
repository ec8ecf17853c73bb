// Package figure is what a measurement leaves behind: one number with its unit,
// beside the same number of a peer measured in the same run. `vrouter bench` and
// the side-by-side benchmarks write lists of them; the report reads them back.
package figure

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

// Figure is one measured value. Ours and PeerValue are medians of the
// repetitions; Spread and PeerSpread are the lowest and the highest of them.
type Figure struct {
	// Name says what was measured, parts from general to special with slashes:
	// "tcp/bulk/1-stream". A name with its peer occurs once in a list.
	Name string `json:"name"`
	// Unit of the values: "ns/packet", "Gb/s", "1/s", "us", "bytes", "%".
	Unit string  `json:"unit"`
	Ours float64 `json:"ours"`
	// Peer is what it was compared with, "" for nothing; then PeerValue and
	// Ratio are 0.
	Peer      string  `json:"peer"`
	PeerValue float64 `json:"peerValue"`
	// Ratio is Ours divided by PeerValue, whichever of them is better.
	Ratio float64 `json:"ratio"`

	Spread     [2]float64 `json:"spread"`
	PeerSpread [2]float64 `json:"peerSpread"`
	Runs       int        `json:"runs"`
	// Bar is what the value or the ratio must reach; nil where nothing is asked.
	Bar *Bar `json:"bar,omitempty"`
	// Detail holds what helps to judge the value: CPU of each core, drops.
	Detail map[string]float64 `json:"detail,omitempty"`
}

// Bar is a limit that a Figure must keep.
type Bar struct {
	Of    string  `json:"of"` // "ours" or "ratio"
	Least float64 `json:"least,omitempty"`
	Most  float64 `json:"most,omitempty"` // used where Least is 0
	Met   bool    `json:"met"`
}

// AtLeast asks for at least v of "ours" or "ratio".
func AtLeast(of string, v float64) *Bar { return &Bar{Of: of, Least: v} }

// AtMost asks for at most v of "ours" or "ratio".
func AtMost(of string, v float64) *Bar { return &Bar{Of: of, Most: v} }

// String returns the bar as a reader wants it: "ratio ≥ 1.5".
func (b *Bar) String() string {
	if b.Least != 0 {
		return fmt.Sprintf("%s ≥ %g", b.Of, b.Least)
	}
	return fmt.Sprintf("%s ≤ %g", b.Of, b.Most)
}

// New returns the figure of repeated measurements, ours alone. bar may be nil.
// values must not be empty; their order does not matter.
func New(name, unit string, values []float64, bar *Bar) Figure {
	f := Figure{Name: name, Unit: unit, Runs: len(values), Bar: bar}
	f.Ours, f.Spread = summary(values)
	f.judge()
	return f
}

// Against returns the figure of repeated measurements beside those of a peer.
func Against(name, unit string, ours []float64, peer string, theirs []float64, bar *Bar) Figure {
	f := Figure{Name: name, Unit: unit, Runs: len(ours), Peer: peer, Bar: bar}
	f.Ours, f.Spread = summary(ours)
	f.PeerValue, f.PeerSpread = summary(theirs)
	if f.PeerValue != 0 {
		f.Ratio = f.Ours / f.PeerValue
	}
	f.judge()
	return f
}

// judge says whether the bar is met.
func (f *Figure) judge() {
	if f.Bar == nil {
		return
	}
	b := *f.Bar
	v := f.Ours
	if b.Of == "ratio" {
		v = f.Ratio
	}
	b.Met = v <= b.Most
	if b.Least != 0 {
		b.Met = v >= b.Least
	}
	f.Bar = &b
}

// summary returns the median of values and their range.
func summary(values []float64) (median float64, spread [2]float64) {
	s := slices.Sorted(slices.Values(values))
	n := len(s)
	if n == 0 {
		return 0, spread
	}
	median = s[n/2]
	if n%2 == 0 {
		median = (s[n/2-1] + s[n/2]) / 2
	}
	return median, [2]float64{s[0], s[n-1]}
}

// Write writes a list of figures as indented JSON.
func Write(w io.Writer, list []Figure) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if list == nil {
		list = []Figure{}
	}
	return e.Encode(list)
}

// Read reads what Write wrote.
func Read(r io.Reader) ([]Figure, error) {
	var list []Figure
	if err := json.NewDecoder(r).Decode(&list); err != nil {
		return nil, fmt.Errorf("list of figures: %w", err)
	}
	return list, nil
}
