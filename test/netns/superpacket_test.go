package netns_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// received returns the packets and bytes that a role's device has received, by
// the kernel's count.
func (h *host) received(role string) (packets, bytes int) {
	h.t.Helper()
	var links []struct {
		Stats struct{ RX struct{ Packets, Bytes int } } `json:"stats64"`
	}
	out := h.run(role, "ip", "-j", "-s", "link", "show", "eth0")
	if err := json.Unmarshal([]byte(out), &links); err != nil || len(links) != 1 {
		h.t.Fatalf("ip -j: %v\n%s", err, out)
	}
	return links[0].Stats.RX.Packets, links[0].Stats.RX.Bytes
}

// TestSuperpacketsPassWhole: what a guest's kernel hands over as one segment of up
// to 64 KiB arrives in the other guest as one.
func TestSuperpacketsPassWhole(t *testing.T) {
	t.Parallel()
	need(t, "iperf3")
	h := newHost(t, options{offloads: true})
	for _, feature := range []string{"vnet-hdr", "tso4", "tso6", "checksum"} {
		if p := h.port("client"); !strings.Contains(strings.Join(p.GetFeatures(), " "), feature) {
			t.Errorf("the client's port has %v; want %s among them", p.GetFeatures(), feature)
		}
	}
	eachFamily(t, func(t *testing.T, a addresses) {
		t.Run("TCP through a floating IP", func(t *testing.T) {
			before := map[string][2]int{}
			for _, role := range []string{"web-1", "web-2", "web-3"} {
				p, b := h.received(role)
				before[role] = [2]int{p, b}
			}
			server := h.upload(t, "client", at(a.service, sinkPort), 32<<20)
			p, b := h.received(server)
			p, b = p-before[server][0], b-before[server][1]
			if b < 32<<20 || b/p < 4*1500 {
				t.Errorf("%d bytes came in %d packets, %d each; want far more than the MTU", b, p, b/p)
			}
		})
		t.Run("iperf3 both ways", func(t *testing.T) {
			h.background("web-1", "iperf3", "-s", "-1", "-p", "5301")
			h.until("iperf3 listens", func() bool {
				out, _ := h.try("web-1", "ss", "-Hltn", "sport", "=", ":5301")
				return out != ""
			})
			out := h.run("web-2", "iperf3", "-J", "-c", a.web[0], "-p", "5301", "-n", "32M", "--bidir")
			if strings.Contains(out, `"error"`) {
				t.Error(out)
			}
		})
		t.Run("UDP", func(t *testing.T) {
			if !strings.Contains(strings.Join(h.port("client").GetFeatures(), " "), "uso") {
				t.Skip("SKIP-TOOL: this kernel has no USO on TAP devices")
			}
			if p := h.sendSegments(t, "web-2", "web-3", a.web[2]); p != 1 {
				t.Errorf("10 datagrams of one sendmsg arrived in %d packets; want 1", p)
			}
		})
	})
}

// sendSegments sends 10 datagrams by one sendmsg with UDP_SEGMENT, receives them
// all, and returns in how many packets the receiver's device got them.
func (h *host) sendSegments(t *testing.T, from, to, address string) (packets int) {
	t.Helper()
	const count, size = 10, 1200
	server := h.listenUDP(to, 0)
	port := server.LocalAddr().(*net.UDPAddr).Port
	client := h.dial(t, from, "udp", at(address, port)).(*net.UDPConn)
	setSocket(t, client, unix.IPPROTO_UDP, unix.UDP_SEGMENT, size)
	// The first resolves the neighbour and opens the session.
	for _, warm := range []bool{true, false} {
		before, _ := h.received(to)
		n := count
		if warm {
			n = 1
		}
		payload := make([]byte, n*size)
		for i := range payload {
			payload[i] = byte(i / size)
		}
		if _, err := client.Write(payload); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1<<16)
		for i := range n {
			got, _, err := server.ReadFromUDP(b)
			if err != nil || got != size || b[0] != byte(i) {
				t.Fatalf("datagram %d: %d bytes, %v", i, got, err)
			}
		}
		now, _ := h.received(to)
		packets = now - before
	}
	return packets
}

// setSocket sets a socket option.
func setSocket(t *testing.T, c unixConn, level, option, value int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), level, option, value) })
	if err = errors.Join(err, set); err != nil {
		t.Fatalf("setsockopt: %v", err)
	}
}

// withPlain is the standard state and a pod "plain" on a TAP that somebody else
// makes.
const withPlain = `
---
kind: VirtualMachineInterface
name: plain
spec:
  virtualNetwork: pods
  macAddress: "02:00:00:00:00:aa"
  addresses: [10.244.0.99, "fd00:244::99"]
  tap: {name: eth0, netns: @NS@-plain, existing: true, queues: 2}
`

// addTAP makes a TAP as QEMU or a CNI plugin leaves it: persistent, up, with
// addresses and routes; flags are those of `ip tuntap add`.
func (h *host) addTAP(role string, flags ...string) {
	h.t.Helper()
	h.run(role, append([]string{"ip", "tuntap", "add", "dev", "eth0", "mode", "tap"}, flags...)...)
	h.run(role, "sysctl", "-q", "-w", "net.ipv6.conf.eth0.accept_dad=0")
	h.run(role, "ip", "link", "set", "eth0", "address", "02:00:00:00:00:aa", "up")
	for _, args := range []string{
		"addr add 10.244.0.99/24 dev eth0", "-6 addr add fd00:244::99/64 dev eth0 nodad",
		"route add default via 10.244.0.1", "-6 route add default via fd00:244::1 dev eth0",
	} {
		h.run(role, append([]string{"ip"}, strings.Fields(args)...)...)
	}
}

// TestPlainPort: a port without offloads gets segments of MTU size with complete
// checksums from peers that have them, and its own packets reach such peers.
func TestPlainPort(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{bare: true, offloads: true, roles: []string{"plain"}})
	h.addTAP("plain")
	h.apply(change("[web-1, web-2, web-3]", "[plain]") + withPlain)
	h.waitPorts()
	if p := h.port("plain"); len(p.GetFeatures()) != 0 || p.GetQueues() != 1 {
		t.Errorf("the port has features %v and %d queues; want none and 1", p.GetFeatures(), p.GetQueues())
	}
	for _, role := range []string{"plain", "web-1", "client"} {
		h.capture(role)
	}
	h.serve("plain")
	h.serve("web-1")
	plain := map[string]string{"v4": "10.244.0.99", "v6": "fd00:244::99"}
	eachFamily(t, func(t *testing.T, a addresses) {
		h.upload(t, "web-1", at(plain[a.family], sinkPort), 512<<10)
		h.upload(t, "client", at(a.service, sinkPort), 512<<10) // a partial checksum through NAT
		h.upload(t, "plain", at(a.web[0], sinkPort), 512<<10)
		h.upload(t, "node", at(plain[a.family], sinkPort), 512<<10)
		if p := h.sendSegments(t, "web-1", "plain", plain[a.family]); p != 10 {
			t.Errorf("10 datagrams of one sendmsg arrived in %d packets; want 10", p)
		}
		if p := h.sendSegments(t, "plain", "web-1", a.web[0]); p < 1 || p > 10 {
			t.Errorf("10 datagrams of a plain port arrived in %d packets; want 10, or fewer where they were merged", p)
		}
	})
	h.until("the capture has seen it", func() bool { return strings.Contains(h.tshark("udp", h.path("in-plain.pcap")), "1200") })
	if found := h.tshark("frame.len > 1514 || "+malformed+" || "+wrongSum, h.path("in-plain.pcap")); found != "" {
		t.Errorf("the plain port got superpackets, or checksums that are not complete:\n%.2000s", found)
	}
	if found := h.tshark("tcp.len > 1000", h.path("in-plain.pcap")); strings.Count(found, "\n") < 100 {
		t.Errorf("the capture shows no bulk:\n%s", found)
	}
}

// TestExistingTAP: a TAP that somebody else made is attached by its name, with all
// its queues; when it is deleted the port is lost, and when it returns traffic
// goes on.
func TestExistingTAP(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{bare: true, offloads: true, roles: []string{"plain"}})
	h.apply(standardState + withPlain)
	h.serve("web-1")
	h.until("LOST before the device exists", func() bool { return h.port("plain").GetState().String() == "LOST" })
	if reason := h.port("plain").GetReason(); !strings.Contains(reason, "no such device") {
		t.Errorf("the reason is %q", reason)
	}
	h.addTAP("plain", "multi_queue", "vnet_hdr")
	h.waitPorts()
	p := h.port("plain")
	if p.GetQueues() != 2 || !strings.Contains(strings.Join(p.GetFeatures(), " "), "tso4") {
		t.Errorf("%d queues, features %v; want 2 and tso4", p.GetQueues(), p.GetFeatures())
	}
	plain := map[string]string{"v4": "10.244.0.99", "v6": "fd00:244::99"}
	eachFamily(t, func(t *testing.T, a addresses) {
		for range 20 { // spread over the queues by the kernel
			if _, seen := h.get(t, "plain", at(a.web[0], webPort)); seen != plain[a.family] {
				t.Fatalf("web-1 saw %s", seen)
			}
		}
	})
	before := h.run("plain", "ip", "-d", "link", "show", "eth0")

	h.run("plain", "ip", "link", "del", "eth0")
	h.until("LOST after the device was deleted", func() bool { return h.port("plain").GetState().String() == "LOST" })
	if out, code := h.vrctl("status"); code != 0 || !strings.Contains(out, "degraded") || !strings.Contains(out, "plain") {
		t.Errorf("vrctl status: exit %d\n%s; want 0, degraded and the port's name", code, out)
	}
	h.addTAP("plain", "multi_queue", "vnet_hdr")
	h.waitPorts()
	eachFamily(t, func(t *testing.T, a addresses) {
		h.get(t, "plain", at(a.web[0], webPort))
		h.run("web-1", "ping", "-c", "1", "-W", "5", plain[a.family])
	})
	if !strings.Contains(before, "multi_queue") || !strings.Contains(before, "vnet_hdr") {
		t.Errorf("the attached device is\n%s", before)
	}
	h.remove("VirtualMachineInterface", "plain")
	h.run("plain", "ip", "link", "show", "eth0") // it is not ours to delete
}

// TestMultiQueue: a device made with several queues has them, and its flows come
// through.
func TestMultiQueue(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{offloads: true, state: change("tap: {netns: @NS@-client}", "tap: {netns: @NS@-client, queues: 4}")})
	if n := h.port("client").GetQueues(); n != 4 {
		t.Errorf("%d queues; want 4", n)
	}
	eachFamily(t, func(t *testing.T, a addresses) {
		for i := range 40 {
			conn := h.dial(t, "client", "udp", at(a.service, 9000))
			if _, _, err := echo(conn, fmt.Appendf(nil, "%d", i)); err != nil {
				t.Fatal(err)
			}
		}
		h.upload(t, "client", at(a.service, sinkPort), 8<<20)
	})
}
