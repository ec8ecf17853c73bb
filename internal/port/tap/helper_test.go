//go:build linux

package tap_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/tap"
)

const (
	prefix   = "vrt"
	deadline = 20 * time.Second
)

func TestMain(m *testing.M) {
	if os.Getuid() == 0 {
		if _, err := netns.Cleanup(prefix); err != nil {
			fmt.Println("clean up after an earlier run:", err)
		}
		deleteLeftLinks()
	}
	goleak.VerifyTestMain(m)
}

// deleteLeftLinks removes devices of test processes that were killed.
func deleteLeftLinks() {
	links, _ := netlink.LinkList()
	for _, link := range links {
		name, ours := strings.CutPrefix(link.Attrs().Name, prefix)
		pid, _, _ := strings.Cut(name, "-")
		if n, err := strconv.Atoi(pid); ours && err == nil && unix.Kill(n, 0) == unix.ESRCH {
			_ = netlink.LinkDel(link)
		}
	}
}

func needRoot(t testing.TB, tools ...string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIP-PRIVILEGED: TAP devices need root")
	}
	for _, tool := range tools {
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

// linkName returns a name for a device that no other test process uses.
func linkName(suffix string) string { return fmt.Sprintf("%s%d-%s", prefix, os.Getpid(), suffix) }

// guest returns the Spec of host number n on the test network.
func guest(ns string, n int) tap.Spec {
	return tap.Spec{
		Name: linkName(strconv.Itoa(n)), Netns: ns, GuestName: "eth0",
		MAC: net.HardwareAddr{2, 0, 0, 0, 0, byte(n)},
		Addresses: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.9.0.%d/24", n)),
			netip.MustParsePrefix(fmt.Sprintf("fd00:9::%d/64", n)),
		},
		Up: true,
	}
}

func create(t testing.TB, s tap.Spec) *tap.Device {
	t.Helper()
	d, err := tap.Create(s)
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, d)
	return d
}

func closeLater(t testing.TB, d *tap.Device) {
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}

// both runs a test twice: with devices that write frame by frame, and with those
// that write through rings.
func both(t *testing.T, test func(t *testing.T, rings *tap.Rings)) {
	t.Run("plain", func(t *testing.T) { test(t, nil) })
	t.Run("ring", func(t *testing.T) { test(t, rings(t)) })
}

// rings returns rings that live as long as the test.
func rings(t testing.TB) *tap.Rings {
	t.Helper()
	r, err := tap.NewRings(2)
	if err != nil {
		t.Skipf("SKIP-TOOL: %v", err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func isGSO(f *port.Frame) bool { return f.Offload.GSOSize != 0 }

// wire copies frames between two devices until the test or stop ends it: the
// smallest possible forwarder. Queue i writes to queue i of the peer.
type wire struct {
	frames, lost, super [2]atomic.Int64 // by the side that read them; super: GSO and longer than an MTU
	types               [256]atomic.Int64
	perQueue            [2][8]atomic.Int64
	failed              atomic.Value // error of a queue's Read
	stop                func()
}

func connect(t testing.TB, a, b *tap.Device) *wire {
	t.Helper()
	poller, err := port.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{}
	sides := [2][]port.Queue{a.Queues(), b.Queues()}
	for side, queues := range sides {
		for i, q := range queues {
			if err := poller.Add(q.FD(), port.Token(side<<8|i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	var stopped atomic.Bool
	var done sync.WaitGroup
	done.Go(func() { w.run(poller, sides, &stopped) })
	w.stop = sync.OnceFunc(func() {
		stopped.Store(true)
		poller.Wake()
		done.Wait()
		poller.Close()
	})
	t.Cleanup(w.stop)
	return w
}

func (w *wire) run(poller *port.Poller, sides [2][]port.Queue, stopped *atomic.Bool) {
	frames := make([]*port.Frame, port.BatchSize)
	for i := range frames {
		frames[i] = port.NewFrame()
	}
	tokens := make([]port.Token, 16)
	for !stopped.Load() {
		ready, err := poller.Wait(tokens, -1)
		if err != nil {
			w.failed.Store(err)
			return
		}
		for _, token := range tokens[:ready] {
			side, i := int(token>>8), int(token&255)
			q := sides[side][i]
			n, err := q.Read(frames)
			if err != nil {
				w.failed.Store(err)
				_ = poller.Remove(q.FD())
				continue
			}
			w.count(side, i, frames[:n])
			out := sides[1-side]
			out[i%len(out)].Write(frames[:n])
			for _, f := range frames[:n] {
				if f.Lost != port.Sent {
					w.lost[side].Add(1)
				}
			}
		}
	}
}

func (w *wire) count(side, queue int, frames []*port.Frame) {
	w.frames[side].Add(int64(len(frames)))
	w.perQueue[side][queue].Add(int64(len(frames)))
	for _, f := range frames {
		w.types[f.Offload.GSOType].Add(1)
		if isGSO(f) && f.Len() > 1514 {
			w.super[side].Add(1)
		}
	}
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

// ipJSON runs `ip -j …` inside a namespace: the kernel's own word.
func ipJSON[T any](t testing.TB, ns string, args ...string) []T {
	t.Helper()
	out := mustRun(t, ns, append([]string{"ip", "-j", "-d"}, args...)...)
	var answer []T
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		t.Fatalf("ip %v: %v\n%s", args, err, out)
	}
	return answer
}

// limit makes a connection fail at the deadline instead of hanging.
func limit(t testing.TB, c interface{ SetDeadline(time.Time) error }) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
}

// send writes one message.
func send(t testing.TB, c net.Conn, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

// listen and dial make sockets inside a namespace, usable from any goroutine.
func listen(t testing.TB, ns, network, addr string) net.Listener {
	t.Helper()
	var l net.Listener
	if err := netns.Do(ns, func() (err error) { l, err = net.Listen(network, addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func listenPacket(t testing.TB, ns, network, addr string) *net.UDPConn {
	t.Helper()
	var c net.PacketConn
	if err := netns.Do(ns, func() (err error) { c, err = net.ListenPacket(network, addr); return err }); err != nil {
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
