package network

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vrouter-go/vrouter/controller/model"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// cluster is a view of n1, which is here, and n2, with the namespaces given.
func cluster(namespaces ...*corev1.Namespace) *model.View {
	v := model.NewView("n1")
	add := func(kind model.Kind, namespace, name string, o any) {
		v.Apply(model.Event{Kind: kind, Name: model.Name{Namespace: namespace, Name: name}, Object: o})
	}
	add(model.NodeKind, "", "n1", node("n1", []string{"10.244.1.0/24", "fd00:244:1::/64"}, "192.0.2.11", "2001:db8::11"))
	add(model.NodeKind, "", "n2", node("n2", []string{"10.244.2.0/24", "fd00:244:2::/64"}, "192.0.2.12", "2001:db8::12"))
	add(model.ServiceCIDRKind, "", "kubernetes", &networkingv1.ServiceCIDR{Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16", "fd00:96::/112"}}})
	for _, ns := range namespaces {
		add(model.NamespaceKind, "", ns.Name, ns)
	}
	return v
}

func node(name string, cidrs []string, addresses ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: cidrs}}
	for _, a := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return n
}

func isolated(name string, created int64, vni string) *corev1.Namespace {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: name, UID: types.UID("uid-" + name), CreationTimestamp: metav1.NewTime(time.Unix(created, 0)),
		Annotations: map[string]string{IsolationAnnotation: "true"},
	}}
	if vni != "" {
		ns.Annotations[VNIAnnotation] = vni
	}
	return ns
}

// lines writes resources in short.
func lines(list []*pb.Resource) []string {
	var out []string
	for _, r := range list {
		text := r.GetName() + ": "
		switch x := r.GetSpec().(type) {
		case *pb.Resource_VirtualNetwork:
			vn := x.VirtualNetwork
			for _, s := range vn.GetSubnets() {
				text += s.GetPrefix() + " via " + s.GetGateway() + ", "
			}
			if vn.GetVni() != 0 {
				text += "number "
				if vn.GetVni() != vn.GetLabel() {
					text += "differs "
				}
			}
			if vn.GetFabricSnat() {
				text += "snat"
			}
		case *pb.Resource_NetworkPolicy:
			rule := x.NetworkPolicy.GetRules()[0]
			text += rule.GetSource().GetVirtualNetwork() + " " + rule.GetDirection().String() + " " + rule.GetDestination().GetVirtualNetwork() + " " + rule.GetAction().String()
		case *pb.Resource_Route:
			t := x.Route.GetNextHops()[0].GetTunnel()
			text += x.Route.GetVrf() + " " + x.Route.GetPrefix() + " to " + t.GetRemote()
		case *pb.Resource_Fabric:
			text += strings.Join(x.Fabric.GetNodeAddresses(), " ") + " by " + x.Fabric.GetUplink().GetDevice()
			for _, p := range x.Fabric.GetPeers() {
				text += " " + p.GetName() + "=" + strings.Join(p.GetAddresses(), ",")
			}
		}
		out = append(out, strings.TrimRight(text, " ,"))
	}
	return out
}

func TestResources(t *testing.T) {
	alone := []string{
		"default-podnetwork: 10.244.1.0/24 via 10.244.1.1, fd00:244:1::/64 via fd00:244:1::1, number",
		"default-servicenetwork: 10.96.0.0/16 via , fd00:96::/112 via",
		"default-ip-fabric-podnetwork: ip-fabric BOTH default-podnetwork PASS",
		"default-ip-fabric-servicenetwork: ip-fabric BOTH default-servicenetwork PASS",
		"default-pod-service: default-podnetwork BOTH default-servicenetwork PASS",
	}
	for _, c := range []struct {
		name    string
		view    *model.View
		options Options
		want    []string
	}{
		{"a node alone", cluster(), Options{}, alone},
		{"an isolated namespace", cluster(isolated("blue", 1, "")), Options{}, append(slices.Clone(alone),
			"blue-podnetwork: 10.244.1.0/24 via 10.244.1.1, fd00:244:1::/64 via fd00:244:1::1, number",
			"blue-servicenetwork: 10.96.0.0/16 via , fd00:96::/112 via",
			"blue-ip-fabric-podnetwork: ip-fabric BOTH blue-podnetwork PASS",
			"blue-ip-fabric-servicenetwork: ip-fabric BOTH blue-servicenetwork PASS",
			"blue-pod-service: blue-podnetwork BOTH blue-servicenetwork PASS",
		)},
		{"several nodes", cluster(), Options{Uplink: "eth0"}, append([]string{
			alone[0] + " snat"}, append(slices.Clone(alone[1:]),
			"ip-fabric: number",
			"ip-fabric:n2:192.0.2.12: ip-fabric 192.0.2.12/32 to 192.0.2.12",
			"ip-fabric:n2:2001:0db8:0000:0000:0000:0000:0000:0012: ip-fabric 2001:db8::12/128 to 2001:db8::12",
			"ip-fabric:n2:pods-0: ip-fabric 10.244.2.0/24 to 192.0.2.12",
			"default-podnetwork:n2:pods-0: default-podnetwork 10.244.2.0/24 to 192.0.2.12",
			"ip-fabric:n2:pods-1: ip-fabric fd00:244:2::/64 to 192.0.2.12",
			"default-podnetwork:n2:pods-1: default-podnetwork fd00:244:2::/64 to 192.0.2.12",
			"node: 192.0.2.11 2001:db8::11 by eth0 n2=192.0.2.12,2001:db8::12",
		)...)},
		{"what the operator says", cluster(), Options{ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.97.0.0/16")}, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.250.0.0/30")}},
			append([]string{"default-podnetwork: 10.250.0.0/30 via 10.250.0.1, number", "default-servicenetwork: 10.97.0.0/16 via"}, alone[2:]...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := lines(NewPlan(c.view, c.options).Resources(c.view))
			if !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// Every network leads to every node by its own number, whether it has pods there or not.
func TestIsolatedRoutes(t *testing.T) {
	v := cluster(isolated("blue", 1, "70000"), isolated("red", 2, "70001"))
	p := NewPlan(v, Options{Overlay: true})
	found := map[string]*pb.Tunnel{}
	for _, r := range p.Resources(v) {
		if route := r.GetRoute(); route.GetPrefix() == "10.244.2.0/24" {
			found[route.GetVrf()] = route.GetNextHops()[0].GetTunnel()
		}
	}
	if len(found) != 4 || found["red-podnetwork"].GetVni() != 70001 || found["blue-podnetwork"].GetVni() != 70000 || found["blue-podnetwork"].GetLabel() != 70000 ||
		found["default-podnetwork"].GetVni() != defaultPodsNumber || found["ip-fabric"].GetLabel() != fabricNumber {
		t.Errorf("routes %v", found)
	}
}

// Numbers are the same on every node, differ from each other and stay while a namespace
// lives.
func TestNumbers(t *testing.T) {
	numbers := func(list ...*corev1.Namespace) map[string]uint32 {
		p := NewPlan(cluster(list...), Options{})
		m := map[string]uint32{}
		for _, ns := range list {
			m[ns.Name] = p.Of(ns.Name).Number
		}
		return m
	}
	a, b, c := isolated("a", 3, "70000"), isolated("b", 1, "70000"), isolated("c", 2, "")
	got := numbers(a, b, c)
	if got["b"] != 70000 || got["a"] != 70001 {
		t.Errorf("the older has the number that both want: %v", got)
	}
	if alone := numbers(c)["c"]; alone != got["c"] || alone < firstIsolated || alone > lastIsolated {
		t.Errorf("c is %d alone and %d among others", alone, got["c"])
	}
	for _, bad := range []string{"17", "4097", "1048576", "-1", "x"} {
		if n := numbers(isolated("a", 1, bad))["a"]; n < firstIsolated || n > lastIsolated {
			t.Errorf("%s gives %d", bad, n)
		}
	}
	if n := numbers(isolated("x", 1, "1048575"), isolated("y", 2, "1048575"))["y"]; n != firstIsolated {
		t.Errorf("after the last comes the first, not %d", n)
	}
	not := isolated("a", 1, "70000")
	not.Annotations[IsolationAnnotation] = "false"
	if p := NewPlan(cluster(not), Options{}); p.Isolated("a") || p.Of("a").Pods != defaultPods {
		t.Error("isolated by \"false\"")
	}
}

// The way to a node is an address of a family that this node has, and nobody else's.
func TestTunnel(t *testing.T) {
	for _, c := range []struct {
		name string
		here []string
		n2   []string
		n3   []string
		want string
	}{
		{"the primary address", []string{"192.0.2.11", "2001:db8::11"}, []string{"2001:db8::12", "192.0.2.12"}, nil, "2001:db8::12"},
		{"of a family that this node has", []string{"192.0.2.11"}, []string{"2001:db8::12", "192.0.2.12"}, nil, "192.0.2.12"},
		{"no family in common", []string{"192.0.2.11"}, []string{"2001:db8::12"}, nil, ""},
		{"this node's own address", []string{"192.0.2.11"}, []string{"192.0.2.11"}, nil, ""},
		{"two nodes with one address: the first by name", []string{"192.0.2.11"}, []string{"192.0.2.12"}, []string{"192.0.2.12"}, "192.0.2.12"},
		{"no address", []string{"192.0.2.11"}, nil, nil, ""},
		{"no usable address", []string{"192.0.2.11"}, []string{"127.0.0.1", "fe80::1", "0.0.0.0"}, nil, ""},
		{"nothing known of this node", nil, []string{"192.0.2.12"}, nil, "192.0.2.12"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := model.NewView("n1")
			for name, addresses := range map[string][]string{"n1": c.here, "n2": c.n2, "n3": c.n3} {
				v.Apply(model.Event{Kind: model.NodeKind, Name: model.Name{Name: name}, Object: node(name, nil, addresses...)})
			}
			p := NewPlan(v, Options{Overlay: true})
			if got := p.Tunnel("n2", "default").GetRemote(); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			if got := p.Tunnel("n3", "default"); got != nil {
				t.Errorf("n3 by %v", got)
			}
			if NewPlan(v, Options{}).Tunnel("n2", "default") != nil {
				t.Error("a tunnel without an overlay")
			}
		})
	}
}

// What nodes claim of the pods' addresses: not this node's, and each part once.
func TestPodRanges(t *testing.T) {
	v := cluster()
	v.Apply(model.Event{Kind: model.NodeKind, Name: model.Name{Name: "n3"}, Object: node("n3", []string{"10.244.2.128/25", "10.244.3.0/24", "nonsense"}, "192.0.2.13")})
	v.Apply(model.Event{Kind: model.NodeKind, Name: model.Name{Name: "n4"}, Object: node("n4", []string{"10.244.1.0/25", "0.0.0.0/0"}, "192.0.2.14")})
	got := map[string]string{}
	for _, r := range NewPlan(v, Options{Overlay: true}).Resources(v) {
		if route := r.GetRoute(); route.GetVrf() == defaultPods {
			got[route.GetPrefix()] = route.GetNextHops()[0].GetTunnel().GetRemote()
		}
	}
	want := map[string]string{"10.244.2.0/24": "192.0.2.12", "fd00:244:2::/64": "192.0.2.12", "10.244.3.0/24": "192.0.2.13"}
	if len(got) != len(want) {
		t.Errorf("%v, want %v", got, want)
	}
	for p, remote := range want {
		if got[p] != remote {
			t.Errorf("%s to %s, want %s", p, got[p], remote)
		}
	}
}

func TestInterface(t *testing.T) {
	blue := isolated("blue", 1, "")
	blue.Labels = map[string]string{"team": "x"}
	v := cluster(blue)
	p := NewPlan(v, Options{MTU: 1450})
	pod := &model.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "blue", Name: "web-1", UID: "u1", Labels: map[string]string{"app": "web"}}, Node: "n1", Sandbox: "u1"}
	r := p.Interface(v, pod)
	vmi := r.GetVirtualMachineInterface()
	if r.GetName() != "blue:web-1" || vmi.GetVirtualNetwork() != "blue-podnetwork" || vmi.GetNamespace() != "blue" || vmi.GetAttachment().GetUid() != "u1" ||
		vmi.GetLabels()["app"] != "web" || vmi.GetNamespaceLabels()["team"] != "x" || vmi.GetTap().GetMtu() != 1450 {
		t.Errorf("%v", r)
	}
	for name, change := range map[string]func(*model.Pod){
		"elsewhere": func(p *model.Pod) { p.Node = "n2" }, "nowhere": func(p *model.Pod) { p.Node = "" },
		"hostNetwork": func(p *model.Pod) { p.HostNetwork = true }, "finished": func(p *model.Pod) { p.Finished = true },
	} {
		other := *pod
		change(&other)
		if r := p.Interface(v, &other); r != nil {
			t.Errorf("%s: %v", name, r)
		}
	}
	if p.Interface(v, nil) != nil {
		t.Error("no pod has an interface")
	}
}
