//go:build linux && kube

package kube_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"k8s.io/klog/v2"

	"github.com/vrouter-go/vrouter/test/kube/cluster"
	"github.com/vrouter-go/vrouter/test/workdir"
)

// prefix begins the names of everything that a run makes.
const prefix = "vrk"

var (
	// work is the run's directory, with the programs under test in bin.
	work = workdir.Path(prefix)
	// binaries has Kubernetes' programs; TestMain sets it.
	binaries string
	clusters atomic.Int32
	keep     = flag.Bool("keep", false, "leave logs and files behind")
)

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
	if !*keep {
		defer os.RemoveAll(work)
	}
	if err := os.MkdirAll(work, 0o755); err != nil {
		fmt.Println(err)
		return 1
	}
	// As the Makefile builds, so that what it has compiled is not compiled again.
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(work, "bin")+"/", "../../cmd/...", "./workload")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Printf("go build: %v\n%s", err, out)
		return 1
	}
	get := exec.Command("./binaries.sh")
	get.Stderr = os.Stderr
	out, err := get.Output()
	if err != nil {
		fmt.Println("binaries.sh:", err)
		return 1
	}
	binaries = strings.TrimSpace(string(out))
	// What client-go says of an apiserver that a test stops on purpose is no news.
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	return m.Run()
}

// need skips a test that cannot run here.
func need(t *testing.T, programs ...string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIP-PRIVILEGED: network namespaces need root")
	}
	for _, program := range append(programs, "etcd", "ip", "nft", "/usr/lib/cni/ptp") {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("SKIP-TOOL: %s is not installed (test/deps.sh, test/deps-kube.sh)", program)
		}
	}
}

// newCluster starts a cluster that ends with the test.
func newCluster(t *testing.T, o cluster.Options) *cluster.Cluster {
	t.Helper()
	need(t)
	o.Name = fmt.Sprint(clusters.Add(1))
	o.Prefix, o.Dir, o.Binaries, o.Programs = prefix, filepath.Join(work, o.Name), binaries, filepath.Join(work, "bin")
	o.Manifests = []string{"../../deploy/kubernetes/crds.yaml", "../../deploy/kubernetes/vrouter.yaml"}
	c, err := cluster.Start(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}
