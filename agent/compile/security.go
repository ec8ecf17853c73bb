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

// identities numbers the distinct sets of namespace, namespace labels and labels
// of the interfaces, so that a selector is resolved once for all that are alike.
type identities struct {
	byKey map[string]*identity
	byID  map[uint32]*identity
	next  uint32
}

type identity struct {
	id              uint32
	key             string
	namespace       string
	namespaceLabels map[string]string
	labels          map[string]string
	users           int
}

func newIdentities() identities {
	return identities{byKey: map[string]*identity{}, byID: map[uint32]*identity{}, next: policy.FirstIdentity}
}

// acquire returns the number of an interface's labels and whether nobody had
// these before. Each acquire is paired with a release.
func (t *identities) acquire(vmi *pb.VirtualMachineInterface) (id uint32, fresh bool) {
	key := identityKey(vmi)
	i := t.byKey[key]
	if i == nil {
		i = &identity{
			id: t.next, key: key, namespace: vmi.GetNamespace(),
			namespaceLabels: vmi.GetNamespaceLabels(), labels: vmi.GetLabels(),
		}
		t.next++
		t.byKey[key], t.byID[i.id] = i, i
		fresh = true
	}
	i.users++
	return i.id, fresh
}

// release gives an identity back and reports whether nobody has it any more.
func (t *identities) release(id uint32) bool {
	i := t.byID[id]
	if i == nil {
		return false
	}
	if i.users--; i.users > 0 {
		return false
	}
	delete(t.byKey, i.key)
	delete(t.byID, id)
	return true
}

// all returns the identities in the order of their numbers.
func (t *identities) all() []*identity {
	return slices.SortedFunc(maps.Values(t.byID), func(a, b *identity) int { return int(a.id) - int(b.id) })
}

func identityKey(vmi *pb.VirtualMachineInterface) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q", vmi.GetNamespace())
	for _, labels := range [...]map[string]string{vmi.GetNamespaceLabels(), vmi.GetLabels()} {
		b.WriteByte('|')
		for _, k := range slices.Sorted(maps.Keys(labels)) {
			fmt.Fprintf(&b, "%q=%q,", k, labels[k])
		}
	}
	return b.String()
}

// compileSecurity compiles the policies between workloads when they or the sets
// of labels changed.
func (c *Compiler) compileSecurity(affected []state.Key) error {
	changed := c.dirty.security && c.state.Count(state.SecurityPolicy) > 0
	for range of(affected, state.SecurityPolicy) {
		changed = true
	}
	if !changed {
		return nil
	}
	all := c.policies.identities.all()
	var compiled []policy.SecurityPolicy
	for _, name := range c.state.Names(state.SecurityPolicy) {
		sp := c.state.Get(state.Key{Kind: state.SecurityPolicy, Name: name}).GetSecurityPolicy()
		compiled = append(compiled, c.securityPolicy(name, sp, all))
	}
	set, err := c.policies.set.WithSecurity(compiled)
	if err != nil {
		return fmt.Errorf("security policies: %w", err)
	}
	c.policies.set = set
	c.renameRules()
	return nil
}

func (c *Compiler) securityPolicy(name string, sp *pb.SecurityPolicy, all []*identity) policy.SecurityPolicy {
	p := policy.SecurityPolicy{Ingress: true, Egress: len(sp.GetEgress()) > 0}
	if types := sp.GetPolicyTypes(); len(types) > 0 {
		p.Ingress = slices.Contains(types, pb.SecurityPolicy_INGRESS)
		p.Egress = slices.Contains(types, pb.SecurityPolicy_EGRESS)
	}
	for _, i := range all {
		if i.namespace == sp.GetNamespace() && selects(sp.GetSubject(), i.labels) {
			p.Subjects = append(p.Subjects, i.id)
		}
	}
	for i, rule := range sp.GetIngress() {
		p.Rules = append(p.Rules, c.securityRule(ruleName(name, "ingress", rule.GetName(), i), policy.Ingress, sp, rule, all))
	}
	for i, rule := range sp.GetEgress() {
		p.Rules = append(p.Rules, c.securityRule(ruleName(name, "egress", rule.GetName(), i), policy.Egress, sp, rule, all))
	}
	return p
}

func (c *Compiler) securityRule(name string, dir policy.Direction, sp *pb.SecurityPolicy, rule *pb.SecurityRule, all []*identity) policy.SecurityRule {
	r := policy.SecurityRule{Rule: c.policies.rule(name), Direction: dir, Log: rule.GetLog()}
	for _, peer := range rule.GetPeers() {
		r.Peers = append(r.Peers, peerOf(sp, peer, all))
	}
	for _, p := range rule.GetPorts() {
		ports := policy.PortRange{From: uint16(p.GetPort()), To: uint16(max(p.GetEndPort(), p.GetPort()))}
		for _, proto := range protocols(p.GetProtocol(), pb.Protocol_TCP) {
			r.Ports = append(r.Ports, policy.PortMatch{Proto: proto, Ports: ports})
		}
	}
	return r
}

// peerOf resolves a peer. A podSelector alone stays in the policy's namespace, a
// namespaceSelector alone takes all of the namespaces, both must hold together.
func peerOf(sp *pb.SecurityPolicy, peer *pb.SecurityPeer, all []*identity) policy.Peer {
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
	for _, i := range all {
		inNamespace := i.namespace == sp.GetNamespace()
		if peer.GetNamespaceSelector() != nil {
			inNamespace = selects(peer.GetNamespaceSelector(), i.namespaceLabels)
		}
		if inNamespace && selects(peer.GetSelector(), i.labels) {
			p.Identities = append(p.Identities, i.id)
		}
	}
	return p
}

// selects reports whether labels meet every condition of a selector; an empty
// or absent one selects everything.
func selects(s *pb.LabelSelector, labels map[string]string) bool {
	for k, v := range s.GetMatchLabels() {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	for _, e := range s.GetMatchExpressions() {
		v, ok := labels[e.GetKey()]
		holds := false
		switch e.GetOperator() {
		case "In":
			holds = ok && slices.Contains(e.GetValues(), v)
		case "NotIn":
			holds = !ok || !slices.Contains(e.GetValues(), v)
		case "Exists":
			holds = ok
		case "DoesNotExist":
			holds = !ok
		}
		if !holds {
			return false
		}
	}
	return true
}
