package replay

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"github.com/vrouter-go/vrouter/test/packet"
)

// frame is one packet of a capture.
type frame struct {
	data []byte
	line string
}

// frames reads a capture with gopacket.
func frames(capture []byte) (list []frame) {
	r, err := pcapgo.NewReader(bytes.NewReader(capture))
	if err != nil {
		return nil
	}
	for {
		data, _, err := r.ReadPacketData()
		if err != nil {
			return list
		}
		list = append(list, frame{data, packet.Format(data, packet.Link{})})
	}
}

// TestCapturesAsReceived compares each golden with what the kernels of the guests
// received when the fixture was recorded, so that a golden is more than our own
// opinion: the very packets that replay emits made curl, dig, iperf3 and the
// others succeed. Nothing may differ, only the order in which packets of
// different connections arrive.
func TestCapturesAsReceived(t *testing.T) {
	for _, dir := range fixtures(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			received, out := read(t, filepath.Join(dir, "received")), read(t, filepath.Join(dir, "out"))
			for _, name := range union(received, out) {
				got, want := lineSet(frames(out[name])), lineSet(frames(received[name]))
				for line, n := range want {
					if got[line] != n {
						t.Errorf("%s: the guest received %d times, replay sends %d times:\n%s", name, n, got[line], line)
					}
				}
				for line, n := range got {
					if want[line] == 0 {
						t.Errorf("%s: the guest never received, replay sends %d times:\n%s", name, n, line)
					}
				}
			}
		})
	}
}

// lineSet counts frames: the readable line and all bytes.
func lineSet(list []frame) map[string]int {
	set := map[string]int{}
	for _, f := range list {
		set[fmt.Sprintf("%s\n%x", f.line, f.data)]++
	}
	return set
}

// TestCapturesKeepPayloads looks at what gopacket finds inside TCP and UDP: every
// payload that comes out went in, byte for byte, and what went in and did not come
// out was dropped and counted.
func TestCapturesKeepPayloads(t *testing.T) {
	for _, dir := range fixtures(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			balance := map[string]int{}
			sent := 0
			for _, file := range inputs(t, dir) {
				data, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				for _, p := range payloads(frames(data)) {
					balance[p]++
					sent++
				}
			}
			for name, data := range read(t, filepath.Join(dir, "out")) {
				for _, p := range payloads(frames(data)) {
					if balance[p]--; balance[p] < 0 {
						t.Fatalf("%s: a payload of %d bytes that nobody sent", name, len(p))
					}
				}
			}
			lost := 0
			for _, n := range balance {
				lost += n
			}
			if dropped := bytes.Count(readGoldens(t, dir)["drops.json"], []byte(`"packets"`)); lost > 0 && dropped == 0 {
				t.Errorf("%d of %d payloads are lost without a drop", lost, sent)
			}
			whole := !strings.HasSuffix(dir, "ping") && !strings.HasSuffix(dir, "fragments")
			if sent == 0 && whole {
				t.Error("no payload: the fixture lost its reach")
			}
		})
	}
}

// payloads are the TCP and UDP payloads of whole packets, with the protocol.
func payloads(list []frame) (out []string) {
	for _, f := range list {
		p := gopacket.NewPacket(f.data, layers.LayerTypeEthernet, gopacket.NoCopy)
		if l, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP); ok && len(l.Payload) > 0 {
			out = append(out, fmt.Sprintf("tcp %d %s", l.Seq, l.Payload))
		}
		if l, ok := p.Layer(layers.LayerTypeUDP).(*layers.UDP); ok && len(l.Payload) > 0 {
			out = append(out, "udp "+string(l.Payload))
		}
	}
	return out
}

// TestCapturesReadByTshark lets tshark decode all that we emit, the goldens and
// what the guests received, with every checksum verified, reassembly included: it
// finds nothing malformed and no bad checksum.
func TestCapturesReadByTshark(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Skip("SKIP-TOOL: tshark is missing")
	}
	mergecap, err := exec.LookPath("mergecap")
	if err != nil {
		t.Skip("SKIP-TOOL: mergecap, which comes with tshark, is missing")
	}
	for _, dir := range fixtures(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			files, err := filepath.Glob(dir + "/out/*.pcap")
			if err != nil || len(files) == 0 {
				t.Fatalf("no captures: %v", err)
			}
			all := filepath.Join(t.TempDir(), "all.pcap")
			if out, err := exec.Command(mergecap, append([]string{"-w", all}, files...)...).CombinedOutput(); err != nil {
				t.Fatalf("mergecap: %v: %s", err, out)
			}
			for _, complaint := range complaints(t, tshark, all) {
				t.Error(complaint)
			}
		})
	}
}

// bad is a display filter for everything that must not be. An ICMP error's
// quote is as its sender made it.
const bad = `_ws.malformed || _ws.short || ip.checksum.status == "Bad" || tcp.checksum.status == "Bad" || udp.checksum.status == "Bad"` +
	` || icmp.checksum.status == "Bad" || icmpv6.checksum.status == "Bad" || ip.fragment.error || ipv6.fragment.error || ip.fragment.overlap || ipv6.fragment.overlap`

// complaints are the packets of a capture that tshark does not like, a line each.
func complaints(t *testing.T, tshark, file string) []string {
	t.Helper()
	cmd := exec.Command(tshark, "-n", "-r", file, "-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-Y", bad)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark: %v: %s", err, stderr.String())
	}
	return slices.DeleteFunc(strings.Split(string(out), "\n"), func(s string) bool { return s == "" })
}

// TestTsharkSeesDamage makes sure that the judge has eyes: each damage to a golden
// is found.
func TestTsharkSeesDamage(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Skip("SKIP-TOOL: tshark is missing")
	}
	golden, err := os.ReadFile(captures + "/http/out/client-1.pcap")
	if err != nil {
		t.Fatal(err)
	}
	start := 24 // of the first TCP segment over IPv4, behind the file's header
	for _, f := range frames(golden) {
		start += 16
		if strings.Contains(f.line, " tcp ") && f.data[12] == 8 {
			break
		}
		start += len(f.data)
	}
	for name, at := range map[string]int{"TTL": start + 14 + 8, "TCP port": start + 14 + 20} {
		file := filepath.Join(t.TempDir(), "damaged.pcap")
		spoilt := bytes.Clone(golden)
		spoilt[at] ^= 1
		if err := os.WriteFile(file, spoilt, 0o644); err != nil {
			t.Fatal(err)
		}
		if len(complaints(t, tshark, file)) == 0 {
			t.Errorf("tshark does not notice a changed %s", name)
		}
	}
}
