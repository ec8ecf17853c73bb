package compile

import (
	"fmt"
	"hash/fnv"

	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/nexthop"
)

// Next hops have fixed places: the discards and the interfaces that the
// forwarder keeps, the router itself, one for each VRF, one for each service
// address.
const (
	MaxVRFs = 4096

	hopReceive   = forwarder.FirstFreeNextHop
	hopVRF       = hopReceive + 1
	hopService   = hopVRF + MaxVRFs
	maxServices  = int(nexthop.MaxID-hopService) + 1
	vhostPort    = uint16(1) // the node's own port, always
	uplinkPort   = uint16(2) // the fabric port, always
	firstVMIPort = 3
)

// slots gives out small numbers that stay with a name for its life. A number
// that comes back is used again as late as possible, so that what still
// remembers it (an idle session) does not take its next owner for the old one.
type slots struct {
	what       string
	first, max int // numbers from first to max-1
	byName     map[string]int
	used       map[int]struct{}
	next       int
}

func newSlots(what string, first, limit int) slots {
	return slots{what: what, first: first, max: limit, byName: map[string]int{}, used: map[int]struct{}{}, next: first}
}

// get returns the number of a name, a new one if it has none.
func (s *slots) get(name string) (int, error) {
	if n, ok := s.byName[name]; ok {
		return n, nil
	}
	for range s.max - s.first {
		n := s.next
		if s.next++; s.next == s.max {
			s.next = s.first
		}
		if _, ok := s.used[n]; !ok {
			s.used[n], s.byName[name] = struct{}{}, n
			return n, nil
		}
	}
	return 0, fmt.Errorf("%s %s: all %d are taken; delete some first", s.what, name, s.max-s.first)
}

// release gives a name's number back.
func (s *slots) release(name string) {
	delete(s.used, s.byName[name])
	delete(s.byName, name)
}

// memberID names a member of a floating IP: the same on every node and after
// every restart, so that nodes agree on the choice and sessions keep theirs. The
// attempt tells apart two members of one floating IP whose names hash alike.
func memberID(floatingIP, vmi string, attempt int) uint32 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%s\x00%d", floatingIP, vmi, attempt)
	sum := h.Sum64()
	return max(uint32(sum>>32)^uint32(sum), 1) // 0 is no member
}
