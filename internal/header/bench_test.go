package header

import (
	"strconv"
	"testing"
)

// TestNoAllocation pins the packet path's promise: nothing here allocates.
func TestNoAllocation(t *testing.T) {
	var l Layout
	frame, m := build(families[1].src, families[1].dst, EtherTypeIPv6, ProtoTCP, 64, 40)
	path := map[string]func(){
		"delta": func() {
			d := AddressDelta(&families[0].src, &families[0].dst).Add(WordDelta(80, 8080))
			TCP(m).SetChecksum(d.Apply(TCP(m).Checksum()))
			TCP(m).SetChecksum(d.ApplyUDP(d.ApplyPartial(TCP(m).Checksum())))
			CompletePartial(frame, 54, 16)
		},
		"build": func() {
			PutEthernet(frame, testMACs)
			PutIP(frame[14:], &IPFields{Source: families[1].src, Destination: families[1].dst})
			PutTCP(m, &families[1].src, &families[1].dst, TCPFields{})
			PutUDP(m, &families[1].src, &families[1].dst, 1, 2)
			PutICMP(m, &families[1].src, &families[1].dst, ICMPFields{})
			PutNeighborAdvertisement(m, &NDFields{})
			PutARP(m, &ARPFields{})
			SCTP(m).UpdateChecksum()
		},
	}
	for _, c := range parseCases {
		frame := unhex(t, c.frame)
		path["Parse "+c.name] = func() {
			if Parse(frame, &l) == FaultNone {
				VerifyL4(frame, &l)
			}
		}
		path["ParseInner "+c.name] = func() { ParseInner(frame[EthernetLength:], &l) }
	}
	for fault, frames := range faultCases() {
		for name, frame := range frames {
			path["Parse "+fault.String()+" "+name] = func() { _ = Parse(frame, &l).String() }
		}
	}
	for name, f := range path {
		if n := testing.AllocsPerRun(10, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	frames := map[string][]byte{
		"IPv4-TCP": v4(ProtoTCP, tcp(TCPAck), nil), "IPv4-UDP": v4(ProtoUDP, udp(5, 53, 8), nil),
		"IPv6-TCP":      v6(ProtoTCP, tcp(TCPAck), nil),
		"IPv6-extended": v6(extDestination, join([]byte{ProtoTCP, 0, 1, 4, 0, 0, 0, 0}, tcp(TCPAck)), nil),
	}
	for _, name := range []string{"IPv4-TCP", "IPv4-UDP", "IPv6-TCP", "IPv6-extended"} {
		frame := frames[name]
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var l Layout
			for b.Loop() {
				if Parse(frame, &l) != FaultNone {
					b.Fatal("fault")
				}
			}
		})
	}
}

func BenchmarkParseInner(b *testing.B) {
	quoted := v4(ProtoTCP, tcp(TCPAck), nil)[EthernetLength:]
	var l Layout
	for b.Loop() {
		if ParseInner(quoted, &l) != FaultNone {
			b.Fatal("fault")
		}
	}
}

func BenchmarkChecksum(b *testing.B) {
	for _, n := range []int{20, 64, 1500, 65536} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			buf := make([]byte, n)
			b.SetBytes(int64(n))
			for b.Loop() {
				Checksum(buf, 0)
			}
		})
	}
}

func BenchmarkSCTPChecksum(b *testing.B) {
	buf := make([]byte, 1500)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		SCTPChecksum(buf)
	}
}

func BenchmarkDelta(b *testing.B) {
	d, sum := WordDelta(80, 8080), uint16(0x1234)
	for b.Loop() {
		sum = d.Apply(sum)
	}
}
