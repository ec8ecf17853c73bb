//go:build linux && kube

package kube_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vrouter-go/vrouter/test/kube/cluster"
	"github.com/vrouter-go/vrouter/test/kube/probe"
)

// TestGround proves the test ground itself, with nothing of ours in it: pods of a
// Deployment run and are ready, the controller manager makes their EndpointSlices,
// kube-proxy serves them, and they end as pods do.
func TestGround(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"nftables", "iptables"} {
		t.Run(mode, func(t *testing.T) {
			w := in(t, newCluster(t, cluster.Options{Dataplane: cluster.Kernel, Proxy: mode}), "ground")
			w.deploy("web", 4, podSpec(""))
			service := w.expose("web", corev1.ServiceTypeClusterIP, map[string]string{"app": "web"}, nil)
			w.deployed("web")
			client := w.pod("client", "node-1", nil)
			for i, at := range clusterIPs(service) {
				for _, network := range []string{"tcp", "udp"} {
					answered := map[string]bool{}
					w.until(fmt.Sprintf("all pods answer %s at %v", network, at), func(context.Context) error {
						r := probe.Call(w.network("client"), network, at, time.Second)
						if r.Outcome == probe.Answered && r.Client.String() != client.Status.PodIPs[i].IP {
							t.Fatalf("%s saw %v; want %s", r.Server, r.Client, client.Status.PodIPs[i].IP)
						}
						if answered[r.Server] = true; len(answered) < 4 {
							return fmt.Errorf("%v; so far %v", r, answered)
						}
						return nil
					})
				}
			}
			nodes := map[string]int{}
			pods, err := w.Client().CoreV1().Pods(w.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
			w.must(err)
			for _, p := range pods.Items {
				nodes[p.Spec.NodeName]++
			}
			if nodes["node-1"] != 2 || nodes["node-2"] != 2 {
				t.Errorf("pods are on %v; want two on each node", nodes)
			}
			began := time.Now()
			w.must(w.Client().AppsV1().Deployments(w.namespace).Delete(t.Context(), "web", metav1.DeleteOptions{}))
			w.until("the pods are gone", func(ctx context.Context) error {
				pods, err := w.Client().CoreV1().Pods(w.namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=web"})
				if err == nil && len(pods.Items) > 0 {
					err = fmt.Errorf("%d are left", len(pods.Items))
				}
				return err
			})
			if took := time.Since(began); took < 2*time.Second {
				t.Errorf("they were gone after %v; want them to drain for 2 s", took)
			}
			w.until("nobody answers", func(context.Context) error {
				if r := probe.Call(w.network("client"), "tcp", clusterIPs(service)[0], time.Second); r.Outcome != probe.Refused {
					return fmt.Errorf("%v", r)
				}
				return nil
			})
		})
	}
}
