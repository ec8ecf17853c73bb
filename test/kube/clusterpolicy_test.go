//go:build linux && kube

package kube_test

import (
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/vrouter-go/vrouter/test/kube/cluster"
	"github.com/vrouter-go/vrouter/test/kube/probe"
)

// object is a JSON object.
type object = map[string]any

// pods selects pods of the test's Kubernetes namespace by a label.
func (w *policyWorld) pods(key, value string) object {
	return object{"pods": object{
		"namespaceSelector": object{"matchLabels": object{"kubernetes.io/metadata.name": w.namespace}},
		"podSelector":       object{"matchLabels": object{key: value}},
	}}
}

// rule makes a ClusterNetworkPolicy of one ingress rule for the server.
func (w *policyWorld) rule(name, tier string, priority int64, action string, from object, protocols ...any) {
	w.t.Helper()
	client, err := w.Dynamic()
	w.must(err)
	rule := object{"action": action, "from": []any{from}}
	if len(protocols) > 0 {
		rule["protocols"] = protocols
	}
	_, err = client.Resource(cluster.ClusterPolicies).Create(w.t.Context(), &unstructured.Unstructured{Object: object{
		"apiVersion": cluster.ClusterPolicies.GroupVersion().String(), "kind": "ClusterNetworkPolicy", "metadata": object{"name": name},
		"spec": object{"tier": tier, "priority": priority, "subject": w.pods("app", "server"), "ingress": []any{rule}},
	}}, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
	w.must(err)
}

// clusterPolicy: the administrator's rules come before and after those of the namespace:
// what Baseline denies a NetworkPolicy may allow, and what Admin says stands, unless it
// passes the question on.
func clusterPolicy(w *policyWorld) {
	friends := func(port uint16, want probe.Outcome) {
		w.t.Helper()
		for _, name := range []string{"near", "far"} {
			w.calls(name, "tcp", port, want)
		}
	}
	w.rule("floor", "Baseline", 0, "Deny", object{"namespaces": object{}})
	friends(echoPort, probe.TimedOut)
	w.calls("stranger", "tcp", echoPort, probe.TimedOut)
	w.apply("friends", map[string]string{"app": "server"}, func(s *networkingv1.NetworkPolicySpec) {
		s.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{role("friend")}}}
	})
	friends(echoPort, probe.Answered)
	w.calls("stranger", "tcp", echoPort, probe.TimedOut)
	echo := object{"tcp": object{"destinationPort": object{"number": int64(echoPort)}}}
	w.rule("no-echo", "Admin", 10, "Deny", w.pods("role", "friend"), echo)
	friends(echoPort, probe.TimedOut)
	friends(otherPort, probe.Answered)
	w.rule("leave-it", "Admin", 5, "Pass", w.pods("role", "friend"))
	friends(echoPort, probe.Answered) // by the NetworkPolicy
	w.calls("stranger", "tcp", echoPort, probe.TimedOut)
	w.rule("let-in", "Admin", 1, "Accept", w.pods("role", "stranger"))
	w.calls("stranger", "tcp", echoPort, probe.Answered) // whatever the NetworkPolicy says
	client, err := w.Dynamic()
	w.must(err)
	for _, name := range []string{"leave-it", "let-in"} {
		w.must(client.Resource(cluster.ClusterPolicies).Delete(w.t.Context(), name, metav1.DeleteOptions{}))
	}
	friends(echoPort, probe.TimedOut)
	w.calls("stranger", "tcp", echoPort, probe.TimedOut)
	for _, name := range []string{"floor", "no-echo"} {
		w.must(client.Resource(cluster.ClusterPolicies).Delete(w.t.Context(), name, metav1.DeleteOptions{}))
	}
	w.remove("friends")
	friends(echoPort, probe.Answered)
	w.calls("stranger", "udp", echoPort, probe.Answered)
}
