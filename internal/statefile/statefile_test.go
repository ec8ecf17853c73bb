package statefile

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	vrouterv1 "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

var update = flag.Bool("update", false, "write the .err files of testdata/wrong anew")

// TestWrongFiles holds each wrong file to its message: place, field, what is wrong, what to try.
func TestWrongFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/wrong/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 30 {
		t.Fatalf("only %d wrong files", len(files))
	}
	place := regexp.MustCompile(`(?m)^[a-z0-9-]+\.yaml:[1-9][0-9]*:[1-9][0-9]*: `)
	remedy := regexp.MustCompile(`\b(must|may|give|needs?|alone)\b`)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			documents, err := Parse([]Source{{Name: filepath.Base(file), Data: data}}, nil)
			if err == nil || documents != nil {
				t.Fatalf("the file was read: %v", documents)
			}
			var problems Problems
			if !errors.As(err, &problems) {
				t.Fatalf("not a list of problems: %v", err)
			}
			for _, p := range problems {
				if !place.MatchString(p.Error()) || p.Hint == "" && !remedy.MatchString(p.Message) {
					t.Errorf("no place or no remedy: %s", p.Error())
				}
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".err"
			got := err.Error() + "\n"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("message differs (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRightFiles reads each right file, writes it and reads that again: the same resources.
func TestRightFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/right/*")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			first := parseFile(t, file)
			out, err := Marshal(first)
			if err != nil {
				t.Fatal(err)
			}
			second := parseText(t, string(out))
			for _, r := range first {
				r.Owner, r.Generation = "", 0 // not written
			}
			if diff := cmp.Diff(first, second, protocmp.Transform()); diff != "" {
				t.Errorf("not the same after writing (-first +second):\n%s\n%s", diff, out)
			}
			again, err := Marshal(second)
			if err != nil || !bytes.Equal(out, again) {
				t.Errorf("writing is not stable: %v\n%s\n%s", err, out, again)
			}
		})
	}
}

// TestDesignSample holds the contract's sample to the values it shows.
func TestDesignSample(t *testing.T) {
	resources := parseFile(t, "testdata/right/design.yaml")
	got := map[string]*vrouterv1.Resource{}
	for _, r := range resources {
		got[Kind(r)+"/"+r.GetName()] = r
	}
	web := got["FloatingIP/web"].GetFloatingIp()
	mapping := web.GetFloatingIpPortMappings().GetPortMappings()[0]
	if mapping.GetSrcPort() != 80 || mapping.GetDstPort() != 8080 || mapping.GetProtocol() != vrouterv1.Protocol_TCP {
		t.Errorf("port mapping %v", mapping)
	}
	if n := len(web.GetVirtualMachineInterfaces()); n != 3 {
		t.Errorf("%d members, want 3", n)
	}
	tap := got["VirtualMachineInterface/web-1"].GetVirtualMachineInterface().GetTap()
	want := &vrouterv1.Tap{Name: "tap-web1", Netns: "/run/netns/web-1", GuestName: "eth0", Mtu: 1500}
	if diff := cmp.Diff(want, tap, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	rules := got["NetworkPolicy/fabric-pods"].GetNetworkPolicy().GetRules()
	if rules[0].GetDirection() != vrouterv1.NetworkPolicyRule_BOTH || rules[1].GetDestinationPorts()[0].GetEnd() != 80 {
		t.Errorf("rules %v", rules)
	}
}

// TestExistingNames lets references point at what a server already holds.
func TestExistingNames(t *testing.T) {
	source := []Source{{Name: "f.yaml", Data: []byte("kind: VirtualMachineInterface\nname: a\nspec: {virtualNetwork: pods}\n---\nkind: Route\nname: r\nspec: {vrf: red, prefix: 10.0.0.0/8, nextHops: [{interface: a}]}\n")}}
	if _, err := Parse(source, nil); err == nil {
		t.Fatal("dangling references were let through")
	}
	existing := []*vrouterv1.Resource{{Name: "pods", Spec: &vrouterv1.Resource_VirtualNetwork{VirtualNetwork: &vrouterv1.VirtualNetwork{Vrf: "red"}}}}
	if _, err := Parse(source, existing); err != nil {
		t.Fatal(err)
	}
}

// TestAt finds the place of a field that a server complains about.
func TestAt(t *testing.T) {
	documents, err := Parse([]Source{{Name: "f.yaml", Data: []byte("# comment\n---\nkind: VirtualNetwork\nname: pods\nspec:\n  subnets:\n    - {prefix: 10.0.0.0/24, gateway: 10.0.1.1}\n")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for field, want := range map[string]string{
		"spec.subnets[0].gateway": "f.yaml:7:38: ",
		"spec.subnets[3].gateway": "f.yaml:7:5: ", // the nearest part that stands in the file
		"spec.vrf":                "f.yaml:6:3: ",
		"":                        "f.yaml:3:1: ",
	} {
		if got := documents[0].At(field, "m", "").Error(); !strings.HasPrefix(got, want) {
			t.Errorf("At(%q) = %s, want %s…", field, got, want)
		}
	}
}

// TestLineEnds counts lines alike with Unix and Windows line ends.
func TestLineEnds(t *testing.T) {
	const text = "# first\nkind: VirtualNetwork\nname: pods\n---\nkind: VirtualNetwork\nname: x\nspec:\n  vrf: a b\n"
	for _, end := range []string{"\n", "\r\n"} {
		_, err := Parse([]Source{{Name: "f", Data: []byte(strings.ReplaceAll(text, "\n", end))}}, nil)
		if err == nil || !strings.HasPrefix(err.Error(), "f:8:8: spec.vrf: ") {
			t.Errorf("%q: %v", end, err)
		}
	}
}

// TestBounds refuses input that is too deep or too much, quickly and without a crash.
func TestBounds(t *testing.T) {
	for name, text := range map[string]string{
		"flow lists":    "kind: " + strings.Repeat("[", 200_000),
		"flow mappings": "a: " + strings.Repeat("{a: ", 100_000),
		"block lists":   strings.Repeat("- ", 100_000),
		"complex keys":  strings.Repeat("? ", 100_000),
		"JSON lists":    `{"kind": ` + strings.Repeat("[", 200_000),
		"many entries":  strings.Repeat("a: b\n", 100_000),
		"open bracket":  "a: [" + strings.Repeat("a,", 100_000),
		"quotes":        strings.Repeat(`"a" `, 100_000),
		"list items":    strings.Repeat("-\n", 20_000),
		"aliases":       "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]Source{{Name: "f.yaml", Data: []byte(text)}}, nil); err == nil {
				t.Fatal("let through")
			} else if len(err.Error()) > 1000 {
				t.Errorf("message of %d bytes", len(err.Error()))
			}
		})
	}
	var many strings.Builder
	for range 3 * maxProblems {
		many.WriteString("kind: Nothing\n---\n")
	}
	_, err := Parse([]Source{{Name: "f.yaml", Data: []byte(many.String())}}, nil)
	var problems Problems
	if !errors.As(err, &problems) || len(problems) != maxProblems {
		t.Errorf("%d problems, want %d", len(problems), maxProblems)
	}
}

// TestRead takes files, directories and standard input.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b.yml", "a.yaml", "c.json", "README.md", ".hidden.yaml"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sources, err := Read([]string{dir, "-"}, strings.NewReader("in"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range sources {
		names = append(names, filepath.Base(s.Name)+"="+string(s.Data))
	}
	if diff := cmp.Diff([]string{"a.yaml=a.yaml", "b.yml=b.yml", "c.json=c.json", "<stdin>=in"}, names); diff != "" {
		t.Error(diff)
	}
	for _, path := range []string{filepath.Join(dir, "absent"), t.TempDir()} {
		if _, err := Read([]string{path}, nil); err == nil || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Read(%s): %v", path, err)
		}
	}
}

func TestParseKind(t *testing.T) {
	for typed, want := range map[string]string{
		"vn": "VirtualNetwork", "VMI": "VirtualMachineInterface", "fips": "FloatingIP", "networkpolicies": "NetworkPolicy", "np": "NetworkPolicy",
		"securitypolicy": "SecurityPolicy", "routes": "Route", "fabric": "Fabric", "virtualnetworks": "VirtualNetwork", "iip": "InstanceIP", "": "", "x": "",
	} {
		if got, _ := ParseKind(typed); got != want {
			t.Errorf("ParseKind(%q) = %q, want %q", typed, got, want)
		}
	}
}

func parseFile(t *testing.T, file string) []*vrouterv1.Resource {
	t.Helper()
	sources, err := Read([]string{file}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return parseText(t, string(sources[0].Data))
}

func parseText(t *testing.T, text string) []*vrouterv1.Resource {
	t.Helper()
	documents, err := Parse([]Source{{Name: "f", Data: []byte(text)}}, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	resources := make([]*vrouterv1.Resource, len(documents))
	for i, d := range documents {
		resources[i] = d.Resource
	}
	return resources
}
