package forwarder

import (
	"encoding/binary"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
)

// translate gives a packet the addresses and ports of to and repairs every
// checksum they enter by difference (RFC 1624 eqn. 3), so that a packet which
// was damaged on the way stays damaged. to has the packet's protocol and
// family. It returns DropUnknown, or the reason why the packet cannot be
// translated; then nothing has changed.
func translate(p *packet, to *flowtable.Key) DropReason {
	from := &p.l
	ports := from.SrcPort != to.SrcPort || from.DstPort != to.DstPort
	if from.FragOffset != 0 {
		ports = false // the ports are in the first fragment, and so is their checksum
	}
	if !ports && from.Src == to.Src && from.Dst == to.Dst {
		return DropUnknown
	}
	if header.IsIPv4(from.Src) != header.IsIPv4(to.Src) || header.IsIPv4(from.Dst) != header.IsIPv4(to.Dst) {
		return DropFloatingIPFamily
	}
	if !translatable(from.Proto) {
		return DropNATProtocol
	}
	if from.Proto == header.ProtoSCTP && from.IsFragment && (from.SrcPort != to.SrcPort || from.DstPort != to.DstPort) {
		return DropFragmentChecksum // CRC32c covers data that is not in this fragment
	}
	addresses := header.AddressDelta(&from.Src, &to.Src).Add(header.AddressDelta(&from.Dst, &to.Dst))
	b := p.bytes()
	if from.Version == 4 {
		ip := header.IPv4(b[from.L3:])
		ip.SetSource(to.Src)
		ip.SetDestination(to.Dst)
		ip.SetChecksum(addresses.Apply(ip.Checksum()))
	} else {
		ip := header.IPv6(b[from.L3:])
		ip.SetSource(to.Src)
		ip.SetDestination(to.Dst)
	}
	if from.FragOffset == 0 {
		translateL4(p, b[from.L4:from.End], to, addresses)
	}
	return DropUnknown
}

// translatable reports whether a packet of the protocol survives other addresses:
// not where a checksum covers them that is not repaired here (DCCP, RFC 4340 §9.1;
// UDP-Lite, RFC 3828 §3.1), or a signature (AH, RFC 4302 §3.3.3).
func translatable(proto uint8) bool {
	const dccp, ah, udpLite = 33, 51, 136
	return proto != dccp && proto != ah && proto != udpLite
}

// translateL4 writes the ports or the echo identifier and repairs the L4
// checksum. seg is the transport header and what follows.
func translateL4(p *packet, seg []byte, to *flowtable.Key, addresses header.Delta) {
	ports := header.WordDelta(p.l.SrcPort, to.SrcPort).Add(header.WordDelta(p.l.DstPort, to.DstPort))
	switch p.l.Proto {
	case header.ProtoTCP:
		tcp := header.TCP(seg)
		tcp.SetSrcPort(to.SrcPort)
		tcp.SetDstPort(to.DstPort)
		if p.partial() {
			tcp.SetChecksum(addresses.ApplyPartial(tcp.Checksum()))
		} else {
			tcp.SetChecksum(addresses.Add(ports).Apply(tcp.Checksum()))
		}
	case header.ProtoUDP:
		udp := header.UDP(seg)
		udp.SetSrcPort(to.SrcPort)
		udp.SetDstPort(to.DstPort)
		if p.partial() {
			udp.SetChecksum(addresses.ApplyPartial(udp.Checksum()))
		} else {
			udp.SetChecksum(addresses.Add(ports).ApplyUDP(udp.Checksum()))
		}
	case header.ProtoSCTP:
		sctp := header.SCTP(seg)
		if sctp.SrcPort() == to.SrcPort && sctp.DstPort() == to.DstPort {
			return // RFC 9260 §6.8: no pseudo-header, so addresses do not matter
		}
		translateSCTP(p, sctp, to)
	}
	if p.l.IsICMP() { // not ICMPv6 inside IPv4 or the reverse, of which nothing is known
		if p.l.Version == 4 {
			addresses = 0 // ICMP has no pseudo-header, unlike ICMPv6 (RFC 4443 §2.3)
		}
		translateEcho(p, seg, to, addresses)
	}
}

// translateEcho writes the identifier of an echo message. A request carries it
// as source port of its key, a reply as destination port.
func translateEcho(p *packet, seg []byte, to *flowtable.Key, addresses header.Delta) {
	const checksum, identifier = 2, 4
	was, is := p.l.SrcPort, to.SrcPort
	if !isEchoRequest(&p.l) {
		was, is = p.l.DstPort, to.DstPort
	}
	delta := addresses.Add(header.WordDelta(was, is))
	sum := binary.BigEndian.Uint16(seg[checksum:])
	if p.partial() {
		delta = addresses
		binary.BigEndian.PutUint16(seg[checksum:], delta.ApplyPartial(sum))
	} else {
		binary.BigEndian.PutUint16(seg[checksum:], delta.Apply(sum))
	}
	binary.BigEndian.PutUint16(seg[identifier:], is)
}

// translateSCTP writes the ports and makes a new CRC32c. A wrong checksum stays
// wrong: it is made anew only if it was right (RFC 9260 §6.8), and left alone
// when the device is to make it.
func translateSCTP(p *packet, sctp header.SCTP, to *flowtable.Key) {
	right := !p.partial() && header.SCTPChecksum(sctp) == sctp.Checksum()
	sctp.SetSrcPort(to.SrcPort)
	sctp.SetDstPort(to.DstPort)
	if right {
		sctp.UpdateChecksum()
	}
}
