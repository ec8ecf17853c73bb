package policy

import (
	"net/netip"
	"strings"
	"testing"
)

// The networks of the table tests.
const (
	fabricNet uint32 = iota + 1
	podNet
	serviceNet
	otherNet
)

func TestNetworkPolicy(t *testing.T) {
	policies := []NetworkPolicy{
		{Networks: []uint32{fabricNet, podNet}, Rules: []NetworkRule{
			{Rule: 300, SrcNetwork: fabricNet, DstNetwork: podNet, SrcPrefix: netip.MustParsePrefix("192.0.2.10/32"), Action: Pass},
			{Rule: 301, SrcNetwork: fabricNet, DstNetwork: podNet, Log: true},
		}},
		{Networks: []uint32{fabricNet, podNet, serviceNet}, Rules: []NetworkRule{
			{Rule: 302, SrcNetwork: podNet, DstNetwork: serviceNet, Proto: tcp, DstPorts: []PortRange{{80, 80}}, Action: Pass, Both: true},
			{Rule: 303, SrcNetwork: podNet, DstNetwork: otherNet, Action: Pass},
			{Rule: 304, Proto: icmp, Action: Pass},
		}},
	}
	s, err := new(Set).WithNetworks(policies)
	if err != nil {
		t.Fatal(err)
	}
	node, pod, vip := addr16("192.0.2.10"), addr16("10.244.0.11"), addr16("10.96.0.10")
	for _, c := range []struct {
		name string
		q    Query
		want Verdict
	}{
		{"one network needs no rule", Query{SrcNetwork: podNet, DstNetwork: podNet}, Verdict{Rule: RuleSameNetwork, Pass: true}},
		{"no network at all is not one network", Query{}, Verdict{Rule: RuleImplicitDeny}},
		{"the node reaches pods", Query{SrcNetwork: fabricNet, DstNetwork: podNet, Src: node, Dst: pod, Proto: tcp}, Verdict{Rule: 300, Pass: true}},
		{"the first rule decides", Query{SrcNetwork: fabricNet, DstNetwork: podNet, Src: vip, Dst: pod, Proto: icmp}, Verdict{Rule: 301, Log: true}},
		{"a rule has one direction", Query{SrcNetwork: podNet, DstNetwork: fabricNet, Src: pod, Dst: node, Proto: tcp}, Verdict{Rule: RuleImplicitDeny}},
		{"a service port", Query{SrcNetwork: podNet, DstNetwork: serviceNet, Proto: tcp, DstPort: 80}, Verdict{Rule: 302, Pass: true}},
		{"another port", Query{SrcNetwork: podNet, DstNetwork: serviceNet, Proto: tcp, DstPort: 81}, Verdict{Rule: RuleImplicitDeny}},
		{"direction BOTH exchanges the ports too", Query{SrcNetwork: serviceNet, DstNetwork: podNet, Proto: tcp, SrcPort: 80, DstPort: 40_000}, Verdict{Rule: 302, Pass: true}},
		{"direction BOTH is not any port", Query{SrcNetwork: serviceNet, DstNetwork: podNet, Proto: tcp, SrcPort: 40_000, DstPort: 80}, Verdict{Rule: RuleImplicitDeny}},
		{"a network that is not attached", Query{SrcNetwork: podNet, DstNetwork: otherNet}, Verdict{Rule: RuleImplicitDeny}},
		{"any network of the policy", Query{SrcNetwork: serviceNet, DstNetwork: fabricNet, Proto: icmp}, Verdict{Rule: 304, Pass: true}},
	} {
		if got := s.Network(&c.q); got != c.want {
			t.Errorf("%s: %+v (%v), want %+v", c.name, got, got.Rule, c.want)
		}
	}
}

func TestBadRules(t *testing.T) {
	network := func(r NetworkRule) error {
		_, err := new(Set).WithNetworks([]NetworkPolicy{{}, {Rules: []NetworkRule{r}}})
		return err
	}
	security := func(p SecurityPolicy) error {
		_, err := new(Set).WithSecurity([]SecurityPolicy{{}, p})
		return err
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{network(NetworkRule{Rule: 3}), "policy 1 rule 0: id 3 is reserved; ids start at 256"},
		{network(NetworkRule{Rule: 300, SrcPorts: []PortRange{{9, 8}}}), "ports 9-8 run backwards"},
		{network(NetworkRule{Rule: 300, Action: 7}), "action 7 is unknown"},
		{security(SecurityPolicy{Rules: []SecurityRule{{Rule: 300, Ports: []PortMatch{{Ports: PortRange{9, 8}}}}}}), "ports 9-8 run backwards"},
		{security(SecurityPolicy{Rules: []SecurityRule{{Rule: 0}}}), "id 0 is reserved"},
		{security(SecurityPolicy{Rules: []SecurityRule{{Rule: 300, Direction: 2}}}), "direction 2 is unknown"},
		{security(SecurityPolicy{Rules: []SecurityRule{{Rule: 300, Peers: []Peer{{Identities: []uint32{0}}}}}}), "identity 0 is no pod"},
		{security(SecurityPolicy{Subjects: []uint32{0}}), "policy 1: identity 0 is no pod"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("got error %v, want %q", c.err, c.want)
		}
	}
}

// TestTooLarge: a rule set whose exceptions would fill the memory is refused.
func TestTooLarge(t *testing.T) {
	everything := block("::/0", "2001:db8::1/128")
	ports := make([]PortMatch, 1<<16)
	_, err := new(Set).WithSecurity([]SecurityPolicy{ingress(backend, allow([]Peer{everything, everything}, ports...))})
	if err != errTooLarge {
		t.Errorf("security: got error %v, want %v", err, errTooLarge)
	}
	ranges := make([]PortRange, 1<<12)
	_, err = new(Set).WithNetworks([]NetworkPolicy{{Networks: []uint32{1, 2}, Rules: []NetworkRule{{Rule: 300, SrcPorts: ranges, DstPorts: ranges}}}})
	if err != errTooLarge {
		t.Errorf("network: got error %v, want %v", err, errTooLarge)
	}
}

// TestZeroSet: without policies, networks are apart and pods are open.
func TestZeroSet(t *testing.T) {
	var s *Set
	q := &Query{SrcNetwork: podNet, DstNetwork: serviceNet, Dst: addr16("10.96.0.10")}
	if v := s.Network(q); v.Pass || v.Rule != RuleImplicitDeny {
		t.Errorf("network: %+v", v)
	}
	if v := s.Security(q, frontend, backend); !v.Pass || v.Rule != RuleNoPolicy {
		t.Errorf("security: %+v", v)
	}
	if v := new(Set).Network(q); v.Pass {
		t.Errorf("network of the zero Set: %+v", v)
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{RuleImplicitDeny.String(), "implicit-deny"}, {RuleSelf.String(), "self"}, {RuleID(300).String(), "rule 300"},
		{StageIngress.String(), "security-policy-ingress"}, {Stage(9).String(), "stage(9)"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}
