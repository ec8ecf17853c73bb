package controller

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vrouter-go/vrouter/agent/state"
)

// TestPodBeforeItsNamespace: watches are apart, so a pod may be seen before its namespace,
// which says in what network it stands. Until then it has no interface and serves nobody:
// the pod of an isolated namespace stands in no other network, not for a moment.
func TestPodBeforeItsNamespace(t *testing.T) {
	c := newCompiler(&Config{Node: "n1"})
	agent := newJudge(t)
	p, service := pod("blue", "b-1", "n1", "10.244.1.7"), svc("blue", "web", "10.96.0.7")
	for _, o := range []metav1.Object{node("n1", "a", []string{"10.244.1.0/24", "fd00:244:1::/64"}, "192.0.2.11"), p, service, slice(service, "web-1", true, p)} {
		c.view.Apply(event(t, o))
	}
	look := func(network string, members int) {
		t.Helper()
		agent.apply(c.compile())
		vmi := agent.state.Get(state.Key{Kind: state.VirtualMachineInterface, Name: "blue:b-1"}).GetVirtualMachineInterface()
		fip := agent.state.Get(state.Key{Kind: state.FloatingIP, Name: "blue:web:clusterip-v4"}).GetFloatingIp()
		if got := vmi.GetVirtualNetwork(); got != network || len(fip.GetMembers()) != members {
			t.Errorf("the pod stands in %q and the service has %v; want %q and %d members", got, fip.GetMembers(), network, members)
		}
	}
	look("", 0)
	blue := event(t, namespace("blue", map[string]string{"vrouter.io/isolation": "true"}))
	c.view.Apply(blue)
	look("blue-podnetwork", 1)
	c.view.Apply(gone(blue))
	look("", 0)
}
