package netns_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// TestCNIPods: what ADD returns is what the pod has, and it works at once: the first
// ping and the first connection after the return go through, and policy holds for them.
func TestCNIPods(t *testing.T) {
	t.Parallel()
	need(t, "ping")
	h := newCNIHost(t, 3, cniState, `, "mtu": 1400`)
	h.apply(interfaces("pods", 1, 1, "  labels: {app: web}\n") + interfaces("pods", 2, 2, "  labels: {may: \"yes\"}\n") + interfaces("pods", 3, 3, ""))
	web := h.mustAdd(h.pod(1, nil))
	h.serveWeb("pod-1", webPort)
	may := h.mustAdd(h.pod(2, nil))
	for f := range service {
		if out, err := h.try("pod-2", "ping", "-c1", "-W2", ofFamily(t, web, family(f))); err != nil {
			t.Errorf("the first ping: %v\n%s", err, out)
		}
		server, seen := h.get(t, "pod-2", at(ofFamily(t, web, family(f)), webPort))
		if server != "pod-1" || seen != ofFamily(t, may, family(f)) {
			t.Errorf("%s answered and saw %s", server, seen)
		}
	}
	h.mustAdd(h.pod(3, nil))
	for f := range service {
		if conn, err := h.tryDial("pod-3", "tcp", at(ofFamily(t, web, family(f)), webPort), net.Dialer{}); err == nil {
			conn.Close()
			t.Errorf("%v: the first connection went past the policy", family(f))
		}
	}
	// The result against the kernel's word.
	itf := web.Interfaces[0]
	link := h.run("pod-1", "ip", "-o", "link", "show", "eth0")
	if len(web.Interfaces) != 1 || itf.Name != "eth0" || itf.Sandbox != netns.Path(h.ns("pod-1")) || !strings.Contains(link, itf.Mac) || !strings.Contains(link, "mtu 1400") || itf.Mtu != 1400 {
		t.Errorf("interface %+v, the kernel says %s", itf, link)
	}
	if out := h.run("pod-1", "ip", "-o", "address", "show", "eth0"); len(web.IPs) != 2 || !strings.Contains(out, web.IPs[0].Address.String()) || !strings.Contains(out, web.IPs[1].Address.String()) {
		t.Errorf("addresses %v, the kernel says %s", web.IPs, out)
	}
	if out := h.run("pod-1", "ip", "route") + h.run("pod-1", "ip", "-6", "route"); len(web.Routes) != 2 ||
		!strings.Contains(out, "default via 10.244.0.1 dev eth0") || !strings.Contains(out, "default via fd00:244::1 dev eth0") {
		t.Errorf("routes %v, the kernel says %s", web.Routes, out)
	}
	// The same again.
	if again := h.mustAdd(h.pod(1, nil)); !same(again, web) {
		t.Errorf("a second ADD returns %v; the first %v", again, web)
	}
	h.get(t, "pod-2", at(ofFamily(t, web, v4), webPort))
	for n := 1; n <= 3; n++ {
		if err := h.check(h.pod(n, nil)); err != nil {
			t.Errorf("CHECK: %v", err)
		}
	}
	for n := 1; n <= 3; n++ {
		h.mustDel(h.pod(n, nil))
		h.mustDel(h.pod(n, nil))
	}
	h.nothingLeft(t)
}

func same(a, b *current.Result) bool { return fmt.Sprint(text(a)) == fmt.Sprint(text(b)) }

// text writes out a result.
func text(r *current.Result) (list []string) {
	for _, x := range r.Interfaces {
		list = append(list, fmt.Sprint(*x))
	}
	for _, x := range r.IPs {
		list = append(list, x.Address.String(), x.Gateway.String())
	}
	for _, x := range r.Routes {
		list = append(list, x.String())
	}
	return list
}

// TestCNICheck: CHECK finds what somebody has changed behind the plugin's back.
func TestCNICheck(t *testing.T) {
	t.Parallel()
	h := newCNIHost(t, 1, cniState+interfaces("pods", 1, 1, ""), "")
	rt := h.pod(1, nil)
	r := h.mustAdd(rt)
	mac := r.Interfaces[0].Mac
	for _, c := range []struct{ change, back, say string }{
		{"ip link set eth0 address 02:00:00:00:00:99", "ip link set eth0 address " + mac, "MAC address"},
		{"ip link set eth0 mtu 1300", "ip link set eth0 mtu 1500", "MTU 1300"},
		{"ip route del default", "ip route add default via 10.244.0.1", "no route to 0.0.0.0/0"},
		{"ip -6 route del default", "ip -6 route add default via fd00:244::1", "no route to ::/0"},
		{"ip address del " + r.IPs[1].Address.String() + " dev eth0", "ip address add " + r.IPs[1].Address.String() + " dev eth0", "lacks the address " + r.IPs[1].Address.String()},
		{"ip link set eth0 down", "", "is down"},
	} {
		h.run("pod-1", strings.Fields(c.change)...)
		wantCode(t, h.check(rt), 103, c.say)
		if c.back != "" {
			h.run("pod-1", strings.Fields(c.back)...)
			continue
		}
		h.mustDel(rt) // down took the routes along
		h.mustAdd(rt)
	}
	if err := h.check(rt); err != nil {
		t.Errorf("CHECK when all is well again: %v", err)
	}
	h.remove("VirtualMachineInterface", "shop:pod-1")
	wantCode(t, h.check(rt), 103, "no port")
	h.mustDel(rt)
	h.nothingLeft(t)
}

// TestCNINamespaceGone: an ADD for a container that is gone says so and leaves nothing;
// so does a DEL.
func TestCNINamespaceGone(t *testing.T) {
	t.Parallel()
	h := newCNIHost(t, 2, cniState+interfaces("pods", 1, 2, ""), "")
	rt := h.pod(1, nil)
	if err := netns.Delete(h.ns("pod-1")); err != nil {
		t.Fatal(err)
	}
	_, err := h.add(rt)
	wantCode(t, err, 3, "namespace is gone")
	h.nothingLeft(t)
	h.mustDel(rt)
	// By the agent's word, where the plugin still sees it.
	other := h.pod(2, nil)
	other.NetNS = "/proc/self/ns/net" // the node's own, for the plugin
	_, err = h.add(other)
	wantCode(t, err, 8, "own namespace")
	other = h.pod(2, nil)
	h.mustAdd(other)
	if err := netns.Delete(h.ns("pod-2")); err != nil {
		t.Fatal(err)
	}
	h.mustDel(other)
	h.mustDel(other)
	noNetns := *other
	noNetns.NetNS = ""
	h.mustDel(&noNetns)
	h.nothingLeft(t)
}

// TestCNIControllerAndPlugin: the plugin may come before the controller and the
// controller may go before the plugin.
func TestCNIControllerAndPlugin(t *testing.T) {
	t.Parallel()
	h := newCNIHost(t, 2, cniState, "")
	done := make(chan error, 1)
	var r *current.Result
	go func() {
		var err error
		r, err = h.add(h.pod(1, nil))
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("ADD did not wait for the controller: %v", err)
	case <-time.After(300 * time.Millisecond): // nothing can be waited for: that it waits is what is to be seen
	}
	h.apply(interfaces("pods", 1, 1, ""))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// The controller takes the interface away: no port, but the attachment stays.
	h.remove("VirtualMachineInterface", "shop:pod-1")
	if left := h.devices("pod-1"); len(left) != 0 || len(h.attachments()) != 1 {
		t.Errorf("devices %v, attachments %v", left, h.attachments())
	}
	h.apply(interfaces("pods", 1, 1, ""))
	h.waitPorts()
	if out := h.run("pod-1", "ip", "-o", "address"); !strings.Contains(out, r.IPs[0].Address.String()) {
		t.Errorf("the address is not back: %s", out)
	}
	// Another pod of that name: its interface waits for it alone.
	h.apply(strings.ReplaceAll(interfaces("pods", 1, 1, ""), "uid-pod-1", "uid-new"))
	if left := h.devices("pod-1"); len(left) != 0 {
		t.Errorf("the new pod has the old one's device: %v", left)
	}
	h.configure(`, "timeoutSeconds": 2`)
	_, err := h.add(h.pod(1, nil))
	wantCode(t, err, 11, "uid-new")
	_, err = h.add(h.pod(2, nil))
	wantCode(t, err, 11, "no controller has told")
	// The sandbox is made anew; the old one's DEL comes late.
	second := h.pod(1, nil)
	second.ContainerID, second.NetNS = "sandbox-1b", netns.Path(h.ns("pod-2"))
	second.Args[4][1] = "uid-new"
	h.mustAdd(second)
	h.mustDel(h.pod(1, nil))
	if len(h.devices("pod-2")) != 1 || h.check(second) != nil {
		t.Errorf("the DEL of the old sandbox took the new one's device: %v", h.check(second))
	}
	h.mustDel(second)
	h.nothingLeft(t)
}

// TestCNISandboxAnew: another container of the same pod takes the place of the one
// before, with its addresses.
func TestCNISandboxAnew(t *testing.T) {
	t.Parallel()
	h := newCNIHost(t, 2, cniState+interfaces("pods", 1, 1, ""), "")
	first := h.pod(1, nil)
	before := h.mustAdd(first)
	second := h.pod(1, nil)
	second.ContainerID, second.NetNS = "sandbox-1b", netns.Path(h.ns("pod-2"))
	after := h.mustAdd(second)
	if before.IPs[0].Address.String() != after.IPs[0].Address.String() {
		t.Errorf("addresses %v, then %v", before.IPs, after.IPs)
	}
	if len(h.devices("pod-1")) != 0 || len(h.devices("pod-2")) != 1 {
		t.Errorf("devices: %v and %v", h.devices("pod-1"), h.devices("pod-2"))
	}
	h.mustDel(first)
	if err := h.check(second); err != nil {
		t.Error(err)
	}
	// One interface has one device.
	third := *second
	third.IfName = "net1"
	_, err := h.add(&third)
	wantCode(t, err, 100, "as eth0 already")
	h.mustDel(&third)
	if err := h.check(second); err != nil {
		t.Error(err)
	}
	h.mustDel(second)
	h.nothingLeft(t)
}

// TestCNIManyAtOnce: fifty ADDs at a time get fifty addresses of each family, over two
// networks with the same subnets, and all of them work.
func TestCNIManyAtOnce(t *testing.T) {
	t.Parallel()
	const pods = 50
	h := newCNIHost(t, pods, cniState+interfaces("pods", 1, pods/2, "")+interfaces("isolated", pods/2+1, pods, ""), "")
	results := make([]*current.Result, pods)
	errs := make([]error, pods)
	var wg sync.WaitGroup
	for i := range pods {
		wg.Go(func() { results[i], errs[i] = h.add(h.pod(i+1, nil)) })
	}
	wg.Wait()
	seen := map[string]int{}
	for i, r := range results {
		if errs[i] != nil {
			t.Fatalf("ADD %d: %v", i+1, errs[i])
		}
		for _, ip := range r.IPs {
			if other, taken := seen[ip.Address.String()]; taken {
				t.Errorf("%s is given to pods %d and %d", ip.Address.String(), other, i+1)
			}
			seen[ip.Address.String()] = i + 1
		}
	}
	if len(seen) != 2*pods {
		t.Errorf("%d addresses; want %d", len(seen), 2*pods)
	}
	h.serveWeb("pod-1", webPort)
	for _, n := range []int{2, pods / 2} {
		h.get(t, fmt.Sprintf("pod-%d", n), at(ofFamily(t, results[0], v6), webPort))
	}
	if _, _, err := h.tryGet(fmt.Sprintf("pod-%d", pods), at(ofFamily(t, results[0], v4), webPort)); err == nil {
		t.Error("a pod of the isolated network reaches the other")
	}
	// Five live, the rest is collected.
	var valid []*libcni.RuntimeConf
	for n := 1; n <= 5; n++ {
		valid = append(valid, h.pod(n, nil))
	}
	if err := h.collect(valid...); err != nil {
		t.Fatal(err)
	}
	if n := len(h.attachments()); n != 5 {
		t.Errorf("%d attachments after GC; want 5", n)
	}
	h.get(t, "pod-2", at(ofFamily(t, results[0], v4), webPort))
	// What has become free does not come back at once.
	again := h.mustAdd(h.pod(6, nil))
	for _, ip := range again.IPs {
		if n, had := seen[ip.Address.String()]; had {
			t.Errorf("%s is given again at once, after pod %d", ip.Address.String(), n)
		}
	}
	if err := h.collect(); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft(t)
}

// TestCNIPool: addresses come from the pool alone, never those of others, and when it is
// empty ADD says so.
func TestCNIPool(t *testing.T) {
	t.Parallel()
	state := strings.Replace(cniState, `gateway: "fd00:244::1"}]`, `gateway: "fd00:244::1"}]`+"\n  pools: [10.244.0.0/30, 10.244.0.255/32]", 1) + `
---
kind: InstanceIP
name: held
spec: {address: 10.244.0.2, virtualNetwork: isolated}
` + interfaces("pods", 1, 3, "")
	h := newCNIHost(t, 3, state, "")
	r := h.mustAdd(h.pod(1, nil)) // .0 is the network, .1 the gateway, .2 held in another network, .255 broadcast
	if len(r.IPs) != 1 || r.IPs[0].Address.String() != "10.244.0.3/24" {
		t.Errorf("addresses %v; want 10.244.0.3/24 alone", r.IPs)
	}
	_, err := h.add(h.pod(2, nil))
	wantCode(t, err, 101, "no free IPv4 address")
	// Asked for by the runtime: beside the pool, but in the subnet.
	h.mustAdd(h.pod(3, map[string]any{"ips": []string{"10.244.0.77/24"}, "mac": "02:11:22:33:44:55"}))
	if out := h.run("pod-3", "ip", "address"); !strings.Contains(out, "10.244.0.77/24") || !strings.Contains(out, "02:11:22:33:44:55") {
		t.Errorf("asked for 10.244.0.77: %s", out)
	}
	_, err = h.add(h.pod(2, map[string]any{"ips": []string{"10.244.0.77"}}))
	wantCode(t, err, 102, "belongs to Attachment/shop:pod-3")
	_, err = h.add(h.pod(2, map[string]any{"ips": []string{"10.9.9.9"}}))
	wantCode(t, err, 100, "in no subnet")
	_, err = h.add(h.pod(2, map[string]any{"bandwidth": map[string]int{"ingressRate": 1000}}))
	wantCode(t, err, 2, "bandwidth")
	h.mustDel(h.pod(1, nil))
	h.mustAdd(h.pod(2, nil)) // the only one there is
	h.mustDel(h.pod(2, nil))
	h.mustDel(h.pod(3, nil))
	h.nothingLeft(t)
}

// TestCNIStatus: a node says whether a container could come.
func TestCNIStatus(t *testing.T) {
	t.Parallel()
	h := newCNIHost(t, 1, "", "")
	status := func() error { return h.runtime.GetStatusNetworkList(t.Context(), h.list) }
	wantCode(t, status(), 50, "no network")
	h.apply(cniState)
	if err := status(); err != nil {
		t.Errorf("STATUS: %v", err)
	}
	h.conserve()
	h.stop(syscall.SIGTERM)
	wantCode(t, status(), 50, h.socket())
	_, err := h.add(h.pod(1, nil))
	wantCode(t, err, 11, h.socket())
	wantCode(t, h.del(h.pod(1, nil)), 11, h.socket())
	if out, err := h.bare("VERSION", h.pod(1, nil), nil).Output(); err != nil || !strings.Contains(string(out), `"1.1.0"`) {
		t.Errorf("VERSION: %v %s", err, out)
	}
}

// TestCNIWithoutKubernetes: where the configuration names a network the plugin needs no
// controller, and what it has made goes with the container.
func TestCNIWithoutKubernetes(t *testing.T) {
	t.Parallel()
	h := newCNIHost(t, 2, cniState, `, "virtualNetwork": "pods"`)
	a, b := h.pod(1, nil), h.pod(2, nil)
	a.Args, b.Args = nil, [][2]string{{"IgnoreUnknown", "1"}, {"IP", "10.244.0.99"}}
	r := h.mustAdd(a)
	h.serveWeb("pod-1", webPort)
	h.mustAdd(b)
	if _, seen := h.get(t, "pod-2", at(ofFamily(t, r, v4), webPort)); seen != "10.244.0.99" {
		t.Errorf("the server saw %s", seen)
	}
	if err := h.check(a); err != nil {
		t.Error(err)
	}
	h.mustDel(a)
	h.mustDel(b)
	h.nothingLeft(t)
	if out, _ := h.vrctl("get", "vmi"); strings.Contains(out, "sandbox") {
		t.Errorf("interfaces are left:\n%s", out)
	}
	h.configure(`, "virtualNetwork": "nowhere"`)
	_, err := h.add(a)
	wantCode(t, err, 100, "no VirtualNetwork nowhere")
	wantCode(t, h.runtime.GetStatusNetworkList(t.Context(), h.list), 50, "nowhere")
	h.configure("")
	_, err = h.add(a)
	wantCode(t, err, 4, "K8S_POD_NAMESPACE")
}

// TestCNIChain: the result of the plugins before stays in that of this one.
func TestCNIChain(t *testing.T) {
	t.Parallel()
	h := newCNIHost(t, 1, cniState+interfaces("pods", 1, 1, ""), "")
	before := map[string]any{"cniVersion": "1.1.0", "interfaces": []any{map[string]any{"name": "lo", "sandbox": "x"}}, "ips": []any{map[string]any{"address": "127.0.0.1/8", "interface": 0}}}
	out, err := h.bare("ADD", h.pod(1, nil), map[string]any{"prevResult": before, "dns": map[string]any{"nameservers": []string{"10.96.0.53"}}}).Output()
	r, perr := current.NewResult(out)
	if err != nil || perr != nil {
		t.Fatalf("ADD: %v, %v\n%s", err, perr, out)
	}
	got := r.(*current.Result)
	if len(got.Interfaces) != 2 || got.Interfaces[0].Name != "lo" || len(got.IPs) != 3 || *got.IPs[1].Interface != 1 || !slices.Equal(got.DNS.Nameservers, []string{"10.96.0.53"}) {
		t.Errorf("result %s", out)
	}
	// An old runtime: 0.4.0, which has another form of the result; DEL without prevResult.
	out, err = h.bare("ADD", h.pod(1, nil), map[string]any{"cniVersion": "0.4.0"}).Output()
	if err != nil || !strings.Contains(string(out), `"version": "4"`) {
		t.Errorf("ADD by 0.4.0: %v %s", err, out)
	}
	if out, err := h.bare("DEL", h.pod(1, nil), nil).Output(); err != nil || len(out) != 0 {
		t.Errorf("DEL: %v %s", err, out)
	}
	h.nothingLeft(t)
}
