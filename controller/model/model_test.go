package model

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/vrouter-go/vrouter/internal/naming"
)

func TestResourceName(t *testing.T) {
	if got := ResourceName("default", "web", "clusterip-v4"); got != "default:web:clusterip-v4" {
		t.Error(got)
	}
	long := strings.Repeat("a", 250) + "."
	a, b := ResourceName(long, "web"), ResourceName(long, "wed")
	if len(a) > naming.Max || a == b || strings.HasSuffix(a, ".") || a != ResourceName(long, "web") {
		t.Errorf("%s\n%s", a, b)
	}
	if got := ResourceName(strings.Repeat("a", naming.Max)); len(got) != naming.Max || strings.Contains(got, ".") {
		t.Errorf("one that just fits is cut: %s", got)
	}
}

// whole is a pod with all that pods have.
func whole() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "web-1", Namespace: "default", UID: "u1", ResourceVersion: "7", Labels: map[string]string{"app": "web"},
			Annotations: map[string]string{"big": strings.Repeat("x", 1000)}, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubelet"}},
		},
		Spec: corev1.PodSpec{
			NodeName: "n1",
			Containers: []corev1.Container{{Image: "web", Ports: []corev1.ContainerPort{
				{Name: "http", ContainerPort: 8080}, {ContainerPort: 9090}, {Name: "dns", ContainerPort: 53, Protocol: corev1.ProtocolUDP}, {Name: "bad", ContainerPort: 70000},
			}}},
			InitContainers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "proxy", ContainerPort: 15001}}}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.244.1.4", PodIPs: []corev1.PodIP{{IP: "10.244.1.4"}, {IP: "fd00:244:1::4"}, {IP: "x"}}},
	}
}

func TestStripPod(t *testing.T) {
	o, err := Strip(whole())
	if err != nil {
		t.Fatal(err)
	}
	p := o.(*Pod)
	if got := fmt.Sprintln(p.Namespace, p.Name, p.UID, p.ResourceVersion, p.Labels, p.Node, p.HostNetwork, p.Finished, p.IPs, p.Ports); got !=
		"default web-1 u1 7 map[app:web] n1 false false [10.244.1.4 fd00:244:1::4] [{http 8080 TCP} {dns 53 UDP} {proxy 15001 TCP}]\n" {
		t.Error(got)
	}
	if p.Annotations != nil || p.ManagedFields != nil {
		t.Error("what nobody reads is kept")
	}
	if again, err := Strip(p); err != nil || again != o {
		t.Errorf("stripped twice: %v %v", again, err)
	}
	one := whole()
	one.Status.PodIPs = nil
	if p := NewPod(one); !slices.Equal(p.IPs, []netip.Addr{netip.MustParseAddr("10.244.1.4")}) {
		t.Errorf("podIP alone: %v", p.IPs)
	}
}

// The status of pods changes all the time; what of it counts is told apart.
func TestPodChanges(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		counts bool
	}{
		"resource version": {func(p *corev1.Pod) { p.ResourceVersion = "8" }, false},
		"condition":        {func(p *corev1.Pod) { p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady}} }, false},
		"annotation":       {func(p *corev1.Pod) { p.Annotations = nil }, false},
		"label":            {func(p *corev1.Pod) { p.Labels = map[string]string{"app": "db"} }, true},
		"address":          {func(p *corev1.Pod) { p.Status.PodIPs = p.Status.PodIPs[:1] }, true},
		"node":             {func(p *corev1.Pod) { p.Spec.NodeName = "n2" }, true},
		"finished":         {func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, true},
		"uid":              {func(p *corev1.Pod) { p.UID = "u2" }, true},
		"hostNetwork":      {func(p *corev1.Pod) { p.Spec.HostNetwork = true }, true},
		"port":             {func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = 1 }, true},
		"deletion":         {func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }, true},
	} {
		v := NewView("n1")
		v.Apply(podEvent(whole()))
		v.Take()
		p := whole()
		c.change(p)
		v.Apply(podEvent(p))
		if d := v.Take(); d.Empty() == c.counts {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func podEvent(p *corev1.Pod) Event {
	return Event{Kind: PodKind, Name: Name{Namespace: p.Namespace, Name: p.Name}, Object: NewPod(p)}
}

// Of two pods that claim an address the one that stays has it, and none once both are gone.
func TestPodAt(t *testing.T) {
	v := NewView("n1")
	a := netip.MustParseAddr("10.244.1.4")
	old, young := whole(), whole()
	old.Name, young.Name = "a-old", "b-young"
	old.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	v.Apply(podEvent(old))
	v.Apply(podEvent(young))
	if p := v.PodAt(a); p == nil || p.Name != "b-young" {
		t.Errorf("%v", p)
	}
	v.Apply(Event{Kind: PodKind, Name: Name{Namespace: "default", Name: "b-young"}})
	if p := v.PodAt(a); p == nil || p.Name != "a-old" {
		t.Errorf("%v", p)
	}
	old.Status.Phase = corev1.PodSucceeded
	v.Apply(podEvent(old))
	if p := v.PodAt(a); p != nil {
		t.Errorf("a finished pod has its address still: %v", p)
	}
	v.Apply(Event{Kind: PodKind, Name: Name{Namespace: "default", Name: "a-old"}})
	if len(v.podsByIP)+len(v.podsByNode)+len(v.podsByNamespace)+len(v.pods) != 0 {
		t.Errorf("left over: %v %v %v", v.podsByIP, v.podsByNode, v.podsByNamespace)
	}
}

func endpointSlice(triggered string, pods ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
		Name: "web-x", Namespace: "default", Labels: map[string]string{discoveryv1.LabelServiceName: "web", "other": "x"},
		Annotations: map[string]string{corev1.EndpointsLastChangeTriggerTime: triggered, "other": "x"},
	}}
	for _, p := range pods {
		yes, node := true, "n1"
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{"10.244.1.4"}, NodeName: &node, Zone: &node, Hostname: &node, Conditions: discoveryv1.EndpointConditions{Ready: &yes},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: p, Namespace: "default", UID: types.UID("u1"), ResourceVersion: "7"},
		})
	}
	return s
}

func sliceEvent(t *testing.T, s *discoveryv1.EndpointSlice) Event {
	t.Helper()
	o, err := Strip(s)
	if err != nil {
		t.Fatal(err)
	}
	return Event{Kind: SliceKind, Name: Name{Namespace: s.Namespace, Name: s.Name}, Object: o}
}

// The trigger time travels with a change that has a new one; the oldest counts.
func TestTriggered(t *testing.T) {
	v := NewView("n1")
	early, late := "2026-01-01T00:00:00.5Z", "2026-01-01T00:00:01Z"
	v.Apply(sliceEvent(t, endpointSlice(late, "web-1")))
	other := endpointSlice(early, "web-1")
	other.Name = "web-y"
	v.Apply(sliceEvent(t, other))
	if d := v.Take(); d.Triggered.Format(time.RFC3339Nano) != early {
		t.Errorf("%v, want %s", d.Triggered, early)
	}
	v.Apply(sliceEvent(t, endpointSlice(late, "web-1", "web-2")))
	if d := v.Take(); !d.Triggered.IsZero() || len(d.Services) != 1 {
		t.Errorf("a change that says no new time: %+v", d)
	}
	v.Apply(sliceEvent(t, endpointSlice(late, "web-1", "web-2")))
	if d := v.Take(); !d.Empty() {
		t.Errorf("no change: %+v", d)
	}
	v.Apply(sliceEvent(t, endpointSlice("yesterday", "web-1")))
	if d := v.Take(); !d.Triggered.IsZero() {
		t.Errorf("no time: %v", d.Triggered)
	}
}

// A pod concerns the services that name it, and no others, whatever comes first.
func TestPodsAndServices(t *testing.T) {
	web := Name{Namespace: "default", Name: "web"}
	for _, named := range []bool{true, false} {
		v := NewView("n1")
		s := endpointSlice("", "web-1")
		if !named {
			s.Endpoints[0].TargetRef = nil
		}
		v.Apply(sliceEvent(t, s))
		v.Take()
		v.Apply(podEvent(whole()))
		if d := v.Take(); len(d.Services) != 1 {
			t.Errorf("the pod comes: %v", d.Services)
		}
		elsewhere := whole()
		elsewhere.Name, elsewhere.Status.PodIPs[0].IP = "other", "10.244.1.9"
		v.Apply(podEvent(elsewhere))
		if d := v.Take(); len(d.Services) != 0 || len(d.Pods) != 1 {
			t.Errorf("another pod: %+v", d)
		}
		v.Apply(Event{Kind: PodKind, Name: Name{Namespace: "default", Name: "web-1"}})
		if _, ok := v.Take().Services[web]; !ok {
			t.Error("the pod goes")
		}
		v.Apply(Event{Kind: SliceKind, Name: Name{Namespace: "default", Name: "web-x"}})
		if _, ok := v.Take().Services[web]; !ok || len(v.slicesOf)+len(v.slicesWithIP)+len(v.slicesWithPod) != 0 {
			t.Errorf("the slice goes: %v %v %v", v.slicesOf, v.slicesWithIP, v.slicesWithPod)
		}
	}
}

func TestStripSlice(t *testing.T) {
	o, err := Strip(endpointSlice("2026-01-01T00:00:00Z", "web-1"))
	if err != nil {
		t.Fatal(err)
	}
	s := o.(*discoveryv1.EndpointSlice)
	e := s.Endpoints[0]
	if !maps.Equal(s.Labels, map[string]string{discoveryv1.LabelServiceName: "web"}) || len(s.Annotations) != 1 || e.Zone != nil || e.Hostname != nil || e.TargetRef.ResourceVersion != "" {
		t.Errorf("kept too much: %v", s)
	}
	if *e.NodeName != "n1" || e.TargetRef.Name != "web-1" || e.TargetRef.UID != "u1" || !*e.Conditions.Ready || e.Conditions.Serving != nil || e.Addresses[0] != "10.244.1.4" {
		t.Errorf("lost something: %v", s)
	}
}

// What the informer found gone without having seen it go is gone, and a change that comes
// twice before it is taken is one.
func TestWatchNotes(t *testing.T) {
	w, err := NewWatch(fake.NewClientset(), nil, true)
	if err != nil {
		t.Fatal(err)
	}
	h := w.handler(PodKind)
	h.OnAdd(NewPod(whole()), true)
	h.OnUpdate(nil, NewPod(whole()))
	v := NewView("n1")
	select {
	case <-w.Changed():
	default:
		t.Error("nobody was told")
	}
	if w.Take(v); len(v.pods) != 1 {
		t.Errorf("%v", v.pods)
	}
	h.OnDelete(cache.DeletedFinalStateUnknown{Key: "default/web-1"})
	if w.Take(v); len(v.pods) != 0 {
		t.Errorf("%v", v.pods)
	}
	if w.Take(v); len(w.pending) != 0 {
		t.Errorf("%v", w.pending)
	}
}

func TestClientConfig(t *testing.T) {
	given := &rest.Config{Host: "h"}
	if c := ClientConfig(given); c.Host != "h" || c.ContentType != "application/vnd.kubernetes.protobuf" || given.ContentType != "" {
		t.Errorf("%v", c)
	}
}
