package compile

import (
	"fmt"
	"hash/fnv"

	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/nexthop"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Next hops have fixed places: the discards and the interfaces that the
// forwarder keeps, the router itself, one for each VRF, then in turn one for each
// service address and one for each tunnel, so that the table is no longer than the
// longer of the two lists needs.
const (
	MaxVRFs = 4096

	hopReceive   = forwarder.FirstFreeNextHop
	hopVRF       = hopReceive + 1
	hopTurns     = hopVRF + MaxVRFs
	maxServices  = int(nexthop.MaxID-hopTurns+1) / 2
	maxTunnels   = maxServices
	maxPeers     = 1 << 18   // more than Fabric.peers can list
	vhostPort    = uint16(1) // the node's own port, always
	uplinkPort   = uint16(2) // the fabric port, always
	firstVMIPort = 3
)

func hopService(slot int) nexthop.ID { return hopTurns + nexthop.ID(2*slot) }
func hopTunnel(slot int) nexthop.ID  { return hopTurns + nexthop.ID(2*slot) + 1 }

// tunnelAt returns the slot of a tunnel's next hop; false where id is no tunnel's.
func tunnelAt(id nexthop.ID) (slot int, ok bool) {
	if id < hopTurns || (id-hopTurns)%2 == 0 {
		return 0, false
	}
	return int(id-hopTurns) / 2, true
}

// slots gives out small numbers that stay with a name for its life. A number
// that comes back is used again as late as possible, so that what still
// remembers it (an idle session) does not take its next owner for the old one, and
// yet so soon that lists by number stay of the order of what is in them.
type slots[K comparable] struct {
	what       string
	first, max int // numbers from first to max-1
	byName     map[K]int
	used       map[int]struct{}
	next       int
	highest    int // the highest ever given out, and one
}

// minSlots is how many numbers are used before any comes back.
const minSlots = 4096

func newSlots[K comparable](what string, first, limit int) slots[K] {
	return slots[K]{what: what, first: first, max: limit, byName: map[K]int{}, used: map[int]struct{}{}, next: first}
}

// get returns the number of a name, a new one if it has none.
func (s *slots[K]) get(name K) (int, error) {
	if n, ok := s.byName[name]; ok {
		return n, nil
	}
	limit := min(s.max, s.first+max(minSlots, 2*len(s.used)+1))
	for range limit - s.first {
		n := s.next
		if s.next++; s.next >= limit {
			s.next = s.first
		}
		if _, ok := s.used[n]; !ok {
			s.used[n], s.byName[name], s.highest = struct{}{}, n, max(s.highest, n+1)
			return n, nil
		}
	}
	return 0, fmt.Errorf("%s %v: all %d are taken; delete some first", s.what, name, s.max-s.first)
}

// release gives a name's number back.
func (s *slots[K]) release(name K) {
	delete(s.used, s.byName[name])
	delete(s.byName, name)
}

// end is how long a list by number has to be.
func (s *slots[K]) end() int { return s.highest }

// memberID names a member of a floating IP: the same on every node and after
// every restart, so that nodes agree on the choice and sessions keep theirs. The
// attempt tells apart two members of one floating IP whose names hash alike.
func memberID(floatingIP, vmi string, attempt int) uint32 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%s\x00%d", floatingIP, vmi, attempt)
	sum := h.Sum64()
	return max(uint32(sum>>32)^uint32(sum), 1) // 0 is no member
}

// memberIDs are those given to the members of one group, in the order of their
// names.
type memberIDs map[uint32]struct{}

// MemberName returns the name of the member of a floating IP that sessions know by an
// id; "" where it has left.
func MemberName(name string, fip *pb.FloatingIP, id uint32) string {
	ids := memberIDs{}
	for _, m := range sortedMembers(fip) {
		if ids.next(name, m.GetVirtualMachineInterface()) == id {
			return m.GetVirtualMachineInterface()
		}
	}
	return ""
}

// next returns the id of the next member.
func (ids memberIDs) next(floatingIP, vmi string) uint32 {
	for attempt := 0; ; attempt++ {
		id := memberID(floatingIP, vmi, attempt)
		if _, clash := ids[id]; !clash {
			ids[id] = struct{}{}
			return id
		}
	}
}
