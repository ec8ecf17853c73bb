//go:build linux

// Command workload is what pods of the tests run: a server that says who it is and who
// called. It answers
//
//	TCP    with the line "NAME CLIENT\n" at once, then every byte with itself
//	UDP    each datagram with "NAME CLIENT\n" and the datagram
//	HTTP   every path with the same line, and with the request's X-Forwarded-For in the header
//	       Seen-Forwarded-For; /healthz with 503 once it was asked to end
//
// With --call it makes one TCP call instead, says what came of it, and ends with 0 where it
// was answered and 1 where it was not.
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

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/vrouter-go/vrouter/test/kube/probe"
)

func main() {
	s := &server{}
	flag.StringVar(&s.name, "name", os.Getenv("POD_NAME"), "who answers")
	tcp := flag.String("tcp", "", "TCP ports, separated by commas")
	udp := flag.String("udp", "", "UDP ports, separated by commas")
	web := flag.String("http", "", "HTTP ports, separated by commas")
	drain := flag.Duration("drain", 0, "how long to go on serving after SIGTERM")
	to := flag.String("call", "", "address and port to call, instead of serving")
	flag.Parse()
	if *to != "" {
		os.Exit(call(*to))
	}
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

// call makes one call.
func call(to string) int {
	at, err := netip.ParseAddrPort(to)
	if err != nil {
		fmt.Fprintln(os.Stderr, "workload:", err)
		return 2
	}
	r := probe.Call("", "tcp", at, 3*time.Second)
	fmt.Println(r, "after", r.Latency)
	if r.Outcome != probe.Answered {
		return 1
	}
	return 0
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

// serveUDP answers from the address that was called, also where the network namespace has
// several, as a node's has.
func (s *server) serveUDP(port int) error {
	four, err := net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	six, err := net.ListenPacket("udp6", fmt.Sprintf(":%d", port))
	if err != nil {
		return errors.Join(err, four.Close())
	}
	p4, p6 := ipv4.NewPacketConn(four), ipv6.NewPacketConn(six)
	if err := errors.Join(p4.SetControlMessage(ipv4.FlagDst, true), p6.SetControlMessage(ipv6.FlagDst, true)); err != nil {
		return errors.Join(err, four.Close(), six.Close())
	}
	// An error of a read is an ICMP error of an earlier answer, and answers may be lost, as
	// everything in UDP.
	go func() {
		b := make([]byte, 1<<16)
		for {
			if n, c, client, err := p4.ReadFrom(b); err == nil {
				_, _ = p4.WriteTo(append([]byte(s.line(client.String())), b[:n]...), &ipv4.ControlMessage{Src: c.Dst}, client)
			}
		}
	}()
	go func() {
		b := make([]byte, 1<<16)
		for {
			if n, c, client, err := p6.ReadFrom(b); err == nil {
				_, _ = p6.WriteTo(append([]byte(s.line(client.String())), b[:n]...), &ipv6.ControlMessage{Src: c.Dst}, client)
			}
		}
	}()
	return nil
}

func (s *server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header()["Seen-Forwarded-For"] = r.Header["X-Forwarded-For"]
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
