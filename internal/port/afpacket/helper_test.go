//go:build linux

package afpacket_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/afpacket"
)

const (
	prefix   = "vrap"
	deadline = 20 * time.Second
	// childEnv makes the test binary attach an uplink and wait to be killed.
	childEnv = "AFPACKET_TEST_NETNS"
)

func TestMain(m *testing.M) {
	if ns := os.Getenv(childEnv); ns != "" {
		attachAndWait(ns)
	}
	if os.Getuid() == 0 {
		if _, err := netns.Cleanup(prefix); err != nil {
			fmt.Println("clean up after an earlier run:", err)
		}
	}
	goleak.VerifyTestMain(m)
}

// attachAndWait is the child's whole life.
func attachAndWait(ns string) {
	if _, err := afpacket.Open(afpacket.Spec{Device: "up0", Netns: ns}); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("attached")
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
	os.Exit(0)
}

func needRoot(t testing.TB, tools ...string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIP-PRIVILEGED: packet sockets and namespaces need root")
	}
	for _, tool := range append(tools, "ip") {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIP-TOOL: %s is not installed", tool)
		}
	}
}

// namespace makes a namespace that lives as long as the test and returns its path.
func namespace(t testing.TB, suffix string) string {
	t.Helper()
	name := netns.Name(prefix, suffix)
	path, err := netns.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(name); err != nil {
			t.Error(err)
		}
	})
	return path
}

const (
	nodeMAC, farMAC = "02:00:00:00:08:01", "02:00:00:00:08:02"
	nodeV4, farV4   = "10.8.0.1", "10.8.0.2"
	nodeV6, farV6   = "fd00:8::1", "fd00:8::2"
)

// fabric makes a node with its uplink up0 and the fabric behind it, far0: two
// namespaces joined by a veth.
func fabric(t testing.TB) (node, far string) {
	t.Helper()
	node, far = namespace(t, "node"), namespace(t, "far")
	addLink(t, node, far)
	awaitAnswer(t, far)
	return node, far
}

func addLink(t testing.TB, node, far string) {
	t.Helper()
	mustRun(t, node, "ip", "link", "add", "up0", "address", nodeMAC, "type", "veth", "peer", "name", "far0",
		"address", farMAC, "netns", base(far))
	for _, end := range [][]string{{node, "up0", nodeV4, nodeV6}, {far, "far0", farV4, farV6}} {
		mustRun(t, end[0], "ip", "link", "set", end[1], "up")
		mustRun(t, end[0], "ip", "addr", "add", end[2]+"/24", "dev", end[1])
		mustRun(t, end[0], "ip", "addr", "add", end[3]+"/64", "dev", end[1], "nodad")
	}
}

// awaitAnswer waits until the node's kernel answers: an IPv6 address is usable only a
// moment after the call that adds it.
func awaitAnswer(t testing.TB, far string) {
	t.Helper()
	eventually(t, "the fabric to answer", func() bool {
		_, err := command(t, far, "ping", "-6", "-c", "1", "-W", "1", nodeV6)
		return err == nil
	})
}

// base returns the name of a namespace given by path.
func base(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

func open(t testing.TB, s afpacket.Spec) *afpacket.Device {
	t.Helper()
	d, err := afpacket.Open(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func buffers(n int) []*port.Frame { return port.NewFrames(n) }

// way is one direction of a wire: what it reads it changes, or drops, and writes.
type way struct {
	from, to port.Device
	change   func(f *port.Frame) bool // nil: as it is

	frames, super, lost atomic.Int64
	types               [256]atomic.Int64
	perQueue            [8]atomic.Int64
}

// connect moves frames along ways until the test or stop ends it: the smallest
// possible forwarder. Queue i writes to queue i of the other device.
func connect(t testing.TB, ways ...*way) (stop func()) {
	t.Helper()
	poller, err := port.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range ways {
		for j, q := range w.from.Queues() {
			if err := poller.Add(q.FD(), port.Token(i<<8|j)); err != nil {
				t.Fatal(err)
			}
		}
	}
	var stopped atomic.Bool
	var done sync.WaitGroup
	done.Go(func() {
		frames, tokens := buffers(port.BatchSize), make([]port.Token, 16)
		for !stopped.Load() {
			ready, err := poller.Wait(tokens, -1)
			if err != nil {
				t.Error(err)
				return
			}
			for _, token := range tokens[:ready] {
				if err := ways[token>>8].move(int(token&255), frames); err != nil {
					t.Errorf("%s: %v", ways[token>>8].from.Name(), err)
					return
				}
			}
		}
	})
	stop = sync.OnceFunc(func() {
		stopped.Store(true)
		poller.Wake()
		done.Wait()
		poller.Close()
	})
	t.Cleanup(stop)
	return stop
}

func (w *way) move(queue int, frames []*port.Frame) error {
	n, err := w.from.Queues()[queue].Read(frames)
	if err != nil {
		return err
	}
	w.perQueue[queue].Add(int64(n))
	out := make([]*port.Frame, 0, n)
	for _, f := range frames[:n] {
		w.frames.Add(1)
		w.types[f.Offload.GSOType].Add(1)
		if f.Offload.GSOSize != 0 && f.Len() > 4096 {
			w.super.Add(1)
		}
		if w.change == nil || w.change(f) {
			out = append(out, f)
		}
	}
	to := w.to.Queues()
	to[queue%len(to)].Write(out)
	for _, f := range out {
		if f.Lost != port.Sent {
			w.lost.Add(1)
		}
	}
	return nil
}

// eventually waits until ok, or fails the test.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("gave up after %v waiting: %s", deadline, what)
		}
	}
}

// command runs a program inside a namespace.
func command(t testing.TB, ns string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := netns.Start(ns, cmd)
	if err == nil {
		err = cmd.Wait()
	}
	return out.String(), err
}

func mustRun(t testing.TB, ns string, args ...string) string {
	t.Helper()
	out, err := command(t, ns, args...)
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return out
}

// limit makes a connection fail at the deadline instead of hanging.
func limit(t testing.TB, c interface{ SetDeadline(time.Time) error }) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
}

func send(t testing.TB, c net.Conn, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

// listen, listenPacket and dial make sockets inside a namespace.
func listen(t testing.TB, ns, addr string) net.Listener {
	t.Helper()
	var l net.Listener
	if err := netns.Do(ns, func() (err error) { l, err = net.Listen("tcp", addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func listenPacket(t testing.TB, ns, addr string) *net.UDPConn {
	t.Helper()
	var c net.PacketConn
	if err := netns.Do(ns, func() (err error) { c, err = net.ListenPacket("udp", addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	limit(t, c)
	return c.(*net.UDPConn)
}

func dial(t testing.TB, ns, network, addr string) net.Conn {
	t.Helper()
	var c net.Conn
	if err := netns.Do(ns, func() (err error) { c, err = net.DialTimeout(network, addr, deadline); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	limit(t, c)
	return c
}

// transfer sends size random bytes over TCP and checks that they arrive whole.
func transfer(t testing.TB, from, to, addr string, size int64) {
	t.Helper()
	l := listen(t, to, net.JoinHostPort(addr, "0"))
	got := make(chan [32]byte, 1)
	go func() {
		defer close(got)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		h := sha256.New()
		if c.SetDeadline(time.Now().Add(deadline)) != nil {
			return
		}
		if _, err := io.Copy(h, c); err != nil {
			t.Errorf("receive: %v", err)
		}
		got <- [32]byte(h.Sum(nil))
	}()
	c := dial(t, from, "tcp", l.Addr().String())
	h := sha256.New()
	src := io.LimitReader(rand.NewChaCha8([32]byte{1}), size)
	if _, err := io.Copy(c, io.TeeReader(src, h)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if sum := <-got; sum != [32]byte(h.Sum(nil)) {
		t.Error("the receiver's bytes differ from the sender's")
	}
}
