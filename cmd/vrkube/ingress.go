package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/vrouter-go/vrouter/controller/ingress"
	"github.com/vrouter-go/vrouter/controller/ingress/haproxy"
	"github.com/vrouter-go/vrouter/controller/ingress/routing"
)

// ingressFlags are the flags of `vrkube ingress` that are not fields of its options.
type ingressFlags struct {
	kubeconfig, user                    string
	defaultBackend, defaultCertificate  string
	publishService, publishNodes, level string
	trusted                             []string
}

func ingressCommand() *cobra.Command {
	o := ingress.Options{
		Proxy: haproxy.DefaultSettings(), Routing: routing.Options{Controller: ingress.DefaultController},
		Address: "127.0.0.1:9472", ShutdownDelay: 5 * time.Second, StopTimeout: 20 * time.Second,
	}
	var f ingressFlags
	cmd := &cobra.Command{
		Use:   "ingress",
		Short: "Serve the cluster's Ingresses with a HAProxy in this pod",
		Long: `Example:
  vrkube ingress --publish-service ingress/vrouter-ingress

Watches Ingresses and runs HAProxy in the network namespace that it is started in,
that of a pod behind a Service or host ports. Any number of replicas serve side by side.
As root it keeps nothing but the capability to bind low ports, and becomes --user.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.complete(&o); err != nil {
				return err
			}
			log, err := ingressLog(cmd, f.level)
			if err != nil {
				return err
			}
			o.Log = log
			client, err := f.client()
			if err != nil {
				return err
			}
			if err := becomeUser(f.user, o.Proxy.Directory); err != nil {
				return err
			}
			return ingress.Run(cmd.Context(), client, o)
		},
	}
	f.add(cmd.Flags(), &o)
	return cmd
}

func (f *ingressFlags) add(flags *pflag.FlagSet, o *ingress.Options) {
	flags.StringVar(&f.kubeconfig, "kubeconfig", "", "how to reach the API server; empty: as the pod's service account")
	flags.StringVar(&f.user, "user", "haproxy", "who to be after the start as root; ignored without root")
	flags.StringVar(&f.level, "log-level", "info", "debug, info, warn or error")
	flags.StringVar(&o.Address, "metrics", o.Address, "where to serve /healthz, /readyz, /metrics and /metrics/haproxy: host:port or unix:PATH; empty: none")

	flags.StringVar(&o.Routing.Controller, "controller", o.Routing.Controller, "spec.controller of the IngressClasses to serve")
	flags.StringVar(&f.defaultBackend, "default-backend", "", "NAMESPACE/SERVICE:PORT for requests that no Ingress takes; empty: 404")
	flags.StringVar(&f.defaultCertificate, "default-certificate", "", "NAMESPACE/SECRET for clients that name no host with a certificate; empty: they are refused")

	flags.StringSliceVar(&o.Publish.Addresses, "publish-address", nil, "address or host name for the status of Ingresses; may be repeated")
	flags.StringVar(&f.publishService, "publish-service", "", "NAMESPACE/SERVICE whose load balancer and external addresses go into the status")
	flags.StringVar(&f.publishNodes, "publish-nodes", "", "label selector of Nodes whose addresses go into the status")

	p := &o.Proxy
	flags.StringVar(&p.Binary, "haproxy", p.Binary, "HAProxy 2.6 or later")
	flags.StringVar(&p.Directory, "directory", p.Directory, "for HAProxy's files and sockets; holds TLS keys, so best in memory")
	flags.StringSliceVar(&p.HTTP, "http", p.HTTP, "addresses to listen on for HTTP")
	flags.StringSliceVar(&p.HTTPS, "https", p.HTTPS, "addresses to listen on for HTTPS")
	flags.Uint16Var(&p.RedirectPort, "redirect-port", 443, "port that clients know HTTPS by")
	flags.IntVar(&p.Threads, "threads", 0, "threads of HAProxy; 0: one for each processor")
	flags.IntVar(&p.MaxConnections, "max-connections", 0, "most client connections at a time; 0: 20000, or what the limit of open files allows")
	flags.StringSliceVar(&f.trusted, "trusted-proxies", nil, "prefixes of proxies whose X-Forwarded-* headers are passed on")
	flags.BoolVar(&p.AccessLog, "access-log", false, "log each request")
	flags.DurationVar(&p.Timeouts.Connect, "timeout-connect", p.Timeouts.Connect, "to connect to a pod")
	flags.DurationVar(&p.Timeouts.Request, "timeout-request", p.Timeouts.Request, "for a client to send its headers")
	flags.DurationVar(&p.Timeouts.KeepAlive, "timeout-keep-alive", p.Timeouts.KeepAlive, "for a client to send another request")
	flags.DurationVar(&p.Timeouts.Idle, "timeout-idle", p.Timeouts.Idle, "without a byte within a request")
	flags.DurationVar(&p.Timeouts.Tunnel, "timeout-tunnel", p.Timeouts.Tunnel, "without a byte in a WebSocket")
	flags.DurationVar(&p.ReloadInterval, "reload-interval", p.ReloadInterval, "shortest time between two reloads of HAProxy")
	flags.DurationVar(&p.DrainTimeout, "drain-timeout", p.DrainTimeout, "how long connections may outlive a reload")
	flags.DurationVar(&o.ShutdownDelay, "shutdown-delay", o.ShutdownDelay, "how long to serve, not ready, after SIGTERM")
	flags.DurationVar(&o.StopTimeout, "stop-timeout", o.StopTimeout, "how long connections may then go on")
}

// complete reads the flags that are more than a value.
func (f *ingressFlags) complete(o *ingress.Options) error {
	var err error
	if f.defaultBackend != "" {
		text, port, ok := cutLast(f.defaultBackend, ':')
		name, nameErr := namespacedName("--default-backend", text)
		if !ok || nameErr != nil || port == "" {
			return fmt.Errorf("invalid argument %q for --default-backend: write NAMESPACE/SERVICE:PORT", f.defaultBackend)
		}
		backend := &networking.IngressServiceBackend{Name: name.Name}
		if number, err := strconv.ParseUint(port, 10, 16); err == nil {
			backend.Port.Number = int32(number)
		} else {
			backend.Port.Name = port
		}
		o.Routing.DefaultBackend, o.Routing.DefaultNamespace = backend, name.Namespace
	}
	if f.defaultCertificate != "" {
		if o.Routing.DefaultCertificate, err = namespacedName("--default-certificate", f.defaultCertificate); err != nil {
			return err
		}
	}
	if f.publishService != "" {
		if o.Publish.Service, err = namespacedName("--publish-service", f.publishService); err != nil {
			return err
		}
	}
	if f.publishNodes != "" {
		if o.Publish.Nodes, err = labels.Parse(f.publishNodes); err != nil {
			return fmt.Errorf("invalid argument %q for --publish-nodes: %w", f.publishNodes, err)
		}
	}
	for _, text := range f.trusted {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("invalid argument %q for --trusted-proxies: %w; write ADDRESS/LENGTH", text, err)
		}
		o.Proxy.TrustedProxies = append(o.Proxy.TrustedProxies, p)
	}
	return nil
}

func cutLast(s string, sep byte) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

func namespacedName(flag, text string) (*types.NamespacedName, error) {
	namespace, name, ok := strings.Cut(text, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return nil, fmt.Errorf("invalid argument %q for %s: write NAMESPACE/NAME", text, flag)
	}
	return &types.NamespacedName{Namespace: namespace, Name: name}, nil
}

// client reaches the API server. A replica that starts asks for each Secret by
// itself, so more at a time than client-go's five.
func (f *ingressFlags) client() (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", f.kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("how to reach the API server: %w (give --kubeconfig outside a pod)", err)
	}
	config.QPS, config.Burst, config.UserAgent = 50, 200, "vrkube-ingress"
	return kubernetes.NewForConfig(config)
}

func ingressLog(cmd *cobra.Command, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, errors.New("invalid argument " + strconv.Quote(level) + " for --log-level: write debug, info, warn or error")
	}
	return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: l})), nil
}
