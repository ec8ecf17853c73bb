package ingress

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/vrouter-go/vrouter/controller/ingress/haproxy"
	"github.com/vrouter-go/vrouter/controller/ingress/routing"
	"github.com/vrouter-go/vrouter/test/ownspace"
)

// TestMain gives the tests ports 80 and 443 and pods at any address.
func TestMain(m *testing.M) { ownspace.Main(m) }

func ptr[T any](v T) *T { return &v }

// cluster is a fake API server and pods in this namespace.
type cluster struct {
	t      *testing.T
	client *fake.Clientset
	done   chan error
	stop   context.CancelFunc
	socket string // of health and metrics
	log    *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs the controller with HAProxy on ports 80 and 443.
func start(t *testing.T, objects ...runtime.Object) *cluster {
	t.Helper()
	ownspace.Need(t)
	if _, err := exec.LookPath("haproxy"); err != nil {
		t.Skip("SKIP-TOOL: haproxy is not installed")
	}
	link, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "vrki")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c := &cluster{t: t, client: fake.NewClientset(objects...), done: make(chan error, 1), socket: dir + "/health.sock", log: &lockedBuffer{}}
	settings := haproxy.DefaultSettings()
	settings.Directory, settings.ReloadInterval, settings.MaxConnections = dir, 10*time.Millisecond, 1000
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	o := Options{
		Proxy: settings, Routing: routing.Options{Controller: DefaultController}, Address: "unix:" + c.socket,
		Publish:       Publish{Addresses: []string{"192.0.2.1"}, Service: &types.NamespacedName{Namespace: "ingress", Name: "front"}},
		ShutdownDelay: 300 * time.Millisecond, StopTimeout: 5 * time.Second,
		Log: slog.New(slog.NewTextHandler(c.log, nil)),
	}
	go func() { c.done <- Run(ctx, c.client, o) }()
	t.Cleanup(func() {
		stop()
		if err := <-c.done; err != nil {
			t.Error("run:", err)
		}
		if t.Failed() {
			t.Log(c.log)
		}
	})
	return c
}

var nextPod byte

// pod starts a web server that answers with its name, and returns its address.
func pod(t *testing.T, name string) netip.AddrPort {
	t.Helper()
	ownspace.Need(t)
	nextPod++
	a := netip.AddrFrom4([4]byte{10, 8, 0, nextPod})
	link, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)}})
	}
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", a.String()+":8080")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return netip.AddrPortFrom(a, 8080)
}

func class() *networking.IngressClass {
	return &networking.IngressClass{ObjectMeta: meta.ObjectMeta{Name: "vrouter"}, Spec: networking.IngressClassSpec{Controller: DefaultController}}
}

func service(name string) *core.Service {
	return &core.Service{ObjectMeta: meta.ObjectMeta{Namespace: "ns", Name: name}, Spec: core.ServiceSpec{Ports: []core.ServicePort{{Port: 80}}}}
}

func endpoints(service string, pods ...netip.AddrPort) *discovery.EndpointSlice {
	s := &discovery.EndpointSlice{
		ObjectMeta:  meta.ObjectMeta{Namespace: "ns", Name: service + "-1", Labels: map[string]string{discovery.LabelServiceName: service}},
		AddressType: discovery.AddressTypeIPv4, Ports: []discovery.EndpointPort{{Port: ptr(int32(8080))}},
	}
	for _, p := range pods {
		s.Endpoints = append(s.Endpoints, discovery.Endpoint{Addresses: []string{p.Addr().String()}})
	}
	return s
}

func ingress(name string, age int64, host, path, service string) *networking.Ingress {
	ing := &networking.Ingress{ObjectMeta: meta.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), CreationTimestamp: meta.NewTime(time.Unix(1000-age, 0))}}
	ing.Spec.IngressClassName = ptr("vrouter")
	ing.Spec.Rules = []networking.IngressRule{{Host: host, IngressRuleValue: networking.IngressRuleValue{HTTP: &networking.HTTPIngressRuleValue{Paths: []networking.HTTPIngressPath{{
		Path: path, PathType: ptr(networking.PathTypePrefix),
		Backend: networking.IngressBackend{Service: &networking.IngressServiceBackend{Name: service, Port: networking.ServiceBackendPort{Number: 80}}},
	}}}}}}
	return ing
}

// secret is a Secret for a host, and the pool that trusts it.
func secret(t *testing.T, name, version, host string) (*core.Secret, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{host}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(chain)
	return &core.Secret{
		ObjectMeta: meta.ObjectMeta{Namespace: "ns", Name: name, ResourceVersion: version}, Type: core.SecretTypeTLS,
		Data: map[string][]byte{core.TLSCertKey: chain, core.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})},
	}, pool
}

// ask sends a request and returns what came, or the error.
func ask(url string, trusted *x509.CertPool) string {
	port := "80"
	if strings.HasPrefix(url, "https") {
		port = "443"
	}
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: trusted},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:"+port)
		},
	}}
	reply, err := c.Get(url)
	if err != nil {
		return err.Error()
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(reply.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", reply.StatusCode, body)
}

func (c *cluster) want(url string, trusted *x509.CertPool, prefix string) {
	c.t.Helper()
	var got string
	c.wait(func() bool { got = ask(url, trusted); return strings.HasPrefix(got, prefix) }, func() string { return fmt.Sprintf("%s: %q, want %q", url, got, prefix) })
}

func (c *cluster) wait(cond func() bool, why func() string) {
	c.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatal(why())
		}
	}
}

// health asks the controller's own socket.
func (c *cluster) health(path string) string {
	h := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", c.socket)
	}}}
	reply, err := h.Get("http://x" + path)
	if err != nil {
		return err.Error()
	}
	defer reply.Body.Close()
	body, _ := io.ReadAll(reply.Body) // an error shows in what is missing
	return fmt.Sprintf("%d %s", reply.StatusCode, body)
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestServesACluster walks through the life of an Ingress.
func TestServesACluster(t *testing.T) {
	one, two := pod(t, "one"), pod(t, "two")
	first, trustFirst := secret(t, "cert", "1", "a.test")
	ing := ingress("i", 9, "a.test", "/", "web")
	ing.Spec.TLS = []networking.IngressTLS{{Hosts: []string{"a.test"}, SecretName: "cert"}}
	c := start(t, class(), service("web"), endpoints("web", one), first, ing)
	ctx := t.Context()
	c.want("http://a.test/", nil, "200 one")
	c.want("https://a.test/", trustFirst, "200 one")
	c.want("http://b.test/", nil, "404 ")

	// Endpoints: without a reload.
	must[*discovery.EndpointSlice](t)(c.client.DiscoveryV1().EndpointSlices("ns").Update(ctx, endpoints("web", two), meta.UpdateOptions{}))
	c.want("http://a.test/", nil, "200 two")
	if metrics := c.health("/metrics"); !strings.Contains(metrics, "vrkube_ingress_haproxy_reloads_total 0") || !strings.Contains(metrics, "vrkube_ingress_haproxy_starts_total 1") {
		t.Error("an endpoint cost a reload:", metrics)
	}

	// A certificate is replaced.
	second, trustSecond := secret(t, "cert", "2", "a.test")
	must[*core.Secret](t)(c.client.CoreV1().Secrets("ns").Update(ctx, second, meta.UpdateOptions{}))
	c.want("https://a.test/", trustSecond, "200 two")

	// Another Ingress, its Service and its endpoints come in the wrong order; one
	// that wants the same host and path learns that it is too late.
	must[*networking.Ingress](t)(c.client.NetworkingV1().Ingresses("ns").Create(ctx, ingress("j", 5, "b.test", "/x", "late"), meta.CreateOptions{}))
	c.want("http://b.test/x", nil, "503 ")
	must[*discovery.EndpointSlice](t)(c.client.DiscoveryV1().EndpointSlices("ns").Create(ctx, endpoints("late", one), meta.CreateOptions{}))
	must[*core.Service](t)(c.client.CoreV1().Services("ns").Create(ctx, service("late"), meta.CreateOptions{}))
	c.want("http://b.test/x/y", nil, "200 one")
	c.want("http://b.test/xy", nil, "404 ")
	must[*networking.Ingress](t)(c.client.NetworkingV1().Ingresses("ns").Create(ctx, ingress("k", 1, "b.test", "/x/", "web"), meta.CreateOptions{}))
	c.wait(func() bool {
		list, err := c.client.CoreV1().Events("ns").List(ctx, meta.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Items {
			if e.InvolvedObject.Name == "k" && e.Reason == "Conflict" && strings.Contains(e.Message, "ns/j") {
				return true
			}
		}
		return false
	}, func() string { return "no Event about the conflict" })
	c.want("http://b.test/x", nil, "200 one")

	// Deleting the older gives way to the younger.
	if err := c.client.NetworkingV1().Ingresses("ns").Delete(ctx, "j", meta.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.want("http://b.test/x", nil, "200 two")

	if got := c.health("/readyz"); !strings.HasPrefix(got, "200") {
		t.Error("ready:", got)
	}
	if got := c.health("/metrics/haproxy"); !strings.Contains(got, "haproxy_frontend_http_requests_total") {
		t.Error("HAProxy's metrics:", got)
	}

	// The end: it serves, not ready, for a moment, and then no more.
	c.stop()
	c.wait(func() bool { return strings.HasPrefix(c.health("/readyz"), "503 stopping") }, func() string { return "ready while it stops" })
	if got := ask("http://a.test/", nil); got != "200 two" {
		t.Error("while it stops:", got)
	}
	err := <-c.done
	c.done <- err
	if got := ask("http://a.test/", nil); !strings.Contains(got, "refused") {
		t.Error("after it stopped:", got)
	}
}

// Only Secrets that Ingresses name are asked for, each by its name.
func TestAsksForNamedSecretsOnly(t *testing.T) {
	s, trusted := secret(t, "cert", "1", "a.test")
	ing := ingress("i", 0, "a.test", "/", "web")
	ing.Spec.TLS = []networking.IngressTLS{{SecretName: "cert"}}
	c := start(t, class(), service("web"), s, ing)
	c.want("https://a.test/", trusted, "503 ")
	seen := 0
	for _, a := range c.client.Actions() {
		if a.GetResource().Resource != "secrets" {
			continue
		}
		seen++
		if text := fmt.Sprintf("%+v", a); a.GetNamespace() != "ns" || !strings.Contains(text, "metadata.name=cert") {
			t.Errorf("%s of %s: %s", a.GetVerb(), a.GetResource().Resource, text)
		}
	}
	if seen == 0 {
		t.Error("no Secret was asked for")
	}
}

// The status says the addresses, is written once, and again when they change.
func TestStatus(t *testing.T) {
	foreign := ingress("foreign", 0, "f.test", "/", "web")
	foreign.Spec.IngressClassName = ptr("nginx")
	c := start(t, class(), ingress("i", 0, "a.test", "/", "web"), foreign)
	says := func(name string, want ...string) bool {
		ing, err := c.client.NetworkingV1().Ingresses("ns").Get(t.Context(), name, meta.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range ing.Status.LoadBalancer.Ingress {
			got = append(got, a.IP+a.Hostname)
		}
		return strings.Join(got, " ") == strings.Join(want, " ")
	}
	c.wait(func() bool { return says("i", "192.0.2.1") }, func() string { return "no status" })
	// Changes that are none of the status's leave it alone.
	for i := range 5 {
		must[*core.Service](t)(c.client.CoreV1().Services("ns").Create(t.Context(), service(fmt.Sprintf("s%d", i)), meta.CreateOptions{}))
		must[*networking.Ingress](t)(c.client.NetworkingV1().Ingresses("ns").Create(t.Context(), ingress(fmt.Sprintf("i%d", i), 0, fmt.Sprintf("h%d.test", i), "/", "s"), meta.CreateOptions{}))
		c.wait(func() bool { return says(fmt.Sprintf("i%d", i), "192.0.2.1") }, func() string { return "no status of a new one" })
	}
	patches := 0
	for _, a := range c.client.Actions() {
		if a.GetVerb() == "patch" && a.GetResource().Resource == "ingresses" {
			patches++
		}
	}
	if patches != 6 || !says("foreign") {
		t.Error(patches, "writes for 6 Ingresses, or one of another class was written")
	}
	front := &core.Service{ObjectMeta: meta.ObjectMeta{Namespace: "ingress", Name: "front"}}
	front.Status.LoadBalancer.Ingress = []core.LoadBalancerIngress{{Hostname: "lb.test"}, {IP: "2001:db8::1"}, {IP: "192.0.2.1"}}
	must[*core.Service](t)(c.client.CoreV1().Services("ingress").Create(t.Context(), front, meta.CreateOptions{}))
	c.wait(func() bool { return says("i", "192.0.2.1", "2001:db8::1", "lb.test") }, func() string { return "the Service's addresses are not in the status" })
}
