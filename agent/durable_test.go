package agent_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/agent"
	"github.com/vrouter-go/vrouter/agent/ports"
	"github.com/vrouter-go/vrouter/forwarder"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// TestRestartForwardsAsBefore restarts a daemon without a controller: the state
// is the same and packets take the same way.
func TestRestartForwardsAsBefore(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir)
	r.apply(&pb.ApplyRequest{Upserts: resources(t, world...)})
	r.apply(&pb.ApplyRequest{Upserts: resources(t, `{"name":"later","virtualNetwork":{}}`)})
	digest := r.agent.Digest()
	r.stop()

	again := start(t, dir)
	if again.agent.Digest() != digest {
		t.Error("another state came back")
	}
	st := again.status()
	if st.GetGeneration().GetNumber() != 2 || st.GetPersistence().GetRestoredGeneration() != 2 || st.GetHealth() != pb.Health_HEALTHY {
		t.Errorf("status %v", st)
	}
	again.device("web-1").Inject(0, syn(t, "10.96.0.10", 80))
	if tcp := again.received("web-2"); tcp.DstPort != 8080 {
		t.Errorf("arrived at port %d, want 8080", tcp.DstPort)
	}
}

// TestDamagedState damages the newest copy: the one before is used, and status
// says so. With both damaged the daemon does not start and says what to do.
func TestDamagedState(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir)
	r.apply(&pb.ApplyRequest{Upserts: resources(t, world...)})
	r.stop()
	start(t, dir).stop() // writes the state as a whole
	good := start(t, dir)
	digest := good.agent.Digest()
	good.stop()

	damage(t, filepath.Join(dir, "state"))
	again := start(t, dir)
	if again.agent.Digest() != digest {
		t.Error("another state came back")
	}
	st := again.status()
	if st.GetHealth() != pb.Health_DEGRADED || !strings.Contains(component(st, "persistence"), "damaged") {
		t.Errorf("status does not tell of the damage: %v", st.GetComponents())
	}
	again.stop()

	damage(t, filepath.Join(dir, "state"))
	damage(t, filepath.Join(dir, "state.old"))
	fwd, err := forwarder.New(forwarder.Config{Workers: 1, Sessions: 1024})
	if err != nil {
		t.Fatal(err)
	}
	defer fwd.Close()
	_, err = agent.New(agent.Options{Forwarder: fwd, Driver: ports.Memory("memory", nil), StateDir: dir, Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "no good copy") || !strings.Contains(err.Error(), "move") {
		t.Errorf("started with no good copy, or does not say what to do: %v", err)
	}
}

func damage(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func component(st *pb.GetStatusResponse, name string) string {
	for _, c := range st.GetComponents() {
		if c.GetName() == name {
			return c.GetReason()
		}
	}
	return ""
}

// TestDiskFull fills the disk under the state: changes still take effect, status
// says that they are not durable, and with room they are again.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIP-PRIVILEGED: mounts a small file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("vrouter-test", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skip("SKIP-PRIVILEGED: mount: " + err.Error())
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	r := start(t, filepath.Join(dir, "state"))
	r.apply(&pb.ApplyRequest{Upserts: resources(t, world...)})
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, bytes.Repeat([]byte("x"), 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	big := `{"name":"big","virtualMachineInterface":{"virtualNetwork":"pods","labels":{`
	for i := range 100 {
		big += `"key-` + strings.Repeat("k", 40) + string(rune('a'+i%26)) + string(rune('a'+i/26)) + `":"` + strings.Repeat("v", 60) + `",`
	}
	answer := r.apply(&pb.ApplyRequest{Upserts: resources(t, strings.TrimSuffix(big, ",")+`}}}`)})
	if answer.GetGeneration().GetLevel() != pb.Generation_PROGRAMMED {
		t.Errorf("%v, want PROGRAMMED", answer.GetGeneration())
	}
	st := r.status()
	if st.GetPersistence().GetError() == "" || st.GetPersistence().GetSavedGeneration() != 1 || !strings.Contains(component(st, "persistence"), "not durable") {
		t.Errorf("status does not tell: %v %v", st.GetPersistence(), st.GetComponents())
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	r.apply(&pb.ApplyRequest{Deletes: []*pb.ResourceKey{{Kind: "FloatingIP", Name: "web"}}})
	if p := r.status().GetPersistence(); p.GetError() != "" || p.GetSavedGeneration() != 3 {
		t.Errorf("not durable again: %v", p)
	}
	digest := r.agent.Digest()
	r.stop()
	if got := start(t, filepath.Join(dir, "state")).agent.Digest(); got != digest {
		t.Error("another state came back")
	}
}

// TestLostPort opens a device that is not there yet, and takes it up when it is.
func TestLostPort(t *testing.T) {
	r := start(t, "")
	r.refuse["web-2"] = errors.New("no such namespace yet")
	r.apply(&pb.ApplyRequest{Upserts: resources(t, world...)})
	lost := r.status().GetPorts()[1]
	if lost.GetState() != pb.PortStatus_LOST || !strings.Contains(lost.GetReason(), "no such namespace yet") {
		t.Errorf("port %v, want LOST with the reason", lost)
	}
	r.mu.Lock()
	delete(r.refuse, "web-2")
	r.mu.Unlock()
	eventually(t, "the port is up", func() bool { return r.status().GetPorts()[1].GetState() == pb.PortStatus_UP })
	r.device("web-1").Inject(0, syn(t, "10.96.0.10", 80))
	r.received("web-2")
	r.apply(&pb.ApplyRequest{Prune: &pb.Prune{AllowEmpty: true}})
	if ports := r.status().GetPorts(); len(ports) != 0 {
		t.Errorf("ports left: %v", ports)
	}
}
