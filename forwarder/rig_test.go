package forwarder

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/policy"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/memory"
	"github.com/vrouter-go/vrouter/nexthop"
)

// rig is a forwarder with in-memory ports, one worker and a clock of its own.
// Frames are built and decoded by gopacket, which knows nothing of our encoder.
type rig struct {
	t     testing.TB
	f     *Forwarder
	nanos int64
	ports map[uint16]*memory.Device
	state *state
	sink  []*port.Frame
}

const portFeatures = port.FeatureCsum | port.FeatureTSO4 | port.FeatureTSO6 | port.FeatureUSO | port.FeatureTunnelGSO

// ringDepth is how many frames a wire holds.
const ringDepth = 256

// state is what a test wants the snapshot to say.
type state struct {
	interfaces []Interface
	vrfs       []map[netip.Prefix]nexthop.Route
	floating   []*FloatingIP
	policies   []policy.NetworkPolicy
	security   []policy.SecurityPolicy
	addresses  []policy.AddressChange
	nodes      map[[16]byte]struct{}
	snat       SNAT
	neighbors  map[[16]byte]nexthop.ID // of OnLinkNextHop
	exits      *nexthop.FIB
	// Of a node among several (pair_test.go).
	uplink   uint16
	tunnels  []Tunnel
	peers    []Peer
	labels   []nexthop.ID
	vnis     map[uint32]uint16
	overlays []Interface // by VRF
	bridges  map[uint16]*Bridge
}

// Networks and VRFs of the standard state. Network ids are VRF + 1.
const (
	fabricVRF, podsVRF, clientVRF    uint16 = 0, 1, 2
	fabricNet, podsNet, clientNet    uint32 = 1, 2, 3
	vhostPort, clientPort            uint16 = 1, 2
	web1Port, web2Port, web3Port     uint16 = 3, 4, 5
	web1ID, web2ID, web3ID, firstMem uint32 = 101, 102, 103, 101
)

const gatewayID = FirstFreeNextHop // Receive
const fipID = FirstFreeNextHop + 1 // the first floating IP; the n'th has fipID+n
const maxFIPs = 16
const vrfID = fipID + maxFIPs // the next hop that looks up in VRF n is vrfID+n
const tunnelID = vrfID + 8    // the n'th tunnel has tunnelID+n

func addr(s string) [16]byte { return netip.MustParseAddr(s).As16() }

func mac(last byte) [6]byte { return [6]byte{2, 0, 0, 0, 0, last} }

// newRig returns a forwarder with vhost0, a client network and a pod network of
// three web servers behind the floating IP 10.96.0.10 / fd00:96::10, 80→8080.
func newRig(t testing.TB) *rig { return newRigWorkers(t, 1) }

// newRigWorkers is newRig with several workers.
func newRigWorkers(t testing.TB, workers int) *rig { return newRigOf(t, workers, standardState()) }

// newRigOf is newRigWorkers with a state of its own.
func newRigOf(t testing.TB, workers int, s *state) *rig {
	r := &rig{t: t, ports: map[uint16]*memory.Device{}, state: s, sink: []*port.Frame{port.NewFrame()}}
	f, err := New(Config{Workers: workers, Sessions: 16384, Seed: [2]uint64{1, 2}, Clock: func() int64 { return r.nanos }})
	if err != nil {
		t.Fatal(err)
	}
	r.f = f
	t.Cleanup(func() {
		for index, dev := range r.ports {
			f.Detach(index)
			dev.Close()
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	r.publish()
	for i := range r.state.interfaces {
		if r.state.interfaces[i].Kind != Absent {
			r.attach(uint16(i), portFeatures)
		}
	}
	r.run()
	for index := range r.ports {
		r.sent(index) // announcements
	}
	return r
}

func standardState() *state {
	s := &state{interfaces: make([]Interface, 6), nodes: map[[16]byte]struct{}{addr("192.0.2.10"): {}, addr("2001:db8::10"): {}}}
	for range 3 {
		s.vrfs = append(s.vrfs, map[netip.Prefix]nexthop.Route{})
	}
	s.port(vhostPort, Host, fabricVRF, fabricNet, "vhost0", "192.0.2.10", "2001:db8::10")
	s.port(clientPort, Workload, clientVRF, clientNet, "client", "203.0.113.7", "2001:db8:113::7")
	s.port(web1Port, Workload, podsVRF, podsNet, "web-1", "10.244.0.11", "fd00:244::11")
	s.port(web2Port, Workload, podsVRF, podsNet, "web-2", "10.244.0.12", "fd00:244::12")
	s.port(web3Port, Workload, podsVRF, podsNet, "web-3", "10.244.0.13", "fd00:244::13")
	for vrf := range s.vrfs {
		for _, g := range []string{"10.244.0.1/32", "fd00:244::1/128", "203.0.113.1/32", "2001:db8:113::1/128"} {
			s.vrfs[vrf][netip.MustParsePrefix(g)] = nexthop.Route{NextHop: gatewayID, Network: podsNet}
		}
	}
	s.fip("web4", "10.96.0.10", false)
	s.fip("web6", "fd00:96::10", true)
	s.policies = []policy.NetworkPolicy{{
		Networks: []uint32{fabricNet, podsNet, clientNet},
		Rules: []policy.NetworkRule{
			{Rule: 300, SrcNetwork: fabricNet, DstNetwork: podsNet, Action: policy.Pass, Both: true},
			{Rule: 301, SrcNetwork: clientNet, DstNetwork: podsNet, Action: policy.Pass, Both: true},
		},
	}}
	return s
}

// port adds an interface and its host routes to every VRF.
func (s *state) port(index uint16, kind InterfaceKind, vrf uint16, network uint32, name string, addrs ...string) {
	itf := Interface{
		Kind: kind, VRF: vrf, Network: network, MTU: 1500, AntiSpoof: kind == Workload, MAC: mac(byte(index)), Name: name,
		Gateway4: addr("10.244.0.1"), Gateway6: addr("fd00:244::1"), Identity: policy.FirstIdentity + uint32(index),
	}
	for _, a := range addrs {
		itf.Sources = append(itf.Sources, AddressRange{Address: addr(a), Bits: 128})
		ip := netip.MustParseAddr(a)
		for v := range s.vrfs {
			s.vrfs[v][netip.PrefixFrom(ip, ip.BitLen())] = nexthop.Route{NextHop: InterfaceNextHop(index), Network: network}
		}
	}
	s.interfaces[index] = itf
}

// fip adds a floating IP over the three web servers, 80→8080 for TCP and UDP,
// and its route to every VRF.
func (s *state) fip(name, address string, six bool) {
	var members []nexthop.Member
	for i := range 3 {
		a := addr("10.244.0.1" + string(rune('1'+i)))
		if six {
			a = addr("fd00:244::1" + string(rune('1'+i)))
		}
		members = append(members, nexthop.Member{
			ID: firstMem + uint32(i), Weight: 1, NextHop: InterfaceNextHop(web1Port + uint16(i)), Address: a, Port: 8080,
			Interface: web1Port + uint16(i),
		})
	}
	group, err := nexthop.NewGroup(members)
	if err != nil {
		panic(err)
	}
	id := uint32(len(s.floating) + 1)
	svc := &Service{ID: id, Group: group, Hash: nexthop.HashAll}
	s.floating = append(s.floating, &FloatingIP{
		ID: id, Name: name, Address: addr(address), Network: podsNet, VRF: podsVRF, Ingress: true,
		Mappings: map[PortKey]*Service{{Proto: 6, Port: 80}: svc, {Proto: 17, Port: 80}: svc, {Proto: 132, Port: 80}: svc},
	})
	ip := netip.MustParseAddr(address)
	for v := range s.vrfs {
		s.vrfs[v][netip.PrefixFrom(ip, ip.BitLen())] = nexthop.Route{NextHop: fipID + nexthop.ID(id-1), Network: podsNet}
	}
}

// members replaces the members of every mapping.
func (s *state) members(t testing.TB, change func([]nexthop.Member) []nexthop.Member) {
	s.floating = append([]*FloatingIP(nil), s.floating...)
	for i, fip := range s.floating {
		next := *fip
		next.Mappings = map[PortKey]*Service{}
		for k, svc := range fip.Mappings {
			var list []nexthop.Member
			for j := range svc.Group.Len() {
				list = append(list, svc.Group.Member(j))
			}
			group, err := nexthop.NewGroup(change(list))
			if err != nil {
				t.Fatal(err)
			}
			changed := *svc
			changed.Group = group
			next.Mappings[k] = &changed
		}
		s.floating[i] = &next
	}
}

// publish compiles the state into a snapshot.
func (r *rig) publish() {
	s := r.state
	hops := append(FixedNextHops(s.uplink), nexthop.NextHop{Kind: nexthop.Receive})
	for i := range maxFIPs {
		hop := nexthop.NextHop{} // discards where there is no such floating IP
		if i < len(s.floating) {
			hop = nexthop.NextHop{Kind: nexthop.FloatingIP, Index: uint32(i)}
		}
		hops = append(hops, hop)
	}
	for vrf := range uint16(tunnelID - vrfID) {
		hops = append(hops, nexthop.NextHop{Kind: nexthop.VRF, VRF: vrf})
	}
	for i := range s.tunnels {
		hops = append(hops, nexthop.NextHop{Kind: nexthop.Tunnel, Index: uint32(i)})
	}
	table, err := nexthop.NewTable(hops)
	if err != nil {
		r.t.Fatal(err)
	}
	snap := &Snapshot{
		Interfaces: append([]Interface(nil), s.interfaces...), NextHops: table,
		FloatingIPs: append([]*FloatingIP(nil), s.floating...), NodeAddresses: s.nodes,
		Uplink: s.uplink, SNAT: s.snat, Neighbors: s.neighbors, Exits: s.exits, Tunnels: slices.Clone(s.tunnels), Peers: slices.Clone(s.peers), Labels: slices.Clone(s.labels), VNIs: s.vnis,
	}
	for _, routes := range s.vrfs {
		snap.VRFs = append(snap.VRFs, VRF{FIB: nexthop.NewFIB(func(yield func(netip.Prefix, nexthop.Route) bool) {
			for p, route := range routes {
				if !yield(p, route) {
					return
				}
			}
		})})
	}
	for vrf, b := range s.bridges {
		snap.VRFs[vrf].Bridge = b
	}
	for vrf := range s.overlays {
		snap.VRFs[vrf].Overlay = s.overlays[vrf]
	}
	if snap.Policy, err = snap.Policy.WithNetworks(s.policies); err != nil {
		r.t.Fatal(err)
	}
	if snap.Policy, err = snap.Policy.WithAddresses(s.addresses); err != nil {
		r.t.Fatal(err)
	}
	if snap.Policy, err = snap.Policy.WithSecurity(s.security); err != nil {
		r.t.Fatal(err)
	}
	r.f.Publish(snap)
}

func (r *rig) attach(index uint16, features port.Features) {
	dev, err := memory.New(memory.Config{Name: "mem", Queues: 1, Features: features, Depth: ringDepth, Poll: true})
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.f.Attach(index, dev); err != nil {
		r.t.Fatal(err)
	}
	r.ports[index] = dev
}

// run moves packets until nothing moves, and checks that none is lost.
func (r *rig) run() {
	for r.f.Step() {
	}
	r.conserve()
}

// conserve checks rx + generated = tx + coalesced + drops + held over all ports, and that no
// packet ended for an unknown reason.
func (r *rig) conserve() {
	r.t.Helper()
	var in, out uint64
	for i := range uint16(len(r.state.interfaces)) {
		c := r.f.PortCounters(i)
		in += c.RxPackets + c.Generated
		out += c.TxPackets + c.Coalesced + c.Held
		for _, n := range c.Drops {
			out += n
		}
		if c.Drops[DropUnknown] != 0 {
			r.t.Errorf("port %d: %d packets dropped for an unknown reason", i, c.Drops[DropUnknown])
		}
	}
	if in != out {
		r.t.Errorf("conservation: rx + generated = %d, tx + coalesced + drops + held = %d", in, out)
	}
}

// inject puts raw frames on a port's wire.
func (r *rig) inject(index uint16, frames ...[]byte) {
	r.t.Helper()
	for _, b := range frames {
		f := port.NewFrame()
		f.End = f.Start + copy(f.Buf[f.Start:], b)
		r.injectFrame(index, f)
	}
}

func (r *rig) injectFrame(index uint16, f *port.Frame) {
	r.t.Helper()
	if n := r.ports[index].Inject(0, f); n != 1 {
		r.t.Fatalf("port %d takes no more frames", index)
	}
}

// sent returns what a port sent since the last call.
func (r *rig) sent(index uint16) [][]byte {
	var out [][]byte
	for _, f := range r.sentFrames(index) {
		out = append(out, append([]byte(nil), f.Bytes()...))
	}
	return out
}

func (r *rig) sentFrames(index uint16) (out []*port.Frame) {
	for {
		frames := []*port.Frame{port.NewFrame()}
		if r.ports[index].Drain(0, frames) == 0 {
			return out
		}
		out = append(out, frames[0])
	}
}

// sentFramesDiscard empties a port's wire without allocating.
func (r *rig) sentFramesDiscard(index uint16) {
	for r.ports[index].Drain(0, r.sink) != 0 {
	}
}

// drops returns a port's count of one reason.
func (r *rig) drops(index uint16, reason DropReason) uint64 {
	return r.f.PortCounters(index).Drops[reason]
}

// one expects exactly one frame on a port and none on the others.
func (r *rig) one(index uint16) gopacket.Packet {
	r.t.Helper()
	var got [][]byte
	for i := range r.ports {
		frames := r.sent(i)
		if i == index {
			got = frames
		} else if len(frames) != 0 {
			r.t.Errorf("port %d sent %d frames, want none: %v", i, len(frames), decode(frames[0]))
		}
	}
	if len(got) != 1 {
		r.t.Fatalf("port %d sent %d frames, want 1; drops %v", index, len(got), r.allDrops())
	}
	return decode(got[0])
}

// allDrops lists every drop counter that is not zero, for failure messages.
func (r *rig) allDrops() map[string]uint64 {
	m := map[string]uint64{}
	for i := range uint16(len(r.state.interfaces)) {
		for reason, n := range r.f.PortCounters(i).Drops {
			if n != 0 {
				m[r.state.interfaces[i].Name+" "+DropReason(reason).String()] += n
			}
		}
	}
	return m
}

func decode(b []byte) gopacket.Packet {
	return gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
}

// packetSpec describes a frame from a workload to the router.
type packetSpec struct {
	from     uint16
	src, dst string
	ttl      uint8
	df       bool
	l4       []gopacket.SerializableLayer
}

// build serialises a frame with right lengths and checksums.
func build(t testing.TB, p packetSpec) []byte {
	t.Helper()
	m, router := mac(byte(p.from)), RouterMAC
	eth := &layers.Ethernet{SrcMAC: m[:], DstMAC: router[:]}
	if p.ttl == 0 {
		p.ttl = 64
	}
	src, dst := net.ParseIP(p.src), net.ParseIP(p.dst)
	proto := layers.IPProtocolTCP
	switch p.l4[0].(type) {
	case *layers.UDP:
		proto = layers.IPProtocolUDP
	case *layers.ICMPv4:
		proto = layers.IPProtocolICMPv4
	case *layers.ICMPv6:
		proto = layers.IPProtocolICMPv6
	case *layers.SCTP:
		proto = layers.IPProtocolSCTP
	}
	var ip gopacket.SerializableLayer
	var network gopacket.NetworkLayer
	if src.To4() != nil {
		eth.EthernetType = layers.EthernetTypeIPv4
		ip4 := &layers.IPv4{Version: 4, TTL: p.ttl, Protocol: proto, SrcIP: src.To4(), DstIP: dst.To4(), Id: 7}
		if p.df {
			ip4.Flags = layers.IPv4DontFragment
		}
		ip, network = ip4, ip4
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip6 := &layers.IPv6{Version: 6, HopLimit: p.ttl, NextHeader: proto, SrcIP: src, DstIP: dst}
		ip, network = ip6, ip6
	}
	for _, l := range p.l4 {
		if c, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := c.SetNetworkLayerForChecksum(network); err != nil {
				t.Fatal(err)
			}
		}
	}
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, append([]gopacket.SerializableLayer{eth, ip}, p.l4...)...); err != nil {
		t.Fatal(err)
	}
	return append([]byte(nil), buf.Bytes()...)
}

func tcpTo(from uint16, src, dst string, sport, dport uint16, set func(*layers.TCP), data string) packetSpec {
	l := &layers.TCP{SrcPort: layers.TCPPort(sport), DstPort: layers.TCPPort(dport), Window: 65535, Seq: 1000}
	set(l)
	return packetSpec{from: from, src: src, dst: dst, l4: []gopacket.SerializableLayer{l, gopacket.Payload(data)}}
}

func udpTo(from uint16, src, dst string, sport, dport uint16, data string) packetSpec {
	l := &layers.UDP{SrcPort: layers.UDPPort(sport), DstPort: layers.UDPPort(dport)}
	return packetSpec{from: from, src: src, dst: dst, l4: []gopacket.SerializableLayer{l, gopacket.Payload(data)}}
}

func syn(l *layers.TCP) { l.SYN = true }

// checkSums decodes a frame and checks every checksum by recomputation.
func checkSums(t testing.TB, p gopacket.Packet) {
	t.Helper()
	if err := p.ErrorLayer(); err != nil {
		t.Fatalf("gopacket cannot read what we sent: %v", err.Error())
	}
	again := gopacket.NewSerializeBuffer()
	var ls []gopacket.SerializableLayer
	var network gopacket.NetworkLayer
	for _, l := range p.Layers() {
		if n, ok := l.(gopacket.NetworkLayer); ok {
			network = n
		}
		if c, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok && network != nil {
			if err := c.SetNetworkLayerForChecksum(network); err != nil {
				t.Fatal(err)
			}
		}
		s, ok := l.(gopacket.SerializableLayer)
		if !ok {
			return // a layer that gopacket reads but does not write
		}
		ls = append(ls, s)
	}
	if err := gopacket.SerializeLayers(again, gopacket.SerializeOptions{ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	if got, want := p.Data(), again.Bytes(); string(got) != string(want[:len(got)]) {
		t.Errorf("checksum differs from a full recomputation\n sent % x\n want % x", got, want)
	}
}

// sessions returns the number of live sessions.
func (r *rig) sessions() int { return r.f.Flows().Live() }

// session returns the only live session.
func (r *rig) session() *flowtable.Session {
	r.t.Helper()
	var found *flowtable.Session
	n := 0
	r.f.Flows().Range(0, r.f.Flows().Capacity()+1, func(_ flowtable.Ref, s *flowtable.Session) bool {
		found = s
		n++
		return true
	})
	if n != 1 {
		r.t.Fatalf("%d sessions, want 1", n)
	}
	return found
}
