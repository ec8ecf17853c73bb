package netns_test

import (
	"fmt"
	"os/exec"
	"strings"
)

// tunnelPorts leaves the tunnels to tshark's own dissectors and keeps it from
// finding meaning in everything else.
var tunnelPorts = []string{
	"-d", "tcp.port==1-65535,data",
	"-d", "udp.port==1-4788,data", "-d", "udp.port==4790-6634,data", "-d", "udp.port==6636-49151,data",
	"-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE",
}

// wireTap is a capture of what each node sends on the wire, from when it is made.
type wireTap struct {
	c        *cluster
	name     string
	captures []*capture // by node
}

// tap starts to capture what nodes send. All of it is judged at the end.
func (c *cluster) tap(name string) *wireTap {
	c.t.Helper()
	w := &wireTap{c: c, name: name}
	for _, n := range c.nodes {
		port := fmt.Sprintf("n%d", n.number)
		w.captures = append(w.captures, c.captureOn(fmt.Sprintf("wire-%s-%s", name, port), "wire", port, "in"))
	}
	c.wires = append(c.wires, w)
	return w
}

// frames returns fields of the captured frames that a display filter selects, one
// frame an element. A field that a frame has several times, as tunnel packets do, has
// its values joined by commas, the outermost first.
func (w *wireTap) frames(filter string, fields ...string) (frames [][]string) {
	c := w.c
	c.t.Helper()
	var files []string
	for _, x := range w.captures {
		files = append(files, x.file)
	}
	merged := c.path("wire-" + w.name + ".pcapng")
	if out, err := exec.Command("mergecap", append([]string{"-w", merged}, files...)...).CombinedOutput(); err != nil && !strings.Contains(string(out), "cut short") {
		c.t.Errorf("mergecap: %v\n%s", err, out)
	}
	args := append([]string{"-n", "-r", merged, "-Y", filter, "-T", "fields", "-E", "separator=|"}, tunnelPorts...)
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	var complaints strings.Builder
	cmd := exec.Command("tshark", args...)
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		c.t.Errorf("tshark: %v\n%.500s", err, complaints.String())
	}
	for line := range strings.Lines(string(out)) {
		frames = append(frames, strings.Split(strings.TrimSuffix(line, "\n"), "|"))
	}
	return frames
}

// judge lets tshark judge what nodes sent: nothing is malformed, no checksum is wrong,
// and what looks like a tunnel packet is read to the packet inside.
func (w *wireTap) judge() {
	c := w.c
	c.finish(w.captures)
	const info = "_ws.col.Info"
	for _, f := range w.frames(malformed, "frame.protocols", "ip.src", "ip.dst", info) {
		c.t.Errorf("tshark: malformed: %.300s", f)
	}
	for _, f := range w.frames("udp.dstport == 6635 || udp.dstport == 4789 || gre", "frame.protocols", "ip.src", "ip.dst", info) {
		if !carriesIP(f[0]) {
			c.t.Errorf("tshark reads no packet in the tunnel: %.300s", f)
		}
	}
	if c.offloads {
		return // checksums are the kernel's to complete, which it does not on a veth
	}
	for _, f := range w.frames(wrongSum, "frame.protocols", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst", info) {
		c.t.Errorf("tshark: wrong checksum: %.300s", f)
	}
}

// carriesIP reports whether a tunnel packet's layers, as tshark names them, end with
// an IP or ARP packet inside.
func carriesIP(protocols string) bool {
	for _, tunnel := range []string{":mpls:", ":vxlan:"} {
		if _, inner, ok := strings.Cut(protocols, tunnel); ok {
			return strings.HasPrefix(inner, "ip") || strings.HasPrefix(inner, "eth:ethertype:ip") || strings.HasPrefix(inner, "eth:ethertype:arp")
		}
	}
	// A fragment of a tunnel packet would be read as data: none may be sent
	// (RFC 7348 section 4.3).
	return false
}
