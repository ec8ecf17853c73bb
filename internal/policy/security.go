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

// Tier is when a security policy is asked: admin, namespace, baseline. The zero
// value is the namespace tier.
type Tier uint8

// The tiers.
const (
	// TierNamespace has the semantics of Kubernetes NetworkPolicy: what it says of a
	// pod that it selects is final.
	TierNamespace Tier = iota
	// TierAdmin is asked before it.
	TierAdmin
	// TierBaseline is asked about pods that no policy of the namespace tier selects.
	TierBaseline

	numTiers
)

// SecurityPolicy speaks of traffic of the pods that it selects. A pod that any
// policy of the namespace tier selects for a direction is closed in that
// direction but for the union of the rules of all policies that select it. The
// other tiers close nobody: the first rule that matches decides.
type SecurityPolicy struct {
	Tier Tier
	// Priority orders the policies of the admin and baseline tiers, the lowest first;
	// equal ones are asked in the order given.
	Priority uint32
	Subjects []uint32 // identities of the selected pods; none = selects nobody
	// Ingress and Egress are the directions that a policy of the namespace tier
	// closes; rules of the other are ignored. Other tiers need neither.
	Ingress, Egress bool
	Rules           []SecurityRule
}

// SecurityAction is what a security rule does with a flow that it matches.
type SecurityAction uint8

// The actions. Rules of the namespace tier allow.
const (
	ActionAllow SecurityAction = iota
	ActionDeny
	ActionPass // the next tier decides

	numActionsSecurity
)

// Direction is seen from the selected pod.
type Direction uint8

// The directions.
const (
	Ingress Direction = iota
	Egress
)

// SecurityRule speaks of flows between the subject and its peers.
type SecurityRule struct {
	Rule      RuleID
	Direction Direction
	Action    SecurityAction
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
	// Set is the number of an address set (Set.WithAddresses); 0 = none. Who is in it
	// may change without the policies being compiled again.
	Set uint32
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

// direction holds the policies of one direction, by Tier.
type direction struct {
	deny  RuleID // the name of its default deny
	tiers [numTiers]tierTable
}

// tierTable holds the policies of one direction and tier.
type tierTable struct {
	verdicts []securityVerdict // by order
	// subjects are the rules, those for one set of pods together; subjectsOf lists
	// them by identity, lowest order first.
	subjects   []subject
	subjectsOf map[uint32][]uint32
	// groupsOf lists the large peer sets that an identity is in, ascending.
	groupsOf map[uint32][]uint32
	peers    prefixes
	cells    cells // a: place in subjects, b: peer, c: kind of peer
	// combinations numbers the lists of address sets, by the entry of the members that
	// has it, that were written out for some subject.
	combinations map[*member]uint32
	sets         bool // some rule names an address set
}

// securityVerdict is what becomes of a flow whose first rule this is.
type securityVerdict struct {
	rule   RuleID
	action SecurityAction
	log    bool
}

// subject is what is said about one set of pods.
type subject struct {
	min    uint32   // lowest order of its rules, or noRule
	blocks bool     // some rule names a prefix
	groups []uint32 // large peer sets that its rules name, ascending
	sets   []uint32 // address sets that its rules name, ascending
	denies bool     // some rule denies
}

// What cell.b is.
const (
	peerPrefix      = iota // number in peers; 0 = everyone
	peerIdentity           // an identity
	peerGroup              // number of a large peer set
	peerWritten            // an identity whose groups are repeated in its own cell
	peerSet                // number of an address set
	peerCombination        // the address sets that an address is in, written out
	peerSetsWritten        // says that they are
)

// decide asks the tiers in turn about the flow between the subject identity self
// and its peer at addr.
func (d *direction) decide(self, peer uint32, addr *[16]byte, members *members, q *Query) (rule RuleID, pass, log bool) {
	for _, tier := range [...]Tier{TierAdmin, TierNamespace, TierBaseline} {
		t := &d.tiers[tier]
		list := t.subjectsOf[self]
		if len(list) == 0 {
			continue
		}
		order := t.match(list, peer, addr, members, q)
		if order == noRule {
			if tier == TierNamespace {
				return d.deny, false, log
			}
			continue
		}
		found := &t.verdicts[order]
		log = log || found.log
		if found.action != ActionPass {
			return found.rule, found.action == ActionAllow, log
		}
	}
	return RuleNoPolicy, true, log
}

// match returns the lowest order that the flow matches for any of the subjects,
// or noRule.
func (t *tierTable) match(subjects []uint32, peer uint32, addr *[16]byte, members *members, q *Query) uint32 {
	best := noRule
	prefix, groups := t.peers.find(addr), t.groupsOf[peer]
	var in *member
	if t.sets {
		in = members.find(addr)
	}
	for _, i := range subjects {
		if t.subjects[i].min >= best {
			break
		}
		best = t.first(i, prefix, peer, groups, q, best)
		if in != nil && len(t.subjects[i].sets) > 0 {
			best = t.firstSet(i, in, q, best)
		}
	}
	return best
}

// firstSet is first for the address sets that an address is in.
func (t *tierTable) firstSet(i uint32, in *member, q *Query, best uint32) uint32 {
	short, long := in.all, t.subjects[i].sets
	if len(short) > len(long) {
		short, long = long, short
	}
	if len(short) > 1 {
		if n, ok := t.combinations[in]; ok && t.cells.index.get(cell{a: i, b: n, c: peerSetsWritten}.words()).count != 0 {
			return t.cells.first(cell{a: i, b: n, c: peerCombination}, q, best)
		}
	}
	for _, n := range short {
		if contains(long, n) {
			best = t.cells.first(cell{a: i, b: n, c: peerSet}, q, best)
		}
	}
	return best
}

// first returns the lowest order below best with which subject i allows the
// peer, else best. prefix is the longest around the peer's address, groups are
// the large peer sets that the peer is in.
func (t *tierTable) first(i, prefix, peer uint32, groups []uint32, q *Query, best uint32) uint32 {
	s := &t.subjects[i]
	if s.blocks {
		for n := prefix; n != 0; n = t.peers.outer[n] {
			best = t.cells.first(cell{a: i, b: n, c: peerPrefix}, q, best)
		}
	}
	best = t.cells.first(cell{a: i, b: 0, c: peerPrefix}, q, best)
	if peer != IdentityWorld {
		best = t.cells.first(cell{a: i, b: peer, c: peerIdentity}, q, best)
	}
	short, long := groups, s.groups
	if len(short) > len(long) {
		short, long = long, short
	}
	if len(short) > 1 {
		if t.cells.index.get(cell{a: i, b: peer, c: peerWritten}.words()).count != 0 {
			return best
		}
	}
	for _, g := range short {
		if contains(long, g) {
			best = t.cells.first(cell{a: i, b: g, c: peerGroup}, q, best)
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
