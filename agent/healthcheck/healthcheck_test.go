package healthcheck_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vrouter-go/vrouter/agent/healthcheck"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}

// run starts a server that ends with the test.
func run(t *testing.T) (*healthcheck.Server, *atomic.Bool) {
	t.Helper()
	healthy := new(atomic.Bool)
	healthy.Store(true)
	s := healthcheck.New(healthy.Load, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, healthy
}

// get asks once, over a connection of its own.
func get(at netip.AddrPort) (status int, weight, body string, err error) {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	r, err := c.Get("http://" + at.String() + "/healthz")
	if err != nil {
		return 0, "", "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return r.StatusCode, r.Header.Get("X-Load-Balancing-Endpoint-Weight"), strings.TrimSpace(string(b)), err
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// freePort returns a port that nobody listens on.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String()).Port()
}

// The answers are kube-proxy's: 200 with members here, 503 without any, and 503
// while the node does not forward.
func TestAnswers(t *testing.T) {
	s, healthy := run(t)
	port := freePort(t)
	want := func(local, status int, ok bool) {
		t.Helper()
		body := fmt.Sprintf(`{"service":{"namespace":"shop","name":"web"},"localEndpoints":%d,"serviceProxyHealthy":%t}`, local, ok)
		for _, a := range loopback {
			eventually(t, a.String(), func() error {
				gotStatus, weight, got, err := get(netip.AddrPortFrom(a, port))
				if err == nil && (gotStatus != status || weight != fmt.Sprint(local) || got != body) {
					err = fmt.Errorf("got %d, weight %s, %s; want %d, %s", gotStatus, weight, got, status, body)
				}
				return err
			})
		}
	}
	set := func(local int) {
		s.Set([]healthcheck.Service{{Addresses: loopback, Port: port, Namespace: "shop", Name: "web", Local: local}})
	}
	set(2)
	want(2, http.StatusOK, true)
	set(0)
	want(0, http.StatusServiceUnavailable, true)
	set(1)
	healthy.Store(false)
	want(1, http.StatusServiceUnavailable, false)
}

// A service that goes takes its port along, on every address.
func TestPortCloses(t *testing.T) {
	s, _ := run(t)
	port := freePort(t)
	at := netip.AddrPortFrom(loopback[0], port)
	s.Set([]healthcheck.Service{{Addresses: loopback, Port: port, Local: 1}})
	eventually(t, "opens", func() error { _, _, _, err := get(at); return err })
	s.Set(nil)
	if _, _, _, err := get(at); err == nil {
		t.Error("the port still answers")
	}
}

// A port that is taken is tried again until it is free, and said to be a problem
// until then.
func TestTakenPort(t *testing.T) {
	s, _ := run(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	s.Set([]healthcheck.Service{{Addresses: loopback[:1], Port: at.Port(), Local: 1}})
	eventually(t, "problem", func() error {
		if len(s.Problems()) != 1 {
			return fmt.Errorf("problems %q", s.Problems())
		}
		return nil
	})
	l.Close()
	eventually(t, "opens", func() error { _, _, _, err := get(at); return err })
	if p := s.Problems(); len(p) != 0 {
		t.Errorf("problems %q", p)
	}
}
