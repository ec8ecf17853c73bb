package netns_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vrouter-go/vrouter/test/workdir"
)

// prefix and the process number begin the name of everything that a run makes:
// namespaces and the work directory. A later run knows by them what a crashed one
// has left.
const prefix = "vrt"

// work is the run's directory, with the binaries under test in bin.
var work = workdir.Path(prefix)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Getuid() != 0 {
		return m.Run() // every test skips itself
	}
	if err := workdir.CleanUp(prefix); err != nil {
		fmt.Println(err)
	}
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
