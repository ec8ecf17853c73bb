package agent

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/vrouter-go/vrouter/flowtable"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// ListFlows implements pb.AgentServiceServer.
func (s *Service) ListFlows(req *pb.ListFlowsRequest, stream grpc.ServerStreamingServer[pb.ListFlowsResponse]) error {
	if err := check(req); err != nil {
		return err
	}
	var chunk []*pb.Flow
	var err error
	sent, count := false, uint32(0)
	send := func() bool {
		sent = true
		err = stream.Send(&pb.ListFlowsResponse{Flows: chunk})
		chunk = nil
		return err == nil
	}
	s.agent.eachFlow(req.GetFilter(), func(_ flowtable.Ref, f *pb.Flow) bool {
		chunk = append(chunk, f)
		count++
		if len(chunk) == listChunk && !send() {
			return false
		}
		return (req.GetLimit() == 0 || count < req.GetLimit()) && stream.Context().Err() == nil
	})
	if err == nil && (len(chunk) > 0 || !sent) {
		send()
	}
	if err == nil {
		err = stream.Context().Err()
	}
	return err
}

// maxWatchedFlows bounds what one WatchFlows remembers.
const maxWatchedFlows = 65536

// WatchFlows implements pb.AgentServiceServer. It looks at the table once per
// interval; workers are not involved.
func (s *Service) WatchFlows(req *pb.WatchFlowsRequest, stream grpc.ServerStreamingServer[pb.WatchFlowsResponse]) error {
	if err := check(req); err != nil {
		return err
	}
	interval := time.Second
	if req.GetInterval() != nil {
		interval = req.GetInterval().AsDuration()
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	seen := map[uint64]*watchedFlow{}
	event := pb.WatchFlowsResponse_PRESENT
	for round := 1; ; round++ {
		events, lost := s.flowEvents(req.GetFilter(), seen, event, round)
		for _, e := range events {
			e.Lost, lost = lost, 0
			if err := stream.Send(e); err != nil {
				return err
			}
		}
		event = pb.WatchFlowsResponse_STARTED
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-tick.C:
		}
	}
}

type watchedFlow struct {
	flow  *pb.Flow
	born  uint32 // tick
	round int    // when it was last seen
}

// flowEvents compares the table with what was seen before.
func (s *Service) flowEvents(filter *pb.FlowFilter, seen map[uint64]*watchedFlow, started pb.WatchFlowsResponse_Event, round int) (events []*pb.WatchFlowsResponse, lost uint64) {
	fwd := s.agent.options.Forwarder
	s.agent.eachFlow(filter, func(ref flowtable.Ref, f *pb.Flow) bool {
		born := fwd.Flows().Session(ref).Created()
		old := seen[f.GetId()]
		if old != nil && old.born == born {
			old.flow, old.round = f, round
			return true
		}
		if old != nil {
			events = append(events, &pb.WatchFlowsResponse{Event: pb.WatchFlowsResponse_ENDED, Flow: old.flow})
		} else if len(seen) >= maxWatchedFlows {
			lost++
			return true
		}
		seen[f.GetId()] = &watchedFlow{f, born, round}
		events = append(events, &pb.WatchFlowsResponse{Event: started, Flow: f})
		return true
	})
	for id, w := range seen {
		if w.round != round {
			events = append(events, &pb.WatchFlowsResponse{Event: pb.WatchFlowsResponse_ENDED, Flow: w.flow})
			delete(seen, id)
		}
	}
	return events, lost
}

// DeleteFlows implements pb.AgentServiceServer.
func (s *Service) DeleteFlows(_ context.Context, req *pb.DeleteFlowsRequest) (*pb.DeleteFlowsResponse, error) {
	if err := check(req); err != nil {
		return nil, err
	}
	deleted := uint64(0)
	s.agent.eachFlow(req.GetFilter(), func(ref flowtable.Ref, _ *pb.Flow) bool {
		if s.agent.options.Forwarder.EndSession(ref) {
			deleted++
		}
		return true
	})
	return &pb.DeleteFlowsResponse{Deleted: deleted}, nil
}
