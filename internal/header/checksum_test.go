package header

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// naiveSum is RFC 1071 §4.1 as written: 16-bit words into a wide register, then
// folded. It shares nothing with Checksum.
func naiveSum(b []byte, initial uint64) uint16 {
	sum := initial
	for i := 0; i < len(b); i++ {
		if i%2 == 0 {
			sum += uint64(b[i]) << 8
		} else {
			sum += uint64(b[i])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// RFC 1071 §3: the worked example
func TestChecksumExample(t *testing.T) {
	t.Parallel()
	if got := Checksum(unhex(t, "0001 f203 f4f5 f6f7"), 0); got != 0xddf2 {
		t.Errorf("got %04x, want ddf2", got)
	}
}

func TestChecksumEqualsNaive(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 70000)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	check := func(b []byte, initial uint16) {
		if got, want := Checksum(b, initial), naiveSum(b, uint64(initial)); got != want {
			t.Fatalf("%d bytes, initial %04x: got %04x, want %04x", len(b), initial, got, want)
		}
	}
	for n := range 600 {
		for at := range 9 { // every alignment
			check(b[at:at+n], uint16(r.Uint32()))
		}
	}
	check(b, 0xffff)
	for i := range b {
		b[i] = 0xff // all carries
	}
	for n := range 300 {
		check(b[:n], 0xffff)
		check(b[:n], 0)
	}
	check(b, 0xffff)
	clear(b)
	check(b, 0)
	check(nil, 0x1234)
}

func TestChecksumInPieces(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "b")
		cut := rapid.IntRange(0, len(b)/2).Draw(t, "cut") * 2
		if got, want := Checksum(b[cut:], Checksum(b[:cut], 0)), naiveSum(b, 0); got != want {
			t.Fatalf("got %04x, want %04x", got, want)
		}
	})
}

// natCase is a transport message with everything a NAT can change.
type natCase struct {
	src, dst, newSrc, newDst [16]byte
	message                  []byte
	newSrcPort, newDstPort   uint16
	proto                    uint8
	field                    int
}

// full recomputes the checksum field from scratch with the naive sum.
func (c *natCase) full(src, dst [16]byte, message []byte) uint16 {
	m := append([]byte(nil), message...)
	m[c.field], m[c.field+1] = 0, 0
	pseudo := uint64(naiveSum(src[:], 0)) + uint64(naiveSum(dst[:], 0)) + uint64(c.proto) + uint64(len(m))
	sum := ^naiveSum(m, pseudo)
	if sum == 0 && c.proto == ProtoUDP {
		return 0xffff
	}
	return sum
}

// check translates the message and compares the incremental with the full sum.
func (c *natCase) check(t interface{ Fatalf(string, ...any) }) {
	old := c.full(c.src, c.dst, c.message)
	addresses := AddressDelta(&c.src, &c.newSrc).Add(AddressDelta(&c.dst, &c.newDst))
	m := TCP(append([]byte(nil), c.message...))
	ports := WordDelta(m.SrcPort(), c.newSrcPort).Add(WordDelta(m.DstPort(), c.newDstPort))
	m.SetSrcPort(c.newSrcPort)
	m.SetDstPort(c.newDstPort)
	d := addresses.Add(ports)
	want, got := c.full(c.newSrc, c.newDst, m), d.Apply(old)
	if c.proto == ProtoUDP {
		got = d.ApplyUDP(old)
	}
	if got != want {
		t.Fatalf("proto %d: incremental %04x, full %04x (delta %04x, old %04x)", c.proto, got, want, d, old)
	}
	if back := d.Negate().Apply(want); back != old && c.proto != ProtoUDP {
		t.Fatalf("back again: %04x, want %04x", back, old)
	}
	if got, want := TransportChecksum(&c.newSrc, &c.newDst, c.proto, zeroed(m, c.field)), want; got != want {
		t.Fatalf("TransportChecksum %04x, naive %04x", got, want)
	}
	// The same message as it leaves a sender with offload: pseudo-header sum only.
	partial := addresses.ApplyPartial(PseudoHeader(&c.src, &c.dst, c.proto, len(m)))
	if want := PseudoHeader(&c.newSrc, &c.newDst, c.proto, len(m)); partial != want {
		t.Fatalf("partial: %04x, want %04x", partial, want)
	}
	binary.BigEndian.PutUint16(m[c.field:], partial)
	if !CompletePartial(m, 0, c.field) {
		t.Fatalf("CompletePartial refused field %d of %d bytes", c.field, len(m))
	}
	completed := binary.BigEndian.Uint16(m[c.field:])
	if completed != want && !(completed == 0xffff && want == 0) {
		t.Fatalf("completed %04x, want %04x", completed, want)
	}
}

func zeroed(b []byte, at int) []byte {
	b = append([]byte(nil), b...)
	b[at], b[at+1] = 0, 0
	return b
}

// randomNAT fills c with random addresses of one family, ports and data.
func (c *natCase) randomNAT(r *rand.Rand) {
	address := func(v6 bool) (a [16]byte) {
		binary.BigEndian.PutUint64(a[8:], r.Uint64())
		if v6 {
			binary.BigEndian.PutUint64(a[:], r.Uint64())
		} else {
			a[8], a[9], a[10], a[11] = 0, 0, 0xff, 0xff
		}
		return a
	}
	is6 := r.IntN(2) == 0
	c.src, c.dst, c.newSrc, c.newDst = address(is6), address(is6), address(is6), address(is6)
	if r.IntN(4) == 0 {
		c.newSrc = c.src
	}
	c.proto, c.field = ProtoTCP, tcpChecksum
	if r.IntN(2) == 0 {
		c.proto, c.field = ProtoUDP, udpChecksum
	}
	c.message = c.message[:20+r.IntN(80)]
	for i := 0; i+8 <= len(c.message); i += 8 {
		binary.BigEndian.PutUint64(c.message[i:], r.Uint64())
	}
	if r.IntN(8) == 0 {
		clear(c.message) // sums near the two zeros
	}
	c.newSrcPort, c.newDstPort = uint16(r.Uint32()), uint16(r.Uint32())
	if r.IntN(8) == 0 {
		c.newSrcPort, c.newDstPort = TCP(c.message).SrcPort(), TCP(c.message).DstPort()
	}
}

// RFC 1624 §3: HC' = ~(~HC + ~m + m') equals the full recomputation on 10^6 random packets
// RFC 768: a UDP checksum that computes to 0 is sent as 0xffff
func TestDeltaEqualsRecompute(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	c := natCase{message: make([]byte, 100)}
	for range 1_000_000 {
		c.randomNAT(r)
		c.check(t)
	}
}

// The two zeros of one's complement: data is chosen so that the checksum before,
// or after, the translation is 0 or 0xffff.
func TestDeltaAtZero(t *testing.T) {
	t.Parallel()
	for _, proto := range []uint8{ProtoTCP, ProtoUDP} {
		c := natCase{src: addr("10.0.0.1"), dst: addr("10.0.0.2"), newSrc: addr("10.0.0.1"),
			newDst: addr("192.0.2.7"), message: make([]byte, 24), newSrcPort: 9, newDstPort: 10, proto: proto, field: tcpChecksum}
		if proto == ProtoUDP {
			c.field = udpChecksum
		}
		zeros := 0
		for w := range 0x10000 {
			binary.BigEndian.PutUint16(c.message[20:], uint16(w))
			c.check(t)
			if sum := c.full(c.src, c.dst, c.message); sum == 0 || sum == 0xffff {
				zeros++
			}
		}
		if zeros == 0 {
			t.Errorf("proto %d: no case had a checksum of zero", proto)
		}
	}
}

func TestDeltaRules(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.Uint16()
		from, to, sum := word.Draw(t, "from"), word.Draw(t, "to"), word.Draw(t, "sum")
		d := WordDelta(from, to)
		if WordDelta(from, from) != 0 || (Delta(0)).Apply(sum) != sum || (Delta(0)).ApplyPartial(sum) != sum {
			t.Fatal("no change must change nothing")
		}
		if d.Add(d.Negate()) != 0 {
			t.Fatal("a change and its reverse must cancel")
		}
		if got := WordDelta(from, sum).Add(WordDelta(sum, to)); got != d {
			t.Fatalf("by way of %04x: %04x, want %04x", sum, got, d)
		}
		if d.ApplyUDP(0) != 0 {
			t.Fatal("RFC 3022 §4.1: UDP without a checksum stays without")
		}
		if sum != 0 && d.ApplyUDP(sum) == 0 {
			t.Fatal("a UDP checksum must not become 0")
		}
	})
}

// RFC 1624 §4: the worked example, where RFC 1141 gave the wrong zero
func TestDeltaExample(t *testing.T) {
	t.Parallel()
	if got := WordDelta(0x5555, 0x3285).Apply(0xdd2f); got != 0x0000 {
		t.Errorf("got %04x, want 0000", got)
	}
}

// RFC 1812 §5.3.1: the TTL falls by one and the header checksum stays right
func TestDecrementTTL(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := IPv4(make([]byte, IPv4MinimumLength))
		PutIPv4(p, &IPFields{Source: addr("10.0.0.1"), Destination: addr("10.0.0.2"),
			ID: rapid.Uint16().Draw(t, "id"), Proto: rapid.Uint8().Draw(t, "proto"), TTL: rapid.Uint8Min(1).Draw(t, "ttl")})
		ttl := p.TTL()
		if !p.hasRightChecksum(IPv4MinimumLength) || Checksum(p, 0) != 0xffff {
			t.Fatalf("a right header checksum is refused: % x", p)
		}
		p.DecrementTTL()
		if p.TTL() != ttl-1 || naiveSum(p, 0) != 0xffff {
			t.Fatalf("TTL %d -> %d, sum %04x", ttl, p.TTL(), naiveSum(p, 0))
		}
		want := p.Checksum()
		p.UpdateChecksum()
		if p.Checksum() != want {
			t.Fatalf("incremental %04x, full %04x", want, p.Checksum())
		}
	})
}

func TestCompletePartialBounds(t *testing.T) {
	t.Parallel()
	b := make([]byte, 20)
	for _, c := range []struct {
		start, offset int
		ok            bool
	}{{0, 0, true}, {0, 18, true}, {2, 16, true}, {0, 19, false}, {20, 0, false}, {21, 0, false},
		{-1, 0, false}, {0, -1, false}, {65535, 65535, false}, {18, 0, true}} {
		if got := CompletePartial(b, c.start, c.offset); got != c.ok {
			t.Errorf("start %d offset %d: %v, want %v", c.start, c.offset, got, c.ok)
		}
	}
}

// RFC 9260 §6.8: the CRC32c of an SCTP packet, byte by byte against the bitwise definition
func TestSCTPChecksum(t *testing.T) {
	t.Parallel()
	if got := crc32.Checksum([]byte("123456789"), castagnoli); got != 0xe3069283 { // RFC 3720 §B.4
		t.Fatalf("the table is not Castagnoli's: %08x", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), SCTPLength, 200).Draw(t, "b")
		crc := ^uint32(0)
		for i, v := range b {
			if i >= sctpChecksum && i < sctpChecksum+4 {
				v = 0
			}
			crc ^= uint32(v)
			for range 8 {
				crc = crc>>1 ^ 0x82f63b78&-(crc&1)
			}
		}
		if got := SCTPChecksum(b); got != ^crc {
			t.Fatalf("got %08x, want %08x", got, ^crc)
		}
	})
}
