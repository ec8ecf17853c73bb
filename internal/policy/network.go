package policy

import "net/netip"

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
	pairs map[pair]*classifier
	// large holds the rules of policies attached to many networks that leave a
	// network open; largeOf lists them by network, lowest order first.
	large   []largePolicy
	largeOf map[uint32][]uint32
	// written are the pairs whose rules of large policies are repeated in pairs.
	written map[pair]struct{}
}

// pair is a source and a destination network.
type pair [2]uint32

// largePolicy holds rules by (source, destination), 0 where it is any of members.
// Policies with the same members share one.
type largePolicy struct {
	members map[uint32]struct{}
	pairs   map[pair]*classifier
	min     uint32 // lowest order of its rules
}

// verdict finds the first rule that matches.
func (t *networkTable) verdict(q *Query) Verdict {
	best, at := noRule, pair{q.SrcNetwork, q.DstNetwork}
	if c := t.pairs[at]; c != nil {
		best = c.first(q, best)
	}
	if _, ok := t.written[at]; !ok {
		best = t.firstOfLarge(q, best)
	}
	if best == noRule {
		return Verdict{Stage: StageNetwork, Rule: RuleImplicitDeny}
	}
	d := t.decisions[best]
	return Verdict{Stage: StageNetwork, Rule: d.rule, Pass: d.pass, Log: d.log}
}

// firstOfLarge returns the lowest order below best that matches in a large
// policy of both networks, else best.
func (t *networkTable) firstOfLarge(q *Query, best uint32) uint32 {
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
		for _, at := range [3]pair{{q.SrcNetwork, 0}, {0, q.DstNetwork}, {0, 0}} {
			if c := p.pairs[at]; c != nil {
				best = c.first(q, best)
			}
		}
	}
	return best
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
