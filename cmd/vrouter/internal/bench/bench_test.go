package bench

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/figure"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tiny shrinks a world.
func tiny(w world) world {
	w.sessions = min(w.sessions, 500)
	w.floating = min(w.floating, 3)
	w.members = min(w.members, 3)
	w.rules = min(w.rules, 20)
	w.routes = min(w.routes, 50)
	return w
}

// Every figure of the plan can be measured and has the shape that readers expect.
// Nothing is said about speed.
func TestEveryFigure(t *testing.T) {
	tests := plan()
	for i := range tests {
		tests[i].world = tiny(tests[i].world)
	}
	seen := map[string]bool{}
	for group := range byWorld(tests) {
		list, err := measure(context.Background(), group, effort{repetitions: 2, operations: 300})
		if err != nil {
			t.Fatal(err)
		}
		for i, f := range list {
			if want := suite + group[i].name; f.Name != want || seen[f.Name] {
				t.Errorf("%s: want %s, once", f.Name, want)
			}
			seen[f.Name] = true
			if f.Unit == "" || f.Runs != 2 || f.Spread[0] > f.Ours || f.Ours > f.Spread[1] {
				t.Errorf("%+v", f)
			}
			if f.Bar != nil && f.Bar.Most == 0 && f.Bar.Least == 0 && f.Ours != 0 {
				t.Errorf("%s: %v; want none", f.Name, f.Ours)
			}
		}
	}
	if len(seen) != len(tests) {
		t.Errorf("%d figures of %d tests", len(seen), len(tests))
	}
}

// A rig sends what it says: packets with another fate than the wanted one are an
// error and not a figure.
func TestWrongFateIsAnError(t *testing.T) {
	r, err := newRig(world{sessions: 100}.defaults())
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	for k, want := range map[kind]forwarder.DropReason{
		toService: forwarder.DropUnknown, toPod: forwarder.DropUnknown, toPodTCP: forwarder.DropUnknown, spoofed: forwarder.DropSourceSpoof,
		unrouted: forwarder.DropNoRoute, denied: forwarder.DropNetworkPolicy,
	} {
		if _, err := r.send(r.traffic(k), 100, 100, 0, want); err != nil {
			t.Errorf("kind %d: %v", k, err)
		}
		for _, other := range []forwarder.DropReason{forwarder.DropUnknown, forwarder.DropSourceSpoof, forwarder.DropTTL} {
			if other == want {
				continue
			}
			if _, err := r.send(r.traffic(k), 100, 100, 0, other); err == nil {
				t.Errorf("kind %d counts as %v", k, other)
			}
		}
	}
}

// Hits open no session, new ones do, and only those go.
func TestSessionsOfARound(t *testing.T) {
	r, err := newRig(world{sessions: 1000}.defaults())
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	flows := r.fwd.Flows()
	for range 3 {
		if _, err := r.send(r.traffic(toService), 500, 1000, 0, forwarder.DropUnknown); err != nil || flows.Live() != 1000 {
			t.Fatalf("%d sessions after hits, %v", flows.Live(), err)
		}
		if _, err := r.send(r.traffic(toService).fresh(), 500, 0, 0, forwarder.DropUnknown); err != nil || flows.Live() != 1500 {
			t.Fatalf("%d sessions after 500 new ones, %v", flows.Live(), err)
		}
		if _, err := remove(flows, 1000); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNames(t *testing.T) {
	all := []test{{name: "hit/nat/v4/10k", quick: true}, {name: "hit/nat/v6/10k"}, {name: "hit/plain/v4/10k"}, {name: "new/v4/10k"}}
	for _, c := range []struct {
		names []string
		quick bool
		want  string
	}{
		{nil, false, "hit/nat/v4/10k hit/nat/v6/10k hit/plain/v4/10k new/v4/10k"},
		{nil, true, "hit/nat/v4/10k"},
		{[]string{"hit/nat"}, true, "hit/nat/v4/10k hit/nat/v6/10k"},
		{[]string{"memory/new", "hit/p"}, false, "hit/plain/v4/10k new/v4/10k"},
		{[]string{"hit/*/v4/*"}, false, "hit/nat/v4/10k hit/plain/v4/10k"},
	} {
		list, err := choose(all, Options{Names: c.names, Quick: c.quick})
		var names []string
		for _, t := range list {
			names = append(names, t.name)
		}
		if got := strings.Join(names, " "); got != c.want || err != nil {
			t.Errorf("%v, quick %v: %s, %v; want %s", c.names, c.quick, got, err, c.want)
		}
	}
	if _, err := choose(all, Options{Names: []string{"new", "hits"}}); !errors.Is(err, ErrBadName) || !strings.HasPrefix(err.Error(), `invalid argument "hits": `) {
		t.Errorf("%v; want that hits is no figure", err)
	}
}

func TestOutput(t *testing.T) {
	o := Options{Names: []string{"session", "floor", "drop/spoof/v4"}, Quick: true, Progress: io.Discard}
	run := func() string {
		var out bytes.Buffer
		o.Out = &out
		if err := runHere(o); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	if text := run(); strings.Count(text, "memory/") != 3 || !strings.Contains(text, "ours ≤ 192 met") || !strings.Contains(text, "3 figures in ") {
		t.Errorf("table:\n%s", text)
	}
	o.JSON = true
	list, err := figure.Read(strings.NewReader(run()))
	if err != nil || len(list) != 3 {
		t.Fatalf("%d figures, %v", len(list), err)
	}
	var keys []string
	for _, f := range list {
		if f.Name == "memory/drop/spoof/v4" {
			for _, key := range []string{"floor", "raw", "perSecond", "hugePages"} {
				if f.Detail[key] == 0 {
					t.Errorf("%s lacks %s", f.Name, key)
				}
			}
		}
		keys = append(keys, f.Name)
	}
	if diff := cmp.Diff([]string{"memory/drop/spoof/v4", "memory/session", "memory/floor/v4"}, keys); diff != "" {
		t.Error(diff)
	}
	o.List = true
	if text := run(); strings.Count(text, "\n") != 3 || !strings.Contains(text, "bytes        ours ≤ 192\n") {
		t.Errorf("list:\n%s", text)
	}
}

// runHere runs on a thread of its own, which Run pins.
func runHere(o Options) error {
	ended := make(chan error)
	go func() { ended <- Run(context.Background(), o) }()
	return <-ended
}

// Measuring ends with the context.
func TestInterrupted(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	stop()
	tests, err := choose(plan(), Options{Names: []string{"drop/spoof/v4"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := measure(ctx, tests, quickEffort); !errors.Is(err, context.Canceled) {
		t.Errorf("%v; want that it was interrupted", err)
	}
}

// What the machine cannot hold is left out before it is tried.
func TestTooLarge(t *testing.T) {
	if free, ok := (world{sessions: flowtable.MaxSessions}).fits(); ok || free == 0 {
		t.Errorf("two billion sessions fit in %d MB", free>>20)
	}
	if _, ok := (world{sessions: 1}).fits(); !ok {
		t.Error("one session does not fit")
	}
	tests := []test{{name: "a"}, {name: "b", processors: 1 << 20}}
	var said strings.Builder
	if list, left := affordable(tests, &said); len(list) != 1 || left != 1 || !strings.HasPrefix(said.String(), "SKIPPED memory/b: ") {
		t.Errorf("%d tests, %d left out: %s", len(list), left, said.String())
	}
}
