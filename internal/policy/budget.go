package policy

import (
	"cmp"
	"slices"
)

// budget bounds the memory that is spent to answer in constant time, spent on
// those who need it most first. A rule set beyond it still compiles, and takes
// longer for the flows it concerns.
type budget struct {
	// manySets is the number of sets that an identity or a pair of networks may be
	// in before the rules of all are merged for it, so that what many policies name
	// costs no more than what a few do. At least 1.
	manySets int
	merged   int // rules that merging subjects repeats; pairs that merging networks looks at
	written  int // claims that writing out peers repeats; rules that writing out pairs does
}

var fullBudget = budget{manySets: 8, merged: maxClaims / 4, written: maxClaims / 4}

// heaviest lists the keys that are in more than many sets, those in most first,
// equals in the order of compare.
func heaviest[K comparable](setsOf map[K][]uint32, many int, compare func(x, y K) int) (keys []K) {
	for k, sets := range setsOf {
		if len(sets) > many {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(x, y K) int {
		return cmp.Or(cmp.Compare(len(setsOf[y]), len(setsOf[x])), compare(x, y))
	})
	return keys
}
