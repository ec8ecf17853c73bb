package header

import "encoding/binary"

// UDPLength is the length of a UDP header in bytes.
const UDPLength = 8

const (
	udpLength   = 4
	udpChecksum = 6
)

// UDP is a datagram from its UDP header (RFC 768). Safe with UDPLength bytes.
type UDP []byte

// SrcPort returns the source port; 0 where the sender wants no reply.
func (u UDP) SrcPort() uint16 { return binary.BigEndian.Uint16(u[l4SrcPort:]) }

// DstPort returns the destination port.
func (u UDP) DstPort() uint16 { return binary.BigEndian.Uint16(u[l4DstPort:]) }

// Length returns the bytes of header and data that the checksum covers. It may
// be less than the IP payload: what follows is surplus (RFC 9868).
func (u UDP) Length() int { return int(binary.BigEndian.Uint16(u[udpLength:])) }

// Checksum returns the checksum field; 0 means none, over IPv4 only.
func (u UDP) Checksum() uint16 { return binary.BigEndian.Uint16(u[udpChecksum:]) }

// SetSrcPort writes the source port; the checksum is the caller's (WordDelta).
func (u UDP) SetSrcPort(p uint16) { binary.BigEndian.PutUint16(u[l4SrcPort:], p) }

// SetDstPort writes the destination port; the checksum is the caller's (WordDelta).
func (u UDP) SetDstPort(p uint16) { binary.BigEndian.PutUint16(u[l4DstPort:], p) }

// SetLength writes the length field; the checksum is the caller's.
func (u UDP) SetLength(n int) { binary.BigEndian.PutUint16(u[udpLength:], uint16(n)) }

// SetChecksum writes the checksum field.
func (u UDP) SetChecksum(sum uint16) { binary.BigEndian.PutUint16(u[udpChecksum:], sum) }

// PutUDP writes a header at the start of b, which is the whole datagram with its
// data in place, and computes the checksum for the addresses src and dst.
func PutUDP(b []byte, src, dst *[16]byte, srcPort, dstPort uint16) {
	u := UDP(b)
	u.SetSrcPort(srcPort)
	u.SetDstPort(dstPort)
	u.SetLength(len(b))
	u.SetChecksum(0)
	u.SetChecksum(TransportChecksum(src, dst, ProtoUDP, b))
}
