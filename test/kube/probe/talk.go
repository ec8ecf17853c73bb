//go:build linux

package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Talk is a TCP connection that stays open.
type Talk struct {
	Server string // who answers
	conn   net.Conn
	in     *bufio.Reader
	said   int
}

// Open opens a connection to a workload from a network namespace.
func Open(namespace string, to netip.AddrPort, patience time.Duration) (*Talk, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := Dial(ctx, namespace, "tcp", to)
	if err != nil {
		return nil, err
	}
	// The server speaks first. Where what it says is lost with a vRouter's sessions, the
	// client's next packet brings it.
	if err := conn.(*net.TCPConn).SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	t := &Talk{conn: conn, in: bufio.NewReader(conn)}
	line, err := t.in.ReadString('\n')
	if err != nil {
		conn.Close()
		return nil, err
	}
	t.Server, _, _ = strings.Cut(line, " ")
	return t, nil
}

// Say sends a text and waits until it comes back.
func (t *Talk) Say(patience time.Duration) error {
	t.said++
	text := fmt.Sprintf("%s %d\n", strings.Repeat("x", 2000), t.said)
	if err := t.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(t.conn, text); err != nil {
		return fmt.Errorf("to %s: %w", t.Server, err)
	}
	back, err := t.in.ReadString('\n')
	if err != nil {
		return fmt.Errorf("from %s: %w", t.Server, err)
	}
	if back != text {
		return fmt.Errorf("from %s: %d bytes came back as %d others", t.Server, len(text), len(back))
	}
	return nil
}

// Close ends the connection.
func (t *Talk) Close() { t.conn.Close() }

// Datagrams is a UDP client that stays on one source port.
type Datagrams struct{ conn net.Conn }

// OpenUDP opens a UDP socket in a network namespace for datagrams to one address.
func OpenUDP(namespace string, to netip.AddrPort) (*Datagrams, error) {
	conn, err := Dial(context.Background(), namespace, "udp", to)
	return &Datagrams{conn}, err
}

// Ask sends a datagram and returns who answers it.
func (d *Datagrams) Ask(patience time.Duration) (server string, err error) {
	if err := d.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := d.conn.Write([]byte("?")); err != nil {
		return "", err
	}
	b := make([]byte, 512)
	n, err := d.conn.Read(b)
	server, _, _ = strings.Cut(string(b[:n]), " ")
	return server, err
}

// Close closes the socket.
func (d *Datagrams) Close() { d.conn.Close() }
