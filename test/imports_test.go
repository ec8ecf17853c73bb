package test

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/vrouter-go/vrouter/"

// rule forbids packages, by prefix, among the dependencies of one package.
type rule struct {
	pkg       string
	forbidden []string
	direct    bool // judge only what the package's own files import
	why       string
}

var control = []string{module + "agent", module + "proto", module + "cmd", "google.golang.org/grpc", "google.golang.org/protobuf"}

var rules = []rule{
	{pkg: "flowtable", forbidden: []string{module}, why: "the flow table answers \"have I seen it?\" and knows no next hop, no policy, no port"},
	{pkg: "internal/header", forbidden: []string{module, "golang.org", "github.com"}, why: "wire formats stand on the standard library alone"},
	{pkg: "nexthop", forbidden: []string{module}, why: "next hops do not know what a flow or a port is"},
	{pkg: "internal/policy", forbidden: []string{module}, why: "policy is asked by the forwarder and asks nobody"},
	{pkg: "internal/nat", forbidden: []string{module}, why: "the port table knows endpoints, and no sessions or packets"},
	{pkg: "internal/port", forbidden: []string{module}, why: "the port contract stands below its drivers"},
	{pkg: "internal/uring", forbidden: []string{module}, why: "a ring knows descriptors and buffers, no frames"},
	{pkg: "forwarder", forbidden: control, why: "the engine must run without the agent, the API or gRPC"},
	{pkg: "forwarder", forbidden: []string{module + "internal/port/", "github.com/google/gopacket", "github.com/vishvananda"}, why: "the engine sees devices only through internal/port"},
	{pkg: "internal/statefile", forbidden: []string{module + "agent", module + "forwarder", module + "flowtable", module + "nexthop"}, why: "state files are read by vrctl, replay and the agent alike, without any of them"},
	{pkg: "internal/bfd", forbidden: []string{module + "agent", module + "proto", module + "cmd", module + "forwarder", module + "flowtable", module + "nexthop", module + "internal/policy", module + "internal/port", "google.golang.org"}, why: "watching other nodes is a matter of kernel sockets, not of the engine or the agent"},
	{pkg: "internal/cnifiles", forbidden: []string{module}, why: "putting two files onto a node needs nothing of what they are for"},
	{pkg: "internal/nodeport", forbidden: append([]string{module + "forwarder", module + "flowtable", module + "nexthop", module + "internal/port"}, control...), why: "what the kernel is told of mapped ports is told without desired state or the engine"},
	{pkg: "agent/underlay", forbidden: []string{module + "agent/compile", module + "agent/state", module + "forwarder", module + "proto"}, why: "what the kernel knows of the ways to other nodes is asked without desired state or the engine"},
	{pkg: "agent/client", forbidden: []string{module + "forwarder", module + "flowtable", module + "internal/port"}, why: "a client of the API must not carry the engine"},
	{pkg: "cmd/vrctl", forbidden: []string{module + "forwarder", module + "flowtable", module + "internal/port", module + "internal/netns"}, why: "the operator's tool talks to the daemon and never links the engine"},
	{pkg: "cmd/vrouter-cni", forbidden: []string{module + "forwarder", module + "flowtable", module + "nexthop", module + "internal/port", module + "agent/state", module + "agent/compile"}, why: "the plugin is started for each container and asks the daemon, which does the work"},
	{pkg: "internal/naming", forbidden: []string{module}, why: "the control plane and the plugin arrive at one name, without the rest of either"},
	{pkg: "controller/ingress", forbidden: append([]string{module + "forwarder", module + "internal"}, control[:3]...), why: "the Ingress proxy is a pod like any other: no agent sees TLS keys"},
	{pkg: "controller/ingress/routing", forbidden: []string{"k8s.io/client-go"}, why: "which rule answers is decided purely, of objects that somebody else has read"},
	{pkg: "controller/agentsync", forbidden: []string{module + "forwarder", module + "flowtable", module + "internal/port", module + "agent/state", "k8s.io"}, why: "who keeps an agent in step knows resources and the API, no cluster and no engine"},
	{pkg: "controller", forbidden: []string{module + "forwarder", module + "flowtable", module + "nexthop", module + "internal/port", module + "agent"}, why: "the control plane says what should be; the agent is told by controller/agentsync alone"},
	{pkg: "cmd/vrkube", forbidden: []string{module + "forwarder", module + "flowtable", module + "nexthop", module + "internal/port", module + "agent/state", module + "agent/compile"}, why: "the control plane talks to the daemon and never links the engine"},
	{pkg: "flowtable", direct: true, forbidden: []string{"log", "context"}, why: "nothing on the packet path logs or waits"},
	{pkg: "nexthop", direct: true, forbidden: []string{"fmt", "log", "context"}, why: "nothing on the packet path formats, logs or waits"},
	{pkg: "internal/header", direct: true, forbidden: []string{"fmt", "log", "context", "time"}, why: "nothing on the packet path formats, logs or reads the clock"},
	{pkg: "forwarder", direct: true, forbidden: []string{"log", "log/slog"}, why: "the engine counts and reports; the agent logs"},
}

// TestImports holds the layering that docs/ARCHITECTURE.md draws: imports point
// down only.
func TestImports(t *testing.T) {
	for _, r := range rules {
		for _, dep := range dependencies(t, r) {
			for _, f := range r.forbidden {
				if dep == f || strings.HasPrefix(dep, strings.TrimSuffix(f, "/")+"/") || f == module && strings.HasPrefix(dep, module) {
					t.Errorf("%s imports %s: %s", r.pkg, dep, r.why)
				}
			}
		}
	}
}

// dependencies lists what a package imports, by itself or through others.
func dependencies(t *testing.T, r rule) []string {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=Imports,Deps", module+r.pkg).Output()
	if err != nil {
		t.Fatalf("go list %s: %v", r.pkg, err)
	}
	var p struct{ Imports, Deps []string }
	if err := json.Unmarshal(out, &p); err != nil {
		t.Fatal(err)
	}
	if r.direct {
		return p.Imports
	}
	return p.Deps
}
