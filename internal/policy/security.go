package policy

import (
	"net/netip"
)

// Identities number the distinct label sets of the pods; the agent gives them
// out from FirstIdentity.
const (
	// IdentityWorld is whoever is not a pod: selectors never match it, prefixes do.
	IdentityWorld uint32 = 0
	// IdentityNode is the node itself; its traffic with its own pods always passes.
	IdentityNode uint32 = 1
	// FirstIdentity is the first that stands for labels.
	FirstIdentity uint32 = 16
)

// SecurityPolicy allows traffic of the pods that it selects. A pod that any
// policy selects for a direction is closed in that direction but for the union
// of the rules of all policies that select it.
type SecurityPolicy struct {
	Subjects        []uint32 // identities of the selected pods; none = selects nobody
	Ingress, Egress bool     // the directions it closes; rules of the other are ignored
	Rules           []SecurityRule
}

// Direction is seen from the selected pod.
type Direction uint8

// The directions.
const (
	Ingress Direction = iota
	Egress
)

// SecurityRule allows flows between the subject and its peers.
type SecurityRule struct {
	Rule      RuleID
	Direction Direction
	// Peers are alternatives; no peers at all = everyone. A selector that nobody
	// matches is a Peer without identities, which matches nobody.
	Peers []Peer
	// Ports are the destination's, alternatives; none = every protocol and port. A
	// rule of which no named port resolves must be left out.
	Ports []PortMatch
	Log   bool
}

// Peer is the other end: pods by identity, or addresses.
type Peer struct {
	Identities []uint32
	// Block is the allowed prefix but for Except, pods included; zero = none. What
	// one peer excepts another may allow.
	Block  netip.Prefix
	Except []netip.Prefix
}

// PortMatch is a protocol and its destination ports. Zero = any.
type PortMatch struct {
	Proto uint8
	Ports PortRange
}

// securityTable is the compiled security policies.
type securityTable struct {
	egress, ingress direction
}

// direction holds the policies of one direction.
type direction struct {
	decisions []decision // by order
	deny      RuleID     // the name of its default deny
	// subjects are the rules, those for one set of pods together; subjectsOf lists
	// them by identity, lowest order first.
	subjects   []subject
	subjectsOf map[uint32][]uint32
	// groupsOf lists the large peer sets that an identity is in, ascending.
	groupsOf map[uint32][]uint32
	peers    prefixes
	cells    cells // a: place in subjects, b: peer, c: kind of peer
}

// subject is what is allowed to one set of pods.
type subject struct {
	min    uint32   // lowest order of its rules, or noRule
	blocks bool     // some rule names a prefix
	groups []uint32 // large peer sets that its rules name, ascending
}

// What cell.b is.
const (
	peerPrefix   = iota // number in peers; 0 = everyone
	peerIdentity        // an identity
	peerGroup           // number of a large peer set
	peerWritten         // an identity whose groups are repeated in its own cell
)

// decide finds the first rule that allows the flow between the subject identity
// self and its peer.
func (d *direction) decide(self, peer uint32, addr *[16]byte, q *Query) (rule RuleID, log bool) {
	list := d.subjectsOf[self]
	if len(list) == 0 {
		return RuleNoPolicy, false
	}
	best := noRule
	prefix, groups := d.peers.find(addr), d.groupsOf[peer]
	for _, i := range list {
		if d.subjects[i].min >= best {
			break
		}
		best = d.first(i, prefix, peer, groups, q, best)
	}
	if best == noRule {
		return d.deny, false
	}
	return d.decisions[best].rule, d.decisions[best].log
}

// first returns the lowest order below best with which subject i allows the
// peer, else best. prefix is the longest around the peer's address, groups are
// the large peer sets that the peer is in.
func (d *direction) first(i, prefix, peer uint32, groups []uint32, q *Query, best uint32) uint32 {
	s := &d.subjects[i]
	if s.blocks {
		for n := prefix; n != 0; n = d.peers.outer[n] {
			best = d.cells.first(cell{a: i, b: n, c: peerPrefix}, q, best)
		}
	}
	best = d.cells.first(cell{a: i, b: 0, c: peerPrefix}, q, best)
	if peer != IdentityWorld {
		best = d.cells.first(cell{a: i, b: peer, c: peerIdentity}, q, best)
	}
	short, long := groups, s.groups
	if len(short) > len(long) {
		short, long = long, short
	}
	if len(short) > 1 {
		if d.cells.index.get(cell{a: i, b: peer, c: peerWritten}.words()).count != 0 {
			return best
		}
	}
	for _, g := range short {
		if contains(long, g) {
			best = d.cells.first(cell{a: i, b: g, c: peerGroup}, q, best)
		}
	}
	return best
}

// contains reports whether n is in the ascending list.
func contains(list []uint32, n uint32) bool {
	for len(list) > 0 {
		mid := len(list) / 2
		if list[mid] == n {
			return true
		}
		if list[mid] < n {
			list = list[mid+1:]
		} else {
			list = list[:mid]
		}
	}
	return false
}
