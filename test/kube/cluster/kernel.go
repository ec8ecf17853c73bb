//go:build linux

package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vrouter-go/vrouter/test/kube/kubeproxy"
)

// routes makes the node's kernel a router for its pods and those of the other nodes.
func (n *Node) routes() error {
	if err := n.Route(); err != nil {
		return err
	}
	var script strings.Builder
	for _, other := range n.c.Nodes {
		for i, prefix := range other.PodCIDRs {
			if other != n {
				fmt.Fprintf(&script, "ip route replace %v via %v\n", prefix, other.Addresses[i])
			}
		}
	}
	return n.c.run(n.Name, script.String())
}

// Route makes the node's kernel forward packets, as where kube-proxy translates them for
// pods that it reaches through vhost0.
func (n *Node) Route() error {
	return n.c.run(n.Name, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
}

// ptp is the network configuration list of the dataplane Kernel.
func (n *Node) ptp() []byte {
	ranges := [][]map[string]string{}
	for _, prefix := range n.PodCIDRs {
		ranges = append(ranges, []map[string]string{{"subnet": prefix.String()}})
	}
	b, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": "kernel", "plugins": []any{
		map[string]any{"type": "ptp", "mtu": 1500, "ipam": map[string]any{
			"type": "host-local", "dataDir": filepath.Join(n.dir, "ipam"), "ranges": ranges,
			"routes": []map[string]string{{"dst": "0.0.0.0/0"}, {"dst": "::/0"}},
		}},
		map[string]any{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}},
	}})
	if err != nil {
		panic(err) // texts and booleans always have a JSON form
	}
	return b
}

// startProxy starts a kube-proxy in the node's namespace. Close ends it.
func (n *Node) startProxy(ctx context.Context) error {
	kubeconfig, err := n.c.Kubeconfig(kubeproxy.User)
	if err != nil {
		return err
	}
	n.Proxy, err = kubeproxy.Start(ctx, kubeproxy.Options{
		Namespace: n.Namespace, Dir: n.dir, Binaries: n.c.o.Binaries, Kubeconfig: kubeconfig, Node: n.Name, Mode: n.c.o.Proxy, Pods: Pods,
	})
	if err != nil {
		return err
	}
	n.c.closers = append(n.c.closers, func() error { return n.Proxy.Stop(syscall.SIGKILL, time.Second) })
	return nil
}
