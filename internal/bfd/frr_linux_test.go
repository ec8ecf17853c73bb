package bfd

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vrouter-go/vrouter/internal/netns"
)

const bfdd = "/usr/lib/frr/bfdd"

// frr is FRR's bfdd at the right end of the link. It needs neither zebra nor a
// service: sessions that name no interface are its own affair.
type frr struct {
	*testing.T
	ns, dir string
	cmd     *exec.Cmd
}

// frrPeer is what `show bfd peers json` says of a session.
type frrPeer struct {
	Multihop         bool   `json:"multihop"`
	Peer             string `json:"peer"`
	Status           string `json:"status"`
	Diagnostic       string `json:"diagnostic"`
	RemoteDiagnostic string `json:"remote-diagnostic"`
	RemoteID         uint32 `json:"remote-id"`
	RemoteReceive    int    `json:"remote-receive-interval"`
	RemoteTransmit   int    `json:"remote-transmit-interval"`
	RemoteMultiplier int    `json:"remote-detect-multiplier"`
}

func newFRR(t *testing.T, ns string) *frr {
	t.Helper()
	need(t, "vtysh")
	if _, err := os.Stat(bfdd); err != nil {
		t.Skipf("SKIP-TOOL: %s is not installed (make deps)", bfdd)
	}
	// The daemon runs as its own user, who has to reach the directory.
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("%s%d-frr", prefix, os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	u, err := user.Lookup("frr")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	var conf strings.Builder
	conf.WriteString("bfd\n")
	for _, w := range frrWays() {
		fmt.Fprintf(&conf, " %s\n  transmit-interval 100\n  receive-interval 100\n  detect-multiplier 20\n  no shutdown\n exit\n", frrName(w.remote, w.local, w.multihop))
	}
	conf.WriteString("exit\n")
	file := filepath.Join(dir, "bfdd.conf")
	if err := os.WriteFile(file, []byte(conf.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range [...]string{dir, file} {
		if err := os.Chown(path, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	f := &frr{T: t, ns: ns, dir: dir}
	f.start()
	return f
}

// frrWays are those of ways that bfdd can do alone: a link-local address would need
// zebra for its interface.
func frrWays() (list []struct {
	name, local, remote string
	multihop            bool
}) {
	for _, w := range ways {
		if w.name != "link-local" {
			list = append(list, w)
		}
	}
	return list
}

// frrName is the line by which bfdd knows a session.
func frrName(local, remote string, multihop bool) string {
	kind := ""
	if multihop {
		kind = "multihop "
	}
	return fmt.Sprintf("peer %s %slocal-address %s", remote, kind, local)
}

func (f *frr) start() {
	f.Helper()
	in := func(name string) string { return filepath.Join(f.dir, name) }
	cmd := exec.Command(bfdd, "-f", in("bfdd.conf"), "-i", in("bfdd.pid"), "-z", in("zserv.api"),
		"--vty_socket", f.dir, "--bfdctl", in("bfdd.sock"), "-P", "0", "--log", "file:"+in("log"))
	if err := netns.Start(f.ns, cmd); err != nil {
		f.Fatal(err)
	}
	f.cmd = cmd
	f.Cleanup(func() { f.kill(cmd) })
	until(f.T, "bfdd answers", func() (string, bool) {
		out, err := f.try("show bfd peers json")
		return out, err == nil && strings.Contains(out, `"peer"`)
	})
}

// kill ends a daemon without warning.
func (f *frr) kill(cmd *exec.Cmd) {
	if cmd.ProcessState == nil {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // "killed" is what we want
	}
}

func (f *frr) try(commands ...string) (string, error) {
	args := []string{"--vty_socket", f.dir, "-d", "bfdd"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	out, err := exec.Command("vtysh", args...).Output()
	return string(out), err
}

// configure changes one session of bfdd.
func (f *frr) configure(name string, lines ...string) {
	f.Helper()
	if out, err := f.try(append([]string{"configure terminal", "bfd", name}, lines...)...); err != nil || strings.Contains(out, "%") {
		f.Fatalf("vtysh %q: %s, %v", lines, out, err)
	}
}

// wait waits until bfdd's sessions fulfil a condition; only, if not nil, chooses among
// them.
func (f *frr) wait(what string, only func(frrPeer) bool, ok func(frrPeer) bool) {
	f.Helper()
	until(f.T, "bfdd: "+what, func() (string, bool) {
		out, err := f.try("show bfd peers json")
		var list []frrPeer
		if err == nil {
			err = json.Unmarshal([]byte(out), &list)
		}
		good := err == nil && len(list) == len(frrWays())
		for _, p := range list {
			good = good && (only != nil && !only(p) || ok(p))
		}
		return out, good
	})
}

func frrUp(p frrPeer) bool { return p.Status == "up" }

func v4Neighbour(p frrPeer) bool { return p.Peer == "10.99.0.1" && !p.Multihop }

// frrPeers are our ends of the sessions with bfdd.
func frrPeers() (list []Peer) {
	for _, w := range frrWays() {
		list = append(list, peerOf(w.name, w.local, w.remote, w.multihop))
	}
	return list
}

// RFC 5881 §4, RFC 5883 §5: sessions with FRR's bfdd come up over IPv4 and IPv6, as neighbours and over hops
// RFC 5880 §6.8.3: FRR follows our changes of intervals and we follow FRR's, and the sessions stay up
// RFC 5880 §6.8.16: FRR sees our AdminDown, and we see FRR's
func TestFRR(t *testing.T) {
	left, right := pair(t)
	f := newFRR(t, right)
	peers := frrPeers()
	a := start(t, left, peers...)
	a.wait("up with bfdd", isUp)
	f.wait("up", nil, func(p frrPeer) bool { return frrUp(p) && p.RemoteTransmit == 100 && p.RemoteReceive == 100 })

	before := a.Status().Sessions
	for i := range peers {
		peers[i].TransmitInterval, peers[i].ReceiveInterval, peers[i].Multiplier = 250*ms, 150*ms, 25
	}
	a.set(peers...)
	f.wait("our intervals", nil, func(p frrPeer) bool {
		return frrUp(p) && p.RemoteTransmit == 250 && p.RemoteReceive == 150 && p.RemoteMultiplier == 25
	})
	a.wait("bfdd's Final", isUp)
	for _, w := range frrWays() {
		f.configure(frrName(w.remote, w.local, w.multihop), "transmit-interval 400", "detect-multiplier 24")
	}
	a.wait("bfdd's intervals", func(s SessionStatus) bool {
		return isUp(s) && s.RemoteTransmit == 400*ms && s.RemoteMultiplier == 24 && s.DetectionTime == 24*400*ms
	})
	for i, s := range a.Status().Sessions {
		if s.Since != before[i].Since {
			t.Errorf("%s went down when intervals changed: %+v", s.Peer.Name, s)
		}
	}

	from := a.tells()
	f.configure(frrName("10.99.0.2", "10.99.0.1", false), "shutdown")
	if c := a.waitTold(from, "v4", false); !c.Orderly || c.Diagnostic != NeighborDown {
		t.Errorf("bfdd's shutdown was told as %+v", c)
	}
	f.configure(frrName("10.99.0.2", "10.99.0.1", false), "no shutdown")
	a.wait("up again", isUp)

	a.set(peers[1:]...)
	f.wait("our AdminDown", v4Neighbour, func(p frrPeer) bool {
		return p.Status == "down" && p.Diagnostic == "neighbor signaled session down" && p.RemoteDiagnostic == "administratively down"
	})
	a.set(peers...)
	a.wait("up again", isUp)
	f.wait("up again", nil, frrUp)
}

// RFC 5880 §6.8.4: FRR's bfdd is killed, and its sessions go down here; it comes back, and they come up
func TestFRRIsKilled(t *testing.T) {
	left, right := pair(t)
	f := newFRR(t, right)
	a := start(t, left, frrPeers()...)
	a.wait("up with bfdd", isUp)
	from := a.tells()
	f.kill(f.cmd)
	killed := time.Now()
	for _, w := range frrWays() {
		c := a.waitTold(from, w.name, false)
		if c.Diagnostic != TimeExpired || c.Orderly {
			t.Errorf("told %+v", c)
		}
		// The detection time is 2 s; ten times that means that something else ended it.
		if after := c.Since.Sub(killed); after > 20*time.Second {
			t.Errorf("%s: noticed after %v", w.name, after)
		}
	}
	f.start()
	a.wait("up again", isUp)
}

// RFC 5880 §6.8.4: our side is killed, and bfdd's sessions go down; we come back, and they come up
func TestWeAreKilled(t *testing.T) {
	left, right := pair(t)
	f := newFRR(t, right)
	peers, err := json.Marshal(frrPeers())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), child+"="+string(peers))
	if _, err := cmd.StdinPipe(); err != nil { // Wait closes it
		t.Fatal(err)
	}
	if err := netns.Start(left, cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.kill(cmd) })
	f.wait("up", nil, frrUp)
	f.kill(cmd)
	f.wait("down", nil, func(p frrPeer) bool {
		return p.Status == "down" && p.Diagnostic == "control detection time expired"
	})
	start(t, left, frrPeers()...).wait("up again", isUp)
	f.wait("up again", nil, frrUp)
}

// RFC 5880 §4.1: tshark reads what we send as BFD, and has nothing to complain about
func TestTshark(t *testing.T) {
	need(t, "tcpdump", "tshark")
	left, right := pair(t)
	file := filepath.Join(t.TempDir(), "bfd.pcap")
	dump := exec.Command("tcpdump", "-i", "left", "--immediate-mode", "-U", "-Z", "root", "-w", file, "udp")
	said, err := dump.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := netns.Start(left, dump); err != nil {
		t.Fatal(err)
	}
	end := func() {
		if dump.ProcessState == nil {
			_ = dump.Process.Signal(os.Interrupt) // it may have ended
			_, _ = io.Copy(io.Discard, said)
			_ = dump.Wait()
		}
	}
	t.Cleanup(end)
	if line, err := bufio.NewReader(said).ReadString('\n'); err != nil || !strings.Contains(line, "listening") {
		t.Fatalf("tcpdump: %s, %v", line, err)
	}
	ours, theirs := bothEnds()
	a, b := start(t, left, ours...), start(t, right, theirs...)
	a.wait("left up", isUp)
	b.wait("right up", isUp)
	a.stop()
	b.wait("AdminDown", func(s SessionStatus) bool { return s.State == Down && s.RemoteState == AdminDown })
	until(t, "the capture has the last packets", func() (string, bool) {
		out, _ := exec.Command("tshark", "-r", file, "-Y", "bfd.sta == 0").Output() // the file may end amid a packet
		return string(out), strings.Count(string(out), "\n") == len(ways)
	})
	end()
	read := func(filter string, fields ...string) string {
		args := []string{"-r", file, "-Y", filter, "-T", "fields", "-e", "frame.number"}
		for _, f := range fields {
			args = append(args, "-e", f)
		}
		out, err := exec.Command("tshark", args...).Output()
		if err != nil {
			t.Fatalf("tshark: %v", err)
		}
		return string(out)
	}
	if bad := read("udp && (!bfd || _ws.malformed || _ws.expert)"); bad != "" {
		t.Errorf("tshark complains about frames\n%s", bad)
	}
	if odd := read("bfd && (ip.ttl != 255 || ipv6.hlim != 255 || udp.srcport < 49152)"); odd != "" {
		t.Errorf("TTL or source port is wrong in frames\n%s", odd)
	}
	fields := []string{"bfd.sta", "bfd.diag", "bfd.flags.p", "bfd.flags.f", "udp.dstport", "ip.dsfield.dscp", "ipv6.tclass.dscp"}
	seen := map[string]bool{}
	for _, line := range strings.Split(read("bfd", fields...), "\n") {
		for i, value := range strings.Split(line, "\t")[1:] {
			if n, err := strconv.ParseInt(value, 0, 64); err == nil {
				seen[fmt.Sprintf("%s %d", fields[i], n)] = true
			} else {
				seen[fields[i]+" "+value] = true
			}
		}
	}
	for _, want := range [...]string{"bfd.sta 0", "bfd.sta 1", "bfd.sta 2", "bfd.sta 3", "bfd.diag 7", "bfd.flags.p 1", "bfd.flags.f 1",
		"udp.dstport 3784", "udp.dstport 4784", "ip.dsfield.dscp 48", "ipv6.tclass.dscp 48"} {
		if !seen[want] {
			t.Errorf("tshark finds no packet with %s in %v", want, seen)
		}
	}
}
