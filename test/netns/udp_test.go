package netns_test

import (
	"errors"
	"strings"
	"syscall"
	"testing"
)

// TestDNS: a real resolver behind a floating IP 53→5353, over UDP and TCP.
func TestDNS(t *testing.T) {
	t.Parallel()
	need(t, "dnsmasq", "dig")
	h := newHost(t, options{})
	h.apply(`
kind: FloatingIP
name: dns
spec:
  address: 10.96.0.53
  virtualNetwork: services
  floatingIpPortMappings: {portMappings: [{srcPort: 53, dstPort: 5353, protocol: UDP}, {srcPort: 53, dstPort: 5353, protocol: TCP}]}
  virtualMachineInterfaces: [web-1, web-2]
---
kind: FloatingIP
name: dns-v6
spec:
  address: "fd00:96::53"
  virtualNetwork: services
  floatingIpPortMappings: {portMappings: [{srcPort: 53, dstPort: 5353, protocol: UDP}, {srcPort: 53, dstPort: 5353, protocol: TCP}]}
  virtualMachineInterfaces: [web-1, web-2]
`)
	for _, role := range []string{"web-1", "web-2"} {
		h.background(role, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--port=5353",
			"--no-resolv", "--no-hosts", "--address=/service.test/198.51.100.7", "--txt-record=long.test,"+strings.Repeat("x", 250))
		h.until("dnsmasq listens", func() bool {
			out, _ := h.try(role, "ss", "-Hlun", "sport", "=", ":5353")
			return out != ""
		})
	}
	for _, address := range []string{"10.96.0.53", "fd00:96::53"} {
		for _, how := range []string{"+notcp", "+tcp"} {
			for range 5 {
				out := h.run("client", "dig", "+short", "+tries=1", "+time=5", how, "@"+address, "service.test")
				if strings.TrimSpace(out) != "198.51.100.7" {
					t.Fatalf("dig %s @%s: %q", how, address, out)
				}
			}
		}
		if out := h.run("client", "dig", "+short", "+tries=1", "+time=5", "@"+address, "long.test", "TXT"); len(out) < 250 {
			t.Errorf("TXT: %q", out)
		}
	}
}

// TestUDPRefusals: who cannot be served is told at once.
func TestUDPRefusals(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{})
	h.apply(`
kind: FloatingIP
name: empty
spec:
  address: 10.96.0.99
  virtualNetwork: services
  floatingIpPortMappings: {portMappings: [{srcPort: 80, protocol: TCP}, {srcPort: 53, protocol: UDP}]}
---
kind: FloatingIP
name: empty-v6
spec:
  address: "fd00:96::99"
  virtualNetwork: services
  floatingIpPortMappings: {portMappings: [{srcPort: 80, protocol: TCP}, {srcPort: 53, protocol: UDP}]}
`)
	refused := func(t *testing.T, address string) {
		t.Helper()
		conn := h.dial(t, "client", "udp", address)
		if _, _, err := echo(conn, []byte("hello")); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %v; want connection refused", address, err)
		}
	}
	eachFamily(t, func(t *testing.T, a addresses) {
		// RFC 1122 section 3.2.2.1, RFC 4443 section 3.1: port unreachable, from the address that was called.
		t.Run("unmapped port", func(t *testing.T) {
			refused(t, at(a.service, 4444))
			if h.drops("client", "FLOATING_IP_PORT") == 0 {
				t.Error("not counted as FLOATING_IP_PORT")
			}
		})
		t.Run("no member", func(t *testing.T) {
			empty := map[string]string{"v4": "10.96.0.99", "v6": "fd00:96::99"}[a.family]
			before := h.drops("client", "FLOATING_IP_NO_MEMBER")
			refused(t, at(empty, 53))
			if _, _, err := h.tryGet("client", at(empty, 80)); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("TCP: %v; want connection refused", err)
			}
			if n := h.drops("client", "FLOATING_IP_NO_MEMBER") - before; n != 2 {
				t.Errorf("%d counted as FLOATING_IP_NO_MEMBER; want 2", n)
			}
		})
		// RFC 5508 REQ-4: the pod's ICMP error comes back as the service's, the quoted packet as it was sent.
		t.Run("closed port of a pod", func(t *testing.T) { refused(t, at(a.service, 9999)) })
	})
}
