package policy

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"strconv"
)

// smallPeer is the number of identities up to which a peer is written out, one
// by one. Larger ones are shared: a group.
const smallPeer = 16

const worldIsNoPod = "identity 0 is no pod; use a prefix for addresses outside"

// securityCompiler compiles one direction and tier.
type securityCompiler struct {
	*tierTable
	budget     budget               // what is left
	rules      []*SecurityRule      // by order
	orders     [][]uint32           // by subject: its rules
	bySubjects map[string]uint32    // set of identities → subject
	byPeers    map[string]uint32    // large set of identities → its number: a group
	groups     [][]uint32           // by number: the group's identities
	byGroup    map[uint32][]uint32  // of the subject at hand: group → orders that name it
	bySet      map[uint32][]uint32  // the same of address sets
	lists      map[listRef][]uint32 // identities as given → as a sorted set
	claims     []claim
}

// listRef tells one list of the input from another without reading it; the agent
// gives the same list to many rules.
type listRef struct {
	first *uint32
	count int
}

func compileSecurity(policies []SecurityPolicy, m *members, b budget) (*securityTable, error) {
	for i := range policies {
		if err := policies[i].check(i); err != nil {
			return nil, err
		}
	}
	var byTier [numTiers][]*SecurityPolicy
	for i := range policies {
		p := &policies[i]
		byTier[p.Tier] = append(byTier[p.Tier], p)
	}
	for _, tier := range [...]Tier{TierAdmin, TierBaseline} {
		slices.SortStableFunc(byTier[tier], func(x, y *SecurityPolicy) int { return cmp.Compare(x.Priority, y.Priority) })
	}
	heavy := heavyMembers(m, b.manySets)
	t := &securityTable{ingress: direction{deny: RuleDefaultIngress}, egress: direction{deny: RuleDefaultEgress}}
	for dir, d := range [2]*direction{Ingress: &t.ingress, Egress: &t.egress} {
		for tier := range d.tiers {
			if len(byTier[tier]) == 0 {
				continue
			}
			table := &d.tiers[tier]
			table.subjectsOf, table.groupsOf = map[uint32][]uint32{}, map[uint32][]uint32{}
			c := securityCompiler{tierTable: table, budget: b, bySubjects: map[string]uint32{}, byPeers: map[string]uint32{}, lists: map[listRef][]uint32{}}
			c.collect(byTier[tier], Direction(dir))
			c.merge()
			if !c.claimAll(heavy) {
				return nil, errTooLarge
			}
			c.finish()
		}
	}
	return t, nil
}

// check says what is wrong with the policy at place i.
func (p *SecurityPolicy) check(i int) error {
	if p.Tier >= numTiers {
		return errors.New("policy " + strconv.Itoa(i) + ": tier " + strconv.Itoa(int(p.Tier)) + " is unknown; use namespace, admin or baseline")
	}
	if slices.Contains(p.Subjects, IdentityWorld) {
		return errors.New("policy " + strconv.Itoa(i) + ": " + worldIsNoPod)
	}
	for j := range p.Rules {
		if what := p.Rules[j].check(); what != "" {
			return ruleError(i, j, what)
		}
	}
	return nil
}

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
	if r.Action >= numActionsSecurity {
		return "action " + strconv.Itoa(int(r.Action)) + " is unknown; use allow, deny or pass"
	}
	return checkRule(r.Rule)
}

// collect files the rules of a direction under their subjects.
func (c *securityCompiler) collect(policies []*SecurityPolicy, dir Direction) {
	for _, p := range policies {
		ids := c.set(p.Subjects)
		closes := [2]bool{Ingress: p.Ingress, Egress: p.Egress}[dir]
		if p.Tier != TierNamespace {
			closes = slices.ContainsFunc(p.Rules, func(r SecurityRule) bool { return r.Direction == dir })
		}
		if !closes || len(ids) == 0 {
			continue
		}
		s := c.subject(ids)
		for j := range p.Rules {
			if r := &p.Rules[j]; r.Direction == dir {
				c.orders[s] = append(c.orders[s], uint32(len(c.rules)))
				c.rules = append(c.rules, r)
				c.verdicts = append(c.verdicts, securityVerdict{rule: r.Rule, action: r.Action, log: r.Log})
			}
		}
	}
}

// subject returns the subject for a set of identities.
func (c *securityCompiler) subject(ids []uint32) uint32 {
	key := setKey(ids)
	s, ok := c.bySubjects[key]
	if !ok {
		s = uint32(len(c.orders))
		c.bySubjects[key] = s
		c.orders = append(c.orders, nil)
		for _, id := range ids {
			c.subjectsOf[id] = append(c.subjectsOf[id], s)
		}
	}
	return s
}

// merge gives identities that are in many sets a subject of their own with the
// rules of all, one for all identities in the same sets, as long as the budget
// lasts.
func (c *securityCompiler) merge() {
	merged := map[string]uint32{}
	for _, id := range heaviest(c.subjectsOf, c.budget.manySets, cmp.Compare[uint32]) {
		list := c.subjectsOf[id]
		key := setKey(list)
		s, ok := merged[key]
		if !ok {
			var orders []uint32
			for _, i := range list {
				orders = append(orders, c.orders[i]...)
			}
			if c.budget.merged -= len(orders); c.budget.merged < 0 {
				return
			}
			s = uint32(len(c.orders))
			merged[key] = s
			c.orders = append(c.orders, orders)
		}
		c.subjectsOf[id] = []uint32{s}
	}
}

// claimAll makes the claims of every subject; false means too many.
func (c *securityCompiler) claimAll(heavy []combination) bool {
	c.subjects = make([]subject, len(c.orders))
	used := make([]bool, len(c.orders)) // merging may have left none that needs it
	for _, list := range c.subjectsOf {
		for _, i := range list {
			used[i] = true
		}
	}
	for i, orders := range c.orders {
		if !used[i] {
			continue
		}
		c.subjects[i].min = noRule
		for _, order := range orders {
			c.subjects[i].min = min(c.subjects[i].min, order)
			r := c.rules[order]
			c.subjects[i].denies = c.subjects[i].denies || r.Action == ActionDeny
			if len(r.Peers) == 0 {
				c.claim(order, cell{a: uint32(i), c: peerPrefix})
			}
			for j := range r.Peers {
				if !c.claimPeer(order, uint32(i), &r.Peers[j]) {
					return false
				}
			}
		}
		c.writeOut(uint32(i))
		c.writeOutSets(uint32(i), heavy)
	}
	return len(c.claims) <= maxClaims
}

// writeOut repeats the rules of subject s for peers that are in many of its
// groups, as long as the budget lasts.
func (c *securityCompiler) writeOut(s uint32) {
	byGroup := c.byGroup
	c.byGroup = nil
	if len(byGroup) <= c.budget.manySets {
		return
	}
	groupsOf := map[uint32][]uint32{}
	for g := range byGroup {
		for _, id := range c.groups[g] {
			groupsOf[id] = append(groupsOf[id], g)
		}
	}
	for _, id := range heaviest(groupsOf, c.budget.manySets, cmp.Compare[uint32]) {
		before := len(c.claims)
		for _, g := range groupsOf[id] {
			for _, order := range byGroup[g] {
				c.claim(order, cell{a: s, b: id, c: peerIdentity})
			}
		}
		if c.budget.written -= len(c.claims) - before; c.budget.written < 0 {
			c.claims = c.claims[:before]
			return
		}
		c.claims = append(c.claims, claim{cell: cell{a: s, b: id, c: peerWritten}, to: 65535, order: noRule})
	}
}

// writeOutSets repeats the rules of subject s for addresses that are in many of
// its address sets, as long as the budget lasts. What becomes heavy after is
// written out the next time.
func (c *securityCompiler) writeOutSets(s uint32, heavy []combination) {
	bySet := c.bySet
	c.bySet = nil
	if len(bySet) <= c.budget.manySets {
		return
	}
	for n, combination := range heavy {
		before, common := len(c.claims), 0
		for _, set := range combination.sets {
			if orders := bySet[set]; len(orders) > 0 {
				common++
				for _, order := range orders {
					c.claim(order, cell{a: s, b: uint32(n), c: peerCombination})
				}
			}
		}
		if common <= c.budget.manySets && min(len(bySet), len(combination.sets)) < 8*c.budget.manySets {
			c.claims = c.claims[:before]
			continue
		}
		if c.budget.written -= len(c.claims) - before + 1; c.budget.written < 0 {
			c.claims = c.claims[:before]
			return
		}
		if c.combinations == nil {
			c.combinations = map[*member]uint32{}
		}
		for _, in := range combination.members {
			c.combinations[in] = uint32(n)
		}
		c.claims = append(c.claims, claim{cell: cell{a: s, b: uint32(n), c: peerSetsWritten}, to: 65535, order: noRule})
	}
}

// claimPeer claims the flows of a rule with one of its peers; false means too
// many.
func (c *securityCompiler) claimPeer(order, s uint32, peer *Peer) bool {
	ids := c.set(peer.Identities)
	if len(ids) > smallPeer {
		g := c.group(ids)
		if c.byGroup == nil {
			c.byGroup = map[uint32][]uint32{}
		}
		c.byGroup[g] = append(c.byGroup[g], order)
		c.subjects[s].groups = append(c.subjects[s].groups, g)
		c.claim(order, cell{a: s, b: g, c: peerGroup})
	} else {
		for _, id := range ids {
			c.claim(order, cell{a: s, b: id, c: peerIdentity})
		}
	}
	if peer.Set != 0 {
		if c.bySet == nil {
			c.bySet = map[uint32][]uint32{}
		}
		c.bySet[peer.Set] = append(c.bySet[peer.Set], order)
		c.sets = true
		c.subjects[s].sets = append(c.subjects[s].sets, peer.Set)
		c.claim(order, cell{a: s, b: peer.Set, c: peerSet})
	}
	block := canonical(peer.Block)
	if !block.IsValid() {
		return true
	}
	c.subjects[s].blocks = true
	excepts := make([]netip.Prefix, len(peer.Except))
	for i, e := range peer.Except {
		excepts[i] = canonical(e)
	}
	return subtract(block, excepts, func(p netip.Prefix) bool {
		c.claim(order, cell{a: s, b: c.peers.number(p, order), c: peerPrefix})
		return len(c.claims) <= maxClaims
	})
}

// claim adds the rule's ports to a cell.
func (c *securityCompiler) claim(order uint32, at cell) {
	if len(c.rules[order].Ports) == 0 {
		c.claims = append(c.claims, claim{cell: at, to: 65535, order: order})
	}
	for _, p := range c.rules[order].Ports {
		at.proto = p.Proto
		from, to := p.Ports.bounds()
		c.claims = append(c.claims, claim{cell: at, from: from, to: to, order: order})
	}
}

// group returns the number of a large peer set.
func (c *securityCompiler) group(ids []uint32) uint32 {
	key := setKey(ids)
	g, ok := c.byPeers[key]
	if !ok {
		g = uint32(len(c.byPeers))
		c.byPeers[key] = g
		c.groups = append(c.groups, ids)
		for _, id := range ids {
			c.groupsOf[id] = append(c.groupsOf[id], g)
		}
	}
	return g
}

// set returns the distinct numbers of a list of the input, ascending.
func (c *securityCompiler) set(list []uint32) []uint32 {
	if len(list) == 0 {
		return nil
	}
	ref := listRef{&list[0], len(list)}
	s, ok := c.lists[ref]
	if !ok {
		s = sortedSet(list)
		c.lists[ref] = s
	}
	return s
}

// finish builds the lookup structures.
func (c *securityCompiler) finish() {
	c.peers.link()
	c.cells = buildCells(c.claims)
	for i := range c.subjects {
		c.subjects[i].groups = sortedSet(c.subjects[i].groups)
		c.subjects[i].sets = sortedSet(c.subjects[i].sets)
	}
	for _, list := range c.subjectsOf {
		slices.SortFunc(list, func(x, y uint32) int { return cmp.Compare(c.subjects[x].min, c.subjects[y].min) })
	}
}

// sortedSet returns the distinct numbers of list, ascending, as a copy.
func sortedSet(list []uint32) []uint32 {
	if len(list) == 0 {
		return nil
	}
	return slices.Compact(slices.Sorted(slices.Values(list)))
}
