package forwarder

// DropReason says why a packet ended. The list is closed: every exit of the
// packet path that is not an output has exactly one reason, no two causes share
// one, and each is counted per interface. docs/DROPS.md is generated from it.
type DropReason uint8

// The reasons, in the order in which a packet meets them. Numbers are internal;
// names are the contract.
const (
	// DropUnknown is never counted. A packet that ends here is a bug.
	DropUnknown DropReason = iota

	// The frame and the IP header, one for each header.Fault.
	DropShortEthernet
	DropEthernetSource
	DropVLAN
	DropEtherType
	DropShortARP
	DropARPFormat
	DropShortIPv4
	DropIPv4Version
	DropIPv4HeaderLength
	DropIPv4TotalLength
	DropIPv4Checksum
	DropIPv4Options
	DropIPv4SourceRoute
	DropShortIPv6
	DropIPv6Version
	DropIPv6PayloadLength
	DropIPv6MappedAddress
	DropIPv6ExtensionHeaders
	DropIPv6RoutingHeader
	DropIPv6SourceRoute
	DropFragmentTiny
	DropFragmentOffset
	DropFragmentLength
	DropFragmentTooLong
	DropShortTCP
	DropTCPDataOffset
	DropTCPFlags
	DropShortUDP
	DropUDPLength
	DropShortSCTP
	DropPortZero
	DropShortICMP
	DropNDHopLimit
	DropNDFragment
	DropNDFormat
	DropQuotedVersion

	// Who sent it, and to whom.
	DropInterfaceDown
	DropSourceMACSpoof
	DropWrongMAC
	DropBroadcast
	DropMulticast
	DropLinkLocal
	DropMartianSource
	DropMartianDestination
	DropSourceSpoof
	DropLandAttack
	DropOffload

	// Neighbours.
	DropARPSpoof
	DropARPAnnouncement
	DropARPNotRequest
	DropARPDuplicateDetection
	DropARPNoTarget
	DropNDSpoof
	DropNDDuplicateDetection
	DropNDAnnouncement
	DropNDNoTarget
	DropRouterDiscovery
	DropRouterAdvertisement
	DropNDRedirect

	// Fragments.
	DropFragmentOverlap
	DropFragmentDuplicate
	DropFragmentLimit
	DropFragmentTimeout
	DropFragmentChecksum

	// ICMP.
	DropICMPChecksum
	DropICMPType
	DropICMPErrorFormat
	DropICMPErrorSpoof
	DropICMPErrorNoSession
	DropICMPErrorMismatch

	// Where it goes.
	DropNoRoute
	DropDiscardRoute
	DropAddressUnassigned
	DropVRFLoop
	DropNoGatewayService
	DropSourceInterfaceGone

	// Other nodes: tunnels, their neighbours, the uplink.
	DropTunnelFragment
	DropTunnelOwnSource
	DropTunnelUnknownPeer
	DropTunnelShort
	DropTunnelChecksum
	DropTunnelGRE
	DropTunnelLabelStack
	DropTunnelTTL
	DropTunnelLabel
	DropTunnelVNIFlag
	DropTunnelVNI
	DropTunnelPayload
	DropTunnelGroup
	DropTunnelSourceMAC
	DropTunnelECN
	DropTunnelNested
	DropTunnelForged
	DropTunnelSource
	DropTunnelDestination
	DropTunnelAnswer
	DropTunnelTransit
	DropTunnelReturn
	DropTunnelGone
	DropPeerDown
	DropNeighborUnresolved
	DropNeighborTable
	DropUplinkLink
	DropUplinkSource
	DropUplinkDestination

	// Bridging.
	DropBridgeUnknownMAC
	DropFloodIsolated
	DropFloodNobody
	DropFloodLimit

	// Whether it may.
	DropNetworkPolicy
	DropSecurityEgress
	DropSecurityIngress

	// Floating IPs and NAT.
	DropFloatingIPPort
	DropFloatingIPNoMember
	DropFloatingIPNoLocalMember
	DropFloatingIPSource
	DropFloatingIPDirection
	DropFloatingIPFamily
	DropMemberGone
	DropNATPorts
	DropNATShare
	DropNATProtocol
	DropNATPortless
	DropNATNoAddress
	DropNATWithdrawn

	// Sessions.
	DropFlowTableFull
	DropFlowQuota
	DropTCPOutOfWindow
	DropTCPNoSession

	// The way out.
	DropTTL
	DropMTU
	DropOutputGone
	DropOutputFull
	DropOutputDown
	DropOutputRejected
	DropNoBuffer
	DropWorkerPanic

	// NumDropReasons is the length of a counter array indexed by DropReason.
	NumDropReasons
)

// String returns the reason's name as the API, metrics and docs write it.
func (r DropReason) String() string { return r.Describe().Name }

// Describe returns the reason's name, what it means and what to do about it.
func (r DropReason) Describe() DropDescription {
	if r >= NumDropReasons {
		r = DropUnknown
	}
	return dropDescriptions[r]
}

// DropDescription is one row of the drop table.
type DropDescription struct {
	Name   string // UPPER_SNAKE, stable
	Cause  string // what happened, one sentence
	Remedy string // what an operator can do, one sentence
}
