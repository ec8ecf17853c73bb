package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"google.golang.org/grpc/codes"

	"github.com/vrouter-go/vrouter/agent/client"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// del disconnects a container. Nothing needs to be there any more: no attachment, no
// namespace, no prevResult.
func del(a *skel.CmdArgs) error {
	c, who, err := request(a)
	if err != nil {
		return err
	}
	api, err := c.dial(c.timeout())
	if err != nil {
		return err
	}
	defer api.Close()
	_, err = api.Detach(context.Background(), &pb.DetachRequest{Name: who.name, ContainerId: a.ContainerID, Netns: a.Netns, GuestName: a.IfName})
	var failed *client.Error
	if errors.As(err, &failed) && failed.Code == codes.InvalidArgument {
		fmt.Fprintln(os.Stderr, "vrouter-cni: there is nothing to disconnect:", err) // ADD would not have taken it either
		return nil
	}
	if err != nil {
		return failure(err)
	}
	return nil
}

// collect disconnects the containers of this configuration that the runtime does not
// know. The runtime makes sure that no ADD is under way meanwhile.
func collect(a *skel.CmdArgs) error {
	c, err := parse(a.StdinData)
	if err != nil {
		return err
	}
	api, err := c.dial(c.timeout())
	if err != nil {
		return err
	}
	defer api.Close()
	list, _, err := api.List(context.Background(), &pb.ListRequest{Kinds: []string{"Attachment"}})
	if err != nil {
		return failure(err)
	}
	valid := make(map[types.GCAttachment]bool, len(c.ValidAttachments))
	for _, v := range c.ValidAttachments {
		valid[v] = true
	}
	var errs []error
	for _, r := range list {
		at := r.GetAttachment()
		guest := at.GetGuestName()
		if guest == "" {
			guest = "eth0"
		}
		if at.GetConfiguration() != c.Name || valid[types.GCAttachment{ContainerID: at.GetContainerId(), IfName: guest}] {
			continue
		}
		_, err := api.Detach(context.Background(), &pb.DetachRequest{Name: r.GetName(), ContainerId: at.GetContainerId(), GuestName: guest})
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.GetName(), err))
		}
	}
	if len(errs) > 0 {
		return types.NewError(codeRefused, fmt.Sprintf("%d attachments could not be collected", len(errs)), errors.Join(errs...).Error())
	}
	return nil
}
