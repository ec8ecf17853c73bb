//go:build linux

package afpacket_test

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/internal/port/afpacket"
)

// tapUplink makes an uplink that is a TAP with the node's address, so that a test can
// put superpackets of any kind on it: the kernel's receive side sees what is written.
func tapUplink(t testing.TB, node string) (fd int) {
	t.Helper()
	if err := netns.Do(node, func() (err error) {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		ifr, err := unix.NewIfreq("up0")
		if err != nil {
			return err
		}
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	mustRun(t, node, "ip", "link", "set", "up0", "address", nodeMAC, "up")
	return fd
}

// writeTAP writes a frame behind a vnet header.
func writeTAP(t testing.TB, fd int, header, frame []byte) {
	t.Helper()
	b := append(make([]byte, 10), frame...)
	copy(b, header)
	if _, err := unix.Write(fd, b); err != nil {
		t.Fatal(err)
	}
}

// ufo returns a superpacket of UDP fragments (VIRTIO_NET_HDR_GSO_UDP), which a guest
// may still send and for which a packet socket's vnet header has no word.
func ufo() (header, frame []byte) {
	f := towards(datagram(6000))
	header = []byte{1, 3}
	for _, v := range []uint16{42, 1400, 34, 6} {
		header = binary.NativeEndian.AppendUint16(header, v)
	}
	return header, f.Bytes()
}

// A superpacket that the kernel cannot describe is counted; those around it are read.
func TestSuperpacketOfAnUnknownKind(t *testing.T) {
	needRoot(t)
	node := namespace(t, "node")
	fd := tapUplink(t, node)
	d := open(t, afpacket.Spec{Device: "up0", Netns: node})
	header, super := ufo()
	first, last := towards(datagram(100)), towards(datagram(200))
	writeTAP(t, fd, nil, first.Bytes())
	for range 3 {
		writeTAP(t, fd, header, super)
	}
	writeTAP(t, fd, nil, last.Bytes())
	got := readSome(t, d.Queues()[0], 2)
	if len(got) != 2 || got[0].Len() != 100 || got[1].Len() != 200 {
		t.Errorf("read %d frames, the first %d and %d bytes", len(got), got[0].Len(), got[1].Len())
	}
	if s := d.Stats(); s != (afpacket.Stats{Refused: 3}) {
		t.Errorf("stats %+v; want three refused", s)
	}
}
