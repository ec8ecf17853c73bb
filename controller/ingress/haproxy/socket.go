package haproxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// socket is the path of a command socket of HAProxy, of a worker or of the master.
type socket string

// commandTimeout bounds one command. A worker answers in milliseconds unless it is
// stopped.
const commandTimeout = 5 * time.Second

// maxReply bounds an answer.
const maxReply = 16 << 20

// ask sends one command, with its payload if it has one, and returns the answer
// without the blank line at its end.
func (s socket) ask(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", string(s))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline) // a Unix socket has deadlines
	if _, err := io.WriteString(conn, command+"\n"); err != nil {
		return "", err
	}
	// The master closes when the client has; a worker does after its answer.
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		return "", err
	}
	reply, err := io.ReadAll(io.LimitReader(conn, maxReply))
	if err != nil {
		return "", fmt.Errorf("answer to %q: %w", firstLine(command), err)
	}
	return strings.TrimRight(string(reply), "\n"), nil
}

// do sends a command that answers with nothing, or with one of the given texts, when
// it worked.
func (s socket) do(ctx context.Context, command string, good ...string) error {
	reply, err := s.ask(ctx, command)
	if err != nil {
		return err
	}
	if reply == "" {
		return nil
	}
	for _, g := range good {
		if strings.HasPrefix(reply, g) {
			return nil
		}
	}
	return fmt.Errorf("HAProxy answered %q to %q", firstLine(reply), firstLine(command))
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// describe returns a worker's process number and the description of its
// configuration, which is its generation.
func (s socket) describe(ctx context.Context) (pid int, description string, err error) {
	reply, err := s.ask(ctx, "show info")
	if err != nil {
		return 0, "", err
	}
	for line := range strings.Lines(reply) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch value = strings.TrimSpace(value); key {
		case "Pid":
			if pid, err = strconv.Atoi(value); err != nil {
				return 0, "", fmt.Errorf("process number %q: %w", value, err)
			}
		case "description", "Description":
			description = value
		}
	}
	return pid, description, nil
}

// maxPayload is what fits into a command's buffer of 16 KiB with the command.
const maxPayload = 12 << 10

// replaceMap makes a map what the lines say, at once for requests.
func (s socket) replaceMap(ctx context.Context, file string, lines []string) error {
	reply, err := s.ask(ctx, "prepare map "+file)
	if err != nil {
		return err
	}
	version, ok := strings.CutPrefix(reply, "New version created: ")
	if !ok {
		return fmt.Errorf("HAProxy answered %q to \"prepare map\"", firstLine(reply))
	}
	for len(lines) > 0 {
		size, n := 0, 0
		for n < len(lines) && (n == 0 || size+len(lines[n]) < maxPayload) {
			size += len(lines[n]) + 1
			n++
		}
		if err := s.do(ctx, fmt.Sprintf("add map @%s %s <<\n%s\n", version, file, strings.Join(lines[:n], "\n"))); err != nil {
			return err
		}
		lines = lines[n:]
	}
	return s.do(ctx, fmt.Sprintf("commit map @%s %s", version, file))
}
