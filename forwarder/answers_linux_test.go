//go:build linux

package forwarder

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/internal/port/tap"
)

// kernelClient puts a real kernel behind the client's port of a running rig and
// returns the path of its namespace.
func kernelClient(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIP-PRIVILEGED: TAP devices need root")
	}
	name := netns.Name("vrt", "answers")
	ns, err := netns.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(name); err != nil {
			t.Error(err)
		}
	})
	r := newRig(t)
	in := &r.state.interfaces[clientPort]
	in.Gateway4, in.Gateway6 = addr("203.0.113.1"), addr("2001:db8:113::1")
	for i := web1Port; i <= web3Port; i++ {
		r.state.interfaces[i].MTU = 1300
	}
	r.publish()
	if err := r.f.Detach(clientPort).Close(); err != nil {
		t.Fatal(err)
	}
	delete(r.ports, clientPort)
	m := mac(byte(clientPort))
	dev, err := tap.Create(tap.Spec{
		Name: fmt.Sprintf("vrt%d-ans", os.Getpid()), Netns: ns, GuestName: "eth0", MAC: m[:], Up: true,
		Addresses: []netip.Prefix{netip.MustParsePrefix("203.0.113.7/24"), netip.MustParsePrefix("2001:db8:113::7/64")},
		GatewayV4: netip.MustParseAddr("203.0.113.1"), GatewayV6: netip.MustParseAddr("2001:db8:113::1"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.f.Attach(clientPort, dev); err != nil {
		t.Fatal(err)
	}
	stop := r.running()
	t.Cleanup(func() {
		stop()
		r.f.Detach(clientPort)
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
	return ns
}

// inside runs a command in a namespace and returns what it says.
func inside(t *testing.T, ns string, command ...string) string {
	t.Helper()
	if _, err := exec.LookPath(command[0]); err != nil {
		t.Skipf("SKIP-TOOL: %s is not installed", command[0])
	}
	var out strings.Builder
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := netns.Start(ns, cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %v\n%s", command, err, out.String())
	}
	return out.String()
}

// The Linux kernel is the judge: it resolves the gateway, pings it, and believes
// the errors and resets that it gets.
func TestKernelBelievesAnswers(t *testing.T) {
	ns := kernelClient(t)
	for name, a := range map[string]struct{ gateway, fip, pod, nowhere string }{
		"IPv4": {"203.0.113.1", "10.96.0.10", "10.244.0.11", "198.51.100.1"},
		"IPv6": {"2001:db8:113::1", "fd00:96::10", "fd00:244::11", "2001:db8:51::1"},
	} {
		t.Run("ping "+name, func(t *testing.T) {
			inside(t, ns, "ping", "-c1", "-W5", a.gateway)
			inside(t, ns, "ping", "-c1", "-W5", "-s4000", a.gateway) // in fragments
		})
		t.Run("traceroute "+name, func(t *testing.T) {
			if out := inside(t, ns, "traceroute", "-n", "-m1", "-q1", "-w5", a.pod); !strings.Contains(out, a.gateway) {
				t.Errorf("the first hop is not %s:\n%s", a.gateway, out)
			}
		})
		dials := map[string]struct {
			network, address string
			want             error
		}{
			"closed TCP port": {"tcp", net.JoinHostPort(a.fip, "81"), syscall.ECONNREFUSED},
			"closed UDP port": {"udp", net.JoinHostPort(a.fip, "81"), syscall.ECONNREFUSED},
			"gateway's port":  {"tcp", net.JoinHostPort(a.gateway, "22"), syscall.ECONNREFUSED},
			"no route":        {"tcp", net.JoinHostPort(a.nowhere, "80"), syscall.ENETUNREACH},
		}
		for what, d := range dials {
			t.Run(what+" "+name, func(t *testing.T) {
				err := netns.Do(ns, func() error { return exchange(d.network, d.address, 10) })
				if !errors.Is(err, d.want) {
					t.Errorf("%s %s: %v, want %v", d.network, d.address, err, d.want)
				}
			})
		}
		t.Run("path MTU "+name, func(t *testing.T) {
			if mtu := pathMTU(t, ns, net.JoinHostPort(a.fip, "80")); mtu != 1300 {
				t.Errorf("the kernel has learnt MTU %d, want 1300", mtu)
			}
		})
	}
	t.Run("duplicate address detection", func(t *testing.T) {
		detectDuplicates(t, ns)
	})
}

// exchange sends size bytes to an address and waits for an answer or an error.
func exchange(network, address string, size int) error {
	c, err := net.DialTimeout(network, address, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(make([]byte, size)); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 10))
	return err
}

// pathMTU sends a datagram too long for the path and returns the MTU that the
// kernel knows after the error.
func pathMTU(t *testing.T, ns, address string) (mtu int) {
	t.Helper()
	err := netns.Do(ns, func() error {
		c, err := net.Dial("udp", address)
		if err != nil {
			return err
		}
		defer c.Close()
		raw, err := c.(*net.UDPConn).SyscallConn()
		if err != nil {
			return err
		}
		level, discover, option := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_MTU
		if strings.HasPrefix(address, "[") {
			level, discover, option = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_MTU
		}
		_ = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, discover, unix.IP_PMTUDISC_DO) })
		if err != nil {
			return err
		}
		if _, err := c.Write(make([]byte, 1400)); err != nil {
			return err
		}
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
			_ = raw.Control(func(fd uintptr) { mtu, err = unix.GetsockoptInt(int(fd), level, option) })
			if err != nil || mtu != 1500 {
				return err
			}
			time.Sleep(time.Millisecond)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return mtu
}

// RFC 4862 §5.4: the kernel finds the gateway's address taken and a free one free
func detectDuplicates(t *testing.T, ns string) {
	err := netns.Do(ns, func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/eth0/accept_dad", []byte("1"), 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{"2001:db8:113::1": "dadfailed", "2001:db8:113::77": ""} {
		inside(t, ns, "ip", "addr", "add", address+"/64", "dev", "eth0")
		var out string
		eventually(t, "duplicate address detection of "+address, func() bool {
			time.Sleep(10 * time.Millisecond)
			out = inside(t, ns, "ip", "-6", "-o", "addr", "show", "dev", "eth0", "to", address)
			return strings.Contains(out, "dadfailed") || !strings.Contains(out, "tentative")
		})
		if got := strings.Contains(out, "dadfailed"); got != (want != "") {
			t.Errorf("%s: %s", address, out)
		}
	}
}
