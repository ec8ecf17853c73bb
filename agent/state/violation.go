package state

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"buf.build/go/protovalidate"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Violation is one wrong field of a transaction: what is wrong and what would be
// right.
type Violation struct {
	Upsert      int    // index among the upserts, -1 where the field is not in the request
	Request     string // the field as a path in the request, upserts[3].floatingIp.address; with Upsert -1 another one, or empty
	Resource    Key    // zero where the request itself is wrong
	Field       string // path in the resource, spec.address
	Description string
}

// Proto returns the violation as the API writes it.
func (v Violation) Proto() *pb.FieldViolation {
	p := &pb.FieldViolation{Field: v.Field, Description: v.Description}
	if v.Resource != (Key{}) {
		p.Resource = v.Resource.Proto()
	}
	if p.Field == "" {
		p.Field = v.Request
	}
	return p
}

// Error lists the wrong fields of a refused transaction. State is as before it.
type Error struct{ Violations []Violation }

// Error names the first wrong field and how many more there are.
func (e *Error) Error() string {
	if len(e.Violations) == 0 {
		return "the transaction is not valid"
	}
	v := e.Violations[0]
	where := v.Request
	if v.Resource != (Key{}) {
		where = v.Resource.String() + " " + v.Field
	}
	text := where + ": " + v.Description
	if n := len(e.Violations) - 1; n > 0 {
		text += fmt.Sprintf(" (and %d more)", n)
	}
	return text
}

// report collects violations.
type report struct {
	list    []Violation
	upserts map[Key]int // place of a resource in the request
	drafts  []Draft     // what is there
}

// add notes a wrong field of a resource; field is its path from spec on.
func (r *report) add(k Key, field, format string, args ...any) {
	v := Violation{Upsert: -1, Resource: k, Field: field, Description: fmt.Sprintf(format, args...)}
	if i, ok := r.upserts[k]; ok {
		v.Upsert = i
		v.Request = fmt.Sprintf("upserts[%d].%s", i, r.inRequest(k, field))
	} else {
		v.Request = k.String() + "." + field
	}
	r.list = append(r.list, v)
}

// inRequest turns spec.address into floatingIp.address.
func (r *report) inRequest(k Key, field string) string {
	if rest, ok := strings.CutPrefix(field, "spec"); ok {
		return specField(r.drafts[r.upserts[k]].res) + rest
	}
	return field
}

// err returns the collected violations in a stable order, nil if there are none.
func (r *report) err() error {
	if len(r.list) == 0 {
		return nil
	}
	slices.SortStableFunc(r.list, func(a, b Violation) int {
		return cmp.Or(cmp.Compare(uint(a.Upsert), uint(b.Upsert)), a.Resource.Compare(b.Resource))
	})
	return &Error{r.list}
}

// Describe returns what a rule says about a field.
func Describe(v *protovalidate.Violation) string {
	text := v.Proto.GetMessage()
	if text == "" {
		text = "breaks the rule " + v.Proto.GetRuleId()
	}
	if v.Proto.GetRuleId() == "required" {
		text = "must be given"
	}
	if !v.FieldValue.IsValid() {
		return text
	}
	if s, ok := v.FieldValue.Interface().(string); ok && s != "" && len(s) <= 64 {
		text += fmt.Sprintf(" (is %q)", s)
	}
	return text
}

// JSONPath turns a path of proto field names into one of JSON names:
// port_mappings[0].src_port into portMappings[0].srcPort. Map keys stay.
func JSONPath(path string) string {
	var b strings.Builder
	inKey, up := false, false
	for _, c := range path {
		switch {
		case c == '"':
			inKey = !inKey
			b.WriteRune(c)
		case inKey:
			b.WriteRune(c)
		case c == '_':
			up = true
		case up:
			b.WriteString(strings.ToUpper(string(c)))
			up = false
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}

func sorted(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}
