package bench

import (
	"encoding/binary"
	"math/bits"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/port"
)

// size is how long the packets of a traffic are.
type size uint8

const (
	small size = iota // 64 B on the wire, 60 without the FCS; 62 for IPv6, whose headers need as many
	imix              // 7 : 4 : 1 of 64, 594 and 1518 B
	super             // one 64 KB TCP superpacket of 45 segments, as a TAP hands it over
)

// kind is where packets go to and what becomes of them.
type kind uint8

const (
	toService    kind = iota // to the floating IPs, UDP
	toServiceTCP             // the same, TCP
	toPod                    // to a member's own address, without translation
	toPodTCP                 // the same, TCP
	toRoutes                 // to every one of the routes
	spoofed                  // from an address that the client does not have
	unrouted                 // to where no route leads
	denied                   // to a pod's port that no policy opens
)

// traffic returns packets of a kind in a world.
func (w world) traffic(k kind) traffic {
	t := traffic{six: w.six, source: sources, destination: services, destinations: uint32(w.floating), port: servicePort}
	switch k {
	case toServiceTCP:
		t.tcp = true
	case toPod, toPodTCP:
		t.tcp = k == toPodTCP
		t.destination, t.destinations, t.port = pods, 1, podPort
	case toRoutes:
		t.destination, t.destinations, t.shift, t.port = routes, uint32(w.routes), routeShift, podPort
	case spoofed:
		t.source = foreign
	case unrouted:
		t.destination, t.destinations = nowhere, 1
	case denied:
		t.destination, t.destinations, t.port = pods, 1, deniedPort
	}
	return t
}

// fresh is the same traffic from addresses that standing sessions do not have.
func (t traffic) fresh() traffic {
	t.source = freshSources
	return t
}

// traffic describes packets of many flows. Flow i comes from the i'th source
// address and port and goes to a destination that i selects. It is comparable.
type traffic struct {
	six         bool
	tcp         bool // acknowledgements, instead of UDP
	size        size
	source      uint32 // low 32 bits of the first source address
	destination uint32 // and of the first destination
	port        uint16 // destination port

	destinations uint32 // how many there are
	shift        uint8  // they lie 1<<shift apart
}

// portBits are the bits of a flow's number that select its source port; the
// others select its address.
const portBits = 14

// place returns what differs from flow to flow: the low 32 bits of both
// addresses, and the source port.
func (t *traffic) place(flow uint32) (src, dst uint32, srcPort uint16) {
	src = t.source + flow>>portBits
	dst = t.destination + t.pick(flow)<<t.shift
	return src, dst, uint16(1024 + flow&(1<<portBits-1))
}

// pick spreads flows evenly over the destinations.
func (t *traffic) pick(flow uint32) uint32 {
	hi, _ := bits.Mul32(flow*0x9e3779b1, t.destinations)
	return hi
}

// key returns the key of a flow's packets.
func (t *traffic) key(flow uint32) flowtable.Key {
	src, dst, srcPort := t.place(flow)
	return flowtable.Key{
		Src: address(t.six, src), Dst: address(t.six, dst), SrcPort: srcPort, DstPort: t.port,
		VRF: clientVRF, Proto: t.proto(),
	}
}

func (t *traffic) proto() uint8 {
	if t.tcp {
		return header.ProtoTCP
	}
	return header.ProtoUDP
}

// headerBytes are copied into each frame: enough for the longest headers, IPv6
// and TCP.
const headerBytes = 80

// shape is one packet length of a traffic: the headers of flow 0 with nothing in
// the fields that differ, and their sums.
type shape struct {
	header  [headerBytes]byte
	length  int
	offload port.Offload
	ipSum   uint32 // of the IPv4 header
	l4Sum   uint32 // of pseudo-header and transport header
}

// Payload bytes behind the headers; frames are as long as they would be without FCS.
const (
	superSegment = 1428 // IPv6 has room for 1440
	superPayload = 45 * superSegment
)

// frames returns the frame lengths of a size, in the order of a round of 12.
func (s size) frames(overhead int) [12]int {
	short := max(60, overhead)
	switch s {
	case imix:
		return [12]int{short, 590, short, short, 590, short, 1514, short, 590, short, 590, short}
	case super:
		short = overhead + superPayload
	}
	var all [12]int
	for i := range all {
		all[i] = short
	}
	return all
}

// overhead is the length of the headers.
func (t *traffic) overhead() int {
	n := header.EthernetLength + header.IPv4MinimumLength + header.UDPLength
	if t.six {
		n += header.IPv6Length - header.IPv4MinimumLength
	}
	if t.tcp {
		n += header.TCPMinimumLength - header.UDPLength
	}
	return n
}

// shapeOf builds the headers of frames of a length.
func (t *traffic) shapeOf(length int) shape {
	s := shape{length: length}
	b := s.header[:]
	src, dst := address(t.six, 0), address(t.six, 0)
	header.PutEthernet(b, header.EthernetFields{Source: clientMAC, Destination: forwarder.RouterMAC, Type: t.etherType()})
	fields := header.IPFields{Source: src, Destination: dst, Proto: t.proto(), TTL: 64, DontFragment: true}
	fields.PayloadLength = length - header.EthernetLength - header.IPv4MinimumLength
	if t.six {
		fields.PayloadLength = length - header.EthernetLength - header.IPv6Length
	}
	l4 := header.EthernetLength + header.PutIP(b[header.EthernetLength:], &fields)
	binary.BigEndian.PutUint16(b[l4+2:], t.port)
	if t.tcp {
		tcp := header.TCP(b[l4:])
		header.PutTCP(tcp[:header.TCPMinimumLength], &src, &dst, header.TCPFields{DstPort: t.port, Seq: 1, Ack: 1, Window: 65535, Flags: header.TCPAck})
		tcp.SetChecksum(0)
	} else {
		header.UDP(b[l4:]).SetLength(fields.PayloadLength)
	}
	s.l4Sum = uint32(header.PseudoHeader(&src, &dst, t.proto(), fields.PayloadLength))
	if t.size == super {
		s.offload = port.Offload{
			Flags: port.NeedsCsum, GSOType: port.GSOTCPv4, GSOSize: superSegment,
			HdrLen: uint16(t.overhead()), CsumStart: uint16(l4), CsumOffset: 16,
		}
		if t.six {
			s.offload.GSOType = port.GSOTCPv6
		}
	} else {
		s.l4Sum += uint32(header.Checksum(b[l4:t.overhead()], 0))
	}
	if !t.six {
		ip := header.IPv4(b[header.EthernetLength:])
		ip.SetChecksum(0)
		s.ipSum = uint32(header.Checksum(ip[:header.IPv4MinimumLength], 0))
	}
	return s
}

func (t *traffic) etherType() uint16 {
	if t.six {
		return header.EtherTypeIPv6
	}
	return header.EtherTypeIPv4
}
