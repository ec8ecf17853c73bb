package forwarder

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestIndexFollowsSnapshots: what a snapshot takes over from the one before is
// what it would have made from nothing, whatever happened to the floating IPs.
func TestIndexFollowsSnapshots(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	draw := func() *FloatingIP {
		if r.IntN(4) == 0 {
			return nil
		}
		return &FloatingIP{Address: [16]byte{15: byte(r.IntN(4))}, Network: uint32(r.IntN(3))}
	}
	before := emptySnapshot()
	list := []*FloatingIP{}
	for range 2000 {
		switch i := r.IntN(len(list) + 2); {
		case i < len(list) && r.IntN(2) == 0 && list[i] != nil:
			same := *list[i] // a change of its members
			list[i] = &same
		case i < len(list):
			list[i] = draw()
		case i == len(list) && len(list) < 8:
			list = append(list, draw())
		case len(list) > 0:
			list = list[:len(list)-1]
		}
		s, fresh := &Snapshot{FloatingIPs: append([]*FloatingIP{}, list...)}, &Snapshot{FloatingIPs: list}
		s.index(before)
		fresh.index(emptySnapshot())
		if diff := cmp.Diff(fresh.dialled, s.dialled); diff != "" {
			t.Fatal(diff)
		}
		before = s
	}
}
