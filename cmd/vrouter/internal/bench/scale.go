package bench

import (
	"runtime"
	"strings"

	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/figure"
)

// Figures of a configuration that grows, of several workers, of single stages,
// and of what must stay within a budget whatever the time is.

// scales are new sessions, and hits where they may differ, in configurations of
// several sizes. The other sizes are the defaults.
func scales() (list []test) {
	base := world{sessions: 10_000, standing: toPod}
	for _, n := range []int{1, 1000, 100_000, 1_000_000} {
		w := base
		w.routes = n
		list = append(list, test{
			name: "routes/" + count(n) + "/new", unit: perSession, quick: n == 1_000_000, world: w, round: opening(toRoutes),
		})
	}
	for _, n := range []int{1, 1000, 100_000} {
		w := base
		w.floating, w.members, w.sessions = n, 3, 100_000
		list = append(list, service("floating-ips/"+count(n), w, n == 100_000)...)
	}
	for _, n := range []int{2, 10, 100, 1000} {
		w := base
		w.members = n
		list = append(list, service("ecmp/"+count(n), w, n == 1000)...)
	}
	for _, n := range []int{1, 100, 10_000, 100_000} {
		w := base
		w.rules = n
		list = append(list, test{
			name: "rules/" + count(n) + "/new", unit: perSession, quick: n == 100_000, world: w, round: opening(toService),
		})
	}
	return list
}

// service returns the hits and the new sessions of floating IPs in a world.
func service(name string, w world, quick bool) []test {
	w.standing = toService
	return []test{
		{name: name + "/hit", unit: perPacket, quick: quick, world: w, round: passing(toService, small, forwarder.DropUnknown)},
		{name: name + "/new", unit: perSession, quick: quick, world: w, round: opening(toService)},
	}
}

// workers compare two workers, each with flows of its own, with one.
func workers() []test {
	w := world{sessions: 100_000}
	return []test{
		{
			name: "workers/hit/nat", unit: "M/s", peer: "1 worker", bar: figure.AtLeast("ratio", workersBar), quick: true,
			world: w, round: together(false), processors: maxTeam,
		},
		{name: "workers/new", unit: "M/s", peer: "1 worker", quick: true, world: w, round: together(true), processors: maxTeam},
	}
}

// budgets are figures that no machine changes.
func budgets() []test {
	w := world{sessions: 10_000}
	none := figure.AtMost("ours", 0)
	return []test{
		{name: "session", unit: "bytes", bar: figure.AtMost("ours", sessionBar), quick: true, world: w, round: sessionBytes},
		{name: "allocations/hit", unit: "1/packet", bar: none, quick: true, world: w, round: allocations(toService, false, forwarder.DropUnknown)},
		{name: "allocations/new", unit: "1/packet", bar: none, quick: true, world: w, round: allocations(toService, true, forwarder.DropUnknown)},
		{name: "allocations/drop", unit: "1/packet", bar: none, quick: true, world: w, round: allocations(denied, false, forwarder.DropNetworkPolicy)},
		{name: "floor/v4", unit: perPacket, quick: true, world: w, round: floor},
	}
}

// sessionBytes is what the flow table takes for a session, everything included.
func sessionBytes(r *rig, _ int) (sample, error) {
	flows := r.fwd.Flows()
	return sample{value: float64(flows.Memory()) / float64(flows.Capacity())}, nil
}

// allocations counts what the Go heap gave while packets passed.
func allocations(k kind, fresh bool, want forwarder.DropReason) func(*rig, int) (sample, error) {
	return func(r *rig, n int) (sample, error) {
		n = min(n, freshSessions)
		t, flows, first := r.traffic(k), uint32(r.sessions), uint32(0)
		if fresh {
			t, flows, first = t.fresh(), 0, r.opened
			r.opened += uint32(n)
		}
		r.gen.load(t, 0, flows, first) // builds the headers, which allocates
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := r.send(t, n, flows, first, want)
		runtime.ReadMemStats(&after)
		if err == nil && fresh {
			_, err = remove(r.fwd.Flows(), r.sessions)
		}
		return sample{value: float64(after.Mallocs-before.Mallocs) / float64(n)}, err
	}
}

// floor is what the generator and the sink cost, which the other figures of the
// path leave out.
func floor(r *rig, n int) (sample, error) {
	return sample{value: r.floor(r.traffic(r.standing), n, uint32(r.sessions), 0)}, nil
}

// stages are the steps of the path, in the worlds of other figures.
func stages() []test {
	var list []test
	add := func(name string, quick bool, w world, round func(*rig, int) (sample, error)) {
		list = append(list, test{name: "stage/" + name, unit: perOperation, quick: quick, world: w, round: round})
	}
	for _, six := range []bool{false, true} {
		w := world{six: six, sessions: 10_000}
		add("parse/"+family(six), !six, w, stage(parse))
		add("hash/"+family(six), !six, w, stage(hash))
		add("checksum/repair/"+family(six), !six, w, stage(repair))
	}
	for _, sessions := range []int{10_000, 1_000_000, 10_000_000} {
		w := world{sessions: sessions}
		add("lookup/hit/"+count(sessions), true, w, stage(lookup(toService)))
		add("lookup/miss/"+count(sessions), true, w, stage(lookup(toPod)))
		add("insert-remove/"+count(sessions), true, w, insertRemove)
	}
	w := world{sessions: 10_000}
	add("checksum/1460B", true, w, stage(checksum))
	for _, t := range scales() {
		subject, rest, _ := strings.Cut(t.name, "/")
		size, what, _ := strings.Cut(rest, "/")
		step, ok := scaled[subject]
		if ok && what == "new" {
			add(step.name+"/"+size, t.quick, t.world, stage(step.prepare))
		}
	}
	return list
}

// scaled are the stages whose cost may follow the size of the configuration.
var scaled = map[string]struct {
	name    string
	prepare func(*rig, int) func(int, int) uint64
}{
	"routes": {"route", route},
	"ecmp":   {"ecmp", ecmp},
	"rules":  {"policy", evaluate},
}
