package haproxy

import (
	"bytes"
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vrouter-go/vrouter/controller/ingress/routing"
)

// Names of a generation's files.
const (
	configFile = "haproxy.cfg"
	routesFile = "routes.map"
	listFile   = "certificates.list"
	adminFile  = "admin.sock"
	statsFile  = "metrics.sock"
)

// reply404 is what a request that no Ingress takes is told.
const reply404 = "no Ingress takes this host and path"

// hostPattern is what a request's host must look like to be looked up by name.
// What does not, an address with brackets, say, meets only the rules for all hosts.
const hostPattern = `^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`

// config writes haproxy.cfg of a generation in dir.
func (s *Settings) config(t *routing.Table, dir, generation string, v6 bool) ([]byte, error) {
	http, err := binds(s.HTTP, v6)
	if err != nil {
		return nil, err
	}
	https, err := binds(s.HTTPS, v6)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	s.global(&b, dir, generation)
	s.defaults(&b)
	b.WriteString("\nfrontend ingress\n")
	for _, bind := range http {
		fmt.Fprintf(&b, "    bind %s\n", bind)
	}
	strict := " strict-sni"
	if t.DefaultCertificate != nil {
		strict = ""
	}
	for _, bind := range https {
		fmt.Fprintf(&b, "    bind %s ssl crt-list %s alpn h2,http/1.1%s\n", bind, filepath.Join(dir, listFile), strict)
	}
	s.rules(&b, dir)
	fmt.Fprintf(&b, "\nfrontend metrics\n    bind unix@%s mode 600\n    http-request use-service prometheus-exporter\n", filepath.Join(dir, statsFile))
	fmt.Fprintf(&b, "\nbackend %s\n    http-request return status 404 content-type text/plain string %q\n", routing.NotFound, reply404+"\n")
	fmt.Fprintf(&b, "\nbackend %s\n", routing.NoEndpoints)
	for i := range t.Backends {
		backend(&b, &t.Backends[i])
	}
	return b.Bytes(), nil
}

func (s *Settings) global(b *bytes.Buffer, dir, generation string) {
	fmt.Fprintf(b, "# Made by vrkube ingress; changes are lost.\nglobal\n    description %s\n", generation)
	fmt.Fprintf(b, "    stats socket %s mode 600 level admin expose-fd listeners\n    stats timeout 1m\n", filepath.Join(dir, adminFile))
	fmt.Fprintf(b, "    maxconn %d\n    hard-stop-after %s\n    mworker-max-reloads 50\n", s.connections(), milliseconds(s.DrainTimeout))
	if s.Threads > 0 {
		fmt.Fprintf(b, "    nbthread %d\n", s.Threads)
	}
	if s.AccessLog {
		b.WriteString("    log stdout format raw local0 info\n")
	}
	b.WriteString("    ssl-default-bind-options ssl-min-ver TLSv1.2 prefer-client-ciphers\n" +
		"    ssl-default-bind-ciphers ECDHE+AESGCM:ECDHE+CHACHA20\n" +
		"    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256\n")
}

func (s *Settings) defaults(b *bytes.Buffer) {
	t := s.Timeouts
	b.WriteString("\ndefaults\n    mode http\n    option dontlognull\n    option idle-close-on-response\n    option redispatch 1\n    retries 3\n    retry-on conn-failure empty-response\n")
	if s.AccessLog {
		b.WriteString("    log global\n    option httplog\n")
	}
	for _, timeout := range [...]struct {
		name string
		d    time.Duration
	}{
		{"connect", t.Connect}, {"http-request", t.Request}, {"http-keep-alive", t.KeepAlive}, {"client", t.Idle}, {"server", t.Idle},
		{"client-fin", t.Request}, {"server-fin", t.Request}, {"queue", t.Connect}, {"tunnel", t.Tunnel},
	} {
		fmt.Fprintf(b, "    timeout %s %s\n", timeout.name, milliseconds(timeout.d))
	}
}

// rules find the backend: package routing says in which order. Variables keep their
// value where a lookup finds nothing, so each lookup runs only while the one before
// has found nothing.
func (s *Settings) rules(b *bytes.Buffer, dir string) {
	routes := filepath.Join(dir, routesFile)
	lines := []string{
		"http-request set-var(txn.path) path",
		`http-request set-var(txn.host) req.fhdr(host),host_only,lower,regsub(\.$,)`,
		"acl named var(txn.host) -m reg " + hostPattern,
		`acl below var(txn.host) -m reg ^[^.]+\.`,
		`http-request set-var(txn.wild) var(txn.host),regsub(^[^.]+,*) if named below`,
		"http-request set-var(txn.any) str(" + routing.AnyHost + ")",
		"acl found var(txn.route) -m found",
	}
	hosts := [...]struct{ variable, when string }{{"host", " if named"}, {"wild", " if !found named below"}, {"any", " if !found"}}
	for i, h := range hosts {
		// "exact:HOST/PATH", then the longest "prefix:HOST/ELEMENTS/" before
		// "prefix:HOST/PATH/": the slash at the end of both makes it elements.
		first := fmt.Sprintf("str(exact:),concat(,txn.%s,),concat(,txn.path,),map_str(%s)", h.variable, routes)
		longest := fmt.Sprintf("str(prefix:),concat(,txn.%s,),concat(,txn.path,/),map_beg(%s)", h.variable, routes)
		next := " if !found"
		if i < 2 {
			next += strings.TrimPrefix(strings.TrimPrefix(h.when, " if !found"), " if")
		}
		lines = append(lines, "http-request set-var(txn.route) "+first+h.when, "http-request set-var(txn.route) "+longest+next)
	}
	for i, h := range hosts {
		when := h.when
		if i == 0 {
			when = " if !found named"
		}
		lines = append(lines, fmt.Sprintf("http-request set-var(txn.route) str(default:),concat(,txn.%s,),map_str(%s)%s", h.variable, routes, when))
	}
	port := ""
	if p := cmp.Or(s.RedirectPort, 443); p != 443 {
		port = fmt.Sprintf(":%d", p)
	}
	lines = append(lines,
		"http-request set-var(txn.backend) var(txn.route),field(1,|)",
		"acl redirects var(txn.route),field(2,|) -m str redirect",
		"http-request redirect code 308 location https://%[var(txn.host)]"+port+"%[pathq] if redirects named !{ ssl_fc }",
		// An upload is never sent twice.
		"http-request disable-l7-retry unless METH_GET || METH_HEAD || METH_OPTIONS || METH_TRACE",
	)
	lines = append(lines, s.forwarded()...)
	lines = append(lines,
		"use_backend %[var(txn.backend)] if { var(txn.backend) -m found }",
		"default_backend "+routing.NotFound,
	)
	for _, line := range lines {
		fmt.Fprintf(b, "    %s\n", line)
	}
}

// forwarded tells the pods who asked. What a client says of itself goes only where
// the client is a proxy that the operator trusts.
func (s *Settings) forwarded() []string {
	lines := []string{"acl trusted always_false"}
	if len(s.TrustedProxies) > 0 {
		lines[0] = "acl trusted src"
		for _, p := range s.TrustedProxies {
			lines[0] += " " + p.Masked().String()
		}
	}
	for _, h := range [...]string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Proto", "X-Real-IP"} {
		lines = append(lines, "http-request del-header "+h+" unless trusted")
	}
	return append(lines,
		"option forwardfor",
		"http-request set-header X-Forwarded-Proto https if { ssl_fc } !{ req.hdr(X-Forwarded-Proto) -m found }",
		"http-request set-header X-Forwarded-Proto http if !{ ssl_fc } !{ req.hdr(X-Forwarded-Proto) -m found }",
		"http-request set-header X-Forwarded-Host %[req.fhdr(host)] if !{ req.hdr(X-Forwarded-Host) -m found }",
		"http-request set-header X-Forwarded-Port %[dst_port] if !{ req.hdr(X-Forwarded-Port) -m found }",
	)
}

func backend(b *bytes.Buffer, k *routing.Backend) {
	// Of two servers at random the one with fewer connections: several replicas of
	// this proxy then never agree on the same pod.
	fmt.Fprintf(b, "\nbackend %s\n    balance random(2)\n", k.Name)
	for _, server := range k.Servers {
		fmt.Fprintf(b, "    server %s\n", serverLine(k, server))
	}
}

// serverLine is what follows "server" in the configuration and, after the backend's
// name, "add server" on the runtime socket.
func serverLine(k *routing.Backend, s routing.Server) string {
	line := s.Name() + " " + s.Address.String()
	if k.HTTP2 {
		line += " proto h2"
	}
	return line
}

// entries are the lines of the map of routes: a key, a space and a value.
func entries(t *routing.Table) []string {
	out := make([]string, 0, len(t.Routes))
	for i := range t.Routes {
		out = append(out, entry(&t.Routes[i]))
	}
	return out
}

func entry(r *routing.Route) string {
	key := r.Kind.String() + ":" + r.Host + r.Path
	if r.Kind == routing.Prefix {
		key += "/"
	}
	if r.RedirectTLS {
		return key + " " + r.Backend + "|redirect"
	}
	return key + " " + r.Backend
}

// hostsPerLine keeps the lines of the crt-list far below what HAProxy reads.
const hostsPerLine = 32

// certificateList is the crt-list: the first is the default certificate.
func certificateList(t *routing.Table, dir string) []byte {
	var b bytes.Buffer
	if d := t.DefaultCertificate; d != nil {
		// No filter: it has the names in it, unless an Ingress has them too.
		fmt.Fprintf(&b, "%s !*\n", certificatePath(dir, d.ID))
	}
	for i := range t.Certificates {
		c := &t.Certificates[i]
		for hosts := range slices.Chunk(c.Hosts, hostsPerLine) {
			fmt.Fprintf(&b, "%s %s\n", certificatePath(dir, c.ID), strings.Join(hosts, " "))
		}
	}
	return b.Bytes()
}

func certificatePath(dir, id string) string { return filepath.Join(dir, id+".pem") }

func milliseconds(d time.Duration) string { return fmt.Sprintf("%dms", d.Milliseconds()) }
