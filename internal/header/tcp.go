package header

import "encoding/binary"

// TCPMinimumLength is the length of a TCP header without options, in bytes.
const TCPMinimumLength = 20

// TCP flags (RFC 9293 §3.1, RFC 3168).
const (
	TCPFin uint8 = 1 << iota
	TCPSyn
	TCPRst
	TCPPsh
	TCPAck
	TCPUrg
	TCPEce
	TCPCwr
)

const (
	tcpSeq        = 4
	tcpAck        = 8
	tcpDataOffset = 12
	tcpFlags      = 13
	tcpWindow     = 14
	tcpChecksum   = 16
	tcpUrgent     = 18
)

// TCP is a segment from its TCP header (RFC 9293). Safe with TCPMinimumLength
// bytes; Options needs DataOffset bytes. Of a segment quoted in an ICMP error
// only the ports and Seq are sure.
type TCP []byte

// SrcPort returns the source port.
func (t TCP) SrcPort() uint16 { return binary.BigEndian.Uint16(t[l4SrcPort:]) }

// DstPort returns the destination port.
func (t TCP) DstPort() uint16 { return binary.BigEndian.Uint16(t[l4DstPort:]) }

// Seq returns the sequence number.
func (t TCP) Seq() uint32 { return binary.BigEndian.Uint32(t[tcpSeq:]) }

// Ack returns the acknowledgement number; it counts only with TCPAck set.
func (t TCP) Ack() uint32 { return binary.BigEndian.Uint32(t[tcpAck:]) }

// DataOffset returns the header's length in bytes, options included.
func (t TCP) DataOffset() int { return int(t[tcpDataOffset]>>4) * 4 }

// Flags returns the eight flags, TCPFin to TCPCwr.
func (t TCP) Flags() uint8 { return t[tcpFlags] }

// Window returns the window field, before scaling.
func (t TCP) Window() uint16 { return binary.BigEndian.Uint16(t[tcpWindow:]) }

// Checksum returns the checksum field.
func (t TCP) Checksum() uint16 { return binary.BigEndian.Uint16(t[tcpChecksum:]) }

// Options returns the header's options.
func (t TCP) Options() []byte { return t[TCPMinimumLength:t.DataOffset()] }

// SetSrcPort writes the source port; the checksum is the caller's (WordDelta).
func (t TCP) SetSrcPort(p uint16) { binary.BigEndian.PutUint16(t[l4SrcPort:], p) }

// SetDstPort writes the destination port; the checksum is the caller's (WordDelta).
func (t TCP) SetDstPort(p uint16) { binary.BigEndian.PutUint16(t[l4DstPort:], p) }

// SetSeq writes the sequence number; the checksum is the caller's.
func (t TCP) SetSeq(n uint32) { binary.BigEndian.PutUint32(t[tcpSeq:], n) }

// SetFlags writes the eight flags; the checksum is the caller's.
func (t TCP) SetFlags(f uint8) { t[tcpFlags] = f }

// SetChecksum writes the checksum field.
func (t TCP) SetChecksum(sum uint16) { binary.BigEndian.PutUint16(t[tcpChecksum:], sum) }

// validTCPFlags has bit f set where the low six flags f may stand together.
// RFC 9293 §3.10.7: a segment opens (SYN), resets (RST) or carries ACK. SYN with
// FIN or RST, FIN with RST, and any of the null, FIN and Xmas probes belong to
// no state. The set is that of Linux nf_conntrack (tcp_valid_flags): SYN,
// SYN+URG, SYN+ACK, RST, RST+ACK, FIN+ACK, FIN+ACK+URG, ACK, ACK+URG, each with
// or without PSH; ECE and CWR do not count.
const validTCPFlags uint64 = withPsh<<TCPSyn | withPsh<<(TCPSyn|TCPUrg) | withPsh<<(TCPSyn|TCPAck) |
	withPsh<<TCPRst | withPsh<<(TCPRst|TCPAck) |
	withPsh<<(TCPFin|TCPAck) | withPsh<<(TCPFin|TCPAck|TCPUrg) |
	withPsh<<TCPAck | withPsh<<(TCPAck|TCPUrg)

const withPsh = 1 | 1<<TCPPsh

// TCPFields is what PutTCP writes.
type TCPFields struct {
	Seq, Ack                 uint32
	SrcPort, DstPort, Window uint16
	Flags                    uint8
}

// PutTCP writes a header without options at the start of b, which is the whole
// segment with its payload in place, and computes the checksum for the
// addresses src and dst.
func PutTCP(b []byte, src, dst *[16]byte, f TCPFields) {
	t := TCP(b)
	t.SetSrcPort(f.SrcPort)
	t.SetDstPort(f.DstPort)
	t.SetSeq(f.Seq)
	binary.BigEndian.PutUint32(t[tcpAck:], f.Ack)
	t[tcpDataOffset] = TCPMinimumLength / 4 << 4
	t.SetFlags(f.Flags)
	binary.BigEndian.PutUint16(t[tcpWindow:], f.Window)
	t.SetChecksum(0)
	binary.BigEndian.PutUint16(t[tcpUrgent:], 0)
	t.SetChecksum(TransportChecksum(src, dst, ProtoTCP, b))
}
