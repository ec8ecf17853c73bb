package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// emptyCluster answers as an apiserver of a cluster without objects, one that does
// not know streaming lists.
func emptyCluster(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		q := r.URL.Query()
		switch {
		case q.Get("watch") == "":
			fmt.Fprint(w, `{"kind":"List","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}`)
		case q.Get("sendInitialEvents") != "":
			w.WriteHeader(http.StatusUnprocessableEntity)
			fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422}`)
		default:
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// execute runs a command line until ctx ends or it fails.
func execute(ctx context.Context, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := root()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	err := cmd.ExecuteContext(ctx)
	return out.String(), err
}

// TestRun runs the whole command against an apiserver and no agent: it lives, says
// that it is not ready and why, counts, and ends when asked.
func TestRun(t *testing.T) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	dir := t.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(kubeconfig, fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Config","current-context":"c",
"clusters":[{"name":"c","cluster":{"server":%q}}],"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],"users":[{"name":"u","user":{}}]}`, emptyCluster(t).URL), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "metrics.sock")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := execute(ctx, "run", "--node", "node-1", "--kubeconfig", kubeconfig, "--agent", filepath.Join(dir, "no-agent.sock"), "--metrics", "unix:"+socket)
		done <- err
	}()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	get := func(path string) (int, string) {
		answer, err := (&http.Client{Transport: transport}).Get("http://vrkube" + path)
		if err != nil {
			return 0, err.Error()
		}
		defer answer.Body.Close()
		b, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Error(err)
		}
		return answer.StatusCode, string(b)
	}
	eventually(t, "it lives", func() bool { code, _ := get("/livez"); return code == http.StatusOK })
	eventually(t, "it says that the agent is away, so it has read the cluster", func() bool {
		code, body := get("/readyz")
		return code == http.StatusServiceUnavailable && strings.Contains(body, "out of reach")
	})
	if code, _ := get("/healthz"); code != http.StatusServiceUnavailable {
		t.Errorf("healthz answers %d", code)
	}
	_, metrics := get("/metrics")
	for _, want := range []string{`vrkube_apiserver_requests_total{code="200",verb="get"}`, "vrkube_sync_connected 0", `vrkube_desired_resources{kind="VirtualNetwork"}`, "process_resident_memory_bytes"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s among the metrics", want)
		}
	}
	documented(t, metrics)
	transport.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

// documented holds that docs/METRICS.md lists every metric.
func documented(t *testing.T, metrics string) {
	t.Helper()
	doc, err := os.ReadFile("../../docs/METRICS.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (vrkube_\S+)`).FindAllStringSubmatch(metrics, -1) {
		if !bytes.Contains(doc, []byte("`"+m[1]+"`")) {
			t.Errorf("%s is not in docs/METRICS.md", m[1])
		}
	}
}

func TestWrongCommandLines(t *testing.T) {
	for args, says := range map[string]string{
		"run --pod-cidr 10.244.0.1/24":       `--pod-cidr: "10.244.0.1/24"`,
		"run --service-cidr x":               "--service-cidr",
		"run --node-port-addresses 10.0.0.0": "--node-port-addresses",
		"run --node-addresses x":             "--node-addresses",
		"run --mtu 100":                      "1280",
		"run --metrics 0.0.0.0:9470":         "loopback",
		"run --log-level loud":               "--log-level",
		"run --log-format xml":               "--log-format",
		"run --kubeconfig /no/such/file":     "/no/such/file",
		"run":                                "give --kubeconfig",
		"run --no-such-flag":                 "unknown flag",
		"walk":                               "unknown command",
	} {
		_, err := execute(t.Context(), strings.Fields(args)...)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", args, err, says)
		}
	}
	t.Setenv("NODE_NAME", "from-the-pod")
	o := &options{metrics: "127.0.0.1:0", logLevel: "info", logFormat: "text"}
	if err := o.complete(); err != nil || o.node != "from-the-pod" {
		t.Errorf("node %q, %v", o.node, err)
	}
	if out, err := execute(t.Context(), "version"); err != nil || !strings.HasPrefix(out, "vrkube  ") {
		t.Errorf("version says %q, %v", out, err)
	}
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("did not come to pass: " + what)
		}
	}
}
