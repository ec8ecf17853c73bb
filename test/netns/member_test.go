package netns_test

import (
	"fmt"
	"testing"
	"time"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// members makes a list of members, as a state file has it, that of the services.
func (h *host) members(list string) {
	h.t.Helper()
	for _, r := range h.parse(fmt.Sprintf(services, list)) {
		_, err := h.api.Apply(h.t.Context(), &pb.ApplyRequest{Upserts: []*pb.Resource{r}})
		if err != nil {
			h.t.Fatal(err)
		}
	}
}

const services = `
kind: FloatingIP
name: web
spec:
  address: 10.96.0.10
  virtualNetwork: services
  floatingIpPortMappings: {portMappings: [{srcPort: 80, dstPort: 8080}, {srcPort: 5201}, {srcPort: 9000, dstPort: 9001, protocol: UDP}]}
  %[1]s
---
kind: FloatingIP
name: web-v6
spec:
  address: "fd00:96::10"
  virtualNetwork: services
  floatingIpPortMappings: {portMappings: [{srcPort: 80, dstPort: 8080}, {srcPort: 5201}, {srcPort: 9000, dstPort: 9001, protocol: UDP}]}
  %[1]s
`

// servers returns who answers n new connections.
func (h *host) servers(t *testing.T, address string, n int) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for range n {
		server, _ := h.get(t, "client", address)
		counts[server]++
	}
	return counts
}

// TestMembersComeAndGo: live TCP flows stay while members come, drain and leave,
// 1→2 and 2→1 included; new flows go where they should.
func TestMembersComeAndGo(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{offloads: true})
	eachFamily(t, func(t *testing.T, a addresses) {
		bulk, web := at(a.service, sinkPort), at(a.service, 80)
		send := func(x *transfer) {
			t.Helper()
			if err := x.send(2 << 20); err != nil {
				t.Fatal(err)
			}
		}
		finish := func(x *transfer, want string) {
			t.Helper()
			if server, err := x.finish(); err != nil || server != want {
				t.Errorf("the transfer ended at %q, %v; want %s", server, err, want)
			}
		}
		h.members("virtualMachineInterfaces: [web-1]")
		first := h.begin(t, "client", bulk)
		send(first)
		h.members("virtualMachineInterfaces: [web-1, web-2]") // 1→2
		send(first)
		if got := h.servers(t, web, 24); got["web-1"] == 0 || got["web-2"] == 0 {
			t.Errorf("two members, and %v answered", got)
		}
		h.members("virtualMachineInterfaces: [web-2]") // 2→1: the member of the transfer leaves
		send(first)
		if got := h.servers(t, web, 12); got["web-2"] != 12 {
			t.Errorf("one member, and %v answered", got)
		}
		second := h.begin(t, "client", bulk)
		send(second)
		h.members("members: [{virtualMachineInterface: web-2, state: DRAINING}, {virtualMachineInterface: web-3}]")
		send(second)
		if got := h.servers(t, web, 12); got["web-3"] != 12 {
			t.Errorf("web-2 drains, and %v answered", got)
		}
		h.members("members: [{virtualMachineInterface: web-2, state: SERVING}]")
		if got := h.servers(t, web, 4); got["web-2"] != 4 { // kubernetes#108523: serving, while nobody is ready
			t.Errorf("only web-2 serves, and %v answered", got)
		}
		send(first)
		send(second)
		finish(first, "web-1")
		finish(second, "web-2")
	})
}

// TestUDPFollowsMembers: a UDP flow of a member that was removed is decided anew
// with its next datagram.
func TestUDPFollowsMembers(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{})
	eachFamily(t, func(t *testing.T, a addresses) {
		h.members("virtualMachineInterfaces: [web-1]")
		conn := h.dial(t, "client", "udp", at(a.service, 9000))
		for _, step := range []struct{ members, want string }{{"[web-1]", "web-1"}, {"[web-1, web-2]", "web-1"}, {"[web-2]", "web-2"}, {"[web-2, web-3]", "web-2"}} {
			h.members("virtualMachineInterfaces: " + step.members)
			for range 3 {
				if server, _, err := echo(conn, []byte("hello")); err != nil || server != step.want {
					t.Fatalf("members %s: %q answered, %v; want %s", step.members, server, err, step.want)
				}
			}
		}
	})
}

// TestMemberVanishes: with its interface a member's sessions are dead, and new ones
// go elsewhere.
func TestMemberVanishes(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{})
	h.members("virtualMachineInterfaces: [web-1]")
	x := h.begin(t, "client", at("10.96.0.10", sinkPort))
	if err := x.send(64 << 10); err != nil {
		t.Fatal(err)
	}
	h.members("virtualMachineInterfaces: [web-2, web-3]")
	h.remove("VirtualMachineInterface", "web-1")
	_ = x.send(64 << 10) // it may be told at once
	h.until("the session is dead", func() bool { return h.drops("client", "MEMBER_GONE") > 0 })
	for _, a := range families {
		if got := h.servers(t, at(a.service, 80), 10); got["web-1"] != 0 {
			t.Errorf("%v answered", got)
		}
	}
}

// TestSessionAffinity: a client stays on its member over flows until the timeout.
func TestSessionAffinity(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{})
	eachFamily(t, func(t *testing.T, a addresses) {
		h.members("virtualMachineInterfaces: [web-1, web-2, web-3]\n  sessionAffinity: {type: CLIENT_IP, timeoutSeconds: 1}")
		first, _ := h.get(t, "client", at(a.service, 80))
		if got := h.servers(t, at(a.service, 80), 20); got[first] != 20 {
			t.Errorf("first %s, then %v", first, got)
		}
		h.until("the client lands elsewhere after the timeout", func() bool {
			time.Sleep(1200 * time.Millisecond) // longer than the timeout: that is the condition
			server, _ := h.get(t, "client", at(a.service, 80))
			return server != first
		})
		// A pod is a client of its own.
		h.get(t, "web-1", at(a.service, 80))
	})
}

// TestTargetPortsAndWeights: a member may have a port of its own and a heavier
// share.
func TestTargetPortsAndWeights(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{})
	own := h.listen("web-1", 8181)
	_ = own.Close()
	h.serveWeb("web-1", 8181)
	h.members("members: [{virtualMachineInterface: web-1, weight: 9, targetPorts: [{srcPort: 80, dstPort: 8181}]}, {virtualMachineInterface: web-2}]")
	eachFamily(t, func(t *testing.T, a addresses) {
		got := h.servers(t, at(a.service, 80), 150)
		if got["web-2"] == 0 || got["web-1"] < 4*got["web-2"] { // 9:1; below 4:1 is 6 sigma away
			t.Errorf("weights 9 and 1: %v", got)
		}
		ports := map[uint32]bool{}
		for _, f := range h.flows(&pb.FlowFilter{Destination: a.service, VirtualMachineInterface: "web-1", DestinationPort: 80}) {
			ports[f.GetReply().GetSourcePort()] = true
		}
		if !ports[8181] || len(ports) != 1 {
			t.Errorf("web-1 is reached at %v; want 8181", ports)
		}
	})
}
