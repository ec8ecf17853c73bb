package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// policySpec is a policy of either kind, as far as it can be read without the pods.
type policySpec struct {
	resource        string // name of the SecurityPolicy
	tier            pb.SecurityPolicy_Tier
	priority        uint32
	subject         scope
	types           []pb.SecurityPolicy_PolicyType // of tier NAMESPACE
	ingress, egress []rule
}

// rule is one rule of a policy.
type rule struct {
	name     string
	action   pb.SecurityRule_Action
	everyone bool // every peer; else those listed, of which there may be none
	peers    []peer
	anyPort  bool // every protocol and port; else those listed
	ports    []port
}

// peer is pods or addresses.
type peer struct {
	pods  *scope
	block *block
}

// port is a port by number or by name.
type port struct {
	protocol  pb.Protocol_Value // ANY: a name of whatever protocol
	from, end uint32            // 0: all ports of the protocol
	name      string
}

// scope is pods by the labels of their namespace and their own.
type scope struct {
	namespace  string    // of this namespace
	namespaces *selector // in place of it: of those that match
	pods       selector
}

// selector is a label selector, ready to match.
type selector struct {
	match labels.Selector
	proto *pb.LabelSelector
	key   string // equal for those that are written alike
}

// newSelector reads a selector; nil selects everything.
func newSelector(s *metav1.LabelSelector) (selector, error) {
	if s == nil {
		s = &metav1.LabelSelector{}
	}
	match, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return selector{}, err
	}
	p := &pb.LabelSelector{MatchLabels: s.MatchLabels}
	for _, e := range s.MatchExpressions {
		p.MatchExpressions = append(p.MatchExpressions, &pb.LabelSelectorRequirement{Key: e.Key, Operator: string(e.Operator), Values: e.Values})
	}
	return selector{match: match, proto: p, key: match.String()}, nil
}

// matches reports whether labels meet the selector.
func (s *selector) matches(l map[string]string) bool { return s.match.Matches(labels.Set(l)) }

// covers reports whether pods of a namespace with these labels may be in the scope.
func (s *scope) covers(namespace string, l map[string]string) bool {
	if s.namespaces != nil {
		return s.namespaces.matches(l)
	}
	return s.namespace == namespace
}

// key is equal for scopes that are written alike.
func (s *scope) key() string {
	if s == nil {
		return "*"
	}
	if s.namespaces != nil {
		return fmt.Sprintf("namespaces(%s)/pods(%s)", s.namespaces.key, s.pods.key)
	}
	return fmt.Sprintf("namespace(%s)/pods(%s)", s.namespace, s.pods.key)
}

// block is a prefix with holes.
type block struct {
	cidr   netip.Prefix
	except []netip.Prefix
}

func (b *block) contains(a netip.Addr) bool {
	return b.cidr.Contains(a) && !slices.ContainsFunc(b.except, func(e netip.Prefix) bool { return e.Contains(a) })
}

// isEmpty reports whether the holes leave nothing.
func (b *block) isEmpty() bool {
	return slices.ContainsFunc(b.except, func(e netip.Prefix) bool { return e.Bits() <= b.cidr.Bits() })
}

func (b *block) proto() *pb.IpBlock {
	p := &pb.IpBlock{Cidr: b.cidr.String()}
	for _, e := range b.except {
		p.Except = append(p.Except, e.String())
	}
	return p
}

func (b *block) key() string {
	var s strings.Builder
	s.WriteString(b.cidr.String())
	for _, e := range b.except {
		s.WriteString("-" + e.String())
	}
	return s.String()
}

// Limits of one policy, so that no author of one can make a node's policies too large
// to be compiled.
const (
	// maxEntries bounds what a policy comes to in the agent: peers times ports, where a
	// prefix with holes counts for as many prefixes as it takes.
	maxEntries = 1 << 17
	// maxPeers and maxPorts are those of one rule of the API; a rule with more becomes
	// several.
	maxPeers = 10_000
	maxPorts = 1024
	maxRules = 10_000
)

// tooLarge is the name of the rule that stands for all of a policy that is too large.
const tooLarge = "too-large"

// entries estimates what a direction of a policy comes to in the agent.
func entries(rules []rule) int {
	total := 0
	for i := range rules {
		r := &rules[i]
		peers := 1
		for j := range r.peers {
			peers++
			if b := r.peers[j].block; b != nil {
				for _, e := range b.except {
					peers += e.Bits() - b.cidr.Bits()
				}
			}
		}
		total += peers * max(1, len(r.ports))
	}
	return total
}

// close makes a policy that is too large one that allows nothing, and says so.
func (s *policySpec) close() error {
	if n := entries(s.ingress) + entries(s.egress); n > maxEntries || max(len(s.ingress), len(s.egress)) > maxRules {
		for _, list := range [...]*[]rule{&s.ingress, &s.egress} {
			if *list = nil; s.tier != pb.SecurityPolicy_NAMESPACE {
				*list = []rule{{name: tooLarge, action: pb.SecurityRule_DENY, everyone: true, anyPort: true}}
			}
		}
		return fmt.Errorf("comes to %d entries and at most %d are compiled, so it allows nothing; use fewer exceptions, peers or ports, or several policies", n, maxEntries)
	}
	return nil
}
