//go:build linux && kube

package kube_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/vrouter-go/vrouter/test/kube/cluster"
	"github.com/vrouter-go/vrouter/test/kube/probe"
)

// policyWorld is one server and those who call it.
type policyWorld struct {
	*world
	server *corev1.Pod
}

// TestNetworkPolicy: who may call whom, told by calls.
func TestNetworkPolicy(t *testing.T) {
	t.Parallel()
	c := newCluster(t, cluster.Options{Dataplane: cluster.VRouter})
	for _, journey := range []struct {
		name string
		make func(w *policyWorld)
	}{{"ingress", ingress}, {"egress", egress}, {"peers", peers}, {"before-the-pod", beforeThePod}, {"cluster-policy", clusterPolicy}} {
		t.Run(journey.name, func(t *testing.T) {
			w := &policyWorld{world: in(t, c, journey.name)}
			w.server = w.pod("server", "node-1", map[string]string{"app": "server"})
			w.pod("near", "node-1", map[string]string{"role": "friend"})
			w.pod("far", "node-2", map[string]string{"role": "friend"})
			w.pod("stranger", "node-2", map[string]string{"role": "stranger"})
			for _, name := range []string{"near", "far", "stranger"} {
				w.calls(name, "tcp", echoPort, probe.Answered)
			}
			journey.make(w)
		})
	}
}

// calls waits until a pod's calls to the server have an outcome, over both families.
func (w *policyWorld) calls(from, network string, port uint16, want probe.Outcome) {
	w.t.Helper()
	for _, to := range podAt(w.server, port) {
		w.outcome(w.network(from), network, to, want)
	}
}

// apply makes a policy for pods with a label.
func (w *policyWorld) apply(name string, labels map[string]string, change func(*networkingv1.NetworkPolicySpec)) {
	w.t.Helper()
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchLabels: labels}}}
	change(&p.Spec)
	_, err := w.Client().NetworkingV1().NetworkPolicies(w.namespace).Create(w.t.Context(), p, metav1.CreateOptions{})
	w.must(err)
}

func (w *policyWorld) remove(name string) {
	w.t.Helper()
	w.must(w.Client().NetworkingV1().NetworkPolicies(w.namespace).Delete(w.t.Context(), name, metav1.DeleteOptions{}))
}

func role(name string) networkingv1.NetworkPolicyPeer {
	return networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"role": name}}}
}

func port(protocol corev1.Protocol, p intstr.IntOrString) networkingv1.NetworkPolicyPort {
	return networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: &p}
}

// ingress: closed but for friends at one port, by name; the node's own probes pass always.
func ingress(w *policyWorld) {
	service := w.expose("web", corev1.ServiceTypeClusterIP, map[string]string{"app": "server"}, nil)
	server := map[string]string{"app": "server"}
	w.apply("closed", server, func(*networkingv1.NetworkPolicySpec) {})
	for _, name := range []string{"near", "far", "stranger"} {
		w.calls(name, "tcp", echoPort, probe.TimedOut)
		w.calls(name, "udp", echoPort, probe.TimedOut)
	}
	for _, to := range podAt(w.server, echoPort) {
		w.outcome(w.Nodes[0].Namespace, "tcp", to, probe.Answered)
	}
	w.apply("friends", server, func(s *networkingv1.NetworkPolicySpec) {
		s.Ingress = []networkingv1.NetworkPolicyIngressRule{{
			From: []networkingv1.NetworkPolicyPeer{role("friend")}, Ports: []networkingv1.NetworkPolicyPort{port(corev1.ProtocolTCP, intstr.FromString("echo"))},
		}}
	})
	for _, name := range []string{"near", "far"} {
		w.calls(name, "tcp", echoPort, probe.Answered)
		w.calls(name, "udp", echoPort, probe.TimedOut)
		w.calls(name, "tcp", otherPort, probe.TimedOut)
		for _, to := range clusterIPs(service) { // policy sees pods, also where they were called by a Service
			w.outcome(w.network(name), "tcp", to, probe.Answered)
		}
	}
	w.calls("stranger", "tcp", echoPort, probe.TimedOut)
	w.outcome(w.network("stranger"), "tcp", clusterIPs(service)[0], probe.TimedOut)
	w.label("stranger", "friend")
	w.calls("stranger", "tcp", echoPort, probe.Answered)
	w.label("stranger", "stranger")
	w.calls("stranger", "tcp", echoPort, probe.TimedOut)
	if pod := w.ready("server"); pod.Status.ContainerStatuses[0].RestartCount != 0 {
		w.t.Errorf("the server was started again: %+v", pod.Status.ContainerStatuses[0])
	}
	w.remove("closed")
	w.remove("friends")
	w.calls("stranger", "udp", echoPort, probe.Answered)
}

// label changes a pod's role.
func (w *policyWorld) label(pod, role string) {
	w.t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"labels":{"role":%q}}}`, role)
	_, err := w.Client().CoreV1().Pods(w.namespace).Patch(w.t.Context(), pod, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	w.must(err)
}

// egress: the caller's side is asked as well, and replies need no rule.
func egress(w *policyWorld) {
	friend := map[string]string{"role": "friend"}
	w.apply("closed", friend, func(s *networkingv1.NetworkPolicySpec) {
		s.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}
	})
	for _, name := range []string{"near", "far"} {
		w.calls(name, "tcp", echoPort, probe.TimedOut)
		pod := w.ready(name)
		for _, to := range podAt(pod, echoPort) { // called they answer
			w.outcome(w.network("stranger"), "tcp", to, probe.Answered)
		}
	}
	w.apply("to-the-server", friend, func(s *networkingv1.NetworkPolicySpec) {
		s.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}
		end := int32(echoPort)
		ports := port(corev1.ProtocolTCP, intstr.FromInt32(8000))
		ports.EndPort = &end
		s.Egress = []networkingv1.NetworkPolicyEgressRule{{
			To:    []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "server"}}}},
			Ports: []networkingv1.NetworkPolicyPort{ports},
		}}
	})
	for _, name := range []string{"near", "far"} {
		w.calls(name, "tcp", echoPort, probe.Answered) // 8080 is the range's last
		w.calls(name, "tcp", otherPort, probe.TimedOut)
	}
	w.calls("stranger", "tcp", otherPort, probe.Answered)
}

// peers: pods of other Kubernetes namespaces, and addresses with exceptions.
func peers(w *policyWorld) {
	other := in(w.t, w.Cluster, "peers-other")
	guest := other.pod("guest", "node-2", map[string]string{"role": "friend"})
	calls := func(want probe.Outcome) {
		w.t.Helper()
		for _, to := range podAt(w.server, echoPort) {
			w.outcome(other.network("guest"), "tcp", to, want)
		}
	}
	calls(probe.Answered)
	server := map[string]string{"app": "server"}
	w.apply("own", server, func(s *networkingv1.NetworkPolicySpec) {
		s.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{role("friend")}}}
	})
	calls(probe.TimedOut) // a label of another namespace is no friend's
	w.calls("far", "tcp", echoPort, probe.Answered)
	w.apply("guests", server, func(s *networkingv1.NetworkPolicySpec) {
		peer := role("friend")
		peer.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": "peers-other"}}
		s.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{peer}}}
	})
	calls(probe.Answered)
	w.calls("stranger", "tcp", echoPort, probe.TimedOut)
	w.remove("guests")
	calls(probe.TimedOut)
	w.apply("addresses", server, func(s *networkingv1.NetworkPolicySpec) {
		var from []networkingv1.NetworkPolicyPeer
		for i, cidr := range []string{"10.244.2.0/24", "fd00:244:0:2::/64"} {
			except := netip.PrefixFrom(podAt(guest, 0)[i].Addr(), podAt(guest, 0)[i].Addr().BitLen()).String()
			from = append(from, networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: cidr, Except: []string{except}}})
		}
		s.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: from}}
	})
	w.calls("stranger", "tcp", echoPort, probe.Answered)
	calls(probe.TimedOut)
}

// beforeThePod: a policy that was there first holds from the first packet of a pod: the
// pod's only call is made as soon as it runs.
func beforeThePod(w *policyWorld) {
	w.apply("closed", map[string]string{"role": "prisoner"}, func(s *networkingv1.NetworkPolicySpec) {
		s.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}
	})
	for _, c := range []struct {
		name, role string
		want       corev1.PodPhase
	}{{"free", "free", corev1.PodSucceeded}, {"prisoner", "prisoner", corev1.PodFailed}} {
		for i, to := range podAt(w.server, echoPort) {
			name := fmt.Sprintf("%s-%d", c.name, i)
			spec := podSpec("node-2")
			spec.RestartPolicy = corev1.RestartPolicyNever
			spec.Containers[0].Command = []string{"workload", "--call", to.String()}
			spec.Containers[0].ReadinessProbe = nil
			w.createPod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"role": c.role}}, Spec: spec})
			w.until(name+" has "+string(c.want), func(ctx context.Context) error {
				pod, err := w.Client().CoreV1().Pods(w.namespace).Get(ctx, name, metav1.GetOptions{})
				if err == nil && pod.Status.Phase != c.want {
					err = fmt.Errorf("%s", pod.Status.Phase)
				}
				return err
			})
		}
	}
}
