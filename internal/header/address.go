package header

import "encoding/binary"

// The predicates of this file judge addresses, not packets: which of them drops
// a packet is the forwarder's choice per interface.

// mappedPrefix is bytes 8..11 of a v4-mapped address as a little-endian word.
const mappedPrefix = 0xffff0000

// mapped returns the v4-mapped form of an IPv4 address.
func mapped(a [4]byte) [16]byte {
	return [16]byte{10: 0xff, 11: 0xff, 12: a[0], 13: a[1], 14: a[2], 15: a[3]}
}

// IsIPv4 reports whether a is the v4-mapped form of an IPv4 address.
func IsIPv4(a [16]byte) bool {
	return binary.LittleEndian.Uint64(a[:]) == 0 && binary.LittleEndian.Uint32(a[8:]) == mappedPrefix
}

// IsUnspecified reports 0.0.0.0 and :: (RFC 4291 §2.5.2).
func IsUnspecified(a [16]byte) bool {
	hi, lo := binary.BigEndian.Uint64(a[:]), binary.BigEndian.Uint64(a[8:])
	return hi == 0 && (lo == 0 || lo == 0xffff<<32)
}

// IsLoopback reports 127.0.0.0/8 (RFC 1122 §3.2.1.3) and ::1 (RFC 4291 §2.5.3).
func IsLoopback(a [16]byte) bool {
	if IsIPv4(a) {
		return a[12] == 127
	}
	return binary.BigEndian.Uint64(a[:]) == 0 && binary.BigEndian.Uint64(a[8:]) == 1
}

// IsMulticast reports 224.0.0.0/4 (RFC 1112 §4) and ff00::/8 (RFC 4291 §2.7).
func IsMulticast(a [16]byte) bool {
	return a[0] == 0xff || a[12]&0xf0 == 0xe0 && IsIPv4(a)
}

// IsLinkLocalMulticast reports the groups that no router passes on: 224.0.0.0/24
// (RFC 5771 §4) and IPv6 scopes 0 to 2 (RFC 4291 §2.7).
func IsLinkLocalMulticast(a [16]byte) bool {
	if IsIPv4(a) {
		return a[12] == 224 && a[13] == 0 && a[14] == 0
	}
	return a[0] == 0xff && a[1]&0xf <= 2
}

// IsSolicitedNode reports ff02::1:ff00:0/104 (RFC 4291 §2.7.1).
func IsSolicitedNode(a [16]byte) bool {
	return binary.BigEndian.Uint64(a[:]) == 0xff02<<48 && binary.BigEndian.Uint64(a[8:])>>24 == 0x1ff
}

// SolicitedNode returns the solicited-node group of an IPv6 address (RFC 4291 §2.7.1).
func SolicitedNode(a [16]byte) [16]byte {
	return [16]byte{0: 0xff, 1: 0x02, 11: 0x01, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]}
}

// IsLinkLocal reports 169.254.0.0/16 (RFC 3927) and fe80::/10 (RFC 4291 §2.5.6):
// addresses that no router forwards (RFC 3927 §7, RFC 4291 §2.5.6).
func IsLinkLocal(a [16]byte) bool {
	if IsIPv4(a) {
		return a[12] == 169 && a[13] == 254
	}
	return a[0] == 0xfe && a[1]&0xc0 == 0x80
}

// IsLimitedBroadcast reports 255.255.255.255 (RFC 919 §7), never forwarded.
func IsLimitedBroadcast(a [16]byte) bool {
	return IsIPv4(a) && binary.BigEndian.Uint32(a[12:]) == 0xffffffff
}

// IsReserved reports 240.0.0.0/4 without 255.255.255.255 (RFC 1112 §4, "class E").
func IsReserved(a [16]byte) bool {
	return IsIPv4(a) && a[12] >= 240 && !IsLimitedBroadcast(a)
}

// IsMartianSource reports addresses that no packet may be forwarded from: 0/8,
// 127/8, 224/4, 240/4 and 255.255.255.255 (RFC 1812 §5.3.7, RFC 6890 §2.2.2);
// ::, ::1 and the rest of the deprecated ::/96, and ff00::/8 (RFC 4291 §2.5, §2.7).
// The same addresses may not be sent an ICMP error (RFC 1812 §4.3.2.7, RFC 4443
// §2.4 e.6). Link-local is not among them: see IsLinkLocal. The unspecified
// address is legitimate in DHCP and duplicate address detection, which the
// forwarder answers before it asks this.
func IsMartianSource(a [16]byte) bool {
	if IsIPv4(a) {
		return a[12] == 0 || a[12] == 127 || a[12] >= 224
	}
	return a[0] == 0xff || isV4Compatible(a)
}

// IsMartianDestination reports addresses that no packet may be forwarded to:
// 0/8, 127/8 and 240/4 without 255.255.255.255, which has its own predicate
// (RFC 1812 §5.3.7, RFC 6890 §2.2.2); ::, ::1 and the rest of ::/96, and the
// multicast scopes 0 and 1, which never appear on a link (RFC 4291 §2.7).
func IsMartianDestination(a [16]byte) bool {
	if IsIPv4(a) {
		return a[12] == 0 || a[12] == 127 || IsReserved(a)
	}
	return a[0] == 0xff && a[1]&0xf <= 1 || isV4Compatible(a)
}

// isV4Compatible reports ::/96 (RFC 4291 §2.5.5.1, deprecated), with :: and ::1.
func isV4Compatible(a [16]byte) bool {
	return binary.BigEndian.Uint64(a[:]) == 0 && binary.BigEndian.Uint32(a[8:]) == 0
}
