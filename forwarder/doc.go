// Package forwarder moves the packets. It answers one question, where does this
// frame go now, from a compiled Snapshot and the flow table, and it never asks
// anybody else: not the agent, not a file, not a clock.
//
// Read the files in this order:
//
//	forwarder.go   what the control path calls: New, Publish, Run; ageing
//	attach.go control.go   ports and sessions, as the control path changes them
//	snapshot.go peer.go   what the control path compiled: interfaces, VRFs, floating IPs, policy; other nodes
//	drop.go drops.go   every way a packet can end, one reason each
//	worker.go loop.go patience.go   the loop: read a batch, process it, flush, look again or sleep
//	process.go packet.go   the life of a batch, top to bottom
//	uplink.go unwrap.go   what comes in by the uplink: out of its tunnel, or the node's own
//	quick.go edge.go   packets of known sessions, nearly all there are
//	classify.go fault.go   what kind of packet is this, and may its sender send it
//	decide.go explain.go   the slow path: route, next hop, member, policy; told to an operator
//	member.go      the member of a floating IP: chosen, and kept
//	arrival.go     connections from other nodes and from outside, and the way back
//	install.go     a decision becomes a session, or ends one; policylog.go notes it
//	output.go rewrite.go   TTL, MTU and NAT, checksums by difference
//	exit.go tunnel.go mss.go neighbor.go   the ways out: a port, a tunnel, a neighbor on the uplink's link
//	checksum.go segment.go split.go   what an output port cannot do itself
//	coalesce.go    a batch's frames of one flow leave as one
//	fragment.go datagram.go   fragments find their datagram's ports
//	arp.go nd.go icmp.go icmperror.go limit.go   what the router itself answers
//	icmptransit.go   ICMP errors about sessions, translated
//	snat.go          workloads that leave by the node's address
//	counters.go    what is counted
//
// A Worker owns its frames, counters and fragment table. A Snapshot never
// changes after Publish. A frame's bytes belong to the worker until Queue.Write
// returns; nothing keeps a reference to them. No function on the packet path
// blocks, allocates, logs, takes a lock of the Go runtime or reads the clock.
package forwarder
