package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/vrouter-go/vrouter/agent/client"
	"github.com/vrouter-go/vrouter/controller/health"
)

// options are the command line of vrkube run.
type options struct {
	node       string
	kubeconfig string
	agent      string
	metrics    string
	healthz    string
	logLevel   string
	logFormat  string

	uplink, vhost0    string
	overlay           bool
	mtu               uint32
	podCIDRs          []string // this node's ranges of pod addresses
	serviceCIDRs      []string
	nodePortAddresses []string
	nodeAddresses     []string
	externalIPs       bool

	// The lists, read.
	podPrefixes, servicePrefixes, nodePortPrefixes []netip.Prefix
	addresses                                      []netip.Addr
}

func (o *options) flags(f *pflag.FlagSet) {
	f.StringVar(&o.node, "node", "", "name of this machine's Node object (default $NODE_NAME, else the host name in lower case)")
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "file that says how to reach the apiserver (default: the service account of the pod)")
	f.StringVar(&o.agent, "agent", client.DefaultAddress, "socket of the node's agent")
	f.StringVar(&o.metrics, "metrics", "127.0.0.1:9470", "loopback address or unix:PATH of /metrics, /livez, /readyz and /healthz; empty: none")
	f.StringVar(&o.healthz, "healthz", "", "address of /healthz, /livez and /readyz alone, for load balancers outside: 0.0.0.0:10256, for example (default: none)")
	f.StringVar(&o.uplink, "uplink", "", "device that joins the node with the others; with it vrkube describes the node (Fabric), without it the operator does")
	f.StringVar(&o.vhost0, "vhost0", "", "name of the node's own device (default vhost0)")
	f.BoolVar(&o.overlay, "overlay", false, "the operator's description of the node has an uplink: reach pods of other nodes by tunnels (--uplink implies it)")
	f.Uint32Var(&o.mtu, "mtu", 0, "MTU of pods' interfaces, 1280 to 65521 (default: the agent's)")
	f.StringSliceVar(&o.podCIDRs, "pod-cidr", nil, "this node's ranges of pod addresses (default: its Node's podCIDRs)")
	f.StringSliceVar(&o.serviceCIDRs, "service-cidr", nil, "ranges of cluster IPs (default: the cluster's ServiceCIDRs)")
	f.StringSliceVar(&o.nodePortAddresses, "node-port-addresses", nil, "prefixes that hold the node addresses of NodePorts (default: its primary address of each family)")
	f.StringSliceVar(&o.nodeAddresses, "node-addresses", nil, "addresses of this node that its Node object does not have")
	f.BoolVar(&o.externalIPs, "external-ips", false, "serve externalIPs of Services: whoever may write a Service takes any address with them (CVE-2020-8554)")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&o.logFormat, "log-format", "text", "text or json")
}

// complete fills in the defaults and refuses what cannot be.
func (o *options) complete() error {
	if o.node == "" {
		o.node = os.Getenv("NODE_NAME")
	}
	if o.node == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("the host has no name: %w; give --node", err)
		}
		o.node = strings.ToLower(strings.TrimSpace(name))
	}
	var errs []error
	bad := func(flag string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		}
	}
	for _, list := range [...]struct {
		flag string
		text []string
		to   *[]netip.Prefix
	}{
		{"pod-cidr", o.podCIDRs, &o.podPrefixes},
		{"service-cidr", o.serviceCIDRs, &o.servicePrefixes},
		{"node-port-addresses", o.nodePortAddresses, &o.nodePortPrefixes},
	} {
		var err error
		*list.to, err = prefixes(list.text)
		bad(list.flag, err)
	}
	for _, s := range o.nodeAddresses {
		a, err := netip.ParseAddr(s)
		if err != nil {
			err = fmt.Errorf("%q is no address; give one such as 192.0.2.10", s)
		}
		bad("node-addresses", err)
		o.addresses = append(o.addresses, a)
	}
	if o.mtu != 0 && (o.mtu < 1280 || o.mtu > 65521) {
		bad("mtu", fmt.Errorf("%d must be 1280 to 65521, or 0 for the agent's default", o.mtu))
	}
	bad("metrics", health.CheckMetricsAddress(o.metrics))
	_, err := o.level()
	bad("log-level", err)
	if o.logFormat != "text" && o.logFormat != "json" {
		bad("log-format", fmt.Errorf("%q must be text or json", o.logFormat))
	}
	return errors.Join(errs...)
}

func prefixes(texts []string) (list []netip.Prefix, err error) {
	for _, s := range texts {
		p, err := netip.ParsePrefix(s)
		if err != nil || p != p.Masked() {
			return nil, fmt.Errorf("%q is no network prefix whose host bits are zero; give one such as 10.244.0.0/24", s)
		}
		list = append(list, p)
	}
	return list, nil
}

func (o *options) level() (level slog.Level, err error) {
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return level, fmt.Errorf("%q must be debug, info, warn or error", o.logLevel)
	}
	return level, nil
}

func (o *options) logger(w io.Writer) *slog.Logger {
	level, err := o.level()
	if err != nil {
		level = slog.LevelInfo // complete has refused it
	}
	h := &slog.HandlerOptions{Level: level}
	if o.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, h))
	}
	return slog.New(slog.NewTextHandler(w, h))
}

// cluster returns how the apiserver is reached.
func (o *options) cluster() (*rest.Config, error) {
	if o.kubeconfig == "" {
		c, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("no service account: %w; outside of a pod give --kubeconfig FILE", err)
		}
		return c, nil
	}
	c, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig %s: %w", o.kubeconfig, err)
	}
	return c, nil
}
