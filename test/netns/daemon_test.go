package netns_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// TestRestart: after SIGTERM and after SIGKILL the daemon forwards as before,
// without a controller, on the same devices.
func TestRestart(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{offloads: true}) // the kernel turns them on again when queues are attached
	links := func() string {
		return h.run("client", "ip", "-o", "link", "show", "eth0")[:8] + h.run("web-1", "ip", "-o", "link", "show", "eth0")[:8]
	}
	before, generation := links(), h.status().GetGeneration().GetNumber()
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		h.conserve()
		h.stop(signal)
		h.start()
		h.waitPorts()
		s := h.status()
		if s.GetGeneration().GetNumber() != generation || s.GetPersistence().GetRestoredGeneration() != generation {
			t.Errorf("after %v: generation %v, restored %d; want %d", signal, s.GetGeneration(), s.GetPersistence().GetRestoredGeneration(), generation)
		}
		for _, a := range families {
			got := map[string]bool{}
			for range 30 {
				server, seen := h.get(t, "client", at(a.service, 80))
				if got[server] = true; seen != a.client {
					t.Fatalf("after %v: %s saw %s", signal, server, seen)
				}
			}
			if len(got) != 3 {
				t.Errorf("after %v: %v answered", signal, got)
			}
			h.get(t, "node", at(a.web[0], webPort))
		}
	}
	if now := links(); now != before {
		t.Errorf("devices are others than before: %s, were %s", now, before)
	}
}

// TestSecondDaemon: a second daemon on the same socket says so and ends; the first
// does not notice.
func TestSecondDaemon(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{})
	x := h.begin(t, "client", at("10.96.0.10", sinkPort))
	out, err := h.try("node", filepath.Join(work, "bin", "vrouter"), "run", "--config", h.path("vrouter.yaml"))
	if err == nil || !strings.Contains(out, "another vrouter runs on it") || !strings.Contains(out, fmt.Sprint(h.daemon.Process.Pid)) {
		t.Errorf("the second daemon: %v\n%s", err, out)
	}
	if err := x.send(1 << 20); err != nil {
		t.Error(err)
	}
	if _, err := x.finish(); err != nil {
		t.Error(err)
	}
	h.waitPorts()
}

// TestCorruptState: a damaged state file is not believed: the one before holds; with
// that gone too the daemon says what to do and does not start with nothing.
func TestCorruptState(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{offloads: true}) // as in TestRestart
	h.stop(syscall.SIGTERM)
	h.start() // two copies now
	h.waitPorts()
	h.stop(syscall.SIGTERM)
	damage := func(name string) {
		t.Helper()
		path := filepath.Join(h.dir, "state", name)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 0xff
		if err := os.WriteFile(path, b, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	damage("state")
	h.start()
	h.waitPorts()
	for _, a := range families {
		h.get(t, "client", at(a.service, 80))
	}
	if !strings.Contains(h.log(), "state was damaged") {
		t.Error("the log does not say that the state was damaged")
	}
	h.stop(syscall.SIGTERM)
	damage("state")
	damage("state.old")
	out, err := h.try("node", filepath.Join(work, "bin", "vrouter"), "run", "--config", h.path("vrouter.yaml"))
	if err == nil || !strings.Contains(out, filepath.Join(h.dir, "state")) || !strings.Contains(out, "checksum") {
		t.Errorf("with both copies damaged: %v\n%s", err, out)
	}
}

// TestVrctl: exit codes, and a wrong state file changes nothing.
func TestVrctl(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{})
	generation := h.status().GetGeneration().GetNumber()
	bad := h.write("bad.yaml", "kind: FloatingIP\nname: web\nspec:\n  address: 10.96.0.10\n  virtualNetwork: nowhere\n  virtualMachineInterfaces: [web-1]\n")
	typo := h.write("typo.yaml", "kind: VirtualNetwork\nname: more\nspec:\n  subnet:\n    - {prefix: 10.9.0.0/24}\n")
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"status", 0, "health"},
		{"get vmi", 0, "web-2"},
		{"get vmi web-1 -o json", 0, `"web-1"`},
		{"get fip web -o yaml", 0, "10.96.0.10"},
		{"get vmi nobody", 3, "nobody"},
		{"delete vmi nobody", 3, "nobody"},
		{"get nonsense", 2, "nonsense"},
		{"status --nonsense", 2, "nonsense"},
		{"flow list --proto tcp -o json", 0, ""},
		{"drops", 0, ""},
		{"explain --vmi client --dst 10.96.0.10 --proto tcp --dport 80", 0, "FORWARD"},
		{"explain --vmi nobody --dst 10.96.0.10 --proto tcp --dport 80", 3, "nobody"},
		{"apply -f " + bad, 1, bad + ":5:19"},
		{"apply -f " + typo, 1, typo + ":4:3"},
		{"apply --dry-run -f " + h.write("more.yaml", "kind: VirtualNetwork\nname: more\nspec: {}\n"), 0, "more"},
	} {
		out, code := h.vrctl(strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("vrctl %s: exit %d; want %d and %q in\n%s", c.args, code, c.code, c.want, out)
		}
	}
	if now := h.status().GetGeneration().GetNumber(); now != generation {
		t.Errorf("generation %d; want %d as before", now, generation)
	}
	for _, a := range families {
		h.get(t, "client", at(a.service, 80))
	}
	h.conserve()
	h.stop(syscall.SIGTERM)
	if out, code := h.vrctl("status"); code != 4 || !strings.Contains(out, h.socket()) {
		t.Errorf("status without a daemon: exit %d\n%s", code, out)
	}
	if out, code := h.vrctl("get", "vmi"); code != 1 || !strings.Contains(out, h.socket()) {
		t.Errorf("get without a daemon: exit %d\n%s", code, out)
	}
}

// TestRoles: who may not open the socket is kept out by the kernel; who may is a
// viewer and changes nothing.
func TestRoles(t *testing.T) {
	t.Parallel()
	need(t, "setpriv")
	if _, err := user.LookupGroup("nogroup"); err != nil {
		t.Skip("SKIP-TOOL: this system has no group nogroup")
	}
	as := func(h *host, args ...string) (string, int) {
		return program(t, "setpriv", append([]string{
			"--reuid=nobody", "--regid=nogroup", "--clear-groups", filepath.Join(work, "bin", "vrctl"), "--address", h.socket(),
		}, args...)...)
	}
	closed := newHost(t, options{bare: true})
	if out, code := as(closed, "status"); code != 4 || !strings.Contains(out, "may not use the socket") {
		t.Errorf("nobody: exit %d\n%s", code, out)
	}
	open := newHost(t, options{bare: true, config: "socketGroup: nogroup\n"})
	if out, code := as(open, "status"); code != 0 {
		t.Errorf("nobody as a viewer: exit %d\n%s", code, out)
	}
	network := open.write("more.yaml", "kind: VirtualNetwork\nname: more\nspec: {}\n")
	if out, code := as(open, "apply", "-f", network); code != 1 || !strings.Contains(out, "operator") {
		t.Errorf("apply by nobody: exit %d\n%s", code, out)
	}
	if out, code := as(open, "flow", "delete", "--all"); code == 0 {
		t.Errorf("flow delete by nobody: exit %d\n%s", code, out)
	}
	if !strings.Contains(open.log(), "call refused") {
		t.Error("the refusal is not in the log")
	}
	operator := newHost(t, options{bare: true, config: "socketGroup: nogroup\nroles: {operators: {users: [nobody]}}\n"})
	if out, code := as(operator, "apply", "-f", network); code != 0 {
		t.Errorf("apply by nobody as an operator: exit %d\n%s", code, out)
	}
}

// TestMetrics: what /metrics says can be parsed, agrees with the status, and its
// size does not follow the traffic.
func TestMetrics(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{})
	scrape := func() map[string]string {
		c := http.Client{Timeout: patience, Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			return net.Dial("unix", h.path("metrics.sock"))
		}}}
		answer, err := c.Get("http://metrics/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		b, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("%s, %v", answer.Status, err)
		}
		return parseMetrics(t, string(b))
	}
	h.get(t, "client", at("10.96.0.10", 80))
	before := scrape()
	for range 50 {
		h.get(t, "client", at("10.96.0.10", 80))
	}
	after := scrape()
	for name := range after {
		if _, ok := before[name]; !ok && strings.HasPrefix(name, "vrouter_") && !strings.HasPrefix(name, "vrouter_drops_total") {
			t.Errorf("50 flows made a new series: %s", name)
		}
	}
	for name, want := range map[string]string{`vrouter_port_up{interface="web-1"}`: "1", `vrouter_resources{kind="VirtualNetwork"}`: "3"} {
		if after[name] != want {
			t.Errorf("%s is %q; want %s", name, after[name], want)
		}
	}
	if a, b := before["vrouter_sessions_created_total"], after["vrouter_sessions_created_total"]; a == b || b == "" {
		t.Errorf("sessions created: %s, then %s", a, b)
	}
}

// sample is a line of the text format.
var sample = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*(?:\{(?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\]|\\.)*",?)*\})?) (\S+)$`)

// parseMetrics reads the text format and refuses labels that follow the traffic.
func parseMetrics(t *testing.T, text string) map[string]string {
	t.Helper()
	values := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		m := sample.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("not the text format: %q", line)
		}
		values[m[1]] = m[2]
		for _, address := range []string{"10.244.", "203.0.113.", "fd00:"} {
			if strings.Contains(m[1], address) {
				t.Errorf("an address in a label: %s", line)
			}
		}
	}
	return values
}
