//go:build linux

package netns_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/netns"
)

const prefix = "vrtn"

func TestMain(m *testing.M) {
	if os.Getuid() == 0 {
		if _, err := netns.Cleanup(prefix); err != nil {
			fmt.Println("clean up after an earlier run:", err)
		}
	}
	goleak.VerifyTestMain(m)
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIP-PRIVILEGED: network namespaces need root")
	}
}

func create(t *testing.T, suffix string) string {
	t.Helper()
	name := netns.Name(prefix, suffix)
	if _, err := netns.Create(name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(name); err != nil {
			t.Error(err)
		}
	})
	return name
}

// identity returns the inode of the calling thread's namespace.
func identity(t *testing.T) string {
	t.Helper()
	id, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestCreateIsWhatIPNetnsMakes(t *testing.T) {
	needRoot(t)
	name := create(t, "ip")
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("SKIP-TOOL: ip is not installed")
	}
	list, err := exec.Command("ip", "netns", "list").Output()
	if err != nil || !strings.Contains(string(list), name) {
		t.Fatalf("ip netns list: %q, %v; want %s in it", list, err, name)
	}
	links, err := exec.Command("ip", "-n", name, "-o", "link", "show", "up").Output()
	if err != nil || !strings.Contains(string(links), "lo:") {
		t.Fatalf("ip link show up: %q, %v; want lo in it", links, err)
	}
	if _, err := netns.Create(name); !errors.Is(err, os.ErrExist) {
		t.Errorf("second Create: %v; want os.ErrExist", err)
	}
	if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
		t.Errorf("ip netns del: %s", out)
	}
	if err := netns.Delete(name); err != nil {
		t.Errorf("Delete of a namespace that is gone: %v", err)
	}
}

func TestDoEntersAndComesBack(t *testing.T) {
	needRoot(t)
	name := create(t, "do")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home := identity(t)
	var inside string
	var links []net.Interface
	err := netns.Do(name, func() (err error) {
		inside = identity(t)
		links, err = net.Interfaces()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if inside == home {
		t.Error("Do did not enter the namespace")
	}
	if len(links) != 1 || links[0].Name != "lo" || links[0].Flags&net.FlagUp == 0 {
		t.Errorf("inside: %v; want lo alone, up", links)
	}
	if now := identity(t); now != home {
		t.Errorf("after Do: %s; want %s", now, home)
	}
	want := errors.New("from inside")
	if err := netns.Do(netns.Path(name), func() error { return want }); err != want {
		t.Errorf("Do by path: %v; want the function's error", err)
	}
	if err := netns.Do(name, func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("Do returned nil though its function ended the goroutine")
	}
}

// No goroutine may ever be scheduled on a thread that was left in a namespace.
func TestDoLeavesNoThreadBehind(t *testing.T) {
	needRoot(t)
	names := []string{create(t, "a"), create(t, "b"), create(t, "c")}
	runtime.LockOSThread()
	home := identity(t)
	runtime.UnlockOSThread()
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			if err := netns.Do(names[i%len(names)], func() error {
				if identity(t) == home {
					return errors.New("not inside")
				}
				runtime.Gosched()
				return nil
			}); err != nil {
				t.Error(err)
			}
			if now := identity(t); now != home {
				t.Errorf("goroutine runs in %s", now)
			}
		})
	}
	wg.Wait()
}

func TestStartRunsInside(t *testing.T) {
	needRoot(t)
	name := create(t, "cmd")
	var out bytes.Buffer
	cmd := exec.Command("cat", "/proc/self/net/dev")
	cmd.Stdout = &out
	if err := netns.Start(name, cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), ":"); n != 1 {
		t.Errorf("the command saw %d links; want lo alone:\n%s", n, out.String())
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	file := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		want error
	}{
		{"vrtn-no-such-namespace", os.ErrNotExist},
		{file, netns.ErrNotNamespace},
		{"/proc/self/ns/mnt", netns.ErrNotNamespace},
	} {
		h, err := netns.Open(c.path)
		if !errors.Is(err, c.want) {
			t.Errorf("Open(%s): %v; want %v", c.path, err, c.want)
		}
		if err == nil {
			h.Close()
		}
		if err != nil && !strings.Contains(err.Error(), c.path) {
			t.Errorf("Open(%s): %q does not name the path", c.path, err)
		}
	}
	for _, bad := range []string{"", ".", "..", "a/b", "../x"} {
		if _, err := netns.Create(bad); err == nil {
			t.Errorf("Create(%q) worked", bad)
		}
	}
}

func TestCleanupSparesLiveProcesses(t *testing.T) {
	needRoot(t)
	// A process that has ended is the owner of what a crashed run leaves.
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	left := fmt.Sprintf("%s%d-left", prefix, dead.Process.Pid)
	if _, err := netns.Create(left); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netns.Delete(left) })
	mine, foreign := create(t, "mine"), prefix+"-foreign"
	if _, err := netns.Create(foreign); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netns.Delete(foreign) })
	deleted, err := netns.Cleanup(prefix)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(deleted, left) || slices.Contains(deleted, mine) || slices.Contains(deleted, foreign) {
		t.Errorf("Cleanup deleted %v; want %s, never %s or %s", deleted, left, mine, foreign)
	}
	names, err := netns.List(prefix)
	if err != nil || slices.Contains(names, left) || !slices.Contains(names, mine) {
		t.Errorf("List: %v, %v", names, err)
	}
}

// A Create that was killed between making the file and mounting it must not
// block the name for ever.
func TestCreateUsesALeftOverFileAgain(t *testing.T) {
	needRoot(t)
	name := create(t, "stale")
	if err := netns.Delete(name); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(netns.Path(name), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if _, err := netns.Create(name); err != nil {
		t.Fatal(err)
	}
}

// A path may be anything: one that would make us wait is no namespace either.
func TestOpenOfFIFO(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		h, err := netns.Open(path)
		if err == nil {
			h.Close()
		}
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, netns.ErrNotNamespace) {
			t.Errorf("%v, want that it is no namespace", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits for somebody who writes")
		w, err := os.OpenFile(path, os.O_WRONLY, 0) // lets it go
		if err == nil {
			w.Close()
		}
		t.Log(<-done)
	}
}
