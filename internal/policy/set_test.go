package policy

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

// The generators draw from few values, so that rules meet packets and each
// other; prefixes nest.

var somePrefixes = []string{
	"0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/9", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.0/25", "10.1.2.3/32", "192.168.0.0/16",
	"::/0", "fd00::/8", "fd00:1::/32", "fd00:1::/64", "fd00:1::3/128", "::ffff:10.1.0.0/112",
}

var someAddrs = []string{
	"10.1.2.3", "10.1.2.4", "10.1.2.200", "10.1.9.9", "10.9.9.9", "10.200.0.1", "192.168.7.7", "8.8.8.8",
	"fd00:1::3", "fd00:1::4", "fd00:1:0:1::4", "fd00:2::1", "2001:db8::1",
}

func addr16(s string) [16]byte { return netip.MustParseAddr(s).As16() }

func drawPrefix(t *rapid.T) netip.Prefix {
	if rapid.Bool().Draw(t, "any prefix") {
		return netip.Prefix{}
	}
	return drawBlock(t)
}

func drawBlock(t *rapid.T) netip.Prefix {
	return netip.MustParsePrefix(rapid.SampledFrom(somePrefixes).Draw(t, "prefix"))
}

func drawProto(t *rapid.T) uint8 {
	return rapid.SampledFrom([]uint8{0, 6, 17, 132, 1}).Draw(t, "protocol")
}

func drawPort(t *rapid.T) uint16 {
	return rapid.SampledFrom([]uint16{0, 1, 53, 80, 81, 443, 1023, 1024, 8080, 40000, 65534, 65535}).Draw(t, "port")
}

func drawRange(t *rapid.T) PortRange {
	a, b := drawPort(t), drawPort(t)
	return PortRange{min(a, b), max(a, b)}
}

func drawRanges(t *rapid.T) []PortRange {
	return rapid.SliceOfN(rapid.Custom(drawRange), 0, 3).Draw(t, "ports")
}

func drawQuery(t *rapid.T) *Query {
	return &Query{
		SrcNetwork: rapid.Uint32Range(0, 7).Draw(t, "source network"),
		DstNetwork: rapid.Uint32Range(0, 7).Draw(t, "destination network"),
		Src:        addr16(rapid.SampledFrom(someAddrs).Draw(t, "source")),
		Dst:        addr16(rapid.SampledFrom(someAddrs).Draw(t, "destination")),
		SrcPort:    drawPort(t), DstPort: drawPort(t),
		Proto: rapid.SampledFrom([]uint8{6, 17, 132, 1, 58, 0}).Draw(t, "protocol"),
	}
}

// drawBudget draws none, little, enough or all.
func drawBudget(t *rapid.T) budget {
	return rapid.SampledFrom([]budget{{manySets: 1}, {1, 6, 30}, {1, 150, 8}, {1, 1000, 1000}, fullBudget}).Draw(t, "budget")
}

func drawNetworkPolicies(t *rapid.T) []NetworkPolicy {
	id := FirstRule
	rule := rapid.Custom(func(t *rapid.T) NetworkRule {
		id++
		return NetworkRule{
			Rule:       id,
			SrcNetwork: rapid.Uint32Range(0, 7).Draw(t, "source network"),
			DstNetwork: rapid.Uint32Range(0, 7).Draw(t, "destination network"),
			SrcPrefix:  drawPrefix(t), DstPrefix: drawPrefix(t),
			Proto:    drawProto(t),
			SrcPorts: drawRanges(t), DstPorts: drawRanges(t),
			Action: Action(rapid.IntRange(0, 1).Draw(t, "action")),
			Log:    rapid.Bool().Draw(t, "log"), Both: rapid.Bool().Draw(t, "both"),
		}
	})
	policy := rapid.Custom(func(t *rapid.T) NetworkPolicy {
		return NetworkPolicy{
			Networks: rapid.SliceOfN(rapid.Uint32Range(1, 7), 0, 14).Draw(t, "networks"),
			Rules:    rapid.SliceOfN(rule, 0, 8).Draw(t, "rules"),
		}
	})
	return rapid.SliceOfN(policy, 0, 7).Draw(t, "policies")
}

func TestNetworkLikeModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policies := drawNetworkPolicies(t)
		table, err := compileNetworks(policies, drawBudget(t))
		if err != nil {
			t.Fatal(err)
		}
		s := &Set{networks: table}
		for range 50 {
			q := drawQuery(t)
			if got, want := s.Network(q), modelNetwork(policies, q); got != want {
				t.Fatalf("%+v\ngot  %+v\nwant %+v", *q, got, want)
			}
		}
	})
}

// drawIdentities draws few identities or, at times, many.
func drawIdentities(t *rapid.T) []uint32 {
	if rapid.IntRange(0, 3).Draw(t, "large") == 0 {
		first := rapid.Uint32Range(FirstIdentity, FirstIdentity+6).Draw(t, "first")
		var ids []uint32
		for i := range uint32(18) {
			ids = append(ids, first+i*2)
		}
		return ids
	}
	return rapid.SliceOfN(rapid.Uint32Range(FirstIdentity, FirstIdentity+6), 0, 4).Draw(t, "identities")
}

func drawSecurityPolicies(t *rapid.T) []SecurityPolicy {
	id := FirstRule
	peer := rapid.Custom(func(t *rapid.T) Peer {
		switch rapid.IntRange(0, 3).Draw(t, "peer") {
		case 0, 1:
			return Peer{Identities: drawIdentities(t)}
		case 2:
			return Peer{Set: rapid.Uint32Range(1, 12).Draw(t, "set")}
		}
		return Peer{Block: drawBlock(t), Except: rapid.SliceOfN(rapid.Custom(drawBlock), 0, 3).Draw(t, "except")}
	})
	port := rapid.Custom(func(t *rapid.T) PortMatch { return PortMatch{Proto: drawProto(t), Ports: drawRange(t)} })
	rule := rapid.Custom(func(t *rapid.T) SecurityRule {
		id++
		return SecurityRule{
			Rule:      id,
			Direction: Direction(rapid.IntRange(0, 1).Draw(t, "direction")),
			Peers:     rapid.SliceOfN(peer, 0, 3).Draw(t, "peers"),
			Ports:     rapid.SliceOfN(port, 0, 2).Draw(t, "ports"),
			Log:       rapid.Bool().Draw(t, "log"),
		}
	})
	policy := rapid.Custom(func(t *rapid.T) SecurityPolicy {
		p := SecurityPolicy{
			Tier:     Tier(rapid.IntRange(0, 2).Draw(t, "tier")),
			Subjects: drawIdentities(t),
			Ingress:  rapid.Bool().Draw(t, "ingress"), Egress: rapid.Bool().Draw(t, "egress"),
			Rules: rapid.SliceOfN(rule, 0, 4).Draw(t, "rules"),
		}
		if p.Tier != TierNamespace {
			p.Priority = rapid.SampledFrom([]uint32{0, 1, 1000}).Draw(t, "priority")
			for i := range p.Rules {
				p.Rules[i].Action = SecurityAction(rapid.IntRange(0, 2).Draw(t, "action"))
			}
		}
		return p
	})
	return rapid.SliceOfN(policy, 0, 12).Draw(t, "policies")
}

// drawAddresses draws changes of address sets; most sets get the same few prefixes,
// so that one address is in many.
func drawAddresses(t *rapid.T) []AddressChange {
	change := rapid.Custom(func(t *rapid.T) AddressChange {
		return AddressChange{
			Set:    rapid.Uint32Range(1, 12).Draw(t, "set"),
			Remove: rapid.SliceOfN(rapid.Custom(drawBlock), 0, 3).Draw(t, "remove"),
			Add:    rapid.SliceOfN(rapid.Custom(drawBlock), 0, 4).Draw(t, "add"),
		}
	})
	return rapid.SliceOfN(change, 0, 20).Draw(t, "addresses")
}

func TestSecurityLikeModel(t *testing.T) {
	identity := rapid.OneOf(rapid.Uint32Range(FirstIdentity, FirstIdentity+7), rapid.SampledFrom([]uint32{IdentityWorld, IdentityNode, FirstIdentity + 20}))
	rapid.Check(t, func(t *rapid.T) {
		policies := drawSecurityPolicies(t)
		sets, changes := modelSets{}, drawAddresses(t)
		s, err := new(Set).WithAddresses(changes)
		if err != nil {
			t.Fatal(err)
		}
		if s.security, err = compileSecurity(policies, s.members, drawBudget(t)); err != nil {
			t.Fatal(err)
		}
		for _, c := range changes {
			sets.change(c)
		}
		for i := range 60 {
			if i%20 == 10 { // the sets change and the policies do not
				changes := drawAddresses(t)
				old := *s
				if s, err = old.WithAddresses(changes); err != nil {
					t.Fatal(err)
				}
				for _, c := range changes {
					sets.change(c)
				}
			}
			q, src, dst := drawQuery(t), identity.Draw(t, "source identity"), identity.Draw(t, "destination identity")
			egress, ingress := modelSecurity(policies, sets, Egress, q, src, dst), modelSecurity(policies, sets, Ingress, q, dst, src)
			if got := s.Egress(q, src, dst); got != egress {
				t.Fatalf("%+v %d -> %d\negress got  %+v\nwant %+v", *q, src, dst, got, egress)
			}
			if got := s.Ingress(q, src, dst); got != ingress {
				t.Fatalf("%+v %d -> %d\ningress got  %+v\nwant %+v", *q, src, dst, got, ingress)
			}
			if got := s.Security(q, src, dst); got.Pass != (egress.Pass && ingress.Pass) {
				t.Fatalf("%+v %d -> %d\ngot %+v, egress %+v, ingress %+v", *q, src, dst, got, egress, ingress)
			}
		}
	})
}
