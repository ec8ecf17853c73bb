//go:build linux

package tap_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/tap"
)

const allFeatures = port.FeatureCsum | port.FeatureTSO4 | port.FeatureTSO6 | port.FeatureUSO

// pair makes two guests on one wire, which writes through rings if there are any.
func pair(t testing.TB, rings *tap.Rings, change func(*tap.Spec)) (nsA, nsB string, w *wire) {
	t.Helper()
	nsA, nsB = namespace(t, "a"), namespace(t, "b")
	specs := []tap.Spec{guest(nsA, 1), guest(nsB, 2)}
	var devices []*tap.Device
	for _, s := range specs {
		if change != nil {
			change(&s)
		}
		d := create(t, s)
		d.Batch(rings)
		devices = append(devices, d)
	}
	return nsA, nsB, connect(t, devices[0], devices[1])
}

// transfer sends size random bytes over TCP and checks that they arrive whole.
func transfer(t testing.TB, from, to, addr string, size int64) {
	t.Helper()
	l := listen(t, to, "tcp", net.JoinHostPort(addr, "0"))
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

func TestPing(t *testing.T) {
	needRoot(t, "ping")
	both(t, func(t *testing.T, rings *tap.Rings) {
		nsA, nsB, _ := pair(t, rings, nil)
		mustRun(t, nsA, "ping", "-c", "2", "-i", "0.2", "-W", "5", "10.9.0.2")
		mustRun(t, nsB, "ping", "-c", "2", "-i", "0.2", "-W", "5", "fd00:9::1")
		mustRun(t, nsA, "ping", "-c", "1", "-s", "4000", "-W", "5", "10.9.0.2") // fragments
	})
}

func TestTCPSuperpacketsCrossWhole(t *testing.T) {
	needRoot(t)
	both(t, func(t *testing.T, rings *tap.Rings) {
		nsA, nsB, w := pair(t, rings, nil)
		for _, c := range []struct {
			addr string
			gso  uint8
		}{{"10.9.0.2", port.GSOTCPv4}, {"fd00:9::2", port.GSOTCPv6}} {
			before := w.super[0].Load()
			transfer(t, nsA, nsB, c.addr, 16<<20)
			if w.super[0].Load() == before || w.types[c.gso].Load() == 0 {
				t.Errorf("%s: no superpacket of type %d crossed", c.addr, c.gso)
			}
		}
		if n := w.lost[0].Load() + w.lost[1].Load(); n != 0 {
			t.Errorf("%d frames lost on write", n)
		}
		t.Logf("%d frames, %d of them superpackets, carried 32 MiB", w.frames[0].Load(), w.super[0].Load())
	})
}

func TestTCPSuperpacketsWithLargeMTU(t *testing.T) {
	needRoot(t)
	both(t, func(t *testing.T, rings *tap.Rings) {
		nsA, nsB, _ := pair(t, rings, func(s *tap.Spec) { s.MTU = 9000 })
		transfer(t, nsA, nsB, "10.9.0.2", 4<<20)
	})
}

func TestIperf3(t *testing.T) {
	needRoot(t, "iperf3")
	nsA, nsB, w := pair(t, rings(t), nil)
	server := make(chan error, 1)
	go func() {
		_, err := command(t, nsB, "iperf3", "-s", "-1", "-p", "5201")
		server <- err
	}()
	eventually(t, "iperf3 to listen", func() bool {
		out, _ := command(t, nsB, "cat", "/proc/net/tcp", "/proc/net/tcp6")
		return containsListen(out, 5201)
	})
	out := mustRun(t, nsA, "iperf3", "-c", "10.9.0.2", "-p", "5201", "-n", "64M", "-P", "2", "--bidir")
	if err := <-server; err != nil {
		t.Errorf("server: %v", err)
	}
	if w.super[0].Load() == 0 || w.super[1].Load() == 0 {
		t.Errorf("superpackets %d and %d; want both ways\n%s", w.super[0].Load(), w.super[1].Load(), out)
	}
}

// containsListen looks for a socket in state 0A (LISTEN) in /proc/net/tcp text.
func containsListen(text string, portNumber int) bool {
	var local, state string
	for line := range strings.Lines(text) {
		var sl, remote string
		_, err := fmt.Sscan(line, &sl, &local, &remote, &state)
		if err == nil && state == "0A" && len(local) > 5 && local[len(local)-5:] == fmt.Sprintf(":%04X", portNumber) {
			return true
		}
	}
	return false
}

func TestUDP(t *testing.T) {
	needRoot(t)
	nsA, nsB, w := pair(t, nil, nil)
	for _, addr := range []string{"10.9.0.2", "fd00:9::2"} {
		server := listenPacket(t, nsB, "udp", net.JoinHostPort(addr, "0"))
		client := dial(t, nsA, "udp", server.LocalAddr().String())
		buf := make([]byte, 2048)
		for _, size := range []int{0, 1, 1400, 1472} {
			send(t, client, make([]byte, size))
			n, from, err := server.ReadFrom(buf)
			if err != nil || n != size {
				t.Fatalf("%s: got %d bytes, %v; want %d", addr, n, err, size)
			}
			if _, err := server.WriteTo(buf[:n], from); err != nil {
				t.Fatal(err)
			}
			if n, err := client.Read(buf); err != nil || n != size {
				t.Fatalf("%s: echo of %d bytes: %d, %v", addr, size, n, err)
			}
		}
	}
	if n := w.lost[0].Load() + w.lost[1].Load(); n != 0 {
		t.Errorf("%d frames lost on write", n)
	}
}

// One sendmsg with UDP_SEGMENT crosses as one frame and arrives as datagrams.
func TestUSO(t *testing.T) {
	needRoot(t)
	nsA, nsB := namespace(t, "a"), namespace(t, "b")
	a, b := create(t, guest(nsA, 1)), create(t, guest(nsB, 2))
	if a.Features() != allFeatures {
		t.Skipf("SKIP-TOOL: this kernel has no USO on TAP (features %b)", a.Features())
	}
	w := connect(t, a, b)
	for _, addr := range []string{"10.9.0.2", "fd00:9::2"} {
		server := listenPacket(t, nsB, "udp", net.JoinHostPort(addr, "0"))
		client := dial(t, nsA, "udp", server.LocalAddr().String()).(*net.UDPConn)
		raw, err := client.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var optErr error
		if err := raw.Control(func(fd uintptr) {
			optErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1200)
		}); err != nil || optErr != nil {
			t.Fatal(err, optErr)
		}
		const datagrams = 10
		before := w.types[port.GSOUDPL4].Load()
		send(t, client, make([]byte, datagrams*1200))
		buf := make([]byte, 4096)
		for i := range datagrams {
			if n, _, err := server.ReadFrom(buf); err != nil || n != 1200 {
				t.Fatalf("%s: datagram %d: %d bytes, %v", addr, i, n, err)
			}
		}
		if n := w.types[port.GSOUDPL4].Load() - before; n != 1 {
			t.Errorf("%s: %d USO frames crossed; want 1", addr, n)
		}
	}
}

// Both queues of a device get traffic: the kernel spreads flows by their hash.
func TestMultiQueue(t *testing.T) {
	needRoot(t)
	both(t, func(t *testing.T, rings *tap.Rings) {
		nsA, nsB, w := pair(t, rings, func(s *tap.Spec) { s.Queues = 2 })
		server := listenPacket(t, nsB, "udp", "10.9.0.2:0")
		buf := make([]byte, 64)
		for range 64 {
			client := dial(t, nsA, "udp", server.LocalAddr().String())
			send(t, client, []byte("hello"))
			if _, _, err := server.ReadFrom(buf); err != nil {
				t.Fatal(err)
			}
			client.Close()
		}
		for q := range 2 {
			if n := w.perQueue[0][q].Load(); n == 0 {
				t.Errorf("queue %d got no frame in 64 flows", q)
			}
		}
		transfer(t, nsB, nsA, "10.9.0.1", 4<<20)
	})
}
