package model

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Kind says what an object is.
type Kind uint8

// The kinds that a View holds.
const (
	NamespaceKind Kind = iota
	NodeKind
	PodKind
	ServiceKind
	SliceKind
	PolicyKind
	ServiceCIDRKind
	ClusterPolicyKind
)

// Event is the state of one object: as it is now, or nil where it is gone.
type Event struct {
	Kind   Kind
	Name   Name
	Object any // *corev1.Namespace, *corev1.Node, *Pod, *corev1.Service, *discoveryv1.EndpointSlice, *networkingv1.NetworkPolicy, *networkingv1.ServiceCIDR, *unstructured.Unstructured
}

// Apply takes an event up and notes what has to be compiled anew.
func (v *View) Apply(e Event) {
	switch e.Kind {
	case NamespaceKind:
		o, _ := e.Object.(*corev1.Namespace)
		v.namespace(e.Name.Name, o)
	case NodeKind:
		o, _ := e.Object.(*corev1.Node)
		v.node(e.Name.Name, o)
	case PodKind:
		o, _ := e.Object.(*Pod)
		v.pod(e.Name, o)
	case ServiceKind:
		o, _ := e.Object.(*corev1.Service)
		set(v.services, e.Name, o)
		v.dirty.Services[e.Name] = struct{}{}
	case SliceKind:
		o, _ := e.Object.(*discoveryv1.EndpointSlice)
		v.slice(e.Name, o)
	case PolicyKind:
		o, _ := e.Object.(*networkingv1.NetworkPolicy)
		set(v.policies, e.Name, o)
		v.dirty.Policies[e.Name] = struct{}{}
	case ServiceCIDRKind:
		o, _ := e.Object.(*networkingv1.ServiceCIDR)
		set(v.cidrs, e.Name.Name, o)
		v.dirty.Networks = true
	case ClusterPolicyKind:
		o, _ := e.Object.(*unstructured.Unstructured)
		set(v.clusterPolicies, e.Name.Name, o)
		v.dirty.ClusterPolicies[e.Name.Name] = struct{}{}
	}
}

func set[K comparable, T any](m map[K]*T, k K, o *T) {
	if o == nil {
		delete(m, k)
		return
	}
	m[k] = o
}

func (v *View) namespace(name string, now *corev1.Namespace) {
	old := v.namespaces[name]
	set(v.namespaces, name, now)
	var oldLabels, labels, oldNotes, notes map[string]string
	if old != nil {
		oldLabels, oldNotes = old.Labels, old.Annotations
	}
	if now != nil {
		labels, notes = now.Labels, now.Annotations
	}
	if (old == nil) != (now == nil) || !maps.Equal(oldLabels, labels) {
		v.dirty.Namespaces[name] = struct{}{}
	}
	if (old == nil) != (now == nil) { // without it nobody can say in what network its pods stand
		for n := range v.podsByNamespace[name] {
			v.markPod(v.pods[n])
		}
	}
	// Of annotations only ours are kept: they say what network the namespace has, and a
	// namespace that is made anew under its name may get another number.
	if !maps.Equal(oldNotes, notes) || len(notes) > 0 && (old == nil || now == nil || old.UID != now.UID) {
		v.dirty.Networks, v.dirty.AllServices = true, true
		v.dirty.Namespaces[name] = struct{}{}
	}
}

func (v *View) node(name string, now *corev1.Node) {
	old := v.nodes[name]
	set(v.nodes, name, now)
	addresses := !slices.Equal(NodeIPs(old), NodeIPs(now)) || !slices.Equal(InternalIPs(old), InternalIPs(now))
	if addresses || !slices.Equal(podCIDRs(old), podCIDRs(now)) {
		v.dirty.Networks = true
	}
	switch {
	case name == v.Node && (addresses || nodeLabel(old, corev1.LabelTopologyZone) != nodeLabel(now, corev1.LabelTopologyZone)):
		v.dirty.AllServices = true
	case addresses:
		v.markNode(name)
	}
}

func podCIDRs(n *corev1.Node) []string {
	if n == nil {
		return nil
	}
	return n.Spec.PodCIDRs
}

func nodeLabel(n *corev1.Node, key string) string {
	if n == nil {
		return ""
	}
	return n.Labels[key]
}

func (v *View) pod(name Name, now *Pod) {
	old := v.pods[name]
	if old != nil && now != nil && old.same(now) {
		v.pods[name] = now // the newer resource version
		return
	}
	if old != nil {
		v.markPod(old)
		leave(v.podsByNode, old.Node, name)
		leave(v.podsByNamespace, old.Namespace, name)
		for _, a := range old.IPs {
			v.podsByIP[a] = without(v.podsByIP[a], name)
			dropEmpty(v.podsByIP, a)
		}
	}
	set(v.pods, name, now)
	if now != nil {
		enter(v.podsByNode, now.Node, name)
		enter(v.podsByNamespace, now.Namespace, name)
		for _, a := range now.IPs {
			if now.HasInterface() {
				v.podsByIP[a] = with(v.podsByIP[a], name)
			}
		}
		v.markPod(now)
	}
	v.dirty.Pods[name] = struct{}{}
}

func (v *View) slice(name Name, now *discoveryv1.EndpointSlice) {
	old := v.slices[name]
	if old != nil && now != nil && sameSlice(old, now) {
		v.slices[name] = now
		return
	}
	if old != nil {
		svc := serviceOf(old)
		v.dirty.Services[svc] = struct{}{}
		v.slicesOf[svc] = without(v.slicesOf[svc], name)
		dropEmpty(v.slicesOf, svc)
		v.indexEndpoints(old, func(list []Name) []Name { return without(list, name) })
	}
	set(v.slices, name, now)
	if now != nil {
		svc := serviceOf(now)
		v.dirty.Services[svc] = struct{}{}
		v.slicesOf[svc] = with(v.slicesOf[svc], name)
		v.indexEndpoints(now, func(list []Name) []Name { return with(list, name) })
		v.trigger(old, now)
	}
}

// sameSlice reports whether two versions of a slice say the same to everybody here.
func sameSlice(a, b *discoveryv1.EndpointSlice) bool {
	return a.AddressType == b.AddressType && maps.Equal(a.Labels, b.Labels) && maps.Equal(a.Annotations, b.Annotations) &&
		reflect.DeepEqual(a.Ports, b.Ports) && reflect.DeepEqual(a.Endpoints, b.Endpoints)
}

// indexEndpoints changes the lists of slices of the pods and addresses that a slice
// names.
func (v *View) indexEndpoints(s *discoveryv1.EndpointSlice, change func([]Name) []Name) {
	for i := range s.Endpoints {
		if pod, ok := PodOf(s, &s.Endpoints[i]); ok {
			v.slicesWithPod[pod] = change(v.slicesWithPod[pod])
			dropEmpty(v.slicesWithPod, pod)
			continue
		}
		if a, ok := AddressOf(&s.Endpoints[i]); ok {
			v.slicesWithIP[a] = change(v.slicesWithIP[a])
			dropEmpty(v.slicesWithIP, a)
		}
	}
}

// PodOf returns the name of the pod that an endpoint of a slice is, false where it
// does not say that it is one.
func PodOf(s *discoveryv1.EndpointSlice, e *discoveryv1.Endpoint) (Name, bool) {
	if e.TargetRef == nil || e.TargetRef.Kind != "Pod" || e.TargetRef.Name == "" {
		return Name{}, false
	}
	n := Name{Namespace: e.TargetRef.Namespace, Name: e.TargetRef.Name}
	if n.Namespace == "" {
		n.Namespace = s.Namespace
	}
	return n, true
}

// AddressOf returns the address of an endpoint. It has more than one only by mistake,
// and the first counts.
func AddressOf(e *discoveryv1.Endpoint) (netip.Addr, bool) {
	if len(e.Addresses) == 0 {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(e.Addresses[0])
	return a.Unmap(), err == nil && a.Zone() == ""
}

// with returns a sorted list that holds n. Lists are short, but for the slices of a
// large service.
func with(list []Name, n Name) []Name {
	i, ok := slices.BinarySearchFunc(list, n, CompareNames)
	if ok {
		return list
	}
	return slices.Insert(list, i, n)
}

func without(list []Name, n Name) []Name {
	i, ok := slices.BinarySearchFunc(list, n, CompareNames)
	if !ok {
		return list
	}
	return slices.Delete(list, i, i+1)
}

func dropEmpty[K comparable](m map[K][]Name, k K) {
	if len(m[k]) == 0 {
		delete(m, k)
	}
}

func enter(m map[string]map[Name]struct{}, k string, n Name) {
	if m[k] == nil {
		m[k] = map[Name]struct{}{}
	}
	m[k][n] = struct{}{}
}

func leave(m map[string]map[Name]struct{}, k string, n Name) {
	if delete(m[k], n); len(m[k]) == 0 {
		delete(m, k)
	}
}
