package service

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vrouter-go/vrouter/controller/model"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// keys returns the names of floating IPs without the service's, with address and ports.
func (w *world) frontends() string {
	w.t.Helper()
	all := w.compile()
	var list []string
	for k, r := range all {
		f := r.GetFloatingIp()
		if f == nil {
			continue
		}
		address := f.GetAddress()
		if f.GetParent() != "" {
			address = all["InstanceIP/"+f.GetParent()].GetInstanceIp().GetAddress()
		}
		list = append(list, strings.TrimPrefix(k, "FloatingIP/default:web:")+"="+address+","+portText(f))
	}
	slices.Sort(list)
	return strings.Join(list, "\n")
}

func nodePort(s *corev1.Service) {
	s.Spec.Type = corev1.ServiceTypeNodePort
	s.Spec.Ports[0].NodePort = 30080
}

func balancer(ips ...string) func(*corev1.Service) {
	return func(s *corev1.Service) {
		nodePort(s)
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		for _, ip := range ips {
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
		}
	}
}

func dual(s *corev1.Service) { s.Spec.ClusterIPs = []string{"10.96.0.10", "fd00:96::10"} }

func all(changes ...func(*corev1.Service)) func(*corev1.Service) {
	return func(s *corev1.Service) {
		for _, c := range changes {
			c(s)
		}
	}
}

// S1, S2, S17, S18, S20: the addresses that a service is served at.
func TestFrontends(t *testing.T) {
	const cluster = "clusterip-v4=10.96.0.10,TCP/80>8080"
	external := func(ips ...string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.ExternalIPs = ips }
	}
	prefixes := func(list ...string) (p []netip.Prefix) {
		for _, s := range list {
			p = append(p, netip.MustParsePrefix(s))
		}
		return p
	}
	for _, c := range []struct {
		name    string
		change  func(*corev1.Service)
		options Options
		want    []string
	}{
		{"S1 cluster IP", nil, Options{}, []string{cluster}},
		{"S1 both families", dual, Options{}, []string{cluster, "clusterip-v6=fd00:96::10,TCP/80>8080"}},
		{"S1 IPv6 alone", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "fd00:96::10", []string{"fd00:96::10"} }, Options{},
			[]string{"clusterip-v6=fd00:96::10,TCP/80>8080"}},
		{"S1 node port at the node's primary address", nodePort, Options{}, []string{cluster, "nodeport-v4=192.0.2.11,TCP/30080>8080", "nodeport-v6=2001:db8::11,TCP/30080>8080"}},
		{"S1 load balancer", balancer("198.51.100.80", "2001:db8:1::80"), Options{}, []string{
			cluster, "loadbalancer-1=198.51.100.80,TCP/80>8080", "loadbalancer-2=2001:db8:1::80,TCP/80>8080", "nodeport-v4=192.0.2.11,TCP/30080>8080", "nodeport-v6=2001:db8::11,TCP/30080>8080"}},
		{"S1 ipMode Proxy is not served, VIP is", all(balancer("198.51.100.80", "198.51.100.81"), func(s *corev1.Service) {
			s.Spec.Ports[0].NodePort = 0
			s.Status.LoadBalancer.Ingress[0].IPMode = pointer(corev1.LoadBalancerIPModeProxy)
			s.Status.LoadBalancer.Ingress[1].IPMode = pointer(corev1.LoadBalancerIPModeVIP)
		}), Options{}, []string{cluster, "loadbalancer-2=198.51.100.81,TCP/80>8080"}},
		{"a load balancer known by name alone", all(balancer(""), func(s *corev1.Service) {
			s.Spec.Ports[0].NodePort = 0
			s.Status.LoadBalancer.Ingress[0].Hostname = "lb.example"
		}), Options{}, []string{cluster}},
		{"S2 headless", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "None", []string{"None"} }, Options{}, nil},
		{"S2 ExternalName", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }, Options{}, nil},
		{"S2 another proxy's", func(s *corev1.Service) { s.Labels = map[string]string{labelProxyName: "other"} }, Options{}, nil},
		{"no cluster IP yet", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil }, Options{}, nil},
		{"S12 NodePort become ClusterIP, its number left over", func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30080 }, Options{}, []string{cluster}},
		{"S12 LoadBalancer become ClusterIP, its status left over", all(balancer("198.51.100.80"), func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP }), Options{}, []string{cluster}},
		{"S17 no node ports allocated", all(balancer("198.51.100.80"), func(s *corev1.Service) {
			s.Spec.AllocateLoadBalancerNodePorts, s.Spec.Ports[0].NodePort = pointer(false), 0
		}), Options{}, []string{cluster, "loadbalancer-1=198.51.100.80,TCP/80>8080"}},
		{"S18 a list of prefixes", nodePort, Options{NodePortAddresses: prefixes("192.0.2.0/24", "203.0.113.0/24"), NodeAddresses: []netip.Addr{netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("198.51.100.1")}},
			[]string{cluster, "nodeport-v4-2=203.0.113.7,TCP/30080>8080", "nodeport-v4=192.0.2.11,TCP/30080>8080"}},
		{"S20 external IPs are off", external("198.51.100.7"), Options{}, []string{cluster}},
		{"S20 external IPs switched on", external("198.51.100.7", "2001:db8:1::7"), Options{ExternalIPs: true},
			[]string{cluster, "external-1=198.51.100.7,TCP/80>8080", "external-2=2001:db8:1::7,TCP/80>8080"}},
		{"what nobody can have", external("127.0.0.1", "224.0.0.1", "0.0.0.0", "169.254.0.1", "nonsense", "fe80::1"), Options{ExternalIPs: true}, []string{cluster}},
		{"one address named twice", all(balancer("198.51.100.7"), external("198.51.100.7"), func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 0 }), Options{ExternalIPs: true},
			[]string{cluster, "external-1=198.51.100.7,TCP/80>8080"}},
		{"a service port that is its own node port, at the node's address", all(nodePort, external("192.0.2.11"), func(s *corev1.Service) { s.Spec.Ports[0].Port = 30080 }), Options{ExternalIPs: true},
			[]string{"clusterip-v4=10.96.0.10,TCP/30080>8080", "nodeport-v4=192.0.2.11,TCP/30080>8080", "nodeport-v6=2001:db8::11,TCP/30080>8080"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.options = c.options
			w.web(c.change)
			if got, want := w.frontends(), strings.Join(c.want, "\n"); got != want {
				t.Errorf("served at\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// S7, S13, S14, S15: what a floating IP says beside its members.
func TestPolicies(t *testing.T) {
	local := func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal }
	inside := func(s *corev1.Service) {
		s.Spec.InternalTrafficPolicy = pointer(corev1.ServiceInternalTrafficPolicyLocal)
	}
	ranges := func(list ...string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = list }
	}
	check := func(s *corev1.Service) { s.Spec.HealthCheckNodePort = 32060 }
	lb := balancer("198.51.100.80", "2001:db8:1::80")
	affine := func(seconds int32) func(*corev1.Service) {
		return func(s *corev1.Service) {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			if seconds != 0 {
				s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
			}
		}
	}
	text := func(f *pb.FloatingIP) string {
		var list []string
		if f.GetExternalTrafficPolicy() == pb.FloatingIP_LOCAL {
			list = append(list, "etp")
		}
		if f.GetInternalTrafficPolicy() == pb.FloatingIP_LOCAL {
			list = append(list, "itp")
		}
		if len(f.GetSourceRanges()) > 0 {
			list = append(list, "from:"+strings.Join(f.GetSourceRanges(), ","))
		}
		if h := f.GetHealthCheck(); h != nil {
			list = append(list, "check:"+h.GetServiceNamespace()+"/"+h.GetServiceName()+":"+itoa(h.GetPort()))
		}
		if a := f.GetSessionAffinity(); a != nil {
			list = append(list, a.GetType().String()+":"+itoa(a.GetTimeoutSeconds()))
		}
		return strings.Join(list, " ")
	}
	for _, c := range []struct {
		name   string
		change func(*corev1.Service)
		part   string
		want   string
	}{
		{"S7 external Local, node port", all(lb, local), "nodeport-v4", "etp"},
		{"S7 external Local, load balancer", all(lb, local), "loadbalancer-1", "etp"},
		{"S7 external Local does not change the cluster IP", all(lb, local), "clusterip-v4", ""},
		{"S7 internal Local, cluster IP, whoever calls", all(lb, inside), "clusterip-v4", "etp itp"},
		{"S7 internal Local does not change node ports", all(lb, inside), "nodeport-v4", ""},
		{"S7 internal Local does not change load balancers", all(lb, inside), "loadbalancer-1", ""},
		{"S13 none", nil, "clusterip-v4", ""},
		{"S13 the default", affine(0), "clusterip-v4", "CLIENT_IP:10800"},
		{"S13 a time", affine(60), "clusterip-v4", "CLIENT_IP:60"},
		{"S13 at the node's port", all(lb, affine(60)), "nodeport-v4", "CLIENT_IP:60"},
		{"S13 nonsense", affine(-1), "clusterip-v4", "CLIENT_IP:10800"},
		{"S14 load balancer", all(lb, ranges("192.0.2.0/24", " 10.0.0.0/8 ")), "loadbalancer-1", "from:192.0.2.0/24,10.0.0.0/8"},
		{"S14 not node ports", all(lb, ranges("192.0.2.0/24")), "nodeport-v4", ""},
		{"S14 not the cluster IP", all(lb, ranges("192.0.2.0/24")), "clusterip-v4", ""},
		{"S14 everywhere", all(lb, ranges("192.0.2.0/24", "0.0.0.0/0")), "loadbalancer-1", ""},
		{"S14 families apart", all(lb, ranges("192.0.2.0/24", "2001:db8:9::/64")), "loadbalancer-2", "from:2001:db8:9::/64"},
		{"S14 none of the family", all(lb, ranges("192.0.2.0/24")), "loadbalancer-2", ""},
		{"S14 host bits, twice, nonsense", all(lb, ranges("192.0.2.7/24", "192.0.2.0/24", "x")), "loadbalancer-1", "from:192.0.2.0/24"},
		{"S15 load balancer with Local", all(lb, local, check), "clusterip-v4", "check:default/web:32060"},
		{"S15 Cluster has none", all(lb, check), "clusterip-v4", ""},
		{"S15 a NodePort service has none", all(nodePort, local, check), "clusterip-v4", ""},
		{"S17 without node ports", all(lb, local, check, func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 0 }), "clusterip-v4", "check:default/web:32060"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.web(c.change)
			if got := text(w.fip(c.part)); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// The networks: cluster IPs in that of services, by an InstanceIP; all else in ip-fabric.
// An isolated namespace has its own.
func TestNetworks(t *testing.T) {
	w := newWorld(t)
	w.web(nodePort)
	resources := w.compile()
	iip := resources["InstanceIP/default:web:clusterip-v4"].GetInstanceIp()
	fip := resources["FloatingIP/default:web:clusterip-v4"].GetFloatingIp()
	if iip.GetVirtualNetwork() != "default-servicenetwork" || fip.GetParent() != "default:web:clusterip-v4" || fip.GetAddress() != "" {
		t.Errorf("%v %v", iip, fip)
	}
	if f := w.fip("nodeport-v4"); f.GetVirtualNetwork() != "ip-fabric" {
		t.Errorf("%v", f)
	}
	w.apply(model.NamespaceKind, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", Annotations: map[string]string{"vrouter.io/isolation": "true"}}})
	if got := w.compile()["InstanceIP/default:web:clusterip-v4"].GetInstanceIp().GetVirtualNetwork(); got != "ns:default-servicenetwork" {
		t.Errorf("isolated: %s", got)
	}
}

// The LoadBalancer tells all endpoints, those that take no flows too.
func TestLoadBalancer(t *testing.T) {
	w := newWorld(t)
	w.pods()
	w.web(all(dual, nodePort))
	w.slice("web-a", "http", 8080, "web-1", "web-2", "web-3 -ready")
	w.slice("web-v6", "http", 8080, "web-1")
	lb := w.compile()["LoadBalancer/default:web"].GetLoadBalancer()
	l := lb.GetListeners()[0]
	if len(lb.GetListeners()) != 1 || l.GetName() != "http" || l.GetPort() != 80 || l.GetNodePort() != 30080 || l.GetPool().GetTargetPort() != "8080" {
		t.Errorf("listener %v", l)
	}
	var members []string
	for _, m := range l.GetPool().GetMembers() {
		members = append(members, m.GetVirtualMachineInterface()+" "+m.GetAddress()+" "+itoa(m.GetPort())+" "+m.GetNode()+" "+m.GetState().String())
	}
	want := []string{
		"default:web-1 10.244.1.1 8080 n1 READY", "default:web-2 10.244.2.2 8080 n2 READY", "default:web-3 10.244.1.3 8080 n1 DRAINING",
		"default:web-1 fd00:244:1::1 8080 n1 READY",
	}
	if !slices.Equal(members, want) {
		t.Errorf("members\n%s\nwant\n%s", strings.Join(members, "\n"), strings.Join(want, "\n"))
	}
	if got := strings.Join(lb.GetInstanceIps(), " "); got != "default:web:clusterip-v4 default:web:clusterip-v6" {
		t.Errorf("instance IPs %s", got)
	}
	if got := strings.Join(lb.GetFloatingIps(), " "); got != "default:web:clusterip-v4 default:web:nodeport-v4 default:web:clusterip-v6 default:web:nodeport-v6" {
		t.Errorf("floating IPs %s", got)
	}
	if s := lb.GetService(); s.GetNamespace() != "default" || s.GetName() != "web" || s.GetType() != "NodePort" {
		t.Errorf("%v", s)
	}
}

// Two services cannot have one port of one address: the older has it, and the other gets it
// when that is gone.
func TestClaims(t *testing.T) {
	at := func(port uint16) Frontend {
		return Frontend{Network: "ip-fabric", Address: netip.MustParseAddr("198.51.100.7"), Protocol: pb.Protocol_TCP, Port: port}
	}
	a, b := model.Name{Namespace: "x", Name: "a"}, model.Name{Namespace: "x", Name: "b"}
	old, young := time.Unix(1, 0), time.Unix(2, 0)
	var c Claims
	if others := c.Set(b, young, []Frontend{at(80), at(81)}); len(others) != 0 || !c.Owns(b, at(80)) {
		t.Fatalf("alone: %v", others)
	}
	if others := c.Set(a, old, []Frontend{at(80)}); !slices.Equal(others, []model.Name{b}) || !c.Owns(a, at(80)) || c.Owns(b, at(80)) || !c.Owns(b, at(81)) {
		t.Errorf("the older: others %v", others)
	}
	if others := c.Set(b, young, []Frontend{at(80), at(82)}); len(others) != 0 || c.Owns(b, at(80)) || c.Owns(b, at(81)) || !c.Owns(b, at(82)) {
		t.Errorf("the younger again: others %v", others)
	}
	if others := c.Set(a, old, nil); !slices.Equal(others, []model.Name{b}) || !c.Owns(b, at(80)) {
		t.Errorf("the older gone: others %v", others)
	}
	c.Set(b, young, nil)
	if len(c.claimants) != 0 || len(c.wanted) != 0 {
		t.Errorf("left over: %v %v", c.claimants, c.wanted)
	}
}

// A service that does not own its ports is not served there, and one that does not own its
// cluster IP not at all.
func TestOwnership(t *testing.T) {
	w := newWorld(t)
	w.web(balancer("198.51.100.80"))
	name := model.Name{Namespace: "default", Name: "web"}
	resources := w.compileFor(name, func(_ model.Name, f Frontend) bool { return f.Network == "ip-fabric" && f.Port != 80 })
	for k := range resources {
		if k != "LoadBalancer/default:web" && !strings.HasPrefix(k, "FloatingIP/default:web:nodeport-") {
			t.Errorf("%s", k)
		}
	}
}
