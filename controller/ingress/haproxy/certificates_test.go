package haproxy

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/vrouter-go/vrouter/controller/ingress/routing"
)

// certificate makes a self-signed certificate for hosts, shown to the same.
func certificate(t *testing.T, id string, key crypto.Signer, hosts ...string) routing.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: id},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: hosts,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	_ = pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	return routing.Certificate{ID: id, Hosts: hosts, PEM: b.Bytes(), Secret: types.NamespacedName{Namespace: "ns", Name: id}, Ingresses: []types.NamespacedName{{Namespace: "ns", Name: "ing-" + id}}}
}

func ecKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// shown is the common name of the certificate that a client with this server name is
// shown, "" if none.
func shown(t *testing.T, name string) string {
	t.Helper()
	conn, err := tls.Dial("tcp", "127.0.0.1:443", &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil {
		return ""
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
}

func TestCertificateByServerName(t *testing.T) {
	r := newRig(t, nil)
	table := &routing.Table{Certificates: []routing.Certificate{
		certificate(t, "aa", ecKey(t), "a.test"), certificate(t, "bb", ecKey(t), "*.a.test"), certificate(t, "cc", ecKey(t), many(100)...),
	}}
	r.apply(table)
	want := func(cases map[string]string) {
		t.Helper()
		for name, id := range cases {
			if got := shown(t, name); got != id {
				t.Errorf("server name %q: certificate %q, want %q", name, got, id)
			}
		}
	}
	named := map[string]string{"a.test": "aa", "A.TEST": "aa", "x.a.test": "bb", "h99.many.test": "cc"}
	want(named)
	want(map[string]string{"y.x.a.test": "", "b.test": "", "": ""})

	d := certificate(t, "dd", ecKey(t), "a.test")
	table.DefaultCertificate = &d
	r.apply(table)
	want(named) // an Ingress has its host before the default certificate
	want(map[string]string{"y.x.a.test": "dd", "b.test": "dd", "": "dd"})
}

func many(n int) []string {
	var hosts []string
	for i := range n {
		hosts = append(hosts, fmt.Sprintf("h%d.many.test", i))
	}
	return hosts
}

// A certificate that OpenSSL refuses keeps no other out, and no change.
func TestRefusedCertificateIsLeftOut(t *testing.T) {
	r := newRig(t, nil)
	t.Setenv("GODEBUG", "rsa1024min=0") // Go makes none as weak otherwise
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p := newPod(t, "p", false, nil)
	table := &routing.Table{
		Certificates: []routing.Certificate{certificate(t, "aa", ecKey(t), "a.test"), certificate(t, "weak", weak, "weak.test")},
		Backends:     []routing.Backend{backendOf("ns:s:80", p)},
		Routes:       []routing.Route{{Kind: routing.Prefix, Host: "a.test", Backend: "ns:s:80"}},
	}
	for range 2 { // also when it is known to be refused
		result := r.apply(table)
		if len(result.Rejected) != 1 || result.Rejected[0].Ingress.Name != "ing-weak" || result.Rejected[0].Reason != "SecretInvalid" {
			t.Fatalf("rejected: %+v", result.Rejected)
		}
		if shown(t, "a.test") != "aa" || shown(t, "weak.test") != "" {
			t.Error("the good certificate is not served, or the weak one is")
		}
		if status, _ := raw(t, "a.test", "/"); status != http.StatusOK {
			t.Error("status", status)
		}
		table.Certificates = append(slices.Clone(table.Certificates), certificate(t, "bb", ecKey(t), "b.test"))
	}
}

func TestKeysAreReadByNobodyElse(t *testing.T) {
	r := newRig(t, nil)
	r.apply(&routing.Table{Certificates: []routing.Certificate{certificate(t, "aa", ecKey(t), "a.test")}})
	seen := 0
	err := filepath.Walk(r.proxy.settings.Directory, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, ".pem") || strings.HasSuffix(path, ".cfg") {
			seen++
			if info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v", path, info.Mode())
			}
		}
		return nil
	})
	if err != nil || seen != 2 {
		t.Error(seen, "files seen", err)
	}
}
