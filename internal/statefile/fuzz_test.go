package statefile

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	vrouterv1 "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// FuzzParse reads hostile text: no panic, every problem has a place, and what is read can be written and read again.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/right/*", "testdata/wrong/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 64<<10 {
			t.Skip()
		}
		documents, err := Parse([]Source{{Name: "f", Data: data}}, nil)
		if err != nil {
			for _, p := range err.(Problems) {
				if p.Line < 1 || p.Line > bytes.Count(data, []byte{'\n'})+1 || p.Column < 1 {
					t.Errorf("place %d:%d of %q", p.Line, p.Column, p.Error())
				}
			}
			return
		}
		first := make([]*vrouterv1.Resource, len(documents))
		for i, d := range documents {
			first[i] = d.Resource
			d.Resource.Owner, d.Resource.Generation = "", 0
		}
		out, err := Marshal(first)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first, parseText(t, string(out)), protocmp.Transform()); diff != "" {
			t.Errorf("not the same after writing:\n%s\n%s", diff, out)
		}
	})
}

// TestLabelsSurvive writes label values that YAML could take for something else (numbers, booleans, dates, octal, empty).
func TestLabelsSurvive(t *testing.T) {
	value := rapid.OneOf(
		rapid.SampledFrom([]string{"", "true", "no", "null", "1", "1.0", "1e3", "0x1f", "0o17", "08", "1_000", "2026-11-22", "12.30.45", "NaN", "Infinity", "y", "on", "a.b-c_d"}),
		rapid.StringMatching(`[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?`),
	)
	rapid.Check(t, func(rt *rapid.T) {
		labels := rapid.MapOf(rapid.StringMatching(`[A-Za-z0-9]([A-Za-z0-9._-]{0,8}[A-Za-z0-9])?`), value).Draw(rt, "labels")
		first := []*vrouterv1.Resource{{Name: "a", Spec: &vrouterv1.Resource_VirtualMachineInterface{
			VirtualMachineInterface: &vrouterv1.VirtualMachineInterface{VirtualNetwork: FabricNetwork, Labels: labels}}}}
		out, err := Marshal(first)
		if err != nil {
			rt.Fatal(err)
		}
		documents, err := Parse([]Source{{Name: "f", Data: out}}, nil)
		if err != nil {
			rt.Fatalf("%v\n%s", err, out)
		}
		if diff := cmp.Diff(first[0], documents[0].Resource, protocmp.Transform()); diff != "" {
			rt.Fatalf("%s\n%s", diff, out)
		}
	})
}
