//go:build linux

// Package cluster makes a Kubernetes cluster of network namespaces: a real control plane,
// nodes with a dataplane under test, and a host outside of it.
//
//	  pods    pods                pods    pods
//	    └──CNI──┤                   └──CNI──┤
//	  node-1  dataplane           node-2  dataplane         outside       control
//	 .11  └── eth0 ──┐           .12  └── eth0 ──┐             │ .100        │ .1
//	═════════════════╧═══════════════════════════╧═════════════╧═════════════╧══════
//	                 wire: a bridge, 192.0.2.0/24 and 2001:db8:10::/64
//
// outside knows nothing of pods; it has routes to service addresses by node-1.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/vrouter-go/vrouter/test/kube/control"
	"github.com/vrouter-go/vrouter/test/kube/kubeproxy"
	"github.com/vrouter-go/vrouter/test/kube/node"
	"github.com/vrouter-go/vrouter/test/kube/process"
)

// The addresses of all clusters. A wire is a network of its own, so they may repeat.
const (
	Services        = "10.96.0.0/16,fd00:96::/112"
	Pods            = "10.244.0.0/16,fd00:244::/48"
	LoadBalancersV4 = "203.0.113.0/24"
	LoadBalancersV6 = "2001:db8:113::/64"
	ExternalsV4     = "198.51.100.0/24"
	ExternalsV6     = "2001:db8:51::/64"
)

var (
	controlV4 = netip.AddrFrom4([4]byte{192, 0, 2, 1})
	outsideV4 = netip.AddrFrom4([4]byte{192, 0, 2, 100})
	outsideV6 = netip.MustParseAddr("2001:db8:10::100")
)

// Dataplane is what joins pods to the network.
type Dataplane string

// The dataplanes.
const (
	VRouter Dataplane = "vrouter" // vrouter, vrkube and vrouter-cni
	Kernel  Dataplane = "kernel"  // the CNI project's ptp plugin, and routes between nodes
)

// Options say what a cluster is made of.
type Options struct {
	Name      string   // distinguishes clusters of a process
	Prefix    string   // of the names of network namespaces
	Dir       string   // for everything that is written; the caller removes it
	Binaries  string   // directory of Kubernetes' programs
	Programs  string   // directory of the workload and of the programs under test
	Manifests []string // files that users apply: accounts' rights and definitions are taken from them
	Nodes     int      // 1 to 9; 0: 2
	Dataplane Dataplane
	// Proxy is the mode of the kube-proxy that runs in each node's namespace; empty: none.
	// Beside our dataplane it has the node ports, as in Contrail's clusters.
	Proxy string
}

// Cluster is a cluster that runs.
type Cluster struct {
	*control.Plane
	Nodes []*Node

	o       Options
	cancel  context.CancelFunc
	pods    atomic.Int32   // pods' namespaces so far
	closers []func() error // in the order of making
}

// Node is one node. What it runs may be stopped and started by the test.
type Node struct {
	Name      string
	Namespace string       // network namespace
	Addresses []netip.Addr // IPv4, IPv6
	PodCIDRs  []netip.Prefix
	Gateways  []netip.Addr // of the pods' networks: addresses that the node has there
	Kubelet   *node.Kubelet
	VRouter   *VRouterNode     // nil on the dataplane Kernel
	Proxy     *process.Process // kube-proxy; nil where Options ask for none

	c   *Cluster
	dir string
}

// Start starts a cluster and returns when its nodes are ready for pods. The caller has to
// Close it, also when ctx has ended.
func Start(ctx context.Context, o Options) (_ *Cluster, err error) {
	ctx, cancel := context.WithCancel(ctx)
	c := &Cluster{o: o, cancel: cancel}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if err := c.wire(); err != nil {
		return nil, err
	}
	c.Plane, err = control.Start(ctx, control.Options{
		Namespace: c.ns("control"), Dir: filepath.Join(o.Dir, "control"), Binaries: o.Binaries, Address: controlV4,
		Services: Services, Pods: Pods, Users: []string{kubeproxy.User, vrkubeUser},
	})
	if err != nil {
		return nil, err
	}
	c.closers = append(c.closers, c.Plane.Close)
	if err := control.Schedule(ctx, c.Client()); err != nil {
		return nil, err
	}
	if err := c.ship(ctx); err != nil {
		return nil, err
	}
	if o.Nodes == 0 {
		o.Nodes = 2
	}
	for i := range o.Nodes {
		if err := c.plan(i + 1); err != nil {
			return nil, err
		}
	}
	for _, n := range c.Nodes {
		if err := c.start(ctx, n); err != nil {
			return nil, fmt.Errorf("%s: %w", n.Name, err)
		}
	}
	return c, c.steer(c.Nodes[0])
}

// plan makes a node's namespace and says what its addresses are.
func (c *Cluster) plan(number int) error {
	n := &Node{c: c, Name: fmt.Sprintf("node-%d", number)}
	n.Namespace = c.ns(n.Name)
	n.dir = filepath.Join(c.o.Dir, n.Name)
	n.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + number)}), netip.MustParseAddr(fmt.Sprintf("2001:db8:10::%d", 10+number))}
	n.PodCIDRs = []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", number)), netip.MustParsePrefix(fmt.Sprintf("fd00:244:0:%d::/64", number))}
	for _, prefix := range n.PodCIDRs {
		n.Gateways = append(n.Gateways, prefix.Addr().Next())
	}
	c.Nodes = append(c.Nodes, n)
	if err := c.space(n.Name); err != nil {
		return err
	}
	if err := c.plug(n.Name, n.Addresses[0], n.Addresses[1]); err != nil {
		return err
	}
	// Service addresses are under the default route; without one the kernel refuses them.
	return c.run(n.Name, fmt.Sprintf("ip route add default via %v; ip -6 route add default via %v", outsideV4, outsideV6))
}

// start starts what runs on a node: the dataplane, kube-proxy, the kubelet.
func (c *Cluster) start(ctx context.Context, n *Node) error {
	config := node.Config{
		Name: n.Name, Namespace: n.Namespace, Addresses: n.Addresses, PodCIDRs: n.PodCIDRs, Client: c.Client(), Dir: n.dir, Programs: c.o.Programs,
		Labels:       map[string]string{"topology.kubernetes.io/zone": "zone-" + strings.TrimPrefix(n.Name, "node-")},
		PodNamespace: func() string { return c.ns(fmt.Sprintf("%s-p%d", n.Name, c.pods.Add(1))) },
	}
	if err := node.Register(ctx, config); err != nil {
		return err
	}
	switch c.o.Dataplane {
	case VRouter:
		if err := n.startVRouter(ctx); err != nil {
			return err
		}
		config.CNI, config.CNIPath = n.VRouter.cni(), []string{c.o.Programs}
	case Kernel:
		if err := n.routes(); err != nil {
			return err
		}
		config.CNI, config.CNIPath = n.ptp(), []string{"/usr/lib/cni"}
	default:
		return fmt.Errorf("cluster: no dataplane %q", c.o.Dataplane)
	}
	if c.o.Proxy != "" {
		if err := n.startProxy(ctx); err != nil {
			return err
		}
	}
	var err error
	if n.Kubelet, err = node.Start(ctx, config); err != nil {
		return err
	}
	c.closers = append(c.closers, n.Kubelet.Close)
	return nil
}

// Failed returns what to say where a program of the control plane or of a node has ended
// that should run.
func (c *Cluster) Failed() error {
	failed := c.Plane.Failed()
	for _, n := range c.Nodes {
		if n.VRouter != nil {
			failed = errors.Join(failed, n.VRouter.Failed())
		}
		if n.Proxy != nil {
			failed = errors.Join(failed, n.Proxy.Failed())
		}
	}
	return failed
}

// Close ends everything, the newest first.
func (c *Cluster) Close() error {
	c.cancel()
	var err error
	for i := len(c.closers) - 1; i >= 0; i-- {
		err = errors.Join(err, c.closers[i]())
	}
	c.closers = nil
	return err
}

// Outside returns the network namespace of the host outside.
func (c *Cluster) Outside() string { return c.ns("outside") }

// OutsideAddresses returns the addresses of the host outside, IPv4 and IPv6.
func (c *Cluster) OutsideAddresses() []netip.Addr { return []netip.Addr{outsideV4, outsideV6} }

// PodNetwork returns the network namespace of a pod that runs on a node of the cluster.
func (c *Cluster) PodNetwork(ctx context.Context, namespace, name string) (string, error) {
	pod, err := c.Client().CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	for _, n := range c.Nodes {
		if ns, ok := n.Kubelet.PodNetwork(pod.UID); ok && n.Name == pod.Spec.NodeName {
			return ns, nil
		}
	}
	return "", fmt.Errorf("pod %s/%s has no network yet", namespace, name)
}

// Until asks until the answer is no error, and says the last one when patience is over.
func Until(ctx context.Context, patience time.Duration, what string, ask func(context.Context) error) error {
	last := errors.New("not asked")
	err := wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		last = ask(ctx)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("gave up after %v waiting: %s: %w", patience, what, last)
	}
	return nil
}
