package agentsync_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/vrouter-go/vrouter/controller/agentsync"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

func key(kind, name string) *pb.ResourceKey { return &pb.ResourceKey{Kind: kind, Name: name} }

// TestStep holds that the agent follows: nothing before the first full change, then
// a snapshot, then deltas, and that what is unchanged makes no generation.
func TestStep(t *testing.T) {
	n := newNode(t)
	c := n.controller(n.socket())
	c.Set(agentsync.Change{Upserts: resources(t, world[0])})
	if st := c.Status(); st.Connected || len(n.holds()) != 0 {
		t.Errorf("sent before the cluster was known: %+v", st)
	}
	want := resources(t, world...)
	c.Set(full(want...))
	st := c.settle(t)
	if err := equal(n.holds(), want); err != nil {
		t.Error(err)
	}
	if !st.Ready || st.Node != "test" || st.Generation != 1 || st.Desired != len(world) || st.Broken != "" || len(st.Refused) != 0 {
		t.Errorf("status %+v", st)
	}

	web := proto.CloneOf(want[4])
	web.GetFloatingIp().VirtualMachineInterfaces = []string{"web-1"}
	want[4] = web // and an interface goes that the floating IP named until now
	c.Set(agentsync.Change{Upserts: []*pb.Resource{web}, Deletes: []*pb.ResourceKey{key("VirtualMachineInterface", "web-2")}})
	want = slices.Delete(want, 3, 4)
	c.settle(t)
	if err := equal(n.holds(), want); err != nil {
		t.Error(err)
	}
	if got := n.generation(); got != 2 {
		t.Errorf("generation %d, want 2: one transaction for both", got)
	}
	c.Set(full(resources(t, world...)[:0]...)) // and back before it can be sent, or after
	c.Set(full(clone(want)...))
	c.settle(t)
	if err := equal(n.holds(), want); err != nil {
		t.Error(err)
	}
	before := n.generation()
	c.Set(full(clone(want)...))
	c.Set(agentsync.Change{Upserts: clone(want), Deletes: []*pb.ResourceKey{key("Route", "no-such")}})
	c.settle(t)
	if got := n.generation(); got != before {
		t.Errorf("generation %d after what is no change, want %d", got, before)
	}
}

func clone(list []*pb.Resource) (copies []*pb.Resource) {
	for _, r := range list {
		copies = append(copies, proto.CloneOf(r))
	}
	return copies
}

// TestEmpty holds that an empty cluster sweeps what the agent has of ours, and
// nothing of others.
func TestEmpty(t *testing.T) {
	n := newNode(t)
	if _, err := n.client.Apply(t.Context(), &pb.ApplyRequest{Upserts: resources(t, `{"name":"by-hand","virtualNetwork":{}}`)}); err != nil {
		t.Fatal(err)
	}
	c := n.controller(n.socket())
	c.Set(full(resources(t, world...)...))
	c.settle(t)
	c.stop()
	again := n.controller(n.socket())
	again.Set(full())
	again.settle(t)
	if err := equal(n.holds(), resources(t, `{"name":"by-hand","virtualNetwork":{}}`)); err != nil {
		t.Error(err)
	}
}

// bad is the world's floating IP with a port that the agent refuses, and a policy
// that is right.
func bad(t *testing.T) (list []*pb.Resource) {
	list = resources(t, world...)
	list[4].GetFloatingIp().GetFloatingIpPortMappings().PortMappings[0].DstPort = 70_000
	return list
}

// TestRefusedInSnapshot holds that one wrong resource holds up no other, whether
// the agent has a version of before or not, and is taken when it is right.
func TestRefusedInSnapshot(t *testing.T) {
	for _, former := range []bool{false, true} {
		n := newNode(t)
		good := resources(t, world...)
		if former {
			c := n.controller(n.socket())
			c.Set(full(good...))
			c.settle(t)
			c.stop()
		}
		c := n.controller(n.socket())
		c.Set(full(bad(t)...))
		st := c.settle(t)
		want := slices.Delete(slices.Clone(good), 4, 5)
		if former {
			want = good
		}
		if err := equal(n.holds(), want); err != nil {
			t.Errorf("former %v: %v", former, err)
		}
		if len(st.Refused) != 1 || st.Refused[0].Key != (agentsync.Key{Kind: "FloatingIP", Name: "web"}) || st.Refused[0].Kept != former ||
			!strings.Contains(st.Refused[0].Field, "dstPort") || st.Refused[0].Reason == "" {
			t.Errorf("former %v: refused %+v", former, st.Refused)
		}
		c.Set(agentsync.Change{Upserts: good[4:5]})
		if st := c.settle(t); len(st.Refused) != 0 {
			t.Errorf("former %v: still refused %+v", former, st.Refused)
		}
		if err := equal(n.holds(), good); err != nil {
			t.Errorf("former %v: %v", former, err)
		}
	}
}

// TestRefusedInDelta holds that of a refused delta the right part goes in, also
// what follows, and that what hangs on the wrong resource comes with it when it is
// right. A break in between changes nothing of it.
func TestRefusedInDelta(t *testing.T) {
	n := newNode(t)
	w := newWire(t, n.socket())
	c := n.controller(w.socket)
	good := resources(t, world...)
	c.Set(full(good...))
	c.settle(t)

	shared := resource(t, `{"name":"shared","instanceIp":{"address":"10.96.0.300","virtualNetwork":"services"}}`)
	onIt := resource(t, `{"name":"on-it","floatingIp":{"parent":"shared","virtualMachineInterfaces":["web-1"]}}`)
	other := resource(t, `{"name":"other","virtualNetwork":{}}`)
	c.Set(agentsync.Change{Upserts: []*pb.Resource{shared, onIt, other, bad(t)[4]}})
	st := c.settle(t)
	if err := equal(n.holds(), append(slices.Clone(good), other)); err != nil {
		t.Error(err)
	}
	if len(st.Refused) != 3 {
		t.Errorf("refused %+v, want three", st.Refused)
	}
	w.cut()
	eventually(t, "the break is noticed", func() bool { return !c.Status().Connected || c.Status().Since.After(st.Since) })
	if st := c.settle(t); len(st.Refused) != 3 || !slices.ContainsFunc(st.Refused, func(r agentsync.Refusal) bool { return r.Key.Name == "web" && r.Kept }) {
		t.Errorf("refused after a break %+v, want three, web kept", st.Refused)
	}
	if err := equal(n.holds(), append(slices.Clone(good), other)); err != nil {
		t.Errorf("after a break: %v", err)
	}
	right := resource(t, `{"name":"shared","instanceIp":{"address":"10.96.0.30","virtualNetwork":"services"}}`)
	c.Set(agentsync.Change{Upserts: []*pb.Resource{right}})
	if st := c.settle(t); len(st.Refused) != 1 {
		t.Errorf("refused %+v, want the floating IP alone", st.Refused)
	}
	if err := equal(n.holds(), append(slices.Clone(good), other, right, onIt)); err != nil {
		t.Error(err)
	}
}

// TestRefusedPolicy holds that no interface comes to be without a policy that may select
// it: while the agent refuses one that it has not had before, new interfaces of its
// namespace wait, and those of others do not.
func TestRefusedPolicy(t *testing.T) {
	n := newNode(t)
	c := n.controller(n.socket())
	good := resources(t, world...)
	c.Set(full(good...))
	c.settle(t)

	wrong := resource(t, `{"name":"shop:deny","securityPolicy":{"namespace":"shop","ingress":[{"peers":[{"addressSet":"nobody"}]}]}}`)
	pod := resource(t, `{"name":"shop:new","virtualMachineInterface":{"virtualNetwork":"pods","namespace":"shop","attachment":{"uid":"u1"}}}`)
	other := resource(t, `{"name":"blog:new","virtualMachineInterface":{"virtualNetwork":"pods","namespace":"blog","attachment":{"uid":"u2"}}}`)
	c.Set(agentsync.Change{Upserts: []*pb.Resource{pod, other, wrong}})
	st := c.settle(t)
	if err := equal(n.holds(), append(slices.Clone(good), other)); err != nil {
		t.Error(err)
	}
	if len(st.Refused) != 2 || !slices.ContainsFunc(st.Refused, func(r agentsync.Refusal) bool {
		return r.Key.Name == "shop:new" && strings.Contains(r.Reason, "shop:deny")
	}) {
		t.Errorf("refused %+v, want the policy, and the interface that waits for it", st.Refused)
	}
	late := resource(t, `{"name":"shop:late","virtualMachineInterface":{"virtualNetwork":"pods","namespace":"shop","attachment":{"uid":"u3"}}}`)
	c.Set(agentsync.Change{Upserts: []*pb.Resource{late}})
	if c.settle(t); n.holds()[agentsync.Key{Kind: "VirtualMachineInterface", Name: "shop:late"}] != nil {
		t.Error("an interface that came later did not wait")
	}

	nobody := resource(t, `{"name":"nobody","addressSet":{}}`)
	c.Set(agentsync.Change{Upserts: []*pb.Resource{nobody}})
	eventually(t, "everything is there", func() bool {
		return equal(n.holds(), append(slices.Clone(good), other, nobody, wrong, pod, late)) == nil
	})
}

// TestRefusedWithoutAName holds that a deletion which the agent refuses because of
// somebody else's resource is found among others, and comes to pass when that one
// is gone, without any change of ours.
func TestRefusedWithoutAName(t *testing.T) {
	n := newNode(t)
	c := n.controller(n.socket())
	good := resources(t, world...)
	c.Set(full(good...))
	c.settle(t)
	theirs := resource(t, `{"name":"theirs","floatingIp":{"address":"10.96.0.77","virtualNetwork":"services","virtualMachineInterfaces":["web-1"]}}`)
	if _, err := n.client.Apply(t.Context(), &pb.ApplyRequest{Upserts: []*pb.Resource{theirs}}); err != nil {
		t.Fatal(err)
	}
	more := resources(t, `{"name":"a","virtualNetwork":{}}`, `{"name":"b","virtualNetwork":{}}`, `{"name":"c","virtualNetwork":{}}`)
	c.Set(agentsync.Change{Upserts: more, Deletes: []*pb.ResourceKey{key("VirtualMachineInterface", "web-1"), key("NetworkPolicy", "use")}})
	st := c.settle(t)
	want := append(slices.Delete(slices.Clone(good), 5, 6), more...)
	if err := equal(n.holds(), append(want, theirs)); err != nil {
		t.Error(err)
	}
	if len(st.Refused) != 1 || st.Refused[0].Key.Name != "web-1" || !st.Refused[0].Kept || !strings.Contains(st.Refused[0].Reason, "theirs") {
		t.Errorf("refused %+v, want the deletion of web-1", st.Refused)
	}
	if _, err := n.client.Apply(t.Context(), &pb.ApplyRequest{Deletes: []*pb.ResourceKey{key("FloatingIP", "theirs")}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "web-1 goes", func() bool { return equal(n.holds(), slices.Delete(slices.Clone(want), 2, 3)) == nil })
	eventually(t, "nothing is refused", func() bool { return len(c.Status().Refused) == 0 })
}

// TestFenced holds that an older leader stays away and says so.
func TestFenced(t *testing.T) {
	n := newNode(t)
	leader, err := n.client.Sync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := leader.Send(&pb.SyncRequest{Message: &pb.SyncRequest_Hello{Hello: &pb.SyncHello{ControllerId: agentsync.DefaultControllerID, ElectionId: 1}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := leader.Recv(); err != nil {
		t.Fatal(err)
	}
	c := n.controller(n.socket())
	c.Set(full(resources(t, world...)...))
	eventually(t, "it says so", func() bool { return strings.Contains(c.Status().Broken, "electionId") })
	if len(n.holds()) != 0 {
		t.Error("it wrote all the same")
	}
}

// TestLatency holds that programming latency counts from the trigger to when the
// change is programmed, each change once, also over a break.
func TestLatency(t *testing.T) {
	n := newNode(t)
	w := newWire(t, n.socket())
	c := n.controller(w.socket)
	c.Set(full(resources(t, world...)...))
	c.settle(t)
	change := func(members ...string) {
		r := resource(t, world[4])
		r.GetFloatingIp().VirtualMachineInterfaces = members
		c.Set(agentsync.Change{Upserts: []*pb.Resource{r}, Triggered: time.Now().Add(-time.Second)})
	}
	change("web-1")
	change("web-1", "web-2")
	c.settle(t)
	w.cutAfter(20)
	change("web-2")
	c.settle(t)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, f := range families {
		if f.GetName() != "vrkube_network_programming_duration_seconds" {
			continue
		}
		found = true
		h := f.GetMetric()[0].GetHistogram()
		if h.GetSampleCount() != 3 || h.GetSampleSum() < 3 || h.GetSampleSum() > 30 {
			t.Errorf("%d changes took %.3f s, want 3 of a second and a little", h.GetSampleCount(), h.GetSampleSum())
		}
	}
	if !found {
		t.Error("no such metric")
	}
}
