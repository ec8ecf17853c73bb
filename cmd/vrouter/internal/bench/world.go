package bench

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/policy"
	"github.com/vrouter-go/vrouter/nexthop"
)

// world is the configuration that figures are measured in, and the sessions that
// stand while they are. Figures of the same world are measured in turn. It is
// comparable; zero counts mean the defaults.
type world struct {
	six      bool
	sessions int
	standing kind // what the sessions are
	floating int  // floating IPs, default 1
	members  int  // of each floating IP, each behind a port of its own, default 10
	rules    int  // of the network policy, default 10
	routes   int  // besides those of the members and floating IPs
}

// The client's network and the pods'. VRF 0, ip-fabric, is empty.
const (
	clientVRF, podsVRF uint16 = 1, 2
	clientNet, podsNet uint32 = 2, 3

	clientPort  uint16 = 1
	firstMember uint16 = 2

	podIdentity    = policy.FirstIdentity
	clientIdentity = podIdentity + 1
)

// portKey is the mapping of a floating IP that UDP uses.
var portKey = forwarder.PortKey{Proto: header.ProtoUDP, Port: servicePort}

var clientMAC = [6]byte{2, 0, 0, 0, 0, 1}

// Addresses by their low 32 bits: as IPv4, and behind fd00:: as IPv6.
const (
	sources      = 0x0a000000 // 10.0.0.0/8: what the client may send from
	freshSources = 0x0a800000 // 10.128.0.0: of sessions that a figure opens
	foreign      = 0xac100000 // 172.16.0.0: not the client's
	services     = 0x60000000 // 96.0.0.0: floating IPs, one after another
	pods         = 0x64000001 // 100.0.0.1: members, one after another
	routes       = 0x10000000 // 16.0.0.0: routes, 256 addresses apart
	routeShift   = 8
	nowhere      = 0xc6336401 // 198.51.100.1

	servicePort, podPort, deniedPort uint16 = 80, 8080, 9
)

// address returns the address with these low 32 bits.
func address(six bool, low uint32) (a [16]byte) {
	if six {
		a[0] = 0xfd
	} else {
		a[10], a[11] = 0xff, 0xff
	}
	binary.BigEndian.PutUint32(a[12:], low)
	return a
}

// prefix returns the prefix of an address that leaves the low host bits free.
func prefix(six bool, low uint32, host int) netip.Prefix {
	a := netip.AddrFrom16(address(six, low)).Unmap()
	return netip.PrefixFrom(a, a.BitLen()-host).Masked()
}

// defaults fills in what is zero.
func (w world) defaults() world {
	w.floating = max(w.floating, 1)
	for _, n := range []*int{&w.members, &w.rules} {
		if *n == 0 {
			*n = 10
		}
	}
	return w
}

// snapshot compiles the world.
func (w world) snapshot() (*forwarder.Snapshot, error) {
	hops := forwarder.FixedNextHops(0)
	s := &forwarder.Snapshot{Interfaces: w.interfaces()}
	members := w.memberList()
	for i := range w.floating {
		hops = append(hops, nexthop.NextHop{Kind: nexthop.FloatingIP, Index: uint32(i)})
		group, err := nexthop.NewGroup(members)
		if err != nil {
			return nil, err
		}
		s.FloatingIPs = append(s.FloatingIPs, w.floatingIP(uint32(i), group))
	}
	var err error
	if s.NextHops, err = nexthop.NewTable(hops); err != nil {
		return nil, err
	}
	fib := nexthop.NewFIB(w.eachRoute)
	s.VRFs = []forwarder.VRF{{Name: "ip-fabric"}, {Name: "client", FIB: fib}, {Name: "pods", FIB: fib}}
	if s.Policy, err = s.Policy.WithNetworks(w.networkPolicy()); err != nil {
		return nil, err
	}
	s.Policy, err = s.Policy.WithSecurity(w.securityPolicy())
	return s, err
}

// interfaces are the client and the members.
func (w world) interfaces() []forwarder.Interface {
	list := make([]forwarder.Interface, int(firstMember)+w.members)
	list[clientPort] = forwarder.Interface{
		Kind: forwarder.Workload, VRF: clientVRF, Network: clientNet, Identity: clientIdentity, MTU: 1500,
		AntiSpoof: true, MAC: clientMAC, Name: "client", Gateway4: address(false, sources|1), Gateway6: address(true, sources|1),
		Sources: []forwarder.AddressRange{{Address: address(w.six, sources), Bits: 128 - 24}},
	}
	for i := range w.members {
		list[int(firstMember)+i] = forwarder.Interface{
			Kind: forwarder.Workload, VRF: podsVRF, Network: podsNet, Identity: podIdentity, MTU: 1500,
			AntiSpoof: true, MAC: [6]byte{2, 0, 0, 1, byte(i >> 8), byte(i)}, Name: fmt.Sprintf("pod-%d", i),
			Sources: []forwarder.AddressRange{{Address: address(w.six, pods+uint32(i)), Bits: 128}},
			Serves:  []forwarder.PortKey{{Proto: header.ProtoTCP, Port: podPort}, {Proto: header.ProtoUDP, Port: podPort}},
		}
	}
	return list
}

// memberList are the members of each floating IP.
func (w world) memberList() []nexthop.Member {
	list := make([]nexthop.Member, w.members)
	for i := range list {
		list[i] = nexthop.Member{
			ID: uint32(i) + 1, Weight: 1, NextHop: memberHop(i), Address: address(w.six, pods+uint32(i)), Port: podPort,
		}
	}
	return list
}

func memberHop(i int) nexthop.ID { return forwarder.InterfaceNextHop(firstMember + uint16(i)) }

// floatingIP is the i'th service: its port to the members', for TCP and UDP.
func (w world) floatingIP(i uint32, group *nexthop.Group) *forwarder.FloatingIP {
	service := &forwarder.Service{ID: i + 1, Group: group, Hash: nexthop.HashAll}
	return &forwarder.FloatingIP{
		ID: i + 1, Name: "service", Address: address(w.six, services+i), Network: podsNet, VRF: podsVRF, Ingress: true,
		Mappings: map[forwarder.PortKey]*forwarder.Service{
			{Proto: header.ProtoTCP, Port: servicePort}: service,
			portKey: service,
		},
	}
}

// eachRoute yields the routes that both networks have: the members', the
// floating IPs', and w.routes with 0 to 8 host bits.
func (w world) eachRoute(yield func(netip.Prefix, nexthop.Route) bool) {
	for i := range w.members {
		if !yield(prefix(w.six, pods+uint32(i), 0), nexthop.Route{NextHop: memberHop(i), Network: podsNet}) {
			return
		}
	}
	for i := range w.floating {
		hop := forwarder.FirstFreeNextHop + nexthop.ID(i)
		if !yield(prefix(w.six, services+uint32(i), 0), nexthop.Route{NextHop: hop, Network: podsNet}) {
			return
		}
	}
	for i := range w.routes {
		if !yield(prefix(w.six, routes+uint32(i)<<routeShift, i%9), nexthop.Route{NextHop: memberHop(i % w.members), Network: podsNet}) {
			return
		}
	}
}

// networkPolicy lets the client use the services and the pods by its last rule.
// Those before it match the addresses of some flows and the port of none.
func (w world) networkPolicy() []policy.NetworkPolicy {
	p := policy.NetworkPolicy{Networks: []uint32{clientNet, podsNet}}
	for i := range w.rules - 1 {
		p.Rules = append(p.Rules, policy.NetworkRule{
			Rule: policy.FirstRule + policy.RuleID(i), SrcNetwork: clientNet, DstNetwork: podsNet, Action: policy.Pass,
			SrcPrefix: prefix(w.six, freshSources+uint32(i)<<4, 4), DstPrefix: prefix(w.six, services+uint32(i%w.floating), 0),
			DstPorts: []policy.PortRange{{From: 443, To: 443}},
		})
	}
	p.Rules = append(p.Rules, policy.NetworkRule{
		Rule: policy.FirstRule + policy.RuleID(w.rules), SrcNetwork: clientNet, DstNetwork: podsNet, Action: policy.Pass,
		DstPorts: []policy.PortRange{{From: servicePort, To: servicePort}, {From: podPort, To: podPort}},
	})
	return []policy.NetworkPolicy{p}
}

// securityPolicy closes the pods but for their port, to the client's addresses.
func (w world) securityPolicy() []policy.SecurityPolicy {
	const rule = policy.FirstRule + 1<<20
	port := policy.PortRange{From: podPort, To: podPort}
	return []policy.SecurityPolicy{{
		Subjects: []uint32{podIdentity}, Ingress: true,
		Rules: []policy.SecurityRule{{
			Rule: rule, Direction: policy.Ingress, Peers: []policy.Peer{{Block: prefix(w.six, sources, 24)}},
			Ports: []policy.PortMatch{{Proto: header.ProtoTCP, Ports: port}, {Proto: header.ProtoUDP, Ports: port}},
		}},
	}}
}

// String describes the world for progress lines.
func (w world) String() string {
	d := w.defaults()
	return fmt.Sprintf("IP%s, %s sessions, %d floating IPs × %d members, %d rules, %d routes",
		family(w.six), count(w.sessions), d.floating, d.members, d.rules, d.routes)
}
