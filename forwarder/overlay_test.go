package forwarder

import (
	"encoding/binary"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/policy"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/nexthop"
)

func TestTunnelIsTwoCacheLines(t *testing.T) {
	if n := unsafe.Sizeof(tunnel{}); n != 128 {
		t.Errorf("a tunnel has %d bytes", n)
	}
}

// A pod talks to one on the other node, both ways, over every encapsulation and
// underlay: the inner packet is what a router one hop away would have sent on twice.
//
// RFC 7510 §3: a label behind UDP port 6635, the checksum 0 over IPv4 and complete over IPv6, as gopacket reads it
// RFC 7348 §5: a frame behind UDP port 4789 with the I flag, as gopacket reads it
// RFC 4023 §4: a label behind GRE, as gopacket reads it
// RFC 3032 §2.1: a label that is the whole stack, as gopacket reads it
// RFC 7348 §4.3: an outer packet must not be fragmented
func TestPodsTalkAcrossNodes(t *testing.T) {
	for _, w := range allWays() {
		for _, fam := range bothFamilies {
			t.Run(w.String()+" "+fam.name, func(t *testing.T) {
				p := newPair(t, w)
				a, b := p.nodes[0], p.nodes[1]
				spec := udpTo(web1Port, fam.web[0], fam.web[1], 40000, 9999, "question")
				a.inject(web1Port, build(t, spec))
				p.run()
				if len(p.outer[0]) != 1 || len(p.outer[1]) != 0 {
					t.Fatalf("%d packets between the nodes; drops %s", len(p.outer[0]), p.drops())
				}
				o := w.witness(t, p.outer[0][0])
				if o.src != nodeOf[w.underlay][0] || o.dst != nodeOf[w.underlay][1] || o.ttl != 64 || !o.df {
					t.Errorf("outer %+v", o)
				}
				if from, to := uplinkMAC(0), uplinkMAC(1); [6]byte(o.ethernet.SrcMAC) != from || [6]byte(o.ethernet.DstMAC) != to {
					t.Errorf("outer MACs %v > %v", o.ethernet.SrcMAC, o.ethernet.DstMAC)
				}
				if _, _, ttl := ends(t, o.inner.NetworkLayer()); ttl != 63 {
					t.Errorf("inner TTL %d between the nodes", ttl)
				}
				got := p.one(1, web2Port)
				checkSums(t, got)
				src, dst, ttl := ends(t, got.NetworkLayer())
				if src != fam.web[0] || dst != fam.web[1] || ttl != 62 || string(got.ApplicationLayer().LayerContents()) == "" {
					t.Errorf("%s > %s ttl %d", src, dst, ttl)
				}
				if eth := got.LinkLayer().(*layers.Ethernet); [6]byte(eth.DstMAC) != mac(byte(web2Port)) || [6]byte(eth.SrcMAC) != RouterMAC {
					t.Errorf("MACs %v > %v", eth.SrcMAC, eth.DstMAC)
				}

				b.inject(web2Port, build(t, udpTo(web2Port, fam.web[1], fam.web[0], 9999, 40000, "answer")))
				p.run()
				if len(p.outer[1]) != 1 {
					t.Fatalf("%d answers between the nodes; drops %s", len(p.outer[1]), p.drops())
				}
				w.witness(t, p.outer[1][0])
				got = p.one(0, web1Port)
				checkSums(t, got)
				if src, dst, ttl := ends(t, got.NetworkLayer()); src != fam.web[1] || dst != fam.web[0] || ttl != 62 {
					t.Errorf("%s > %s ttl %d", src, dst, ttl)
				}
				if a.sessions() != 1 || b.sessions() != 1 {
					t.Errorf("%d and %d sessions", a.sessions(), b.sessions())
				}
			})
		}
	}
}

// both applies a change to the state of both nodes and publishes it.
func (p *pair) both(change func(s *state)) {
	for _, r := range p.nodes {
		change(r.state)
		r.publish()
	}
}

// remoteMembers leaves services the members of node 1 only.
func (p *pair) remoteMembers() {
	p.both(func(s *state) {
		s.members(p.t, func(m []nexthop.Member) []nexthop.Member { return m[1:] })
	})
}

// The source chooses the member and sends what was dialled; the destination maps the
// port and turns the answer back.
func TestServiceWithMembersOnTheOtherNode(t *testing.T) {
	for _, w := range allWays() {
		for _, fam := range bothFamilies {
			t.Run(w.String()+" "+fam.name, func(t *testing.T) {
				p := newPair(t, w)
				p.remoteMembers()
				a, b := p.nodes[0], p.nodes[1]
				seen := map[uint16]bool{}
				for sport := uint16(40000); sport < 40016; sport++ {
					a.inject(clientPort, build(t, tcpTo(clientPort, fam.client, fam.fip, sport, 80, syn, "")))
					p.run()
					if len(p.outer[0]) != 1 {
						t.Fatalf("%d packets between the nodes; drops %s", len(p.outer[0]), p.drops())
					}
					o := w.witness(t, p.outer[0][0])
					if src, dst, _ := ends(t, o.inner.NetworkLayer()); src != fam.client || dst != fam.fip || o.inner.Layer(layers.LayerTypeTCP).(*layers.TCP).DstPort != 80 {
						t.Fatalf("between the nodes: %v", o.inner)
					}
					var out uint16
					for _, index := range []uint16{web2Port, web3Port} {
						for _, f := range b.sent(index) {
							out = index
							got := decode(f)
							checkSums(t, got)
							tcp := got.Layer(layers.LayerTypeTCP).(*layers.TCP)
							if src, dst, ttl := ends(t, got.NetworkLayer()); src != fam.client || dst != fam.web[index-web1Port] || ttl != 62 || tcp.DstPort != 8080 {
								t.Fatalf("to the member: %s > %s:%d ttl %d", src, dst, tcp.DstPort, ttl)
							}
						}
					}
					if out == 0 {
						t.Fatalf("nobody got it; drops %s", p.drops())
					}
					if w.encapsulation != VXLAN && o.label != labelOf+uint32(out) {
						t.Fatalf("label %d, delivered to port %d", o.label, out)
					}
					seen[out] = true
					b.inject(out, build(t, tcpTo(out, fam.web[out-web1Port], fam.client, 8080, sport, func(l *layers.TCP) { l.SYN, l.ACK, l.Ack = true, true, 1001 }, "")))
					p.run()
					got := p.one(0, clientPort)
					checkSums(t, got)
					tcp := got.Layer(layers.LayerTypeTCP).(*layers.TCP)
					if src, dst, _ := ends(t, got.NetworkLayer()); src != fam.fip || dst != fam.client || tcp.SrcPort != 80 || tcp.DstPort != layers.TCPPort(sport) {
						t.Fatalf("to the client: %s:%d > %s:%d", src, tcp.SrcPort, dst, tcp.DstPort)
					}
				}
				if len(seen) != 2 {
					t.Errorf("members %v", seen)
				}
				a.f.flows.Range(0, 1<<20, func(_ flowtable.Ref, s *flowtable.Session) bool {
					if s.Member() == 0 {
						t.Error("the source has not noted the member")
					}
					return true
				})
				b.f.flows.Range(0, 1<<20, func(_ flowtable.Ref, s *flowtable.Session) bool {
					if s.Rule() != uint32(policy.RuleSourceNode) && s.Rule() != uint32(policy.RuleNoPolicy) || s.Port() != uplinkPort {
						t.Errorf("rule %d, port %d", s.Rule(), s.Port())
					}
					return true
				})
			})
		}
	}
}

// The session's packets behind the first, the quick path's, arrive too, in both
// directions, and sessions survive a publication.
func TestEstablishedFlowsAcrossNodes(t *testing.T) {
	for _, w := range allWays() {
		for _, fam := range bothFamilies {
			p := newPair(t, w)
			p.remoteMembers()
			a, b := p.nodes[0], p.nodes[1]
			ack := func(l *layers.TCP) { l.ACK = true }
			a.inject(clientPort, build(t, udpTo(clientPort, fam.client, fam.fip, 4000, 80, "first")))
			p.run()
			out := memberPort(b.session())
			p.one(1, out)
			for round := range 4 {
				if round == 2 {
					p.both(func(*state) {})
				}
				a.inject(clientPort, build(t, udpTo(clientPort, fam.client, fam.fip, 4000, 80, "more")))
				p.run()
				checkSums(t, p.one(1, out))
				b.inject(out, build(t, udpTo(out, fam.web[out-web1Port], fam.client, 8080, 4000, "answer")))
				p.run()
				checkSums(t, p.one(0, clientPort))
			}
			a.inject(web1Port, build(t, tcpTo(web1Port, fam.web[0], fam.web[1], 1, 2, ack, "data")))
			b.inject(web2Port, build(t, tcpTo(web2Port, fam.web[1], fam.web[0], 3, 4, ack, "data")))
			p.run()
			if n, m := len(a.sent(web1Port)), len(b.sent(web2Port)); n != 1 || m != 1 {
				t.Errorf("%v %s: %d and %d arrived; drops %s", w, fam.name, n, m, p.drops())
			}
		}
	}
}

// A packet that is too long for the tunnel is told so with what fits inside it, and
// one that may be fragmented is, inside.
//
// RFC 1191 §4, RFC 8201 §4: the MTU that is told leaves room for the outer headers
func TestPacketTooBigForATunnel(t *testing.T) {
	overhead := map[way]int{
		{MPLSoverUDP, 4}: 20 + 8 + 4, {MPLSoverUDP, 6}: 40 + 8 + 4, {VXLAN, 4}: 20 + 8 + 8 + 14, {VXLAN, 6}: 40 + 8 + 8 + 14,
		{MPLSoverGRE, 4}: 20 + 4 + 4, {MPLSoverGRE, 6}: 40 + 4 + 4,
	}
	for _, w := range allWays() {
		for i, fam := range bothFamilies {
			p := newPair(t, w)
			p.uplinks(port.FeatureCsum) // which merges nothing
			fits := underlayMTU - overhead[w]
			headers := []int{28, 48}[i]
			spec := udpTo(web1Port, fam.web[0], fam.web[1], 1, 2, strings.Repeat("x", fits-headers))
			spec.df = true
			p.nodes[0].inject(web1Port, build(t, spec))
			p.run()
			if len(p.outer[0]) != 1 || len(p.outer[0][0]) != 14+underlayMTU {
				t.Fatalf("%v %s: a packet that fits: %d; drops %s", w, fam.name, len(p.outer[0]), p.drops())
			}
			p.one(1, web2Port)
			spec = udpTo(web1Port, fam.web[0], fam.web[1], 1, 2, strings.Repeat("x", fits-headers+1))
			spec.df = true
			p.nodes[0].inject(web1Port, build(t, spec))
			p.run()
			got := p.one(0, web1Port)
			checkSums(t, got)
			mtu := 0
			if l, ok := got.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok {
				mtu = int(l.Seq)
			} else if l, ok := got.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); ok {
				mtu = int(binary.BigEndian.Uint32(l.Payload))
			}
			if mtu != fits {
				t.Errorf("%v %s: told %d, fits %d", w, fam.name, mtu, fits)
			}
			if fam.name == "IPv6" {
				continue
			}
			p.nodes[0].inject(web1Port, build(t, udpTo(web1Port, fam.web[0], fam.web[1], 3, 4, strings.Repeat("y", 1472))))
			p.run()
			if len(p.outer[0]) != 2 || w.witness(t, p.outer[0][0]).srcPort != w.witness(t, p.outer[0][1]).srcPort {
				t.Fatalf("%v: %d fragments, or by different ways", w, len(p.outer[0]))
			}
			if n := len(p.nodes[1].sent(web2Port)); n != 2 {
				t.Errorf("%v: %d fragments arrived; drops %s", w, n, p.drops())
			}
		}
	}
}

// Fragments of a workload pass, their ports known from the first, and take the first
// one's way.
//
// RFC 6438 §3: the flow label of a tunnel over IPv6 is that of the flow, the same for all its fragments
func TestFragmentsAcrossNodes(t *testing.T) {
	for _, w := range allWays() {
		p := newPair(t, w)
		p.remoteMembers()
		whole := build(t, udpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 80, strings.Repeat("z", 2000)))
		cut := func(from, to int, flags uint16) []byte {
			b := append(append([]byte(nil), whole[:34]...), whole[34+from:34+to]...)
			ip := header.IPv4(b[14:])
			ip.SetTotalLength(len(ip))
			binary.BigEndian.PutUint16(b[20:], flags|uint16(from/8))
			ip.UpdateChecksum()
			return b
		}
		p.nodes[0].inject(clientPort, cut(1000, 2008, 0), cut(0, 1000, header.IPv4MoreFragments)) // the last one first
		p.run()
		if len(p.outer[0]) != 2 {
			t.Fatalf("%v: %d packets; drops %s", w, len(p.outer[0]), p.drops())
		}
		if x, y := w.witness(t, p.outer[0][0]), w.witness(t, p.outer[0][1]); x.srcPort != y.srcPort || x.flowLabel != y.flowLabel {
			t.Errorf("%v: by ports %d and %d, flow labels %d and %d", w, x.srcPort, y.srcPort, x.flowLabel, y.flowLabel)
		}
		out := memberPort(p.nodes[1].session())
		if n := len(p.nodes[1].sent(out)); n != 2 {
			t.Errorf("%v: %d fragments arrived; drops %s", w, n, p.drops())
		}
	}
}

// A SYN offers no more than fits the tunnel, on its way out and on its way in.
//
// RFC 9293 §3.7.1: a segment size is lowered, never raised, and malformed options stay as they are
func TestSegmentSizeIsClamped(t *testing.T) {
	for _, c := range []struct {
		name     string
		options  []layers.TCPOption
		want4    uint16
		unharmed bool
	}{
		{"first", []layers.TCPOption{{OptionType: 2, OptionLength: 4, OptionData: []byte{0x05, 0xb4}}}, 1428, false},
		{"unaligned", []layers.TCPOption{{OptionType: 1, OptionLength: 1}, {OptionType: 2, OptionLength: 4, OptionData: []byte{0x05, 0xb4}}, {OptionType: 1, OptionLength: 1}}, 1428, false},
		{"small already", []layers.TCPOption{{OptionType: 2, OptionLength: 4, OptionData: []byte{0x02, 0x18}}}, 536, true},
		{"malformed", []layers.TCPOption{{OptionType: 2, OptionLength: 3, OptionData: []byte{0x05}}, {OptionType: 1, OptionLength: 1}}, 0, true},
	} {
		for i, fam := range bothFamilies {
			w := way{MPLSoverUDP, 4}
			p := newPair(t, w)
			set := func(l *layers.TCP) { l.SYN, l.Options = true, c.options }
			reply := func(l *layers.TCP) { l.SYN, l.ACK, l.Ack, l.Options = true, true, 1001, c.options }
			for dir := range 2 {
				from, in, out := dir, []uint16{web1Port, web2Port}[dir], []uint16{web2Port, web1Port}[dir]
				spec := tcpTo(in, fam.web[dir], fam.web[1-dir], uint16(1+dir), uint16(2-dir), []func(*layers.TCP){set, reply}[dir], "")
				frame := build(t, spec)
				p.nodes[from].inject(in, frame)
				p.run()
				got := p.one(1-from, out)
				checkSums(t, got)
				tcp := got.Layer(layers.LayerTypeTCP).(*layers.TCP)
				if c.unharmed {
					if l4 := []int{34, 54}[i]; !strings.HasPrefix(string(frame[l4+20:]), string(got.Data()[l4+20:])) {
						t.Errorf("%s: options changed to % x", c.name, got.Data()[l4+20:])
					}
					continue
				}
				found := uint16(0)
				for _, o := range tcp.Options {
					if o.OptionType == layers.TCPOptionKindMSS {
						found = binary.BigEndian.Uint16(o.OptionData)
					}
				}
				if want := c.want4 - uint16(20*i); found != want {
					t.Errorf("%s %s, direction %d: %d, want %d", c.name, fam.name, dir, found, want)
				}
			}
		}
	}
}

// A SYN that comes from a node which does not clamp is clamped here.
func TestSegmentSizeIsClampedOnArrival(t *testing.T) {
	w := way{MPLSoverUDP, 4}
	p := newPair(t, w)
	set := func(l *layers.TCP) {
		l.SYN, l.Options = true, []layers.TCPOption{{OptionType: 2, OptionLength: 4, OptionData: []byte{0x05, 0xb4}}}
	}
	p.nodes[0].inject(uplinkPort, w.wrap(t, labelOf+uint32(web1Port), inner(t, tcpTo(web2Port, "10.244.0.12", "10.244.0.11", 1, 2, set, "")), nil))
	p.run()
	got := p.one(0, web1Port)
	checkSums(t, got)
	if mss := binary.BigEndian.Uint16(got.Layer(layers.LayerTypeTCP).(*layers.TCP).Options[0].OptionData); mss != 1428 {
		t.Errorf("MSS %d", mss)
	}
}

// superpacket is a TCP superpacket of segments of size bytes.
func superpacket(t testing.TB, in uint16, src, dst string, sport, dport uint16, size, n int) *port.Frame {
	b := build(t, tcpTo(in, src, dst, sport, dport, func(l *layers.TCP) { l.ACK = true }, strings.Repeat("payload.", size*n/8)))
	f := port.NewFrame()
	f.End = f.Start + copy(f.Buf[f.Start:], b)
	l4, kind := 34, port.GSOTCPv4
	if b[12] == 0x86 {
		l4, kind = 54, port.GSOTCPv6
	}
	var l header.Layout
	header.Parse(f.Bytes(), &l)
	binary.BigEndian.PutUint16(f.Bytes()[l4+16:], header.PseudoHeader(&l.Src, &l.Dst, 6, len(b)-l4))
	f.Offload = port.Offload{Flags: port.NeedsCsum, GSOType: kind, GSOSize: uint16(size), HdrLen: uint16(l4 + 20), CsumStart: uint16(l4), CsumOffset: 16}
	return f
}

// A superpacket travels whole where the uplink takes it, else in segments, and the
// workload at the other end gets the same bytes.
func TestSuperpacketsAcrossNodes(t *testing.T) {
	const size, n = 1360, 20
	for _, w := range allWays() {
		for _, fam := range bothFamilies {
			for name, features := range map[string]port.Features{"whole": portFeatures, "segments, partial": port.FeatureCsum, "segments": 0} {
				p := newPair(t, w)
				p.uplinks(features)
				p.nodes[0].injectFrame(web1Port, superpacket(t, web1Port, fam.web[0], fam.web[1], 1000, 2000, size, n))
				p.run()
				want := n
				if features&port.FeatureTunnelGSO != 0 && w.encapsulation != MPLSoverGRE {
					want = 1
				}
				if len(p.outer[0]) != want {
					t.Errorf("%v %s %s: %d packets between the nodes, want %d; drops %s", w, fam.name, name, len(p.outer[0]), want, p.drops())
				}
				if features&port.FeatureTSO4 == 0 {
					for _, b := range p.outer[0] {
						w.witness(t, b)
					}
				}
				bytes := 0
				for _, f := range p.nodes[1].sentFrames(web2Port) {
					var l header.Layout
					if fault := header.Parse(f.Bytes(), &l); fault != 0 {
						t.Fatal(fault)
					}
					if f.Offload.Flags&port.NeedsCsum == 0 {
						checkSums(t, decode(f.Bytes()))
					} else if got := binary.BigEndian.Uint16(f.Bytes()[l.L4+16:]); got != header.PseudoHeader(&l.Src, &l.Dst, 6, int(l.End-l.L4)) {
						t.Errorf("%v %s %s: partial checksum %#x", w, fam.name, name, got)
					}
					bytes += int(l.End - l.Payload)
				}
				if bytes != size*n {
					t.Errorf("%v %s %s: %d bytes arrived, want %d; drops %s", w, fam.name, name, bytes, size*n, p.drops())
				}
			}
		}
	}
}

// A device may hand over tunnel packets that were sent one by one as one: they are
// the segments, and each is judged for itself.
func TestBundleOfTunnelPackets(t *testing.T) {
	for _, w := range []way{{MPLSoverUDP, 4}, {MPLSoverUDP, 6}, {VXLAN, 4}} {
		p := newPair(t, w)
		f := port.NewFrame()
		f.End = f.Start
		l4 := map[int]int{4: 34, 6: 54}[w.underlay]
		label := func(i int) uint32 {
			if w.encapsulation == VXLAN {
				return firstVNI + uint32(podsVRF)
			}
			return labelOf + uint32(web1Port)
		}
		size := 0
		for i := range 5 {
			b := w.wrap(t, label(i), inner(t, udpTo(web2Port, "10.244.0.12", "10.244.0.11", uint16(i+1), 2, "0123456789")), nil)
			if i == 0 {
				f.End += copy(f.Buf[f.Start:], b)
				size = len(b) - l4 - 8
				continue
			}
			f.End += copy(f.Buf[f.End:], b[l4+8:])
		}
		b := f.Bytes()
		if w.underlay == 4 {
			header.IPv4(b[14:]).SetTotalLength(len(b) - 14)
			header.IPv4(b[14:]).UpdateChecksum()
		} else {
			header.IPv6(b[14:]).SetPayloadLength(len(b) - 54)
		}
		header.UDP(b[l4:]).SetLength(len(b) - l4)
		f.Offload = port.Offload{Flags: port.NeedsCsum, GSOType: port.GSOUDPL4, GSOSize: uint16(size), CsumStart: uint16(l4), CsumOffset: 6}
		p.nodes[0].injectFrame(uplinkPort, f)
		p.run()
		frames := p.nodes[0].sent(web1Port)
		if len(frames) != 5 || p.nodes[0].sessions() != 5 {
			t.Fatalf("%v: %d frames, %d sessions; drops %s", w, len(frames), p.nodes[0].sessions(), p.drops())
		}
		for i, b := range frames {
			got := decode(b)
			checkSums(t, got)
			if got.Layer(layers.LayerTypeUDP).(*layers.UDP).SrcPort != layers.UDPPort(i+1) {
				t.Errorf("%v: out of order", w)
			}
		}
	}
}

// Fragments of two VRFs are not those of one datagram, however alike.
func TestFragmentsOfTwoVRFs(t *testing.T) {
	w := way{MPLSoverUDP, 4}
	p := newPair(t, w)
	r := p.nodes[0]
	whole := build(t, udpTo(0, "10.244.0.12", "10.244.0.11", 40000, 9999, strings.Repeat("z", 1000)))
	cut := func(from, to int, flags uint16) []byte {
		b := append(append([]byte(nil), whole[14:34]...), whole[34+from:34+to]...)
		ip := header.IPv4(b)
		ip.SetTotalLength(len(ip))
		binary.BigEndian.PutUint16(b[6:], flags|uint16(from/8))
		ip.UpdateChecksum()
		return b
	}
	r.inject(uplinkPort,
		w.wrap(t, labelOf+uint32(web1Port), cut(0, 504, header.IPv4MoreFragments), nil),
		w.wrap(t, vrfLabel+uint32(clientVRF), cut(504, 1008, 0), nil))
	p.run()
	if n, held := len(r.sent(web1Port)), r.f.PortCounters(uplinkPort).Held; n != 1 || held != 1 {
		t.Errorf("%d sent, %d held; drops %s", n, held, p.drops())
	}
	r.inject(uplinkPort, w.wrap(t, labelOf+uint32(web1Port), cut(504, 1008, 0), nil))
	p.run()
	if n := len(r.sent(web1Port)); n != 1 {
		t.Errorf("%d sent; drops %s", n, p.drops())
	}
}
