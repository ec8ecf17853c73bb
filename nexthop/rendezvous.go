package nexthop

import "math/bits"

// Weighted rendezvous. For one flow every member draws a number u in (0,1] from
// the flow's hash and its own id, and "arrives" at time -log2(u)/weight; the
// first to arrive gets the flow. Arrival times are exponential with the weight
// as rate, so each wins its exact share, and because no draw depends on another
// member, one that leaves gives up only its own flows and one that joins takes
// only what it wins. docs/design/0003-ecmp.md compares this with Maglev.
//
// All arithmetic is on integers, so that every node computes the same.

// runner is a member that takes new flows. 16 bytes.
type runner struct {
	seed   uint64 // memberSeed of the member's id
	weight uint32 // 1 to 65535
	member uint32 // index in Group.members
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

// firstOfEqual returns the member that arrives first when all weights are equal:
// the largest draw. On a tie, the lowest id.
func firstOfEqual(runners []runner, hash uint64) uint32 {
	var best uint64
	member := runners[0].member
	for i := range runners {
		if u := draw(hash, runners[i].seed); u > best {
			best, member = u, runners[i].member
		}
	}
	return member
}

// firstOfWeighted returns the member that arrives first. Times are compared by
// cross-multiplying, and -log2(u) ≥ 1-u rules most members out before the
// logarithm.
func firstOfWeighted(runners []runner, hash uint64) uint32 {
	member := runners[0].member
	bestTime, bestWeight := negLog2(draw(hash, runners[0].seed)), uint64(runners[0].weight)
	for i := 1; i < len(runners); i++ {
		u, weight := draw(hash, runners[i].seed), uint64(runners[i].weight)
		limit := bestTime * weight // < 2^48 · 2^16
		if (^u>>(64-logFraction))*bestWeight >= limit {
			continue
		}
		if t := negLog2(u); t*bestWeight < limit {
			bestTime, bestWeight, member = t, weight, runners[i].member
		}
	}
	return member
}

// logFraction is the number of fraction bits of negLog2.
const logFraction = 42

// negLog2 returns -log2(u/2^64) in fixed point, < 2^48, by linear interpolation
// in a table of 256 steps; relative error ≤ 0.1 %, never increasing in u.
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
