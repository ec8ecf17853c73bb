//go:build linux

// Package probe calls the servers of test/kube/workload and says what came of it.
package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// Outcome is what came of a call.
type Outcome string

// The outcomes.
const (
	Answered    Outcome = "answered"
	Refused     Outcome = "refused"     // by a TCP reset or an ICMP port unreachable
	TimedOut    Outcome = "timeout"     // no answer of any kind
	Unreachable Outcome = "unreachable" // no route, or an ICMP error that says so
	Broken      Outcome = "broken"      // ended in the middle, or anything else; see Result.Err
)

// Result is what a call gave.
type Result struct {
	Outcome Outcome
	Server  string     // who answered: the pod's name
	Client  netip.Addr // the caller's address as the server saw it
	Latency time.Duration
	Err     error // nil where Outcome is Answered
}

// String is the result in a line.
func (r Result) String() string {
	if r.Outcome == Answered {
		return fmt.Sprintf("%s, who saw %v", r.Server, r.Client)
	}
	return fmt.Sprintf("%s (%v)", r.Outcome, r.Err)
}

// Call makes one call over "tcp" or "udp" from a network namespace, with a source port of
// its own, and waits no longer than patience.
func Call(namespace, network string, to netip.AddrPort, patience time.Duration) Result {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	began := time.Now()
	server, client, err := call(ctx, namespace, network, to)
	r := Result{Outcome: Answered, Server: server, Client: client, Latency: time.Since(began), Err: err}
	var timeout net.Error
	switch {
	case err == nil:
	case errors.Is(err, syscall.ECONNREFUSED):
		r.Outcome = Refused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EACCES):
		r.Outcome = Unreachable
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		r.Outcome = TimedOut
	default:
		r.Outcome = Broken
	}
	return r
}

func call(ctx context.Context, namespace, network string, to netip.AddrPort) (server string, client netip.Addr, err error) {
	conn, err := Dial(ctx, namespace, network, to)
	if err != nil {
		return "", netip.Addr{}, err
	}
	defer conn.Close()
	if network == "udp" {
		// EPERM: a rule of this very namespace stopped the datagram; whether by rejecting it,
		// of which the socket is told next, or by dropping it, it does not say.
		if _, err := conn.Write([]byte("?")); err != nil && !errors.Is(err, syscall.EPERM) {
			return "", netip.Addr{}, err
		}
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", netip.Addr{}, err
	}
	server, seen, _ := strings.Cut(strings.TrimSpace(line), " ")
	address, err := netip.ParseAddrPort(seen)
	if err != nil {
		return "", netip.Addr{}, fmt.Errorf("the answer %q is no workload's: %w", line, err)
	}
	return server, address.Addr(), nil
}

// Dial connects from a network namespace. The connection has ctx's deadline.
func Dial(ctx context.Context, namespace, network string, to netip.AddrPort) (conn net.Conn, err error) {
	err = netns.Do(namespace, func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, to.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	return conn, nil
}
