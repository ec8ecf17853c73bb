package header

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// serialise writes one layer with gopacket.
func serialise(t testing.TB, l gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	if err := l.SerializeTo(b, gopacket.SerializeOptions{}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestTunnelHeadersAgreeWithGopacket(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		label, ttl := r.Uint32N(MaxLabel+1), uint8(r.Uint32())
		want := serialise(t, &layers.MPLS{Label: label, StackBottom: true, TTL: ttl})
		got := make([]byte, MPLSLength)
		PutMPLS(got, label, ttl)
		if !bytes.Equal(got, want) {
			t.Fatalf("label %d: % x, want % x", label, got, want)
		}
		class, bottom := uint8(r.Uint32N(8)), r.IntN(2) == 0
		m := MPLS(serialise(t, &layers.MPLS{Label: label, TrafficClass: class, StackBottom: bottom, TTL: ttl}))
		if m.Label() != label || m.Class() != class || m.Bottom() != bottom || m.TTL() != ttl {
			t.Fatalf("% x reads as label %d class %d bottom %v ttl %d", []byte(m), m.Label(), m.Class(), m.Bottom(), m.TTL())
		}

		vni := r.Uint32N(MaxVNI + 1)
		want = serialise(t, &layers.VXLAN{ValidIDFlag: true, VNI: vni})
		got = make([]byte, VXLANLength)
		PutVXLAN(got, vni)
		if v := VXLAN(want); !bytes.Equal(got, want) || v.VNI() != vni || !v.HasVNI() {
			t.Fatalf("VNI %d: % x, want % x", vni, got, want)
		}
		if VXLAN(serialise(t, &layers.VXLAN{VNI: vni})).HasVNI() {
			t.Fatal("a VNI without the I flag")
		}

		proto := uint16(r.Uint32())
		want = serialise(t, &layers.GRE{Protocol: layers.EthernetType(proto)})
		got = make([]byte, GRELength)
		PutGRE(got, proto)
		if g := GRE(want); !bytes.Equal(got, want) || !g.Plain() || g.Protocol() != proto {
			t.Fatalf("GRE %#x: % x, want % x", proto, got, want)
		}
	}
}

// RFC 2784 §2.3, RFC 2890: a header with more in it is not what stands in front of
// a label.
func TestGREWithMoreIsNotPlain(t *testing.T) {
	for name, g := range map[string]*layers.GRE{
		"checksum": {ChecksumPresent: true}, "routing": {RoutingPresent: true, GRERouting: &layers.GRERouting{}}, "key": {KeyPresent: true},
		"sequence": {SeqPresent: true}, "strict route": {StrictSourceRoute: true}, "version 1": {Version: 1},
	} {
		if GRE(serialise(t, g)).Plain() {
			t.Errorf("%s: plain", name)
		}
	}
}

// The table of RFC 6040 §4.2, figure 4, as it is printed: rows by the inner, columns
// by the outer codepoint.
func TestDecapsulatedIsFigure4(t *testing.T) {
	order := [4]uint8{0b00, 0b10, 0b01, 0b11}
	const drop = 0xff
	figure := [4][4]uint8{
		{0b00, 0b00, 0b00, drop},
		{0b10, 0b10, 0b01, 0b11},
		{0b01, 0b01, 0b01, 0b11},
		{0b11, 0b11, 0b11, 0b11},
	}
	for i, inner := range order {
		for j, outer := range order {
			tos, ok := Decapsulated(0xb8|inner, 0x28|outer)
			if want := figure[i][j]; ok != (want != drop) || ok && tos != 0xb8|want {
				t.Errorf("inner %02b, outer %02b: %#x %v, want %02b", inner, outer, tos, ok, want)
			}
		}
	}
}

func FuzzTunnelHeaders(f *testing.F) {
	f.Add([]byte{0, 1, 0x21, 64, 0, 0, 0x88, 0x47})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < VXLANLength {
			return
		}
		b = b[:VXLANLength:VXLANLength]
		m, v, g := MPLS(b[:4:4]), VXLAN(b), GRE(b[:4:4])
		again := make([]byte, VXLANLength)
		if PutMPLS(again, m.Label(), m.TTL()); m.Bottom() && m.Class() == 0 && !bytes.Equal(again[:4], m) {
			t.Errorf("% x became % x", []byte(m), again[:4])
		}
		if PutVXLAN(again, v.VNI()); VXLAN(again).VNI() != v.VNI() || !VXLAN(again).HasVNI() {
			t.Errorf("% x became % x", []byte(v), again)
		}
		if PutGRE(again, g.Protocol()); GRE(again).Protocol() != g.Protocol() || !GRE(again).Plain() {
			t.Errorf("% x became % x", []byte(g), again[:4])
		}
	})
}
