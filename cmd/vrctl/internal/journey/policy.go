package journey

import (
	"maps"
	"slices"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// memberNetworks are the networks that members stand in: those of interfaces here, and
// those that tunnels name by VNI or label.
func (x *index) memberNetworks(j *pb.ServiceJourney) []string {
	found := map[string]bool{}
	for _, a := range j.GetAddresses() {
		for _, m := range a.GetMembers() {
			if vmi := x.interfaces[m.GetVirtualMachineInterface()]; vmi != nil && m.GetTunnel() == nil {
				found[vmi.GetVirtualNetwork()] = true
			}
			for name, n := range x.networks {
				t := m.GetTunnel()
				if t.GetVni() != 0 && n.GetVni() == t.GetVni() || t.GetLabel() != 0 && n.GetLabel() == t.GetLabel() {
					found[name] = true
				}
			}
		}
	}
	for _, l := range x.balancer.GetListeners() {
		for _, m := range l.GetPool().GetMembers() { // those behind no floating IP, too
			if vmi := x.interfaces[m.GetVirtualMachineInterface()]; vmi != nil {
				found[vmi.GetVirtualNetwork()] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// clientNetworks are the networks that policy joins with one, without the node's own.
func (x *index) clientNetworks(network string) []string {
	found := map[string]bool{}
	for _, r := range x.networkPolicies {
		if attached := r.GetNetworkPolicy().GetVirtualNetworks(); slices.Contains(attached, network) {
			for _, name := range attached {
				found[name] = found[name] || name != network && name != fabricNetwork
			}
		}
	}
	maps.DeleteFunc(found, func(_ string, client bool) bool { return !client })
	return slices.Sorted(maps.Keys(found))
}

// networkPolicyMentions are the policies attached to two or more of the networks that
// the service's flows cross, with the rules that can match between them.
func (x *index) networkPolicyMentions(j *pb.ServiceJourney) []*pb.NetworkPolicyMention {
	crossed := map[string]bool{fabricNetwork: true}
	for _, name := range x.memberNetworks(j) {
		crossed[name] = true
	}
	for _, a := range j.GetAddresses() {
		crossed[a.GetVirtualNetwork()] = true
	}
	var list []*pb.NetworkPolicyMention
	for _, r := range x.networkPolicies {
		attached := 0
		for _, name := range r.GetNetworkPolicy().GetVirtualNetworks() {
			if crossed[name] {
				attached++
			}
		}
		if attached < 2 {
			continue
		}
		mention := &pb.NetworkPolicyMention{Name: r.GetName()}
		for _, rule := range r.GetNetworkPolicy().GetRules() {
			from, to := rule.GetSource().GetVirtualNetwork(), rule.GetDestination().GetVirtualNetwork()
			if (from == "" || crossed[from]) && (to == "" || crossed[to]) {
				mention.Rules = append(mention.Rules, rule)
			}
		}
		list = append(list, mention)
	}
	return list
}

// fabricReaches reports whether some rule lets the node and its probes into a network.
func (x *index) fabricReaches(network string) bool {
	for _, r := range x.networkPolicies {
		p := r.GetNetworkPolicy()
		if !slices.Contains(p.GetVirtualNetworks(), fabricNetwork) || !slices.Contains(p.GetVirtualNetworks(), network) {
			continue
		}
		for _, rule := range p.GetRules() {
			from, to := rule.GetSource().GetVirtualNetwork(), rule.GetDestination().GetVirtualNetwork()
			forward := means(from, fabricNetwork) && means(to, network)
			back := means(to, fabricNetwork) && means(from, network) && rule.GetDirection() == pb.NetworkPolicyRule_BOTH
			if rule.GetAction() == pb.NetworkPolicyRule_PASS && (forward || back) {
				return true
			}
		}
	}
	return false
}

// means reports whether an end of a rule, empty for any, means a network.
func means(end, network string) bool { return end == "" || end == network }

// securityPolicyMentions are the policies that select members on this node.
func (x *index) securityPolicyMentions(j *pb.ServiceJourney) []*pb.SecurityPolicyMention {
	here := map[string]*pb.VirtualMachineInterface{}
	for _, a := range j.GetAddresses() {
		for _, m := range a.GetMembers() {
			if vmi := x.interfaces[m.GetVirtualMachineInterface()]; vmi != nil && m.GetTunnel() == nil {
				here[m.GetVirtualMachineInterface()] = vmi
			}
		}
	}
	var list []*pb.SecurityPolicyMention
	for _, r := range x.securityPolicies {
		p := r.GetSecurityPolicy()
		mention := &pb.SecurityPolicyMention{Name: r.GetName(), Directions: directions(p)}
		for _, name := range slices.Sorted(maps.Keys(here)) {
			if isSubject(p, here[name]) {
				mention.VirtualMachineInterfaces = append(mention.VirtualMachineInterfaces, name)
			}
		}
		if len(mention.GetVirtualMachineInterfaces()) > 0 {
			list = append(list, mention)
		}
	}
	return list
}

// isSubject reports whether a policy selects an interface: of its namespace, or one of
// the cluster by the labels of the interface's.
func isSubject(p *pb.SecurityPolicy, vmi *pb.VirtualMachineInterface) bool {
	if s := p.GetNamespaceSelector(); s != nil {
		return selects(s, vmi.GetNamespaceLabels()) && selects(p.GetSubject(), vmi.GetLabels())
	}
	return vmi.GetNamespace() == p.GetNamespace() && selects(p.GetSubject(), vmi.GetLabels())
}

// directions are those that a policy decides in. Those of the tiers ADMIN and BASELINE
// isolate nobody: they decide where they have rules.
func directions(p *pb.SecurityPolicy) []pb.SecurityPolicy_PolicyType {
	if len(p.GetPolicyTypes()) > 0 {
		return p.GetPolicyTypes()
	}
	var list []pb.SecurityPolicy_PolicyType
	ordered := p.GetTier() == pb.SecurityPolicy_ADMIN || p.GetTier() == pb.SecurityPolicy_BASELINE
	if !ordered || len(p.GetIngress()) > 0 {
		list = append(list, pb.SecurityPolicy_INGRESS)
	}
	if len(p.GetEgress()) > 0 {
		list = append(list, pb.SecurityPolicy_EGRESS)
	}
	return list
}

// selects reports whether a selector matches labels; an empty one matches all.
func selects(s *pb.LabelSelector, labels map[string]string) bool {
	for k, v := range s.GetMatchLabels() {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	for _, e := range s.GetMatchExpressions() {
		have, ok := labels[e.GetKey()]
		in := ok && slices.Contains(e.GetValues(), have)
		switch e.GetOperator() {
		case "In":
			ok = in
		case "NotIn":
			ok = !in
		case "DoesNotExist":
			ok = !ok
		}
		if !ok {
			return false
		}
	}
	return true
}
