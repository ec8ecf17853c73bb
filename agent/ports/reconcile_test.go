package ports

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/internal/port/tap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const prefix = "vrtports"

// TestTAPLifecycle follows a real TAP: made, changed, deleted under us and made
// again within a second, its namespace deleted and made again, and closed.
func TestTAPLifecycle(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIP-PRIVILEGED: makes TAP devices")
	}
	if _, err := netns.Cleanup(prefix); err != nil { // what a crashed run left
		t.Fatal(err)
	}
	space := netns.Name(prefix, "a")
	path, err := netns.Create(space)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(space); err != nil {
			t.Error(err)
		}
	})
	fwd, err := forwarder.New(forwarder.Config{Workers: 1, Sessions: 1024})
	if err != nil {
		t.Fatal(err)
	}
	r := NewReconciler(fwd, TAP(nil), slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := fwd.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		wg.Wait()
		if err := fwd.Close(); err != nil {
			t.Error(err)
		}
	})

	spec := &Spec{Port: 2, Name: "web-1", Tap: tap.Spec{
		Name: "vrtports0", Netns: path, GuestName: "eth0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, MTU: 1400, Queues: 1, Up: true,
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.244.0.11/24")}, GatewayV4: netip.MustParseAddr("10.244.0.1"),
	}}
	want := []*Spec{nil, nil, spec}
	r.Set(want)
	if s := r.Status()[2]; !s.Up || s.Queues != 1 {
		t.Fatalf("status %+v, want up", s)
	}
	first := linkOf(t, path)
	if first == nil || first.Attrs().MTU != 1400 || first.Attrs().HardwareAddr.String() != "02:00:00:00:00:01" {
		t.Fatalf("link %+v", first)
	}

	changed := *spec
	changed.Tap.MTU = 9000
	r.Set([]*Spec{nil, nil, &changed})
	if l := linkOf(t, path); l.Attrs().MTU != 9000 || l.Attrs().Index != first.Attrs().Index {
		t.Errorf("MTU %d, index %d; want 9000 on the same link %d", l.Attrs().MTU, l.Attrs().Index, first.Attrs().Index)
	}

	start := time.Now()
	if err := netns.Do(path, func() error { return netlink.LinkDel(linkOf(t, path)) }); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the device is made again", func() bool {
		l := linkOf(t, path)
		return l != nil && l.Attrs().Index != first.Attrs().Index && r.Status()[2].Up
	})
	t.Logf("picked up again after %s", time.Since(start).Round(time.Millisecond))

	if err := netns.Delete(space); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the port is lost, with a reason", func() bool { s := r.Status()[2]; return !s.Up && s.Reason != "" })
	if _, err := netns.Create(space); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the device is back", func() bool { return linkOf(t, path) != nil && r.Status()[2].Up })

	r.Set([]*Spec{nil, nil, nil})
	if l := linkOf(t, path); l != nil || len(r.Status()) != 0 {
		t.Errorf("left behind: %v, %v", l, r.Status())
	}
}

// linkOf returns eth0 in a namespace, nil if there is none.
func linkOf(t *testing.T, path string) (link netlink.Link) {
	t.Helper()
	_ = netns.Do(path, func() error { // no namespace, no link
		link, _ = netlink.LinkByName("eth0")
		return nil
	})
	return link
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("did not come to pass: " + what)
		}
	}
}
