package agent_test

import (
	"testing"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// TestRecordsReachNoWorker holds that a load balancer alone is kept and shown, but
// makes no snapshot: no live session is decided again for it.
func TestRecordsReachNoWorker(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir)
	r.apply(&pb.ApplyRequest{Upserts: resources(t, world...)})
	before := r.forwarder.Snapshot()
	const record = `{"name":"shop:web","loadBalancer":{"service":{"namespace":"shop","name":"web"},"listeners":[{"port":80}],"floatingIps":["web"]}}`
	answer := r.apply(&pb.ApplyRequest{Upserts: resources(t, record)})
	if g := answer.GetGeneration(); g.GetNumber() != 2 || g.GetLevel() != pb.Generation_PROGRAMMED {
		t.Errorf("generation %v, want 2 programmed", g)
	}
	if r.forwarder.Snapshot() != before {
		t.Error("a record made a new snapshot")
	}
	if g := r.status().GetGeneration(); g.GetNumber() != 2 || g.GetLevel() != pb.Generation_PROGRAMMED {
		t.Errorf("status says %v, want 2 programmed", g)
	}
	r.apply(&pb.ApplyRequest{Upserts: resources(t, `{"name":"more","virtualNetwork":{}}`)})
	if s := r.forwarder.Snapshot(); s == before || s.Generation != 3 {
		t.Errorf("a network made no snapshot of generation 3 but %d", s.Generation)
	}
	r.stop()
	again := start(t, dir)
	if g := again.status().GetGeneration(); g.GetNumber() != 3 || g.GetLevel() != pb.Generation_PROGRAMMED {
		t.Errorf("after a restart status says %v", g)
	}
	names := again.list()
	for _, name := range []string{"shop:web", "web"} {
		found := false
		for _, n := range names {
			found = found || n == name
		}
		if !found {
			t.Errorf("%s is gone after a restart: %v", name, names)
		}
	}
}
