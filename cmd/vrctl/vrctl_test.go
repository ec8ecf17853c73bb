package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vrouter-go/vrouter/internal/statefile"
	vrouterv1 "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

// state is what the fake agent holds.
const state = "../../internal/statefile/testdata/right/all.yaml"

func newFake(t *testing.T) *fakeAgent {
	t.Helper()
	sources, err := statefile.Read([]string{state}, nil)
	if err != nil {
		t.Fatal(err)
	}
	documents, err := statefile.Parse(sources, nil)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeAgent{health: vrouterv1.Health_DEGRADED}
	for i, d := range documents {
		d.Resource.Owner, d.Resource.Generation = operator, uint64(i+1)
		f.resources = append(f.resources, d.Resource)
	}
	f.resources[0].Owner = "vrkube"
	statefile.Sort(f.resources)
	return f
}

// vrctl runs one command line against an agent's socket.
func vrctl(t *testing.T, socket, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(context.Background(), append([]string{"--address", socket}, args...), terminal{in: strings.NewReader(stdin), out: &out, err: &errs})
	return out.String(), errs.String(), code
}

const goodDocument = "kind: VirtualNetwork\nname: new\n---\nkind: VirtualMachineInterface\nname: web-9\nspec:\n  virtualNetwork: pods\n  addresses: [10.9.0.1]\n"

// TestGolden holds each command line to its output, its errors and its exit code.
func TestGolden(t *testing.T) {
	tests := []struct {
		name, args, stdin string
		code              int
		change            func(*testing.T, *fakeAgent)
	}{
		{name: "help", args: "--help"},
		{name: "help-explain", args: "explain --help"},
		{name: "get-all", args: "get all"},
		{name: "get-all-wide", args: "get all -o wide"},
		{name: "get-vmi", args: "get vmi"},
		{name: "get-fip-yaml", args: "get fip web -o yaml"},
		{name: "get-fip-json", args: "get fip web -o json"},
		{name: "get-lb", args: "get LoadBalancer"},
		{name: "get-lb-wide", args: "get lb -o wide"},
		{name: "get-lb-json", args: "get lb shop:web -o json"},
		{name: "get-absent", args: "get fip absent", code: exitNotFound},
		{name: "get-watch", args: "get vn --watch"},
		{name: "get-watch-json", args: "get vn --watch -o json"},
		{name: "get-unknown-kind", args: "get networkk", code: exitUsage},
		{name: "get-no-kind", args: "get", code: exitUsage},
		{name: "apply", args: "apply -f -", stdin: goodDocument},
		{name: "apply-same", args: "apply -f " + state},
		{name: "apply-dry-run-json", args: "apply -f - --dry-run -o json", stdin: goodDocument},
		{name: "apply-wrong", args: "apply -f -", stdin: "kind: VirtualNetwork\nname: n\nspec:\n  subnet: []\n---\nkind: FloatingIP\nname: f\nspec: {address: 10.0.0, virtualNetwork: n}\n", code: exitError},
		{name: "apply-dangling", args: "apply -f -", stdin: "kind: VirtualMachineInterface\nname: a\nspec: {virtualNetwork: podz}\n", code: exitError},
		{name: "apply-refused", args: "apply -f -", stdin: goodDocument, code: exitError, change: func(t *testing.T, f *fakeAgent) { f.refuse = refusal(t) }},
		{name: "apply-nothing", args: "apply", code: exitUsage},
		{name: "apply-empty", args: "apply -f -", stdin: "# nothing\n", code: exitUsage},
		{name: "apply-no-file", args: "apply -f absent.yaml", code: exitError},
		{name: "delete", args: "delete fip web web-node-port"},
		{name: "delete-absent", args: "delete fip absent", code: exitNotFound},
		{name: "delete-ignore", args: "delete fip absent --ignore-not-found"},
		{name: "status", args: "status"},
		{name: "status-wide", args: "status -o wide"},
		{name: "status-unhealthy", args: "status", code: exitUnhealthy, change: func(_ *testing.T, f *fakeAgent) { f.health = vrouterv1.Health_UNHEALTHY }},
		{name: "drops", args: "drops"},
		{name: "drops-wide", args: "drops --vmi web-1 -o wide"},
		{name: "drops-none", args: "drops --vmi web-7"},
		{name: "drops-json", args: "drops -o json"},
		{name: "drops-watch", args: "drops --watch"},
		{name: "flow-list", args: "flow list"},
		{name: "flow-list-wide", args: "flow list -o wide"},
		{name: "flow-list-json", args: "flow list -o json"},
		{name: "flow-list-watch", args: "flow list --watch"},
		{name: "flow-list-service", args: "flow list --svc shop/web -o wide"},
		{name: "flow-list-service-watch", args: "flow list --svc shop/web --watch", code: exitUsage},
		{name: "flow-list-service-absent", args: "flow list --svc shop/wbe", code: exitNotFound},
		{name: "flow-list-bad-protocol", args: "flow list --proto tpc", code: exitUsage},
		{name: "flow-delete", args: "flow delete --vmi web-1"},
		{name: "flow-delete-what", args: "flow delete", code: exitUsage},
		{name: "explain", args: "explain --vmi web-1 --dst 10.96.0.10 --proto tcp --dport 80"},
		{name: "explain-json", args: "explain --vmi web-1 --dst 10.96.0.10 --proto tcp --dport 80 -o json"},
		{name: "explain-drop", args: "explain --vmi web-1 --dst 10.96.0.10 --dport 81"},
		{name: "explain-absent", args: "explain --vmi absent --dst 10.96.0.10", code: exitNotFound},
		{name: "explain-service", args: "explain svc/shop/web"},
		{name: "explain-service-wide", args: "explain shop:web --port http --from vhost0 -o wide"},
		{name: "explain-service-json", args: "explain service/shop/web --port 53 -o json"},
		{name: "explain-service-empty", args: "explain svc/shop/web --port 80", change: func(_ *testing.T, f *fakeAgent) {
			f.fip("web").Members = nil
			f.fip("web-node-port").VirtualMachineInterfaces = nil
		}},
		{name: "explain-service-local", args: "explain svc/shop/web --port 31050", change: func(_ *testing.T, f *fakeAgent) {
			fip := f.fip("web-node-port")
			fip.VirtualMachineInterfaces = nil
			fip.Members = f.fip("web").GetMembers()[2:]
			fip.ExternalTrafficPolicy, fip.HealthCheck = vrouterv1.FloatingIP_LOCAL, &vrouterv1.HealthCheck{Port: 32000}
		}},
		{name: "explain-service-no-policy", args: "explain svc/shop/web --port 80", change: func(_ *testing.T, f *fakeAgent) {
			f.resources = slices.DeleteFunc(f.resources, func(r *vrouterv1.Resource) bool { return r.GetNetworkPolicy() != nil })
		}},
		{name: "explain-service-renamed", args: "explain svc/shop/web --port 53", change: func(_ *testing.T, f *fakeAgent) {
			for _, r := range f.resources {
				if r.GetLoadBalancer() != nil {
					r.Name = "cut:0123"
				}
			}
		}},
		{name: "explain-service-kubernetes", args: "explain svc/shop/web --port 80", change: func(_ *testing.T, f *fakeAgent) {
			for _, r := range f.resources { // the pod web-1 has come, web-2 not yet
				if vmi := r.GetVirtualMachineInterface(); vmi != nil {
					vmi.Attachment, vmi.Addresses, vmi.Namespace = &vrouterv1.AttachmentRequest{Uid: "u-" + r.GetName()}, nil, "shop"
				}
			}
			f.fip("web").Members = append(f.fip("web").GetMembers(),
				&vrouterv1.Member{VirtualMachineInterface: "host-pod", Address: "192.0.2.12", Host: true},
				&vrouterv1.Member{VirtualMachineInterface: "host-pod-here", Address: "192.0.2.10", Host: true})
			f.fip("web").Members[0].State, f.fip("web").Members[1].State = vrouterv1.Member_LOCAL_ONLY, vrouterv1.Member_READY
			everywhere := &vrouterv1.LabelSelector{}
			deny := []*vrouterv1.SecurityRule{{Action: vrouterv1.SecurityRule_DENY}}
			f.resources = append(f.resources,
				&vrouterv1.Resource{Name: "web-1", Spec: &vrouterv1.Resource_Attachment{Attachment: &vrouterv1.Attachment{Uid: "u-web-1", VirtualNetwork: "pods", Addresses: []string{"10.244.0.11"}}}},
				&vrouterv1.Resource{Name: "cnp:base", Spec: &vrouterv1.Resource_SecurityPolicy{SecurityPolicy: &vrouterv1.SecurityPolicy{
					Tier: vrouterv1.SecurityPolicy_BASELINE, NamespaceSelector: everywhere, Egress: deny}}},
				&vrouterv1.Resource{Name: "cnp:guard", Spec: &vrouterv1.Resource_SecurityPolicy{SecurityPolicy: &vrouterv1.SecurityPolicy{
					Tier: vrouterv1.SecurityPolicy_ADMIN, Priority: 10, NamespaceSelector: everywhere, Ingress: deny}}},
				&vrouterv1.Resource{Name: "shop:allow", Spec: &vrouterv1.Resource_SecurityPolicy{SecurityPolicy: &vrouterv1.SecurityPolicy{Namespace: "shop"}}})
		}},
		{name: "explain-service-absent", args: "explain svc/shop/wbe", code: exitNotFound},
		{name: "explain-service-no-such-port", args: "explain svc/shop/web --port 81", code: exitNotFound},
		{name: "explain-service-what", args: "explain svc/web", code: exitUsage},
		{name: "explain-service-packet", args: "explain svc/shop/web --vmi web-1", code: exitUsage},
		{name: "explain-from-no-service", args: "explain --vmi web-1 --dst 10.96.0.10 --from web-2", code: exitUsage},
		{name: "explain-no-port", args: "explain --vmi web-1 --dst 10.96.0.10 --proto udp", code: exitUsage},
		{name: "unknown-command", args: "exlain", code: exitUsage},
		{name: "unknown-flag", args: "status --bogus", code: exitUsage},
		{name: "unknown-format", args: "status -o xml", code: exitUsage},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			fake := newFake(t)
			if tc.change != nil {
				tc.change(t, fake)
			}
			socket := fake.serve(t)
			out, errs, code := vrctl(t, socket, tc.stdin, strings.Fields(tc.args)...)
			if code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
			got := fmt.Sprintf("$ vrctl %s\n%s", tc.args, out)
			if errs != "" {
				got += "-- stderr --\n" + errs
			}
			got = strings.ReplaceAll(got+fmt.Sprintf("-- exit %d --\n", code), socket, "$SOCKET")
			golden := filepath.Join("testdata", tc.name+".golden")
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
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestFormatsShowTheSameRows counts the rows of every format: gobgp's JSON once showed one neighbour where the table showed two.
func TestFormatsShowTheSameRows(t *testing.T) {
	socket := newFake(t).serve(t)
	for _, args := range []string{"get vmi", "get fip", "get lb", "get route", "get np", "flow list"} {
		rows := map[string]int{}
		for _, format := range formats {
			out, errs, code := vrctl(t, socket, "", append(strings.Fields(args), "-o", format)...)
			if code != 0 {
				t.Fatalf("%s -o %s: %s", args, format, errs)
			}
			var items []any
			switch {
			case format == "json":
				if err := json.Unmarshal([]byte(out), &items); err != nil {
					t.Fatal(err)
				}
				rows[format] = len(items)
			case format == "yaml" && strings.HasPrefix(args, "get"): // documents
				rows[format] = strings.Count(out, "\n---\n") + 1
			case format == "yaml":
				if err := yaml.Unmarshal([]byte(out), &items); err != nil {
					t.Fatal(err)
				}
				rows[format] = len(items)
			default:
				rows[format] = strings.Count(out, "\n") - 1
			}
		}
		for _, format := range formats {
			if rows[format] != rows["table"] || rows[format] == 0 {
				t.Errorf("%s: %v", args, rows)
				break
			}
		}
	}
}

// TestGetAppliesAgain applies what get prints, as YAML and as JSON: the same resources.
func TestGetAppliesAgain(t *testing.T) {
	fake := newFake(t)
	socket := fake.serve(t)
	out, _, _ := vrctl(t, socket, "", "get", "all", "-o", "yaml")
	if _, errs, code := vrctl(t, socket, out, "apply", "-f", "-"); code != 0 {
		t.Fatal(errs)
	}
	request, ok := fake.asked.(*vrouterv1.ApplyRequest)
	if !ok {
		t.Fatalf("asked %T", fake.asked)
	}
	if diff := cmp.Diff(fake.resources, request.GetUpserts(), protocmp.Transform(), protocmp.IgnoreFields(&vrouterv1.Resource{}, "owner", "generation")); diff != "" {
		t.Error(diff)
	}
}

// TestRequests holds flags to the fields that they fill.
func TestRequests(t *testing.T) {
	fake := newFake(t)
	socket := fake.serve(t)
	check := func(want any, args ...string) {
		t.Helper()
		if _, errs, code := vrctl(t, socket, goodDocument, args...); code != 0 {
			t.Fatalf("%v: %s", args, errs)
		}
		if diff := cmp.Diff(want, any(fake.asked), protocmp.Transform(), protocmp.IgnoreFields(&vrouterv1.ApplyRequest{}, "upserts")); diff != "" {
			t.Errorf("%v:\n%s", args, diff)
		}
	}
	check(&vrouterv1.ListFlowsRequest{Limit: 5, Filter: &vrouterv1.FlowFilter{Vrf: "pods", Source: "10.0.0.0/8", Destination: "10.96.0.10", Protocol: vrouterv1.Protocol_TCP, Port: 80,
		SourcePort: 1, DestinationPort: 2, VirtualMachineInterface: "web-1", FloatingIp: "web", State: "ESTABLISHED", Verdict: vrouterv1.Verdict_FORWARD, MinBytes: 9, Rule: "p/1"}},
		strings.Fields("flow list --limit 5 --vrf pods --src 10.0.0.0/8 --dst 10.96.0.10 --proto tcp --port 80 --sport 1 --dport 2 --vmi web-1 --fip web --state established --verdict forward --min-bytes 9 --rule p/1")...)
	check(&vrouterv1.ListFlowsRequest{}, "flow", "list", "-o", "json")
	check(&vrouterv1.ListFlowsRequest{Filter: &vrouterv1.FlowFilter{Protocol: 47}}, "flow", "list", "--proto", "47")
	check(&vrouterv1.ListFlowsRequest{Limit: 4, Filter: &vrouterv1.FlowFilter{Port: 80, FloatingIp: "web-node-port"}}, strings.Fields("flow list --svc shop/web --port 80 --limit 5")...)
	check(&vrouterv1.DeleteFlowsRequest{All: true}, "flow", "delete", "--all")
	check(&vrouterv1.ListDropsRequest{Reason: "NO_ROUTE", IncludeZero: true}, "drops", "--reason", "no_route", "--all")
	check(&vrouterv1.ExplainRequest{VirtualMachineInterface: "web-1", Source: "10.244.0.11", Destination: "10.96.0.10", Protocol: vrouterv1.Protocol_TCP, SourcePort: 4, DestinationPort: 80},
		strings.Fields("explain --vmi web-1 --src 10.244.0.11 --sport 4 --dst 10.96.0.10 --dport 80")...)
	check(&vrouterv1.ExplainRequest{VirtualMachineInterface: "vhost0", Destination: "fd00::1", Protocol: vrouterv1.Protocol_ICMP}, "explain", "--vmi", "vhost0", "--dst", "fd00::1")
	check(&vrouterv1.ApplyRequest{DryRun: true, ExpectedGeneration: 7, Prune: &vrouterv1.Prune{}}, "apply", "-f", "-", "--dry-run", "--prune", "--expect-generation", "7")
}

// TestPruneRefs refuses a reference to what the same call prunes.
func TestPruneRefs(t *testing.T) {
	socket := newFake(t).serve(t)
	const document = "kind: FloatingIP\nname: f\nspec: {address: 10.96.0.99, virtualNetwork: pods, virtualMachineInterfaces: [web-1]}\n"
	if _, errs, code := vrctl(t, socket, document, "apply", "-f", "-"); code != 0 {
		t.Errorf("without --prune: %s", errs)
	}
	// pods belongs to vrkube and stays; web-1 belongs to the operator and goes.
	_, errs, code := vrctl(t, socket, document, "apply", "-f", "-", "--prune")
	if code != exitError || !strings.Contains(errs, `<stdin>:3:78: spec.virtualMachineInterfaces[0]: there is no VirtualMachineInterface "web-1"`) {
		t.Errorf("with --prune: exit %d, %s", code, errs)
	}
}

// TestUnreachable tells apart why nobody answers.
func TestUnreachable(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "absent.sock")
	for _, args := range []string{"get vn", "drops", "explain --vmi a --dst 10.0.0.1"} {
		_, errs, code := vrctl(t, absent, "", strings.Fields(args)...)
		if code != exitError || !strings.Contains(errs, "why: the socket does not exist") || !strings.Contains(errs, "is vrouter running?") {
			t.Errorf("%s: exit %d, %s", args, code, errs)
		}
	}
	if _, _, code := vrctl(t, absent, "", "status"); code != exitUnhealthy {
		t.Errorf("status: exit %d, want %d", code, exitUnhealthy)
	}
	if out, _, code := vrctl(t, absent, "", "version"); code != 0 || !strings.Contains(out, "agent  unknown (") {
		t.Errorf("version: exit %d, %s", code, out)
	}
	_, errs, code := vrctl(t, "192.0.2.1:6000", "", "get", "vn")
	if code != exitError || !strings.Contains(errs, "only with mutual TLS") {
		t.Errorf("TCP without certificates: exit %d, %s", code, errs)
	}
}

// TestCompletion completes names from the live agent, and keeps quiet without one.
func TestCompletion(t *testing.T) {
	socket := newFake(t).serve(t)
	for args, want := range map[string]string{
		"get|": "VirtualNetwork", "get|fip|": "web-node-port", "delete|vmi|web-1|": "web-2", "explain|--vmi|": "vhost0", "explain|": "svc/shop/web", "explain|svc/shop/web|--from|": "web-2", "flow|list|--fip|": "web-node-port",
		"flow|list|--vrf|": "default:pods", "drops|--reason|": "NO_ROUTE", "status|-o|": "wide",
	} {
		out, _, _ := vrctl(t, socket, "", append([]string{"__complete"}, strings.Split(args, "|")...)...)
		if !strings.Contains(out, want) {
			t.Errorf("%s: %q is not among\n%s", args, want, out)
		}
	}
	out, errs, _ := vrctl(t, filepath.Join(t.TempDir(), "absent"), "", "__complete", "get", "fip", "")
	if strings.Contains(out+errs, "cannot") {
		t.Errorf("completion without an agent: %s%s", out, errs)
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out, _, code := vrctl(t, socket, "", "completion", shell); code != 0 || out == "" {
			t.Errorf("completion %s: exit %d", shell, code)
		}
	}
}

// TestColor paints only when asked.
func TestColor(t *testing.T) {
	socket := newFake(t).serve(t)
	for _, tc := range []struct {
		color bool
		args  []string
		want  bool
	}{{true, nil, true}, {false, nil, false}, {true, []string{"--no-color"}, false}} {
		var out bytes.Buffer
		args := append([]string{"--address", socket, "status"}, tc.args...)
		run(context.Background(), args, terminal{in: strings.NewReader(""), out: &out, err: &out, color: tc.color})
		if got := strings.Contains(out.String(), "\x1b["); got != tc.want {
			t.Errorf("%+v: coloured %v", tc, got)
		}
	}
}

// TestHelpBeginsWithAnExample holds every command to showing an example before it explains.
func TestHelpBeginsWithAnExample(t *testing.T) {
	for _, command := range []string{"", "apply", "delete", "get", "status", "drops", "flow", "flow list", "flow delete", "explain", "version"} {
		out, _, code := vrctl(t, "x/y", "", append(strings.Fields(command), "--help")...)
		if lines := strings.Split(out, "\n"); code != 0 || len(lines) < 4 || lines[2] != "Examples:" || !strings.HasPrefix(lines[3], "  vrctl ") {
			t.Errorf("vrctl %s --help: exit %d\n%s", command, code, out)
		}
	}
}
