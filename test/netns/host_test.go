package netns_test

import (
	"context"
	_ "embed" // the standard host's state
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vrouter-go/vrouter/agent/client"
	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/internal/statefile"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

//go:embed state.yaml
var standardState string

// patience is how long a test waits for a condition.
const patience = 15 * time.Second

// The standard host's addresses, IPv4 and IPv6 side by side.
type addresses struct {
	family                            string
	client, node, gateway, podGateway string
	web                               [3]string
	service                           string
	prefix                            string // of an address by itself: /32 or /128
	ipFlag                            string // of ping and its like
}

var families = [2]addresses{{
	family: "v4", client: "203.0.113.7", node: "192.0.2.10", gateway: "203.0.113.1", podGateway: "10.244.0.1",
	web: [3]string{"10.244.0.11", "10.244.0.12", "10.244.0.13"}, service: "10.96.0.10", prefix: "/32", ipFlag: "-4",
}, {
	family: "v6", client: "2001:db8:113::7", node: "2001:db8:10::10", gateway: "2001:db8:113::1", podGateway: "fd00:244::1",
	web: [3]string{"fd00:244::11", "fd00:244::12", "fd00:244::13"}, service: "fd00:96::10", prefix: "/128", ipFlag: "-6",
}}

// eachFamily runs a test for IPv4 and IPv6, one after the other.
func eachFamily(t *testing.T, f func(t *testing.T, a addresses)) {
	for _, a := range families {
		t.Run(a.family, func(t *testing.T) { f(t, a) })
	}
}

var hosts atomic.Int32

// host is a daemon with its namespaces and the workloads in them.
type host struct {
	t        *testing.T
	dir      string // configuration, socket, state, log and captures
	name     string // how its namespaces begin, without the prefix and process
	roles    []string
	api      *client.Client
	daemon   *exec.Cmd // nil: not running
	taps     []*capture
	offloads bool
	node     string // what the servers of the role node call themselves; "": node
}

// options change the standard host.
type options struct {
	state  string   // "": standardState
	config string   // added to the configuration
	roles  []string // namespaces beside client, node and web-1 to web-3
	bare   bool     // no servers, no captures: the test starts what it needs
	// offloads leaves checksum and segmentation offload on in the guests.
	offloads bool
}

// newHost starts the standard host, waits until every port is up, and promises
// the checks of the end (judge_test.go).
func newHost(t *testing.T, o options) *host {
	t.Helper()
	need(t, "tcpdump", "tshark", "mergecap", "ip", "ethtool")
	h := &host{t: t, name: fmt.Sprint(hosts.Add(1)), offloads: o.offloads, roles: append([]string{"client", "node", "web-1", "web-2", "web-3"}, o.roles...)}
	h.found(o.config)
	h.start()
	t.Cleanup(h.end)
	state := o.state
	if state == "" {
		state = standardState
	}
	h.apply(state)
	h.waitPorts()
	for _, role := range h.roles[:5] {
		if !o.offloads {
			h.run(role, "ethtool", "-K", device(role), "tx", "off")
		}
	}
	if !o.bare {
		for _, role := range []string{"web-1", "web-2", "web-3"} {
			h.serve(role)
		}
		for _, role := range h.roles[:5] {
			h.capture(role)
		}
	}
	return h
}

// found makes the host's directory and namespaces, and what the daemon and its
// clients are told: config is added to the configuration.
func (h *host) found(config string) {
	h.t.Helper()
	h.dir = filepath.Join(work, h.name)
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		h.t.Fatal(err)
	}
	for _, role := range h.roles {
		if _, err := netns.Create(h.ns(role)); err != nil {
			h.t.Fatal(err)
		}
		h.t.Cleanup(func() {
			if err := netns.Delete(h.ns(role)); err != nil {
				h.t.Error(err)
			}
		})
	}
	text := fmt.Sprintf("node: e2e\nsocket: %[1]s/vrouter.sock\nstateDir: %[1]s/state\nmetrics: {socket: %[1]s/metrics.sock}\n", h.dir)
	if !strings.Contains(config, "forwarder:") {
		text += "forwarder: {workers: 2, sessions: 65536}\n"
	}
	h.write("vrouter.yaml", text+config)
	api, err := client.New(client.Config{Address: h.socket()})
	if err != nil {
		h.t.Fatal(err)
	}
	h.api = api
	h.t.Cleanup(func() { api.Close() })
}

// device returns the name of a role's device.
func device(role string) string {
	if role == "node" {
		return "vhost0"
	}
	return "eth0"
}

// ns returns the name of a role's namespace.
func (h *host) ns(role string) string { return netns.Name(prefix, h.name+"-"+role) }

func (h *host) socket() string { return filepath.Join(h.dir, "vrouter.sock") }

// path returns the path of one of the host's files.
func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

// write writes one of the host's files and returns its path.
func (h *host) write(name, text string) string {
	h.t.Helper()
	path := h.path(name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// start starts the daemon and waits until it answers.
func (h *host) start() {
	h.t.Helper()
	h.launch()
	h.answers()
}

// launch starts the daemon.
func (h *host) launch() {
	h.t.Helper()
	log, err := os.OpenFile(h.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(work, "bin", "vrouter"), "run", "--config", h.path("vrouter.yaml"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := netns.Start(h.ns("node"), cmd); err != nil {
		h.t.Fatal(err)
	}
	h.daemon = cmd
}

// answers waits until the daemon answers.
func (h *host) answers() {
	h.t.Helper()
	h.until("the daemon answers", func() bool {
		_, err := h.api.Status(context.Background())
		return err == nil
	})
}

// stop ends the daemon by a signal and waits for its end.
func (h *host) stop(signal syscall.Signal) {
	h.t.Helper()
	cmd := h.daemon
	h.daemon = nil
	if err := cmd.Process.Signal(signal); err != nil {
		h.t.Errorf("signal to the daemon: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if signal != syscall.SIGKILL && err != nil {
			h.t.Errorf("the daemon ended with %v after %v", err, signal)
		}
	case <-time.After(patience):
		_ = cmd.Process.Signal(syscall.SIGQUIT) // its goroutines go to the log
		h.t.Errorf("the daemon did not end %v after %v: %v", patience, signal, <-ended)
	}
}

// log returns what the daemon has logged.
func (h *host) log() string {
	text, err := os.ReadFile(h.path("log"))
	if err != nil {
		h.t.Error(err)
	}
	return string(text)
}

// parse reads a state file with @NS@ in it.
func (h *host) parse(state string) []*pb.Resource {
	h.t.Helper()
	existing := []*pb.Resource{}
	if list, _, err := h.api.List(context.Background(), &pb.ListRequest{}); err == nil {
		existing = list
	}
	documents, err := statefile.Parse([]statefile.Source{{Name: "test.yaml", Data: []byte(h.expand(state))}}, existing)
	if err != nil {
		h.t.Fatal(err)
	}
	var resources []*pb.Resource
	for _, d := range documents {
		resources = append(resources, d.Resource)
	}
	return resources
}

func (h *host) expand(state string) string {
	return strings.ReplaceAll(state, "@NS@", netns.Path(netns.Name(prefix, h.name)))
}

// apply changes desired state by a state file.
func (h *host) apply(state string) {
	h.t.Helper()
	if _, err := h.api.Apply(context.Background(), &pb.ApplyRequest{Upserts: h.parse(state)}); err != nil {
		h.t.Fatalf("apply: %v", err)
	}
}

// change replaces parts of the standard state: old and new texts in turn.
func change(pairs ...string) string {
	state := standardState
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(state, pairs[i]) {
			panic("the standard state has no " + pairs[i])
		}
		state = strings.ReplaceAll(state, pairs[i], pairs[i+1])
	}
	return state
}

// remove deletes resources: kind and name in turn.
func (h *host) remove(pairs ...string) {
	h.t.Helper()
	request := &pb.ApplyRequest{}
	for pair := range slices.Chunk(pairs, 2) {
		request.Deletes = append(request.Deletes, &pb.ResourceKey{Kind: pair[0], Name: pair[1]})
	}
	if _, err := h.api.Apply(context.Background(), request); err != nil {
		h.t.Fatalf("delete: %v", err)
	}
}

// status returns the daemon's status.
func (h *host) status() *pb.GetStatusResponse {
	h.t.Helper()
	status, err := h.api.Status(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	return status
}

// port returns the status of a port.
func (h *host) port(name string) *pb.PortStatus {
	h.t.Helper()
	for _, p := range h.status().GetPorts() {
		if p.GetName() == name {
			return p
		}
	}
	h.t.Fatalf("no port %s", name)
	return nil
}

// waitPorts waits until every port has its device.
func (h *host) waitPorts() {
	h.t.Helper()
	h.until("every port is up", func() bool {
		return !slices.ContainsFunc(h.status().GetPorts(), func(p *pb.PortStatus) bool { return p.GetState() != pb.PortStatus_UP })
	})
}

// drops returns how many packets of an interface ("": all) ended for a reason.
func (h *host) drops(itf, reason string) (n uint64) {
	h.t.Helper()
	answer, err := h.api.ListDrops(context.Background(), &pb.ListDropsRequest{Interface: itf, Reason: reason})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, d := range answer.GetDrops() {
		n += d.GetPackets()
	}
	return n
}

// flows returns the live sessions that match.
func (h *host) flows(filter *pb.FlowFilter) (flows []*pb.Flow) {
	h.t.Helper()
	for flow, err := range h.api.ListFlows(context.Background(), &pb.ListFlowsRequest{Filter: filter}) {
		if err != nil {
			h.t.Fatal(err)
		}
		flows = append(flows, flow)
	}
	return flows
}

// until waits for a condition.
func (h *host) until(what string, ok func() bool) { h.t.Helper(); until(h.t, what, ok) }

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("gave up after %v waiting: %s", patience, what)
		}
	}
}

// try runs a program in a role's namespace and returns its output.
func (h *host) try(role string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := netns.Start(h.ns(role), cmd)
	if err == nil {
		err = cmd.Wait()
	}
	return out.String(), err
}

// run is try for a program that must succeed.
func (h *host) run(role string, args ...string) string {
	h.t.Helper()
	out, err := h.try(role, args...)
	if err != nil {
		h.t.Fatalf("%s: %s: %v\n%s", role, strings.Join(args, " "), err, out)
	}
	return out
}

// background starts a program that ends with the test.
func (h *host) background(role string, args ...string) *exec.Cmd {
	h.t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	if err := netns.Start(h.ns(role), cmd); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	return cmd
}

// vrctl runs vrctl against the daemon and returns output and exit code.
func (h *host) vrctl(args ...string) (out string, code int) {
	h.t.Helper()
	return program(h.t, filepath.Join(work, "bin", "vrctl"), append([]string{"--address", h.socket()}, args...)...)
}

// program runs a program in our own namespace and returns output and exit code.
func program(t *testing.T, name string, args ...string) (out string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	b, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatalf("%s: %v", name, err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}
