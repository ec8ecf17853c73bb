package state

import (
	"slices"
	"testing"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// TestKinds holds that the state has a place for every kind that the API knows.
func TestKinds(t *testing.T) {
	specs := (&pb.Resource{}).ProtoReflect().Descriptor().Oneofs().ByName("spec").Fields()
	for i := range specs.Len() {
		r := &pb.Resource{Name: "x"}
		m := r.ProtoReflect()
		m.Set(specs.Get(i), m.NewField(specs.Get(i)))
		want := string(specs.Get(i).Message().Name())
		if k := KeyOf(r); k.Kind != want || !slices.Contains(Kinds[:], want) {
			t.Errorf("%s: its key is %v, and the kinds are %v", want, k, Kinds)
		}
	}
	if specs.Len() != len(Kinds) {
		t.Errorf("the API has %d kinds and the state %d", specs.Len(), len(Kinds))
	}
}
