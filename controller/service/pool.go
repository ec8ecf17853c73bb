package service

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/vrouter-go/vrouter/controller/model"
	"github.com/vrouter-go/vrouter/controller/network"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// backend is one endpoint of one port of a service.
type backend struct {
	member *pb.Member // without target ports; nil: nobody can reach it from here
	name   string     // of the pod's interface, or what stands for it
	addr   netip.Addr
	port   uint16
	node   string
	local  bool
	rank   rank
	hints  *discoveryv1.EndpointHints
}

// rank is how well an endpoint serves, the best first.
type rank uint8

const (
	ready   rank = iota
	leaving      // serving and terminating: the last resort
	unfit
)

// rankOf reads the conditions of an endpoint, with their defaults for what is not said
// (discovery.k8s.io/v1 EndpointConditions).
func rankOf(c discoveryv1.EndpointConditions) rank {
	says := func(b *bool, otherwise bool) bool {
		if b == nil {
			return otherwise
		}
		return *b
	}
	switch {
	case says(c.Ready, true):
		return ready
	case says(c.Serving, true) && says(c.Terminating, false):
		return leaving
	}
	return unfit
}

// pool is the backends of one port of a service in one family.
type pool struct {
	port     *corev1.ServicePort
	backends []backend // by name, then port
	members  []*pb.Member
	targets  []uint16 // of the members
}

// resolver finds out who an endpoint is.
type resolver struct {
	view *model.View
	plan *network.Plan
}

// pools collects the backends of each port of a service in one family. An endpoint may
// stand in several slices for a while as it moves: the best that is said of it counts.
func (r *resolver) pools(svc *corev1.Service, slicesOf []*discoveryv1.EndpointSlice, is4 bool) []pool {
	pools := make([]pool, len(svc.Spec.Ports))
	type place struct {
		addr netip.Addr
		port uint16
	}
	seen := make([]map[place]int, len(pools))
	for i := range pools {
		pools[i].port, seen[i] = &svc.Spec.Ports[i], map[place]int{}
	}
	for _, s := range slicesOf {
		if !takes(s, is4) {
			continue
		}
		for _, sp := range s.Ports {
			i := slices.IndexFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool { return matches(&p, sp) })
			if i < 0 || sp.Port == nil || *sp.Port < 1 || *sp.Port > 65535 {
				continue
			}
			for j := range s.Endpoints {
				e := &s.Endpoints[j]
				addr, ok := model.AddressOf(e)
				if !ok || addr.Is4() != is4 {
					continue
				}
				at := place{addr, uint16(*sp.Port)}
				b := backend{addr: addr, port: at.port, rank: rankOf(e.Conditions), hints: e.Hints}
				k, again := seen[i][at]
				if again && pools[i].backends[k].rank <= b.rank {
					continue
				}
				r.resolve(&b, s, e)
				if again {
					pools[i].backends[k] = b
					continue
				}
				seen[i][at] = len(pools[i].backends)
				pools[i].backends = append(pools[i].backends, b)
			}
		}
	}
	for i := range pools {
		pools[i].finish(r.view)
	}
	return pools
}

// takes reports whether a slice has endpoints of a family for a proxy.
func takes(s *discoveryv1.EndpointSlice, is4 bool) bool {
	if _, headless := s.Labels[corev1.IsHeadlessService]; headless {
		return false
	}
	if is4 {
		return s.AddressType == discoveryv1.AddressTypeIPv4
	}
	return s.AddressType == discoveryv1.AddressTypeIPv6
}

// matches reports whether a slice's port is that of a service's port: by its name and
// protocol, the number is the endpoints' own.
func matches(p *corev1.ServicePort, sp discoveryv1.EndpointPort) bool {
	proto := corev1.ProtocolTCP
	if sp.Protocol != nil {
		proto = *sp.Protocol
	}
	return sp.Name != nil && *sp.Name == p.Name && protocolOf(p) == proto
}

func protocolOf(p *corev1.ServicePort) corev1.Protocol { return cmp.Or(p.Protocol, corev1.ProtocolTCP) }

// resolve finds the interface, or the host, that has an endpoint.
func (r *resolver) resolve(b *backend, s *discoveryv1.EndpointSlice, e *discoveryv1.Endpoint) {
	if e.NodeName != nil {
		b.node = *e.NodeName
	}
	pod := r.view.PodAt(b.addr)
	if name, ok := model.PodOf(s, e); ok {
		b.name = model.ResourceName(name.Namespace, name.Name)
		pod = r.view.Pod(name)
		if pod == nil || e.TargetRef.UID != "" && pod.UID != e.TargetRef.UID || pod.Finished {
			b.local = b.node == r.view.Node
			return // not known yet, or gone already, and another may have its address
		}
	} else if pod != nil {
		b.name = pod.Interface()
	} else {
		b.name = model.ResourceName("host", "", b.addr.StringExpanded()) // no pod is called so
	}
	if pod != nil {
		b.node = cmp.Or(pod.Node, b.node)
	}
	b.local = b.node != "" && b.node == r.view.Node
	if r.mayServe(pod, s.Namespace) {
		b.member = r.member(b, pod)
	}
}

// mayServe reports whether a pod, nil for none, may be an endpoint of a namespace's
// services. Whoever may write EndpointSlices may name any pod in them, and must not lead
// into, or out of, an isolated namespace by that. One that has no node has no address, and
// of one whose namespace is not known yet nobody can say in what network it stands.
func (r *resolver) mayServe(pod *model.Pod, namespace string) bool {
	return pod == nil || pod.HostNetwork || pod.Node != "" && r.view.Namespace(pod.Namespace) != nil && r.plan.Of(pod.Namespace) == r.plan.Of(namespace)
}

// member writes a backend as a member of floating IPs.
func (r *resolver) member(b *backend, pod *model.Pod) *pb.Member {
	m := &pb.Member{VirtualMachineInterface: b.name}
	switch {
	case pod != nil && pod.HasInterface() && b.local:
		return m // its addresses are the agent's to know
	case pod != nil && pod.HasInterface():
		if m.Tunnel = r.plan.Tunnel(b.node, pod.Namespace); m.Tunnel == nil {
			m.Host = true
		}
	default:
		m.Host = true
	}
	if !routable(b.addr) {
		return nil
	}
	m.Address = b.addr.String()
	return m
}

// routable reports whether an address may be a member's or a service's.
func routable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !a.IsLinkLocalUnicast() &&
		(!a.Is4() || a.As4()[0] != 0 && a.As4()[0] < 224)
}

// maxMembers is the most that a floating IP takes.
const maxMembers = 4096

// finish decides which flows each backend takes and lists the members by name.
func (p *pool) finish(v *model.View) {
	slices.SortFunc(p.backends, func(a, b backend) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.rank, b.rank), cmp.Compare(a.port, b.port), a.addr.Compare(b.addr))
	})
	near := p.topology(v)
	last := ""
	for i := range p.backends {
		b := &p.backends[i]
		if b.member == nil || b.rank == unfit {
			continue
		}
		if b.name == last { // a pod that serves one port by two of its own: the better
			if !b.member.GetHost() {
				continue
			}
			b.name = model.ResourceName(b.name, b.addr.StringExpanded(), strconv.Itoa(int(b.port)))
			b.member.VirtualMachineInterface = b.name
		} else {
			last = b.name
		}
		b.member.State = stateOf(b, near(b))
		p.members, p.targets = append(p.members, b.member), append(p.targets, b.port)
	}
	if len(p.members) > maxMembers {
		p.members, p.targets = p.members[:maxMembers], p.targets[:maxMembers]
	}
}

// stateOf says which flows a backend takes. Whether the last resort is needed is left
// to the forwarder, which decides it for the members of this node by themselves where a
// Local policy asks for these.
func stateOf(b *backend, near bool) pb.Member_State {
	switch {
	case b.rank == leaving:
		return pb.Member_SERVING
	case near:
		return pb.Member_READY
	case b.local:
		return pb.Member_LOCAL_ONLY
	}
	return pb.Member_DRAINING
}

// topology says which ready backends this node should use: those that are hinted for it,
// else those for its zone, else all. A kind of hint counts only where every ready backend
// has it and one is for here (kube-proxy's topologyModeFromHints).
func (p *pool) topology(v *model.View) func(*backend) bool {
	zone := ""
	if n := v.NodeNamed(v.Node); n != nil {
		zone = n.Labels[corev1.LabelTopologyZone]
	}
	forNode := func(b *backend) bool {
		return b.hints != nil && slices.ContainsFunc(b.hints.ForNodes, func(h discoveryv1.ForNode) bool { return h.Name == v.Node })
	}
	forZone := func(b *backend) bool {
		return b.hints != nil && slices.ContainsFunc(b.hints.ForZones, func(h discoveryv1.ForZone) bool { return h.Name == zone })
	}
	allNodes, anyNode, allZones, anyZone := true, false, true, false
	for i := range p.backends {
		b := &p.backends[i]
		if b.rank != ready || b.member == nil {
			continue
		}
		allNodes = allNodes && b.hints != nil && len(b.hints.ForNodes) > 0
		anyNode = anyNode || forNode(b)
		allZones = allZones && b.hints != nil && len(b.hints.ForZones) > 0
		anyZone = anyZone || forZone(b)
	}
	switch {
	case allNodes && anyNode:
		return forNode
	case allZones && anyZone:
		return forZone
	}
	return func(*backend) bool { return true }
}
