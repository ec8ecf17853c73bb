package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vrouter-go/vrouter/agent"
	"github.com/vrouter-go/vrouter/agent/ports"
	"github.com/vrouter-go/vrouter/agent/underlay"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/netns"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

const uplinkPrefix = "vrtagent"

// pair is a node and another host on one link, the kernel's own stack on both.
type pair struct {
	t          *testing.T
	node, host string // namespaces
}

func newPair(t *testing.T) *pair {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIP-PRIVILEGED: makes network namespaces and attaches to a device")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("SKIP-TOOL: ip (iproute2) is not installed")
	}
	if _, err := netns.Cleanup(uplinkPrefix); err != nil {
		t.Fatal(err)
	}
	p := &pair{t: t, node: netns.Name(uplinkPrefix, "node"), host: netns.Name(uplinkPrefix, "host")}
	for _, name := range []string{p.node, p.host} {
		if _, err := netns.Create(name); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := netns.Delete(name); err != nil {
				t.Error(err)
			}
		})
	}
	p.ip(p.node, "link add eth0 type veth peer name eth0 netns "+p.host)
	for ns, n := range map[string]string{p.node: "10", p.host: "20"} {
		p.ip(ns, "link set eth0 up")
		p.ip(ns, "addr add 192.0.2."+n+"/24 dev eth0")
		p.ip(ns, "addr add 2001:db8::"+n+"/64 dev eth0 nodad")
	}
	return p
}

func (p *pair) ip(ns, args string) string {
	p.t.Helper()
	out, err := exec.Command("ip", append([]string{"-n", ns}, strings.Fields(args)...)...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("ip -n %s %s: %v\n%s", ns, args, err, out)
	}
	return string(out)
}

// daemon runs an agent over real devices, and returns what ends it.
func (p *pair) daemon() (*agent.Agent, func()) {
	p.t.Helper()
	log := slog.New(slog.DiscardHandler)
	fwd, err := forwarder.New(forwarder.Config{Workers: 1, Sessions: 4096})
	if err != nil {
		p.t.Fatal(err)
	}
	moving, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := fwd.Run(moving); err != nil {
			p.t.Error(err)
		}
	})
	a, err := agent.New(agent.Options{Node: "node-a", Forwarder: fwd, Driver: ports.TAP(nil), Watcher: underlay.New(log), Log: log})
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	wg.Go(func() {
		if err := a.Run(ctx); err != nil {
			p.t.Error(err)
		}
	})
	return a, sync.OnceFunc(func() {
		end()
		err := a.Close()
		stop()
		wg.Wait()
		if err := errors.Join(err, fwd.Close()); err != nil {
			p.t.Error(err)
		}
	})
}

// talk opens a TCP connection from a namespace to an address in another and sends
// bytes there and back.
func (p *pair) talk(from, to, address string) error {
	var listener net.Listener
	if err := netns.Do(to, func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(address, "0"))
		return err
	}); err != nil {
		return err
	}
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			_, _ = io.Copy(conn, conn)
			conn.Close()
		}
	}()
	var conn net.Conn
	if err := netns.Do(from, func() (err error) {
		conn, err = net.DialTimeout("tcp", listener.Addr().String(), 2*time.Second)
		return err
	}); err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second)) // a TCP connection has deadlines
	sent := make([]byte, 200_000)
	go func() { _, _ = conn.Write(sent) }() // a short answer tells
	if n, err := io.ReadFull(conn, make([]byte, len(sent))); err != nil {
		return fmt.Errorf("%d of %d bytes came back: %w", n, len(sent), err)
	}
	return nil
}

// bothWays talks in both directions and families.
func (p *pair) bothWays(when string) {
	p.t.Helper()
	for _, way := range [...]struct{ from, to, address string }{
		{p.host, p.node, "192.0.2.10"}, {p.host, p.node, "2001:db8::10"},
		{p.node, p.host, "192.0.2.20"}, {p.node, p.host, "2001:db8::20"},
	} {
		if err := p.talk(way.from, way.to, way.address); err != nil {
			p.t.Errorf("%s: %s to %s: %v", when, way.from, way.address, err)
		}
	}
}

// describe gives an agent the description of the node, whose port takes the uplink's addresses.
func (p *pair) describe(a *agent.Agent) error {
	_, err := a.Apply(context.Background(), &pb.ApplyRequest{Upserts: resources(p.t, fmt.Sprintf(
		`{"name":"node","fabric":{"vhost0":{"netns":%q},"uplink":{"device":"eth0","netns":%q},"peers":[{"name":"node-b","addresses":["192.0.2.20","2001:db8::20"]}]}}`,
		netns.Path(p.node), netns.Path(p.node)))})
	return err
}

// strict filters by the reverse path everywhere, as a distribution may have it.
func (p *pair) strict() {
	p.t.Helper()
	if err := netns.Do(p.node, func() error {
		for _, link := range []string{"all", "default", "eth0"} {
			if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+link+"/rp_filter", []byte("1"), 0); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		p.t.Fatal(err)
	}
}

// borrowed reports whether vhost0 has the uplink's addresses.
func (p *pair) borrowed() bool {
	shown, _ := exec.Command("ip", "-n", p.node, "addr", "show", "vhost0").CombinedOutput()
	return strings.Contains(string(shown), "192.0.2.10/32") && strings.Contains(string(shown), "2001:db8::10/128")
}

// TestNodeKeepsTalking holds that the node talks with others by its own addresses
// while its uplink belongs to the vRouter: what comes in goes to vhost0, what goes
// out leaves by the uplink. It does so when both are let go as well.
func TestNodeKeepsTalking(t *testing.T) {
	p := newPair(t)
	p.strict()
	p.bothWays("before")
	a, stop := p.daemon()
	defer stop()
	if err := p.describe(a); err != nil {
		t.Fatal(err)
	}
	eventually(t, "vhost0 has the uplink's addresses", p.borrowed)
	before := received(a, "uplink")
	p.bothWays("with the vRouter")
	if received(a, "uplink") == before {
		t.Error("no packet came by the uplink: the kernel still has it")
	}
	eventually(t, "the ways to node-b", func() bool {
		peers := a.Status().GetPeers()
		return len(peers) == 2 && peers[0].GetState() == pb.PeerStatus_UP && peers[1].GetState() == pb.PeerStatus_UP
	})
	stop()
	p.bothWays("after")
}

// TestNodeTalksAfterKill kills the daemon without a word: the kernel has the uplink
// back at once, and the next daemon takes it up.
func TestNodeTalksAfterKill(t *testing.T) {
	if ns := os.Getenv(killedNode); ns != "" {
		p := &pair{t: t, node: ns}
		a, _ := p.daemon()
		if err := p.describe(a); err != nil {
			t.Fatal(err)
		}
		select {} // until it is killed
	}
	p := newPair(t)
	p.strict()
	cmd := exec.Command(os.Args[0], "-test.run=^TestNodeTalksAfterKill$")
	cmd.Env = append(os.Environ(), killedNode+"="+p.node)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "vhost0 has the uplink's addresses", p.borrowed)
	p.bothWays("with the vRouter")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	p.bothWays("after the kill")
	a, stop := p.daemon()
	defer stop()
	if err := p.describe(a); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the uplink is attached again", func() bool {
		for _, port := range a.Status().GetPorts() {
			if port.GetState() != pb.PortStatus_UP {
				return false
			}
		}
		return len(a.Status().GetPorts()) == 2
	})
	p.bothWays("with the next daemon")
	stop()
	p.ip(p.node, "link del vhost0")
	p.bothWays("without vhost0")
}

// killedNode names the namespace of the node whose daemon is to be killed.
const killedNode = "VROUTER_TEST_KILLED_NODE"

// received is how many packets came in by a port.
func received(a *agent.Agent, name string) uint64 {
	for _, p := range a.Status().GetPorts() {
		if p.GetName() == name {
			return p.GetReceived().GetPackets()
		}
	}
	return 0
}
