package haproxy

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Settings are what the operator says about the proxy.
type Settings struct {
	Binary         string         // path or name of HAProxy 2.6 or later
	Directory      string         // for files and sockets; holds TLS keys, so best in memory; at most 60 bytes long
	HTTP, HTTPS    []string       // host:port to listen on; an empty host is every address of both families
	RedirectPort   uint16         // the port that clients know HTTPS by, for redirects; 0 is 443
	Threads        int            // 0: one for each processor
	MaxConnections int            // most client connections at a time; 0: 20000 or what the limit of files allows
	TrustedProxies []netip.Prefix // peers whose X-Forwarded-* and Forwarded headers are passed on
	AccessLog      bool           // one line for each request on standard output
	Timeouts       Timeouts
	ReloadInterval time.Duration // shortest time between two reloads
	DrainTimeout   time.Duration // how long connections may outlive a reload or a stop
}

// Timeouts of connections.
type Timeouts struct {
	Connect   time.Duration // to a pod
	Request   time.Duration // for a client to send its headers
	KeepAlive time.Duration // for a client to send another request
	Idle      time.Duration // without a byte, either side, within a request
	Tunnel    time.Duration // without a byte, for WebSockets and the like
}

// DefaultSettings are sensible for a pod.
func DefaultSettings() Settings {
	return Settings{
		Binary: "haproxy", Directory: "/run/vrkube-ingress",
		HTTP: []string{":80"}, HTTPS: []string{":443"},
		Timeouts:       Timeouts{Connect: 3 * time.Second, Request: 10 * time.Second, KeepAlive: 60 * time.Second, Idle: 60 * time.Second, Tunnel: time.Hour},
		ReloadInterval: time.Second,
		DrainTimeout:   10 * time.Minute,
	}
}

// maxDirectory keeps socket paths, to which HAProxy adds while it binds them, within
// the 107 bytes that the kernel allows.
const maxDirectory = 60

// validate refuses what would not make a configuration.
func (s *Settings) validate() error {
	if len(s.Directory) > maxDirectory || len(s.Directory) == 0 || s.Directory[0] != '/' {
		return fmt.Errorf("directory %q: must be an absolute path of at most %d bytes, for it holds sockets", s.Directory, maxDirectory)
	}
	for _, c := range []byte(s.Directory) {
		if c <= ' ' || c >= 0x7f || c == '"' || c == '\'' || c == '\\' || c == '#' || c == '$' {
			return fmt.Errorf("directory %q: byte %q is not allowed", s.Directory, c)
		}
	}
	for _, d := range []time.Duration{s.Timeouts.Connect, s.Timeouts.Request, s.Timeouts.KeepAlive, s.Timeouts.Idle, s.Timeouts.Tunnel, s.DrainTimeout} {
		if d < time.Millisecond {
			return fmt.Errorf("timeout %v: must be at least 1ms", d)
		}
	}
	if s.Threads < 0 || s.Threads > 64 || s.MaxConnections < 0 {
		return fmt.Errorf("threads %d, connections %d: must not be negative, and at most 64 threads", s.Threads, s.MaxConnections)
	}
	for _, list := range [...][]string{s.HTTP, s.HTTPS} {
		if _, err := binds(list, true); err != nil {
			return err
		}
	}
	if len(s.HTTP)+len(s.HTTPS) == 0 {
		return fmt.Errorf("no address to listen on: give one for HTTP or HTTPS")
	}
	return nil
}

// binds writes addresses as HAProxy's bind lines have them. v6 says whether the
// network namespace has IPv6.
func binds(list []string, v6 bool) ([]string, error) {
	var out []string
	for _, text := range list {
		host, port, err := net.SplitHostPort(text)
		if err != nil {
			return nil, fmt.Errorf("listen address %q: %w; write HOST:PORT, [HOST]:PORT or :PORT", text, err)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("listen address %q: the port must be a number from 1 to 65535", text)
		}
		if host == "" {
			out = append(out, "0.0.0.0:"+port)
			if v6 {
				out = append(out, "[::]:"+port+" v6only")
			}
			continue
		}
		a, err := netip.ParseAddr(host)
		if err != nil || a.Zone() != "" {
			return nil, fmt.Errorf("listen address %q: the host must be an IP address or empty", text)
		}
		out = append(out, net.JoinHostPort(a.String(), port))
	}
	return out, nil
}

// hasIPv6 says whether this network namespace can listen on IPv6.
func hasIPv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	err = unix.Bind(fd, &unix.SockaddrInet6{})
	_ = unix.Close(fd) // bound to no one
	return err == nil
}

// connections is maxconn: two descriptors each, and some for the rest, must be within
// the process's limit, which HAProxy without privileges cannot raise.
func (s *Settings) connections() int {
	const most, spare = 20000, 300
	want := s.MaxConnections
	if want == 0 {
		want = most
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return want
	}
	if fits := (int64(min(limit.Max, 1<<30)) - spare) / 2; int64(want) > fits {
		want = int(max(fits, 10))
	}
	return want
}
