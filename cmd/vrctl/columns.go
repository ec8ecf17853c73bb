package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/vrouter-go/vrouter/internal/statefile"
	vrouterv1 "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// resourceColumn is a column of a table of resources.
type resourceColumn = column[*vrouterv1.Resource]

// resourceColumns are the columns of a kind, between its name and what all kinds have.
func resourceColumns(kind string) []resourceColumn {
	columns := []resourceColumn{{title: "NAME", value: (*vrouterv1.Resource).GetName}}
	columns = append(columns, map[string][]resourceColumn{
		"VirtualNetwork": networkColumns, "VirtualMachineInterface": interfaceColumns, "InstanceIP": instanceColumns, "FloatingIP": floatingColumns,
		"LoadBalancer": balancerColumns, "NetworkPolicy": networkPolicyColumns, "AddressSet": addressSetColumns, "SecurityPolicy": securityPolicyColumns, "Route": routeColumns, "Fabric": fabricColumns, "Attachment": attachmentColumns,
	}[kind]...)
	return append(columns,
		resourceColumn{title: "OWNER", wide: true, value: (*vrouterv1.Resource).GetOwner},
		resourceColumn{title: "GENERATION", wide: true, value: func(r *vrouterv1.Resource) string { return strconv.FormatUint(r.GetGeneration(), 10) }},
	)
}

var networkColumns = []resourceColumn{
	{title: "SUBNETS", value: func(r *vrouterv1.Resource) string {
		return list(r.GetVirtualNetwork().GetSubnets(), (*vrouterv1.Subnet).GetPrefix)
	}},
	{title: "GATEWAYS", value: func(r *vrouterv1.Resource) string {
		return list(r.GetVirtualNetwork().GetSubnets(), (*vrouterv1.Subnet).GetGateway)
	}},
	{title: "VRF", wide: true, value: statefile.VRF},
	{title: "LABEL", wide: true, value: func(r *vrouterv1.Resource) string { return number(r.GetVirtualNetwork().GetLabel()) }},
	{title: "VNI", wide: true, value: func(r *vrouterv1.Resource) string { return number(r.GetVirtualNetwork().GetVni()) }},
}

var interfaceColumns = []resourceColumn{
	{title: "NETWORK", value: func(r *vrouterv1.Resource) string { return r.GetVirtualMachineInterface().GetVirtualNetwork() }},
	{title: "ADDRESSES", value: func(r *vrouterv1.Resource) string {
		return strings.Join(r.GetVirtualMachineInterface().GetAddresses(), ",")
	}},
	{title: "MAC", value: func(r *vrouterv1.Resource) string { return r.GetVirtualMachineInterface().GetMacAddress() }},
	{title: "LABELS", value: func(r *vrouterv1.Resource) string { return labels(r.GetVirtualMachineInterface().GetLabels()) }},
	{title: "NAMESPACE", wide: true, value: func(r *vrouterv1.Resource) string { return r.GetVirtualMachineInterface().GetNamespace() }},
	{title: "TAP", wide: true, value: func(r *vrouterv1.Resource) string { return r.GetVirtualMachineInterface().GetTap().GetName() }},
	{title: "NETNS", wide: true, value: func(r *vrouterv1.Resource) string { return r.GetVirtualMachineInterface().GetTap().GetNetns() }},
	{title: "MPLS LABEL", wide: true, value: func(r *vrouterv1.Resource) string { return number(r.GetVirtualMachineInterface().GetLabel()) }},
}

var instanceColumns = []resourceColumn{
	{title: "ADDRESS", value: func(r *vrouterv1.Resource) string { return r.GetInstanceIp().GetAddress() }},
	{title: "NETWORK", value: func(r *vrouterv1.Resource) string { return r.GetInstanceIp().GetVirtualNetwork() }},
	{title: "INTERFACES", value: func(r *vrouterv1.Resource) string {
		return strings.Join(r.GetInstanceIp().GetVirtualMachineInterfaces(), ",")
	}},
}

var floatingColumns = []resourceColumn{
	{title: "ADDRESS", value: func(r *vrouterv1.Resource) string {
		if parent := r.GetFloatingIp().GetParent(); r.GetFloatingIp().GetAddress() == "" && parent != "" {
			return "of " + parent
		}
		return r.GetFloatingIp().GetAddress()
	}},
	{title: "NETWORK", value: func(r *vrouterv1.Resource) string { return r.GetFloatingIp().GetVirtualNetwork() }},
	{title: "PORTS", value: func(r *vrouterv1.Resource) string {
		mappings := r.GetFloatingIp().GetFloatingIpPortMappings()
		if mappings == nil {
			return "all"
		}
		return list(mappings.GetPortMappings(), portMapping)
	}},
	{title: "MEMBERS", value: func(r *vrouterv1.Resource) string { return list(members(r.GetFloatingIp()), member) }},
	{title: "TUNNELS", wide: true, value: func(r *vrouterv1.Resource) string {
		return list(r.GetFloatingIp().GetMembers(), func(m *vrouterv1.Member) string {
			if m.GetTunnel() == nil {
				return ""
			}
			return m.GetVirtualMachineInterface() + " at " + m.GetAddress() + " by " + tunnel(m.GetTunnel())
		})
	}},
	{title: "AFFINITY", wide: true, value: func(r *vrouterv1.Resource) string {
		if a := r.GetFloatingIp().GetSessionAffinity(); a.GetType() == vrouterv1.SessionAffinity_CLIENT_IP {
			return "CLIENT_IP"
		}
		return "NONE"
	}},
	{title: "DIRECTION", wide: true, value: func(r *vrouterv1.Resource) string {
		if d := r.GetFloatingIp().GetDirection(); d != vrouterv1.FloatingIP_DIRECTION_UNSPECIFIED {
			return d.String()
		}
		return "INGRESS"
	}},
}

// members of a floating IP, the short form written out.
func members(f *vrouterv1.FloatingIP) []*vrouterv1.Member {
	all := slices.Clone(f.GetMembers())
	for _, name := range f.GetVirtualMachineInterfaces() {
		all = append(all, &vrouterv1.Member{VirtualMachineInterface: name})
	}
	return all
}

// member writes web-1, or web-1(DRAINING,×2) where it is not an ordinary one.
func member(m *vrouterv1.Member) string {
	var notes []string
	if s := m.GetState(); s != vrouterv1.Member_STATE_UNSPECIFIED && s != vrouterv1.Member_READY {
		notes = append(notes, s.String())
	}
	if m.GetWeight() > 1 {
		notes = append(notes, fmt.Sprintf("×%d", m.GetWeight()))
	}
	if m.GetTunnel() != nil {
		notes = append(notes, "on "+m.GetTunnel().GetRemote())
	}
	if m.GetHost() {
		notes = append(notes, "host "+m.GetAddress())
	}
	if len(notes) == 0 {
		return m.GetVirtualMachineInterface()
	}
	return m.GetVirtualMachineInterface() + "(" + strings.Join(notes, " ") + ")"
}

// portMapping writes 80→8080/TCP, or 80/TCP where the port stays.
func portMapping(m *vrouterv1.PortMapping) string {
	protocol := "TCP"
	if m.GetProtocol() != vrouterv1.Protocol_PROTOCOL_UNSPECIFIED {
		protocol = m.GetProtocol().String()
	}
	if m.GetDstPort() == 0 || m.GetDstPort() == m.GetSrcPort() {
		return fmt.Sprintf("%d/%s", m.GetSrcPort(), protocol)
	}
	return fmt.Sprintf("%d→%d/%s", m.GetSrcPort(), m.GetDstPort(), protocol)
}

var balancerColumns = []resourceColumn{
	{title: "SERVICE", value: func(r *vrouterv1.Resource) string { return serviceName(r.GetLoadBalancer().GetService()) }},
	{title: "TYPE", value: func(r *vrouterv1.Resource) string { return serviceType(r.GetLoadBalancer().GetService()) }},
	{title: "LISTENERS", value: func(r *vrouterv1.Resource) string { return list(r.GetLoadBalancer().GetListeners(), listener) }},
	{title: "READY", value: func(r *vrouterv1.Resource) string { return list(r.GetLoadBalancer().GetListeners(), readyMembers) }},
	{title: "FLOATING IPS", wide: true, value: func(r *vrouterv1.Resource) string {
		return strings.Join(r.GetLoadBalancer().GetFloatingIps(), ",")
	}},
	{title: "INSTANCE IPS", wide: true, value: func(r *vrouterv1.Resource) string {
		return strings.Join(r.GetLoadBalancer().GetInstanceIps(), ",")
	}},
	{title: "PROVIDER", wide: true, value: func(*vrouterv1.Resource) string { return vrouterv1.LoadBalancer_NATIVE.String() }},
}

// serviceName writes namespace/name, and nothing where no service is named.
func serviceName(s *vrouterv1.ServiceReference) string {
	if s.GetNamespace() == "" {
		return s.GetName()
	}
	return s.GetNamespace() + "/" + s.GetName()
}

// serviceType is a service's type, the default written out.
func serviceType(s *vrouterv1.ServiceReference) string {
	if s == nil || s.GetType() != "" {
		return s.GetType()
	}
	return "ClusterIP"
}

// listener writes http:80:31050→8080/TCP: name, port and node port, target port as the owner wrote it, protocol.
func listener(l *vrouterv1.Listener) string {
	text := strconv.Itoa(int(l.GetPort()))
	if l.GetName() != "" {
		text = l.GetName() + ":" + text
	}
	if l.GetNodePort() != 0 {
		text += ":" + number(l.GetNodePort())
	}
	if target := l.GetPool().GetTargetPort(); target != "" && target != number(l.GetPort()) {
		text += "→" + target
	}
	return text + "/" + listenerProtocol(l).String()
}

// listenerProtocol is a listener's protocol, the default filled in.
func listenerProtocol(l *vrouterv1.Listener) vrouterv1.Protocol_Value {
	if l.GetProtocol() == vrouterv1.Protocol_PROTOCOL_UNSPECIFIED {
		return vrouterv1.Protocol_TCP
	}
	return l.GetProtocol()
}

// readyMembers writes how many of a listener's members are ready: 2/3.
func readyMembers(l *vrouterv1.Listener) string {
	ready := 0
	for _, m := range l.GetPool().GetMembers() {
		if s := m.GetState(); s == vrouterv1.Member_STATE_UNSPECIFIED || s == vrouterv1.Member_READY {
			ready++
		}
	}
	return fmt.Sprintf("%d/%d", ready, len(l.GetPool().GetMembers()))
}

var networkPolicyColumns = []resourceColumn{
	{title: "NETWORKS", value: func(r *vrouterv1.Resource) string {
		return strings.Join(r.GetNetworkPolicy().GetVirtualNetworks(), ",")
	}},
	{title: "RULES", value: func(r *vrouterv1.Resource) string { return strconv.Itoa(len(r.GetNetworkPolicy().GetRules())) }},
	{title: "IN ORDER", wide: true, value: func(r *vrouterv1.Resource) string {
		var rules []string
		for _, rule := range r.GetNetworkPolicy().GetRules() {
			rules = append(rules, networkRule(rule))
		}
		return strings.Join(rules, "; ")
	}},
}

// networkRule writes a rule as Contrail does: PASS TCP pods <> services 80.
func networkRule(r *vrouterv1.NetworkPolicyRule) string {
	arrow, protocol := ">", "ANY"
	if r.GetDirection() == vrouterv1.NetworkPolicyRule_BOTH {
		arrow = "<>"
	}
	if p := r.GetProtocol(); p != vrouterv1.Protocol_PROTOCOL_UNSPECIFIED {
		protocol = p.String()
	}
	words := []string{enumName(r.GetAction()), protocol, endpoint(r.GetSource()), arrow, endpoint(r.GetDestination())}
	for _, p := range r.GetDestinationPorts() {
		words = append(words, portRange(p))
	}
	return strings.Join(words, " ")
}

func endpoint(e *vrouterv1.PolicyEndpoint) string {
	switch {
	case e.GetVirtualNetwork() != "" && e.GetPrefix() != "":
		return e.GetVirtualNetwork() + ":" + e.GetPrefix()
	case e.GetVirtualNetwork() != "":
		return e.GetVirtualNetwork()
	case e.GetPrefix() != "":
		return e.GetPrefix()
	}
	return "any"
}

func portRange(p *vrouterv1.PortRange) string {
	if p.GetEnd() == 0 || p.GetEnd() == p.GetStart() {
		return strconv.Itoa(int(p.GetStart()))
	}
	return fmt.Sprintf("%d-%d", p.GetStart(), p.GetEnd())
}

var addressSetColumns = []resourceColumn{
	{title: "ADDRESSES", value: func(r *vrouterv1.Resource) string { return strconv.Itoa(len(r.GetAddressSet().GetAddresses())) }},
	{title: "LIST", wide: true, value: func(r *vrouterv1.Resource) string { return strings.Join(r.GetAddressSet().GetAddresses(), ",") }},
}

// policyTier writes a security policy's tier, and its priority where it has one.
func policyTier(r *vrouterv1.Resource) string {
	switch p := r.GetSecurityPolicy(); p.GetTier() {
	case vrouterv1.SecurityPolicy_ADMIN, vrouterv1.SecurityPolicy_BASELINE:
		return fmt.Sprintf("%s %d", p.GetTier(), p.GetPriority())
	}
	return "NAMESPACE"
}

var securityPolicyColumns = []resourceColumn{
	{title: "TIER", value: policyTier},
	{title: "NAMESPACE", value: func(r *vrouterv1.Resource) string { return r.GetSecurityPolicy().GetNamespace() }},
	{title: "SUBJECT", value: func(r *vrouterv1.Resource) string { return selector(r.GetSecurityPolicy().GetSubject()) }},
	{title: "INGRESS RULES", value: func(r *vrouterv1.Resource) string { return strconv.Itoa(len(r.GetSecurityPolicy().GetIngress())) }},
	{title: "EGRESS RULES", value: func(r *vrouterv1.Resource) string { return strconv.Itoa(len(r.GetSecurityPolicy().GetEgress())) }},
	{title: "ISOLATES", value: func(r *vrouterv1.Resource) string {
		policy := r.GetSecurityPolicy()
		if types := policy.GetPolicyTypes(); len(types) > 0 {
			return list(types, vrouterv1.SecurityPolicy_PolicyType.String)
		}
		if len(policy.GetEgress()) > 0 {
			return "INGRESS,EGRESS"
		}
		return "INGRESS"
	}},
}

// selector writes a label selector as kubectl does; an empty one selects all.
func selector(s *vrouterv1.LabelSelector) string {
	var parts []string
	if text := labels(s.GetMatchLabels()); text != "" {
		parts = append(parts, text)
	}
	for _, e := range s.GetMatchExpressions() {
		text := e.GetKey() + " " + e.GetOperator()
		if len(e.GetValues()) > 0 {
			text += "(" + strings.Join(e.GetValues(), ",") + ")"
		}
		parts = append(parts, text)
	}
	if len(parts) == 0 {
		return "all"
	}
	return strings.Join(parts, ",")
}

var routeColumns = []resourceColumn{
	{title: "VRF", value: func(r *vrouterv1.Resource) string { return r.GetRoute().GetVrf() }},
	{title: "PREFIX", value: func(r *vrouterv1.Resource) string { return routeSubject(r.GetRoute()) }},
	{title: "NEXT HOPS", value: func(r *vrouterv1.Resource) string {
		return list(r.GetRoute().GetNextHops(), func(n *vrouterv1.NextHop) string {
			if n.GetWeight() > 1 {
				return fmt.Sprintf("%s ×%d", nextHop(n), n.GetWeight())
			}
			return nextHop(n)
		})
	}},
	{title: "TUNNELS", wide: true, value: func(r *vrouterv1.Resource) string {
		return list(r.GetRoute().GetNextHops(), func(n *vrouterv1.NextHop) string {
			if n.GetTunnel() == nil {
				return ""
			}
			return tunnel(n.GetTunnel())
		})
	}},
}

// tunnel writes all that a tunnel says: 192.0.2.12 label 100017 vni 4097 (VXLAN).
func tunnel(t *vrouterv1.Tunnel) string {
	text := t.GetRemote()
	if t.GetLabel() != 0 {
		text += " label " + number(t.GetLabel())
	}
	if t.GetVni() != 0 {
		text += " vni " + number(t.GetVni())
	}
	if t.GetMacAddress() != "" {
		text += " to " + t.GetMacAddress()
	}
	if len(t.GetEncapsulations()) > 0 {
		var names []string
		for _, e := range t.GetEncapsulations() {
			names = append(names, e.String())
		}
		text += " (" + strings.Join(names, " ") + ")"
	}
	return text
}

// number writes a number, and nothing for 0, which stands for none.
func number(n uint32) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(n), 10)
}

// routeSubject is what a route is for: a prefix, a MAC address, or all of the network.
func routeSubject(r *vrouterv1.Route) string {
	switch {
	case r.GetMacAddress() != "":
		return "mac " + r.GetMacAddress()
	case r.GetFlood():
		return "flood"
	}
	return r.GetPrefix()
}

func nextHop(n *vrouterv1.NextHop) string {
	switch t := n.GetTarget().(type) {
	case *vrouterv1.NextHop_Interface:
		return "interface " + t.Interface
	case *vrouterv1.NextHop_Vrf:
		return "vrf " + t.Vrf
	case *vrouterv1.NextHop_Receive:
		return "receive"
	case *vrouterv1.NextHop_Discard:
		return "discard"
	case *vrouterv1.NextHop_Tunnel:
		return "tunnel " + t.Tunnel.GetRemote()
	}
	return "unknown"
}

var fabricColumns = []resourceColumn{
	{title: "NODE ADDRESSES", value: func(r *vrouterv1.Resource) string { return strings.Join(r.GetFabric().GetNodeAddresses(), ",") }},
	{title: "VHOST0 ADDRESSES", value: func(r *vrouterv1.Resource) string {
		return strings.Join(r.GetFabric().GetVhost0().GetAddresses(), ",")
	}},
	{title: "UPLINK", value: func(r *vrouterv1.Resource) string { return r.GetFabric().GetUplink().GetDevice() }},
	{title: "PEERS", value: func(r *vrouterv1.Resource) string { return number(uint32(len(r.GetFabric().GetPeers()))) }},
	{title: "DEVICE", wide: true, value: func(r *vrouterv1.Resource) string { return r.GetFabric().GetVhost0().GetName() }},
	{title: "ROUTES", wide: true, value: func(r *vrouterv1.Resource) string {
		return strings.Join(r.GetFabric().GetVhost0().GetRoutes(), ",")
	}},
}

var attachmentColumns = []resourceColumn{
	{title: "NETWORK", value: func(r *vrouterv1.Resource) string { return r.GetAttachment().GetVirtualNetwork() }},
	{title: "ADDRESSES", value: func(r *vrouterv1.Resource) string { return strings.Join(r.GetAttachment().GetAddresses(), ",") }},
	{title: "HOST PORTS", value: func(r *vrouterv1.Resource) string { return list(r.GetAttachment().GetHostPorts(), hostPort) }},
	{title: "CONTAINER", value: func(r *vrouterv1.Resource) string { return short(r.GetAttachment().GetContainerId()) }},
	{title: "MAC", wide: true, value: func(r *vrouterv1.Resource) string { return r.GetAttachment().GetMacAddress() }},
	{title: "NETNS", wide: true, value: func(r *vrouterv1.Resource) string { return r.GetAttachment().GetNetns() }},
	{title: "UID", wide: true, value: func(r *vrouterv1.Resource) string { return r.GetAttachment().GetUid() }},
	{title: "CONFIGURATION", wide: true, value: func(r *vrouterv1.Resource) string { return r.GetAttachment().GetConfiguration() }},
}

// hostPort writes 8080→80/TCP, and the address before it where it is for one alone.
func hostPort(h *vrouterv1.HostPort) string {
	text := portMapping(&vrouterv1.PortMapping{SrcPort: h.GetHostPort(), DstPort: h.GetContainerPort(), Protocol: h.GetProtocol()})
	if h.GetHostIp() == "" {
		return text
	}
	return h.GetHostIp() + " " + text
}

// short writes a container's id as container runtimes do.
func short(id string) string {
	const shown = 12
	return id[:min(len(id), shown)]
}

// list joins the texts of items by commas, empty ones left out.
func list[T any](items []T, text func(T) string) string {
	var parts []string
	for _, item := range items {
		if s := text(item); s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, ",")
}

func labels(m map[string]string) string {
	return list(slices.Sorted(maps.Keys(m)), func(k string) string { return k + "=" + m[k] })
}
