package service

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vrouter-go/vrouter/controller/model"
	"github.com/vrouter-go/vrouter/controller/network"
)

// Who may be reached, and how: S4, S5, S19 and S25 of the service semantics. n1 is here.
func TestMembers(t *testing.T) {
	for _, c := range []struct {
		name      string
		endpoints []string
		want      string
	}{
		{"S3 ready ones, here and there", []string{"web-1", "web-2"},
			"web-1=READY web-2=READY@192.0.2.12"},
		{"S4 serving and terminating is the last resort", []string{"web-1 -ready +serving +terminating", "web-2"},
			"web-1=SERVING web-2=READY@192.0.2.12"},
		{"S4 also where nobody is ready", []string{"web-1 -ready +serving +terminating", "web-2 -ready +serving +terminating"},
			"web-1=SERVING web-2=SERVING@192.0.2.12"},
		{"S4 serving alone is not enough", []string{"web-1 -ready +serving -terminating"}, ""},
		{"S4 terminating and not serving", []string{"web-1 -ready -serving +terminating", "web-2"},
			"web-2=READY@192.0.2.12"},
		{"S5 nil ready is ready", []string{"web-1 +serving"}, "web-1=READY"},
		{"S5 nil serving is serving", []string{"web-1 -ready +terminating"}, "web-1=SERVING"},
		{"S5 nil terminating is not", []string{"web-1 -ready +serving"}, ""},
		{"S5 publishNotReadyAddresses: ready and terminating", []string{"web-1 +ready +serving +terminating"}, "web-1=READY"},
		{"S6 nobody", nil, ""},
		{"S6 nobody fit", []string{"web-1 -ready", "web-2 -ready"}, ""},

		{"S19 zone", []string{"web-1 zone=a", "web-2 zone=b"}, "web-1=READY web-2=DRAINING@192.0.2.12"},
		{"S19 a hint counts, not the place: a local one that is for the other zone is for Local policies", []string{"web-1 zone=b", "web-2 zone=a"},
			"web-1=LOCAL_ONLY web-2=READY@192.0.2.12"},
		{"S19 zone: one ready endpoint has no hint", []string{"web-1 zone=a", "web-2 zone=b", "web-3"},
			"web-1=READY web-2=READY@192.0.2.12 web-3=READY"},
		{"S19 zone: one that is not ready needs none", []string{"web-1 zone=a", "web-2 zone=b", "web-3 -ready"},
			"web-1=READY web-2=DRAINING@192.0.2.12"},
		{"S19 zone: none is for here", []string{"web-1 zone=b", "web-2 zone=c"}, "web-1=READY web-2=READY@192.0.2.12"},
		{"S19 several zones", []string{"web-1 zone=b zone=a", "web-2 zone=b"}, "web-1=READY web-2=DRAINING@192.0.2.12"},
		{"S19 node before zone", []string{"web-1 node=n1 zone=a", "web-3 node=n2 zone=a", "web-2 node=n2 zone=b"},
			"web-1=READY web-2=DRAINING@192.0.2.12 web-3=LOCAL_ONLY"},
		{"S19 node: none is for here, so zone", []string{"web-1 node=n2 zone=a", "web-2 node=n2 zone=b"},
			"web-1=READY web-2=DRAINING@192.0.2.12"},
		{"S19 node: one has no node hint, so zone", []string{"web-1 node=n1 zone=b", "web-2 zone=a"},
			"web-1=LOCAL_ONLY web-2=READY@192.0.2.12"},
		{"S19 hints of those that only serve are not asked", []string{"web-1 -ready +terminating zone=b", "web-2 zone=a"},
			"web-1=SERVING web-2=READY@192.0.2.12"},

		{"an address that is no pod's is a host's", []string{"web-1", "198.51.100.9"}, "web-1=READY host::198.51.100.9=READY@host:198.51.100.9"},
		{"an address without targetRef that is a pod's", []string{"10.244.2.2"}, "web-2=READY@192.0.2.12"},
		{"of this node by nodeName alone", []string{"198.51.100.9 on=n1 zone=b", "web-2 zone=a"},
			"web-2=READY@192.0.2.12 host::198.51.100.9=LOCAL_ONLY@host:198.51.100.9"},
		{"a hostNetwork pod is a host", []string{"hosted"}, "hosted=READY@host:192.0.2.12"},
		{"a hostNetwork pod of this node too", []string{"hosted-1"}, "hosted-1=READY@host:192.0.2.11"},
		{"a finished pod has no address any more", []string{"done", "web-2"}, "web-2=READY@192.0.2.12"},
		{"what cannot be routed", []string{"127.0.0.1", "169.254.1.1", "224.0.0.9", "0.0.0.0"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.pods()
			w.web(nil)
			w.slice("web-a", "http", 8080, c.endpoints...)
			if got := memberText(w.fip("clusterip-v4").GetMembers()); got != c.want {
				t.Errorf("members\n %s\nwant\n %s", got, c.want)
			}
		})
	}
}

// pods are those that tests name: web-1 and web-3 here, web-2 there.
func (w *world) pods() {
	w.pod("web-1", "n1", "10.244.1.1", "fd00:244:1::1")
	w.pod("web-2", "n2", "10.244.2.2", "fd00:244:2::2")
	w.pod("web-3", "n1", "10.244.1.3", "fd00:244:1::3")
	for name, node := range map[string]string{"hosted": "n2", "hosted-1": "n1"} {
		p := w.pod(name, node)
		p.Spec.HostNetwork = true
		p.Status.PodIPs = []corev1.PodIP{{IP: map[string]string{"n1": "192.0.2.11", "n2": "192.0.2.12"}[node]}}
		w.apply(model.PodKind, p)
	}
	p := w.pod("done", "n1", "10.244.1.9")
	p.Status.Phase = corev1.PodSucceeded
	w.apply(model.PodKind, p)
}

// S4: what each set is was decided by kube-proxy's CategorizeEndpoints; here it follows
// from the states, which the forwarder reads by itself for Cluster and for Local.
func TestSlices(t *testing.T) {
	t.Run("S25 duplicates in two slices: the best that is said counts", func(t *testing.T) {
		w := newWorld(t)
		w.pods()
		w.web(nil)
		w.slice("web-a", "http", 8080, "web-1 -ready +terminating")
		w.slice("web-b", "http", 8080, "web-1", "web-2")
		w.slice("web-c", "http", 8080, "web-1 -ready", "web-2 -ready +serving +terminating")
		if got, want := memberText(w.fip("clusterip-v4").GetMembers()), "web-1=READY web-2=READY@192.0.2.12"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
	t.Run("S25 a reused address: the pod that runs has it", func(t *testing.T) {
		w := newWorld(t)
		w.pod("old", "n1", "10.244.1.1")
		w.web(nil)
		w.pod("new", "n1", "10.244.1.1")
		w.slice("web-a", "http", 8080, "old -ready +terminating")
		w.slice("web-b", "http", 8080, "new")
		if got, want := memberText(w.fip("clusterip-v4").GetMembers()), "new=READY"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
	t.Run("S25 slice before service, pod after slice", func(t *testing.T) {
		w := newWorld(t)
		w.pods()
		w.slice("web-a", "http", 8080, "web-1", "web-2")
		w.view.Apply(model.Event{Kind: model.PodKind, Name: model.Name{Namespace: "default", Name: "web-1"}})
		if got := w.compile(); len(got) != 0 {
			t.Errorf("%v without the service", got)
		}
		w.web(nil)
		if got, want := memberText(w.fip("clusterip-v4").GetMembers()), "web-2=READY@192.0.2.12"; got != want {
			t.Errorf("%s, want %s: an interface that is not there cannot be named", got, want)
		}
	})
	t.Run("a pod made anew under its name is not the endpoint yet", func(t *testing.T) {
		w := newWorld(t)
		w.pods()
		w.web(nil)
		w.slice("web-a", "http", 8080, "web-1", "web-2")
		p := w.pod("web-1", "n1", "10.244.1.77")
		p.UID = "another"
		w.apply(model.PodKind, p)
		if got, want := memberText(w.fip("clusterip-v4").GetMembers()), "web-2=READY@192.0.2.12"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
	t.Run("S2 headless and FQDN slices", func(t *testing.T) {
		w := newWorld(t)
		w.pods()
		w.web(nil)
		s := w.slice("web-a", "http", 8080, "web-1")
		s.Labels[corev1.IsHeadlessService] = ""
		w.apply(model.SliceKind, s)
		s = w.slice("web-b", "http", 8080, "web-2")
		s.AddressType = discoveryv1.AddressTypeFQDN
		w.apply(model.SliceKind, s)
		if got := memberText(w.fip("clusterip-v4").GetMembers()); got != "" {
			t.Errorf("%s", got)
		}
	})
	t.Run("S1 families are independent", func(t *testing.T) {
		w := newWorld(t)
		w.pods()
		w.web(func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"10.96.0.10", "fd00:96::10"} })
		w.slice("web-a", "http", 8080, "web-1")
		w.slice("web-v6", "http", 8080, "web-2")
		if got, want := memberText(w.fip("clusterip-v4").GetMembers()), "web-1=READY"; got != want {
			t.Errorf("IPv4: %s, want %s", got, want)
		}
		six := w.fip("clusterip-v6").GetMembers()
		if got, want := memberText(six), "web-2=READY@192.0.2.12"; got != want {
			t.Errorf("IPv6: %s, want %s", got, want)
		}
		if got := six[0].GetAddress(); got != "fd00:244:2::2" {
			t.Errorf("address %s", got)
		}
	})
	t.Run("a member elsewhere says which network it is in there", func(t *testing.T) {
		w := newWorld(t)
		w.pods()
		w.web(nil)
		w.slice("web-a", "http", 8080, "web-2")
		m := w.fip("clusterip-v4").GetMembers()[0]
		if m.GetAddress() != "10.244.2.2" || m.GetTunnel().GetVni() != 4097 || m.GetTunnel().GetLabel() != 4097 {
			t.Errorf("%v", m)
		}
		w.network.Overlay = false
		if got, want := memberText(w.fip("clusterip-v4").GetMembers()), "web-2=READY@host:10.244.2.2"; got != want {
			t.Errorf("without an overlay %s, want %s", got, want)
		}
	})
}

// S10 and S11: ports.
func TestPorts(t *testing.T) {
	two := func(s *corev1.Service) {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "metrics", Port: 9090, Protocol: corev1.ProtocolTCP})
	}
	t.Run("S10 a named target port that differs by pod", func(t *testing.T) {
		w := newWorld(t)
		w.pods()
		w.web(nil)
		w.slice("web-a", "http", 8080, "web-1", "web-3")
		w.slice("web-b", "http", 9999, "web-2")
		f := w.fip("clusterip-v4")
		if got, want := portText(f), "TCP/80>8080"; got != want {
			t.Errorf("ports %s, want %s", got, want)
		}
		if got, want := memberText(f.GetMembers()), "web-1=READY web-2=READY@192.0.2.12,:80>9999 web-3=READY"; got != want {
			t.Errorf("members %s, want %s", got, want)
		}
	})
	t.Run("S10 a port that some pods lack has members of its own", func(t *testing.T) {
		w := newWorld(t)
		w.pods()
		w.web(two)
		w.slice("web-a", "http", 8080, "web-1", "web-2")
		w.slice("web-b", "metrics", 9091, "web-1")
		all := w.compile()
		first, second := all["FloatingIP/default:web:clusterip-v4"].GetFloatingIp(), all["FloatingIP/default:web:clusterip-v4:metrics"].GetFloatingIp()
		if portText(first) != "TCP/80>8080" || memberText(first.GetMembers()) != "web-1=READY web-2=READY@192.0.2.12" {
			t.Errorf("http: %s %s", portText(first), memberText(first.GetMembers()))
		}
		if portText(second) != "TCP/9090>9091" || memberText(second.GetMembers()) != "web-1=READY" || second.GetParent() != "default:web:clusterip-v4" {
			t.Errorf("metrics: %v", second)
		}
	})
	t.Run("ports with the same members share a floating IP", func(t *testing.T) {
		w := newWorld(t)
		w.pods()
		w.web(two)
		w.slice("web-a", "http", 8080, "web-1", "web-2")
		w.slice("web-b", "metrics", 9091, "web-1", "web-2")
		if got, want := portText(w.fip("clusterip-v4")), "TCP/80>8080 TCP/9090>9091"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
	t.Run("S6 and S10 nobody serves: the ports are there to refuse", func(t *testing.T) {
		w := newWorld(t)
		w.web(two)
		if got, want := portText(w.fip("clusterip-v4")), "TCP/80>8080 TCP/9090>9090"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
	t.Run("S11 one number by three protocols", func(t *testing.T) {
		w := newWorld(t)
		w.pods()
		w.web(func(s *corev1.Service) {
			s.Spec.Ports = []corev1.ServicePort{
				{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}, {Name: "quic", Port: 80, Protocol: corev1.ProtocolUDP}, {Name: "sig", Port: 80, Protocol: corev1.ProtocolSCTP},
			}
		})
		w.slice("web-a", "http", 8080, "web-1")
		s := w.slice("web-b", "quic", 8081, "web-1")
		s.Ports[0].Protocol = pointer(corev1.ProtocolUDP)
		w.apply(model.SliceKind, s)
		s = w.slice("web-c", "sig", 8082, "web-1")
		s.Ports[0].Protocol = pointer(corev1.ProtocolSCTP)
		w.apply(model.SliceKind, s)
		if got, want := portText(w.fip("clusterip-v4")), "TCP/80>8080 UDP/80>8081 SCTP/80>8082"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
	t.Run("S11 a slice's port of another protocol is another port", func(t *testing.T) {
		w := newWorld(t)
		w.pods()
		w.web(nil)
		s := w.slice("web-a", "http", 8080, "web-1")
		s.Ports[0].Protocol = pointer(corev1.ProtocolUDP)
		w.apply(model.SliceKind, s)
		if got := memberText(w.fip("clusterip-v4").GetMembers()); got != "" {
			t.Errorf("%s", got)
		}
	})
}

// EndpointSlices may name any pod and address; the networks of isolated namespaces stay
// apart all the same.
func TestIsolationOfEndpoints(t *testing.T) {
	blue := map[string]string{network.IsolationAnnotation: "true"}
	for _, c := range []struct {
		name     string
		isolated string
		endpoint func(w *world) discoveryv1.Endpoint
		want     string
	}{
		{"an isolated pod by its address", "blue", func(w *world) discoveryv1.Endpoint { return w.endpoint("10.244.1.7", true) }, ""},
		{"an isolated pod elsewhere by its address", "blue", func(w *world) discoveryv1.Endpoint { return w.endpoint("10.244.2.7", true) }, ""},
		{"an isolated pod by its name", "blue", func(w *world) discoveryv1.Endpoint {
			return discoveryv1.Endpoint{Addresses: []string{"10.244.1.7"}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "blue", Name: "b-1"}}
		}, ""},
		{"another's pod for the services of an isolated namespace", "default", func(w *world) discoveryv1.Endpoint { return w.endpoint("10.244.1.7", true) }, ""},
		{"another namespace's pod where neither is isolated", "", func(w *world) discoveryv1.Endpoint { return w.endpoint("10.244.1.7", true) }, "blue:b-1=READY"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			for i, node := range []string{"n1", "n2"} {
				p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "b-" + itoa(uint32(i+1)), Namespace: "blue"}, Spec: corev1.PodSpec{NodeName: node}}
				p.Status.PodIPs = []corev1.PodIP{{IP: "10.244." + itoa(uint32(i+1)) + ".7"}}
				w.apply(model.PodKind, p)
			}
			if c.isolated != "" {
				w.apply(model.NamespaceKind, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: c.isolated, Annotations: blue}})
			}
			w.web(nil)
			s := w.slice("web-a", "http", 8080)
			s = s.DeepCopy()
			s.Endpoints = []discoveryv1.Endpoint{c.endpoint(w)}
			w.apply(model.SliceKind, s)
			if got := memberText(w.fip("clusterip-v4").GetMembers()); got != c.want {
				t.Errorf("members %q, want %q", got, c.want)
			}
		})
	}
}
