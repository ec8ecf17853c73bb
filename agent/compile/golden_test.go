package compile

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/internal/statefile"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// TestGolden compiles a state file that has one of everything and compares what
// it means, written out, with testdata/world.golden.
func TestGolden(t *testing.T) {
	sources, err := statefile.Read([]string{"testdata/world.yaml"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	documents, err := statefile.Parse(sources, nil)
	if err != nil {
		t.Fatal(err)
	}
	var list []*pb.Resource
	for _, d := range documents {
		list = append(list, d.Resource)
	}
	st := state.New()
	tx, err := st.Begin(state.Request{Owner: state.OwnerOperator, Upserts: list})
	if err != nil {
		t.Fatal(err)
	}
	tx.Commit()
	r, err := New(Config{DefaultQuota: 1000}).All(st)
	if err != nil {
		t.Fatal(err)
	}
	got := dump(r)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile("testdata/world.golden", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/world.golden")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("-want +got (UPDATE_GOLDEN=1 writes it anew; then read the difference):\n%s", diff)
	}
}
