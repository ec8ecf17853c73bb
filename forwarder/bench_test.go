package forwarder

import (
	"encoding/binary"
	"testing"

	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/internal/port"
)

// benchmark runs batches of frames that next fills through the whole path,
// without system calls, and reports time per packet.
func benchmark(b *testing.B, frame []byte, next func(i int, frame []byte)) {
	r := newRig(b)
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
		w.process(clientPort, port.BatchSize)
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
