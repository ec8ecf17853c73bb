//go:build linux

package afpacket

import (
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// What is ours is decided twice in the kernel: by the sockets' filter, which takes
// it, and by the guard, which keeps it from the kernel's own stack. Both are made
// from the one table below, so that a frame has exactly one owner.
//
// Ours: untagged frames to the device's own address whose EtherType is IPv4 or
// IPv6, except what kept lists.

// field is a comparison of one or two bytes of a packet.
type field struct {
	at        uint32 // bytes behind the start of the IP header
	size      int    // 1 or 2
	mask      uint16 // applied before the comparison
	low, high uint16 // inclusive
}

// exception is traffic that stays with the kernel: all fields match.
type exception struct {
	etherType uint16
	fields    []field
}

const (
	etherTypeAt = 12
	ipAt        = 14
)

// kept is what the node's kernel must go on doing for the uplink itself: keep its
// address (DHCP, DHCPv6) and its neighbours (IPv6 neighbour discovery; ARP is not
// IP). Headers are expected where these protocols have them, without IPv4 options
// or IPv6 extension headers.
var kept = [...]exception{
	// DHCP, RFC 2131 section 4.1: UDP to port 67 (server) or 68 (client). A fragment
	// that is not the first has no ports.
	{unix.ETH_P_IP, []field{
		{0, 1, 0xff, 0x45, 0x45}, {9, 1, 0xff, unix.IPPROTO_UDP, unix.IPPROTO_UDP},
		{6, 2, 0x1fff, 0, 0}, {22, 2, 0xffff, 67, 68},
	}},
	// DHCPv6, RFC 8415 section 7.2: UDP to port 546 (client) or 547 (server).
	{unix.ETH_P_IPV6, []field{
		{6, 1, 0xff, unix.IPPROTO_UDP, unix.IPPROTO_UDP}, {42, 2, 0xffff, 546, 547},
	}},
	// Neighbour discovery, RFC 4861 section 4: ICMPv6 types 133 to 137.
	{unix.ETH_P_IPV6, []field{
		{6, 1, 0xff, unix.IPPROTO_ICMPV6, unix.IPPROTO_ICMPV6}, {40, 1, 0xff, 133, 137},
	}},
}

// etherTypes are the protocols that are ours.
var etherTypes = [...]uint16{unix.ETH_P_IP, unix.ETH_P_IPV6}

// wholeFrame is what a filter returns to take a frame uncut.
const wholeFrame = 1<<32 - 1

// takeNothing is the filter of a socket that is not ready.
func takeNothing() []bpf.Instruction { return []bpf.Instruction{bpf.RetConstant{Val: 0}} }

// takeOurs is the filter of a socket at work. A load behind the end of the frame
// ends the filter with 0: such a frame is malformed and nobody's.
func takeOurs() []bpf.Instruction {
	reject := []bpf.Instruction{bpf.RetConstant{Val: 0}}
	// A VLAN tag is not in the frame any more: the kernel keeps it beside.
	program := []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_HOST, SkipTrue: 1}, reject[0],
		bpf.LoadExtension{Num: bpf.ExtVLANTagPresent},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1}, reject[0],
	}
	for _, etherType := range etherTypes {
		var body []bpf.Instruction
		for _, e := range kept {
			if e.etherType == etherType {
				body = append(body, rejectIf(e.fields)...)
			}
		}
		body = append(body, bpf.RetConstant{Val: wholeFrame})
		program = append(program,
			bpf.LoadAbsolute{Off: etherTypeAt, Size: 2},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(etherType), SkipTrue: uint8(len(body))})
		program = append(program, body...)
	}
	return append(program, reject...)
}

// rejectIf ends the filter where all fields match, and goes on behind where not.
func rejectIf(fields []field) []bpf.Instruction {
	const perField = 4
	program := make([]bpf.Instruction, 0, len(fields)*perField+1)
	for i, f := range fields {
		behind := uint8((len(fields)-i-1)*perField + 1) // from this field's end
		program = append(program,
			bpf.LoadAbsolute{Off: ipAt + f.at, Size: f.size},
			bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: uint32(f.mask)},
			bpf.JumpIf{Cond: bpf.JumpLessThan, Val: uint32(f.low), SkipTrue: behind + 1},
			bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: uint32(f.high), SkipTrue: behind})
	}
	return append(program, bpf.RetConstant{Val: 0})
}
