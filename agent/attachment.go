package agent

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vrouter-go/vrouter/agent/attach"
	"github.com/vrouter-go/vrouter/agent/ports"
	"github.com/vrouter-go/vrouter/agent/state"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

const (
	// attachPatience is how long Attach waits for an interface where the caller has no
	// deadline.
	attachPatience = 20 * time.Second
	// attachMargin is what is left of a caller's deadline for the answer.
	attachMargin = time.Second
)

// Attach implements pb.AgentServiceServer.
func (s *Service) Attach(ctx context.Context, req *pb.AttachRequest) (*pb.AttachResponse, error) {
	if err := check(req); err != nil {
		return nil, err
	}
	answer, err := s.agent.Attach(ctx, req)
	return answer, rpcError(err)
}

// Detach implements pb.AgentServiceServer.
func (s *Service) Detach(ctx context.Context, req *pb.DetachRequest) (*pb.DetachResponse, error) {
	if err := check(req); err != nil {
		return nil, err
	}
	answer, err := s.agent.Detach(ctx, req)
	return answer, rpcError(err)
}

// Attach connects a container to its interface, for which it waits, and returns when
// the device forwards under the policy in force. After an error nothing is attached.
func (a *Agent) Attach(ctx context.Context, req *pb.AttachRequest) (*pb.AttachResponse, error) {
	if err := a.awaitInterface(ctx, req); err != nil {
		return nil, err
	}
	a.turn.Lock()
	defer a.turn.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err // nobody is there any more who would detach
	}
	if err := a.ports.Missing(req.GetNetns()); err != nil {
		return nil, status.Errorf(codes.NotFound, "the container's namespace: %v", err)
	}
	// Only transactions change the state, and those wait for the turn.
	if err := attach.Ready(a.state, req); err != nil {
		return nil, err
	}
	upserts, err := attach.Plan(a.state, a.pools, req)
	if err != nil {
		return nil, err
	}
	before := a.state.Get(state.Key{Kind: state.Attachment, Name: req.GetName()}).GetAttachment()
	out, err := a.transactLocked(request{Request: state.Request{Owner: state.OwnerCNI, Upserts: upserts}})
	if err != nil {
		return nil, taken(err)
	}
	port := a.ports.Attached(req.GetName())
	if port == nil || !port.Up {
		a.undo(req)
		return nil, a.noDevice(req, port)
	}
	if before != nil && before.GetNetns() != req.GetNetns() {
		a.discard(req.GetName(), before.GetNetns())
	}
	answer := attached(port.Spec)
	answer.Generation = &pb.Generation{Number: out.generation, Level: pb.Generation_PROGRAMMED}
	return answer, nil
}

// awaitInterface waits until the interface is there that a container is for.
func (a *Agent) awaitInterface(ctx context.Context, req *pb.AttachRequest) error {
	patience := attachPatience
	if deadline, ok := ctx.Deadline(); ok {
		patience = time.Until(deadline) - attachMargin
	}
	limit := time.NewTimer(patience)
	defer limit.Stop()
	_, _, w := a.watch(selection{names: []string{req.GetName()}})
	defer a.unwatch(w)
	for {
		a.mu.RLock()
		err := attach.Ready(a.state, req)
		a.mu.RUnlock()
		if status.Code(err) != codes.Aborted {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-limit.C:
			return status.Errorf(codes.Aborted, "waited %s: %s", max(patience, 0).Round(100*time.Millisecond), status.Convert(err).Message())
		case _, ok := <-w.events:
			if !ok {
				return status.Error(codes.Aborted, "the daemon ends, or changes came too fast; call again")
			}
		}
	}
}

// taken tells a port or an address that somebody else has from other faults.
func taken(err error) error {
	var invalid *state.Error
	if errors.As(err, &invalid) && slices.ContainsFunc(invalid.Violations, func(v state.Violation) bool { return v.Resource.Kind == state.FloatingIP }) {
		return status.Errorf(codes.AlreadyExists, "a host port cannot be had: %v", err)
	}
	return err
}

// noDevice says why an interface has no device though it is attached.
func (a *Agent) noDevice(req *pb.AttachRequest, port *ports.Status) error {
	if err := a.ports.Missing(req.GetNetns()); err != nil {
		return status.Errorf(codes.NotFound, "the container's namespace went away: %v", err)
	}
	reason := "the interface wants no device"
	if port != nil {
		reason = port.Reason
	}
	return status.Errorf(codes.FailedPrecondition, "the device %s cannot be made in %s: %s", req.GetGuestName(), req.GetNetns(), reason)
}

// undo takes back an attachment that has come to nothing.
func (a *Agent) undo(req *pb.AttachRequest) {
	if err := a.remove(attach.Gone(a.state, req.GetName(), req.GetContainerId(), req.GetGuestName())); err != nil {
		a.log.Error("an attachment without a device stays until it is detached", "interface", req.GetName(), "error", err)
	}
	a.discard(req.GetName(), req.GetNetns())
}

// Detach ends what Attach began for a container. It is no error where there is
// nothing, and another container's attachment stays.
func (a *Agent) Detach(_ context.Context, req *pb.DetachRequest) (*pb.DetachResponse, error) {
	a.turn.Lock()
	defer a.turn.Unlock()
	at := a.state.Get(state.Key{Kind: state.Attachment, Name: req.GetName()}).GetAttachment()
	gone := attach.Gone(a.state, req.GetName(), req.GetContainerId(), req.GetGuestName())
	found := len(gone) > 0
	if found {
		if err := a.remove(gone); err != nil {
			return nil, err
		}
		a.discard(req.GetName(), at.GetNetns())
	}
	if req.GetNetns() != "" && at.GetNetns() != req.GetNetns() {
		a.discard(req.GetName(), req.GetNetns())
	}
	return &pb.DetachResponse{Generation: &pb.Generation{Number: a.state.Generation(), Level: pb.Generation_PROGRAMMED}, Found: found}, nil
}

// remove takes a container's resources out of desired state. An interface that was
// made for it and that others name by now stays, without a device.
func (a *Agent) remove(keys []state.Key) error {
	var invalid *state.Error
	_, err := a.transactLocked(request{Request: state.Request{Owner: state.OwnerCNI, Deletes: keys}})
	if errors.As(err, &invalid) && len(keys) > 1 {
		a.log.Warn("the interface of a container stays, for others name it", "interface", keys[0].Name, "error", err)
		_, err = a.transactLocked(request{Request: state.Request{Owner: state.OwnerCNI, Deletes: keys[:1]}})
	}
	return err
}

// discard removes a device that a killed daemon has left.
func (a *Agent) discard(name, netns string) {
	device, _ := state.TapNames(name, nil)
	if err := a.ports.Discard(device, netns); err != nil {
		a.log.Warn("what is left of a device was not removed", "interface", name, "device", device, "netns", netns, "error", err)
	}
}

// attached tells a container of its device.
func attached(s *ports.Spec) *pb.AttachResponse {
	r := &pb.AttachResponse{VirtualNetwork: s.Network, MacAddress: s.Tap.MAC.String(), Mtu: uint32(s.Tap.MTU)}
	for _, p := range s.Tap.Addresses {
		address := &pb.AttachedAddress{Address: p.String()}
		if gateway := s.Tap.GatewayV4; p.Addr().Is4() && gateway.IsValid() {
			address.Gateway = gateway.String()
		}
		if gateway := s.Tap.GatewayV6; p.Addr().Is6() && gateway.IsValid() {
			address.Gateway = gateway.String()
		}
		r.Addresses = append(r.Addresses, address)
	}
	return r
}

// renewHostPorts follows a change of the addresses that the node has from its uplink.
func (a *Agent) renewHostPorts() {
	if _, err := a.transactLocked(request{Request: state.Request{Owner: state.OwnerCNI, Renew: true}}); err != nil {
		a.log.Error("host ports cannot follow the node's addresses", "error", err)
	}
}
