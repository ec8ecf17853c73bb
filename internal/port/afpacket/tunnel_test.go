//go:build linux

package afpacket_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/afpacket"
)

// vxlan is a tunnel by hand between a guest's TAP and the uplink; its other end is
// the kernel's own VXLAN device behind the fabric.
type vxlan struct {
	outer       []byte // Ethernet, IP and UDP header
	udp         int    // where the UDP header begins
	csum        bool   // outer UDP checksum
	seen        atomic.Int64
	unlike      atomic.Int64 // tunnel superpackets received with an Offload not as documented
	unlikeFirst atomic.Value // one of them
}

func newVXLAN(v6, csum bool) *vxlan {
	v := &vxlan{csum: csum, udp: 34}
	v.outer = []byte{2, 0, 0, 0, 8, 2, 2, 0, 0, 0, 8, 1, 8, 0}
	if v6 {
		v.udp, v.outer[12], v.outer[13] = 54, 0x86, 0xdd
		ip := make([]byte, 40)
		ip[0], ip[6], ip[7] = 0x60, 17, 64
		src, dst := netip.MustParseAddr(nodeV6).As16(), netip.MustParseAddr(farV6).As16()
		copy(ip[8:], src[:])
		copy(ip[24:], dst[:])
		v.outer = append(v.outer, ip...)
	} else {
		ip := []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 8, 0, 1, 10, 8, 0, 2}
		v.outer = append(v.outer, ip...)
	}
	v.outer = append(v.outer, 0xc0, 0, 0x12, 0xb5, 0, 0, 0, 0) // to port 4789
	return v
}

// encapsulate puts the outer headers in front of a guest's frame.
func (v *vxlan) encapsulate(f *port.Frame) bool {
	inner := f.Len()
	shift := len(v.outer) + 8
	f.Start -= shift
	b := f.Bytes()
	copy(b, v.outer)
	copy(b[len(v.outer):], []byte{8, 0, 0, 0, 0, 0, 7, 0}) // VNI 7
	udpLen := uint16(8 + 8 + inner)
	binary.BigEndian.PutUint16(b[v.udp+4:], udpLen)
	if v.udp == 34 {
		binary.BigEndian.PutUint16(b[16:], 20+udpLen)
		binary.BigEndian.PutUint16(b[24:], ^sum(0, b[14:34]))
	} else {
		binary.BigEndian.PutUint16(b[18:], udpLen)
	}
	o := &f.Offload
	if v.csum {
		pseudo := sum(uint32(udpLen)+17, b[v.udp-2*addressLen(v.udp):v.udp])
		switch {
		case o.GSOType != port.GSONone: // the outer checksum stays partial
			binary.BigEndian.PutUint16(b[v.udp+6:], pseudo)
		case o.Flags&port.NeedsCsum != 0: // complete the inner one, for the outer covers it
			start := shift + int(o.CsumStart)
			binary.BigEndian.PutUint16(b[start+int(o.CsumOffset):], ^sum(0, b[start:]))
			*o = port.Offload{}
			fallthrough
		default:
			s := ^sum(uint32(udpLen)+17, b[v.udp-2*addressLen(v.udp):v.udp], b[v.udp:])
			if s == 0 {
				s = 0xffff
			}
			binary.BigEndian.PutUint16(b[v.udp+6:], s)
		}
	}
	if o.Flags&port.NeedsCsum != 0 {
		o.CsumStart += uint16(shift)
	}
	if o.GSOType != port.GSONone {
		o.GSOType |= port.GSOTunnelIPv4
		if v.udp != 34 {
			o.GSOType ^= port.GSOTunnelIPv4 | port.GSOTunnelIPv6
		}
		o.OuterL4, o.InnerL3 = uint16(v.udp), uint16(shift+14)
	}
	return true
}

func addressLen(udp int) int {
	if udp == 34 {
		return 4
	}
	return 16
}

// decapsulate takes them off what came for the tunnel, and drops all else.
func (v *vxlan) decapsulate(f *port.Frame) bool {
	b := f.Bytes()
	shift := v.udp + 16
	if len(b) < shift+14 || b[12] != v.outer[12] || binary.BigEndian.Uint16(b[v.udp+2:]) != 4789 {
		return false
	}
	if o := &f.Offload; o.GSOType != port.GSONone {
		l4 := shift + 14 + 20
		if binary.BigEndian.Uint16(b[shift+12:]) == 0x86dd {
			l4 += 20
		}
		if o.Flags&port.NeedsCsum == 0 || int(o.CsumStart) != l4 || o.OuterL4 != 0 || o.InnerL3 != 0 ||
			o.GSOType != port.GSOTCPv4 && o.GSOType != port.GSOTCPv6 {
			v.unlikeFirst.CompareAndSwap(nil, *o)
			v.unlike.Add(1)
		}
		// The outer checksum of a superpacket is none, or the pseudo-header's sum alone.
		if c := binary.BigEndian.Uint16(b[v.udp+6:]); v.csum != (c != 0) ||
			c != 0 && c != sum(uint32(len(b)-v.udp)+17, b[v.udp-2*addressLen(v.udp):v.udp]) {
			v.unlikeFirst.CompareAndSwap(nil, *o)
			v.unlike.Add(1)
		}
		v.seen.Add(1)
	}
	if o := &f.Offload; o.Flags&port.NeedsCsum != 0 {
		if int(o.CsumStart) < shift { // the outer checksum: a datagram that carries no partial one inside
			*o = port.Offload{}
		} else {
			o.CsumStart -= uint16(shift)
		}
	}
	f.Start += shift
	return true
}

// sum is the Internet checksum's folded sum over parts that follow each other.
func sum(s uint32, parts ...[]byte) uint16 {
	b := slices.Concat(parts...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	for i := 0; i < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

func needTunnelGSO(t testing.TB, d *afpacket.Device) {
	t.Helper()
	if err := d.TunnelGSO(); err != nil {
		t.Skipf("SKIP-TOOL: this kernel takes no tunnel superpackets: %v", err)
	}
	if d.Features()&port.FeatureTunnelGSO == 0 {
		t.Fatal("TunnelGSO is nil but the feature is absent")
	}
}

// Bulk TCP through a tunnel whose other end is the kernel's: superpackets cross the
// fabric whole, both ways, and no byte and no checksum is wrong.
func TestTunnelSuperpackets(t *testing.T) {
	needRoot(t)
	for _, v6 := range []bool{false, true} {
		for _, csum := range []bool{false, true} {
			for _, offloaded := range []bool{true, false} {
				t.Run(fmt.Sprintf("v6=%v,csum=%v,veth-offload=%v", v6, csum, offloaded), func(t *testing.T) {
					tunnelBulk(t, v6, csum, offloaded)
				})
			}
		}
	}
}

func tunnelBulk(t *testing.T, v6, csum, offloaded bool) {
	node, far := fabric(t)
	uplink := open(t, afpacket.Spec{Device: "up0", Netns: node})
	needTunnelGSO(t, uplink)
	if !offloaded { // the kernel segments for a device that cannot
		mustRun(t, node, "ethtool", "-K", "up0", "tx-udp_tnl-segmentation", "off", "tx-udp_tnl-csum-segmentation", "off")
	}
	guest, d := workload(t, "10.7.0.1/24", "fd00:7::1/64")
	mustRun(t, guest, "ip", "link", "set", "eth0", "mtu", "1400")
	local, remote := farV4, nodeV4
	if v6 {
		local, remote = farV6, nodeV6
	}
	args := []string{"ip", "link", "add", "vx0", "address", farMAC, "mtu", "1400", "type", "vxlan", "id", "7", "local", local, "remote", remote,
		"dstport", "4789", "dev", "far0"}
	switch {
	case v6 && csum:
		args = append(args, "udp6zerocsumrx")
	case v6:
		args = append(args, "udp6zerocsumtx", "udp6zerocsumrx")
	case !csum:
		args = append(args, "noudpcsum")
	default:
		args = append(args, "udpcsum")
	}
	mustRun(t, far, args...)
	mustRun(t, far, "ip", "link", "set", "vx0", "up")
	mustRun(t, far, "ip", "addr", "add", "10.7.0.2/24", "dev", "vx0")
	mustRun(t, far, "ip", "addr", "add", "fd00:7::2/64", "dev", "vx0", "nodad")
	neighbour(t, guest, "eth0", farMAC, "10.7.0.2", "fd00:7::2")
	neighbour(t, far, "vx0", nodeMAC, "10.7.0.1", "fd00:7::1")
	v := newVXLAN(v6, csum)
	in := &way{from: uplink, to: d, change: v.decapsulate}
	out := &way{from: d, to: uplink, change: v.encapsulate}
	connect(t, in, out)
	eventually(t, "the tunnel to work", func() bool {
		_, err := command(t, far, "ping", "-6", "-c", "1", "-W", "1", "fd00:7::1")
		return err == nil
	})
	for _, addr := range []struct{ guest, far string }{{"10.7.0.1", "10.7.0.2"}, {"fd00:7::1", "fd00:7::2"}} {
		rx := received(t, far, "far0")
		transfer(t, guest, far, addr.far, 16<<20)
		rx = received(t, far, "far0") - rx
		t.Logf("to %s: %d packets arrived for 16 MiB", addr.far, rx)
		if offloaded && rx > 5000 { // 1,300-byte segments would be 12,600
			t.Errorf("%d packets for 16 MiB: superpackets did not cross whole", rx)
		}
		seen := v.seen.Load()
		transfer(t, far, guest, addr.guest, 16<<20)
		if v.seen.Load() == seen {
			t.Error("no tunnel superpacket came from the kernel's tunnel device")
		}
	}
	if n := v.unlike.Load(); n != 0 {
		t.Errorf("%d of %d tunnel superpackets came with another Offload than documented: %+v", n, v.seen.Load(), v.unlikeFirst.Load())
	}
	if n := in.lost.Load() + out.lost.Load(); n != 0 {
		t.Errorf("%d frames lost on write", n)
	}
	for _, ns := range []string{guest, far} {
		for _, name := range []string{"TcpInCsumErrors", "UdpInCsumErrors", "Udp6InCsumErrors"} {
			out := mustRun(t, ns, "nstat", "-asz", name)
			if f := strings.Fields(out[strings.Index(out, name):]); f[1] != "0" {
				t.Errorf("%s: %v", name, f)
			}
		}
	}
	t.Logf("in: %d frames, %d super, types %v", in.frames.Load(), in.super.Load(), in.seenTypes())
	t.Logf("stats %+v", uplink.Stats())
}

func (w *way) seenTypes() (list []string) {
	for i := range w.types {
		if n := w.types[i].Load(); n != 0 {
			list = append(list, fmt.Sprintf("%#x: %d", i, n))
		}
	}
	return list
}

// received returns how many packets a link has received by the kernel's count.
func received(t testing.TB, ns, link string) int {
	t.Helper()
	out := mustRun(t, ns, "cat", "/proc/self/net/dev")
	for line := range strings.Lines(out) {
		if name, counts, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && name == link {
			n, err := strconv.Atoi(strings.Fields(counts)[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no link %s in\n%s", link, out)
	return 0
}

// What is written to one node's uplink is what another node's reads: the same bytes,
// and the Offload that the package documents, for every kind of tunnel and inner
// packet, at the largest size.
func TestTunnelSuperpacketFromUplinkToUplink(t *testing.T) {
	needRoot(t)
	node, far := fabric(t)
	a := open(t, afpacket.Spec{Device: "up0", Netns: node})
	needTunnelGSO(t, a)
	b := open(t, afpacket.Spec{Device: "far0", Netns: far})
	for _, outerV6 := range []bool{false, true} {
		for _, innerV6 := range []bool{false, true} {
			for _, kind := range []struct {
				name   string
				header []byte
				udp    bool
			}{
				{"vxlan", []byte{8, 0, 0, 0, 0, 0, 7, 0, 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0}, false},
				{"mpls", []byte{0, 0x01, 0x01, 0x40}, false},
				{"mpls, two labels, UDP", []byte{0, 1, 0, 0x40, 0, 0x01, 0x01, 0x40}, true},
			} {
				t.Run(fmt.Sprintf("%s,outer6=%v,inner6=%v", kind.name, outerV6, innerV6), func(t *testing.T) {
					f := tunnelFrame(outerV6, innerV6, kind.udp, kind.header, 64000)
					sent, o := slices.Clone(f.Bytes()), f.Offload
					a.Queues()[0].Write([]*port.Frame{f})
					if f.Lost != port.Sent {
						t.Fatalf("lost %d", f.Lost)
					}
					got := readSome(t, b.Queues()[0], 1)[0]
					if !slices.Equal(got.Bytes(), sent) {
						t.Errorf("%d bytes differ from the %d sent", got.Len(), len(sent))
					}
					want := port.Offload{Flags: port.NeedsCsum, GSOType: o.GSOType &^ (port.GSOTunnelIPv4 | port.GSOTunnelIPv6),
						GSOSize: o.GSOSize, CsumStart: o.CsumStart, CsumOffset: o.CsumOffset, HdrLen: got.Offload.HdrLen}
					if got.Offload != want {
						t.Errorf("received as %+v; want %+v", got.Offload, want)
					}
				})
			}
		}
	}
}

// Frames of one batch leave in their order, whichever way each goes.
func TestOrderWithinABatch(t *testing.T) {
	needRoot(t)
	node, far := fabric(t)
	a := open(t, afpacket.Spec{Device: "up0", Netns: node})
	needTunnelGSO(t, a)
	b := open(t, afpacket.Spec{Device: "far0", Netns: far})
	out := make([]*port.Frame, 40)
	for i := range out {
		if out[i] = datagram(100 + i); i%3 == 1 {
			out[i] = tunnelFrame(false, false, false, []byte{0, 1, 1, 0x40}, 2000+i)
		}
	}
	for range 50 {
		a.Queues()[0].Write(out)
		for i, f := range readSome(t, b.Queues()[0], len(out)) {
			if out[i].Lost != port.Sent || f.Len() != out[i].Len() {
				t.Fatalf("frame %d, lost %d, has %d bytes; want %d", i, out[i].Lost, f.Len(), out[i].Len())
			}
		}
	}
}

// Several workers may write through one queue, each its own frames.
func TestSeveralWrite(t *testing.T) {
	needRoot(t, "nft")
	node, far := fabric(t)
	a := open(t, afpacket.Spec{Device: "up0", Netns: node})
	open(t, afpacket.Spec{Device: "far0", Netns: far})
	const writers, batches = 4, 50
	var sent atomic.Int64
	var done sync.WaitGroup
	for range writers {
		done.Go(func() {
			out := make([]*port.Frame, 16)
			for i := range out {
				if out[i] = datagram(100); i%4 == 3 && a.TunnelGSO() == nil {
					out[i] = tunnelFrame(false, false, false, []byte{0, 1, 1, 0x40}, 2000)
				}
			}
			for range batches {
				a.Queues()[0].Write(out)
				for _, f := range out {
					if f.Lost == port.Sent {
						sent.Add(1)
					}
				}
			}
		})
	}
	done.Wait()
	if n := sent.Load(); n != writers*batches*16 {
		t.Errorf("%d of %d frames sent", n, writers*batches*16)
	}
	eventually(t, "all that was sent to arrive", func() bool { return counted(t, far, "vrouter-far0") == int(sent.Load()) })
}

// tunnelFrame returns a tunnel superpacket of 1,000-byte segments.
func tunnelFrame(outerV6, innerV6, udp bool, tunnel []byte, payload int) *port.Frame {
	l4, field, gso := 20, uint16(16), port.GSOTCPv4
	switch {
	case udp:
		l4, field, gso = 8, 6, port.GSOUDPL4
	case innerV6:
		gso = port.GSOTCPv6
	}
	v := newVXLAN(outerV6, false)
	outerL4 := v.udp
	f := port.NewFrame()
	innerL3 := outerL4 + 8 + len(tunnel)
	innerL4 := innerL3 + 20
	if innerV6 {
		innerL4 += 20
	}
	f.End = f.Start + innerL4 + l4 + payload
	b := f.Bytes()
	copy(b, v.outer)
	copy(b[outerL4+8:], tunnel)
	binary.BigEndian.PutUint16(b[outerL4+4:], uint16(len(b)-outerL4))
	setLengths := func(l3 int, v6 bool, proto byte) {
		if v6 {
			b[l3], b[l3+6], b[l3+7] = 0x60, proto, 64
			binary.BigEndian.PutUint16(b[l3+4:], uint16(len(b)-l3-40))
			return
		}
		copy(b[l3:], []byte{0x45, 0, 0, 0, 0, 1, 0, 0, 64, proto, 0, 0})
		binary.BigEndian.PutUint16(b[l3+2:], uint16(len(b)-l3))
		binary.BigEndian.PutUint16(b[l3+10:], ^sum(0, b[l3:l3+20]))
	}
	setLengths(14, outerV6, 17)
	proto := byte(6)
	if udp {
		proto = 17
		binary.BigEndian.PutUint16(b[innerL4+4:], uint16(len(b)-innerL4))
	} else {
		b[innerL4+12], b[innerL4+13] = 0x50, 0x10 // header of 20 bytes; ACK
	}
	setLengths(innerL3, innerV6, proto)
	for i := range b[innerL4+l4:] {
		b[innerL4+l4+i] = byte(i * 7)
	}
	f.Offload = port.Offload{Flags: port.NeedsCsum, GSOType: gso | port.GSOTunnelIPv4, GSOSize: 1000,
		CsumStart: uint16(innerL4), CsumOffset: field, OuterL4: uint16(outerL4), InnerL3: uint16(innerL3)}
	if outerV6 {
		f.Offload.GSOType = gso | port.GSOTunnelIPv6
	}
	return f
}

// readSome reads at least n frames.
func readSome(t testing.TB, q port.Queue, n int) []*port.Frame {
	t.Helper()
	frames, have := buffers(n+port.BatchSize), 0
	eventually(t, fmt.Sprintf("%d frames", n), func() bool {
		got, err := q.Read(frames[have:])
		if err != nil {
			t.Fatal(err)
		}
		have += got
		return have >= n
	})
	return frames[:have]
}
