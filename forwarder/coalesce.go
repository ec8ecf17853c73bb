package forwarder

import (
	"bytes"
	"encoding/binary"
	"math/bits"

	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/port"
)

// Limits of a merge.
const (
	// maxMerged is how many frames may become one: what Linux cuts a UDP
	// superpacket into at most (UDP_MAX_SEGMENTS, 64 before kernel 6.9). A batch
	// has no more.
	maxMerged = 64
	// maxMergedLength is the longest merged IP packet, a full length field.
	maxMergedLength = 65535
	// flowSlots is how many flows of a batch can be open to merging, a power of
	// two.
	flowSlots = 128
)

const _ = uint(maxMerged - port.BatchSize) // does not compile if a batch has more

// anySegmentation are the features of which a port needs one, beside
// FeatureCsum, to be sent merged frames.
const anySegmentation = port.FeatureTSO4 | port.FeatureTSO6 | port.FeatureUSO

// coalescer merges plain frames of a flow that leave in one batch into a
// superpacket, as receiving interfaces do (Linux GRO: inet_gro_receive,
// tcp_gro_receive, udp_gro_receive), so that one write to the device carries them
// all. What the device cuts the superpacket into is what was merged, byte for
// byte, but for the IPv4 identification of packets that must not be fragmented,
// where it means nothing (RFC 6864 §4.1).
//
// The frames of a flow stay in order: a frame either joins the last one of its
// flow or takes its place. Nothing waits beyond its batch. A frame whose checksum
// is not known to be right stays as it is: a merged frame gets a new one, which
// would make damage invisible.
//
// It is scratch space of one worker; merges[i] belongs to the i'th frame of the
// batch on its way out.
type coalescer struct {
	features port.Features // of the output port
	joined   int           // frames of this batch that joined others
	merges   [port.BatchSize]merge
}

// merge is a frame that others have joined or may join. 20 bytes.
type merge struct {
	seq      uint32 // TCP: the sequence number that continues it
	size     uint16 // payload bytes of each segment
	l4       uint16 // where the transport header begins in the frame
	payload  uint16 // where its payload begins
	pseudo   uint16 // sum of the pseudo-header without the length
	id       uint16 // IPv4 identification that continues it
	proto    uint8
	version  uint8
	segments uint8 // 1: nothing but the frame itself has been looked at
	closed   bool  // the last segment was short, or pushed
	pushed   bool  // the last segment has PSH
	atomic   bool  // not to be fragmented, so the identification means nothing
}

// prospect is what a port's last batches promise: where they were long and nothing
// in them could be merged, packets of many flows, the next ones go out unseen, up
// to 15 of them.
type prospect struct{ rest, pause uint8 }

const (
	maxPause  = 15
	longBatch = 8
)

// learn notes what became of a batch of n frames.
func (p *prospect) learn(n, joined int) {
	switch {
	case joined != 0:
		p.pause = 0
	case n >= longBatch:
		p.pause = min(2*p.pause+1, maxPause)
		p.rest = p.pause
	}
}

// batch merges what can be merged of a port's output batch and returns the
// frames to write, which are those given or a part of them.
func (c *coalescer) batch(frames []*port.Frame, features port.Features, p *prospect) []*port.Frame {
	c.joined = 0
	if len(frames) < 2 || features&port.FeatureCsum == 0 || features&anySegmentation == 0 {
		return frames
	}
	if p.rest != 0 {
		p.rest--
		return frames
	}
	c.features = features
	var last [flowSlots]uint8 // index + 1 of the last frame of a flow
	kept := 0
	for i, f := range frames {
		if slot, ok := flowSlot(f.Bytes()); !ok {
			last = [flowSlots]uint8{} // it may belong to any flow, so nothing overtakes it
		} else if at := last[slot]; at != 0 && c.join(frames[at-1], &c.merges[at-1], f) {
			c.joined++
			continue
		} else {
			last[slot] = uint8(kept) + 1
		}
		if kept != i {
			frames[kept] = f
		}
		c.merges[kept].segments = 1
		kept++
	}
	p.learn(len(frames), c.joined)
	if c.joined != 0 {
		for i, f := range frames[:kept] {
			c.merges[i].finish(f)
		}
	}
	return frames[:kept]
}

// account counts the frames that joined others, after the write: as sent inside
// another frame, or with it for the same reason lost.
func (c *coalescer) account(frames []*port.Frame, counters *portCounters) {
	if c.joined == 0 {
		return
	}
	for i, f := range frames {
		n := uint64(c.merges[i].segments) - 1
		if f.Lost == port.Sent {
			counters.coalesced.Add(n)
		} else {
			counters.drops[lostReason[f.Lost]].Add(n)
		}
	}
}

// Offsets in a frame whose IP header follows Ethernet directly.
const (
	ip4At, ip6At     = header.EthernetLength, header.EthernetLength
	l4InIPv4         = ip4At + header.IPv4MinimumLength
	l4InIPv6         = ip6At + header.IPv6Length
	ip4LengthAt      = ip4At + 2 // and identification
	ip4FragmentAt    = ip4At + 6 // and TTL, protocol
	ip4AddressesAt   = ip4At + 12
	ip6FlowAt        = ip6At + 2
	ip6NextHeaderAt  = ip6At + 6 // and hop limit
	ip6AddressesAt   = ip6At + 8
	ethTypeVersionAt = 12 // EtherType, version, header length or traffic class
)

// flowSlot returns the slot of a TCP or UDP frame's flow. It reports false where
// the ports are not at their usual place, behind options or extension headers or
// in another fragment.
func flowSlot(b []byte) (slot int, ok bool) {
	const fragment = 0xffff &^ uint64(header.IPv4DontFragment)
	if len(b) < l4InIPv4+header.UDPLength {
		return 0, false
	}
	le := binary.LittleEndian
	var proto uint8
	var key uint64
	switch word := binary.BigEndian.Uint32(b[ethTypeVersionAt:]); {
	case word>>8 == uint32(header.EtherTypeIPv4)<<8|0x45: // a header without options
		w := binary.BigEndian.Uint64(b[ip4LengthAt:])
		if w>>16&fragment != 0 {
			return 0, false
		}
		proto = uint8(w)
		key = le.Uint64(b[ip4AddressesAt:]) ^ uint64(le.Uint32(b[l4InIPv4:]))<<17
	case word>>12 == uint32(header.EtherTypeIPv6)<<4|6 && len(b) >= l4InIPv6+header.UDPLength:
		proto = b[ip6NextHeaderAt]
		a := b[ip6AddressesAt+8 : l4InIPv6+4] // the interface identifiers and ports differ the most
		key = le.Uint64(a) ^ le.Uint64(a[16:])*3 ^ uint64(le.Uint32(a[24:]))<<17
	default:
		return 0, false
	}
	hi, lo := bits.Mul64(key, 0x9e3779b97f4a7c15)
	return int(hi^lo) & (flowSlots - 1), proto == header.ProtoTCP || proto == header.ProtoUDP
}

// join appends the payload of f to head, the last frame of what may be the same
// flow, if the two and what has joined already can be told apart again. head and
// f have passed flowSlot.
func (c *coalescer) join(head *port.Frame, m *merge, f *port.Frame) bool {
	h, b := head.Bytes(), f.Bytes()
	if f.Offload.GSOType != port.GSONone || !sameFlow(h, b) {
		return false
	}
	if m.segments == 1 && !m.begin(head, c.features) || m.closed {
		return false
	}
	n := len(b) - int(m.payload)
	if n <= 0 || n > int(m.size) || len(h)+n > header.EthernetLength+maxMergedLength || n > len(head.Buf)-head.End {
		return false
	}
	if m.version == 4 && !m.atomic && header.IPv4(b[ip4At:]).ID() != m.id {
		return false // the device counts up from the first (Linux inet_gso_segment)
	}
	if m.proto == header.ProtoTCP && !m.continues(h[m.l4:m.payload], b[m.l4:m.payload]) || !m.isPlain(f) {
		return false
	}
	head.End += copy(head.Buf[head.End:], b[m.payload:])
	m.segments++
	m.id++
	m.seq += uint32(n)
	m.pushed = m.proto == header.ProtoTCP && header.TCP(b[m.l4:]).Flags()&header.TCPPsh != 0
	m.closed = m.pushed || n < int(m.size) // PSH stands behind the last byte
	return true
}

// sameFlow reports whether two frames agree in everything up to the ports that
// segments of one packet have in common: all but lengths, IPv4 identification and
// header checksum.
func sameFlow(a, b []byte) bool {
	le := binary.LittleEndian
	if le.Uint64(a) != le.Uint64(b) || le.Uint64(a[8:]) != le.Uint64(b[8:]) {
		return false // Ethernet, version, TOS or traffic class
	}
	if a[ethTypeVersionAt+2]>>4 == 4 {
		return le.Uint32(a[ip4FragmentAt:]) == le.Uint32(b[ip4FragmentAt:]) &&
			le.Uint64(a[ip4AddressesAt:]) == le.Uint64(b[ip4AddressesAt:]) &&
			le.Uint32(a[l4InIPv4:]) == le.Uint32(b[l4InIPv4:])
	}
	return le.Uint16(a[ip6FlowAt:]) == le.Uint16(b[ip6FlowAt:]) &&
		le.Uint16(a[ip6NextHeaderAt:]) == le.Uint16(b[ip6NextHeaderAt:]) &&
		[32]byte(a[ip6AddressesAt:]) == [32]byte(b[ip6AddressesAt:]) &&
		le.Uint32(a[l4InIPv6:]) == le.Uint32(b[l4InIPv6:])
}

// begin looks at a frame that another one could join and reports whether it
// can be the first segment of a packet for a port with these features.
func (m *merge) begin(f *port.Frame, features port.Features) bool {
	b := f.Bytes()
	*m = merge{segments: 1, version: b[ethTypeVersionAt+2] >> 4, l4: l4InIPv6, proto: b[ip6NextHeaderAt]}
	if m.version == 4 {
		ip := header.IPv4(b[ip4At:])
		m.l4, m.proto, m.id, m.atomic = l4InIPv4, ip.Protocol(), ip.ID()+1, ip.DontFragment()
	}
	m.payload = m.l4 + header.UDPLength
	if m.proto == header.ProtoTCP {
		tcp := header.TCP(b[m.l4:])
		if len(tcp) < header.TCPMinimumLength || tcp.Flags() != header.TCPAck {
			return false
		}
		m.payload = m.l4 + uint16(max(tcp.DataOffset(), header.TCPMinimumLength))
		m.seq = tcp.Seq()
	}
	n := len(b) - int(m.payload)
	if f.Offload.GSOType != port.GSONone || features&m.feature() == 0 || n <= 0 || n > maxMergedLength {
		return false
	}
	m.size, m.seq = uint16(n), m.seq+uint32(n)
	var src, dst [16]byte
	if m.version == 4 {
		src, dst = header.IPv4(b[ip4At:]).Source(), header.IPv4(b[ip4At:]).Destination()
	} else {
		src, dst = header.IPv6(b[ip6At:]).Source(), header.IPv6(b[ip6At:]).Destination()
	}
	m.pseudo = header.PseudoHeader(&src, &dst, m.proto, 0)
	return m.isPlain(f)
}

// feature returns what a port needs to take the merged frame.
func (m *merge) feature() port.Features {
	switch {
	case m.proto == header.ProtoUDP:
		return port.FeatureUSO
	case m.version == 4:
		return port.FeatureTSO4
	}
	return port.FeatureTSO6
}

// isPlain reports whether a frame of the merge's flow is a packet whose lengths
// agree and whose checksum is right. A partial checksum that a device is to
// complete is right if it is the sum of the pseudo-header.
func (m *merge) isPlain(f *port.Frame) bool {
	b := f.Bytes()
	end := header.EthernetLength + header.IPv6Length + header.IPv6(b[ip6At:]).PayloadLength()
	if m.version == 4 {
		end = header.EthernetLength + header.IPv4(b[ip4At:]).TotalLength()
	}
	if end != len(b) {
		return false
	}
	seg := b[m.l4:]
	at := header.ChecksumOffset(m.proto)
	field := binary.BigEndian.Uint16(seg[at:])
	if m.proto == header.ProtoUDP && (header.UDP(seg).Length() != len(seg) || field == 0) {
		return false
	}
	pseudo := m.partialSum(len(seg))
	if f.Offload.Flags&port.NeedsCsum == 0 {
		return header.Checksum(seg, pseudo) == 0xffff
	}
	// 0 and 0xffff are the same number in one's complement.
	return int(f.Offload.CsumStart) == int(m.l4) && int(f.Offload.CsumOffset) == at && field%0xffff == pseudo%0xffff
}

// partialSum returns the sum of the pseudo-header of length bytes.
func (m *merge) partialSum(length int) uint16 {
	s := uint32(m.pseudo) + uint32(length)
	return uint16(s>>16 + s)
}

// continues reports whether the TCP header b is that of the segment behind the
// merge, whose first segment has the header h of the same length.
func (m *merge) continues(h, b header.TCP) bool {
	const dataOffset, afterChecksum = 12, 18 // behind it: urgent pointer, options
	return b.Flags()&^header.TCPPsh == header.TCPAck && b.Seq() == m.seq &&
		b.Ack() == h.Ack() && b.Window() == h.Window() && b[dataOffset] == h[dataOffset] &&
		bytes.Equal(b[afterChecksum:], h[afterChecksum:])
}

// finish makes one packet of a frame that others have joined.
func (m *merge) finish(f *port.Frame) {
	if m.segments == 1 {
		return
	}
	b := f.Bytes()
	o := port.Offload{
		Flags: port.NeedsCsum, GSOType: port.GSOUDPL4, GSOSize: m.size, HdrLen: m.payload,
		CsumStart: m.l4, CsumOffset: uint16(header.ChecksumOffset(m.proto)),
	}
	tcp := port.GSOTCPv6
	if m.version == 4 {
		tcp = port.GSOTCPv4
		ip := header.IPv4(b[ip4At:])
		ip.SetTotalLength(len(ip))
		ip.UpdateChecksum()
	} else {
		ip := header.IPv6(b[ip6At:])
		ip.SetPayloadLength(len(ip) - header.IPv6Length)
	}
	seg := b[m.l4:]
	if m.proto == header.ProtoUDP {
		header.UDP(seg).SetLength(len(seg))
	} else {
		o.GSOType = tcp
		if m.pushed {
			t := header.TCP(seg)
			t.SetFlags(t.Flags() | header.TCPPsh)
		}
	}
	binary.BigEndian.PutUint16(seg[o.CsumOffset:], m.partialSum(len(seg)))
	f.Offload = o
}
