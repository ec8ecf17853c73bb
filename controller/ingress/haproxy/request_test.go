package haproxy

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/vrouter-go/vrouter/controller/ingress/routing"
)

// client reaches the proxy whatever the URL's host and port, and follows no redirect.
func client(port string) *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:"+port)
			},
		},
	}
}

func get(t *testing.T, url string, header http.Header) (*http.Response, string) {
	t.Helper()
	port := "80"
	if strings.HasPrefix(url, "https") {
		port = "443"
	}
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		request.Header = header
	}
	reply, err := client(port).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply, string(body)
}

// What clients say of themselves reaches pods only through proxies that are trusted.
func TestForwardedHeaders(t *testing.T) {
	lies := http.Header{"X-Forwarded-For": {"6.6.6.6"}, "X-Forwarded-Proto": {"gopher"}, "X-Forwarded-Host": {"evil"}, "X-Real-Ip": {"6.6.6.6"}, "Forwarded": {"for=6.6.6.6"}}
	for _, trusted := range []bool{false, true} {
		r := newRig(t, func(s *Settings) {
			if trusted {
				s.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
			}
		})
		p := newPod(t, "p", false, nil)
		table := tableOf(p)
		table.Certificates = []routing.Certificate{certificate(t, "aa", ecKey(t), "a.test")}
		r.apply(table)
		_, body := get(t, "http://a.test/x?y=1", lies.Clone())
		if trusted != strings.Contains(body, "6.6.6.6") || trusted != strings.Contains(body, "gopher") || trusted != strings.Contains(body, "evil") {
			t.Errorf("trusted %v:\n%s", trusted, body)
		}
		if !strings.Contains(body, "127.0.0.1") || !strings.Contains(body, "GET /x?y=1") {
			t.Errorf("trusted %v:\n%s", trusted, body)
		}
		reply, body := get(t, "https://a.test/", nil)
		for _, want := range []string{"X-Forwarded-Proto: https", "X-Forwarded-Host: a.test", "X-Forwarded-Port: 443", "X-Forwarded-For: 127.0.0.1"} {
			if !strings.Contains(body, want) {
				t.Errorf("no %q in:\n%s", want, body)
			}
		}
		if reply.Proto != "HTTP/2.0" {
			t.Error("over TLS:", reply.Proto)
		}
		if err := r.proxy.child.stop(t.Context()); err != nil { // the next has the ports
			t.Error(err)
		}
	}
}

func TestRedirectToHTTPS(t *testing.T) {
	r := newRig(t, nil)
	p := newPod(t, "p", false, nil)
	table := tableOf(p)
	table.Routes[0].RedirectTLS = true
	table.Routes = append(table.Routes,
		routing.Route{Kind: routing.Prefix, Host: "a.test", Path: "/plain", Backend: "ns:s:80"},
		routing.Route{Kind: routing.Prefix, Host: "*.a.test", Backend: "ns:s:80", RedirectTLS: true})
	table.Certificates = []routing.Certificate{certificate(t, "aa", ecKey(t), "a.test")}
	r.apply(table)
	for url, want := range map[string]string{
		"http://a.test/x?y=%2F": "https://a.test/x?y=%2F", "http://A.test:8080//evil.test/": "https://a.test//evil.test/", "http://x.a.test/": "https://x.a.test/",
		"http://a.test/plain/x": "", "https://a.test/x": "",
	} {
		reply, _ := get(t, url, nil)
		status := http.StatusPermanentRedirect
		if want == "" {
			status = http.StatusOK
		}
		if got := reply.Header.Get("Location"); got != want || reply.StatusCode != status {
			t.Errorf("%s: %d to %q, want %d to %q", url, reply.StatusCode, got, status, want)
		}
	}
}

// Which failure a client sees: 404 where nothing is said, 503 where pods are missing.
func TestNothingToAnswer(t *testing.T) {
	r := newRig(t, nil)
	p := newPod(t, "p", false, nil)
	table := tableOf()
	table.Routes = append(table.Routes, routing.Route{Kind: routing.Exact, Host: "a.test", Path: "/none", Backend: routing.NoEndpoints})
	r.apply(table)
	check := func(path string, want int) {
		t.Helper()
		if status, _ := raw(t, "a.test", path); status != want {
			t.Errorf("%s: %d, want %d", path, status, want)
		}
	}
	check("/", http.StatusServiceUnavailable)
	check("/none", http.StatusServiceUnavailable)
	if status, _ := raw(t, "b.test", "/"); status != http.StatusNotFound {
		t.Error("another host:", status)
	}
	table.Backends = tableOf(p).Backends
	r.apply(table)
	check("/", http.StatusOK)
	table.Backends = tableOf().Backends
	r.apply(table)
	check("/", http.StatusServiceUnavailable)
	if s := r.proxy.Stats(); s.Reloads != 0 {
		t.Errorf("%+v", s)
	}
}

func TestPodsThatSpeakHTTP2(t *testing.T) {
	r := newRig(t, nil)
	p := newPod(t, "p", true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }))
	q := newPod(t, "q", false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }))
	for _, http2 := range []bool{false, true} {
		for _, pod := range []*pod{p, q} { // the second comes through the runtime socket
			table := tableOf(pod)
			table.Backends[0].HTTP2 = http2
			r.apply(table)
			want := map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[http2]
			if _, body := get(t, "http://a.test/", nil); body != want {
				t.Errorf("the pod saw %s, want %s", body, want)
			}
		}
	}
}

func TestListensOnBothFamilies(t *testing.T) {
	r := newRig(t, nil)
	r.apply(tableOf())
	for _, address := range []string{"127.0.0.1:80", "[::1]:80", "127.0.0.1:443", "[::1]:443"} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Error(err)
			continue
		}
		_ = conn.Close()
	}
}

func TestSecondProxyInADirectoryIsRefused(t *testing.T) {
	r := newRig(t, nil)
	r.apply(tableOf())
	if _, err := New(r.proxy.settings, r.proxy.log); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Error(err)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	for name, change := range map[string]func(*Settings){
		"relative directory": func(s *Settings) { s.Directory = "run" },
		"long directory":     func(s *Settings) { s.Directory = "/" + strings.Repeat("d", 60) },
		"directory's bytes":  func(s *Settings) { s.Directory = "/run/a b" },
		"no port":            func(s *Settings) { s.HTTP = []string{"127.0.0.1"} },
		"port of two lines":  func(s *Settings) { s.HTTP = []string{":80\nbind :81"} },
		"host is a name":     func(s *Settings) { s.HTTPS = []string{"localhost:443"} },
		"nothing to listen":  func(s *Settings) { s.HTTP, s.HTTPS = nil, nil },
		"negative threads":   func(s *Settings) { s.Threads = -1 },
		"timeout of nothing": func(s *Settings) { s.Timeouts.Tunnel = 0 },
	} {
		s := DefaultSettings()
		s.Directory = t.TempDir()
		if len(s.Directory) > maxDirectory {
			s.Directory = "/tmp/vrki-unused"
		}
		change(&s)
		if _, err := New(s, nil); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
