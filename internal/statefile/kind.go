package statefile

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	vrouterv1 "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// specOneof is the oneof whose members are the kinds.
func specOneof() protoreflect.OneofDescriptor {
	return (*vrouterv1.Resource)(nil).ProtoReflect().Descriptor().Oneofs().ByName("spec")
}

// Kinds returns the kinds in the order in which they are listed and written: what is referred to stands before what refers.
func Kinds() []string {
	fields := specOneof().Fields()
	kinds := make([]string, fields.Len())
	for i := range kinds {
		kinds[i] = string(fields.Get(i).Message().Name())
	}
	return kinds
}

// Kind returns the kind of a resource, for example VirtualNetwork; empty when it has no spec.
func Kind(r *vrouterv1.Resource) string {
	field := r.ProtoReflect().WhichOneof(specOneof())
	if field == nil {
		return ""
	}
	return string(field.Message().Name())
}

// ParseKind reads a kind as users type it: the kind, its plural or its short form, in any case.
func ParseKind(typed string) (kind string, ok bool) {
	short := map[string]string{
		"vn": "VirtualNetwork", "network": "VirtualNetwork", "vmi": "VirtualMachineInterface", "vif": "VirtualMachineInterface", "interface": "VirtualMachineInterface",
		"iip": "InstanceIP", "fip": "FloatingIP", "np": "NetworkPolicy", "sp": "SecurityPolicy", "rt": "Route", "att": "Attachment", "lb": "LoadBalancer", "as": "AddressSet",
	}
	lower := strings.ToLower(typed)
	for _, name := range []string{lower, strings.TrimSuffix(lower, "s"), strings.TrimSuffix(lower, "ies") + "y"} {
		if kind, ok := short[name]; ok {
			return kind, true
		}
		for _, kind := range Kinds() {
			if strings.ToLower(kind) == name {
				return kind, true
			}
		}
	}
	return "", false
}

// SuggestKind returns the kind that a user may have meant; empty when none is near.
func SuggestKind(typed string) string { return nearest(typed, Kinds()) }

// specField returns the field of Resource for a kind.
func specField(kind string) protoreflect.FieldDescriptor {
	fields := specOneof().Fields()
	for i := range fields.Len() {
		if string(fields.Get(i).Message().Name()) == kind {
			return fields.Get(i)
		}
	}
	return nil
}
