//go:build linux && kube

package kube_test

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vrouter-go/vrouter/test/kube/cluster"
	"github.com/vrouter-go/vrouter/test/kube/probe"
)

// The dataplanes that journeys are made on: ours, and kube-proxy's, which shows that a
// journey asks no more than Kubernetes promises.
var dataplanes = map[string]cluster.Options{
	"vrouter":    {Dataplane: cluster.VRouter},
	"kube-proxy": {Dataplane: cluster.Kernel, Proxy: "nftables"},
}

// TestJourneys makes what users do with Services, one after the other on one cluster, and
// judges by connections alone.
func TestJourneys(t *testing.T) {
	t.Parallel()
	for name, options := range dataplanes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, options)
			for _, journey := range []struct {
				name string
				make func(w *world)
			}{
				{"direct", direct}, {"connect", connect}, {"node-port", nodePort}, {"type-change", typeChange}, {"leave-by-label", leaveByLabel},
				{"named-ports", namedPorts}, {"scale-to-none", scaleToNone}, {"affinity", affinity}, {"host-network", hostNetwork},
				{"topology", topology}, {"source-ranges", sourceRanges}, {"ports-change", portsChange},
				{"rolling-update", rollingUpdate}, {"apiserver-restart", apiserverRestart}, {"etcd-stall", etcdStall}, {"gone", gone},
			} {
				t.Run(journey.name, func(t *testing.T) { journey.make(in(t, c, journey.name)) })
			}
		})
	}
}

// both makes a check with TCP and UDP on each of a Service's addresses.
func both(list []netip.AddrPort, check func(network string, to netip.AddrPort, family int)) {
	for family, to := range list {
		for _, network := range []string{"tcp", "udp"} {
			check(network, to, family)
		}
	}
}

// reached waits until exactly these servers answer from a network namespace, and returns
// the addresses that they saw. It asks until each has answered, and then some more.
func (w *world) reached(namespace, network string, to netip.AddrPort, want ...string) (seen map[netip.Addr]bool) {
	w.t.Helper()
	w.until(fmt.Sprintf("%s to %v from %s is answered by %v", network, to, namespace, want), func(context.Context) error {
		got := map[string]bool{}
		seen = map[netip.Addr]bool{}
		for range 20 * len(want) {
			r := probe.Call(namespace, network, to, callPatience)
			if r.Outcome != probe.Answered {
				return fmt.Errorf("%v", r)
			}
			got[r.Server], seen[r.Client] = true, true
		}
		if servers := slices.Sorted(maps.Keys(got)); !slices.Equal(servers, slices.Sorted(slices.Values(want))) {
			return fmt.Errorf("by %v", servers)
		}
		return nil
	})
	return seen
}

// outcome waits until a call has an outcome.
func (w *world) outcome(namespace, network string, to netip.AddrPort, want probe.Outcome) {
	w.t.Helper()
	w.until(fmt.Sprintf("%s to %v from %s is %s", network, to, namespace, want), func(context.Context) error {
		if r := probe.Call(namespace, network, to, callPatience); r.Outcome != want {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
}

// unreached waits until a call is not answered: refused, or by nobody.
func (w *world) unreached(namespace, network string, to netip.AddrPort) {
	w.t.Helper()
	w.until(fmt.Sprintf("%s to %v from %s is not answered", network, to, namespace), func(context.Context) error {
		if r := probe.Call(namespace, network, to, callPatience); r.Outcome == probe.Answered {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
}

// names returns the names of the pods of a Deployment.
func (w *world) names(app string) (names []string) {
	w.t.Helper()
	pods, err := w.Client().CoreV1().Pods(w.namespace).List(w.t.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
	w.must(err)
	for _, p := range pods.Items {
		if p.DeletionTimestamp == nil {
			names = append(names, p.Name)
		}
	}
	return names
}

// scale sets the number of a Deployment's pods and waits until they are there.
func (w *world) scale(name string, replicas int) {
	w.t.Helper()
	w.patchDeployment(name, fmt.Sprintf(`{"spec":{"replicas":%d}}`, replicas))
	w.deployed(name)
}

func (w *world) patchDeployment(name, patch string) {
	w.t.Helper()
	_, err := w.Client().AppsV1().Deployments(w.namespace).Patch(w.t.Context(), name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	w.must(err)
}

func (w *world) patchService(name, patch string) *corev1.Service {
	w.t.Helper()
	s, err := w.Client().CoreV1().Services(w.namespace).Patch(w.t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	w.must(err)
	return s
}

// open opens a connection that the test holds.
func (w *world) open(namespace string, to netip.AddrPort) *probe.Talk {
	w.t.Helper()
	talk, err := probe.Open(namespace, to, patience)
	w.must(err)
	w.t.Cleanup(talk.Close)
	return talk
}

// direct: pods and nodes reach every pod, of every node, by its own address, and pods are
// seen by theirs.
func direct(w *world) {
	pods := map[string]*corev1.Pod{}
	for _, n := range w.Nodes {
		pods[n.Name] = w.pod("pod-"+n.Name, n.Name, nil)
	}
	for _, to := range pods {
		both(podAt(to, echoPort), func(network string, at netip.AddrPort, family int) {
			for _, n := range w.Nodes {
				w.reached(n.Namespace, network, at, to.Name)
				from := pods[n.Name]
				if from == to {
					continue
				}
				if seen := w.reached(w.network(from.Name), network, at, to.Name); !seen[podAt(from, 0)[family].Addr()] {
					w.t.Errorf("%s saw %s as %v", to.Name, from.Name, slices.Collect(maps.Keys(seen)))
				}
			}
		})
	}
}

// connect: a Deployment and a Service, and pods of every node reach every member, which
// sees the caller's own address. The Service is deleted: who calls it anew reaches nobody,
// and its connections and those of another Service go on.
func connect(w *world) {
	w.deploy("web", 4, podSpec(""))
	service := w.expose("web", corev1.ServiceTypeClusterIP, map[string]string{"app": "web"}, nil)
	w.deployed("web")
	for _, n := range w.Nodes {
		client := w.pod("client-"+n.Name, n.Name, nil)
		both(clusterIPs(service), func(network string, to netip.AddrPort, family int) {
			seen := w.reached(w.network(client.Name), network, to, w.names("web")...)
			if own := client.Status.PodIPs[family].IP; len(seen) != 1 || !seen[netip.MustParseAddr(own)] {
				w.t.Errorf("%s to %v: the members saw %v; want %s", network, to, slices.Collect(maps.Keys(seen)), own)
			}
		})
	}
	bystander := w.expose("bystander", corev1.ServiceTypeClusterIP, map[string]string{"app": "web"}, nil)
	var talks []*probe.Talk
	var loads []*probe.Load
	for i, n := range w.Nodes {
		client := w.network("client-" + n.Name)
		for _, to := range slices.Concat(clusterIPs(service), clusterIPs(bystander)) {
			w.reached(client, "tcp", to, w.names("web")...)
			talks = append(talks, w.open(client, to))
		}
		loads = append(loads, probe.StartLoad(client, "tcp", clusterIPs(bystander)[i%2], 2, 5*time.Millisecond, patience))
	}
	w.must(w.Client().CoreV1().Services(w.namespace).Delete(w.t.Context(), "web", metav1.DeleteOptions{}))
	for _, n := range w.Nodes {
		for _, to := range clusterIPs(service) {
			w.outcome(w.network("client-"+n.Name), "tcp", to, probe.TimedOut) // an address that is nobody's
		}
	}
	for _, talk := range talks {
		w.must(talk.Say(patience))
	}
	for _, load := range loads {
		if calls, _, failures := load.Stop(); len(failures) > 0 {
			w.t.Errorf("%d of %d calls to another Service failed: %v", len(failures), calls, failures)
		}
	}
	// The same name again is another Service.
	again := w.expose("web", corev1.ServiceTypeClusterIP, map[string]string{"app": "web"}, nil)
	both(clusterIPs(again), func(network string, to netip.AddrPort, _ int) {
		w.reached(w.network("client-node-1"), network, to, w.names("web")...)
	})
}

// nodePorts returns where a Service's node port is on a node.
func nodePorts(s *corev1.Service, n *cluster.Node, network string) (list []netip.AddrPort) {
	for _, p := range s.Spec.Ports {
		if strings.EqualFold(string(p.Protocol), network) {
			for _, a := range n.Addresses {
				list = append(list, netip.AddrPortFrom(a, uint16(p.NodePort)))
			}
		}
	}
	return list
}

// nodePort: every node's address serves the port, to the host outside, to nodes and pods.
func nodePort(w *world) {
	w.deploy("web", 2, podSpec(""))
	service := w.expose("web", corev1.ServiceTypeNodePort, map[string]string{"app": "web"}, nil)
	w.deployed("web")
	w.pod("client", "node-1", nil)
	for _, network := range []string{"tcp", "udp"} {
		for _, n := range w.Nodes {
			for _, to := range nodePorts(service, n, network) {
				for _, source := range []string{w.Outside(), w.Nodes[0].Namespace, w.network("client")} {
					w.reached(source, network, to, w.names("web")...)
				}
			}
		}
	}
}

// typeChange: a NodePort Service becomes a ClusterIP Service and a NodePort Service again;
// the node port goes and comes, the cluster IP does not notice.
func typeChange(w *world) {
	w.deploy("web", 2, podSpec(""))
	service := w.expose("web", corev1.ServiceTypeNodePort, map[string]string{"app": "web"}, nil)
	w.deployed("web")
	w.pod("client", "node-1", nil)
	client, at := w.network("client"), nodePorts(service, w.Nodes[0], "tcp")[0]
	w.reached(w.Outside(), "tcp", at, w.names("web")...)
	w.reached(client, "tcp", clusterIPs(service)[0], w.names("web")...)
	talk := w.open(client, clusterIPs(service)[0])
	load := probe.StartLoad(client, "tcp", clusterIPs(service)[0], 2, 5*time.Millisecond, patience)
	w.patchService("web", `{"spec":{"type":"ClusterIP"}}`)
	w.unreached(w.Outside(), "tcp", at)
	w.must(talk.Say(patience))
	service = w.patchService("web", `{"spec":{"type":"NodePort"}}`)
	for _, to := range nodePorts(service, w.Nodes[0], "tcp") {
		w.reached(w.Outside(), "tcp", to, w.names("web")...)
	}
	w.must(talk.Say(patience))
	if calls, _, failures := load.Stop(); len(failures) > 0 {
		w.t.Errorf("%d of %d calls to the cluster IP failed: %v", len(failures), calls, failures)
	}
}

// leaveByLabel: a pod that loses the label gets nothing new and keeps what it has, and is
// back with the label.
func leaveByLabel(w *world) {
	for i, name := range []string{"one", "two"} {
		w.pod(name, fmt.Sprintf("node-%d", i+1), map[string]string{"app": "web"})
	}
	service := w.expose("web", corev1.ServiceTypeClusterIP, map[string]string{"app": "web"}, nil)
	w.pod("client", "node-1", nil)
	client := w.network("client")
	label := func(value string) {
		patch := fmt.Sprintf(`{"metadata":{"labels":{"app":%s}}}`, value)
		_, err := w.Client().CoreV1().Pods(w.namespace).Patch(w.t.Context(), "one", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		w.must(err)
	}
	for _, to := range clusterIPs(service) {
		w.reached(client, "tcp", to, "one", "two")
	}
	var talk *probe.Talk
	for talk == nil || talk.Server != "one" {
		talk = w.open(client, clusterIPs(service)[0])
	}
	label("null")
	both(clusterIPs(service), func(network string, to netip.AddrPort, _ int) { w.reached(client, network, to, "two") })
	w.must(talk.Say(patience))
	label(`"web"`)
	both(clusterIPs(service), func(network string, to netip.AddrPort, _ int) { w.reached(client, network, to, "one", "two") })
	w.must(talk.Say(patience))
}

// namedPorts: a target port by name is another number in each pod, and a port without a
// target is the same number.
func namedPorts(w *world) {
	for i, name := range []string{"one", "two"} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "web"}}, Spec: podSpec(fmt.Sprintf("node-%d", i+1))}
		c, port := &pod.Spec.Containers[0], 9000+i
		c.Command[2], c.Ports[0].ContainerPort = fmt.Sprintf("%d,80", port), int32(port)
		w.createPod(pod)
		w.ready(name)
	}
	w.pod("client", "node-1", nil)
	service := w.expose("named", corev1.ServiceTypeClusterIP, map[string]string{"app": "web"}, func(s *corev1.Service) { s.Spec.Ports = s.Spec.Ports[:1] })
	for _, to := range clusterIPs(service) {
		w.reached(w.network("client"), "tcp", to, "one", "two")
	}
	service = w.expose("same", corev1.ServiceTypeClusterIP, map[string]string{"app": "web"}, func(s *corev1.Service) {
		s.Spec.Ports = []corev1.ServicePort{{Port: 80}}
	})
	for _, to := range clusterIPs(service) {
		w.reached(w.network("client"), "tcp", to, "one", "two")
	}
}

// scaleToNone: without members a Service refuses at once, and with the first it serves. A
// UDP client that stays on its port is not left with what was.
func scaleToNone(w *world) {
	w.deploy("web", 2, podSpec(""))
	service := w.expose("web", corev1.ServiceTypeClusterIP, map[string]string{"app": "web"}, nil)
	w.deployed("web")
	w.pod("client", "node-1", nil)
	client := w.network("client")
	var sockets []*probe.Datagrams
	for _, to := range clusterIPs(service) {
		w.reached(client, "udp", to, w.names("web")...)
		d, err := probe.OpenUDP(client, to)
		w.must(err)
		defer d.Close()
		sockets = append(sockets, d)
	}
	answered := func(d *probe.Datagrams) {
		w.until("a UDP client that stays on its port is answered", func(context.Context) error {
			server, err := d.Ask(200 * time.Millisecond)
			if err == nil && !slices.Contains(w.names("web"), server) {
				err = fmt.Errorf("by %s", server)
			}
			return err
		})
	}
	for _, d := range sockets {
		answered(d)
	}
	w.scale("web", 0)
	both(clusterIPs(service), func(network string, to netip.AddrPort, _ int) { w.outcome(client, network, to, probe.Refused) })
	w.scale("web", 2)
	both(clusterIPs(service), func(network string, to netip.AddrPort, _ int) { w.reached(client, network, to, w.names("web")...) })
	for _, d := range sockets {
		answered(d)
	}
}

// affinity: a client stays on one member, and no longer when that is gone or affinity is
// switched off.
func affinity(w *world) {
	w.deploy("web", 3, podSpec(""))
	service := w.expose("web", corev1.ServiceTypeClusterIP, map[string]string{"app": "web"}, func(s *corev1.Service) {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	})
	w.deployed("web")
	w.pod("client", "node-1", nil)
	client, to := w.network("client"), clusterIPs(service)[0]
	first := probe.Result{}
	w.until("the Service answers", func(context.Context) error {
		if first = probe.Call(client, "tcp", to, callPatience); first.Outcome != probe.Answered {
			return fmt.Errorf("%v", first)
		}
		return nil
	})
	w.reached(client, "tcp", to, first.Server)
	w.must(w.Client().CoreV1().Pods(w.namespace).Delete(w.t.Context(), first.Server, metav1.DeleteOptions{}))
	w.until("the client is on another member", func(context.Context) error {
		if r := probe.Call(client, "tcp", to, callPatience); r.Outcome != probe.Answered || r.Server == first.Server {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	w.patchService("web", `{"spec":{"sessionAffinity":"None"}}`)
	w.deployed("web")
	w.reached(client, "tcp", to, w.names("web")...)
}

// hostNetwork: members that run in the node's own network, as many cluster components do.
func hostNetwork(w *world) {
	for i, name := range []string{"one", "two"} {
		spec := podSpec(fmt.Sprintf("node-%d", i+1))
		spec.HostNetwork = true
		for j := range spec.Containers[0].Ports {
			spec.Containers[0].Ports[j].HostPort = spec.Containers[0].Ports[j].ContainerPort
		}
		w.createPod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "web"}}, Spec: spec})
		w.ready(name)
	}
	service := w.expose("web", corev1.ServiceTypeClusterIP, map[string]string{"app": "web"}, nil)
	w.pod("client", "node-1", nil)
	both(clusterIPs(service), func(network string, to netip.AddrPort, _ int) {
		w.reached(w.network("client"), network, to, "one", "two")
		w.reached(w.Nodes[0].Namespace, network, to, "one", "two")
	})
	for i, name := range []string{"one", "two"} { // and by the nodes' own addresses
		for _, a := range w.Nodes[i].Addresses {
			for _, network := range []string{"tcp", "udp"} {
				w.reached(w.network("client"), network, netip.AddrPortFrom(a, echoPort), name)
			}
		}
	}
}
