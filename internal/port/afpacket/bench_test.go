//go:build linux

package afpacket_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/afpacket"
)

// tcpSuperpacket returns an IPv4 superpacket of n bytes from the node.
func tcpSuperpacket(n int) *port.Frame {
	f := datagram(100)
	f.End = f.Start + n
	b := f.Bytes()
	b[16], b[17] = byte((n-14)>>8), byte(n-14)
	b[23], b[46] = 6, 0x50
	f.Offload = port.Offload{Flags: port.NeedsCsum, GSOType: port.GSOTCPv4, GSOSize: 1400, CsumStart: 34, CsumOffset: 16}
	return f
}

// BenchmarkVeth writes batches to one uplink and reads them from another, one thread
// doing both: the price of a frame each way, medians. Writing includes the veth and
// the receiver's filter and guard.
func BenchmarkVeth(b *testing.B) {
	needRoot(b)
	node, far := fabric(b)
	from := open(b, afpacket.Spec{Device: "up0", Netns: node})
	in := open(b, afpacket.Spec{Device: "far0", Netns: far}).Queues()[0]
	frames := buffers(port.BatchSize)
	for _, kind := range []struct {
		name string
		make func() *port.Frame
	}{
		{"100B", func() *port.Frame { return datagram(100) }},
		{"1514B", func() *port.Frame { return datagram(1514) }},
		{"64KB-TCP", func() *port.Frame { return tcpSuperpacket(64000) }},
		{"64KB-VXLAN", func() *port.Frame {
			return tunnelFrame(false, false, false, []byte{8, 0, 0, 0, 0, 0, 7, 0, 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0}, 64000)
		}},
	} {
		for _, batch := range []int{1, 8, 64} {
			out := make([]*port.Frame, batch)
			for i := range out {
				out[i] = kind.make()
			}
			if !from.Features().Accepts(out[0].Offload) {
				continue
			}
			b.Run(fmt.Sprintf("%s/%d", kind.name, batch), func(b *testing.B) {
				b.ReportAllocs()
				var write, read []float64
				for b.Loop() {
					start := time.Now()
					from.Queues()[0].Write(out)
					sent := time.Now()
					for n := 0; n < batch; {
						got, err := in.Read(frames)
						if err != nil {
							b.Fatal(err)
						}
						n += got
					}
					write = append(write, float64(sent.Sub(start))/float64(batch))
					read = append(read, float64(time.Since(sent))/float64(batch))
				}
				slices.Sort(write)
				slices.Sort(read)
				b.ReportMetric(write[len(write)/2], "write-ns/frame")
				b.ReportMetric(read[len(read)/2], "read-ns/frame")
			})
		}
	}
}
