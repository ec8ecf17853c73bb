package header

// Fault is the one reason why a frame is malformed. The list is closed; the zero
// value is "none".
type Fault uint8

// The faults, in the order in which a frame can meet them.
const (
	// FaultNone: the frame is well formed.
	FaultNone Fault = iota

	// FaultShortEthernet: fewer than 14 bytes.
	FaultShortEthernet
	// FaultEthernetSource: the source MAC is a group address (IEEE 802.3 §3.2.3).
	FaultEthernetSource
	// FaultVLAN: an 802.1Q or 802.1ad tag; ports of the forwarder are untagged.
	FaultVLAN
	// FaultEtherType: neither ARP nor IPv4 nor IPv6.
	FaultEtherType

	// FaultShortARP: fewer than 28 bytes of ARP.
	FaultShortARP
	// FaultARPFormat: not a request or reply for IPv4 over Ethernet (RFC 826).
	FaultARPFormat

	// FaultShortIPv4: fewer than 20 bytes (RFC 1812 §5.2.2 check 1).
	FaultShortIPv4
	// FaultIPv4Version: EtherType IPv4 and another version (§5.2.2 check 3).
	FaultIPv4Version
	// FaultIPv4HeaderLength: below 20 or beyond the frame (§5.2.2 check 4).
	FaultIPv4HeaderLength
	// FaultIPv4TotalLength: below the header's or beyond the frame (§5.2.2 check 5).
	FaultIPv4TotalLength
	// FaultIPv4Checksum: the header checksum is wrong (§5.2.2 check 2).
	FaultIPv4Checksum
	// FaultIPv4Options: an option's length is below 2 or beyond the header (RFC 791 §3.1).
	FaultIPv4Options
	// FaultIPv4SourceRoute: a loose or strict source route (RFC 7126 §4.3, §4.4).
	FaultIPv4SourceRoute

	// FaultShortIPv6: fewer than 40 bytes.
	FaultShortIPv6
	// FaultIPv6Version: EtherType IPv6 and another version.
	FaultIPv6Version
	// FaultIPv6PayloadLength: beyond the frame.
	FaultIPv6PayloadLength
	// FaultIPv6MappedAddress: a v4-mapped address on the wire (RFC 6890 table 20,
	// RFC 4942 §2.2), which would be taken for IPv4.
	FaultIPv6MappedAddress
	// FaultIPv6ExtensionHeaders: truncated, out of place, repeated or too many (RFC 8200 §4.1).
	FaultIPv6ExtensionHeaders
	// FaultIPv6RoutingHeader0: a routing header of type 0 (RFC 5095).
	FaultIPv6RoutingHeader0
	// FaultIPv6SourceRoute: another routing header with hops left, behind which
	// the final destination hides from policy and checksum.
	FaultIPv6SourceRoute

	// FaultTinyFragment: a first fragment without the whole transport header
	// (RFC 1858 §3, RFC 7112 §5).
	FaultTinyFragment
	// FaultFragmentOffset1: a TCP fragment at offset 8, which would overwrite the
	// flags (RFC 1858 §4, RFC 3128).
	FaultFragmentOffset1
	// FaultFragmentLength: an empty fragment, or one other than the last whose
	// length is not a multiple of 8 (RFC 791 §3.2, RFC 8200 §4.5).
	FaultFragmentLength
	// FaultFragmentTooLong: the datagram would pass 65535 bytes (RFC 791 §3.1, RFC 8200 §4.5).
	FaultFragmentTooLong

	// FaultShortTCP: fewer than 20 bytes; in a quoted packet, fewer than 8.
	FaultShortTCP
	// FaultTCPDataOffset: below 20 or beyond the segment.
	FaultTCPDataOffset
	// FaultTCPFlags: flags that belong to no state: none, SYN+FIN, SYN+RST, FIN
	// without ACK, ... (RFC 9293 §3.10.7).
	FaultTCPFlags
	// FaultShortUDP: fewer than 8 bytes.
	FaultShortUDP
	// FaultUDPLength: the length field is below 8 or beyond the datagram (RFC 768).
	FaultUDPLength
	// FaultShortSCTP: no room for the common header and a chunk header (RFC 9260
	// §3); in a quoted packet, fewer than 8 bytes.
	FaultShortSCTP
	// FaultPortZero: port 0, reserved by RFC 6335 §6; legal only as a UDP source (RFC 768).
	FaultPortZero
	// FaultShortICMP: fewer than 8 bytes of ICMP or ICMPv6.
	FaultShortICMP
	// FaultNDHopLimit: neighbor discovery with a hop limit below 255 (RFC 4861 §7.1).
	FaultNDHopLimit
	// FaultNDFragment: neighbor discovery behind a fragment header (RFC 6980 §5).
	FaultNDFragment
	// FaultNDFormat: neighbor discovery with a bad code, target, option or address
	// combination (RFC 4861 §7.1.1, §7.1.2).
	FaultNDFormat

	// FaultQuotedVersion: the packet quoted in an ICMP error is neither IPv4 nor IPv6.
	FaultQuotedVersion

	// NumFaults is the number of faults, for arrays indexed by Fault.
	NumFaults
)

var faultNames = [NumFaults]string{
	FaultNone:                 "NONE",
	FaultShortEthernet:        "SHORT_ETHERNET",
	FaultEthernetSource:       "ETHERNET_SOURCE",
	FaultVLAN:                 "VLAN",
	FaultEtherType:            "ETHER_TYPE",
	FaultShortARP:             "SHORT_ARP",
	FaultARPFormat:            "ARP_FORMAT",
	FaultShortIPv4:            "SHORT_IPV4",
	FaultIPv4Version:          "IPV4_VERSION",
	FaultIPv4HeaderLength:     "IPV4_HEADER_LENGTH",
	FaultIPv4TotalLength:      "IPV4_TOTAL_LENGTH",
	FaultIPv4Checksum:         "IPV4_CHECKSUM",
	FaultIPv4Options:          "IPV4_OPTIONS",
	FaultIPv4SourceRoute:      "IPV4_SOURCE_ROUTE",
	FaultShortIPv6:            "SHORT_IPV6",
	FaultIPv6Version:          "IPV6_VERSION",
	FaultIPv6PayloadLength:    "IPV6_PAYLOAD_LENGTH",
	FaultIPv6MappedAddress:    "IPV6_MAPPED_ADDRESS",
	FaultIPv6ExtensionHeaders: "IPV6_EXTENSION_HEADERS",
	FaultIPv6RoutingHeader0:   "IPV6_ROUTING_HEADER_0",
	FaultIPv6SourceRoute:      "IPV6_SOURCE_ROUTE",
	FaultTinyFragment:         "TINY_FRAGMENT",
	FaultFragmentOffset1:      "FRAGMENT_OFFSET_1",
	FaultFragmentLength:       "FRAGMENT_LENGTH",
	FaultFragmentTooLong:      "FRAGMENT_TOO_LONG",
	FaultShortTCP:             "SHORT_TCP",
	FaultTCPDataOffset:        "TCP_DATA_OFFSET",
	FaultTCPFlags:             "TCP_FLAGS",
	FaultShortUDP:             "SHORT_UDP",
	FaultUDPLength:            "UDP_LENGTH",
	FaultShortSCTP:            "SHORT_SCTP",
	FaultPortZero:             "PORT_ZERO",
	FaultShortICMP:            "SHORT_ICMP",
	FaultNDHopLimit:           "ND_HOP_LIMIT",
	FaultNDFragment:           "ND_FRAGMENT",
	FaultNDFormat:             "ND_FORMAT",
	FaultQuotedVersion:        "QUOTED_VERSION",
}

// String returns the fault's name in the style of drop reasons: IPV4_CHECKSUM.
func (f Fault) String() string {
	if f < NumFaults {
		return faultNames[f]
	}
	return "INVALID_FAULT"
}
