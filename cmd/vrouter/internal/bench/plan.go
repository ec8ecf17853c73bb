package bench

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/figure"
)

// test is a figure to measure.
type test struct {
	name  string
	unit  string
	peer  string // of the sample's peer value, if it has one
	bar   *figure.Bar
	quick bool // part of the quick mode
	world world
	round func(r *rig, n int) (sample, error) // one repetition, of about n operations

	processors int // that it needs, if more than one
}

// sample is what one repetition found: the figure's value, that of its peer where
// it has one, and what else helps to judge it.
type sample struct {
	value  float64
	peer   float64
	detail map[string]float64
}

// Units of figures.
const (
	perPacket    = "ns/packet"
	perSession   = "ns/session"
	perOperation = "ns/operation"
)

// The limits that the engine has to keep.
const (
	hitBar10k  = 50
	hitBar10M  = 90
	newBar     = 1000 // 1 M/s
	sessionBar = 192
	workersBar = 1.9
)

// plan lists every figure.
func plan() []test {
	list := slices.Concat(hits(), sizes(), drops(), workers(), budgets(), scales(), stages())
	for i := range list {
		list[i].world = list[i].world.defaults()
	}
	return list
}

// hits are packets of standing sessions, with and without translation, and new
// sessions beside them.
func hits() (list []test) {
	for _, six := range []bool{false, true} {
		for _, sessions := range []int{10_000, 1_000_000, 10_000_000} {
			quick := !six || sessions == 10_000
			w := world{six: six, sessions: sessions}
			at := family(six) + "/" + count(sessions)
			list = append(list,
				test{name: "hit/nat/" + at, unit: perPacket, bar: hitBar(sessions), quick: quick, world: w, round: passing(toService, small, forwarder.DropUnknown)},
				test{name: "new/" + at, unit: perSession, bar: figure.AtMost("ours", newBar), quick: quick, world: w, round: opening(toService)},
			)
			w.standing = toPod
			list = append(list, test{
				name: "hit/plain/" + at, unit: perPacket, quick: sessions == 10_000, world: w, round: passing(toPod, small, forwarder.DropUnknown),
			})
		}
	}
	return list
}

// hitBar is the limit of a hit with translation.
func hitBar(sessions int) *figure.Bar {
	switch sessions {
	case 10_000:
		return figure.AtMost("ours", hitBar10k)
	case 10_000_000:
		return figure.AtMost("ours", hitBar10M)
	}
	return nil
}

// sizes are hits of other packets than small UDP ones, with translation and without.
func sizes() (list []test) {
	for _, six := range []bool{false, true} {
		for _, v := range []struct {
			name string
			kind kind
			size size
		}{
			{"nat/?/tcp", toServiceTCP, small}, {"nat/?/imix", toService, imix}, {"nat/?/64KB", toServiceTCP, super},
			{"plain/?/imix", toPod, imix}, {"plain/?/64KB", toPodTCP, super},
		} {
			list = append(list, test{
				name: "hit/" + strings.Replace(v.name, "?", family(six)+"/10k", 1), unit: perPacket, quick: !six && v.kind != toPod && v.kind != toPodTCP,
				world: world{six: six, sessions: 10_000, standing: v.kind}, round: passing(v.kind, v.size, forwarder.DropUnknown),
			})
		}
	}
	return list
}

// drops are packets that nobody gets, beside standing sessions.
func drops() (list []test) {
	for _, six := range []bool{false, true} {
		for _, v := range []struct {
			name   string
			kind   kind
			reason forwarder.DropReason
		}{{"spoof", spoofed, forwarder.DropSourceSpoof}, {"no-route", unrouted, forwarder.DropNoRoute}, {"policy", denied, forwarder.DropNetworkPolicy}} {
			list = append(list, test{
				name: "drop/" + v.name + "/" + family(six), unit: perPacket, quick: !six,
				world: world{six: six, sessions: 10_000}, round: passing(v.kind, small, v.reason),
			})
		}
	}
	return list
}

// family is the part of a name that says the IP version.
func family(six bool) string {
	if six {
		return "v6"
	}
	return "v4"
}

// count writes a number as names have it: 10k, 1M.
func count(n int) string {
	switch {
	case n >= 1_000_000 && n%1_000_000 == 0:
		return fmt.Sprintf("%dM", n/1_000_000)
	case n >= 1000 && n%1000 == 0:
		return fmt.Sprintf("%dk", n/1000)
	}
	return fmt.Sprint(n)
}

// passing measures traffic of sessions that stand, or that is dropped.
func passing(k kind, z size, want forwarder.DropReason) func(*rig, int) (sample, error) {
	return func(r *rig, n int) (sample, error) {
		t, flows := r.traffic(k), uint32(r.sessions)
		t.size = z
		raw, err := r.send(t, n, flows, 0, want)
		return above(raw, r.floor(t, n, flows, 0)), err
	}
}

// opening measures packets that each open a session. The sessions are removed
// after the repetition, which does not count but is told.
func opening(k kind) func(*rig, int) (sample, error) {
	return func(r *rig, n int) (sample, error) {
		t := r.traffic(k).fresh()
		n = min(n, freshSessions)
		raw, err := r.send(t, n, 0, r.opened, forwarder.DropUnknown)
		if err != nil {
			return sample{}, err
		}
		s := above(raw, r.floor(t, n, 0, r.opened))
		r.opened += uint32(n)
		s.detail["removal"], err = remove(r.fwd.Flows(), r.sessions)
		return s, err
	}
}

// above takes the floor off a measurement.
func above(raw, floor float64) sample {
	ns := raw - floor
	return sample{value: ns, detail: map[string]float64{"raw": raw, "floor": floor, "perSecond": 1e9 / ns}}
}
