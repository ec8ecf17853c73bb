package header

import "encoding/binary"

// EthernetLength is the length of an untagged Ethernet header in bytes.
const EthernetLength = 14

// EtherTypes (IANA "IEEE 802 Numbers").
const (
	EtherTypeIPv4 uint16 = 0x0800
	EtherTypeARP  uint16 = 0x0806
	EtherTypeVLAN uint16 = 0x8100 // IEEE 802.1Q customer tag
	EtherTypeIPv6 uint16 = 0x86dd
	EtherTypeQinQ uint16 = 0x88a8 // IEEE 802.1ad service tag
)

const (
	ethDestination = 0
	ethSource      = 6
	ethType        = 12
)

// Ethernet is a frame from its first byte. Safe with EthernetLength bytes.
type Ethernet []byte

// Destination returns the destination MAC address.
func (e Ethernet) Destination() [6]byte { return [6]byte(e[ethDestination:]) }

// Source returns the source MAC address.
func (e Ethernet) Source() [6]byte { return [6]byte(e[ethSource:]) }

// Type returns the EtherType.
func (e Ethernet) Type() uint16 { return binary.BigEndian.Uint16(e[ethType:]) }

// SetDestination writes the destination MAC address.
func (e Ethernet) SetDestination(mac [6]byte) { *(*[6]byte)(e[ethDestination:]) = mac }

// SetSource writes the source MAC address.
func (e Ethernet) SetSource(mac [6]byte) { *(*[6]byte)(e[ethSource:]) = mac }

// SetType writes the EtherType.
func (e Ethernet) SetType(t uint16) { binary.BigEndian.PutUint16(e[ethType:], t) }

// BroadcastMAC returns ff:ff:ff:ff:ff:ff.
func BroadcastMAC() [6]byte { return [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

// IsGroupMAC reports whether mac is multicast or broadcast (IEEE 802.3 §3.2.3:
// the first bit on the wire).
func IsGroupMAC(mac [6]byte) bool { return mac[0]&1 != 0 }

// MulticastMAC returns the MAC address that the multicast address ip is sent to:
// RFC 1112 §6.4 for IPv4, RFC 2464 §7 for IPv6.
func MulticastMAC(ip [16]byte) [6]byte {
	if IsIPv4(ip) {
		return [6]byte{0x01, 0x00, 0x5e, ip[13] & 0x7f, ip[14], ip[15]}
	}
	return [6]byte{0x33, 0x33, ip[12], ip[13], ip[14], ip[15]}
}

// EthernetFields is what PutEthernet writes.
type EthernetFields struct {
	Destination, Source [6]byte
	Type                uint16
}

// PutEthernet writes a header into the first EthernetLength bytes of b.
func PutEthernet(b []byte, f EthernetFields) {
	e := Ethernet(b[:EthernetLength])
	e.SetDestination(f.Destination)
	e.SetSource(f.Source)
	e.SetType(f.Type)
}
