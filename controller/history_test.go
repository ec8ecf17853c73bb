package controller

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/vrouter-go/vrouter/controller/model"
	"github.com/vrouter-go/vrouter/controller/network"
	"github.com/vrouter-go/vrouter/controller/service"
)

// Whatever the history, the state is what a controller would make that sees the final
// objects only; and on the way there the agent takes every change.
func TestHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		config := &Config{
			Node:    "n1",
			Network: network.Options{Uplink: "eth0", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:244:1::/64")}},
			Service: service.Options{ExternalIPs: true},
		}
		c := newCompiler(config)
		agent := newJudge(t)
		final := map[string]model.Event{}
		var past []model.Event
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			e := anyEvent(t)
			if len(past) > 0 && rapid.IntRange(0, 9).Draw(t, "again") == 0 { // as after a relist
				e = past[rapid.IntRange(0, len(past)-1).Draw(t, "which")]
			}
			past = append(past, e)
			final[fmt.Sprint(e.Kind, e.Name)] = e
			c.view.Apply(e)
			if rapid.IntRange(0, 3).Draw(t, "compile") == 0 {
				agent.apply(c.compile())
			}
		}
		agent.apply(c.compile())
		if again := c.compile(); len(again.Upserts)+len(again.Deletes) > 0 {
			t.Fatalf("nothing happened, and it changed %s", names(again))
		}

		fresh := newCompiler(config)
		keys := rapid.Permutation(sorted(final)).Draw(t, "order")
		for _, k := range keys {
			fresh.view.Apply(final[k])
		}
		fresh.compile()
		if diff := differ(c.desired, fresh.desired); len(diff) > 0 {
			t.Fatalf("differ: %v", diff)
		}
	})
}

func sorted(m map[string]model.Event) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	for i := range keys { // few
		for j := i + 1; j < len(keys); j++ {
			if keys[j] < keys[i] {
				keys[i], keys[j] = keys[j], keys[i]
			}
		}
	}
	return keys
}

// anyEvent draws one from a small cluster, in which everything collides with everything.
func anyEvent(t *rapid.T) model.Event {
	pick := func(label string, list ...string) string { return rapid.SampledFrom(list).Draw(t, label) }
	var o metav1.Object
	ns := pick("namespace", "a", "b")
	switch rapid.IntRange(0, 9).Draw(t, "kind") {
	case 0:
		annotations := map[string]string{}
		if rapid.Bool().Draw(t, "isolated") {
			annotations[network.IsolationAnnotation] = "true"
			annotations[network.VNIAnnotation] = pick("vni", "70000", "70001", "x")
		}
		o = namespace(ns, annotations)
	case 1:
		name := pick("node", "n1", "n1", "n2", "n3")
		n := node(name, pick("zone", "za", "zb"), []string{"10.244." + name[1:] + ".0/24", "fd00:244:" + name[1:] + "::/64"})
		if name != "n1" && rapid.IntRange(0, 4).Draw(t, "clash") == 0 {
			n.Spec.PodCIDRs = []string{"10.244.0.0/16"}
		}
		for _, a := range [...]string{"192.0.2.1", "2001:db8::1"} {
			if rapid.IntRange(0, 3).Draw(t, "has address") > 0 {
				n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a + pick("address", name[1:], name[1:], "2")})
			}
		}
		o = n
	case 2, 3, 4:
		o = anyPod(t, ns, pick("pod", "p0", "p1", "p2", "p3"))
	case 5, 6:
		o = anyService(t, ns, pick("service", "s0", "s1"))
	case 7, 8:
		s := svc(ns, pick("service", "s0", "s1", "s2"), "10.96.0.1")
		var pods []*corev1.Pod
		for range rapid.IntRange(0, 4).Draw(t, "endpoints") {
			pods = append(pods, anyPod(t, ns, pick("endpoint", "p0", "p1", "p2", "p3", "p4")))
		}
		sl := slice(s, pick("slice", "x", "y", "z"), rapid.Bool().Draw(t, "ready"), pods...)
		for i := range sl.Endpoints {
			if rapid.IntRange(0, 3).Draw(t, "anonymous") == 0 {
				sl.Endpoints[i].TargetRef = nil
			}
		}
		if rapid.IntRange(0, 2).Draw(t, "port") == 0 {
			*sl.Ports[0].Port = 9999
		}
		if rapid.IntRange(0, 3).Draw(t, "port name") == 0 {
			*sl.Ports[0].Name = "metrics"
		}
		o = sl
	default:
		o = serviceCIDR(pick("ranges", "r0", "r1"), pick("range", "10.96.0.0/16", "10.96.0.0/24", "fd00:96::/112"))
	}
	e := event(t, o)
	if rapid.IntRange(0, 4).Draw(t, "gone") == 0 {
		return gone(e)
	}
	return e
}

func anyPod(t *rapid.T, ns, name string) *corev1.Pod {
	p := pod(ns, name, rapid.SampledFrom([]string{"n1", "n1", "n2", "n3", ""}).Draw(t, "bound"),
		"10.244."+rapid.SampledFrom([]string{"1.1", "1.2", "2.1"}).Draw(t, "ip"))
	p.Spec.HostNetwork = rapid.IntRange(0, 5).Draw(t, "host") == 0
	if rapid.IntRange(0, 5).Draw(t, "finished") == 0 {
		p.Status.Phase = corev1.PodFailed
	}
	if rapid.IntRange(0, 5).Draw(t, "anew") == 0 {
		p.UID = "another"
	}
	return p
}

func anyService(t *rapid.T, ns, name string) *corev1.Service {
	s := svc(ns, name, rapid.SampledFrom([]string{"10.96.0.1", "10.96.0.2", "None"}).Draw(t, "cluster IP"))
	s.CreationTimestamp = metav1.NewTime(time.Unix(rapid.Int64Range(1, 3).Draw(t, "created"), 0))
	if rapid.Bool().Draw(t, "two ports") {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "metrics", Port: 9090, Protocol: corev1.ProtocolTCP})
	}
	if rapid.Bool().Draw(t, "external") {
		s.Spec.ExternalIPs = []string{"198.51.100.1", rapid.SampledFrom([]string{"192.0.2.11", "198.51.100.2"}).Draw(t, "external IP")}
	}
	switch rapid.IntRange(0, 3).Draw(t, "type") {
	case 0:
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports[0].NodePort = rapid.SampledFrom([]int32{30080, 80}).Draw(t, "node port")
	case 1:
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.Ports[0].NodePort = 30081
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		s.Spec.HealthCheckNodePort = rapid.SampledFrom([]int32{32060, 0}).Draw(t, "health")
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.1"}}
	case 2:
		s.Spec.Type = corev1.ServiceTypeExternalName
	}
	return s
}
