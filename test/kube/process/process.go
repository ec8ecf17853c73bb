//go:build linux

// Package process runs the programs of a test cluster: each in a network namespace, in
// a process group of its own, with its output in a file.
package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// Process is a program that was started. Its methods may be called from any goroutine.
type Process struct {
	name string
	log  string
	cmd  *exec.Cmd

	ended chan struct{} // closed when the program is gone
	err   error         // how it ended; valid once ended is closed

}

// Start starts a program (args[0]) in a network namespace, "" being the caller's own.
// Its output is added to the file log. env is added to the caller's environment. The
// caller has to end it with Stop.
func Start(namespace, log string, env []string, args ...string) (*Process, error) {
	if err := os.MkdirAll(filepath.Dir(log), 0o755); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that what it starts ends with it
	if err := netns.Start(namespace, cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	p := &Process{name: filepath.Base(args[0]), log: log, cmd: cmd, ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// PID returns the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Ended returns a channel that is closed when the program is gone.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// ExitCode returns how the program ended: its exit code, -1 where a signal ended it. It is
// valid once Ended is closed.
func (p *Process) ExitCode() int { return p.cmd.ProcessState.ExitCode() }

// Signal sends a signal to the program and to what it started.
func (p *Process) Signal(signal syscall.Signal) error {
	select {
	case <-p.ended:
		return nil
	default:
		return syscall.Kill(-p.PID(), signal)
	}
}

// Stop asks the program to end with a signal, and makes it end when grace is over, which
// it then reports as an error. A program that ended earlier is no error here: who waits
// for it learns that from Ended.
func (p *Process) Stop(signal syscall.Signal, grace time.Duration) error {
	if err := p.Signal(signal); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	// A stopped process does not see the signal before it goes on.
	_ = p.Signal(syscall.SIGCONT) // it may be gone
	select {
	case <-p.ended:
		return nil
	case <-time.After(grace):
	}
	_ = p.Signal(syscall.SIGKILL) // it may be gone
	<-p.ended
	return fmt.Errorf("%s did not end in %v after %v and was killed; see %s", p.name, grace, signal, p.log)
}

// Tail returns the end of the program's output, or how its last panic began, for error
// messages.
func (p *Process) Tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if strings.HasPrefix(lines[i], "panic: ") || strings.HasPrefix(lines[i], "fatal error: ") {
			return strings.Join(lines[i:min(len(lines), i+20)], "\n")
		}
	}
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

// Failed returns what to say of a program that has ended though it should run, nil while
// it runs.
func (p *Process) Failed() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s ended (%w); the end of %s:\n%s", p.name, p.err, p.log, p.Tail())
	default:
		return nil
	}
}
