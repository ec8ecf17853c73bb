//go:build linux

// Package kubeproxy runs a real kube-proxy in a node's network namespace.
package kubeproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/test/kube/process"
)

// User is who kube-proxy is to the apiserver, whose bootstrap roles give the user what
// kube-proxy needs and no more.
const User = "system:kube-proxy"

// Options say where a kube-proxy runs and what it is told.
type Options struct {
	Namespace  string // the node's network namespace
	Dir        string // for its log
	Binaries   string // directory of kube-proxy
	Kubeconfig string // of User
	Node       string // name of the Node
	Mode       string // nftables or iptables
	Pods       string // pod CIDRs, separated by a comma: what is not in them comes from outside
	// NodePorts are the CIDRs of addresses that serve NodePorts, separated by a comma; empty:
	// what the mode has as its default.
	NodePorts string
}

// Start starts a kube-proxy and returns when it has programmed what it found. The caller
// has to Stop it.
func Start(ctx context.Context, o Options) (*process.Process, error) {
	args := []string{filepath.Join(o.Binaries, "kube-proxy"), "--kubeconfig", o.Kubeconfig, "--hostname-override", o.Node,
		"--proxy-mode", o.Mode, "--cluster-cidr", o.Pods, "--detect-local-mode=ClusterCIDR",
		// The number of connections is the machine's, not the namespace's, to set.
		"--conntrack-max-per-core=0", "--conntrack-min=0",
		"--healthz-bind-address", health, "--metrics-bind-address=127.0.0.1:10249"}
	if o.NodePorts != "" {
		args = append(args, "--nodeport-addresses", o.NodePorts)
	}
	p, err := process.Start(o.Namespace, filepath.Join(o.Dir, "kube-proxy.log"), nil, args...)
	if err != nil {
		return nil, err
	}
	if err := synced(ctx, o.Namespace, p); err != nil {
		return nil, errors.Join(err, p.Stop(syscall.SIGKILL, time.Second))
	}
	return p, nil
}

const health = "127.0.0.1:10256"

// synced waits until kube-proxy says that it has programmed the kernel.
func synced(ctx context.Context, namespace string, p *process.Process) error {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (conn net.Conn, err error) {
			err = netns.Do(namespace, func() error {
				var d net.Dialer
				conn, err = d.DialContext(ctx, network, netip.MustParseAddrPort(health).String())
				return err
			})
			return conn, err
		},
	}}
	var last error
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		if err := p.Failed(); err != nil {
			return false, err
		}
		response, err := client.Get("http://" + health + "/healthz")
		if err != nil {
			last = err
			return false, nil
		}
		defer response.Body.Close()
		text, err := io.ReadAll(io.LimitReader(response.Body, 4096))
		last = errors.Join(err, fmt.Errorf("%s: %s", response.Status, text))
		return response.StatusCode == http.StatusOK, nil
	})
	if err != nil {
		return fmt.Errorf("kube-proxy is not healthy: %w; %w\n%s", err, last, p.Tail())
	}
	return nil
}
