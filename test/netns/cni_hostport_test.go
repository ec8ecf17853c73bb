package netns_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// TestCNIHostPort: a host port is reached from outside, at each address of the node or
// at the one asked for; it belongs to one pod, and goes with it.
func TestCNIHostPort(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterOptions{nodes: 2, pods: 1})
	n := c.nodes[0]
	pods := strings.ReplaceAll(interfaces("pods", 1, 2, ""), "shop:pod-", "shop:web-")
	n.apply(pods)
	h := &cniHost{host: n.host}
	h.configure("")
	for _, role := range []string{"first", "second"} {
		if _, err := netns.Create(h.ns(role)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := netns.Delete(h.ns(role)); err != nil {
				t.Error(err)
			}
		})
	}
	pod := func(number int, role string, ports ...map[string]any) *libcni.RuntimeConf {
		rt := h.pod(number, map[string]any{"portMappings": ports})
		rt.NetNS, rt.Args[2][1] = netns.Path(h.ns(role)), fmt.Sprintf("web-%d", number)
		return rt
	}
	const port, second = 8090, 8091
	first := pod(1, "first", map[string]any{"hostPort": port, "containerPort": webPort, "protocol": "tcp"},
		map[string]any{"hostPort": second, "containerPort": webPort, "protocol": "TCP", "hostIP": n.address[v4]},
		map[string]any{"hostPort": 9000, "containerPort": echoPort, "protocol": "udp"})
	h.mustAdd(first)
	h.serveWeb("first", webPort)
	h.serveEcho("first", echoPort)
	for f := range service {
		server, seen := c.get(t, "outside", at(n.address[f], port))
		if server != "first" || seen != outside[f] {
			t.Errorf("%s answered and saw %s", server, seen)
		}
		if who, _, err := echo(c.dial(t, "outside", "udp", at(n.address[f], 9000)), []byte("hello")); err != nil || who != "first" {
			t.Errorf("UDP: %s, %v", who, err)
		}
	}
	c.get(t, "outside", at(n.address[v4], second))
	c.refused(t, "outside", at(n.address[v6], second), true, net.Dialer{})
	// Somebody else asks for one of them.
	taken := pod(2, "second", map[string]any{"hostPort": port, "containerPort": webPort, "protocol": "tcp"})
	_, err := h.add(taken)
	wantCode(t, err, 102, "served by FloatingIP/shop:web-1:hostport:")
	if at := h.attachments(); len(at) != 1 {
		t.Errorf("attachments after the refusal: %v", at)
	}
	if out := h.run("second", "ip", "-o", "link"); strings.Contains(out, "eth0") {
		t.Errorf("a device after the refusal: %s", out)
	}
	_, err = h.add(pod(2, "second", map[string]any{"hostPort": 70000, "containerPort": 80}))
	wantCode(t, err, 2, "70000 is no port")
	// The controller takes the interface away, which knows nothing of host ports.
	h.remove("VirtualMachineInterface", "shop:web-1")
	if fips := h.hostPorts(); len(fips) != 0 {
		t.Errorf("host ports without an interface: %v", fips)
	}
	c.refused(t, "outside", at(n.address[v4], port), true, net.Dialer{})
	n.apply(pods)
	n.waitPorts()
	c.get(t, "outside", at(n.address[v6], port))
	if fips := h.hostPorts(); len(fips) != 2 || !slices.IsSorted(fips) {
		t.Errorf("host ports: %v; want one for each address", fips)
	}
	h.mustDel(first)
	c.refused(t, "outside", at(n.address[v4], port), true, net.Dialer{})
	h.mustAdd(taken)
	h.serveWeb("second", webPort)
	if server, _ := c.get(t, "outside", at(n.address[v4], port)); server != "second" {
		t.Errorf("%s answered; want the second pod", server)
	}
	h.mustDel(taken)
	if at := h.attachments(); len(at)+len(h.hostPorts()) != 0 {
		t.Errorf("left: %v, %v", at, h.hostPorts())
	}
}
