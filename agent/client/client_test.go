package client

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
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	vrouterv1 "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// agent is a server with one answer for each way to fail.
type agent struct {
	vrouterv1.UnimplementedAgentServiceServer
}

func (agent) GetStatus(context.Context, *vrouterv1.GetStatusRequest) (*vrouterv1.GetStatusResponse, error) {
	return &vrouterv1.GetStatusResponse{Node: "node-1"}, nil
}

func (agent) Apply(context.Context, *vrouterv1.ApplyRequest) (*vrouterv1.ApplyResponse, error) {
	s, err := status.New(codes.InvalidArgument, "1 field is wrong").WithDetails(&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "upserts[0].name", Description: "must be given"}}})
	if err != nil {
		return nil, err
	}
	return nil, s.Err()
}

// Explain never answers.
func (agent) Explain(ctx context.Context, _ *vrouterv1.ExplainRequest) (*vrouterv1.ExplainResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// List breaks off after a part.
func (agent) List(_ *vrouterv1.ListRequest, stream grpc.ServerStreamingServer[vrouterv1.ListResponse]) error {
	if err := stream.Send(&vrouterv1.ListResponse{Resources: []*vrouterv1.Resource{{Name: "a"}}}); err != nil {
		return err
	}
	return status.Error(codes.Internal, "broken")
}

// WatchDrops goes on until the watcher leaves.
func (agent) WatchDrops(_ *vrouterv1.WatchDropsRequest, stream grpc.ServerStreamingServer[vrouterv1.WatchDropsResponse]) error {
	for {
		if err := stream.Send(&vrouterv1.WatchDropsResponse{}); err != nil {
			return err
		}
	}
}

func serve(t *testing.T, network, address string, options ...grpc.ServerOption) net.Addr {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(options...)
	vrouterv1.RegisterAgentServiceServer(server, agent{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // ends with Stop
	}()
	t.Cleanup(func() { server.Stop(); <-done })
	return listener.Addr()
}

func dial(t *testing.T, config Config) *Client {
	t.Helper()
	c, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// asError holds a failed call to being an Error with a word on what to do.
func asError(t *testing.T, err error, code codes.Code, why string) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("%T %v", err, err)
	}
	if e.Code != code || !strings.Contains(e.Why, why) {
		t.Errorf("%v: %q, want %v: %q", e.Code, e.Why, code, why)
	}
	return e
}

func TestCalls(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	serve(t, "unix", socket)
	for _, address := range []string{socket, "unix:" + socket, "unix://" + socket} {
		s, err := dial(t, Config{Address: address}).Status(t.Context())
		if err != nil || s.GetNode() != "node-1" {
			t.Errorf("%s: %v, %v", address, s, err)
		}
	}
	c := dial(t, Config{Address: socket, Timeout: 200 * time.Millisecond})
	_, err := c.Apply(t.Context(), &vrouterv1.ApplyRequest{})
	if e := asError(t, err, codes.InvalidArgument, "1 field is wrong"); len(e.Violations) != 1 || e.Violations[0].Field != "upserts[0].name" {
		t.Errorf("violations %v", e.Violations)
	}
	_, err = c.Explain(t.Context(), &vrouterv1.ExplainRequest{})
	_ = asError(t, err, codes.DeadlineExceeded, "no answer within 200ms")
	_, err = c.DeleteFlows(t.Context(), &vrouterv1.DeleteFlowsRequest{})
	_ = asError(t, err, codes.Unimplemented, "does not know this call")
	resources, _, err := c.List(t.Context(), &vrouterv1.ListRequest{})
	_ = asError(t, err, codes.Internal, "broken")
	if resources != nil {
		t.Error("part of a list was taken for the whole")
	}
	n := 0
	for _, err := range c.WatchDrops(t.Context(), &vrouterv1.WatchDropsRequest{}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 3 { // the stream ends with the loop: goleak holds that nothing is left of it
			break
		}
	}
}

func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false) // as a killed daemon leaves its socket
	listener.Close()
	for address, why := range map[string]string{filepath.Join(dir, "absent"): "the socket does not exist", stale: "nobody listens there any more"} {
		_, err := dial(t, Config{Address: address}).Status(t.Context())
		if e := asError(t, err, codes.Unavailable, why); !strings.Contains(e.Try, "start it with") {
			t.Errorf("try %q", e.Try)
		}
	}
}

func TestMutualTLS(t *testing.T) {
	dir := t.TempDir()
	ca, caKey := certificate(t, dir, "ca", nil, nil)
	certificate(t, dir, "server", ca, caKey)
	certificate(t, dir, "client", ca, caKey)
	file := func(name string) string { return filepath.Join(dir, name) }
	pair, err := tls.LoadX509KeyPair(file("server.pem"), file("server.key"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	address := serve(t, "tcp", "127.0.0.1:0", grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}))).String()
	good := Config{Address: "tcp://" + address, CAFile: file("ca.pem"), CertFile: file("client.pem"), KeyFile: file("client.key"), ServerName: "vrouter.test"}
	if s, err := dial(t, good).Status(t.Context()); err != nil || s.GetNode() != "node-1" {
		t.Errorf("%v, %v", s, err)
	}
	wrongName := good
	wrongName.ServerName = "other.test"
	_, err = dial(t, wrongName).Status(t.Context())
	_ = asError(t, err, codes.Unavailable, "vrouter.test")

	for name, config := range map[string]Config{
		"no certificates": {Address: address},
		"no address":      {Address: "nowhere"},
		"absent file":     {Address: address, CAFile: file("absent"), CertFile: file("client.pem"), KeyFile: file("client.key")},
		"key as CA":       {Address: address, CAFile: file("client.key"), CertFile: file("client.pem"), KeyFile: file("client.key")},
		"wrong key":       {Address: address, CAFile: file("ca.pem"), CertFile: file("client.pem"), KeyFile: file("server.key")},
	} {
		c, err := New(config)
		var e *Error
		if c != nil || !errors.As(err, &e) || e.Try == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// certificate writes NAME.pem and NAME.key, signed by ca, or by itself when ca is nil.
func certificate(t *testing.T, dir, name string, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"vrouter.test"}, IsCA: ca == nil, BasicConstraintsValid: true}
	parent, signer := ca, caKey
	if ca == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate, key
}
