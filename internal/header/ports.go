package header

import "encoding/binary"

// Ports is a transport header of which only the ports matter. They stand at the
// same place in TCP, UDP and SCTP, so that one rewrite serves the three. Safe
// with 4 bytes.
type Ports []byte

const (
	l4SrcPort = 0
	l4DstPort = 2
)

// SrcPort returns the source port.
func (p Ports) SrcPort() uint16 { return binary.BigEndian.Uint16(p[l4SrcPort:]) }

// DstPort returns the destination port.
func (p Ports) DstPort() uint16 { return binary.BigEndian.Uint16(p[l4DstPort:]) }

// SetSrcPort writes the source port; the checksum is the caller's (WordDelta, and
// for SCTP UpdateChecksum).
func (p Ports) SetSrcPort(port uint16) { binary.BigEndian.PutUint16(p[l4SrcPort:], port) }

// SetDstPort writes the destination port; the checksum is the caller's, as above.
func (p Ports) SetDstPort(port uint16) { binary.BigEndian.PutUint16(p[l4DstPort:], port) }

// ChecksumOffset returns where the 16-bit Internet checksum stands in the
// transport header of proto, in bytes, and -1 for protocols without one, SCTP
// included. A partial checksum (virtio csum_offset) can stand nowhere else.
func ChecksumOffset(proto uint8) int {
	switch proto {
	case ProtoTCP:
		return tcpChecksum
	case ProtoUDP:
		return udpChecksum
	case ProtoICMP, ProtoICMPv6:
		return icmpChecksum
	}
	return -1
}
