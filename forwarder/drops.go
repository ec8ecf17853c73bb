package forwarder

//go:generate go test -run TestDropsDocument . -update-drops

// dropDescriptions says in words what each DropReason is. The cause is what
// happened to the packet, the remedy is what to do about it, written for
// somebody who has been woken up by it. "The sender" is the workload or host
// behind the port that the packet came in on; the port is the one the counter
// belongs to.
var dropDescriptions = [NumDropReasons]DropDescription{
	DropUnknown: {
		"UNKNOWN",
		"The packet ended without a reason, which the program never does on purpose.",
		"This is a bug: save `vrctl drops -o json`, the state files and a capture of the port, and report it.",
	},

	// The frame and the IP header, one for each header.Fault.
	DropShortEthernet: {
		"SHORT_ETHERNET",
		"The frame is shorter than an Ethernet header (14 bytes).",
		"Look at the device or driver behind the port; no network stack sends such a frame.",
	},
	DropEthernetSource: {
		"ETHERNET_SOURCE",
		"The source MAC is a multicast or broadcast address, which nobody can have (IEEE 802.3 §3.2.3).",
		"Look at the program or driver that made the frame; kernels do not send these.",
	},
	DropVLAN: {
		"VLAN",
		"The frame carries a VLAN tag (EtherType 0x8100 or 0x88a8), and ports are untagged.",
		"Remove the VLAN device inside the workload, or give it one interface per network.",
	},
	DropEtherType: {
		"ETHER_TYPE",
		"The EtherType is none of IPv4, ARP and IPv6 (LLDP, 802.1X and bridges' spanning tree are the usual ones).",
		"Harmless when slow and steady; otherwise capture the port to see which protocol it is and switch it off in the workload.",
	},
	DropShortARP: {
		"SHORT_ARP",
		"The ARP packet is shorter than the 28 bytes of Ethernet and IPv4 (RFC 826).",
		"Look at the program that crafted it; kernels do not send these.",
	},
	DropARPFormat: {
		"ARP_FORMAT",
		"The ARP packet is not about Ethernet and IPv4, or its operation is neither request nor reply.",
		"Look at the program that crafted it; kernels do not send these.",
	},
	DropShortIPv4: {
		"SHORT_IPV4",
		"The frame ends inside the IPv4 header.",
		"Look at the program or driver that made the frame; kernels do not send these.",
	},
	DropIPv4Version: {
		"IPV4_VERSION",
		"EtherType IPv4, but the version field is not 4.",
		"Look at the program that crafted the frame; kernels do not send these.",
	},
	DropIPv4HeaderLength: {
		"IPV4_HEADER_LENGTH",
		"The IPv4 header length is below 5 words or beyond the end of the packet (RFC 1812 §5.2.2).",
		"Look at the program that crafted the frame; kernels do not send these.",
	},
	DropIPv4TotalLength: {
		"IPV4_TOTAL_LENGTH",
		"The IPv4 total length is shorter than the header or longer than the frame (RFC 1812 §5.2.2).",
		"If a real program sent it, the device cut the frame: compare the MTU and offload settings on both ends of the port.",
	},
	DropIPv4Checksum: {
		"IPV4_CHECKSUM",
		"The IPv4 header checksum is wrong (RFC 1812 §5.2.2).",
		"Corruption or a crafted frame: if it grows with traffic, suspect the driver or memory behind the port.",
	},
	DropIPv4Options: {
		"IPV4_OPTIONS",
		"An IPv4 option is shorter than 2 bytes or reaches beyond the header (RFC 791 §3.1).",
		"Look at the program that crafted the frame; kernels do not send these.",
	},
	DropIPv4SourceRoute: {
		"IPV4_SOURCE_ROUTE",
		"The IPv4 header carries a source route option, which lets the sender choose the path past the policy (RFC 7126 §4.3).",
		"Remove the option in the sender; no ordinary program sets it.",
	},
	DropShortIPv6: {
		"SHORT_IPV6",
		"The frame ends inside the IPv6 header (40 bytes).",
		"Look at the program or driver that made the frame; kernels do not send these.",
	},
	DropIPv6Version: {
		"IPV6_VERSION",
		"EtherType IPv6, but the version field is not 6.",
		"Look at the program that crafted the frame; kernels do not send these.",
	},
	DropIPv6PayloadLength: {
		"IPV6_PAYLOAD_LENGTH",
		"The IPv6 payload length is longer than the frame.",
		"If a real program sent it, the device cut the frame: compare the MTU and offload settings on both ends of the port.",
	},
	DropIPv6MappedAddress: {
		"IPV6_MAPPED_ADDRESS",
		"An IPv6 packet carries an IPv4 address in mapped form (::ffff:a.b.c.d), which never belongs on the wire (RFC 4942 §2.2).",
		"Look for a broken translator (NAT64, a VPN) in the sender.",
	},
	DropIPv6ExtensionHeaders: {
		"IPV6_EXTENSION_HEADERS",
		"The IPv6 extension headers are cut short, too many, or out of the order that RFC 8200 §4.1 allows.",
		"Look at the program that crafted the frame; kernels send at most a few.",
	},
	DropIPv6RoutingHeader: {
		"IPV6_ROUTING_HEADER",
		"The IPv6 packet has a routing header of type 0, which is forbidden (RFC 5095 §3).",
		"An attack or a very old program; find it by the source address in a capture of the port.",
	},
	DropIPv6SourceRoute: {
		"IPV6_SOURCE_ROUTE",
		"The IPv6 packet has a routing header with segments left, behind which its true destination hides from the policy.",
		"Remove the header in the sender; segment routing does not pass this router.",
	},
	DropFragmentTiny: {
		"FRAGMENT_TINY",
		"The first fragment is too short to hold the L4 header, which hides the ports from the policy (RFC 1858 §3).",
		"No path MTU is that small: look at the program that crafted it.",
	},
	DropFragmentOffset: {
		"FRAGMENT_OFFSET",
		"A TCP fragment at offset 8 would overwrite the flags of the first one (RFC 3128 §3).",
		"An attack; find the source address in a capture of the port.",
	},
	DropFragmentLength: {
		"FRAGMENT_LENGTH",
		"The fragment is empty, or it is not the last one and its length is no multiple of 8 (RFC 791 §3.2, RFC 8200 §4.5).",
		"An attack or a broken sender; find it by the source address in a capture of the port.",
	},
	DropFragmentTooLong: {
		"FRAGMENT_TOO_LONG",
		"The fragment reaches beyond the 65,535 bytes a datagram can have (ping of death).",
		"An attack or a broken sender; find it by the source address in a capture of the port.",
	},
	DropShortTCP: {
		"SHORT_TCP",
		"The packet ends inside the TCP header.",
		"Look at the program that crafted the packet; kernels do not send these.",
	},
	DropTCPDataOffset: {
		"TCP_DATA_OFFSET",
		"The TCP header length is below 5 words or beyond the end of the packet.",
		"Look at the program that crafted the packet; kernels do not send these.",
	},
	DropTCPFlags: {
		"TCP_FLAGS",
		"The TCP flags can never occur together (none, SYN with FIN or RST): the marks of a port scanner.",
		"Find the scanner by the source address in a capture of the port.",
	},
	DropShortUDP: {
		"SHORT_UDP",
		"The packet ends inside the UDP header.",
		"Look at the program that crafted the packet; kernels do not send these.",
	},
	DropUDPLength: {
		"UDP_LENGTH",
		"The UDP length is below 8 or beyond the end of the packet (RFC 768).",
		"Look at the program that crafted the packet; kernels do not send these.",
	},
	DropShortSCTP: {
		"SHORT_SCTP",
		"The packet ends inside the SCTP common header.",
		"Look at the program that crafted the packet; SCTP stacks do not send these.",
	},
	DropPortZero: {
		"PORT_ZERO",
		"A port of TCP, UDP or SCTP is 0; only UDP may have 0 as its source port (RFC 768).",
		"Look at the program's configuration: a port of 0 usually is one that was never set.",
	},
	DropShortICMP: {
		"SHORT_ICMP",
		"The packet ends inside the ICMP header.",
		"Look at the program that crafted the packet; kernels do not send these.",
	},
	DropNDHopLimit: {
		"ND_HOP_LIMIT",
		"A neighbour discovery message with a hop limit other than 255, so it did not start on this link (RFC 4861 §7.1.1).",
		"Somebody behind the workload forges neighbour discovery from afar; find the source address in a capture of the port.",
	},
	DropNDFragment: {
		"ND_FRAGMENT",
		"A neighbour discovery message in a fragment, which hides it from filters (RFC 6980 §5).",
		"An attack; find the source address in a capture of the port.",
	},
	DropNDFormat: {
		"ND_FORMAT",
		"The neighbour discovery message fails the checks of RFC 4861 §7.1: code not 0, too short, a multicast target, or an option of length 0 or beyond the end.",
		"Look at the program that crafted it; kernels do not send these.",
	},
	DropQuotedVersion: {
		"QUOTED_VERSION",
		"The packet quoted by an ICMP error is neither IPv4 nor IPv6.",
		"Look at the device that sent the error, by its source address in a capture of the port.",
	},

	// Who sent it, and to whom.
	DropInterfaceDown: {
		"INTERFACE_DOWN",
		"The packet came in on a port whose interface the state does not have (any more).",
		"Normal for moments while an interface is removed; if it goes on, `vrctl get vmi` and apply the interface again.",
	},
	DropSourceMACSpoof: {
		"SOURCE_MAC_SPOOF",
		"The source MAC is not the interface's own.",
		"Set the interface's macAddress to what the workload really uses (bridges and nested VMs change it), or switch anti-spoofing off for it; if neither is expected, treat the workload as hostile.",
	},
	DropWrongMAC: {
		"WRONG_MAC",
		"The frame is not addressed to the router's MAC, to a broadcast or to a multicast address.",
		"The sender holds an old neighbour entry: flush it with `ip neigh flush dev IF` there, and check that it sets no static neighbours.",
	},
	DropBroadcast: {
		"BROADCAST",
		"The destination is a broadcast address, and broadcasts are not forwarded (RFC 2644).",
		"None for the chatter of discovery protocols; a DHCP client in the workload should be replaced by the addresses of its interface.",
	},
	DropMulticast: {
		"MULTICAST",
		"The destination is a multicast group, and multicast is not forwarded.",
		"None for the chatter of mDNS, MLD and SSDP; programs that need multicast have to be told unicast peers.",
	},
	DropLinkLocal: {
		"LINK_LOCAL",
		"An address is link-local, and the packet would have to leave the link (RFC 3927 §7, RFC 4291 §2.5.6).",
		"Use a routable address; metadata services at 169.254.169.254 need a route of their own.",
	},
	DropMartianSource: {
		"MARTIAN_SOURCE",
		"The source address can never be a sender: unspecified, loopback, multicast, broadcast or reserved (RFC 1812 §5.3.7).",
		"Look for a missing address or a broken NAT rule in the sender; a capture of the port shows which.",
	},
	DropMartianDestination: {
		"MARTIAN_DESTINATION",
		"The destination address can never be forwarded to: unspecified, loopback or reserved (RFC 1812 §5.3.7).",
		"Look for a wrong address in the program's configuration; a capture of the port shows which.",
	},
	DropSourceSpoof: {
		"SOURCE_SPOOF",
		"The source address is none of the interface's addresses and allowed address pairs (RFC 2827).",
		"If the workload forwards for others or holds another address, add it to the allowed address pairs; otherwise it is misconfigured or hostile.",
	},
	DropLandAttack: {
		"LAND_ATTACK",
		"Source and destination address are the same.",
		"A workload that calls its own address over the network is misconfigured; from a host's own stack such packets never leave it.",
	},
	DropOffload: {
		"OFFLOAD",
		"The offload metadata of the frame (virtio_net_hdr) contradicts the frame: the checksum lies outside it, or the segment type does not fit the protocol.",
		"Update the driver or hypervisor behind the port, or switch its offloads off with `ethtool -K IF tx off tso off`.",
	},

	// Neighbours.
	DropARPSpoof: {
		"ARP_SPOOF",
		"The ARP sender's MAC or IPv4 address is not the interface's own.",
		"Add the address to the interface's addresses or allowed address pairs if it is meant (VRRP, nested pods); otherwise the workload is misconfigured or tries to take over somebody's address.",
	},
	DropARPAnnouncement: {
		"ARP_ANNOUNCEMENT",
		"A gratuitous ARP: the workload announces an address that the control plane has already placed (RFC 5227 §3).",
		"None needed: kernels send one when an interface comes up.",
	},
	DropARPNotRequest: {
		"ARP_NOT_REQUEST",
		"An ARP reply; the router learns no neighbours and asked nothing.",
		"None when slow; a stream of them is an ARP scanner or a poisoning attempt inside the workload.",
	},
	DropARPDuplicateDetection: {
		"ARP_DUPLICATE_DETECTION",
		"The workload asks whether somebody else holds its own address (RFC 5227 §2.1.1), and silence is the answer it wants.",
		"None needed: it happens when an interface comes up.",
	},
	DropARPNoTarget: {
		"ARP_NO_TARGET",
		"An ARP request for an address that the sender's network has no route to, or only a discarding one.",
		"Check the address in the workload and the network's subnets and routes with `vrctl explain --vmi VMI --dst ADDRESS`.",
	},
	DropNDSpoof: {
		"ND_SPOOF",
		"The source address or the source link-layer option of the neighbour discovery message is not the interface's own.",
		"Add the address to the interface's addresses or allowed address pairs if it is meant; otherwise the workload is misconfigured or tries to take over somebody's address.",
	},
	DropNDDuplicateDetection: {
		"ND_DUPLICATE_DETECTION",
		"The workload asks whether somebody else holds an address it is about to use (RFC 4862 §5.4), and silence is the answer it wants.",
		"None needed: it happens when an interface comes up.",
	},
	DropNDAnnouncement: {
		"ND_ANNOUNCEMENT",
		"A neighbour advertisement; the router learns no neighbours, the control plane places the addresses.",
		"None when slow; a stream of them is a poisoning attempt inside the workload.",
	},
	DropNDNoTarget: {
		"ND_NO_TARGET",
		"A neighbour solicitation for an address that the sender's network has no route to, or only a discarding one.",
		"Check the address in the workload and the network's subnets and routes with `vrctl explain --vmi VMI --dst ADDRESS`.",
	},
	DropRouterDiscovery: {
		"ROUTER_DISCOVERY",
		"A router solicitation; addresses and routes come from the control plane, so the router advertises nothing.",
		"None needed: kernels send a few when an interface comes up; `sysctl net.ipv6.conf.IF.accept_ra=0` in the workload stops them.",
	},
	DropRouterAdvertisement: {
		"ROUTER_ADVERTISEMENT",
		"The sender claims to be a router (RFC 6105 calls it a rogue advertisement).",
		"Stop radvd or forwarding in the workload; if nobody set it up there, treat the workload as hostile.",
	},
	DropNDRedirect: {
		"ND_REDIRECT",
		"An ICMPv6 redirect from a port; only the router may redirect, and it never does.",
		"Switch off forwarding or redirects in the workload; if nobody set it up there, treat the workload as hostile.",
	},

	// Fragments.
	DropFragmentOverlap: {
		"FRAGMENT_OVERLAP",
		"Fragments of the datagram overlap, so its content depends on who puts it together (RFC 5722, RFC 8200 §4.5).",
		"An attack, or an IPv4 sender that reuses identifications too fast (RFC 6864): lower its MTU so that it does not fragment.",
	},
	DropFragmentDuplicate: {
		"FRAGMENT_DUPLICATE",
		"The fragment repeats one of its datagram exactly; the datagram itself goes on (RFC 8200 §4.5).",
		"Normal at a low rate; otherwise the path duplicates packets (a bridge loop), or an IPv4 sender reuses identifications too fast (RFC 6864): lower its MTU so that it does not fragment.",
	},
	DropFragmentLimit: {
		"FRAGMENT_LIMIT",
		"The fragments that wait for their first one have reached the limit in count or bytes.",
		"A flood of incomplete datagrams, or a lossy path with large UDP: find the source in a capture, and let the program send datagrams below the MTU.",
	},
	DropFragmentTimeout: {
		"FRAGMENT_TIMEOUT",
		"The first fragment of the datagram did not arrive in time.",
		"Fragments are lost on the way to this port: look for loss or a firewall that drops fragments before it.",
	},
	DropFragmentChecksum: {
		"FRAGMENT_CHECKSUM",
		"The fragmented datagram needs its checksum recomputed over all its bytes, which one fragment does not hold (SCTP through NAT).",
		"Lower the sender's MTU or message size so that it does not fragment.",
	},

	// ICMP.
	DropICMPChecksum: {
		"ICMP_CHECKSUM",
		"The checksum of an ICMP message that the router has to answer or translate is wrong (RFC 5508 REQ-3).",
		"Corruption or a crafted packet: if it grows with traffic, suspect the driver or memory behind the port.",
	},
	DropICMPType: {
		"ICMP_TYPE",
		"An ICMP type that is neither echo nor an error about a session (redirect, timestamp, router discovery).",
		"None needed; the type shows in a capture of the port.",
	},
	DropICMPErrorFormat: {
		"ICMP_ERROR_FORMAT",
		"The ICMP error is a fragment, or the packet that it quotes is too short, malformed, a later fragment or an ICMP error itself (RFC 1812 §4.3.2.7).",
		"Look at the device that sent the error: it must quote the IP header and 8 bytes behind it.",
	},
	DropICMPErrorSpoof: {
		"ICMP_ERROR_SPOOF",
		"A workload, or somebody outside, complains by ICMP about a packet that was not sent that way.",
		"If the workload routes for others, add their addresses to its allowed address pairs; otherwise it tries to disturb somebody's connection.",
	},
	DropICMPErrorNoSession: {
		"ICMP_ERROR_NO_SESSION",
		"No session sent the packet that the ICMP error quotes (RFC 5508 REQ-4).",
		"Late errors about finished sessions are normal; a stream of them is forged (RFC 5927).",
	},
	DropICMPErrorMismatch: {
		"ICMP_ERROR_MISMATCH",
		"The ICMP error is not addressed to the sender of the packet it quotes.",
		"Forged, or a NAT on the way that does not translate quoted packets: look at the source address in a capture.",
	},

	// Where it goes.
	DropNoRoute: {
		"NO_ROUTE",
		"The sender's network has no route to the destination.",
		"Run `vrctl explain --vmi VMI --dst ADDRESS`; networks reach each other only where a NetworkPolicy with a PASS rule joins them.",
	},
	DropDiscardRoute: {
		"DISCARD_ROUTE",
		"The destination's route says discard: a Route has a discard next hop.",
		"Look at the route that `vrctl explain` names.",
	},
	DropAddressUnassigned: {
		"ADDRESS_UNASSIGNED",
		"The destination is an address of a network's subnet that nobody has: no interface, no floating IP, no gateway.",
		"Check whether the destination still exists; a pod that has gone leaves its address like this, and so does a Service that was deleted.",
	},
	DropVRFLoop: {
		"VRF_LOOP",
		"Routes lead from VRF to VRF without end.",
		"Correct the Route resources: `vrctl explain` lists the VRFs that the lookup went through.",
	},
	DropNoGatewayService: {
		"NO_GATEWAY_SERVICE",
		"The packet is for the router's own address, where only ping is answered; TCP and UDP were refused.",
		"Correct the address in the program: a gateway offers no services (DNS servers and the like have addresses of their own).",
	},
	DropSourceInterfaceGone: {
		"SOURCE_INTERFACE_GONE",
		"The session's initiator left with its interface, so there is nobody to send the reply to.",
		"Normal for moments after a workload is removed; the sender gives up by itself.",
	},

	// Other nodes: tunnels, their neighbours, the uplink.
	DropTunnelFragment: {
		"TUNNEL_FRAGMENT",
		"A tunnel packet came in fragments, which nobody may make of one (RFC 7348 §4.3, RFC 7510 §3).",
		"Give the links between the nodes one MTU, and set that as the peers' MTU.",
	},
	DropTunnelOwnSource: {
		"TUNNEL_OWN_SOURCE",
		"A tunnel packet claims to come from this node itself.",
		"Somebody on the underlay forges it, or two nodes have one address: look for who sends it.",
	},
	DropTunnelUnknownPeer: {
		"TUNNEL_UNKNOWN_PEER",
		"A tunnel packet comes from an address that is no node of this overlay.",
		"If the sender should be a node, the control plane has not told this one: compare the peers in `vrctl status` of both; otherwise let the underlay filter it.",
	},
	DropTunnelShort: {
		"TUNNEL_SHORT",
		"A tunnel packet ends inside its label, GRE or VXLAN header, or inside the Ethernet header behind it.",
		"Look at the program on the sending node; no vRouter sends these.",
	},
	DropTunnelChecksum: {
		"TUNNEL_CHECKSUM",
		"A tunnel packet's UDP checksum is wrong, or it has none over IPv6, where it must have one (RFC 8200 §8.1, RFC 7510 §3.1).",
		"The underlay damages packets, or the sender leaves the checksum out: capture on both nodes and compare.",
	},
	DropTunnelGRE: {
		"TUNNEL_GRE",
		"A GRE packet has a checksum, a key, a sequence number, routing or another version, or carries something else than MPLS.",
		"Configure the sender for plain MPLS in GRE (RFC 4023), or for another encapsulation.",
	},
	DropTunnelLabelStack: {
		"TUNNEL_LABEL_STACK",
		"A tunnel packet has more than one MPLS label.",
		"Configure the sender not to put a transport label below the tunnel.",
	},
	DropTunnelTTL: {
		"TUNNEL_TTL",
		"A tunnel packet has an MPLS label whose time to live is 0.",
		"A packet goes round in circles between label switches, or the sender does not set the field: capture on the underlay.",
	},
	DropTunnelLabel: {
		"TUNNEL_LABEL",
		"A tunnel packet has an MPLS label that this node has not given out, or no longer.",
		"A few after an interface was removed are normal; if they go on, the sender's routes are old: compare them with `vrctl get vmi` here.",
	},
	DropTunnelVNIFlag: {
		"TUNNEL_VNI_FLAG",
		"A VXLAN packet has no I flag, so its VNI means nothing (RFC 7348 §5).",
		"Look at the sender: VXLAN-GPE and other dialects are not spoken here.",
	},
	DropTunnelVNI: {
		"TUNNEL_VNI",
		"A VXLAN packet has a network identifier that this node does not have.",
		"Compare the virtual network's VNI on both nodes; a few after a network was removed are normal.",
	},
	DropTunnelPayload: {
		"TUNNEL_PAYLOAD",
		"What a tunnel carries is neither IPv4 nor IPv6.",
		"Harmless when slow and steady; otherwise capture the uplink to see which protocol it is.",
	},
	DropTunnelGroup: {
		"TUNNEL_GROUP",
		"A VXLAN packet carries an IP packet to a multicast or broadcast MAC address for a network that does not bridge.",
		"Set `bridging: true` on the VirtualNetwork if its workloads are to have broadcast and multicast; otherwise leave this node out of the sender's flood list.",
	},
	DropTunnelSourceMAC: {
		"TUNNEL_SOURCE_MAC",
		"A VXLAN packet carries a frame whose source MAC is that of a workload on this node, or the router's on a frame that no router sends.",
		"Somebody on the sending node uses another's MAC, two workloads have the same one, or frames go round between two nodes: find the node by its outer source in a capture of the uplink.",
	},
	DropTunnelECN: {
		"TUNNEL_ECN",
		"The underlay marked congestion on a packet whose ends do not know ECN, so that dropping it is the only way to tell them (RFC 6040 §4.2).",
		"The links between the nodes are congested; the sender should not have marked the tunnel ECN-capable.",
	},
	DropTunnelNested: {
		"TUNNEL_NESTED",
		"A tunnel carries a tunnel packet to this node's own address.",
		"Somebody routes the underlay through the overlay, or tries to get past the check of peers: look at who sends it.",
	},
	DropTunnelForged: {
		"TUNNEL_FORGED",
		"A workload's connection would leave as a tunnel packet from this node's address, which the other nodes would believe.",
		"Look at the workload: it tries to get into networks that are not its own, or speaks VXLAN or MPLS over UDP to something outside, for which it needs an address of its own.",
	},
	DropTunnelSource: {
		"TUNNEL_SOURCE",
		"A packet that came through a tunnel claims to come from an address that is on this node.",
		"A workload has just moved here and the other node does not know yet, or somebody forges it: compare the routes of both nodes.",
	},
	DropTunnelDestination: {
		"TUNNEL_DESTINATION",
		"A packet that came through a tunnel is for an address that the interface with its label neither has nor serves.",
		"The sender's routes are wrong or old, or a floating IP is not bound to that interface here: compare `vrctl get fip` of both nodes.",
	},
	DropTunnelAnswer: {
		"TUNNEL_ANSWER",
		"Out of a tunnel came the answer of a service to a connection that this node does not know.",
		"A few after a restart or a timeout are normal, the client's next packet opens the session again; if they go on, the client is silent: let it use keepalives.",
	},
	DropTunnelTransit: {
		"TUNNEL_TRANSIT",
		"A packet that came through a tunnel would have to go on to another node or out to a gateway.",
		"The sender's routes are wrong or old: traffic goes straight to the node that has the address.",
	},
	DropTunnelReturn: {
		"TUNNEL_RETURN",
		"There is no way back to where a connection from another node came from: no route, and its node has none for the rest.",
		"Let the control plane give the peer a return tunnel, or the network a route to the source.",
	},
	DropTunnelGone: {
		"TUNNEL_GONE",
		"The tunnel that the route or the connection leads to is not there any more, or cannot be: it has no encapsulation or lacks the uplink.",
		"Expected for a moment after a workload left another node; otherwise compare the tunnels of the route with `vrctl status`.",
	},
	DropPeerDown: {
		"PEER_DOWN",
		"The node behind the tunnel is down.",
		"Look at that node; what it served goes to other members by itself where there are any.",
	},
	DropNeighborUnresolved: {
		"NEIGHBOR_UNRESOLVED",
		"The MAC address of the next hop on the uplink is not known.",
		"A few are normal when a flow is the first to a host on the uplink's own link: the kernel is asked to find it. If it stays, `ip neighbour` on the node shows whether the gateway, the node or the host answers ARP or neighbour discovery; one port may ask for 10 hosts a second.",
	},
	DropNeighborTable: {
		"NEIGHBOR_TABLE",
		"More hosts and gateways on the uplink's link have opened connections than can be told apart.",
		"The link should be routed, with few gateways; if it is, somebody forges source MAC addresses there.",
	},
	DropUplinkLink: {
		"UPLINK_LINK",
		"ARP or neighbour discovery on the uplink, which the node's kernel answers, or in a tunnel, where nobody does.",
		"Nothing: the kernel has its own copy; in a tunnel, let the sender answer for remote addresses itself.",
	},
	DropUplinkSource: {
		"UPLINK_SOURCE",
		"A packet from outside claims to come from an address that is on this node.",
		"Somebody on the underlay forges it, or has the same address: look for who sends it.",
	},
	DropUplinkDestination: {
		"UPLINK_DESTINATION",
		"A packet from outside is neither for this node nor for a floating IP.",
		"Whoever routes it here is wrong, or a floating IP has gone: look at the routes of the gateway.",
	},

	// Bridging.
	DropBridgeUnknownMAC: {
		"BRIDGE_UNKNOWN_MAC",
		"In a network that bridges, the frame is for a MAC address that no interface of the network here and no Route of it has, or that is where the frame came from. Unknown unicast is not flooded, and nothing is learned from frames.",
		"Add a Route with macAddress for it, or correct the one there is; harmless for a moment after a workload has gone, until its neighbours ask again.",
	},
	DropFloodIsolated: {
		"FLOOD_ISOLATED",
		"The workload sent broadcast or multicast, and a SecurityPolicy selects it for egress. No rule can name who would get it.",
		"Nothing, if that is meant; otherwise take the workload out of the policies with egress, or have it send unicast.",
	},
	DropFloodNobody: {
		"FLOOD_NOBODY",
		"Broadcast, multicast or a question for an unknown address in a network that bridges, and nobody is there to get it: no other interface on this node that may, no other node in the flood list.",
		"Harmless, if the workload is alone; otherwise add the network's Route with flood, or look at the SecurityPolicies that select the others for ingress.",
	},
	DropFloodLimit: {
		"FLOOD_LIMIT",
		"Broadcast and multicast of this interface, or of other nodes into one network, would have made more than 50,000 copies a second.",
		"Look for a loop or a broadcast storm in the sender; a stream to many receivers is better sent as unicast.",
	},

	// Whether it may.
	DropNetworkPolicy: {
		"NETWORK_POLICY",
		"No NetworkPolicy between the two networks passes the packet, or one denies it.",
		"`vrctl explain` names the deciding rule; add a PASS rule for the networks, protocol and port if the traffic is meant.",
	},
	DropSecurityEgress: {
		"SECURITY_EGRESS",
		"A SecurityPolicy of tier NAMESPACE selects the sending workload for egress and no rule allows this peer and port, or one of tier ADMIN or BASELINE denies it.",
		"`vrctl explain` names the rule and its tier; add an egress rule if the traffic is meant (DNS is often forgotten).",
	},
	DropSecurityIngress: {
		"SECURITY_INGRESS",
		"A SecurityPolicy of tier NAMESPACE selects the receiving workload for ingress and no rule allows this peer and port, or one of tier ADMIN or BASELINE denies it.",
		"`vrctl explain` names the rule and its tier; add an ingress rule if the traffic is meant.",
	},

	// Floating IPs and NAT.
	DropFloatingIPPort: {
		"FLOATING_IP_PORT",
		"The floating IP has port mappings, and none for this protocol and port; the client was refused.",
		"Add the port to floatingIpPortMappings, or correct the port in the client.",
	},
	DropFloatingIPNoMember: {
		"FLOATING_IP_NO_MEMBER",
		"The floating IP maps the port, but has no member that may take a new connection; the client was refused.",
		"See the members with `vrctl get fip NAME -o wide`: start the backends or their readiness probes, or add members.",
	},
	DropFloatingIPNoLocalMember: {
		"FLOATING_IP_NO_LOCAL_MEMBER",
		"The floating IP has traffic policy LOCAL for this sender and members on other nodes only; the client is not refused, because another node would serve it.",
		"Send the client to a node with members (health check, announcements), place a member here, or set the traffic policy to CLUSTER.",
	},
	DropFloatingIPSource: {
		"FLOATING_IP_SOURCE",
		"The client's address is outside the floating IP's sourceRanges.",
		"Add the client's prefix to sourceRanges if it is meant to reach the service.",
	},
	DropFloatingIPDirection: {
		"FLOATING_IP_DIRECTION",
		"The floating IP has direction EGRESS, so nobody may connect to it.",
		"Set the direction to INGRESS or BOTH if connections are meant to come in.",
	},
	DropFloatingIPFamily: {
		"FLOATING_IP_FAMILY",
		"The chosen member has no address of the packet's family (IPv4 or IPv6).",
		"Give the member's interface an address of that family, or bind the floating IP to members that have one.",
	},
	DropMemberGone: {
		"MEMBER_GONE",
		"The interface of the member that holds this connection no longer exists.",
		"Expected after a backend was removed: the client has to connect again and gets another member.",
	},
	DropNATPorts: {
		"NAT_PORTS",
		"Source translation found no free port: all of the Fabric's snatPorts are in use for this protocol, or those that would tell this connection from others to the same destination.",
		"Widen Fabric spec.snatPorts, lower the flowQuota of interfaces that hold many, or let idle connections close sooner; `vrctl flow list --dst ADDRESS` shows who holds them.",
	},
	DropNATShare: {
		"NAT_SHARE",
		"The workload has a quarter of the node's translated source ports, and three quarters of them are in use; the rest is for others.",
		"Let the workload reuse its connections, give it a network of its own with a floating IP, or widen Fabric spec.snatPorts.",
	},
	DropNATProtocol: {
		"NAT_PROTOCOL",
		"Other addresses would break the protocol: its checksum or signature covers them (DCCP, UDP-Lite, AH).",
		"Reach the workload by its own address with this protocol.",
	},
	DropNATPortless: {
		"NAT_PORTLESS",
		"The connection would leave with the node's address, which workloads share, and has no port or identifier to tell its answers by: not TCP, UDP, SCTP or an ICMP echo request.",
		"Give the workload an address that is routed outside, or a FloatingIP of its own with direction EGRESS; or tunnel the protocol in UDP.",
	},
	DropNATNoAddress: {
		"NAT_NO_ADDRESS",
		"The connection would leave with the node's address, and the node has none of the family; the sender was told that there is no route.",
		"Add an address of the family to Fabric spec.vhost0.addresses, or give the network no subnet of it.",
	},
	DropNATWithdrawn: {
		"NAT_WITHDRAWN",
		"The connection had left with a node address as its source, and the network's fabricSnat or that address is gone; the connection has ended.",
		"Expected after the change: the workload has to connect again.",
	},

	// Sessions.
	DropFlowTableFull: {
		"FLOW_TABLE_FULL",
		"The flow table is full, and established sessions are never evicted, so the new one was refused.",
		"`vrctl status` shows the table; find who fills it with `vrctl flow list`, give that interface a flow quota, or raise the table size.",
	},
	DropFlowQuota: {
		"FLOW_QUOTA",
		"The interface holds as many sessions as its flow quota allows.",
		"A scan or flood in the workload, or a busy program: look at `vrctl flow list --vmi VMI`, then stop it or raise the quota.",
	},
	DropTCPOutOfWindow: {
		"TCP_OUT_OF_WINDOW",
		"A TCP segment, often an RST, lies outside the connection's window, so the peers never agreed to it (RFC 5961 §3).",
		"A few after a workload restarts are normal; many are blind reset attempts or a path that reorders by whole windows.",
	},
	DropTCPNoSession: {
		"TCP_NO_SESSION",
		"A TCP segment that cannot open a connection (a reset, or an answer of a service) belongs to no session.",
		"A few after a restart or a timeout are normal, the client's next packet opens the session again; if connections hang, compare the TCP timeouts with `vrctl status`.",
	},

	// The way out.
	DropTTL: {
		"TTL",
		"The TTL or hop limit ran out here; the sender was told (RFC 1812 §5.3.1).",
		"Normal for traceroute; otherwise packets go round in circles between this router and another: compare the routes of both.",
	},
	DropMTU: {
		"MTU",
		"The packet is longer than the MTU of the output port and must not be fragmented; the sender was told (RFC 1191, RFC 8201).",
		"Normal once per connection; if connections hang, the sender ignores the ICMP error: let it in there, or lower the sender's MTU.",
	},
	DropOutputGone: {
		"OUTPUT_GONE",
		"The output port is not attached.",
		"Start the workload, or attach its TAP: `vrctl get vmi` shows which interfaces have no device.",
	},
	DropOutputFull: {
		"OUTPUT_FULL",
		"The output device's queue was full: the receiver reads more slowly than others send to it.",
		"Give the receiving workload CPU or queues (tap.queues); short bursts are normal, TCP adapts.",
	},
	DropOutputDown: {
		"OUTPUT_DOWN",
		"The output device is down or has vanished.",
		"Set the link up in the workload's namespace, or restart the workload; the port is attached again by itself.",
	},
	DropOutputRejected: {
		"OUTPUT_REJECTED",
		"The output device refused the frame for its length or offload metadata.",
		"Compare the interface's MTU with that of the device; if they agree, report a bug with a capture of the port.",
	},
	DropNoBuffer: {
		"NO_BUFFER",
		"The router had no free buffer for a packet it had to make: a segment, a fragment or an answer.",
		"A burst of work that only this router can do; take offloads that force segmentation off the ports that lack them, or report it if it goes on.",
	},
	DropWorkerPanic: {
		"WORKER_PANIC",
		"The program failed on this packet, dropped it and went on.",
		"This is a bug: the log has the stack and the packet's bytes; please report both.",
	},
}
