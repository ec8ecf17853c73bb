package naming

import (
	"strings"
	"testing"

	"buf.build/go/protovalidate"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// TestJoin holds the names that the control plane and the plugin agree on, and that
// whatever comes in, a name comes out that the API takes.
func TestJoin(t *testing.T) {
	long := strings.Repeat("a", 253)
	seen := map[string][]string{}
	for _, c := range []struct {
		parts []string
		want  string // "": any that is valid
	}{
		{[]string{"shop", "web-6f7d"}, "shop:web-6f7d"},
		{[]string{"shop", "web.0"}, "shop:web.0"},
		{[]string{"shop", long}, ""},
		{[]string{"shop", long[:252] + "b"}, ""},
		{[]string{long, "shop"}, ""},
		{[]string{"cni", "0123_"}, ""},
		{[]string{"cni", "0123."}, ""},
		{[]string{"", "web"}, ""},
		{[]string{"..", "../../etc/passwd"}, ""},
		{[]string{"ü", "\x00\xff"}, ""},
		{[]string{}, ""},
		{[]string{"a b", "c"}, ""},
		{[]string{"a-b", "c"}, "a-b:c"},
	} {
		got := Join(c.parts...)
		if c.want != "" && got != c.want {
			t.Errorf("Join(%q) = %q; want %q", c.parts, got, c.want)
		}
		if err := protovalidate.Validate(&pb.ResourceKey{Kind: "Attachment", Name: got}); err != nil || !Valid(got) {
			t.Errorf("Join(%q) = %q, Valid %v: %v", c.parts, got, Valid(got), err)
		}
		if other, ok := seen[got]; ok {
			t.Errorf("%q and %q have one name, %q", other, c.parts, got)
		}
		seen[got] = c.parts
	}
}
