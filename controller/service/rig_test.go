package service

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/vrouter-go/vrouter/controller/model"
	"github.com/vrouter-go/vrouter/controller/network"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// world is a cluster of two nodes, n1 here in zone a and n2 in zone b, and the service
// default/web.
type world struct {
	t       *testing.T
	view    *model.View
	options Options
	network network.Options
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, view: model.NewView("n1"), network: network.Options{Overlay: true}}
	w.node("n1", "a", "192.0.2.11", "2001:db8::11")
	w.node("n2", "b", "192.0.2.12", "2001:db8::12")
	for _, name := range []string{"default", "blue"} {
		w.apply(model.NamespaceKind, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	return w
}

func (w *world) apply(kind model.Kind, o metav1.Object) {
	w.t.Helper()
	stripped, err := model.Strip(o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.view.Apply(model.Event{Kind: kind, Name: model.Name{Namespace: o.GetNamespace(), Name: o.GetName()}, Object: stripped})
}

func (w *world) node(name, zone string, addresses ...string) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: zone}}}
	for _, a := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	w.apply(model.NodeKind, n)
}

func (w *world) pod(name, node string, ips ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name)}, Spec: corev1.PodSpec{NodeName: node}}
	for _, ip := range ips {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	w.apply(model.PodKind, p)
	return p
}

// web is the service default/web with port 80 → 8080 named http and the cluster IP
// 10.96.0.10, as change alters it.
func (w *world) web(change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", CreationTimestamp: metav1.NewTime(time.Unix(1000, 0))},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.10", ClusterIPs: []string{"10.96.0.10"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080), Protocol: corev1.ProtocolTCP}},
		},
	}
	if change != nil {
		change(s)
	}
	w.apply(model.ServiceKind, s)
	return s
}

// endpoint describes one endpoint in a few words: a pod's name, or an address; then
// conditions and hints.
//
//	web-1            ready
//	web-1 -ready +terminating +serving
//	192.0.2.99       no pod
//	web-1 zone=a node=n1 on=n1
func (w *world) endpoint(text string, is4 bool) discoveryv1.Endpoint {
	fields := strings.Fields(text)
	e := discoveryv1.Endpoint{}
	if a, err := netip.ParseAddr(fields[0]); err == nil {
		e.Addresses = []string{a.String()}
	} else {
		p := w.view.Pod(model.Name{Namespace: "default", Name: fields[0]})
		if p == nil {
			w.t.Fatalf("no pod %s", fields[0])
		}
		for _, a := range p.IPs {
			if a.Is4() == is4 {
				e.Addresses = []string{a.String()}
			}
		}
		e.NodeName = &p.Node
		e.TargetRef = &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: p.Name, UID: p.UID}
	}
	hints := &discoveryv1.EndpointHints{}
	for _, f := range fields[1:] {
		value := f[0] == '+'
		switch {
		case strings.HasSuffix(f, "ready"):
			e.Conditions.Ready = &value
		case strings.HasSuffix(f, "serving"):
			e.Conditions.Serving = &value
		case strings.HasSuffix(f, "terminating"):
			e.Conditions.Terminating = &value
		case strings.HasPrefix(f, "zone="):
			hints.ForZones = append(hints.ForZones, discoveryv1.ForZone{Name: f[5:]})
			e.Hints = hints
		case strings.HasPrefix(f, "node="):
			hints.ForNodes = append(hints.ForNodes, discoveryv1.ForNode{Name: f[5:]})
			e.Hints = hints
		case strings.HasPrefix(f, "on="):
			node := f[3:]
			e.NodeName = &node
		default:
			w.t.Fatalf("endpoint %q: %s?", text, f)
		}
	}
	return e
}

// slice writes an EndpointSlice of default/web with one port.
func (w *world) slice(name, port string, number int32, endpoints ...string) *discoveryv1.EndpointSlice {
	tcp := corev1.ProtocolTCP
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &port, Port: &number, Protocol: &tcp}},
	}
	if strings.HasSuffix(name, "v6") {
		s.AddressType = discoveryv1.AddressTypeIPv6
	}
	for _, text := range endpoints {
		s.Endpoints = append(s.Endpoints, w.endpoint(text, s.AddressType == discoveryv1.AddressTypeIPv4))
	}
	w.apply(model.SliceKind, s)
	return s
}

// compile returns the resources of default/web by kind/name.
func (w *world) compile() map[string]*pb.Resource {
	return w.compileFor(model.Name{Namespace: "default", Name: "web"}, nil)
}

func (w *world) compileFor(name model.Name, owns func(model.Name, Frontend) bool) map[string]*pb.Resource {
	w.t.Helper()
	c := &Compiler{View: w.view, Plan: network.NewPlan(w.view, w.network), Options: w.options, Owns: owns}
	all := map[string]*pb.Resource{}
	for _, r := range c.Compile(name) {
		m := r.ProtoReflect()
		k := string(m.WhichOneof(m.Descriptor().Oneofs().ByName("spec")).Message().Name()) + "/" + r.GetName()
		if all[k] != nil {
			w.t.Fatalf("%s twice", k)
		}
		all[k] = r
	}
	return all
}

// fip returns a floating IP of default/web, failing where there is none.
func (w *world) fip(part string) *pb.FloatingIP {
	w.t.Helper()
	f := w.compile()["FloatingIP/default:web:"+part].GetFloatingIp()
	if f == nil {
		w.t.Fatalf("no floating IP %s", part)
	}
	return f
}

// memberText writes members as name=STATE, with what else tells them apart.
func memberText(members []*pb.Member) string {
	var list []string
	for _, m := range members {
		text := strings.TrimPrefix(m.GetVirtualMachineInterface(), "default:") + "=" + m.GetState().String()
		if t := m.GetTunnel(); t != nil {
			text += "@" + t.GetRemote()
		}
		if m.GetHost() {
			text += "@host:" + m.GetAddress()
		}
		for _, p := range m.GetTargetPorts() {
			text += ",:" + itoa(p.GetSrcPort()) + ">" + itoa(p.GetDstPort())
		}
		list = append(list, text)
	}
	return strings.Join(list, " ")
}

// portText writes mappings as TCP/80>8080.
func portText(f *pb.FloatingIP) string {
	var list []string
	for _, m := range f.GetFloatingIpPortMappings().GetPortMappings() {
		list = append(list, m.GetProtocol().String()+"/"+itoa(m.GetSrcPort())+">"+itoa(m.GetDstPort()))
	}
	return strings.Join(list, " ")
}

func pointer[T any](v T) *T { return &v }

func itoa(n uint32) string { return strconv.Itoa(int(n)) }
