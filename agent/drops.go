package agent

import (
	"cmp"
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/nat"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// dropKey is one counter.
type dropKey struct {
	port   uint16
	reason forwarder.DropReason
}

// dropCounts reads the counters that are not zero.
func (a *Agent) dropCounts() map[dropKey]uint64 {
	counts := map[dropKey]uint64{}
	fwd := a.options.Forwarder
	for index := range fwd.Snapshot().Interfaces {
		c := fwd.PortCounters(uint16(index))
		for reason, n := range c.Drops {
			if n > 0 {
				counts[dropKey{uint16(index), forwarder.DropReason(reason)}] = n
			}
		}
	}
	return counts
}

// dropCounter describes a counter.
func dropCounter(snap *forwarder.Snapshot, k dropKey, packets, increase uint64) *pb.DropCounter {
	d := k.reason.Describe()
	return &pb.DropCounter{
		Interface: portName(snap, k.port), Reason: d.Name, Packets: packets, Increase: increase, Doc: d.Cause, Remedy: d.Remedy,
	}
}

// selectDrops lists the counters of an interface and a reason, most first; empty
// selects all.
func (a *Agent) selectDrops(counts, before map[dropKey]uint64, interfaceName, reason string) []*pb.DropCounter {
	snap := a.options.Forwarder.Snapshot()
	var list []*pb.DropCounter
	for k, n := range counts {
		d := dropCounter(snap, k, n, n-before[k])
		if (interfaceName == "" || d.GetInterface() == interfaceName) && (reason == "" || d.GetReason() == reason) {
			list = append(list, d)
		}
	}
	slices.SortFunc(list, func(x, y *pb.DropCounter) int {
		return cmp.Or(cmp.Compare(y.GetPackets(), x.GetPackets()), cmp.Compare(x.GetInterface(), y.GetInterface()), cmp.Compare(x.GetReason(), y.GetReason()))
	})
	return list
}

// PortUsage returns how far the ports of source translation are used.
func (a *Agent) PortUsage() []nat.Usage { return a.options.Forwarder.NAT().Usage() }

// Drops returns the drop counters that are not zero, most packets first.
func (a *Agent) Drops() []*pb.DropCounter {
	counts := a.dropCounts()
	return a.selectDrops(counts, counts, "", "")
}

// ListDrops implements pb.AgentServiceServer.
func (s *Service) ListDrops(_ context.Context, req *pb.ListDropsRequest) (*pb.ListDropsResponse, error) {
	if err := check(req); err != nil {
		return nil, err
	}
	counts := s.agent.dropCounts()
	answer := &pb.ListDropsResponse{
		Since: timestamppb.New(s.agent.started),
		Drops: s.agent.selectDrops(counts, counts, req.GetInterface(), req.GetReason()),
	}
	if !req.GetIncludeZero() {
		return answer, nil
	}
	seen := map[string]bool{}
	for k := range counts {
		seen[k.reason.String()] = true
	}
	for reason := range forwarder.NumDropReasons {
		if name := reason.String(); !seen[name] && (req.GetReason() == "" || req.GetReason() == name) {
			d := reason.Describe()
			answer.Drops = append(answer.Drops, &pb.DropCounter{Reason: d.Name, Doc: d.Cause, Remedy: d.Remedy})
		}
	}
	return answer, nil
}

// WatchDrops implements pb.AgentServiceServer.
func (s *Service) WatchDrops(req *pb.WatchDropsRequest, stream grpc.ServerStreamingServer[pb.WatchDropsResponse]) error {
	if err := check(req); err != nil {
		return err
	}
	interval := time.Second
	if req.GetInterval() != nil {
		interval = req.GetInterval().AsDuration()
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var before map[dropKey]uint64
	for {
		counts := s.agent.dropCounts()
		grown := map[dropKey]uint64{}
		for k, n := range counts {
			if n > before[k] {
				grown[k] = n
			}
		}
		answer := &pb.WatchDropsResponse{
			Time:  timestamppb.Now(),
			Drops: s.agent.selectDrops(grown, before, req.GetInterface(), req.GetReason()),
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
		before = counts
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-tick.C:
		}
	}
}
