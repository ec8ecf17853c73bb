// Package rpc serves the agent's gRPC API: on a Unix socket whose peers are known
// by their credentials, and where configured on TCP with mutual TLS. Each method
// needs a role; changes are written to an audit log.
package rpc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Options say where the API is served and to whom.
type Options struct {
	// Socket is the path of the Unix socket; its group may connect.
	Socket string
	// SocketGroup owns the socket; "" = vrouter, where that group exists.
	SocketGroup string
	Roles       Roles
	// TCP serves with mutual TLS on this address too; "" = not.
	TCP string
	TLS TLS
	// MaxMessage bounds a request, in bytes; 0 = 128 MiB: the state of a whole
	// node in one transaction.
	MaxMessage int
	Log        *slog.Logger
}

const defaultMaxMessage = 128 << 20

// Limits on what one connection may cost.
const (
	maxStreams    = 128
	keepaliveTime = 60 * time.Second
	// leastPing is how often a client may ping.
	leastPing = 10 * time.Second
	// drainTime is how long open calls have to end at shutdown.
	drainTime = 2 * time.Second
)

// Server is the API being served.
type Server struct {
	servers []*grpc.Server
	serve   []func() error
	health  *health.Server
	tcp     net.Addr
	log     *slog.Logger
}

// ErrInUse says that another daemon serves the socket.
var ErrInUse = errors.New("another vrouter runs on it")

// Listen opens the socket, whose Lock the caller holds, and prepares the service.
// Run serves it.
func Listen(o Options, service pb.AgentServiceServer) (*Server, error) {
	if o.MaxMessage == 0 {
		o.MaxMessage = defaultMaxMessage
	}
	s := &Server{health: health.NewServer(), log: o.Log}
	peers, err := newPeerCredentials(o.Roles)
	if err != nil {
		return nil, err
	}
	listener, err := listenUnix(o)
	if err != nil {
		return nil, err
	}
	s.add(o, peers, listener, service)
	if o.TCP != "" {
		creds, err := o.TLS.credentials()
		if err != nil {
			return nil, errors.Join(err, listener.Close())
		}
		tcp, err := net.Listen("tcp", o.TCP)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen on %s: %w", o.TCP, err), listener.Close())
		}
		s.add(o, creds, tcp, service)
		s.tcp = tcp.Addr()
	}
	return s, nil
}

// TCPAddr returns where the API is served over TCP, nil if it is not.
func (s *Server) TCPAddr() net.Addr { return s.tcp }

func (s *Server) add(o Options, creds credentials.TransportCredentials, l net.Listener, service pb.AgentServiceServer) {
	guard := guard{log: o.Log}
	server := grpc.NewServer(
		grpc.Creds(creds),
		grpc.MaxRecvMsgSize(o.MaxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: leastPing, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(guard.unary),
		grpc.ChainStreamInterceptor(guard.stream),
	)
	pb.RegisterAgentServiceServer(server, service)
	healthpb.RegisterHealthServer(server, s.health)
	reflection.Register(server)
	s.servers = append(s.servers, server)
	s.serve = append(s.serve, func() error {
		if err := server.Serve(l); !errors.Is(err, grpc.ErrServerStopped) { // that: stopped before it began
			return err
		}
		return nil
	})
}

// Run serves until ctx ends, and returns when the last call has.
func (s *Server) Run(ctx context.Context) error {
	s.health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	s.health.SetServingStatus(pb.AgentService_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	g, ctx := errgroup.WithContext(ctx)
	for _, serve := range s.serve {
		g.Go(serve)
	}
	g.Go(func() error {
		<-ctx.Done()
		s.stop()
		return nil
	})
	return g.Wait()
}

// stop ends the service: open calls have a moment to finish, streams are cut.
func (s *Server) stop() {
	s.health.Shutdown()
	for _, server := range s.servers {
		timer := time.AfterFunc(drainTime, server.Stop)
		server.GracefulStop()
		timer.Stop()
	}
}

// Lock says that this process, and no other, serves a socket. It goes with the
// process, however that ends, so nobody has to remove it by hand.
type Lock struct{ file *os.File }

// TakeLock makes sure that no other daemon serves a socket. The error wraps
// ErrInUse where one does.
func TakeLock(socket string) (*Lock, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, fmt.Errorf("socket %s: %w", socket, err)
	}
	f, err := os.OpenFile(socket+".lock", os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, fmt.Errorf("lock of socket %s: %w", socket, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := make([]byte, 32)
		n, _ := f.ReadAt(holder, 0) // an empty file leaves the pid out of the message
		return nil, errors.Join(fmt.Errorf("socket %s: %w (pid %s): stop it, or give another socket in the configuration", socket, ErrInUse, holder[:n]), f.Close())
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock of socket %s: %w", socket, err), f.Close())
	}
	return &Lock{f}, nil
}

// Release lets another daemon serve the socket. The file stays: to remove it
// would let two processes hold a lock each.
func (l *Lock) Release() error { return l.file.Close() }

// listenUnix replaces a socket that a crash left; the lock says that nobody
// serves it.
func listenUnix(o Options) (net.Listener, error) {
	if info, err := os.Lstat(o.Socket); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("socket %s: a file that is no socket is in the way; move it", o.Socket)
		}
		if err := os.Remove(o.Socket); err != nil {
			return nil, fmt.Errorf("socket %s: %w", o.Socket, err)
		}
	}
	old := unix.Umask(0o117) // 0660 from the first moment on
	l, err := net.Listen("unix", o.Socket)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", o.Socket, err)
	}
	if err := giveToGroup(o); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// giveToGroup lets the socket's group connect.
func giveToGroup(o Options) error {
	name := o.SocketGroup
	if name == "" {
		name = defaultGroup
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		if o.SocketGroup == "" {
			return nil // only root connects
		}
		return fmt.Errorf("socket group %s: %w", name, err)
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return fmt.Errorf("socket group %s: %w", name, err)
	}
	if err := os.Chown(o.Socket, -1, gid); err != nil {
		return fmt.Errorf("socket %s: give it to group %s: %w", o.Socket, name, err)
	}
	return nil
}
