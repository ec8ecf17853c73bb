package policy

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"testing"
)

// shape is a rule set of n rules between podNet and serviceNet, and a flow that
// it makes expensive.
type shape struct {
	name     string
	policies func(n int) []NetworkPolicy
	query    Query
}

func v4(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// rules makes one policy of n rules.
func rules(n int, rule func(i int) NetworkRule) []NetworkPolicy {
	p := NetworkPolicy{Networks: []uint32{podNet, serviceNet}}
	for i := range n {
		r := rule(i)
		r.Rule, r.SrcNetwork, r.DstNetwork = FirstRule+RuleID(i), podNet, serviceNet
		p.Rules = append(p.Rules, r)
	}
	return []NetworkPolicy{p}
}

// shapes are an ordinary rule set and the worst that we could think of.
var shapes = []shape{
	{"addresses and ports", func(n int) []NetworkPolicy {
		return rules(n, func(i int) NetworkRule {
			return NetworkRule{SrcPrefix: netip.PrefixFrom(v4(0x0a000000|uint32(i)<<4), 28), DstPrefix: netip.PrefixFrom(v4(0x0a600000|uint32(i)), 32),
				Proto: 6, DstPorts: []PortRange{{80, 80}, {443, 443}}}
		})
	}, query("10.0.0.5", "10.96.0.0")},
	{"one prefix, a port each", func(n int) []NetworkPolicy {
		return rules(n, func(i int) NetworkRule {
			return NetworkRule{Proto: 6, DstPorts: []PortRange{{uint16(i), uint16(i)}}}
		})
	}, query("10.0.0.5", "10.96.0.0")},
	{"one prefix, a source range each", func(n int) []NetworkPolicy {
		return rules(n, func(i int) NetworkRule {
			return NetworkRule{Proto: 6, SrcPorts: []PortRange{{1, uint16(i)%65534 + 1}}, DstPorts: []PortRange{{uint16(i), 65535}}}
		})
	}, query("10.0.0.5", "10.96.0.0")},
	{"every mask of IPv4 around one pair", func(n int) []NetworkPolicy {
		return rules(n, func(i int) NetworkRule {
			return NetworkRule{SrcPrefix: netip.PrefixFrom(v4(0x0a000005), i%33).Masked(), DstPrefix: netip.PrefixFrom(v4(0x0a600000), i/33%33).Masked(),
				Proto: 17, DstPorts: []PortRange{{uint16(i), uint16(i)}}}
		})
	}, query("10.0.0.5", "10.96.0.0")},
	{"every mask of IPv6 around one pair", func(n int) []NetworkPolicy {
		src, dst := netip.MustParseAddr("fd00::5"), netip.MustParseAddr("fd00:96::")
		return rules(n, func(i int) NetworkRule {
			return NetworkRule{SrcPrefix: netip.PrefixFrom(src, i%129).Masked(), DstPrefix: netip.PrefixFrom(dst, i/129%129).Masked(),
				Proto: 17, DstPorts: []PortRange{{uint16(i), uint16(i)}}}
		})
	}, query("fd00::5", "fd00:96::")},
	{"a policy each between the same two networks", func(n int) []NetworkPolicy {
		list := make([]NetworkPolicy, n)
		for i := range list {
			list[i] = NetworkPolicy{Networks: []uint32{podNet, serviceNet, 100 + uint32(i)},
				Rules: []NetworkRule{{Rule: FirstRule + RuleID(i), Proto: 17}}}
		}
		return list
	}, query("10.0.0.5", "10.96.0.0")},
	{"a policy of five networks each", func(n int) []NetworkPolicy {
		list := make([]NetworkPolicy, n)
		for i := range list {
			list[i] = NetworkPolicy{Networks: []uint32{podNet, serviceNet, 100 + uint32(3*i), 101 + uint32(3*i), 102 + uint32(3*i)},
				Rules: []NetworkRule{{Rule: FirstRule + RuleID(i), Proto: 17}}}
		}
		return list
	}, query("10.0.0.5", "10.96.0.0")},
}

func query(src, dst string) Query {
	return Query{SrcNetwork: podNet, DstNetwork: serviceNet, Src: addr16(src), Dst: addr16(dst), SrcPort: 40_000, DstPort: 80, Proto: 6}
}

func BenchmarkNetwork(b *testing.B) {
	for _, s := range shapes {
		for _, n := range []int{1, 1000, 100_000} {
			b.Run(s.name+"/"+strconv.Itoa(n), func(b *testing.B) {
				set, err := new(Set).WithNetworks(s.policies(n))
				if err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs()
				for b.Loop() {
					set.Network(&s.query)
				}
			})
		}
	}
}

// namespaces makes n rules as a cluster has them: ten to a namespace, each pod
// group open to its neighbours, a few ports and one address block.
func namespaces(n int) []SecurityPolicy {
	var list []SecurityPolicy
	for i := range n {
		ns := FirstIdentity + uint32(i/10*8)
		self, peer := ns+uint32(i)%8, ns+uint32(i+1)%8
		list = append(list, SecurityPolicy{Subjects: []uint32{self}, Ingress: true, Rules: []SecurityRule{{Rule: FirstRule + RuleID(i),
			Peers: []Peer{pods(peer), block("10.0.0.0/8", "10.244.0.0/16")}, Ports: []PortMatch{{Proto: tcp, Ports: PortRange{80, 80}}}}}})
	}
	return list
}

// overlapping makes n policies that all select one pod, each with another set of
// subjects: the worst for a table by subjects.
func overlapping(n int) []SecurityPolicy {
	var list []SecurityPolicy
	for i := range n {
		list = append(list, SecurityPolicy{Subjects: []uint32{FirstIdentity, FirstIdentity + 1 + uint32(i)}, Ingress: true,
			Rules: []SecurityRule{{Rule: FirstRule + RuleID(i), Peers: []Peer{pods(FirstIdentity + 1)}, Ports: []PortMatch{{Proto: udp}}}}})
	}
	return list
}

// onePod makes n rules for one pod, each with a peer group of its own.
func onePod(n int) []SecurityPolicy {
	p := SecurityPolicy{Subjects: []uint32{FirstIdentity}, Ingress: true}
	for i := range n {
		peer := Peer{Identities: []uint32{FirstIdentity + 1}}
		for j := range uint32(40) {
			peer.Identities = append(peer.Identities, FirstIdentity+2+uint32(i)+j)
		}
		p.Rules = append(p.Rules, SecurityRule{Rule: FirstRule + RuleID(i), Peers: []Peer{peer}, Ports: []PortMatch{{Proto: udp}}})
	}
	return []SecurityPolicy{p}
}

func BenchmarkSecurity(b *testing.B) {
	q := &Query{Src: addr16("10.1.2.3"), Dst: addr16("10.244.0.12"), SrcPort: 40_000, DstPort: 80, Proto: tcp}
	for _, s := range []struct {
		name     string
		policies func(n int) []SecurityPolicy
	}{{"namespaces", namespaces}, {"overlapping subjects", overlapping}, {"large peer sets", onePod}} {
		for _, n := range []int{1, 1000, 100_000} {
			b.Run(s.name+"/"+strconv.Itoa(n), func(b *testing.B) {
				set, err := new(Set).WithSecurity(s.policies(n))
				if err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs()
				for b.Loop() {
					set.Security(q, FirstIdentity+1, FirstIdentity)
				}
			})
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	networks, security := shapes[0].policies(100_000), namespaces(100_000)
	b.Run("networks/100000", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := new(Set).WithNetworks(networks); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("security/100000", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := new(Set).WithSecurity(security); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestNoAllocation: evaluation does not allocate, whatever the shape.
func TestNoAllocation(t *testing.T) {
	for _, s := range shapes {
		set, err := new(Set).WithNetworks(s.policies(500))
		if err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(100, func() { set.Network(&s.query) }); n != 0 {
			t.Errorf("%s: %v allocations", s.name, n)
		}
	}
	set, err := new(Set).WithSecurity(append(namespaces(100), onePod(30)...))
	if err != nil {
		t.Fatal(err)
	}
	q := &Query{Src: addr16("10.1.2.3"), Dst: addr16("10.244.0.12"), DstPort: 80, Proto: tcp}
	if n := testing.AllocsPerRun(100, func() { set.Security(q, FirstIdentity+1, FirstIdentity) }); n != 0 {
		t.Errorf("security: %v allocations", n)
	}
}
