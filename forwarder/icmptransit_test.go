package forwarder

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"pgregory.net/rapid"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/nexthop"
)

// transitCase is a session, a packet of it and an ICMP error about that packet.
type transitCase struct {
	// sender sends the packet that goes wrong, src > dst as the sender sees it.
	// It is the session's first, or, with opener, the answer to opener.
	opener *packetSpec
	packet packetSpec
	// The error comes in on port from, from address errorSrc (the packet's
	// destination as it arrived when empty).
	errorSrc string
	// wantSrc is where the error seems to come from, as the sender sees it.
	wantSrc string
}

// transitCases are the ways an error can cross a session, in both families.
func transitCases(t testing.TB, r *rig) map[string]transitCase {
	cases := map[string]transitCase{}
	for name, a := range ipFamilies {
		outside, router := "198.51.100.5", "198.51.100.254"
		if name == "IPv6" {
			outside, router = "2001:db8:51::5", "2001:db8:51::254"
		}
		for proto, to := range map[string]func(from uint16, src, dst string, sport, dport uint16) packetSpec{
			"TCP": func(from uint16, src, dst string, sport, dport uint16) packetSpec {
				return tcpTo(from, src, dst, sport, dport, func(l *layers.TCP) { l.ACK = dport != 80; l.SYN = dport == 80 || sport == 80 }, "data of odd length")
			},
			"UDP": func(from uint16, src, dst string, sport, dport uint16) packetSpec {
				return udpTo(from, src, dst, sport, dport, "data of odd length!")
			},
			"SCTP": sctpTo,
		} {
			cases["member refuses "+proto+" "+name] = transitCase{packet: to(clientPort, a.client, a.fip, 40000, 80), wantSrc: a.fip}
			cases["router behind member refuses "+proto+" "+name] = transitCase{
				packet: to(vhostPort, outside, a.fip, 40000, 80), wantSrc: a.fip,
			}
			opener := to(vhostPort, outside, a.fip, 40000, 80)
			cases["router before client refuses a reply "+proto+" "+name] = transitCase{
				opener: &opener, packet: to(0, "", outside, 8080, 40000), errorSrc: router, wantSrc: router,
			}
			cases["no NAT, router "+proto+" "+name] = transitCase{packet: to(web1Port, a.pod, outside, 40000, 7), errorSrc: router, wantSrc: router}
			cases["egress NAT "+proto+" "+name] = transitCase{packet: to(web3Port, webAddress(name, 3), a.client, 40000, 7), wantSrc: a.client}
		}
		cases["echo, egress NAT "+name] = transitCase{packet: echoTo(web3Port, webAddress(name, 3), a.client, 99, 1, false, "ping"), wantSrc: a.client}
		ping := echoTo(web3Port, webAddress(name, 3), a.client, 99, 1, false, "ping")
		cases["echo reply, egress NAT "+name] = transitCase{
			opener: &ping, packet: echoTo(clientPort, a.client, a.fip, 99, 1, true, "ping"), wantSrc: a.fip,
		}
	}
	return cases
}

func webAddress(family string, n int) string {
	if family == "IPv6" {
		return "fd00:244::1" + string('0'+rune(n))
	}
	return "10.244.0.1" + string('0'+rune(n))
}

// sctpTo is an SCTP packet with a DATA chunk, which gopacket gets as bytes.
func sctpTo(from uint16, src, dst string, sport, dport uint16) packetSpec {
	chunk := []byte{0, 3, 0, 20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 'd', 'a', 't', 'a'}
	return packetSpec{from: from, src: src, dst: dst, l4: []gopacket.SerializableLayer{
		&layers.SCTP{SrcPort: layers.SCTPPort(sport), DstPort: layers.SCTPPort(dport), VerificationTag: 0xabcd}, gopacket.Payload(chunk),
	}}
}

// newTransitRig is newRig with a default route to the node and with egress NAT
// for web-3 towards the clients.
func newTransitRig(t testing.TB) *rig {
	r := newRig(t)
	for _, p := range []string{"0.0.0.0/0", "::/0"} {
		r.state.vrfs[podsVRF][netip.MustParsePrefix(p)] = nexthop.Route{NextHop: InterfaceNextHop(vhostPort), Network: fabricNet}
	}
	for _, p := range []string{"203.0.113.7/32", "2001:db8:113::7/128"} {
		delete(r.state.vrfs[podsVRF], netip.MustParsePrefix(p))
	}
	web3 := &r.state.interfaces[web3Port]
	for i, fip := range r.state.floating {
		web3.Egress = append(web3.Egress, EgressNAT{FloatingIP: uint32(i), VRF: clientVRF, Address: fip.Address})
	}
	r.publish()
	return r
}

// deliver injects a packet and returns where it came out, and how.
func (r *rig) deliver(s packetSpec) (uint16, []byte) {
	r.t.Helper()
	r.inject(s.from, build(r.t, s))
	r.run()
	for i := range r.ports {
		if frames := r.sent(i); len(frames) == 1 {
			return i, frames[0]
		}
	}
	r.t.Fatalf("the packet did not arrive: %v", r.allDrops())
	return 0, nil
}

// prepare sends what an error can be about and returns the error without its
// quote, the packet as its receiver saw it and as its sender would (but for the
// TTL that the way here has cost), and the sender's port.
func (c transitCase) prepare(t testing.TB, r *rig) (from uint16, seen, original []byte, sender uint16) {
	t.Helper()
	p := c.packet
	if c.opener != nil {
		at, opened := r.deliver(*c.opener)
		if p.from == 0 { // the member that the opener reached answers
			p.from, p.src = at, decode(opened).NetworkLayer().NetworkFlow().Dst().String()
		}
	}
	from, arrived := r.deliver(p)
	p.ttl = 63
	return from, unpadded(arrived)[14:], ipPacket(t, p), p.from
}

// about is the error of a case with a quote: "too big" with an MTU, so that
// every field of the ICMP header has to pass.
func (c transitCase) about(from uint16, quote []byte) packetSpec {
	four := quote[0]>>4 == 4
	src, dst := c.errorSrc, ""
	if four {
		dst = netip.AddrFrom4([4]byte(quote[12:])).String()
		if src == "" {
			src = netip.AddrFrom4([4]byte(quote[16:])).String()
		}
		return errorTo(from, src, dst, 3, 4, 1400, quote)
	}
	dst = netip.AddrFrom16([16]byte(quote[8:])).String()
	if src == "" {
		src = netip.AddrFrom16([16]byte(quote[24:])).String()
	}
	return errorTo(from, src, dst, 2, 0, 1400, quote)
}

// RFC 5508 REQ-4: an error about a translated packet is translated, outside and inside, with its type and code left alone
// RFC 5508 REQ-5: the same for an error that a translated host sends
// RFC 5382 REQ-9: ICMP destination unreachable about TCP is translated
// RFC 4787 REQ-13: fragmentation needed passes with its MTU
// RFC 5508 REQ-3: the checksums of the quoted packet's headers are repaired
func TestICMPErrorTransit(t *testing.T) {
	t.Parallel()
	for name, c := range transitCases(t, nil) {
		t.Run(name, func(t *testing.T) {
			r := newTransitRig(t)
			from, seen, original, sender := c.prepare(t, r)
			for _, length := range []int{len(seen), l4Offset(seen) + 8, l4Offset(seen) + 18} {
				length = min(length, len(seen))
				r.inject(from, build(t, c.about(from, seen[:length])))
				r.run()
				got := r.one(sender)
				checkICMPSums(t, got)
				kind, code, rest, body := icmpOf(t, got)
				if seen[0]>>4 == 4 && (kind != 3 || code != 4) || seen[0]>>4 == 6 && (kind != 2 || code != 0) || rest != 1400 {
					t.Errorf("type %d, code %d, MTU %d", kind, code, rest)
				}
				if !bytes.Equal(sameSCTPSum(body, original), original[:length]) {
					t.Errorf("quoted\n % x\nwant\n % x", body, original[:length])
				}
				checkEnds(t, got, c.wantSrc, original)
			}
		})
	}
}

// l4Offset is the length of an IP header without options or extensions.
func l4Offset(ip []byte) int {
	if ip[0]>>4 == 4 {
		return 20
	}
	return 40
}

// sameSCTPSum gives a quoted SCTP packet the CRC32c of another one: it is not
// repaired in a quote, because it needs the whole packet.
func sameSCTPSum(quote, other []byte) []byte {
	at := l4Offset(quote)
	proto := quote[9]
	if at == 40 {
		proto = quote[6]
	}
	if proto != 132 || len(quote) < at+12 {
		return quote
	}
	quote = bytes.Clone(quote)
	copy(quote[at+8:at+12], other[at+8:])
	return quote
}

// checkEnds checks an error's own addresses: from wantSrc to the sender of the
// packet that it quotes.
func checkEnds(t testing.TB, got gopacket.Packet, wantSrc string, original []byte) {
	t.Helper()
	flow := got.NetworkLayer().NetworkFlow()
	wantDst := netip.AddrFrom4([4]byte(original[12:])).String()
	if original[0]>>4 == 6 {
		wantDst = netip.AddrFrom16([16]byte(original[8:])).String()
	}
	if flow.Src().String() != wantSrc || flow.Dst().String() != wantDst {
		t.Errorf("error %v > %v, want %v > %v", flow.Src(), flow.Dst(), wantSrc, wantDst)
	}
	switch ip := got.NetworkLayer().(type) {
	case *layers.IPv4:
		if ip.TTL != 63 {
			t.Errorf("TTL %d, want 63", ip.TTL)
		}
	case *layers.IPv6:
		if ip.HopLimit != 63 {
			t.Errorf("hop limit %d, want 63", ip.HopLimit)
		}
	}
}

// RFC 4787 REQ-9, RFC 5508 REQ-7: an error about a hairpinned packet comes from the service address
func TestICMPErrorHairpin(t *testing.T) {
	t.Parallel()
	for name, a := range ipFamilies {
		t.Run(name, func(t *testing.T) {
			r := newTransitRig(t)
			for port := uint16(40000); port < 40064; port++ {
				c := transitCase{packet: udpTo(web1Port, a.pod, a.fip, port, 80, "to myself")}
				from, seen, original, _ := c.prepare(t, r)
				if from != web1Port {
					continue // another member's
				}
				r.inject(from, build(t, c.about(from, seen)))
				r.run()
				got := r.one(web1Port)
				checkICMPSums(t, got)
				checkEnds(t, got, a.fip, original)
				if _, _, _, body := icmpOf(t, got); !bytes.Equal(body, original) {
					t.Errorf("quoted\n % x\nwant\n % x", body, original)
				}
				return
			}
			t.Fatal("no source port led back to web-1")
		})
	}
}

// RFC 5508 REQ-6: an ICMP error neither refreshes nor deletes a session
// RFC 4787 REQ-12: receipt of an ICMP message must not terminate the mapping
// RFC 5382 REQ-10: receipt of any ICMP message must not terminate a TCP mapping
func TestICMPErrorChangesNoSession(t *testing.T) {
	t.Parallel()
	for name, c := range transitCases(t, nil) {
		t.Run(name, func(t *testing.T) {
			r := newTransitRig(t)
			from, seen, _, _ := c.prepare(t, r)
			s := r.session()
			type record struct {
				seen                          uint32
				bytes, packets, replied, rest uint64
				decision                      flowtable.Decision
				state                         flowtable.State
				member, rule                  uint32
				forward, reply                flowtable.Key
			}
			read := func() (x record) {
				x.seen, x.decision, x.state, x.member, x.rule = s.LastSeen(), s.Decision(), s.State(), s.Member(), s.Rule()
				x.bytes, x.packets = s.Counters(flowtable.Forward)
				x.replied, x.rest = s.Counters(flowtable.Reply)
				x.forward, x.reply = s.Key(flowtable.Forward), s.Key(flowtable.Reply)
				return x
			}
			before := read()
			r.nanos += 50 * TickNanos
			kinds := []uint8{3, 4, 5, 11, 12}
			if seen[0]>>4 == 6 {
				kinds = []uint8{1, 2, 3, 4}
			}
			for _, epoch := range []string{"current", "older"} {
				for _, kind := range kinds {
					spec := c.about(from, seen)
					r.inject(from, build(t, errorTo(from, spec.src, spec.dst, kind, 0, 0, seen)))
				}
				r.run()
				if after := read(); after != before || r.sessions() != 1 {
					t.Errorf("%s epoch: %d sessions, %+v; was %+v", epoch, r.sessions(), after, before)
				}
				r.publish()
			}
			for i := range r.ports {
				for _, b := range r.sent(i) {
					checkICMPSums(t, decode(b))
				}
			}
		})
	}
}

// What the router does not believe, it drops.
func TestICMPErrorRefused(t *testing.T) {
	t.Parallel()
	for name, a := range ipFamilies {
		c := transitCase{packet: udpTo(clientPort, a.client, a.fip, 40000, 80, "some data, enough for fragments")}
		six := name == "IPv6"
		at := 14 + 20
		if six {
			at = 14 + 40
		}
		tests := map[string]struct {
			reason DropReason
			change func(r *rig, from uint16, seen []byte) []byte
		}{
			// RFC 5508 REQ-3: silently dropped
			"wrong checksum": {DropICMPChecksum, func(r *rig, from uint16, seen []byte) []byte {
				b := build(t, c.about(from, seen))
				b[at+2] ^= 1
				return b
			}},
			"another session": {DropICMPErrorNoSession, func(r *rig, from uint16, seen []byte) []byte {
				seen[l4Offset(seen)]++ // the source port
				return build(t, c.about(from, seen))
			}},
			"not to the sender": {DropICMPErrorMismatch, func(r *rig, from uint16, seen []byte) []byte {
				s := c.about(from, seen)
				s.dst = a.pod
				if s.dst == s.src {
					s.dst = a.gateway
				}
				return build(t, s)
			}},
			"not for the sender to say": {DropICMPErrorSpoof, func(r *rig, from uint16, seen []byte) []byte {
				other := web1Port
				if from == web1Port {
					other = web2Port
				}
				s := c.about(other, seen)
				s.src = webAddress(name, int(other-web1Port)+1)
				return build(t, s)
			}},
			"quote of nothing": {DropQuotedVersion, func(r *rig, from uint16, seen []byte) []byte {
				s := c.about(from, seen)
				return build(t, errorTo(from, s.src, s.dst, 3, 1, 0, nil))
			}},
			"quote of neither": {DropQuotedVersion, func(r *rig, from uint16, seen []byte) []byte {
				s := c.about(from, seen)
				return build(t, errorTo(from, s.src, s.dst, 3, 1, 0, make([]byte, 60)))
			}},
			"quote too short": {DropICMPErrorFormat, func(r *rig, from uint16, seen []byte) []byte {
				return build(t, c.about(from, seen[:l4Offset(seen)+7]))
			}},
			// RFC 1812 §4.3.2.7: nobody may send an error about an error
			"quote of an error": {DropICMPErrorFormat, func(r *rig, from uint16, seen []byte) []byte {
				s := c.about(from, seen)
				return build(t, c.about(from, ipPacket(t, errorTo(from, s.dst, s.src, 3, 1, 0, seen))))
			}},
			"quote of a later fragment": {DropICMPErrorFormat, func(r *rig, from uint16, seen []byte) []byte {
				return build(t, c.about(from, fragmentize(append(make([]byte, 12), append(etherType(seen), seen...)...), 16)[1][14:]))
			}},
			"fragment itself": {DropICMPErrorFormat, func(r *rig, from uint16, seen []byte) []byte {
				return fragmentize(build(t, c.about(from, seen)), 48)[0]
			}},
			"quote of another query": {DropICMPErrorNoSession, func(r *rig, from uint16, seen []byte) []byte {
				s := c.about(from, seen)
				kind := uint8(13)
				if six {
					kind = 139
				}
				return build(t, c.about(from, ipPacket(t, errorTo(from, s.dst, s.src, kind, 0, 0, seen))))
			}},
			// The policy counts for errors as for the session's packets.
			"policy changed": {DropNetworkPolicy, func(r *rig, from uint16, seen []byte) []byte {
				r.state.policies = nil
				r.publish()
				return build(t, c.about(from, seen))
			}},
			"TTL ran out": {DropTTL, func(r *rig, from uint16, seen []byte) []byte {
				s := c.about(from, seen)
				s.ttl = 1
				return build(t, s)
			}},
		}
		for what, tt := range tests {
			t.Run(what+" "+name, func(t *testing.T) {
				r := newTransitRig(t)
				from, seen, _, _ := c.prepare(t, r)
				b := tt.change(r, from, bytes.Clone(seen))
				in := uint16(b[11]) // mac() numbers ports
				r.inject(in, b)
				r.run()
				r.silent(in, tt.reason)
				if r.sessions() != 1 {
					t.Errorf("%d sessions", r.sessions())
				}
			})
		}
	}
}

// A packet whose member was removed: UDP sessions are decided anew by their
// next packet, and an error is about a binding that is void.
func TestICMPErrorAfterMemberLeft(t *testing.T) {
	t.Parallel()
	a := ipFamilies["IPv4"]
	c := transitCase{packet: udpTo(clientPort, a.client, a.fip, 40000, 80, "data")}
	r := newTransitRig(t)
	from, seen, _, _ := c.prepare(t, r)
	r.state.members(t, func(all []nexthop.Member) (rest []nexthop.Member) {
		for _, m := range all {
			if m.NextHop != InterfaceNextHop(from) {
				rest = append(rest, m)
			}
		}
		return rest
	})
	r.publish()
	r.inject(from, build(t, c.about(from, seen)))
	r.run()
	r.silent(from, DropICMPErrorNoSession)
	if r.sessions() != 1 {
		t.Error("an ICMP error removed a session")
	}
}

// RFC 4884 §5: the length field and the extensions behind the quote stay as they are
// RFC 5508 REQ-3: extensions are left out when the embedded checksum is adjusted
func TestICMPErrorExtensions(t *testing.T) {
	t.Parallel()
	extension := []byte{0x20, 0, 0x12, 0x34, 0, 8, 1, 1, 0, 0x3e, 0x81, 0xff} // an MPLS label stack (RFC 4950)
	for name, a := range ipFamilies {
		for _, size := range []int{10, 300} { // padded to 128 bytes, cut to 128 bytes
			t.Run(name, func(t *testing.T) {
				r := newTransitRig(t)
				c := transitCase{packet: udpTo(clientPort, a.client, a.fip, 40000, 80, string(make([]byte, size)))}
				from, seen, original, sender := c.prepare(t, r)
				quote := append(bytes.Clone(seen), make([]byte, 128)...)[:128]
				s := c.about(from, seen)
				kind, rest := uint8(11), uint32(128/4)<<16
				if name == "IPv6" {
					kind, rest = 3, uint32(128/8)<<24
				}
				r.inject(from, build(t, errorTo(from, s.src, s.dst, kind, 0, rest, append(quote, extension...))))
				r.run()
				got := r.one(sender)
				checkICMPSums(t, got)
				_, _, gotRest, body := icmpOf(t, got)
				want := append(append(bytes.Clone(original), make([]byte, 128)...)[:128:128], extension...)
				if gotRest != rest || !bytes.Equal(body, want) {
					t.Errorf("rest %#x, body\n % x\nwant %#x\n % x", gotRest, body, rest, want)
				}
			})
		}
	}
}

// RFC 768: a UDP checksum of 0 in a quote means none, and stays
func TestICMPErrorZeroUDPChecksum(t *testing.T) {
	t.Parallel()
	a := ipFamilies["IPv4"]
	r := newTransitRig(t)
	c := transitCase{packet: udpTo(clientPort, a.client, a.fip, 40000, 80, "data")}
	from, seen, original, sender := c.prepare(t, r)
	binary.BigEndian.PutUint16(seen[26:], 0)
	binary.BigEndian.PutUint16(original[26:], 0)
	r.inject(from, build(t, c.about(from, seen)))
	r.run()
	got := r.one(sender)
	checkICMPSums(t, got)
	if _, _, _, body := icmpOf(t, got); !bytes.Equal(body, original) {
		t.Errorf("quoted\n % x\nwant\n % x", body, original)
	}
}

// RFC 1624 §3: for any two tuples, the translated quote is the packet that gopacket builds with the other tuple
func TestTranslateQuoteProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		six := rapid.Bool().Draw(rt, "six")
		address := func(name string) string {
			if six {
				b := [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(rt, name))
				b[0] = 0x20
				return netip.AddrFrom16(b).String()
			}
			return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(rt, name))).String()
		}
		proto := rapid.SampledFrom([]string{"TCP", "UDP", "echo request", "echo reply"}).Draw(rt, "proto")
		data := string(rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(rt, "data"))
		ports := rapid.Uint16Range(1, 65535)
		make := func(src, dst string, sport, dport uint16) packetSpec {
			switch proto {
			case "TCP":
				return tcpTo(1, src, dst, sport, dport, syn, data)
			case "UDP":
				return udpTo(1, src, dst, sport, dport, data)
			}
			return echoTo(1, src, dst, sport, 9, proto == "echo reply", data)
		}
		from := ipPacket(t, make(address("src"), address("dst"), ports.Draw(rt, "sport"), ports.Draw(rt, "dport")))
		src, dst, sport, dport := address("src2"), address("dst2"), ports.Draw(rt, "sport2"), ports.Draw(rt, "dport2")
		want := ipPacket(t, make(src, dst, sport, dport))
		length := rapid.IntRange(l4Offset(from)+8, len(from)).Draw(rt, "length")
		if length == l4Offset(from)+17 && proto == "TCP" {
			length-- // half a checksum cannot be repaired
		}

		var inner header.Layout
		quote := bytes.Clone(from[:length])
		if fault := header.ParseInner(quote, &inner); fault != header.FaultNone {
			rt.Fatal(fault)
		}
		to := flowtable.Key{Src: addr(src), Dst: addr(dst), SrcPort: sport, DstPort: dport, Proto: inner.Proto}
		switch proto {
		case "echo request":
			to.DstPort = 0
		case "echo reply":
			to.SrcPort, to.DstPort = 0, sport
		}
		before := naiveSum(quote)
		change := translateQuote(quote, &inner, &to)
		if !bytes.Equal(quote, want[:length]) {
			rt.Fatalf("translated\n % x\nwant\n % x", quote, want[:length])
		}
		if got := ^change.Apply(^before); got != naiveSum(quote) && got^naiveSum(quote) != 0xffff {
			rt.Fatalf("the sum changed from %#x to %#x, the difference says %#x", before, naiveSum(quote), got)
		}
	})
}

// RFC 5508 REQ-3: what follows the quote is no part of the quoted packet, even where its headers would reach into it
func TestICMPErrorHeadersBehindQuote(t *testing.T) {
	t.Parallel()
	a := ipFamilies["IPv6"]
	r := newTransitRig(t)
	c := transitCase{packet: udpTo(clientPort, a.client, a.fip, 40000, 80, "data")}
	from, seen, _, _ := c.prepare(t, r)
	options := make([]byte, 88) // destination options, padded; the UDP header would begin at byte 128
	options[0], options[1], options[2], options[3] = 17, 10, 1, 84
	quote := append(append(bytes.Clone(seen[:40]), options...), seen[40:]...)
	quote[6] = 60
	binary.BigEndian.PutUint16(quote[4:], uint16(len(quote)-40))
	s := c.about(from, seen)
	r.inject(from, build(t, errorTo(from, s.src, s.dst, 1, 4, uint32(128/8)<<24, quote)))
	r.run()
	r.silent(from, DropICMPErrorFormat)
	// Without the length field the same bytes are a packet of the session.
	r.inject(from, build(t, errorTo(from, s.src, s.dst, 1, 4, 0, quote)))
	r.run()
	checkICMPSums(t, r.one(clientPort))
}
