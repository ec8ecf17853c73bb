package compile

import (
	"net/netip"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/statefile"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// TestGolden compiles state files that have one of everything and compares what
// they mean, written out, with testdata/*.golden.
func TestGolden(t *testing.T) {
	for _, name := range []string{"world", "overlay"} {
		t.Run(name, func(t *testing.T) {
			c := New(Config{DefaultQuota: 1000})
			r, err := c.All(stateOf(t, "testdata/"+name+".yaml"))
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "testdata/"+name+".golden", dump(r))
			if name != "overlay" {
				return
			}
			if r, err = c.SetUnderlay(found); err != nil {
				t.Fatal(err)
			}
			golden(t, "testdata/underlay.golden", dump(r))
		})
	}
}

// found is an underlay in which node-c is down.
var found = &Underlay{
	MAC: [6]byte{2, 0, 0, 0, 0, 10}, MTU: 9000, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.10")},
	Peers: map[netip.Addr]Path{
		netip.MustParseAddr("192.0.2.12"):   {MAC: [6]byte{2, 0, 0, 0, 0, 12}, Resolved: true, MTU: 8000},
		netip.MustParseAddr("2001:db8::12"): {MAC: [6]byte{2, 0, 0, 0, 0, 12}, Resolved: true},
		netip.MustParseAddr("192.0.2.13"):   {Down: true},
	},
	Exits: []Exit{{Prefix: netip.MustParsePrefix("0.0.0.0/0"), NextHop: forwarder.NeighborNextHop(7)}},
}

// stateOf reads a state file.
func stateOf(t *testing.T, file string) *state.State {
	t.Helper()
	sources, err := statefile.Read([]string{file}, nil)
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
	return st
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: -want +got (UPDATE_GOLDEN=1 writes it anew; then read the difference):\n%s", file, diff)
	}
}
