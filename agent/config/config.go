// Package config reads the daemon's configuration file. What the file says is
// taken strictly: an unknown field or a value that cannot be is refused with its
// line and column.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/vrouter-go/vrouter/agent/rpc"
	"github.com/vrouter-go/vrouter/flowtable"
)

// Config is the file. Every field has a default; an empty file is valid.
type Config struct {
	Node        string    `yaml:"node"`        // the node's name; default: the host's
	Socket      string    `yaml:"socket"`      // of the API
	SocketGroup string    `yaml:"socketGroup"` // whose members may connect; default: vrouter where it exists
	StateDir    string    `yaml:"stateDir"`    // where desired state is kept
	Roles       Roles     `yaml:"roles"`
	TCP         TCP       `yaml:"tcp"`
	Metrics     Metrics   `yaml:"metrics"`
	Forwarder   Forwarder `yaml:"forwarder"`
	Timeouts    Timeouts  `yaml:"timeouts"`
	Log         Log       `yaml:"log"`
}

// Roles give users and groups of this machine a role, beside root (admin) and
// group vrouter (operator).
type Roles struct {
	Admins    Subjects `yaml:"admins"`
	Operators Subjects `yaml:"operators"`
	Viewers   Subjects `yaml:"viewers"`
}

// Subjects are users and groups by name or number.
type Subjects struct {
	Users  []string `yaml:"users"`
	Groups []string `yaml:"groups"`
}

// TCP serves the API with mutual TLS.
type TCP struct {
	Address     string            `yaml:"address"` // host:port; empty: not at all
	Certificate string            `yaml:"certificate"`
	Key         string            `yaml:"key"`
	ClientCA    string            `yaml:"clientCA"`
	Names       map[string]string `yaml:"names"` // DNS name or URI in the client's certificate → role
}

// Metrics serves /metrics over HTTP, on a Unix socket or on a loopback address.
type Metrics struct {
	Socket  string `yaml:"socket"`
	Address string `yaml:"address"`
}

// Forwarder sizes the engine.
type Forwarder struct {
	Workers          int   `yaml:"workers"`          // 0: one for every two processors
	Sessions         int   `yaml:"sessions"`         // capacity of the flow table
	AffinityEntries  int   `yaml:"affinityEntries"`  // clients that session affinity remembers
	DefaultFlowQuota int32 `yaml:"defaultFlowQuota"` // 0: a quarter of sessions; -1: none
}

// Timeouts after which idle sessions end; none below its RFC's floor.
type Timeouts struct {
	UDPUnreplied   Duration `yaml:"udpUnreplied"`
	UDPStream      Duration `yaml:"udpStream"`
	TCPEstablished Duration `yaml:"tcpEstablished"`
	TCPTransitory  Duration `yaml:"tcpTransitory"`
	ICMP           Duration `yaml:"icmp"`
	Other          Duration `yaml:"other"`
}

// Log says what is logged and how.
type Log struct {
	Level  string `yaml:"level"`  // debug, info, warn or error
	Format string `yaml:"format"` // text or json
}

// Duration is a time.Duration written as Go writes it: 300s, 2h4m.
type Duration time.Duration

// UnmarshalYAML reads a duration.
func (d *Duration) UnmarshalYAML(b []byte) error {
	var s string
	if err := yaml.Unmarshal(b, &s); err != nil {
		return err
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is no duration; write 300s or 2h4m", s)
	}
	*d = Duration(v)
	return nil
}

// The defaults.
const (
	DefaultPath     = "/etc/vrouter/vrouter.yaml"
	defaultSocket   = "/run/vrouter/vrouter.sock"
	defaultStateDir = "/var/lib/vrouter"
	maxFile         = 1 << 20
)

// Load reads the configuration at path. A file that is not there is an error
// unless path is DefaultPath: then the defaults hold.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && path == DefaultPath {
		return Parse(path, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("configuration %s: larger than %d bytes; is it the right file?", path, maxFile)
	}
	return Parse(path, b)
}

// Parse reads a configuration and fills in the defaults. path is for errors.
func Parse(path string, text []byte) (*Config, error) {
	defaults := Config{Socket: defaultSocket, StateDir: defaultStateDir, Log: Log{Level: "info", Format: "text"}}
	c := new(Config)
	*c = defaults
	decoder := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict(), yaml.DisallowUnknownField())
	if err := decoder.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("configuration %s:%s", path, yaml.FormatError(err, false, true))
	}
	if reflect.DeepEqual(*c, Config{}) { // nothing but comments, which decodes to nothing at all
		*c = defaults
	}
	if c.Node == "" {
		name, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("the host has no name: %w; give node in %s", err, path)
		}
		c.Node = name
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// check refuses values that cannot be.
func (c *Config) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !filepath.IsAbs(c.Socket) {
		bad("socket: %q must be an absolute path", c.Socket)
	}
	if c.StateDir != "" && !filepath.IsAbs(c.StateDir) {
		bad("stateDir: %q must be an absolute path, or empty to keep state in memory only", c.StateDir)
	}
	if n := c.Forwarder.Workers; n < 0 || n > 256 {
		bad("forwarder.workers: %d must be 0 (one for every two processors) to 256", n)
	}
	if n := c.Forwarder.Sessions; n < 0 || n != 0 && n < 1024 {
		bad("forwarder.sessions: %d must be at least 1024, or 0 for the default", n)
	}
	if c.Forwarder.AffinityEntries < 0 {
		bad("forwarder.affinityEntries: %d must not be negative", c.Forwarder.AffinityEntries)
	}
	if c.Forwarder.DefaultFlowQuota < -1 {
		bad("forwarder.defaultFlowQuota: %d must be a number of sessions, 0 for a quarter of the table, or -1 for none", c.Forwarder.DefaultFlowQuota)
	}
	if err := c.Timeouts.Table().Check(); err != nil {
		bad("timeouts: %w", err)
	}
	if c.Metrics.Address != "" && !loopback(c.Metrics.Address) {
		bad("metrics.address: %q must be a loopback address with a port, for example 127.0.0.1:9469: metrics have no authentication", c.Metrics.Address)
	}
	if _, err := c.Log.level(); err != nil {
		bad("log.level: %w", err)
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		bad("log.format: %q must be text or json", c.Log.Format)
	}
	if c.TCP.Address != "" && (c.TCP.Certificate == "" || c.TCP.Key == "" || c.TCP.ClientCA == "") {
		bad("tcp: address needs certificate, key and clientCA: TCP is served only with mutual TLS")
	}
	if _, err := c.TCP.names(); err != nil {
		bad("tcp.names: %w", err)
	}
	return errors.Join(errs...)
}

func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// Table returns the timeouts as the flow table takes them.
func (t Timeouts) Table() flowtable.Timeouts {
	return flowtable.Timeouts{
		UDPUnreplied: time.Duration(t.UDPUnreplied), UDPStream: time.Duration(t.UDPStream),
		TCPEstablished: time.Duration(t.TCPEstablished), TCPTransitory: time.Duration(t.TCPTransitory),
		ICMP: time.Duration(t.ICMP), Other: time.Duration(t.Other),
	}
}

func (l Log) level() (level slog.Level, err error) {
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		return level, fmt.Errorf("%q must be debug, info, warn or error", l.Level)
	}
	return level, nil
}

// Logger returns the logger that writes to w.
func (l Log) Logger(w io.Writer) *slog.Logger {
	level, err := l.level()
	if err != nil {
		level = slog.LevelInfo // Parse has refused it
	}
	options := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// RPC returns how the API is served.
func (c *Config) RPC(log *slog.Logger) rpc.Options {
	names, err := c.TCP.names()
	if err != nil {
		names = nil // Parse has refused it
	}
	return rpc.Options{
		Socket: c.Socket, SocketGroup: c.SocketGroup, Log: log,
		Roles: rpc.Roles{
			Admins: rpc.Subjects(c.Roles.Admins), Operators: rpc.Subjects(c.Roles.Operators), Viewers: rpc.Subjects(c.Roles.Viewers),
		},
		TCP: c.TCP.Address,
		TLS: rpc.TLS{Certificate: c.TCP.Certificate, Key: c.TCP.Key, ClientCA: c.TCP.ClientCA, Names: names},
	}
}

func (t TCP) names() (map[string]rpc.Role, error) {
	roles := map[string]rpc.Role{}
	for name, role := range t.Names {
		switch role {
		case rpc.Viewer.String():
			roles[name] = rpc.Viewer
		case rpc.Operator.String():
			roles[name] = rpc.Operator
		case rpc.Admin.String():
			roles[name] = rpc.Admin
		default:
			return nil, fmt.Errorf("%s: %q must be viewer, operator or admin", name, role)
		}
	}
	return roles, nil
}
