package compile

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/internal/policy"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// securityEntry is what was made of one SecurityPolicy.
type securityEntry struct {
	resource *pb.Resource
	compiled []policy.SecurityPolicy // one for each way in which its named ports resolve
	ids      map[uint32]struct{}     // the identities in it
}

// compileSecurity brings the policies between workloads up to date. What a set of
// addresses holds is none of theirs; a set of labels that appears or goes concerns
// those that select it; the engine compiles all anew only where one changed.
func (c *Compiler) compileSecurity(affected []state.Key) error {
	if err := c.compileAddressSets(affected); err != nil {
		return err
	}
	p := &c.policies
	stale := map[string]struct{}{}
	for name := range of(affected, state.SecurityPolicy) {
		if e := p.security[name]; e == nil || e.resource != c.state.Get(state.Key{Kind: state.SecurityPolicy, Name: name}) {
			stale[name] = struct{}{}
		}
	}
	for name, e := range p.security {
		if e.concerns(&p.identities) {
			stale[name] = struct{}{}
		}
	}
	clear(p.identities.fresh)
	clear(p.identities.gone)
	if len(stale) == 0 {
		return nil
	}
	all := p.identities.all()
	for name := range stale {
		r := c.state.Get(state.Key{Kind: state.SecurityPolicy, Name: name})
		if r == nil {
			delete(p.security, name)
			p.rename(state.Key{Kind: state.SecurityPolicy, Name: name}, nil)
			continue
		}
		if e := p.security[name]; e == nil || e.resource != r {
			p.rename(state.Key{Kind: state.SecurityPolicy, Name: name}, securityRuleNames(name, r.GetSecurityPolicy()))
		}
		p.security[name] = c.securityEntry(name, r, all)
	}
	var compiled []policy.SecurityPolicy
	for _, name := range slices.Sorted(maps.Keys(p.security)) {
		compiled = append(compiled, p.security[name].compiled...)
	}
	set, err := p.set.WithSecurity(compiled)
	if err != nil {
		return fmt.Errorf("security policies: %w", err)
	}
	p.set = set
	return nil
}

// concerns reports whether an identity that is fresh is one that the policy selects,
// or one that is gone was.
func (e *securityEntry) concerns(t *identities) bool {
	for id := range t.gone {
		if _, ok := e.ids[id]; ok {
			return true
		}
	}
	sp := e.resource.GetSecurityPolicy()
	for id := range t.fresh {
		i := t.byID[id]
		if isSubject(sp, i) {
			return true
		}
		if len(e.compiled) == 0 { // it selects nobody: whoever its peers are
			continue
		}
		for _, rules := range [...][]*pb.SecurityRule{sp.GetIngress(), sp.GetEgress()} {
			for _, rule := range rules {
				for _, peer := range rule.GetPeers() {
					if isPeer(sp, peer, i) {
						return true
					}
				}
			}
		}
	}
	return false
}

// isSubject reports whether a policy selects the interfaces of an identity.
func isSubject(sp *pb.SecurityPolicy, i *identity) bool {
	if s := sp.GetNamespaceSelector(); s != nil {
		return selects(s, i.namespaceLabels) && selects(sp.GetSubject(), i.labels)
	}
	return i.namespace == sp.GetNamespace() && selects(sp.GetSubject(), i.labels)
}

// isPeer reports whether a peer is the interfaces of an identity. A podSelector
// alone stays in the policy's namespace, a namespaceSelector alone takes all of the
// namespaces, both must hold together.
func isPeer(sp *pb.SecurityPolicy, peer *pb.SecurityPeer, i *identity) bool {
	switch {
	case peer.GetIpBlock() != nil || peer.GetAddressSet() != "":
		return false
	case peer.GetNamespaceSelector() != nil:
		return selects(peer.GetNamespaceSelector(), i.namespaceLabels) && selects(peer.GetSelector(), i.labels)
	}
	return i.namespace == sp.GetNamespace() && selects(peer.GetSelector(), i.labels)
}

// securityEntry compiles one policy as far as the engine need not see the others.
func (c *Compiler) securityEntry(name string, r *pb.Resource, all []*identity) *securityEntry {
	sp := r.GetSecurityPolicy()
	e := &securityEntry{resource: r, ids: map[uint32]struct{}{}}
	alike := map[string][]*identity{} // by what the named ports are
	for _, i := range all {
		if isSubject(sp, i) {
			key := namedPorts(sp, i)
			alike[key] = append(alike[key], i)
		}
	}
	if len(alike) == 0 { // selects nobody here
		return e
	}
	peers := c.peersOf(sp, all, e.ids)
	for _, key := range slices.Sorted(maps.Keys(alike)) {
		p := policy.SecurityPolicy{Tier: tierOf(sp), Priority: sp.GetPriority()}
		if p.Tier == policy.TierNamespace {
			p.Ingress, p.Egress = closes(sp)
		}
		for _, i := range alike[key] {
			p.Subjects = append(p.Subjects, i.id)
			e.ids[i.id] = struct{}{}
		}
		ports := alike[key][0].ports
		for d, rules := range [...][]*pb.SecurityRule{policy.Ingress: sp.GetIngress(), policy.Egress: sp.GetEgress()} {
			for i, rule := range rules {
				matches, ok := portMatches(rule.GetPorts(), ports)
				if !ok {
					continue // none of its ports exists
				}
				p.Rules = append(p.Rules, policy.SecurityRule{
					Rule:      c.policies.rule(state.SecurityPolicy, ruleName(name, directionNames[d], rule.GetName(), i)),
					Direction: policy.Direction(d), Action: actionOf(rule), Log: rule.GetLog(),
					Peers: peers[d][i], Ports: matches,
				})
			}
		}
		e.compiled = append(e.compiled, p)
	}
	return e
}

// directionNames are those in the names of rules that have none of their own.
var directionNames = [...]string{policy.Ingress: "ingress", policy.Egress: "egress"}

// securityRuleNames lists the names of a policy's rules with its tier.
func securityRuleNames(name string, sp *pb.SecurityPolicy) []ruleInfo {
	tier := tierName(sp.GetTier())
	var list []ruleInfo
	for d, rules := range [...][]*pb.SecurityRule{sp.GetIngress(), sp.GetEgress()} {
		for i, rule := range rules {
			list = append(list, ruleInfo{ruleName(name, directionNames[d], rule.GetName(), i), tier})
		}
	}
	return list
}

// tierName is how status shows a tier.
func tierName(t pb.SecurityPolicy_Tier) string {
	if t == pb.SecurityPolicy_TIER_UNSPECIFIED {
		t = pb.SecurityPolicy_NAMESPACE
	}
	return t.String()
}

func tierOf(sp *pb.SecurityPolicy) policy.Tier {
	switch sp.GetTier() {
	case pb.SecurityPolicy_ADMIN:
		return policy.TierAdmin
	case pb.SecurityPolicy_BASELINE:
		return policy.TierBaseline
	}
	return policy.TierNamespace
}

func actionOf(rule *pb.SecurityRule) policy.SecurityAction {
	switch rule.GetAction() {
	case pb.SecurityRule_DENY:
		return policy.ActionDeny
	case pb.SecurityRule_PASS:
		return policy.ActionPass
	}
	return policy.ActionAllow
}

// closes returns the directions that a policy of the namespace tier isolates.
func closes(sp *pb.SecurityPolicy) (ingress, egress bool) {
	if types := sp.GetPolicyTypes(); len(types) > 0 {
		return slices.Contains(types, pb.SecurityPolicy_INGRESS), slices.Contains(types, pb.SecurityPolicy_EGRESS)
	}
	return true, len(sp.GetEgress()) > 0
}

// peersOf resolves the peers of all rules, by direction and place, and notes the
// identities among them.
func (c *Compiler) peersOf(sp *pb.SecurityPolicy, all []*identity, ids map[uint32]struct{}) (peers [2][][]policy.Peer) {
	for d, rules := range [...][]*pb.SecurityRule{policy.Ingress: sp.GetIngress(), policy.Egress: sp.GetEgress()} {
		peers[d] = make([][]policy.Peer, len(rules))
		for i, rule := range rules {
			for _, peer := range rule.GetPeers() {
				p := c.peerOf(sp, peer, all)
				for _, id := range p.Identities {
					ids[id] = struct{}{}
				}
				peers[d][i] = append(peers[d][i], p)
			}
		}
	}
	return peers
}

// peerOf resolves a peer.
func (c *Compiler) peerOf(sp *pb.SecurityPolicy, peer *pb.SecurityPeer, all []*identity) policy.Peer {
	var p policy.Peer
	if b := peer.GetIpBlock(); b != nil {
		p.Block, _ = netip.ParsePrefix(b.GetCidr())
		for _, s := range b.GetExcept() {
			if except, err := netip.ParsePrefix(s); err == nil {
				p.Except = append(p.Except, except)
			}
		}
		return p
	}
	if name := peer.GetAddressSet(); name != "" {
		p.Set = c.policies.sets[name].number
		return p
	}
	for _, i := range all {
		if isPeer(sp, peer, i) {
			p.Identities = append(p.Identities, i.id)
		}
	}
	return p
}

// portMatches resolves the ports of a rule with those that its subject has named. It
// returns false where the rule names ports and none of them exists.
func portMatches(list []*pb.SecurityPort, named []*pb.NamedPort) (matches []policy.PortMatch, ok bool) {
	for _, p := range list {
		if p.GetName() != "" {
			for _, n := range named {
				if isNamed(p, n) {
					port := uint16(n.GetPort())
					matches = append(matches, policy.PortMatch{Proto: protocolOf(n.GetProtocol()), Ports: policy.PortRange{From: port, To: port}})
				}
			}
			continue
		}
		ports := policy.PortRange{From: uint16(p.GetPort()), To: uint16(max(p.GetEndPort(), p.GetPort()))}
		for _, proto := range protocols(p.GetProtocol(), pb.Protocol_TCP) {
			matches = append(matches, policy.PortMatch{Proto: proto, Ports: ports})
		}
	}
	return matches, len(list) == 0 || len(matches) > 0
}

// isNamed reports whether a port of a rule is this port of the subject.
func isNamed(p *pb.SecurityPort, n *pb.NamedPort) bool {
	return n.GetName() == p.GetName() &&
		(p.GetProtocol() == pb.Protocol_ANY || protocolOf(p.GetProtocol()) == protocolOf(n.GetProtocol()))
}

// namedPorts says what the named ports of a policy are for an identity; equal for
// those for which they are the same.
func namedPorts(sp *pb.SecurityPolicy, i *identity) string {
	var b strings.Builder
	for _, rule := range sp.GetIngress() {
		for _, p := range rule.GetPorts() {
			if p.GetName() == "" {
				continue
			}
			b.WriteByte(';')
			for _, n := range i.ports {
				if isNamed(p, n) {
					fmt.Fprintf(&b, "%d/%d,", protocolOf(n.GetProtocol()), n.GetPort())
				}
			}
		}
	}
	return b.String()
}
