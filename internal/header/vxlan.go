package header

import "encoding/binary"

// VXLANLength is the length of a VXLAN header in bytes.
const VXLANLength = 8

// PortVXLAN is the UDP port of VXLAN (RFC 7348 §8).
const PortVXLAN = 4789

// MaxVNI is the largest VXLAN network identifier.
const MaxVNI = 1<<24 - 1

// vxlanHasVNI is the I flag (RFC 7348 §5).
const vxlanHasVNI = 0x08

// VXLAN is a packet from its VXLAN header (RFC 7348 §5). Safe with VXLANLength
// bytes.
type VXLAN []byte

// HasVNI reports the I flag, without which the VNI means nothing. The other flags
// and the reserved fields are ignored on receipt.
func (v VXLAN) HasVNI() bool { return v[0]&vxlanHasVNI != 0 }

// VNI returns the network identifier, 0 to MaxVNI.
func (v VXLAN) VNI() uint32 { return binary.BigEndian.Uint32(v[4:]) >> 8 }

// PutVXLAN writes a header with the I flag and reserved fields of 0 into the first
// VXLANLength bytes of b. Of vni the low 24 bits count.
func PutVXLAN(b []byte, vni uint32) {
	binary.BigEndian.PutUint32(b, vxlanHasVNI<<24)
	binary.BigEndian.PutUint32(b[4:], vni<<8)
}
