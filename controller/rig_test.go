package controller

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/controller/model"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// event is what an informer would say of an object that there is.
func event(t interface{ Fatal(...any) }, o metav1.Object) model.Event {
	kinds := map[string]model.Kind{
		"*v1.Namespace": model.NamespaceKind, "*v1.Node": model.NodeKind, "*v1.Pod": model.PodKind, "*v1.Service": model.ServiceKind,
		"*v1.EndpointSlice": model.SliceKind, "*v1.NetworkPolicy": model.PolicyKind, "*v1.ServiceCIDR": model.ServiceCIDRKind,
	}
	kind, ok := kinds[fmt.Sprintf("%T", o)]
	stripped, err := model.Strip(o)
	if err != nil || !ok {
		t.Fatal(fmt.Sprintf("%T", o), err)
	}
	return model.Event{Kind: kind, Name: model.Name{Namespace: o.GetNamespace(), Name: o.GetName()}, Object: stripped}
}

func gone(e model.Event) model.Event {
	e.Object = nil
	return e
}

func namespace(name string, annotations map[string]string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("ns-" + name), Annotations: annotations, Labels: map[string]string{"kubernetes.io/metadata.name": name}}}
}

func node(name, zone string, cidrs []string, addresses ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: zone}}, Spec: corev1.NodeSpec{PodCIDRs: cidrs}}
	for _, a := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return n
}

func pod(namespace, name, node string, ips ...string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, UID: types.UID("uid-" + name), Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{NodeName: node},
	}
	for _, ip := range ips {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	return p
}

func svc(namespace, name string, clusterIPs ...string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: clusterIPs[0], ClusterIPs: clusterIPs,
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}},
		},
	}
}

// slice is an EndpointSlice of a service with pods as endpoints.
func slice(service *corev1.Service, name string, ready bool, pods ...*corev1.Pod) *discoveryv1.EndpointSlice {
	port, number := "http", int32(8080)
	tcp := corev1.ProtocolTCP
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Namespace: service.Namespace, Labels: map[string]string{discoveryv1.LabelServiceName: service.Name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &port, Port: &number, Protocol: &tcp}},
	}
	for _, p := range pods {
		e := discoveryv1.Endpoint{
			Addresses: []string{p.Status.PodIPs[0].IP}, NodeName: &p.Spec.NodeName, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func serviceCIDR(name string, cidrs ...string) *networkingv1.ServiceCIDR {
	return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
}

// judge is the agent's own state: it takes no change that is wrong in any way.
type judge struct {
	t     interface{ Fatalf(string, ...any) }
	state *state.State
	given map[string]int // interfaces by name, for the addresses that CNI would give
	part  string         // of the nodes' addresses: n1 has 10.244.1.0/24
}

func newJudge(t interface{ Fatalf(string, ...any) }) *judge {
	return &judge{t: t, state: state.New(), given: map[string]int{}, part: "1"}
}

// apply carries a change out as the agent would. Interfaces get the addresses that they
// would have by CNI.
func (j *judge) apply(c Change) {
	req := state.Request{Owner: "vrkube"}
	for _, r := range c.Upserts {
		r = proto.Clone(r).(*pb.Resource)
		if vmi := r.GetVirtualMachineInterface(); vmi != nil {
			vmi.Attachment = nil
			if j.given[r.GetName()] == 0 {
				j.given[r.GetName()] = len(j.given) + 2
			}
			n := j.given[r.GetName()]
			vmi.Addresses = []string{fmt.Sprintf("10.244.%s.%d", j.part, n), fmt.Sprintf("fd00:244:%s::%x", j.part, n)}
		}
		req.Upserts = append(req.Upserts, r)
	}
	for _, k := range c.Deletes {
		req.Deletes = append(req.Deletes, state.Key{Kind: k.GetKind(), Name: k.GetName()})
	}
	tx, err := j.state.Begin(req)
	if err != nil {
		j.t.Fatalf("the agent refuses the change: %v\nupserts %v\ndeletes %v", err, req.Upserts, req.Deletes)
	}
	tx.Commit()
}

// text writes all resources that are desired, for comparison.
func (d *desired) text() map[string]string {
	all := map[string]string{}
	for k, o := range d.resources {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(o.resource)
		if err != nil {
			panic(err)
		}
		all[k.kind+"/"+k.name] = string(b)
	}
	return all
}

// differ reports which resources two states do not have alike.
func differ(a, b *desired) (list []string) {
	x, y := a.text(), b.text()
	for k := range x {
		if x[k] != y[k] {
			list = append(list, k)
		}
	}
	for k := range y {
		if _, ok := x[k]; !ok {
			list = append(list, k)
		}
	}
	slices.Sort(list)
	return list
}

func (c *compiler) feed(t *testing.T, objects ...metav1.Object) Change {
	t.Helper()
	for _, o := range objects {
		c.view.Apply(event(t, o))
	}
	return c.compile()
}

func names(c Change) string {
	list := map[string]bool{}
	for _, r := range c.Upserts {
		k := keyOf(r)
		list["+"+k.kind+"/"+k.name] = true
	}
	for _, k := range c.Deletes {
		list["-"+k.GetKind()+"/"+k.GetName()] = true
	}
	return fmt.Sprint(slices.Sorted(maps.Keys(list)))
}
