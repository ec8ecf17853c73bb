package agent_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

func TestApply(t *testing.T) {
	r := start(t, "")
	answer := r.apply(&pb.ApplyRequest{Upserts: resources(t, world...)})
	if g := answer.GetGeneration(); g.GetNumber() != 1 || g.GetLevel() != pb.Generation_PROGRAMMED {
		t.Errorf("generation %v, want 1 PROGRAMMED", g)
	}
	for _, res := range answer.GetResults() {
		if res.GetOutcome() != pb.ResourceResult_CREATED {
			t.Errorf("%v, want CREATED", res)
		}
	}
	if got, want := r.list(), []string{"pods", "services", "web-1", "web-2", "web", "use"}; !cmp.Equal(got, want) {
		t.Errorf("list %v, want %v", got, want)
	}

	t.Run("the same again changes nothing", func(t *testing.T) {
		again := r.apply(&pb.ApplyRequest{Upserts: resources(t, world...), ExpectedGeneration: 1})
		if again.GetGeneration().GetNumber() != 1 || again.GetResults()[0].GetOutcome() != pb.ResourceResult_UNCHANGED {
			t.Errorf("%v, want generation 1 and UNCHANGED", again)
		}
	})
	t.Run("a dry run changes nothing", func(t *testing.T) {
		digest := r.agent.Digest()
		dry := r.apply(&pb.ApplyRequest{Deletes: []*pb.ResourceKey{{Kind: "FloatingIP", Name: "web"}, {Kind: "Route", Name: "none"}}, DryRun: true})
		if dry.GetResults()[0].GetOutcome() != pb.ResourceResult_DELETED || dry.GetResults()[1].GetOutcome() != pb.ResourceResult_NOT_FOUND {
			t.Errorf("%v, want DELETED and NOT_FOUND", dry.GetResults())
		}
		if r.agent.Digest() != digest {
			t.Error("the state changed")
		}
	})
	t.Run("another generation is refused", func(t *testing.T) {
		_, err := r.api.Apply(t.Context(), &pb.ApplyRequest{ExpectedGeneration: 7})
		if status.Code(err) != codes.FailedPrecondition {
			t.Errorf("%v, want FailedPrecondition", err)
		}
	})
	t.Run("a repeated request is answered again", func(t *testing.T) {
		req := &pb.ApplyRequest{RequestId: "r1", Upserts: resources(t, `{"name":"once","virtualNetwork":{}}`)}
		first := r.apply(req)
		r.apply(&pb.ApplyRequest{Deletes: []*pb.ResourceKey{{Kind: "VirtualNetwork", Name: "once"}}})
		second := r.apply(req)
		if first.GetGeneration().GetNumber() != second.GetGeneration().GetNumber() {
			t.Errorf("the repeat made generation %d, want %d", second.GetGeneration().GetNumber(), first.GetGeneration().GetNumber())
		}
	})
	t.Run("prune removes what is not named", func(t *testing.T) {
		_, err := r.api.Apply(t.Context(), &pb.ApplyRequest{Prune: &pb.Prune{}})
		if status.Code(err) != codes.FailedPrecondition {
			t.Errorf("an empty prune: %v, want FailedPrecondition", err)
		}
		r.apply(&pb.ApplyRequest{Upserts: resources(t, world[0]), Prune: &pb.Prune{Kinds: []string{"FloatingIP", "NetworkPolicy"}}})
		if got, want := r.list(), []string{"pods", "services", "web-1", "web-2"}; !cmp.Equal(got, want) {
			t.Errorf("list %v, want %v", got, want)
		}
		r.apply(&pb.ApplyRequest{Prune: &pb.Prune{AllowEmpty: true}})
		if got := r.list(); len(got) != 0 {
			t.Errorf("list %v, want nothing", got)
		}
	})
}

// TestApplyNamesTheField holds that an answer to a bad field carries its path in
// the request and its place in the resource, and that nothing was applied.
func TestApplyNamesTheField(t *testing.T) {
	r := start(t, "")
	bad := `{"name":"bad","floatingIp":{"address":"10.96.0.11","virtualNetwork":"services","floatingIpPortMappings":{"portMappings":[{"srcPort":0}]}}}`
	_, err := r.api.Apply(t.Context(), &pb.ApplyRequest{Upserts: resources(t, world[0], world[1], world[2], bad, world[3])})
	st := status.Convert(err)
	if st.Code() != codes.InvalidArgument {
		t.Fatalf("%v, want InvalidArgument", err)
	}
	var fields []string
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				fields = append(fields, v.GetField())
			}
		case *pb.FieldViolation:
			fields = append(fields, d.GetResource().GetKind()+"/"+d.GetResource().GetName()+" "+d.GetField())
		}
	}
	want := []string{
		"upserts[3].floatingIp.floatingIpPortMappings.portMappings[0].srcPort",
		"FloatingIP/bad spec.floatingIpPortMappings.portMappings[0].srcPort",
	}
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Error(diff)
	}
	if got := r.list(); len(got) != 0 {
		t.Errorf("applied in part: %v", got)
	}
}

// TestManyViolationsFit holds that an answer about thousands of bad fields still
// reaches the client.
func TestManyViolationsFit(t *testing.T) {
	r := start(t, "")
	req := &pb.ApplyRequest{}
	for range 5000 {
		req.Upserts = append(req.Upserts, resources(t, `{"name":"same","virtualMachineInterface":{"virtualNetwork":"nowhere"}}`)...)
	}
	_, err := r.api.Apply(t.Context(), req)
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "more") {
		t.Errorf("%v, want InvalidArgument that counts the rest", err)
	}
}

func TestWatch(t *testing.T) {
	r := start(t, "")
	r.apply(&pb.ApplyRequest{Upserts: resources(t, world...)})
	stream, err := r.api.Watch(t.Context(), &pb.WatchRequest{Kinds: []string{"VirtualNetwork"}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	next := func() {
		e, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case e.GetUpserted() != nil:
			got = append(got, "+"+e.GetUpserted().GetName())
		case e.GetDeleted() != nil:
			got = append(got, "-"+e.GetDeleted().GetName())
		default:
			got = append(got, "synced")
		}
	}
	for range 3 {
		next()
	}
	r.apply(&pb.ApplyRequest{Upserts: resources(t, `{"name":"new","virtualNetwork":{}}`)})
	r.apply(&pb.ApplyRequest{Deletes: []*pb.ResourceKey{{Kind: "FloatingIP", Name: "web"}}}) // not watched
	r.apply(&pb.ApplyRequest{Deletes: []*pb.ResourceKey{{Kind: "VirtualNetwork", Name: "new"}}})
	next()
	next()
	if want := []string{"+pods", "+services", "synced", "+new", "-new"}; !cmp.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
}
