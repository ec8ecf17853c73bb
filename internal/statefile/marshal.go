package statefile

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/goccy/go-yaml"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"

	vrouterv1 "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Sort orders resources as they are listed and written: by kind (what is referred to first), then by name.
func Sort(resources []*vrouterv1.Resource) {
	order := map[string]int{}
	for i, kind := range Kinds() {
		order[kind] = i
	}
	slices.SortStableFunc(resources, func(a, b *vrouterv1.Resource) int {
		return cmp.Or(cmp.Compare(order[Kind(a)], order[Kind(b)]), cmp.Compare(a.GetName(), b.GetName()))
	})
}

// Marshal writes resources, in the order given, as a state file that Parse reads back to the same resources. Fields come in the
// order of their numbers, map keys sorted; owner and generation are left out.
func Marshal(resources []*vrouterv1.Resource) ([]byte, error) {
	var b bytes.Buffer
	for i, r := range resources {
		if i > 0 {
			b.WriteString("---\n")
		}
		spec, err := specOf(r)
		if err != nil {
			return nil, err
		}
		document := yaml.MapSlice{{Key: "kind", Value: Kind(r)}, {Key: "name", Value: r.GetName()}, {Key: "spec", Value: tree(spec)}}
		out, err := yaml.MarshalWithOptions(document, yaml.IndentSequence(true))
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", Kind(r), r.GetName(), err)
		}
		b.Write(out)
	}
	return b.Bytes(), nil
}

// MarshalJSON writes one resource as a JSON object: kind, name, owner and generation where they are known, and the spec.
func MarshalJSON(r *vrouterv1.Resource) ([]byte, error) {
	spec, err := specOf(r)
	if err != nil {
		return nil, err
	}
	raw, err := protojson.Marshal(spec.Interface())
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", Kind(r), r.GetName(), err)
	}
	return json.Marshal(struct {
		Kind       string          `json:"kind"`
		Name       string          `json:"name"`
		Owner      string          `json:"owner,omitempty"`
		Generation uint64          `json:"generation,omitempty,string"` // as protojson spells 64-bit numbers
		Spec       json.RawMessage `json:"spec"`
	}{Kind(r), r.GetName(), r.GetOwner(), r.GetGeneration(), raw})
}

func specOf(r *vrouterv1.Resource) (protoreflect.Message, error) {
	field := r.ProtoReflect().WhichOneof(specOneof())
	if field == nil {
		return nil, fmt.Errorf("resource %q has no spec", r.GetName())
	}
	return r.ProtoReflect().Get(field).Message(), nil
}

// tree turns a message into what the YAML encoder writes in order.
func tree(m protoreflect.Message) yaml.MapSlice {
	out := yaml.MapSlice{}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		if field := fields.Get(i); m.Has(field) {
			out = append(out, yaml.MapItem{Key: field.JSONName(), Value: fieldTree(field, m.Get(field))})
		}
	}
	return out
}

func fieldTree(field protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch {
	case field.IsMap():
		out := yaml.MapSlice{}
		v.Map().Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
			out = append(out, yaml.MapItem{Key: key.String(), Value: value.String()})
			return true
		})
		slices.SortFunc(out, func(a, b yaml.MapItem) int { return cmp.Compare(a.Key.(string), b.Key.(string)) })
		return out
	case field.IsList():
		out := make([]any, v.List().Len())
		for i := range out {
			out[i] = scalarTree(field, v.List().Get(i))
		}
		return out
	}
	return scalarTree(field, v)
}

func scalarTree(field protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch field.Kind() {
	case protoreflect.MessageKind:
		return tree(v.Message())
	case protoreflect.EnumKind:
		if value := field.Enum().Values().ByNumber(v.Enum()); value != nil {
			return string(value.Name())
		}
		return int32(v.Enum())
	}
	return v.Interface()
}
