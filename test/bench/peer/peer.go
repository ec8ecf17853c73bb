// Package peer builds the worlds that the benchmark compares: each has a client
// and servers in namespaces of their own, with the same addresses and the same
// services, and one way of moving packets between them.
package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/test/bench/load"
)

// Prefix begins the name of every namespace and directory that a run makes; the
// process number follows, so that a later run knows what a crashed one has left.
const Prefix = "vrb"

// ErrMissing says that a program which the peer is made of is not installed.
var ErrMissing = errors.New("not installed (test/deps-bench.sh installs it)")

// Addresses and ports of every world.
var (
	clientAddress = netip.MustParseAddr("203.0.113.7")
	serverAddress = [...]netip.Addr{netip.MustParseAddr("10.244.0.11"), netip.MustParseAddr("10.244.0.12")}
	// web balances each flow by itself, bulk by the client's address: iperf3 opens
	// several connections that must reach one server.
	web  = netip.MustParseAddr("10.96.0.10")
	bulk = netip.MustParseAddr("10.96.0.11")
	// loopServer is in the client's subnet: nobody routes there.
	loopServer = netip.MustParseAddr("203.0.113.80")
)

// The servers' ports. The services have others, so that ports are translated too.
const (
	httpPort, bulkPort, udpPort, askPort = 8080, 5201, 9001, 9002
)

// Peer is one of the worlds, ready for traffic. Its methods belong to one
// goroutine.
type Peer struct {
	Name string
	// Where the client reaches what the servers offer.
	HTTP, Bulk, UDP, Ask netip.AddrPort

	client     string   // namespace
	node, far  string   // namespaces of the client's node and the servers', the same on one host
	servers    []string // namespaces
	mtu        int      // of the client's and the servers' devices
	setup      Setup
	dir        string
	programs   []*program
	forwarders []*program    // those that move the packets
	counters   []*program    // `load serve` in each server's namespace
	temporary  []*program    // the client's, for one measurement
	spent      time.Duration // processor time of temporary programs that have ended
	softirqd   []int         // process numbers of the kernel's softirq threads
	drops      func(ctx context.Context) (map[string]float64, error)
	closers    []func() error
}

// Setup is what Start needs to know.
type Setup struct {
	Self string // the benchmark's own binary, for the load programs
	Dir  string // the run's directory
}

// hostMTU is that of the devices in a world of one host.
const hostMTU = 1500

// newPeer makes a world of one host, with n servers, as far as namespaces.
func newPeer(name string, s Setup, n int) (*Peer, error) {
	p := prepare(name, s, n)
	return p, p.create()
}

// prepare names the namespaces of a world of one host: the client's, the node's
// and those of n servers.
func prepare(name string, s Setup, n int) *Peer {
	p := &Peer{Name: name, setup: s, dir: filepath.Join(s.Dir, name), softirqd: softirqThreads(), mtu: hostMTU}
	p.HTTP, p.Bulk = netip.AddrPortFrom(web, 80), netip.AddrPortFrom(bulk, 5201)
	p.UDP, p.Ask = netip.AddrPortFrom(web, 9000), netip.AddrPortFrom(web, 9002)
	p.client, p.node = netns.Name(Prefix, name+"-client"), netns.Name(Prefix, name+"-node")
	p.far = p.node
	for i := range n {
		p.servers = append(p.servers, netns.Name(Prefix, fmt.Sprintf("%s-web-%d", name, i+1)))
	}
	return p
}

// create makes the namespaces, or none.
func (p *Peer) create() error {
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return err
	}
	for _, ns := range p.namespaces() {
		if _, err := netns.Create(ns); err != nil {
			return errors.Join(err, p.Close())
		}
		if err := netns.Do(ns, tune); err != nil {
			return errors.Join(err, p.Close())
		}
	}
	return nil
}

func (p *Peer) namespaces() []string {
	names := append([]string{p.client, p.node}, p.servers...)
	if p.far != p.node {
		names = append(names, p.far)
	}
	return names
}

// settings are the kernel's in every namespace: ports and queues enough for many
// short connections.
var settings = map[string]string{
	"ipv4/ip_local_port_range":   "1024 65535",
	"ipv4/tcp_tw_reuse":          "1",
	"ipv4/tcp_max_syn_backlog":   "8192",
	"core/somaxconn":             "8192",
	"ipv4/ip_forward":            "1",
	"ipv6/conf/all/disable_ipv6": "1", // no background chatter
}

// tune sets the kernel up in the calling thread's namespace.
func tune() error {
	for name, value := range settings {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// role returns the command line of a role of the load.
func (s Setup) role(name string, with any) ([]string, error) {
	args, err := load.Args(name, with)
	return append([]string{s.Self}, args...), err
}

// play starts a role of the load in a namespace and waits until it is ready.
func (p *Peer) play(ns, name, role string, with any) (*program, error) {
	args, err := p.setup.role(role, with)
	if err != nil {
		return nil, err
	}
	g, err := p.talk(ns, name, args...)
	if err != nil {
		return nil, err
	}
	if _, err := g.out.ReadString('\n'); err != nil {
		return g, fmt.Errorf("%s: %s: %w: %s", p.Name, name, err, tail(g.log))
	}
	return g, nil
}

// serve starts the servers and waits until the client reaches every one.
func (p *Peer) serve(ctx context.Context) error {
	for i, ns := range p.servers {
		if err := p.serveHTTP(ns, i); err != nil {
			return err
		}
		if _, err := p.start(ns, fmt.Sprintf("iperf3-%d", i), "iperf3", "-s", "-p", fmt.Sprint(bulkPort)); err != nil {
			return err
		}
		c, err := p.play(ns, fmt.Sprintf("serve-%d", i), "serve", load.Serve{UDP: udpPort, TCP: askPort})
		if err != nil {
			return err
		}
		p.counters = append(p.counters, c)
	}
	for _, to := range []netip.AddrPort{p.HTTP, p.Bulk, p.Ask} {
		for range 2 * len(p.servers) { // more often than not, each server
			if err := p.reach(ctx, to); err != nil {
				return err
			}
		}
	}
	return nil
}

// nginxConfig serves two bytes and logs nothing. One process for each server, two
// where there is only one.
const nginxConfig = `
daemon off;
pid %[1]s/nginx-%[2]d.pid;
error_log %[1]s/nginx-%[2]d.log;
worker_processes %[3]d;
events { worker_connections 8192; }
http {
    access_log off;
    client_body_temp_path %[1]s/tmp; proxy_temp_path %[1]s/tmp; fastcgi_temp_path %[1]s/tmp; uwsgi_temp_path %[1]s/tmp; scgi_temp_path %[1]s/tmp;
    server { listen %[4]d backlog=8192; location / { return 200 "ok"; } }
}
`

func (p *Peer) serveHTTP(ns string, i int) error {
	file := filepath.Join(p.dir, fmt.Sprintf("nginx-%d.conf", i))
	text := fmt.Sprintf(nginxConfig, p.dir, i, 2/len(p.servers), httpPort)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return err
	}
	_, err := p.start(ns, fmt.Sprintf("nginx-%d", i), "nginx", "-p", p.dir, "-e", fmt.Sprintf("nginx-%d.log", i), "-c", file)
	return err
}

// patience is how long something may take that should take milliseconds.
const patience = 15 * time.Second

// reach waits until a connection from the client opens.
func (p *Peer) reach(ctx context.Context, to netip.AddrPort) error {
	return eventually(ctx, fmt.Sprintf("%s: a connection to %v", p.Name, to), func() error {
		return netns.Do(p.client, func() error {
			conn, err := net.DialTimeout("tcp", to.String(), time.Second)
			if err != nil {
				return err
			}
			return conn.Close()
		})
	})
}

// eventually asks until there is no error or patience ends.
func eventually(ctx context.Context, what string, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: gave up: %w", what, err)
		case <-tick.C:
		}
	}
}

// Client returns the namespace where traffic starts.
func (p *Peer) Client() string { return p.client }

// Close ends every program and removes the namespaces.
func (p *Peer) Close() error {
	var errs []error
	for i := len(p.programs) - 1; i >= 0; i-- {
		p.programs[i].stop()
	}
	for i := len(p.closers) - 1; i >= 0; i-- {
		errs = append(errs, p.closers[i]())
	}
	p.programs, p.closers = nil, nil
	for _, ns := range p.namespaces() {
		errs = append(errs, netns.Delete(ns))
	}
	return errors.Join(errs...)
}

// tail returns the last lines of a program's log, for an error message.
func tail(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}
