package differential

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// TestSocketsAgainstKernel lets real programs' sockets judge: what a connect, a
// send or a receive returns through our forwarder is what it returns through the
// kernel.
func TestSocketsAgainstKernel(t *testing.T) {
	needs(t)
	a, b := ours(t, true), kernels(t, true)
	for _, w := range []*world{a, b} {
		for _, name := range []string{"web-1", "web-2", "small"} {
			w.serve(t, name)
		}
	}
	for _, c := range []struct {
		name, from, want string
		do               func() (string, error)
	}{
		{"TCP through a floating IP", "client", "203.0.113.7 echoed", dial("10.96.0.10:80", 100)},
		{"TCP through a floating IP, IPv6", "client", "2001:db8:113::7 echoed", dial("[fd00:96::10]:80", 100)},
		{"TCP, a megabyte towards a smaller MTU", "client", "203.0.113.7 echoed", dial("10.96.0.12:8080", 1<<20)},
		{"TCP, a megabyte towards a smaller MTU, IPv6", "client", "2001:db8:113::7 echoed", dial("[fd00:96::12]:8080", 1<<20)},
		{"TCP between pods", "web-1", "10.244.0.11 echoed", dial("10.244.0.12:8080", 100)},
		{"TCP from a pod to a service", "web-2", "10.244.0.12 echoed", dial("10.96.0.11:80", 100)},
		{"TCP to a port that is not mapped", "client", "connection refused", dial("10.96.0.10:81", 1)},
		{"TCP to a port that is not mapped, IPv6", "client", "connection refused", dial("[fd00:96::10]:81", 1)},
		{"TCP to a port closed at the member", "client", "connection refused", dial("10.96.0.12:81", 1)},
		{"TCP to the gateway", "client", "connection refused", dial("203.0.113.1:22", 1)},
		{"TCP to nowhere", "client", "network is unreachable", dial("198.51.100.1:80", 1)},
		{"TCP to nowhere, IPv6", "client", "network is unreachable", dial("[2600::1]:80", 1)},
		{"UDP through a floating IP", "client", "echoed", datagram("10.96.0.10:53", 100)},
		{"UDP through a floating IP, IPv6", "client", "echoed", datagram("[fd00:96::10]:53", 100)},
		{"UDP in fragments", "client", "echoed", datagram("10.96.0.10:53", 5000)},
		{"UDP in fragments, IPv6", "client", "echoed", datagram("[fd00:96::10]:53", 5000)},
		{"UDP to a port that is not mapped", "client", "connection refused", datagram("10.96.0.10:54", 10)},
		{"UDP to a port that is not mapped, IPv6", "client", "connection refused", datagram("[fd00:96::10]:54", 10)},
		{"UDP to a port closed at the member", "client", "connection refused", datagram("10.96.0.12:54", 10)},
		{"path MTU", "client", "1280", pathMTU("10.244.0.13:9", unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_MTU)},
		{"path MTU behind a floating IP", "client", "1280", pathMTU("10.96.0.12:9", unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_MTU)},
		{"path MTU, IPv6", "client", "1280", pathMTU("[fd00:244::13]:9", unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_MTU)},
	} {
		t.Run(c.name, func(t *testing.T) {
			x, y := a.try(c.from, c.do), b.try(c.from, c.do)
			if x != y || !strings.Contains(x, c.want) {
				t.Errorf("ours: %s\nkernel: %s\nwant: %s", x, y, c.want)
			}
		})
	}
}

// TestHairpinSockets: a pod reaches itself through its service in both worlds;
// whom it sees as client differs (docs/DIFFERENCES.md, hairpin 1).
func TestHairpinSockets(t *testing.T) {
	needs(t)
	for _, w := range []*world{ours(t, true), kernels(t, true)} {
		w.serve(t, "web-1")
		if got := w.try("web-1", dial("10.96.0.11:80", 1000)); !strings.Contains(got, "echoed") {
			t.Errorf("%s: %s", w.name, got)
		}
	}
}

const patience = 5 * time.Second

// try runs something in an endpoint's namespace and says what came of it.
func (w *world) try(from string, do func() (string, error)) string {
	var outcome string
	err := netns.Do(w.namespace(from), func() (err error) {
		outcome, err = do()
		return err
	})
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	if err != nil {
		return err.Error()
	}
	return outcome
}

// serve answers TCP on port 8080 with the client's address and an echo, and UDP
// on port 5353 with an echo.
func (w *world) serve(t *testing.T, name string) {
	t.Helper()
	err := netns.Do(w.namespace(name), func() error {
		l, err := net.Listen("tcp", "[::]:8080")
		if err != nil {
			return err
		}
		u, err := net.ListenPacket("udp", "[::]:5353")
		if err != nil {
			return errors.Join(err, l.Close())
		}
		t.Cleanup(func() { l.Close(); u.Close() })
		go accept(l)
		go echo(u)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			if _, err := fmt.Fprintf(c, "%s ", host); err == nil {
				io.Copy(c, c) //nolint:errcheck // the client judges
			}
		}()
	}
}

func echo(u net.PacketConn) {
	b := make([]byte, 1<<16)
	for {
		n, peer, err := u.ReadFrom(b)
		if err != nil {
			return
		}
		u.WriteTo(b[:n], peer) //nolint:errcheck // the client judges
	}
}

// dial connects, sends length bytes and reads them back behind the client address
// that the server saw.
func dial(address string, length int) func() (string, error) {
	return func() (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return "", err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			return "", err
		}
		data := bytes.Repeat([]byte("0123456789abcdef"), length/16+1)[:length]
		go func() {
			c.Write(data)                 //nolint:errcheck // what comes back tells
			c.(*net.TCPConn).CloseWrite() //nolint:errcheck // as above
		}()
		answer, err := io.ReadAll(c)
		if err != nil {
			return "", err
		}
		seen, back, _ := bytes.Cut(answer, []byte(" "))
		if !bytes.Equal(back, data) {
			return fmt.Sprintf("%s, but %d of %d bytes or other ones came back", seen, len(back), length), nil
		}
		return string(seen) + " echoed", nil
	}
}

// datagram sends one and waits for its echo.
func datagram(address string, length int) func() (string, error) {
	return func() (string, error) {
		c, err := net.Dial("udp", address)
		if err != nil {
			return "", err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			return "", err
		}
		data := bytes.Repeat([]byte{7}, length)
		if _, err := c.Write(data); err != nil {
			return "", err
		}
		b := make([]byte, 1<<16)
		n, err := c.Read(b)
		if err != nil {
			return "", err
		}
		if !bytes.Equal(b[:n], data) {
			return "something else came back", nil
		}
		return "echoed", nil
	}
}

// pathMTU sends a datagram that must not be fragmented and is too long, until the
// kernel has learned the path MTU.
func pathMTU(address string, level, discover, mtu int) func() (string, error) {
	return func() (string, error) {
		c, err := net.Dial("udp", address)
		if err != nil {
			return "", err
		}
		defer c.Close()
		raw, err := c.(*net.UDPConn).SyscallConn()
		if err != nil {
			return "", err
		}
		var learned int
		var failed error
		for deadline := time.Now().Add(patience); learned != 1280 && time.Now().Before(deadline); {
			c.Write(make([]byte, 1400)) //nolint:errcheck // EMSGSIZE, once it is known
			err := raw.Control(func(fd uintptr) {
				failed = unix.SetsockoptInt(int(fd), level, discover, unix.IP_PMTUDISC_DO)
				if failed == nil {
					learned, failed = unix.GetsockoptInt(int(fd), level, mtu)
				}
			})
			if err := errors.Join(err, failed); err != nil {
				return "", err
			}
		}
		return fmt.Sprint(learned), nil
	}
}
