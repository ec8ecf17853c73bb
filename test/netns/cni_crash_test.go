package netns_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// TestCNIDaemonRestart: containers keep device, addresses and policy over a restart of
// the daemon, killed or not, with nobody to tell it anything.
func TestCNIDaemonRestart(t *testing.T) {
	t.Parallel()
	h := newCNIHost(t, 3, cniState+interfaces("pods", 1, 2, ""), "")
	web, other := h.mustAdd(h.pod(1, nil)), h.mustAdd(h.pod(2, nil))
	h.serveWeb("pod-1", webPort)
	index := h.run("pod-1", "cat", "/proc/sys/net/ipv4/conf/eth0/tag") + h.run("pod-1", "ip", "-o", "link", "show", "eth0")[:3]
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		h.conserve()
		h.stop(signal)
		h.start()
		h.waitPorts()
		for f := range service {
			if _, seen := h.get(t, "pod-2", at(ofFamily(t, web, family(f)), webPort)); seen != ofFamily(t, other, family(f)) {
				t.Errorf("after %v: the server saw %s", signal, seen)
			}
		}
		if again := h.mustAdd(h.pod(1, nil)); !same(again, web) {
			t.Errorf("after %v: ADD returns %v; before %v", signal, again, web)
		}
		if err := h.check(h.pod(1, nil)); err != nil {
			t.Errorf("after %v: %v", signal, err)
		}
	}
	if now := h.run("pod-1", "cat", "/proc/sys/net/ipv4/conf/eth0/tag") + h.run("pod-1", "ip", "-o", "link", "show", "eth0")[:3]; now != index {
		t.Errorf("the device is another: %s, was %s", now, index)
	}
	// The namespace goes while nobody watches.
	h.conserve()
	h.stop(syscall.SIGKILL)
	if err := netns.Delete(h.ns("pod-2")); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.get(t, "pod-1", at(ofFamily(t, web, v4), webPort))
	h.mustDel(h.pod(2, nil))
	h.mustDel(h.pod(1, nil))
	h.nothingLeft(t)
}

// TestCNICrash kills the plugin or the daemon at moments of chance in the middle of
// ADDs and DELs, and then lets the runtime do what it does after a crash: it begins
// some of its containers again and collects the others. Nothing is left behind, in
// namespaces that stay either.
func TestCNICrash(t *testing.T) {
	t.Parallel()
	const pods, rounds = 6, 12
	h := newCNIHost(t, pods, cniState+interfaces("pods", 1, pods, ""), "")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 0))
	host := map[string]any{"runtimeConfig": map[string]any{"portMappings": []any{map[string]any{"hostPort": 8080, "containerPort": webPort, "protocol": "tcp"}}}}
	for round := range rounds {
		daemon := round%2 == 1
		var wg sync.WaitGroup
		for n := 1; n <= pods; n++ {
			verb := "ADD"
			if round > 0 && chance.IntN(3) == 0 {
				verb = "DEL"
			}
			var extra map[string]any
			if n == 1 {
				extra = host
			}
			cmd := h.bare(verb, h.pod(n, nil), extra)
			after := time.Duration(chance.IntN(60)) * time.Millisecond
			wg.Go(func() {
				if err := cmd.Start(); err != nil {
					t.Error(err)
					return
				}
				if !daemon {
					time.AfterFunc(after, func() { _ = cmd.Process.Kill() }) // it may have ended
				}
				_ = cmd.Wait() // as it may
			})
		}
		if daemon {
			time.Sleep(time.Duration(chance.IntN(80)) * time.Millisecond) // the moment of chance
			h.stop(syscall.SIGKILL)
			wg.Wait()
			h.start()
		}
		wg.Wait()
		if round%4 == 3 {
			for n := 1; n <= pods; n++ { // the runtime tries again what it has no answer for
				if err := h.del(h.pod(n, nil)); err != nil {
					t.Errorf("round %d: DEL: %v", round, err)
				}
			}
		} else {
			again := h.pod(2, nil)
			r := h.mustAdd(again)
			if err := h.check(again); err != nil {
				t.Errorf("round %d: CHECK: %v", round, err)
			}
			if held := h.attachments()["shop:pod-2"].GetAddresses(); r.IPs[0].Address.IP.String() != held[0] {
				t.Errorf("round %d: ADD returns %v, the agent has %v", round, r.IPs, held)
			}
			if err := h.sweep(); err != nil {
				t.Errorf("round %d: GC: %v", round, err)
			}
		}
		h.nothingLeft(t)
		if t.Failed() {
			return
		}
	}
}

// sweep is GC as a runtime calls it that knows of no container.
func (h *cniHost) sweep() error {
	cmd := h.bare("GC", h.pod(1, nil), map[string]any{"cni.dev/valid-attachments": []any{}})
	out, err := cmd.Output()
	if err != nil {
		return errors.Join(err, types.NewError(0, string(out), ""))
	}
	return h.runtime.GCNetworkList(context.Background(), h.list, nil)
}
