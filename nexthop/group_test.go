package nexthop

import (
	"math"
	"strconv"
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
