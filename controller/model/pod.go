package model

import (
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Pod is what the control plane keeps of a pod. A cluster has 150,000 of them, and
// a corev1.Pod takes more than ten times the memory.
//
// It is immutable once the View has it.
type Pod struct {
	// ObjectMeta has name, namespace, uid, resource version, labels and the time
	// of deletion, and nothing else.
	metav1.ObjectMeta
	// Node that the pod is bound to; empty: none yet.
	Node string
	// HostNetwork says that the pod has no interface of its own.
	HostNetwork bool
	// Sandbox is the uid by which the container runtime knows the pod. A static pod's is
	// the one that its kubelet gave it, not that of the object by which others see it.
	Sandbox types.UID
	// Finished pods have ended for good: their addresses may be another's by now.
	Finished bool
	// IPs of the pod, at most one of each family.
	IPs []netip.Addr
	// Ports are the container ports that have a name.
	Ports []NamedPort
}

// NamedPort is a container port that policies and services may name.
type NamedPort struct {
	Name     string
	Port     uint16
	Protocol corev1.Protocol
}

// HasInterface reports whether the pod has, or is going to have, an interface of
// the vRouter of its node.
func (p *Pod) HasInterface() bool { return p.Node != "" && !p.HostNetwork && !p.Finished }

// Interface returns the name of the pod's VirtualMachineInterface.
func (p *Pod) Interface() string { return ResourceName(p.Namespace, p.Name) }

// NewPod keeps what is needed of a pod.
func NewPod(pod *corev1.Pod) *Pod {
	p := &Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
			Labels: pod.Labels, DeletionTimestamp: pod.DeletionTimestamp,
		},
		Node:        pod.Spec.NodeName,
		Sandbox:     pod.UID,
		HostNetwork: pod.Spec.HostNetwork,
		Finished:    pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed,
	}
	if uid := pod.Annotations[corev1.MirrorPodAnnotationKey]; uid != "" {
		p.Sandbox = types.UID(uid)
	}
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			p.IPs = append(p.IPs, a.Unmap())
		}
	}
	if a, err := netip.ParseAddr(pod.Status.PodIP); err == nil && len(p.IPs) == 0 {
		p.IPs = append(p.IPs, a.Unmap())
	}
	for _, c := range pod.Spec.Containers {
		p.addPorts(c.Ports)
	}
	for _, c := range pod.Spec.InitContainers { // sidecars
		p.addPorts(c.Ports)
	}
	return p
}

func (p *Pod) addPorts(ports []corev1.ContainerPort) {
	for _, port := range ports {
		if port.Name == "" || port.ContainerPort < 1 || port.ContainerPort > 65535 {
			continue
		}
		proto := port.Protocol
		if proto == "" {
			proto = corev1.ProtocolTCP
		}
		p.Ports = append(p.Ports, NamedPort{port.Name, uint16(port.ContainerPort), proto})
	}
}

// same reports whether nothing that anybody compiles has changed. A kubelet writes
// the status of its pods all the time.
func (p *Pod) same(o *Pod) bool {
	return p.UID == o.UID && p.Sandbox == o.Sandbox && p.Node == o.Node && p.HostNetwork == o.HostNetwork && p.Finished == o.Finished &&
		p.DeletionTimestamp.Equal(o.DeletionTimestamp) &&
		slices.Equal(p.IPs, o.IPs) && slices.Equal(p.Ports, o.Ports) && maps.Equal(p.Labels, o.Labels)
}
