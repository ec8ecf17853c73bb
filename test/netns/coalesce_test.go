package netns_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// coalesced returns how many packets have left inside others.
func (h *host) coalesced() uint64 {
	h.t.Helper()
	return h.status().GetTotals().GetCoalesced()
}

// TestCoalescedDatagrams: small datagrams that the vRouter merges on their way
// arrive as they were sent: all, once, in order, with their boundaries; by sockets
// that know of it and by those that do not; with checksums partial and complete.
func TestCoalescedDatagrams(t *testing.T) {
	t.Parallel()
	for _, offloads := range []bool{true, false} {
		h := newHost(t, options{bare: true, offloads: offloads, state: change("[web-1, web-2, web-3]", "[web-1]")})
		if !strings.Contains(strings.Join(h.port("web-1").GetFeatures(), " "), "uso") {
			t.Skip("SKIP-TOOL: this kernel has no USO on TAP devices")
		}
		for _, a := range families {
			for _, gro := range []bool{false, true} {
				server := h.listenUDP("web-1", echoPort)
				if gro {
					setSocket(t, server, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
				}
				for _, how := range []string{"connected", "not connected", "may be fragmented"} {
					t.Run(fmt.Sprintf("offloads %t, %s, GRO %t, %s", offloads, a.family, gro, how), func(t *testing.T) {
						h.datagrams(t, h.datagramSender(t, a, how), server)
					})
				}
				server.Close()
			}
		}
	}
}

// datagramSender returns what sends a datagram from the client to the service.
// Linux counts the IPv4 identifications of a connected socket up and leaves them 0
// otherwise, unless its packets may be fragmented.
func (h *host) datagramSender(t *testing.T, a addresses, how string) func([]byte) {
	t.Helper()
	to := at(a.service, 9000)
	client := h.listenUDP("client", 0)
	write := func(b []byte) error {
		_, err := client.WriteToUDPAddrPort(b, netip.MustParseAddrPort(to))
		return err
	}
	if how != "not connected" {
		client = h.dial(t, "client", "udp", to).(*net.UDPConn)
		write = func(b []byte) error { _, err := client.Write(b); return err }
	}
	if how == "may be fragmented" && a.family == "v4" {
		setSocket(t, client, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
	}
	return func(b []byte) {
		if err := write(b); err != nil {
			t.Fatal(err)
		}
	}
}

// datagram is the content of the i'th: of one length, mostly.
func datagram(i int) []byte {
	n := 64
	switch {
	case i >= 240:
		n = 1100 // 59 of them are a packet of nearly 64 KiB
	case i%31 == 30:
		n = 0
	case i%17 == 16:
		n = 40
	case i%23 == 22:
		n = 300
	}
	b := bytes.Repeat([]byte{byte(i)}, n)
	if n > 0 {
		binary.BigEndian.PutUint32(b, uint32(i))
	}
	return b
}

// datagrams sends bursts. During a burst the daemon stands still, so that it finds
// the datagrams all at once.
func (h *host) datagrams(t *testing.T, send func([]byte), server *net.UDPConn) {
	t.Helper()
	const bursts, burst = 5, 60
	send(datagram(0)) // resolves the neighbour and opens the session
	receive(t, server, 0, 1)
	before := h.coalesced()
	for i := range bursts {
		if err := h.daemon.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		for j := range burst {
			send(datagram(i*burst + j))
		}
		if err := h.daemon.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		receive(t, server, i*burst, burst)
	}
	h.until("merged packets are counted", func() bool { return h.coalesced() > before })
}

// receive expects n datagrams from the first'th on. A socket with UDP_GRO gets
// several at a time, and is told their length.
func receive(t *testing.T, server *net.UDPConn, first, n int) {
	t.Helper()
	b, oob := make([]byte, 1<<16), make([]byte, 128)
	for i := first; i < first+n; {
		got, control, _, _, err := server.ReadMsgUDP(b, oob)
		if err != nil {
			t.Fatalf("datagram %d: %v", i, err)
		}
		size := segmentSize(t, oob[:control])
		for at := 0; at < got || at == 0; i++ {
			end := got
			if size > 0 {
				end = min(at+size, got)
			}
			if !bytes.Equal(b[at:end], datagram(i)) {
				t.Fatalf("datagram %d of %d bytes is\n% x", i, len(datagram(i)), b[at:end])
			}
			at = max(end, 1)
		}
	}
}

// segmentSize returns what the kernel says about several datagrams in one, 0
// where it is one.
func segmentSize(t *testing.T, oob []byte) int {
	t.Helper()
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		if m.Header.Level == unix.IPPROTO_UDP && m.Header.Type == unix.UDP_GRO {
			return int(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return 0
}

// TestCoalescedSegments: bulk TCP of a sender that segments by itself arrives
// whole, in fewer packets than were sent.
func TestCoalescedSegments(t *testing.T) {
	t.Parallel()
	for _, offloads := range []bool{true, false} {
		h := newHost(t, options{bare: true, offloads: offloads, state: change("[web-1, web-2, web-3]", "[web-1]")})
		h.serve("web-1")
		h.run("client", "ethtool", "-K", "eth0", "tso", "off", "gso", "off")
		for _, a := range families {
			t.Run(fmt.Sprintf("offloads %t, %s", offloads, a.family), func(t *testing.T) {
				before := h.coalesced()
				h.upload(t, "client", at(a.service, sinkPort), 32<<20)
				if h.coalesced() == before {
					t.Error("no segments were merged")
				}
			})
		}
	}
}
