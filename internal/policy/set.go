package policy

import (
	"errors"
	"maps"
	"strconv"
)

// Set is the compiled policy of a node. It never changes; a nil or zero Set
// isolates networks from each other and has no security policy.
type Set struct {
	networks *networkTable
	security *securityTable
	members  *members
}

// WithNetworks returns a Set with these network policies in place of s's, and
// s's security policies. Policies apply in the order given. It keeps no
// reference to its input. An error names the policy and rule by position.
func (s *Set) WithNetworks(policies []NetworkPolicy) (*Set, error) {
	t, err := compileNetworks(policies, fullBudget)
	if err != nil {
		return nil, err
	}
	return &Set{networks: t, security: s.securityTable(), members: s.addresses()}, nil
}

// WithSecurity returns a Set with these security policies in place of s's, and
// s's network policies. It keeps no reference to its input. An error names the
// policy and rule by position.
func (s *Set) WithSecurity(policies []SecurityPolicy) (*Set, error) {
	t, err := compileSecurity(policies, s.addresses(), fullBudget)
	if err != nil {
		return nil, err
	}
	return &Set{networks: s.networkTable(), security: t, members: s.addresses()}, nil
}

// WithIdentity returns a Set in which the policies that select like select id too,
// which no policy knows yet. It is nobody's peer by its identity.
func (s *Set) WithIdentity(id, like uint32) *Set {
	t := *s.securityTable()
	for _, d := range [...]*direction{&t.ingress, &t.egress} {
		for tier := range d.tiers {
			table := &d.tiers[tier]
			if list, ok := table.subjectsOf[like]; ok {
				table.subjectsOf = maps.Clone(table.subjectsOf)
				table.subjectsOf[id] = list
			}
		}
	}
	return &Set{networks: s.networkTable(), security: &t, members: s.addresses()}
}

// WithAddresses returns a Set in which the address sets have changed as told, in
// that order, and the policies are s's. It keeps no reference to its input. An
// error says what is wrong with a change.
func (s *Set) WithAddresses(changes []AddressChange) (*Set, error) {
	m, err := s.addresses().with(changes)
	if err != nil {
		return nil, err
	}
	return &Set{networks: s.networkTable(), security: s.securityTable(), members: m}, nil
}

// Network asks the network policies about a flow before NAT: towards a floating
// IP the destination network, address and port are the floating IP's.
func (s *Set) Network(q *Query) Verdict {
	if q.SrcNetwork == q.DstNetwork && q.SrcNetwork != 0 {
		return Verdict{Stage: StageNetwork, Rule: RuleSameNetwork, Pass: true}
	}
	return s.networkTable().verdict(q)
}

// Security asks the security policies about a flow after NAT, between the pods'
// own addresses: the egress rules of the source and the ingress rules of the
// destination. src and dst are the identities of the two ends. When both stages
// pass by a rule, the verdict names that of the ingress stage.
func (s *Set) Security(q *Query, src, dst uint32) Verdict {
	egress := s.Egress(q, src, dst)
	if !egress.Pass || egress.Rule == RuleNode || egress.Rule == RuleSelf {
		return egress
	}
	ingress := s.Ingress(q, src, dst)
	if !ingress.Pass {
		return ingress
	}
	v := ingress
	if ingress.Rule == RuleNoPolicy {
		v = egress
	}
	v.Log = egress.Log || ingress.Log
	return v
}

// Egress is the first half of Security: may the source send this?
func (s *Set) Egress(q *Query, src, dst uint32) Verdict {
	if rule := exempt(q, src, dst); rule != RuleNone {
		return Verdict{Stage: StageEgress, Rule: rule, Pass: true}
	}
	rule, pass, log := s.securityTable().egress.decide(src, dst, &q.Dst, s.addresses(), q)
	return Verdict{Stage: StageEgress, Rule: rule, Pass: pass, Log: log}
}

// Ingress is the second half of Security: may the destination receive this?
func (s *Set) Ingress(q *Query, src, dst uint32) Verdict {
	if rule := exempt(q, src, dst); rule != RuleNone {
		return Verdict{Stage: StageIngress, Rule: rule, Pass: true}
	}
	rule, pass, log := s.securityTable().ingress.decide(dst, src, &q.Src, s.addresses(), q)
	return Verdict{Stage: StageIngress, Rule: rule, Pass: pass, Log: log}
}

// exempt names the reason why no security policy applies, or RuleNone.
func exempt(q *Query, src, dst uint32) RuleID {
	switch {
	case src == IdentityNode || dst == IdentityNode:
		return RuleNode
	case q.Src == q.Dst:
		return RuleSelf
	default:
		return RuleNone
	}
}

// Empty tables, read only.
var (
	noNetworks = new(networkTable)
	noMembers  = new(members)
	noSecurity = &securityTable{egress: direction{deny: RuleDefaultEgress}, ingress: direction{deny: RuleDefaultIngress}}
)

func (s *Set) networkTable() *networkTable {
	if s == nil || s.networks == nil {
		return noNetworks
	}
	return s.networks
}

func (s *Set) securityTable() *securityTable {
	if s == nil || s.security == nil {
		return noSecurity
	}
	return s.security
}

func (s *Set) addresses() *members {
	if s == nil || s.members == nil {
		return noMembers
	}
	return s.members
}

// ruleError says what is wrong with a rule, by the positions of the policy and
// of the rule in it.
func ruleError(policy, rule int, what string) error {
	return errors.New("policy " + strconv.Itoa(policy) + " rule " + strconv.Itoa(rule) + ": " + what)
}

// checkRule refuses ids that are kept for named reasons and ranges that run
// backwards.
func checkRule(id RuleID, ports ...PortRange) string {
	if id < FirstRule {
		return "id " + strconv.FormatUint(uint64(id), 10) + " is reserved; ids start at " + strconv.FormatUint(uint64(FirstRule), 10)
	}
	for _, p := range ports {
		if p.From > p.To {
			return "ports " + strconv.Itoa(int(p.From)) + "-" + strconv.Itoa(int(p.To)) + " run backwards; the first port comes first"
		}
	}
	return ""
}
