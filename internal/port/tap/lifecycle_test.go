//go:build linux

package tap_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/tap"
)

var _ port.Device = (*tap.Device)(nil)

// hasLink asks the kernel, inside a namespace, whether a link is there.
func hasLink(t testing.TB, ns, name string) bool {
	t.Helper()
	found := false
	if err := netns.Do(ns, func() error {
		_, err := netlink.LinkByName(name)
		found = err == nil
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

func TestCloseRemovesTheDevice(t *testing.T) {
	needRoot(t)
	ns := namespace(t, "a")
	for _, s := range []tap.Spec{guest(ns, 1), {Name: linkName("own")}} {
		d := create(t, s)
		if d.Name() != s.Name || d.Netns() != s.Netns || len(d.Queues()) != 1 {
			t.Errorf("device %q in %q with %d queues", d.Name(), d.Netns(), len(d.Queues()))
		}
		name := s.GuestName
		if name == "" {
			name = s.Name
		}
		if !hasLink(t, s.Netns, name) {
			t.Errorf("%s is not in %q", name, s.Netns)
		}
		if s.Netns != "" && hasLink(t, "", s.Name) {
			t.Errorf("%s is still in our namespace", s.Name)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if hasLink(t, s.Netns, name) {
			t.Errorf("Close left %s", name)
		}
		if err := d.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
		if err := d.ApplyLink(s); err == nil {
			t.Error("ApplyLink worked on a closed device")
		}
	}
}

// A restart: the next process adopts the device, and a TCP connection of the
// guest that was open all the time goes on.
func TestDetachAndAdopt(t *testing.T) {
	needRoot(t)
	both(t, func(t *testing.T, rings *tap.Rings) {
		nsA, nsB := namespace(t, "a"), namespace(t, "b")
		a, err := tap.Create(guest(nsA, 1))
		if err != nil {
			t.Fatal(err)
		}
		b := create(t, guest(nsB, 2))
		a.Batch(rings)
		b.Batch(rings)
		first := connect(t, a, b)
		l := listen(t, nsB, "tcp", "10.9.0.2:0")
		client := dial(t, nsA, "tcp", l.Addr().String())
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		first.stop()
		index := linkIndex(t, nsA)
		if err := a.Detach(); err != nil {
			t.Fatal(err)
		}
		send(t, client, []byte("sent while nobody was attached"))
		again := create(t, guest(nsA, 1))
		again.Batch(rings)
		if now := linkIndex(t, nsA); now != index {
			t.Errorf("adopted link %d; want the old one, %d", now, index)
		}
		if again.Features() != b.Features() {
			t.Errorf("features %b after adoption; want %b", again.Features(), b.Features())
		}
		connect(t, again, b)
		limit(t, server)
		buf := make([]byte, 100)
		if n, err := io.ReadAtLeast(server, buf, 30); err != nil || n != 30 {
			t.Errorf("after adoption: %d bytes, %v", n, err)
		}
		transfer(t, nsA, nsB, "10.9.0.2", 4<<20)
	})
}

func linkIndex(t *testing.T, ns string) int {
	t.Helper()
	return ipJSON[struct{ Ifindex int }](t, ns, "link", "show", "eth0")[0].Ifindex
}

func TestAdoptRenamesAndResizes(t *testing.T) {
	needRoot(t, "ip")
	ns := namespace(t, "a")
	d, err := tap.Create(guest(ns, 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Detach(); err != nil {
		t.Fatal(err)
	}
	s := guest(ns, 1)
	s.GuestName, s.Queues = "net1", 3
	if d = create(t, s); len(d.Queues()) != 3 {
		t.Errorf("%d queues; want 3", len(d.Queues()))
	}
	if hasLink(t, ns, "eth0") || !hasLink(t, ns, "net1") {
		t.Error("the device kept its old name")
	}
}

func TestCreateNeverTakesForeignDevices(t *testing.T) {
	needRoot(t, "ip")
	ns, s := namespace(t, "a"), tap.Spec{Name: linkName("x"), GuestName: "eth0"}
	s.Netns = ns
	mustRun(t, ns, "ip", "tuntap", "add", "eth0", "mode", "tap", "multi_queue")
	if _, err := tap.Create(s); !errors.Is(err, tap.ErrNotOurs) {
		t.Errorf("guest name taken: %v; want ErrNotOurs", err)
	}
	if hasLink(t, "", s.Name) {
		t.Error("the failed Create left its device")
	}
	mustRun(t, ns, "ip", "link", "set", "eth0", "alias", "vrouter somebody-else")
	if _, err := tap.Create(s); !errors.Is(err, tap.ErrNotOurs) {
		t.Errorf("another vrouter device: %v; want ErrNotOurs", err)
	}
	if !hasLink(t, ns, "eth0") {
		t.Error("the foreign device was deleted")
	}
	s.GuestName = "eth1"
	mustRun(t, "", "ip", "tuntap", "add", s.Name, "mode", "tap")
	defer mustRun(t, "", "ip", "link", "del", s.Name)
	if _, err := tap.Create(s); !errors.Is(err, tap.ErrNotOurs) {
		t.Errorf("name taken in our namespace: %v; want ErrNotOurs", err)
	}
	if !hasLink(t, "", s.Name) {
		t.Error("the foreign device in our namespace was deleted")
	}
}

// A daemon killed between making a device and moving it leaves it behind, marked.
func TestCreateReplacesWhatACrashLeft(t *testing.T) {
	needRoot(t, "ip")
	ns := namespace(t, "a")
	s := guest(ns, 1)
	mustRun(t, "", "ip", "tuntap", "add", s.Name, "mode", "tap", "multi_queue")
	mustRun(t, "", "ip", "link", "set", s.Name, "alias", "vrouter "+s.Name)
	create(t, s)
	if hasLink(t, "", s.Name) || !hasLink(t, ns, "eth0") {
		t.Error("the left-over device was not replaced")
	}
}

func TestSecondOwnerIsRefused(t *testing.T) {
	needRoot(t, "ip")
	ns := namespace(t, "a")
	create(t, guest(ns, 1))
	if _, err := tap.Create(guest(ns, 1)); !errors.Is(err, tap.ErrBusy) {
		t.Errorf("second Create: %v; want ErrBusy", err)
	}
	if _, err := tap.Attach("eth0", ns, 1); !errors.Is(err, tap.ErrBusy) {
		t.Errorf("Attach: %v; want ErrBusy", err)
	}
	mustRun(t, ns, "ip", "tuntap", "add", "single", "mode", "tap")
	d, err := tap.Attach("single", ns, 1)
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, d)
	if _, err := tap.Attach("single", ns, 1); !errors.Is(err, tap.ErrBusy) {
		t.Errorf("second Attach to a single queue: %v; want ErrBusy", err)
	}
}

func TestErrorsNameTheCause(t *testing.T) {
	needRoot(t, "ip")
	ns := namespace(t, "a")
	missing := guest("/run/netns/vrt-no-such", 1)
	if _, err := tap.Create(missing); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "vrt-no-such") {
		t.Errorf("namespace missing: %v", err)
	}
	if _, err := tap.Attach("eth0", "vrt-no-such", 1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("namespace missing: %v", err)
	}
	if _, err := tap.Attach("eth0", ns, 1); !errors.Is(err, tap.ErrNoDevice) {
		t.Errorf("no device: %v", err)
	}
	if _, err := tap.Attach("lo", ns, 1); !errors.Is(err, tap.ErrNotTAP) {
		t.Errorf("lo: %v", err)
	}
	mustRun(t, ns, "ip", "tuntap", "add", "tun0", "mode", "tun")
	if _, err := tap.Attach("tun0", ns, 1); !errors.Is(err, tap.ErrNotTAP) {
		t.Errorf("a TUN: %v", err)
	}
}

// TAPs as QEMU, libvirt or a CNI plugin leave them.
func TestAttach(t *testing.T) {
	needRoot(t, "ip")
	for _, c := range []struct {
		name    string
		options []string
		queues  int
		vnet    bool
	}{
		{"plain", nil, 1, false},
		{"vnet", []string{"vnet_hdr"}, 1, true},
		{"multi", []string{"multi_queue"}, 2, false},
		{"both", []string{"multi_queue", "vnet_hdr"}, 2, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			nsA, nsB := namespace(t, "a"), namespace(t, "b")
			devices := []*tap.Device{}
			for i, ns := range []string{nsA, nsB} {
				mustRun(t, ns, append([]string{"ip", "tuntap", "add", "tap0", "mode", "tap"}, c.options...)...)
				mustRun(t, ns, "ip", "addr", "add", []string{"10.9.0.1/24", "10.9.0.2/24"}[i], "dev", "tap0")
				mustRun(t, ns, "ip", "link", "set", "tap0", "up")
				d, err := tap.Attach("tap0", ns, 2)
				if err != nil {
					t.Fatal(err)
				}
				devices = append(devices, d)
				closeLater(t, d)
			}
			d := devices[0]
			if d.Name() != "tap0" || len(d.Queues()) != c.queues || (d.Features() != 0) != c.vnet {
				t.Errorf("device %q, %d queues, features %b", d.Name(), len(d.Queues()), d.Features())
			}
			w := connect(t, devices[0], devices[1])
			transfer(t, nsA, nsB, "10.9.0.2", 2<<20)
			if (w.super[0].Load() > 0) != c.vnet {
				t.Errorf("%d superpackets; want some: %v", w.super[0].Load(), c.vnet)
			}
			w.stop()
			before := mustRun(t, nsA, "ip", "-d", "tuntap", "show")
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if !hasLink(t, nsA, "tap0") {
				t.Error("Close removed a device that was not ours")
			}
			after := mustRun(t, nsA, "ip", "-d", "tuntap", "show")
			if want, _, _ := strings.Cut(before, " Attached"); !strings.HasPrefix(after, want) {
				t.Errorf("flags changed:\n%s%s", before, after)
			}
			if c.vnet && vnetHdrSize(t, nsA) != 10 { // what a TAP has when it is made
				t.Errorf("vnet header left at %d bytes", vnetHdrSize(t, nsA))
			}
			if d.ApplyLink(tap.Spec{Name: "tap0", Netns: nsA}) == nil {
				t.Error("ApplyLink worked on a device that is not ours")
			}
		})
	}
}

// vnetHdrSize attaches to tap0 as it is and returns its header length.
func vnetHdrSize(t *testing.T, ns string) (size int) {
	t.Helper()
	if err := netns.Do(ns, func() error {
		link, err := netlink.LinkByName("tap0")
		if err != nil {
			return err
		}
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		ifr, err := unix.NewIfreq("tap0")
		if err != nil {
			return err
		}
		ifr.SetUint16(unix.IFF_TAP | uint16(link.(*netlink.Tuntap).Flags))
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			return err
		}
		size, err = unix.IoctlGetInt(fd, unix.TUNGETVNETHDRSZ)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return size
}

// The guest deletes its end; the queue must say so, and the device can be made
// again.
func TestDeviceDeletedUnderUs(t *testing.T) {
	needRoot(t, "ip")
	nsA, nsB := namespace(t, "a"), namespace(t, "b")
	a, b := create(t, guest(nsA, 1)), create(t, guest(nsB, 2))
	w := connect(t, a, b)
	transfer(t, nsA, nsB, "10.9.0.2", 1<<20)
	mustRun(t, nsA, "ip", "link", "del", "eth0")
	eventually(t, "the poller to wake and Read to fail", func() bool { return w.failed.Load() != nil })
	if err := w.failed.Load(); err != port.ErrGone {
		t.Errorf("Read: %v; want port.ErrGone", err)
	}
	w.stop()
	frames := []*port.Frame{port.NewFrame()}
	if n, err := a.Queues()[0].Read(frames); n != 0 || err != port.ErrGone {
		t.Errorf("Read: %d, %v; want port.ErrGone", n, err)
	}
	frames[0].End += 60
	if a.Queues()[0].Write(frames); frames[0].Lost != port.LostDown {
		t.Errorf("Write: lost %d; want LostDown", frames[0].Lost)
	}
	if err := a.ApplyLink(guest(nsA, 1)); !errors.Is(err, port.ErrGone) {
		t.Errorf("ApplyLink: %v; want port.ErrGone", err)
	}
	if err := a.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	connect(t, create(t, guest(nsA, 1)), b)
	transfer(t, nsA, nsB, "10.9.0.2", 1<<20)
}

// The guest's namespace goes while we hold the queues: our descriptors must not
// keep it, and the device in it, alive.
func TestNamespaceDeletedUnderUs(t *testing.T) {
	needRoot(t)
	ns := namespace(t, "a")
	d := create(t, guest(ns, 1))
	if err := netns.Delete(netns.Name(prefix, "a")); err != nil {
		t.Fatal(err)
	}
	frames := []*port.Frame{port.NewFrame()}
	eventually(t, "the device to go with its namespace", func() bool {
		_, err := d.Queues()[0].Read(frames)
		return err == port.ErrGone
	})
}

func TestWatcher(t *testing.T) {
	needRoot(t, "ip")
	made, found := namespace(t, "made"), namespace(t, "found")
	mustRun(t, found, "ip", "tuntap", "add", "tap0", "mode", "tap", "vnet_hdr")
	d := create(t, guest(made, 1))
	attached, err := tap.Attach("tap0", found, 1)
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, attached)

	w := tap.NewWatcher(5 * time.Millisecond)
	w.Add(d)
	w.Add(attached)
	w.AddMissing("later", found, false)
	events := make(chan tap.Event, 16)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx, func(e tap.Event) { events <- e })
	}()
	defer func() { cancel(); <-done }()
	expect := func(name, ns string, state tap.State) {
		t.Helper()
		select {
		case e := <-events:
			if e != (tap.Event{Name: name, Netns: ns, State: state}) {
				t.Errorf("event %v; want %s %v", e, name, state)
			}
		case <-time.After(deadline):
			t.Fatalf("no event; want %s %v", name, state)
		}
	}
	mustRun(t, found, "ip", "tuntap", "add", "later", "mode", "tap")
	expect("later", found, tap.Back)
	mustRun(t, found, "ip", "link", "del", "tap0")
	w.Kick()
	expect("tap0", found, tap.Gone)
	mustRun(t, found, "ip", "tuntap", "add", "tap0", "mode", "tap")
	expect("tap0", found, tap.Back)
	w.Remove("tap0")
	w.Remove("later")

	mustRun(t, made, "ip", "link", "del", "eth0") // Create can make it at once
	expect(d.Name(), made, tap.Gone)
	expect(d.Name(), made, tap.Back)
	d.Close()
	if d, err = tap.Create(guest(made, 1)); err != nil {
		t.Fatal(err)
	}
	// Adopted, its queues are opened inside the namespace and keep it alive: only
	// its name tells that it is gone.
	if err := d.Detach(); err != nil {
		t.Fatal(err)
	}
	again := create(t, guest(made, 1))
	w.Add(again)
	name := netns.Name(prefix, "made")
	if err := netns.Delete(name); err != nil {
		t.Fatal(err)
	}
	expect(d.Name(), made, tap.Gone)
	if _, err := again.Queues()[0].Read([]*port.Frame{port.NewFrame()}); err != nil {
		t.Logf("the namespace went in spite of our queues: %v", err)
	}
	if _, err := netns.Create(name); err != nil {
		t.Fatal(err)
	}
	expect(d.Name(), made, tap.Back)
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	w.Add(create(t, guest(made, 1)))
	select {
	case e := <-events:
		t.Errorf("event %v though all is well", e)
	case <-time.After(50 * time.Millisecond):
	}
}

// Many guests come and go without a trace in our namespace.
func TestManyDevices(t *testing.T) {
	needRoot(t)
	before, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	ns := namespace(t, "a")
	for i := range 20 {
		s := guest(ns, i+1)
		s.GuestName = s.Name
		create(t, s)
	}
	after, err := net.Interfaces()
	if err != nil || len(after) != len(before) {
		t.Errorf("%d links in our namespace, had %d: %v", len(after), len(before), err)
	}
}
