package nexthop

import (
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
)

// flows is the number of tuples in the balance tests (reliability figure:
// 65,536 flows over 8 members, at most 5 % off).
const flows = 65_536

// flowHash is the hash of the i-th of many clients of one service: addresses
// and ports that differ in few bits, as real ones do.
func flowHash(i int) uint64 {
	src := [16]byte{10: 0xff, 11: 0xff, 12: 10, 13: 0, 14: byte(i >> 16), 15: byte(i >> 8)}
	dst := [16]byte{10: 0xff, 11: 0xff, 12: 10, 13: 96, 14: 0, 15: 10}
	return HashTuple(HashAll, &src, &dst, 40_000+uint16(i&0xff), 80, 6)
}

// equalMembers returns n ready members of weight 1 with ids as an agent might
// give them.
func equalMembers(n int) []Member {
	m := make([]Member, n)
	for i := range m {
		m[i] = Member{ID: uint32(i + 1), Weight: 1}
	}
	return m
}

func mustGroup(t testing.TB, members []Member) *Group {
	t.Helper()
	g, err := NewGroup(members)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// pick is the id of the member chosen for hash.
func pick(t testing.TB, g *Group, hash uint64) uint32 {
	t.Helper()
	i, ok := g.Select(hash)
	if !ok {
		t.Fatal("nobody takes the flow")
	}
	return g.Member(i).ID
}

// worstShare returns the largest relative distance of a member's share of the
// flows from its weight.
func worstShare(t testing.TB, members []Member) float64 {
	g := mustGroup(t, members)
	count, total := make(map[uint32]int), 0
	for i := range flows {
		count[pick(t, g, flowHash(i))]++
	}
	for _, m := range members {
		total += int(m.Weight)
	}
	worst := 0.0
	for _, m := range members {
		want := float64(flows) * float64(m.Weight) / float64(total)
		worst = max(worst, math.Abs(float64(count[m.ID])-want)/want)
	}
	return worst
}

func TestBalance(t *testing.T) {
	weighted := equalMembers(8)
	for i := range weighted {
		weighted[i].Weight = []uint16{11, 45}[i%2]
	}
	two := equalMembers(2)
	two[0].Weight, two[1].Weight = 11, 45
	for name, members := range map[string][]Member{"8 equal": equalMembers(8), "8 of 11:45": weighted, "11:45": two} {
		if worst := worstShare(t, members); worst > 0.05 {
			t.Errorf("%s: a member's share is %.1f %% off its weight, want at most 5 %%", name, worst*100)
		} else {
			t.Logf("%s: %.2f %%", name, worst*100)
		}
	}
}

func TestNegLog2(t *testing.T) {
	prev := uint64(math.MaxUint64)
	for i := range 100000 {
		u := uint64(i)*184467440737095 + 12345
		got := negLog2(u)
		want := -math.Log2(float64(u) / (1 << 64))
		if math.Abs(float64(got)/(1<<logFraction)-want) > 0.001*want+1.0/(1<<(logFraction-1)) {
			t.Fatalf("negLog2(%#x) = %v, want %v", u, float64(got)/(1<<logFraction), want)
		}
		if got > prev {
			t.Fatalf("negLog2(%#x) rises", u)
		}
		prev = got
	}
}

func BenchmarkSelect(b *testing.B) {
	for _, n := range []int{2, 3, 10, 32, 100, 250, 1000} {
		for _, kind := range []string{"equal", "weighted"} {
			m := equalMembers(n)
			if kind == "weighted" {
				for i := range m {
					m[i].Weight = uint16(1 + i%7)
				}
			}
			g := mustGroup(b, m)
			b.Run(kind+"/"+strconv.Itoa(n), func(b *testing.B) {
				for i := 0; b.Loop(); i++ {
					g.Select(flowHash(i))
				}
			})
		}
	}
}

// moved returns the share of the hash space that two groups decide differently.
func moved(t testing.TB, a, b *Group) float64 {
	n := 0
	for i := range flows {
		if pick(t, a, flowHash(i)) != pick(t, b, flowHash(i)) {
			n++
		}
	}
	return float64(n) / flows
}

func TestDisruption(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 8, 16, 31, 64, 100, 127, 128, 129, 130, 200, 300, 383, 384, 385, 500, 999} {
		less, more := mustGroup(t, equalMembers(n)), mustGroup(t, equalMembers(n+1))
		got, limit := moved(t, less, more), 1/float64(n+1)+0.01
		t.Logf("%d <-> %d: %.2f %% of the hash space moves, limit %.2f %%", n, n+1, got*100, limit*100)
		if got > limit {
			t.Errorf("%d <-> %d: %.2f %% moves, limit %.2f %%", n, n+1, got*100, limit*100)
		}
	}
}

// weightedMembers returns n ready members with weights 1 to 7.
func weightedMembers(n int) []Member {
	m := equalMembers(n)
	for i := range m {
		m[i].Weight = uint16(1 + i%7)
	}
	return m
}

// reliability 1.3: weighted shares hold at every width, wide groups included.
func TestBalanceOfWide(t *testing.T) {
	for _, n := range []int{50, 129, 256, 400, 1000} {
		members := weightedMembers(n)
		g, total := mustGroup(t, members), 0.0
		for _, m := range members {
			total += float64(m.Weight)
		}
		count := make([]float64, n)
		const draws = 1 << 18
		for i := range draws {
			index, _ := g.Select(flowHash(i))
			count[index]++
		}
		chi2 := 0.0 // about n-1 with a deviation of sqrt(2(n-1)) for a fair choice
		for i, m := range members {
			want := draws * float64(m.Weight) / total
			chi2 += (count[i] - want) * (count[i] - want) / want
		}
		t.Logf("%d members: chi-square %.0f of %d degrees", n, chi2, n-1)
		if limit := float64(n-1) + 6*math.Sqrt(2*float64(n-1)); chi2 > limit {
			t.Errorf("%d members: chi-square %.0f, at most %.0f for a fair choice", n, chi2, limit)
		}
	}
}

// KEP-1669: new flows go to ready members; if there is none, to those that are
// leaving but still serve; else they are refused. Draining takes none.
func TestStates(t *testing.T) {
	for _, c := range []struct {
		name   string
		states []State
		usable []uint32
	}{
		{"ready only", []State{Ready, Serving, Draining, Ready}, []uint32{1, 4}},
		{"serving when none is ready", []State{Draining, Serving, Serving, Draining}, []uint32{2, 3}},
		{"draining never", []State{Draining, Draining}, nil},
		{"local-only is for SelectLocal", []State{LocalOnly, Ready, LocalOnly, Serving}, []uint32{2}},
		{"nobody", nil, nil},
	} {
		members := equalMembers(len(c.states))
		for i := range members {
			members[i].State = c.states[i]
		}
		g, seen := mustGroup(t, members), map[uint32]bool{}
		if g.Usable() != len(c.usable) || g.Len() != len(c.states) {
			t.Errorf("%s: %d of %d members usable", c.name, g.Usable(), g.Len())
		}
		for i := range 1000 {
			if index, ok := g.Select(flowHash(i)); ok {
				seen[g.Member(index).ID] = true
			} else if c.usable != nil {
				t.Fatalf("%s: refused", c.name)
			}
		}
		if len(seen) != len(c.usable) {
			t.Errorf("%s: flows went to %v, want %v", c.name, seen, c.usable)
		}
		for _, id := range c.usable {
			if !seen[id] {
				t.Errorf("%s: member %d got nothing", c.name, id)
			}
		}
	}
}

// TestStateMoves: a member that drains gives up its own share of the hash space
// and nobody else's; when it is ready again it gets the same back.
func TestStateMoves(t *testing.T) {
	members := weightedMembers(9)
	before := mustGroup(t, members)
	members[3].State = Draining
	after := mustGroup(t, members)
	for i := range flows {
		was, is := pick(t, before, flowHash(i)), pick(t, after, flowHash(i))
		if was != is && was != 4 {
			t.Fatalf("a flow of member %d moved to %d while member 4 drained", was, is)
		}
	}
}

// TestOrder: every node chooses alike, in whatever order it learnt the members.
func TestOrder(t *testing.T) {
	for _, n := range []int{5, 400} {
		members := weightedMembers(n)
		a := mustGroup(t, members)
		rand.New(rand.NewPCG(1, 1)).Shuffle(n, func(i, j int) { members[i], members[j] = members[j], members[i] })
		b := mustGroup(t, members)
		for i := range 5000 {
			if x, y := pick(t, a, flowHash(i)), pick(t, b, flowHash(i)); x != y {
				t.Fatalf("%d members: %d in one order, %d in another", n, x, y)
			}
		}
	}
}

func TestFind(t *testing.T) {
	members := []Member{{ID: 30, Weight: 1, Port: 3}, {ID: 10, Weight: 1, State: Draining}, {ID: 4_000_000_000, Weight: 2}}
	g := mustGroup(t, members)
	for _, m := range members {
		if got, ok := g.Find(m.ID); !ok || got != m {
			t.Errorf("Find(%d) = %+v %v", m.ID, got, ok)
		}
	}
	for _, id := range []uint32{0, 11, 31, ^uint32(0)} {
		if got, ok := g.Find(id); ok {
			t.Errorf("Find(%d) = %+v, want none", id, got)
		}
	}
}

func TestBadGroups(t *testing.T) {
	for want, members := range map[string][]Member{
		"member 7 appears twice":        {{ID: 7, Weight: 1}, {ID: 8, Weight: 1}, {ID: 7, Weight: 1}},
		"member 7 has weight 0":         {{ID: 7}},
		"member 7 has an unknown state": {{ID: 7, Weight: 1, State: 9}},
		"at most 65535 fit":             make([]Member, MaxMembers+1),
	} {
		if _, err := NewGroup(members); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want %q", err, want)
		}
	}
}

// TestFirstOfWeighted compares the race with one in floating point that takes
// every logarithm.
func TestFirstOfWeighted(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 3))
	for range 20_000 {
		runners := make([]runner, 1+r.IntN(12))
		for i := range runners {
			runners[i] = runner{seed: r.Uint64(), weight: uint32(1 + r.IntN(65535))}
		}
		hash := r.Uint64()
		at := func(i int) float64 {
			return -math.Log2(float64(draw(hash, runners[i].seed))/(1<<64)) / float64(runners[i].weight)
		}
		got, best := firstOfWeighted(runners, hash), 0
		for i := range runners {
			if at(i) < at(best) {
				best = i
			}
		}
		if at(got) > at(best)*1.005 {
			t.Fatalf("runner %d arrives at %g, runner %d at %g", got, at(got), best, at(best))
		}
	}
}

func BenchmarkNewGroup(b *testing.B) {
	for _, n := range []int{2, 10, 100, 1000} {
		m := weightedMembers(n)
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = NewGroup(m)
			}
		})
	}
}

// A flow that may only go to members on this node goes where it goes when there are
// no others.
func TestSelectLocalIsSelectWithoutTheOthers(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		var all, here []Member
		for i := range 1 + r.IntN(300) {
			m := Member{ID: uint32(i + 1), Weight: uint16(1 + r.IntN(5)), State: State(r.IntN(int(numStates))), NextHop: FirstID + ID(i)}
			if r.IntN(3) == 0 {
				m.Interface = uint16(i + 1)
				alone := m
				if m.State == LocalOnly { // here it counts as any other
					alone.State = Ready
				}
				here = append(here, alone)
			}
			all = append(all, m)
		}
		g, local := mustGroup(t, all), mustGroup(t, here)
		for i := range 50 {
			index, ok := g.SelectLocal(flowHash(i))
			if !ok {
				if local.Usable() != 0 {
					t.Fatal("nobody, and there are members")
				}
				continue
			}
			if m := g.Member(index); m.Interface == 0 || m.State == Draining {
				t.Fatalf("chose %+v", m)
			}
			if len(here) > narrow {
				continue // Select draws for teams there
			}
			if want, _ := local.Select(flowHash(i)); g.Member(index).ID != local.Member(want).ID {
				t.Fatalf("chose %+v, alone they choose %+v", g.Member(index), local.Member(want))
			}
		}
		for _, m := range all {
			if got, ok := g.Through(m.NextHop); ok != (m.Interface != 0) || ok && got != m {
				t.Fatalf("through %d: %+v", m.NextHop, got)
			}
		}
	}
}
