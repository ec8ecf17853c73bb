// Package service turns a Kubernetes Service with its endpoints into what a vRouter
// serves: a LoadBalancer for people to read, an InstanceIP for each cluster IP and a
// FloatingIP for each address. It decides who may be reached and in which case; the
// forwarder picks.
package service

import (
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/vrouter-go/vrouter/controller/model"
	"github.com/vrouter-go/vrouter/controller/network"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Options are what an operator decides.
type Options struct {
	// ExternalIPs serves the externalIPs of Services. Whoever may write a Service takes
	// any address of the network with them (CVE-2020-8554), so the default is not to.
	ExternalIPs bool
	// NodePortAddresses hold the addresses of this node that NodePorts are open at.
	// Empty: its primary address of each family.
	NodePortAddresses []netip.Prefix
	// NodeAddresses are addresses of this node that its Node object does not have.
	NodeAddresses []netip.Addr
}

// labelProxyName marks services that somebody else proxies.
const labelProxyName = "service.kubernetes.io/service-proxy-name"

// Proxied reports whether a service is served by vRouters: not where it has no cluster
// IP, or somebody else proxies it.
func Proxied(svc *corev1.Service) bool {
	if svc == nil || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return false
	}
	if _, other := svc.Labels[labelProxyName]; other {
		return false
	}
	return svc.Spec.ClusterIP != "" && svc.Spec.ClusterIP != corev1.ClusterIPNone
}

// Compiler turns services into resources. It keeps nothing: the same arguments give the
// same resources.
type Compiler struct {
	View    *model.View
	Plan    *network.Plan
	Options Options
	// Owns reports whether a service is the one that has a frontend. Nil: every service
	// has its own.
	Owns func(service model.Name, f Frontend) bool
}

// Compile returns the resources of a service, none where it is not proxied or does not
// exist.
func (c *Compiler) Compile(name model.Name) []*pb.Resource {
	svc := c.View.Service(name)
	if !Proxied(svc) {
		return nil
	}
	j := &job{Compiler: c, name: name, svc: svc, served: map[Frontend]struct{}{}}
	r := &resolver{view: c.View, plan: c.Plan}
	slicesOf := c.View.Slices(name)
	for _, is4 := range [...]bool{true, false} {
		addresses := c.addresses(name, svc, is4)
		if len(addresses) == 0 {
			continue
		}
		pools := r.pools(svc, slicesOf, is4)
		j.pools = append(j.pools, pools)
		groups := grouped(pools)
		for _, a := range addresses {
			j.serve(a, groups)
		}
	}
	j.loadBalancer()
	return j.resources
}

// job is the compilation of one service.
type job struct {
	*Compiler
	name        model.Name
	svc         *corev1.Service
	pools       [][]pool // of each family that it has
	resources   []*pb.Resource
	served      map[Frontend]struct{}
	instanceIPs []string
	floatingIPs []string
}

// group is ports with the same members in the same states; their target ports may
// differ. One floating IP serves them.
type group struct{ pools []*pool }

// grouped puts the ports of a service together that have the same members. Usually all
// have; not where a pod lacks a port of that name.
func grouped(pools []pool) []group {
	var groups []group
next:
	for i := range pools {
		for g := range groups {
			if sameMembers(groups[g].pools[0].members, pools[i].members) {
				groups[g].pools = append(groups[g].pools, &pools[i])
				continue next
			}
		}
		groups = append(groups, group{pools: []*pool{&pools[i]}})
	}
	return groups
}

func sameMembers(a, b []*pb.Member) bool {
	return slices.EqualFunc(a, b, func(x, y *pb.Member) bool {
		return x.GetVirtualMachineInterface() == y.GetVirtualMachineInterface() && x.GetState() == y.GetState() &&
			x.GetAddress() == y.GetAddress() && x.GetHost() == y.GetHost() && x.GetTunnel().GetRemote() == y.GetTunnel().GetRemote()
	})
}

// serve writes the floating IPs of one address: one for each group of ports.
func (j *job) serve(a address, groups []group) {
	name := model.ResourceName(j.name.Namespace, j.name.Name, a.part)
	parent := ""
	if a.cluster && !a.guest {
		parent = name
	}
	made := false
	for i, g := range groups {
		fip := j.floatingIP(a, g)
		if len(fip.GetFloatingIpPortMappings().GetPortMappings()) == 0 {
			continue // without, it would serve everything
		}
		fip.Parent = parent
		if parent == "" {
			fip.Address, fip.VirtualNetwork = a.addr.String(), a.network
		}
		called := name
		if i > 0 {
			called = model.ResourceName(j.name.Namespace, j.name.Name, a.part, portName(g.pools[0].port))
		}
		j.add(called, &pb.Resource{Spec: &pb.Resource_FloatingIp{FloatingIp: fip}})
		j.floatingIPs = append(j.floatingIPs, called)
		made = true
	}
	if parent != "" && made {
		j.add(name, &pb.Resource{Spec: &pb.Resource_InstanceIp{InstanceIp: &pb.InstanceIP{
			Address: a.addr.String(), VirtualNetwork: j.Plan.Of(j.name.Namespace).Services,
		}}})
		j.instanceIPs = append(j.instanceIPs, name)
	}
}

func (j *job) add(name string, r *pb.Resource) {
	r.Name = name
	j.resources = append(j.resources, r)
}

// portName tells the port of a service from its others in the name of a resource.
func portName(p *corev1.ServicePort) string {
	if p.Name != "" {
		return p.Name
	}
	return strconv.Itoa(int(p.Port)) + "-" + string(protocolOf(p))
}

// floatingIP is the floating IP of a group of ports at an address.
func (j *job) floatingIP(a address, g group) *pb.FloatingIP {
	fip := &pb.FloatingIP{FloatingIpPortMappings: &pb.FloatingIpPortMappings{}, SessionAffinity: affinityOf(j.svc)}
	var served []*pool
	for _, p := range g.pools {
		m := mapping(a, p)
		if m == nil || len(served) == maxPorts || !j.owns(a.frontend(m.GetProtocol(), m.GetSrcPort())) {
			continue
		}
		at := Frontend{Network: a.network, Address: a.addr, Protocol: m.GetProtocol(), Port: uint16(m.GetSrcPort())}
		if _, twice := j.served[at]; twice { // a port of the service that is another's node port, at one address
			continue
		}
		j.served[at] = struct{}{}
		fip.FloatingIpPortMappings.PortMappings = append(fip.FloatingIpPortMappings.PortMappings, m)
		served = append(served, p)
	}
	fip.Members = members(fip.FloatingIpPortMappings.PortMappings, served)
	if a.guest {
		fip.Members = through(fip.Members, a.number)
	}
	switch {
	case a.cluster && j.svc.Spec.InternalTrafficPolicy != nil && *j.svc.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal:
		// Whoever calls the cluster IP, from outside as well.
		fip.InternalTrafficPolicy, fip.ExternalTrafficPolicy = pb.FloatingIP_LOCAL, pb.FloatingIP_LOCAL
	case !a.cluster && j.svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal:
		fip.ExternalTrafficPolicy = pb.FloatingIP_LOCAL
	}
	if a.balanced {
		fip.SourceRanges = sourceRanges(j.svc, a.addr.Is4())
	}
	if a.cluster && !a.guest {
		fip.HealthCheck = j.healthCheck(a.addr.Is4())
	}
	return fip
}

func (j *job) owns(f Frontend) bool { return j.Owns == nil || j.Owns(j.name, f) }

// mapping is the service port of a pool as it is at an address, nil where it is not served
// there.
func mapping(a address, p *pool) *pb.PortMapping {
	port := p.port.Port
	if a.node {
		port = p.port.NodePort
	}
	proto := protocolNumber(p.port)
	if port < 1 || port > 65535 || proto == pb.Protocol_PROTOCOL_UNSPECIFIED {
		return nil
	}
	m := &pb.PortMapping{SrcPort: uint32(port), Protocol: proto, DstPort: uint32(p.usual())}
	if m.DstPort == 0 {
		m.DstPort = uint32(p.port.Port) // nobody serves; not the node's port in any case
		if n := p.port.TargetPort.IntValue(); n > 0 && n <= 65535 {
			m.DstPort = uint32(n)
		}
	}
	return m
}

// usual is the target port that most members have, the lowest of several; 0 without
// members.
func (p *pool) usual() uint16 {
	counts := map[uint16]int{}
	best := uint16(0)
	for _, t := range p.targets {
		counts[t]++
	}
	for t, n := range counts {
		if best == 0 || n > counts[best] || n == counts[best] && t < best {
			best = t
		}
	}
	return best
}

// members returns the members of a group, with the target ports in which they differ from
// the mappings. Where none does, the list is that of the first pool.
func members(mappings []*pb.PortMapping, pools []*pool) []*pb.Member {
	if len(pools) == 0 {
		return nil
	}
	list := pools[0].members
	copied := false
	for i, p := range pools {
		for k, target := range p.targets {
			if uint32(target) == mappings[i].GetDstPort() {
				continue
			}
			if !copied {
				list, copied = cloneMembers(list), true
			}
			list[k].TargetPorts = append(list[k].TargetPorts, &pb.PortMapping{
				SrcPort: mappings[i].GetSrcPort(), DstPort: uint32(target), Protocol: mappings[i].GetProtocol(),
			})
		}
	}
	return list
}

// through returns members with tunnels that have a number for identifier.
func through(list []*pb.Member, number uint32) []*pb.Member {
	clones := cloneMembers(list)
	for i, m := range clones {
		m.TargetPorts = list[i].GetTargetPorts()
		if t := m.GetTunnel(); t != nil {
			m.Tunnel = &pb.Tunnel{Remote: t.GetRemote(), Label: number, Vni: number}
		}
	}
	return clones
}

func cloneMembers(list []*pb.Member) []*pb.Member {
	clones := make([]*pb.Member, len(list))
	for i, m := range list {
		clones[i] = &pb.Member{
			VirtualMachineInterface: m.GetVirtualMachineInterface(), State: m.GetState(), Address: m.GetAddress(),
			Tunnel: m.GetTunnel(), Host: m.GetHost(),
		}
	}
	return clones
}

func protocolNumber(p *corev1.ServicePort) pb.Protocol_Value {
	switch protocolOf(p) {
	case corev1.ProtocolTCP:
		return pb.Protocol_TCP
	case corev1.ProtocolUDP:
		return pb.Protocol_UDP
	case corev1.ProtocolSCTP:
		return pb.Protocol_SCTP
	}
	return pb.Protocol_PROTOCOL_UNSPECIFIED
}

// maxPorts is the most mappings that a floating IP takes.
const maxPorts = 1024

// maxAffinity is a day, the most that Kubernetes and the vRouter take.
const maxAffinity = 86400

func affinityOf(svc *corev1.Service) *pb.SessionAffinity {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return nil
	}
	a := &pb.SessionAffinity{Type: pb.SessionAffinity_CLIENT_IP, TimeoutSeconds: uint32(corev1.DefaultClientIPServiceAffinitySeconds)}
	if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		if n := *c.ClientIP.TimeoutSeconds; n > 0 && n <= maxAffinity {
			a.TimeoutSeconds = uint32(n)
		}
	}
	return a
}
