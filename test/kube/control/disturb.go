//go:build linux

package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/vrouter-go/vrouter/test/kube/process"
)

// StartAPIServer starts the apiserver and waits until it is ready.
func (p *Plane) StartAPIServer(ctx context.Context) error {
	if p.apiserver != nil {
		return errors.New("control plane: the apiserver runs already")
	}
	server, err := process.Start(p.o.Namespace, p.path("kube-apiserver.log"), nil, filepath.Join(p.o.Binaries, "kube-apiserver"),
		"--etcd-servers", etcdURL, "--service-cluster-ip-range", p.o.Services, "--secure-port=6443", "--bind-address", p.o.Address.String(),
		"--advertise-address", p.o.Address.String(), "--cert-dir", p.path("pki"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file", p.path("sa.pub"),
		"--service-account-signing-key-file", p.path("sa.key"), "--token-auth-file", p.path("tokens.csv"), "--authorization-mode=RBAC",
		"--disable-admission-plugins=ServiceAccount", "--allow-privileged=true",
		// Who watches is sent away when the apiserver ends, and does not hold it up.
		"--shutdown-watch-termination-grace-period=2s")
	if err != nil {
		return err
	}
	p.apiserver = server
	return poll(ctx, patience, "the apiserver is ready", func(ctx context.Context) error {
		if err := errors.Join(p.etcd.Failed(), server.Failed()); err != nil {
			return err
		}
		return p.ready(ctx)
	})
}

// ready asks /readyz.
func (p *Plane) ready(ctx context.Context) error {
	config, err := p.Config(Admin)
	if err != nil {
		return err
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	return ask(ctx, client, http.MethodGet, config.Host+"/readyz", nil, nil)
}

// StopAPIServer ends the apiserver by a signal: SIGTERM lets it say farewell to those who
// watch, SIGKILL does not.
func (p *Plane) StopAPIServer(signal syscall.Signal) error {
	if p.apiserver == nil {
		return errors.New("control plane: the apiserver does not run")
	}
	server := p.apiserver
	p.apiserver = nil
	return server.Stop(signal, grace)
}

// StallEtcd stops etcd where it stands, so that every request to the apiserver that needs
// it hangs, until ResumeEtcd.
func (p *Plane) StallEtcd() error { return p.etcd.Signal(syscall.SIGSTOP) }

// ResumeEtcd lets etcd go on.
func (p *Plane) ResumeEtcd() error { return p.etcd.Signal(syscall.SIGCONT) }

// Compact makes etcd forget its history up to now. An apiserver that starts after it
// answers 410 Gone to a watch that begins earlier; one that runs still has a part of the
// history in its memory.
func (p *Plane) Compact(ctx context.Context) error {
	config, err := p.Config(Admin)
	if err != nil {
		return err
	}
	// etcd listens to plain HTTP inside of the namespace.
	client := &http.Client{Transport: &http.Transport{DialContext: config.Dial, DisableKeepAlives: true}}
	var now struct {
		Header struct {
			Revision string `json:"revision"`
		} `json:"header"`
	}
	if err := ask(ctx, client, http.MethodPost, etcdURL+"/v3/kv/range", map[string]any{"key": "AA==", "count_only": true}, &now); err != nil {
		return err
	}
	return ask(ctx, client, http.MethodPost, etcdURL+"/v3/kv/compaction", map[string]any{"revision": now.Header.Revision, "physical": true}, nil)
}

// ask makes a request with a JSON body and reads a JSON answer, where the pointer is not nil.
func ask(ctx context.Context, client *http.Client, method, url string, body, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var b []byte
	if body != nil {
		var err error
		if b, err = json.Marshal(body); err != nil {
			return err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(b))
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %.300s", url, response.Status, text)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(text, answer)
}

// defaultAccount waits until the controller manager has made the service account that
// pods of the namespace default are made for: from then on its controllers run.
func (p *Plane) defaultAccount(ctx context.Context) error {
	return poll(ctx, patience, "the controller manager makes service accounts", func(ctx context.Context) error {
		if err := p.Failed(); err != nil {
			return err
		}
		_, err := p.client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}
