package policy

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"
)

func prefixList(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func withAddresses(t testing.TB, s *Set, changes ...AddressChange) *Set {
	t.Helper()
	next, err := s.WithAddresses(changes)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// TestAddressesStay: a Set that a worker reads does not change when a later one is
// made of it, by few changes or by many.
func TestAddressesStay(t *testing.T) {
	first := withAddresses(t, new(Set), AddressChange{Set: 1, Add: prefixList("10.1.0.0/16", "10.1.2.3/32")})
	var many []netip.Prefix
	for i := range 2 * bulkChange {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 32))
	}
	for name, change := range map[string]AddressChange{
		"few":  {Set: 1, Remove: prefixList("10.1.0.0/16"), Add: prefixList("fd00::1/128")},
		"many": {Set: 1, Remove: prefixList("10.1.0.0/16"), Add: many},
	} {
		next := withAddresses(t, first, change)
		a := addr16("10.1.200.1")
		if in := first.members.find(&a); in == nil || len(in.all) != 1 {
			t.Errorf("%s: the first Set has lost its prefix", name)
		}
		if in := next.members.find(&a); in != nil {
			t.Errorf("%s: the next Set still has the prefix", name)
		}
		a = addr16("10.1.2.3")
		if in := next.members.find(&a); in == nil || len(in.all) != 1 {
			t.Errorf("%s: the next Set has lost the address inside the prefix", name)
		}
	}
}

func TestAddressErrors(t *testing.T) {
	for _, c := range []struct {
		change AddressChange
		want   string
	}{
		{AddressChange{Add: prefixList("10.0.0.0/8")}, "numbers start at 1"},
		{AddressChange{Set: 3, Remove: []netip.Prefix{{}}}, "address set 3: prefix 0 is none"},
	} {
		if _, err := new(Set).WithAddresses([]AddressChange{c.change}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.change, err, c.want)
		}
	}
	for _, c := range []struct {
		policy SecurityPolicy
		want   string
	}{
		{SecurityPolicy{Tier: numTiers}, "tier 3 is unknown"},
		{SecurityPolicy{Rules: []SecurityRule{{Rule: FirstRule, Action: numActionsSecurity}}}, "action 3 is unknown"},
	} {
		if _, err := new(Set).WithSecurity([]SecurityPolicy{c.policy}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.policy, err, c.want)
		}
	}
}

// TestIsolatesTiers: broadcast is held back where a policy closes, and not where
// policies of the cluster only allow.
func TestIsolatesTiers(t *testing.T) {
	rule := func(a SecurityAction) []SecurityRule { return []SecurityRule{{Rule: FirstRule, Action: a}} }
	s, err := new(Set).WithSecurity([]SecurityPolicy{
		{Tier: TierAdmin, Subjects: []uint32{frontend, backend, database}, Rules: rule(ActionAllow)},
		{Tier: TierBaseline, Subjects: []uint32{backend}, Rules: rule(ActionDeny)},
		{Subjects: []uint32{database}, Ingress: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[uint32]bool{frontend: false, backend: true, database: true, stranger: false} {
		if got := s.Isolates(Ingress, id); got != want {
			t.Errorf("identity %d: isolated %v, want %v", id, got, want)
		}
		if s.Isolates(Egress, id) {
			t.Errorf("identity %d is isolated for egress", id)
		}
	}
}

// manySets makes n rules for one pod, each with an address set of its own, all of
// which hold the address that the benchmark asks about, but for disjoint ones.
func manySets(t testing.TB, n int, shared bool) *Set {
	p := SecurityPolicy{Subjects: []uint32{FirstIdentity}, Ingress: true}
	var changes []AddressChange
	for i := range n {
		set := uint32(i + 1)
		c := AddressChange{Set: set, Add: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(2 + i>>16), byte(i >> 8), byte(i)}), 32)}}
		if shared || i == 0 {
			c.Add = append(c.Add, netip.MustParsePrefix("10.1.2.3/32"))
		}
		changes = append(changes, c)
		p.Rules = append(p.Rules, SecurityRule{Rule: FirstRule + RuleID(i), Peers: []Peer{{Set: set}}, Ports: []PortMatch{{Proto: udp, Ports: PortRange{uint16(i), uint16(i)}}}})
	}
	s, err := withAddresses(t, new(Set), changes...).WithSecurity([]SecurityPolicy{
		{Tier: TierAdmin, Subjects: []uint32{FirstIdentity}, Rules: []SecurityRule{{Rule: FirstRule, Action: ActionDeny, Peers: []Peer{{Set: 1}}, Ports: []PortMatch{{Proto: sctp}}}}},
		p,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func BenchmarkAddressSets(b *testing.B) {
	q := &Query{Src: addr16("10.1.2.3"), Dst: addr16("10.244.0.12"), SrcPort: 40_000, DstPort: 80, Proto: tcp}
	for _, shared := range []bool{false, true} {
		for _, n := range []int{1, 1000, 20_000} {
			name := map[bool]string{false: "in one of them/", true: "in all of them/"}[shared] + strconv.Itoa(n)
			b.Run(name, func(b *testing.B) {
				s := manySets(b, n, shared)
				b.ReportAllocs()
				for b.Loop() {
					s.Security(q, IdentityWorld, FirstIdentity)
				}
			})
			b.Run("change/"+name, func(b *testing.B) {
				s := manySets(b, n, shared)
				p := prefixList("10.200.1.1/32")
				b.ReportAllocs()
				for b.Loop() {
					s = withAddresses(b, s, AddressChange{Set: 1, Add: p})
					s = withAddresses(b, s, AddressChange{Set: 1, Remove: p})
				}
			})
		}
	}
}

// TestNoAllocationAddressSets: nor do address sets and tiers allocate.
func TestNoAllocationAddressSets(t *testing.T) {
	q := &Query{Src: addr16("10.1.2.3"), Dst: addr16("10.244.0.12"), DstPort: 80, Proto: tcp}
	for _, shared := range []bool{false, true} {
		s := manySets(t, 100, shared)
		if n := testing.AllocsPerRun(100, func() { s.Security(q, IdentityWorld, FirstIdentity) }); n != 0 {
			t.Errorf("in all of them %v: %v allocations", shared, n)
		}
	}
}
