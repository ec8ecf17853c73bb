//go:build linux

package afpacket_test

import (
	"errors"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/afpacket"
)

// datagram returns an IPv4 frame of the given length to the far end, from the node,
// whose UDP checksum is partial.
func datagram(size int) *port.Frame {
	f := port.NewFrame()
	f.End = f.Start + size
	b := f.Bytes()
	copy(b, []byte{2, 0, 0, 0, 8, 2, 2, 0, 0, 0, 8, 1, 8, 0,
		0x45, 0, byte((size - 14) >> 8), byte(size - 14), 0, 1, 0, 0, 64, 17, 0, 0, 10, 8, 0, 1, 10, 8, 0, 2,
		0x20, 0, 0x30, 0, byte((size - 34) >> 8), byte(size - 34)})
	return f
}

// towards makes a frame one that the uplink receives.
func towards(f *port.Frame) *port.Frame {
	b := f.Bytes()
	b[5], b[11] = 1, 2
	return f
}

// Each frame of a batch has its own fate, alone and among others.
func TestWriteSaysWhyAFrameIsLost(t *testing.T) {
	needRoot(t)
	node, far := fabric(t)
	d := open(t, afpacket.Spec{Device: "up0", Netns: node})
	q := d.Queues()[0]
	with := func(o port.Offload) *port.Frame {
		f := datagram(100)
		f.Offload = o
		return f
	}
	runt := datagram(100)
	runt.End = runt.Start + 13
	front := datagram(100)
	front.Start, front.End = 0, 60 // no room for the vnet header
	tso := port.Offload{Flags: port.NeedsCsum, GSOType: port.GSOTCPv4, GSOSize: 1400, CsumStart: 34, CsumOffset: 16}
	outside, half, wrongFamily := tso, tso, tso
	outside.CsumStart = 90
	half.CsumStart, half.CsumOffset = 84, 2
	wrongFamily.GSOType = port.GSOTCPv6
	tunnel := func(change func(*port.Frame)) *port.Frame {
		f := tunnelFrame(false, false, false, []byte{0, 1, 1, 0x40}, 5000)
		change(f)
		return f
	}
	noTunnel := port.LostRejected
	if d.TunnelGSO() == nil {
		noTunnel = port.Sent
	}
	cases := []struct {
		name string
		f    *port.Frame
		want port.Lost
	}{
		{"plain", with(port.Offload{}), port.Sent},
		{"verified", with(port.Offload{Flags: port.DataValid}), port.Sent},
		{"partial checksum", with(port.Offload{Flags: port.NeedsCsum, CsumStart: 34, CsumOffset: 6}), port.Sent},
		{"runt", runt, port.LostRejected},
		{"no headroom", front, port.LostRejected},
		{"longer than the MTU", datagram(1515), port.LostRejected}, // the kernel's word: EMSGSIZE
		{"checksum outside", with(port.Offload{Flags: port.NeedsCsum, CsumStart: 34, CsumOffset: 65}), port.LostRejected},
		{"checksum in the Ethernet header", with(port.Offload{Flags: port.NeedsCsum, CsumStart: 4}), port.LostRejected},
		{"checksum at 65535", with(port.Offload{Flags: port.NeedsCsum, CsumStart: 65535, CsumOffset: 65535}), port.LostRejected},
		{"TCP header outside", with(outside), port.LostRejected},
		{"TCP header half outside", with(half), port.LostRejected},
		{"family of the superpacket is not the frame's", with(wrongFamily), port.LostRejected}, // the kernel's word: EINVAL
		{"no GSO size", with(port.Offload{Flags: port.NeedsCsum, GSOType: port.GSOTCPv4, CsumStart: 34, CsumOffset: 16}), port.LostRejected},
		{"unknown GSO type", with(port.Offload{Flags: port.NeedsCsum, GSOType: 3, GSOSize: 9}), port.LostRejected},
		{"tunnel", tunnel(func(*port.Frame) {}), noTunnel},
		{"tunnel without headroom", tunnel(func(f *port.Frame) {
			copy(f.Buf[23:], f.Bytes())
			f.Start, f.End = 23, 23+f.Len()
		}), port.LostRejected},
		{"tunnel of both families", tunnel(func(f *port.Frame) { f.Offload.GSOType |= port.GSOTunnelIPv6 }), port.LostRejected},
		{"tunnel without a superpacket", tunnel(func(f *port.Frame) { f.Offload.GSOType = port.GSOTunnelIPv4 }), port.LostRejected},
		{"tunnel with headers in the wrong order", tunnel(func(f *port.Frame) { f.Offload.InnerL3 = f.Offload.OuterL4 }), port.LostRejected},
		{"tunnel with the outer header in front", tunnel(func(f *port.Frame) { f.Offload.OuterL4 = 14 }), port.LostRejected},
		{"tunnel with the inner header behind", tunnel(func(f *port.Frame) { f.Offload.InnerL3 = 60000 }), port.LostRejected},
	}
	batch := make([]*port.Frame, 16)
	write := func(name string, middle *port.Frame, want, others port.Lost) {
		t.Helper()
		for i := range batch {
			batch[i] = with(port.Offload{})
		}
		batch[7] = middle
		for _, frames := range [][]*port.Frame{batch, batch[7:8]} {
			before, good := received(t, far, "far0"), 0
			q.Write(frames)
			for _, f := range frames {
				if f == middle && f.Lost != want {
					t.Errorf("%s, one of %d: lost %d; want %d", name, len(frames), f.Lost, want)
				}
				if f != middle && f.Lost != others {
					t.Errorf("%s: another frame of its batch: lost %d; want %d", name, f.Lost, others)
				}
				if f.Lost == port.Sent {
					good++
				}
			}
			eventually(t, name+": as many frames at the far end as were sent", func() bool {
				return received(t, far, "far0")-before >= good
			})
		}
	}
	for _, c := range cases {
		write(c.name, c.f, c.want, port.Sent)
	}
	mustRun(t, node, "ip", "link", "set", "up0", "down")
	write("down", with(port.Offload{}), port.LostDown, port.LostDown)
	mustRun(t, node, "ip", "link", "set", "up0", "up")
	write("up again", with(port.Offload{}), port.Sent, port.Sent)
}

// A device that goes down and comes up goes on with socket and guard as they were;
// one that is deleted is gone for good, and one of the same name can be attached.
func TestDownUpGone(t *testing.T) {
	needRoot(t, "ping", "nft")
	node, far := fabric(t)
	d := open(t, afpacket.Spec{Device: "up0", Netns: node, Queues: 2})
	if l, err := d.Link(); err != nil || !l.Up || l.MTU != 1500 || l.MAC.String() != nodeMAC || l.Name != "up0" {
		t.Errorf("Link: %+v, %v", l, err)
	}
	frames := buffers(port.BatchSize)
	read := func() (n int, err error) {
		for _, q := range d.Queues() {
			got, qerr := q.Read(frames)
			n, err = n+got, errors.Join(err, qerr)
		}
		return n, err
	}
	for range 3 {
		mustRun(t, node, "ip", "link", "set", "up0", "down")
		for range 3 {
			if _, err := read(); err != nil {
				t.Fatalf("Read from a device that is down: %v", err)
			}
		}
		if l, err := d.Link(); err != nil || l.Up {
			t.Errorf("Link of a device that is down: %+v, %v", l, err)
		}
		mustRun(t, node, "ip", "link", "set", "up0", "up")
		socket, f := rawSocket(t, far, "far0"), towards(datagram(100))
		got := 0
		eventually(t, "frames after the device came up", func() bool {
			_, _ = unix.Write(socket, f.Bytes())
			n, err := read()
			if err != nil {
				t.Fatal(err)
			}
			got += n
			return got > 0
		})
		if counted(t, node, "vrouter-up0") == 0 {
			t.Error("the guard is not at work")
		}
	}
	if _, err := command(t, far, "ping", "-c", "1", "-W", "1", nodeV4); err == nil {
		t.Error("the guard did not outlive the device's being down")
	}
	mustRun(t, node, "ip", "link", "set", "up0", "down")
	mustRun(t, node, "ip", "link", "set", "up0", "name", "up7")
	if _, err := d.Link(); !errors.Is(err, port.ErrGone) {
		t.Errorf("Link of a renamed device: %v", err)
	}
	mustRun(t, node, "ip", "link", "set", "up7", "name", "up0", "up")
	if _, err := d.Link(); err != nil {
		t.Errorf("Link of a device that has its name back: %v", err)
	}
	mustRun(t, node, "ip", "link", "del", "up0")
	eventually(t, "Read to say that the device is gone", func() bool {
		_, err := d.Queues()[1].Read(frames)
		return errors.Is(err, port.ErrGone)
	})
	if _, err := d.Link(); !errors.Is(err, port.ErrGone) {
		t.Errorf("Link of a deleted device: %v", err)
	}
	f, tunnel := datagram(100), tunnelFrame(false, false, false, []byte{0, 1, 1, 0x40}, 5000)
	if d.Queues()[0].Write([]*port.Frame{f, tunnel}); f.Lost != port.LostDown {
		t.Errorf("Write to a deleted device: lost %d", f.Lost)
	}
	addLink(t, node, far)
	if _, err := d.Link(); !errors.Is(err, port.ErrGone) {
		t.Errorf("Link: %v; another device of that name is not ours", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	// Not before: the kernel may put the guard on a new device of that name.
	awaitAnswer(t, far)
	again := open(t, afpacket.Spec{Device: "up0", Netns: node})
	if l, err := again.Link(); err != nil || !l.Up {
		t.Errorf("Link: %+v, %v", l, err)
	}
}

func TestNothingIsAllocated(t *testing.T) {
	needRoot(t)
	node, far := fabric(t)
	d := open(t, afpacket.Spec{Device: "up0", Netns: node})
	a := d.Queues()[0]
	b := open(t, afpacket.Spec{Device: "far0", Netns: far}).Queues()[0]
	out, in := make([]*port.Frame, port.BatchSize), buffers(port.BatchSize)
	for i := range out {
		out[i] = datagram(100)
	}
	out[9] = datagram(2000) // refused
	if d.TunnelGSO() == nil {
		out[20] = tunnelFrame(false, false, false, []byte{0, 1, 1, 0x40}, 20000)
	}
	if n := testing.AllocsPerRun(100, func() {
		a.Write(out)
		for got := 0; got < len(out)-1; {
			n, err := b.Read(in)
			if err != nil {
				t.Fatal(err)
			}
			got += n
		}
	}); n != 0 {
		t.Errorf("%v allocations per batch", n)
	}
}

// A Read never returns more than it was asked for, and every frame that was sent is
// read or counted, also where nobody reads in time.
func TestNoFrameIsUncounted(t *testing.T) {
	needRoot(t, "nft")
	node, far := fabric(t)
	a := open(t, afpacket.Spec{Device: "up0", Netns: node, Queues: 2})
	b := open(t, afpacket.Spec{Device: "far0", Netns: far, Queues: 2})
	if n, err := b.Queues()[0].Read(nil); n != 0 || err != nil {
		t.Errorf("Read(nil): %d, %v", n, err)
	}
	out := make([]*port.Frame, port.BatchSize)
	for i := range out {
		out[i] = datagram(100 + i)
	}
	for range 3000 {
		a.Queues()[0].Write(out)
		for _, f := range out {
			if f.Lost != port.Sent {
				t.Fatalf("lost %d", f.Lost)
			}
		}
	}
	// What the kernel's backlog lost on the way is not the uplink's to count.
	sent, last := counted(t, far, "vrouter-far0"), 0
	eventually(t, "the last frame to arrive", func() bool {
		sent, last = counted(t, far, "vrouter-far0"), sent
		return sent == last
	})
	frames, read := buffers(7), 0
	eventually(t, "every frame to be read or counted", func() bool {
		for _, q := range b.Queues() {
			for n := len(frames); n == len(frames); {
				var err error
				if n, err = q.Read(frames); err != nil || n > len(frames) {
					t.Fatalf("Read: %d, %v", n, err)
				}
				read += n
			}
		}
		return read+int(b.Stats().Full) >= sent
	})
	s := b.Stats()
	if read+int(s.Full) != sent || s.Full == 0 {
		t.Errorf("sent %d; read %d and counted %+v", sent, read, s)
	}
	if again := b.Stats(); again != s {
		t.Errorf("Stats forgets: %+v, then %+v", s, again)
	}
	t.Logf("sent %d, read %d, %+v: the buffer holds that many", sent, read, s)
}

// A superpacket that does not fit a Frame is counted, and the others of its batch
// are handed over in order.
func TestTooLongSuperpacketIsCounted(t *testing.T) {
	needRoot(t)
	node, far := fabric(t)
	d := open(t, afpacket.Spec{Device: "up0", Netns: node})
	socket := rawSocket(t, far, "far0")
	if err := unix.SetsockoptInt(socket, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		t.Fatal(err)
	}
	allowBigTCP(t, far, "far0")
	if err := unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20); err != nil {
		t.Fatal(err)
	}
	long := make([]byte, 10+port.MaxFrame+1000)
	o := port.Offload{Flags: port.NeedsCsum, GSOType: port.GSOTCPv4, GSOSize: 1400, CsumStart: 34, CsumOffset: 16}
	head := towards(datagram(100))
	head.Bytes()[23], head.Bytes()[46] = 6, 0x50
	head.Offload = o
	if !port.EncodeVnet(long[:10], head) {
		t.Fatal("no header")
	}
	copy(long[10:], head.Bytes())
	first, last := make([]byte, 110), make([]byte, 210)
	copy(first[10:], towards(datagram(100)).Bytes())
	copy(last[10:], towards(datagram(200)).Bytes())
	for _, b := range [][]byte{first, long, last} {
		if _, err := unix.Write(socket, b); err != nil {
			t.Fatalf("%d bytes: %v", len(b), err)
		}
	}
	got := readSome(t, d.Queues()[0], 2)
	if len(got) != 2 || got[0].Len() != 100 || got[1].Len() != 200 {
		t.Errorf("read %d frames, the first %d and %d bytes", len(got), got[0].Len(), got[1].Len())
	}
	if s := d.Stats(); s.Cut != 1 {
		t.Errorf("stats %+v; want one cut", s)
	}
}

// allowBigTCP lets superpackets longer than 64 KiB leave through a link.
func allowBigTCP(t testing.TB, ns, device string) {
	t.Helper()
	if err := netns.Do(ns, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		link, err := h.LinkByName(device)
		if err != nil {
			return err
		}
		return h.LinkSetGSOIPv4MaxSize(link, 200000)
	}); err != nil {
		t.Fatal(err)
	}
}

// Offload travels with every frame.
func TestSizes(t *testing.T) {
	if n := unsafe.Sizeof(port.Offload{}); n != 14 {
		t.Errorf("Offload has %d bytes", n)
	}
}
