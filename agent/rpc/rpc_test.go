package rpc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// table is who may call what, written down once more.
var table = map[string]Role{
	"Apply":  Operator,
	"Attach": Operator, "Detach": Operator, "Sync": Admin, "List": Viewer, "Watch": Viewer, "Explain": Viewer,
	"ListFlows": Viewer, "WatchFlows": Viewer, "DeleteFlows": Operator,
	"ListDrops": Viewer, "WatchDrops": Viewer, "GetStatus": Viewer,
}

// open answers every call with Unimplemented: who gets that far was let in.
type open struct {
	pb.UnimplementedAgentServiceServer
}

// Explain panics, for the test of the guard.
func (open) Explain(context.Context, *pb.ExplainRequest) (*pb.ExplainResponse, error) { panic("a bug") }

// serve runs a server and returns how to reach it.
func serve(t *testing.T, o Options) (socket string, s *Server) {
	t.Helper()
	if o.Socket == "" {
		o.Socket = filepath.Join(t.TempDir(), "s")
	}
	o.Log = slog.New(slog.DiscardHandler)
	s, err := Listen(o, open{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return o.Socket, s
}

func dial(t *testing.T, target string, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(target, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// call invokes a method of the service, unary or not, and returns its status.
func call(t *testing.T, conn *grpc.ClientConn, method string) codes.Code {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/vrouter.v1.AgentService/"+method)
	if err != nil {
		return status.Code(err)
	}
	if stream.SendMsg(&pb.GetStatusRequest{}) == nil {
		_ = stream.CloseSend() // a refusal shows when the answer is read
	}
	return status.Code(stream.RecvMsg(&pb.GetStatusResponse{}))
}

// TestEveryMethodTimesEveryRole connects as users with each role and calls every
// method there is; one that is not in the table fails the test.
func TestEveryMethodTimesEveryRole(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIP-PRIVILEGED: connects as other users")
	}
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} { // others must get to the socket
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	socket, _ := serve(t, Options{Socket: filepath.Join(dir, "s"), Roles: Roles{
		Admins: Subjects{Users: []string{"60001"}}, Operators: Subjects{Groups: []string{"60002"}},
	}})
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, who := range []struct {
		role     Role
		uid, gid int
	}{{Admin, 0, 0}, {Admin, 60001, 60001}, {Operator, 60005, 60002}, {Viewer, 60005, 60005}} {
		conn := dial(t, "passthrough:///"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return dialAs(socket, who.uid, who.gid) }))
		for _, m := range methods() {
			needed, listed := table[m]
			if !listed {
				t.Fatalf("%s is not in the table: say who may call it", m)
			}
			if m == "Explain" {
				continue // panics here: see TestPanicCostsOneCall
			}
			want := codes.Unimplemented
			if who.role < needed {
				want = codes.PermissionDenied
			}
			if got := call(t, conn, m); got != want {
				t.Errorf("%s as %s (uid %d gid %d): %v, want %v", m, who.role, who.uid, who.gid, got, want)
			}
		}
		answer, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil || answer.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("health as %s: %v %v", who.role, answer, err)
		}
	}
}

func methods() []string {
	var names []string
	for _, m := range pb.AgentService_ServiceDesc.Methods {
		names = append(names, m.MethodName)
	}
	for _, m := range pb.AgentService_ServiceDesc.Streams {
		names = append(names, m.StreamName)
	}
	return names
}

// dialAs connects as another user. The change is the thread's alone, and the
// thread ends with its goroutine.
func dialAs(socket string, uid, gid int) (conn net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if uid != 0 {
			if _, _, errno := syscall.RawSyscall(syscall.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
				err = errno
				return
			}
			if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)); errno != 0 {
				err = errno
				return
			}
			if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
				err = errno
				return
			}
		}
		conn, err = net.Dial("unix", socket)
	}()
	<-done
	return conn, err
}

// TestPanicCostsOneCall holds that a bug in a handler ends the call and not the
// daemon.
func TestPanicCostsOneCall(t *testing.T) {
	socket, _ := serve(t, Options{})
	conn := dial(t, "unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if got := call(t, conn, "Explain"); got != codes.Internal {
		t.Errorf("a call that panics: %v, want Internal", got)
	}
	if got := call(t, conn, "GetStatus"); got != codes.Unimplemented {
		t.Errorf("the next call: %v", got)
	}
}

func TestSecondDaemon(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	lock, err := TakeLock(socket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := TakeLock(socket); !errors.Is(err, ErrInUse) {
		t.Errorf("a second daemon: %v, want ErrInUse", err)
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	lock, err = TakeLock(socket)
	if err != nil {
		t.Fatalf("after the first ended: %v", err)
	}
	defer func() {
		if err := lock.Release(); err != nil {
			t.Error(err)
		}
	}()

	// A socket that a crash left is replaced; a file that is none is not.
	stale, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close()
	serve(t, Options{Socket: socket})
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket %v, %v; want mode 0660", info, err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(Options{Socket: file, Log: slog.Default()}, open{}); err == nil {
		t.Error("replaced a file that is no socket")
	}
}

// authority signs certificates for a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	a.cert, a.key, _ = a.issue(&x509.Certificate{Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(time.Hour)})
	return a
}

func (a *authority) issue(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey, tls.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber, template.NotBefore = big.NewInt(time.Now().UnixNano()), time.Now().Add(-2*time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// client returns a client certificate with a SPIFFE id.
func (a *authority) client(id string, until time.Time) tls.Certificate {
	u, err := url.Parse(id)
	if err != nil {
		a.t.Fatal(err)
	}
	_, _, pair := a.issue(&x509.Certificate{URIs: []*url.URL{u}, NotAfter: until, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return pair
}

// write writes a certificate, and its key, as PEM files.
func (a *authority) write(pair tls.Certificate) (certFile, keyFile string) {
	dir := a.t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		a.t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, keyFile: {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// TestMutualTLS connects over TCP with every kind of certificate.
func TestMutualTLS(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	_, _, serverPair := ours.issue(&x509.Certificate{IPAddresses: []net.IP{{127, 0, 0, 1}}, NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	certFile, keyFile := ours.write(serverPair)
	caFile, _ := ours.write(tls.Certificate{Certificate: [][]byte{ours.cert.Raw}, PrivateKey: ours.key})
	_, s := serve(t, Options{TCP: "127.0.0.1:0", TLS: TLS{Certificate: certFile, Key: keyFile, ClientCA: caFile, Names: map[string]Role{
		"spiffe://test/viewer": Viewer, "spiffe://test/admin": Admin,
	}}})
	pool := x509.NewCertPool()
	pool.AddCert(ours.cert)
	later := time.Now().Add(time.Hour)
	for _, tc := range []struct {
		name   string
		cert   []tls.Certificate
		max    uint16
		method string
		want   codes.Code
	}{
		{"no certificate", nil, 0, "GetStatus", codes.Unavailable},
		{"another authority", []tls.Certificate{theirs.client("spiffe://test/admin", later)}, 0, "GetStatus", codes.Unavailable},
		{"expired", []tls.Certificate{ours.client("spiffe://test/admin", time.Now().Add(-time.Hour))}, 0, "GetStatus", codes.Unavailable},
		{"TLS 1.2", []tls.Certificate{ours.client("spiffe://test/admin", later)}, tls.VersionTLS12, "GetStatus", codes.Unavailable},
		{"a name without role", []tls.Certificate{ours.client("spiffe://test/nobody", later)}, 0, "GetStatus", codes.PermissionDenied},
		{"viewer looks", []tls.Certificate{ours.client("spiffe://test/viewer", later)}, 0, "GetStatus", codes.Unimplemented},
		{"viewer changes", []tls.Certificate{ours.client("spiffe://test/viewer", later)}, 0, "Apply", codes.PermissionDenied},
		{"admin", []tls.Certificate{ours.client("spiffe://test/admin", later)}, 0, "Sync", codes.Unimplemented},
	} {
		t.Run(tc.name, func(t *testing.T) {
			creds := credentials.NewTLS(&tls.Config{RootCAs: pool, Certificates: tc.cert, MaxVersion: tc.max})
			conn := dial(t, s.TCPAddr().String(), grpc.WithTransportCredentials(creds))
			if got := call(t, conn, tc.method); got != tc.want {
				t.Errorf("%v, want %v", got, tc.want)
			}
		})
	}
}
