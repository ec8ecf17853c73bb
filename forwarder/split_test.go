package forwarder

import (
	"bytes"
	"slices"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vrouter-go/vrouter/internal/port"
	"pgregory.net/rapid"
)

// RFC 4787 REQ-13: a packet without DF that is too long is fragmented, in order
// RFC 791 §3.2: fragments carry multiples of 8 bytes but the last, and make up the datagram again
// RFC 1812 §4.2.2.7: fragments are as long as the MTU allows
func TestSplit(t *testing.T) {
	scratch := port.NewFrame()
	rapid.Check(t, func(rt *rapid.T) {
		whole := part{version: 4, src: 1, dst: 2, proto: 17, id: 77}
		whole.options = bytes.Repeat([]byte{1}, 4*rapid.IntRange(0, 10).Draw(rt, "options"))
		whole.data = udpDatagram(4, 1, 2, rapid.IntRange(100, 20_000).Draw(rt, "length"))
		mtu := rapid.IntRange(68, 1500).Draw(rt, "mtu")
		pieces := []part{whole} // the packet may be fragments already
		if rapid.Bool().Draw(rt, "fragmented before") {
			pieces = cutDatagram(whole, 8*rapid.IntRange(64, 512).Draw(rt, "first cut"))
		}
		model, done := newNaive(), false
		for _, q := range pieces {
			p := parsed(t, q.frame())
			for at := p.l.L4; at < p.l.End; {
				scratch.Reset()
				at = cutFragment(scratch, p, at, mtu)
				if n := scratch.Len() - 14; n > mtu || at < p.l.End && n <= mtu-8 {
					rt.Fatalf("a fragment of %d bytes for an MTU of %d", n, mtu)
				}
				_, got := model.add(t, scratch)
				if got != nil {
					done = true
					if !bytes.Equal(got, whole.data) {
						rt.Fatal("the datagram is not what was sent")
					}
				}
			}
		}
		if !done || t.Failed() {
			rt.Fatal("the fragments do not make up the datagram")
		}
	})
}

// RFC 791 §3.1: options with the copied flag go into every fragment, others into the first
func TestSplitOptions(t *testing.T) {
	const recordRoute, security, streamID, timestamp = 7, 130, 136, 68
	options := []byte{
		1, recordRoute, 7, 4, 0, 0, 0, 0, // not copied
		streamID, 4, 0xab, 0xcd, // copied
		timestamp, 8, 5, 0, 0, 0, 0, 0, // not copied
		1, security, 5, 1, 2, 3, // copied, of odd length
		0, 0,
	}
	options = options[:len(options)-len(options)%4]
	whole := part{version: 4, src: 1, dst: 2, proto: 17, id: 77, options: options, data: udpDatagram(4, 1, 2, 3000)}
	p := parsed(t, whole.frame())
	want := []byte{streamID, 4, 0xab, 0xcd, security, 5, 1, 2, 3, 0, 0, 0}
	for at := p.l.L4; at < p.l.End; {
		f := port.NewFrame()
		first := at == p.l.L4
		at = cutFragment(f, p, at, 576)
		ip := f.Bytes()[14:]
		got := ip[20 : int(ip[0]&15)*4]
		if first && !bytes.Equal(got, options) {
			t.Errorf("first fragment has options % x, want % x", got, options)
		}
		if !first && !bytes.Equal(got, want) {
			t.Errorf("fragment has options % x, want % x", got, want)
		}
		if naiveSum(ip[:int(ip[0]&15)*4]) != 0xffff {
			t.Error("wrong header checksum")
		}
	}
}

// RFC 791 §3.2: through the forwarder, partial checksum included, judged by gopacket's defragmented view
func TestSplitOnTheWay(t *testing.T) {
	all := port.FeatureCsum | port.FeatureTSO4 | port.FeatureTSO6 | port.FeatureUSO
	r := newRoad(t, roadConfig{features: [4]port.Features{2: all}, mtu: [4]int32{1: 9000, 2: 1300}})
	s := super{version: 4, proto: 17, id: 5, payload: make([]byte, 4000)}
	partial := s.frame()
	partial.Offload.GSOType, partial.Offload.GSOSize = 0, 0
	r.inject(1, partial)
	r.run()
	got := r.take(2)
	model := newNaive()
	var offsets []int
	for i, f := range got {
		ip := gopacket.NewPacket(f.Bytes(), layers.LayerTypeEthernet, gopacket.Default).Layer(layers.LayerTypeIPv4).(*layers.IPv4)
		offsets = append(offsets, int(ip.FragOffset)*8)
		if more := ip.Flags&layers.IPv4MoreFragments != 0; more != (i < len(got)-1) || ip.Id != 5 || ip.TTL != 63 {
			t.Errorf("fragment %d: more %t, id %d, TTL %d", i, more, ip.Id, ip.TTL)
		}
		if f.Offload != (port.Offload{}) {
			t.Errorf("fragment %d: offload %+v", i, f.Offload)
		}
		if _, whole := model.add(t, f); whole != nil {
			if naiveSum(append(naivePseudo(roadAddr(4, 1), roadAddr(4, 2), 17, len(whole)), whole...)) != 0xffff {
				t.Error("wrong UDP checksum")
			}
		}
	}
	if !slices.Equal(offsets, []int{0, 1280, 2560, 3840}) {
		t.Errorf("offsets %v", offsets)
	}
	r.conserve()
}

// RFC 8200 §4.5: IPv6 is never fragmented on the way
func TestNoSplitOfIPv6(t *testing.T) {
	r := newRoad(t, roadConfig{mtu: [4]int32{1: 9000, 2: 1300}})
	q := part{version: 6, src: 1, dst: 2, proto: 17, id: 1, data: udpDatagram(6, 1, 2, 2000)}
	r.inject(1, q.frame())
	r.run()
	if n := len(r.take(2)); n != 0 {
		t.Errorf("%d frames passed", n)
	}
	if n := len(r.take(1)); n != 1 {
		t.Errorf("%d errors went back, want 1", n)
	}
	r.conserve()
}
