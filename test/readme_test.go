package test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The README's first state file works as it is typed: its commands run in order,
// and say what the README says they say.
func TestReadme(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIP-PRIVILEGED: the README's first steps need root")
	}
	for _, tool := range [...]string{"ip", "curl", "python3", "unshare"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("SKIP-TOOL: " + tool)
		}
	}
	text := read(t, "../README.md")
	var script strings.Builder
	script.WriteString("set -e\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\ncd ..\n")
	for _, m := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```").FindAllStringSubmatch(text, -1) {
		script.WriteString(m[1])
	}
	dir, prefix := t.TempDir(), fmt.Sprintf("vrt%d-", os.Getpid())
	typed := strings.NewReplacer("/tmp/first", filepath.Join(dir, "first"), "first-", prefix,
		"make build", "go build -o "+dir+"/bin/ ./cmd/...", "$PWD/bin", dir+"/bin").Replace(script.String())
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	// The daemon's own end of the devices is kept off the host's namespace.
	cmd := exec.CommandContext(ctx, "unshare", "--net", "bash", "-c", typed)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second // what the script has started may hold its output open
	t.Cleanup(func() {
		for _, name := range [...]string{"web-1", "web-2", "client"} {
			_ = exec.Command("ip", "netns", "del", prefix+name).Run() // gone already when all went well
		}
	})
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range [...]string{
		"8 created (generation 1 programmed)\n",
		"this is web-", // which one is the hash's choice
		"port 81: refused at once\n",
		"verdict      FORWARD (new session)\nrule         clients-use-services/1\n",
		"it is in network pods, and no NetworkPolicy speaks of clients and pods\n",
		"client-1    FLOATING_IP_PORT   1  ",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the output lacks %q", want)
		}
		if !strings.Contains(text, strings.TrimSpace(want)) {
			t.Errorf("the README lacks %q", want)
		}
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
}
