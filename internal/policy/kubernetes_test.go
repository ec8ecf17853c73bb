package policy

import (
	"net/netip"
	"testing"
)

// The cluster of the Kubernetes table: one identity and one address a label set.
const (
	frontend uint32 = FirstIdentity + iota // app=frontend, namespace shop
	backend                                // app=backend, namespace shop
	database                               // app=database, namespace shop
	stranger                               // app=backend, namespace other
	tcp      = 6
	udp      = 17
	icmp     = 1
	sctp     = 132
)

var podAddrs = map[uint32]string{
	frontend: "10.244.0.11", backend: "10.244.0.12", database: "10.244.0.13", stranger: "10.244.1.12",
	IdentityNode: "192.0.2.10", IdentityWorld: "203.0.113.5",
}

// probe is one connection attempt and what must become of it.
type probe struct {
	from, to uint32
	proto    uint8
	port     uint16
	addr     string // of the world, if it is not 203.0.113.5
	pass     bool
}

func (p probe) query() *Query {
	at := func(id uint32) [16]byte {
		if id == IdentityWorld && p.addr != "" {
			return addr16(p.addr)
		}
		return addr16(podAddrs[id])
	}
	return &Query{Src: at(p.from), Dst: at(p.to), SrcPort: 40_000, DstPort: p.port, Proto: p.proto}
}

func block(cidr string, excepts ...string) Peer {
	p := Peer{Block: netip.MustParsePrefix(cidr)}
	for _, e := range excepts {
		p.Except = append(p.Except, netip.MustParsePrefix(e))
	}
	return p
}

func pods(ids ...uint32) Peer { return Peer{Identities: ids} }

// allow is an ingress rule.
func allow(peers []Peer, ports ...PortMatch) SecurityRule {
	return SecurityRule{Rule: FirstRule, Peers: peers, Ports: ports}
}

func allowOut(peers []Peer, ports ...PortMatch) SecurityRule {
	return SecurityRule{Rule: FirstRule, Direction: Egress, Peers: peers, Ports: ports}
}

func ingress(subject uint32, rules ...SecurityRule) SecurityPolicy {
	return SecurityPolicy{Subjects: []uint32{subject}, Ingress: true, Rules: rules}
}

func egress(subject uint32, rules ...SecurityRule) SecurityPolicy {
	return SecurityPolicy{Subjects: []uint32{subject}, Egress: true, Rules: rules}
}

// Kubernetes NetworkPolicy v1, one row a sentence of its documentation.
var kubernetesCases = []struct {
	name     string
	policies []SecurityPolicy
	probes   []probe
}{
	{"no policy allows everything", nil, []probe{
		{from: frontend, to: backend, proto: tcp, port: 80, pass: true},
		{from: IdentityWorld, to: backend, proto: sctp, port: 9, pass: true},
		{from: backend, to: IdentityWorld, proto: udp, port: 53, pass: true},
	}},
	{"selected for ingress is closed for ingress only", []SecurityPolicy{ingress(backend)}, []probe{
		{from: frontend, to: backend, proto: tcp, port: 80},
		{from: IdentityWorld, to: backend, proto: tcp, port: 80},
		{from: backend, to: frontend, proto: tcp, port: 80, pass: true},
		{from: frontend, to: database, proto: tcp, port: 80, pass: true},
	}},
	{"selected for egress is closed for egress only", []SecurityPolicy{egress(backend)}, []probe{
		{from: backend, to: frontend, proto: tcp, port: 80},
		{from: frontend, to: backend, proto: tcp, port: 80, pass: true},
	}},
	{"an egress rule in an ingress-only policy counts for nothing", []SecurityPolicy{ingress(backend, allowOut(nil))}, []probe{
		{from: backend, to: frontend, proto: tcp, port: 80, pass: true},
		{from: frontend, to: backend, proto: tcp, port: 80},
	}},
	{"policies only add", []SecurityPolicy{
		ingress(backend, allow([]Peer{pods(frontend)}, PortMatch{Proto: tcp, Ports: PortRange{80, 80}})),
		ingress(backend),
		ingress(backend, allow([]Peer{pods(database)}, PortMatch{Proto: tcp, Ports: PortRange{81, 81}})),
	}, []probe{
		{from: frontend, to: backend, proto: tcp, port: 80, pass: true},
		{from: frontend, to: backend, proto: tcp, port: 81},
		{from: database, to: backend, proto: tcp, port: 81, pass: true},
		{from: database, to: backend, proto: tcp, port: 80},
	}},
	{"source egress and destination ingress must both allow", []SecurityPolicy{
		egress(frontend, allowOut([]Peer{pods(backend)})),
		ingress(backend, allow([]Peer{pods(database)})),
	}, []probe{
		{from: frontend, to: backend, proto: tcp, port: 80},
		{from: database, to: backend, proto: tcp, port: 80, pass: true},
		{from: frontend, to: database, proto: tcp, port: 80},
	}},
	{"a label in another namespace is another identity", []SecurityPolicy{ingress(database, allow([]Peer{pods(backend)}))}, []probe{
		{from: backend, to: database, proto: tcp, port: 5432, pass: true},
		{from: stranger, to: database, proto: tcp, port: 5432},
	}},
	{"two peers are alternatives", []SecurityPolicy{ingress(database, allow([]Peer{pods(backend), pods(stranger)}))}, []probe{
		{from: backend, to: database, proto: tcp, port: 5432, pass: true},
		{from: stranger, to: database, proto: tcp, port: 5432, pass: true},
		{from: frontend, to: database, proto: tcp, port: 5432},
	}},
	{"missing from is everyone", []SecurityPolicy{ingress(backend, allow(nil, PortMatch{Proto: tcp, Ports: PortRange{80, 80}}))}, []probe{
		{from: stranger, to: backend, proto: tcp, port: 80, pass: true},
		{from: IdentityWorld, to: backend, proto: tcp, port: 80, pass: true},
		{from: IdentityWorld, to: backend, proto: tcp, port: 81},
	}},
	{"a selector that matches nobody is not everyone", []SecurityPolicy{ingress(backend, allow([]Peer{pods()}))}, []probe{
		{from: frontend, to: backend, proto: tcp, port: 80},
		{from: IdentityWorld, to: backend, proto: tcp, port: 80},
	}},
	{"an empty pod selector is all pods, not the world", []SecurityPolicy{ingress(backend, allow([]Peer{pods(frontend, backend, database, stranger)}))}, []probe{
		{from: stranger, to: backend, proto: tcp, port: 80, pass: true},
		{from: IdentityWorld, to: backend, proto: tcp, port: 80},
	}},
	{"ipBlock with except", []SecurityPolicy{egress(backend, allowOut([]Peer{block("203.0.113.0/24", "203.0.113.5/32")}))}, []probe{
		{from: backend, to: IdentityWorld, addr: "203.0.113.6", proto: tcp, port: 443, pass: true},
		{from: backend, to: IdentityWorld, addr: "203.0.113.5", proto: tcp, port: 443},
		{from: backend, to: IdentityWorld, addr: "203.0.114.1", proto: tcp, port: 443},
	}},
	{"what one ipBlock excepts another may allow", []SecurityPolicy{egress(backend,
		allowOut([]Peer{block("0.0.0.0/0", "203.0.113.0/24"), block("203.0.113.5/32")}))}, []probe{
		{from: backend, to: IdentityWorld, addr: "198.51.100.1", proto: tcp, port: 443, pass: true},
		{from: backend, to: IdentityWorld, addr: "203.0.113.5", proto: tcp, port: 443, pass: true},
		{from: backend, to: IdentityWorld, addr: "203.0.113.6", proto: tcp, port: 443},
	}},
	{"an excepted address may be allowed by label", []SecurityPolicy{ingress(backend,
		allow([]Peer{block("10.0.0.0/8", "10.244.0.0/16"), pods(frontend)}))}, []probe{
		{from: frontend, to: backend, proto: tcp, port: 80, pass: true},
		{from: database, to: backend, proto: tcp, port: 80},
	}},
	{"ipBlock covers pods too", []SecurityPolicy{ingress(backend, allow([]Peer{block("10.244.1.0/24")}))}, []probe{
		{from: stranger, to: backend, proto: tcp, port: 80, pass: true},
		{from: frontend, to: backend, proto: tcp, port: 80},
	}},
	{"0.0.0.0/0 says nothing about IPv6", []SecurityPolicy{egress(backend, allowOut([]Peer{block("0.0.0.0/0")}))}, []probe{
		{from: backend, to: IdentityWorld, addr: "198.51.100.1", proto: tcp, port: 443, pass: true},
		{from: backend, to: IdentityWorld, addr: "2001:db8::1", proto: tcp, port: 443},
	}},
	{"IPv6 ipBlock with except", []SecurityPolicy{egress(backend, allowOut([]Peer{block("2001:db8::/32", "2001:db8:1::/48")}))}, []probe{
		{from: backend, to: IdentityWorld, addr: "2001:db8:2::1", proto: tcp, port: 443, pass: true},
		{from: backend, to: IdentityWorld, addr: "2001:db8:1::1", proto: tcp, port: 443},
	}},
	{"missing ports is every port and protocol", []SecurityPolicy{ingress(backend, allow([]Peer{pods(frontend)}))}, []probe{
		{from: frontend, to: backend, proto: tcp, port: 1, pass: true},
		{from: frontend, to: backend, proto: udp, port: 65535, pass: true},
		{from: frontend, to: backend, proto: sctp, port: 9, pass: true},
		{from: frontend, to: backend, proto: icmp, port: 0, pass: true},
	}},
	{"a protocol without a port is all its ports", []SecurityPolicy{ingress(backend, allow(nil, PortMatch{Proto: udp}))}, []probe{
		{from: frontend, to: backend, proto: udp, port: 53, pass: true},
		{from: frontend, to: backend, proto: tcp, port: 53},
	}},
	{"endPort is a range, both ends included", []SecurityPolicy{ingress(backend, allow(nil, PortMatch{Proto: tcp, Ports: PortRange{8000, 8080}}))}, []probe{
		{from: frontend, to: backend, proto: tcp, port: 7999},
		{from: frontend, to: backend, proto: tcp, port: 8000, pass: true},
		{from: frontend, to: backend, proto: tcp, port: 8080, pass: true},
		{from: frontend, to: backend, proto: tcp, port: 8081},
	}},
	{"SCTP is not TCP, and a policy naming only SCTP isolates", []SecurityPolicy{ingress(backend, allow(nil, PortMatch{Proto: sctp, Ports: PortRange{80, 80}}))}, []probe{
		{from: frontend, to: backend, proto: sctp, port: 80, pass: true},
		{from: frontend, to: backend, proto: tcp, port: 80},
	}},
	{"a pod cannot block itself", []SecurityPolicy{ingress(backend), egress(backend)}, []probe{
		{from: backend, to: backend, proto: tcp, port: 80, pass: true},
	}},
	{"a pod and its own node always talk", []SecurityPolicy{ingress(backend), egress(backend)}, []probe{
		{from: IdentityNode, to: backend, proto: tcp, port: 8080, pass: true},
		{from: backend, to: IdentityNode, proto: tcp, port: 10250, pass: true},
	}},
}

func TestKubernetes(t *testing.T) {
	for _, c := range kubernetesCases {
		t.Run(c.name, func(t *testing.T) {
			s, err := new(Set).WithSecurity(c.policies)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range c.probes {
				if got := s.Security(p.query(), p.from, p.to); got.Pass != p.pass {
					t.Errorf("%+v: %v by %v, want pass %v", p, got.Pass, got.Rule, p.pass)
				}
			}
		})
	}
}

// TestReasons checks that each named reason is the one given.
func TestReasons(t *testing.T) {
	s, err := new(Set).WithSecurity([]SecurityPolicy{
		egress(frontend, SecurityRule{Rule: 300, Direction: Egress, Peers: []Peer{pods(backend)}, Log: true}),
		ingress(backend, SecurityRule{Rule: 301, Peers: []Peer{pods(frontend)}}),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		from, to uint32
		want     Verdict
	}{
		{frontend, backend, Verdict{Rule: 301, Stage: StageIngress, Pass: true, Log: true}},
		{frontend, database, Verdict{Rule: RuleDefaultEgress, Stage: StageEgress}},
		{database, backend, Verdict{Rule: RuleDefaultIngress, Stage: StageIngress}},
		{database, stranger, Verdict{Rule: RuleNoPolicy, Stage: StageEgress, Pass: true}},
		{IdentityNode, backend, Verdict{Rule: RuleNode, Stage: StageEgress, Pass: true}},
		{backend, backend, Verdict{Rule: RuleSelf, Stage: StageEgress, Pass: true}},
	} {
		if got := s.Security(probe{from: c.from, to: c.to, proto: tcp, port: 80}.query(), c.from, c.to); got != c.want {
			t.Errorf("%d -> %d: %+v (%v), want %+v (%v)", c.from, c.to, got, got.Rule, c.want, c.want.Rule)
		}
	}
}
