package rpc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
)

// defaultGroup is the group of the socket, whose members are operators.
const defaultGroup = "vrouter"

// Roles map the users and groups of this machine to roles, by name or number.
// Root and the daemon's own user are always Admin; members of group vrouter are
// operators, and whoever else can open the socket is a viewer.
type Roles struct {
	Admins    Subjects
	Operators Subjects
	Viewers   Subjects
}

// Subjects are users and groups by name or number.
type Subjects struct{ Users, Groups []string }

// peerCredentials knows the peers of a Unix socket by what the kernel says of
// them (SO_PEERCRED, SO_PEERGROUPS: unix(7), socket(7)).
type peerCredentials struct {
	users  map[uint32]Role
	groups map[uint32]Role
}

func newPeerCredentials(r Roles) (*peerCredentials, error) {
	p := &peerCredentials{users: map[uint32]Role{}, groups: map[uint32]Role{}}
	if g, err := user.LookupGroup(defaultGroup); err == nil {
		if gid, err := strconv.ParseUint(g.Gid, 10, 32); err == nil {
			p.groups[uint32(gid)] = Operator
		}
	}
	for _, list := range [...]struct {
		subjects Subjects
		role     Role
	}{{r.Viewers, Viewer}, {r.Operators, Operator}, {r.Admins, Admin}} {
		for _, name := range list.subjects.Users {
			id, err := number(name, func() (string, error) { u, err := user.Lookup(name); return u.Uid, err })
			if err != nil {
				return nil, fmt.Errorf("roles: user %s: %w", name, err)
			}
			p.users[id] = list.role
		}
		for _, name := range list.subjects.Groups {
			id, err := number(name, func() (string, error) { g, err := user.LookupGroup(name); return g.Gid, err })
			if err != nil {
				return nil, fmt.Errorf("roles: group %s: %w", name, err)
			}
			p.groups[id] = list.role
		}
	}
	p.users[0], p.users[uint32(os.Geteuid())] = Admin, Admin
	return p, nil
}

// number reads an id, or looks a name up.
func number(name string, lookup func() (string, error)) (uint32, error) {
	id, err := strconv.ParseUint(name, 10, 32)
	if err == nil {
		return uint32(id), nil
	}
	s, err := lookup()
	if err != nil {
		return 0, err
	}
	id, err = strconv.ParseUint(s, 10, 32)
	return uint32(id), err
}

// role returns the highest role of a user and its groups.
func (p *peerCredentials) role(uid uint32, gids []uint32) Role {
	role := Viewer
	if r, ok := p.users[uid]; ok {
		role = max(role, r)
	}
	for _, gid := range gids {
		role = max(role, p.groups[gid])
	}
	return role
}

// ServerHandshake implements credentials.TransportCredentials.
func (p *peerCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, nil, errors.New("peer credentials need a Unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var cred *unix.Ucred
	var groups []uint32
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		groups = peerGroups(int(fd))
	}); err != nil {
		return nil, nil, err
	}
	if credErr != nil {
		return nil, nil, fmt.Errorf("SO_PEERCRED: %w", credErr)
	}
	who := caller{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		name:           fmt.Sprintf("uid=%d pid=%d", cred.Uid, cred.Pid),
		role:           p.role(cred.Uid, append(groups, cred.Gid)),
	}
	return c, who, nil
}

// ClientHandshake implements credentials.TransportCredentials; the server has no
// use for it.
func (p *peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("peer credentials are the server's side")
}

// Info implements credentials.TransportCredentials.
func (p *peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "peercred"}
}

// Clone implements credentials.TransportCredentials.
func (p *peerCredentials) Clone() credentials.TransportCredentials { return p }

// OverrideServerName implements credentials.TransportCredentials.
func (p *peerCredentials) OverrideServerName(string) error { return nil }

// TLS is mutual TLS for the TCP listener: TLS 1.3, a client certificate of our
// authority, and a role for one of its names.
type TLS struct {
	Certificate, Key string // PEM files of the server; read again for each connection
	ClientCA         string // PEM file of the authority that signs clients
	// Names maps a DNS name or URI (SPIFFE id) in the client's certificate to its role.
	Names map[string]Role
}

// tlsCredentials is TLS that knows the caller's role afterwards.
type tlsCredentials struct {
	credentials.TransportCredentials
	names map[string]Role
}

func (t TLS) credentials() (credentials.TransportCredentials, error) {
	pem, err := os.ReadFile(t.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("tls: clientCA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("tls: clientCA %s holds no certificate", t.ClientCA)
	}
	load := func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		c, err := tls.LoadX509KeyPair(t.Certificate, t.Key)
		return &c, err
	}
	if _, err := load(nil); err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return &tlsCredentials{credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, GetCertificate: load,
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
	}), t.Names}, nil
}

// ServerHandshake implements credentials.TransportCredentials.
func (t *tlsCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := t.TransportCredentials.ServerHandshake(c)
	if err != nil {
		return nil, nil, err
	}
	tlsInfo, ok := info.(credentials.TLSInfo)
	if !ok || len(tlsInfo.State.PeerCertificates) == 0 {
		conn.Close()
		return nil, nil, errors.New("no client certificate")
	}
	leaf := tlsInfo.State.PeerCertificates[0]
	names := slices.Clone(leaf.DNSNames)
	for _, u := range leaf.URIs {
		names = append(names, u.String())
	}
	who := caller{CommonAuthInfo: tlsInfo.CommonAuthInfo, name: fmt.Sprintf("certificate %v from %s", names, c.RemoteAddr())}
	for _, name := range names {
		who.role = max(who.role, t.names[name])
	}
	return conn, who, nil
}

// Clone implements credentials.TransportCredentials.
func (t *tlsCredentials) Clone() credentials.TransportCredentials {
	return &tlsCredentials{t.TransportCredentials.Clone(), t.names}
}

// peerGroups returns the peer's supplementary groups, none where the kernel does
// not say.
func peerGroups(fd int) []uint32 {
	groups := make([]uint32, 64)
	for {
		size := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(unsafe.SliceData(groups))), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:size/4]
		case errno == unix.ERANGE && len(groups) < 1<<16: // NGROUPS_MAX: limits.h
			groups = make([]uint32, len(groups)*4)
		default:
			return nil
		}
	}
}
