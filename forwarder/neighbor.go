package forwarder

import (
	"sync/atomic"

	"github.com/vrouter-go/vrouter/nexthop"
)

// neighborTable numbers the hosts and gateways on the uplink's link by their MAC
// address, so that a session can name one in its next hop. Slots are given out once:
// nobody can tell that no session names one any more, and a link has few that send
// to floating IPs here. It may be used from any goroutine.
//
// Where an address lies is keyed, so that nobody on the link can choose addresses that
// crowd out another, and what strangers' packets tell takes a part of the slots only:
// the rest is for gateways and hosts that the agent knows.
type neighborTable struct {
	key     uint64
	learned atomic.Int32 // slots that packets from the link have taken
	slots   [MaxNeighbors]atomic.Uint64
}

const (
	slotTaken = 1 << 48 // beside the MAC address
	// slotTries is how many slots an address may lie from its own: with half of them
	// taken a try finds a free one every other time.
	slotTries = 32
	// maxLearned bounds the slots that packets from the link may take.
	maxLearned = MaxNeighbors * 3 / 8
)

// slot finds a MAC address, or gives it a slot. stranger says that it is only known
// from a packet. It reports false where the table is full around it, or strangers have
// their part.
func (t *neighborTable) slot(mac [6]byte, stranger bool) (slot uint32, ok bool) {
	word := slotTaken | macWord(mac)
	at := uint32((word ^ t.key) * 0x9e3779b97f4a7c15 >> 32)
	for try := range uint32(slotTries) {
		slot := (at + try) % MaxNeighbors
		s := &t.slots[slot]
		had := s.Load()
		if had == 0 {
			if stranger && t.learned.Load() >= maxLearned {
				return 0, false
			}
			if s.CompareAndSwap(0, word) {
				if stranger {
					t.learned.Add(1)
				}
				return slot, true
			}
			had = s.Load() // another has just taken it
		}
		if had == word {
			return slot, true
		}
	}
	return 0, false
}

// at returns the MAC address in a slot, false where there is none.
func (t *neighborTable) at(slot uint32) (mac [6]byte, ok bool) {
	if slot >= MaxNeighbors {
		return mac, false // that of OnLinkNextHop
	}
	word := t.slots[slot].Load()
	for i := range mac {
		mac[i] = byte(word >> (40 - 8*i))
	}
	return mac, word != 0
}

func macWord(mac [6]byte) (word uint64) {
	for _, b := range mac {
		word = word<<8 | uint64(b)
	}
	return word
}

// Neighbor returns the slot of the host or gateway on the uplink's link that has a
// MAC address, for NeighborNextHop. It has the slot as long as the forwarder
// lives. It reports false where the table is full. Any goroutine may call it.
func (f *Forwarder) Neighbor(mac [6]byte) (slot uint32, ok bool) { return f.neighbors.slot(mac, false) }

// neighborHop returns the next hop of who sent a packet on the uplink's link.
func (f *Forwarder) neighborHop(mac [6]byte) (nexthop.ID, DropReason) {
	slot, ok := f.neighbors.slot(mac, true)
	if !ok {
		return 0, DropNeighborTable
	}
	return NeighborNextHop(slot), DropUnknown
}
