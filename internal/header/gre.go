package header

import "encoding/binary"

// GRELength is the length of a GRE header without optional fields, in bytes.
const GRELength = 4

// ProtoGRE is GRE's IP protocol number.
const ProtoGRE uint8 = 47

// GRE is a packet from its GRE header (RFC 2784 §2). Safe with GRELength bytes.
type GRE []byte

// Plain reports whether the header is what PutGRE writes: version 0, and none of
// checksum, routing, key and sequence number (RFC 1701, RFC 2784 §2.2, RFC 2890 §2),
// whose fields would follow. RFC 2784 §2.3: bits 1 to 5 must be zero or the
// packet is discarded; bits 6 to 12 are ignored.
func (g GRE) Plain() bool { return g[0]&0xfc == 0 && g[1]&0x07 == 0 }

// Protocol returns the EtherType of what is inside.
func (g GRE) Protocol() uint16 { return binary.BigEndian.Uint16(g[2:]) }

// PutGRE writes a header without optional fields into the first GRELength bytes of
// b.
func PutGRE(b []byte, protocol uint16) {
	b[0], b[1] = 0, 0
	binary.BigEndian.PutUint16(b[2:], protocol)
}
