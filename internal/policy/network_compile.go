package policy

import (
	"slices"
	"strconv"
)

// smallPolicy is the number of attached networks up to which a rule with any
// network is written out for each of them. Larger policies keep "any of mine" as
// a condition.
const smallPolicy = 4

// networkCompiler collects claims by pair of networks.
type networkCompiler struct {
	table  *networkTable
	budget budget            // what is left
	shared map[string]uint32 // members → place in table.large
	open   [][]openRule      // by large policy: its rules
	claims int
}

// openRule is a rule that leaves a network open.
type openRule struct {
	rule  NetworkRule
	order uint32
}

func compileNetworks(policies []NetworkPolicy, b budget) (*networkTable, error) {
	t := &networkTable{pairs: map[pair]*classifier{}, largeOf: map[uint32][]uint32{}, written: map[pair]struct{}{}}
	c := networkCompiler{table: t, budget: b, shared: map[string]uint32{}}
	for i := range policies {
		members := slices.Compact(slices.Sorted(slices.Values(policies[i].Networks)))
		for j := range policies[i].Rules {
			r := &policies[i].Rules[j]
			if what := checkRule(r.Rule, slices.Concat(r.SrcPorts, r.DstPorts)...); what != "" {
				return nil, ruleError(i, j, what)
			}
			if r.Action >= numActions {
				return nil, ruleError(i, j, "action "+strconv.Itoa(int(r.Action))+" is unknown; use pass or deny")
			}
			order := uint32(len(t.decisions))
			t.decisions = append(t.decisions, decision{rule: r.Rule, pass: r.Action == Pass, log: r.Log})
			c.add(members, r, order)
			if r.Both {
				x := r.reversed()
				c.add(members, &x, order)
			}
			if c.claims > maxClaims {
				return nil, errTooLarge
			}
		}
	}
	c.writeOut()
	c.finish()
	return t, nil
}

// add files a rule under the pairs of networks that it speaks about. A rule that
// names a network its policy is not attached to never matches.
func (c *networkCompiler) add(members []uint32, r *NetworkRule, order uint32) {
	open := 0
	for _, n := range [2]uint32{r.SrcNetwork, r.DstNetwork} {
		if n == 0 {
			open++
		} else if _, ok := slices.BinarySearch(members, n); !ok {
			return
		}
	}
	if open > 0 && len(members) > smallPolicy {
		i := c.large(members)
		p := &c.table.large[i]
		p.min = min(p.min, order)
		c.open[i] = append(c.open[i], openRule{*r, order})
		c.claim(p.pairs, pair{r.SrcNetwork, r.DstNetwork}, r, order)
		return
	}
	for _, s := range choices(r.SrcNetwork, members) {
		for _, d := range choices(r.DstNetwork, members) {
			if s != d {
				c.claim(c.table.pairs, pair{s, d}, r, order)
			}
		}
	}
}

// choices are the networks that network stands for.
func choices(network uint32, members []uint32) []uint32 {
	if network == 0 {
		return members
	}
	return []uint32{network}
}

// large returns the place of the large policy with these members.
func (c *networkCompiler) large(members []uint32) uint32 {
	key := setKey(members)
	i, ok := c.shared[key]
	if !ok {
		i = uint32(len(c.table.large))
		c.shared[key] = i
		p := largePolicy{members: make(map[uint32]struct{}, len(members)), pairs: map[pair]*classifier{}, min: noRule}
		for _, m := range members {
			p.members[m] = struct{}{}
			c.table.largeOf[m] = append(c.table.largeOf[m], i)
		}
		c.table.large = append(c.table.large, p)
		c.open = append(c.open, nil)
	}
	return i
}

// writeOut repeats the rules of large policies for pairs of networks that are in
// many of them, as long as the budget lasts.
func (c *networkCompiler) writeOut() {
	common := map[pair][]uint32{} // pair → large policies
	for i := range c.table.large {
		var busy []uint32
		for m := range c.table.large[i].members {
			if len(c.table.largeOf[m]) > c.budget.manySets {
				busy = append(busy, m)
			}
		}
		if c.budget.merged -= len(busy) * len(busy); c.budget.merged < 0 {
			break
		}
		for _, s := range busy {
			for _, d := range busy {
				if s != d {
					common[pair{s, d}] = append(common[pair{s, d}], uint32(i))
				}
			}
		}
	}
	if c.budget.merged < 0 {
		return
	}
	for _, at := range heaviest(common, c.budget.manySets, func(x, y pair) int { return slices.Compare(x[:], y[:]) }) {
		for _, i := range common[at] {
			c.budget.written -= len(c.open[i])
		}
		if c.budget.written < 0 || c.claims > maxClaims/2 {
			return
		}
		c.table.written[at] = struct{}{}
		for _, i := range common[at] {
			for j := range c.open[i] {
				o := &c.open[i][j]
				if (o.rule.SrcNetwork == 0 || o.rule.SrcNetwork == at[0]) && (o.rule.DstNetwork == 0 || o.rule.DstNetwork == at[1]) {
					c.claim(c.table.pairs, at, &o.rule, o.order)
				}
			}
		}
	}
}

// claim adds the rule to the classifier of a pair.
func (c *networkCompiler) claim(pairs map[pair]*classifier, networks pair, r *NetworkRule, order uint32) {
	k := pairs[networks]
	if k == nil {
		k = &classifier{min: noRule}
		pairs[networks] = k
	}
	k.min = min(k.min, order)
	at := cell{a: k.src.number(r.SrcPrefix, order), b: k.dst.number(r.DstPrefix, order), proto: r.Proto}
	src, dst := sourceCells(at, r.SrcPorts), orAny(r.DstPorts)
	if c.claims += len(src) * len(dst); c.claims > maxClaims {
		return
	}
	for _, at := range src {
		for _, ports := range dst {
			from, to := ports.bounds()
			k.claims = append(k.claims, claim{cell: at, from: from, to: to, order: order})
		}
	}
}

// sourceCells are the cells for a rule's source ports.
func sourceCells(at cell, ports []PortRange) (list []cell) {
	for _, r := range orAny(ports) {
		portPrefixes(r, func(port uint16, n uint8) {
			at.srcPort, at.srcBits = port, n
			list = append(list, at)
		})
	}
	return list
}

// orAny makes no ranges mean any port.
func orAny(ports []PortRange) []PortRange {
	if len(ports) == 0 {
		return []PortRange{{}}
	}
	return ports
}

// finish builds the lookup structures.
func (c *networkCompiler) finish() {
	build := func(pairs map[pair]*classifier) {
		for _, k := range pairs {
			k.src.link()
			k.dst.link()
			k.cells = buildCells(k.claims)
			k.claims = nil
		}
	}
	build(c.table.pairs)
	for _, p := range c.table.large {
		build(p.pairs)
	}
}

// setKey writes a sorted set of numbers as a map key.
func setKey(set []uint32) string {
	b := make([]byte, 0, 4*len(set))
	for _, n := range set {
		b = append(b, byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
	}
	return string(b)
}
