package netns_test

import (
	"strings"
	"testing"
)

// routerMAC is the router's address on every port (RFC 5798 section 7.3, VRID 0).
const routerMAC = "00:00:5e:00:01:00"

// TestNeighbours: the gateways and the pods' neighbours are at the router's MAC.
func TestNeighbours(t *testing.T) {
	t.Parallel()
	need(t, "arping", "ping", "traceroute")
	h := newHost(t, options{})
	// RFC 1027: proxy ARP; the router answers for the gateway and for other pods.
	t.Run("arping", func(t *testing.T) {
		for _, address := range []string{"10.244.0.1", "10.244.0.12"} {
			out := h.run("web-1", "arping", "-I", "eth0", "-c", "1", "-w", "5", address)
			if !strings.Contains(strings.ToLower(out), routerMAC) {
				t.Errorf("arping %s:\n%s", address, out)
			}
		}
		if out, err := h.try("web-1", "arping", "-I", "eth0", "-c", "1", "-w", "1", "10.245.0.1"); err == nil {
			t.Errorf("an address without a route was answered:\n%s", out)
		}
	})
	eachFamily(t, func(t *testing.T, a addresses) {
		// RFC 792, RFC 4443 section 4.2: the gateway answers echo requests.
		t.Run("ping gateway", func(t *testing.T) {
			h.run("client", "ping", "-c", "2", "-i", "0.2", "-W", "5", a.gateway)
			h.run("client", "ping", "-c", "1", "-W", "5", "-s", "1400", a.gateway)
			out := h.run("client", "ip", a.ipFlag, "neigh", "show", a.gateway)
			if !strings.Contains(out, routerMAC) {
				t.Errorf("ip neigh: %s", out)
			}
		})
		t.Run("neighbour by proxy", func(t *testing.T) {
			h.run("web-1", "ping", "-c", "1", "-W", "5", a.web[1])
			if out := h.run("web-1", "ip", a.ipFlag, "neigh", "show", a.web[1]); !strings.Contains(out, routerMAC) {
				t.Errorf("ip neigh: %s", out)
			}
		})
		// RFC 1812 section 5.3.1, RFC 4443 section 3.3: the hop limit ends here and the sender hears of it.
		t.Run("time exceeded", func(t *testing.T) {
			out, _ := h.try("web-1", "ping", "-c", "1", "-W", "5", "-t", "1", a.web[1])
			if !strings.Contains(out, a.podGateway) || !strings.Contains(strings.ToLower(out), "time") || !strings.Contains(out, "exceeded") {
				t.Errorf("ping -t 1:\n%s", out)
			}
			if h.drops("web-1", "TTL") == 0 {
				t.Error("not counted as TTL")
			}
		})
		// RFC 1812 section 5.3.1: a packet to the router itself with TTL 1 is accepted.
		t.Run("TTL 1 to the gateway", func(t *testing.T) {
			h.run("web-1", "ping", "-c", "1", "-W", "5", "-t", "1", a.podGateway)
		})
		t.Run("traceroute", func(t *testing.T) {
			for _, method := range []string{"-U", "-I"} {
				out := h.run("web-1", "traceroute", a.ipFlag, method, "-n", "-q", "1", "-w", "3", "-m", "4", a.web[1])
				lines := strings.Split(strings.TrimSpace(out), "\n")
				if len(lines) != 3 || !strings.Contains(lines[1], " "+a.podGateway+" ") || !strings.Contains(lines[2], " "+a.web[1]+" ") {
					t.Errorf("traceroute %s; want %s, then %s:\n%s", method, a.podGateway, a.web[1], out)
				}
			}
		})
	})
}
