//go:build linux

package load_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/vrouter-go/vrouter/test/bench/load"
)

// The roles are processes: the test binary plays them when it is told to.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == load.Command {
		if err := load.Main(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// role is a running role.
type role struct {
	t   *testing.T
	in  io.WriteCloser
	out *json.Decoder
}

// play starts a role that ends with the test at the latest.
func play(t *testing.T, name string, with any) *role {
	t.Helper()
	args, err := load.Args(name, with)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), load.Env()...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		late := time.AfterFunc(5*time.Second, func() {
			t.Errorf("%s does not end with its input", name)
			_ = cmd.Process.Kill()
		})
		defer late.Stop()
		_ = cmd.Wait() // its status is judged by what it said
	})
	return &role{t, in, json.NewDecoder(out)}
}

func (r *role) read(into any) {
	r.t.Helper()
	if err := r.out.Decode(into); err != nil {
		r.t.Fatal(err)
	}
}

// ports returns ports that nobody uses now.
func ports(t *testing.T) (udp, tcp int) {
	t.Helper()
	u, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return u.LocalAddr().(*net.UDPAddr).Port, l.Addr().(*net.TCPAddr).Port
}

// What a sender says it sent is what a server counts, no greeting among it, and
// the rate is kept.
func TestEveryDatagramIsCounted(t *testing.T) {
	udp, tcp := ports(t)
	server := play(t, "serve", load.Serve{UDP: udp, TCP: tcp})
	server.read(&struct{}{})
	sender := play(t, "udp", load.UDP{To: fmt.Sprintf("127.0.0.1:%d", udp), Flows: 3, Size: 18, Rate: 5000, Seconds: 0.2})
	sender.read(&struct{}{})
	var sent load.Sent
	sender.read(&sent)
	if sent.Datagrams < 100 || sent.Datagrams > 1032 {
		t.Errorf("sent %d datagrams in 0.2 s at 5000/s", sent.Datagrams)
	}
	var got load.Received
	for end := time.Now().Add(5 * time.Second); got.Datagrams < sent.Datagrams && time.Now().Before(end); {
		fmt.Fprintln(server.in)
		server.read(&got)
	}
	if got.Datagrams != sent.Datagrams {
		t.Errorf("sent %d, counted %d", sent.Datagrams, got.Datagrams)
	}
}

func TestRoundTripsAreMeasured(t *testing.T) {
	udp, tcp := ports(t)
	server := play(t, "serve", load.Serve{UDP: udp, TCP: tcp})
	server.read(&struct{}{})
	var a load.Answers
	play(t, "rr", load.RR{To: fmt.Sprintf("127.0.0.1:%d", tcp), Size: 64, Seconds: 0.2}).read(&a)
	if a.Count == 0 || a.P50 <= 0 || a.P50 > a.P99 || a.P99 > a.P999 || a.P999 > a.Most {
		t.Errorf("%+v", a)
	}
}

func TestWrongArgumentsAreRefused(t *testing.T) {
	for _, args := range [][]string{nil, {"dance"}, {"serve"}, {"rr", "{"}, {"udp", `{"Flow":1}`}, {"tap-loop", "[]", "[]"}, {"tunnel-loop", "[]"}} {
		if err := load.Main(args); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
