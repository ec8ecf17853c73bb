package netns_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/vrouter-go/vrouter/internal/netns"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// cniHost is a daemon whose pods come by the plugin, as a container runtime brings
// them: libcni calls the binary.
type cniHost struct {
	*host
	runtime *libcni.CNIConfig
	list    *libcni.NetworkConfigList
}

// cniState are the networks of a node: those of two namespaces share its addresses.
const cniState = `
kind: VirtualNetwork
name: pods
spec:
  subnets: [{prefix: 10.244.0.0/24, gateway: 10.244.0.1}, {prefix: "fd00:244::/64", gateway: "fd00:244::1"}]
---
kind: VirtualNetwork
name: isolated
spec:
  subnets: [{prefix: 10.244.0.0/24, gateway: 10.244.0.1}, {prefix: "fd00:244::/64", gateway: "fd00:244::1"}]
---
kind: Fabric
name: node
spec: {vhost0: {addresses: [192.0.2.10/24, "2001:db8:10::10/64"]}}
---
kind: SecurityPolicy
name: shop:web
spec:
  namespace: shop
  subject: {matchLabels: {app: web}}
  ingress: [{peers: [{selector: {matchLabels: {may: "yes"}}}]}]
`

// newCNIHost starts a daemon with these networks and as many namespaces as asked for,
// pod-1 and so on; more is added to the configuration of the plugin.
func newCNIHost(t *testing.T, pods int, state, more string) *cniHost {
	t.Helper()
	need(t, "tcpdump", "tshark", "mergecap", "ip")
	h := &cniHost{host: &host{t: t, name: fmt.Sprint(hosts.Add(1)), offloads: true, roles: []string{"node"}}}
	for i := range pods {
		h.roles = append(h.roles, fmt.Sprintf("pod-%d", i+1))
	}
	h.found("")
	h.start()
	t.Cleanup(h.end)
	if state != "" {
		h.apply(state)
	}
	h.configure(more)
	return h
}

// configure makes the network configuration list, with capabilities as on a node of
// Kubernetes; more is added to that of the plugin.
func (h *cniHost) configure(more string) {
	h.t.Helper()
	list, err := libcni.NetworkConfFromBytes(fmt.Appendf(nil, `{"cniVersion": "1.1.0", "name": "k8s-pod-network", "plugins": [
		{"type": "vrouter-cni", "agent": %q, "timeoutSeconds": 10, "capabilities": {"portMappings": true, "ips": true, "mac": true, "bandwidth": true}%s}]}`, h.socket(), more))
	if err != nil {
		h.t.Fatal(err)
	}
	h.list = list
	h.runtime = libcni.NewCNIConfigWithCacheDir([]string{filepath.Join(work, "bin")}, h.path("cni-cache"), nil)
}

// pod is a sandbox as a runtime knows it.
func (h *cniHost) pod(n int, capabilities map[string]any) *libcni.RuntimeConf {
	name := fmt.Sprintf("pod-%d", n)
	return &libcni.RuntimeConf{
		ContainerID: fmt.Sprintf("sandbox-%d", n), NetNS: netns.Path(h.ns(name)), IfName: "eth0", CapabilityArgs: capabilities,
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "shop"}, {"K8S_POD_NAME", name}, {"K8S_POD_INFRA_CONTAINER_ID", fmt.Sprintf("sandbox-%d", n)}, {"K8S_POD_UID", "uid-" + name}},
	}
}

// interfaces is what a controller says of pods first to last.
func interfaces(network string, first, last int, more string) string {
	var b strings.Builder
	for n := first; n <= last; n++ {
		fmt.Fprintf(&b, "---\nkind: VirtualMachineInterface\nname: shop:pod-%[1]d\nspec:\n  virtualNetwork: %[2]s\n  namespace: shop\n  attachment: {uid: uid-pod-%[1]d}\n%[3]s", n, network, more)
	}
	return b.String()
}

func (h *cniHost) add(rt *libcni.RuntimeConf) (*current.Result, error) {
	r, err := h.runtime.AddNetworkList(context.Background(), h.list, rt)
	if err != nil {
		return nil, err
	}
	return current.NewResultFromResult(r)
}

func (h *cniHost) mustAdd(rt *libcni.RuntimeConf) *current.Result {
	h.t.Helper()
	r, err := h.add(rt)
	if err != nil {
		h.t.Fatalf("ADD %s: %v", rt.ContainerID, err)
	}
	return r
}

func (h *cniHost) del(rt *libcni.RuntimeConf) error {
	return h.runtime.DelNetworkList(context.Background(), h.list, rt)
}

func (h *cniHost) mustDel(rt *libcni.RuntimeConf) {
	h.t.Helper()
	if err := h.del(rt); err != nil {
		h.t.Fatalf("DEL %s: %v", rt.ContainerID, err)
	}
}

func (h *cniHost) check(rt *libcni.RuntimeConf) error {
	return h.runtime.CheckNetworkList(context.Background(), h.list, rt)
}

func (h *cniHost) collect(valid ...*libcni.RuntimeConf) error {
	args := &libcni.GCArgs{}
	for _, rt := range valid {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: rt.ContainerID, IfName: rt.IfName})
	}
	return h.runtime.GCNetworkList(context.Background(), h.list, args)
}

// code returns the code of a CNI error, and fails where it is another than wanted or
// its text does not have a part.
func wantCode(t *testing.T, err error, code uint, part string) {
	t.Helper()
	var e *types.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Msg+" "+e.Details, part) {
		t.Errorf("error %v; want code %d and %q", err, code, part)
	}
}

// bare runs the plugin by itself, as a runtime would, and returns the command before it
// is started.
func (h *cniHost) bare(verb string, rt *libcni.RuntimeConf, extra map[string]any) *exec.Cmd {
	h.t.Helper()
	conf := map[string]any{"cniVersion": "1.1.0", "name": h.list.Name, "type": "vrouter-cni", "agent": h.socket(), "timeoutSeconds": 10}
	for k, v := range extra {
		conf[k] = v
	}
	stdin, err := json.Marshal(conf)
	if err != nil {
		h.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(work, "bin", "vrouter-cni"))
	var args []string
	for _, a := range rt.Args {
		args = append(args, a[0]+"="+a[1])
	}
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+rt.ContainerID, "CNI_NETNS="+rt.NetNS, "CNI_IFNAME="+rt.IfName,
		"CNI_ARGS="+strings.Join(args, ";"), "CNI_PATH="+filepath.Join(work, "bin"))
	cmd.Stdin = bytes.NewReader(stdin)
	return cmd
}

// attachments returns those that the agent has, by name.
func (h *cniHost) attachments() map[string]*pb.Attachment {
	h.t.Helper()
	list, _, err := h.api.List(context.Background(), &pb.ListRequest{Kinds: []string{"Attachment"}})
	if err != nil {
		h.t.Fatal(err)
	}
	found := map[string]*pb.Attachment{}
	for _, r := range list {
		found[r.GetName()] = r.GetAttachment()
	}
	return found
}

// hostPorts returns the names of the floating IPs that attachments have.
func (h *cniHost) hostPorts() (names []string) {
	h.t.Helper()
	list, _, err := h.api.List(context.Background(), &pb.ListRequest{Kinds: []string{"FloatingIP"}})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, r := range list {
		if r.GetOwner() == "cni" {
			names = append(names, r.GetName())
		}
	}
	return names
}

// devices returns the TAPs of ours in a role's namespace, by the kernel's word.
func (h *cniHost) devices(role string) (names []string) {
	h.t.Helper()
	h.in(role, func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if l.Type() == "tuntap" && l.Attrs().Name != "vhost0" {
				names = append(names, l.Attrs().Name)
			}
		}
		return err
	})
	return names
}

// nothingLeft checks that no attachment, host port or device is anywhere.
func (h *cniHost) nothingLeft(t *testing.T) {
	t.Helper()
	if at := h.attachments(); len(at) != 0 {
		t.Errorf("attachments are left: %v", at)
	}
	if fips := h.hostPorts(); len(fips) != 0 {
		t.Errorf("host ports are left: %v", fips)
	}
	for _, role := range h.roles {
		if _, err := os.Stat(netns.Path(h.ns(role))); err != nil {
			continue
		}
		if left := h.devices(role); len(left) != 0 {
			t.Errorf("devices are left in %s: %v", role, left)
		}
	}
}

// ofFamily returns the address of a result in a family.
func ofFamily(t *testing.T, r *current.Result, f family) string {
	t.Helper()
	for _, ip := range r.IPs {
		if a, _ := netip.AddrFromSlice(ip.Address.IP); a.Unmap().Is4() == (f == v4) {
			return a.Unmap().String()
		}
	}
	t.Fatalf("no %v address in %v", f, r)
	return ""
}
