package statefile

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	vrouterv1 "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// decoder fills one Resource from a tree and remembers where each field stands.
type decoder struct {
	file      string
	positions map[string]position
	problems  Problems
}

func (d *decoder) fail(n *node, field, message, hint string) {
	d.problems = append(d.problems, Problem{File: d.file, Line: n.line, Column: n.column, Field: field, Message: message, Hint: hint})
}

func (d *decoder) failAt(e entry, field, message, hint string) {
	d.fail(&node{line: e.line, column: e.column}, field, message, hint)
}

// document reads kind, name and spec. `owner` and `generation`, which the agent prints, are read as well, so that what
// `vrctl get -o json` prints can be applied.
func (d *decoder) document(root *node) *vrouterv1.Resource {
	if root.shape != mapping {
		d.fail(root, "", "a document is a mapping of kind, name and spec, not "+root.String(), "kind: VirtualNetwork")
		return nil
	}
	resource := &vrouterv1.Resource{}
	var kind, spec *node
	for _, e := range root.entries {
		d.positions[e.key] = position{e.value.line, e.value.column}
		switch e.key {
		case "kind":
			kind = e.value
		case "spec":
			spec = e.value
		case "name", "owner", "generation":
			field := resource.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(e.key))
			d.field(resource.ProtoReflect(), field, e.key, e.value)
		default:
			d.failAt(e, e.key, fmt.Sprintf("a document has no %q", e.key), documentHint(e.key))
		}
	}
	field := d.kind(root, kind)
	if field == nil {
		return nil
	}
	message := resource.ProtoReflect().Mutable(field).Message()
	switch {
	case spec == nil || spec.shape == null: // a kind whose fields all have defaults may stand alone
	case spec.shape != mapping:
		d.fail(spec, "spec", fmt.Sprintf("must be a mapping of the fields of %s, not %s", field.Message().Name(), spec), "spec: {...}")
	default:
		d.message(message, "spec", spec)
	}
	return resource
}

// documentHint says where a key belongs that stands beside kind, name and spec.
func documentHint(key string) string {
	switch key {
	case "apiVersion":
		return "leave it out: a document has kind, name and spec"
	case "metadata":
		return "write the name itself: name: web-1; labels stand in the spec"
	}
	if near := nearest(key, []string{"kind", "name", "spec"}); near != "" {
		return "did you mean " + near + "?"
	}
	return "a document has kind, name and spec; other fields stand in the spec"
}

// kind finds the field of Resource for the document's kind.
func (d *decoder) kind(root, kind *node) protoreflect.FieldDescriptor {
	all := "one of " + strings.Join(Kinds(), ", ")
	if kind == nil {
		d.fail(root, "kind", "is missing", all)
		return nil
	}
	if kind.shape != text {
		d.fail(kind, "kind", "must be text, not "+kind.String(), all)
		return nil
	}
	field := specField(kind.text)
	if field == nil {
		hint := all
		if near := SuggestKind(kind.text); near != "" {
			hint = "did you mean " + near + "?"
		} else if full, ok := ParseKind(kind.text); ok {
			hint = "write " + full + " in full"
		}
		d.fail(kind, "kind", fmt.Sprintf("there is no kind %q", kind.text), hint)
	}
	return field
}

// message reads a mapping into a message.
func (d *decoder) message(m protoreflect.Message, path string, n *node) {
	if n.shape != mapping {
		d.fail(n, path, fmt.Sprintf("must be a mapping of fields, not %s", n), exampleOf(path))
		return
	}
	for _, e := range n.entries {
		fieldPath := path + "." + e.key
		field := m.Descriptor().Fields().ByJSONName(e.key)
		if field == nil {
			d.failAt(e, fieldPath, fmt.Sprintf("%s has no field %q", m.Descriptor().Name(), e.key), unknownField(m.Descriptor(), e.key))
			continue
		}
		if one := field.ContainingOneof(); one != nil && e.value.shape != null {
			if other := m.WhichOneof(one); other != nil {
				d.failAt(e, fieldPath, fmt.Sprintf("%s is already given; only one of the two may be", other.JSONName()), "remove one of the two")
				continue
			}
		}
		d.positions[fieldPath] = position{e.value.line, e.value.column}
		if e.value.shape == null || e.value.line == 0 { // an empty value is a field left out
			d.positions[fieldPath] = position{e.line, e.column}
		}
		d.field(m, field, fieldPath, e.value)
	}
}

// field reads one field of any cardinality.
func (d *decoder) field(m protoreflect.Message, field protoreflect.FieldDescriptor, path string, n *node) {
	switch {
	case n.shape == null:
	case field.IsMap():
		d.labels(m.Mutable(field).Map(), path, n)
	case field.IsList():
		d.list(m.Mutable(field).List(), field, path, n)
	case field.Message() != nil:
		d.message(m.Mutable(field).Message(), path, n)
	default:
		if v, ok := d.scalar(field, path, n); ok {
			m.Set(field, v)
		}
	}
}

// labels reads a mapping of text to text, the only kind of map in the API.
func (d *decoder) labels(m protoreflect.Map, path string, n *node) {
	if n.shape != mapping {
		d.fail(n, path, fmt.Sprintf("must be a mapping of text to text, not %s", n), exampleOf(path))
		return
	}
	for _, e := range n.entries {
		keyPath := fmt.Sprintf("%s[%q]", path, e.key)
		d.positions[keyPath] = position{e.value.line, e.value.column}
		switch e.value.shape {
		case text:
			m.Set(protoreflect.ValueOfString(e.key).MapKey(), protoreflect.ValueOfString(e.value.text))
		case null:
			d.failAt(e, keyPath, "must be text, not nothing", fmt.Sprintf("%s: \"\"", e.key))
		default:
			d.fail(e.value, keyPath, fmt.Sprintf("must be text, not %s", e.value), quoteHint(e.value))
		}
	}
}

func (d *decoder) list(l protoreflect.List, field protoreflect.FieldDescriptor, path string, n *node) {
	if n.shape != list {
		hint := exampleOf(path)
		if n.shape == text && field.Kind() == protoreflect.StringKind {
			hint = fmt.Sprintf("write a list: [%s]", n.text)
		}
		d.fail(n, path, fmt.Sprintf("must be a list, not %s", n), hint)
		return
	}
	for i, item := range n.items {
		itemPath := fmt.Sprintf("%s[%d]", path, i)
		d.positions[itemPath] = position{item.line, item.column}
		if field.Message() != nil {
			element := l.NewElement()
			if field.Message().Name() == "Subnet" && item.shape == text {
				d.fail(item, itemPath, fmt.Sprintf("must be a mapping of fields, not text %q", item.text), fmt.Sprintf("{prefix: %s}", item.text))
				continue
			}
			d.message(element.Message(), itemPath, item)
			l.Append(element)
		} else if v, ok := d.scalar(field, itemPath, item); ok {
			l.Append(v)
		}
	}
}

// scalar reads a value of the kinds that the API uses.
func (d *decoder) scalar(field protoreflect.FieldDescriptor, path string, n *node) (protoreflect.Value, bool) {
	switch field.Kind() {
	case protoreflect.StringKind:
		if n.shape == text {
			return protoreflect.ValueOfString(n.text), true
		}
		d.fail(n, path, fmt.Sprintf("must be text, not %s", n), quoteHint(n))
	case protoreflect.BoolKind:
		if n.shape == boolean {
			return protoreflect.ValueOfBool(n.text == "true"), true
		}
		d.fail(n, path, fmt.Sprintf("must be true or false, not %s", n), "write true or false, without quotes")
	case protoreflect.Uint32Kind:
		if v, err := strconv.ParseUint(n.text, 10, 32); err == nil && n.shape == number {
			return protoreflect.ValueOfUint32(uint32(v)), true
		}
		d.notNumber(path, n)
	case protoreflect.Uint64Kind: // JSON carries 64-bit numbers as text
		if v, err := strconv.ParseUint(n.text, 10, 64); err == nil && (n.shape == number || n.shape == text) {
			return protoreflect.ValueOfUint64(v), true
		}
		d.notNumber(path, n)
	case protoreflect.EnumKind:
		return d.enum(field, path, n)
	}
	return protoreflect.Value{}, false
}

func (d *decoder) notNumber(path string, n *node) {
	hint := "write a decimal number, for example " + cmp.Or(exampleValue(path), "1500")
	if _, err := strconv.ParseUint(n.text, 10, 32); err == nil {
		hint = fmt.Sprintf("write %s without quotes", n.text)
	}
	d.fail(n, path, fmt.Sprintf("must be a whole number from 0 to 4294967295, not %s", n), hint)
}

// enum reads the name of an enum value. Values that say "left out" are not names for users.
func (d *decoder) enum(field protoreflect.FieldDescriptor, path string, n *node) (protoreflect.Value, bool) {
	values := field.Enum().Values()
	if v := values.ByName(protoreflect.Name(n.text)); v != nil && n.shape == text && !unspecified(v) {
		return protoreflect.ValueOfEnum(v.Number()), true
	}
	var names []string
	for i := range values.Len() {
		if !unspecified(values.Get(i)) {
			names = append(names, string(values.Get(i).Name()))
		}
	}
	hint := "one of " + strings.Join(names, ", ")
	if near := nearest(n.text, names); near != "" && n.shape == text {
		hint = "did you mean " + near + "?"
	}
	d.fail(n, path, fmt.Sprintf("must be one of %s, not %s", strings.Join(names, ", "), n), hint)
	return protoreflect.Value{}, false
}

func unspecified(v protoreflect.EnumValueDescriptor) bool {
	return strings.HasSuffix(string(v.Name()), "_UNSPECIFIED")
}

// quoteHint shows how to make text of what YAML reads as something else.
func quoteHint(n *node) string {
	if n.shape == number || n.shape == boolean {
		return fmt.Sprintf("quote it: %q", clip(n.text))
	}
	return "write one value"
}

// exampleOf shows a field with a right value; empty when there is none.
func exampleOf(path string) string {
	if v := exampleValue(path); v != "" {
		name, _, element := strings.Cut(path[strings.LastIndex(path, ".")+1:], "[")
		if element {
			return "the list looks like " + name + ": " + v
		}
		return name + ": " + v
	}
	return ""
}

// exampleValue is a right value for the field at a path.
func exampleValue(path string) string {
	name := path[strings.LastIndex(path, ".")+1:]
	if i := strings.IndexByte(name, '['); i >= 0 {
		name = name[:i]
	}
	return examples[name]
}
