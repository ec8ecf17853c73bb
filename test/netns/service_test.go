package netns_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// serviceState is a service as the control plane writes it: cluster addresses with
// InstanceIPs as parents, a node port, and the load balancer that joins them.
const serviceState = `
kind: InstanceIP
name: shop:web:clusterip-v4
spec: {address: 10.96.0.20, virtualNetwork: services}
---
kind: FloatingIP
name: shop:web:clusterip-v4
spec:
  parent: shop:web:clusterip-v4
  floatingIpPortMappings: {portMappings: [{srcPort: 80, dstPort: 8080}]}
  members: [{virtualMachineInterface: web-1}, {virtualMachineInterface: web-2}, {virtualMachineInterface: web-3, state: DRAINING}]
---
kind: InstanceIP
name: shop:web:clusterip-v6
spec: {address: "fd00:96::20", virtualNetwork: services}
---
kind: FloatingIP
name: shop:web:clusterip-v6
spec:
  parent: shop:web:clusterip-v6
  floatingIpPortMappings: {portMappings: [{srcPort: 80, dstPort: 8080}]}
  members: [{virtualMachineInterface: web-1}, {virtualMachineInterface: web-2}, {virtualMachineInterface: web-3, state: DRAINING}]
---
kind: FloatingIP
name: shop:web:nodeport-v4
spec:
  address: 192.0.2.10
  virtualNetwork: ip-fabric
  floatingIpPortMappings: {portMappings: [{srcPort: 31080, dstPort: 8080}]}
  members: [{virtualMachineInterface: web-1}, {virtualMachineInterface: web-2}, {virtualMachineInterface: web-3, state: DRAINING}]
---
kind: LoadBalancer
name: shop:web
spec:
  service: {namespace: shop, name: web, type: NodePort}
  listeners:
    - name: http
      port: 80
      nodePort: 31080
      pool:
        targetPort: http
        members:
          - {virtualMachineInterface: web-1, address: 10.244.0.11, port: 8080, state: READY, node: e2e}
          - {virtualMachineInterface: web-2, address: 10.244.0.12, port: 8080, state: READY, node: e2e}
          - {virtualMachineInterface: web-3, address: 10.244.0.13, port: 8080, state: DRAINING, node: e2e}
  floatingIps: [shop:web:clusterip-v4, shop:web:clusterip-v6, shop:web:nodeport-v4]
  instanceIps: [shop:web:clusterip-v4, shop:web:clusterip-v6]
`

// explainService asks vrctl for the service's journey.
func (h *host) explainService(t *testing.T, args ...string) *pb.ServiceJourney {
	t.Helper()
	out, code := h.vrctl(append([]string{"explain", "svc/shop/web", "-o", "json"}, args...)...)
	j := &pb.ServiceJourney{}
	if err := protojson.Unmarshal([]byte(out), j); code != 0 || err != nil {
		t.Fatalf("exit %d, %v\n%s", code, err, out)
	}
	return j
}

// problem finds what a journey says of a subject, and fails without it.
func problem(t *testing.T, j *pb.ServiceJourney, subject, part string) {
	t.Helper()
	for _, p := range j.GetProblems() {
		if strings.Contains(p.GetSubject(), subject) && strings.Contains(p.GetDescription(), part) {
			if p.GetRemedy() == "" {
				t.Errorf("%s: %s: nothing to try", p.GetSubject(), p.GetDescription())
			}
			return
		}
	}
	t.Errorf("no problem %q of %q among %v", part, subject, j.GetProblems())
}

// TestExplainService: what vrctl says of a service is what connections to it meet.
func TestExplainService(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{})
	h.apply(serviceState)
	const v4, v6, nodePort = "10.96.0.20", "fd00:96::20", "192.0.2.10"

	t.Run("as connections meet it", func(t *testing.T) {
		if j := h.explainService(t); len(j.GetProblems()) != 0 {
			t.Errorf("problems: %v", j.GetProblems())
		}
		for _, address := range []string{v4, v6, nodePort} {
			port, answered := 80, map[string]uint64{}
			if address == nodePort {
				port = 31080
			}
			for range 20 {
				server, _ := h.get(t, "client", at(address, port))
				answered[server]++
			}
			for _, a := range h.explainService(t).GetAddresses() {
				if a.GetAddress() != address {
					continue
				}
				for _, m := range a.GetMembers() {
					name := m.GetVirtualMachineInterface()
					if m.GetSessions() != answered[name] || m.GetTakesFlows() != (answered[name] > 0) {
						t.Errorf("%s %s: %d sessions, takes flows %v; it answered %d connections", address, name, m.GetSessions(), m.GetTakesFlows(), answered[name])
					}
				}
				if a.GetNextHop() != "ECMP over 2 of 3 members" || a.GetSessions() != 20 {
					t.Errorf("%s: next hop %q, %d sessions", address, a.GetNextHop(), a.GetSessions())
				}
				answered = nil
			}
			if answered != nil {
				t.Errorf("%s is not told", address)
			}
		}
		out, code := h.vrctl("flow", "list", "--svc", "shop/web", "-o", "json")
		if n := strings.Count(out, `"floatingIp":`); code != 0 || n != 60 {
			t.Errorf("flow list --svc: exit %d, %d sessions, want 60", code, n)
		}
	})
	t.Run("the sample is the forwarder's own", func(t *testing.T) {
		j := h.explainService(t, "--from", "client")
		if len(j.GetSamples()) != 1 {
			t.Fatalf("%d samples", len(j.GetSamples()))
		}
		s := j.GetSamples()[0].GetJourney()
		if s.GetVerdict() != pb.Verdict_FORWARD || s.GetFloatingIp() != "shop:web:clusterip-v4" || s.GetRewritten().GetDestinationPort() != 8080 {
			t.Errorf("sample: %v", s)
		}
	})
	t.Run("nobody ready is refused, and said so", func(t *testing.T) {
		h.apply(strings.NewReplacer("virtualMachineInterface: web-1}", "virtualMachineInterface: web-1, state: DRAINING}",
			"virtualMachineInterface: web-2}", "virtualMachineInterface: web-2, state: DRAINING}").Replace(serviceState))
		if _, _, err := h.tryGet("client", at(v4, 80)); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("a connection: %v, want refused", err)
		}
		j := h.explainService(t, "--from", "client")
		problem(t, j, "ClusterIP "+v4, "all members are draining: new flows are refused at once")
		problem(t, j, "listener http", "FLOATING_IP_NO_MEMBER")
	})
	t.Run("a policy in the way is named", func(t *testing.T) {
		h.apply(serviceState)
		h.apply("kind: SecurityPolicy\nname: shop:closed\nspec: {subject: {matchLabels: {app: web}}}\n")
		h.blocked(t, "client", at(v4, 80), "SECURITY_INGRESS")
		j := h.explainService(t, "--from", "client")
		problem(t, j, "listener http", "SECURITY_INGRESS")
		if p := j.GetSecurityPolicies(); len(p) != 1 || p[0].GetName() != "shop:closed" || len(p[0].GetVirtualMachineInterfaces()) != 3 {
			t.Errorf("security policies: %v", p)
		}
		h.remove("SecurityPolicy", "shop:closed")
	})
	t.Run("probes need the fabric's policy", func(t *testing.T) {
		h.get(t, "node", at(families[0].web[0], webPort))
		h.remove("NetworkPolicy", "fabric-pods")
		if _, _, err := h.tryGet("node", at(families[0].web[0], webPort)); err == nil {
			t.Error("the node reaches a pod without the policy")
		}
		problem(t, h.explainService(t), "pods", "no NetworkPolicy lets ip-fabric reach it")
	})
	t.Run("a namespace that is not there", func(t *testing.T) {
		h.apply("kind: VirtualMachineInterface\nname: web-2\nspec: {virtualNetwork: pods, addresses: [10.244.0.12, \"fd00:244::12\"], tap: {netns: @NS@-gone}}\n")
		j := h.explainService(t)
		problem(t, j, "web-2", "its port is lost")
	})
}
