package peer

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vrouter-go/vrouter/internal/netns"
)

func TestParseCores(t *testing.T) {
	const text = `cpu  30 0 30 300 3 0 3 3 0 0
cpu0 10 1 20 100 2 3 4 5 0 0
cpu1 0 0 0 200 0 0 0 0 0 0
intr 12345 0
ctxt 99
`
	got, err := parseCores(text)
	want := []core{{idle: 1.02, ran: 0.38, softirq: 0.04, stolen: 0.05}, {idle: 2}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(core{}), cmp.Comparer(func(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 })); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if _, err := parseCores("cpu0 a b c d e f g h\n"); err == nil {
		t.Error("letters were taken for numbers")
	}
}

func TestParseDevices(t *testing.T) {
	const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
  eth0: 1234567    8901    0    7    0     0          0         0   765432    1098    0   42    0     0       0          0
`
	want := map[string][2]float64{"lo": {}, "eth0": {7, 42}}
	if diff := cmp.Diff(want, parseDevices(text)); diff != "" {
		t.Error(diff)
	}
}

func TestParseProtocols(t *testing.T) {
	const text = `Tcp: RtoAlgorithm RetransSegs
Tcp: 1 17
Udp: InDatagrams RcvbufErrors
Udp: 100 9
`
	got := parseProtocols(text)
	if got["Tcp.RetransSegs"] != 17 || got["Udp.RcvbufErrors"] != 9 || len(got) != 4 {
		t.Error(got)
	}
}

func TestParseTracking(t *testing.T) {
	got := parseTracking("entries  insert_failed drop\n00000010  0000000a 00000001\n00000010  00000001 00000000\n")
	if diff := cmp.Diff(map[string]float64{"entries": 32, "insert_failed": 11, "drop": 1}, got); diff != "" {
		t.Error(diff)
	}
}

// What a world spends counts, what others spend does not; counters that did not
// move are left out.
func TestUsageSince(t *testing.T) {
	at := time.Now()
	before := Usage{at: at, cores: []core{{idle: 5, ran: 1}, {idle: 5, ran: 2}}, spent: map[string]float64{"forwarder": 1}, counts: map[string]float64{"drops/a": 1, "drops/b": 1}}
	after := Usage{
		at: at.Add(2 * time.Second), cores: []core{{idle: 6, ran: 2}, {idle: 5, ran: 4}},
		spent: map[string]float64{"forwarder": 2, "servers": 0.5}, counts: map[string]float64{"drops/a": 4, "drops/b": 1},
	}
	got := after.Since(before)
	want := map[string]float64{
		"cpu/core-0": 50, "cpu/core-1": 100, "cpu/softirq": 0, "cpu/stolen": 0, "cpu/foreign": 75, "cpu/forwarder": 50, "cpu/servers": 25, "drops/a": 3,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if s := after.Spent(before); s != 1.5 {
		t.Errorf("spent %v s; want 1.5", s)
	}
}

func TestProcessTimeGrows(t *testing.T) {
	before, err := processTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); ; {
		now, err := processTime(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if now > before {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%v s, and 5 s of work later %v s", before, now)
		}
	}
}

// A run that was killed leaves namespaces, programs in them and a directory. The
// next one removes them all, and nothing of a run that lives.
func TestCleanup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIP-PRIVILEGED: network namespaces need root")
	}
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	left, mine := fmt.Sprintf("%s%d-x-client", Prefix, dead.Process.Pid), netns.Name(Prefix, "x-client")
	var programs []*exec.Cmd
	for _, ns := range []string{left, mine} {
		if _, err := netns.Create(ns); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = netns.Delete(ns) })
		cmd := exec.Command("sleep", "60")
		if err := netns.Start(ns, cmd); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		programs = append(programs, cmd)
	}
	parent := t.TempDir()
	dirs := []string{fmt.Sprintf("%s/%s%d-bench", parent, Prefix, dead.Process.Pid), fmt.Sprintf("%s/%s%d-bench", parent, Prefix, os.Getpid())}
	for _, dir := range dirs {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	deleted, err := Cleanup(parent)
	if err != nil || !slices.Contains(deleted, left) || slices.Contains(deleted, mine) {
		t.Errorf("%v, %v; want %s and not %s", deleted, err, left, mine)
	}
	if err := programs[0].Wait(); err == nil {
		t.Error("the dead run's program ended by itself")
	}
	if err := programs[1].Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the living run's program: %v", err)
	}
	if _, err := os.Stat(dirs[0]); err == nil {
		t.Errorf("%s is still there", dirs[0])
	}
	if _, err := os.Stat(dirs[1]); err != nil {
		t.Error(err)
	}
}
