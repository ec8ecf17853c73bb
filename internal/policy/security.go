package policy

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"strconv"
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
	// subjects are the policies, those of one set of subjects together; subjectsOf
	// lists them by identity, lowest order first.
	subjects   []subject
	subjectsOf map[uint32][]uint32
	// groupsOf lists the large peer sets that an identity is in, ascending.
	groupsOf map[uint32][]uint32
}

// subject is all that is allowed to one set of pods.
type subject struct {
	peers  prefixes
	cells  cells
	groups []uint32 // large peer sets that its rules name, ascending
	min    uint32   // lowest order of its rules
	claims []claim  // while compiling
}

// What cell.a is, in a subject's cells.
const (
	peerPrefix   = iota // number in subject.peers; 0 = everyone
	peerIdentity        // an identity
	peerGroup           // number of a large peer set
)

// smallPeer is the number of identities up to which a peer is written out.
const smallPeer = 16

// decide finds the first rule that allows the flow between the subject identity
// self and its peer.
func (d *direction) decide(self, peer uint32, addr *[16]byte, q *Query) (rule RuleID, log bool) {
	list := d.subjectsOf[self]
	if len(list) == 0 {
		return RuleNoPolicy, false
	}
	best := noRule
	groups := d.groupsOf[peer]
	for _, i := range list {
		s := &d.subjects[i]
		if s.min >= best {
			break
		}
		best = s.first(peer, addr, groups, q, best)
	}
	if best == noRule {
		return d.deny, false
	}
	return d.decisions[best].rule, d.decisions[best].log
}

// first returns the lowest order below best that allows the peer, else best.
// groups are the large peer sets that the peer is in.
func (s *subject) first(peer uint32, addr *[16]byte, groups []uint32, q *Query, best uint32) uint32 {
	for n := s.peers.find(addr); ; n = s.peers.outer[n] {
		if s.peers.min[n] < best {
			best = s.cells.first(n, peerPrefix, q, best)
		}
		if n == 0 {
			break
		}
	}
	if peer != IdentityWorld {
		best = s.cells.first(peer, peerIdentity, q, best)
	}
	short, long := groups, s.groups
	if len(short) > len(long) {
		short, long = long, short
	}
	for _, g := range short {
		if contains(long, g) {
			best = s.cells.first(g, peerGroup, q, best)
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

// securityCompiler collects the claims of one direction.
type securityCompiler struct {
	*direction
	bySubjects map[string]uint32 // set of identities → place in subjects
	byPeers    map[string]uint32 // large set of identities → its number
	claims     int
}

func compileSecurity(policies []SecurityPolicy) (*securityTable, error) {
	t := new(securityTable)
	var compilers [2]*securityCompiler
	for i, d := range [2]*direction{&t.ingress, &t.egress} {
		*d = direction{subjectsOf: map[uint32][]uint32{}, groupsOf: map[uint32][]uint32{}, deny: [2]RuleID{RuleDefaultIngress, RuleDefaultEgress}[i]}
		compilers[i] = &securityCompiler{direction: d, bySubjects: map[string]uint32{}, byPeers: map[string]uint32{}}
	}
	for i := range policies {
		p := &policies[i]
		if slices.Contains(p.Subjects, IdentityWorld) {
			return nil, errors.New("policy " + strconv.Itoa(i) + ": " + worldIsNoPod)
		}
		for j := range p.Rules {
			if what := p.Rules[j].check(); what != "" {
				return nil, ruleError(i, j, what)
			}
		}
		for dir, selects := range [2]bool{p.Ingress, p.Egress} {
			if !selects {
				continue
			}
			if c := compilers[dir]; !c.add(p, Direction(dir)) {
				return nil, errTooLarge
			}
		}
	}
	for _, c := range compilers {
		c.finish()
	}
	return t, nil
}

const worldIsNoPod = "identity 0 is no pod; use a prefix for addresses outside"

// check says what is wrong with a rule, or "".
func (r *SecurityRule) check() string {
	if r.Direction > Egress {
		return "direction " + strconv.Itoa(int(r.Direction)) + " is unknown; use ingress or egress"
	}
	for _, p := range r.Peers {
		if slices.Contains(p.Identities, IdentityWorld) {
			return worldIsNoPod
		}
	}
	for _, p := range r.Ports {
		if what := checkRule(r.Rule, p.Ports); what != "" {
			return what
		}
	}
	return checkRule(r.Rule)
}

// add compiles the rules of a policy for one direction; false means too many.
func (c *securityCompiler) add(p *SecurityPolicy, dir Direction) bool {
	s := c.subject(p.Subjects)
	for i := range p.Rules {
		r := &p.Rules[i]
		if r.Direction != dir {
			continue
		}
		order := uint32(len(c.decisions))
		c.decisions = append(c.decisions, decision{rule: r.Rule, pass: true, log: r.Log})
		if s == nil {
			continue
		}
		s.min = min(s.min, order)
		if len(r.Peers) == 0 {
			c.claim(s, r, order, s.peers.number(netip.Prefix{}, order), peerPrefix)
		}
		for _, peer := range r.Peers {
			if !c.addPeer(s, r, order, &peer) {
				return false
			}
		}
	}
	return c.claims <= maxClaims
}

// addPeer claims the flows of a rule with one of its peers; false means too many.
func (c *securityCompiler) addPeer(s *subject, r *SecurityRule, order uint32, peer *Peer) bool {
	if ids := sortedSet(peer.Identities); len(ids) > smallPeer {
		g := c.group(ids)
		s.groups = append(s.groups, g)
		c.claim(s, r, order, g, peerGroup)
	} else {
		for _, id := range ids {
			c.claim(s, r, order, id, peerIdentity)
		}
	}
	block := canonical(peer.Block)
	if !block.IsValid() {
		return true
	}
	excepts := make([]netip.Prefix, len(peer.Except))
	for i, e := range peer.Except {
		excepts[i] = canonical(e)
	}
	return subtract(block, excepts, func(p netip.Prefix) bool {
		c.claim(s, r, order, s.peers.number(p, order), peerPrefix)
		return c.claims <= maxClaims
	})
}

// claim adds the rule's ports to the cell of a peer.
func (c *securityCompiler) claim(s *subject, r *SecurityRule, order, a, kind uint32) {
	ports := r.Ports
	if len(ports) == 0 {
		ports = []PortMatch{{}}
	}
	for _, p := range ports {
		from, to := p.Ports.bounds()
		s.claims = append(s.claims, claim{cell: cell{a: a, b: kind, proto: p.Proto}, from: from, to: to, order: order})
	}
	c.claims += len(ports)
}

// subject returns the subject for a set of identities, nil for the empty set.
func (c *securityCompiler) subject(identities []uint32) *subject {
	ids := sortedSet(identities)
	if len(ids) == 0 {
		return nil
	}
	key := setKey(ids)
	i, ok := c.bySubjects[key]
	if !ok {
		i = uint32(len(c.subjects))
		c.bySubjects[key] = i
		c.subjects = append(c.subjects, subject{min: noRule})
		for _, id := range ids {
			c.subjectsOf[id] = append(c.subjectsOf[id], i)
		}
	}
	return &c.subjects[i]
}

// group returns the number of a large peer set.
func (c *securityCompiler) group(ids []uint32) uint32 {
	key := setKey(ids)
	g, ok := c.byPeers[key]
	if !ok {
		g = uint32(len(c.byPeers))
		c.byPeers[key] = g
		for _, id := range ids {
			c.groupsOf[id] = append(c.groupsOf[id], g)
		}
	}
	return g
}

// finish builds the lookup structures.
func (c *securityCompiler) finish() {
	for i := range c.subjects {
		s := &c.subjects[i]
		s.peers.link()
		s.cells = buildCells(s.claims)
		s.groups = sortedSet(s.groups)
		s.claims = nil
	}
	for _, list := range c.subjectsOf {
		slices.SortFunc(list, func(x, y uint32) int { return cmp.Compare(c.subjects[x].min, c.subjects[y].min) })
	}
}

// sortedSet returns the distinct numbers of list, ascending, as a copy.
func sortedSet(list []uint32) []uint32 {
	return slices.Compact(slices.Sorted(slices.Values(list)))
}
