package journey

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Of follows a service. Samples are not taken yet: Samples says which to ask for.
func Of(v *View) *pb.ServiceJourney {
	x := v.index()
	j := &pb.ServiceJourney{
		Name: v.Balancer.GetName(), LoadBalancer: x.balancer, Generation: v.Generation, Node: x.node,
	}
	for _, name := range x.balancer.GetFloatingIps() {
		if a := x.address(name, v.Port != ""); a != nil {
			j.Addresses = append(j.Addresses, a)
		}
	}
	slices.SortStableFunc(j.GetAddresses(), func(a, b *pb.ServiceAddress) int { return cmp.Compare(a.GetUse(), b.GetUse()) })
	j.NetworkPolicies = x.networkPolicyMentions(j)
	j.SecurityPolicies = x.securityPolicyMentions(j)
	j.Problems = x.problems(j)
	return j
}

// address tells one floating IP; nil where a chosen port is not served at it.
func (x *index) address(name string, one bool) *pb.ServiceAddress {
	f := x.floating[name]
	at, network := x.place(f)
	a := &pb.ServiceAddress{
		FloatingIp: name, InstanceIp: f.GetParent(), VirtualNetwork: network,
		ExternalTrafficPolicy: policyOf(f.GetExternalTrafficPolicy()), InternalTrafficPolicy: policyOf(f.GetInternalTrafficPolicy()),
		SessionAffinity: f.GetSessionAffinity(), SourceRanges: f.GetSourceRanges(), HealthCheckPort: f.GetHealthCheck().GetPort(),
	}
	if at.IsValid() {
		a.Address = at.String()
	}
	for _, m := range f.GetFloatingIpPortMappings().GetPortMappings() {
		if !one || x.listenerOf(m) != nil {
			a.PortMappings = append(a.PortMappings, m)
		}
	}
	if one && len(a.GetPortMappings()) == 0 && f.GetFloatingIpPortMappings() != nil {
		return nil
	}
	a.Use = x.use(name, f, network)
	for _, m := range members(f) {
		a.Members = append(a.Members, x.member(m, a, at))
	}
	judge(a)
	for key, n := range x.sessions {
		if key[0] == name {
			a.Sessions += n
		}
	}
	taking := 0
	for _, m := range a.GetMembers() {
		if m.GetTakesFlows() {
			taking++
		}
	}
	a.NextHop = fmt.Sprintf("ECMP over %d of %d members", taking, len(a.GetMembers()))
	if len(a.GetMembers()) == 0 {
		a.NextHop = "none: there are no members"
	}
	return a
}

// use tells what kind of address a floating IP is.
func (x *index) use(name string, f *pb.FloatingIP, network string) pb.ServiceAddress_Use {
	switch {
	case f.GetParent() != "" && network != fabricNetwork:
		return pb.ServiceAddress_CLUSTER_IP
	case strings.Contains(name, ":loadbalancer-"):
		return pb.ServiceAddress_LOAD_BALANCER
	case slices.ContainsFunc(f.GetFloatingIpPortMappings().GetPortMappings(), func(m *pb.PortMapping) bool {
		l := x.listenerOf(m)
		return l != nil && l.GetNodePort() == m.GetSrcPort()
	}):
		return pb.ServiceAddress_NODE_PORT
	}
	return pb.ServiceAddress_EXTERNAL
}

// listenerOf finds the listener that a mapping serves, by its port or node port.
func (x *index) listenerOf(m *pb.PortMapping) *pb.Listener {
	for _, l := range x.balancer.GetListeners() {
		if serves(m, l) {
			return l
		}
	}
	return nil
}

// serves reports whether a mapping is of a listener.
func serves(m *pb.PortMapping, l *pb.Listener) bool {
	return (m.GetSrcPort() == l.GetPort() || m.GetSrcPort() == l.GetNodePort()) && tcpIfNone(m.GetProtocol()) == tcpIfNone(l.GetProtocol())
}

// member tells one member of an address; whether it takes flows is judged with all
// of them.
func (x *index) member(m *pb.Member, a *pb.ServiceAddress, family netip.Addr) *pb.ServiceMember {
	vmi := m.GetVirtualMachineInterface()
	s := &pb.ServiceMember{
		VirtualMachineInterface: vmi, Tunnel: m.GetTunnel(), State: cmp.Or(m.GetState(), pb.Member_READY),
		Sessions: x.sessions[[2]string{a.GetFloatingIp(), vmi}], Node: x.node,
	}
	if at := x.memberAddress(m, family); at.IsValid() {
		s.Address = at.String()
	}
	for _, mapping := range a.GetPortMappings() {
		s.TargetPorts = append(s.TargetPorts, targetPort(m, mapping))
	}
	here := x.interfaces[vmi] != nil
	switch {
	case m.GetTunnel() != nil:
		s.Node = cmp.Or(x.poolNodes[vmi], x.nodeOf(m.GetTunnel().GetRemote()))
	case !here:
		s.Node = cmp.Or(x.poolNodes[vmi], x.node)
	}
	s.Reason = x.obstacle(s, here)
	return s
}

// obstacle says why packets cannot get to a member; empty: they can.
func (x *index) obstacle(s *pb.ServiceMember, here bool) string {
	vmi := s.GetVirtualMachineInterface()
	if s.GetTunnel() != nil {
		if p := x.peers[address(s.GetTunnel().GetRemote())]; p.GetState() == pb.PeerStatus_DOWN {
			return because("node "+s.GetNode()+" is down", p.GetReason())
		}
		return ""
	}
	if !here {
		return "" // a host of the fabric
	}
	switch p := x.ports[vmi]; {
	case p == nil:
		return "not attached yet: the pod's interface has no port"
	case p.GetState() != pb.PortStatus_UP:
		return because("its port is "+strings.ToLower(p.GetState().String()), p.GetReason())
	case s.GetAddress() == "":
		return "it has no address of this family"
	}
	return ""
}

func because(what, why string) string {
	if why == "" {
		return what
	}
	return what + ": " + why
}

// judge says of each member whether it takes new flows, which depends on the others:
// those on their way out serve while nobody is ready.
func judge(a *pb.ServiceAddress) {
	ready := slices.ContainsFunc(a.GetMembers(), func(m *pb.ServiceMember) bool {
		return m.GetState() == pb.Member_READY && m.GetReason() == ""
	})
	local := pb.FloatingIP_LOCAL
	for _, m := range a.GetMembers() {
		away := m.GetTunnel() != nil
		switch {
		case m.GetState() == pb.Member_DRAINING:
			m.Reason = "draining: its live flows finish"
		case m.GetReason() != "":
		case m.GetState() == pb.Member_LOCAL_ONLY && (away || a.GetInternalTrafficPolicy() != local && a.GetExternalTrafficPolicy() != local):
			m.Reason = "left to nearer nodes and pods by topology"
		case m.GetState() == pb.Member_LOCAL_ONLY:
			m.TakesFlows, m.Reason = true, "where the traffic policy is Local only: topology leaves the rest to nearer ones"
		case m.GetState() == pb.Member_SERVING && ready:
			m.Reason = "terminating: serves only while nobody is ready"
		case away && a.GetInternalTrafficPolicy() == local && (a.GetExternalTrafficPolicy() == local || a.GetUse() == pb.ServiceAddress_CLUSTER_IP):
			m.Reason = "on another node, and the traffic policy is Local"
		case away && a.GetExternalTrafficPolicy() == local:
			m.TakesFlows, m.Reason = true, "no flows from outside: externalTrafficPolicy Local"
		case away && a.GetInternalTrafficPolicy() == local:
			m.TakesFlows, m.Reason = true, "no flows of this node: internalTrafficPolicy Local"
		default:
			m.TakesFlows = true
		}
	}
}

// targetPort is a mapping as a member has it.
func targetPort(m *pb.Member, mapping *pb.PortMapping) *pb.PortMapping {
	out := &pb.PortMapping{SrcPort: mapping.GetSrcPort(), DstPort: cmp.Or(mapping.GetDstPort(), mapping.GetSrcPort()), Protocol: tcpIfNone(mapping.GetProtocol())}
	for _, own := range m.GetTargetPorts() {
		if own.GetSrcPort() == mapping.GetSrcPort() && tcpIfNone(own.GetProtocol()) == out.GetProtocol() {
			out.DstPort = cmp.Or(own.GetDstPort(), own.GetSrcPort())
		}
	}
	return out
}

func tcpIfNone(p pb.Protocol_Value) pb.Protocol_Value { return cmp.Or(p, pb.Protocol_TCP) }

func policyOf(p pb.FloatingIP_TrafficPolicy) pb.FloatingIP_TrafficPolicy {
	return cmp.Or(p, pb.FloatingIP_CLUSTER)
}

func number(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
