package agentsync

import (
	"context"
	"fmt"
	"maps"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// resync makes the agent's resources of ours those that should be, by a snapshot
// with its end marker. A snapshot is one transaction, so a single wrong resource
// has it refused whole: then the agent's own resources are the beginning and the
// differences go as deltas, where the wrong one can be set aside.
func (x *session) resync(ctx context.Context) error {
	content, empty, latency := x.content()
	nack, err := x.snapshot(ctx, content, empty)
	if err == nil && nack != nil {
		x.log.Error("the agent refused the snapshot; sending what differs instead", "reason", nack.GetReason(), "violations", len(nack.GetViolations()))
		err = x.adopt(ctx)
	}
	if err != nil {
		x.putBack(latency)
		return err
	}
	x.observe(latency)
	x.metrics.resyncs.Inc()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.status.Synced, x.status.Ready = true, true
	return nil
}

// content returns what a snapshot holds: all there should be, and of what was
// refused the version that the agent has. It notes that nothing is dirty. empty
// says that the cluster holds nothing of ours, and that this is meant; latency is
// when the changes in it were triggered.
func (x *session) content() (list []*pb.Resource, empty bool, latency []time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	clear(x.have)
	maps.Copy(x.have, x.desired)
	for k, r := range x.refused {
		if x.desired[k] != r.want {
			delete(x.refused, k) // it has changed
		} else if delete(x.have, k); r.former != nil {
			x.have[k] = r.former
		}
	}
	clear(x.dirty)
	for _, k := range sortedKeys(x.have) {
		list = append(list, x.have[k])
	}
	latency, x.triggers = x.triggers, nil
	return list, x.full && len(x.desired) == 0, latency
}

// snapshot sends resources in chunks of bounded size.
func (x *session) snapshot(ctx context.Context, list []*pb.Resource, allowEmpty bool) (*pb.SyncNack, error) {
	if allowEmpty {
		x.log.Warn("the cluster holds nothing for this node; what the agent has of ours is removed")
	}
	return x.transact(ctx, kindSnapshot, len(list), func(sequence uint64) error {
		if err := x.send(&pb.SyncRequest{Message: &pb.SyncRequest_SnapshotBegin{SnapshotBegin: &pb.SyncSnapshotBegin{AllowEmpty: allowEmpty}}}); err != nil {
			return err
		}
		for len(list) > 0 {
			n := chunk(list)
			if err := x.send(&pb.SyncRequest{Message: &pb.SyncRequest_SnapshotChunk{SnapshotChunk: &pb.SyncSnapshotChunk{Resources: list[:n]}}}); err != nil {
				return err
			}
			list = list[n:]
		}
		return x.send(&pb.SyncRequest{Message: &pb.SyncRequest_SnapshotEnd{SnapshotEnd: &pb.SyncSnapshotEnd{Sequence: sequence}}})
	})
}

// chunk returns how many of the next resources go into one message: at least one.
func chunk(list []*pb.Resource) int {
	size := 0
	for i, r := range list {
		if size += proto.Size(r); i == chunkResources || i > 0 && size > chunkBytes {
			return i
		}
	}
	return len(list)
}

// adopt takes the agent's resources of ours as they are, which the agent does not
// refuse, and sends what differs as a delta.
func (x *session) adopt(ctx context.Context) error {
	all, _, err := x.client.List(ctx, &pb.ListRequest{})
	if err != nil {
		return err
	}
	clear(x.have)
	var ours []*pb.Resource
	for _, r := range all {
		if r.GetOwner() == x.options.ControllerID {
			r.Owner, r.Generation = "", 0 // so that it compares with what should be
			ours = append(ours, r)
			x.have[KeyOf(r)] = r
		}
	}
	nack, err := x.snapshot(ctx, ours, false)
	if err != nil {
		return err
	}
	if nack != nil {
		return fmt.Errorf("the agent refuses its own resources: %s", nack.GetReason())
	}
	x.mu.Lock()
	clear(x.refused) // all of it is among what differs
	for k := range x.desired {
		x.dirty[k] = struct{}{}
	}
	for k := range x.have {
		x.dirty[k] = struct{}{}
	}
	x.mu.Unlock()
	work, latency := x.next()
	x.putBack(latency)
	return x.apply(ctx, work)
}
