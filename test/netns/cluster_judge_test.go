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
		return // the guests' own checksums are partial as well
	}
	fields := []string{"frame.protocols", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "tcp.checksum", "tcp.hdr_len", "tcp.len", "udp.checksum", "udp.length", info}
	for _, f := range w.frames(wrongSum, fields...) {
		if tunnelled(f[0]) && !partial(innermost(f)) {
			c.t.Errorf("tshark: wrong checksum: %.300s", f)
		}
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

// tunnelled reports whether layers are those of a tunnel packet. What the node's own
// kernel sends has partial sums, for it leaves them to the veth.
func tunnelled(protocols string) bool {
	return strings.Contains(protocols, ":mpls:") || strings.Contains(protocols, ":vxlan:")
}

// innermost returns what partial looks at of the packet inside.
func innermost(f []string) []string {
	last := func(s string) string { return s[strings.LastIndexByte(s, ',')+1:] }
	in := make([]string, 10)
	layers := strings.Split(f[0], ":")
	for i := len(layers) - 1; i >= 0; i-- {
		switch layer := layers[i]; {
		case (layer == "tcp" || layer == "udp") && in[4] == "" && in[7] == "":
			if layer == "tcp" {
				in[4], in[5], in[6] = last(f[5]), last(f[6]), last(f[7])
			} else {
				in[7], in[8] = last(f[8]), last(f[9])
			}
		case layer == "ip":
			in[0], in[1] = last(f[1]), last(f[2])
			return in
		case layer == "ipv6":
			in[2], in[3] = last(f[3]), last(f[4])
			return in
		}
	}
	return in
}
