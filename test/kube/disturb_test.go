//go:build linux && kube

package kube_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vrouter-go/vrouter/test/kube/probe"
	"github.com/vrouter-go/vrouter/test/kube/process"
)

// underLoad makes a change to a Service's cluster while clients of both families call the
// Service, and demands that no call fails and no connection breaks. It leaves the Service's
// addresses and a client's network namespace to whoever looks at what became of it.
func (w *world) underLoad(change func()) (client string, addresses []netip.AddrPort) {
	w.t.Helper()
	w.deploy("web", 4, podSpec(""))
	service := w.expose("web", corev1.ServiceTypeClusterIP, map[string]string{"app": "web"}, nil)
	w.deployed("web")
	w.pod("client", "node-1", nil)
	client, addresses = w.network("client"), clusterIPs(service)
	var loads []*probe.Load
	var talks []*probe.Talk
	for _, to := range addresses {
		w.reached(client, "tcp", to, w.names("web")...)
		loads = append(loads, probe.StartLoad(client, "tcp", to, 4, 2*time.Millisecond, patience))
		talks = append(talks, w.open(client, to))
	}
	change()
	for i, load := range loads {
		calls, servers, failures := load.Stop()
		if len(failures) > 0 {
			w.t.Errorf("%d of %d calls to %v failed, first: %v", len(failures), calls, addresses[i], failures[:min(5, len(failures))])
		}
		w.t.Logf("%d calls to %v, answered by %d pods", calls, addresses[i], len(servers))
		// A rolling update ends the pods that have the connections.
		if slices.Contains(w.names("web"), talks[i].Server) {
			w.must(talks[i].Say(patience))
		}
	}
	return client, addresses
}

// rollingUpdate: every pod of a Deployment is replaced, twice, and no call fails.
func rollingUpdate(w *world) {
	w.underLoad(func() {
		for round := range 2 {
			before := w.names("web")
			w.patchDeployment("web", fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"round":"%d"}}}}}`, round))
			w.deployed("web")
			for _, name := range w.names("web") {
				if slices.Contains(before, name) {
					w.t.Errorf("%s was not replaced", name)
				}
			}
		}
	})
}

// apiserverRestart: the apiserver is away and comes back, politely and not; what changes
// after it is in force.
func apiserverRestart(w *world) {
	client, addresses := w.underLoad(func() {
		for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			w.must(w.StopAPIServer(signal))
			w.must(w.StartAPIServer(w.t.Context()))
		}
	})
	w.moves(client, addresses)
}

// moves changes a Service's members and waits until all clients go to the new ones.
func (w *world) moves(client string, addresses []netip.AddrPort) {
	w.t.Helper()
	w.pod("other", "node-2", map[string]string{"app": "other"})
	w.patchService("web", `{"spec":{"selector":{"app":"other"}}}`)
	both(addresses, func(network string, to netip.AddrPort, _ int) { w.reached(client, network, to, "other") })
}

// etcdStall: etcd hangs for longer than requests are given, and goes on.
func etcdStall(w *world) {
	client, addresses := w.underLoad(func() {
		w.must(w.StallEtcd())
		ctx, cancel := context.WithTimeout(w.t.Context(), 8*time.Second)
		defer cancel()
		s := &corev1.ConfigMap{}
		s.Name = "stalled"
		if _, err := w.Client().CoreV1().ConfigMaps(w.namespace).Create(ctx, s, metav1.CreateOptions{}); err == nil {
			w.t.Error("the apiserver wrote while etcd was stopped")
		}
		w.must(w.ResumeEtcd())
	})
	w.moves(client, addresses)
}

// gone: those who watch sleep while objects change and the history is lost, so that they
// get 410 Gone, and have to find out anew what is there and what is not.
func gone(w *world) {
	client, addresses := w.underLoad(func() {})
	victim := w.expose("victim", corev1.ServiceTypeClusterIP, map[string]string{"app": "web"}, nil)
	both(clusterIPs(victim), func(network string, to netip.AddrPort, _ int) { w.reached(client, network, to, w.names("web")...) })
	var watchers []*process.Process
	for _, n := range w.Nodes {
		if n.VRouter != nil {
			watchers = append(watchers, n.VRouter.Kube)
		}
		if n.Proxy != nil {
			watchers = append(watchers, n.Proxy)
		}
	}
	signal := func(s syscall.Signal) {
		for _, p := range watchers {
			w.must(p.Signal(s))
		}
	}
	w.pod("other", "node-2", map[string]string{"app": "other"})
	signal(syscall.SIGSTOP)
	w.createPod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "late", Labels: map[string]string{"app": "other"}}, Spec: podSpec("node-1")})
	w.patchService("web", `{"spec":{"selector":{"app":"other"}}}`)
	w.must(w.Client().CoreV1().Services(w.namespace).Delete(w.t.Context(), "victim", metav1.DeleteOptions{}))
	w.must(w.StopAPIServer(syscall.SIGKILL))
	w.must(w.Compact(w.t.Context()))
	w.must(w.StartAPIServer(w.t.Context()))
	w.must(w.isGone())
	signal(syscall.SIGCONT)
	w.ready("late")
	both(addresses, func(network string, to netip.AddrPort, _ int) { w.reached(client, network, to, "other", "late") })
	both(clusterIPs(victim), func(network string, to netip.AddrPort, _ int) { w.outcome(client, network, to, probe.TimedOut) })
}

// isGone checks that a watch from the beginning is answered with 410 Gone.
func (w *world) isGone() error {
	watch, err := w.Client().CoreV1().Services("").Watch(w.t.Context(), metav1.ListOptions{ResourceVersion: "1"})
	if err == nil {
		defer watch.Stop()
		select {
		case event := <-watch.ResultChan():
			err = apierrors.FromObject(event.Object)
		case <-time.After(patience):
		}
	}
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		return fmt.Errorf("a watch from the beginning was answered with %w; want 410 Gone", err)
	}
	return nil
}
