package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	netutils "k8s.io/utils/net"

	"github.com/vrouter-go/vrouter/internal/naming"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// readNetworkPolicy reads a NetworkPolicy. What cannot be read allows nothing and is
// in the error; of a policy whose subject cannot be read nothing is left.
func readNetworkPolicy(np *networkingv1.NetworkPolicy) (*policySpec, error) {
	pods, err := newSelector(&np.Spec.PodSelector)
	if err != nil {
		return nil, fmt.Errorf("spec.podSelector: %w", err)
	}
	s := &policySpec{
		resource: networkPolicyName(np.Namespace, np.Name), tier: pb.SecurityPolicy_NAMESPACE,
		subject: scope{namespace: np.Namespace, pods: pods},
	}
	types := np.Spec.PolicyTypes
	if len(types) == 0 {
		if types = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}; len(np.Spec.Egress) > 0 {
			types = append(types, networkingv1.PolicyTypeEgress)
		}
	}
	var problems []error
	if slices.Contains(types, networkingv1.PolicyTypeIngress) {
		s.types = append(s.types, pb.SecurityPolicy_INGRESS)
		for i, in := range np.Spec.Ingress {
			r := rule{name: fmt.Sprintf("ingress-%d", i+1), action: pb.SecurityRule_ALLOW}
			problems = append(problems, r.read(np.Namespace, in.From, in.Ports, fmt.Sprintf("spec.ingress[%d]", i)))
			s.ingress = append(s.ingress, r)
		}
	}
	if slices.Contains(types, networkingv1.PolicyTypeEgress) {
		s.types = append(s.types, pb.SecurityPolicy_EGRESS)
		for i, out := range np.Spec.Egress {
			r := rule{name: fmt.Sprintf("egress-%d", i+1), action: pb.SecurityRule_ALLOW}
			problems = append(problems, r.read(np.Namespace, out.To, out.Ports, fmt.Sprintf("spec.egress[%d]", i)))
			s.egress = append(s.egress, r)
		}
	}
	problems = append(problems, s.close())
	return s, errors.Join(problems...)
}

// read takes the peers and ports of a NetworkPolicy's rule.
func (r *rule) read(namespace string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort, field string) error {
	var problems []error
	r.everyone, r.anyPort = len(peers) == 0, len(ports) == 0
	for i := range peers {
		p, err := readPeer(namespace, &peers[i])
		switch {
		case err != nil:
			problems = append(problems, fmt.Errorf("%s, peer %d: %w", field, i, err))
		case p.block == nil || !p.block.isEmpty():
			r.peers = append(r.peers, p)
		}
	}
	for i := range ports {
		p, err := readPort(&ports[i])
		if err != nil {
			problems = append(problems, fmt.Errorf("%s.ports[%d]: %w", field, i, err))
			continue
		}
		r.ports = append(r.ports, p)
	}
	return errors.Join(problems...)
}

func readPeer(namespace string, p *networkingv1.NetworkPolicyPeer) (peer, error) {
	if p.IPBlock != nil {
		b, err := readBlock(p.IPBlock.CIDR, p.IPBlock.Except)
		return peer{block: b}, err
	}
	if p.PodSelector == nil && p.NamespaceSelector == nil {
		return peer{}, errors.New("has neither podSelector, namespaceSelector nor ipBlock, so it matches nobody; give one")
	}
	pods, err := newSelector(p.PodSelector)
	if err != nil {
		return peer{}, fmt.Errorf("podSelector: %w", err)
	}
	s := &scope{namespace: namespace, pods: pods}
	if p.NamespaceSelector != nil {
		namespaces, err := newSelector(p.NamespaceSelector)
		if err != nil {
			return peer{}, fmt.Errorf("namespaceSelector: %w", err)
		}
		s.namespace, s.namespaces = "", &namespaces
	}
	return peer{pods: s}, nil
}

// readBlock reads a CIDR and its holes, as the API server lets them be written. Holes
// that are not in it are left out.
func readBlock(cidr string, except []string) (*block, error) {
	b := &block{}
	var err error
	if b.cidr, err = readPrefix(cidr); err != nil {
		return nil, err
	}
	for _, s := range except {
		e, err := readPrefix(s)
		if err != nil {
			return nil, fmt.Errorf("except: %w", err)
		}
		if e.Overlaps(b.cidr) {
			b.except = append(b.except, e)
		}
	}
	return b, nil
}

func readPrefix(s string) (netip.Prefix, error) {
	_, n, err := netutils.ParseCIDRSloppy(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	a, _ := netip.AddrFromSlice(n.IP)
	bits, size := n.Mask.Size()
	if a = a.Unmap(); a.Is4() && size == 128 {
		bits -= 96
	}
	p := netip.PrefixFrom(a, bits).Masked()
	if !p.IsValid() {
		return p, fmt.Errorf("%q is no CIDR", s)
	}
	return p, nil
}

func readPort(p *networkingv1.NetworkPolicyPort) (port, error) {
	protocol, ok := protocolOf(p.Protocol)
	if !ok {
		return port{}, fmt.Errorf("protocol %s is none of TCP, UDP and SCTP", *p.Protocol)
	}
	out := port{protocol: protocol}
	switch {
	case p.Port == nil:
	case p.Port.Type == intstr.String:
		if out.name = p.Port.StrVal; !isName(out.name) {
			return port{}, fmt.Errorf("%q is no name of a port", out.name)
		}
	case p.Port.IntVal < 1 || p.Port.IntVal > 65535:
		return port{}, fmt.Errorf("port %d is not in 1 to 65535", p.Port.IntVal)
	default:
		if out.from = uint32(p.Port.IntVal); p.EndPort != nil {
			if *p.EndPort < p.Port.IntVal || *p.EndPort > 65535 {
				return port{}, fmt.Errorf("endPort %d is not in %d to 65535", *p.EndPort, p.Port.IntVal)
			}
			out.end = uint32(*p.EndPort)
		}
	}
	return out, nil
}

// readClusterPolicy reads a ClusterNetworkPolicy. A rule with a peer or protocol that
// is not known fails closed, as the API asks: one that accepts matches nothing, and
// others deny everything.
func readClusterPolicy(cnp *ClusterNetworkPolicy) (*policySpec, error) {
	s := &policySpec{resource: naming.Join(clusterPrefix, cnp.Name), priority: uint32(min(max(cnp.Spec.Priority, 0), 1000))}
	switch cnp.Spec.Tier {
	case "Admin":
		s.tier = pb.SecurityPolicy_ADMIN
	case "Baseline":
		s.tier = pb.SecurityPolicy_BASELINE
	default:
		return nil, fmt.Errorf("spec.tier: %q is unknown; use Admin or Baseline", cnp.Spec.Tier)
	}
	subject, err := readClusterScope(cnp.Spec.Subject.Namespaces, cnp.Spec.Subject.Pods)
	if err != nil {
		return nil, fmt.Errorf("spec.subject: %w", err)
	}
	s.subject = *subject
	var problems []error
	for i := range cnp.Spec.Ingress {
		in := &cnp.Spec.Ingress[i]
		r, err := readClusterRule(ruleName("ingress", i, in.Name), in.Action, in.From, in.Protocols, false)
		s.ingress, problems = append(s.ingress, r), append(problems, wrap(err, "spec.ingress[%d]", i))
	}
	for i := range cnp.Spec.Egress {
		out := &cnp.Spec.Egress[i]
		r, err := readClusterRule(ruleName("egress", i, out.Name), out.Action, out.To, out.Protocols, true)
		s.egress, problems = append(s.egress, r), append(problems, wrap(err, "spec.egress[%d]", i))
	}
	problems = append(problems, s.close())
	return s, errors.Join(problems...)
}

func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}

var errUnknownPeer = errors.New("has no field that is known, so the rule fails closed; use namespaces, pods or, in egress rules, networks")

func readClusterScope(namespaces *metav1.LabelSelector, pods *NamespacedPods) (*scope, error) {
	var podSelector *metav1.LabelSelector
	switch {
	case namespaces != nil:
	case pods != nil:
		namespaces, podSelector = &pods.NamespaceSelector, &pods.PodSelector
	default:
		return nil, errUnknownPeer
	}
	ns, err := newSelector(namespaces)
	if err != nil {
		return nil, err
	}
	p, err := newSelector(podSelector)
	return &scope{namespaces: &ns, pods: p}, err
}

func readClusterRule(name, action string, peers []ClusterPeer, protocols []ClusterProtocol, egress bool) (rule, error) {
	r := rule{name: name, anyPort: len(protocols) == 0}
	var problems []error
	switch action {
	case "Accept":
		r.action = pb.SecurityRule_ALLOW
	case "Pass":
		r.action = pb.SecurityRule_PASS
	case "Deny":
		r.action = pb.SecurityRule_DENY
	default:
		problems = append(problems, fmt.Errorf("action %q is unknown; use Accept, Deny or Pass", action))
	}
	for i := range peers {
		p := &peers[i]
		if egress && len(p.Networks) > 0 && p.Namespaces == nil && p.Pods == nil {
			for _, cidr := range p.Networks {
				b, err := readBlock(cidr, nil)
				if problems = append(problems, wrap(err, "peer %d", i)); err == nil {
					r.peers = append(r.peers, peer{block: b})
				}
			}
			continue
		}
		s, err := readClusterScope(p.Namespaces, p.Pods)
		if problems = append(problems, wrap(err, "peer %d", i)); err == nil {
			r.peers = append(r.peers, peer{pods: s})
		}
	}
	for i := range protocols {
		p, err := readClusterProtocol(&protocols[i])
		problems = append(problems, wrap(err, "protocols[%d]", i))
		r.ports = append(r.ports, p)
	}
	if err := errors.Join(problems...); err != nil {
		if action == "Accept" {
			return rule{name: name, action: pb.SecurityRule_ALLOW}, err // no peers
		}
		return rule{name: name, action: pb.SecurityRule_DENY, everyone: true, anyPort: true}, err
	}
	return r, nil
}

func readClusterProtocol(p *ClusterProtocol) (port, error) {
	if p.DestinationNamedPort != "" {
		if !isName(p.DestinationNamedPort) {
			return port{}, fmt.Errorf("%q is no name of a port", p.DestinationNamedPort)
		}
		return port{protocol: pb.Protocol_ANY, name: p.DestinationNamedPort}, nil
	}
	out := port{}
	var t *ClusterTransport
	switch {
	case p.TCP != nil:
		out.protocol, t = pb.Protocol_TCP, p.TCP
	case p.UDP != nil:
		out.protocol, t = pb.Protocol_UDP, p.UDP
	case p.SCTP != nil:
		out.protocol, t = pb.Protocol_SCTP, p.SCTP
	}
	if t == nil || t.DestinationPort == nil {
		return port{}, errors.New("has no field that is known, so the rule fails closed; use tcp, udp or sctp with destinationPort, or destinationNamedPort")
	}
	d := t.DestinationPort
	first, last := d.Number, d.Number
	if d.Range != nil {
		first, last = d.Range.Start, d.Range.End
	}
	if first < 1 || last < first || last > 65535 {
		return port{}, fmt.Errorf("ports %d to %d are none", first, last)
	}
	if out.from = uint32(first); last > first {
		out.end = uint32(last)
	}
	return out, nil
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._:-]*[A-Za-z0-9])?$`)

// isName reports whether a name can be one in the API.
func isName(s string) bool { return len(s) <= 63 && namePattern.MatchString(s) }

// ruleName is a rule's place, with the name that it has where that can be shown.
func ruleName(direction string, i int, name string) string {
	place := fmt.Sprintf("%s-%d", direction, i+1)
	if len(name) > 100 || !namePattern.MatchString(name) {
		return place
	}
	return place + ":" + name
}
