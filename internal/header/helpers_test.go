package header

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
)

// unhex decodes hex digits; blanks, line ends and "| comment" to the end of a
// line do not count.
func unhex(tb testing.TB, text string) []byte {
	tb.Helper()
	var digits strings.Builder
	for _, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "|")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		tb.Fatalf("bad hex: %v", err)
	}
	return b
}

func addr(s string) [16]byte { return netip.MustParseAddr(s).As16() }

// eth is a unicast Ethernet header for hex packets; the EtherType follows it.
const eth = "020000000002 020000000001 "

// v4 returns a frame with an IPv4 header (right checksum) from 10.0.0.1 to
// 10.0.0.2 in front of payload. edit, which may be nil, changes the header before
// the checksum is made.
func v4(proto uint8, payload []byte, edit func(IPv4)) []byte {
	b := make([]byte, EthernetLength+IPv4MinimumLength, 128)
	PutEthernet(b, EthernetFields{Destination: [6]byte{2, 5: 2}, Source: [6]byte{2, 5: 1}, Type: EtherTypeIPv4})
	p := IPv4(b[EthernetLength:])
	PutIPv4(p, &IPFields{Source: addr("10.0.0.1"), Destination: addr("10.0.0.2"),
		PayloadLength: len(payload), ID: 0x1234, Proto: proto, TTL: 64})
	if edit != nil {
		edit(p)
		p.SetChecksum(0)
		p.SetChecksum(^Checksum(p, 0))
	}
	return append(b, payload...)
}

// v6 is v4 for IPv6, from fd00::1 to fd00::2.
func v6(next uint8, payload []byte, edit func(IPv6)) []byte {
	b := make([]byte, EthernetLength+IPv6Length, 128)
	PutEthernet(b, EthernetFields{Destination: [6]byte{2, 5: 2}, Source: [6]byte{2, 5: 1}, Type: EtherTypeIPv6})
	p := IPv6(b[EthernetLength:])
	PutIPv6(p, &IPFields{Source: addr("fd00::1"), Destination: addr("fd00::2"),
		PayloadLength: len(payload), Proto: next, TTL: 64})
	if edit != nil {
		edit(p)
	}
	return append(b, payload...)
}

// tcp, udp, sctp, icmp and nd return transport headers without checksums.
func tcp(flags uint8) []byte {
	b := make([]byte, TCPMinimumLength)
	TCP(b).SetSrcPort(1000)
	TCP(b).SetDstPort(80)
	b[tcpDataOffset] = 5 << 4
	TCP(b).SetFlags(flags)
	return b
}

func udp(src, dst uint16, length int) []byte {
	b := make([]byte, UDPLength)
	UDP(b).SetSrcPort(src)
	UDP(b).SetDstPort(dst)
	UDP(b).SetLength(length)
	return b
}

func sctp(src, dst uint16) []byte {
	b := make([]byte, SCTPMinimumLength)
	SCTP(b).SetSrcPort(src)
	SCTP(b).SetDstPort(dst)
	return b
}

func icmp(kind, code uint8) []byte { return []byte{kind, code, 0, 0, 0xbe, 0xef, 0, 1} }

func nd(kind uint8, target string, options ...byte) []byte {
	b := make([]byte, NDMinimumLength)
	b[0] = kind
	a := addr(target)
	copy(b[ndTarget:], a[:])
	return append(b, options...)
}

func join(parts ...[]byte) (b []byte) {
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// fragment returns an IPv6 fragment header.
func fragment(next uint8, offset uint16, more bool) []byte {
	b := []byte{next, 0, byte(offset >> 8), byte(offset), 0xca, 0xfe, 0xba, 0xbe}
	if more {
		b[3] |= 1
	}
	return b
}
