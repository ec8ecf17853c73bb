package routing

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
)

// pair is a Secret that was read: a certificate or why it is none.
type pair struct {
	id   string
	pem  []byte
	leaf *x509.Certificate
	err  error
}

// certificates says which certificate each host has.
type certificates struct {
	compiler *Compiler
	secret   func(types.NamespacedName) *core.Secret
	hosts    map[string]held // who has a host
	used     map[string]pair
	named    map[types.NamespacedName]bool
}

type held struct {
	id      string
	secret  types.NamespacedName
	ingress types.NamespacedName
}

func newCertificates(c *Compiler, secret func(types.NamespacedName) *core.Secret) *certificates {
	return &certificates{compiler: c, secret: secret, hosts: make(map[string]held), used: make(map[string]pair), named: make(map[types.NamespacedName]bool)}
}

// add gives the hosts of an Ingress's tls entries their certificates. An entry
// without hosts is for those hosts of the rules that the certificate is for.
func (c *certificates) add(b *builder, ing *networking.Ingress, ruleHosts []string) {
	for i, entry := range ing.Spec.TLS {
		field := fmt.Sprintf("spec.tls[%d]", i)
		if entry.SecretName == "" {
			continue // SNI alone: the default certificate
		}
		secret := types.NamespacedName{Namespace: ing.Namespace, Name: entry.SecretName}
		p, reason := c.read(secret)
		if p.err != nil {
			b.problem(nameOf(ing), reason, "%s.secretName %s is ignored: %v", field, quote(entry.SecretName), p.err)
			continue
		}
		for _, host := range c.entryHosts(b, ing, field, entry.Hosts, ruleHosts, p) {
			first, taken := c.hosts[host]
			if !taken {
				c.hosts[host] = held{p.id, secret, nameOf(ing)}
				c.used[p.id] = p
			} else if first.id != p.id {
				b.problem(nameOf(ing), "Conflict", "%s host %s is ignored: its certificate is the one of %s, which is older; remove one of them", field, host, first.ingress)
			}
		}
	}
}

func (c *certificates) entryHosts(b *builder, ing *networking.Ingress, field string, named, ruleHosts []string, p pair) []string {
	var hosts []string
	if len(named) == 0 {
		for _, host := range ruleHosts {
			if host != AnyHost && p.covers(host) {
				hosts = append(hosts, host)
			}
		}
		if len(hosts) == 0 {
			b.problem(nameOf(ing), "CertificateMismatch", "%s has no hosts, and the certificate is for none of the rules' hosts; name hosts", field)
		}
		return hosts
	}
	for j, text := range named {
		host, err := hostName(text)
		if err != nil || host == AnyHost {
			b.problem(nameOf(ing), "HostInvalid", "%s.hosts[%d] %s is ignored: %v", field, j, quote(text), cmp.Or(err, errors.New("it is empty")))
			continue
		}
		if !p.covers(host) {
			b.problem(nameOf(ing), "CertificateMismatch", "%s.hosts[%d]: the certificate is not for %s; clients will refuse it", field, j, host)
		}
		hosts = append(hosts, host)
	}
	return hosts
}

// covers says whether the certificate is for a host, which may be a wildcard.
func (p pair) covers(host string) bool {
	if strings.HasPrefix(host, "*.") {
		return slices.ContainsFunc(p.leaf.DNSNames, func(n string) bool { return strings.EqualFold(n, host) })
	}
	return p.leaf.VerifyHostname(host) == nil
}

// read returns the key pair in a Secret, parsed once a version.
func (c *certificates) read(name types.NamespacedName) (p pair, reason string) {
	if !objectName(name.Name) {
		return pair{err: errors.New("it is no name of a Secret")}, "SecretNotFound"
	}
	c.named[name] = true
	secret := c.secret(name)
	if secret == nil {
		return pair{err: errors.New("there is no such Secret, or it may not be read")}, "SecretNotFound"
	}
	version := fmt.Sprintf("%s %s %s", name, secret.UID, secret.ResourceVersion)
	p, ok := c.compiler.pairs[version]
	if !ok || secret.ResourceVersion == "" {
		p = readPair(secret)
		if len(c.compiler.pairs) > 10000 {
			clear(c.compiler.pairs) // old versions
		}
		c.compiler.pairs[version] = p
	}
	return p, "SecretInvalid"
}

func readPair(secret *core.Secret) pair {
	if secret.Type != core.SecretTypeTLS {
		return pair{err: fmt.Errorf("its type is %s and must be %s", quote(string(secret.Type)), core.SecretTypeTLS)}
	}
	chain, key := secret.Data[core.TLSCertKey], secret.Data[core.TLSPrivateKeyKey]
	parsed, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return pair{err: fmt.Errorf("%s and %s are no key pair: %s", core.TLSCertKey, core.TLSPrivateKeyKey, quote(err.Error()))}
	}
	if k, ok := parsed.PrivateKey.(*rsa.PrivateKey); ok && k.N.BitLen() < 2048 {
		return pair{err: fmt.Errorf("its RSA key has %d bits; 2048 are the least", k.N.BitLen())}
	}
	if err := signs(parsed.PrivateKey); err != nil {
		return pair{err: err}
	}
	// Only what was understood reaches the proxy: the chain and the key, in its one
	// standard form.
	var out bytes.Buffer
	hash := sha256.New()
	w := io.MultiWriter(&out, hash)
	der, err := x509.MarshalPKCS8PrivateKey(parsed.PrivateKey)
	if err != nil {
		return pair{err: errors.New("its key is of an unknown kind")}
	}
	for _, certificate := range parsed.Certificate {
		_ = pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: certificate}) // a buffer takes it
	}
	_ = pem.Encode(w, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return pair{id: hex.EncodeToString(hash.Sum(nil)[:16]), pem: out.Bytes(), leaf: parsed.Leaf}
}

// signs asks the key for a signature: X509KeyPair compares public halves only.
func signs(key crypto.PrivateKey) error {
	signer, ok := key.(crypto.Signer)
	if !ok {
		return errors.New("its key cannot sign")
	}
	digest := make([]byte, 32)
	if _, err := signer.Sign(rand.Reader, digest, crypto.SHA256); err != nil {
		// Ed25519 signs messages, not digests.
		if _, err := signer.Sign(rand.Reader, digest, crypto.Hash(0)); err != nil {
			return errors.New("its key cannot sign")
		}
	}
	return nil
}

// finish writes the certificates, and which Secrets were asked for, into the table.
func (c *certificates) finish(b *builder) {
	t := b.table
	if name := c.compiler.options.DefaultCertificate; name != nil {
		p, reason := c.read(*name)
		if p.err != nil {
			b.problem(types.NamespacedName{}, reason, "the default certificate %s is not used: %v", name, p.err)
		} else {
			t.DefaultCertificate = &Certificate{ID: p.id, PEM: p.pem, Secret: *name}
		}
	}
	byID := make(map[string]*Certificate)
	for _, host := range slices.Sorted(maps.Keys(c.hosts)) {
		h := c.hosts[host]
		if byID[h.id] == nil {
			byID[h.id] = &Certificate{ID: h.id, PEM: c.used[h.id].pem, Secret: h.secret}
		}
		c := byID[h.id]
		c.Hosts, c.Ingresses = append(c.Hosts, host), append(c.Ingresses, h.ingress)
	}
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		slices.SortFunc(byID[id].Ingresses, compareNames)
		byID[id].Ingresses = slices.Compact(byID[id].Ingresses)
		t.Certificates = append(t.Certificates, *byID[id])
	}
	t.Secrets = slices.SortedFunc(maps.Keys(c.named), compareNames)
}
