//go:build linux && kube

package kube_test

import (
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vrouter-go/vrouter/test/kube/probe"
)

// topology: a Service that prefers members near the caller, by zone and by node; who has
// none near gets the others. Each node of the cluster is a zone of its own.
func topology(w *world) {
	for i, name := range []string{"one", "two"} {
		w.pod(name, fmt.Sprintf("node-%d", i+1), map[string]string{"app": "web"})
		w.pod("client-"+name, fmt.Sprintf("node-%d", i+1), nil)
	}
	service := w.expose("web", corev1.ServiceTypeClusterIP, map[string]string{"app": "web"}, nil)
	answered := func(byOne, byTwo []string) {
		both(clusterIPs(service), func(network string, to netip.AddrPort, _ int) {
			w.reached(w.network("client-one"), network, to, byOne...)
			w.reached(w.network("client-two"), network, to, byTwo...)
		})
	}
	all := []string{"one", "two"}
	answered(all, all)
	for _, prefer := range []string{corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode} {
		w.patchService("web", fmt.Sprintf(`{"spec":{"trafficDistribution":%q}}`, prefer))
		answered([]string{"one"}, []string{"two"})
	}
	w.must(w.Client().CoreV1().Pods(w.namespace).Delete(w.t.Context(), "two", metav1.DeleteOptions{}))
	answered([]string{"one"}, []string{"one"})
	w.patchService("web", `{"spec":{"trafficDistribution":null}}`)
	w.pod("three", "node-2", map[string]string{"app": "web"})
	answered([]string{"one", "three"}, []string{"one", "three"})
}

// sourceRanges: a load balancer's address takes new connections from some addresses only.
// What the Service has besides, and who is connected already, does not notice.
func sourceRanges(w *world) {
	w.pod("web", "node-1", map[string]string{"app": "web"})
	service := w.expose("web", corev1.ServiceTypeLoadBalancer, map[string]string{"app": "web"}, nil)
	balancers := []netip.AddrPort{netip.MustParseAddrPort("203.0.113.200:80"), netip.MustParseAddrPort("[2001:db8:113::200]:80")}
	for _, b := range balancers {
		service.Status.LoadBalancer.Ingress = append(service.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: b.Addr().String()})
	}
	_, err := w.Client().CoreV1().Services(w.namespace).UpdateStatus(w.t.Context(), service, metav1.UpdateOptions{})
	w.must(err)
	allow := func(ranges string) {
		w.patchService("web", fmt.Sprintf(`{"spec":{"loadBalancerSourceRanges":%s}}`, ranges))
	}
	reached := func() {
		both(balancers, func(network string, to netip.AddrPort, _ int) { w.reached(w.Outside(), network, to, "web") })
	}

	reached()
	talk := w.open(w.Outside(), balancers[0])
	allow(`["198.18.0.0/15", "2001:db8:bad::/48"]`)
	both(balancers, func(network string, to netip.AddrPort, _ int) { w.outcome(w.Outside(), network, to, probe.TimedOut) })
	for _, network := range []string{"tcp", "udp"} {
		for _, to := range nodePorts(service, w.Nodes[1], network) {
			w.reached(w.Outside(), network, to, "web")
		}
	}
	both(clusterIPs(service), func(network string, to netip.AddrPort, _ int) { w.reached(w.Nodes[1].Namespace, network, to, "web") })
	w.must(talk.Say(patience))
	outside := w.OutsideAddresses()
	allow(fmt.Sprintf(`["%v/32", "%v/128"]`, outside[0], outside[1]))
	reached()
	allow("null")
	reached()
}

// portsChange: a Service's ports and then its selector become others. Connections go on to
// whom they have, new ones go by the new ports and members, and calls of another Service
// with the same pods notice nothing.
func portsChange(w *world) {
	for i, name := range []string{"one", "two"} {
		w.pod(name, fmt.Sprintf("node-%d", i+1), map[string]string{"app": "web", "name": name})
	}
	w.pod("client", "node-1", nil)
	client := w.network("client")
	service := w.expose("web", corev1.ServiceTypeClusterIP, map[string]string{"name": "one"}, nil)
	other := w.expose("other", corev1.ServiceTypeClusterIP, map[string]string{"app": "web"}, nil)
	for _, s := range []*corev1.Service{service, other} {
		both(clusterIPs(s), func(network string, to netip.AddrPort, _ int) {
			w.reached(client, network, to, map[string][]string{"web": {"one"}, "other": {"one", "two"}}[s.Name]...)
		})
	}
	talk := w.open(client, clusterIPs(service)[0])
	load := probe.StartLoad(client, "tcp", clusterIPs(other)[0], 2, 5*time.Millisecond, patience)

	w.patchService("web", fmt.Sprintf(`{"spec":{"ports":[{"name":"new","port":81,"targetPort":%d}]}}`, otherPort))
	for _, to := range clusterIPs(service) {
		w.reached(client, "tcp", netip.AddrPortFrom(to.Addr(), 81), "one")
		w.outcome(client, "tcp", to, probe.Refused)
	}
	w.must(talk.Say(patience))
	w.patchService("web", `{"spec":{"selector":{"name":"two"}}}`)
	for _, to := range clusterIPs(service) {
		w.reached(client, "tcp", netip.AddrPortFrom(to.Addr(), 81), "two")
	}
	w.must(talk.Say(patience))
	if calls, _, failures := load.Stop(); len(failures) > 0 {
		w.t.Errorf("%d of %d calls of the other Service failed: %v", len(failures), calls, failures)
	}
}
