package netns_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
)

// TestReach: pods reach pods, clients reach services with their own address, and
// a pod reaches its own service.
func TestReach(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{})
	eachFamily(t, func(t *testing.T, a addresses) {
		t.Run("pod to pod", func(t *testing.T) {
			for i, name := range []string{"web-2", "web-3"} {
				server, seen := h.get(t, "web-1", at(a.web[i+1], webPort))
				if server != name || seen != a.web[0] {
					t.Errorf("%s answered and saw %s; want %s and %s", server, seen, name, a.web[0])
				}
			}
			h.run("web-1", "ping", "-c", "1", "-W", "5", a.web[1])
		})
		t.Run("client to floating IP", func(t *testing.T) {
			counts := map[string]int{}
			for range 30 {
				server, seen := h.get(t, "client", at(a.service, 80))
				if seen != a.client {
					t.Fatalf("%s saw %s; want the client's own address %s", server, seen, a.client)
				}
				counts[server]++
			}
			if len(counts) != 3 { // (2/3)^30 is 5e-6
				t.Errorf("30 connections reached %v; want all three members", counts)
			}
			url := fmt.Sprintf("http://%s/", at(a.service, 80))
			if out := h.run("client", "curl", "-sS", "--max-time", "5", url); !strings.HasSuffix(out, a.client) {
				t.Errorf("curl got %q", out)
			}
		})
		// RFC 5382 REQ-8: hairpinning; the pod sees the service's address as its caller.
		t.Run("hairpin", func(t *testing.T) {
			for range 60 {
				server, seen := h.get(t, "web-1", at(a.service, 80))
				if server != "web-1" {
					continue
				}
				if seen != a.service {
					t.Errorf("web-1 saw itself as %s; want %s", seen, a.service)
				}
				return
			}
			t.Error("60 connections and never itself")
		})
		t.Run("unmapped port refused", func(t *testing.T) {
			before := h.drops("client", "FLOATING_IP_PORT")
			if _, _, err := h.tryGet("client", at(a.service, 443)); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("port 443: %v; want connection refused", err)
			}
			if h.drops("client", "FLOATING_IP_PORT") != before+1 {
				t.Error("not counted as FLOATING_IP_PORT")
			}
		})
		t.Run("no such service", func(t *testing.T) { // dropped, as kube-proxy does: it may come
			nobody := map[string]string{"v4": "10.96.0.99", "v6": "fd00:96::99"}[a.family]
			for role, port := range map[string]string{"client": "client", "web-1": "web-1"} {
				before := h.drops(port, "ADDRESS_UNASSIGNED")
				h.refused(t, role, at(nobody, 80), false, net.Dialer{})
				if h.drops(port, "ADDRESS_UNASSIGNED") == before {
					t.Errorf("%s: not counted as ADDRESS_UNASSIGNED", role)
				}
			}
		})
		t.Run("node to pod", func(t *testing.T) {
			for i, address := range a.web {
				if server, seen := h.get(t, "node", at(address, webPort)); server != fmt.Sprintf("web-%d", i+1) || seen != a.node {
					t.Errorf("%s answered and saw %s", server, seen)
				}
			}
		})
	})
}
