package netns_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// snmp returns a counter of a role's kernel, named as nstat names it.
func (h *host) snmp(role, name string) (n int) {
	h.t.Helper()
	for line := range strings.Lines(h.run(role, "nstat", "-asz", name)) {
		if _, err := fmt.Sscanf(line, name+" %d", &n); err == nil {
			return n
		}
	}
	h.t.Fatalf("no counter %s", name)
	return 0
}

// TestPathMTU: between a port of MTU 1500 and one of 1280.
func TestPathMTU(t *testing.T) {
	t.Parallel()
	need(t, "ping", "nstat")
	h := newHost(t, options{state: change(
		"tap: {netns: @NS@-web-1}", "tap: {netns: @NS@-web-1, mtu: 1280}",
		"virtualMachineInterfaces: [web-1, web-2, web-3]", "virtualMachineInterfaces: [web-1]",
	)})
	eachFamily(t, func(t *testing.T, a addresses) {
		// RFC 1191 section 4, RFC 8201 section 4: too big is told with the next hop's MTU, and the sender learns it.
		t.Run("told", func(t *testing.T) {
			out, _ := h.try("web-2", "ping", "-c", "1", "-W", "3", "-M", "do", "-s", "1400", a.web[0])
			if !strings.Contains(out, "1280") || strings.Contains(out, "1 received") {
				t.Errorf("ping with DF:\n%s", out)
			}
			if out := h.run("web-2", "ip", "route", "get", a.web[0]); !strings.Contains(out, "mtu 1280") {
				t.Errorf("ip route get: %s", out)
			}
			if h.drops("web-2", "MTU") == 0 {
				t.Error("not counted as MTU")
			}
		})
		// The pod's SYN announces what its device can take; with a larger one the
		// sender has to learn from the router.
		t.Run("TCP adapts through a floating IP", func(t *testing.T) {
			h.run("web-1", "ip", a.ipFlag, "route", "replace", "default", "via", a.podGateway, "dev", "eth0", "advmss", "1440")
			if server := h.upload(t, "client", at(a.service, sinkPort), 4<<20); server != "web-1" {
				t.Errorf("%s received it", server)
			}
			if out := h.run("client", "ip", "route", "get", a.service); !strings.Contains(out, "mtu 1280") {
				t.Errorf("ip route get: %s", out)
			}
		})
		t.Run("TCP out of the small port", func(t *testing.T) {
			h.upload(t, "web-1", at(a.web[1], sinkPort), 4<<20)
		})
	})
	// RFC 791 section 3.2, RFC 4787 REQ-13: DF=0 is fragmented.
	t.Run("v4 without DF is fragmented", func(t *testing.T) {
		before := h.snmp("web-1", "IpReasmOKs")
		h.run("web-3", "ping", "-c", "1", "-W", "5", "-M", "dont", "-s", "1400", "10.244.0.11")
		if h.snmp("web-1", "IpReasmOKs") == before {
			t.Error("it did not arrive in fragments")
		}
	})
}

// TestFragments: datagrams longer than the MTU cross NAT in both directions.
// RFC 4787 REQ-14: fragments are translated.
func TestFragments(t *testing.T) {
	t.Parallel()
	need(t, "ping", "nstat")
	h := newHost(t, options{})
	eachFamily(t, func(t *testing.T, a addresses) {
		t.Run("ping", func(t *testing.T) {
			h.run("web-1", "ping", "-c", "2", "-i", "0.2", "-W", "5", "-s", "4000", a.web[1])
			h.run("client", "ping", "-c", "1", "-W", "5", "-s", "4000", a.gateway)
		})
		t.Run("UDP through a floating IP", func(t *testing.T) {
			counter := map[string]string{"v4": "IpReasmOKs", "v6": "Ip6ReasmOKs"}[a.family]
			before := h.snmp("client", counter)
			conn := h.dial(t, "client", "udp", at(a.service, 9000))
			for _, size := range []int{1, 1400, 3000, 8192, 40000} {
				server, seen, err := echo(conn, bytes.Repeat([]byte{'x'}, size))
				if err != nil {
					t.Fatalf("%d bytes: %v", size, err)
				}
				if !strings.HasPrefix(seen, at(a.client, 0)[:len(at(a.client, 0))-1]) {
					t.Errorf("%s saw %s", server, seen)
				}
			}
			if h.snmp("client", counter) < before+3 {
				t.Error("the answers did not come in fragments")
			}
		})
	})
}
