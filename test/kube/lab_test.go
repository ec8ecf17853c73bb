//go:build linux && kube

package kube_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/vrouter-go/vrouter/test/kube/cluster"
	"github.com/vrouter-go/vrouter/test/kube/probe"
)

// lab is a cluster with the objects of the matrix. They are the same, with the same
// addresses and ports of services, whatever the dataplane is.
type lab struct {
	*world
	services map[string]*corev1.Service // by membership and policy
	roles    map[netip.Addr]string      // who has an address
	networks map[string]string          // network namespaces of sources and members
}

// newLab makes the objects and waits until they are as the matrix has them.
func newLab(t *testing.T, c *cluster.Cluster) *lab {
	t.Helper()
	l := &lab{world: in(t, c, "matrix"), services: map[string]*corev1.Service{}, roles: map[netip.Addr]string{}, networks: map[string]string{
		"outside": c.Outside(), "node-1": c.Nodes[0].Namespace, "node-2": c.Nodes[1].Namespace,
	}}
	for i, a := range c.OutsideAddresses() {
		l.roles[a] = "outside"
		for _, n := range c.Nodes {
			l.roles[n.Addresses[i]], l.roles[n.Gateways[i]] = n.Name, n.Name
		}
	}
	l.createMembers()
	for i, endpoints := range membershipNames {
		for j, policy := range []string{"Cluster", "Local"} {
			l.service(endpoints, policy, 2*i+j+1)
		}
	}
	w := l.world
	for _, m := range append([]member{{name: "client", ready: true}}, members...) {
		if m.ready {
			w.ready(m.name)
		}
		var pod *corev1.Pod
		w.until(m.name+" has its network", func(ctx context.Context) (err error) {
			if pod, err = c.Client().CoreV1().Pods(l.namespace).Get(ctx, m.name, metav1.GetOptions{}); err == nil && len(pod.Status.PodIPs) != 2 {
				err = fmt.Errorf("addresses %v", pod.Status.PodIPs)
			}
			return err
		})
		for _, ip := range pod.Status.PodIPs {
			l.roles[netip.MustParseAddr(ip.IP)] = m.name
		}
		l.networks[m.name] = w.network(m.name)
		if m.terminating {
			w.must(c.Client().CoreV1().Pods(l.namespace).Delete(t.Context(), m.name, metav1.DeleteOptions{}))
		}
	}
	l.slices()
	// One more Service, younger than all that has been seen: a dataplane that serves it knows the others.
	last := l.expose("last", corev1.ServiceTypeClusterIP, map[string]string{"many": "member"}, nil)
	both(clusterIPs(last), func(network string, to netip.AddrPort, _ int) {
		for _, n := range c.Nodes {
			w.reached(n.Namespace, network, to, memberships["many"]...)
		}
	})
	return l
}

// createMembers makes the pods; a label for each membership says which services they are in.
func (l *lab) createMembers() {
	l.t.Helper()
	for _, m := range append([]member{{name: "client", node: "node-1", ready: true}}, members...) {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: m.name, Labels: map[string]string{}}, Spec: podSpec(m.node)}
		for endpoints, names := range memberships {
			if slices.Contains(names, m.name) {
				pod.Labels[endpoints] = "member"
			}
		}
		c := &pod.Spec.Containers[0]
		if m.terminating { // for as long as the matrix takes
			grace := int64(3600)
			pod.Spec.TerminationGracePeriodSeconds = &grace
			c.Command[len(c.Command)-1] = "1h"
		}
		if !m.ready {
			c.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"false"}}}}
		}
		l.createPod(pod)
	}
}

// service makes the Service of a membership and a policy, with all frontends.
func (l *lab) service(endpoints, policy string, number int) {
	l.t.Helper()
	name := endpoints + "-" + strings.ToLower(policy)
	internal := corev1.ServiceInternalTrafficPolicy(policy)
	s := l.expose(name, corev1.ServiceTypeLoadBalancer, map[string]string{endpoints: "member"}, func(s *corev1.Service) {
		s.Spec.ClusterIPs = []string{fmt.Sprintf("10.96.9.%d", number), fmt.Sprintf("fd00:96::9%02x", number)}
		s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
		s.Spec.ExternalIPs = []string{fmt.Sprintf("198.51.100.%d", number), fmt.Sprintf("2001:db8:51::%x", number)}
		s.Spec.ExternalTrafficPolicy, s.Spec.InternalTrafficPolicy = corev1.ServiceExternalTrafficPolicy(policy), &internal
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].NodePort = int32(30000 + 10*number + i)
		}
		if policy == "Local" {
			s.Spec.HealthCheckNodePort = int32(31000 + number)
		}
	})
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: fmt.Sprintf("203.0.113.%d", number)}, {IP: fmt.Sprintf("2001:db8:113::%x", number)}}
	made, err := l.Client().CoreV1().Services(l.namespace).UpdateStatus(l.t.Context(), s, metav1.UpdateOptions{})
	l.must(err)
	l.services[name] = made
	for _, list := range [][]string{made.Spec.ClusterIPs, made.Spec.ExternalIPs, {made.Status.LoadBalancer.Ingress[0].IP, made.Status.LoadBalancer.Ingress[1].IP}} {
		for _, a := range list {
			l.roles[netip.MustParseAddr(a)] = "vip"
		}
	}
}

// slices waits until the EndpointSlices say of every member what the matrix says.
func (l *lab) slices() {
	l.t.Helper()
	for name := range l.services {
		endpoints, _, _ := strings.Cut(name, "-")
		want := map[string]string{}
		for _, m := range memberships[endpoints] {
			want[m] = fmt.Sprint(named(m).ready && !named(m).terminating, named(m).ready, named(m).terminating)
		}
		l.until("the slices of "+name, func(ctx context.Context) error {
			list, err := l.Client().DiscoveryV1().EndpointSlices(l.namespace).List(ctx, metav1.ListOptions{
				LabelSelector: labels.SelectorFromSet(labels.Set{"kubernetes.io/service-name": name}).String(),
			})
			if err != nil {
				return err
			}
			got := map[string]map[string]string{"IPv4": {}, "IPv6": {}}
			for _, slice := range list.Items {
				for _, e := range slice.Endpoints {
					got[string(slice.AddressType)][e.TargetRef.Name] = fmt.Sprint(*e.Conditions.Ready, *e.Conditions.Serving, *e.Conditions.Terminating)
				}
			}
			for family, have := range got {
				if !maps.Equal(have, want) {
					return fmt.Errorf("%s: %v (ready, serving, terminating); want %v", family, have, want)
				}
			}
			return nil
		})
	}
}

// from returns the network namespace and the node that a cell's call comes from.
func (l *lab) from(c cell) (namespace string, node *cluster.Node) {
	switch c.source {
	case "self":
		m := self(c.endpoints)
		return l.networks[m.name], l.Nodes[boolean(m.node == "node-2")]
	case "pod":
		return l.networks["client"], l.Nodes[0]
	case "node":
		return l.networks["node-1"], l.Nodes[0]
	default:
		return l.networks["outside"], l.Nodes[0]
	}
}

// to returns what a cell calls.
func (l *lab) to(c cell, node *cluster.Node) netip.AddrPort {
	s := l.services[c.endpoints+"-"+strings.ToLower(c.policy)]
	family := boolean(c.family == "v6")
	switch c.frontend {
	case "NodePort":
		return netip.AddrPortFrom(node.Addresses[family], uint16(s.Spec.Ports[boolean(c.network == "udp")].NodePort))
	case "LoadBalancer":
		return netip.AddrPortFrom(netip.MustParseAddr(s.Status.LoadBalancer.Ingress[family].IP), 80)
	case "externalIP":
		return netip.AddrPortFrom(netip.MustParseAddr(s.Spec.ExternalIPs[family]), 80)
	case "healthCheck":
		return netip.AddrPortFrom(node.Addresses[family], uint16(s.Spec.HealthCheckNodePort))
	case "undefinedPort":
		return netip.AddrPortFrom(netip.MustParseAddr(s.Spec.ClusterIPs[family]), 81)
	case "unallocatedIP":
		return netip.AddrPortFrom(netip.MustParseAddr([]string{"10.96.200.200", "fd00:96::c8c8"}[family]), 80)
	default:
		return netip.AddrPortFrom(netip.MustParseAddr(s.Spec.ClusterIPs[family]), 80)
	}
}

// callPatience is how long a call of the matrix waits for an answer. Refusals and answers
// take less than a millisecond.
const callPatience = 1500 * time.Millisecond

// ask makes the calls of a cell and returns what came of them.
func (l *lab) ask(c cell) string {
	namespace, node := l.from(c)
	to := l.to(c, node)
	if c.frontend == "healthCheck" {
		return l.healthCheck(namespace, to)
	}
	calls := 12
	if len(memberships[c.endpoints]) > 1 {
		calls = 40 // that one of three members never answers has a probability of 3e-7
	}
	seen := map[string]bool{}
	for range calls {
		r := probe.Call(namespace, c.network, to, callPatience)
		if r.Outcome == probe.Answered {
			role, ok := l.roles[r.Client]
			if !ok {
				role = r.Client.String()
			}
			seen[r.Server+" saw "+role] = true
			continue
		}
		again := probe.Call(namespace, c.network, to, callPatience)
		seen[string(r.Outcome)], seen[string(again.Outcome)] = true, true
		if again.Outcome == r.Outcome {
			break
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(seen)), ", ")
}

// healthCheck asks a health check of a Service.
func (l *lab) healthCheck(namespace string, to netip.AddrPort) string {
	client := http.Client{Timeout: callPatience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return probe.Dial(ctx, namespace, "tcp", to)
	}}}
	response, err := client.Get("http://" + to.String() + "/")
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	var body struct {
		Service        struct{ Namespace, Name string }
		LocalEndpoints int
	}
	text, err := io.ReadAll(response.Body)
	if err := errors.Join(err, json.Unmarshal(text, &body)); err != nil {
		return err.Error()
	}
	if weight := response.Header.Get("X-Load-Balancing-Endpoint-Weight"); weight != fmt.Sprint(body.LocalEndpoints) {
		return fmt.Sprintf("%d, %d local, weight %q", response.StatusCode, body.LocalEndpoints, weight)
	}
	return fmt.Sprintf("%d, %d local", response.StatusCode, body.LocalEndpoints)
}

// run asks the whole matrix, some cells at a time.
func (l *lab) run() map[cell]string {
	var mu sync.Mutex
	var work sync.WaitGroup
	answers, queue := map[cell]string{}, make(chan cell)
	for range 8 {
		work.Go(func() {
			for c := range queue {
				answer := l.ask(c)
				mu.Lock()
				answers[c] = answer
				mu.Unlock()
			}
		})
	}
	for _, c := range cells() {
		queue <- c
	}
	close(queue)
	work.Wait()
	return answers
}
