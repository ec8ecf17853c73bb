package netns_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// startDemo starts `vrouter demo` in a namespace of its own and returns what it
// prints and its end. After the test nothing of it may be left.
func startDemo(t *testing.T, name string, args ...string) (cmd *exec.Cmd, out *output, ended chan error) {
	t.Helper()
	need(t, "ip")
	home := netns.Name(prefix, "demo-"+name)
	if _, err := netns.Create(home); err != nil {
		t.Fatal(err)
	}
	temp := filepath.Join(work, "demo-"+name)
	if err := os.MkdirAll(temp, 0o755); err != nil {
		t.Fatal(err)
	}
	out = &output{}
	cmd = exec.Command(filepath.Join(work, "bin", "vrouter"), append([]string{"demo"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	cmd.Stdout, cmd.Stderr = out, out
	if err := netns.Start(home, cmd); err != nil {
		t.Fatal(err)
	}
	ended = make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // no matter if it has ended
		if left, err := netns.List("vrdemo" + strconv.Itoa(cmd.Process.Pid) + "-"); err != nil || len(left) != 0 {
			t.Errorf("namespaces are left: %v, %v", left, err)
		}
		links, err := exec.Command("ip", "-n", home, "-o", "link").Output()
		if err != nil || strings.Count(string(links), "\n") != 1 {
			t.Errorf("devices are left: %s, %v", links, err)
		}
		if left, err := filepath.Glob(filepath.Join(temp, "*")); err != nil || len(left) != 0 {
			t.Errorf("files are left: %v, %v", left, err)
		}
		if err := netns.Delete(home); err != nil {
			t.Error(err)
		}
	})
	return cmd, out, ended
}

// wait returns how the demo ended.
func wait(t *testing.T, ended chan error, out *output) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(60 * time.Second):
		t.Fatalf("the demo goes on and on:\n%s", out)
		return nil
	}
}

// TestDemo: every step is shown, the exit status is 0, and --json says the same.
func TestDemo(t *testing.T) {
	t.Parallel()
	shows(t, 12, "json", "--json")
}

// TestDemoNodes: the same for several nodes.
func TestDemoNodes(t *testing.T) {
	t.Parallel()
	shows(t, 9, "nodes", "--json", "--nodes", "3")
}

// shows runs a demo to its end and reads its report.
func shows(t *testing.T, steps int, name string, args ...string) {
	t.Helper()
	_, out, ended := startDemo(t, name, args...)
	if err := wait(t, ended, out); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	var report struct {
		OK    bool
		Steps []struct {
			Step string
			OK   bool
		}
	}
	if err := json.Unmarshal([]byte(out.String()), &report); err != nil {
		t.Fatalf("--json: %v\n%s", err, out)
	}
	if !report.OK || len(report.Steps) != steps {
		t.Errorf("ok %v, %d steps; want %d\n%s", report.OK, len(report.Steps), steps, out)
	}
}

// TestDemoInterrupted: Ctrl-C in the middle ends it soon, with an exit status that
// tells, and nothing is left.
func TestDemoInterrupted(t *testing.T) {
	t.Parallel()
	cmd, out, ended := startDemo(t, "int")
	until(t, "the transfer runs", func() bool { return strings.Contains(out.String(), " 3/11") })
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := wait(t, ended, out); err == nil || !strings.Contains(out.String(), "interrupted") {
		t.Errorf("it ended with %v\n%s", err, out)
	}
}

// TestDemoKeep: --keep leaves it running for vrctl, and Ctrl-C ends it well.
func TestDemoKeep(t *testing.T) {
	t.Parallel()
	cmd, out, ended := startDemo(t, "keep", "--keep")
	end := time.Now().Add(60 * time.Second)
	for !strings.Contains(out.String(), "Interrupt (Ctrl-C)") && time.Now().Before(end) {
		time.Sleep(20 * time.Millisecond)
	}
	address := regexp.MustCompile(`--address (\S+) status`).FindStringSubmatch(out.String())
	if address == nil {
		t.Fatalf("it does not say how to call vrctl:\n%s", out)
	}
	for _, args := range []string{"status", "get fip", "explain --vmi client-1 --dst 10.96.0.10 --proto tcp --dport 80"} {
		text, code := program(t, filepath.Join(work, "bin", "vrctl"), append([]string{"--address", address[1]}, strings.Fields(args)...)...)
		if code != 0 {
			t.Errorf("vrctl %s: exit %d\n%s", args, code, text)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := wait(t, ended, out); err != nil {
		t.Errorf("it ended with %v\n%s", err, out)
	}
}
