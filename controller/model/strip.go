package model

import (
	"maps"
	"strings"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

// annotationPrefix is that of the annotations which this control plane obeys.
const annotationPrefix = "vrouter.io/"

// Strip keeps of an object what is compiled, and makes a Pod of a pod. Informers call
// it with every object before they store it, and may do so twice.
func Strip(object any) (any, error) {
	switch o := object.(type) {
	case *corev1.Pod:
		return NewPod(o), nil
	case *corev1.Namespace:
		return &corev1.Namespace{ObjectMeta: metadata(o.ObjectMeta, o.Labels, ours(o.Annotations))}, nil
	case *corev1.Node:
		return stripNode(o), nil
	case *corev1.Service:
		return stripService(o), nil
	case *discoveryv1.EndpointSlice:
		return stripSlice(o), nil
	case *networkingv1.NetworkPolicy:
		return &networkingv1.NetworkPolicy{ObjectMeta: metadata(o.ObjectMeta, nil, nil), Spec: o.Spec}, nil
	case *networkingv1.ServiceCIDR:
		return &networkingv1.ServiceCIDR{ObjectMeta: metadata(o.ObjectMeta, nil, nil), Spec: o.Spec}, nil
	case cache.DeletedFinalStateUnknown:
		return o, nil
	}
	return object, nil
}

// metadata keeps of an object's metadata what identifies it.
func metadata(m metav1.ObjectMeta, labels, annotations map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion,
		CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp,
		Labels: labels, Annotations: annotations,
	}
}

func ours(annotations map[string]string) map[string]string {
	kept := map[string]string{}
	for k, value := range annotations {
		if strings.HasPrefix(k, annotationPrefix) {
			kept[k] = value
		}
	}
	return kept
}

func stripNode(o *corev1.Node) *corev1.Node {
	labels := maps.Clone(o.Labels)
	maps.DeleteFunc(labels, func(k, _ string) bool { return k != corev1.LabelTopologyZone && k != corev1.LabelHostname })
	n := &corev1.Node{ObjectMeta: metadata(o.ObjectMeta, labels, ours(o.Annotations))}
	n.Spec.PodCIDRs = o.Spec.PodCIDRs
	if len(n.Spec.PodCIDRs) == 0 && o.Spec.PodCIDR != "" {
		n.Spec.PodCIDRs = []string{o.Spec.PodCIDR}
	}
	n.Status.Addresses = o.Status.Addresses
	return n
}

func stripService(o *corev1.Service) *corev1.Service {
	labels := maps.Clone(o.Labels)
	maps.DeleteFunc(labels, func(k, _ string) bool { return k != labelProxyName })
	s := &corev1.Service{ObjectMeta: metadata(o.ObjectMeta, labels, ours(o.Annotations)), Spec: o.Spec}
	s.Spec.Selector = nil
	s.Status.LoadBalancer = o.Status.LoadBalancer
	return s
}

// labelProxyName marks the services that another proxy serves.
const labelProxyName = "service.kubernetes.io/service-proxy-name"

func stripSlice(o *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	labels := maps.Clone(o.Labels)
	maps.DeleteFunc(labels, func(k, _ string) bool { return k != discoveryv1.LabelServiceName && k != corev1.IsHeadlessService })
	notes := maps.Clone(o.Annotations)
	maps.DeleteFunc(notes, func(k, _ string) bool { return k != corev1.EndpointsLastChangeTriggerTime })
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metadata(o.ObjectMeta, labels, notes), AddressType: o.AddressType, Ports: o.Ports,
		Endpoints: make([]discoveryv1.Endpoint, len(o.Endpoints)),
	}
	for i := range o.Endpoints {
		e := o.Endpoints[i]
		e.Hostname, e.DeprecatedTopology, e.Zone = nil, nil, nil
		if e.NodeName != nil { // a few nodes, many endpoints
			name := unique.Make(*e.NodeName).Value()
			e.NodeName = &name
		}
		if t := e.TargetRef; t != nil {
			e.TargetRef = &corev1.ObjectReference{Kind: intern(t.Kind), Namespace: intern(t.Namespace), Name: t.Name, UID: t.UID}
		}
		e.Conditions.Ready, e.Conditions.Serving, e.Conditions.Terminating = shared(e.Conditions.Ready), shared(e.Conditions.Serving), shared(e.Conditions.Terminating)
		s.Endpoints[i] = e
	}
	return s
}

func intern(s string) string { return unique.Make(s).Value() }

// booleans are what all conditions point to.
var booleans = [2]bool{false, true}

func shared(b *bool) *bool {
	switch {
	case b == nil:
		return nil
	case *b:
		return &booleans[1]
	}
	return &booleans[0]
}
