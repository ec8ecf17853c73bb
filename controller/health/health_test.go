package health

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/vrouter-go/vrouter/controller/agentsync"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestProbe(t *testing.T) {
	ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
	good := agentsync.Status{Connected: true, Synced: true, Ready: true, Desired: 3, Since: ago(time.Hour)}
	for _, tc := range []struct {
		name              string
		change            func(*agentsync.Status)
		node              string
		live, ready, well bool
		says              string
	}{
		{"in step", func(*agentsync.Status) {}, "", true, true, true, ""},
		{"before the cluster is read", func(s *agentsync.Status) { *s = agentsync.Status{} }, "", true, false, false, "have not been read"},
		{"before the agent is there", func(s *agentsync.Status) { *s = agentsync.Status{Desired: 1, Broken: "no socket"} }, "", true, false, false, "no socket"},
		{"before the first snapshot", func(s *agentsync.Status) { s.Ready = false }, "", true, false, false, "first snapshot"},
		{"the agent restarts", func(s *agentsync.Status) { s.Connected, s.Since = false, ago(time.Second) }, "", true, true, true, ""},
		{"the agent is away", func(s *agentsync.Status) { s.Connected, s.Since = false, ago(time.Minute) }, "", true, false, false, "out of reach since"},
		{"a change waits", func(s *agentsync.Status) { s.Waiting = ago(time.Second) }, "", true, true, true, ""},
		{"a change waits long", func(s *agentsync.Status) { s.Waiting = ago(2 * time.Minute) }, "", true, false, false, "not taken up"},
		{"a change waits for ever", func(s *agentsync.Status) { s.Waiting = ago(time.Hour) }, "", false, false, false, "not taken up"},
		{"the node goes", func(*agentsync.Status) {}, "the node is being deleted", true, true, false, "being deleted"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			st := good
			tc.change(&st)
			h := Probe{Sync: func() agentsync.Status { return st }, Node: func() string { return tc.node }}.Handler(nil)
			for path, ok := range map[string]bool{"/livez": tc.live, "/readyz": tc.ready, "/healthz": tc.well} {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
				var v verdict
				if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
					t.Fatal(err)
				}
				if (w.Code == http.StatusOK) != ok || v.OK != ok || (v.Reason == "") != ok {
					t.Errorf("%s answers %d %+v, want well: %v", path, w.Code, v, ok)
				}
				if path == "/healthz" && (!strings.Contains(v.Reason, tc.says) || *v.NodeEligible != (tc.node == "")) {
					t.Errorf("healthz says %+v, want %q", v, tc.says)
				}
			}
		})
	}
}

func TestNode(t *testing.T) {
	client := fake.NewClientset()
	n, err := NewNode(client, "node-1")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	nodes := client.CoreV1().Nodes()
	says := func(what string) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !(what == "" && n.Ineligible() == "") && (what == "" || !strings.Contains(n.Ineligible(), what)); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("says %q, want %q", n.Ineligible(), what)
			}
		}
	}
	put := func(change func(*corev1.Node)) {
		t.Helper()
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}
		change(node)
		if _, err := nodes.Update(ctx, node, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"node-1", "node-2"} {
		if _, err := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	put(func(o *corev1.Node) { o.Spec.Taints = []corev1.Taint{{Key: toBeDeleted}} })
	says("autoscaler")
	put(func(*corev1.Node) {})
	says("")
	now := metav1.Now()
	put(func(o *corev1.Node) { o.DeletionTimestamp = &now })
	says("being deleted")
	put(func(*corev1.Node) {})
	says("")
	for _, name := range []string{"node-2", "node-1"} {
		if err := nodes.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	says("has been deleted")
}

// TestAPIServer counts a watch that breaks, one that we end, and an apiserver that
// does not answer.
func TestAPIServer(t *testing.T) {
	cut := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("watch") == "" {
			return
		}
		w.(http.Flusher).Flush()
		select {
		case <-cut:
			panic(http.ErrAbortHandler)
		case <-r.Context().Done():
		}
	}))
	a := NewAPIServer()
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	client := &http.Client{Transport: a.Wrap(base)}
	get := func(query string) *http.Response {
		t.Helper()
		answer, err := client.Get(server.URL + query)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	get("/").Body.Close()
	ours := get("/?watch=1")
	ours.Body.Close()
	theirs := get("/?watch=true")
	close(cut)
	if _, err := io.ReadAll(theirs.Body); err == nil {
		t.Fatal("the watch did not break")
	}
	theirs.Body.Close()
	server.Close()
	if answer, err := client.Get(server.URL); err == nil {
		answer.Body.Close()
		t.Fatal("a closed server answers")
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(a)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := []string{strings.TrimPrefix(f.GetName(), "vrkube_apiserver_")}
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			got[strings.Join(labels, " ")] = m.GetCounter().GetValue()
		}
	}
	want := map[string]float64{
		"disconnects_total watch": 1, "disconnects_total connect": 1,
		"requests_total 200 get": 1, "requests_total 200 watch": 2, "requests_total 0 get": 1,
	}
	if !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}

func TestServe(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "metrics.sock")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	p := Probe{Sync: func() agentsync.Status { return agentsync.Status{} }}
	go func() { done <- Serve(ctx, "unix:"+socket, p.Handler(prometheus.NewRegistry())) }()
	transport := &http.Transport{DialContext: unixDialer(socket)}
	client := &http.Client{Transport: transport}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		answer, err := client.Get("http://vrkube/metrics")
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode != http.StatusOK {
				t.Errorf("metrics answer %s", answer.Status)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	transport.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := Serve(t.Context(), "256.0.0.1:1", nil); err == nil {
		t.Error("served where nothing can be")
	}
	for address, ok := range map[string]bool{"127.0.0.1:9470": true, "[::1]:1": true, "localhost:1": true, "unix:/x": true, "": true, "0.0.0.0:1": false, ":1": false, "127.0.0.1": false, "192.0.2.1:1": false} {
		if err := CheckMetricsAddress(address); (err == nil) != ok {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func unixDialer(socket string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
}
