//go:build linux

package port_test

import (
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/port"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newPoller(t testing.TB) *port.Poller {
	t.Helper()
	p, err := port.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// pipe returns a pipe that is closed with the test.
func pipe(t testing.TB) (r, w int) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return fds[0], fds[1]
}

func fill(t testing.TB, w int) {
	t.Helper()
	if _, err := unix.Write(w, []byte{1}); err != nil {
		t.Fatal(err)
	}
}

func drain(t testing.TB, r int) {
	t.Helper()
	if _, err := unix.Read(r, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

func TestPollerReportsReadyTokens(t *testing.T) {
	p := newPoller(t)
	const big = port.Token(1<<63 | 7)
	r1, w1 := pipe(t)
	r2, w2 := pipe(t)
	for fd, token := range map[int]port.Token{r1: 1, r2: big} {
		if err := p.Add(fd, token); err != nil {
			t.Fatal(err)
		}
	}
	tokens := make([]port.Token, 8)
	wait := func(timeout time.Duration) []port.Token {
		n, err := p.Wait(tokens, timeout)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(tokens[:n])
		return tokens[:n]
	}
	if got := wait(0); len(got) != 0 {
		t.Errorf("idle: %v", got)
	}
	if got := wait(time.Microsecond); len(got) != 0 {
		t.Errorf("idle for a microsecond: %v", got)
	}
	fill(t, w1)
	fill(t, w2)
	for _, timeout := range []time.Duration{0, time.Minute, -1} {
		if got := wait(timeout); !slices.Equal(got, []port.Token{1, big}) {
			t.Errorf("timeout %v: %v; want both, again while unread", timeout, got)
		}
	}
	if err := p.Remove(r1); err != nil {
		t.Fatal(err)
	}
	if got := wait(0); !slices.Equal(got, []port.Token{big}) {
		t.Errorf("after Remove: %v", got)
	}
	drain(t, r2)
	unix.Close(w2) // a broken descriptor must be reported, so that Read finds out
	if got := wait(0); !slices.Equal(got, []port.Token{big}) {
		t.Errorf("after the peer closed: %v", got)
	}
	if err := p.Remove(r1); err == nil {
		t.Error("second Remove worked")
	}
}

// No descriptor starves when fewer tokens are asked for than are ready.
func TestPollerServesAllInTurn(t *testing.T) {
	p := newPoller(t)
	const pipes = 10
	for i := range pipes {
		r, w := pipe(t)
		if err := p.Add(r, port.Token(i)); err != nil {
			t.Fatal(err)
		}
		fill(t, w)
	}
	seen := map[port.Token]bool{}
	tokens := make([]port.Token, 3)
	for range 4 * pipes {
		n, err := p.Wait(tokens, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, token := range tokens[:n] {
			seen[token] = true
		}
	}
	if len(seen) != pipes {
		t.Errorf("served %d of %d descriptors", len(seen), pipes)
	}
}

func TestPollerWakesASleeper(t *testing.T) {
	p := newPoller(t)
	tokens := make([]port.Token, 1)
	for range 200 {
		woken := make(chan error)
		go func() {
			n, err := p.Wait(tokens, -1)
			if n != 0 {
				t.Errorf("Wake reported %d tokens", n)
			}
			woken <- err
		}()
		p.Wake()
		p.Wake()
		select {
		case err := <-woken:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("Wait slept through Wake")
		}
	}
}

func TestPollerDoesNotAllocate(t *testing.T) {
	p := newPoller(t)
	r, w := pipe(t)
	if err := p.Add(r, 1); err != nil {
		t.Fatal(err)
	}
	fill(t, w)
	tokens := make([]port.Token, 4)
	if n := testing.AllocsPerRun(100, func() {
		p.Wake()
		if n, err := p.Wait(tokens, 0); n != 1 || err != nil {
			t.Fatalf("%d ready, %v", n, err)
		}
		if n, err := p.Wait(tokens, time.Millisecond); n != 1 || err != nil {
			t.Fatalf("%d ready, %v", n, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per Wait and Wake", n)
	}
}

func TestFeaturesAccepts(t *testing.T) {
	gso := func(kind uint8) port.Offload {
		return port.Offload{Flags: port.NeedsCsum, GSOType: kind, GSOSize: 1400, CsumStart: 34, CsumOffset: 16}
	}
	const all = port.FeatureCsum | port.FeatureTSO4 | port.FeatureTSO6 | port.FeatureUSO
	for _, c := range []struct {
		name string
		f    port.Features
		o    port.Offload
		want bool
	}{
		{"plain frame anywhere", 0, port.Offload{}, true},
		{"verified checksum is a complete one", 0, port.Offload{Flags: port.DataValid}, true},
		{"partial checksum", port.FeatureCsum, port.Offload{Flags: port.NeedsCsum}, true},
		{"partial checksum without the feature", 0, port.Offload{Flags: port.NeedsCsum}, false},
		{"TSO4", port.FeatureCsum | port.FeatureTSO4, gso(port.GSOTCPv4), true},
		{"TSO4 with ECN", all, gso(port.GSOTCPv4 | port.GSOECN), true},
		{"TSO6 on a TSO4 device", port.FeatureCsum | port.FeatureTSO4, gso(port.GSOTCPv6), false},
		{"USO", all, gso(port.GSOUDPL4), true},
		{"USO without the feature", all &^ port.FeatureUSO, gso(port.GSOUDPL4), false},
		{"GSO without NeedsCsum", all, port.Offload{GSOType: port.GSOTCPv4, GSOSize: 1400}, false},
		{"GSO without a segment size", all, port.Offload{GSOType: port.GSOTCPv4, Flags: port.NeedsCsum}, false},
		{"UFO, which nobody sends", all, gso(3), false},
		{"tunnel", all | port.FeatureTunnelGSO, gso(port.GSOTCPv6 | port.GSOTunnelIPv4), true},
		{"tunnel with ECN", all | port.FeatureTunnelGSO, gso(port.GSOTCPv4 | port.GSOTunnelIPv6 | port.GSOECN), true},
		{"tunnel without the feature", all, gso(port.GSOTCPv4 | port.GSOTunnelIPv4), false},
		{"tunnel without the inner feature", (all | port.FeatureTunnelGSO) &^ port.FeatureUSO, gso(port.GSOUDPL4 | port.GSOTunnelIPv4), false},
		{"tunnel with two outer headers", all | port.FeatureTunnelGSO, gso(port.GSOTCPv4 | port.GSOTunnelIPv4 | port.GSOTunnelIPv6), false},
		{"tunnel around a plain frame", all | port.FeatureTunnelGSO, gso(port.GSOTunnelIPv4), false},
	} {
		if got := c.f.Accepts(c.o); got != c.want {
			t.Errorf("%s: %v; want %v", c.name, got, c.want)
		}
	}
}
