//go:build linux && kube

package kube_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/vrouter-go/vrouter/test/kube/cluster"
	"github.com/vrouter-go/vrouter/test/kube/probe"
	"github.com/vrouter-go/vrouter/test/kube/process"
)

// TestKubeProxyBeside is NodePort as Contrail has it: a real kube-proxy in the node's
// namespace takes nodeIP:nodePort, and what it translates reaches the pod through vhost0 and
// the policy between the fabric and the pod network. The Service comes, changes its type
// and goes, and a pod leaves by its label.
func TestKubeProxyBeside(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"iptables", "nftables"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, cluster.Options{Dataplane: cluster.VRouter, Proxy: mode})
			for _, n := range c.Nodes { // the kernel forwards what kube-proxy translated
				if err := n.Route(); err != nil {
					t.Fatal(err)
				}
			}
			t.Run("node-port", func(t *testing.T) { nodePort(in(t, c, "node-port")) })
			t.Run("type-change", func(t *testing.T) { typeChange(in(t, c, "type-change")) })
			t.Run("leave-by-label", func(t *testing.T) { leaveByLabel(in(t, c, "leave-by-label")) })
		})
	}
}

// TestKilled ends vrkube and vrouter at random moments, by signals that they cannot see,
// while members come and go: no call fails while vrkube is away or starts, connections
// outlive both, and in the end the Service has the members that Kubernetes says.
func TestKilled(t *testing.T) {
	t.Parallel()
	w := in(t, newCluster(t, cluster.Options{Dataplane: cluster.VRouter}), "killed")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	client, addresses := w.underLoad(func() {
		for round := range 6 {
			n := w.Nodes[random.IntN(len(w.Nodes))].VRouter
			w.must(n.StopKube(syscall.SIGKILL))
			w.patchDeployment("web", fmt.Sprintf(`{"spec":{"replicas":%d}}`, 3+round%3))
			time.Sleep(time.Duration(random.IntN(500)) * time.Millisecond) // the moment is what varies
			w.must(n.StartKube())
			w.deployed("web")
		}
	})
	both(addresses, func(network string, to netip.AddrPort, _ int) { w.reached(client, network, to, w.names("web")...) })
	for _, n := range w.Nodes {
		same := w.datagrams(client, addresses)
		w.must(outlives(client, addresses, func() error {
			return errors.Join(n.VRouter.StopAgent(syscall.SIGKILL), n.VRouter.StartAgent(t.Context()))
		}))
		same()
	}
	w.moves(client, addresses)
}

// outlives opens connections, ends a vRouter under them as soon as the first is there, and
// starts it: all come about, though segments of each step are lost, and go on.
func outlives(client string, addresses []netip.AddrPort, restart func() error) error {
	type opened struct {
		talk *probe.Talk
		err  error
	}
	all := make(chan opened)
	const each = 10
	for _, to := range addresses {
		for range each {
			go func() {
				talk, err := probe.Open(client, to, patience)
				all <- opened{talk, err}
			}()
		}
	}
	var errs []error
	var talks []*probe.Talk
	for i := range each * len(addresses) {
		o := <-all
		if o.err == nil {
			defer o.talk.Close()
			talks = append(talks, o.talk)
		}
		errs = append(errs, o.err)
		if i == 0 {
			errs = append(errs, restart())
		}
	}
	for _, talk := range talks {
		errs = append(errs, talk.Say(patience))
	}
	return errors.Join(errs...)
}

// datagrams has UDP clients hear from a server each, and returns what demands that they,
// on the same ports, hear from the same ones.
func (w *world) datagrams(client string, addresses []netip.AddrPort) (same func()) {
	const each = 10
	servers := map[*probe.Datagrams]string{}
	for _, to := range addresses {
		for range each {
			d, err := probe.OpenUDP(client, to)
			w.must(err)
			w.t.Cleanup(d.Close)
			servers[d], err = d.Ask(patience)
			w.must(err)
		}
	}
	return func() {
		w.t.Helper()
		for d, before := range servers {
			if after, err := d.Ask(patience); err != nil || after != before {
				w.t.Errorf("a UDP client that %s answered is answered by %s, %v", before, after, err)
			}
		}
	}
}

// TestIsolation: the pods of an isolated namespace reach each other and their Services, and
// others only as who is outside reaches them: by a node port, with members on another node.
func TestIsolation(t *testing.T) {
	t.Parallel()
	c := newCluster(t, cluster.Options{Dataplane: cluster.VRouter})
	shared, island := in(t, c, "shared"), isolated(t, c, "island")
	for _, w := range []*world{shared, island} {
		w.pod("server", "node-1", map[string]string{"app": "web"})
		w.pod("client", "node-2", nil)
	}
	services := map[*world]*corev1.Service{}
	for _, w := range []*world{shared, island} {
		services[w] = w.expose("web", corev1.ServiceTypeNodePort, map[string]string{"app": "web"}, nil)
	}
	for _, w := range []*world{shared, island} {
		both(clusterIPs(services[w]), func(network string, to netip.AddrPort, _ int) { w.reached(w.network("client"), network, to, "server") })
	}
	for from, to := range map[*world]*world{shared: island, island: shared} {
		both(append(clusterIPs(services[to]), podAt(to.ready("server"), echoPort)...), func(network string, at netip.AddrPort, _ int) {
			from.unreached(from.network("client"), network, at)
		})
		for _, n := range c.Nodes {
			for _, network := range []string{"tcp", "udp"} {
				for _, at := range nodePorts(services[to], n, network) {
					from.reached(from.network("client"), network, at, "server")
				}
			}
		}
	}
}

// TestOutside: pods of shared and of isolated namespaces call a server outside the cluster,
// which sees the node that they run on.
func TestOutside(t *testing.T) {
	t.Parallel()
	c := newCluster(t, cluster.Options{Dataplane: cluster.VRouter})
	port := fmt.Sprint(echoPort)
	server, err := process.Start(c.Outside(), filepath.Join(work, "outside.log"), nil,
		filepath.Join(work, "bin", "workload"), "--name", "outside", "--tcp", port, "--udp", port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(syscall.SIGKILL, patience); err != nil {
			t.Error(err)
		}
	})
	for _, w := range []*world{in(t, c, "shared"), isolated(t, c, "island")} {
		for _, n := range c.Nodes {
			w.pod("client-"+n.Name, n.Name, nil)
			for family, a := range c.OutsideAddresses() {
				for _, network := range []string{"tcp", "udp"} {
					seen := w.reached(w.network("client-"+n.Name), network, netip.AddrPortFrom(a, echoPort), "outside")
					if len(seen) != 1 || !seen[n.Addresses[family]] {
						t.Errorf("%s from %s: seen as %v, want %v", network, n.Name, slices.Collect(maps.Keys(seen)), n.Addresses[family])
					}
				}
			}
		}
	}
}
