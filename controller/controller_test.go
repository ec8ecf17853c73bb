package controller

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/vrouter-go/vrouter/controller/network"
)

// run starts a controller on a cluster and returns its changes, applied to a judge.
func run(t *testing.T, client *fake.Clientset) (*judge, <-chan Change) {
	t.Helper()
	changes := make(chan Change, 1000)
	c, err := New(Config{
		Client: client, Node: "n1", Network: network.Options{Uplink: "eth0"},
		Apply: func(ch Change) { changes <- ch },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err == nil {
			t.Error("Run ended without a reason")
		}
	})
	return newJudge(t), changes
}

// until applies changes until one holds every name of want, and returns it.
func until(t *testing.T, j *judge, changes <-chan Change, want ...string) Change {
	t.Helper()
	missing := map[string]bool{}
	for _, w := range want {
		missing[w] = true
	}
	for {
		select {
		case c := <-changes:
			j.apply(c)
			text := names(c)
			for w := range missing {
				if strings.Contains(text, w+" ") || strings.Contains(text, w+"]") {
					delete(missing, w)
				}
			}
			if len(missing) == 0 {
				return c
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no change with %v", missing)
		}
	}
}

// A cluster is read whole before anything is handed on, and then followed.
func TestRun(t *testing.T) {
	web := svc("default", "web", "10.96.0.10")
	one, two := pod("default", "web-1", "n1", "10.244.1.1"), pod("default", "web-2", "n2", "10.244.2.2")
	client := fake.NewClientset(
		namespace("default", nil),
		node("n1", "a", []string{"10.244.1.0/24", "fd00:244:1::/64"}, "192.0.2.11"), node("n2", "b", []string{"10.244.2.0/24"}, "192.0.2.12"),
		serviceCIDR("kubernetes", "10.96.0.0/16"), web, slice(web, "web-x", true, one, two), one, two,
	)
	j, changes := run(t, client)
	first := until(t, j, changes,
		"+VirtualNetwork/default-podnetwork", "+VirtualMachineInterface/default:web-1", "+InstanceIP/default:web:clusterip-v4",
		"+FloatingIP/default:web:clusterip-v4", "+LoadBalancer/default:web", "+Route/default-podnetwork:n2:pods-0", "+Fabric/node",
		"+NetworkPolicy/default-ip-fabric-podnetwork")
	if !first.Full {
		t.Error("the first change is not the whole")
	}
	if strings.Contains(names(first), "VirtualMachineInterface/default:web-2") {
		t.Error("an interface of another node's pod")
	}

	ctx := t.Context()
	api := client.CoreV1()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Run("an endpoint leaves", func(t *testing.T) {
		s := slice(web, "web-x", true, one)
		caused := time.Now().UTC().Truncate(time.Nanosecond)
		s.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: caused.Format(time.RFC3339Nano)}
		_, err := client.DiscoveryV1().EndpointSlices("default").Update(ctx, s, metav1.UpdateOptions{})
		must(err)
		c := until(t, j, changes, "+FloatingIP/default:web:clusterip-v4")
		if c.Full || len(c.Upserts) != 2 || !c.Triggered.Equal(caused) {
			t.Errorf("%s full %v at %v, want %v", names(c), c.Full, c.Triggered, caused)
		}
	})
	t.Run("the pod ends with its endpoint", func(t *testing.T) {
		must(api.Pods("default").Delete(ctx, "web-1", metav1.DeleteOptions{}))
		until(t, j, changes, "-VirtualMachineInterface/default:web-1", "+FloatingIP/default:web:clusterip-v4")
	})
	t.Run("NodePort and back", func(t *testing.T) {
		s := web.DeepCopy()
		s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30080
		_, err := api.Services("default").Update(ctx, s, metav1.UpdateOptions{})
		must(err)
		until(t, j, changes, "+FloatingIP/default:web:nodeport-v4")
		_, err = api.Services("default").Update(ctx, web, metav1.UpdateOptions{})
		must(err)
		until(t, j, changes, "-FloatingIP/default:web:nodeport-v4")
	})
	t.Run("isolation", func(t *testing.T) {
		_, err := api.Namespaces().Update(ctx, namespace("default", map[string]string{network.IsolationAnnotation: "true"}), metav1.UpdateOptions{})
		must(err)
		until(t, j, changes, "+VirtualNetwork/ns:default-podnetwork", "+InstanceIP/default:web:clusterip-v4")
	})
	t.Run("the service goes", func(t *testing.T) {
		must(api.Services("default").Delete(ctx, "web", metav1.DeleteOptions{}))
		until(t, j, changes, "-FloatingIP/default:web:clusterip-v4", "-InstanceIP/default:web:clusterip-v4", "-LoadBalancer/default:web")
	})
}

// What does not concern the node, or changes nothing, is not told.
func TestNothingToTell(t *testing.T) {
	c := newCompiler(&Config{Node: "n1", Network: network.Options{Uplink: "eth0"}})
	web := svc("default", "web", "10.96.0.10")
	one := pod("default", "web-1", "n1", "10.244.1.1")
	c.feed(t, namespace("default", nil), node("n1", "a", []string{"10.244.1.0/24"}, "192.0.2.11"), web, one, slice(web, "web-x", true, one))
	for name, o := range map[string]metav1.Object{
		"the same pod":               one,
		"a pod elsewhere":            pod("default", "other", "n2", "10.244.2.9"),
		"a slice of another service": slice(svc("default", "other", "10.96.0.11"), "other-x", true, one),
		"a label of a service": func() *corev1.Service {
			s := web.DeepCopy()
			s.Labels = map[string]string{"a": "b"}
			return s
		}(),
	} {
		if got := c.feed(t, o); len(got.Upserts)+len(got.Deletes) != 0 {
			t.Errorf("%s: %s", name, names(got))
		}
	}
	ns := namespace("default", nil)
	ns.Labels["team"] = "x"
	if got := names(c.feed(t, ns)); got != "[+VirtualMachineInterface/default:web-1]" {
		t.Errorf("a namespace's labels: %s", got)
	}
}
