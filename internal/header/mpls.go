package header

import "encoding/binary"

// MPLSLength is the length of one label stack entry in bytes.
const MPLSLength = 4

// EtherTypeMPLS is MPLS unicast, in Ethernet and in GRE (RFC 3032 §5, RFC 4023 §4).
const EtherTypeMPLS uint16 = 0x8847

// PortMPLS is the UDP port of MPLS-in-UDP (RFC 7510 §3).
const PortMPLS = 6635

// MaxLabel is the largest MPLS label; those below MinLabel have meanings of their
// own (RFC 3032 §2.1).
const (
	MinLabel = 16
	MaxLabel = 1<<20 - 1
)

const mplsBottom = 1 << 8

// MPLS is a label stack from its first entry (RFC 3032 §2.1). Safe with MPLSLength
// bytes.
type MPLS []byte

// Label returns the label, 0 to MaxLabel.
func (m MPLS) Label() uint32 { return binary.BigEndian.Uint32(m) >> 12 }

// Class returns the traffic class field (RFC 5462), 0 to 7.
func (m MPLS) Class() uint8 { return m[2] >> 1 & 7 }

// Bottom reports whether the entry is the last of its stack.
func (m MPLS) Bottom() bool { return m[2]&1 != 0 }

// TTL returns the entry's time to live.
func (m MPLS) TTL() uint8 { return m[3] }

// PutMPLS writes an entry that is the whole stack, class 0, into the first
// MPLSLength bytes of b. Of label the low 20 bits count.
func PutMPLS(b []byte, label uint32, ttl uint8) {
	binary.BigEndian.PutUint32(b, label<<12|mplsBottom|uint32(ttl))
}
