// Package forwarder moves the packets. It answers one question, where does this
// frame go now, from a compiled Snapshot and the flow table, and it never asks
// anybody else: not the agent, not a file, not a clock.
//
// Read the files in this order:
//
//	snapshot.go   what the control path compiled: interfaces, VRFs, floating IPs, policy
//	drop.go       every way a packet can end, one reason each
//	worker.go     the loop: read a batch, process it, flush, sleep
//	process.go    the life of a batch, top to bottom
//	classify.go   what kind of packet is this, and may its sender send it
//	decide.go     the slow path: route, next hop, policy, NAT, member; also Explain
//	install.go    a decision becomes a session
//	rewrite.go    NAT and TTL, checksums by difference
//	output.go     MTU, segmentation, L2 header, the output port's batch
//	fragment.go   fragments find their datagram's ports
//	arp.go nd.go icmp.go icmperror.go   what the router itself answers
//	icmptransit.go   ICMP errors about sessions, translated
//	ager.go       sessions that fell silent leave
//
// A Worker owns its frames, counters and fragment table. A Snapshot never
// changes after Publish. A frame's bytes belong to the worker until Queue.Write
// returns; nothing keeps a reference to them. No function on the packet path
// blocks, allocates, logs, takes a lock of the Go runtime or reads the clock.
package forwarder
