package routing

import (
	"net/netip"

	"k8s.io/apimachinery/pkg/types"
)

// Kind says which requests a Route takes.
type Kind uint8

// The kinds, strongest first.
const (
	Exact   Kind = iota // the path, byte for byte
	Prefix              // the path, or what lies below it
	Default             // what no other route takes
)

// String is how the kind is written in maps and messages.
func (k Kind) String() string { return [...]string{"exact", "prefix", "default"}[k] }

// Names of the backends that hold no pods.
const (
	NotFound    = "not-found"    // answers 404: no rule and no default backend
	NoEndpoints = "no-endpoints" // answers 503: a rule whose backend cannot be resolved
)

// AnyHost is the host of routes that are for all hosts.
const AnyHost = "*"

// Route sends the requests for one host and path to one backend.
type Route struct {
	Kind        Kind
	Host        string // a lower-case DNS name, "*." and one, or AnyHost
	Path        string // begins with "/"; of a Prefix without the "/" at its end, so "" is all paths; empty for Default
	Backend     string // a Backend's Name, NotFound or NoEndpoints
	RedirectTLS bool   // plain HTTP is answered with a redirect to HTTPS
	Ingress     types.NamespacedName
}

// Backend is one port of one Service.
type Backend struct {
	Name    string   // NAMESPACE:SERVICE:PORT, of [a-z0-9.:-]
	HTTP2   bool     // the pods speak HTTP/2 without TLS (appProtocol kubernetes.io/h2c)
	Servers []Server // usable endpoints by address; empty answers 503
}

// Server is one pod.
type Server struct {
	Address netip.AddrPort
}

// Name is the server's name, unique in its backend, of [0-9a-f.:-].
func (s Server) Name() string {
	return s.Address.Addr().String() + "-" + portString(s.Address.Port())
}

// Certificate is a key pair and the hosts that it is shown to.
type Certificate struct {
	ID     string   // hash of the contents, hexadecimal
	Hosts  []string // as in Route, sorted; a server name that no certificate has gets the default certificate
	PEM    []byte   // the chain and the key, re-encoded; never logged
	Secret types.NamespacedName

	Ingresses []types.NamespacedName // those that ask for it, sorted; none for the default certificate
}

// Problem is something in an Ingress that has no effect, or not the one that its
// author meant.
type Problem struct {
	Ingress types.NamespacedName
	Reason  string // CamelCase, as events have it
	Message string // what is wrong, where, and what to do; strings of the author are quoted
}

// Table is everything that a proxy has to know. It does not change once it is made.
type Table struct {
	Routes             []Route       // sorted by kind, host, path; no two alike
	Backends           []Backend     // sorted by name
	Certificates       []Certificate // sorted by ID; no host twice
	DefaultCertificate *Certificate  // shown to clients that name no host with a certificate; nil refuses them
	Problems           []Problem
	Ingresses          []types.NamespacedName        // those of our classes, sorted
	Secrets            []types.NamespacedName        // those that they name, there or not, sorted
	Services           map[types.NamespacedName]bool // those that they name, there or not
}
