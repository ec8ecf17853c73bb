package test

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/vrouter-go/vrouter/agent/config"
	"github.com/vrouter-go/vrouter/internal/statefile"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// pages returns the Markdown files of the repository, by path from its root.
func pages(t *testing.T) map[string]string {
	t.Helper()
	list := map[string]string{}
	for _, pattern := range [...]string{"../*.md", "../docs/*.md", "../docs/design/*.md", "../tools/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			list[path] = read(t, path)
		}
	}
	return list
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	fence   = regexp.MustCompile("(?ms)^```.*?^```")
	state   = regexp.MustCompile("(?ms)^(?:```yaml|cat > state.yaml <<'EOF')$\n(kind: .*?)^(?:```|EOF)$")
	nodes   = regexp.MustCompile(`<i>(.*?)</i>`)
)

// Every link within the repository leads somewhere.
func TestLinks(t *testing.T) {
	for path, text := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			target, fragment, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			at := path
			if target != "" {
				at = filepath.Join(filepath.Dir(path), target)
			}
			if _, err := os.Stat(at); err != nil {
				t.Errorf("%s: %v", path, err)
				continue
			}
			if fragment != "" && !slices.Contains(anchors(read(t, at)), fragment) {
				t.Errorf("%s: %s has no heading #%s", path, at, fragment)
			}
		}
	}
}

// anchors are those that GitHub makes of headings.
func anchors(text string) (list []string) {
	drop := regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		list = append(list, strings.ReplaceAll(drop.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return list
}

// The state files of each page are valid, and together they are whole.
func TestStateFilesInPages(t *testing.T) {
	seen := 0
	for path, text := range pages(t) {
		var sources []statefile.Source
		for _, m := range state.FindAllStringSubmatch(text, -1) {
			sources = append(sources, statefile.Source{Name: path, Data: []byte(m[1])})
		}
		seen += len(sources)
		if _, err := statefile.Parse(sources, nil); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if seen < 9 {
		t.Errorf("found %d state files; want the README's and one for each kind", seen)
	}
}

// docs/state-file.md names every field and value of every kind.
func TestStateFileReferenceIsWhole(t *testing.T) {
	text := read(t, "../docs/state-file.md")
	seen := map[protoreflect.FullName]bool{}
	var visit func(m protoreflect.MessageDescriptor)
	visit = func(m protoreflect.MessageDescriptor) {
		if seen[m.FullName()] || m.IsMapEntry() {
			return
		}
		seen[m.FullName()] = true
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			if !strings.Contains(text, "| `"+f.JSONName()+"` |") {
				t.Errorf("%s is missing; run make gen", f.FullName())
			}
			if f.Enum() != nil {
				for v := range f.Enum().Values().Len() {
					name := string(f.Enum().Values().Get(v).Name())
					if !strings.HasSuffix(name, "_UNSPECIFIED") && name != "ICMPV6" && !strings.Contains(text, "`"+name+"`") {
						t.Errorf("value %s of %s is missing; run make gen", name, f.FullName())
					}
				}
			}
			if f.Message() != nil {
				visit(f.Message())
			}
		}
	}
	kinds := (&pb.Resource{}).ProtoReflect().Descriptor().Oneofs().ByName("spec").Fields()
	for i := range kinds.Len() {
		visit(kinds.Get(i).Message())
	}
}

// docs/operations.md names every field of the configuration.
func TestConfigurationReferenceIsWhole(t *testing.T) {
	text := read(t, "../docs/operations.md")
	var visit func(prefix string, typ reflect.Type)
	visit = func(prefix string, typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			name := prefix + f.Tag.Get("yaml")
			if f.Type.Kind() == reflect.Struct && f.Type != reflect.TypeFor[config.Subjects]() {
				visit(name+".", f.Type)
				continue
			}
			if !strings.Contains(text, "`"+name+"`") {
				t.Errorf("the field %s is missing", name)
			}
		}
	}
	visit("", reflect.TypeFor[config.Config]())
}

// docs/METRICS.md names every metric.
func TestMetricsReferenceIsWhole(t *testing.T) {
	text := read(t, "../docs/METRICS.md")
	for _, m := range regexp.MustCompile(`= desc\("([a-z_]+)"`).FindAllStringSubmatch(read(t, "../agent/metrics/metrics.go"), -1) {
		if !strings.Contains(text, "`vrouter_"+m[1]+"`") {
			t.Errorf("the metric vrouter_%s is missing", m[1])
		}
	}
}

// docs/METRICS.md names every metric of vrkube ingress. Those of vrkube run are held by the
// test of cmd/vrkube, which scrapes them.
func TestIngressMetricsReferenceIsWhole(t *testing.T) {
	text, seen := read(t, "../docs/METRICS.md"), 0
	for _, m := range regexp.MustCompile(`(?m)^\t(?:size|counter|gauge)\("([a-z_]+)"`).FindAllStringSubmatch(read(t, "../controller/ingress/serve.go"), -1) {
		seen++
		if !strings.Contains(text, "`vrkube_ingress_"+m[1]+"`") {
			t.Errorf("the metric vrkube_ingress_%s is missing", m[1])
		}
	}
	if seen < 10 {
		t.Errorf("found %d metrics", seen)
	}
}

// docs/kubernetes.md names every flag of vrkube run.
func TestFlagsReferenceIsWhole(t *testing.T) {
	text, seen := read(t, "../docs/kubernetes.md"), 0
	for _, m := range regexp.MustCompile(`(?m)^\tf\.[A-Za-z0-9]+\(&o\.[A-Za-z0-9]+, "([a-z0-9-]+)"`).FindAllStringSubmatch(read(t, "../cmd/vrkube/options.go"), -1) {
		seen++
		if !strings.Contains(text, "`--"+m[1]+"`") {
			t.Errorf("the flag --%s is missing", m[1])
		}
	}
	if seen < 10 {
		t.Errorf("found %d flags", seen)
	}
}

// The steps of docs/process-flow.md are functions in the files that it names.
func TestProcessFlowNamesFunctions(t *testing.T) {
	file, seen := "decide.go", 0
	for _, m := range nodes.FindAllStringSubmatch(read(t, "../docs/process-flow.md"), -1) {
		for _, step := range strings.Split(m[1], ", ") {
			name := step
			if f, n, ok := strings.Cut(step, ": "); ok {
				file, name = f, n
			} else if !strings.Contains(m[1], ": ") {
				file = "decide.go" // the steps inside decide stand without their file
			}
			seen++
			if !regexp.MustCompile(`(?m)^func (\(\w+ \*?\w+\) )?` + name + `\(`).MatchString(read(t, "../forwarder/"+file)) {
				t.Errorf("forwarder/%s has no function %s", file, name)
			}
		}
	}
	if seen < 20 {
		t.Errorf("found %d steps", seen)
	}
}

// Drop reasons that pages name exist.
func TestReasonsInPages(t *testing.T) {
	known := read(t, "../docs/DROPS.md")
	for _, m := range regexp.MustCompile("`([A-Z]+(?:_[A-Z]+)+)`").FindAllStringSubmatch(read(t, "../docs/operations.md"), -1) {
		if !strings.Contains(known, "| `"+m[1]+"` |") && !strings.HasPrefix(m[1], "CAP_") {
			t.Errorf("docs/operations.md: there is no drop reason %s", m[1])
		}
	}
}
