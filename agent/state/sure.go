package state

import (
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// A cluster's service addresses are most of what a node is told, and the rules in
// the messages are interpreted: 100,000 members would take seconds. sure says yes
// to what is right at a glance. It knows less than the rules and never more: what
// it does not know, any field that is new included, goes to the rules, which also
// say what is wrong.

// sure reports whether a resource keeps the rules of its message beyond doubt.
func sure(res *pb.Resource) bool {
	if res.GetName() == "" || !sureName(res.GetName()) {
		return false
	}
	switch x := res.GetSpec().(type) {
	case *pb.Resource_InstanceIp:
		ip := x.InstanceIp
		return holdsOnly(ip, 1, 2) && ip.GetAddress() != "" && sureAddress(ip.GetAddress()) && ip.GetVirtualNetwork() != "" && sureName(ip.GetVirtualNetwork())
	case *pb.Resource_FloatingIp:
		return sureFloatingIP(x.FloatingIp)
	}
	return false
}

// holdsOnly reports whether no fields but these are set in a message.
func holdsOnly(m proto.Message, fields ...protoreflect.FieldNumber) bool {
	only := true
	m.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		only = slices.Contains(fields, fd.Number())
		return only
	})
	return only
}

func sureFloatingIP(f *pb.FloatingIP) bool {
	switch {
	case !holdsOnly(f, 1, 2, 3, 5, 7, 11, 12),
		f.GetAddress() == "" && f.GetParent() == "", f.GetAddress() != "" && f.GetVirtualNetwork() == "",
		!sureAddress(f.GetAddress()), !sureName(f.GetVirtualNetwork()), !sureName(f.GetParent()),
		!surePolicy(f.GetExternalTrafficPolicy()), !surePolicy(f.GetInternalTrafficPolicy()),
		!sureMappings(f.GetFloatingIpPortMappings().GetPortMappings()), len(f.GetMembers()) > 4096:
		return false
	}
	seen := make(map[string]struct{}, len(f.GetMembers()))
	for _, m := range f.GetMembers() {
		if !sureMember(m) {
			return false
		}
		seen[m.GetVirtualMachineInterface()] = struct{}{}
	}
	return len(seen) == len(f.GetMembers())
}

func surePolicy(p pb.FloatingIP_TrafficPolicy) bool {
	return p >= pb.FloatingIP_TRAFFIC_POLICY_UNSPECIFIED && p <= pb.FloatingIP_LOCAL
}

func sureMember(m *pb.Member) bool {
	switch {
	case !holdsOnly(m, 1, 2, 3, 4, 5, 6),
		m.GetVirtualMachineInterface() == "" || !sureName(m.GetVirtualMachineInterface()),
		m.GetState() < pb.Member_STATE_UNSPECIFIED || m.GetState() > pb.Member_DRAINING,
		m.GetWeight() > 256, !sureMappings(m.GetTargetPorts()), !sureAddress(m.GetAddress()):
		return false
	}
	t := m.GetTunnel()
	return t == nil || m.GetAddress() != "" && holdsOnly(t, 1, 2, 3) && t.GetRemote() != "" && sureAddress(t.GetRemote()) &&
		(t.GetLabel() != 0 || t.GetVni() != 0) && (t.GetLabel() == 0 || t.GetLabel() >= 16) && t.GetLabel() <= 1<<20-1 && t.GetVni() <= 1<<24-1
}

// sureMappings looks at a short list of port mappings.
func sureMappings(list []*pb.PortMapping) bool {
	for i, m := range list {
		switch {
		case i == 16, !holdsOnly(m, 1, 2, 3), m.GetSrcPort() == 0, m.GetSrcPort() > 65535, m.GetDstPort() > 65535,
			slices.ContainsFunc(list[:i], func(o *pb.PortMapping) bool { return o.GetSrcPort() == m.GetSrcPort() && Protocol(o) == Protocol(m) }):
			return false
		}
		switch m.GetProtocol() {
		case pb.Protocol_PROTOCOL_UNSPECIFIED, pb.Protocol_TCP, pb.Protocol_UDP, pb.Protocol_SCTP:
		default:
			return false
		}
	}
	return true
}

// sureName accepts nothing that the rule vrouter.name refuses.
func sureName(s string) bool {
	if s == "" {
		return true
	}
	for i := range len(s) {
		switch c := s[i]; {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
		case (c == '-' || c == '_' || c == '.' || c == ':') && i > 0 && i < len(s)-1:
		default:
			return false
		}
	}
	return len(s) <= 253
}

// sureAddress accepts nothing that the rule vrouter.address refuses.
func sureAddress(s string) bool {
	if s == "" {
		return true
	}
	a, err := netip.ParseAddr(s)
	return err == nil && a.Zone() == ""
}
