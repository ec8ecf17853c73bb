package nexthop

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// TestHashGolden holds the published values: they may never change, or a node
// that is upgraded would choose other members than its neighbours. They, and the
// choices below, were computed by a second implementation (Python, with floating
// point logarithms).
func TestHashGolden(t *testing.T) {
	for _, c := range []struct {
		fields       HashFields
		src, dst     string
		sport, dport uint16
		proto        uint8
		want         uint64
	}{
		{HashAll, "10.0.0.1", "10.96.0.10", 40000, 80, 6, 0x8d8e6c7173d3cd4b},
		{0, "10.0.0.1", "10.96.0.10", 40000, 80, 6, 0x8d8e6c7173d3cd4b},
		{HashAll, "10.0.0.1", "10.96.0.10", 40000, 80, 17, 0xa3ff1ff6f536cae1},
		{HashAll, "fd00::1", "fd00:96::a", 40000, 443, 132, 0xc26ed3f9dff898b6},
		{HashSource | HashDestination, "10.0.0.1", "10.96.0.10", 1, 2, 3, 0xa6ac11a3c27a2524},
		{HashSourcePort, "10.0.0.1", "10.96.0.10", 40000, 80, 6, 0x222369ea8906b2f3},
		{HashAll, "0.0.0.0", "0.0.0.0", 0, 0, 0, 0xc6819c9253a0d7a5},
	} {
		src, dst := netip.MustParseAddr(c.src).As16(), netip.MustParseAddr(c.dst).As16()
		if got := HashTuple(c.fields, &src, &dst, c.sport, c.dport, c.proto); got != c.want {
			t.Errorf("HashTuple(%05b, %s, %s, %d, %d, %d) = %#016x, want %#016x", c.fields, c.src, c.dst, c.sport, c.dport, c.proto, got, c.want)
		}
	}
}

// TestSelectGolden holds the choice itself, for narrow, weighted and wide groups.
func TestSelectGolden(t *testing.T) {
	for _, c := range []struct {
		name    string
		members []Member
		want    [6]uint32
	}{
		{"8 equal", equalMembers(8), [6]uint32{8, 2, 4, 2, 4, 6}},
		{"8 weighted", weightedMembers(8), [6]uint32{8, 2, 4, 2, 4, 6}},
		{"300 equal", equalMembers(300), [6]uint32{82, 134, 241, 192, 5, 208}},
		{"1000 weighted", weightedMembers(1000), [6]uint32{460, 664, 241, 865, 634, 589}},
	} {
		g, got := mustGroup(t, c.members), [6]uint32{}
		for i := range got {
			got[i] = pick(t, g, flowHash(i*1001))
		}
		if got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestHashFields: a field that is not chosen has no effect, one that is has.
func TestHashFields(t *testing.T) {
	a, b := [16]byte{15: 1}, [16]byte{15: 2}
	base := func(f HashFields) uint64 { return HashTuple(f, &a, &a, 1, 1, 1) }
	for field, changed := range map[HashFields]func(f HashFields) uint64{
		HashSource:          func(f HashFields) uint64 { return HashTuple(f, &b, &a, 1, 1, 1) },
		HashDestination:     func(f HashFields) uint64 { return HashTuple(f, &a, &b, 1, 1, 1) },
		HashSourcePort:      func(f HashFields) uint64 { return HashTuple(f, &a, &a, 2, 1, 1) },
		HashDestinationPort: func(f HashFields) uint64 { return HashTuple(f, &a, &a, 1, 2, 1) },
		HashProtocol:        func(f HashFields) uint64 { return HashTuple(f, &a, &a, 1, 1, 2) },
	} {
		for f := HashFields(1); f <= HashAll; f++ {
			if (base(f) != changed(f)) != (f&field != 0) {
				t.Errorf("fields %05b: field %05b is used where it must not be or the reverse", f, field)
			}
		}
	}
}

// TestHashAvalanche: flipping one input bit flips about half of the output bits.
func TestHashAvalanche(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	var sum, n float64
	for range 2000 {
		var in [37]byte
		for i := range in {
			in[i] = byte(r.Uint32())
		}
		hash := func() uint64 {
			src, dst := [16]byte(in[:16]), [16]byte(in[16:32])
			return HashTuple(HashAll, &src, &dst, uint16(in[32])<<8|uint16(in[33]), uint16(in[34])<<8|uint16(in[35]), in[36])
		}
		before, bit := hash(), r.IntN(37*8)
		in[bit/8] ^= 1 << (bit % 8)
		sum, n = sum+float64(bits.OnesCount64(before^hash())), n+1
	}
	if mean := sum / n; math.Abs(mean-32) > 0.5 {
		t.Errorf("one input bit flips %.2f of 64 output bits, want 32", mean)
	}
}

func BenchmarkHashTuple(b *testing.B) {
	src, dst := netip.MustParseAddr("10.0.0.1").As16(), netip.MustParseAddr("10.96.0.10").As16()
	for i := 0; b.Loop(); i++ {
		HashTuple(HashAll, &src, &dst, uint16(i), 80, 6)
	}
}
