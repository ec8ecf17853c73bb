package netns_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"github.com/vrouter-go/vrouter/internal/netns"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// captureLimit bounds a capture in packets: bulk transfers need not be judged to
// their end.
const captureLimit = "3000"

// capture is a tcpdump inside a guest's namespace of what the guest receives,
// which is what the vRouter emits.
//
// Packets that the vRouter merged have partial sums, which are looked at here
// (wrongSums). Where a guest has checksum offload on, the sums of its TCP and UDP packets stay
// partial on the way to another guest, and tshark 4.0 calls those wrong. So hosts
// switch it off in every guest, unless a test is about offloads (options.offloads):
// then only IP and ICMP checksums are judged, and TestPlainPort judges what becomes
// of partial ones where they have to be completed.
type capture struct {
	role, file string
	cmd        *exec.Cmd
	text       *output
}

// output collects what a program writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

// String returns what was written so far.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

var _ io.Writer = (*output)(nil)

// capture starts to capture what a role receives.
func (h *host) capture(role string) {
	h.t.Helper()
	h.taps = append(h.taps, h.captureOn("in-"+role, role, device(role), "in"))
}

// captureOn starts to capture one direction of a device in a role's namespace, into
// the file NAME.pcap.
func (h *host) captureOn(name, role, device, direction string) *capture {
	h.t.Helper()
	c := &capture{role: role, file: h.path(name + ".pcap"), text: &output{}}
	c.cmd = exec.Command("tcpdump", "-i", device, "-Q", direction, "-n", "-U", "--immediate-mode", "-Z", "root", "-B", "4096", "-c", captureLimit, "-w", c.file)
	c.cmd.Stderr = c.text
	if err := netns.Start(h.ns(role), c.cmd); err != nil {
		h.t.Fatal(err)
	}
	h.until("tcpdump listens", func() bool { return strings.Contains(c.text.String(), "listening on") })
	return c
}

// finish ends captures and returns the files of those that have packets.
func (h *host) finish(captures []*capture) (files []string) {
	for _, c := range captures {
		if err := c.cmd.Process.Signal(syscall.SIGINT); err != nil && !strings.Contains(err.Error(), "finished") {
			h.t.Errorf("tcpdump: %v", err)
		}
		_ = c.cmd.Wait() // also ends, with an error, when its device is deleted
		if info, err := os.Stat(c.file); err == nil && info.Size() > 24 {
			files = append(files, c.file)
		}
	}
	return files
}

// end is what every test ends with: the packets are accounted for, nothing was
// dropped for an unknown reason, no worker panicked, the daemon ends as asked,
// and tshark finds nothing wrong with what was emitted.
func (h *host) end() {
	if h.daemon != nil {
		h.conserve()
		h.stop(syscall.SIGTERM)
	}
	log := h.log()
	if strings.Contains(log, "panic") {
		h.t.Error("the daemon panicked")
	}
	h.wire()
	if h.t.Failed() {
		h.t.Logf("the daemon's log:\n%s", log)
	}
}

// conserve checks: received + generated = transmitted + coalesced + dropped + held.
func (h *host) conserve() {
	h.t.Helper()
	var totals *pb.PacketTotals
	balanced := false
	for end := time.Now().Add(patience); !balanced && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		status, err := h.api.Status(context.Background())
		if err != nil {
			h.t.Errorf("status: %v", err)
			return
		}
		totals = status.GetTotals()
		balanced = totals.GetReceived()+totals.GetGenerated() == totals.GetTransmitted()+totals.GetCoalesced()+totals.GetDropped()+totals.GetHeld()
	}
	if !balanced {
		h.t.Errorf("packets are not conserved: %v", totals)
	}
	for _, reason := range []string{"UNKNOWN", "WORKER_PANIC"} {
		answer, err := h.api.ListDrops(context.Background(), &pb.ListDropsRequest{Reason: reason})
		if err != nil || len(answer.GetDrops()) != 0 {
			h.t.Errorf("drops for %s: %v, %v", reason, answer, err)
		}
	}
}

// What tshark may not find. It also computes a checksum over the cut packet that a
// long ICMP error quotes, which means nothing, and calls a TCP checksum of 0xffff
// wrong, which Linux writes for 0 where it completes one (skb_checksum_help).
const (
	malformed = `_ws.malformed || ip.checksum.status == "Bad" || tcp.bogus_header_length` +
		` || icmp.checksum.status == "Bad" || icmpv6.checksum.status == "Bad"`
	wrongSum = `(((tcp.checksum.status == "Bad" && tcp.checksum != 0xffff) || udp.checksum.status == "Bad") && (frame.len < 576 || !(icmp || icmpv6)))`
)

// wire ends the captures and lets tshark judge them together.
func (h *host) wire() {
	files := h.finish(h.taps)
	if len(files) == 0 {
		return
	}
	found := h.tshark(malformed, files...)
	if !h.offloads {
		found += h.wrongSums(files...)
	}
	if found != "" {
		h.t.Errorf("tshark finds fault with:\n%.3000s", found)
	}
}

// wrongSums returns the packets of captures whose TCP or UDP checksum is neither
// right nor the sum of the pseudo-header: that is what packets that the vRouter
// merged carry, for the guest's kernel to complete.
func (h *host) wrongSums(files ...string) string {
	h.t.Helper()
	fields := []string{"-T", "fields", "-E", "separator=|", "-E", "occurrence=f"}
	for _, f := range []string{"ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "tcp.checksum", "tcp.hdr_len", "tcp.len", "udp.checksum", "udp.length", "_ws.col.Info"} {
		fields = append(fields, "-e", f)
	}
	var wrong strings.Builder
	for line := range strings.Lines(h.tsharkWith(fields, wrongSum, files...)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), "|", 10)
		if len(f) != 10 || !partial(f) {
			wrong.WriteString(line)
		}
	}
	return wrong.String()
}

// partial reports whether a checksum is the sum of the pseudo-header
// (RFC 9293 section 3.1, RFC 768, RFC 8200 section 8.1). The fields are those that
// wrongSums asks for.
func partial(f []string) bool {
	number := func(s string) uint32 {
		n, _ := strconv.ParseUint(s, 0, 32)
		return uint32(n)
	}
	var sum uint32
	for _, address := range f[:4] {
		a, err := netip.ParseAddr(address)
		if err != nil {
			continue // the other family's
		}
		for b := a.AsSlice(); len(b) > 0; b = b[2:] {
			sum += uint32(b[0])<<8 | uint32(b[1])
		}
	}
	field := number(f[4])
	if f[4] != "" {
		sum += 6 + number(f[5]) + number(f[6])
	} else {
		field = number(f[7])
		sum += 17 + number(f[8])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return sum == field
}

// tshark returns the packets of captures that a display filter selects, one a
// line.
func (h *host) tshark(filter string, files ...string) string {
	h.t.Helper()
	return h.tsharkWith(nil, filter, files...)
}

// tsharkWith is tshark with further arguments.
func (h *host) tsharkWith(args []string, filter string, files ...string) string {
	h.t.Helper()
	merged := h.path("merged.pcapng")
	if out, err := exec.Command("mergecap", append([]string{"-w", merged}, files...)...).CombinedOutput(); err != nil {
		h.t.Errorf("mergecap: %v\n%s", err, out)
	}
	var complaints strings.Builder
	cmd := exec.Command("tshark", append(args, "-n", "-r", merged, "-Y", filter,
		"-d", "tcp.port==1-65535,data", "-d", "udp.port==1-65535,data", // finding meaning in random payloads finds malformed ones
		"-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE")...)
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		h.t.Errorf("tshark: %v\n%.500s", err, complaints.String())
	}
	return string(out)
}

// TestJudge: the judge sees a wrong checksum and a cut header.
func TestJudge(t *testing.T) {
	need(t, "tshark", "mergecap")
	h := &host{t: t, dir: t.TempDir()}
	frame := func(change func(l *layers.TCP, b []byte) []byte) []byte {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: net.IP{192, 0, 2, 1}, DstIP: net.IP{192, 0, 2, 2}}
		tcp := &layers.TCP{SrcPort: 4000, DstPort: 80, PSH: true, ACK: true, Window: 500}
		if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		buf := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
			&layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4},
			ip, tcp, gopacket.Payload("payload!")); err != nil {
			t.Fatal(err)
		}
		return change(tcp, buf.Bytes())
	}
	const sumAt = 14 + 20 + 16
	for _, c := range []struct {
		name   string
		change func(l *layers.TCP, b []byte) []byte
		wrong  bool
	}{
		{"right", func(_ *layers.TCP, b []byte) []byte { return b }, false},
		{"wrong TCP", func(_ *layers.TCP, b []byte) []byte { b[sumAt]++; return b }, true},
		{"wrong IP", func(_ *layers.TCP, b []byte) []byte { b[14+10]++; return b }, true},
		{"malformed", func(_ *layers.TCP, b []byte) []byte { b[14+20+12] = 0x10; return b }, true},
	} {
		file := h.path("frame.pcap")
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		w := pcapgo.NewWriter(f)
		b := frame(c.change)
		if err := errors.Join(w.WriteFileHeader(1<<16, layers.LinkTypeEthernet),
			w.WritePacket(gopacket.CaptureInfo{Timestamp: time.Now(), CaptureLength: len(b), Length: len(b)}, b), f.Close()); err != nil {
			t.Fatal(err)
		}
		if found := h.tshark(malformed+" || "+wrongSum, file); (found != "") != c.wrong {
			t.Errorf("%s: tshark's verdict is %q", c.name, found)
		}
	}
}
