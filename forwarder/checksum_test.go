package forwarder

import (
	"hash/crc32"
	"testing"

	"github.com/vrouter-go/vrouter/internal/port"
	"pgregory.net/rapid"
)

// RFC 768: a UDP checksum that comes out as 0 is sent as 0xffff
// RFC 9293 §3.1: the completed checksum is that of the naive sum
func TestCompleteChecksum(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := drawSuper(rt)
		p := parsed(t, s.frame())
		p.frame.Offload.GSOType, p.frame.Offload.GSOSize = port.GSONone, 0
		if !validOffload(p) {
			rt.Fatalf("partial checksum refused: %+v", p.frame.Offload)
		}
		p.frame.Buf[p.frame.End] = 0xa5 // Ethernet padding does not count
		p.frame.End++
		completeChecksum(p.frame, &p.l)
		l4 := p.frame.Bytes()[p.l.L4:p.l.End]
		if naiveSum(append(naivePseudo(roadAddr(s.version, 1), roadAddr(s.version, 2), s.proto, len(l4)), l4...)) != 0xffff {
			rt.Fatal("wrong checksum")
		}
		if p.frame.Offload != (port.Offload{}) {
			rt.Fatalf("offload left: %+v", p.frame.Offload)
		}
	})
}

func TestCompleteChecksumNeverZero(t *testing.T) {
	s := super{version: 4, proto: 17, payload: []byte{0, 0}}
	p := parsed(t, s.frame())
	completeChecksum(p.frame, &p.l)
	l4 := p.frame.Bytes()[p.l.L4:p.l.End]
	sum := uint16(l4[6])<<8 | uint16(l4[7])
	s.payload = []byte{byte(sum >> 8), byte(sum)} // now the sum is 0xffff, its complement 0
	p = parsed(t, s.frame())
	completeChecksum(p.frame, &p.l)
	l4 = p.frame.Bytes()[p.l.L4:p.l.End]
	if l4[6] != 0xff || l4[7] != 0xff {
		t.Errorf("checksum %#x%02x, want 0xffff", l4[6], l4[7])
	}
}

// RFC 9260 §6.8: a partial SCTP checksum is completed as CRC32c on arrival, as no port does it
func TestPartialSCTP(t *testing.T) {
	data := []byte{0x03, 0xe8, 0x07, 0xd2, 0, 0, 0, 1, 0, 0, 0, 0, 3, 0, 0, 16, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0}
	f := part{version: 4, src: 1, dst: 2, proto: 132, data: data}.frame()
	f.Offload = port.Offload{Flags: port.NeedsCsum, CsumStart: 34, CsumOffset: 8}
	p := parsed(t, f)
	if !validOffload(p) || p.partial() {
		t.Fatalf("refused, or still partial: %+v", f.Offload)
	}
	want := crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))
	b := f.Bytes()[34+8:]
	if got := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24; got != want {
		t.Errorf("CRC32c %#x, want %#x", got, want)
	}
}

// Offload metadata that contradicts the frame is refused, as Linux
// virtio_net_hdr_to_skb does; metadata without meaning is cleared.
func TestValidOffload(t *testing.T) {
	tcp := super{version: 4, proto: 6, size: 1000, payload: make([]byte, 5000), flags: 0x10}
	tcp6 := super{version: 6, proto: 6, size: 1000, payload: make([]byte, 5000), flags: 0x10}
	udp := super{version: 6, proto: 17, size: 1000, payload: make([]byte, 5000)}
	for _, c := range []struct {
		name   string
		s      super
		change func(*port.Frame)
		valid  bool
		gso    uint8
	}{
		{"TCP", tcp, func(f *port.Frame) {}, true, port.GSOTCPv4},
		{"TCP with ECN", tcp, func(f *port.Frame) { f.Offload.GSOType |= port.GSOECN }, true, port.GSOTCPv4 | port.GSOECN},
		{"UDP", udp, func(f *port.Frame) {}, true, port.GSOUDPL4},
		{"no segmentation", tcp, func(f *port.Frame) { f.Offload.GSOType = 0 }, true, 0},
		{"one segment", tcp, func(f *port.Frame) { f.Offload.GSOSize = 5000 }, true, 0},
		{"plain with leftovers", tcp, func(f *port.Frame) { f.Offload = port.Offload{GSOSize: 9, CsumStart: 9, HdrLen: 9} }, true, 0},
		{"GSO without checksum", tcp, func(f *port.Frame) { f.Offload.Flags = 0 }, false, 0},
		{"size 0", tcp, func(f *port.Frame) { f.Offload.GSOSize = 0 }, false, 0},
		{"size 0xffff", tcp, func(f *port.Frame) { f.Offload.GSOSize = 0xffff }, false, 0},
		{"size 1", tcp, func(f *port.Frame) { f.Offload.GSOSize = 1 }, false, 0},
		{"UDP in 129", udp, func(f *port.Frame) { f.Offload.GSOSize = 39 }, false, 0},
		{"UDP in 128", udp, func(f *port.Frame) { f.Offload.GSOSize = 40 }, true, port.GSOUDPL4},
		{"UDP with ECN", udp, func(f *port.Frame) { f.Offload.GSOType |= port.GSOECN }, false, 0},
		{"IPv6 type on IPv4", tcp, func(f *port.Frame) { f.Offload.GSOType = port.GSOTCPv6 }, false, 0},
		{"IPv4 type on IPv6", tcp6, func(f *port.Frame) { f.Offload.GSOType = port.GSOTCPv4 }, false, 0},
		{"TCP over IPv6", tcp6, func(f *port.Frame) {}, true, port.GSOTCPv6},
		{"UDP type on TCP", tcp, func(f *port.Frame) { f.Offload.GSOType = port.GSOUDPL4 }, false, 0},
		{"TCP type on UDP", udp, func(f *port.Frame) { f.Offload.GSOType = port.GSOTCPv6 }, false, 0},
		{"UFO", udp, func(f *port.Frame) { f.Offload.GSOType = 3 }, false, 0},
		{"unknown type", tcp, func(f *port.Frame) { f.Offload.GSOType = 0x21 }, false, 0},
		{"checksum from elsewhere", tcp, func(f *port.Frame) { f.Offload.CsumStart += 2 }, false, 0},
		{"checksum from the IP header", tcp, func(f *port.Frame) { f.Offload.CsumStart = 14 }, false, 0},
		{"checksum to elsewhere", tcp, func(f *port.Frame) { f.Offload.CsumOffset = 4 }, false, 0},
		{"checksum behind the frame", tcp, func(f *port.Frame) { f.Offload.CsumOffset = 0xffff }, false, 0},
	} {
		f := c.s.frame()
		c.change(f)
		p := parsed(t, f)
		if got := validOffload(p); got != c.valid {
			t.Errorf("%s: valid %t, want %t", c.name, got, c.valid)
			continue
		}
		o := f.Offload
		if c.valid && (o.GSOType != c.gso || p.superpacket() != (c.gso != 0) || c.gso == 0 && o.GSOSize != 0) {
			t.Errorf("%s: offload %+v", c.name, o)
		}
		if p.partial() && c.valid && int32(o.HdrLen) != p.l.Payload {
			t.Errorf("%s: header length %d, want %d", c.name, o.HdrLen, p.l.Payload)
		}
	}
	f := part{version: 4, src: 1, dst: 2, proto: 17, id: 1, more: true, data: udpDatagram(4, 1, 2, 64)[:64]}.frame()
	f.Offload = port.Offload{Flags: port.NeedsCsum, CsumStart: 34, CsumOffset: 6}
	if validOffload(parsed(t, f)) {
		t.Error("a fragment's checksum cannot be completed, yet it is accepted")
	}
	f = part{version: 4, src: 1, dst: 2, proto: 47, data: make([]byte, 64)}.frame()
	f.Offload = port.Offload{Flags: port.NeedsCsum, CsumStart: 34, CsumOffset: 6}
	if validOffload(parsed(t, f)) {
		t.Error("a checksum of a protocol that has none is accepted")
	}
}
