package main

import (
	"context"
	"log/slog"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/vrouter-go/vrouter/controller"
	"github.com/vrouter-go/vrouter/controller/agentsync"
	"github.com/vrouter-go/vrouter/controller/network"
	"github.com/vrouter-go/vrouter/controller/service"
)

// follow turns the cluster into changes for the agent until ctx ends.
func follow(ctx context.Context, o *options, cluster kubernetes.Interface, extensions dynamic.Interface, log *slog.Logger, apply func(agentsync.Change)) error {
	c, err := controller.New(controller.Config{
		Client: cluster, Extensions: extensions, Log: log,
		Node: o.node,
		Network: network.Options{
			Uplink: o.uplink, Vhost0: o.vhost0, Overlay: o.overlay, MTU: o.mtu,
			PodCIDRs: o.podPrefixes, ServiceCIDRs: o.servicePrefixes,
		},
		Service: service.Options{ExternalIPs: o.externalIPs, NodePortAddresses: o.nodePortPrefixes, NodeAddresses: o.addresses},
		Apply:   func(change controller.Change) { apply(agentsync.Change(change)) },
	})
	if err != nil {
		return err
	}
	if err := c.Run(ctx); ctx.Err() == nil {
		return err
	}
	return nil // asked to end
}
