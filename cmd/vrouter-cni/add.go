package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/containernetworking/cni/pkg/ns"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"google.golang.org/grpc/codes"

	"github.com/vrouter-go/vrouter/agent/client"
	"github.com/vrouter-go/vrouter/internal/netns"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Codes of errors of our own, which the specification leaves from 100 on.
const (
	codeRefused   = 100 // the agent does not do it; the details say what to change
	codeExhausted = 101 // no address is free
	codeTaken     = 102 // an address or a host port is somebody else's
	codeDiffers   = 103 // CHECK found something else than ADD made
)

// add connects a container and writes what it has now.
func add(a *skel.CmdArgs) error {
	c, who, err := request(a)
	if err != nil {
		return err
	}
	if err := space(a.Netns); err != nil {
		return err
	}
	before, err := c.before()
	if err != nil {
		return err
	}
	request, err := c.request(a, who)
	if err != nil {
		return err
	}
	api, err := c.dial(c.timeout())
	if err != nil {
		return err
	}
	defer api.Close()
	answer, err := api.Attach(context.Background(), request)
	if err != nil {
		return failure(err)
	}
	result, err := c.result(before, a, answer)
	if err != nil {
		return err
	}
	return types.PrintResult(result, c.CNIVersion)
}

// space refuses a namespace that is not there, or is the node's.
func space(path string) error {
	h, err := netns.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return types.NewError(types.ErrUnknownContainer, "the container's namespace is gone: "+path, err.Error())
	}
	if err != nil {
		return types.NewError(types.ErrInvalidNetNS, "the container's namespace cannot be used: "+path, err.Error())
	}
	h.Close()
	if own, _ := ns.CheckNetNS(path); own {
		return types.NewError(types.ErrInvalidNetNS, "CNI_NETNS is the plugin's own namespace, which is the node's: "+path, "")
	}
	return nil
}

// before returns the result of the plugins before this one in the chain, an empty one
// where there are none.
func (c *conf) before() (*current.Result, error) {
	if c.RawPrevResult == nil {
		return &current.Result{}, nil
	}
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult cannot be read", err.Error())
	}
	r, err := current.NewResultFromResult(c.PrevResult)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult cannot be read", err.Error())
	}
	return r, nil
}

// result adds what the agent says to the result of the plugins before.
func (c *conf) result(r *current.Result, a *skel.CmdArgs, answer *pb.AttachResponse) (*current.Result, error) {
	r.CNIVersion = current.ImplementedSpecVersion
	index := len(r.Interfaces)
	r.Interfaces = append(r.Interfaces, &current.Interface{
		Name: a.IfName, Mac: answer.GetMacAddress(), Mtu: int(answer.GetMtu()), Sandbox: a.Netns,
	})
	for _, x := range answer.GetAddresses() {
		ip, subnet, err := net.ParseCIDR(x.GetAddress())
		if err != nil {
			return nil, types.NewError(types.ErrInternal, "the agent answers with a bad address", err.Error())
		}
		gateway := net.ParseIP(x.GetGateway())
		r.IPs = append(r.IPs, &current.IPConfig{Interface: current.Int(index), Address: net.IPNet{IP: ip, Mask: subnet.Mask}, Gateway: gateway})
		if gateway != nil {
			all := net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
			if ip.To4() == nil {
				all = net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
			}
			r.Routes = append(r.Routes, &types.Route{Dst: all, GW: gateway})
		}
	}
	if !c.DNS.IsEmpty() {
		r.DNS = c.DNS
	}
	return r, nil
}

// failure makes a CNI error of a failed call.
func failure(err error) *types.Error {
	var failed *client.Error
	if !errors.As(err, &failed) {
		return types.NewError(types.ErrInternal, err.Error(), "")
	}
	e := types.NewError(codeRefused, failed.Error(), failed.Try)
	switch failed.Code {
	case codes.Unavailable, codes.Aborted, codes.DeadlineExceeded, codes.Canceled:
		e.Code = types.ErrTryAgainLater
	case codes.NotFound:
		e.Code = types.ErrUnknownContainer
	case codes.ResourceExhausted:
		e.Code = codeExhausted
	case codes.AlreadyExists:
		e.Code = codeTaken
	case codes.Internal, codes.Unknown:
		e.Code = types.ErrInternal
	}
	for _, v := range failed.Violations {
		e.Details += fmt.Sprintf("%s: %s\n", v.Field, v.Description)
	}
	return e
}
