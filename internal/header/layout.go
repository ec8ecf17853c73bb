package header

// Layout is what Parse found out about a frame: where its parts begin and the
// fields that forwarding looks at. It holds no pointers and does not refer to
// the frame. 80 bytes.
//
// Offsets count from the first byte that was parsed (the Ethernet header for
// Parse, the IP header for ParseInner) and satisfy L3 <= L4 <= Payload <= End.
// All are valid only after FaultNone; after a fault the struct holds what was
// known by then, for the record of a drop.
type Layout struct {
	// Src and Dst are the IP addresses, IPv4 as v4-mapped. Zero for ARP.
	Src, Dst [16]byte
	// L3 is the IP or ARP header: 14 after Parse, 0 after ParseInner.
	L3 int32
	// L4 is the first byte behind the IP headers: the transport header, or in a
	// fragment other than the first the fragment's data.
	L4 int32
	// Payload is the first byte behind the transport header; equal to L4 where
	// there is none to look into. After an ICMP error's header: the quoted packet.
	Payload int32
	// End is the end of the IP datagram or ARP packet. Padding after it is not
	// part of the packet.
	End int32
	// FragHeader is the IPv6 fragment header, 0 where there is none. An atomic
	// fragment (RFC 6946) has one and is not a fragment.
	FragHeader int32
	// FragID is the identification: always for IPv4, with FragHeader for IPv6.
	FragID uint32
	// FragOffset is where a fragment's data belongs in its datagram, in bytes.
	FragOffset uint16
	// SrcPort and DstPort are those of TCP, UDP and SCTP. An ICMP echo request has
	// SrcPort = identifier, DstPort = 0, a reply the reverse, so that one is the
	// other's mirror. Both are 0 for everything else, and in fragments other
	// than the first.
	SrcPort, DstPort uint16
	// EtherType is the frame's; after ParseInner, that of the quoted IP version.
	EtherType uint16
	// Version is 4, 6, or 0 where the frame is not IP.
	Version uint8
	// Proto is the protocol behind the IP headers and the IPv6 extension headers.
	// AH and ESP are not looked into, in either family. In an IPv6 fragment other
	// than the first it is what the fragment header says, which may be an
	// extension header: only the first fragment's Proto counts (RFC 8200 §4.5).
	Proto uint8
	// TTL is the TTL or hop limit, TOS the type of service or traffic class.
	TTL, TOS uint8
	// ICMPType and ICMPCode are valid where Proto is the family's ICMP and the
	// packet is not a fragment other than the first.
	ICMPType, ICMPCode uint8
	// TCPFlags are the eight flags, valid where Proto is TCP and the packet is
	// not a fragment other than the first.
	TCPFlags uint8
	// IsFragment says that the packet is a part of a datagram, MoreFragments that
	// it is not the last part. The first part has FragOffset 0.
	IsFragment, MoreFragments bool
	// DontFragment is IPv4's DF flag; true for IPv6, which no router fragments.
	DontFragment bool
	// ICMPError says that the packet is an ICMP error message, which no ICMP error
	// may answer (RFC 1812 §4.3.2.7, RFC 4443 §2.4 e.1).
	ICMPError bool
	// GroupMAC says that the frame was sent to a multicast or broadcast MAC
	// address. RFC 1812 §5.3.4: a unicast IP packet in it is not forwarded.
	GroupMAC bool
	// Multicast says that Dst is a multicast address or 255.255.255.255. The
	// broadcast address of a subnet is known to the forwarder only.
	Multicast bool
}

// IsFirst reports whether the packet has its transport header: it is no
// fragment, or the first one.
func (l *Layout) IsFirst() bool { return l.FragOffset == 0 }

// IsICMP reports whether Proto is the ICMP of the packet's family.
func (l *Layout) IsICMP() bool {
	return l.Version == 4 && l.Proto == ProtoICMP || l.Version == 6 && l.Proto == ProtoICMPv6
}
