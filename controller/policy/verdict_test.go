package policy_test

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"github.com/vrouter-go/vrouter/agent/compile"
	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/controller/policy"
	engine "github.com/vrouter-go/vrouter/internal/policy"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// The whole way: objects of Kubernetes, Index, agent's state and compiler, engine. The
// judge is a model that reads the objects themselves and shares no code with it.

// cluster is what the API server has.
type cluster struct {
	namespaces map[string]map[string]string
	pods       map[string]*pod // by namespace/name
	policies   map[string]*networkingv1.NetworkPolicy
	cluster    map[string]*policy.ClusterNetworkPolicy
}

type pod struct {
	policy.Pod
	node string
}

var nodeAddresses = map[string][]string{"a": {"192.0.2.1", "2001:db8::1"}, "b": {"192.0.2.2", "2001:db8::2"}}

// node is one node's way from objects to verdicts.
type node struct {
	name     string
	index    *policy.Index
	state    *state.State
	compiler *compile.Compiler
	result   *compile.Result
	vmis     map[string]*pb.Resource
}

func newNode(name string) *node {
	return &node{name: name, index: policy.NewIndex(), state: state.New(), compiler: compile.New(compile.Config{}), vmis: map[string]*pb.Resource{}}
}

func (n *node) setPod(p *pod) {
	q := p.Pod
	q.Local = p.node == n.name
	n.index.SetPod(&q)
}

// sync puts interfaces and what policies have become into one transaction.
func (n *node) sync(t *rapid.T, c *cluster) {
	changes := n.index.Changes()
	req := state.Request{Owner: "test", Upserts: changes.Upserts}
	for _, k := range changes.Deletes {
		req.Deletes = append(req.Deletes, state.Key{Kind: k.GetKind(), Name: k.GetName()})
	}
	req.Upserts = append(req.Upserts, &pb.Resource{Name: "pods", Spec: &pb.Resource_VirtualNetwork{VirtualNetwork: &pb.VirtualNetwork{
		Subnets: []*pb.Subnet{{Prefix: "10.244.0.0/16"}, {Prefix: "fd00::/64"}},
	}}})
	now := map[string]*pb.Resource{}
	for _, p := range c.pods {
		if p.node != n.name || p.HostNetwork || p.Finished {
			continue
		}
		vmi := &pb.VirtualMachineInterface{
			VirtualNetwork: "pods", Labels: p.Labels, Namespace: p.Namespace, NamespaceLabels: c.namespaces[p.Namespace], NamedPorts: policy.NamedPorts(&p.Pod),
		}
		for _, a := range p.IPs {
			vmi.Addresses = append(vmi.Addresses, a.String())
		}
		name := p.Namespace + ":" + p.Name
		now[name] = &pb.Resource{Name: name, Spec: &pb.Resource_VirtualMachineInterface{VirtualMachineInterface: vmi}}
		req.Upserts = append(req.Upserts, now[name])
	}
	for name := range n.vmis {
		if now[name] == nil {
			req.Deletes = append(req.Deletes, state.Key{Kind: state.VirtualMachineInterface, Name: name})
		}
	}
	n.vmis = now
	tx, err := n.state.Begin(req)
	if err != nil {
		t.Fatalf("node %s: %v", n.name, err)
	}
	if n.result, err = n.compiler.Compile(n.state, tx.Affected()); err != nil {
		t.Fatal(err)
	}
	tx.Commit()
}

func (n *node) identity(p *pod) uint32 {
	for _, itf := range n.result.Snapshot.Interfaces {
		if itf.Name == p.Namespace+":"+p.Name {
			return itf.Identity
		}
	}
	return engine.IdentityWorld
}

// end is one end of a connection.
type end struct {
	pod  *pod   // nil: no pod, or one that is its node
	node string // of the pod; of the node whose process it is; "": outside
	addr netip.Addr
}

// verdict asks the nodes where the ends are, as the forwarder does.
func verdict(nodes map[string]*node, src, dst end, protocol uint8, port uint16) (pass bool, why string) {
	q := &engine.Query{Src: src.addr.As16(), Dst: dst.addr.As16(), SrcPort: 40000, DstPort: port, Proto: protocol}
	id := func(e end, at string) uint32 {
		switch {
		case e.node != at:
			return engine.IdentityWorld
		case e.pod == nil:
			return engine.IdentityNode
		}
		return nodes[at].identity(e.pod)
	}
	pass = true
	if src.pod != nil {
		n := nodes[src.node]
		v := n.result.Snapshot.Policy.Egress(q, id(src, src.node), id(dst, src.node))
		pass, why = v.Pass, "egress "+n.result.Names.Rule(uint32(v.Rule))
	}
	if dst.pod != nil {
		n := nodes[dst.node]
		v := n.result.Snapshot.Policy.Ingress(q, id(src, dst.node), id(dst, dst.node))
		pass, why = pass && v.Pass, why+" ingress "+n.result.Names.Rule(uint32(v.Rule))
	}
	return pass, why
}

// --- the model ---

func (c *cluster) allows(src, dst end, protocol corev1.Protocol, port uint16) bool {
	if src.addr == dst.addr {
		return true
	}
	return (src.pod == nil || c.judge(src.pod, src.node, dst, false, dst, protocol, port)) &&
		(dst.pod == nil || c.judge(dst.pod, dst.node, src, true, dst, protocol, port))
}

// judge is one direction, seen from pod self.
func (c *cluster) judge(self *pod, at string, other end, ingress bool, dst end, protocol corev1.Protocol, port uint16) bool {
	if other.pod == nil && other.node == at && at != "" {
		return true // its own node
	}
	if pass, decided := c.tier("Admin", self, other, ingress, dst, protocol, port); decided {
		return pass
	}
	isolated := false
	for _, np := range c.policies {
		if np.Namespace != self.Namespace || !selects(&np.Spec.PodSelector, self.Labels) {
			continue
		}
		in, out := true, len(np.Spec.Egress) > 0
		if len(np.Spec.PolicyTypes) > 0 {
			in, out = slices.Contains(np.Spec.PolicyTypes, "Ingress"), slices.Contains(np.Spec.PolicyTypes, "Egress")
		}
		if ingress && in {
			isolated = true
			for _, r := range np.Spec.Ingress {
				if c.peers(np.Namespace, r.From, other) && portsMatch(r.Ports, dst, protocol, port) {
					return true
				}
			}
		}
		if !ingress && out {
			isolated = true
			for _, r := range np.Spec.Egress {
				if c.peers(np.Namespace, r.To, other) && portsMatch(r.Ports, dst, protocol, port) {
					return true
				}
			}
		}
	}
	if isolated {
		return false
	}
	if pass, decided := c.tier("Baseline", self, other, ingress, dst, protocol, port); decided {
		return pass
	}
	return true
}

func (c *cluster) tier(tier string, self *pod, other end, ingress bool, dst end, protocol corev1.Protocol, port uint16) (pass, decided bool) {
	list := slices.SortedFunc(maps.Values(c.cluster), func(a, b *policy.ClusterNetworkPolicy) int { return cmp.Compare(a.Spec.Priority, b.Spec.Priority) })
	for _, p := range list {
		if p.Spec.Tier != tier || !c.clusterPods(p.Spec.Subject.Namespaces, p.Spec.Subject.Pods, self) {
			continue
		}
		type clusterRule struct {
			action    string
			peers     []policy.ClusterPeer
			protocols []policy.ClusterProtocol
		}
		var rules []clusterRule
		if ingress {
			for _, r := range p.Spec.Ingress {
				rules = append(rules, clusterRule{r.Action, r.From, r.Protocols})
			}
		} else {
			for _, r := range p.Spec.Egress {
				rules = append(rules, clusterRule{r.Action, r.To, r.Protocols})
			}
		}
		for _, r := range rules {
			unknown, match := false, false
			for _, peer := range r.peers {
				switch {
				case peer.Namespaces != nil || peer.Pods != nil:
					match = match || other.pod != nil && c.clusterPods(peer.Namespaces, peer.Pods, other.pod)
				case !ingress && len(peer.Networks) > 0:
					for _, n := range peer.Networks {
						match = match || netip.MustParsePrefix(n).Contains(other.addr)
					}
				default:
					unknown = true
				}
			}
			if unknown {
				if r.action == "Accept" {
					continue
				}
				return false, true
			}
			if !match || !protocolsMatch(r.protocols, dst, protocol, port) {
				continue
			}
			switch r.action {
			case "Accept":
				return true, true
			case "Deny":
				return false, true
			}
			return false, false
		}
	}
	return false, false
}

func (c *cluster) clusterPods(namespaces *metav1.LabelSelector, pods *policy.NamespacedPods, p *pod) bool {
	if namespaces != nil {
		return selects(namespaces, c.namespaces[p.Namespace])
	}
	return selects(&pods.NamespaceSelector, c.namespaces[p.Namespace]) && selects(&pods.PodSelector, p.Labels)
}

func protocolsMatch(list []policy.ClusterProtocol, dst end, protocol corev1.Protocol, port uint16) bool {
	if len(list) == 0 {
		return true
	}
	for _, p := range list {
		if p.DestinationNamedPort != "" && dst.pod != nil && slices.Contains(dst.pod.NamedPorts, policy.NamedPort{Name: p.DestinationNamedPort, Protocol: protocol, Port: port}) {
			return true
		}
		for transport, t := range map[corev1.Protocol]*policy.ClusterTransport{"TCP": p.TCP, "UDP": p.UDP, "SCTP": p.SCTP} {
			if t == nil || transport != protocol {
				continue
			}
			if r := t.DestinationPort.Range; r != nil && int32(port) >= r.Start && int32(port) <= r.End || int32(port) == t.DestinationPort.Number {
				return true
			}
		}
	}
	return false
}

func (c *cluster) peers(namespace string, list []networkingv1.NetworkPolicyPeer, other end) bool {
	if len(list) == 0 {
		return true
	}
	for _, p := range list {
		if b := p.IPBlock; b != nil {
			if netip.MustParsePrefix(b.CIDR).Contains(other.addr) && !slices.ContainsFunc(b.Except, func(e string) bool { return netip.MustParsePrefix(e).Contains(other.addr) }) {
				return true
			}
			continue
		}
		if other.pod == nil {
			continue
		}
		inNamespace := other.pod.Namespace == namespace
		if p.NamespaceSelector != nil {
			inNamespace = selects(p.NamespaceSelector, c.namespaces[other.pod.Namespace])
		}
		if inNamespace && (p.PodSelector == nil || selects(p.PodSelector, other.pod.Labels)) {
			return true
		}
	}
	return false
}

func portsMatch(list []networkingv1.NetworkPolicyPort, dst end, protocol corev1.Protocol, port uint16) bool {
	if len(list) == 0 {
		return true
	}
	for _, p := range list {
		want := corev1.ProtocolTCP
		if p.Protocol != nil {
			want = *p.Protocol
		}
		if want != protocol {
			continue
		}
		switch {
		case p.Port == nil:
			return true
		case p.Port.Type == intstr.String:
			if dst.pod != nil && slices.Contains(dst.pod.NamedPorts, policy.NamedPort{Name: p.Port.StrVal, Protocol: protocol, Port: port}) {
				return true
			}
		case p.EndPort != nil:
			if int32(port) >= p.Port.IntVal && int32(port) <= *p.EndPort {
				return true
			}
		case p.Port.IntVal == int32(port):
			return true
		}
	}
	return false
}

func selects(s *metav1.LabelSelector, l map[string]string) bool {
	for k, v := range s.MatchLabels {
		if have, ok := l[k]; !ok || have != v {
			return false
		}
	}
	for _, e := range s.MatchExpressions {
		have, ok := l[e.Key]
		in := ok && slices.Contains(e.Values, have)
		if holds := map[metav1.LabelSelectorOperator]bool{"In": in, "NotIn": !in, "Exists": ok, "DoesNotExist": !ok}[e.Operator]; !holds {
			return false
		}
	}
	return true
}

// --- what is drawn ---

func pick[T any](t *rapid.T, list ...T) T { return rapid.SampledFrom(list).Draw(t, "pick") }

func maybe(t *rapid.T) bool { return rapid.Bool().Draw(t, "maybe") }

func drawLabels(t *rapid.T) map[string]string {
	l := map[string]string{}
	if maybe(t) {
		l["app"] = pick(t, "web", "db")
	}
	if maybe(t) {
		l["tier"] = pick(t, "x", "y")
	}
	return l
}

func drawSelector(t *rapid.T) metav1.LabelSelector {
	s := metav1.LabelSelector{}
	switch pick(t, 0, 0, 1, 1, 1, 2, 3) {
	case 1:
		s.MatchLabels = map[string]string{"app": pick(t, "web", "db")}
	case 2:
		e := metav1.LabelSelectorRequirement{Key: pick(t, "app", "tier"), Operator: pick(t, metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn), Values: []string{"web", "x"}}
		s.MatchExpressions = append(s.MatchExpressions, e)
	case 3:
		e := metav1.LabelSelectorRequirement{Key: pick(t, "app", "tier"), Operator: pick(t, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist)}
		s.MatchExpressions = append(s.MatchExpressions, e)
	}
	return s
}

var (
	namespaceNames = []string{"one", "two", "three"}
	podNames       = []string{"p1", "p2", "p3"}
	protocols      = map[corev1.Protocol]uint8{"TCP": 6, "UDP": 17, "SCTP": 132}
	ports          = []uint16{53, 80, 81, 8080}
	cidrs          = []string{"0.0.0.0/0", "10.244.0.0/16", "10.244.0.0/25", "192.0.2.0/24", "203.0.113.0/24", "::/0", "fd00::/64", "2001:db8::2/128"}
)

func drawProtocol(t *rapid.T) corev1.Protocol {
	return pick(t, corev1.ProtocolTCP, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
}

func drawPod(t *rapid.T, c *cluster) *pod {
	p := &pod{node: pick(t, "a", "b")}
	p.Namespace, p.Name, p.UID = pick(t, namespaceNames...), pick(t, podNames...), fmt.Sprint(rapid.Uint32().Draw(t, "uid"))
	p.Labels = drawLabels(t)
	p.HostNetwork = pick(t, false, false, false, false, true)
	p.Finished = pick(t, false, false, false, false, true)
	for range pick(t, 0, 1, 2) {
		n := policy.NamedPort{Name: pick(t, "http", "dns"), Protocol: drawProtocol(t), Port: pick(t, ports...)}
		if !slices.Contains(p.NamedPorts, n) {
			p.NamedPorts = append(p.NamedPorts, n)
		}
	}
	if p.HostNetwork {
		for _, a := range nodeAddresses[p.node] {
			p.IPs = append(p.IPs, netip.MustParseAddr(a))
		}
		return p
	}
	// An address that a finished pod had may be another's.
	free := rapid.Permutation([]byte{11, 12, 13, 14, 140, 141, 142, 143, 144, 145}).Draw(t, "address")
	for _, n := range free {
		a := netip.AddrFrom4([4]byte{10, 244, 0, n})
		if !slices.ContainsFunc(slices.Collect(maps.Values(c.pods)), func(o *pod) bool {
			return !o.Finished && !p.Finished && !(o.Namespace == p.Namespace && o.Name == p.Name) && slices.Contains(o.IPs, a)
		}) {
			p.IPs = []netip.Addr{a, netip.MustParseAddr(fmt.Sprintf("fd00::%d", n))}
			return p
		}
	}
	p.Finished = true
	return p
}

func drawPorts(t *rapid.T) (list []networkingv1.NetworkPolicyPort) {
	for range pick(t, 0, 1, 1, 2) {
		p := networkingv1.NetworkPolicyPort{}
		if maybe(t) {
			protocol := drawProtocol(t)
			p.Protocol = &protocol
		}
		switch pick(t, 0, 1, 2, 2) {
		case 1:
			n := intstr.FromInt32(int32(pick(t, ports...)))
			if p.Port = &n; maybe(t) {
				last := n.IntVal + pick(t, int32(0), 1, 1000)
				p.EndPort = &last
			}
		case 2:
			n := intstr.FromString(pick(t, "http", "dns"))
			p.Port = &n
		}
		list = append(list, p)
	}
	return list
}

func drawPeers(t *rapid.T) (list []networkingv1.NetworkPolicyPeer) {
	for range pick(t, 0, 1, 1, 2) {
		p := networkingv1.NetworkPolicyPeer{}
		kind := pick(t, 1, 2, 3, 4)
		if kind == 4 {
			p.IPBlock = &networkingv1.IPBlock{CIDR: pick(t, cidrs...)}
			for range pick(t, 0, 1, 2) {
				e := netip.MustParsePrefix(pick(t, "10.244.0.0/24", "10.244.0.12/32", "203.0.113.64/26", "fd00::8/125", "fd00::140/128"))
				if in := netip.MustParsePrefix(p.IPBlock.CIDR); in.Contains(e.Addr()) && in.Bits() < e.Bits() {
					p.IPBlock.Except = append(p.IPBlock.Except, e.String())
				}
			}
		}
		if kind == 1 || kind == 3 {
			s := drawSelector(t)
			p.PodSelector = &s
		}
		if kind == 2 || kind == 3 {
			s := drawSelector(t)
			p.NamespaceSelector = &s
		}
		list = append(list, p)
	}
	return list
}

func drawPolicy(t *rapid.T) *networkingv1.NetworkPolicy {
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: pick(t, namespaceNames...), Name: pick(t, "n1", "n2")}}
	np.Spec.PodSelector = drawSelector(t)
	np.Spec.PolicyTypes = pick(t, nil, []networkingv1.PolicyType{"Ingress"}, []networkingv1.PolicyType{"Egress"}, []networkingv1.PolicyType{"Ingress", "Egress"})
	for range pick(t, 0, 1, 2) {
		np.Spec.Ingress = append(np.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: drawPeers(t), Ports: drawPorts(t)})
	}
	for range pick(t, 0, 1, 2) {
		np.Spec.Egress = append(np.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: drawPeers(t), Ports: drawPorts(t)})
	}
	return np
}

func drawClusterPods(t *rapid.T) (*metav1.LabelSelector, *policy.NamespacedPods) {
	s := drawSelector(t)
	if maybe(t) {
		return &s, nil
	}
	return nil, &policy.NamespacedPods{NamespaceSelector: s, PodSelector: drawSelector(t)}
}

func drawClusterPeers(t *rapid.T, egress bool) (list []policy.ClusterPeer) {
	for range pick(t, 1, 1, 2) {
		p := policy.ClusterPeer{}
		switch kind := pick(t, 0, 0, 0, 0, 0, 1, 1, 2); {
		case kind == 1 && egress:
			p.Networks = []string{pick(t, cidrs...), pick(t, cidrs...)}
		case kind == 2: // a field of a later version
		default:
			p.Namespaces, p.Pods = drawClusterPods(t)
		}
		list = append(list, p)
	}
	return list
}

func drawClusterProtocols(t *rapid.T) (list []policy.ClusterProtocol) {
	for range pick(t, 0, 0, 1, 2) {
		p := policy.ClusterProtocol{}
		d := &policy.ClusterTransport{DestinationPort: &policy.ClusterPort{Number: int32(pick(t, ports...))}}
		if maybe(t) {
			d.DestinationPort = &policy.ClusterPort{Range: &policy.ClusterPortRange{Start: 80, End: int32(pick(t, uint16(81), 8080))}}
		}
		switch pick(t, 0, 1, 2, 3) {
		case 0:
			p.TCP = d
		case 1:
			p.UDP = d
		case 2:
			p.SCTP = d
		case 3:
			p.DestinationNamedPort = pick(t, "http", "dns")
		}
		list = append(list, p)
	}
	return list
}

func drawClusterPolicy(t *rapid.T) *policy.ClusterNetworkPolicy {
	n := pick(t, 1, 2, 3) // equal priorities leave the order open
	p := &policy.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("c%d", n)}}
	p.Spec.Tier, p.Spec.Priority = pick(t, "Admin", "Baseline"), int32(n)+pick(t, int32(0), 500)
	if p.Spec.Priority > 500 {
		p.Spec.Priority = 1000 - int32(n)
	}
	p.Spec.Subject.Namespaces, p.Spec.Subject.Pods = drawClusterPods(t)
	action := func() string { return pick(t, "Accept", "Deny", "Pass") }
	for range pick(t, 0, 1, 3) {
		p.Spec.Ingress = append(p.Spec.Ingress, policy.ClusterIngress{Name: pick(t, "", "a rule", "dns"), Action: action(), From: drawClusterPeers(t, false), Protocols: drawClusterProtocols(t)})
	}
	for range pick(t, 0, 1, 3) {
		p.Spec.Egress = append(p.Spec.Egress, policy.ClusterEgress{Action: action(), To: drawClusterPeers(t, true), Protocols: drawClusterProtocols(t)})
	}
	return p
}

// change draws a change of the cluster and tells it to the nodes.
func (c *cluster) change(t *rapid.T, nodes map[string]*node) {
	tell := func(f func(*policy.Index)) {
		for _, n := range nodes {
			f(n.index)
		}
	}
	switch pick(t, 0, 0, 0, 0, 1, 2, 2, 3, 4, 4, 5) {
	case 0:
		p := drawPod(t, c)
		c.pods[p.Namespace+"/"+p.Name] = p
		for _, n := range nodes {
			n.setPod(p)
		}
	case 1:
		ns, name := pick(t, namespaceNames...), pick(t, podNames...)
		delete(c.pods, ns+"/"+name)
		tell(func(x *policy.Index) { x.DeletePod(ns, name) })
	case 2:
		np := drawPolicy(t)
		c.policies[np.Namespace+"/"+np.Name] = np
		tell(func(x *policy.Index) {
			if err := x.SetNetworkPolicy(np); err != nil {
				t.Fatal(err)
			}
		})
	case 3:
		if maybe(t) {
			ns, name := pick(t, namespaceNames...), pick(t, "n1", "n2")
			delete(c.policies, ns+"/"+name)
			tell(func(x *policy.Index) { x.DeleteNetworkPolicy(ns, name) })
			return
		}
		name := pick(t, "c1", "c2", "c3")
		delete(c.cluster, name)
		tell(func(x *policy.Index) { x.DeleteClusterNetworkPolicy(name) })
	case 4:
		cnp := drawClusterPolicy(t)
		c.cluster[cnp.Name] = cnp
		tell(func(x *policy.Index) { _ = x.SetClusterNetworkPolicy(cnp) }) // the error says what failed closed
	case 5:
		ns := &policy.Namespace{Name: pick(t, namespaceNames...), Labels: drawLabels(t)}
		c.namespaces[ns.Name] = ns.Labels
		tell(func(x *policy.Index) { x.SetNamespace(ns) })
	}
}

// ends lists who may speak to whom: pods, nodes, and addresses outside.
func (c *cluster) ends(family int) (list []end) {
	for _, key := range slices.Sorted(maps.Keys(c.pods)) {
		if p := c.pods[key]; !p.HostNetwork && !p.Finished {
			list = append(list, end{pod: p, node: p.node, addr: p.IPs[family]})
		}
	}
	for _, n := range [...]string{"a", "b"} {
		list = append(list, end{node: n, addr: netip.MustParseAddr(nodeAddresses[n][family])})
	}
	outside := [2][]string{{"203.0.113.5", "203.0.113.70", "198.51.100.1"}, {"2001:db8:1::5"}}
	for _, a := range outside[family] {
		list = append(list, end{addr: netip.MustParseAddr(a)})
	}
	return list
}

// TestVerdictsLikeKubernetes holds that random objects, changed at random, come to the
// verdicts that a naive reading of the objects comes to, on two nodes.
func TestVerdictsLikeKubernetes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := &cluster{
			namespaces: map[string]map[string]string{}, pods: map[string]*pod{},
			policies: map[string]*networkingv1.NetworkPolicy{}, cluster: map[string]*policy.ClusterNetworkPolicy{},
		}
		nodes := map[string]*node{"a": newNode("a"), "b": newNode("b")}
		for _, name := range namespaceNames {
			c.namespaces[name] = drawLabels(t)
			for _, n := range nodes {
				n.index.SetNamespace(&policy.Namespace{Name: name, Labels: c.namespaces[name]})
			}
		}
		for round := range 3 {
			for range pick(t, 1, 4, []int{20, 6, 6}[round]) {
				c.change(t, nodes)
			}
			for _, name := range [...]string{"a", "b"} {
				nodes[name].sync(t, c)
			}
			c.probe(t, nodes)
		}
	})
}

// probe compares every pair of ends.
func (c *cluster) probe(t *rapid.T, nodes map[string]*node) {
	for family := range 2 {
		list := c.ends(family)
		for _, src := range list {
			for _, dst := range list {
				if src.pod == nil && dst.pod == nil {
					continue
				}
				for protocol, number := range protocols {
					for _, port := range append(ports, 443) {
						got, why := verdict(nodes, src, dst, number, port)
						if want := c.allows(src, dst, protocol, port); got != want {
							t.Fatalf("%s → %s %s %d passes %v, want %v (%s)\n%s", src, dst, protocol, port, got, want, why, c)
						}
					}
				}
			}
		}
	}
}

func (e end) String() string {
	if e.pod != nil {
		return fmt.Sprintf("%s/%s %v on %s", e.pod.Namespace, e.pod.Name, e.addr, e.node)
	}
	return fmt.Sprintf("%v of node %q", e.addr, e.node)
}

func (c *cluster) String() string {
	s := fmt.Sprintf("namespaces %v\n", c.namespaces)
	for _, p := range c.pods {
		s += fmt.Sprintf("pod %+v on %s\n", p.Pod, p.node)
	}
	for _, np := range c.policies {
		s += fmt.Sprintf("policy %s/%s %s\n", np.Namespace, np.Name, np.Spec.String())
	}
	for _, p := range c.cluster {
		s += fmt.Sprintf("cluster policy %s %+v\n", p.Name, p.Spec)
	}
	return s
}
