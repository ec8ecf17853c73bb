//go:build linux

package load

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Serve says what a server does: it counts the datagrams to one port and echoes
// on TCP connections to another. It prints an empty document when both are open,
// and a Received for each line that it reads.
type Serve struct {
	UDP, TCP int
}

// Received is what a server has got since it started.
type Received struct {
	Datagrams uint64
	Nanos     int64 // monotonic clock at the reading
}

func serve(args []string) error {
	var s Serve
	if err := parse(args, &s); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	udp, err := open(unix.SOCK_DGRAM, fmt.Sprintf("0.0.0.0:%d", s.UDP), unix.Bind)
	if err != nil {
		return err
	}
	tcp, err := open(unix.SOCK_STREAM, fmt.Sprintf("0.0.0.0:%d", s.TCP), listen)
	if err != nil {
		return err
	}
	var count atomic.Uint64
	thread(func() error { return receive(udp, &count) })
	go accept(tcp)
	return answer(func() any { return Received{Datagrams: count.Load(), Nanos: nanotime()} })
}

func listen(fd int, a unix.Sockaddr) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	return errors.Join(unix.Bind(fd, a), unix.Listen(fd, 16))
}

// accept gives each connection a thread.
func accept(listener int) {
	for {
		conn, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err != nil {
			continue
		}
		thread(func() error { echo(conn); return nil })
	}
}
