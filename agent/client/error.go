package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Error is a failed call as an operator needs it.
type Error struct {
	// What failed.
	What string
	// Why it failed.
	Why string
	// Try says what to do next. Empty: Why says it.
	Try string
	// Code of the call; OK when there was no call.
	Code codes.Code
	// Violations are the wrong fields of a request that was refused.
	Violations []Violation

	cause error
}

// Violation is one wrong field of a request.
type Violation struct {
	// Field path from the request, in JSON spelling: upserts[3].floatingIp.address.
	Field string
	// Description says what is wrong and what would be right.
	Description string
}

// Error renders what and why in one line.
func (e *Error) Error() string {
	if e.Why == "" {
		return e.What
	}
	return e.What + ": " + e.Why
}

// Unwrap returns the error of the call.
func (e *Error) Unwrap() error { return e.cause }

// explain turns the error of a call into an Error; nil stays nil.
func (c *Client) explain(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	s := status.Convert(err)
	e := &Error{What: "cannot " + what, Why: s.Message(), Code: s.Code(), cause: err}
	switch s.Code() {
	case codes.Unavailable:
		c.unreachable(ctx, e)
	case codes.DeadlineExceeded:
		e.Why = fmt.Sprintf("the agent at %s gave no answer within %s", c.target.address, c.timeout)
		e.Try = "look at its log (journalctl -u vrouter), or wait longer with --timeout"
	case codes.Canceled:
		e.Why = "interrupted"
	case codes.Unauthenticated, codes.PermissionDenied:
		e.Try = "run it as root or as a user with the role that this call needs"
	case codes.Unimplemented:
		e.Why = "the agent does not know this call"
		e.Try = "compare `vrctl version`: vrctl and vrouter should be of the same release"
	case codes.ResourceExhausted:
		e.Try = "repeat the call; make it smaller if it fails again"
	case codes.InvalidArgument:
		for _, detail := range s.Details() {
			if bad, ok := detail.(*errdetails.BadRequest); ok {
				for _, v := range bad.GetFieldViolations() {
					e.Violations = append(e.Violations, Violation{Field: v.GetField(), Description: v.GetDescription()})
				}
			}
		}
	}
	return e
}

// unreachable finds out why nobody answers, by connecting once more.
func (c *Client) unreachable(ctx context.Context, e *Error) {
	const start = "start it with `systemctl start vrouter`, or `vrouter run --config /etc/vrouter/vrouter.yaml`"
	e.What = "cannot reach the agent at " + c.target.address
	network := "tcp"
	if c.target.socket != "" {
		network = "unix"
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, c.target.address)
	switch {
	case err == nil:
		conn.Close()
		e.Why = "somebody listens there and the connection failed: " + lastCause(e.Why)
		e.Try = "check that it is vrouter that listens; over TCP, check --ca, --cert, --key and --server-name"
	case errors.Is(err, fs.ErrNotExist):
		e.Why, e.Try = "the socket does not exist", "is vrouter running? "+start+"; for a socket elsewhere give --address"
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Why, e.Try = "nobody listens there any more", "vrouter has stopped: look at `journalctl -u vrouter`, then "+start
	case errors.Is(err, fs.ErrPermission):
		e.Why, e.Try = "this user may not use the socket", "run it as root, or join the socket's group (ls -l "+c.target.address+")"
	default:
		e.Why, e.Try = lastCause(err.Error()), "check the address and that vrouter runs there"
	}
}

// lastCause cuts gRPC's chain of wrappings down to the sentence that matters.
func lastCause(message string) string {
	for _, marker := range []string{"desc = ", "Error while dialing: "} {
		if i := strings.LastIndex(message, marker); i >= 0 {
			message = message[i+len(marker):]
		}
	}
	return strings.Trim(message, `"`)
}
