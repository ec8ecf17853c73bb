package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/vrouter-go/vrouter/agent/client"
	"github.com/vrouter-go/vrouter/internal/netns"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// check verifies that a container still has what ADD gave it: for the agent, and in
// its namespace.
func check(a *skel.CmdArgs) error {
	c, who, err := request(a)
	if err != nil {
		return err
	}
	if c.RawPrevResult == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "CHECK needs the prevResult of ADD", "")
	}
	result, err := c.before()
	if err != nil {
		return err
	}
	if err := space(a.Netns); err != nil {
		return err
	}
	api, err := c.dial(c.timeout())
	if err != nil {
		return err
	}
	defer api.Close()
	if err := checkAgent(api, a, who.name); err != nil {
		return err
	}
	var problems []string
	err = netns.Do(a.Netns, func() error {
		problems = checkSpace(a, result)
		return nil
	})
	if err != nil {
		return types.NewError(types.ErrInvalidNetNS, "the container's namespace cannot be entered", err.Error())
	}
	return differs(problems)
}

// differs is the error of CHECK; nil where there is nothing to tell.
func differs(problems []string) error {
	if len(problems) == 0 {
		return nil
	}
	return types.NewError(codeDiffers, "the container has not what it was given: "+problems[0], strings.Join(problems, "\n"))
}

// checkAgent verifies that the agent holds the container and moves its packets.
func checkAgent(api *client.Client, a *skel.CmdArgs, name string) error {
	list, _, err := api.List(context.Background(), &pb.ListRequest{Kinds: []string{"Attachment"}, Names: []string{name}})
	if err != nil {
		return failure(err)
	}
	if len(list) == 0 {
		return differs([]string{"the agent has no attachment " + name})
	}
	at := list[0].GetAttachment()
	if at.GetContainerId() != a.ContainerID || at.GetNetns() != a.Netns {
		return differs([]string{fmt.Sprintf("the agent has attached container %s in %s to %s", at.GetContainerId(), at.GetNetns(), name)})
	}
	status, err := api.Status(context.Background())
	if err != nil {
		return failure(err)
	}
	i := slices.IndexFunc(status.GetPorts(), func(p *pb.PortStatus) bool { return p.GetName() == name })
	switch {
	case i < 0:
		return differs([]string{"the agent has no port " + name + ": the pod's interface is gone, or is another pod's"})
	case status.GetPorts()[i].GetState() != pb.PortStatus_UP:
		return differs([]string{fmt.Sprintf("the port %s is not up: %s", name, status.GetPorts()[i].GetReason())})
	}
	return nil
}

// checkSpace compares the namespace that it runs in with a result.
func checkSpace(a *skel.CmdArgs, r *current.Result) (problems []string) {
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	index := slices.IndexFunc(r.Interfaces, func(i *current.Interface) bool { return i.Name == a.IfName && i.Sandbox == a.Netns })
	if index < 0 {
		wrong("prevResult has no interface %s in %s", a.IfName, a.Netns)
		return problems
	}
	link, err := netlink.LinkByName(a.IfName)
	if err != nil {
		wrong("%s: %v", a.IfName, err)
		return problems
	}
	want, attrs := r.Interfaces[index], link.Attrs()
	if link.Type() != "tuntap" {
		wrong("%s is a %s, not a TAP", a.IfName, link.Type())
	}
	if want.Mac != "" && !strings.EqualFold(want.Mac, attrs.HardwareAddr.String()) {
		wrong("%s has the MAC address %s, not %s", a.IfName, attrs.HardwareAddr, want.Mac)
	}
	if want.Mtu != 0 && want.Mtu != attrs.MTU {
		wrong("%s has MTU %d, not %d", a.IfName, attrs.MTU, want.Mtu)
	}
	if attrs.Flags&net.FlagUp == 0 {
		wrong("%s is down", a.IfName)
	}
	addresses, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		wrong("addresses of %s: %v", a.IfName, err)
	}
	gateways := map[string]bool{}
	for _, ip := range r.IPs {
		if ip.Interface == nil || *ip.Interface != index {
			continue
		}
		gateways[ip.Gateway.String()] = true
		if !slices.ContainsFunc(addresses, func(have netlink.Addr) bool { return have.IPNet.String() == ip.Address.String() }) {
			wrong("%s lacks the address %s", a.IfName, ip.Address.String())
		}
	}
	for _, route := range r.Routes {
		if gateways[route.GW.String()] && !hasRoute(link, route) {
			wrong("there is no route to %s by %s through %s", route.Dst.String(), route.GW, a.IfName)
		}
	}
	return problems
}

// hasRoute reports whether the kernel has a route of a result through a device.
func hasRoute(link netlink.Link, want *types.Route) bool {
	family := netlink.FAMILY_V6
	if want.GW.To4() != nil {
		family = netlink.FAMILY_V4
	}
	routes, err := netlink.RouteList(link, family)
	return err == nil && slices.ContainsFunc(routes, func(have netlink.Route) bool {
		ones, _ := want.Dst.Mask.Size()
		sameDst := have.Dst == nil && ones == 0 || have.Dst != nil && have.Dst.String() == want.Dst.String()
		return sameDst && have.Gw.Equal(want.GW)
	})
}

// statusTimeout bounds STATUS, which runtimes ask often.
const statusTimeout = 5 * time.Second

// fabric is the network of the node itself, which gives no addresses to containers.
const fabric = "ip-fabric"

// status says whether an ADD could be done now.
func status(a *skel.CmdArgs) error {
	c, err := parse(a.StdinData)
	if err != nil {
		return err
	}
	api, err := c.dial(statusTimeout)
	if err != nil {
		return err
	}
	defer api.Close()
	request := &pb.ListRequest{Kinds: []string{"VirtualNetwork"}}
	if c.VirtualNetwork != "" {
		request.Names = []string{c.VirtualNetwork}
	}
	networks, _, err := api.List(context.Background(), request)
	if err != nil {
		e := failure(err)
		return types.NewError(types.ErrPluginNotAvailable, e.Msg, e.Details)
	}
	if slices.ContainsFunc(networks, func(r *pb.Resource) bool { return r.GetName() != fabric && gives(r.GetVirtualNetwork()) }) {
		return nil
	}
	if c.VirtualNetwork != "" {
		return types.NewError(types.ErrPluginNotAvailable, "the agent has no network "+c.VirtualNetwork+" with a subnet to give addresses from", "apply it: kind: VirtualNetwork, name: "+c.VirtualNetwork)
	}
	return types.NewError(types.ErrPluginNotAvailable, "the agent has no network with a subnet to give addresses from", "no controller has told it of one yet; is the controller running?")
}

// gives reports whether a network has subnets to give addresses from.
func gives(vn *pb.VirtualNetwork) bool {
	return slices.ContainsFunc(vn.GetSubnets(), func(s *pb.Subnet) bool {
		_, err := netip.ParsePrefix(s.GetPrefix())
		return err == nil
	})
}
