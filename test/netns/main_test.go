package netns_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// prefix and the process number begin the name of everything that a run makes:
// namespaces and the work directory. A later run knows by them what a crashed one
// has left.
const prefix = "vrt"

// work is the run's directory, with the binaries under test in bin.
var work = filepath.Join(os.TempDir(), workName(os.Getpid()))

func workName(pid int) string { return fmt.Sprintf("%s%d-e2e", prefix, pid) }

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Getuid() != 0 {
		return m.Run() // every test skips itself
	}
	cleanUp()
	defer os.RemoveAll(work)
	if err := os.MkdirAll(work, 0o755); err != nil { // readable: a test runs vrctl as nobody
		fmt.Println(err)
		return 1
	}
	build := exec.Command("go", "build", "-o", filepath.Join(work, "bin")+"/", "../../cmd/...")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Printf("go build: %v\n%s", err, out)
		return 1
	}
	// Tests mostly wait, for timeouts and for programs, so more of them run at a
	// time than there are processors.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("6") // a number it accepts
	}
	return m.Run()
}

// cleanUp ends the processes of earlier runs that were killed and removes their
// namespaces and directories. A process is theirs if its command line names their
// directory.
func cleanUp() {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*-e2e"))
	for _, dir := range left {
		pid, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(dir), prefix), "-e2e"))
		if err != nil || unix.Kill(pid, 0) != unix.ESRCH {
			continue
		}
		commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, file := range commands {
			line, _ := os.ReadFile(file)
			if p, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil && bytes.Contains(line, []byte(dir+"/")) {
				_ = unix.Kill(p, unix.SIGKILL) // it may have ended meanwhile
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			fmt.Println("clean up after an earlier run:", err)
		}
	}
	if _, err := netns.Cleanup(prefix); err != nil {
		fmt.Println("clean up after an earlier run:", err)
	}
}

// need skips a test that cannot run here.
func need(t *testing.T, tools ...string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIP-PRIVILEGED: network namespaces and TAP devices need root")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIP-TOOL: %s is not installed (make deps)", tool)
		}
	}
}
