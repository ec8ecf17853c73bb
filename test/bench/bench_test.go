package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vrouter-go/vrouter/internal/figure"
	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/test/bench/load"
	"github.com/vrouter-go/vrouter/test/bench/peer"
)

// The test binary plays the load's roles when it is told to, as the benchmark does.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == load.Command {
		if err := load.Main(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestSideBySide measures a moment of everything: each workload gives a value for
// each peer, and nothing is left behind.
func TestSideBySide(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIP-PRIVILEGED: network namespaces and TAP devices need root")
	}
	for _, tool := range []string{"ip", "nft", "iperf3", "wrk", "nginx", "ovs-vswitchd"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIP-TOOL: %s is not installed (test/deps-bench.sh)", tool)
		}
	}
	binaries := t.TempDir()
	build := exec.Command("go", "build", "-o", binaries+"/", "../../cmd/vrouter")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, c := range []struct{ workloads, peers, figures string }{
		{"tcp-bulk-1,udp-small,tcp-connections,rr-loaded", "kernel", "tcp-bulk-1,udp-small,tcp-connections,rr-loaded/p50,rr-loaded/p99,rr-loaded/p99.9"},
		{"udp-steady", "ovs,tap-loop", "udp-steady/cpu"},
		{"overlay/tcp-bulk-1,overlay/udp-small,overlay/tcp-connections", "kernel,vxlan,tunnel-loop", "tcp-bulk-1,udp-small,tcp-connections"},
		{"overlay/jumbo", "kernel", "tcp-bulk-1"},
	} {
		o, err := parseOptions([]string{
			"--only", c.workloads, "--peers", c.peers, "--reps", "1", "--seconds", "0.2",
			"--vrouter", filepath.Join(binaries, "vrouter"),
		})
		if err != nil {
			t.Fatal(err)
		}
		parts := o.parts()
		if len(parts) != 1 {
			t.Fatalf("%s: %d parts; want one suite", c.workloads, len(parts))
		}
		figures, err := parts[0].run(context.Background(), o)
		if err != nil {
			t.Fatal(err)
		}
		suite := strings.TrimSuffix(o.only[0], "/"+path.Base(o.only[0]))
		for name := range strings.SplitSeq(c.figures, ",") {
			for _, p := range o.peers {
				checkFigure(t, figures, suite+"/"+name, p)
			}
		}
		if left, err := netns.List(fmt.Sprintf("%s%d-", peer.Prefix, os.Getpid())); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		if _, err := os.Stat(runDir()); err == nil {
			t.Errorf("left behind: %s", runDir())
		}
	}
}

// checkFigure checks that there are values on both sides.
func checkFigure(t *testing.T, figures []figure.Figure, name, p string) {
	t.Helper()
	i := slices.IndexFunc(figures, func(f figure.Figure) bool { return f.Name == name && f.Peer == p })
	if i < 0 {
		t.Errorf("%s beside %s: no figure", name, p)
		return
	}
	f := figures[i]
	if f.Ours <= 0 || f.PeerValue <= 0 || f.Runs != 1 || f.Detail["ours: cpu/forwarder"] <= 0 || f.Detail[p+": cpu/servers"] <= 0 {
		t.Errorf("%s beside %s: %+v", name, p, f)
	}
}

func TestParseIperf(t *testing.T) {
	for _, c := range []struct {
		text string
		want float64
	}{
		{`{"end":{"sum_sent":{"bits_per_second":9e9},"sum_received":{"bits_per_second":8.5e9}}}`, 8.5},
		{`{"end":{"sum_received":{"bits_per_second":0}}}`, 0},
		{`{"error":"unable to connect to server"}`, 0},
		{`iperf3: nonsense`, 0},
	} {
		got, err := parseIperf([]byte(c.text))
		if got != c.want || (err != nil) != (c.want == 0) {
			t.Errorf("%s: %v, %v; want %v", c.text, got, err, c.want)
		}
	}
}

func TestParseWrk(t *testing.T) {
	const whole = `Running 1s test @ http://10.96.0.10:80/
  1 threads and 64 connections
  9210 requests in 1.00s, 1.30MB read
  Socket errors: connect 1, read 2, write 0, timeout 4
Requests/sec:   9210.42
Transfer/sec:      1.30MB
`
	rate, failed, err := parseWrk(whole)
	if rate != 9210.42 || failed != 7 || err != nil {
		t.Errorf("%v, %v, %v", rate, failed, err)
	}
	for _, bad := range []string{"unable to connect", strings.Replace(whole, "9210.42", "0.00", 1)} {
		if _, _, err := parseWrk(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

// Rates are put together by their median, losses by their sum, and what moved in
// one run only counts as nothing in the others.
func TestMerge(t *testing.T) {
	got := merge([]map[string]float64{
		{"cpu/core-0": 10, "drops/x": 1}, {"cpu/core-0": 90, "drops/x": 2}, {"cpu/core-0": 20, "tcp-retransmits/web-1": 5, "udp/offered": 3},
	})
	want := map[string]float64{"cpu/core-0": 20, "drops/x": 3, "tcp-retransmits/web-1": 5, "udp/offered": 0}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A figure stands for each metric and peer, with the limit asked against that
// peer; without a peer there is one, and no limit against anybody.
func TestFigures(t *testing.T) {
	all := workloads()
	i := slices.IndexFunc(all, func(w workload) bool { return w.name == "udp-small" })
	b := &bench{suite: suite{name: "e2e"}, wanted: all[i : i+1], worlds: []*peer.Peer{{Name: ours}, {Name: "kernel"}, {Name: "ovs"}}, samples: map[string]map[string][]sample{
		"udp-small": {
			ours:     {{values: []float64{300}}, {values: []float64{100}}, {values: []float64{320}}},
			"kernel": {{values: []float64{150}}, {values: []float64{160}}, {values: []float64{140}}},
			"ovs":    {{values: []float64{600}}},
		},
	}}
	got := b.figures()
	if len(got) != 2 || got[0].Name != "e2e/udp-small" || got[0].Peer != "kernel" || got[0].Ratio != 2 || got[0].Spread != [2]float64{100, 320} || !got[0].Bar.Met ||
		got[1].Peer != "ovs" || got[1].Ratio != 0.5 || got[1].Bar != nil {
		t.Errorf("%+v", got)
	}
	b.worlds = b.worlds[:1]
	if got := b.figures(); len(got) != 1 || got[0].Peer != "" || got[0].Bar != nil || got[0].Ours != 300 {
		t.Errorf("alone: %+v", got)
	}
}

// rr-loaded runs at half of what the slowest router delivers; the bare loop is
// none.
func TestHalfLoad(t *testing.T) {
	b := &bench{capacity: map[string]float64{}}
	if got := b.halfLoad(); got != defaultHalf {
		t.Errorf("nothing known: %v", got)
	}
	b.capacity = map[string]float64{"ours": 400, "kernel": 100, "tap-loop": 20}
	if got := b.halfLoad(); got != 50 {
		t.Errorf("%v; want 50", got)
	}
	b.half = 7
	if got := b.halfLoad(); got != 7 {
		t.Errorf("told 7: %v", got)
	}
}

func TestOptions(t *testing.T) {
	o, err := parseOptions([]string{"--only", "control,rr-idle", "--peers", "ours,before,kernel", "--vrouter", "x/vrouter", "--vrouter", "before=y/vrouter", "--quick"})
	if err != nil {
		t.Fatal(err)
	}
	if o.memory || !o.control || !slices.Equal(o.only, []string{"e2e/rr-idle"}) || !slices.Equal(o.peers, []string{"before", "kernel"}) ||
		o.vrouter != "x/vrouter" || !slices.Equal(o.builds, []build{{"before", "y/vrouter"}}) || o.reps != 2 || o.length != time.Second {
		t.Errorf("%+v", o)
	}
	if o, err = parseOptions(nil); err != nil || !o.memory || !o.control || len(o.parts()) != 3+len(suites()) || !slices.Equal(o.peers, peerNames()) {
		t.Errorf("%+v, %v", o, err)
	}
	for _, bad := range []string{"--only=dance", "--only=overlay/dance", "--only=over", "--peers=nobody", "--vrouter=kernel=/x", "--vrouter=vxlan=/x", "--vrouter==/x", "extra"} {
		if _, err := parseOptions([]string{bad}); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

// A word of --only is a suite, all that begin with it, or a workload; a workload on
// one host needs no suite.
func TestOnly(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--only", "overlay/rr-idle"}, "overlay/rr-idle"},
		{[]string{"--only", "rr-idle"}, "e2e/rr-idle"},
		{[]string{"--only", "overlay/jumbo"}, "overlay/jumbo/tcp-bulk-1"},
		{[]string{"--only", "overlay", "--quick"}, "overlay/tcp-bulk-1 overlay/udp-small"},
		{[]string{"--only", "overlay"}, "overlay/tcp-bulk-1 overlay/tcp-bulk-4 overlay/udp-small overlay/udp-steady overlay/tcp-connections overlay/rr-idle overlay/jumbo/tcp-bulk-1"},
	} {
		o, err := parseOptions(c.args)
		if got := strings.Join(o.only, " "); err != nil || got != c.want {
			t.Errorf("%v: %s, %v; want %s", c.args, got, err, c.want)
		}
	}
}

// Each suite measures against those of the peers asked for that it has, and against
// every build.
func TestNames(t *testing.T) {
	o, err := parseOptions([]string{"--peers", "vxlan,kernel,ovs,old", "--vrouter", "old=x/vrouter"})
	if err != nil {
		t.Fatal(err)
	}
	all := suites()
	for i, want := range []string{"ours kernel ovs old", "ours vxlan kernel old", "ours kernel old"} {
		b := &bench{options: o, suite: all[i]}
		if got := strings.Join(b.names(), " "); got != want {
			t.Errorf("%s: %s; want %s", all[i].name, got, want)
		}
	}
	b := &bench{options: o, suite: all[1]}
	b.options.quick = true
	if got := strings.Join(b.names(), " "); got != "ours kernel old" {
		t.Errorf("quick: %s", got)
	}
}
