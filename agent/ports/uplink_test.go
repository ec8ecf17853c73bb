package ports

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/memory"
	"github.com/vrouter-go/vrouter/internal/port/tap"
)

// TestUplinkHasItsOwnDriver follows the fabric port: opened by its own function, again
// where its spec or its link is another, and let go without a word to the TAPs' driver.
func TestUplinkHasItsOwnDriver(t *testing.T) {
	fwd, err := forwarder.New(forwarder.Config{Workers: 1, Sessions: 1024})
	if err != nil {
		t.Fatal(err)
	}
	var opened []Uplink
	var refuse error
	taps := 0
	newDevice := func() (port.Device, error) { return memory.New(memory.Config{Name: "m", Poll: true}) }
	d := Driver{
		Name:   "tap",
		Open:   func(Spec) (port.Device, error) { taps++; return newDevice() },
		Forget: func(name string) { t.Errorf("the TAPs' driver is to forget %q", name) },
		Release: func(d port.Device) error {
			t.Error("the TAPs' driver is to release the uplink")
			return d.Close()
		},
		Uplink: func(u Uplink) (port.Device, error) {
			if refuse != nil {
				return nil, refuse
			}
			opened = append(opened, u)
			return newDevice()
		},
	}
	r := NewReconciler(fwd, d, slog.New(slog.DiscardHandler))
	spec := func(queues int) []*Spec {
		return []*Spec{nil, nil, {Port: 2, Name: "uplink", Uplink: &Uplink{Device: "eth0", Netns: "a", Queues: queues}}}
	}
	check := func(when string, times int, up bool) {
		t.Helper()
		if s := r.Status()[2]; len(opened) != times || s.Up != up || s.Driver != "packet" || taps != 0 {
			t.Errorf("%s: opened %v, status %+v, %d TAPs", when, opened, s, taps)
		}
	}
	r.Set(spec(1))
	check("wanted", 1, true)
	r.Set(spec(1)) // an equal one
	check("wanted again", 1, true)
	r.Set(spec(2))
	check("another number of queues", 2, true)
	r.LinkChanged(2)
	check("another link", 3, true)
	refuse = errors.New("there is no eth0")
	r.LinkChanged(2)
	check("the link is gone", 3, false)
	refuse = nil
	r.retry()
	check("the link is back", 4, true)
	r.changed("", true) // a TAP without a name is no uplink
	check("news of a TAP", 4, true)
	r.Set([]*Spec{nil, nil, nil})
	if len(r.Status()) != 0 {
		t.Errorf("left: %v", r.Status())
	}
	r.Set(spec(1))
	if err := errors.Join(r.Close(), fwd.Close()); err != nil {
		t.Error(err)
	}

	bare := NewReconciler(fwd, Memory("memory", func(s Spec) (port.Device, error) {
		if s.Uplink == nil || s.Tap.Name != (tap.Spec{}).Name {
			t.Errorf("asked for %+v", s)
		}
		return nil, nil
	}), slog.New(slog.DiscardHandler))
	bare.Set(spec(1))
	if s := bare.Status()[2]; s.Up || s.Reason == "" || s.Driver != "memory" {
		t.Errorf("without a device: %+v", s)
	}
}
