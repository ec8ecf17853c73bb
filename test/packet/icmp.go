package packet

import (
	"encoding/binary"
	"fmt"
	"net"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// kind is an ICMP message by name, with its type and code in both families.
type kind struct {
	name   string
	v4, v6 [2]uint8
}

const none = 255

var kinds = []kind{
	{"echo-request", [2]uint8{8, 0}, [2]uint8{128, 0}},
	{"echo-reply", [2]uint8{0, 0}, [2]uint8{129, 0}},
	{"time-exceeded", [2]uint8{11, 0}, [2]uint8{3, 0}},
	{"reassembly-exceeded", [2]uint8{11, 1}, [2]uint8{3, 1}},
	{"net-unreachable", [2]uint8{3, 0}, [2]uint8{1, 0}},
	{"host-unreachable", [2]uint8{3, 1}, [2]uint8{1, 3}},
	{"protocol-unreachable", [2]uint8{3, 2}, [2]uint8{4, 1}},
	{"port-unreachable", [2]uint8{3, 3}, [2]uint8{1, 4}},
	{"frag-needed", [2]uint8{3, 4}, [2]uint8{none, 0}},
	{"too-big", [2]uint8{none, 0}, [2]uint8{2, 0}},
	{"admin-prohibited", [2]uint8{3, 13}, [2]uint8{1, 1}},
	{"parameter-problem", [2]uint8{12, 0}, [2]uint8{4, 0}},
	{"redirect", [2]uint8{5, 1}, [2]uint8{137, 0}},
	{"timestamp", [2]uint8{13, 0}, [2]uint8{none, 0}},
	{"source-quench", [2]uint8{4, 0}, [2]uint8{none, 0}},
}

// kindName names a type and code.
func kindName(six bool, typ, code uint8) string {
	for _, k := range kinds {
		if !six && k.v4 == [2]uint8{typ, code} || six && k.v6 == [2]uint8{typ, code} {
			return k.name
		}
	}
	return fmt.Sprintf("type=%d/%d", typ, code)
}

// isError reports whether a type is an error, which quotes a packet.
func isError(six bool, typ uint8) bool {
	if six {
		return typ < 128
	}
	return typ == 3 || typ == 4 || typ == 5 || typ == 11 || typ == 12
}

// icmp makes an ICMP message of either family.
func (s *Spec) icmp(mac net.HardwareAddr, network gopacket.NetworkLayer) ([]byte, layers.IPProtocol) {
	six := s.Src.Is6()
	if s.Proto == "nd" {
		return s.neighbourMessage(mac, network), layers.IPProtocolICMPv6
	}
	var typ, code uint8 = none, 0
	for _, k := range kinds {
		if s.has(k.name) {
			typ, code = k.v4[0], k.v4[1]
			if six {
				typ, code = k.v6[0], k.v6[1]
			}
		}
	}
	if typ == none {
		panic(fmt.Sprintf("icmp: none of %v is a message of this family", s.Words))
	}
	rest := make([]byte, 4)
	body := Payload(0, s.number("len", max(s.number("of", 0)-8, 0)))
	switch {
	case isError(six, typ):
		binary.BigEndian.PutUint32(rest, uint32(s.number("mtu", 0)))
		if s.Quote != nil {
			body = s.Quote.ip(mac)
			if n := s.number("quote", len(body)); n < len(body) {
				body = body[:n]
			}
		}
	default:
		binary.BigEndian.PutUint16(rest, uint16(s.number("id", 0)))
		binary.BigEndian.PutUint16(rest[2:], uint16(s.number("seq", 0)))
	}
	if six {
		l := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, code)}
		must(l.SetNetworkLayerForChecksum(network))
		return serialize(l, gopacket.Payload(append(rest, body...))), layers.IPProtocolICMPv6
	}
	l := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, code), Id: binary.BigEndian.Uint16(rest), Seq: binary.BigEndian.Uint16(rest[2:])}
	return serialize(l, gopacket.Payload(body)), layers.IPProtocolICMPv4
}

// neighbourMessage makes a neighbour solicitation or advertisement.
func (s *Spec) neighbourMessage(mac net.HardwareAddr, network gopacket.NetworkLayer) []byte {
	target := net.IP(s.Dst.AsSlice())
	typ, option := uint8(layers.ICMPv6TypeNeighborSolicitation), layers.ICMPv6OptSourceAddress
	var message gopacket.SerializableLayer
	if s.has("is-at") {
		typ, option, mac = layers.ICMPv6TypeNeighborAdvertisement, layers.ICMPv6OptTargetAddress, s.mac("mac", mac)
	}
	options := layers.ICMPv6Options{{Type: option, Data: s.mac("claim", mac)}}
	if typ == layers.ICMPv6TypeNeighborSolicitation {
		message = &layers.ICMPv6NeighborSolicitation{TargetAddress: target, Options: options}
	} else {
		message = &layers.ICMPv6NeighborAdvertisement{Flags: 0x60, TargetAddress: target, Options: options}
	}
	l := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, 0)}
	must(l.SetNetworkLayerForChecksum(network))
	return serialize(l, message)
}
