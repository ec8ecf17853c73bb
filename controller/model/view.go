// Package model is the control plane's view of the cluster: what informers tell it,
// with the indexes that compiling needs, and what has changed since it was asked
// last.
package model

import (
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// Name is the namespace and the name of an object; the namespace is empty where the
// kind has none.
type Name = types.NamespacedName

// View is the cluster as it is known. It belongs to one goroutine, the one that
// compiles; what it returns never changes and may be kept.
//
// Events may come in any order, twice and with gaps: what a View says follows from
// the objects that it holds alone.
type View struct {
	// Node is the name of the node that is compiled for.
	Node string

	namespaces      map[string]*corev1.Namespace
	nodes           map[string]*corev1.Node
	pods            map[Name]*Pod
	services        map[Name]*corev1.Service
	slices          map[Name]*discoveryv1.EndpointSlice
	policies        map[Name]*networkingv1.NetworkPolicy
	clusterPolicies map[string]*unstructured.Unstructured
	cidrs           map[string]*networkingv1.ServiceCIDR

	slicesOf        map[Name][]Name // of a service, in order
	slicesWithPod   map[Name][]Name // that name a pod
	slicesWithIP    map[netip.Addr][]Name
	podsByIP        map[netip.Addr][]Name
	podsByNode      map[string]map[Name]struct{}
	podsByNamespace map[string]map[Name]struct{}

	dirty Dirty
}

// NewView returns the view of an empty cluster for a node.
func NewView(node string) *View {
	return &View{
		Node:       node,
		namespaces: map[string]*corev1.Namespace{}, nodes: map[string]*corev1.Node{}, pods: map[Name]*Pod{},
		services: map[Name]*corev1.Service{}, slices: map[Name]*discoveryv1.EndpointSlice{},
		policies: map[Name]*networkingv1.NetworkPolicy{}, cidrs: map[string]*networkingv1.ServiceCIDR{}, clusterPolicies: map[string]*unstructured.Unstructured{},
		slicesOf: map[Name][]Name{}, slicesWithPod: map[Name][]Name{}, slicesWithIP: map[netip.Addr][]Name{},
		podsByIP: map[netip.Addr][]Name{}, podsByNode: map[string]map[Name]struct{}{}, podsByNamespace: map[string]map[Name]struct{}{},
		dirty: newDirty(),
	}
}

// Pod returns a pod, nil if it is not known.
func (v *View) Pod(n Name) *Pod { return v.pods[n] }

// PodAt returns the pod with an interface that has an address, nil if there is none.
// Where two claim it, one is about to go: the one that is not being deleted has it,
// else the first by name.
func (v *View) PodAt(a netip.Addr) *Pod {
	var found *Pod
	for _, n := range v.podsByIP[a] {
		p := v.pods[n]
		if found == nil || found.DeletionTimestamp != nil && p.DeletionTimestamp == nil {
			found = p
		}
	}
	return found
}

// PodsOn returns the names of the pods that are bound to a node, in order.
func (v *View) PodsOn(node string) []Name { return sortedNames(v.podsByNode[node]) }

// PodsIn returns the names of the pods of a namespace, in order.
func (v *View) PodsIn(namespace string) []Name { return sortedNames(v.podsByNamespace[namespace]) }

// Pods returns all pods. The map is the view's own: read it only.
func (v *View) Pods() map[Name]*Pod { return v.pods }

// Service returns a service, nil if it is not known.
func (v *View) Service(n Name) *corev1.Service { return v.services[n] }

// Services returns the names of all services, in order.
func (v *View) Services() []Name { return sortedNames(v.services) }

// Slices returns the EndpointSlices of a service, in order of their names.
func (v *View) Slices(service Name) []*discoveryv1.EndpointSlice {
	list := make([]*discoveryv1.EndpointSlice, 0, len(v.slicesOf[service]))
	for _, n := range v.slicesOf[service] {
		list = append(list, v.slices[n])
	}
	return list
}

// Namespace returns a namespace, nil if it is not known.
func (v *View) Namespace(name string) *corev1.Namespace { return v.namespaces[name] }

// Namespaces returns all namespaces. The map is the view's own: read it only.
func (v *View) Namespaces() map[string]*corev1.Namespace { return v.namespaces }

// NodeNamed returns a node, nil if it is not known.
func (v *View) NodeNamed(name string) *corev1.Node { return v.nodes[name] }

// Nodes returns all nodes. The map is the view's own: read it only.
func (v *View) Nodes() map[string]*corev1.Node { return v.nodes }

// NetworkPolicies returns all network policies. The map is the view's own: read it only.
func (v *View) NetworkPolicies() map[Name]*networkingv1.NetworkPolicy { return v.policies }

// ClusterPolicies returns all ClusterNetworkPolicies, which Kubernetes itself does not
// know, as they came. The map is the view's own: read it only.
func (v *View) ClusterPolicies() map[string]*unstructured.Unstructured { return v.clusterPolicies }

// ServiceCIDRs returns the ranges of cluster IPs, in order of their objects' names.
func (v *View) ServiceCIDRs() []netip.Prefix {
	var list []netip.Prefix
	for _, name := range slices.Sorted(maps.Keys(v.cidrs)) {
		for _, s := range v.cidrs[name].Spec.CIDRs {
			if p, err := netip.ParsePrefix(s); err == nil {
				list = append(list, p.Masked())
			}
		}
	}
	return list
}

// InternalIPs returns the addresses by which other nodes know a node, in the order in
// which its object has them, the primary one of each family first.
func InternalIPs(n *corev1.Node) []netip.Addr {
	return nodeAddresses(n, func(t corev1.NodeAddressType) bool { return t == corev1.NodeInternalIP })
}

// NodeIPs returns all addresses that a node's object has.
func NodeIPs(n *corev1.Node) []netip.Addr {
	return nodeAddresses(n, func(t corev1.NodeAddressType) bool { return t == corev1.NodeInternalIP || t == corev1.NodeExternalIP })
}

func nodeAddresses(n *corev1.Node, of func(corev1.NodeAddressType) bool) []netip.Addr {
	if n == nil {
		return nil
	}
	var list []netip.Addr
	for _, a := range n.Status.Addresses {
		ip, err := netip.ParseAddr(a.Address)
		if err == nil && of(a.Type) && !slices.Contains(list, ip.Unmap()) {
			list = append(list, ip.Unmap())
		}
	}
	return list
}

func sortedNames[T any](set map[Name]T) []Name {
	return slices.SortedFunc(maps.Keys(set), CompareNames)
}
