//go:build linux

package control

import (
	"context"
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/vrouter-go/vrouter/internal/figure"
)

var (
	benchmark = flag.String("bench.size", "tiny", "tiny, quick or full: how much TestControl measures")
	binaries  = flag.String("bench.bin", "", "directory of the programs that TestControl measures; empty: they are built")
	kube      = flag.String("bench.kube", "", "directory of kube-apiserver and kube-proxy; empty: what needs them is left out")
	only      = flag.String("bench.only", "", "parts that TestControl measures, by commas; empty: all")
)

// tiny touches every part and measures none.
var tiny = size{
	applies: 1, applied: 20, services: 50, routes: 100, commits: 4, changes: 6, changeGap: 5,
	restarts: 1, rounds: 1, phase: 300 * time.Millisecond, sessions: 5000, ports: 50, idle: 200 * time.Millisecond, rate: 2000, collections: 1,
	cluster: 50, clusterPhase: 2 * time.Second,
}

// TestControl runs every part at a size that says nothing about speed: figures
// come out in shape, and nothing is lost. With -bench.size it is the benchmark by
// itself.
func TestControl(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIP-PRIVILEGED: network namespaces and TAP devices need root")
	}
	s, ok := map[string]size{"tiny": tiny, "quick": quick, "full": full}[*benchmark]
	if !ok {
		t.Fatalf("-bench.size %s: must be tiny, quick or full", *benchmark)
	}
	bin := *binaries
	if bin == "" {
		bin = t.TempDir()
		build := exec.Command("go", "build", "-o", bin+"/", "../../../cmd/...")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
	}
	o := Options{Vrouter: filepath.Join(bin, "vrouter"), Vrctl: filepath.Join(bin, "vrctl"), Vrkube: filepath.Join(bin, "vrkube"), KubeBinaries: *kube, Log: t.Logf}
	if *only != "" {
		o.Only = strings.Split(*only, ",")
	}
	figures, err := run(context.Background(), o, s)
	if err != nil {
		t.Fatal(err)
	}
	if s == tiny && *only == "" {
		judge(t, figures)
	}
}

// TestFillCluster holds that the objects which an apiserver is filled with are those
// of a cluster of the size that the figures name, and that a second fill changes
// nothing.
func TestFillCluster(t *testing.T) {
	cluster := fake.NewClientset()
	for range 2 {
		if _, err := fillCluster(t.Context(), cluster, 5, 30); err != nil {
			t.Fatal(err)
		}
	}
	nodes, err := cluster.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 6 {
		t.Errorf("%d nodes, %v", len(nodes.Items), err)
	}
	for _, n := range nodes.Items {
		if _, err := netip.ParsePrefix(n.Spec.PodCIDR); err != nil || len(n.Status.Addresses) != 1 {
			t.Errorf("node %s: %q, addresses %v", n.Name, n.Spec.PodCIDR, n.Status.Addresses)
		}
	}
	list, err := cluster.DiscoveryV1().EndpointSlices(shop).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 31 {
		t.Fatalf("%d slices, %v", len(list.Items), err)
	}
	seen := map[string]bool{}
	for _, s := range list.Items {
		for _, e := range s.Endpoints {
			if _, err := netip.ParseAddr(e.Addresses[0]); err != nil || (*e.NodeName == benchNode) != (s.Name == probe+"-1") {
				t.Errorf("endpoint %v: %v", e, err)
			}
			seen[s.Name+e.Addresses[0]] = true
		}
	}
	if len(seen) != 30*clusterMembers+1 {
		t.Errorf("%d endpoints, want %d", len(seen), 3*clusterMembers)
	}
}

func TestBucketQuantile(t *testing.T) {
	m := map[string]float64{`x_bucket{le="0.01"}`: 90, `x_bucket{le="0.001"}`: 50, `x_bucket{le="+Inf"}`: 100, `x_bucket{le="0.1"}`: 99, "x_count": 100, `y_bucket{le="1"}`: 1}
	for q, want := range map[float64]float64{0.5: 0.001, 0.9: 0.01, 0.99: 0.1} {
		if got := bucketQuantile(m, "x", q); got != want {
			t.Errorf("%v of them: at most %v, want %v", q, got, want)
		}
	}
}

// judge looks at the shape of the figures and at what no machine may lose.
func judge(t *testing.T, figures []figure.Figure) {
	t.Helper()
	for _, name := range []string{
		"control/apply/20-services-of-10", "control/restart/kill", "control/change/first-packet-p99", "control/commit/route-at-100-routes",
		"control/loss/churn", "control/loss/flow-list", "control/latency-p99/churn", "control/fairness/latency-p99",
		"control/ports/rate-of-a-pair-at-50", "control/memory/session",
		"kube/cold-start/50-services-of-10", "kube/resync/50-services-of-10", "kube/memory/daemon/50-services-of-10", "kube/change/first-packet-p99",
	} {
		if !slices.ContainsFunc(figures, func(f figure.Figure) bool { return f.Name == name }) {
			t.Errorf("no figure %s", name)
		}
	}
	for _, f := range figures {
		switch {
		case f.Unit == "" || f.Runs == 0:
			t.Errorf("%s: unit %q, %d runs", f.Name, f.Unit, f.Runs)
		case strings.HasPrefix(f.Name, "control/loss/") && f.Spread != [2]float64{}:
			t.Errorf("%s: %v packets, %v", f.Name, f.Spread, f.Detail)
		case f.Unit == "ms" && f.Ours <= 0:
			t.Errorf("%s: %v ms", f.Name, f.Ours)
		}
	}
}
