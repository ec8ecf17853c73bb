package forwarder

import (
	"bytes"
	"encoding/binary"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/port"
)

// wantErrors are type and code of each kind, from RFC 792, RFC 1812 and RFC 4443
// rather than from our own constants.
var wantErrors = map[errorKind]struct{ v4, v6 [2]uint8 }{
	timeExceeded:    {[2]uint8{11, 0}, [2]uint8{3, 0}},
	packetTooBig:    {[2]uint8{3, 4}, [2]uint8{2, 0}},
	noRoute:         {[2]uint8{3, 0}, [2]uint8{1, 0}},
	hostUnreachable: {[2]uint8{3, 1}, [2]uint8{1, 3}},
	adminProhibited: {[2]uint8{3, 13}, [2]uint8{1, 1}},
	portUnreachable: {[2]uint8{3, 3}, [2]uint8{1, 4}},
}

// icmpOf returns type, code and what follows the checksum of an ICMP packet: the
// four bytes of its own and the body.
func icmpOf(t testing.TB, p gopacket.Packet) (kind, code uint8, rest uint32, body []byte) {
	t.Helper()
	if m, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok {
		return m.TypeCode.Type(), m.TypeCode.Code(), uint32(m.Id)<<16 | uint32(m.Seq), m.Payload
	}
	m, ok := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
	if !ok {
		t.Fatalf("no ICMP in %v", p)
	}
	return m.TypeCode.Type(), m.TypeCode.Code(), binary.BigEndian.Uint32(m.Payload), m.Payload[4:]
}

// etherType is the EtherType of an IP packet.
func etherType(ip []byte) []byte {
	if ip[0]>>4 == 4 {
		return []byte{8, 0}
	}
	return []byte{0x86, 0xdd}
}

// pseudoHeader is the IPv6 pseudo-header of RFC 8200 §8.1, or IPv4's of RFC 9293
// §3.1, for a payload.
func pseudoHeader(network gopacket.NetworkLayer, proto uint8, payload []byte) []byte {
	flow := network.NetworkFlow()
	b := append(append([]byte(nil), flow.Src().Raw()...), flow.Dst().Raw()...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, 0, 0, 0, proto)
}

// checkICMPSums recomputes the checksums of an ICMP packet.
func checkICMPSums(t testing.TB, p gopacket.Packet) {
	t.Helper()
	if ip, ok := p.NetworkLayer().(*layers.IPv4); ok {
		if naiveSum(ip.Contents) != 0xffff {
			t.Errorf("IPv4 header checksum is wrong: % x", ip.Contents)
		}
		if naiveSum(ip.Payload) != 0xffff {
			t.Errorf("ICMP checksum is wrong: % x", ip.Payload)
		}
	} else if ip := p.NetworkLayer().(*layers.IPv6); naiveSum(append(pseudoHeader(ip, 58, ip.Payload), ip.Payload...)) != 0xffff {
		t.Errorf("ICMPv6 checksum is wrong: % x", ip.Payload)
	}
}

// ipPacket is build without the Ethernet header, and without the padding that
// gopacket puts behind short frames.
func ipPacket(t testing.TB, s packetSpec) []byte {
	t.Helper()
	return unpadded(build(t, s))[14:]
}

func unpadded(b []byte) []byte {
	if b[12] == 8 {
		return b[:14+int(binary.BigEndian.Uint16(b[16:]))]
	}
	return b[:54+int(binary.BigEndian.Uint16(b[18:]))]
}

// checkError holds an ICMP error that the router made to the RFCs. quoted is the
// IP packet that it is about.
func checkError(t testing.TB, got gopacket.Packet, src string, kind errorKind, mtu uint32, quoted []byte) {
	t.Helper()
	checkICMPSums(t, got)
	quoted = unpadded(append(make([]byte, 12, 14+len(quoted)), append(etherType(quoted), quoted...)...))[14:]
	typ, code, rest, body := icmpOf(t, got)
	want, limit := wantErrors[kind].v4, 576 // RFC 1812 §4.3.2.3
	if ip, ok := got.NetworkLayer().(*layers.IPv6); ok {
		want, limit = wantErrors[kind].v6, 1280 // RFC 4443 §2.4 c
		if ip.HopLimit != 64 {
			t.Errorf("hop limit %d", ip.HopLimit)
		}
	} else if ip := got.NetworkLayer().(*layers.IPv4); ip.TTL != 64 || ip.TOS != 0xc0 {
		t.Errorf("TTL %d, TOS %#x; want 64 and precedence 6 (RFC 1812 §4.3.2.5)", ip.TTL, ip.TOS)
	}
	if typ != want[0] || code != want[1] || rest != mtu {
		t.Errorf("type %d code %d, rest %d; want %d, %d, %d", typ, code, rest, want[0], want[1], mtu)
	}
	if from := net.IP(got.NetworkLayer().NetworkFlow().Src().Raw()); !from.Equal(net.ParseIP(src)) {
		t.Errorf("from %v, want %v", from, src)
	}
	length := len(got.Data()) - 14
	if length > limit || len(body) < len(quoted) && length != limit {
		t.Errorf("the error has %d bytes, quotes %d of %d; limit %d", length, len(body), len(quoted), limit)
	}
	if !bytes.Equal(body, quoted[:min(len(body), len(quoted))]) || len(body) > len(quoted) {
		t.Errorf("quote\n % x\nwant\n % x", body, quoted)
	}
	router := RouterMAC
	if eth := got.Layer(layers.LayerTypeEthernet).(*layers.Ethernet); string(eth.SrcMAC) != string(router[:]) {
		t.Errorf("Ethernet %v > %v", eth.SrcMAC, eth.DstMAC)
	}
}

// RFC 1812 §5.3.1: a packet whose TTL runs out is answered by time exceeded
// RFC 4443 §3.3: a packet whose hop limit runs out is answered by time exceeded
// RFC 1812 §4.3.2.3: an error quotes as much as fits in 576 bytes
// RFC 4443 §2.4 c: an error quotes as much as fits in the minimum IPv6 MTU
func TestTimeExceeded(t *testing.T) {
	t.Parallel()
	for name, a := range ipFamilies {
		for _, size := range []int{0, 1, 500, 1400} {
			t.Run(name, func(t *testing.T) {
				r := newRig(t)
				p := udpTo(clientPort, a.client, a.fip, 33434, 80, string(make([]byte, size)))
				p.ttl = 1
				b := build(t, p)
				r.inject(clientPort, b)
				r.run()
				// The quote has the address that was called: NAT comes later.
				checkError(t, r.one(clientPort), a.gateway, timeExceeded, 0, b[14:])
				if r.drops(clientPort, DropTTL) != 1 {
					t.Errorf("drops %v", r.allDrops())
				}
			})
		}
	}
}

// RFC 1191 §4: fragmentation needed carries the MTU of the next hop
// RFC 4443 §3.2: packet too big carries the MTU of the next hop
func TestPacketTooBig(t *testing.T) {
	t.Parallel()
	for name, a := range ipFamilies {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			for i := web1Port; i <= web3Port; i++ {
				r.state.interfaces[i].MTU = 1300
			}
			r.publish()
			p := udpTo(clientPort, a.client, a.fip, 40000, 80, string(make([]byte, 1300)))
			p.df = true
			b := build(t, p)
			r.inject(clientPort, b)
			r.run()
			checkError(t, r.one(clientPort), a.gateway, packetTooBig, 1300, b[14:])
		})
	}
}

// RFC 1812 §5.2.7.1: no route is network unreachable, not host unreachable
// RFC 4443 §3.1: no route is code 0
func TestNoRoute(t *testing.T) {
	t.Parallel()
	for name, a := range ipFamilies {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			b := build(t, udpTo(clientPort, a.client, a.nowhere, 40000, 80, "data"))
			r.inject(clientPort, b)
			r.run()
			checkError(t, r.one(clientPort), a.gateway, noRoute, 0, b[14:])
		})
	}
}

// RFC 7600 §4.8: without an address of its own the router sends errors from 192.0.0.8
func TestErrorSourceWithoutGateway(t *testing.T) {
	t.Parallel()
	for name, source := range map[string]string{"IPv4": "192.0.0.8", "IPv6": "fe80::200:5eff:fe00:100"} {
		a := ipFamilies[name]
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			in := &r.state.interfaces[clientPort]
			in.Gateway4, in.Gateway6 = [16]byte{}, [16]byte{}
			r.publish()
			b := build(t, udpTo(clientPort, a.client, a.nowhere, 40000, 80, "data"))
			r.inject(clientPort, b)
			r.run()
			checkError(t, r.one(clientPort), source, noRoute, 0, b[14:])
		})
	}
}

// direct lets the router send an error about a frame without asking whether the
// packet path would have let the frame come that far.
func direct(t testing.TB, r *rig, f *port.Frame, kind errorKind, mtu uint32) []gopacket.Packet {
	t.Helper()
	w := r.f.workers[0]
	w.begin()
	p := &packet{frame: f, in: clientPort, len: uint32(f.Len())}
	if fault := header.Parse(f.Bytes(), &p.l); fault != header.FaultNone {
		t.Fatal(fault)
	}
	w.icmpError(w.snap.port(clientPort), p, DropTTL, kind, mtu)
	w.flush()
	var got []gopacket.Packet
	for _, b := range r.sent(clientPort) {
		got = append(got, decode(b))
	}
	return got
}

func frameOf(b []byte) *port.Frame {
	f := port.NewFrame()
	f.End = f.Start + copy(f.Buf[f.Start:], b)
	return f
}

func TestErrorKinds(t *testing.T) {
	t.Parallel()
	for name, a := range ipFamilies {
		for kind := range numErrorKinds {
			t.Run(name, func(t *testing.T) {
				r := newRig(t)
				b := build(t, udpTo(clientPort, a.client, a.fip, 40000, 80, "data"))
				got := direct(t, r, frameOf(b), kind, 0)
				if len(got) != 1 {
					t.Fatalf("%d errors", len(got))
				}
				checkError(t, got[0], a.gateway, kind, 0, b[14:])
			})
		}
	}
}

// RFC 1812 §4.3.2.7: no error about an ICMP error, a group, a later fragment, or a source that is no single host
// RFC 4443 §2.4 e: the same for ICMPv6
func TestNeverAnError(t *testing.T) {
	t.Parallel()
	four, six := ipFamilies["IPv4"], ipFamilies["IPv6"]
	udp4 := func(src, dst string) []byte { return build(t, udpTo(clientPort, src, dst, 40000, 80, "data")) }
	set := func(b []byte, at int, with ...byte) []byte {
		copy(b[at:], with)
		if b[12] == 8 && b[13] == 0 {
			header.IPv4(b[14:]).UpdateChecksum()
		}
		return b
	}
	tests := map[string][]byte{
		"broadcast MAC":        set(udp4(four.client, four.fip), 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"multicast MAC":        set(udp4(six.client, six.fip), 0, 0x33, 0x33, 0, 0, 0, 1),
		"broadcast IP":         udp4(four.client, "255.255.255.255"),
		"multicast IP":         udp4(four.client, "224.0.0.251"),
		"multicast IPv6":       udp4(six.client, "ff02::fb"),
		"from nowhere":         udp4("0.0.0.0", four.fip),
		"from loopback":        udp4("127.0.0.1", four.fip),
		"from multicast":       udp4("224.0.0.1", four.fip),
		"from class E":         udp4("240.0.0.1", four.fip),
		"from broadcast":       udp4("255.255.255.255", four.fip),
		"from nowhere, IPv6":   udp4("::", six.fip),
		"from loopback, IPv6":  udp4("::1", six.fip),
		"from multicast, IPv6": udp4("ff02::1", six.fip),
		"later fragment":       fragmentize(udp4(four.client, four.fip), 8)[1],
		"later fragment, IPv6": fragmentize(udp4(six.client, six.fip), 8)[1],
	}
	for _, kind := range []uint8{3, 4, 5, 11, 12} {
		tests["ICMP error "+string('0'+rune(kind))] = build(t, errorTo(clientPort, four.client, four.fip, kind, 0, 0, udp4(four.fip, four.client)[14:]))
	}
	for _, kind := range []uint8{1, 2, 3, 4, 100, 127} {
		tests["ICMPv6 error "+string('0'+rune(kind))] = build(t, errorTo(clientPort, six.client, six.fip, kind, 0, 0, udp4(six.fip, six.client)[14:]))
	}
	for name, b := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			for _, got := range direct(t, r, frameOf(b), timeExceeded, 0) {
				t.Errorf("answered by %v", got)
			}
			if r.drops(clientPort, DropTTL) != 1 {
				t.Error("the packet was not counted")
			}
		})
	}
	t.Run("first fragment", func(t *testing.T) {
		r := newRig(t)
		first := fragmentize(build(t, udpTo(clientPort, four.client, four.fip, 40000, 80, string(make([]byte, 100)))), 48)[0]
		if got := direct(t, r, frameOf(first), timeExceeded, 0); len(got) != 1 {
			t.Errorf("%d errors about a first fragment, want 1", len(got))
		}
	})
}

// errorTo is an ICMP error of either family that quotes a packet.
func errorTo(from uint16, src, dst string, kind, code uint8, rest uint32, quote []byte) packetSpec {
	p := packetSpec{from: from, src: src, dst: dst}
	if net.ParseIP(src).To4() != nil {
		p.l4 = []gopacket.SerializableLayer{&layers.ICMPv4{
			TypeCode: layers.CreateICMPv4TypeCode(kind, code), Id: uint16(rest >> 16), Seq: uint16(rest),
		}, gopacket.Payload(quote)}
		return p
	}
	p.l4 = []gopacket.SerializableLayer{
		&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, code)},
		gopacket.Payload(append(binary.BigEndian.AppendUint32(nil, rest), quote...)),
	}
	return p
}

// RFC 4443 §2.4 f: ICMPv6 errors are limited in rate by a token bucket
func TestErrorLimit(t *testing.T) {
	t.Parallel()
	for name, a := range ipFamilies {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			b := build(t, udpTo(clientPort, a.client, a.nowhere, 40000, 80, "data"))
			answers := 0
			for range errorBurst + 20 {
				r.inject(clientPort, b)
				r.run()
				answers += len(r.sent(clientPort))
			}
			if answers != errorBurst {
				t.Errorf("%d errors, want %d", answers, errorBurst)
			}
			// Errors do not use up what refusals need.
			r.inject(clientPort, build(t, tcpTo(clientPort, a.client, a.fip, 40000, 81, syn, "")))
			r.run()
			r.one(clientPort)
		})
	}
}

// A superpacket exists on no wire: the error quotes its first segment, with
// the checksum that the device would have made.
func TestErrorQuotesSegment(t *testing.T) {
	t.Parallel()
	payload := make([]byte, 3000)
	for i := range payload {
		payload[i] = byte(i * 7)
	}
	push := func(l *layers.TCP) { l.ACK, l.PSH, l.FIN = true, true, true }
	gso := map[string]uint8{"IPv4": port.GSOTCPv4, "IPv6": port.GSOTCPv6}
	for name, a := range ipFamilies {
		t.Run("TSO "+name, func(t *testing.T) {
			r := newRig(t)
			f := frameOf(build(t, tcpTo(clientPort, a.client, a.fip, 40000, 80, push, string(payload))))
			setPartial(f, 16, gso[name], 400)
			want := build(t, tcpTo(clientPort, a.client, a.fip, 40000, 80, func(l *layers.TCP) { l.ACK = true }, string(payload[:400])))
			got := direct(t, r, f, timeExceeded, 0)
			if len(got) != 1 {
				t.Fatalf("%d errors", len(got))
			}
			checkError(t, got[0], a.gateway, timeExceeded, 0, want[14:])
		})
		t.Run("USO "+name, func(t *testing.T) {
			r := newRig(t)
			f := frameOf(build(t, udpTo(clientPort, a.client, a.fip, 40000, 80, string(payload))))
			setPartial(f, 6, port.GSOUDPL4, 400)
			want := build(t, udpTo(clientPort, a.client, a.fip, 40000, 80, string(payload[:400])))
			checkError(t, direct(t, r, f, timeExceeded, 0)[0], a.gateway, timeExceeded, 0, want[14:])
		})
		t.Run("partial checksum "+name, func(t *testing.T) {
			r := newRig(t)
			want := build(t, udpTo(clientPort, a.client, a.fip, 40000, 80, string(payload[:1000])))
			f := frameOf(want)
			setPartial(f, 6, port.GSONone, 0)
			checkError(t, direct(t, r, f, timeExceeded, 0)[0], a.gateway, timeExceeded, 0, want[14:])
		})
	}
}

// setPartial leaves the transport checksum of a frame to the device.
func setPartial(f *port.Frame, offset int, gsoType uint8, size uint16) {
	b := f.Bytes()
	var l header.Layout
	header.Parse(b, &l)
	binary.BigEndian.PutUint16(b[int(l.L4)+offset:], header.PseudoHeader(&l.Src, &l.Dst, l.Proto, int(l.End-l.L4)))
	f.Offload = port.Offload{
		Flags: port.NeedsCsum, GSOType: gsoType, GSOSize: size, HdrLen: uint16(l.Payload),
		CsumStart: uint16(l.L4), CsumOffset: uint16(offset),
	}
}
