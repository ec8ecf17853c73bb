package haproxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// masterFile is the master's command socket.
const masterFile = "master.sock"

// child is a running master process of HAProxy.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how it ended; valid after done
}

// startChild starts a master for the current generation. It dies with this process,
// whichever way that ends: a master left behind would share the ports with the next.
func (s *Settings) startChild(log *slog.Logger) (*child, error) {
	cmd := exec.Command(s.Binary, "-W", "-db", "-S", filepath.Join(s.Directory, masterFile)+",mode,600", "-f", filepath.Join(s.Directory, current, configFile))
	cmd.Dir = s.Directory
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	c := &child{cmd: cmd, done: make(chan struct{})}
	go relay(out, log)
	started := make(chan error)
	go func() {
		// The kernel sends Pdeathsig when the thread that started the child ends, so
		// the thread must not.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			c.err = cmd.Wait()
			close(c.done)
		}
		_ = in.Close() // never fails
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w (install HAProxy 2.6 or later, or name it with --haproxy)", s.Binary, err)
	}
	return c, nil
}

// relay writes what HAProxy says into the log. Its warnings tell of pods that come and
// go and of its own reloads, which is its everyday life.
func relay(out io.ReadCloser, log *slog.Logger) {
	defer out.Close() // so that a writer that is left does not block
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		level := slog.LevelInfo
		switch {
		case line == "":
			continue
		case strings.HasPrefix(line, "[ALERT]") && !strings.HasSuffix(line, "has no server available!"):
			level = slog.LevelError
		case strings.HasPrefix(line, "["):
			level = slog.LevelDebug
		}
		log.Log(context.Background(), level, "haproxy", "line", line)
	}
	_, _ = io.Copy(io.Discard, out) // a line too long: go on reading, or HAProxy blocks
}

func (c *child) running() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// stop lets the child finish its connections until ctx ends, then kills it.
func (c *child) stop(ctx context.Context) error {
	if !c.running() {
		return nil
	}
	again := time.NewTicker(time.Second) // a master that is just starting may have lost it
	defer again.Stop()
	for waiting := true; waiting; {
		if err := c.cmd.Process.Signal(unix.SIGUSR1); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		select {
		case <-c.done:
			return nil
		case <-again.C:
		case <-ctx.Done():
			waiting = false
		}
	}
	// The master ends its workers at SIGTERM; SIGKILL of the group is for one that
	// does not answer.
	_ = c.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-c.done:
	case <-time.After(2 * time.Second):
		_ = unix.Kill(-c.cmd.Process.Pid, unix.SIGKILL)
		<-c.done
	}
	return errors.New("connections were cut: they had not ended in time")
}
