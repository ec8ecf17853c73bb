package policy

import (
	"net/netip"
	"slices"
	"strconv"
)

// NetworkPolicy is an ordered list of rules between virtual networks. Its rules
// apply to a flow only if both the source's and the destination's network are
// attached to it. Networks are numbered from 1.
type NetworkPolicy struct {
	Networks []uint32 // attached to these, in any order
	Rules    []NetworkRule
}

// NetworkRule matches flows between networks. A zero field matches anything.
type NetworkRule struct {
	Rule                   RuleID
	SrcNetwork, DstNetwork uint32       // 0 = any network the policy is attached to
	SrcPrefix, DstPrefix   netip.Prefix // IPv4 or IPv6; 0.0.0.0/0 is all of IPv4
	Proto                  uint8        // IANA protocol number
	SrcPorts, DstPorts     []PortRange  // any of these; none = any port
	Action                 Action
	Log                    bool
	// Both makes the rule match with source and destination exchanged, networks,
	// prefixes and ports, as Contrail's <> does.
	Both bool
}

// reversed is the rule with source and destination exchanged.
func (r *NetworkRule) reversed() NetworkRule {
	x := *r
	x.SrcNetwork, x.DstNetwork = r.DstNetwork, r.SrcNetwork
	x.SrcPrefix, x.DstPrefix = r.DstPrefix, r.SrcPrefix
	x.SrcPorts, x.DstPorts = r.DstPorts, r.SrcPorts
	return x
}

// smallPolicy is the number of attached networks up to which a rule with any
// network is written out for each of them. Larger policies keep "any of mine" as
// a condition.
const smallPolicy = 4

// decision is what the rule at an order does.
type decision struct {
	rule RuleID
	pass bool
	log  bool
}

// networkTable is the compiled network policies.
type networkTable struct {
	decisions []decision // by order
	// pairs holds the rules between two given networks.
	pairs map[[2]uint32]*classifier
	// large holds the rules of policies attached to many networks that leave a
	// network open; largeOf lists them by network, lowest order first.
	large   []largePolicy
	largeOf map[uint32][]uint32
}

// largePolicy holds rules by (source, destination), 0 where it is any of members.
// Policies with the same members share one.
type largePolicy struct {
	members map[uint32]struct{}
	pairs   map[[2]uint32]*classifier
	min     uint32 // lowest order of its rules
}

// verdict finds the first rule that matches.
func (t *networkTable) verdict(q *Query) Verdict {
	best := noRule
	if c := t.pairs[[2]uint32{q.SrcNetwork, q.DstNetwork}]; c != nil {
		best = c.first(q, best)
	}
	list, other := t.largeOf[q.SrcNetwork], q.DstNetwork
	if l := t.largeOf[q.DstNetwork]; len(l) < len(list) {
		list, other = l, q.SrcNetwork
	}
	for _, i := range list {
		p := &t.large[i]
		if p.min >= best {
			break
		}
		if _, ok := p.members[other]; !ok {
			continue
		}
		for _, pair := range [3][2]uint32{{q.SrcNetwork, 0}, {0, q.DstNetwork}, {0, 0}} {
			if c := p.pairs[pair]; c != nil {
				best = c.first(q, best)
			}
		}
	}
	if best == noRule {
		return Verdict{Stage: StageNetwork, Rule: RuleImplicitDeny}
	}
	d := t.decisions[best]
	return Verdict{Stage: StageNetwork, Rule: d.rule, Pass: d.pass, Log: d.log}
}

// classifier finds the first rule for prefixes, protocol and ports.
type classifier struct {
	src, dst prefixes
	cells    cells
	min      uint32  // lowest order of its rules
	claims   []claim // while compiling
}

// first returns the lowest order below best that matches, else best. Each pair
// of prefixes around the two addresses is one lookup; a prefix whose rules all
// come later than what was found is left out.
func (c *classifier) first(q *Query, best uint32) uint32 {
	if c.min >= best {
		return best
	}
	longest := c.dst.find(&q.Dst)
	for s := c.src.find(&q.Src); ; s = c.src.outer[s] {
		if c.src.min[s] < best {
			for d := longest; ; d = c.dst.outer[d] {
				if c.dst.min[d] < best {
					best = c.cells.first(cell{a: s, b: d}, q, best)
				}
				if d == 0 {
					break
				}
			}
		}
		if s == 0 {
			return best
		}
	}
}

// networkCompiler collects claims by pair of networks.
type networkCompiler struct {
	table  *networkTable
	shared map[string]uint32 // members as text → place in table.large
	claims int
}

func compileNetworks(policies []NetworkPolicy) (*networkTable, error) {
	t := &networkTable{pairs: map[[2]uint32]*classifier{}, largeOf: map[uint32][]uint32{}}
	c := networkCompiler{table: t, shared: map[string]uint32{}}
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
		p := c.large(members)
		p.min = min(p.min, order)
		c.claim(p.pairs, [2]uint32{r.SrcNetwork, r.DstNetwork}, r, order)
		return
	}
	for _, s := range choices(r.SrcNetwork, members) {
		for _, d := range choices(r.DstNetwork, members) {
			if s != d {
				c.claim(c.table.pairs, [2]uint32{s, d}, r, order)
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

// large returns the large policy with these members.
func (c *networkCompiler) large(members []uint32) *largePolicy {
	key := setKey(members)
	i, ok := c.shared[key]
	if !ok {
		i = uint32(len(c.table.large))
		c.shared[key] = i
		p := largePolicy{members: make(map[uint32]struct{}, len(members)), pairs: map[[2]uint32]*classifier{}, min: noRule}
		for _, m := range members {
			p.members[m] = struct{}{}
			c.table.largeOf[m] = append(c.table.largeOf[m], i)
		}
		c.table.large = append(c.table.large, p)
	}
	return &c.table.large[i]
}

// claim adds the rule to the classifier of a pair.
func (c *networkCompiler) claim(pairs map[[2]uint32]*classifier, pair [2]uint32, r *NetworkRule, order uint32) {
	k := pairs[pair]
	if k == nil {
		k = &classifier{min: noRule}
		pairs[pair] = k
	}
	k.min = min(k.min, order)
	before := len(k.claims)
	at := cell{a: k.src.number(r.SrcPrefix, order), b: k.dst.number(r.DstPrefix, order), proto: r.Proto}
	for _, ports := range orAny(r.SrcPorts) {
		portPrefixes(ports, func(port uint16, n uint8) {
			at.srcPort, at.srcBits = port, n
			for _, ports := range orAny(r.DstPorts) {
				from, to := ports.bounds()
				k.claims = append(k.claims, claim{cell: at, from: from, to: to, order: order})
			}
		})
	}
	c.claims += len(k.claims) - before
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
	build := func(pairs map[[2]uint32]*classifier) {
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
