package netns_test

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// Ports of the servers in the pods.
const (
	webPort  = 8080 // answers "name client-address"
	sinkPort = 5201 // answers "name checksum" once it has read everything
	echoPort = 9001 // UDP: answers "name client-address:port" and the datagram
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// in runs f in a role's namespace.
func (h *host) in(role string, f func() error) {
	h.t.Helper()
	if err := netns.Do(h.ns(role), f); err != nil {
		h.t.Fatal(err)
	}
}

// listen listens for TCP in a role's namespace.
func (h *host) listen(role string, port int) (l net.Listener) {
	h.t.Helper()
	h.in(role, func() (err error) { l, err = net.Listen("tcp", fmt.Sprintf(":%d", port)); return err })
	h.t.Cleanup(func() { l.Close() })
	return l
}

// listenUDP listens for UDP in a role's namespace.
func (h *host) listenUDP(role string, port int) (c *net.UDPConn) {
	h.t.Helper()
	h.in(role, func() (err error) {
		// A socket that is closed lives on in a child that another test has forked,
		// until it executes its program.
		for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			c, err = net.ListenUDP("udp", &net.UDPAddr{Port: port})
			if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(end) {
				return err
			}
		}
	})
	h.t.Cleanup(func() { c.Close() })
	return c
}

// serve starts the servers of a pod.
func (h *host) serve(role string) {
	h.t.Helper()
	h.serveWeb(role, webPort)
	sink := h.listen(role, sinkPort)
	go func() {
		for {
			conn, err := sink.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				sum := crc32.New(castagnoli)
				if _, err := io.Copy(sum, conn); err == nil {
					fmt.Fprintf(conn, "%s %08x", h.title(role), sum.Sum32())
				}
			}()
		}
	}()
	h.serveEcho(role, echoPort)
}

// title is what the servers of a role call themselves.
func (h *host) title(role string) string {
	if role == "node" && h.node != "" {
		return h.node
	}
	return role
}

// serveWeb starts a web server that tells who it is and whom it saw.
func (h *host) serveWeb(role string, port int) {
	h.t.Helper()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "%s %s", h.title(role), seen)
	})}
	l := h.listen(role, port)
	go server.Serve(l) //nolint:errcheck // ends with Close
	h.t.Cleanup(func() { server.Close() })
}

// serveEcho starts a UDP server that tells who it is and whom it saw, and sends
// the datagram back.
func (h *host) serveEcho(role string, port int) {
	h.t.Helper()
	c := h.listenUDP(role, port)
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			answer := fmt.Appendf(nil, "%s %s ", h.title(role), net.JoinHostPort(from.Addr().Unmap().String(), fmt.Sprint(from.Port())))
			_, _ = c.WriteToUDPAddrPort(append(answer, b[:n]...), from) // a client that is gone is no matter
		}
	}()
}

// at joins an address and a port.
func at(address string, port int) string { return net.JoinHostPort(address, strconv.Itoa(port)) }

// dialTimeout is how long a connection may take to open; what policy drops takes
// this long.
const dialTimeout = 700 * time.Millisecond

// tryDial opens a connection from a role's namespace. Everything on it has to be
// done within patience.
func (h *host) tryDial(role, network, address string, d net.Dialer) (conn net.Conn, err error) {
	if d.Timeout == 0 {
		d.Timeout = dialTimeout
	}
	err = netns.Do(h.ns(role), func() error {
		conn, err = d.Dial(network, address)
		return err
	})
	if err == nil {
		err = conn.SetDeadline(time.Now().Add(patience))
	}
	return conn, err
}

// dial is tryDial for a connection that must open. It closes with the test.
func (h *host) dial(t *testing.T, role, network, address string) net.Conn {
	t.Helper()
	conn, err := h.tryDial(role, network, address, net.Dialer{Timeout: patience})
	if err != nil {
		t.Fatalf("%s: %v", role, err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// tryGet asks a web server, by a connection of its own, who it is and whom it saw.
func (h *host) tryGet(role, address string) (server, seen string, err error) {
	c := http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
			return h.tryDial(role, network, address, net.Dialer{})
		},
	}}
	answer, err := c.Get("http://" + address + "/")
	if err != nil {
		return "", "", err
	}
	defer answer.Body.Close()
	_, err = fmt.Fscan(answer.Body, &server, &seen)
	return server, seen, err
}

// get is tryGet for a server that must answer.
func (h *host) get(t *testing.T, role, address string) (server, seen string) {
	t.Helper()
	server, seen, err := h.tryGet(role, address)
	if err != nil {
		t.Fatalf("%s: %v", role, err)
	}
	return server, seen
}

// echo sends a datagram and returns who answered and whom that one saw.
func echo(conn net.Conn, payload []byte) (server, seen string, err error) {
	if _, err := conn.Write(payload); err != nil {
		return "", "", err
	}
	b := make([]byte, 1<<16)
	n, err := conn.Read(b)
	if err != nil {
		return "", "", err
	}
	parts := strings.SplitN(string(b[:n]), " ", 3)
	if len(parts) != 3 || parts[2] != string(payload) {
		return "", "", fmt.Errorf("the answer of %d bytes to %d does not hold what was sent", n, len(payload))
	}
	return parts[0], parts[1], nil
}

// transfer is a checked upload in progress.
type transfer struct {
	conn  net.Conn
	sum   uint32
	bytes int
}

// begin opens a transfer to a sink.
func (h *host) begin(t *testing.T, role, address string) *transfer {
	t.Helper()
	return &transfer{conn: h.dial(t, role, "tcp", address)}
}

// send sends n bytes, in which a lost, doubled or swapped block shows.
func (x *transfer) send(n int) error {
	block := make([]byte, 64<<10)
	for n > 0 {
		for i := 0; i < len(block); i += 512 {
			block[i], block[i+1], block[i+2] = byte(x.bytes>>9), byte(x.bytes>>17), byte(i>>9)
		}
		b := block[:min(n, len(block))]
		if _, err := x.conn.Write(b); err != nil {
			return err
		}
		x.sum = crc32.Update(x.sum, castagnoli, b)
		x.bytes += len(b)
		n -= len(b)
	}
	return nil
}

// finish ends the transfer and returns the server that has confirmed every byte.
func (x *transfer) finish() (server string, err error) {
	defer x.conn.Close()
	if err := x.conn.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	var sum uint32
	if _, err := fmt.Fscanf(x.conn, "%s %x", &server, &sum); err != nil {
		return "", fmt.Errorf("the server's checksum: %w", err)
	}
	if sum != x.sum {
		return server, fmt.Errorf("%s received other bytes than were sent", server)
	}
	return server, nil
}

// upload is a whole transfer.
func (h *host) upload(t *testing.T, role, address string, n int) (server string) {
	t.Helper()
	x := h.begin(t, role, address)
	if err := x.send(n); err != nil {
		t.Fatal(err)
	}
	server, err := x.finish()
	if err != nil {
		t.Fatal(err)
	}
	return server
}

// unixConn is a connection whose descriptor can be reached.
type unixConn interface {
	SyscallConn() (syscall.RawConn, error)
}
