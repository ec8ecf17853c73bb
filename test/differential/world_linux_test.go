package differential

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/agent/compile"
	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/internal/port/tap"
	"github.com/vrouter-go/vrouter/internal/statefile"
	"github.com/vrouter-go/vrouter/test/packet"
)

// prefix begins the names of all namespaces of this test.
const prefix = "vrtdif"

// endpoint is a host at the edge of both worlds.
type endpoint struct {
	name         string
	four, six    string
	gate4, gate6 string // the router's addresses there
	mtu          int
}

var endpoints = []endpoint{
	{name: "client", four: "203.0.113.7", six: "2001:db8:113::7", gate4: "203.0.113.1", gate6: "2001:db8:113::1", mtu: 1500},
	{name: "web-1", four: "10.244.0.11", six: "fd00:244::11", gate4: "10.244.0.1", gate6: "fd00:244::1", mtu: 1500},
	{name: "web-2", four: "10.244.0.12", six: "fd00:244::12", gate4: "10.244.0.1", gate6: "fd00:244::1", mtu: 1500},
	{name: "small", four: "10.244.0.13", six: "fd00:244::13", gate4: "10.244.0.1", gate6: "fd00:244::1", mtu: 1280},
}

// world is a router with an endpoint in a namespace behind each port.
type world struct {
	name   string
	wires  map[string]*wire
	seq    int
	member string // the endpoint that got the last packet to a service
}

func (w *world) namespace(role string) string { return netns.Name(prefix, w.name+"-"+role) }

// needs skips the test where it cannot run.
func needs(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIP-PRIVILEGED: namespaces need root")
	}
	for _, tool := range []string{"ip", "nft", "sysctl", "ethtool"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIP-TOOL: %s is missing", tool)
		}
	}
	if _, err := netns.Cleanup(prefix); err != nil {
		t.Fatal(err)
	}
}

// sh runs commands in a namespace.
func sh(t *testing.T, namespace, script string) {
	t.Helper()
	cmd := exec.Command("ip", "netns", "exec", namespace, "sh", "-ec", script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s\n%s", namespace, err, script, out)
	}
}

// create makes a namespace that lives as long as the test.
func (w *world) create(t *testing.T, role string) string {
	t.Helper()
	name := w.namespace(role)
	if _, err := netns.Create(name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(name); err != nil {
			t.Error(err)
		}
	})
	return name
}

// ours is the world of our forwarder, on TAPs. With stack the endpoints have
// their addresses and real sockets; without they are silent wires.
func ours(t *testing.T, stack bool) *world {
	t.Helper()
	w := &world{name: fmt.Sprintf("a%t", stack), wires: map[string]*wire{}}
	for i := range endpoints {
		ns := w.create(t, endpoints[i].name)
		sh(t, ns, quiet(stack))
	}
	compiled := w.compile(t)
	f, err := forwarder.New(forwarder.Config{Workers: 1, Sessions: 16384})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var moving sync.WaitGroup
	for _, spec := range compiled.Ports {
		if spec == nil {
			continue
		}
		if !stack {
			spec.Tap.Addresses, spec.Tap.Routes = nil, nil
			spec.Tap.GatewayV4, spec.Tap.GatewayV6 = netip.Addr{}, netip.Addr{}
		}
		dev, err := tap.Create(spec.Tap)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Attach(spec.Port, dev); err != nil {
			t.Fatal(err)
		}
	}
	f.Publish(compiled.Snapshot)
	moving.Go(func() {
		if err := f.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		moving.Wait()
		for _, spec := range compiled.Ports {
			if spec != nil {
				if err := f.Detach(spec.Port).Close(); err != nil {
					t.Error(err)
				}
			}
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	if !stack {
		w.plug(t)
	}
	return w
}

// quiet keeps an endpoint's kernel from talking on its own.
func quiet(stack bool) string {
	if stack {
		return "sysctl -qw net.ipv6.conf.default.router_solicitations=0 net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0"
	}
	return "sysctl -qw net.ipv6.conf.default.disable_ipv6=1 net.ipv6.conf.all.disable_ipv6=1 net.ipv4.conf.all.arp_ignore=8"
}

func (w *world) compile(t *testing.T) *compile.Result {
	t.Helper()
	text, err := os.ReadFile("testdata/state.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range endpoints {
		text = []byte(strings.ReplaceAll(string(text), "@"+e.name+"@", netns.Path(w.namespace(e.name))))
	}
	documents, err := statefile.Parse([]statefile.Source{{Name: "state.yaml", Data: text}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	st, request := state.New(), state.Request{Owner: "test"}
	for _, d := range documents {
		request.Upserts = append(request.Upserts, d.Resource)
	}
	tx, err := st.Begin(request)
	if err != nil {
		t.Fatal(err)
	}
	tx.Commit()
	compiled, err := compile.New(compile.Config{}).All(st)
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// kernels is the world of a Linux router with nftables, on veth pairs. Its MAC
// address and the endpoints' are the same as in the other world, so that frames
// are.
func kernels(t *testing.T, stack bool) *world {
	t.Helper()
	w := &world{name: fmt.Sprintf("b%t", stack), wires: map[string]*wire{}}
	router := w.create(t, "router")
	sh(t, router, `sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0 \
		net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0 \
		net.ipv4.icmp_ratelimit=0 net.ipv4.icmp_msgs_per_sec=10000 net.ipv4.icmp_msgs_burst=10000 net.ipv6.icmp.ratelimit=0`)
	for i, e := range endpoints {
		ns := w.create(t, e.name)
		sh(t, ns, quiet(stack))
		dev := fmt.Sprintf("p%d", i)
		sh(t, router, fmt.Sprintf(`
			ip link add %[1]s address 00:00:5e:00:01:00 mtu %[2]d type veth peer name eth0 address %[3]s mtu %[2]d netns %[4]s
			sysctl -qw net.ipv4.conf.%[1]s.proxy_arp=1 net.ipv6.conf.%[1]s.proxy_ndp=1
			ethtool -K %[1]s tx off >/dev/null
			ip link set %[1]s up
			ip addr add %[5]s/32 dev %[1]s; ip -6 addr add %[6]s/128 dev %[1]s nodad
			ip route add %[7]s/32 dev %[1]s; ip -6 route add %[8]s/128 dev %[1]s
			ip neigh add %[7]s lladdr %[3]s dev %[1]s nud permanent; ip -6 neigh add %[8]s lladdr %[3]s dev %[1]s nud permanent`,
			dev, e.mtu, mac(e.name), ns, e.gate4, e.gate6, e.four, e.six))
		sh(t, ns, "ip link set eth0 up; ip link set lo up")
		if stack {
			sh(t, ns, fmt.Sprintf(`ip addr add %[1]s/32 dev eth0; ip -6 addr add %[2]s/128 dev eth0 nodad
				ip route add default via %[3]s dev eth0 onlink; ip -6 route add default via %[4]s dev eth0 onlink
				ip neigh add %[3]s lladdr 00:00:5e:00:01:00 dev eth0 nud permanent; ip -6 neigh add %[4]s lladdr 00:00:5e:00:01:00 dev eth0 nud permanent`,
				e.four, e.six, e.gate4, e.gate6))
		}
	}
	sh(t, router, "ip route add blackhole 10.244.0.0/24; ip -6 route add blackhole fd00:244::/64; nft -f "+abs(t, "testdata/kernel.nft"))
	if !stack {
		w.plug(t)
	}
	return w
}

func abs(t *testing.T, path string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return dir + "/" + path
}

// mac is the address that both worlds give an endpoint: the one that state
// derives from its name.
func mac(name string) net.HardwareAddr { return state.MAC(name, "") }

func link(name string) packet.Link {
	return packet.Link{Src: mac(name), Dst: forwarder.RouterMAC[:]}
}

// wire is an endpoint's end of its port, by packet socket.
type wire struct{ fd int }

// plug opens the wires of all endpoints.
func (w *world) plug(t *testing.T) {
	t.Helper()
	for _, e := range endpoints {
		var fd int
		err := netns.Do(w.namespace(e.name), func() error {
			itf, err := net.InterfaceByName("eth0")
			if err != nil {
				return err
			}
			const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
			if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
				return err
			}
			if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
				return err
			}
			return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: itf.Index})
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		w.wires[e.name] = &wire{fd}
	}
}

// receive returns the next frame, nil when none comes in time.
func (w *wire) receive(t *testing.T, patience time.Duration) []byte {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return nil
		}
		fds := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil || n == 0 {
			continue
		}
		b := make([]byte, 1<<16)
		n, _, err := unix.Recvfrom(w.fd, b, unix.MSG_DONTWAIT)
		if err == nil {
			return b[:n]
		}
	}
}

func (w *wire) send(t *testing.T, frame []byte) {
	t.Helper()
	if _, err := unix.Write(w.fd, frame); err != nil {
		t.Fatalf("send %d bytes: %v", len(frame), err)
	}
}
