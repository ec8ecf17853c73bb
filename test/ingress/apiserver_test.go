package ingress

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// inside is set in the process that runs in a network namespace of its own.
const inside = "VRKUBE_INGRESS_TEST_INSIDE"

// binaries is the environment's name for the directory of kube-apiserver.
const binaries = "VROUTER_KUBE_BINARIES"

func TestMain(m *testing.M) {
	if os.Getuid() != 0 || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func until(t *testing.T, what string, cond func() error) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// launch starts a program that ends with the test.
func launch(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, filepath.Base(args[0])+".log"))
	must(t, err)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		timer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // how it ends is the test's matter, where it is
		timer.Stop()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("%s: ...%s", args[0], text[max(0, len(text)-4000):])
		}
	})
	return cmd
}

const adminToken, userToken = "admin-token", "ingress-token"

// apiserver starts etcd and kube-apiserver and returns an administrator's client and
// a kubeconfig of User's.
func apiserver(t *testing.T, dir string) (kubernetes.Interface, string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	private := x509.MarshalPKCS1PrivateKey(key)
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	must(t, err)
	must(t, os.WriteFile(dir+"/sa.key", pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: private}), 0o600))
	must(t, os.WriteFile(dir+"/sa.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o600))
	must(t, os.WriteFile(dir+"/tokens.csv", []byte(adminToken+",admin,1,system:masters\n"+userToken+","+User+",2,\n"), 0o600))
	launch(t, dir, "etcd", "--data-dir", dir+"/etcd", "--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379", "--listen-peer-urls", "http://127.0.0.1:2380")
	launch(t, dir, filepath.Join(os.Getenv(binaries), "kube-apiserver"), "--etcd-servers=http://127.0.0.1:2379", "--service-cluster-ip-range=10.96.0.0/16", "--secure-port=6443", "--bind-address=127.0.0.1",
		"--advertise-address=192.0.2.10", "--cert-dir="+dir+"/certs", "--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+dir+"/sa.pub",
		"--service-account-signing-key-file="+dir+"/sa.key", "--token-auth-file="+dir+"/tokens.csv", "--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount", "--allow-privileged=true")
	admin, err := kubernetes.NewForConfig(&rest.Config{Host: "https://127.0.0.1:6443", BearerToken: adminToken, TLSClientConfig: rest.TLSClientConfig{Insecure: true}, QPS: 100, Burst: 200})
	must(t, err)
	until(t, "apiserver", func() error {
		_, err := admin.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(t.Context())
		return err
	})
	kubeconfig := dir + "/kubeconfig"
	must(t, os.WriteFile(kubeconfig, []byte(`{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],
"clusters":[{"name":"c","cluster":{"server":"https://127.0.0.1:6443","insecure-skip-tls-verify":true}}],"users":[{"name":"u","user":{"token":"`+userToken+`"}}]}`), 0o600))
	return admin, kubeconfig
}

// allow gives User the documented rules, and the one Secret by its name.
func allow(t *testing.T, admin kubernetes.Interface) {
	t.Helper()
	var role rbac.ClusterRole
	must(t, json.Unmarshal([]byte(Rules), &role))
	subjects := []rbac.Subject{{Kind: "User", Name: User, APIGroup: rbac.GroupName}}
	_, err := admin.RbacV1().ClusterRoles().Create(t.Context(), &role, meta.CreateOptions{})
	must(t, err)
	_, err = admin.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbac.ClusterRoleBinding{ObjectMeta: meta.ObjectMeta{Name: role.Name}, RoleRef: rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: role.Name}, Subjects: subjects}, meta.CreateOptions{})
	must(t, err)
	_, err = admin.RbacV1().Roles("default").Create(t.Context(), &rbac.Role{ObjectMeta: meta.ObjectMeta{Name: "cert"}, Rules: []rbac.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{"cert"}, Verbs: []string{"get", "list", "watch"}}}}, meta.CreateOptions{})
	must(t, err)
	_, err = admin.RbacV1().RoleBindings("default").Create(t.Context(), &rbac.RoleBinding{ObjectMeta: meta.ObjectMeta{Name: "cert"}, RoleRef: rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "Role", Name: "cert"}, Subjects: subjects}, meta.CreateOptions{})
	must(t, err)
}

func ask(url string, trusted *x509.CertPool) (string, error) {
	port := map[bool]string{false: "80", true: "443"}[strings.HasPrefix(url, "https")]
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: trusted},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:"+port)
		},
	}}
	reply, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(reply.Body)
	return fmt.Sprintf("%d %s", reply.StatusCode, body), err
}

// TestRealAPIServer runs the command with the documented RBAC and nothing else: an
// Ingress with TLS is served, its status is written, a conflict is an Event, the
// process is nobody special, and SIGTERM ends both it and its HAProxy.
func TestRealAPIServer(t *testing.T) {
	if os.Getenv(inside) == "" {
		t.Skip("SKIP-PRIVILEGED: a network namespace needs root")
	}
	if os.Getenv(binaries) == "" {
		t.Skipf("SKIP-TOOL: %s does not name a directory with kube-apiserver", binaries)
	}
	for _, tool := range []string{"etcd", "haproxy"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIP-TOOL: %s is not installed", tool)
		}
	}
	dir, err := os.MkdirTemp("", "vrki")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	link, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(link))
	for _, a := range []string{"10.7.0.1/32", "192.0.2.10/32"} {
		address, err := netlink.ParseAddr(a)
		must(t, err)
		must(t, netlink.AddrAdd(link, address))
	}
	pod, err := net.Listen("tcp", "10.7.0.1:8080")
	must(t, err)
	go func() {
		_ = http.Serve(pod, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "pod") }))
	}()
	t.Cleanup(func() { _ = pod.Close() })
	vrkube := dir + "/vrkube"
	build := exec.Command("go", "build", "-o", vrkube, "../../cmd/vrkube")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}

	admin, kubeconfig := apiserver(t, dir)
	allow(t, admin)
	trusted := objects(t, admin)
	state := dir + "/run"
	proxy := launch(t, dir, Command(vrkube, kubeconfig, state, "--publish-address", "192.0.2.10")...)

	until(t, "HTTPS", func() error {
		got, err := ask("https://a.test/x", trusted)
		if err == nil && got != "200 pod" {
			err = fmt.Errorf("%s", got)
		}
		return err
	})
	until(t, "status", func() error {
		ing, err := admin.NetworkingV1().Ingresses("default").Get(t.Context(), "first", meta.GetOptions{})
		if err == nil && (len(ing.Status.LoadBalancer.Ingress) != 1 || ing.Status.LoadBalancer.Ingress[0].IP != "192.0.2.10") {
			err = fmt.Errorf("%+v", ing.Status)
		}
		return err
	})
	until(t, "Event", func() error {
		list, err := admin.CoreV1().Events("default").List(t.Context(), meta.ListOptions{FieldSelector: "involvedObject.name=second,reason=Conflict"})
		if err == nil && len(list.Items) == 0 {
			err = fmt.Errorf("none")
		}
		return err
	})
	unprivileged(t, proxy.Process.Pid)

	must(t, proxy.Process.Signal(unix.SIGTERM))
	until(t, "the end", func() error {
		if conn, err := net.Dial("tcp", "127.0.0.1:80"); err == nil {
			_ = conn.Close()
			return fmt.Errorf("port 80 is open")
		}
		left, err := filepath.Glob(state + "/gen-*")
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%v are left", left)
		}
		return err
	})
}

// objects are an Ingress with all that it needs, and a second one that is too late.
func objects(t *testing.T, admin kubernetes.Interface) *x509.CertPool {
	t.Helper()
	ctx := t.Context()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"a.test"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	must(t, err)
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	_, err = admin.CoreV1().Secrets("default").Create(ctx, &core.Secret{ObjectMeta: meta.ObjectMeta{Name: "cert"}, Type: core.SecretTypeTLS,
		Data: map[string][]byte{core.TLSCertKey: chain, core.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})}}, meta.CreateOptions{})
	must(t, err)
	_, err = admin.NetworkingV1().IngressClasses().Create(ctx, &networking.IngressClass{ObjectMeta: meta.ObjectMeta{Name: "vrouter"}, Spec: networking.IngressClassSpec{Controller: "vrouter.io/ingress"}}, meta.CreateOptions{})
	must(t, err)
	_, err = admin.CoreV1().Services("default").Create(ctx, &core.Service{ObjectMeta: meta.ObjectMeta{Name: "web"}, Spec: core.ServiceSpec{Ports: []core.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}}}}, meta.CreateOptions{})
	must(t, err)
	name, port := "http", int32(8080)
	_, err = admin.DiscoveryV1().EndpointSlices("default").Create(ctx, &discovery.EndpointSlice{ObjectMeta: meta.ObjectMeta{Name: "web-1", Labels: map[string]string{discovery.LabelServiceName: "web"}},
		AddressType: discovery.AddressTypeIPv4, Ports: []discovery.EndpointPort{{Name: &name, Port: &port}}, Endpoints: []discovery.Endpoint{{Addresses: []string{"10.7.0.1"}}}}, meta.CreateOptions{})
	must(t, err)
	kind, class := networking.PathTypePrefix, "vrouter"
	for i, ing := range []string{"first", "second"} {
		spec := networking.IngressSpec{IngressClassName: &class, TLS: []networking.IngressTLS{{Hosts: []string{"a.test"}, SecretName: "cert"}}}
		spec.Rules = []networking.IngressRule{{Host: "a.test", IngressRuleValue: networking.IngressRuleValue{HTTP: &networking.HTTPIngressRuleValue{Paths: []networking.HTTPIngressPath{{
			Path: "/", PathType: &kind, Backend: networking.IngressBackend{Service: &networking.IngressServiceBackend{Name: []string{"web", "other"}[i], Port: networking.ServiceBackendPort{Name: "http"}}},
		}}}}}}
		_, err := admin.NetworkingV1().Ingresses("default").Create(ctx, &networking.Ingress{ObjectMeta: meta.ObjectMeta{Name: ing}, Spec: spec}, meta.CreateOptions{})
		must(t, err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(chain)
	return pool
}

// unprivileged says that a process and its children are no root, can bind low ports,
// and can gain nothing.
func unprivileged(t *testing.T, pid int) {
	t.Helper()
	seen := 0
	for pids := []int{pid}; len(pids) > 0; pids = pids[1:] {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pids[0]))
		must(t, err)
		seen++
		for _, want := range []string{"CapEff:\t0000000000000400", "CapPrm:\t0000000000000400", "CapBnd:\t0000000000000400", "NoNewPrivs:\t1"} {
			if !strings.Contains(string(status), want) {
				t.Errorf("process %d lacks %q:\n%s", pids[0], want, status)
			}
		}
		if strings.Contains(string(status), "Uid:\t0") {
			t.Errorf("process %d is root", pids[0])
		}
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[0]))
		must(t, err)
		for _, file := range tasks {
			text, err := os.ReadFile(file)
			must(t, err)
			for _, f := range strings.Fields(string(text)) {
				var child int
				if _, err := fmt.Sscan(f, &child); err == nil {
					pids = append(pids, child)
				}
			}
		}
	}
	if seen < 3 { // vrkube, the master, a worker
		t.Errorf("%d processes", seen)
	}
}
