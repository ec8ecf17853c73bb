package controller

import (
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/vrouter-go/vrouter/agent/compile"
	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/controller/network"
	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/forwarder"
)

// What the compiled state means is judged by the production forwarder: which packets of
// pods and of the node arrive where. The node is n1; web-1 and client run on it and web-2
// on n2, all in namespace default; b-1 on it and b-2 on n2 in blue, which is isolated.
func TestPaths(t *testing.T) {
	c := newCompiler(&Config{Node: "n1", Network: network.Options{Uplink: "eth0"}})
	j := newJudge(t)
	j.given = map[string]int{"default:client": 3, "default:web-1": 4, "blue:b-1": 5, "red:r-1": 6}
	web, db, local, none := svc("default", "web", "10.96.0.10"), svc("blue", "db", "10.96.0.11"), svc("default", "local", "10.96.0.12"), svc("default", "none", "10.96.0.13")
	far, other := svc("default", "far", "10.96.0.14"), svc("other", "other", "10.96.0.15")
	for _, s := range []*corev1.Service{web, db, local} {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
	}
	web.Spec.Ports[0].NodePort, local.Spec.Ports[0].NodePort, db.Spec.Ports[0].NodePort = 30080, 30081, 30082
	web.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.80"}}
	internal := corev1.ServiceInternalTrafficPolicyLocal
	local.Spec.InternalTrafficPolicy = &internal
	local.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	web1, web2 := pod("default", "web-1", "n1", "10.244.1.4"), pod("default", "web-2", "n2", "10.244.2.4")
	b1, b2 := pod("blue", "b-1", "n1", "10.244.1.5"), pod("blue", "b-2", "n2", "10.244.2.5")
	j.apply(c.feed(t,
		namespace("default", nil), namespace("blue", map[string]string{network.IsolationAnnotation: "true"}),
		node("n1", "a", []string{"10.244.1.0/24", "fd00:244:1::/64"}, "192.0.2.11"), node("n2", "b", []string{"10.244.2.0/24"}, "192.0.2.12"),
		serviceCIDR("kubernetes", "10.96.0.0/16"), web, db, local, none, far, other,
		namespace("red", map[string]string{network.IsolationAnnotation: "true"}), pod("red", "r-1", "n1", "10.244.1.6"),
		pod("default", "client", "n1", "10.244.1.3"), web1, web2, b1, b2,
		slice(web, "web-x", true, web1), slice(db, "db-x", true, b1), slice(local, "local-x", true, web2), slice(far, "far-x", true, web2),
	))

	fwd, r := compiled(t, j.state, "1")
	ports := map[string]uint16{}
	for _, spec := range r.Ports {
		if spec != nil {
			ports[spec.Name] = spec.Port
		}
	}
	for _, p := range []struct {
		what    string
		from    string
		dst     string
		port    uint16
		verdict string
		reason  forwarder.DropReason
		arrives string // address:port
		by      string // node
		label   string // whose network's
		kept    bool   // the source
	}{
		{"pod to cluster IP", "default:client", "10.96.0.10", 80, "FORWARD", 0, "10.244.1.4:8080", "", "", true},
		{"pod to node port", "default:client", "192.0.2.11", 30080, "FORWARD", 0, "10.244.1.4:8080", "", "", true},
		{"pod to another node's port", "default:client", "192.0.2.12", 30080, "FORWARD", 0, "10.244.1.4:8080", "", "", true},
		{"pod to load balancer", "default:client", "198.51.100.80", 80, "FORWARD", 0, "10.244.1.4:8080", "", "", true},
		{"node to cluster IP", "vhost0", "10.96.0.10", 80, "FORWARD", 0, "10.244.1.4:8080", "", "", true},
		{"node to load balancer", "vhost0", "198.51.100.80", 80, "FORWARD", 0, "10.244.1.4:8080", "", "", true},
		{"node to pod, as a probe", "vhost0", "10.244.1.4", 8080, "FORWARD", 0, "10.244.1.4:8080", "", "", true},
		{"node to pod of an isolated namespace, as a probe", "vhost0", "10.244.1.5", 8080, "FORWARD", 0, "10.244.1.5:8080", "", "", true},
		{"node to pod elsewhere", "vhost0", "10.244.2.4", 8080, "FORWARD", 0, "10.244.2.4:8080", "n2", "ip-fabric", true},
		{"the member itself", "default:web-1", "10.96.0.10", 80, "FORWARD", 0, "10.244.1.4:8080", "", "", false},
		{"pod to pod", "default:client", "10.244.1.4", 8080, "FORWARD", 0, "10.244.1.4:8080", "", "", true},
		{"pod to pod elsewhere", "default:client", "10.244.2.4", 8080, "FORWARD", 0, "10.244.2.4:8080", "n2", "default", true},
		{"S6 nobody serves", "default:client", "10.96.0.13", 80, "REFUSE", forwarder.DropFloatingIPNoMember, "", "", "", false},
		{"S7 internal Local without a local member", "default:client", "10.96.0.12", 80, "DROP", forwarder.DropFloatingIPNoLocalMember, "", "", "", false},
		{"external Local from a pod: all members", "default:client", "192.0.2.11", 30081, "FORWARD", 0, "192.0.2.11:30081", "n2", "default", true},
		{"S8 a port that the service lacks", "default:client", "10.96.0.10", 81, "REFUSE", forwarder.DropFloatingIPPort, "", "", "", false},
		{"S9 a cluster IP that nobody has", "default:client", "10.96.9.9", 80, "DROP", forwarder.DropAddressUnassigned, "", "", "", false},
		{"S9 from the node", "vhost0", "10.96.9.9", 80, "DROP", forwarder.DropAddressUnassigned, "", "", "", false},
		{"an address of the node's pods that nobody has", "default:client", "10.244.1.99", 80, "DROP", forwarder.DropAddressUnassigned, "", "", "", false},

		{"isolated to its own service, where it is itself the member", "blue:b-1", "10.96.0.11", 80, "FORWARD", 0, "10.244.1.5:8080", "", "", false},
		{"isolated to a shared service", "blue:b-1", "10.96.0.10", 80, "FORWARD", 0, "10.244.1.4:8080", "", "", true},
		{"isolated to a shared service, served elsewhere", "blue:b-1", "10.96.0.14", 80, "FORWARD", 0, "10.96.0.14:80", "n2", "blue", true},
		{"pod to a service that is served elsewhere", "default:client", "10.96.0.14", 80, "FORWARD", 0, "10.96.0.14:80", "n2", "default", true},
		{"node to a service that is served elsewhere", "vhost0", "10.96.0.14", 80, "FORWARD", 0, "10.96.0.14:80", "n2", "any", true},
		{"isolated to a service that is not shared", "blue:b-1", "10.96.0.15", 80, "DROP", forwarder.DropAddressUnassigned, "", "", "", false},
		{"isolated to its pod elsewhere", "blue:b-1", "10.244.2.5", 80, "FORWARD", 0, "10.244.2.5:80", "n2", "blue", true},
		{"isolated of which no pod is there, to a pod elsewhere: as if in its own network", "red:r-1", "10.244.2.4", 8080, "FORWARD", 0, "10.244.2.4:8080", "n2", "red", true},
		{"isolated to others' pod", "blue:b-1", "10.244.1.4", 8080, "DROP", forwarder.DropAddressUnassigned, "", "", "", false},
		{"others to isolated pod", "default:client", "10.244.1.5", 8080, "DROP", forwarder.DropAddressUnassigned, "", "", "", false},
		{"others to isolated service", "default:client", "10.96.0.11", 80, "DROP", forwarder.DropAddressUnassigned, "", "", "", false},
		{"the isolated service's node port is for all", "default:client", "192.0.2.11", 30082, "FORWARD", 0, "10.244.1.5:8080", "", "", true},
	} {
		t.Run(p.what, func(t *testing.T) {
			src := netip.MustParseAddr("192.0.2.11")
			if n := j.given[p.from]; n != 0 {
				src = netip.MustParseAddr(fmt.Sprintf("10.244.1.%d", n))
			}
			key := flowtable.Key{Src: src.As16(), Dst: netip.MustParseAddr(p.dst).As16(), SrcPort: 4000, DstPort: p.port, Proto: 6}
			e := fwd.Explain(ports[p.from], key)
			if e.Verdict != p.verdict || e.Reason != p.reason {
				t.Fatalf("%s %s, want %s %s\n%+v", e.Verdict, e.Reason, p.verdict, p.reason, e.Steps)
			}
			if p.verdict != "FORWARD" {
				return
			}
			at := netip.AddrPortFrom(netip.AddrFrom16(e.Rewritten.Dst).Unmap(), e.Rewritten.DstPort)
			if at.String() != p.arrives || e.Peer.Name != p.by {
				t.Errorf("arrives at %s by %q, want %s by %q", at, e.Peer.Name, p.arrives, p.by)
			}
			labels := map[string]uint32{"": 0, "ip-fabric": 4096, "any": e.Tunnel.Identifier}
			for _, ns := range [...]string{"default", "blue", "red"} {
				labels[ns] = c.plan.Of(ns).Number
			}
			if want := labels[p.label]; e.Tunnel.Identifier != want {
				t.Errorf("label %d, want %d", e.Tunnel.Identifier, want)
			}
			if kept := e.Rewritten.Src == key.Src; kept != p.kept {
				t.Errorf("source %s", netip.AddrFrom16(e.Rewritten.Src))
			}
		})
	}

	// The node's kernel sends to vhost0 what lies behind it, and not the other node's
	// own address, where the tunnels go.
	routes := map[string]bool{}
	for _, route := range r.Ports[ports["vhost0"]].Tap.Routes {
		routes[route.Dst.String()] = true
	}
	for _, want := range [...]string{"10.96.0.0/16", "10.244.1.0/24", "10.244.2.0/24", "198.51.100.80/32", "fd00:244:1::/64"} {
		if !routes[want] {
			t.Errorf("the node has no route to %s: %v", want, routes)
		}
	}
	if routes["192.0.2.12/32"] {
		t.Error("the other node's address leads into vhost0")
	}
}

// compiled is a forwarder with a state in force, on one of two nodes whose uplink and peer
// are up: number is 1 on n1, which is 192.0.2.11, and 2 on n2.
func compiled(t *testing.T, s *state.State, number string) (*forwarder.Forwarder, *compile.Result) {
	t.Helper()
	c := compile.New(compile.Config{DefaultQuota: 1000})
	if _, err := c.All(s); err != nil {
		t.Fatal(err)
	}
	mac := func(number string) [6]byte { return [6]byte{2, 0, 0, 0, 0, number[0]} }
	peer := map[string]string{"1": "2", "2": "1"}[number]
	r, err := c.SetUnderlay(&compile.Underlay{
		MAC: mac(number), MTU: 9000, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1" + number)},
		Peers: map[netip.Addr]compile.Path{netip.MustParseAddr("192.0.2.1" + peer): {MAC: mac(peer), Resolved: true}},
		Exits: []compile.Exit{{Prefix: netip.MustParsePrefix("0.0.0.0/0"), NextHop: forwarder.NeighborNextHop(7)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	fwd, err := forwarder.New(forwarder.Config{Workers: 1, Sessions: 1 << 10, Seed: [2]uint64{1, 2}, Clock: func() int64 { return 0 }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fwd.Close(); err != nil {
			t.Error(err)
		}
	})
	fwd.Publish(r.Snapshot)
	return fwd, r
}
