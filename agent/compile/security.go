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
	groups   map[string]int          // place in compiled, by what the named ports are
	subjects map[uint32]int          // place in compiled, by identity
	peers    map[uint32]struct{}     // the identities that its peers are
}

// maxLeft is the number of identities that may have gone before the engine compiles
// anew to forget them.
const maxLeft = 256

// compileSecurity brings the policies between workloads up to date. What a set of
// addresses holds is none of theirs; a set of labels that goes, or one that they
// treat as they do another, changes lists of subjects; the engine compiles all anew
// only for others, and where a policy changes.
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
	p.newIdentities(stale)
	p.goneIdentities(stale)
	if len(stale) == 0 && p.left <= maxLeft {
		return nil
	}
	all := p.identities.all()
	for name := range stale {
		k := state.Key{Kind: state.SecurityPolicy, Name: name}
		r := c.state.Get(k)
		e := p.security[name]
		p.put(name, nil)
		if r == nil {
			p.rename(k, nil)
			continue
		}
		if e == nil || e.resource != r {
			p.rename(k, securityRuleNames(name, r.GetSecurityPolicy()))
		}
		p.put(name, c.securityEntry(name, r, all))
	}
	var compiled []policy.SecurityPolicy
	for _, name := range slices.Sorted(maps.Keys(p.security)) {
		compiled = append(compiled, p.security[name].compiled...)
	}
	set, err := p.set.WithSecurity(compiled)
	if err != nil {
		return fmt.Errorf("security policies: %w", err)
	}
	p.set, p.left = set, 0
	return nil
}

// put makes e the entry of a policy; nil for none.
func (p *policies) put(name string, e *securityEntry) {
	if old := p.security[name]; old != nil {
		for id := range old.subjects {
			if p.selected[id]--; p.selected[id] <= 0 {
				delete(p.selected, id)
			}
		}
	}
	if e == nil {
		delete(p.security, name)
		return
	}
	for id := range e.subjects {
		p.selected[id]++
	}
	p.security[name] = e
}

// newIdentities takes fresh identities in. It adds to stale the policies that have to
// be compiled for that; where none is yet, it looks for another identity that all of
// them treat alike.
func (p *policies) newIdentities(stale map[string]struct{}) {
	for id := range p.identities.fresh {
		i := p.identities.byID[id]
		concerned, peer := p.concerned(i)
		if len(stale) == 0 && !peer && len(concerned) > 0 {
			if twin, ok := p.twin(i, concerned); ok {
				p.set = p.set.WithIdentity(id, twin)
				for _, name := range concerned {
					e := p.security[name]
					n := e.subjects[twin]
					e.subjects[id] = n
					e.compiled[n].Subjects = append(e.compiled[n].Subjects, id)
				}
				p.selected[id] = len(concerned)
				continue
			}
		}
		for _, name := range concerned {
			stale[name] = struct{}{}
		}
	}
	clear(p.identities.fresh)
}

// concerned returns the policies that an identity means something to, and whether it
// is a peer of one.
func (p *policies) concerned(i *identity) (names []string, peer bool) {
	for name, e := range p.security {
		sp := e.resource.GetSecurityPolicy()
		isPeer := len(e.compiled) > 0 && e.isPeer(i) // whoever the peers of nobody are
		if isPeer || isSubject(sp, i) {
			names = append(names, name)
		}
		peer = peer || isPeer
	}
	return names, peer
}

// isPeer reports whether the peers of a rule are the interfaces of an identity.
func (e *securityEntry) isPeer(i *identity) bool {
	sp := e.resource.GetSecurityPolicy()
	for _, rules := range [...][]*pb.SecurityRule{sp.GetIngress(), sp.GetEgress()} {
		for _, rule := range rules {
			for _, peer := range rule.GetPeers() {
				if isPeer(sp, peer, i) {
					return true
				}
			}
		}
	}
	return false
}

// twin returns an identity that just the policies named select, with named ports as
// i has them.
func (p *policies) twin(i *identity, names []string) (uint32, bool) {
	places := make([]int, len(names))
	for j, name := range names {
		e := p.security[name]
		n, ok := e.groups[namedPorts(e.resource.GetSecurityPolicy(), i)]
		if !ok {
			return 0, false
		}
		places[j] = n
	}
candidates:
	for _, id := range p.security[names[0]].compiled[places[0]].Subjects {
		if p.selected[id] != len(names) {
			continue
		}
		for j, name := range names {
			if n, ok := p.security[name].subjects[id]; !ok || n != places[j] {
				continue candidates
			}
		}
		return id, true
	}
	return 0, false
}

// goneIdentities forgets identities that nobody has any more. The engine keeps them
// until it compiles next; their numbers are never given to others.
func (p *policies) goneIdentities(stale map[string]struct{}) {
	for id := range p.identities.gone {
		if p.selected[id] > 0 {
			p.left++
		}
		for name, e := range p.security {
			n, subject := e.subjects[id]
			if _, peer := e.peers[id]; peer || subject && len(e.compiled[n].Subjects) == 1 {
				stale[name] = struct{}{}
				continue
			}
			if subject {
				c := &e.compiled[n]
				c.Subjects = slices.DeleteFunc(c.Subjects, func(s uint32) bool { return s == id })
				delete(e.subjects, id)
			}
		}
		delete(p.selected, id)
	}
	clear(p.identities.gone)
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
	e := &securityEntry{resource: r, groups: map[string]int{}, subjects: map[uint32]int{}, peers: map[uint32]struct{}{}}
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
	peers := c.peersOf(sp, all, e.peers)
	for _, key := range slices.Sorted(maps.Keys(alike)) {
		p := policy.SecurityPolicy{Tier: tierOf(sp), Priority: sp.GetPriority()}
		if p.Tier == policy.TierNamespace {
			p.Ingress, p.Egress = closes(sp)
		}
		for _, i := range alike[key] {
			p.Subjects = append(p.Subjects, i.id)
			e.subjects[i.id] = len(e.compiled)
		}
		e.groups[key] = len(e.compiled)
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
