package bfd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// prefix begins the names of this package's namespaces.
const prefix = "vrbfd"

// patience is how long a condition may take on a slow machine.
const patience = 60 * time.Second

// child holds the peers of a speaker that this binary is started as, to be killed.
const child = "BFD_TEST_CHILD"

func TestMain(m *testing.M) {
	if peers := os.Getenv(child); peers != "" {
		if err := beChild(peers); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	if os.Getuid() == 0 {
		cleanUp()
	}
	goleak.VerifyTestMain(m)
}

// cleanUp ends the daemons of earlier runs that were killed, and removes their
// directories and namespaces. A daemon is theirs if its command line names their
// directory.
func cleanUp() {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"[0-9]*-frr"))
	for _, dir := range left {
		pid, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(dir), prefix), "-frr"))
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

// beChild is a speaker that lives as long as standard input.
func beChild(peers string) error {
	var list []Peer
	if err := json.Unmarshal([]byte(peers), &list); err != nil {
		return err
	}
	s := New(Config{})
	if err := s.Set(list); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return s.Run(ctx)
}

func need(t *testing.T, tools ...string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIP-PRIVILEGED: network namespaces need root")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIP-TOOL: %s is not installed (make deps)", tool)
		}
	}
}

// command runs a program and returns what it says.
func command(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// pair makes two namespaces with a link from "left" to "right". Left has 10.99.0.1,
// fd99::1 and fe80::1, right the same with 2.
func pair(t *testing.T) (left, right string) {
	t.Helper()
	need(t, "ip")
	suffix := strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
	names := [2]string{netns.Name(prefix, suffix+"-l"), netns.Name(prefix, suffix+"-r")}
	for _, name := range names {
		if _, err := netns.Create(name); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := netns.Delete(name); err != nil {
				t.Error(err)
			}
		})
	}
	command(t, "ip", "-n", names[0], "link", "add", "left", "type", "veth",
		"peer", "name", "right", "netns", names[1])
	for i, dev := range [...]string{"left", "right"} {
		for _, a := range [...]string{"10.99.0.%d/24", "fd99::%d/64", "fe80::%d/64"} {
			args := []string{"ip", "-n", names[i], "addr", "add", fmt.Sprintf(a, i+1), "dev", dev}
			if strings.Contains(a, ":") {
				args = append(args, "nodad")
			}
			command(t, args...)
		}
		command(t, "ip", "-n", names[i], "link", "set", dev, "up")
	}
	return names[0], names[1]
}

// peerOf is a session from one end of the link to the other, by fast timers. The
// multiplier lets it outlive what a loaded machine does to its ends.
func peerOf(name, local, remote string, multihop bool) Peer {
	return Peer{
		Name: name, Local: netip.MustParseAddr(local), Remote: netip.MustParseAddr(remote), Multihop: multihop,
		TransmitInterval: 100 * ms, ReceiveInterval: 100 * ms, Multiplier: 20,
	}
}

// running is a speaker under test and what it has told.
type running struct {
	*testing.T
	*Speaker
	mu   sync.Mutex
	told []Change
	stop func()
}

// start runs a speaker until the test or stop ends it.
func start(t *testing.T, ns string, peers ...Peer) *running {
	t.Helper()
	r := &running{T: t}
	r.Speaker = New(Config{Netns: ns, Changed: func(c Change) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.told = append(r.told, c)
	}})
	r.set(peers...)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.Speaker.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	r.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(r.stop)
	return r
}

func (r *running) set(peers ...Peer) {
	r.Helper()
	if err := r.Set(peers); err != nil {
		r.Fatal(err)
	}
}

// session returns the status of a peer's session.
func (r *running) status(name string) SessionStatus {
	r.Helper()
	all := r.Status().Sessions
	i := slices.IndexFunc(all, func(s SessionStatus) bool { return s.Peer.Name == name })
	if i < 0 {
		r.Fatalf("no session %q in %+v", name, all)
	}
	return all[i]
}

// wait waits until all sessions fulfil a condition.
func (r *running) wait(what string, ok func(SessionStatus) bool) {
	r.Helper()
	until(r.T, what, func() (string, bool) {
		all := r.Status().Sessions
		return fmt.Sprintf("%+v", r.Status()), !slices.ContainsFunc(all, func(s SessionStatus) bool { return !ok(s) })
	})
}

func isUp(s SessionStatus) bool { return s.State == Up && !s.Polling }

// waitTold waits until a change was told and returns the first after the index from.
func (r *running) waitTold(from int, name string, up bool) (c Change) {
	r.Helper()
	until(r.T, fmt.Sprintf("%s told up=%v", name, up), func() (string, bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		i := slices.IndexFunc(r.told[from:], func(c Change) bool { return c.Peer == name && c.Up == up })
		if i >= 0 {
			c = r.told[from+i]
		}
		return fmt.Sprintf("%+v", r.told), i >= 0
	})
	return c
}

// tells is how many changes were told.
func (r *running) tells() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.told)
}

// until waits for a condition; the text says how things stand.
func until(t *testing.T, what string, ok func() (string, bool)) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * ms) {
		text, done := ok()
		if done {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not after %v: %s", what, patience, text)
		}
	}
}
