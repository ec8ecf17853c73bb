package agent

import (
	"context"
	"errors"
	"fmt"

	"buf.build/go/protovalidate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/vrouter-go/vrouter/agent/state"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Service answers the gRPC API from an agent. It is not the store: each call is
// one question or one transaction.
type Service struct {
	pb.UnimplementedAgentServiceServer
	agent *Agent
}

// NewService returns the API of an agent.
func NewService(a *Agent) *Service { return &Service{agent: a} }

// Apply implements pb.AgentServiceServer.
func (s *Service) Apply(ctx context.Context, req *pb.ApplyRequest) (*pb.ApplyResponse, error) {
	// The resources themselves are checked by the transaction, which knows them by
	// kind and name.
	if err := check(&pb.ApplyRequest{Deletes: req.GetDeletes(), Prune: req.GetPrune(), RequestId: req.GetRequestId()}); err != nil {
		return nil, err
	}
	answer, err := s.agent.Apply(ctx, req)
	return answer, rpcError(err)
}

// listChunk is how many resources or flows one message of a stream holds.
const listChunk = 256

// List implements pb.AgentServiceServer.
func (s *Service) List(req *pb.ListRequest, stream grpc.ServerStreamingServer[pb.ListResponse]) error {
	if err := check(req); err != nil {
		return err
	}
	generation, list := s.agent.list(selection{req.GetKinds(), req.GetNames()})
	for {
		n := min(len(list), listChunk)
		if err := stream.Send(&pb.ListResponse{Generation: generation, Resources: list[:n]}); err != nil {
			return err
		}
		if list = list[n:]; len(list) == 0 {
			return nil
		}
	}
}

// Watch implements pb.AgentServiceServer.
func (s *Service) Watch(req *pb.WatchRequest, stream grpc.ServerStreamingServer[pb.WatchResponse]) error {
	if err := check(req); err != nil {
		return err
	}
	sel := selection{req.GetKinds(), req.GetNames()}
	generation, list, w := s.agent.watch(sel)
	defer s.agent.unwatch(w)
	for _, r := range list {
		if err := stream.Send(&pb.WatchResponse{Generation: generation, Event: &pb.WatchResponse_Upserted{Upserted: r}}); err != nil {
			return err
		}
	}
	if err := stream.Send(&pb.WatchResponse{Generation: generation, Event: &pb.WatchResponse_Synced{Synced: true}}); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case tx, ok := <-w.events:
			if !ok {
				return status.Error(codes.ResourceExhausted, "the watcher fell too far behind, or the daemon ends; watch again")
			}
			if err := sendChanges(stream, sel, tx); err != nil {
				return err
			}
		}
	}
}

func sendChanges(stream grpc.ServerStreamingServer[pb.WatchResponse], sel selection, tx transaction) error {
	for _, ch := range tx.changes {
		if !sel.has(ch.Key) {
			continue
		}
		event := &pb.WatchResponse{Generation: tx.generation}
		if ch.New != nil {
			event.Event = &pb.WatchResponse_Upserted{Upserted: ch.New}
		} else {
			event.Event = &pb.WatchResponse_Deleted{Deleted: ch.Key.Proto()}
		}
		if err := stream.Send(event); err != nil {
			return err
		}
	}
	return nil
}

// GetStatus implements pb.AgentServiceServer.
func (s *Service) GetStatus(context.Context, *pb.GetStatusRequest) (*pb.GetStatusResponse, error) {
	return s.agent.Status(), nil
}

// check runs the rules that a message carries.
func check(m proto.Message) error {
	err := protovalidate.Validate(m)
	var invalid *protovalidate.ValidationError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &invalid):
		var list []state.Violation
		for _, v := range invalid.Violations {
			field := state.JSONPath(protovalidate.FieldPathString(v.Proto.GetField()))
			list = append(list, state.Violation{Upsert: -1, Request: field, Description: state.Describe(v)})
		}
		return rpcError(&state.Error{Violations: list})
	}
	return status.Error(codes.Internal, err.Error())
}

// maxViolations bounds the details of an error, which travel in a header of
// limited size.
const maxViolations = 24

// rpcError is the one place where an error becomes a gRPC status.
func rpcError(err error) error {
	var invalid *state.Error
	var generation errGeneration
	switch {
	case err == nil:
		return nil
	case errors.As(err, &invalid):
		return invalidArgument(invalid)
	case errors.As(err, &generation), errors.Is(err, errFenced), errors.Is(err, errEmpty):
		return status.Error(codes.FailedPrecondition, err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Internal, err.Error())
}

// invalidArgument says every wrong field twice: as google.rpc.BadRequest, by its
// path in the request, and as FieldViolation, by its resource.
func invalidArgument(e *state.Error) error {
	bad := &errdetails.BadRequest{}
	st := status.New(codes.InvalidArgument, e.Error())
	list := e.Violations
	if len(list) > maxViolations {
		st = status.New(codes.InvalidArgument, fmt.Sprintf("%v; the first %d are listed", e, maxViolations))
		list = list[:maxViolations]
	}
	for _, v := range list {
		bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{
			Field: v.Request, Description: v.Description,
		})
	}
	with, err := st.WithDetails(bad)
	if err != nil {
		return st.Err()
	}
	for _, v := range list {
		if next, err := with.WithDetails(v.Proto()); err == nil {
			with = next
		}
	}
	return with.Err()
}
