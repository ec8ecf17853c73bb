package header

import "encoding/binary"

// ARPLength is the length in bytes of an ARP packet for IPv4 over Ethernet.
const ARPLength = 28

// ARP operations (RFC 826).
const (
	ARPRequest uint16 = 1
	ARPReply   uint16 = 2
)

const (
	arpHardware   = 0 // hardware type, protocol type, both address lengths: 6 bytes, constant here
	arpOperation  = 6
	arpSenderMAC  = 8
	arpSenderIP   = 14
	arpTargetMAC  = 18
	arpTargetIP   = 24
	arpProtocol   = 2
	arpHardwareSz = 4
	arpProtocolSz = 5
)

// ARP is an ARP packet for IPv4 over Ethernet (RFC 826). Safe with ARPLength
// bytes; its addresses mean something only after IsValid.
type ARP []byte

// IsValid reports whether the packet maps IPv4 to Ethernet and is a request or a
// reply.
func (a ARP) IsValid() bool {
	op := a.Operation()
	return binary.BigEndian.Uint16(a[arpHardware:]) == 1 &&
		binary.BigEndian.Uint16(a[arpProtocol:]) == EtherTypeIPv4 &&
		a[arpHardwareSz] == 6 && a[arpProtocolSz] == 4 &&
		(op == ARPRequest || op == ARPReply)
}

// Operation returns ARPRequest or ARPReply.
func (a ARP) Operation() uint16 { return binary.BigEndian.Uint16(a[arpOperation:]) }

// SenderMAC returns the sender's hardware address.
func (a ARP) SenderMAC() [6]byte { return [6]byte(a[arpSenderMAC:]) }

// SenderIP returns the sender's protocol address, v4-mapped.
func (a ARP) SenderIP() [16]byte { return mapped([4]byte(a[arpSenderIP:])) }

// TargetMAC returns the target's hardware address; zero in a request.
func (a ARP) TargetMAC() [6]byte { return [6]byte(a[arpTargetMAC:]) }

// TargetIP returns the target's protocol address, v4-mapped.
func (a ARP) TargetIP() [16]byte { return mapped([4]byte(a[arpTargetIP:])) }

// ARPFields is what PutARP writes. The addresses are v4-mapped.
type ARPFields struct {
	Operation            uint16
	SenderMAC, TargetMAC [6]byte
	SenderIP, TargetIP   [16]byte
}

// PutARP writes a packet into the first ARPLength bytes of b.
func PutARP(b []byte, f *ARPFields) {
	_ = b[ARPLength-1]
	binary.BigEndian.PutUint16(b[arpHardware:], 1)
	binary.BigEndian.PutUint16(b[arpProtocol:], EtherTypeIPv4)
	b[arpHardwareSz], b[arpProtocolSz] = 6, 4
	binary.BigEndian.PutUint16(b[arpOperation:], f.Operation)
	copy(b[arpSenderMAC:], f.SenderMAC[:])
	copy(b[arpSenderIP:], f.SenderIP[12:])
	copy(b[arpTargetMAC:], f.TargetMAC[:])
	copy(b[arpTargetIP:], f.TargetIP[12:])
}
