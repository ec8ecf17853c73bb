package policy

import (
	"cmp"
	"errors"
	"math/bits"
	"slices"
	"strconv"
)

// An order is the place of a rule among all rules; the lowest that matches
// decides. noRule is later than any.
const noRule = ^uint32(0)

// cell is what a rule asks of a packet apart from the destination port, as one
// hash key. What a, b and c mean is up to the owner of the cells: prefix numbers
// in a network policy; subject, peer and kind of peer in a security policy.
// 16 bytes.
type cell struct {
	a, b, c uint32
	srcPort uint16 // the upper srcBits bits of the source port
	srcBits uint8  // 0 = any source port
	proto   uint8  // 0 = any protocol
}

// claim says that the rule at order wants the destination ports from..to of a
// cell.
type claim struct {
	cell     cell
	from, to uint16
	order    uint32
}

// maxClaims bounds the memory of a compiled policy: about 100 bytes a claim while
// it is compiled, 50 after.
const maxClaims = 1 << 22

var errTooLarge = errors.New("policy: rules, prefixes with exceptions and port ranges come to more than " +
	strconv.Itoa(maxClaims) + " entries; use fewer exceptions or larger ranges")

// step says which rule has the destination ports from here to the next step.
type step struct {
	order uint32
	from  uint16
}

// span is a cell's part of the steps.
type span struct{ first, count uint32 }

// cells finds the first rule for a cell and a destination port: one hash lookup
// and a binary search in disjoint intervals. Neither part holds pointers.
type cells struct {
	index    index
	steps    []step
	srcBits  uint32 // bit n: some cell has srcBits n
	anyProto bool   // some cell has proto 0
}

// buildCells compiles claims, which it reorders.
func buildCells(claims []claim) cells {
	slices.SortFunc(claims, func(x, y claim) int {
		if n := compareCells(x.cell, y.cell); n != 0 {
			return n
		}
		return cmp.Compare(x.order, y.order)
	})
	distinct := 0
	for i := range claims {
		if i == 0 || claims[i].cell != claims[i-1].cell {
			distinct++
		}
	}
	c := cells{index: newIndex(distinct)}
	for len(claims) > 0 {
		k, n := claims[0].cell, 1
		for n < len(claims) && claims[n].cell == k {
			n++
		}
		first := len(c.steps)
		c.steps = appendSteps(c.steps, claims[:n])
		c.index.put(k, span{uint32(first), uint32(len(c.steps) - first)})
		c.srcBits |= 1 << k.srcBits
		c.anyProto = c.anyProto || k.proto == 0
		claims = claims[n:]
	}
	return c
}

// compareCells sorts equal cells together.
func compareCells(x, y cell) int {
	xab, xrest := x.words()
	yab, yrest := y.words()
	if xab != yab {
		return cmp.Compare(xab, yab)
	}
	return cmp.Compare(xrest, yrest)
}

// words packs a cell.
func (k cell) words() (ab, rest uint64) {
	return uint64(k.a)<<32 | uint64(k.b), uint64(k.c)<<32 | uint64(k.srcPort)<<16 | uint64(k.srcBits)<<8 | uint64(k.proto)
}

// appendSteps lays the claims of one cell, in their order, over the ports: who
// comes first keeps what it takes.
func appendSteps(steps []step, claims []claim) []step {
	if claims[0].from == 0 && claims[0].to == 65535 {
		return append(steps, step{order: claims[0].order})
	}
	points := []uint32{0}
	for _, c := range claims {
		points = append(points, uint32(c.from), uint32(c.to)+1)
	}
	slices.Sort(points)
	points = slices.Compact(points)
	owner := make([]uint32, len(points))
	free := make([]uint32, len(points)+1) // free[i]: the first point ≥ i that may be free
	for i := range free {
		free[i] = uint32(i)
	}
	for i := range owner {
		owner[i] = noRule
	}
	for _, c := range claims {
		at, _ := slices.BinarySearch(points, uint32(c.from))
		for i := firstFree(free, uint32(at)); int(i) < len(points) && points[i] <= uint32(c.to); i = firstFree(free, i) {
			owner[i], free[i] = c.order, i+1
		}
	}
	for i, from := range points {
		if from <= 65535 && (i == 0 || owner[i] != owner[i-1]) {
			steps = append(steps, step{order: owner[i], from: uint16(from)})
		}
	}
	return steps
}

// firstFree follows free from i and shortens the way for the next.
func firstFree(free []uint32, i uint32) uint32 {
	for free[i] != i {
		free[i] = free[free[i]]
		i = free[i]
	}
	return i
}

// first returns the lowest order below best that claims the packet in the cells
// with these a, b and c, else best.
func (c *cells) first(k cell, q *Query, best uint32) uint32 {
	ab, rest := k.words()
	for lengths := c.srcBits; lengths != 0; lengths &= lengths - 1 {
		n := uint(bits.TrailingZeros32(lengths))
		block := rest | uint64(uint32(q.SrcPort)&^(0xffff>>n))<<16 | uint64(n)<<8
		best = min(best, c.at(ab, block|uint64(q.Proto), q.DstPort))
		if c.anyProto && q.Proto != 0 {
			best = min(best, c.at(ab, block, q.DstPort))
		}
	}
	return best
}

// at returns the order that has this port of a cell, or noRule.
func (c *cells) at(ab, rest uint64, port uint16) uint32 {
	s := c.index.get(ab, rest)
	if s.count == 0 {
		return noRule
	}
	steps := c.steps[s.first : s.first+s.count]
	lo, hi := 0, len(steps)
	for hi-lo > 1 {
		mid := int(uint(lo+hi) >> 1)
		if steps[mid].from <= port {
			lo = mid
		} else {
			hi = mid
		}
	}
	return steps[lo].order
}

// portPrefixes splits a range of source ports into aligned blocks of 2^(16-n)
// ports, at most 30, so that a source port is found by hashing.
func portPrefixes(r PortRange, yield func(port uint16, n uint8)) {
	from, to := r.bounds()
	for at, end := uint32(from), uint32(to)+1; at < end; {
		size := min(uint32(1)<<bits.TrailingZeros32(at|1<<16), 1<<(bits.Len32(end-at)-1))
		yield(uint16(at), uint8(16-bits.TrailingZeros32(size)))
		at += size
	}
}
