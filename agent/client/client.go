// Package client talks to the agent of one node: the typed calls of vrouter.v1 with deadlines, lists put together from their
// streams, and errors that say what, why and what to try.
package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	vrouterv1 "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

const (
	// DefaultAddress is where the agent listens when nothing else is said.
	DefaultAddress = "/run/vrouter/vrouter.sock"
	// DefaultTimeout bounds each call that is not a watch.
	DefaultTimeout = 30 * time.Second
	// MaxMessageBytes is the largest message either side takes: a transaction of a whole node's state.
	MaxMessageBytes = 128 << 20
)

// Config says how to reach an agent. The zero value is the local agent on its default socket.
type Config struct {
	// Address is a socket's path (also as unix:PATH), or host:port (also as tcp://host:port). Default: DefaultAddress.
	Address string
	// CAFile, CertFile and KeyFile are PEM files for mutual TLS: the authority of the agent's certificate, our certificate and its key.
	// All three are needed for host:port and none for a socket.
	CAFile, CertFile, KeyFile string
	// ServerName that the agent's certificate must carry. Default: the host in Address.
	ServerName string
	// Timeout of each call that is not a watch. Default: DefaultTimeout.
	Timeout time.Duration
}

// Client is a connection to one agent. Its methods may be called from any goroutine.
type Client struct {
	conn    *grpc.ClientConn
	agent   vrouterv1.AgentServiceClient
	target  target
	timeout time.Duration
}

// target is a parsed address.
type target struct {
	address string // as users write it
	socket  string // path; empty for TCP
}

// New returns a client. It checks the configuration and connects with the first call. The caller closes the client.
func New(config Config) (*Client, error) {
	t := parseTarget(config.Address)
	creds := insecure.NewCredentials()
	if t.socket == "" {
		if !strings.Contains(t.address, ":") {
			return nil, &Error{What: fmt.Sprintf("%q is no address of an agent", config.Address), Why: "it is neither a socket's path nor host:port",
				Try: "give a path such as " + DefaultAddress + ", or host:port with --ca, --cert and --key"}
		}
		var err error
		if creds, err = mutualTLS(config); err != nil {
			return nil, err
		}
	}
	dial := "passthrough:///" + t.address
	if t.socket != "" {
		dial = "unix:" + t.socket
	}
	conn, err := grpc.NewClient(dial, grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessageBytes), grpc.MaxCallSendMsgSize(MaxMessageBytes)))
	if err != nil {
		return nil, &Error{What: fmt.Sprintf("%q is no address of an agent", config.Address), Why: err.Error(), Try: "give a socket's path or host:port", cause: err}
	}
	timeout := config.Timeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	return &Client{conn: conn, agent: vrouterv1.NewAgentServiceClient(conn), target: t, timeout: timeout}, nil
}

// parseTarget tells sockets from hosts: a path holds a slash, host:port does not.
func parseTarget(address string) target {
	switch {
	case address == "":
		address = DefaultAddress
	case strings.HasPrefix(address, "unix:"):
		address = strings.TrimPrefix(strings.TrimPrefix(address, "unix:"), "//")
		return target{address: address, socket: address}
	case strings.HasPrefix(address, "tcp://"):
		return target{address: strings.TrimPrefix(address, "tcp://")}
	}
	if strings.Contains(address, "/") {
		return target{address: address, socket: address}
	}
	return target{address: address}
}

// mutualTLS loads the three files. There is no TCP without it: the API can take over the node's network.
func mutualTLS(config Config) (credentials.TransportCredentials, error) {
	if config.CAFile == "" || config.CertFile == "" || config.KeyFile == "" {
		return nil, &Error{What: fmt.Sprintf("cannot connect to %s without certificates", config.Address), Why: "the agent takes TCP connections only with mutual TLS",
			Try: "give --ca, --cert and --key, or use the node's own socket"}
	}
	ca, err := os.ReadFile(config.CAFile)
	if err != nil {
		return nil, fileError("the authority", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, &Error{What: "cannot read the authority " + config.CAFile, Why: "it holds no PEM certificate", Try: "give the CA that signed the agent's certificate"}
	}
	pair, err := tls.LoadX509KeyPair(config.CertFile, config.KeyFile)
	if err != nil {
		return nil, fileError("our certificate", err)
	}
	return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, Certificates: []tls.Certificate{pair}, ServerName: config.ServerName}), nil
}

func fileError(what string, err error) error {
	return &Error{What: "cannot read " + what, Why: err.Error(), Try: "check --ca, --cert and --key", cause: err}
}

// Close ends the connection and every call on it.
func (c *Client) Close() error { return c.conn.Close() }

// Apply changes desired state in one transaction.
func (c *Client) Apply(ctx context.Context, request *vrouterv1.ApplyRequest) (*vrouterv1.ApplyResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	response, err := c.agent.Apply(ctx, request)
	return response, c.explain(ctx, "apply", err)
}

// Attach connects a container to its interface. It waits, within the client's timeout, until the interface is there.
func (c *Client) Attach(ctx context.Context, request *vrouterv1.AttachRequest) (*vrouterv1.AttachResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	response, err := c.agent.Attach(ctx, request)
	return response, c.explain(ctx, "attach the container", err)
}

// Detach ends what Attach began for a container, if there is anything to end.
func (c *Client) Detach(ctx context.Context, request *vrouterv1.DetachRequest) (*vrouterv1.DetachResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	response, err := c.agent.Detach(ctx, request)
	return response, c.explain(ctx, "detach the container", err)
}

// Sync opens a controller's stream. It has no deadline but ctx, and errors on it come as gRPC sends them.
func (c *Client) Sync(ctx context.Context) (grpc.BidiStreamingClient[vrouterv1.SyncRequest, vrouterv1.SyncResponse], error) {
	stream, err := c.agent.Sync(ctx)
	return stream, c.explain(ctx, "sync", err)
}

// List returns the resources that match, ordered by kind and name, and the generation that they show.
func (c *Client) List(ctx context.Context, request *vrouterv1.ListRequest) ([]*vrouterv1.Resource, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	stream, err := c.agent.List(ctx, request)
	var resources []*vrouterv1.Resource
	var generation uint64
	for part, err := range receive(ctx, c, "list resources", stream, err) {
		if err != nil {
			return nil, 0, err
		}
		resources, generation = append(resources, part.GetResources()...), part.GetGeneration()
	}
	return resources, generation, nil
}

// Watch yields events until ctx ends, the loop breaks, or an error, which is the last one yielded.
func (c *Client) Watch(ctx context.Context, request *vrouterv1.WatchRequest) iter.Seq2[*vrouterv1.WatchResponse, error] {
	return watch(ctx, c, "watch resources", request, c.agent.Watch)
}

// Explain tells the journey of one packet.
func (c *Client) Explain(ctx context.Context, request *vrouterv1.ExplainRequest) (*vrouterv1.ExplainResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	response, err := c.agent.Explain(ctx, request)
	return response, c.explain(ctx, "explain", err)
}

// ListFlows yields the sessions that match, as they arrive.
func (c *Client) ListFlows(ctx context.Context, request *vrouterv1.ListFlowsRequest) iter.Seq2[*vrouterv1.Flow, error] {
	return func(yield func(*vrouterv1.Flow, error) bool) {
		ctx, cancel := context.WithTimeout(ctx, c.timeout)
		defer cancel()
		stream, err := c.agent.ListFlows(ctx, request)
		for part, err := range receive(ctx, c, "list flows", stream, err) {
			if err != nil {
				yield(nil, err)
				return
			}
			for _, flow := range part.GetFlows() {
				if !yield(flow, nil) {
					return
				}
			}
		}
	}
}

// WatchFlows yields sessions as they start and end, until ctx ends, the loop breaks, or an error.
func (c *Client) WatchFlows(ctx context.Context, request *vrouterv1.WatchFlowsRequest) iter.Seq2[*vrouterv1.WatchFlowsResponse, error] {
	return watch(ctx, c, "watch flows", request, c.agent.WatchFlows)
}

// DeleteFlows ends the sessions that match and returns how many there were.
func (c *Client) DeleteFlows(ctx context.Context, request *vrouterv1.DeleteFlowsRequest) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	response, err := c.agent.DeleteFlows(ctx, request)
	return response.GetDeleted(), c.explain(ctx, "delete flows", err)
}

// ListDrops returns the drop counters that match.
func (c *Client) ListDrops(ctx context.Context, request *vrouterv1.ListDropsRequest) (*vrouterv1.ListDropsResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	response, err := c.agent.ListDrops(ctx, request)
	return response, c.explain(ctx, "list drops", err)
}

// WatchDrops yields the counters that grew, until ctx ends, the loop breaks, or an error.
func (c *Client) WatchDrops(ctx context.Context, request *vrouterv1.WatchDropsRequest) iter.Seq2[*vrouterv1.WatchDropsResponse, error] {
	return watch(ctx, c, "watch drops", request, c.agent.WatchDrops)
}

// Status returns the state of the node.
func (c *Client) Status(ctx context.Context) (*vrouterv1.GetStatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	response, err := c.agent.GetStatus(ctx, &vrouterv1.GetStatusRequest{})
	return response, c.explain(ctx, "get the status", err)
}

// watch opens a stream without deadline and yields its messages.
func watch[Req, Res any](ctx context.Context, c *Client, what string, request *Req,
	open func(context.Context, *Req, ...grpc.CallOption) (grpc.ServerStreamingClient[Res], error),
) iter.Seq2[*Res, error] {
	return func(yield func(*Res, error) bool) {
		ctx, cancel := context.WithCancel(ctx) // ends the stream when the loop breaks
		defer cancel()
		stream, err := open(ctx, request)
		for message, err := range receive(ctx, c, what, stream, err) {
			if !yield(message, err) {
				return
			}
		}
	}
}

// receive yields the messages of a stream; err is that of opening it.
func receive[Res any](ctx context.Context, c *Client, what string, stream grpc.ServerStreamingClient[Res], err error) iter.Seq2[*Res, error] {
	return func(yield func(*Res, error) bool) {
		for err == nil {
			var message *Res
			if message, err = stream.Recv(); err == nil && !yield(message, nil) {
				return
			}
		}
		if !errors.Is(err, io.EOF) {
			yield(nil, c.explain(ctx, what, err))
		}
	}
}
