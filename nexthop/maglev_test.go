package nexthop

import (
	"math/big"
	"testing"
)

// maglev is the textbook table (Eisenbud et al., NSDI 2016, section 3.4) over the
// same member seeds: what Group is compared with in docs/design/0003-ecmp.md.
func maglev(n, size int) []uint32 {
	type turn struct{ at, skip int }
	turns := make([]turn, n)
	for i := range turns {
		s := memberSeed(uint32(i + 1))
		turns[i] = turn{int(s % uint64(size)), int(s>>32%uint64(size-1)) + 1}
	}
	table := make([]uint32, size)
	for filled := 0; ; {
		for i := range turns {
			for table[turns[i].at] != 0 {
				turns[i].at = (turns[i].at + turns[i].skip) % size
			}
			table[turns[i].at] = uint32(i + 1)
			if filled++; filled == size {
				return table
			}
		}
	}
}

func nextPrime(n int) int {
	for !big.NewInt(int64(n)).ProbablyPrime(8) {
		n++
	}
	return n
}

// TestMaglevCompared measures what the textbook table would move, with a size
// that follows the number of members and with the largest size always. It holds
// the reason for rendezvous: the first moves nearly everything.
func TestMaglevCompared(t *testing.T) {
	differ := func(a, b []uint32) float64 {
		n := 0
		for i := range flows {
			h := flowHash(i)
			if a[h%uint64(len(a))] != b[h%uint64(len(b))] {
				n++
			}
		}
		return float64(n) / flows
	}
	for _, n := range []int{1, 2, 3, 8, 16, 64, 100, 300, 999} {
		grow := differ(maglev(n, nextPrime(min(100*n, 65537))), maglev(n+1, nextPrime(min(100*(n+1), 65537))))
		fixed := differ(maglev(n, 65537), maglev(n+1, 65537))
		ours := moved(t, mustGroup(t, equalMembers(n)), mustGroup(t, equalMembers(n+1)))
		t.Logf("%d -> %d: ideal %.2f %%, rendezvous %.2f %%, Maglev 65537 %.2f %%, Maglev 100·N %.2f %%",
			n, n+1, 100/float64(n+1), ours*100, fixed*100, grow*100)
		if n > 1 && n < 600 && grow < 0.3 {
			t.Errorf("%d -> %d: a table of 100·N moved only %.1f %%; the design note says otherwise", n, n+1, grow*100)
		}
	}
}
