//go:build linux

// Package control runs a real Kubernetes control plane in a network namespace: Debian's
// etcd, and kube-apiserver and kube-controller-manager as test/kube/binaries.sh builds
// them. It can be disturbed on purpose: the apiserver stops and starts, etcd stalls, and
// the history that watches need is compacted away.
package control

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/test/kube/process"
)

// Options say where a control plane runs and what it is told.
type Options struct {
	Namespace string     // network namespace; Address is configured there
	Dir       string     // files, keys and logs; made if need be, the caller removes it
	Binaries  string     // directory of kube-apiserver and kube-controller-manager
	Address   netip.Addr // of the apiserver, as nodes reach it
	Services  string     // service CIDRs, one of each family, separated by a comma
	Pods      string     // pod CIDRs, likewise
	Bare      bool       // etcd and the apiserver alone: no controllers, no service accounts
	Users     []string   // who has a token beside the administrator; their rights are RBAC's
}

// Admin is the user who may do everything.
const Admin = "admin"

// grace is how long a program may take to end.
const grace = 20 * time.Second

// patience is how long the control plane may take to start. An apiserver needs seven
// seconds of processor time for that, which a machine that others use gives it late.
const patience = 4 * time.Minute

// Plane is a control plane that runs. Its methods are for one goroutine, but for those
// that only read: Config, Client, Kubeconfig.
type Plane struct {
	o      Options
	tokens map[string]string
	client kubernetes.Interface

	etcd, apiserver, manager *process.Process // nil: does not run
}

// Start starts etcd, the apiserver and the controller manager, and returns when the
// apiserver is ready: some four seconds. The caller has to Close it.
func Start(ctx context.Context, o Options) (_ *Plane, err error) {
	p := &Plane{o: o, tokens: map[string]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if err := p.files(); err != nil {
		return nil, fmt.Errorf("control plane: %w", err)
	}
	if p.etcd, err = process.Start(o.Namespace, p.path("etcd.log"), nil, "etcd",
		"--data-dir", p.path("etcd"), "--listen-client-urls", etcdURL, "--advertise-client-urls", etcdURL,
		"--listen-peer-urls", "http://127.0.0.1:2380", "--unsafe-no-fsync"); err != nil {
		return nil, err
	}
	if err := p.StartAPIServer(ctx); err != nil {
		return nil, err
	}
	config, err := p.Config(Admin)
	if err != nil {
		return nil, err
	}
	if p.client, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	if o.Bare {
		return p, nil
	}
	kubeconfig, err := p.Kubeconfig(Admin)
	if err != nil {
		return nil, err
	}
	p.manager, err = process.Start(o.Namespace, p.path("kube-controller-manager.log"), nil,
		filepath.Join(o.Binaries, "kube-controller-manager"), "--kubeconfig", kubeconfig, "--leader-elect=false", "--secure-port=0",
		"--service-account-private-key-file", p.path("sa.key"), "--root-ca-file", p.path("pki/apiserver.crt"),
		"--cluster-cidr", o.Pods, "--service-cluster-ip-range", o.Services, "--allocate-node-cidrs=false",
		"--kube-api-qps=200", "--kube-api-burst=400", "--endpointslice-updates-batch-period=0s",
		// Nodes and their CIDRs are the test's; no pod is evicted while a test stops a node.
		"--controllers=*,-node-lifecycle-controller,-node-ipam-controller,-taint-eviction-controller")
	if err != nil {
		return nil, err
	}
	return p, p.defaultAccount(ctx)
}

const etcdURL = "http://127.0.0.1:2379" // in the namespace

func (p *Plane) path(name string) string { return filepath.Join(p.o.Dir, name) }

// files writes the keys and tokens that the programs are given.
func (p *Plane) files() error {
	if err := os.MkdirAll(p.path("pki"), 0o755); err != nil {
		return err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	private := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	var lines strings.Builder
	for _, user := range append([]string{Admin}, p.o.Users...) {
		p.tokens[user] = rand.Text()
		groups := ""
		if user == Admin {
			groups = `,"system:masters"`
		}
		fmt.Fprintf(&lines, "%s,%s,%[2]s%s\n", p.tokens[user], user, groups)
	}
	return errors.Join(
		os.WriteFile(p.path("sa.key"), private, 0o600),
		os.WriteFile(p.path("sa.pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o644),
		os.WriteFile(p.path("tokens.csv"), []byte(lines.String()), 0o600))
}

// Config returns how the calling process, which stands in another namespace, reaches
// the apiserver as a user. Its connections are not limited in rate.
func (p *Plane) Config(user string) (*rest.Config, error) {
	token, ok := p.tokens[user]
	if !ok {
		return nil, fmt.Errorf("control plane: no user %s: name it in Options.Users", user)
	}
	dial := func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = netns.Do(p.o.Namespace, func() error {
			var d net.Dialer
			conn, err = d.DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
	return &rest.Config{
		Host: p.URL(), BearerToken: token, QPS: -1, Dial: dial, UserAgent: user,
		TLSClientConfig: rest.TLSClientConfig{CAFile: p.path("pki/apiserver.crt")},
	}, nil
}

// URL returns where the apiserver is for nodes.
func (p *Plane) URL() string { return "https://" + netip.AddrPortFrom(p.o.Address, 6443).String() }

// Client returns the administrator's client.
func (p *Plane) Client() kubernetes.Interface { return p.client }

// Kubeconfig writes how a user's programs reach the apiserver and returns the file.
func (p *Plane) Kubeconfig(user string) (string, error) {
	token, ok := p.tokens[user]
	if !ok {
		return "", fmt.Errorf("control plane: no user %s: name it in Options.Users", user)
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["test"] = &clientcmdapi.Cluster{Server: p.URL(), CertificateAuthority: p.path("pki/apiserver.crt")}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{Token: token}
	config.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: user}
	config.CurrentContext = "test"
	file := p.path(strings.ReplaceAll(user, ":", "-") + ".kubeconfig")
	return file, clientcmd.WriteToFile(*config, file)
}

// Failed returns what to say where a program has ended that should run.
func (p *Plane) Failed() error {
	var failed error
	for _, program := range []*process.Process{p.etcd, p.apiserver, p.manager} {
		if program != nil {
			failed = errors.Join(failed, program.Failed())
		}
	}
	return failed
}

// Close ends the programs. What they wrote stays in Options.Dir.
func (p *Plane) Close() error {
	err := p.Failed()
	for _, program := range []**process.Process{&p.manager, &p.apiserver, &p.etcd} {
		if *program != nil {
			// Nobody reads what they would still write, so they need no time to end.
			err = errors.Join(err, (*program).Stop(syscall.SIGKILL, grace))
			*program = nil
		}
	}
	return err
}

// poll asks until the answer is no error, and says the last one when time is up.
func poll(ctx context.Context, limit time.Duration, what string, ask func(context.Context) error) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, limit, true, func(ctx context.Context) (bool, error) {
		last = ask(ctx)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("gave up after %v waiting: %s: %w", limit, what, last)
	}
	return nil
}
