package policy

import (
	"fmt"
	"slices"
	"strings"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// translate writes a policy that selects pods of this node.
func (x *Index) translate(k policyKey, e *entry) *pb.Resource {
	s := e.spec
	sp := &pb.SecurityPolicy{
		Subject: s.subject.pods.proto, PolicyTypes: s.types, Tier: s.tier, Priority: s.priority,
	}
	if sp.Namespace = s.subject.namespace; s.subject.namespaces != nil {
		sp.NamespaceSelector = s.subject.namespaces.proto
	}
	for i := range s.ingress {
		sp.Ingress = append(sp.Ingress, x.plain(k, e, &s.ingress[i], s.ingress[i].ports)...)
	}
	for i := range s.egress {
		r := &s.egress[i]
		byNumber := slices.DeleteFunc(slices.Clone(r.ports), func(p port) bool { return p.name != "" })
		sp.Egress = append(sp.Egress, x.plain(k, e, r, byNumber)...)
		sp.Egress = append(sp.Egress, x.named(k, e, r)...)
	}
	if len(sp.Ingress) > maxRules || len(sp.Egress) > maxRules {
		sp.Ingress, sp.Egress = tooMany(s), tooMany(s)
	}
	return &pb.Resource{Name: s.resource, Spec: &pb.Resource_SecurityPolicy{SecurityPolicy: sp}}
}

// tooMany takes the place of more rules than the agent takes, and allows nothing: it
// would refuse the policy, and whom it selects would be open. How many numbers a name of
// a port stands for is up to whoever makes the pods that are called.
func tooMany(s *policySpec) []*pb.SecurityRule {
	if s.tier == pb.SecurityPolicy_NAMESPACE {
		return nil
	}
	return []*pb.SecurityRule{{Name: tooLarge, Action: pb.SecurityRule_DENY}}
}

// plain writes a rule with ports that the agent can tell by itself: numbers and, for
// ingress, names. It is none where no peer or port is left, and several where the
// lists are longer than one may have.
func (x *Index) plain(k policyKey, e *entry, r *rule, ports []port) []*pb.SecurityRule {
	if !r.everyone && len(r.peers) == 0 || !r.anyPort && len(ports) == 0 {
		return nil
	}
	var peers []*pb.SecurityPeer
	for _, p := range r.peers {
		if p.block != nil {
			peers = append(peers, &pb.SecurityPeer{IpBlock: p.block.proto()})
			continue
		}
		peers = append(peers, setPeer(x.acquire(k, e, p.pods, nil, "", 0).sets[portNumber{}]))
	}
	var list []*pb.SecurityPort
	for _, p := range ports {
		list = append(list, &pb.SecurityPort{Protocol: p.protocol, Port: p.from, EndPort: p.end, Name: p.name})
	}
	var rules []*pb.SecurityRule
	for somePeers := range chunks(peers, maxPeers) {
		for somePorts := range chunks(list, maxPorts) {
			name := r.name
			if len(rules) > 0 {
				name = fmt.Sprintf("%s:%d", name, len(rules)+1)
			}
			rules = append(rules, &pb.SecurityRule{Name: name, Action: r.action, Peers: somePeers, Ports: somePorts})
		}
	}
	return rules
}

// named writes the ports of an egress rule that have a name: it stands for a number of
// the pod that is called, so there is a rule for each number, with the pods that have
// it. The peers are asked apart from that, so that a block names its pods.
func (x *Index) named(k policyKey, e *entry, r *rule) []*pb.SecurityRule {
	peers := r.peers
	if r.everyone {
		peers = []peer{{}}
	}
	var rules []*pb.SecurityRule
	done := map[port]bool{}
	for _, p := range r.ports {
		if p.name == "" || done[p] {
			continue
		}
		done[p] = true
		byNumber := map[portNumber][]*pb.SecurityPeer{}
		var numbers []portNumber
		for _, peer := range peers {
			g := x.acquire(k, e, peer.pods, peer.block, p.name, p.protocol)
			for _, n := range g.numbers() {
				if byNumber[n] == nil {
					numbers = append(numbers, n)
				}
				byNumber[n] = append(byNumber[n], setPeer(g.sets[n]))
			}
		}
		slices.SortFunc(numbers, portNumber.compare)
		for _, n := range numbers {
			for peers := range chunks(byNumber[n], maxPeers) {
				kind := strings.ToLower(p.protocol.String())
				rules = append(rules, &pb.SecurityRule{
					Name:   fmt.Sprintf("%s:%s-%s:%s-%d:%d", r.name, kind, p.name, strings.ToLower(n.protocol.String()), n.port, len(rules)+1),
					Action: r.action, Peers: peers, Ports: []*pb.SecurityPort{{Protocol: n.protocol, Port: uint32(n.port)}},
				})
			}
		}
	}
	return rules
}

func setPeer(s *addressSet) *pb.SecurityPeer { return &pb.SecurityPeer{AddressSet: s.name} }

// chunks yields a list in parts of at most n; an empty one as it is.
func chunks[T any](list []T, n int) func(func([]T) bool) {
	return func(yield func([]T) bool) {
		if len(list) == 0 {
			yield(nil)
			return
		}
		for part := range slices.Chunk(list, n) {
			if !yield(part) {
				return
			}
		}
	}
}
