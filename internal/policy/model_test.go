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

// modelSecurity is one direction of Kubernetes NetworkPolicy.
func modelSecurity(policies []SecurityPolicy, dir Direction, q *Query, self, peer uint32) Verdict {
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
	selected := false
	for _, p := range policies {
		if dir == Ingress && !p.Ingress || dir == Egress && !p.Egress || !slices.Contains(p.Subjects, self) {
			continue
		}
		selected = true
		for _, r := range p.Rules {
			if r.Direction == dir && modelPeers(r.Peers, peer, addr) && modelPorts(r.Ports, q) {
				return Verdict{Stage: stage, Rule: r.Rule, Pass: true, Log: r.Log}
			}
		}
	}
	if selected {
		return Verdict{Stage: stage, Rule: deny}
	}
	return Verdict{Stage: stage, Rule: RuleNoPolicy, Pass: true}
}

func modelPeers(peers []Peer, identity uint32, addr [16]byte) bool {
	if len(peers) == 0 {
		return true
	}
	for _, p := range peers {
		if slices.Contains(p.Identities, identity) {
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
