package agent_test

import (
	"io"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// controller is a Sync stream in a test.
type controller struct {
	t      testing.TB
	stream grpc.BidiStreamingClient[pb.SyncRequest, pb.SyncResponse]
}

func (r *rig) controller(id string, election uint64) *controller {
	r.t.Helper()
	stream, err := r.api.Sync(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	c := &controller{r.t, stream}
	c.send(&pb.SyncRequest{Message: &pb.SyncRequest_Hello{Hello: &pb.SyncHello{ControllerId: id, ElectionId: election}}})
	return c
}

func (c *controller) send(m *pb.SyncRequest) {
	c.t.Helper()
	if err := c.stream.Send(m); err != nil {
		c.t.Fatal(err)
	}
}

func (c *controller) recv() *pb.SyncResponse {
	c.t.Helper()
	m, err := c.stream.Recv()
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

func (c *controller) begin(allowEmpty bool) {
	c.send(&pb.SyncRequest{Message: &pb.SyncRequest_SnapshotBegin{SnapshotBegin: &pb.SyncSnapshotBegin{AllowEmpty: allowEmpty}}})
}

func (c *controller) chunk(texts ...string) {
	c.send(&pb.SyncRequest{Message: &pb.SyncRequest_SnapshotChunk{SnapshotChunk: &pb.SyncSnapshotChunk{Resources: resources(c.t, texts...)}}})
}

func (c *controller) end(sequence uint64) {
	c.send(&pb.SyncRequest{Message: &pb.SyncRequest_SnapshotEnd{SnapshotEnd: &pb.SyncSnapshotEnd{Sequence: sequence}}})
}

// acked expects ACCEPTED, then PROGRAMMED, and returns the latter.
func (c *controller) acked(sequence uint64) *pb.SyncAck {
	c.t.Helper()
	var last *pb.SyncAck
	for _, level := range []pb.Generation_Level{pb.Generation_ACCEPTED, pb.Generation_PROGRAMMED} {
		m := c.recv()
		if last = m.GetAck(); last.GetSequence() != sequence || last.GetGeneration().GetLevel() != level {
			c.t.Fatalf("%v, want an ack of %d at %v", m, sequence, level)
		}
	}
	return last
}

func (c *controller) nacked(sequence uint64, says string) {
	c.t.Helper()
	if n := c.recv().GetNack(); n.GetSequence() != sequence || !strings.Contains(n.GetReason(), says) {
		c.t.Fatalf("%v, want a nack of %d saying %q", n, sequence, says)
	}
}

// TestSyncSweepsAfterTheEnd holds that what a snapshot leaves out stays until its
// end marker, and that only the controller's own resources go then.
func TestSyncSweepsAfterTheEnd(t *testing.T) {
	r := start(t, "")
	r.apply(&pb.ApplyRequest{Upserts: resources(t, `{"name":"by-hand","virtualNetwork":{}}`)})
	c := r.controller("kube", 1)
	if w := c.recv().GetWelcome(); w.GetNode() != "test" || w.GetOwnedResources() != 0 {
		t.Fatalf("welcome %v", w)
	}
	c.begin(false)
	c.chunk(world[:3]...)
	c.chunk(world[3:]...)
	c.end(1)
	c.acked(1)

	c.begin(false)
	c.chunk(world[0])
	if got := r.list(); !slices.Contains(got, "web") {
		t.Fatalf("swept before the end of the snapshot: %v", got)
	}
	c.end(2)
	if ack := c.acked(2); ack.GetSwept() != uint64(len(world)-1) {
		t.Errorf("swept %d, want %d", ack.GetSwept(), len(world)-1)
	}
	if got := r.list(); !slices.Equal(got, []string{"by-hand", "pods"}) {
		t.Errorf("left %v, want by-hand and pods", got)
	}

	c.send(&pb.SyncRequest{Message: &pb.SyncRequest_Delta{Delta: &pb.SyncDelta{Sequence: 3, Upserts: resources(t, world[1]), Deletes: []*pb.ResourceKey{{Kind: "VirtualNetwork", Name: "pods"}}}}})
	c.acked(3)
	if got := r.list(); !slices.Equal(got, []string{"by-hand", "services"}) {
		t.Errorf("left %v, want by-hand and services", got)
	}
	st := r.status().GetControllers()
	if len(st) != 1 || st[0].GetAcknowledgedSequence() != 3 || st[0].GetResources() != 1 || st[0].GetConnectedSince() == nil {
		t.Errorf("controllers %v", st)
	}
}

func TestSyncRefuses(t *testing.T) {
	r := start(t, "")
	c := r.controller("kube", 1)
	c.recv()
	delta := func(sequence uint64, d *pb.SyncDelta) {
		d.Sequence = sequence
		c.send(&pb.SyncRequest{Message: &pb.SyncRequest_Delta{Delta: d}})
	}
	delta(1, &pb.SyncDelta{Upserts: resources(t, world[0])})
	c.nacked(1, "after a snapshot")

	c.begin(false)
	c.chunk(world...)
	c.end(2)
	c.acked(2)
	digest := r.agent.Digest()

	c.begin(false)
	c.end(3)
	c.nacked(3, "allow_empty")
	c.begin(false)
	c.chunk(`{"name":"web-1","virtualMachineInterface":{"virtualNetwork":"nowhere"}}`)
	c.end(4)
	c.nacked(4, "nowhere")
	delta(2, &pb.SyncDelta{Upserts: resources(t, world[0])})
	c.nacked(2, "does not follow")
	if r.agent.Digest() != digest {
		t.Error("a refused message changed the state")
	}
	r.apply(&pb.ApplyRequest{Upserts: resources(t, `{"name":"by-hand","virtualNetwork":{}}`)})
	delta(5, &pb.SyncDelta{Deletes: []*pb.ResourceKey{{Kind: "VirtualNetwork", Name: "by-hand"}}})
	c.nacked(5, "belongs to operator")

	c.begin(true)
	c.end(6)
	if ack := c.acked(6); ack.GetSwept() != uint64(len(world)) {
		t.Errorf("swept %d, want %d", ack.GetSwept(), len(world))
	}
}

// TestSyncFences holds that of two leaders only the newer one changes anything.
func TestSyncFences(t *testing.T) {
	r := start(t, "")
	old := r.controller("kube", 5)
	old.recv()
	older := r.controller("kube", 4)
	if _, err := older.stream.Recv(); status.Code(err) != codes.FailedPrecondition {
		t.Fatalf("an older leader: %v, want FailedPrecondition", err)
	}
	leader := r.controller("kube", 6)
	leader.recv()
	if _, err := old.stream.Recv(); status.Code(err) != codes.FailedPrecondition {
		t.Fatalf("the fenced leader: %v, want FailedPrecondition", err)
	}
	leader.begin(false)
	leader.chunk(world...)
	leader.end(1)
	leader.acked(1)
}

// TestHeadless holds that forwarding state stays when the controller leaves, and
// that status says since when nobody leads.
func TestHeadless(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir)
	c := r.controller("kube", 1)
	c.recv()
	c.begin(false)
	c.chunk(world...)
	c.end(1)
	c.acked(1)
	if r.status().GetHeadlessSince() != nil {
		t.Error("headless with a controller")
	}
	if err := c.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.stream.Recv(); err != io.EOF {
		t.Fatal(err)
	}
	eventually(t, "headless", func() bool { return r.status().GetHeadlessSince() != nil })
	if got := r.list(); len(got) != len(world) {
		t.Errorf("left %v", got)
	}
	r.stop()

	again := start(t, dir) // and after a restart, with the older leader still fenced
	if again.status().GetHeadlessSince() == nil {
		t.Error("not headless after the restart")
	}
	older := again.controller("kube", 0)
	if _, err := older.stream.Recv(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("an older leader after the restart: %v, want FailedPrecondition", err)
	}
}
