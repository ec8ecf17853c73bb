package header

import "encoding/binary"

// ICMPv6 types (RFC 4443, RFC 4861). Types below 128 are errors.
const (
	ICMPv6DestinationUnreachable uint8 = 1
	ICMPv6PacketTooBig           uint8 = 2
	ICMPv6TimeExceeded           uint8 = 3
	ICMPv6ParameterProblem       uint8 = 4
	ICMPv6EchoRequest            uint8 = 128
	ICMPv6EchoReply              uint8 = 129
	ICMPv6RouterSolicitation     uint8 = 133
	ICMPv6RouterAdvertisement    uint8 = 134
	ICMPv6NeighborSolicitation   uint8 = 135
	ICMPv6NeighborAdvertisement  uint8 = 136
	ICMPv6Redirect               uint8 = 137
)

// Codes of ICMPv6DestinationUnreachable (RFC 4443 §3.1).
const (
	ICMPv6NoRoute            uint8 = 0
	ICMPv6AdminProhibited    uint8 = 1
	ICMPv6AddressUnreachable uint8 = 3
	ICMPv6PortUnreachable    uint8 = 4
)

// ICMPv6 is an ICMPv6 message from its type byte (RFC 4443). Safe with
// ICMPLength bytes.
type ICMPv6 []byte

// Type returns the message type.
func (m ICMPv6) Type() uint8 { return m[icmpType] }

// Code returns the code, whose meaning depends on the type.
func (m ICMPv6) Code() uint8 { return m[icmpCode] }

// Checksum returns the checksum field.
func (m ICMPv6) Checksum() uint16 { return binary.BigEndian.Uint16(m[icmpChecksum:]) }

// EchoID returns the identifier of an echo request or reply.
func (m ICMPv6) EchoID() uint16 { return binary.BigEndian.Uint16(m[icmpRest:]) }

// EchoSequence returns the sequence number of an echo request or reply.
func (m ICMPv6) EchoSequence() uint16 { return binary.BigEndian.Uint16(m[icmpRest+2:]) }

// MTU returns the MTU of a packet-too-big error.
func (m ICMPv6) MTU() uint32 { return binary.BigEndian.Uint32(m[icmpRest:]) }

// QuotedLength returns the bytes of an error that quote the packet, when ICMP
// extensions follow it, else 0 (RFC 4884 §5.3: counted in 64-bit words). It has
// no meaning in a packet-too-big error, where the MTU stands in its place.
func (m ICMPv6) QuotedLength() int { return int(m[icmpLengthV6]) * 8 }

// Quoted returns what follows the header: in an error, the quoted packet.
func (m ICMPv6) Quoted() []byte { return m[ICMPLength:] }

// SetType writes the message type; the checksum is the caller's.
func (m ICMPv6) SetType(t uint8) { m[icmpType] = t }

// SetChecksum writes the checksum field.
func (m ICMPv6) SetChecksum(sum uint16) { binary.BigEndian.PutUint16(m[icmpChecksum:], sum) }

// SetEchoID writes the identifier of an echo; the checksum is the caller's (WordDelta).
func (m ICMPv6) SetEchoID(id uint16) { binary.BigEndian.PutUint16(m[icmpRest:], id) }

// SetMTU writes the MTU of a packet-too-big error; the checksum is the caller's.
func (m ICMPv6) SetMTU(mtu uint32) { binary.BigEndian.PutUint32(m[icmpRest:], mtu) }

// IsICMPv6Error reports whether a message of type t is an error (RFC 4443 §2.1);
// no ICMPv6 error may ever answer such a message.
func IsICMPv6Error(t uint8) bool { return t < 128 }
