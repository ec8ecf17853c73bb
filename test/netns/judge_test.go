package netns_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vrouter-go/vrouter/internal/netns"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// captureLimit bounds a capture in packets: bulk transfers need not be judged to
// their end.
const captureLimit = "3000"

// capture is a tcpdump inside a guest's namespace of what the guest receives,
// which is what the vRouter emits.
//
// Where both ends have offloads a checksum stays partial, and is then the sum
// over the pseudo-header alone. tshark knows that sum and tells it from a wrong
// one, so partial checksums are judged like complete ones.
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
	device := "eth0"
	if role == "node" {
		device = "vhost0"
	}
	c := &capture{role: role, file: h.path("in-" + role + ".pcap"), text: &output{}}
	c.cmd = exec.Command("tcpdump", "-i", device, "-Q", "in", "-n", "-U", "-Z", "root", "-B", "4096", "-c", captureLimit, "-w", c.file)
	c.cmd.Stderr = c.text
	if err := netns.Start(h.ns(role), c.cmd); err != nil {
		h.t.Fatal(err)
	}
	h.taps = append(h.taps, c)
	h.until("tcpdump listens", func() bool { return strings.Contains(c.text.String(), "listening on") })
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

// conserve checks: received + generated = transmitted + dropped + held.
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
		balanced = totals.GetReceived()+totals.GetGenerated() == totals.GetTransmitted()+totals.GetDropped()+totals.GetHeld()
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

// wrong is what tshark may not find.
const wrong = `_ws.malformed || ip.checksum.status == "Bad" || tcp.checksum.status == "Bad" || udp.checksum.status == "Bad"` +
	` || icmp.checksum.status == "Bad" || icmpv6.checksum.status == "Bad"`

// wire ends the captures and lets tshark judge them together.
func (h *host) wire() {
	var files []string
	for _, c := range h.taps {
		if err := c.cmd.Process.Signal(syscall.SIGINT); err != nil && !strings.Contains(err.Error(), "finished") {
			h.t.Errorf("tcpdump: %v", err)
		}
		_ = c.cmd.Wait() // also ends, with an error, when its device is deleted
		if info, err := os.Stat(c.file); err == nil && info.Size() > 24 {
			files = append(files, c.file)
		}
	}
	if len(files) == 0 {
		return
	}
	if found := h.tshark(wrong, files...); found != "" {
		h.t.Errorf("tshark finds fault with:\n%s", found)
	}
}

// tshark returns the packets of captures that a display filter selects, one a
// line.
func (h *host) tshark(filter string, files ...string) string {
	h.t.Helper()
	merged := h.path("merged.pcapng")
	if out, err := exec.Command("mergecap", append([]string{"-w", merged}, files...)...).CombinedOutput(); err != nil {
		h.t.Errorf("mergecap: %v\n%s", err, out)
	}
	var errors strings.Builder
	cmd := exec.Command("tshark", "-n", "-r", merged, "-Y", filter, "--only-protocols", protocols,
		"-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE")
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		h.t.Errorf("tshark: %v\n%s", err, errors.String())
	}
	return string(out)
}

// protocols that tshark decodes; it would try to find meaning in the random bytes
// of payloads otherwise.
const protocols = "frame,eth,ethertype,arp,ip,ipv6,ipv6.fraghdr,ipv6.hopopts,tcp,udp,icmp,icmpv6,data,_ws.malformed"
