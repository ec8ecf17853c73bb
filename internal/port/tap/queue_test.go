//go:build linux

package tap_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/tap"
)

// arpRequest returns a broadcast ARP request for an IPv4 address.
func arpRequest(target netip.Addr) *port.Frame {
	f := port.NewFrame()
	b := f.Buf[f.Start : f.Start+60]
	clear(b)
	copy(b, []byte{
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 99, 8, 6,
		0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 99, 10, 9, 0, 99, 0, 0, 0, 0, 0, 0,
	})
	copy(b[38:], target.AsSlice())
	f.End = f.Start + len(b)
	return f
}

// readUntil reads until a frame with that EtherType comes.
func readUntil(t testing.TB, q port.Queue, etherType uint16, frames []*port.Frame) *port.Frame {
	t.Helper()
	for end := time.Now().Add(deadline); time.Now().Before(end); {
		n, err := q.Read(frames)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range frames[:n] {
			if binary.BigEndian.Uint16(f.Bytes()[12:]) == etherType {
				return f
			}
		}
	}
	t.Fatalf("no frame with EtherType %#x", etherType)
	return nil
}

func buffers(n int) []*port.Frame {
	frames := make([]*port.Frame, n)
	for i := range frames {
		frames[i] = port.NewFrame()
	}
	return frames
}

// The guest's kernel answers a frame that we made; neither call allocates.
func TestReadAndWriteDoNotAllocate(t *testing.T) {
	needRoot(t)
	both(t, func(t *testing.T, rings *tap.Rings) {
		d := create(t, guest(namespace(t, "a"), 1))
		d.Batch(rings)
		q, frames := d.Queues()[0], buffers(4)
		requests := make([]*port.Frame, 8)
		for i := range requests {
			requests[i] = arpRequest(netip.MustParseAddr("10.9.0.1"))
		}
		if n := testing.AllocsPerRun(100, func() {
			q.Write(requests)
			for _, f := range requests {
				if f.Lost != port.Sent {
					t.Fatalf("lost %d", f.Lost)
				}
			}
			readUntil(t, q, 0x0806, frames)
		}); n != 0 {
			t.Errorf("%v allocations per request and reply", n)
		}
		reply := frames[0].Bytes()
		if !bytes.Equal(reply[6:12], []byte{2, 0, 0, 0, 0, 1}) || reply[21] != 2 {
			t.Errorf("not the guest's reply: %x", reply)
		}
	})
}

func TestReadKeepsTheBatchBound(t *testing.T) {
	needRoot(t)
	d := create(t, guest(namespace(t, "a"), 1))
	q := d.Queues()[0]
	if n, err := q.Read(nil); n != 0 || err != nil {
		t.Errorf("Read(nil): %d, %v", n, err)
	}
	request := []*port.Frame{arpRequest(netip.MustParseAddr("10.9.0.1"))}
	for range 10 {
		q.Write(request)
	}
	frames, total := buffers(3), 0
	for range 100 {
		n, err := q.Read(frames)
		if err != nil || n > len(frames) {
			t.Fatalf("Read: %d, %v", n, err)
		}
		for _, f := range frames[:n] {
			if f.Start != port.Headroom {
				t.Errorf("frame starts at %d; want %d", f.Start, port.Headroom)
			}
			if binary.BigEndian.Uint16(f.Bytes()[12:]) == 0x0806 {
				total++
			}
		}
		if n < len(frames) {
			break // the ring is empty
		}
	}
	if total != 10 {
		t.Errorf("%d replies to 10 requests", total)
	}
}

// Each frame of a batch has its own fate, alone and among others.
func TestWriteSaysWhyAFrameIsLost(t *testing.T) {
	needRoot(t, "ip")
	udp := func(o port.Offload) *port.Frame {
		f := arpRequest(netip.MustParseAddr("10.9.0.1"))
		f.Offload = o
		return f
	}
	runt := arpRequest(netip.MustParseAddr("10.9.0.1"))
	runt.End = runt.Start + 13
	front := arpRequest(netip.MustParseAddr("10.9.0.1"))
	front.Start, front.End = 0, 60 // no room for the vnet header
	tso := port.Offload{Flags: port.NeedsCsum, GSOType: port.GSOTCPv4, GSOSize: 1400, CsumStart: 34, CsumOffset: 16}
	outside, half := tso, tso
	outside.CsumStart = 50
	half.CsumStart, half.CsumOffset = 44, 2
	cases := []struct {
		name string
		f    *port.Frame
		want port.Lost
	}{
		{"plain", udp(port.Offload{}), port.Sent},
		{"verified", udp(port.Offload{Flags: port.DataValid}), port.Sent},
		{"runt", runt, port.LostRejected},
		{"no headroom", front, port.LostRejected},
		{"checksum outside", udp(port.Offload{Flags: port.NeedsCsum, CsumStart: 34, CsumOffset: 25}), port.LostRejected},
		{"checksum in the Ethernet header", udp(port.Offload{Flags: port.NeedsCsum, CsumStart: 4}), port.LostRejected},
		{"checksum at 65535", udp(port.Offload{Flags: port.NeedsCsum, CsumStart: 65535, CsumOffset: 65535}), port.LostRejected},
		{"TCP header outside", udp(outside), port.LostRejected},
		{"TCP header half outside", udp(half), port.LostRejected}, // this one the kernel finds: EINVAL
		{"no GSO size", udp(port.Offload{Flags: port.NeedsCsum, GSOType: port.GSOTCPv4, CsumStart: 34, CsumOffset: 16}), port.LostRejected},
		{"unknown GSO type", udp(port.Offload{Flags: port.NeedsCsum, GSOType: 3, GSOSize: 9}), port.LostRejected},
		{"tunnel superpacket", udp(port.Offload{Flags: port.NeedsCsum, GSOType: port.GSOTCPv4 | port.GSOTunnelIPv4, GSOSize: 9, CsumStart: 34, CsumOffset: 16, OuterL4: 34, InnerL3: 46}), port.LostRejected},
	}
	both(t, func(t *testing.T, rings *tap.Rings) {
		ns := namespace(t, "a")
		d := create(t, guest(ns, 1))
		d.Batch(rings)
		q := d.Queues()[0]
		batch := make([]*port.Frame, 16)
		write := func(name string, middle *port.Frame, want, others port.Lost) {
			t.Helper()
			for i := range batch {
				batch[i] = udp(port.Offload{})
			}
			batch[7] = middle
			for _, frames := range [][]*port.Frame{batch, batch[7:8]} {
				q.Write(frames)
				for _, f := range frames {
					if f == middle && f.Lost != want {
						t.Errorf("%s, one of %d: lost %d; want %d", name, len(frames), f.Lost, want)
					}
					if f != middle && f.Lost != others {
						t.Errorf("%s: another frame of its batch: lost %d; want %d", name, f.Lost, others)
					}
				}
			}
		}
		for _, c := range cases {
			write(c.name, c.f, c.want, port.Sent)
		}
		mustRun(t, ns, "ip", "link", "set", "eth0", "down")
		write("guest down", udp(port.Offload{}), port.LostDown, port.LostDown)
		if n, err := q.Read(buffers(1)); n > 1 || err != nil {
			t.Errorf("Read from a guest that is down: %d, %v; it is not gone", n, err)
		}
		mustRun(t, ns, "ip", "link", "set", "eth0", "up")
		write("guest up again", udp(port.Offload{}), port.Sent, port.Sent)
		mustRun(t, ns, "ip", "link", "del", "eth0")
		write("device deleted", udp(port.Offload{}), port.LostDown, port.LostDown)
	})
}

// A batch of datagrams reaches the guest's socket whole and in order, through a
// ring by the kernel's own count of what went in.
func TestBatchesArriveInOrder(t *testing.T) {
	needRoot(t)
	both(t, func(t *testing.T, rings *tap.Rings) {
		ns := namespace(t, "a")
		d := create(t, guest(ns, 1))
		d.Batch(rings)
		server := listenPacket(t, ns, "udp4", "10.9.0.1:0")
		before, sent := throughRings(t), 0
		frames, buf := make([]*port.Frame, port.BatchSize), make([]byte, 64)
		for range 50 {
			for i := range frames {
				frames[i] = udpFrame(uint16(server.LocalAddr().(*net.UDPAddr).Port), fmt.Sprintf("number %06d", sent+i))
				frames[i].Offload = port.Offload{Flags: port.NeedsCsum, CsumStart: 34, CsumOffset: 6}
			}
			d.Queues()[0].Write(frames)
			for range frames {
				n, _, err := server.ReadFrom(buf)
				if want := fmt.Sprintf("number %06d", sent); err != nil || string(buf[:n]) != want {
					t.Fatalf("got %q, %v; want %q", buf[:n], err, want)
				}
				sent++
			}
		}
		if got := throughRings(t) - before; rings != nil && got != sent || rings == nil && got != 0 {
			t.Errorf("%d of %d frames went through rings", got, sent)
		}
	})
}

// throughRings returns how many requests the kernel took from this process's
// io_urings since they were made.
func throughRings(t testing.TB) (n int) {
	t.Helper()
	descriptors, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range descriptors {
		if to, _ := os.Readlink("/proc/self/fd/" + d.Name()); to != "anon_inode:[io_uring]" {
			continue
		}
		info, err := os.ReadFile("/proc/self/fdinfo/" + d.Name())
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(info)) {
			if tail, ok := strings.CutPrefix(line, "CachedSqHead:"); ok {
				one, err := strconv.Atoi(strings.TrimSpace(tail))
				if err != nil {
					t.Fatal(err)
				}
				n += one
			}
		}
	}
	return n
}

// A partial checksum that we write is completed, or trusted, by the guest's
// kernel: its socket gets the datagram. A wrong complete one does not arrive.
func TestPartialChecksumIsHonoured(t *testing.T) {
	needRoot(t)
	ns := namespace(t, "a")
	q := create(t, guest(ns, 1)).Queues()[0]
	server := listenPacket(t, ns, "udp4", "10.9.0.1:0")
	send := func(text string, o port.Offload) {
		t.Helper()
		f := udpFrame(uint16(server.LocalAddr().(*net.UDPAddr).Port), text)
		f.Offload = o
		if q.Write([]*port.Frame{f}); f.Lost != port.Sent {
			t.Fatalf("%s: lost %d", text, f.Lost)
		}
	}
	send("wrong", port.Offload{})
	send("partial", port.Offload{Flags: port.NeedsCsum, CsumStart: 34, CsumOffset: 6})
	buf := make([]byte, 64)
	n, _, err := server.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "partial" {
		t.Errorf("got %q, %v; want the datagram with the partial checksum alone", buf[:n], err)
	}
}

// udpFrame returns a datagram from 10.9.0.99 to 10.9.0.1 whose checksum field
// holds the folded pseudo-header sum.
func udpFrame(dst uint16, text string) *port.Frame {
	f := port.NewFrame()
	b := f.Buf[f.Start:]
	copy(b, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 99, 8, 0})
	ip, udp := b[14:34], b[34:]
	copy(ip, []byte{0x45, 0, 0, byte(28 + len(text)), 0, 1, 0, 0, 64, unix.IPPROTO_UDP, 0, 0, 10, 9, 0, 99, 10, 9, 0, 1})
	binary.BigEndian.PutUint16(ip[10:], ^sum(ip))
	binary.BigEndian.PutUint16(udp, 5000)
	binary.BigEndian.PutUint16(udp[2:], dst)
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(text)))
	pseudo := append(bytes.Clone(ip[12:20]), 0, unix.IPPROTO_UDP, 0, byte(8+len(text)))
	binary.BigEndian.PutUint16(udp[6:], sum(pseudo))
	copy(udp[8:], text)
	f.End = f.Start + 42 + len(text)
	return f
}

func sum(b []byte) uint16 {
	var s uint32
	for i := 0; i < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
