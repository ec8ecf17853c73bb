//go:build linux && kube

package kube_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/vrouter-go/vrouter/test/kube/cluster"
	"github.com/vrouter-go/vrouter/test/kube/control"
	"github.com/vrouter-go/vrouter/test/kube/probe"
)

// ingressName is the name of the chart's Deployment, Service and ServiceAccount.
const ingressName = "vrouter-ingress"

// ingressWorld is a cluster with the chart's Ingress controller.
type ingressWorld struct {
	*world
	dir     string // with a directory for each node's HAProxy
	trusted *x509.CertPool
}

// TestIngress runs the chart's Ingress controller as pods of a cluster, with the rights that
// the chart gives and no others. It finds the apiserver by its Service and is reached from
// outside by a load balancer's address, node ports and host ports.
func TestIngress(t *testing.T) {
	t.Parallel()
	need(t, "haproxy")
	w := &ingressWorld{world: in(t, newCluster(t, cluster.Options{Dataplane: cluster.VRouter}), "shop"), dir: filepath.Join(work, "haproxy")}
	for _, app := range []string{"web", "api"} {
		w.deploy(app, map[string]int32{"web": 2, "api": 1}[app], podSpec(""))
		w.expose(app, corev1.ServiceTypeClusterIP, map[string]string{"app": app}, func(s *corev1.Service) {
			s.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("web")}}
		})
	}
	w.certificate()
	w.install()
	w.rules("first", "web")
	w.rules("second", "api") // the same paths: too late
	w.deployed("web")
	w.deployed("api")
	for _, step := range []struct {
		name string
		take func()
	}{{"routes", w.routes}, {"ways in", w.waysIn}, {"status", w.status}, {"unprivileged", w.unprivileged}, {"pods change", w.podsChange}, {"end", w.end}} {
		t.Log(step.name)
		step.take()
	}
}

// certificate makes the Secret of host a.test.
func (w *ingressWorld) certificate() {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"a.test"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	w.must(err)
	private, err := x509.MarshalECPrivateKey(key)
	w.must(err)
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	w.trusted = x509.NewCertPool()
	w.trusted.AppendCertsFromPEM(chain)
	_, err = w.Client().CoreV1().Secrets(w.namespace).Create(w.t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "cert"}, Type: corev1.SecretTypeTLS, Data: map[string][]byte{
		corev1.TLSCertKey: chain, corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}),
	}}, metav1.CreateOptions{})
	w.must(err)
}

// install installs what the chart renders, and plays the load balancer outside.
func (w *ingressWorld) install() {
	w.t.Helper()
	objects := parse(w.t, render(w.t, "-templates", "ingress", "-set", "ingress.enabled=true,ingress.hostPorts=true",
		"-set", "ingress.secrets[0].namespace="+w.namespace+",ingress.secrets[0].names[0]=cert"))
	var deployment *unstructured.Unstructured
	objects = slices.DeleteFunc(objects, func(o *unstructured.Unstructured) bool {
		if o.GetKind() == "Deployment" {
			deployment = o
		}
		return o.GetKind() == "Deployment"
	})
	server := newAPIServer(w.t, w.Plane)
	server.create(w.t, metav1.CreateOptions{}, append([]*unstructured.Unstructured{namespace(release)}, objects...))
	d := &appsv1.Deployment{}
	w.must(runtime.DefaultUnstructuredConverter.FromUnstructured(deployment.Object, d))
	w.local(&d.Spec.Template.Spec.Containers[0])
	w.must(os.MkdirAll(w.dir, 0o755))
	_, err := w.Client().AppsV1().Deployments(release).Create(w.t.Context(), d, metav1.CreateOptions{})
	w.must(err)
	service := w.service()
	service.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.80"}, {IP: "2001:db8:113::80"}}
	_, err = w.Client().CoreV1().Services(release).UpdateStatus(w.t.Context(), service, metav1.UpdateOptions{})
	w.must(err)
	(&world{Cluster: w.Cluster, t: w.t, namespace: release}).deployed(ingressName)
}

// local makes the image's command one of this machine: it has no volumes and no mounted
// token, and shares the directory of temporary files with those of other nodes.
func (w *ingressWorld) local(c *corev1.Container) {
	w.t.Helper()
	c.Args = append([]string{c.Command[1]}, c.Args...)
	c.Args = append(c.Args, "--kubeconfig", w.kubeconfig(), "--reload-interval", "50ms", "--shutdown-delay", "200ms", "--stop-timeout", "5s", "--max-connections", "1000")
	c.Command = []string{"sh", "-ec", fmt.Sprintf(`exec "$@" --directory %q/$NODE_NAME`, w.dir), "sh", filepath.Join(work, "bin", "vrkube")}
	c.ReadinessProbe.PeriodSeconds = 1
}

// kubeconfig writes how the controller reaches the apiserver: by its Service, with a token
// of the chart's ServiceAccount.
func (w *ingressWorld) kubeconfig() string {
	w.t.Helper()
	token, err := w.Client().CoreV1().ServiceAccounts(release).CreateToken(w.t.Context(), ingressName, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	w.must(err)
	apiserver, err := w.Client().CoreV1().Services("default").Get(w.t.Context(), "kubernetes", metav1.GetOptions{})
	w.must(err)
	admin, err := w.Config(control.Admin)
	w.must(err)
	trusted, err := os.ReadFile(admin.CAFile)
	w.must(err)
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: "https://" + apiserver.Spec.ClusterIP, CertificateAuthorityData: trusted}
	config.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	config.Contexts["c"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	config.CurrentContext = "c"
	file := filepath.Join(work, "ingress.kubeconfig")
	w.must(clientcmd.WriteToFile(*config, file))
	return file
}

// rules makes an Ingress with two hosts, one of them with TLS. Of two that say the same the
// older wins, and of two of one second that whose name is first.
func (w *ingressWorld) rules(name, root string) {
	w.t.Helper()
	path := func(kind networkingv1.PathType, path, service string) networkingv1.HTTPIngressPath {
		return networkingv1.HTTPIngressPath{PathType: &kind, Path: path, Backend: networkingv1.IngressBackend{
			Service: &networkingv1.IngressServiceBackend{Name: service, Port: networkingv1.ServiceBackendPort{Name: "http"}},
		}}
	}
	rule := func(host string, paths ...networkingv1.HTTPIngressPath) networkingv1.IngressRule {
		return networkingv1.IngressRule{Host: host, IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{Paths: paths}}}
	}
	class := "vrouter"
	_, err := w.Client().NetworkingV1().Ingresses(w.namespace).Create(w.t.Context(), &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.IngressSpec{
		IngressClassName: &class, TLS: []networkingv1.IngressTLS{{Hosts: []string{"a.test"}, SecretName: "cert"}},
		Rules: []networkingv1.IngressRule{
			rule("a.test", path(networkingv1.PathTypePrefix, "/", root), path(networkingv1.PathTypeExact, "/exact", "api")),
			rule("b.test", path(networkingv1.PathTypePrefix, "/api", "api")),
		},
	}}, metav1.CreateOptions{})
	w.must(err)
}

func (w *ingressWorld) service() *corev1.Service {
	w.t.Helper()
	s, err := w.Client().CoreV1().Services(release).Get(w.t.Context(), ingressName, metav1.GetOptions{})
	w.must(err)
	return s
}

// pods returns the pods of the controller.
func (w *ingressWorld) pods() []corev1.Pod {
	w.t.Helper()
	list, err := w.Client().CoreV1().Pods(release).List(w.t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=ingress"})
	w.must(err)
	return list.Items
}

// answer is what came of a request: the status, who answered, and whose request the proxy
// said it was.
type answer struct {
	status      int
	server, who string
}

// get asks for a URL at an address, whatever its host is.
func get(namespace string, at netip.AddrPort, url string, trusted *x509.CertPool) (answer, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: trusted},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return probe.Dial(ctx, namespace, "tcp", at) },
	}}
	reply, err := client.Get(url)
	if err != nil {
		return answer{}, err
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(reply.Body)
	server, _, _ := strings.Cut(string(body), " ")
	return answer{status: reply.StatusCode, server: server, who: reply.Header.Get("Seen-Forwarded-For")}, err
}

// answers waits until all of an app's pods and no others answer a URL, and those outside are
// told to them by their own address. app "": 404.
func (w *ingressWorld) answers(at netip.AddrPort, url, app string) {
	w.t.Helper()
	outside := w.OutsideAddresses()[boolean(at.Addr().Is6())].String()
	w.until(fmt.Sprintf("%s at %v is answered by %q", url, at, app), func(context.Context) error {
		want, got := map[string]bool{}, map[string]bool{}
		if app != "" {
			for _, name := range w.names(app) {
				want[name] = true
			}
		}
		for range max(1, 10*len(want)) {
			a, err := get(w.Outside(), at, url, w.trusted)
			switch {
			case err != nil:
				return err
			case app == "" && a.status == http.StatusNotFound:
				continue
			case a.status != http.StatusOK, a.who != outside:
				return fmt.Errorf("%+v; want 200, and it said to be of %s", a, outside)
			}
			got[a.server] = true
		}
		if !maps.Equal(got, want) {
			return fmt.Errorf("by %v; want %v", got, want)
		}
		return nil
	})
}

// routes: hosts, exact paths and prefixes, by the load balancer's address.
func (w *ingressWorld) routes() {
	for _, balancer := range w.service().Status.LoadBalancer.Ingress {
		at := netip.AddrPortFrom(netip.MustParseAddr(balancer.IP), 80)
		for url, app := range map[string]string{
			"http://a.test/": "web", "http://a.test/exact": "api", "http://a.test/exact/": "web", "http://a.test/exactly": "web",
			"http://b.test/api": "api", "http://b.test/api/v1": "api", "http://b.test/apis": "", "http://b.test/": "", "http://c.test/": "",
		} {
			w.answers(at, url, app)
		}
		w.answers(netip.AddrPortFrom(at.Addr(), 443), "https://a.test/x", "web")
		if _, err := get(w.Outside(), netip.AddrPortFrom(at.Addr(), 443), "https://b.test/api", w.trusted); err == nil {
			w.t.Error("host b.test, which has no certificate, is served with TLS")
		}
	}
}

// waysIn: every node's port and host port lead to its own pod of the controller.
func (w *ingressWorld) waysIn() {
	for _, n := range w.Nodes {
		for _, p := range w.service().Spec.Ports {
			url := map[int32]string{80: "http://a.test/", 443: "https://a.test/"}[p.Port]
			for _, a := range n.Addresses {
				w.answers(netip.AddrPortFrom(a, uint16(p.NodePort)), url, "web")
				w.answers(netip.AddrPortFrom(a, uint16(p.Port)), url, "web")
			}
		}
	}
}

// status: the Ingress tells where it is served, and the one that is too late why it is not.
func (w *ingressWorld) status() {
	w.until("the status has the load balancer's addresses", func(ctx context.Context) error {
		ing, err := w.Client().NetworkingV1().Ingresses(w.namespace).Get(ctx, "first", metav1.GetOptions{})
		if err != nil {
			return err
		}
		var got []string
		for _, i := range ing.Status.LoadBalancer.Ingress {
			got = append(got, i.IP)
		}
		if slices.Sort(got); !slices.Equal(got, []string{"2001:db8:113::80", "203.0.113.80"}) {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	w.until("the second Ingress has an Event", func(ctx context.Context) error {
		list, err := w.Client().CoreV1().Events(w.namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=second,reason=Conflict"})
		if err == nil && len(list.Items) == 0 {
			err = fmt.Errorf("none")
		}
		return err
	})
}

// unprivileged: the controller and its HAProxy are no root, may bind low ports, and can gain
// nothing.
func (w *ingressWorld) unprivileged() {
	for _, pod := range w.pods() {
		ns, err := w.PodNetwork(w.t.Context(), release, pod.Name)
		w.must(err)
		out, err := exec.Command("ip", "netns", "pids", ns).Output()
		w.must(err)
		pids := strings.Fields(string(out))
		if len(pids) < 3 { // vrkube, the master, a worker
			w.t.Errorf("%s has the processes %v", pod.Name, pids)
		}
		for _, pid := range pids {
			status, err := os.ReadFile("/proc/" + pid + "/status")
			w.must(err)
			for _, want := range []string{"CapEff:\t0000000000000400", "CapPrm:\t0000000000000400", "CapBnd:\t0000000000000400", "NoNewPrivs:\t1"} {
				if !strings.Contains(string(status), want) {
					w.t.Errorf("process %s of %s lacks %q:\n%s", pid, pod.Name, want, status)
				}
			}
			if strings.Contains(string(status), "Uid:\t0") {
				w.t.Errorf("process %s of %s is root", pid, pod.Name)
			}
		}
	}
}

// metric returns a metric of the controller on each node.
func (w *ingressWorld) metric(name string) map[string]string {
	w.t.Helper()
	values := map[string]string{}
	for _, pod := range w.pods() {
		reply, err := get(w.Nodes[0].Namespace, podAt(&pod, 9472)[0], "http://"+pod.Name+"/readyz", nil)
		w.must(err)
		if reply.status != http.StatusOK {
			w.t.Errorf("%s: /readyz answers %d", pod.Name, reply.status)
		}
		values[pod.Spec.NodeName] = "none"
		client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return probe.Dial(ctx, w.Nodes[0].Namespace, "tcp", podAt(&pod, 9472)[0])
		}}}
		answer, err := client.Get("http://" + pod.Name + "/metrics")
		w.must(err)
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		w.must(err)
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, name+" "); ok {
				values[pod.Spec.NodeName] = strings.TrimSpace(value)
			}
		}
	}
	return values
}

// podsChange: pods come and go without a reload of HAProxy and without a request that fails.
func (w *ingressWorld) podsChange() {
	const reloads = "vrkube_ingress_haproxy_reloads_total"
	before := w.metric(reloads)
	if len(before) != 2 || slices.Contains(slices.Collect(maps.Values(before)), "none") {
		w.t.Fatalf("%s by node: %v", reloads, before)
	}
	at := netip.AddrPortFrom(netip.MustParseAddr("203.0.113.80"), 80)
	stop, over := make(chan struct{}), make(chan []string)
	go func() {
		var failures []string
		for {
			select {
			case <-stop:
				over <- failures
				return
			default:
			}
			if a, err := get(w.Outside(), at, "http://a.test/", nil); err != nil || a.status != http.StatusOK {
				failures = append(failures, fmt.Sprint(a, " ", err))
			}
		}
	}()
	for _, replicas := range []int{4, 1, 2} {
		w.scale("web", replicas)
		w.answers(at, "http://a.test/", "web")
		w.answers(netip.AddrPortFrom(w.Nodes[1].Addresses[0], 80), "http://a.test/", "web")
	}
	close(stop)
	if failures := <-over; len(failures) > 0 {
		w.t.Errorf("%d requests failed: %v", len(failures), failures[:min(3, len(failures))])
	}
	if after := w.metric(reloads); !maps.Equal(before, after) {
		w.t.Errorf("%s by node: %v; it was %v", reloads, after, before)
	}
}

// end: pods of the controller that end take what they wrote with them, keys before all.
func (w *ingressWorld) end() {
	held, err := filepath.Glob(w.dir + "/*/gen-*")
	w.must(err)
	if len(held) == 0 {
		w.t.Errorf("no files of HAProxy in %s", w.dir)
	}
	w.must(w.Client().AppsV1().Deployments(release).Delete(w.t.Context(), ingressName, metav1.DeleteOptions{}))
	w.until("nothing is left", func(context.Context) error {
		left, err := filepath.Glob(w.dir + "/*/gen-*")
		if pods := w.pods(); err == nil && len(left)+len(pods) > 0 {
			err = fmt.Errorf("%v, %d pods", left, len(pods))
		}
		return err
	})
}
