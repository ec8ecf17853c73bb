package haproxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/controller/ingress/routing"
)

// load sends requests until it is told to stop, each of several ways at once, and
// says what failed.
type load struct {
	stop     context.CancelFunc
	running  sync.WaitGroup
	requests atomic.Int64
	mu       sync.Mutex
	failures []string
	dialled  []net.Conn // all that there ever were: what is dialled and not used, no transport closes
}

// startLoad begins clients: keep-alive, a connection for each request, and HTTP/2 over
// TLS where the table has certificates for a.test.
func startLoad(t *testing.T, withTLS bool) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{stop: cancel}
	dial := func(port string) func(context.Context, string, string) (net.Conn, error) {
		return func(context.Context, string, string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:"+port)
			if err == nil {
				l.mu.Lock()
				l.dialled = append(l.dialled, c)
				l.mu.Unlock()
				if ctx.Err() != nil {
					_ = c.Close()
				}
			}
			return c, err
		}
	}
	transports := map[string]*http.Transport{
		"http keep-alive":  {DialContext: dial("80"), DisableCompression: true},
		"http one request": {DialContext: dial("80"), DisableKeepAlives: true},
	}
	if withTLS {
		transports["https h2"] = &http.Transport{DialContext: dial("443"), ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		transports["https one request"] = &http.Transport{DialContext: dial("443"), DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	}
	for name, transport := range transports {
		for range 2 {
			l.running.Go(func() {
				for ctx.Err() == nil {
					l.one(ctx, name, transport)
				}
			})
		}
	}
	t.Cleanup(l.halt)
	return l
}

// halt ends the clients and their connections.
func (l *load) halt() {
	l.stop()
	l.running.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.dialled {
		_ = c.Close() // or the client has closed it
	}
}

// one sends a POST, which neither Go's client nor HAProxy repeats.
func (l *load) one(ctx context.Context, name string, transport *http.Transport) {
	scheme, _, _ := strings.Cut(name, " ")
	r, err := http.NewRequest(http.MethodPost, scheme+"://a.test/", strings.NewReader("hello"))
	if err == nil {
		var reply *http.Response
		if reply, err = transport.RoundTrip(r); err == nil {
			_, err = io.Copy(io.Discard, reply.Body)
			_ = reply.Body.Close()
			if err == nil && reply.StatusCode != http.StatusOK {
				err = fmt.Errorf("status %s", reply.Status)
			}
		}
	}
	l.requests.Add(1)
	if err != nil && ctx.Err() == nil {
		l.mu.Lock()
		l.failures = append(l.failures, name+": "+err.Error())
		l.mu.Unlock()
	}
}

// more returns after n further requests.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	until := l.requests.Load() + n
	wait(t, func() bool { return l.requests.Load() >= until })
}

func (l *load) end(t *testing.T) {
	t.Helper()
	l.halt()
	t.Logf("%d requests, %d failed", l.requests.Load(), len(l.failures))
	for i, f := range l.failures {
		if i < 5 {
			t.Error(f)
		}
	}
	if l.requests.Load() == 0 {
		t.Error("no requests")
	}
}

func wait(t *testing.T, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to be in 30 s")
		}
	}
}

func tableOf(pods ...*pod) *routing.Table {
	return &routing.Table{
		Routes:   []routing.Route{{Kind: routing.Prefix, Host: "a.test", Backend: "ns:s:80"}},
		Backends: []routing.Backend{backendOf("ns:s:80", pods...)},
	}
}

// Pods come and go under load, each round other ones, and no request fails: the worker
// stays the same. A pod ends as Kubernetes ends it, when it is not an endpoint any more.
func TestPodsChangeWithoutReload(t *testing.T) {
	r := newRig(t, nil)
	old := newPod(t, "first", false, nil)
	r.apply(tableOf(old))
	pid := r.proxy.Stats().PID
	l := startLoad(t, false)
	l.more(t, 50)
	for i := range 20 {
		next := newPod(t, fmt.Sprintf("next-%d", i), i%2 == 1, nil)
		if i%5 == 4 { // both for a while
			r.apply(tableOf(old, next))
			l.more(t, 50)
		}
		r.apply(tableOf(next))
		l.more(t, 50)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if err := old.server.Shutdown(ctx); err != nil {
			t.Error("pod did not end:", err)
		}
		cancel()
		wait(t, func() bool { return next.served.Load() > 0 })
		old = next
	}
	l.end(t)
	if s := r.proxy.Stats(); s.PID != pid || s.Reloads != 0 || s.Starts != 1 {
		t.Errorf("worker %d, then %+v: it was reloaded", pid, s)
	}
	// What has drained is deleted.
	wait(t, func() bool {
		r.apply(r.table)
		reply, err := r.proxy.admin().ask(context.Background(), "show servers state ns:s:80")
		return err == nil && strings.Count(reply, "ns:s:80") == 1
	})
}

// Backends, certificates and routes change under load, each with a reload, and no
// request fails: those that were sent to the old worker are answered by it.
func TestReloadUnderLoad(t *testing.T) {
	r := newRig(t, nil)
	p := newPod(t, "p", false, nil)
	table := tableOf(p)
	table.Certificates = []routing.Certificate{certificate(t, "aa", ecKey(t), "a.test")}
	r.apply(table)
	l := startLoad(t, true)
	l.more(t, 50)
	for i := range 12 {
		next := *table
		next.Backends = append(next.Backends[:1:1], backendOf(fmt.Sprintf("ns:t%d:80", i), p))
		if i%3 == 0 {
			next.Certificates = []routing.Certificate{certificate(t, fmt.Sprintf("c%d", i), ecKey(t), "a.test")}
		}
		pid := r.proxy.Stats().PID
		r.apply(&next)
		if r.proxy.Stats().PID == pid {
			t.Error("no reload")
		}
		l.more(t, 100)
	}
	l.end(t)
	if s := r.proxy.Stats(); s.Reloads != 12 || s.Starts != 1 || s.Rejected != 0 {
		t.Errorf("%+v", s)
	}
}

// Routes change without a reload, and a request meets the old or the new ones.
func TestRoutesChangeWithoutReload(t *testing.T) {
	r := newRig(t, nil)
	p := newPod(t, "p", false, nil)
	r.apply(tableOf(p))
	pid := r.proxy.Stats().PID
	l := startLoad(t, false)
	for i := range 30 {
		next := tableOf(p)
		for j := range 1 + i*20 {
			next.Routes = append(next.Routes, routing.Route{Kind: routing.Prefix, Host: "a.test", Path: fmt.Sprintf("/p%d", j), Backend: routing.NotFound})
		}
		r.apply(next)
		if status, _ := raw(t, "a.test", fmt.Sprintf("/p%d/x", i*20)); status != http.StatusNotFound {
			t.Errorf("round %d: status %d of a new route", i, status)
		}
		if status, _ := raw(t, "a.test", fmt.Sprintf("/p%d/x", 1+i*20)); status != http.StatusOK {
			t.Errorf("round %d: status %d beside the new routes", i, status)
		}
		l.more(t, 20)
	}
	l.end(t)
	if s := r.proxy.Stats(); s.PID != pid || s.Reloads != 0 {
		t.Errorf("%+v: it was reloaded", s)
	}
}

// A configuration that HAProxy refuses changes nothing, and the next good one does.
func TestBadConfigurationKeepsTheOld(t *testing.T) {
	r := newRig(t, nil)
	p, q := newPod(t, "p", false, nil), newPod(t, "q", false, nil)
	r.apply(tableOf(p))
	bad := tableOf(p)
	bad.Backends = append(bad.Backends, routing.Backend{Name: "no name"}) // which package routing never makes
	_, err := r.proxy.Apply(context.Background(), bad)
	if err == nil || !strings.Contains(err.Error(), "goes on as before") || !strings.Contains(err.Error(), "haproxy -c") {
		t.Error("error:", err)
	}
	if status, name := raw(t, "a.test", "/"); status != http.StatusOK || name != "p" {
		t.Error("the old configuration does not serve:", status, name)
	}
	// Pods change while the configuration is refused.
	bad.Backends[0] = backendOf("ns:s:80", q)
	if _, err := r.proxy.Apply(context.Background(), bad); err == nil {
		t.Error("it was taken")
	}
	if status, name := raw(t, "a.test", "/"); status != http.StatusOK || name != "q" {
		t.Error("pods did not change:", status, name)
	}
	if s := r.proxy.Stats(); s.Rejected == 0 {
		t.Errorf("not counted: %+v", s)
	}
	good := tableOf(q)
	good.Backends = append(good.Backends, backendOf("ns:t:80", p))
	r.apply(good)
	if status, name := raw(t, "a.test", "/"); status != http.StatusOK || name != "q" {
		t.Error(status, name)
	}
}

// HAProxy that is killed is started again with the table as it is.
func TestKilledProxyComesBack(t *testing.T) {
	r := newRig(t, nil)
	p := newPod(t, "p", false, nil)
	r.apply(tableOf(p))
	for _, pid := range []int{int(r.proxy.Stats().PID), 0} {
		if pid == 0 {
			pid = r.proxy.child.cmd.Process.Pid // the master; the worker was the first
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		select {
		case <-r.proxy.Ended():
		case <-time.After(10 * time.Second):
			t.Fatal("its end was not seen")
		}
		if r.proxy.Restart() > time.Second {
			t.Error("the first start waits too long")
		}
		r.apply(tableOf(p))
		if status, name := raw(t, "a.test", "/"); status != http.StatusOK || name != "p" {
			t.Error(status, name)
		}
	}
	if s := r.proxy.Stats(); s.Crashes != 2 || s.Starts != 3 {
		t.Errorf("%+v", s)
	}
}

// A WebSocket is a tunnel: it survives that its pod drains, that HAProxy is reloaded,
// and SIGUSR1, as long as the drain timeout lets it.
func TestTunnelOutlivesChanges(t *testing.T) {
	r := newRig(t, nil)
	p := newPod(t, "p", false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Sec-WebSocket-Accept", "s3pPLMBiTKaQ9kYGzzhZRbK+xOo=") // HAProxy checks it
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, buffered, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.Copy(conn, buffered)
	}))
	q := newPod(t, "q", false, nil)
	r.apply(tableOf(p))
	conn, err := net.Dial("tcp", "127.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(60 * time.Second))
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
	in := bufio.NewReader(conn)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "\r\n" {
			break
		}
	}
	echo := func(when string) {
		t.Helper()
		fmt.Fprintf(conn, "%s\n", when)
		if line, err := in.ReadString('\n'); err != nil || line != when+"\n" {
			t.Fatalf("%s: %q, %v", when, line, err)
		}
	}
	echo("at first")
	r.apply(tableOf(q))
	echo("while its pod drains")
	more := tableOf(q)
	more.Backends = append(more.Backends, backendOf("ns:t:80", q))
	r.apply(more)
	echo("after a reload")
	closed := make(chan error)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		closed <- r.proxy.child.stop(ctx)
	}()
	wait(t, func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:80")
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	echo("while the proxy stops")
	_ = conn.Close()
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// A pod that refuses connections, because it has ended and its EndpointSlice does not
// say so yet, costs no request.
func TestRefusedConnectionsGoToAnotherPod(t *testing.T) {
	r := newRig(t, nil)
	p := newPod(t, "p", false, nil)
	table := tableOf(p)
	table.Backends[0].Servers = append(table.Backends[0].Servers, routing.Server{Address: netip.AddrPortFrom(address(t, false), 8080)})
	r.apply(table)
	l := startLoad(t, false)
	l.more(t, 300)
	l.end(t)
}

// A client that keeps a connection and asks again after a reload is answered, and then
// told to close: the old worker does not close what is idle under its hands.
func TestIdleConnectionIsAnsweredAfterReload(t *testing.T) {
	r := newRig(t, nil)
	p := newPod(t, "p", false, nil)
	r.apply(tableOf(p))
	var conns []net.Conn
	for range 20 {
		conn, err := net.Dial("tcp", "127.0.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		conns = append(conns, conn)
	}
	ask := func(conn net.Conn) (status int, last bool) {
		t.Helper()
		if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		reply, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal("no answer: ", err)
		}
		_, _ = io.Copy(io.Discard, reply.Body)
		return reply.StatusCode, reply.Close
	}
	for _, conn := range conns {
		if status, last := ask(conn); status != http.StatusOK || last {
			t.Fatal(status, last)
		}
	}
	old := int(r.proxy.Stats().PID)
	more := tableOf(p)
	more.Backends = append(more.Backends, backendOf("ns:t:80", p))
	r.apply(more)
	wait(t, func() bool {
		list, err := r.proxy.master().ask(context.Background(), "show proc")
		_, oldWorkers, _ := strings.Cut(list, "# old workers")
		return err == nil && strings.Contains(oldWorkers, fmt.Sprint(old))
	})
	for _, conn := range conns {
		if status, last := ask(conn); status != http.StatusOK || !last {
			t.Errorf("status %d, closes %v", status, last)
		}
	}
}
