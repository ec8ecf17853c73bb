package nexthop

import (
	"cmp"
	"math/bits"
	"slices"
)

// Weighted rendezvous. For one flow every member draws a number u in (0,1] from
// the flow's hash and its own id, and "arrives" at time -log2(u)/weight; the
// first to arrive gets the flow. Arrival times are exponential with the weight
// as rate, so each wins its exact share, and because no draw depends on another
// member, one that leaves gives up only its own flows and one that joins takes
// only what it wins. docs/design/0003-ecmp.md compares this with Maglev.
//
// A wide group draws for a team of members first and then within the team.
//
// All arithmetic is on integers, so that every node computes the same.

// runner is who draws: a member, or a team of members in a wide group. 16 bytes.
type runner struct {
	seed   uint64 // of the member's id or the team's number
	weight uint32 // of the member, or of the team's members together
	index  uint32 // the member's place in Group.members, or the team's first runner
}

const (
	// A wide group has 1 << teamBits teams: members of 32 teams of 32 are compared in
	// 64 draws instead of 1,024.
	teamBits = 5
	// A group of up to narrow members draws once for each. Above, a share of the
	// hash space that grows by 1/ramp with each member draws for the team first, so
	// that no single member more or less changes how the whole space is decided.
	narrow = 128
	ramp   = 256
)

// teamOf is the team of a member, 0 ≤ team < 1 << teamBits; it depends on its id only.
func teamOf(seed uint64) uint32 { return uint32(seed >> (64 - teamBits)) }

// byTeam sorts runners into teams and returns the teams.
func byTeam(runners []runner) []runner {
	slices.SortFunc(runners, func(a, b runner) int {
		return cmp.Or(cmp.Compare(teamOf(a.seed), teamOf(b.seed)), cmp.Compare(a.index, b.index))
	})
	var list []runner
	for i, r := range runners {
		if i == 0 || teamOf(r.seed) != teamOf(runners[i-1].seed) {
			list = append(list, runner{seed: memberSeed(teamOf(r.seed)) ^ ecmpSeed2, index: uint32(i)})
		}
		list[len(list)-1].weight += r.weight
	}
	return list
}

// memberSeed spreads a member id over 64 bits (the finalizer of splitmix64).
func memberSeed(id uint32) uint64 {
	x := uint64(id) + 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// draw is the member's number u·2^64 for this flow.
func draw(hash, seed uint64) uint64 {
	return fold(hash^seed, bits.RotateLeft64(hash, 32)^ecmpSeed3)
}

// firstOfEqual returns the runner that arrives first when all weights are equal:
// the one with the largest draw. runners is not empty.
func firstOfEqual(runners []runner, hash uint64) (first int) {
	var best uint64
	for i := range runners {
		if u := draw(hash, runners[i].seed); u > best {
			best, first = u, i
		}
	}
	return first
}

// firstOfWeighted returns the runner that arrives first. Times are compared by
// cross-multiplying (time ≤ 2^32, weight < 2^32), and -log2(u) ≥ 1-u rules most
// runners out before the logarithm. runners is not empty.
func firstOfWeighted(runners []runner, hash uint64) (first int) {
	bestTime, bestWeight := negLog2(draw(hash, runners[0].seed)), uint64(runners[0].weight)
	for i := 1; i < len(runners); i++ {
		u, weight := draw(hash, runners[i].seed), uint64(runners[i].weight)
		limit := bestTime * weight
		if (^u>>(64-logFraction))*bestWeight >= limit {
			continue
		}
		if t := negLog2(u); t*bestWeight < limit {
			bestTime, bestWeight, first = t, weight, i
		}
	}
	return first
}

// logFraction is the number of fraction bits of negLog2.
const logFraction = 26

// negLog2 returns -log2(u/2^64) in fixed point, ≤ 2^32, by linear interpolation
// in a table of 256 steps; error ≤ 0.1 %, never increasing in u.
func negLog2(u uint64) uint64 {
	u |= 1
	zeros := bits.LeadingZeros64(u)
	x := u << zeros << 1 // the fraction of the mantissa in [1,2)
	i := x >> 56
	low, high := log2Table[i+1], log2Table[i]
	step, _ := bits.Mul64((high-low)<<1, x<<8>>1)
	return uint64(zeros)<<logFraction + high - step
}

// log2Table[i] is 1 - log2(1 + i/256) in fixed point.
var log2Table = func() (t [257]uint64) {
	for i := range t {
		t[i] = 1<<logFraction - log2(uint64(256+i)<<(62-8))
	}
	return t
}()

// log2 returns log2(x/2^62) in fixed point for x in [2^62, 2^63], one bit a
// round by squaring.
func log2(x uint64) (result uint64) {
	if x == 1<<63 {
		return 1 << logFraction
	}
	for bit := uint64(1) << (logFraction - 1); bit != 0; bit >>= 1 {
		hi, lo := bits.Mul64(x, x)
		x = hi<<2 | lo>>62
		if x >= 1<<63 {
			x >>= 1
			result |= bit
		}
	}
	return result
}
