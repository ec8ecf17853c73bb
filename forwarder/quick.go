package forwarder

import (
	"encoding/binary"
	"math/bits"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/nexthop"
)

// The quick path: TCP and UDP packets of known sessions, which is nearly all
// there is. recognise takes a frame that needs no judgement: plain headers, the
// right MAC addresses, an address that its sender owns. carry forwards it if its
// session has been decided under this snapshot. Both only ever do what classify
// and forward would have done, and where one of them hesitates it changes nothing
// and leaves the packet to those. TestQuickPathDoesTheSame holds them to that.
//
// What classify asks and recognise does not, a session answers: one is never
// opened from or to an address that must not be forwarded, nor with a member that
// has one (replyFault).

// Where the headers lie in a recognised frame, and how far they reach.
const (
	quickL3      = header.EthernetLength
	quickL4v4    = quickL3 + header.IPv4MinimumLength
	quickL4v6    = quickL3 + header.IPv6Length
	quickHeaders = quickL4v6 + header.TCPMinimumLength
)

const (
	etherTypeAt          = 32 // bits into the second word of a frame
	ipv4Plain            = uint64(0x45_00_08) << etherTypeAt
	ipv6Plain            = uint64(0x60_dd_86) << etherTypeAt
	mappedIPv4    uint64 = 0xffff0000
	udpChecksumAt        = 6
	tcpChecksumAt        = 16
	tcpQuickFlags        = header.TCPSyn | header.TCPFin | header.TCPRst | header.TCPAck
)

// recognise reads a frame's headers and sets p.key, p.hash, p.l4, p.payload and
// p.end. It returns false where classify must look.
func (w *Worker) recognise(e *edge, vrf uint16, p *packet) bool {
	f := p.frame
	length := f.End - f.Start
	if length < quickL4v4+header.UDPLength || !e.present || len(f.Buf)-f.Start < quickHeaders { // out of a tunnel, it may begin late
		return false
	}
	h := (*[quickHeaders]byte)(f.Buf[f.Start:]) // may reach behind a short frame, whose lengths are checked first
	w0, w1 := binary.LittleEndian.Uint64(h[0:]), binary.LittleEndian.Uint64(h[8:])
	if w0 != e.in[0] {
		return false
	}
	k := &p.key
	var srcHi, srcLo, dstHi, dstLo uint64 // addresses as they lie in memory
	var l4, end int
	switch {
	case (w1^e.in[1])&(1<<56-1) == ipv4Plain: // MAC address, EtherType, version and header length
		if h[quickL3+6]&0x3f|h[quickL3+7] != 0 || h[quickL3+8] <= 1 { // fragments, TTL
			return false
		}
		a, b, c := binary.LittleEndian.Uint64(h[quickL3:]), binary.LittleEndian.Uint64(h[quickL3+8:]), binary.LittleEndian.Uint32(h[quickL3+16:])
		sum, carry := bits.Add64(a, b, 0)
		if sum, carry = bits.Add64(sum, uint64(c), carry); header.Fold16(sum+carry) != 0xffff {
			return false
		}
		srcLo, dstLo = b&^(1<<32-1)|mappedIPv4, uint64(c)<<32|mappedIPv4
		if (e.own == 0 || uint32(b>>32) != e.own) && !w.snap.sends(e, 0, srcLo, true) {
			return false
		}
		k.Proto = h[quickL3+9]
		l4, end = quickL4v4, quickL3+int(binary.BigEndian.Uint16(h[quickL3+2:]))
	case (w1^e.in[1])&^(0xf<<48)&(1<<56-1) == ipv6Plain:
		if h[quickL3+7] <= 1 || length < quickL4v6+header.UDPLength {
			return false
		}
		srcHi, srcLo = binary.LittleEndian.Uint64(h[quickL3+8:]), binary.LittleEndian.Uint64(h[quickL3+16:])
		dstHi, dstLo = binary.LittleEndian.Uint64(h[quickL3+24:]), binary.LittleEndian.Uint64(h[quickL3+32:])
		if srcHi == 0 || dstHi == 0 || !w.snap.sends(e, srcHi, srcLo, false) {
			return false // ::/64 has the addresses that must not be here
		}
		k.Proto = h[quickL3+6]
		l4, end = quickL4v6, quickL4v6+int(binary.BigEndian.Uint16(h[quickL3+4:]))
	default:
		return false
	}
	if end > length {
		return false
	}
	binary.LittleEndian.PutUint64(k.Src[0:], srcHi)
	binary.LittleEndian.PutUint64(k.Src[8:], srcLo)
	binary.LittleEndian.PutUint64(k.Dst[0:], dstHi)
	binary.LittleEndian.PutUint64(k.Dst[8:], dstLo)
	t := (*[header.TCPMinimumLength]byte)(f.Buf[f.Start+l4:])
	ports := binary.BigEndian.Uint32(t[0:])
	k.SrcPort, k.DstPort, k.VRF = uint16(ports>>16), uint16(ports), vrf
	field, length := uint16(udpChecksumAt), header.UDPLength
	switch k.Proto {
	case header.ProtoUDP:
		n := int(binary.BigEndian.Uint16(t[4:]))
		if n < length || n > end-l4 || k.DstPort == 0 {
			return false
		}
	case header.ProtoTCP:
		field, length = tcpChecksumAt, int(t[12]>>4)*4
		if t[13]&tcpQuickFlags != header.TCPAck || length < header.TCPMinimumLength || length > end-l4 || k.SrcPort == 0 || k.DstPort == 0 {
			return false
		}
	default:
		return false
	}
	p.l4, p.payload, p.end = uint16(l4), uint16(l4+length), uint32(end)
	p.hash = w.flows.HashWords(srcHi, srcLo, dstHi, dstLo, uint64(ports>>16)|uint64(ports&0xffff)<<16|uint64(vrf)<<32|uint64(k.Proto)<<48)
	o := &f.Offload
	return o.GSOType == port.GSONone && (o.Flags&port.NeedsCsum == 0 || o.CsumStart == p.l4 && o.CsumOffset == field)
}

// carry forwards a recognised packet along its session. It returns false, and has
// changed nothing but the session's TCP state, where the packet needs more: there
// is no session, it was decided under another snapshot, the port cannot take the
// packet as it is.
func (w *Worker) carry(p *packet) bool {
	s := w.flows.Session(p.ref)
	decision, dir := s.Decision(), p.ref.Direction()
	nh := decision.NextHop(dir)
	if !s.Live() || decision.Epoch() != w.snap.Epoch || nh < NumDropReasonIDs {
		return false
	}
	if p.in == w.snap.Uplink && !w.follows(p, s, dir, nexthop.ID(decision.NextHop(flowtable.Forward))) {
		return false
	}
	outPort := nh - NumDropReasonIDs
	if int(outPort) >= len(w.snap.edges) {
		return w.carryOutside(p, s, dir, nexthop.ID(nh))
	}
	e, t := &w.snap.edges[outPort], w.tx[outPort]
	if !e.present || t == nil || int32(p.end)-quickL3 > e.mtu || p.partial() && t.features&port.FeatureCsum == 0 {
		return false
	}
	if !w.rewrite(p, s, dir, e) {
		return false
	}
	if t.n == len(t.frames) { // enqueue, whose call costs as much as this
		w.flushPort(uint16(outPort), t)
	}
	if t.n == 0 {
		w.dirty = append(w.dirty, uint16(outPort))
	}
	t.frames[t.n] = p.frame
	t.n++
	return true
}

// carryOutside is carry where the session leads out by the uplink: to a neighbor, or
// to another node.
func (w *Worker) carryOutside(p *packet, s *flowtable.Session, dir flowtable.Direction, nh nexthop.ID) bool {
	var x exit
	if w.exit(nh, &x) != DropUnknown || int(p.end)-quickL3 > x.mtu || p.partial() && x.device.features&port.FeatureCsum == 0 {
		return false
	}
	if !w.rewrite(p, s, dir, &noEdge) {
		return false
	}
	if x.tunnel == nil {
		x.address(p.frame)
	} else {
		src, dst, srcPort, dstPort := s.Target(dir)
		x.flow = uint32(nexthop.HashTuple(nexthop.HashAll, src, dst, srcPort, dstPort, p.key.Proto)) // as flowHash
	}
	w.leave(p.frame, &x)
	return true
}

// rewrite makes a recognised packet what leaves by a way out with these Ethernet
// addresses, and notes it. It returns false, and has changed nothing, where the
// families differ.
func (w *Worker) rewrite(p *packet, s *flowtable.Session, dir flowtable.Direction, e *edge) bool {
	f := p.frame
	partial := p.partial()
	src, dst, srcPort, dstPort := s.Target(dir)
	if v4 := p.l4 == quickL4v4; v4 != (binary.LittleEndian.Uint64(src[0:]) == 0) || v4 != (binary.LittleEndian.Uint64(dst[0:]) == 0) {
		return false // a service of the other family
	}
	if p.key.Proto == header.ProtoTCP {
		seg := header.TCP(f.Buf[f.Start+int(p.l4) : f.Start+int(p.payload)])
		s.TrackTCP(dir, seg.Seq(), seg.Ack(), seg.Window(), seg.Flags(), int(p.end)-int(p.payload), nil)
	}
	f.End = f.Start + int(p.end) // Ethernet padding does not travel
	if partial {
		f.Offload = port.Offload{Flags: port.NeedsCsum, HdrLen: p.payload, CsumStart: f.Offload.CsumStart, CsumOffset: f.Offload.CsumOffset}
	} else {
		f.Offload = port.Offload{Flags: f.Offload.Flags & port.DataValid}
	}
	write(e, p, src, dst, uint32(srcPort)<<16|uint32(dstPort), partial)
	s.Count(dir, uint64(p.len), 1)
	s.Seen(w.now)
	p.fate = fateDone
	return true
}

// write gives a recognised packet the addresses and ports that it leaves with, its
// TTL and MAC addresses, and repairs the checksums by difference (RFC 1624 eqn. 3),
// all in little-endian words, for the sum does not depend on byte order (RFC 1071
// §2 B).
func write(e *edge, p *packet, src, dst *[16]byte, ports uint32, partial bool) {
	f, k := p.frame, &p.key
	h := (*[quickHeaders]byte)(f.Buf[f.Start:])
	binary.LittleEndian.PutUint64(h[0:], e.out[0])
	binary.LittleEndian.PutUint32(h[8:], uint32(e.out[1]))
	var addresses uint64 // what the sum of all addresses grows by
	if p.l4 == quickL4v4 {
		s, d := binary.LittleEndian.Uint32(src[12:]), binary.LittleEndian.Uint32(dst[12:])
		was := binary.LittleEndian.Uint64(h[quickL3+12:])
		addresses = uint64(s) + uint64(d) + uint64(^uint32(was)) + uint64(^uint32(was>>32))
		binary.LittleEndian.PutUint64(h[quickL3+12:], uint64(s)|uint64(d)<<32)
		h[quickL3+8]--
		sum := uint64(^binary.LittleEndian.Uint16(h[quickL3+10:])) + addresses + 0xfffe // RFC 1624 §3: the TTL falls by one
		binary.LittleEndian.PutUint16(h[quickL3+10:], ^header.Fold16(sum))
	} else {
		srcHi, srcLo := binary.LittleEndian.Uint64(src[0:]), binary.LittleEndian.Uint64(src[8:])
		dstHi, dstLo := binary.LittleEndian.Uint64(dst[0:]), binary.LittleEndian.Uint64(dst[8:])
		is, carry := bits.Add64(srcHi, srcLo, 0)
		is, carry = bits.Add64(is, dstHi, carry)
		is, carry = bits.Add64(is, dstLo, carry)
		is += carry
		was, carry := bits.Add64(binary.LittleEndian.Uint64(k.Src[0:]), binary.LittleEndian.Uint64(k.Src[8:]), 0)
		was, carry = bits.Add64(was, binary.LittleEndian.Uint64(k.Dst[0:]), carry)
		was, carry = bits.Add64(was, binary.LittleEndian.Uint64(k.Dst[8:]), carry)
		was += carry
		addresses, carry = bits.Add64(^was, is, 0)
		addresses = uint64(header.Fold32(addresses + carry))
		binary.LittleEndian.PutUint64(h[quickL3+8:], srcHi)
		binary.LittleEndian.PutUint64(h[quickL3+16:], srcLo)
		binary.LittleEndian.PutUint64(h[quickL3+24:], dstHi)
		binary.LittleEndian.PutUint64(h[quickL3+32:], dstLo)
		h[quickL3+7]--
	}

	t := (*[header.TCPMinimumLength]byte)(f.Buf[f.Start+int(p.l4):])
	wasPorts := binary.LittleEndian.Uint32(t[0:])
	isPorts := bits.ReverseBytes32(ports)
	binary.LittleEndian.PutUint32(t[0:], isPorts)
	at := udpChecksumAt
	if k.Proto == header.ProtoTCP {
		at = tcpChecksumAt
	}
	old := binary.LittleEndian.Uint16(t[at:])
	if partial { // the ports lie in what the device sums itself
		binary.LittleEndian.PutUint16(t[at:], header.Fold16(uint64(old)+uint64(header.Fold16(addresses)%0xffff)))
		return
	}
	delta := addresses + uint64(^wasPorts) + uint64(isPorts)
	if old == 0 && k.Proto == header.ProtoUDP || old == 0xffff && header.Fold16(delta) == 0xffff {
		return // RFC 768: the sender made no checksum; or nothing changes, and there are two ways to write this one
	}
	sum := ^header.Fold16(uint64(^old) + delta)
	if sum == 0 && k.Proto == header.ProtoUDP {
		sum = 0xffff // RFC 768
	}
	binary.LittleEndian.PutUint16(t[at:], sum)
}
