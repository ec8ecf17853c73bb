package peer

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/test/bench/load"
)

// program is a running program of a world.
type program struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader // of a program that talks
	pipe *os.File      // behind out
	log  string
	done chan exit // closed once it has ended
}

// exit is how a program ended.
type exit struct{ err error }

// start starts a program in a namespace. Its output goes to a log in the world's
// directory.
func (p *Peer) start(ns, name string, args ...string) (*program, error) {
	g, log, err := p.program(name, args)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	g.cmd.Stdout = log
	return g, p.launch(ns, g)
}

// talk starts a program in a namespace whose output is read from here.
func (p *Peer) talk(ns, name string, args ...string) (*program, error) {
	g, log, err := p.program(name, args)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	out, pipe, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer pipe.Close()
	g.out, g.cmd.Stdout = bufio.NewReader(out), pipe
	if args[0] == p.setup.Self {
		g.cmd.Env = append(os.Environ(), load.Env()...)
	}
	g.pipe = out
	return g, p.launch(ns, g)
}

// program prepares a program and its log.
func (p *Peer) program(name string, args []string) (*program, *os.File, error) {
	if _, err := exec.LookPath(args[0]); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", args[0], ErrMissing)
	}
	g := &program{name: name, log: filepath.Join(p.dir, name+".log"), done: make(chan exit, 1)}
	log, err := os.Create(g.log)
	if err != nil {
		return nil, nil, err
	}
	g.cmd = exec.Command(args[0], args[1:]...)
	g.cmd.Stderr = log
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the benchmark, which ends them in order
	if g.in, err = g.cmd.StdinPipe(); err != nil {
		log.Close()
		return nil, nil, err
	}
	return g, log, nil
}

// launch starts a prepared program and remembers to end it.
func (p *Peer) launch(ns string, g *program) error {
	if err := netns.Start(ns, g.cmd); err != nil {
		return fmt.Errorf("%s: %w", g.name, err)
	}
	go func() {
		g.done <- exit{g.cmd.Wait()}
		close(g.done)
	}()
	p.programs = append(p.programs, g)
	return nil
}

// ended returns an error once the program has ended.
func (g *program) ended() error {
	select {
	case e := <-g.done:
		return fmt.Errorf("%s ended: %w\n%s", g.name, errors.Join(e.err), tail(g.log))
	default:
		return nil
	}
}

// stop ends the program: politely, then not.
func (g *program) stop() {
	g.in.Close()
	_ = g.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-g.done:
	case <-time.After(5 * time.Second):
		_ = g.cmd.Process.Kill()
		<-g.done
	}
	if g.pipe != nil {
		g.pipe.Close()
	}
}

// run runs a program of a namespace to its end.
func run(ns string, args ...string) error {
	out, err := output(ns, "", args...)
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(out))
	}
	return nil
}

// output runs a program of a namespace to its end and returns what it printed.
func output(ns, stdin string, args ...string) (string, error) {
	if _, err := exec.LookPath(args[0]); err != nil {
		return "", fmt.Errorf("%s: %w", args[0], ErrMissing)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := netns.Start(ns, cmd)
	if err == nil {
		err = cmd.Wait()
	}
	return out.String(), err
}

// Cleanup removes what runs that were killed have left: the processes in their
// namespaces, the namespaces and the directories below parent. It returns the
// namespaces' names.
func Cleanup(parent string) ([]string, error) {
	names, err := netns.List(Prefix)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if !abandoned(name) {
			continue
		}
		if err := killInside(name); err != nil {
			return nil, err
		}
	}
	dirs, _ := filepath.Glob(filepath.Join(parent, Prefix+"*-bench"))
	for _, dir := range dirs {
		if abandoned(filepath.Base(dir)) {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}
	deleted, cerr := netns.Cleanup(Prefix)
	return deleted, errors.Join(err, cerr)
}

// abandoned tells from a name, prefix and process number, whether its owner has
// died.
func abandoned(name string) bool {
	digits, _, ok := strings.Cut(strings.TrimPrefix(name, Prefix), "-")
	pid, err := strconv.Atoi(digits)
	return ok && err == nil && unix.Kill(pid, 0) == unix.ESRCH
}

// killInside ends every process of a namespace.
func killInside(name string) error {
	want, err := os.Stat(netns.Path(name))
	if err != nil {
		return err
	}
	files, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, file := range files {
		have, err := os.Stat(file)
		if err != nil || !os.SameFile(want, have) {
			continue // it has ended
		}
		pid, err := strconv.Atoi(strings.Split(file, "/")[2])
		if err == nil && pid != os.Getpid() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	return nil
}
