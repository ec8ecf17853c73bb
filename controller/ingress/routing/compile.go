package routing

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Objects are the cluster as it is known now. The functions answer nil for what is
// not there; nothing that they return is changed.
type Objects struct {
	Ingresses []*networking.Ingress
	Classes   []*networking.IngressClass
	Service   func(types.NamespacedName) *core.Service
	Slices    func(service types.NamespacedName) []*discovery.EndpointSlice
	Secret    func(types.NamespacedName) *core.Secret
}

// Options are what the operator says.
type Options struct {
	Controller         string                            // spec.controller of the IngressClasses that are ours
	DefaultBackend     *networking.IngressServiceBackend // for requests that no Ingress takes; nil answers 404
	DefaultNamespace   string                            // the namespace of DefaultBackend's Service
	DefaultCertificate *types.NamespacedName             // a Secret; nil refuses clients that name no host with a certificate
}

// Compiler makes Tables. It remembers the certificates that it has parsed, and
// belongs to one goroutine.
type Compiler struct {
	options Options
	pairs   map[string]pair // by version of the Secret
}

// NewCompiler returns a Compiler.
func NewCompiler(o Options) *Compiler {
	return &Compiler{options: o, pairs: make(map[string]pair)}
}

// Compile makes the Table of the cluster as it is.
func (c *Compiler) Compile(objects Objects) *Table {
	b := &builder{
		compiler: c, objects: objects, table: &Table{Services: make(map[types.NamespacedName]bool)},
		routes: make(map[routeKey]Route), backends: make(map[string]*Backend),
		certificates: newCertificates(c, objects.Secret),
	}
	ours := newClasses(objects.Classes, c.options.Controller).of(objects.Ingresses)
	for _, ing := range ours {
		b.ingress(ing)
	}
	b.defaults(ours)
	return b.finish()
}

type routeKey struct {
	kind       Kind
	host, path string
}

// builder is a Table in the making.
type builder struct {
	compiler     *Compiler
	objects      Objects
	table        *Table
	routes       map[routeKey]Route
	backends     map[string]*Backend
	certificates *certificates
}

func (b *builder) problem(ing types.NamespacedName, reason, format string, args ...any) {
	b.table.Problems = append(b.table.Problems, Problem{Ingress: ing, Reason: reason, Message: fmt.Sprintf(format, args...)})
}

func nameOf(ing *networking.Ingress) types.NamespacedName {
	return types.NamespacedName{Namespace: ing.Namespace, Name: ing.Name}
}

// ingress adds the rules and certificates of one Ingress, but for what an older one
// has taken.
func (b *builder) ingress(ing *networking.Ingress) {
	name := nameOf(ing)
	b.table.Ingresses = append(b.table.Ingresses, name)
	redirect := ing.Annotations[redirectHTTP] == "true"
	var hosts []string
	for i, rule := range ing.Spec.Rules {
		host, err := hostName(rule.Host)
		if err != nil {
			b.problem(name, "HostInvalid", "spec.rules[%d].host %s is ignored with its paths: %v", i, quote(rule.Host), err)
			continue
		}
		hosts = append(hosts, host)
		if rule.HTTP == nil {
			continue // all of the host is for the default backend
		}
		for j := range rule.HTTP.Paths {
			b.path(ing, host, fmt.Sprintf("spec.rules[%d].http.paths[%d]", i, j), &rule.HTTP.Paths[j], redirect)
		}
	}
	if ing.Spec.DefaultBackend != nil && len(ing.Spec.Rules) > 0 {
		backend := b.resolve(ing, "spec.defaultBackend", ing.Spec.DefaultBackend)
		slices.Sort(hosts)
		for _, host := range slices.Compact(hosts) {
			if host != AnyHost { // see defaults
				b.add(Route{Kind: Default, Host: host, Backend: backend, RedirectTLS: redirect, Ingress: name}, "spec.defaultBackend")
			}
		}
	}
	b.certificates.add(b, ing, hosts)
}

// path adds one path of one rule.
func (b *builder) path(ing *networking.Ingress, host, field string, p *networking.HTTPIngressPath, redirect bool) {
	path := cmp.Or(p.Path, "/")
	if err := requestPath(path); err != nil {
		b.problem(nameOf(ing), "PathInvalid", "%s.path %s is ignored: %v", field, quote(p.Path), err)
		return
	}
	route := Route{Kind: Prefix, Host: host, Path: path, RedirectTLS: redirect, Ingress: nameOf(ing)}
	if p.PathType != nil && *p.PathType == networking.PathTypeExact {
		route.Kind = Exact
	} else {
		route.Path = strings.TrimRight(path, "/")
	}
	// A rule keeps its place also without a backend, or its requests would go to a
	// wider rule of somebody else.
	route.Backend = b.resolve(ing, field+".backend", &p.Backend)
	b.add(route, field)
}

// add takes the route's place in the table unless an older Ingress has it.
func (b *builder) add(r Route, field string) {
	key := routeKey{r.Kind, r.Host, r.Path}
	if first, taken := b.routes[key]; taken {
		if first.Backend != r.Backend || first.RedirectTLS != r.RedirectTLS {
			b.problem(r.Ingress, "Conflict", "%s is ignored: %s path %s at host %s belongs to %s, which is older; remove one of them",
				field, r.Kind, quote(cmp.Or(r.Path, "/")), r.Host, first.Ingress)
		}
		return
	}
	b.routes[key] = r
}

// defaults decides who answers what no host's rules take: the oldest Ingress that is
// nothing but a default backend, else the oldest with one, else the operator's.
func (b *builder) defaults(ours []*networking.Ingress) {
	for _, alone := range [...]bool{true, false} {
		for _, ing := range ours {
			if ing.Spec.DefaultBackend == nil || (len(ing.Spec.Rules) == 0) != alone {
				continue
			}
			route := Route{Kind: Default, Host: AnyHost, Ingress: nameOf(ing), RedirectTLS: ing.Annotations[redirectHTTP] == "true"}
			if _, taken := b.routes[routeKey{Default, AnyHost, ""}]; taken && !alone {
				return // it has the default of its own hosts, and lost no rule
			}
			route.Backend = b.resolve(ing, "spec.defaultBackend", ing.Spec.DefaultBackend)
			b.add(route, "spec.defaultBackend")
		}
	}
	if s := b.compiler.options.DefaultBackend; s != nil {
		if _, taken := b.routes[routeKey{Default, AnyHost, ""}]; taken {
			return
		}
		service := types.NamespacedName{Namespace: b.compiler.options.DefaultNamespace, Name: s.Name}
		backend, fault := b.service(service, s.Port)
		if fault.Reason != "" {
			b.problem(types.NamespacedName{}, fault.Reason, "the controller's default backend answers 503: %s", fault.Message)
		}
		b.add(Route{Kind: Default, Host: AnyHost, Backend: backend}, "")
	}
}

func (b *builder) finish() *Table {
	t := b.table
	t.Routes = slices.SortedFunc(maps.Values(b.routes), func(x, y Route) int {
		return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Host, y.Host), cmp.Compare(x.Path, y.Path))
	})
	for _, name := range slices.Sorted(maps.Keys(b.backends)) {
		t.Backends = append(t.Backends, *b.backends[name])
	}
	slices.SortFunc(t.Ingresses, compareNames)
	b.certificates.finish(b)
	return t
}

func compareNames(a, b types.NamespacedName) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
