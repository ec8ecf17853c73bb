package netns_test

import (
	"fmt"
	"net"
	"testing"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// blocked fails the test unless a connection stays unanswered and is counted under
// the reason at the interface.
func (h *host) blocked(t *testing.T, role, address, reason string) {
	t.Helper()
	itf := role
	if role == "node" {
		itf = "vhost0"
	}
	before := h.drops(itf, reason)
	if conn, err := h.tryDial(role, "tcp", address, net.Dialer{}); err == nil {
		conn.Close()
		t.Errorf("%s reached %s", role, address)
	}
	if h.drops(itf, reason) == before {
		t.Errorf("%s to %s: not counted as %s", role, address, reason)
	}
}

// TestNetworkPolicy: networks are isolated, and the policy between the node and
// the pods can be narrowed to node addresses and ports.
func TestNetworkPolicy(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{state: change(`addresses: [192.0.2.10/24, "2001:db8:10::10/64"]`,
		`addresses: [192.0.2.10/24, 192.0.2.11/24, "2001:db8:10::10/64", "2001:db8:10::11/64"]`)})
	t.Run("isolated by default", func(t *testing.T) {
		for _, a := range families {
			h.blocked(t, "client", at(a.web[0], webPort), "NO_ROUTE")
			h.blocked(t, "web-1", at(a.client, webPort), "NO_ROUTE")
		}
	})
	h.apply(`
kind: NetworkPolicy
name: fabric-pods
spec:
  virtualNetworks: [ip-fabric, pods]
  rules:
    - {name: probes, source: {virtualNetwork: ip-fabric, prefix: 192.0.2.10/32}, destination: {virtualNetwork: pods}, protocol: TCP, destinationPorts: [{start: 8080}], action: PASS}
    - {name: probes-v6, source: {virtualNetwork: ip-fabric, prefix: "2001:db8:10::10/128"}, destination: {virtualNetwork: pods}, protocol: TCP, destinationPorts: [{start: 8080}], action: PASS}
`)
	other := map[string]string{"v4": "192.0.2.11", "v6": "2001:db8:10::11"}
	eachFamily(t, func(t *testing.T, a addresses) {
		from := func(address string) error {
			conn, err := h.tryDial("node", "tcp", at(a.web[0], webPort), net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}})
			if err == nil {
				conn.Close()
			}
			return err
		}
		if err := from(a.node); err != nil {
			t.Errorf("a probe from %s: %v", a.node, err)
		}
		if from(other[a.family]) == nil {
			t.Errorf("a probe from %s passed", other[a.family])
		}
		h.blocked(t, "web-1", at(a.node, 8000), "NO_ROUTE") // the policy is one-way
		conn, err := h.tryDial("node", "tcp", at(a.web[1], sinkPort), net.Dialer{})
		if err == nil {
			conn.Close()
			t.Error("the node reached a port that the policy does not name")
		}
		rule := map[string]string{"v4": "fabric-pods/probes", "v6": "fabric-pods/probes-v6"}[a.family]
		if list := h.flows(&pb.FlowFilter{Rule: rule, Source: a.node}); len(list) == 0 {
			t.Errorf("no flow names the rule %s", rule)
		}
	})
}

// securityPolicy isolates web-1: zone b may use 8080, and some addresses a range.
const securityPolicy = `
kind: SecurityPolicy
name: guard
spec:
  subject: {matchLabels: {zone: a}}
  ingress:
    - {name: zone-b, peers: [{selector: {matchExpressions: [{key: zone, operator: In, values: [b]}]}}], ports: [{port: 8080}]}
    - name: clients
      peers: [{ipBlock: {cidr: 203.0.113.0/24, except: [%s]}}, {ipBlock: {cidr: "2001:db8:113::/64", except: [%s]}}]
      ports: [{port: 8000, endPort: 8100}]
`

// TestSecurityPolicy has the semantics of a Kubernetes NetworkPolicy.
func TestSecurityPolicy(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{state: change("[web-1, web-2, web-3]", "[web-1]")})
	h.apply(fmt.Sprintf(securityPolicy, "203.0.113.128/25", `"2001:db8:113::8000/113"`))
	eachFamily(t, func(t *testing.T, a addresses) {
		h.get(t, "web-2", at(a.web[0], webPort))                                // allowed by label
		h.blocked(t, "web-2", at(a.web[0], sinkPort), "SECURITY_INGRESS")       // not on this port
		h.blocked(t, "web-3", at(a.web[0], webPort), "SECURITY_INGRESS")        // selected: default deny
		h.get(t, "web-1", at(a.web[2], webPort))                                // replies pass
		h.get(t, "web-3", at(a.web[1], webPort))                                // not selected: open
		h.get(t, "node", at(a.web[0], webPort))                                 // its own node
		if _, seen := h.get(t, "client", at(a.service, 80)); seen != a.client { // judged after NAT, port 8080 in the range
			t.Errorf("web-1 saw %s", seen)
		}
		h.blocked(t, "client", at(a.service, sinkPort), "SECURITY_INGRESS") // beyond the range
		if list := h.flows(&pb.FlowFilter{Rule: "guard/clients"}); len(list) == 0 {
			t.Error("no flow names the rule guard/clients")
		}
	})
	h.apply(fmt.Sprintf(securityPolicy, "203.0.113.0/29", `"2001:db8:113::/125"`))
	eachFamily(t, func(t *testing.T, a addresses) {
		h.blocked(t, "client", at(a.service, 80), "SECURITY_INGRESS") // in the exception now
	})
	h.remove("SecurityPolicy", "guard")
	eachFamily(t, func(t *testing.T, a addresses) { h.get(t, "web-3", at(a.web[0], webPort)) })
}

// TestPolicyChange: a live flow that is no longer allowed stops, others do not
// notice, and it goes on when it is allowed again.
func TestPolicyChange(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{})
	eachFamily(t, func(t *testing.T, a addresses) {
		stopped, spared := h.begin(t, "web-2", at(a.web[0], sinkPort)), h.begin(t, "web-2", at(a.web[2], sinkPort))
		both := func(n int) { // few enough for the socket's buffer where nobody takes them
			t.Helper()
			for _, x := range []*transfer{stopped, spared} {
				if err := x.send(n); err != nil {
					t.Fatal(err)
				}
			}
		}
		both(256 << 10)
		h.apply(`
kind: SecurityPolicy
name: guard
spec: {subject: {matchLabels: {zone: a}}, policyTypes: [INGRESS]}
`)
		before := h.drops("web-2", "SECURITY_INGRESS")
		both(4 << 10)
		h.until("the flow is stopped", func() bool { return h.drops("web-2", "SECURITY_INGRESS") > before })
		if server, err := spared.finish(); err != nil || server != "web-3" {
			t.Errorf("the other flow: %s, %v", server, err)
		}
		list := h.flows(&pb.FlowFilter{Source: a.web[1], Destination: a.web[0], Verdict: pb.Verdict_DROP})
		if len(list) != 1 || list[0].GetDropReason() != "SECURITY_INGRESS" {
			t.Errorf("flows: %v; want one dropped for SECURITY_INGRESS", list)
		}
		h.remove("SecurityPolicy", "guard")
		if server, err := stopped.finish(); err != nil || server != "web-1" {
			t.Errorf("after allowing it again: %s, %v", server, err)
		}
	})
}
