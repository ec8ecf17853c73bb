//go:build linux

package control

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/agent/client"
	"github.com/vrouter-go/vrouter/internal/netns"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// prefix and the process number begin the names of all that a run makes, so that
// the next one can remove what a crash has left.
const prefix = "vrbc"

// workDir makes the run's directory and ends what crashed runs have left.
func workDir() (string, error) {
	left, err := filepath.Glob(filepath.Join(os.TempDir(), prefix+"[0-9]*"))
	if err != nil {
		return "", err
	}
	for _, dir := range left {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), prefix))
		if err != nil || !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			continue
		}
		killUsersOf(dir)
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
	}
	if _, err := netns.Cleanup(prefix); err != nil {
		return "", err
	}
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("%s%d", prefix, os.Getpid()))
	return dir, os.MkdirAll(dir, 0o755)
}

// killUsersOf ends the processes whose command line names a directory of ours.
func killUsersOf(dir string) {
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is good
	for _, file := range commands {
		line, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(line, []byte(dir+"/")) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
			_ = unix.Kill(pid, unix.SIGKILL) // it may have ended meanwhile
		}
	}
}

// daemon is a vrouter under test.
type daemon struct {
	program string
	dir     string
	ns      string
	cmd     *exec.Cmd
	api     *client.Client
}

// newDaemon prepares a daemon that runs in a namespace. sessions is the size of
// its flow table.
func (b *bench) newDaemon(name, ns string, sessions int) (*daemon, error) {
	d := &daemon{program: b.Vrouter, dir: filepath.Join(b.dir, name), ns: ns}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return nil, err
	}
	text := fmt.Sprintf("node: bench\nsocket: %[1]s/vrouter.sock\nstateDir: %[1]s/state\nmetrics: {socket: %[1]s/metrics.sock}\n"+
		"forwarder: {sessions: %d}\nlog: {level: warn}\n", d.dir, sessions)
	if err := os.WriteFile(filepath.Join(d.dir, "vrouter.yaml"), []byte(text), 0o600); err != nil {
		return nil, err
	}
	var err error
	d.api, err = client.New(client.Config{Address: d.socket(), Timeout: time.Minute})
	return d, err
}

func (d *daemon) socket() string { return filepath.Join(d.dir, "vrouter.sock") }

// start starts the process; ready waits for it.
func (d *daemon) start() error {
	log, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	d.cmd = exec.Command(d.program, "run", "--config", filepath.Join(d.dir, "vrouter.yaml"))
	d.cmd.Stdout, d.cmd.Stderr = log, log
	return netns.Start(d.ns, d.cmd)
}

// patience is how long a condition may take.
const patience = 30 * time.Second

// ready waits until the daemon answers and every port has its device.
func (d *daemon) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		status, err := d.api.Status(ctx)
		up := err == nil
		for _, p := range status.GetPorts() {
			up = up && p.GetState() == pb.PortStatus_UP
		}
		if up {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the daemon is not ready: %w%s", errors.Join(ctx.Err(), err), d.lastWords())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// lastWords returns the end of the daemon's log.
func (d *daemon) lastWords() string {
	text, err := os.ReadFile(filepath.Join(d.dir, "log"))
	if err != nil {
		return ""
	}
	return "\n" + string(text[max(0, len(text)-2000):])
}

// stop ends the process and waits for its end.
func (d *daemon) stop(signal syscall.Signal) error {
	if d.cmd == nil {
		return nil
	}
	cmd := d.cmd
	d.cmd = nil
	if err := cmd.Process.Signal(signal); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil && signal != syscall.SIGKILL {
		return fmt.Errorf("the daemon ended with %w%s", err, d.lastWords())
	}
	return nil
}

// close ends the daemon.
func (d *daemon) close() error { return errors.Join(d.stop(syscall.SIGTERM), d.api.Close()) }

// cpu returns the processor time that the process has used.
func (d *daemon) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // proc_pid_stat(5), from the third on
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * (time.Second / 100), err // USER_HZ is 100 on every Linux
}

// metrics reads the daemon's metrics.
func (d *daemon) metrics(ctx context.Context) (map[string]float64, error) {
	return scrape(ctx, filepath.Join(d.dir, "metrics.sock"))
}

// unixTransport reaches an HTTP server on a Unix socket.
func unixTransport(socket string) *http.Transport {
	return &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}
}

// scrape reads metrics, those without labels, and those with as they are written.
func scrape(ctx context.Context, socket string) (map[string]float64, error) {
	c := http.Client{Transport: unixTransport(socket)}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://metrics/metrics", http.NoBody)
	if err != nil {
		return nil, err
	}
	answer, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	values := map[string]float64{}
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil {
			values[name] = v
		}
	}
	return values, lines.Err()
}

// live returns the bytes of Go objects that a collection leaves, the least of
// several, and what the process has in memory. A collection comes with what is
// allocated, so the daemon is given requests, which it refuses, until they have
// run; some of these are in each result.
func (d *daemon) live(ctx context.Context, collections int) (heap, resident float64, err error) {
	garbage := &pb.ApplyRequest{RequestId: strings.Repeat("x", 256<<10)}
	before, seen := -1.0, 0
	for range 1000 {
		m, err := d.metrics(ctx)
		if err != nil {
			return 0, 0, err
		}
		if n := m["go_gc_duration_seconds_count"]; n != before {
			// The next collection comes when the heap has doubled (GOGC=100). The first
			// to be seen ran before, and the second may have begun before.
			if left := m["go_memstats_next_gc_bytes"] / 2; seen == 2 || seen > 2 && left < heap {
				heap = left
			}
			before, seen = n, seen+1
		}
		if seen > 1+collections {
			return heap, m["process_resident_memory_bytes"], nil
		}
		for range 32 {
			if _, err := d.api.Apply(ctx, garbage); err == nil {
				return 0, 0, errors.New("the daemon took 256 KiB for a request's id")
			}
		}
	}
	return 0, 0, errors.New("the daemon does not collect its garbage")
}
