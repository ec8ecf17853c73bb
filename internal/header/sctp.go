package header

import (
	"encoding/binary"
	"hash/crc32"
)

// SCTP lengths in bytes: the common header, and the shortest packet, which has
// one chunk header behind it.
const (
	SCTPLength        = 12
	SCTPMinimumLength = SCTPLength + 4
)

// SCTP chunk types that a connection tracker follows (RFC 9260 §3.2).
const (
	SCTPData             uint8 = 0
	SCTPInit             uint8 = 1
	SCTPInitAck          uint8 = 2
	SCTPAbort            uint8 = 6
	SCTPShutdown         uint8 = 7
	SCTPShutdownAck      uint8 = 8
	SCTPCookieEcho       uint8 = 10
	SCTPCookieAck        uint8 = 11
	SCTPShutdownComplete uint8 = 14
)

const (
	sctpTag        = 4
	sctpChecksum   = 8
	sctpFirstChunk = 12
)

// SCTP is a packet from its SCTP common header (RFC 9260). Safe with
// SCTPMinimumLength bytes. Of a packet quoted in an ICMP error only the ports
// and the tag are sure.
type SCTP []byte

// SrcPort returns the source port.
func (s SCTP) SrcPort() uint16 { return binary.BigEndian.Uint16(s[l4SrcPort:]) }

// DstPort returns the destination port.
func (s SCTP) DstPort() uint16 { return binary.BigEndian.Uint16(s[l4DstPort:]) }

// Tag returns the verification tag; 0 only beside an INIT chunk.
func (s SCTP) Tag() uint32 { return binary.BigEndian.Uint32(s[sctpTag:]) }

// Checksum returns the CRC32c field.
func (s SCTP) Checksum() uint32 { return binary.LittleEndian.Uint32(s[sctpChecksum:]) }

// FirstChunk returns the type of the packet's first chunk.
func (s SCTP) FirstChunk() uint8 { return s[sctpFirstChunk] }

// SetSrcPort writes the source port; the checksum is the caller's (UpdateChecksum).
func (s SCTP) SetSrcPort(p uint16) { binary.BigEndian.PutUint16(s[l4SrcPort:], p) }

// SetDstPort writes the destination port; the checksum is the caller's (UpdateChecksum).
func (s SCTP) SetDstPort(p uint16) { binary.BigEndian.PutUint16(s[l4DstPort:], p) }

// SetChecksum writes the CRC32c field.
func (s SCTP) SetChecksum(crc uint32) { binary.LittleEndian.PutUint32(s[sctpChecksum:], crc) }

// UpdateChecksum computes the CRC32c of the packet, which must end where the
// slice ends, and writes it. A CRC has no pseudo-header: addresses may change
// without it, ports may not.
func (s SCTP) UpdateChecksum() { s.SetChecksum(SCTPChecksum(s)) }

// castagnoli and zeroCRC are constants that Go cannot write as such. zeroCRC
// stands here because a local array given to crc32 would move to the heap.
var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	zeroCRC    [4]byte
)

// SCTPChecksum returns the CRC32c of an SCTP packet of at least SCTPLength bytes
// as if its checksum field were 0 (RFC 9260 §6.8 and Appendix A).
func SCTPChecksum(b []byte) uint32 {
	crc := crc32.Update(0, castagnoli, b[:sctpChecksum])
	crc = crc32.Update(crc, castagnoli, zeroCRC[:])
	return crc32.Update(crc, castagnoli, b[sctpChecksum+4:])
}
