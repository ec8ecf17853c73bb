//go:build linux

// Command workload is what pods of the tests run: a server that says who it is and who
// called. It answers
//
//	TCP    with the line "NAME CLIENT\n" at once, then every byte with itself
//	UDP    each datagram with "NAME CLIENT\n" and the datagram
//	HTTP   every path with the same line; /healthz with 503 once it was asked to end
//
// NAME is $POD_NAME or --name, CLIENT the caller's address and port as the server sees them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	s := &server{}
	flag.StringVar(&s.name, "name", os.Getenv("POD_NAME"), "who answers")
	tcp := flag.String("tcp", "", "TCP ports, separated by commas")
	udp := flag.String("udp", "", "UDP ports, separated by commas")
	web := flag.String("http", "", "HTTP ports, separated by commas")
	drain := flag.Duration("drain", 0, "how long to go on serving after SIGTERM")
	flag.Parse()
	if err := s.serve(*tcp, *udp, *web); err != nil {
		fmt.Fprintln(os.Stderr, "workload:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	<-ctx.Done()
	s.ending.Store(true)
	time.Sleep(*drain)
}

// server answers on any number of ports.
type server struct {
	name   string
	ending atomic.Bool
}

// serve opens all ports; it serves them in the background.
func (s *server) serve(tcp, udp, web string) error {
	return errors.Join(
		each(tcp, func(port int) error {
			l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
			if err == nil {
				go s.serveTCP(l)
			}
			return err
		}),
		each(udp, s.serveUDP),
		each(web, func(port int) error {
			l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
			if err == nil {
				go func() { _ = http.Serve(l, http.HandlerFunc(s.serveHTTP)) }() // it ends with the process
			}
			return err
		}))
}

func each(ports string, open func(port int) error) error {
	for _, p := range strings.FieldsFunc(ports, func(r rune) bool { return r == ',' }) {
		n, err := strconv.Atoi(p)
		if err != nil {
			return err
		}
		if err := open(n); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) line(client string) string { return s.name + " " + client + "\n" }

func (s *server) serveTCP(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			if _, err := io.WriteString(conn, s.line(plain(conn.RemoteAddr().String()))); err != nil {
				return
			}
			_, _ = io.Copy(conn, conn) // the client ends it as it likes
		}()
	}
}

// serveUDP serves both families by one socket. The reply's source is the kernel's choice,
// which is the one address that a pod has of the family.
func (s *server) serveUDP(port int) error {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{Port: port})
	if err != nil {
		return err
	}
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, client, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				continue // an ICMP error of an earlier answer
			}
			client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
			_, _ = conn.WriteToUDPAddrPort(append([]byte(s.line(client.String())), b[:n]...), client) // as lossy as UDP
		}
	}()
	return nil
}

func (s *server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" && s.ending.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = io.WriteString(w, s.line(plain(r.RemoteAddr))) // the client may be gone
}

// plain takes IPv4 addresses out of their IPv6 form.
func plain(address string) string {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return address
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String()
}
