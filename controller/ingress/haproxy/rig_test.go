package haproxy

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
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
	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/controller/ingress/routing"
	"github.com/vrouter-go/vrouter/test/ownspace"
)

// TestMain gives the tests ports 80 and 443 and pods at any address.
func TestMain(m *testing.M) { ownspace.Main(m) }

// rig is a namespace with a HAProxy and pods.
type rig struct {
	t     *testing.T
	proxy *Proxy
	table *routing.Table
}

var lo sync.Once

func needRoot(t *testing.T) {
	t.Helper()
	ownspace.Need(t)
	if _, err := exec.LookPath("haproxy"); err != nil {
		t.Skip("SKIP-TOOL: haproxy is not installed")
	}
	lo.Do(func() {
		link, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(link)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
}

func newRig(t *testing.T, change func(*Settings)) *rig {
	t.Helper()
	needRoot(t)
	dir, err := os.MkdirTemp("", "vrki") // a test's own is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	s := DefaultSettings()
	s.Directory, s.ReloadInterval, s.DrainTimeout = dir, time.Millisecond, 20*time.Second
	s.MaxConnections = 2000
	if change != nil {
		change(&s)
	}
	p, err := New(s, slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelError})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Error("close:", err)
		}
		_ = os.RemoveAll(dir)
	})
	return &rig{t: t, proxy: p}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// apply puts a table into force, also what must wait, but not for drained pods.
func (r *rig) apply(table *routing.Table) Result {
	r.t.Helper()
	r.table = table
	for {
		result, err := r.proxy.Apply(context.Background(), table)
		if err != nil {
			r.t.Fatal(err)
		}
		if result.Again == 0 || result.Again > 500*time.Millisecond {
			return result
		}
		time.Sleep(result.Again)
	}
}

var nextPod atomic.Int64

// pod is a web server at an address of its own that says its name and what it was
// asked.
type pod struct {
	routing.Server
	server *http.Server
	served atomic.Int64
}

// address gives the namespace another address, of the family.
func address(t *testing.T, v6 bool) netip.Addr {
	t.Helper()
	n := nextPod.Add(1)
	a := netip.AddrFrom4([4]byte{10, 9, byte(n >> 8), byte(n)})
	if v6 {
		a = netip.MustParseAddr(fmt.Sprintf("fd00:9::%x", n))
	}
	link, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}, Flags: unix.IFA_F_NODAD}
	if err := netlink.AddrAdd(link, addr); err != nil {
		t.Fatal(err)
	}
	return a
}

// newPod starts a pod. handler may be nil.
func newPod(t *testing.T, name string, v6 bool, handler http.Handler) *pod {
	t.Helper()
	listener, err := net.Listen("tcp", netip.AddrPortFrom(address(t, v6), 8080).String())
	if err != nil {
		t.Fatal(err)
	}
	p := &pod{Server: routing.Server{Address: netip.MustParseAddrPort(listener.Addr().String())}}
	p.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.served.Add(1)
		w.Header().Set("Pod", name)
		if handler != nil {
			handler.ServeHTTP(w, r)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %s\n", r.Method, r.RequestURI)
		_ = r.Header.Write(w)
	})}
	p.server.Protocols = new(http.Protocols)
	p.server.Protocols.SetHTTP1(true)
	p.server.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = p.server.Serve(listener) }()
	t.Cleanup(func() { _ = p.server.Close() })
	return p
}

// raw sends one request as it is over a connection of its own and returns the status
// and the name of the pod that answered.
func raw(t *testing.T, host, path string) (status int, podName string) {
	t.Helper()
	conn, err := net.Dial("tcp", "127.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, host); err != nil {
		t.Fatal(err)
	}
	reply, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(reply), "\r\n")
	if fields := strings.Fields(lines[0]); len(fields) > 1 {
		status, _ = strconv.Atoi(fields[1])
	}
	for _, line := range lines {
		if name, ok := strings.CutPrefix(strings.ToLower(line), "pod: "); ok {
			podName = name
		}
	}
	return status, podName
}

// backendOf is a backend over pods.
func backendOf(name string, pods ...*pod) routing.Backend {
	b := routing.Backend{Name: name}
	for _, p := range pods {
		b.Servers = append(b.Servers, p.Server)
	}
	return b
}
