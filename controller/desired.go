package controller

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Change is what the agent's desired state becomes, as one transaction.
type Change struct {
	// Full says that Upserts are everything: what is not among them goes.
	Full bool
	// Upserts are the resources that are new or different, in the order of their keys.
	// They never change, and may be kept.
	Upserts []*pb.Resource
	// Deletes are the resources that go. Empty with Full.
	Deletes []*pb.ResourceKey
	// Triggered is when the oldest change of endpoints among these happened that says so.
	// Zero: none does.
	Triggered time.Time
}

// key names a resource.
type key struct{ kind, name string }

// keyOf returns the key of a resource. Its kind is the name of the message in its spec.
func keyOf(r *pb.Resource) key {
	m := r.ProtoReflect()
	fd := m.WhichOneof(m.Descriptor().Oneofs().ByName("spec"))
	if fd == nil {
		return key{name: r.GetName()}
	}
	return key{kind: string(fd.Message().Name()), name: r.GetName()}
}

// part is what resources are compiled from: a service, a pod, the networks.
type part struct{ kind, name string }

// desired is the state that the agent shall have, by the parts that it is compiled from,
// and how it differs from what the agent was told last.
type desired struct {
	resources map[key]owned
	parts     map[part][]key
	changed   map[key]bool // true: there was such a resource before
}

type owned struct {
	resource *pb.Resource
	part     part
}

func newDesired() *desired {
	return &desired{resources: map[key]owned{}, parts: map[part][]key{}, changed: map[key]bool{}}
}

// replace makes list the resources of a part. Those that are as they were are kept, and
// nobody is told.
func (d *desired) replace(p part, list []*pb.Resource) {
	old := d.parts[p]
	keys := make([]key, len(list))
	for i, r := range list {
		k := keyOf(r)
		keys[i] = k
		have, ok := d.resources[k]
		if ok && proto.Equal(have.resource, r) {
			d.resources[k] = owned{have.resource, p}
			continue
		}
		d.note(k, ok)
		d.resources[k] = owned{r, p}
	}
	for _, k := range old {
		if have, ok := d.resources[k]; ok && have.part == p && !slices.Contains(keys, k) {
			d.note(k, true)
			delete(d.resources, k)
		}
	}
	if d.parts[p] = keys; len(keys) == 0 {
		delete(d.parts, p)
	}
}

func (d *desired) note(k key, before bool) {
	if _, known := d.changed[k]; !known {
		d.changed[k] = before
	}
}

// take returns what has changed since the last call.
func (d *desired) take() Change {
	c := Change{}
	for _, k := range sortedKeys(d.changed) {
		if have, ok := d.resources[k]; ok {
			c.Upserts = append(c.Upserts, have.resource)
		} else if d.changed[k] {
			c.Deletes = append(c.Deletes, &pb.ResourceKey{Kind: k.kind, Name: k.name})
		}
	}
	clear(d.changed)
	return c
}
