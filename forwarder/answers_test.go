package forwarder

import (
	"testing"

	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/internal/header"
)

// Nothing that the router answers or translates may allocate: these are the
// packets that a hostile sender chooses.
func TestAnswersDoNotAllocate(t *testing.T) {
	r := newTransitRig(t)
	w := r.f.workers[0]
	frames := map[string][]byte{}
	from := map[string]uint16{}
	for name, a := range ipFamilies {
		for what, s := range map[string]packetSpec{
			"echo ":       echoTo(clientPort, a.client, a.gateway, 1, 1, false, "data"),
			"reset ":      tcpTo(clientPort, a.client, a.fip, 40000, 81, syn, ""),
			"refusal ":    udpTo(clientPort, a.client, a.fip, 40000, 81, "data"),
			"no route ":   udpTo(clientPort, a.client, a.nowhere, 40000, 80, "data"),
			"no session ": errorTo(clientPort, a.client, a.fip, 3, 1, 0, ipPacket(t, udpTo(clientPort, a.fip, a.client, 9, 9, ""))),
		} {
			frames[what+name], from[what+name] = build(t, s), clientPort
		}
		c := transitCase{packet: udpTo(clientPort, a.client, a.fip, 40000, 80, "data")}
		port, seen, _, _ := c.prepare(t, r)
		frames["error "+name], from["error "+name] = build(t, c.about(port, seen)), port
	}
	frames["ARP"] = arpFrame(t, arpSpec{from: clientPort, op: layers.ARPRequest, sender: "203.0.113.7", target: "10.244.0.1"})
	frames["ND"] = ndFrame(t, ndSpec{
		from: clientPort, kind: layers.ICMPv6TypeNeighborSolicitation, hopLimit: 255, src: "2001:db8:113::7", target: "fd00:244::1",
	})
	from["ARP"], from["ND"] = clientPort, clientPort

	w.reader.Online()
	defer w.reader.Offline()
	for name, b := range frames {
		t.Run(name, func(t *testing.T) {
			run := func() {
				f := w.rx[0]
				f.Reset()
				f.End = f.Start + copy(f.Buf[f.Start:], b)
				w.limits[from[name]] = replyLimit{}
				w.process(from[name], 1)
				for i := range r.ports {
					r.sentFramesDiscard(i)
				}
			}
			for range 8 * ringDepth { // the wire's buffers grow to the frames they have held
				run()
			}
			if n := testing.AllocsPerRun(100, run); n != 0 {
				t.Errorf("%v allocations a packet", n)
			}
		})
	}
}

// FuzzICMPErrorTransit sends an ICMP error whose body is the fuzzer's into a
// forwarder with live sessions. The checksums that would stop it are made right,
// so that what gets past them is reached. The router must not panic, must lose
// no packet, must not change the error's length, must keep every session, and
// what it sends must have right checksums.
func FuzzICMPErrorTransit(f *testing.F) {
	r := newTransitRig(f)
	for name, c := range transitCases(f, r) {
		if name[0] != 'm' && name[0] != 'e' { // one member or echo case for each protocol and family
			continue
		}
		port, seen, _, _ := c.prepare(f, r)
		f.Add(port, build(f, c.about(port, seen)))
	}
	f.Fuzz(func(t *testing.T, in uint16, frame []byte) {
		r.t = t
		in = vhostPort + in%5
		frame = repair(frame, in)
		if frame == nil {
			return
		}
		clear(r.f.workers[0].limits[:])
		sessions := r.sessions()
		r.inject(in, frame)
		r.run()
		var l header.Layout
		if header.Parse(frame, &l) != header.FaultNone || !l.ICMPError || l.IsFragment {
			drain(r)
			return
		}
		if n := r.sessions(); n != sessions {
			t.Fatalf("%d sessions, %d before", n, sessions)
		}
		for i := range r.ports {
			for _, b := range r.sent(i) {
				if len(b) != int(l.End) {
					t.Fatalf("an error of %d bytes became one of %d", l.End, len(b))
				}
				var out header.Layout
				if fault := header.Parse(b, &out); fault != header.FaultNone || !header.VerifyL4(b, &out) {
					t.Fatalf("sent %v, checksum right: %v", fault, header.VerifyL4(b, &out))
				}
			}
		}
	})
}

// repair makes a fuzzer's bytes a frame from a port to the router with right
// IPv4 and ICMP checksums, and right IPv4 checksum in the quote.
func repair(frame []byte, in uint16) []byte {
	if len(frame) < header.EthernetLength+header.IPv4MinimumLength {
		return nil
	}
	b := append([]byte(nil), frame...)
	copy(b, RouterMAC[:])
	m := mac(byte(in))
	copy(b[6:], m[:])
	if ip := header.IPv4(b[14:]); b[12] == 8 && b[13] == 0 && ip.HeaderLength() >= 20 && len(ip) >= ip.HeaderLength() {
		ip.UpdateChecksum()
	}
	var l, inner header.Layout
	if header.Parse(b, &l) != header.FaultNone || !l.ICMPError || l.IsFragment {
		return b
	}
	quote := b[l.Payload:l.End]
	if ip := header.IPv4(quote); len(ip) >= 20 && ip.Version() == 4 && ip.HeaderLength() >= 20 && len(ip) >= ip.HeaderLength() {
		ip.UpdateChecksum()
	}
	_ = header.ParseInner(quote, &inner)
	message := b[l.L4:l.End]
	fields := header.ICMPFields{Type: l.ICMPType, Code: l.ICMPCode}
	fields.Rest = uint32(message[4])<<24 | uint32(message[5])<<16 | uint32(message[6])<<8 | uint32(message[7])
	header.PutICMP(message, &l.Src, &l.Dst, fields)
	return b
}

// drain empties all wires.
func drain(r *rig) {
	for i := range r.ports {
		r.sentFramesDiscard(i)
	}
}
