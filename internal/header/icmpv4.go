package header

import "encoding/binary"

// ICMPLength is the length in bytes of the header that ICMP and ICMPv6 messages
// begin with: type, code, checksum, and four bytes of the message's own.
const ICMPLength = 8

// ICMP types for IPv4 (RFC 792).
const (
	ICMPv4EchoReply              uint8 = 0
	ICMPv4DestinationUnreachable uint8 = 3
	ICMPv4SourceQuench           uint8 = 4
	ICMPv4Redirect               uint8 = 5
	ICMPv4EchoRequest            uint8 = 8
	ICMPv4TimeExceeded           uint8 = 11
	ICMPv4ParameterProblem       uint8 = 12
)

// Codes of ICMPv4DestinationUnreachable (RFC 792, RFC 1812 §5.2.7.1).
const (
	ICMPv4NetUnreachable      uint8 = 0
	ICMPv4HostUnreachable     uint8 = 1
	ICMPv4ProtocolUnreachable uint8 = 2
	ICMPv4PortUnreachable     uint8 = 3
	ICMPv4FragmentationNeeded uint8 = 4
	ICMPv4AdminProhibited     uint8 = 13
)

const (
	icmpType     = 0
	icmpCode     = 1
	icmpChecksum = 2
	icmpRest     = 4
	icmpMTUv4    = 6
	icmpLengthV4 = 5
	icmpLengthV6 = 4
)

// ICMPv4 is an ICMP message from its type byte (RFC 792). Safe with ICMPLength
// bytes.
type ICMPv4 []byte

// Type returns the message type.
func (m ICMPv4) Type() uint8 { return m[icmpType] }

// Code returns the code, whose meaning depends on the type.
func (m ICMPv4) Code() uint8 { return m[icmpCode] }

// Checksum returns the checksum field.
func (m ICMPv4) Checksum() uint16 { return binary.BigEndian.Uint16(m[icmpChecksum:]) }

// EchoID returns the identifier of an echo request or reply.
func (m ICMPv4) EchoID() uint16 { return binary.BigEndian.Uint16(m[icmpRest:]) }

// EchoSequence returns the sequence number of an echo request or reply.
func (m ICMPv4) EchoSequence() uint16 { return binary.BigEndian.Uint16(m[icmpRest+2:]) }

// MTU returns the next-hop MTU of a fragmentation-needed error (RFC 1191 §4).
func (m ICMPv4) MTU() uint16 { return binary.BigEndian.Uint16(m[icmpMTUv4:]) }

// QuotedLength returns the bytes of an error that quote the packet, when ICMP
// extensions follow it, else 0 (RFC 4884 §5.1: counted in 32-bit words).
func (m ICMPv4) QuotedLength() int { return int(m[icmpLengthV4]) * 4 }

// Quoted returns what follows the header: in an error, the quoted packet.
func (m ICMPv4) Quoted() []byte { return m[ICMPLength:] }

// SetType writes the message type; the checksum is the caller's.
func (m ICMPv4) SetType(t uint8) { m[icmpType] = t }

// SetChecksum writes the checksum field.
func (m ICMPv4) SetChecksum(sum uint16) { binary.BigEndian.PutUint16(m[icmpChecksum:], sum) }

// SetEchoID writes the identifier of an echo; the checksum is the caller's (WordDelta).
func (m ICMPv4) SetEchoID(id uint16) { binary.BigEndian.PutUint16(m[icmpRest:], id) }

// SetMTU writes the next-hop MTU of a fragmentation-needed error; the checksum
// is the caller's.
func (m ICMPv4) SetMTU(mtu uint16) { binary.BigEndian.PutUint16(m[icmpMTUv4:], mtu) }

// IsICMPv4Error reports whether a message of type t quotes a packet that went
// wrong (RFC 1122 §3.2.2); no ICMP error may ever answer such a message.
func IsICMPv4Error(t uint8) bool {
	const errors = 1<<ICMPv4DestinationUnreachable | 1<<ICMPv4SourceQuench | 1<<ICMPv4Redirect |
		1<<ICMPv4TimeExceeded | 1<<ICMPv4ParameterProblem
	return t < 32 && uint32(errors)>>t&1 != 0
}

// ICMPFields is what PutICMP writes.
type ICMPFields struct {
	Type, Code uint8
	Rest       uint32 // the header's second word: id<<16|sequence, MTU, ND flags, ...
}

// PutICMP writes a header at the start of b, which is the whole message with its
// body in place, and computes the checksum. The family is that of src: ICMPv6
// counts the pseudo-header (RFC 4443 §2.3), ICMP for IPv4 does not.
func PutICMP(b []byte, src, dst *[16]byte, f ICMPFields) {
	m := ICMPv4(b)
	m[icmpType], m[icmpCode] = f.Type, f.Code
	m.SetChecksum(0)
	binary.BigEndian.PutUint32(m[icmpRest:], f.Rest)
	if IsIPv4(*src) {
		m.SetChecksum(^Checksum(b, 0))
		return
	}
	m.SetChecksum(TransportChecksum(src, dst, ProtoICMPv6, b))
}
