package routing

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func ptr[T any](v T) *T { return &v }

// cluster is a small cluster that tests fill.
type cluster struct {
	ingresses []*networking.Ingress
	classes   []*networking.IngressClass
	services  map[string]*core.Service
	slices    map[string][]*discovery.EndpointSlice
	secrets   map[string]*core.Secret
}

func (c *cluster) objects() Objects {
	return Objects{
		Ingresses: c.ingresses, Classes: c.classes,
		Service: func(n types.NamespacedName) *core.Service { return c.services[n.String()] },
		Slices:  func(n types.NamespacedName) []*discovery.EndpointSlice { return c.slices[n.String()] },
		Secret:  func(n types.NamespacedName) *core.Secret { return c.secrets[n.String()] },
	}
}

const ours = "vrouter.io/ingress"

func newCluster() *cluster {
	return &cluster{
		classes: []*networking.IngressClass{class("vrouter", ours, false, 0)},
		services: map[string]*core.Service{
			"ns/web": {Spec: core.ServiceSpec{Ports: []core.ServicePort{{Name: "http", Port: 80}, {Name: "dns", Port: 53, Protocol: core.ProtocolUDP}, {Name: "admin", Port: 81}}}},
		},
		slices: map[string][]*discovery.EndpointSlice{"ns/web": {slice(discovery.AddressTypeIPv4, "http", 8080, "10.0.0.1")}},
	}
}

func class(name, controller string, isDefault bool, age int64) *networking.IngressClass {
	c := &networking.IngressClass{ObjectMeta: meta.ObjectMeta{Name: name, CreationTimestamp: meta.NewTime(time.Unix(1000-age, 0))}, Spec: networking.IngressClassSpec{Controller: controller}}
	if isDefault {
		c.Annotations = map[string]string{networking.AnnotationIsDefaultIngressClass: "true"}
	}
	return c
}

func slice(family discovery.AddressType, port string, number int32, addresses ...string) *discovery.EndpointSlice {
	s := &discovery.EndpointSlice{AddressType: family, Ports: []discovery.EndpointPort{{Name: &port, Port: &number}}}
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, discovery.Endpoint{Addresses: []string{a}})
	}
	return s
}

// ingress is an Ingress of our class with one rule for each "HOST TYPE PATH SERVICE:PORT";
// - is an empty host.
func ingress(name string, age int64, rules ...string) *networking.Ingress {
	ing := &networking.Ingress{ObjectMeta: meta.ObjectMeta{Namespace: "ns", Name: name, CreationTimestamp: meta.NewTime(time.Unix(1000-age, 0))}}
	ing.Spec.IngressClassName = ptr("vrouter")
	for _, text := range rules {
		f := strings.Fields(text)
		host := strings.TrimPrefix(f[0], "-")
		kind := map[string]networking.PathType{"exact": networking.PathTypeExact, "prefix": networking.PathTypePrefix, "impl": networking.PathTypeImplementationSpecific}[f[1]]
		ing.Spec.Rules = append(ing.Spec.Rules, networking.IngressRule{Host: host, IngressRuleValue: networking.IngressRuleValue{HTTP: &networking.HTTPIngressRuleValue{
			Paths: []networking.HTTPIngressPath{{Path: f[2], PathType: &kind, Backend: backend(f[3])}},
		}}})
	}
	return ing
}

func backend(text string) networking.IngressBackend {
	name, port, _ := strings.Cut(text, ":")
	b := &networking.IngressServiceBackend{Name: name}
	if _, err := fmt.Sscan(port, &b.Port.Number); err != nil {
		b.Port.Name = port
	}
	return networking.IngressBackend{Service: b}
}

func (c *cluster) compile() *Table {
	return NewCompiler(Options{Controller: ours}).Compile(c.objects())
}

func routes(t *Table) []string {
	var out []string
	for _, r := range t.Routes {
		out = append(out, fmt.Sprintf("%s %s %s %s %s", r.Kind, r.Host, r.Path, r.Backend, r.Ingress.Name))
	}
	return out
}

func reasons(t *Table) []string {
	var out []string
	for _, p := range t.Problems {
		out = append(out, p.Ingress.Name+" "+p.Reason)
	}
	return out
}

func TestRoutes(t *testing.T) {
	resource := ingress("resource", 0)
	resource.Spec.DefaultBackend = &networking.IngressBackend{Resource: &core.TypedLocalObjectReference{Kind: "Bucket", Name: "b"}}
	withDefault := ingress("with-default", 5, "A.test prefix /a web:80")
	withDefault.Spec.DefaultBackend = ptr(backend("web:admin"))
	withDefault.Spec.Rules = append(withDefault.Spec.Rules, networking.IngressRule{Host: "b.test"})
	onlyDefault := ingress("only-default", 1)
	onlyDefault.Spec.DefaultBackend = ptr(backend("web:http"))
	for _, test := range []struct {
		name      string
		ingresses []*networking.Ingress
		routes    []string
		problems  []string
	}{
		{"kinds and slashes", []*networking.Ingress{ingress("i", 0, "a.test exact /x/ web:80", "a.test prefix /x/ web:80", "a.test impl / web:http", "*.A.test prefix /y web:80", "- prefix / web:80")},
			[]string{"exact a.test /x/ ns:web:80 i", "prefix *  ns:web:80 i", "prefix *.a.test /y ns:web:80 i", "prefix a.test  ns:web:80 i", "prefix a.test /x ns:web:80 i"}, nil},
		{"the older wins", []*networking.Ingress{ingress("new", 1, "a.test prefix /x web:81"), ingress("old", 2, "a.test prefix /x/ web:80", "a.test exact /x web:80")},
			[]string{"exact a.test /x ns:web:80 old", "prefix a.test /x ns:web:80 old"}, []string{"new Conflict"}},
		{"the same twice is no conflict", []*networking.Ingress{ingress("new", 1, "a.test prefix /x web:80"), ingress("old", 2, "a.test prefix /x/ web:http")},
			[]string{"prefix a.test /x ns:web:80 old"}, nil},
		{"as old: by name", []*networking.Ingress{ingress("b", 1, "a.test prefix / web:80"), ingress("a", 1, "a.test prefix / web:81")},
			[]string{"prefix a.test  ns:web:81 a"}, []string{"b Conflict"}},
		{"backends that are not there keep their place", []*networking.Ingress{resource, ingress("i", 1, "a.test prefix / none:80", "b.test prefix / web:82", "c.test prefix / web:nope", "d.test prefix / web:53")},
			[]string{"prefix a.test  no-endpoints i", "prefix b.test  no-endpoints i", "prefix c.test  no-endpoints i", "prefix d.test  no-endpoints i", "default *  no-endpoints resource"},
			[]string{"i ServiceNotFound", "i PortNotFound", "i PortNotFound", "i PortNotFound", "resource ResourceBackend"}},
		{"defaults", []*networking.Ingress{withDefault, onlyDefault},
			[]string{"prefix a.test /a ns:web:80 with-default", "default *  ns:web:80 only-default", "default a.test  ns:web:81 with-default", "default b.test  ns:web:81 with-default"}, nil},
		{"a default beside rules is for all when none is for nothing else", []*networking.Ingress{withDefault},
			[]string{"prefix a.test /a ns:web:80 with-default", "default *  ns:web:81 with-default", "default a.test  ns:web:81 with-default", "default b.test  ns:web:81 with-default"}, nil},
	} {
		c := newCluster()
		c.ingresses = test.ingresses
		table := c.compile()
		if d := cmp.Diff(test.routes, routes(table)); d != "" {
			t.Errorf("%s: routes: %s", test.name, d)
		}
		if d := cmp.Diff(test.problems, reasons(table)); d != "" {
			t.Errorf("%s: problems: %s\n%+v", test.name, d, table.Problems)
		}
	}
}

func TestClasses(t *testing.T) {
	with := func(name string, class *string, annotation string) *networking.Ingress {
		ing := ingress(name, 0, name+".test prefix / web:80")
		ing.Spec.IngressClassName = class
		if annotation != "" {
			ing.Annotations = map[string]string{legacyClass: annotation}
		}
		return ing
	}
	all := []*networking.Ingress{
		with("named", ptr("vrouter"), ""), with("other", ptr("nginx"), ""), with("unknown", ptr("nope"), ""), with("none", nil, ""),
		with("legacy", nil, "vrouter"), with("legacy-other", nil, "nginx"), with("name-first", ptr("nginx"), "vrouter"),
	}
	for _, test := range []struct {
		name    string
		classes []*networking.IngressClass
		want    []string
	}{
		{"no default", []*networking.IngressClass{class("vrouter", ours, false, 0), class("nginx", "n", false, 0)}, []string{"legacy", "named"}},
		{"ours is default", []*networking.IngressClass{class("vrouter", ours, true, 0), class("nginx", "n", false, 0)}, []string{"legacy", "named", "none"}},
		{"theirs is default", []*networking.IngressClass{class("vrouter", ours, false, 0), class("nginx", "n", true, 0)}, []string{"legacy", "named"}},
		{"the newest default wins", []*networking.IngressClass{class("vrouter", ours, true, 1), class("nginx", "n", true, 2)}, []string{"legacy", "named", "none"}},
		{"the newest default wins, theirs", []*networking.IngressClass{class("vrouter", ours, true, 3), class("nginx", "n", true, 2)}, []string{"legacy", "named"}},
		{"no classes", nil, nil},
	} {
		c := newCluster()
		c.ingresses, c.classes = all, test.classes
		var got []string
		for _, n := range c.compile().Ingresses {
			got = append(got, n.Name)
		}
		if d := cmp.Diff(test.want, got); d != "" {
			t.Errorf("%s: %s", test.name, d)
		}
	}
}

func TestServers(t *testing.T) {
	yes, no := ptr(true), ptr(false)
	conditions := func(ready, serving, terminating *bool, address string) discovery.Endpoint {
		return discovery.Endpoint{Addresses: []string{address}, Conditions: discovery.EndpointConditions{Ready: ready, Serving: serving, Terminating: terminating}}
	}
	of := func(endpoints ...discovery.Endpoint) *discovery.EndpointSlice {
		s := slice(discovery.AddressTypeIPv4, "http", 8080)
		s.Endpoints = endpoints
		return s
	}
	dual := []*discovery.EndpointSlice{slice(discovery.AddressTypeIPv4, "http", 8080, "10.0.0.1"), slice(discovery.AddressTypeIPv6, "http", 8080, "fd00::1")}
	udp := slice(discovery.AddressTypeIPv4, "http", 8080, "10.0.0.1")
	udp.Ports[0].Protocol = ptr(core.ProtocolUDP)
	for _, test := range []struct {
		name   string
		family []core.IPFamily
		slices []*discovery.EndpointSlice
		want   []string
	}{
		{"nil is ready", nil, []*discovery.EndpointSlice{of(conditions(nil, nil, nil, "10.0.0.1"))}, []string{"10.0.0.1:8080"}},
		{"not ready", nil, []*discovery.EndpointSlice{of(conditions(no, no, no, "10.0.0.1"))}, nil},
		{"ready before serving and terminating", nil, []*discovery.EndpointSlice{of(conditions(no, yes, yes, "10.0.0.1"), conditions(yes, yes, no, "10.0.0.2"))}, []string{"10.0.0.2:8080"}},
		{"terminating and not said to serve when nothing is ready", nil, []*discovery.EndpointSlice{of(conditions(no, nil, yes, "10.0.0.1"), conditions(no, nil, no, "10.0.0.2"))}, []string{"10.0.0.1:8080"}},
		{"serving and terminating when nothing is ready", nil, []*discovery.EndpointSlice{of(conditions(no, yes, yes, "10.0.0.1"), conditions(no, no, yes, "10.0.0.2"), conditions(no, yes, no, "10.0.0.3"))}, []string{"10.0.0.1:8080"}},
		{"twice while it moves between slices", nil, []*discovery.EndpointSlice{of(conditions(yes, nil, nil, "10.0.0.1")), of(conditions(yes, nil, nil, "10.0.0.1"))}, []string{"10.0.0.1:8080"}},
		{"ports differ by pod", nil, []*discovery.EndpointSlice{slice(discovery.AddressTypeIPv4, "http", 8081, "10.0.0.2"), slice(discovery.AddressTypeIPv4, "http", 8080, "10.0.0.1"), slice(discovery.AddressTypeIPv4, "admin", 1, "10.0.0.3")}, []string{"10.0.0.1:8080", "10.0.0.2:8081"}},
		{"a pod of two families is one server", nil, dual, []string{"10.0.0.1:8080"}},
		{"of the Service's first family", []core.IPFamily{core.IPv6Protocol, core.IPv4Protocol}, dual, []string{"[fd00::1]:8080"}},
		{"or of the other", []core.IPFamily{core.IPv6Protocol}, dual[:1], []string{"10.0.0.1:8080"}},
		{"UDP", nil, []*discovery.EndpointSlice{udp}, nil},
		{"FQDN", nil, []*discovery.EndpointSlice{slice(discovery.AddressTypeFQDN, "http", 8080, "evil.test")}, nil},
		{"no pod's addresses", nil, []*discovery.EndpointSlice{slice(discovery.AddressTypeIPv4, "http", 8080, "127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "10.0.0.1:80 weight 1", ""),
			slice(discovery.AddressTypeIPv6, "http", 8080, "::1", "fe80::1", "::ffff:127.0.0.1", "fd00::1%lo", "::")}, nil},
		{"no number of a port", nil, []*discovery.EndpointSlice{slice(discovery.AddressTypeIPv4, "http", 70000, "10.0.0.1"), slice(discovery.AddressTypeIPv4, "http", -1, "10.0.0.1")}, nil},
	} {
		c := newCluster()
		c.services["ns/web"].Spec.IPFamilies = test.family
		c.slices["ns/web"] = test.slices
		c.ingresses = []*networking.Ingress{ingress("i", 0, "- prefix / web:http")}
		table := c.compile()
		var got []string
		for _, s := range table.Backends[0].Servers {
			got = append(got, s.Address.String())
		}
		if d := cmp.Diff(test.want, got); d != "" {
			t.Errorf("%s: %s", test.name, d)
		}
	}
}

func TestExternalNameIsRefused(t *testing.T) {
	c := newCluster()
	c.services["ns/web"].Spec.Type = core.ServiceTypeExternalName
	c.ingresses = []*networking.Ingress{ingress("i", 0, "- prefix / web:http")}
	if table := c.compile(); len(table.Backends) != 0 || !slices.Equal(reasons(table), []string{"i ExternalName"}) {
		t.Errorf("%+v", table)
	}
}

// hostile are strings that would be commands, keys or lines of their own if they
// reached the proxy's files as they are.
var hostile = []string{
	"a.test\n    server evil 6.6.6.6:80", "a.test evil", "a.test#", "a.test\t1", "\"a.test\"", "a.test/../../etc/passwd", "%[env(HOME)]", "a.test\x00", "a..test", "-a.test", "*", "*.*.test", "a.*.test", "*a.test",
	"a_b.test", "ä.test", "a.test.", ".a.test", strings.Repeat("a.", 200) + "test", "$(id)", "`id`", "a|redirect", "exact:a.test",
}

func TestHostileIngresses(t *testing.T) {
	for _, text := range hostile {
		c := newCluster()
		ing := ingress("i", 0)
		ing.Spec.TLS = []networking.IngressTLS{{Hosts: []string{text}, SecretName: text}}
		prefix := networking.PathTypePrefix
		for _, rule := range []networking.IngressRule{{Host: text}, {Host: "good.test"}, {Host: "good.test"}} {
			rule.HTTP = &networking.HTTPIngressRuleValue{Paths: []networking.HTTPIngressPath{
				{Path: "/" + text, PathType: &prefix, Backend: backend("web:80")},
				{Path: "/ok", PathType: &prefix, Backend: networking.IngressBackend{Service: &networking.IngressServiceBackend{Name: text, Port: networking.ServiceBackendPort{Name: text}}}},
			}}
			ing.Spec.Rules = append(ing.Spec.Rules, rule)
		}
		c.ingresses = []*networking.Ingress{ing}
		c.services["ns/"+text] = &core.Service{Spec: core.ServiceSpec{Ports: []core.ServicePort{{Name: text, Port: 80}}}}
		table := c.compile()
		for _, r := range table.Routes {
			for _, s := range []string{r.Host, r.Path, r.Backend} {
				if strings.ContainsAny(s, " \t\n\r\x00\"#|`") {
					t.Errorf("%q came through: %+v", text, r)
				}
			}
			if r.Host != "good.test" {
				t.Errorf("host %q came through: %+v", text, r)
			}
		}
		for _, b := range table.Backends {
			if strings.Trim(b.Name, "abcdefghijklmnopqrstuvwxyz0123456789:.-") != "" {
				t.Errorf("backend %q", b.Name)
			}
		}
		for _, p := range table.Problems {
			if strings.ContainsAny(p.Message, "\n\x00") || len(p.Message) > 1000 {
				t.Errorf("message %q", p.Message)
			}
		}
		if len(table.Problems) == 0 {
			t.Errorf("%q: no problem", text)
		}
	}
}

func FuzzNames(f *testing.F) {
	for _, text := range hostile {
		f.Add(text, "/"+text)
	}
	f.Fuzz(func(t *testing.T, host, path string) {
		if h, err := hostName(host); err == nil && (strings.Trim(h, "abcdefghijklmnopqrstuvwxyz0123456789.-*") != "" || len(h) > 253) {
			t.Errorf("host %q", h)
		}
		if requestPath(path) == nil {
			for i := range len(path) {
				if path[i] <= ' ' || path[i] >= 0x7f || path[i] == '#' || path[i] == '"' || path[i] == '?' {
					t.Errorf("path %q", path)
				}
			}
		}
	})
}

// secret is a kubernetes.io/tls Secret for hosts, and its key.
func secret(t *testing.T, hosts ...string) *core.Secret {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: hosts, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &core.Secret{Type: core.SecretTypeTLS, Data: map[string][]byte{
		core.TLSCertKey:       append([]byte("# a comment\n"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...),
		core.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}),
	}}
}

func TestCertificates(t *testing.T) {
	c := newCluster()
	a, b, mixed, opaque := secret(t, "a.test", "*.a.test"), secret(t, "b.test"), secret(t, "a.test"), secret(t, "a.test")
	mixed.Data[core.TLSPrivateKeyKey] = b.Data[core.TLSPrivateKeyKey]
	opaque.Type = core.SecretTypeOpaque
	c.secrets = map[string]*core.Secret{"ns/a": a, "ns/b": b, "ns/mixed": mixed, "ns/opaque": opaque, "ns/empty": {Type: core.SecretTypeTLS}}
	ing := func(name string, age int64, secret string, hosts ...string) *networking.Ingress {
		i := ingress(name, age, "a.test prefix / web:80", "x.a.test prefix / web:80", "c.test prefix / web:80")
		i.Spec.TLS = []networking.IngressTLS{{SecretName: secret, Hosts: hosts}}
		return i
	}
	for _, test := range []struct {
		name      string
		ingresses []*networking.Ingress
		hosts     []string
		problems  []string
	}{
		{"named", []*networking.Ingress{ing("i", 0, "a", "A.test", "*.a.test")}, []string{"*.a.test a.test"}, nil},
		{"no hosts: what the certificate is for", []*networking.Ingress{ing("i", 0, "a")}, []string{"a.test x.a.test"}, nil},
		{"no hosts, for none", []*networking.Ingress{ing("i", 0, "b")}, nil, []string{"i CertificateMismatch"}},
		{"not for the host", []*networking.Ingress{ing("i", 0, "b", "a.test")}, []string{"a.test"}, []string{"i CertificateMismatch"}},
		{"the older wins", []*networking.Ingress{ing("new", 0, "b", "a.test", "b.test"), ing("old", 1, "a", "a.test")}, []string{"a.test", "b.test"}, []string{"new CertificateMismatch", "new Conflict"}},
		{"not there", []*networking.Ingress{ing("i", 0, "none", "a.test")}, nil, []string{"i SecretNotFound"}},
		{"another's key", []*networking.Ingress{ing("i", 0, "mixed", "a.test")}, nil, []string{"i SecretInvalid"}},
		{"another type", []*networking.Ingress{ing("i", 0, "opaque", "a.test")}, nil, []string{"i SecretInvalid"}},
		{"empty", []*networking.Ingress{ing("i", 0, "empty", "a.test")}, nil, []string{"i SecretInvalid"}},
		{"no Secret", []*networking.Ingress{ing("i", 0, "", "a.test")}, nil, nil},
	} {
		c.ingresses = test.ingresses
		table := c.compile()
		var hosts []string
		for _, certificate := range table.Certificates {
			hosts = append(hosts, strings.Join(certificate.Hosts, " "))
			if strings.Contains(string(certificate.PEM), "comment") || !strings.Contains(string(certificate.PEM), "BEGIN PRIVATE KEY") {
				t.Errorf("%s: not re-encoded", test.name)
			}
		}
		slices.Sort(hosts)
		if d := cmp.Diff(test.hosts, hosts); d != "" {
			t.Errorf("%s: %s", test.name, d)
		}
		if d := cmp.Diff(test.problems, reasons(table)); d != "" {
			t.Errorf("%s: problems %s\n%+v", test.name, d, table.Problems)
		}
		for _, p := range table.Problems {
			if strings.Contains(p.Message, "PRIVATE KEY") {
				t.Error("a key in a message")
			}
		}
	}
}

func TestOperatorsDefaults(t *testing.T) {
	c := newCluster()
	c.secrets = map[string]*core.Secret{"ns/d": secret(t, "d.test")}
	o := Options{Controller: ours, DefaultBackend: backend("web:80").Service, DefaultNamespace: "ns", DefaultCertificate: &types.NamespacedName{Namespace: "ns", Name: "d"}}
	table := NewCompiler(o).Compile(c.objects())
	if d := cmp.Diff([]string{"default *  ns:web:80 "}, routes(table)); d != "" {
		t.Error(d)
	}
	if table.DefaultCertificate == nil || len(table.Secrets) != 1 {
		t.Errorf("%+v", table)
	}
	o.DefaultCertificate.Name, o.DefaultBackend.Name = "none", "none"
	table = NewCompiler(o).Compile(c.objects())
	if d := cmp.Diff([]string{" ServiceNotFound", " SecretNotFound"}, reasons(table)); d != "" || table.DefaultCertificate != nil {
		t.Error(d)
	}
}
