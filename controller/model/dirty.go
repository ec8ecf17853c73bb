package model

import (
	"cmp"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Dirty is what has to be compiled anew.
type Dirty struct {
	// Services, by name, of which something that they are compiled from has changed.
	Services map[Name]struct{}
	// AllServices says that something has changed that any of them may depend on.
	AllServices bool
	// Networks says that namespaces, nodes or service ranges have changed.
	Networks bool
	// Pods, by name, that have changed, on whatever node.
	Pods map[Name]struct{}
	// Namespaces that came, went or have other labels.
	Namespaces map[string]struct{}
	// Policies are the NetworkPolicies that have changed.
	Policies map[Name]struct{}
	// ClusterPolicies are the ClusterNetworkPolicies that have changed.
	ClusterPolicies map[string]struct{}
	// Triggered is when the oldest of the changes of endpoints among these happened, by
	// their EndpointSlices (endpoints.kubernetes.io/last-change-trigger-time). Zero: none
	// says so.
	Triggered time.Time
}

func newDirty() Dirty {
	return Dirty{Services: map[Name]struct{}{}, Pods: map[Name]struct{}{}, Namespaces: map[string]struct{}{}, Policies: map[Name]struct{}{}, ClusterPolicies: map[string]struct{}{}}
}

// Empty reports whether nothing has to be compiled.
func (d *Dirty) Empty() bool {
	return len(d.Services) == 0 && !d.AllServices && !d.Networks && len(d.Pods) == 0 && len(d.Namespaces) == 0 && len(d.Policies)+len(d.ClusterPolicies) == 0
}

// Take returns what has changed since the last call.
func (v *View) Take() Dirty {
	d := v.dirty
	v.dirty = newDirty()
	return d
}

// markSlices has the services compiled that own slices.
func (v *View) markSlices(names []Name) {
	for _, n := range names {
		if s := v.slices[n]; s != nil {
			v.dirty.Services[serviceOf(s)] = struct{}{}
		}
	}
}

// markNode has the services compiled that have endpoints on a node. Nodes change
// seldom, so the slices are searched.
func (v *View) markNode(node string) {
	for _, s := range v.slices {
		if _, done := v.dirty.Services[serviceOf(s)]; done {
			continue
		}
		for i := range s.Endpoints {
			if n := s.Endpoints[i].NodeName; n != nil && *n == node {
				v.dirty.Services[serviceOf(s)] = struct{}{}
				break
			}
		}
	}
	for n := range v.podsByNode[node] { // of slices that do not say where their endpoints are
		v.markPod(v.pods[n])
	}
}

// markPod has the services compiled that have a pod as endpoint.
func (v *View) markPod(p *Pod) {
	if p == nil {
		return
	}
	v.markSlices(v.slicesWithPod[Name{Namespace: p.Namespace, Name: p.Name}])
	for _, a := range p.IPs {
		v.markSlices(v.slicesWithIP[a])
	}
}

// trigger notes when a change of a slice was caused. Only one that the slice did not
// have before counts.
func (v *View) trigger(old, now *discoveryv1.EndpointSlice) {
	text := now.Annotations[corev1.EndpointsLastChangeTriggerTime]
	if text == "" || old != nil && old.Annotations[corev1.EndpointsLastChangeTriggerTime] == text {
		return
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err == nil && (v.dirty.Triggered.IsZero() || t.Before(v.dirty.Triggered)) {
		v.dirty.Triggered = t
	}
}

// CompareNames orders names by namespace and name.
func CompareNames(a, b Name) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// serviceOf returns the service that a slice belongs to.
func serviceOf(s *discoveryv1.EndpointSlice) Name {
	return Name{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
}
