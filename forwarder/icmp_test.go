package forwarder

import (
	"bytes"
	"encoding/binary"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/internal/header"
)

// echoTo is an echo request (reply: an echo reply) of either family.
func echoTo(from uint16, src, dst string, id, seq uint16, reply bool, data string) packetSpec {
	p := packetSpec{from: from, src: src, dst: dst}
	if net.ParseIP(src).To4() != nil {
		kind := uint8(layers.ICMPv4TypeEchoRequest)
		if reply {
			kind = layers.ICMPv4TypeEchoReply
		}
		p.l4 = []gopacket.SerializableLayer{
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, 0), Id: id, Seq: seq}, gopacket.Payload(data),
		}
		return p
	}
	kind := uint8(layers.ICMPv6TypeEchoRequest)
	if reply {
		kind = layers.ICMPv6TypeEchoReply
	}
	p.l4 = []gopacket.SerializableLayer{
		&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)},
		&layers.ICMPv6Echo{Identifier: id, SeqNumber: seq}, gopacket.Payload(data),
	}
	return p
}

// ipFamilies are a pod of the rig, its gateway, a floating IP and an address
// without a route, in each family.
var ipFamilies = map[string]struct{ pod, gateway, fip, client, nowhere string }{
	"IPv4": {"10.244.0.11", "10.244.0.1", "10.96.0.10", "203.0.113.7", "198.51.100.1"},
	"IPv6": {"fd00:244::11", "fd00:244::1", "fd00:96::10", "2001:db8:113::7", "2001:db8:51::1"},
}

// RFC 1812 §4.3.3.6, RFC 1122 §3.2.2.6: an echo reply swaps the addresses and returns the data unchanged
// RFC 4443 §4.2: the data of an ICMPv6 echo request is returned entirely and unmodified
func TestEchoToGateway(t *testing.T) {
	t.Parallel()
	for name, a := range ipFamilies {
		for _, ttl := range []uint8{1, 64, 255} { // RFC 1812 §5.3.1: a packet to the router may have TTL 1
			t.Run(name, func(t *testing.T) {
				r := newRig(t)
				p := echoTo(web1Port, a.pod, a.gateway, 77, 5, false, "odd data!")
				p.ttl = ttl
				request := build(t, p)
				r.inject(web1Port, request)
				r.run()
				got := r.one(web1Port)
				checkICMPSums(t, got)
				want := ipPacket(t, echoTo(web1Port, a.gateway, a.pod, 77, 5, true, "odd data!"))
				if !bytes.Equal(got.Data()[14:], want) {
					t.Errorf("reply\n % x\nwant\n % x", got.Data()[14:], want)
				}
				eth := got.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
				m := mac(byte(web1Port))
				if string(eth.DstMAC) != string(m[:]) || string(eth.SrcMAC) != string(RouterMAC[:]) {
					t.Errorf("Ethernet %v > %v", eth.SrcMAC, eth.DstMAC)
				}
				if r.sessions() != 0 {
					t.Error("a ping of the gateway left a session")
				}
			})
		}
	}
}

// RFC 5508 REQ-3: an ICMP message with a wrong checksum is silently dropped
func TestEchoToGatewayBadChecksum(t *testing.T) {
	t.Parallel()
	for name, a := range ipFamilies {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			b := build(t, echoTo(web1Port, a.pod, a.gateway, 77, 5, false, "data"))
			b[len(unpadded(b))-1] ^= 0x55
			r.inject(web1Port, b)
			r.run()
			r.silent(web1Port, DropICMPChecksum)
		})
	}
}

// RFC 4443 §2.3: an ICMPv6 checksum that the sender left to its device is completed before it is used
func TestEchoToGatewayPartialChecksum(t *testing.T) {
	t.Parallel()
	a := ipFamilies["IPv6"]
	r := newRig(t)
	r.injectFrame(web1Port, partialICMPv6(t, build(t, echoTo(web1Port, a.pod, a.gateway, 77, 5, false, "data"))))
	r.run()
	checkICMPSums(t, r.one(web1Port))
}

// RFC 1122 §3.3.2: a fragmented echo request is answered; here fragment by fragment, in any order
func TestEchoToGatewayFragmented(t *testing.T) {
	t.Parallel()
	data := string(bytes.Repeat([]byte("0123456789abcdef"), 100))
	for name, a := range ipFamilies {
		for _, order := range [][]int{{0, 1, 2}, {2, 0, 1}, {1, 2, 0}} {
			t.Run(name, func(t *testing.T) {
				r := newRig(t)
				parts := fragmentize(build(t, echoTo(web1Port, a.pod, a.gateway, 77, 5, false, data)), 600)
				for _, i := range order {
					r.inject(web1Port, parts[i])
				}
				r.run()
				whole := reassemble(t, r.sent(web1Port))
				want := build(t, echoTo(web1Port, a.gateway, a.pod, 77, 5, true, data))
				if !bytes.Equal(whole, want[len(want)-len(whole):]) {
					t.Errorf("reassembled reply of %d bytes differs from the one that is due, drops %v", len(whole), r.allDrops())
				}
			})
		}
	}
}

// fragmentize cuts a frame into fragments with size bytes of IP payload.
func fragmentize(b []byte, size int) (parts [][]byte) {
	size &^= 7
	four := binary.BigEndian.Uint16(b[12:]) == 0x0800
	hdr := 34
	if !four {
		hdr = 54
	}
	payload := b[hdr:]
	for at := 0; at < len(payload); at += size {
		data := payload[at:min(at+size, len(payload))]
		more := at+size < len(payload)
		part := append([]byte(nil), b[:hdr]...)
		if four {
			word := uint16(at / 8)
			if more {
				word |= 0x2000
			}
			binary.BigEndian.PutUint16(part[20:], word)
			binary.BigEndian.PutUint16(part[16:], uint16(20+len(data)))
			header.IPv4(part[14:]).UpdateChecksum()
		} else {
			word := uint16(at)
			if more {
				word |= 1
			}
			fragment := []byte{part[20], 0, byte(word >> 8), byte(word), 0, 0, 0, 9}
			part[20] = 44
			binary.BigEndian.PutUint16(part[18:], uint16(8+len(data)))
			part = append(part, fragment...)
		}
		parts = append(parts, append(part, data...))
	}
	return parts
}

// reassemble puts the fragments of one datagram together and returns its payload.
func reassemble(t testing.TB, parts [][]byte) []byte {
	t.Helper()
	whole := make([]byte, 65536)
	end := 0
	for _, b := range parts {
		p := decode(b)
		if ip, ok := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4); ok {
			if header.Checksum(ip.Contents, 0) != 0xffff {
				t.Error("IPv4 header checksum of a fragment is wrong")
			}
			end = max(end, int(ip.FragOffset)*8+copy(whole[int(ip.FragOffset)*8:], ip.Payload))
		} else if fragment, ok := p.Layer(layers.LayerTypeIPv6Fragment).(*layers.IPv6Fragment); ok {
			end = max(end, int(fragment.FragmentOffset)*8+copy(whole[int(fragment.FragmentOffset)*8:], fragment.Payload))
		}
	}
	return whole[:end]
}

// What the gateway does not serve is refused, but for ICMP that is no question.
func TestGatewayServesNothing(t *testing.T) {
	t.Parallel()
	for name, a := range ipFamilies {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.inject(web1Port, build(t, echoTo(web1Port, a.pod, a.gateway, 77, 5, true, "")))
			r.run()
			r.silent(web1Port, DropNoGatewayService)

			r.inject(web1Port, build(t, tcpTo(web1Port, a.pod, a.gateway, 40000, 22, syn, "")))
			r.run()
			checkReset(t, r.one(web1Port), a.gateway, 0, 1001, true)

			request := build(t, udpTo(web1Port, a.pod, a.gateway, 40000, 53, "query"))
			r.inject(web1Port, request)
			r.run()
			checkError(t, r.one(web1Port), a.gateway, portUnreachable, 0, request[14:])
			if n := r.drops(web1Port, DropNoGatewayService); n != 3 {
				t.Errorf("%d drops, want 3: %v", n, r.allDrops())
			}
		})
	}
}

// checkReset holds a reset to RFC 9293 §3.10.7.1.
func checkReset(t *testing.T, got gopacket.Packet, src string, seq, ack uint32, withAck bool) {
	t.Helper()
	checkSums(t, got)
	tcp, ok := got.Layer(layers.LayerTypeTCP).(*layers.TCP)
	if !ok {
		t.Fatalf("no TCP in %v", got)
	}
	if !tcp.RST || tcp.ACK != withAck || tcp.SYN || tcp.FIN || tcp.Seq != seq || tcp.Ack != ack {
		t.Errorf("reset %+v, want seq %d, ack %d (%v)", tcp, seq, ack, withAck)
	}
	if from := net.IP(got.NetworkLayer().NetworkFlow().Src().Raw()); !from.Equal(net.ParseIP(src)) {
		t.Errorf("from %v, want the address that was called, %v", from, src)
	}
}

// RFC 9293 §3.10.7.1: a segment to a closed port is answered by a reset whose numbers come from the segment, a reset never
func TestResetNumbers(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		set      func(*layers.TCP)
		data     string
		seq, ack uint32
		withAck  bool
		silent   bool
	}{
		"SYN":            {set: syn, ack: 1001, withAck: true},
		"SYN, fast open": {set: syn, data: "hello", ack: 1006, withAck: true},
		"SYN at wrap":    {set: func(l *layers.TCP) { l.SYN = true; l.Seq = 0xffffffff }, ack: 0, withAck: true},
		"ACK":            {set: func(l *layers.TCP) { l.ACK = true; l.Ack = 5000 }, data: "hello", seq: 5000},
		"FIN ACK":        {set: func(l *layers.TCP) { l.FIN = true; l.ACK = true; l.Ack = 7 }, seq: 7},
		"RST":            {set: func(l *layers.TCP) { l.RST = true }, silent: true},
		"RST ACK":        {set: func(l *layers.TCP) { l.RST = true; l.ACK = true }, silent: true},
	}
	for name, tt := range tests {
		for family, a := range ipFamilies {
			t.Run(name+" "+family, func(t *testing.T) {
				r := newRig(t)
				r.inject(clientPort, build(t, tcpTo(clientPort, a.client, a.fip, 40000, 81, tt.set, tt.data)))
				r.run()
				if tt.silent {
					for i := range r.ports {
						if frames := r.sent(i); len(frames) != 0 {
							t.Errorf("answered by %v", decode(frames[0]))
						}
					}
					return
				}
				checkReset(t, r.one(clientPort), a.fip, tt.seq, tt.ack, tt.withAck)
				if r.drops(clientPort, DropFloatingIPPort) != 1 {
					t.Errorf("drops %v", r.allDrops())
				}
			})
		}
	}
}

// RFC 9293 §3.1: a segment with a wrong checksum is dropped, so nothing resets it
func TestNoResetForBadChecksum(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b := build(t, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 81, syn, "data"))
	b[len(unpadded(b))-1] ^= 1
	r.inject(clientPort, b)
	r.run()
	r.silent(clientPort, DropFloatingIPPort)
}

// RFC 1812 §4.3.3.1: port unreachable names the packet; its source is the address that was called
func TestRefuseUDP(t *testing.T) {
	t.Parallel()
	for name, a := range ipFamilies {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			b := build(t, udpTo(clientPort, a.client, a.fip, 40000, 81, "query"))
			r.inject(clientPort, b)
			r.run()
			checkError(t, r.one(clientPort), a.fip, portUnreachable, 0, b[14:])

			// Of fragments, the first is answered and the others are not.
			for _, part := range fragmentize(build(t, udpTo(clientPort, a.client, a.fip, 40001, 81, string(make([]byte, 1200)))), 600) {
				r.inject(clientPort, part)
			}
			r.run()
			r.one(clientPort)
			if n := r.drops(clientPort, DropFloatingIPPort); n != 4 {
				t.Errorf("%d drops, want 4: %v", n, r.allDrops())
			}
		})
	}
}

// RFC 1812 §4.3.2.8: refusals are limited in rate, 1000 at once and 1000 a second, for each port alone
func TestRefusalLimit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b := build(t, udpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 81, "query"))
	flood := func(n int) (answers int) {
		for range n {
			r.inject(clientPort, b)
			r.run()
			answers += len(r.sent(clientPort))
		}
		return answers
	}
	if got := flood(refusalBurst + 50); got != refusalBurst {
		t.Errorf("%d answers to a flood, want %d", got, refusalBurst)
	}
	r.inject(web1Port, build(t, udpTo(web1Port, "10.244.0.11", "10.96.0.10", 40000, 81, "query")))
	r.run()
	if len(r.sent(web1Port)) != 1 {
		t.Error("one port's flood silenced the answers to another")
	}
	r.nanos += TickNanos
	if got := flood(refusalRate + 50); got != refusalRate {
		t.Errorf("%d answers a tick later, want %d", got, refusalRate)
	}
}
