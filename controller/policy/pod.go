package policy

import (
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Pod is what policies ask of a pod. It does not change once an Index has it.
type Pod struct {
	Namespace, Name, UID string
	Labels               map[string]string
	// IPs of the pod, of both families; none: not known yet.
	IPs []netip.Addr
	// NamedPorts of its containers.
	NamedPorts []NamedPort
	// Local pods have their interface on this node.
	Local bool
	// HostNetwork pods are their node: no policy selects them, and they are nobody's
	// peers, whatever address the node has.
	HostNetwork bool
	// Finished pods have ended for good, and another may have their addresses.
	Finished bool
}

// NamedPort is a container port that has a name.
type NamedPort struct {
	Name     string
	Protocol corev1.Protocol // empty: TCP
	Port     uint16
}

// Namespace is a namespace with its labels.
type Namespace struct {
	Name   string
	Labels map[string]string
}

// podKey names a pod.
type podKey struct{ namespace, name string }

// counts reports whether policies know the pod.
func (p *Pod) counts() bool { return p != nil && !p.HostNetwork && !p.Finished }

// same reports whether two states of a pod mean the same to policies.
func (p *Pod) same(o *Pod) bool {
	return p.UID == o.UID && p.Local == o.Local && p.HostNetwork == o.HostNetwork && p.Finished == o.Finished &&
		slices.Equal(p.IPs, o.IPs) && slices.Equal(p.NamedPorts, o.NamedPorts) && maps.Equal(p.Labels, o.Labels)
}

// NamedPorts returns the ports of a pod as its interface carries them. Those of other
// protocols than TCP, UDP and SCTP are left out.
func NamedPorts(p *Pod) []*pb.NamedPort {
	var list []*pb.NamedPort
	for _, n := range p.NamedPorts {
		if proto, ok := protocolOf(&n.Protocol); ok && n.Name != "" && n.Port != 0 {
			list = append(list, &pb.NamedPort{Name: n.Name, Protocol: proto, Port: uint32(n.Port)})
		}
	}
	return list
}

// protocolOf returns the API's protocol, TCP where none is given, and false for one
// that it does not have.
func protocolOf(p *corev1.Protocol) (pb.Protocol_Value, bool) {
	if p == nil {
		return pb.Protocol_TCP, true
	}
	switch *p {
	case corev1.ProtocolTCP, "":
		return pb.Protocol_TCP, true
	case corev1.ProtocolUDP:
		return pb.Protocol_UDP, true
	case corev1.ProtocolSCTP:
		return pb.Protocol_SCTP, true
	}
	return 0, false
}
