package packet

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net"
	"strconv"
	"strings"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// Link is the Ethernet addresses of a frame where its line gives none.
type Link struct{ Src, Dst net.HardwareAddr }

// Build makes the frame of a line.
func Build(line string, link Link) (frame []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%q: %v", line, r)
		}
	}()
	s, err := Parse(line)
	if err != nil {
		return nil, err
	}
	eth := &layers.Ethernet{SrcMAC: s.mac("smac", link.Src), DstMAC: s.mac("dmac", link.Dst), EthernetType: layers.EthernetTypeIPv4}
	var body []byte
	switch {
	case s.Proto == "arp":
		eth.EthernetType = layers.EthernetTypeARP
		if _, ok := s.Options["dmac"]; !ok && s.has("who-has") {
			eth.DstMAC = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		}
		body = s.arp(eth.SrcMAC)
	default:
		if s.Src.Is6() {
			eth.EthernetType = layers.EthernetTypeIPv6
		}
		body = s.ip(eth.SrcMAC)
	}
	if s.Proto == "nd" && s.has("who-has") && s.Options["dmac"] == "" {
		a := solicited(s.Dst.AsSlice())
		eth.DstMAC = net.HardwareAddr{0x33, 0x33, a[12], a[13], a[14], a[15]}
	}
	frame = serialize(eth, gopacket.Payload(body))
	if cut := s.number("cut", 0); cut > 0 {
		frame = frame[:len(frame)-cut]
	}
	return frame, nil
}

func serialize(ls ...gopacket.SerializableLayer) []byte {
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		panic(err)
	}
	return append([]byte(nil), buf.Bytes()...)
}

func (s *Spec) arp(mac net.HardwareAddr) []byte {
	a := &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
		Operation: layers.ARPRequest, SourceHwAddress: s.mac("claim", mac), SourceProtAddress: s.Src.AsSlice(),
		DstHwAddress: make([]byte, 6), DstProtAddress: s.Dst.AsSlice(),
	}
	if s.has("is-at") {
		a.Operation, a.SourceHwAddress = layers.ARPReply, s.mac("mac", nil)
	}
	return serialize(a)
}

// solicited is the solicited-node group of an address (RFC 4291 §2.7.1).
func solicited(addr []byte) []byte {
	a := net.ParseIP("ff02::1:ff00:0").To16()
	copy(a[13:], addr[13:])
	return a
}

// ip makes the IP packet with everything inside.
func (s *Spec) ip(mac net.HardwareAddr) []byte {
	dst := net.IP(s.Dst.AsSlice())
	if s.Proto == "nd" && s.has("who-has") {
		dst = solicited(s.Dst.AsSlice())
	}
	whole, proto := s.transport(mac, dst)
	if s.Options["sum"] == "bad" {
		whole[checksumAt(proto)] ^= 0x55
	}
	if _, ok := s.Options["frag"]; ok {
		return s.fragment(whole, proto)
	}
	if s.Src.Is4() {
		ip := s.ipv4(proto)
		return s.damage(serialize(ip, gopacket.Payload(whole)))
	}
	return s.damage(serialize(s.ipv6(proto, dst, whole)...))
}

// damage spoils the IP header where the line asks for it.
func (s *Spec) damage(b []byte) []byte {
	if s.Options["ipsum"] == "bad" {
		b[10] ^= 0x55
	}
	if n := s.number("iplen", 0); n > 0 { // total or payload length
		at := 2
		if s.Src.Is6() {
			at = 4
		}
		binary.BigEndian.PutUint16(b[at:], uint16(n))
	}
	return b
}

func (s *Spec) ipv4(proto layers.IPProtocol) *layers.IPv4 {
	ip := &layers.IPv4{
		Version: 4, TTL: uint8(s.number("ttl", 64)), Protocol: proto, TOS: uint8(s.number("tos", 0)), Id: uint16(s.number("id", 0)),
		SrcIP: s.Src.AsSlice(), DstIP: s.Dst.AsSlice(),
	}
	if s.has("df") {
		ip.Flags = layers.IPv4DontFragment
	}
	switch s.Options["opt"] {
	case "record-route":
		ip.Options = []layers.IPv4Option{{OptionType: 7, OptionLength: 7, OptionData: []byte{4, 0, 0, 0, 0}}, {OptionType: 0}}
	case "source-route":
		ip.Options = []layers.IPv4Option{{OptionType: 131, OptionLength: 7, OptionData: []byte{4, 10, 0, 0, 1}}, {OptionType: 0}}
	case "router-alert":
		ip.Options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}}
	}
	return ip
}

func (s *Spec) ipv6(proto layers.IPProtocol, dst net.IP, whole []byte) []gopacket.SerializableLayer {
	hop := 64
	if s.Proto == "nd" {
		hop = 255
	}
	ip := &layers.IPv6{
		Version: 6, HopLimit: uint8(s.number("ttl", hop)), NextHeader: proto, TrafficClass: uint8(s.number("tos", 0)),
		SrcIP: s.Src.AsSlice(), DstIP: dst,
	}
	var ext []byte
	switch s.Options["ext"] {
	case "hop-by-hop":
		ext, ip.NextHeader = []byte{byte(proto), 0, 1, 4, 0, 0, 0, 0}, layers.IPProtocolIPv6HopByHop
	case "destination":
		ext, ip.NextHeader = []byte{byte(proto), 0, 1, 4, 0, 0, 0, 0}, layers.IPProtocolIPv6Destination
	case "routing-0":
		ext, ip.NextHeader = []byte{byte(proto), 0, 0, 0, 0, 0, 0, 0}, layers.IPProtocolIPv6Routing
	}
	return []gopacket.SerializableLayer{ip, gopacket.Payload(append(ext, whole...))}
}

// fragment cuts one fragment, "ID:OFFSET[+]LENGTH", out of a datagram.
func (s *Spec) fragment(whole []byte, proto layers.IPProtocol) []byte {
	id, place, _ := strings.Cut(s.Options["frag"], ":")
	offset, length, more := strings.Cut(place, "+")
	if !more {
		offset, length, _ = strings.Cut(place, "-")
	}
	from, n, ident := atoi(offset), atoi(length), atoi(id)
	part := whole[from:min(from+n, len(whole))]
	if s.Src.Is4() {
		ip := s.ipv4(proto)
		ip.Id, ip.FragOffset = uint16(ident), uint16(from/8)
		if more {
			ip.Flags |= layers.IPv4MoreFragments
		}
		return s.damage(serialize(ip, gopacket.Payload(part)))
	}
	h := make([]byte, 8)
	h[0] = byte(proto)
	field := uint16(from)
	if more {
		field |= 1
	}
	binary.BigEndian.PutUint16(h[2:], field)
	binary.BigEndian.PutUint32(h[4:], uint32(ident))
	ip := &layers.IPv6{
		Version: 6, HopLimit: uint8(s.number("ttl", 64)), NextHeader: layers.IPProtocolIPv6Fragment,
		SrcIP: s.Src.AsSlice(), DstIP: s.Dst.AsSlice(),
	}
	return s.damage(serialize(ip, gopacket.Payload(append(h, part...))))
}

func atoi(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	return n
}

// checksumAt is where a transport protocol keeps its checksum.
func checksumAt(proto layers.IPProtocol) int {
	switch proto {
	case layers.IPProtocolTCP:
		return 16
	case layers.IPProtocolUDP:
		return 6
	case layers.IPProtocolSCTP:
		return 8
	}
	return 2
}

// transport makes the part behind the IP header.
func (s *Spec) transport(mac net.HardwareAddr, dst net.IP) ([]byte, layers.IPProtocol) {
	var network gopacket.NetworkLayer = &layers.IPv4{SrcIP: s.Src.AsSlice(), DstIP: dst, Protocol: layers.IPProtocolTCP}
	if s.Src.Is6() {
		network = &layers.IPv6{SrcIP: s.Src.AsSlice(), DstIP: dst}
	}
	switch s.Proto {
	case "tcp":
		l := s.tcp()
		must(l.SetNetworkLayerForChecksum(network))
		data := gopacket.Payload(Payload(0, s.number("len", 0)))
		return serialize(l, data), layers.IPProtocolTCP
	case "udp":
		l := &layers.UDP{SrcPort: layers.UDPPort(s.SrcPort), DstPort: layers.UDPPort(s.DstPort)}
		if v4, ok := network.(*layers.IPv4); ok {
			v4.Protocol = layers.IPProtocolUDP
		}
		must(l.SetNetworkLayerForChecksum(network))
		b := serialize(l, gopacket.Payload(Payload(0, s.number("len", s.number("of", 8)-8))))
		if s.Options["sum"] == "none" {
			b[6], b[7] = 0, 0
		}
		return b, layers.IPProtocolUDP
	case "sctp":
		return s.sctp(), layers.IPProtocolSCTP
	case "icmp", "nd":
		return s.icmp(mac, network)
	}
	n, err := strconv.Atoi(s.Proto)
	must(err)
	return Payload(0, s.number("len", 8)), layers.IPProtocol(n)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func (s *Spec) tcp() *layers.TCP {
	l := &layers.TCP{
		SrcPort: layers.TCPPort(s.SrcPort), DstPort: layers.TCPPort(s.DstPort),
		Seq: uint32(s.number("seq", 0)), Ack: uint32(s.number("ack", 0)), Window: uint16(s.number("win", 65535)),
	}
	for _, w := range s.Words {
		for _, flag := range strings.Split(w, ",") {
			switch flag {
			case "syn":
				l.SYN = true
			case "ack":
				l.ACK = true
			case "fin":
				l.FIN = true
			case "rst":
				l.RST = true
			case "psh":
				l.PSH = true
			}
		}
	}
	return l
}

// sctp makes a common header with one chunk, and its CRC32c (RFC 9260 §6.8).
func (s *Spec) sctp() []byte {
	b := make([]byte, 12, 64)
	binary.BigEndian.PutUint16(b, s.SrcPort)
	binary.BigEndian.PutUint16(b[2:], s.DstPort)
	binary.BigEndian.PutUint32(b[4:], uint32(s.number("tag", 0)))
	chunk := byte(0) // DATA
	if s.has("init") {
		chunk = 1
	} else if s.has("init-ack") {
		chunk = 2
	}
	data := Payload(0, s.number("len", 16))
	b = append(b, chunk, 3, 0, byte(4+len(data)))
	b = append(b, data...)
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, castagnoli))
	return b
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)
