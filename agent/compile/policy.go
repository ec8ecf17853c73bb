package compile

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/policy"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// policies is compiled policy and the numbers in it.
type policies struct {
	set        *policy.Set
	names      *Names
	rules      map[ruleKey]policy.RuleID
	ruleNames  map[state.Key][]ruleInfo // by policy
	nextRule   policy.RuleID
	renamed    map[policy.RuleID]ruleInfo // the names of the transaction at hand, once it changed one
	identities identities
	security   map[string]*securityEntry // by name
	sets       map[string]*addressSet    // by name
	lastSet    uint32
	selected   map[uint32]int // how many policies select an identity
	left       int            // identities that the engine has and nobody any more
}

// ruleKey tells a rule from all others: the kind of its policy, and the name that
// status shows.
type ruleKey struct{ kind, name string }

// ruleInfo is what status shows of a rule: its name, fabric-pods/1, and the tier
// that a security policy has.
type ruleInfo struct{ name, tier string }

func newPolicies() policies {
	return policies{
		set: &policy.Set{}, names: &Names{}, rules: map[ruleKey]policy.RuleID{}, ruleNames: map[state.Key][]ruleInfo{},
		nextRule: policy.FirstRule, identities: newIdentities(),
		security: map[string]*securityEntry{}, sets: map[string]*addressSet{}, selected: map[uint32]int{},
	}
}

// Names tells what the numbers in sessions and verdicts stand for. It never
// changes.
type Names struct {
	rules map[policy.RuleID]ruleInfo
	// shared names the floating IPs of addresses that several have, by
	// forwarder.FloatingIP.ID and port.
	shared map[uint32]map[forwarder.PortKey]string
}

// FloatingIP returns the name of the floating IP that serves a port of an address.
func (n *Names) FloatingIP(f *forwarder.FloatingIP, key forwarder.PortKey) string {
	if name, ok := n.shared[f.ID][key]; ok {
		return name
	}
	return f.Name
}

// Rule returns the name of a policy rule: policy/rule, or the reason where no
// rule decided; "" for none.
func (n *Names) Rule(id uint32) string {
	switch rule, ok := n.rules[policy.RuleID(id)]; {
	case ok:
		return rule.name
	case policy.RuleID(id) == policy.RuleNone:
		return ""
	case policy.RuleID(id) < policy.FirstRule:
		return "default/" + policy.RuleID(id).String()
	}
	return "deleted/" + strconv.FormatUint(uint64(id), 10)
}

// Tier returns the tier of the SecurityPolicy that a rule is of, as the API spells
// it; "" where none decided.
func (n *Names) Tier(id uint32) string {
	switch policy.RuleID(id) {
	case policy.RuleDefaultEgress, policy.RuleDefaultIngress:
		return tierName(pb.SecurityPolicy_NAMESPACE)
	}
	return n.rules[policy.RuleID(id)].tier
}

// rule returns the number of a rule, which it keeps while it exists and which is
// never another's. ICMP stands for two rules of the engine with one number.
func (p *policies) rule(kind, name string) policy.RuleID {
	k := ruleKey{kind, name}
	id, ok := p.rules[k]
	if !ok {
		id = p.nextRule
		p.nextRule++
		p.rules[k] = id
	}
	return id
}

// rename makes the rules of a policy those listed, and forgets the others.
func (p *policies) rename(k state.Key, now []ruleInfo) {
	if slices.Equal(p.ruleNames[k], now) {
		return
	}
	if p.renamed == nil {
		if p.renamed = maps.Clone(p.names.rules); p.renamed == nil {
			p.renamed = map[policy.RuleID]ruleInfo{}
		}
		p.names = &Names{rules: p.renamed, shared: p.names.shared}
	}
	shown := p.renamed
	live := make(map[string]struct{}, len(now))
	for _, rule := range now {
		live[rule.name] = struct{}{}
		shown[p.rule(k.Kind, rule.name)] = rule
	}
	for _, rule := range p.ruleNames[k] {
		if _, ok := live[rule.name]; !ok {
			id := ruleKey{k.Kind, rule.name}
			delete(shown, p.rules[id])
			delete(p.rules, id)
		}
	}
	if p.ruleNames[k] = now; len(now) == 0 {
		delete(p.ruleNames, k)
	}
}

// compilePolicies compiles the policies between networks and the graph of
// networks that they join.
func (c *Compiler) compilePolicies(affected []state.Key) error {
	for range of(affected, state.NetworkPolicy) {
		c.dirty.joins = true
	}
	if !c.dirty.joins {
		return nil
	}
	joins := map[string]map[string]struct{}{}
	var compiled []policy.NetworkPolicy
	for _, name := range c.state.Names(state.NetworkPolicy) {
		np := c.state.Get(state.Key{Kind: state.NetworkPolicy, Name: name}).GetNetworkPolicy()
		p := policy.NetworkPolicy{}
		var rules []ruleInfo
		for _, vn := range np.GetVirtualNetworks() {
			p.Networks = append(p.Networks, c.networks[vn].id)
		}
		for i, rule := range np.GetRules() {
			rules = append(rules, ruleInfo{name: ruleName(name, "", rule.GetName(), i)})
			p.Rules = append(p.Rules, c.networkRules(rules[i].name, rule)...)
			join(joins, np.GetVirtualNetworks(), rule)
		}
		compiled = append(compiled, p)
		c.policies.rename(state.Key{Kind: state.NetworkPolicy, Name: name}, rules)
	}
	for k := range c.policies.ruleNames {
		if k.Kind == state.NetworkPolicy && c.state.Get(k) == nil {
			c.policies.rename(k, nil)
		}
	}
	set, err := c.policies.set.WithNetworks(compiled)
	if err != nil {
		return fmt.Errorf("network policies: %w", err)
	}
	c.policies.set = set
	for name, n := range c.networks {
		imports := names(joins[name])
		if name == state.FabricNetwork {
			imports = append(imports, askers(joins, imports)...)
		}
		c.setImports(n, imports)
	}
	return nil
}

// askers are the networks that may open flows to the node and to which the node
// may open none. It takes over their routes too, behind all others: a pod sends
// replies to its gateway, but the node's kernel needs a route through vhost0 to
// who called it, and an answer to its ARP. The policy still denies what the node
// opens.
func askers(joins map[string]map[string]struct{}, imports []string) []string {
	var list []string
	for name, to := range joins {
		if _, ok := to[state.FabricNetwork]; ok && !slices.Contains(imports, name) {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// join notes which networks a rule speaks of. A rule that denies joins them as
// well: who is denied is told NETWORK_POLICY and the rule, not NO_ROUTE.
func join(joins map[string]map[string]struct{}, attached []string, rule *pb.NetworkPolicyRule) {
	ends := func(e *pb.PolicyEndpoint) []string {
		if e.GetVirtualNetwork() != "" {
			return []string{e.GetVirtualNetwork()}
		}
		return attached
	}
	add := func(from, to string) {
		if from == to {
			return
		}
		if joins[from] == nil {
			joins[from] = map[string]struct{}{}
		}
		joins[from][to] = struct{}{}
	}
	for _, src := range ends(rule.GetSource()) {
		for _, dst := range ends(rule.GetDestination()) {
			add(src, dst)
			if rule.GetDirection() == pb.NetworkPolicyRule_BOTH {
				add(dst, src)
			}
		}
	}
}

func (c *Compiler) networkRules(name string, rule *pb.NetworkPolicyRule) []policy.NetworkRule {
	r := policy.NetworkRule{
		Rule: c.policies.rule(state.NetworkPolicy, name), Log: rule.GetLog(),
		Both: rule.GetDirection() == pb.NetworkPolicyRule_BOTH,
	}
	if rule.GetAction() == pb.NetworkPolicyRule_PASS {
		r.Action = policy.Pass
	}
	r.SrcNetwork, r.SrcPrefix = c.endpoint(rule.GetSource())
	r.DstNetwork, r.DstPrefix = c.endpoint(rule.GetDestination())
	r.SrcPorts, r.DstPorts = portRanges(rule.GetSourcePorts()), portRanges(rule.GetDestinationPorts())
	var rules []policy.NetworkRule
	for _, proto := range protocols(rule.GetProtocol(), pb.Protocol_ANY) {
		r.Proto = proto
		rules = append(rules, r)
	}
	return rules
}

func (c *Compiler) endpoint(e *pb.PolicyEndpoint) (network uint32, prefix netip.Prefix) {
	if n := c.networks[e.GetVirtualNetwork()]; n != nil {
		network = n.id
	}
	prefix, _ = netip.ParsePrefix(e.GetPrefix())
	return network, prefix
}

func portRanges(list []*pb.PortRange) []policy.PortRange {
	ranges := make([]policy.PortRange, len(list))
	for i, r := range list {
		ranges[i] = policy.PortRange{From: uint16(r.GetStart()), To: uint16(max(r.GetEnd(), r.GetStart()))}
	}
	return ranges
}

// protocols returns the numbers that a rule's protocol stands for: ICMP is two,
// ANY is the engine's 0.
func protocols(p, left pb.Protocol_Value) []uint8 {
	if p == pb.Protocol_PROTOCOL_UNSPECIFIED {
		p = left
	}
	switch p {
	case pb.Protocol_ANY:
		return []uint8{0}
	case pb.Protocol_ICMP:
		return []uint8{uint8(pb.Protocol_ICMP), uint8(pb.Protocol_ICMPV6)}
	}
	return []uint8{uint8(p)}
}

// ruleName is how a rule is shown: policy/name, or policy/place counted from 1;
// a place of a security policy stands behind its direction.
func ruleName(policyName, direction, name string, i int) string {
	switch {
	case name != "":
		return policyName + "/" + name
	case direction != "":
		return policyName + "/" + direction + "-" + strconv.Itoa(i+1)
	}
	return policyName + "/" + strconv.Itoa(i+1)
}
