package forwarder

import (
	"encoding/binary"
	"testing"

	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/port"
)

// benchmark runs batches of frames that next fills through the whole path,
// without system calls, and reports time per packet.
func benchmark(b *testing.B, frame []byte, next func(i int, frame []byte)) {
	benchmarkOn(b, newRig(b), clientPort, frame, next)
}

// benchmarkOn is benchmark for frames that come in by a port of a rig.
func benchmarkOn(b *testing.B, r *rig, in uint16, frame []byte, next func(i int, frame []byte)) {
	w := r.f.workers[0]
	w.reader.Online()
	defer w.reader.Offline()
	sink := &sinkQueue{}
	for i := range w.tx {
		if w.tx[i] != nil {
			w.tx[i].q = sink
		}
	}
	n := 0
	round := func() {
		for i := range port.BatchSize {
			f := w.rx[i]
			f.Reset()
			f.End = f.Start + copy(f.Buf[f.Start:], frame)
			next(n, f.Bytes())
			n++
		}
		w.process(in, port.BatchSize)
	}
	for range 200 {
		round()
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += port.BatchSize {
		round()
	}
}

// sinkQueue takes everything.
type sinkQueue struct{}

func (*sinkQueue) Read([]*port.Frame) (int, error) { return 0, nil }
func (*sinkQueue) FD() int                         { return -1 }
func (*sinkQueue) Write(frames []*port.Frame) {
	for _, f := range frames {
		f.Lost = port.Sent
	}
}

func BenchmarkSessionHitNAT(b *testing.B) {
	for _, fam := range bothFamilies {
		b.Run(fam.name, func(b *testing.B) {
			frame := build(b, udpTo(clientPort, fam.client, fam.fip, 40000, 80, "payload"))
			at := 34
			if fam.name == "IPv6" {
				at = 54
			}
			benchmark(b, frame, func(i int, f []byte) { binary.BigEndian.PutUint16(f[at:], uint16(1024+i%8000)) })
		})
	}
}

func BenchmarkSessionHitPlain(b *testing.B) {
	frame := build(b, udpTo(clientPort, "203.0.113.7", "10.244.0.11", 40000, 53, "payload"))
	benchmark(b, frame, func(i int, f []byte) { binary.BigEndian.PutUint16(f[34:], uint16(1024+i%8000)) })
}

func BenchmarkSessionHitTCP(b *testing.B) {
	frame := build(b, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 80, func(l *layers.TCP) { l.ACK = true }, "payload"))
	benchmark(b, frame, func(i int, f []byte) { binary.BigEndian.PutUint16(f[34:], uint16(1024+i%8000)) })
}

func BenchmarkDropSpoofed(b *testing.B) {
	frame := build(b, udpTo(clientPort, "203.0.113.8", "10.96.0.10", 40000, 80, "payload"))
	benchmark(b, frame, func(int, []byte) {})
}

func BenchmarkTunnelOut(b *testing.B) {
	for _, w := range allWays() {
		b.Run(w.String(), func(b *testing.B) {
			frame := build(b, udpTo(web1Port, "10.244.0.11", "10.244.0.12", 40000, 9999, "payload"))
			benchmarkOn(b, newRigOf(b, 1, nodeState(0, w)), web1Port, frame, func(i int, f []byte) { binary.BigEndian.PutUint16(f[34:], uint16(1024+i%8000)) })
		})
	}
}

func BenchmarkTunnelIn(b *testing.B) {
	for _, w := range allWays() {
		b.Run(w.String(), func(b *testing.B) {
			label := labelOf + uint32(web1Port)
			if w.encapsulation == VXLAN {
				label = firstVNI + uint32(podsVRF)
			}
			packet := inner(b, udpTo(0, "10.244.0.12", "10.244.0.11", 40000, 9999, "payload"))
			frame := w.wrap(b, label, packet, nil)
			at := len(frame) - len(packet) + 20
			benchmarkOn(b, newRigOf(b, 1, nodeState(0, w)), uplinkPort, frame, func(i int, f []byte) {
				was, is := binary.BigEndian.Uint16(f[at:]), uint16(1024+i%8000)
				binary.BigEndian.PutUint16(f[at:], is)
				// The inner checksum takes the change, so that the outer one stays right.
				sum := binary.BigEndian.Uint16(f[at+6:])
				binary.BigEndian.PutUint16(f[at+6:], header.WordDelta(was, is).Apply(sum))
			})
		})
	}
}

func BenchmarkHandOver(b *testing.B) {
	frame := outside(build(b, udpTo(0, "198.51.100.7", nodeOf[4][0], 40000, 9999, "payload")), gateway)
	benchmarkOn(b, newRigOf(b, 1, nodeState(0, way{MPLSoverUDP, 4})), uplinkPort, frame, func(int, []byte) {})
}
