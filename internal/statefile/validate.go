package statefile

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/reflect/protoreflect"

	vrouterv1 "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// validate checks a resource against the rules of its message.
func (d *decoder) validate(r *vrouterv1.Resource, root *node) {
	err := protovalidate.Validate(r)
	var invalid *protovalidate.ValidationError
	switch {
	case err == nil:
	case errors.As(err, &invalid):
		for _, v := range invalid.Violations {
			d.problems = append(d.problems, d.violation(r, root, v))
		}
	default: // a rule that does not compile is our own fault; TestRulesCompile holds that there is none
		d.fail(root, "", err.Error(), "")
	}
}

// violation renders one broken rule at its place.
func (d *decoder) violation(r *vrouterv1.Resource, root *node, v *protovalidate.Violation) Problem {
	field, oneof := jsonPath(r, v.Proto.GetField())
	message, hint := v.Proto.GetMessage(), exampleOf(field)
	switch id := v.Proto.GetRuleId(); {
	case oneof != nil:
		message = "one of its fields must be given: " + strings.Join(memberNames(oneof), ", ")
	case id == "required":
		message = "is missing"
	case id == "repeated.min_items":
		message = "must hold at least one element"
	case id == "repeated.unique":
		message, hint = "must not hold the same value twice", "remove one of the two"
	default:
		if at := nodeAt(root, field); at != nil && at.text != "" {
			message, hint = fmt.Sprintf("%s; not %q", message, clip(at.text)), maskHint(at.text)
		}
	}
	doc := Document{Resource: r, File: d.file, positions: d.positions}
	return doc.At(field, message, hint)
}

// jsonPath spells the path of a violation as the file does. oneof is set when the violation is about a oneof.
func jsonPath(r *vrouterv1.Resource, path *validate.FieldPath) (field string, oneof protoreflect.OneofDescriptor) {
	var b strings.Builder
	message := r.ProtoReflect().Descriptor()
	for i, element := range path.GetElements() {
		if message == nil {
			break
		}
		name := protoreflect.Name(element.GetFieldName())
		f := message.Fields().ByName(name)
		if f == nil {
			return b.String(), message.Oneofs().ByName(name)
		}
		if i > 0 {
			b.WriteByte('.')
		}
		if i == 0 && f.ContainingOneof() != nil {
			b.WriteString("spec")
		} else {
			b.WriteString(f.JSONName())
		}
		switch element.WhichSubscript() {
		case validate.FieldPathElement_Index_case:
			b.WriteString("[" + strconv.FormatUint(element.GetIndex(), 10) + "]")
		case validate.FieldPathElement_StringKey_case:
			b.WriteString("[" + strconv.Quote(element.GetStringKey()) + "]")
		}
		message = f.Message()
	}
	return b.String(), nil
}

func memberNames(oneof protoreflect.OneofDescriptor) []string {
	var names []string
	for i := range oneof.Fields().Len() {
		names = append(names, oneof.Fields().Get(i).JSONName())
	}
	return names
}

// maskHint finds the prefix that was meant by an address with host bits or without a length.
func maskHint(value string) string {
	if p, err := netip.ParsePrefix(value); err == nil && p != p.Masked() {
		return fmt.Sprintf("did you mean %s?", p.Masked())
	}
	if a, err := netip.ParseAddr(value); err == nil && a.Zone() == "" {
		return fmt.Sprintf("a single address is the prefix %s", netip.PrefixFrom(a, a.BitLen()))
	}
	return ""
}

// nodeAt finds what stands at a path of the tree; nil when nothing does.
func nodeAt(n *node, path string) *node {
	for path != "" && n != nil {
		step := path
		if i := strings.IndexAny(path[1:], ".["); i >= 0 {
			step = path[:i+1]
		}
		path = strings.TrimPrefix(path[len(step):], ".")
		n = n.child(step)
	}
	return n
}

// child finds an entry by key, or an item by "[index]".
func (n *node) child(step string) *node {
	if strings.HasPrefix(step, "[") {
		if i, err := strconv.Atoi(strings.Trim(step, "[]")); err == nil && i < len(n.items) {
			return n.items[i]
		}
		return nil
	}
	for _, e := range n.entries {
		if e.key == step {
			return e.value
		}
	}
	return nil
}
