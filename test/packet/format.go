package packet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/netip"
	"strings"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// Format writes a frame as a line. It tells everything that is not as it should
// be: MAC addresses other than link's, wrong checksums, a changed payload, bytes
// behind the packet.
func Format(frame []byte, link Link) string {
	var eth layers.Ethernet
	if err := eth.DecodeFromBytes(frame, gopacket.NilDecodeFeedback); err != nil {
		return "malformed: " + err.Error()
	}
	line := ""
	switch eth.EthernetType {
	case layers.EthernetTypeARP:
		line = formatARP(eth.Payload)
	case layers.EthernetTypeIPv4, layers.EthernetTypeIPv6:
		line = formatIP(eth.Payload, false)
	default:
		return fmt.Sprintf("ethertype=%#04x", uint16(eth.EthernetType))
	}
	if link.Src != nil && !bytes.Equal(eth.SrcMAC, link.Src) {
		line += " smac=" + eth.SrcMAC.String()
	}
	if link.Dst != nil && !bytes.Equal(eth.DstMAC, link.Dst) {
		line += " dmac=" + eth.DstMAC.String()
	}
	return line
}

func formatARP(b []byte) string {
	var a layers.ARP
	if err := a.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil {
		return "malformed: " + err.Error()
	}
	src, _ := netip.AddrFromSlice(a.SourceProtAddress)
	dst, _ := netip.AddrFromSlice(a.DstProtAddress)
	if a.Operation == layers.ARPRequest {
		return fmt.Sprintf("arp who-has %s tell %s", dst, src)
	}
	return fmt.Sprintf("arp %s is-at % x", src, a.SourceHwAddress)
}

// view is an IP packet on its way to a line.
type view struct {
	src, dst  netip.Addr
	six       bool
	proto     layers.IPProtocol
	quoted    bool
	extra     []string
	l4        []byte
	offset    int
	fragment  bool
	truncated bool
}

// formatIP writes an IP packet. A quoted one may be cut short.
func formatIP(b []byte, quoted bool) string {
	v, err := readIP(b, quoted)
	if err != nil {
		return "malformed: " + err.Error()
	}
	if v.offset > 0 {
		return strings.Join(append([]string{v.src.String(), ">", v.dst.String(), v.name(), v.pattern(v.l4, v.offset-8)}, v.extra...), " ")
	}
	parts := append(v.transport(), v.extra...)
	return strings.Join(strings.Fields(strings.Join(parts, " ")), " ")
}

func readIP(b []byte, quoted bool) (*view, error) {
	v := &view{quoted: quoted}
	if len(b) > 0 && b[0]>>4 == 6 {
		return v, v.readIPv6(b)
	}
	return v, v.readIPv4(b)
}

func (v *view) readIPv4(b []byte) error {
	var ip layers.IPv4
	if err := ip.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil {
		return err
	}
	v.src, _ = netip.AddrFromSlice(ip.SrcIP)
	v.dst, _ = netip.AddrFromSlice(ip.DstIP)
	v.proto, v.l4, v.offset = ip.Protocol, ip.Payload, int(ip.FragOffset)*8
	v.extra = append(v.extra, fmt.Sprintf("ttl=%d", ip.TTL))
	header := int(ip.IHL) * 4
	v.truncated = int(ip.Length) > len(b)
	if Sum(0, b[:header]) != 0xffff {
		v.extra = append(v.extra, "ipsum=bad")
	}
	if ip.Flags&layers.IPv4DontFragment != 0 {
		v.extra = append(v.extra, "df")
	}
	if ip.TOS != 0 {
		v.extra = append(v.extra, fmt.Sprintf("tos=%d", ip.TOS))
	}
	if len(ip.Options) > 0 {
		v.extra = append(v.extra, fmt.Sprintf("options=%d", header-20))
	}
	if extra := len(b) - int(ip.Length); extra > 0 {
		v.extra = append(v.extra, fmt.Sprintf("trailer=%d", extra))
	}
	v.setFragment(ip.Flags&layers.IPv4MoreFragments != 0, uint32(ip.Id))
	return nil
}

func (v *view) readIPv6(b []byte) error {
	if len(b) < 40 {
		return fmt.Errorf("%d bytes of IPv6", len(b))
	}
	v.six = true
	v.src, _ = netip.AddrFromSlice(b[8:24])
	v.dst, _ = netip.AddrFromSlice(b[24:40])
	v.extra = append(v.extra, fmt.Sprintf("ttl=%d", b[7]))
	if tos := b[0]<<4 | b[1]>>4; tos != 0 {
		v.extra = append(v.extra, fmt.Sprintf("tos=%d", tos))
	}
	end := 40 + int(binary.BigEndian.Uint16(b[4:]))
	v.truncated = end > len(b)
	if extra := len(b) - end; extra > 0 {
		v.extra = append(v.extra, fmt.Sprintf("trailer=%d", extra))
	}
	next, rest := b[6], b[40:min(end, len(b))]
	for len(rest) >= 8 {
		switch next {
		case 0, 43, 60:
			v.extra = append(v.extra, map[byte]string{0: "ext=hop-by-hop", 43: "ext=routing", 60: "ext=destination"}[next])
			length := 8 + 8*int(rest[1])
			next, rest = rest[0], rest[min(length, len(rest)):]
			continue
		case 44:
			field := binary.BigEndian.Uint16(rest[2:])
			v.offset = int(field &^ 7)
			v.proto, v.l4 = layers.IPProtocol(rest[0]), rest[8:]
			v.setFragment(field&1 != 0, binary.BigEndian.Uint32(rest[4:]))
			if !v.fragment {
				v.extra = append(v.extra, "atomic")
			}
			return nil
		}
		break
	}
	v.proto, v.l4 = layers.IPProtocol(next), rest
	return nil
}

func (v *view) setFragment(more bool, id uint32) {
	if !more && v.offset == 0 {
		return
	}
	v.fragment = true
	sign := "-"
	if more {
		sign = "+"
	}
	v.extra = append(v.extra, fmt.Sprintf("frag=%d:%d%s%d", id, v.offset, sign, len(v.l4)))
}

// name is the protocol's.
func (v *view) name() string {
	switch v.proto {
	case layers.IPProtocolTCP:
		return "tcp"
	case layers.IPProtocolUDP:
		return "udp"
	case layers.IPProtocolSCTP:
		return "sctp"
	case layers.IPProtocolICMPv4, layers.IPProtocolICMPv6:
		return "icmp"
	}
	return fmt.Sprint(uint8(v.proto))
}

func (v *view) ends(src, dst uint16) string {
	return fmt.Sprintf("%s > %s %s", netip.AddrPortFrom(v.src, src), netip.AddrPortFrom(v.dst, dst), v.name())
}

// transport writes the addresses and the part behind the IP header.
func (v *view) transport() []string {
	b := v.l4
	switch {
	case v.name() == "tcp" && len(b) >= 20:
		return v.formatTCP(b)
	case v.name() == "udp" && len(b) >= 8:
		return v.formatUDP(b)
	case v.name() == "sctp" && len(b) >= 12:
		return v.formatSCTP(b)
	case (v.name() == "tcp" || v.name() == "sctp") && len(b) >= 8 && v.quoted:
		return []string{v.ends(binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])), "short"}
	case v.name() == "icmp" && len(b) >= 8:
		return v.formatICMP(b)
	}
	return []string{v.src.String(), ">", v.dst.String(), v.name(), v.pattern(b, 0)}
}

func (v *view) formatTCP(b []byte) []string {
	var l layers.TCP
	if err := l.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil {
		return []string{"malformed: " + err.Error()}
	}
	var flags []string
	for _, f := range []struct {
		set  bool
		name string
	}{{l.SYN, "syn"}, {l.FIN, "fin"}, {l.RST, "rst"}, {l.PSH, "psh"}, {l.ACK, "ack"}} {
		if f.set {
			flags = append(flags, f.name)
		}
	}
	parts := []string{v.ends(uint16(l.SrcPort), uint16(l.DstPort)), strings.Join(flags, ",")}
	for _, n := range []struct {
		name  string
		value uint32
	}{{"seq", l.Seq}, {"ack", l.Ack}} {
		if n.value != 0 {
			parts = append(parts, fmt.Sprintf("%s=%d", n.name, n.value))
		}
	}
	return append(parts, v.pattern(l.Payload, 0), v.checkSum(b))
}

func (v *view) formatUDP(b []byte) []string {
	parts := []string{v.ends(binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])), v.pattern(b[8:], 0)}
	if length := int(binary.BigEndian.Uint16(b[4:])); !v.fragment && !v.truncated && length != len(b) {
		parts = append(parts, fmt.Sprintf("udplen=%d", length))
	}
	if b[6] == 0 && b[7] == 0 {
		return append(parts, "sum=none")
	}
	return append(parts, v.checkSum(b))
}

func (v *view) formatSCTP(b []byte) []string {
	parts := []string{v.ends(binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]))}
	if len(b) > 12 && b[12] != 0 {
		parts = append(parts, map[byte]string{1: "init", 2: "init-ack"}[b[12]])
	}
	if tag := binary.BigEndian.Uint32(b[4:]); tag != 0 {
		parts = append(parts, fmt.Sprintf("tag=%d", tag))
	}
	zeroed := append([]byte(nil), b...)
	copy(zeroed[8:12], make([]byte, 4))
	if !v.quoted && !v.fragment && crc32.Checksum(zeroed, castagnoli) != binary.LittleEndian.Uint32(b[8:]) {
		parts = append(parts, "sum=bad")
	}
	return append(parts, v.pattern(b[min(16, len(b)):], 0))
}

func (v *view) formatICMP(b []byte) []string {
	name := kindName(v.six, b[0], b[1])
	if v.six && b[0] == 135 && len(b) >= 24 {
		target, _ := netip.AddrFromSlice(b[8:24])
		return []string{"nd who-has", target.String(), "tell", v.src.String(), v.checkSum(b)}
	}
	if v.six && b[0] == 136 && len(b) >= 32 {
		target, _ := netip.AddrFromSlice(b[8:24])
		return []string{fmt.Sprintf("nd %s is-at % x", target, b[26:32]), v.checkSum(b)}
	}
	parts := []string{v.src.String(), ">", v.dst.String(), "icmp", name}
	if !isError(v.six, b[0]) {
		parts = append(parts, fmt.Sprintf("id=%d seq=%d", binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])))
		return append(parts, v.pattern(b[8:], 0), v.checkSum(b))
	}
	if mtu := binary.BigEndian.Uint32(b[4:]); mtu != 0 && (name == "frag-needed" || name == "too-big") {
		parts = append(parts, fmt.Sprintf("mtu=%d", mtu))
	}
	parts = append(parts, v.checkSum(b))
	v.extra = append(v.extra, "["+formatIP(b[8:], true)+"]")
	return parts
}

// pattern says how long a payload is, and whether it is still Payload from the
// given position on.
func (v *view) pattern(b []byte, from int) string {
	if len(b) == 0 {
		return ""
	}
	length := fmt.Sprintf("len=%d", len(b))
	if v.quoted {
		return "" // how much is quoted differs
	}
	if from < 0 || !bytes.Equal(b, Payload(from, len(b))) {
		length += " payload=other"
	}
	return length
}

// checkSum verifies the transport checksum of a whole packet.
func (v *view) checkSum(b []byte) string {
	if v.fragment || v.truncated && v.quoted {
		return ""
	}
	if v.proto == layers.IPProtocolICMPv4 {
		if Sum(0, b) != 0xffff {
			return "sum=bad"
		}
		return ""
	}
	src, dst := v.src.AsSlice(), v.dst.AsSlice()
	pseudo := append(append([]byte(nil), src...), dst...)
	pseudo = append(pseudo, 0, byte(v.proto), byte(len(b)>>8), byte(len(b)))
	if Sum(uint32(Sum(0, pseudo)), b) != 0xffff {
		return "sum=bad"
	}
	return ""
}

// Sum is the one's complement sum of RFC 1071, the plain way.
func Sum(start uint32, b []byte) uint16 {
	for i := 0; i+1 < len(b); i += 2 {
		start += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		start += uint32(b[len(b)-1]) << 8
	}
	for start>>16 != 0 {
		start = start>>16 + start&0xffff
	}
	return uint16(start)
}
