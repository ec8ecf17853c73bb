//go:build linux

package afpacket_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/afpacket"
)

// ours is what the package says is the forwarder's, written down a second time.
func ours(b []byte) bool {
	if string(b[:6]) != "\x02\x00\x00\x00\x08\x01" {
		return false
	}
	word := func(at int) int { return int(b[at])<<8 | int(b[at+1]) }
	switch word(12) {
	case 0x0800:
		dhcp := b[14] == 0x45 && b[23] == 17 && word(20)&0x1fff == 0 && (word(36) == 67 || word(36) == 68)
		return !dhcp
	case 0x86dd:
		dhcp := b[20] == 17 && (word(56) == 546 || word(56) == 547)
		nd := b[20] == 58 && b[54] >= 133 && b[54] <= 137
		return !dhcp && !nd
	}
	return false
}

const templateMAC = "02:00:00:00:08:77" // tells templates from what kernels say by themselves

// template returns a frame of 80 bytes near the edge of the set.
func template(r *rand.Rand) []byte {
	b := make([]byte, 80)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	copy(b, []byte{2, 0, 0, 0, 8, 1, 2, 0, 0, 0, 8, 0x77})
	pick := func(values ...byte) byte { return values[r.IntN(len(values))] }
	switch r.IntN(12) {
	case 0: // another host's
		b[5] = 9
	case 1: // multicast, broadcast
		copy(b, []byte{1, 0, 0x5e, 0, 0, 1})
		if r.IntN(2) == 0 {
			copy(b, []byte{255, 255, 255, 255, 255, 255})
		}
	}
	switch r.IntN(10) {
	case 0:
		b[12], b[13] = 0x08, 0x06
	case 1: // VLAN 5, priority 0, then IPv4
		copy(b[12:], []byte{0x81, 0, 0, 5, 8, 0})
	case 2:
		b[12], b[13] = 0x88, pick(0xa8, 0xb5)
	case 3, 4, 5:
		copy(b[12:], []byte{8, 0, pick(0x45, 0x45, 0x46), 0, 0, 66, 0, 1, pick(0, 0, 0x40, 0x20, 0x1f), pick(0, 0, 0, 1), 64, pick(17, 17, 6, 1)})
		copy(b[36:], []byte{pick(0, 0, 1), pick(66, 67, 68, 69)})
	default:
		copy(b[12:], []byte{0x86, 0xdd, 0x60, 0, 0, 0, 0, 26, pick(17, 58, 58, 6, 0), 64})
		b[54] = pick(132, 133, 134, 135, 136, 137, 138, 128)
		if b[20] == 17 {
			copy(b[56:], []byte{2, pick(0x21, 0x22, 0x23, 0x24)})
		}
	}
	return b
}

// Each frame has one owner: the queue reads exactly the set, and exactly the rest
// passes the guard. The witness behind the guard is a chain of nft's.
func TestEveryFrameHasOneOwner(t *testing.T) {
	needRoot(t, "nft")
	node, far := fabric(t)
	// Answers would be frames too: the node's kernel is to be silent.
	mustRun(t, node, "ip", "addr", "flush", "dev", "up0")
	mustRun(t, far, "ip", "addr", "flush", "dev", "far0")
	d := open(t, afpacket.Spec{Device: "up0", Netns: node})
	mustRun(t, node, "nft", "add", "table", "netdev", "witness")
	mustRun(t, node, "nft", "add chain netdev witness c { type filter hook ingress device up0 priority 0; }")
	mustRun(t, node, "nft", "add", "rule", "netdev", "witness", "c", "ether", "saddr", templateMAC, "counter")
	socket := rawSocket(t, far, "far0")
	r := rand.New(rand.NewPCG(8, 8))
	const sent = 20000
	read, want, frames := 0, 0, buffers(port.BatchSize)
	drain := func() {
		n, err := d.Queues()[0].Read(frames)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range frames[:n] {
			if read++; !ours(f.Bytes()) {
				t.Errorf("read a frame that is the kernel's: %x", f.Bytes())
			}
		}
	}
	vlan := 0
	for range sent {
		b := template(r)
		if ours(b) {
			want++
		}
		if b[12] == 0x81 {
			vlan++
		}
		if _, err := unix.Write(socket, b); err != nil {
			t.Fatal(err)
		}
		drain()
	}
	eventually(t, "the last frame", func() bool { drain(); return read >= want })
	if drain(); read != want {
		t.Errorf("read %d frames; %d of %d are ours", read, want, sent)
	}
	if dropped := counted(t, node, "vrouter-up0"); dropped != want {
		t.Errorf("the guard dropped %d frames; want %d", dropped, want)
	}
	if passed := counted(t, node, "witness"); passed != sent-want {
		t.Errorf("%d frames passed the guard; want %d", passed, sent-want)
	}
	t.Logf("of %d frames %d were ours; %d had a VLAN tag", sent, want, vlan)
}

// counted returns the sum of the packet counters in a table.
func counted(t testing.TB, ns, table string) int {
	t.Helper()
	var answer struct {
		Nftables []struct {
			Rule struct {
				Expr []struct{ Counter struct{ Packets int } }
			}
		}
	}
	if err := json.Unmarshal([]byte(mustRun(t, ns, "nft", "-j", "list", "table", "netdev", table)), &answer); err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, item := range answer.Nftables {
		for _, e := range item.Rule.Expr {
			sum += e.Counter.Packets
		}
	}
	return sum
}

// rawSocket returns a packet socket that sends through a link.
func rawSocket(t testing.TB, ns, device string) int {
	t.Helper()
	var fd int
	if err := netns.Do(ns, func() error {
		link, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: link.Index})
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// addVLAN puts a VLAN on the link; false where the kernel has none.
func addVLAN(t testing.TB, node, far string) bool {
	t.Helper()
	if out, err := command(t, node, "ip", "link", "add", "link", "up0", "name", "up0.5", "type", "vlan", "id", "5"); err != nil {
		t.Logf("no VLAN devices on this kernel, tagged frames are tested without: %s", out)
		return false
	}
	mustRun(t, far, "ip", "link", "add", "link", "far0", "name", "far0.5", "type", "vlan", "id", "5")
	for _, end := range [][]string{{node, "up0.5", "10.5.0.1/24"}, {far, "far0.5", "10.5.0.2/24"}} {
		mustRun(t, end[0], "ip", "link", "set", end[1], "up")
		mustRun(t, end[0], "ip", "addr", "add", end[2], "dev", end[1])
	}
	return true
}

// The node's own sockets get what is kept, and nothing else.
func TestTheKernelKeepsItsOwn(t *testing.T) {
	needRoot(t, "ping")
	node, far := fabric(t)
	vlan := addVLAN(t, node, far)
	open(t, afpacket.Spec{Device: "up0", Netns: node})
	receives := func(server *net.UDPConn, to string) bool {
		client := dial(t, far, "udp", to)
		defer client.Close()
		send(t, client, []byte("hello"))
		_ = server.SetReadDeadline(time.Now().Add(deadline))
		n, _, err := server.ReadFrom(make([]byte, 16))
		return n == 5 && err == nil
	}
	all := []string{nodeV4 + ":67", nodeV4 + ":68", net.JoinHostPort(nodeV6, "546"), net.JoinHostPort(nodeV6, "547")}
	if vlan {
		all = append(all, "10.5.0.1:5000")
	}
	for _, kept := range all {
		server := listenPacket(t, node, kept)
		if !receives(server, kept) {
			t.Errorf("%s: the kernel did not get a datagram that it keeps", kept)
		}
		server.Close()
	}
	group := net.JoinHostPort("224.0.0.200", "5001")
	var multicast *net.UDPConn
	if err := netns.Do(node, func() error {
		link, err := net.InterfaceByName("up0")
		if err != nil {
			return err
		}
		multicast, err = net.ListenMulticastUDP("udp4", link, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 200), Port: 5001})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer multicast.Close()
	mustRun(t, far, "ip", "route", "add", "224.0.0.0/4", "dev", "far0")
	if !receives(multicast, group) {
		t.Error("the kernel did not get a multicast datagram")
	}
	// One that is ours, followed by one that is kept: only the second arrives.
	server := listenPacket(t, node, nodeV4+":5002")
	client := dial(t, far, "udp", nodeV4+":5002")
	send(t, client, []byte("ours"))
	if after := listenPacket(t, node, nodeV4+":68"); !receives(after, nodeV4+":68") {
		t.Error("the kernel did not get the DHCP datagram")
	}
	_ = server.SetReadDeadline(time.Now().Add(-time.Second))
	if n, _, err := server.ReadFrom(make([]byte, 16)); err == nil {
		t.Errorf("the kernel's socket got %d bytes that are ours", n)
	}
	// Address resolution goes on: both ends forget and ask again.
	for _, a := range []string{nodeV4, nodeV6} {
		mustRun(t, far, "ip", "neigh", "flush", "dev", "far0")
		_, _ = command(t, far, "ping", "-c", "1", "-W", "1", a) // the reply is ours
		if out := mustRun(t, far, "ip", "neigh", "show", a); !strings.Contains(out, nodeMAC) {
			t.Errorf("%s was not resolved: %q", a, out)
		}
	}
}

// When the process that holds the uplink is killed, the kernel has it back.
func TestKilledProcessGivesTheLinkBack(t *testing.T) {
	needRoot(t, "ping", "nft")
	node, far := fabric(t)
	child := exec.Command("/proc/self/exe")
	child.Env = append(os.Environ(), childEnv+"="+node)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Process.Kill() }()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "attached\n" {
		rest, _ := io.ReadAll(out)
		t.Fatalf("child: %q %s %v", line, rest, err)
	}
	for _, a := range []string{nodeV4, nodeV6} {
		if _, err := command(t, far, "ping", "-c", "1", "-W", "1", a); err == nil {
			t.Errorf("ping %s: the kernel answered what is the forwarder's", a)
		}
	}
	if _, err := afpacket.Open(afpacket.Spec{Device: "up0", Netns: node}); !errors.Is(err, afpacket.ErrBusy) {
		t.Errorf("a second process attached: %v; want ErrBusy", err)
	}
	if _, err := command(t, node, "nft", "delete", "table", "netdev", "vrouter-up0"); err == nil {
		t.Error("nft deleted the guard of a living process")
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	died := time.Now()
	for _, a := range []string{nodeV4, nodeV6} {
		eventually(t, "the kernel to answer again", func() bool {
			_, err := command(t, far, "ping", "-c", "1", "-W", "1", a)
			return err == nil
		})
	}
	t.Logf("both families answer %v after the process was reaped", time.Since(died))
	transfer(t, far, node, nodeV4, 1<<20)
	leftNothing(t, node)
	open(t, afpacket.Spec{Device: "up0", Netns: node}) // and the next process can attach
}

// leftNothing checks that a namespace has nothing of ours.
func leftNothing(t testing.TB, ns string) {
	t.Helper()
	eventually(t, "table and TAP to go", func() bool {
		links := mustRun(t, ns, "ip", "-o", "link")
		tables := mustRun(t, ns, "nft", "list", "tables")
		return !strings.Contains(links, "vrt-") && !strings.Contains(tables, "vrouter")
	})
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	needRoot(t, "nft")
	node := namespace(t, "node")
	mustRun(t, node, "ip", "tuntap", "add", "tun0", "mode", "tun")
	for _, c := range []struct {
		s    afpacket.Spec
		want error
	}{
		{afpacket.Spec{Device: "nothing", Netns: node}, afpacket.ErrNoDevice},
		{afpacket.Spec{Device: "tun0", Netns: node}, afpacket.ErrNotEthernet},
		{afpacket.Spec{Device: "up0", Netns: filepath.Join(t.TempDir(), "none")}, os.ErrNotExist},
		{afpacket.Spec{Device: "up0", Netns: node, Queues: afpacket.MaxQueues + 1}, nil},
		{afpacket.Spec{Device: "up0", Netns: node, Queues: -1}, nil},
	} {
		d, err := afpacket.Open(c.s)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("Open(%+v): %v; want %v", c.s, err, c.want)
		}
		if err != nil && !strings.Contains(err.Error(), c.s.Device) {
			t.Errorf("%q does not name the device", err)
		}
		if d != nil {
			t.Error("a device beside an error")
		}
	}
	leftNothing(t, node)
	// A table of that name which is the operator's is left alone.
	addLink(t, node, namespace(t, "far"))
	mustRun(t, node, "nft", "add", "table", "netdev", "vrouter-up0")
	if _, err := afpacket.Open(afpacket.Spec{Device: "up0", Netns: node}); !errors.Is(err, afpacket.ErrBusy) {
		t.Errorf("Open beside a table of that name: %v; want ErrBusy", err)
	}
	mustRun(t, node, "nft", "delete", "table", "netdev", "vrouter-up0")
	leftNothing(t, node)
}
