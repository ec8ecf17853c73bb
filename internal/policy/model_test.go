package policy

import (
	"net/netip"
	"slices"
)

// The models below read the rules one by one, as their documentation says. They
// share no code with the compiled form but the input types.

func inPorts(ranges []PortRange, port uint16) bool {
	return len(ranges) == 0 || slices.ContainsFunc(ranges, func(r PortRange) bool {
		return r == PortRange{} || r.From <= port && port <= r.To
	})
}

func inPrefix(p netip.Prefix, addr [16]byte) bool {
	if p.Addr().Is4In6() {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return !p.IsValid() || p.Contains(netip.AddrFrom16(addr).Unmap())
}

// modelNetwork is the first rule that matches.
func modelNetwork(policies []NetworkPolicy, q *Query) Verdict {
	if q.SrcNetwork != 0 && q.SrcNetwork == q.DstNetwork {
		return Verdict{Rule: RuleSameNetwork, Pass: true}
	}
	for _, p := range policies {
		if !slices.Contains(p.Networks, q.SrcNetwork) || !slices.Contains(p.Networks, q.DstNetwork) {
			continue
		}
		for _, r := range p.Rules {
			swapped := *q
			swapped.SrcNetwork, swapped.DstNetwork = q.DstNetwork, q.SrcNetwork
			swapped.Src, swapped.Dst = q.Dst, q.Src
			swapped.SrcPort, swapped.DstPort = q.DstPort, q.SrcPort
			if modelMatch(&r, q) || r.Both && modelMatch(&r, &swapped) {
				return Verdict{Rule: r.Rule, Pass: r.Action == Pass, Log: r.Log}
			}
		}
	}
	return Verdict{Rule: RuleImplicitDeny}
}

func modelMatch(r *NetworkRule, q *Query) bool {
	return (r.SrcNetwork == 0 || r.SrcNetwork == q.SrcNetwork) &&
		(r.DstNetwork == 0 || r.DstNetwork == q.DstNetwork) &&
		inPrefix(r.SrcPrefix, q.Src) && inPrefix(r.DstPrefix, q.Dst) &&
		(r.Proto == 0 || r.Proto == q.Proto) &&
		inPorts(r.SrcPorts, q.SrcPort) && inPorts(r.DstPorts, q.DstPort)
}

// modelSets is who is in each address set.
type modelSets map[uint32]map[netip.Prefix]bool

func (m modelSets) change(c AddressChange) {
	if m[c.Set] == nil {
		m[c.Set] = map[netip.Prefix]bool{}
	}
	for _, p := range c.Remove {
		delete(m[c.Set], plain(p))
	}
	for _, p := range c.Add {
		m[c.Set][plain(p)] = true
	}
}

func plain(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

func (m modelSets) contains(set uint32, addr [16]byte) bool {
	for p := range m[set] {
		if inPrefix(p, addr) {
			return true
		}
	}
	return false
}

// modelSecurity is one direction of the three tiers.
func modelSecurity(policies []SecurityPolicy, sets modelSets, dir Direction, q *Query, self, peer uint32) Verdict {
	stage, deny, addr := StageIngress, RuleDefaultIngress, q.Src
	if dir == Egress {
		stage, deny, addr = StageEgress, RuleDefaultEgress, q.Dst
	}
	if self == IdentityNode || peer == IdentityNode {
		return Verdict{Stage: stage, Rule: RuleNode, Pass: true}
	}
	if q.Src == q.Dst {
		return Verdict{Stage: stage, Rule: RuleSelf, Pass: true}
	}
	matches := func(r *SecurityRule) bool {
		return r.Direction == dir && modelPeers(r.Peers, sets, peer, addr) && modelPorts(r.Ports, q)
	}
	log := false
	// ordered asks a tier in which the first rule decides.
	ordered := func(tier Tier) *SecurityRule {
		for priority := uint32(0); priority <= 1000; priority++ {
			for i := range policies {
				p := &policies[i]
				if p.Tier != tier || p.Priority != priority || !slices.Contains(p.Subjects, self) {
					continue
				}
				for j := range p.Rules {
					if matches(&p.Rules[j]) {
						log = log || p.Rules[j].Log
						return &p.Rules[j]
					}
				}
			}
		}
		return nil
	}
	if r := ordered(TierAdmin); r != nil && r.Action != ActionPass {
		return Verdict{Stage: stage, Rule: r.Rule, Pass: r.Action == ActionAllow, Log: log}
	}
	selected := false
	for _, p := range policies {
		if p.Tier != TierNamespace || dir == Ingress && !p.Ingress || dir == Egress && !p.Egress || !slices.Contains(p.Subjects, self) {
			continue
		}
		selected = true
		for _, r := range p.Rules {
			if matches(&r) {
				return Verdict{Stage: stage, Rule: r.Rule, Pass: true, Log: log || r.Log}
			}
		}
	}
	if selected {
		return Verdict{Stage: stage, Rule: deny, Log: log}
	}
	if r := ordered(TierBaseline); r != nil && r.Action != ActionPass {
		return Verdict{Stage: stage, Rule: r.Rule, Pass: r.Action == ActionAllow, Log: log}
	}
	return Verdict{Stage: stage, Rule: RuleNoPolicy, Pass: true, Log: log}
}

func modelPeers(peers []Peer, sets modelSets, identity uint32, addr [16]byte) bool {
	if len(peers) == 0 {
		return true
	}
	for _, p := range peers {
		if slices.Contains(p.Identities, identity) || p.Set != 0 && sets.contains(p.Set, addr) {
			return true
		}
		if p.Block.IsValid() && inPrefix(p.Block, addr) &&
			!slices.ContainsFunc(p.Except, func(e netip.Prefix) bool { return inPrefix(e, addr) }) {
			return true
		}
	}
	return false
}

func modelPorts(ports []PortMatch, q *Query) bool {
	return len(ports) == 0 || slices.ContainsFunc(ports, func(p PortMatch) bool {
		return (p.Proto == 0 || p.Proto == q.Proto) && inPorts([]PortRange{p.Ports}, q.DstPort)
	})
}
