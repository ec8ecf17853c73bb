package demo

import (
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// The demo's ports on the backends.
const (
	webPort  = 8080
	bulkPort = 5201
)

// castagnoli is CRC32c, which processors compute faster than TCP delivers.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// backend is a web server and a byte sink with real sockets in a namespace.
type backend struct {
	name string
	web  *http.Server
	bulk net.Listener
}

// startBackend serves in the namespace of a name. Its web server answers with
// its own name and the client's address; its sink answers with a checksum
// of what it was sent.
func startBackend(namespace, name string) (*backend, error) {
	b := &backend{name: name, web: &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			host, _, _ := net.SplitHostPort(r.RemoteAddr)
			fmt.Fprintf(w, "%s %s", name, host)
		}),
		ReadHeaderTimeout: 5 * time.Second,
	}}
	var web net.Listener
	err := netns.Do(namespace, func() (err error) {
		if web, err = net.Listen("tcp", fmt.Sprintf("[::]:%d", webPort)); err != nil {
			return err
		}
		b.bulk, err = net.Listen("tcp", fmt.Sprintf("[::]:%d", bulkPort))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go b.web.Serve(web) //nolint:errcheck // ends with close
	go b.sink()
	return b, nil
}

// sink reads each connection to its end and answers with name and
// checksum.
func (b *backend) sink() {
	for {
		conn, err := b.bulk.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			sum := crc32.New(castagnoli)
			if _, err := io.Copy(sum, conn); err == nil {
				fmt.Fprintf(conn, "%s %08x", b.name, sum.Sum32())
			}
		}()
	}
}

func (b *backend) close() {
	b.web.Close()
	b.bulk.Close()
}

// host is a namespace that connections start from.
type host struct{ namespace string }

// dialTimeout is how long a connection may take to open. Policy drops silently,
// so a denied one takes this long.
const dialTimeout = time.Second

// dial opens a TCP connection from the host.
func (h host) dial(ctx context.Context, address string) (conn net.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	err = netns.Do(h.namespace, func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, "tcp", address)
		return err
	})
	return conn, err
}

// get asks a web server for its name and the client address that it saw, each
// time by a connection of its own.
func (h host) get(ctx context.Context, address string) (server, client string, err error) {
	c := http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext:       func(ctx context.Context, _, address string) (net.Conn, error) { return h.dial(ctx, address) },
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return "", "", err
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	_, err = fmt.Fscan(resp.Body, &server, &client)
	return server, client, err
}

// upload is a bulk transfer in progress.
type upload struct {
	conn  net.Conn
	sum   uint32
	bytes int64
}

// send writes blocks until done says stop and returns what was sent. The data is
// a counter's bytes, so that a lost, doubled or swapped block changes the checksum.
func (h host) send(ctx context.Context, address string, done func(sent int64) bool) (*upload, error) {
	conn, err := h.dial(ctx, address)
	if err != nil {
		return nil, err
	}
	u := &upload{conn: conn}
	sum := crc32.New(castagnoli)
	block := make([]byte, 256<<10)
	for i := byte(0); !done(u.bytes); i++ {
		for j := 0; j < len(block); j += 4096 {
			block[j] = i + byte(j>>12)
		}
		if err := conn.SetWriteDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return u, err
		}
		n, err := conn.Write(block)
		sum.Write(block[:n])
		u.bytes += int64(n)
		if err != nil {
			return u, err
		}
	}
	u.sum = sum.Sum32()
	return u, nil
}

// finish ends the transfer and returns the server's name once the server has
// confirmed every byte.
func (u *upload) finish() (server string, err error) {
	defer u.conn.Close()
	if err := u.conn.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	if err := u.conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	var sum uint32
	if _, err := fmt.Fscanf(u.conn, "%s %x", &server, &sum); err != nil {
		return "", fmt.Errorf("the server's checksum: %w", err)
	}
	if sum != u.sum {
		return server, fmt.Errorf("%s received other bytes than were sent", server)
	}
	return server, nil
}
