package replay

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/statefile"
	"github.com/vrouter-go/vrouter/test/engine"
	"github.com/vrouter-go/vrouter/test/packet"
)

// services are what the property is asked about, beside the networks and
// workloads of testdata/scenario/cluster.yaml.
const services = `
kind: FloatingIP
name: web
spec:
  address: 10.96.0.10
  virtualNetwork: services
  floatingIpPortMappings: {portMappings: [{srcPort: 80, dstPort: 8080, protocol: TCP}, {srcPort: 53, dstPort: 5353, protocol: UDP}, {srcPort: 81, protocol: SCTP}]}
  virtualMachineInterfaces: [web-1, web-2]
---
kind: FloatingIP
name: web6
spec:
  address: "fd00:96::10"
  virtualNetwork: services
  floatingIpPortMappings: {portMappings: [{srcPort: 80, dstPort: 8080, protocol: TCP}, {srcPort: 53, dstPort: 5353, protocol: UDP}]}
  virtualMachineInterfaces: [web-1, web-2]
---
kind: FloatingIP
name: nodeport
spec:
  address: 192.0.2.10
  virtualNetwork: ip-fabric
  floatingIpPortMappings: {portMappings: [{srcPort: 80, dstPort: 8080, protocol: TCP}]}
  virtualMachineInterfaces: [web-1]
---
kind: FloatingIP
name: sticky
spec:
  address: 10.96.0.11
  virtualNetwork: services
  floatingIpPortMappings: {portMappings: [{srcPort: 53, dstPort: 5353, protocol: UDP}]}
  virtualMachineInterfaces: [web-1, web-2]
  sessionAffinity: {type: CLIENT_IP}
---
kind: FloatingIP
name: one-to-one
spec: {address: 10.96.0.12, virtualNetwork: services, virtualMachineInterfaces: [web-2]}
---
kind: FloatingIP
name: nobody
spec: {address: 10.96.0.13, virtualNetwork: services, floatingIpPortMappings: {portMappings: [{srcPort: 80}]}}
---
kind: FloatingIP
name: out
spec: {address: 203.0.113.200, virtualNetwork: client, direction: BOTH, virtualMachineInterfaces: [db]}
---
kind: VirtualNetwork
name: island
spec: {subnets: [{prefix: 10.66.0.0/24, gateway: 10.66.0.1}, {prefix: "fd00:66::/64", gateway: "fd00:66::1"}]}
---
kind: VirtualMachineInterface
name: robinson
spec: {virtualNetwork: island, addresses: [10.66.0.4, "fd00:66::4"]}
---
kind: VirtualMachineInterface
name: friday
spec: {virtualNetwork: island, addresses: [10.66.0.5, "fd00:66::5"]}
---
kind: Route
name: ecmp
spec: {vrf: pods, prefix: 198.51.100.0/24, nextHops: [{interface: web-1}, {interface: web-2}]}
---
kind: SecurityPolicy
name: db
spec:
  subject: {matchLabels: {app: db}}
  policyTypes: [INGRESS, EGRESS]
  ingress: [{peers: [{selector: {matchLabels: {app: web}}}], ports: [{port: 80}, {protocol: UDP}]}]
  egress: [{peers: [{ipBlock: {cidr: 203.0.113.0/24}}, {ipBlock: {cidr: 10.244.0.11/32}}]}]
`

// owners are the interfaces and their addresses.
var owners = map[string][]string{
	"client": {"203.0.113.7", "2001:db8:113::7"}, "web-1": {"10.244.0.11", "fd00:244::11"}, "web-2": {"10.244.0.12", "fd00:244::12"},
	"db": {"10.244.0.21", "fd00:244::21"}, "vhost0": {"192.0.2.10", "2001:db8:10::10"},
	"robinson": {"10.66.0.4", "fd00:66::4"}, "friday": {"10.66.0.5", "fd00:66::5"},
}

// names fixes the order that maps do not have, so that a seed means one thing.
var names = []string{"client", "web-1", "web-2", "db", "vhost0", "robinson", "friday"}

// others are destinations beside the workloads: gateways, services, addresses
// that nobody has.
var others = []string{
	"10.244.0.1", "203.0.113.1", "10.96.0.10", "10.96.0.11", "10.96.0.12", "10.96.0.13", "203.0.113.200", "10.244.0.99", "198.51.100.1",
	"8.8.8.8", "fd00:244::1", "fd00:96::10", "fd00:244::99", "2600::1", "10.66.0.1", "fe80::1", "127.0.0.1", "240.0.0.1", "224.0.0.251",
}

var ports = []uint16{53, 80, 81, 4000, 4001, 4002, 5353, 8080}

// probe is one random packet.
type probe struct {
	from     string
	in       uint16
	key      flowtable.Key
	line     string
	src, dst netip.Addr
}

// random makes a packet of an interface, mostly from its own address.
func random(t *testing.T, e *engine.Engine, r *rand.Rand) probe {
	p := probe{from: names[r.IntN(len(names))]}
	var err error
	if p.in, err = e.Port(p.from); err != nil {
		t.Fatal(err)
	}
	p.dst = netip.MustParseAddr(others[r.IntN(len(others))])
	if r.IntN(5) < 3 {
		p.dst = netip.MustParseAddr(owners[names[r.IntN(len(names))]][r.IntN(2)])
	}
	family := 0
	if p.dst.Is6() {
		family = 1
	}
	p.src = netip.MustParseAddr(owners[p.from][family])
	if r.IntN(20) == 0 {
		p.src = netip.MustParseAddr(owners[names[r.IntN(len(names))]][family])
	}
	p.key = flowtable.Key{Src: p.src.As16(), Dst: p.dst.As16(), SrcPort: ports[r.IntN(len(ports))], DstPort: ports[r.IntN(len(ports))]}
	ends := fmt.Sprintf("%s > %s", netip.AddrPortFrom(p.src, p.key.SrcPort), netip.AddrPortFrom(p.dst, p.key.DstPort))
	switch r.IntN(4) {
	case 0:
		p.key.Proto, p.line = 6, ends+" tcp syn seq=1000"
	case 1:
		p.key.Proto, p.line = 17, ends+" udp len=4"
	case 2:
		p.key.Proto, p.line = 132, ends+" sctp init"
	default:
		p.key.Proto, p.key.DstPort = 1, 0
		if p.dst.Is6() {
			p.key.Proto = 58
		}
		p.line = fmt.Sprintf("%s > %s icmp echo-request id=%d", p.src, p.dst, p.key.SrcPort)
		if r.IntN(3) == 0 {
			p.key.SrcPort, p.key.DstPort = 0, p.key.SrcPort
			p.line = fmt.Sprintf("%s > %s icmp echo-reply id=%d", p.src, p.dst, p.key.DstPort)
		}
	}
	return p
}

func newEngine(t *testing.T, documents string) *engine.Engine {
	t.Helper()
	e, err := engine.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	cluster, err := os.ReadFile("../../testdata/scenario/cluster.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Apply([]statefile.Source{{Name: "cluster.yaml", Data: cluster}, {Name: "more", Data: []byte(documents)}}, nil); err != nil {
		t.Fatal(err)
	}
	return e
}

// outcome is what really became of a packet.
type outcome struct {
	drops [forwarder.NumDropReasons]uint64 // on the port that it came in on
	sent  map[string][]string              // by interface
}

func send(t *testing.T, e *engine.Engine, p probe) outcome {
	t.Helper()
	before := e.Forwarder.PortCounters(p.in).Drops
	frame, err := packet.Build(p.line, e.FromGuest(p.in))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Send(p.in, frame); err != nil {
		t.Fatal(err)
	}
	o := outcome{drops: e.Forwarder.PortCounters(p.in).Drops, sent: map[string][]string{}}
	for i := range o.drops {
		o.drops[i] -= before[i]
	}
	for _, name := range names {
		port, err := e.Port(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range e.Received(port) {
			o.sent[name] = append(o.sent[name], packet.Format(f, e.ToGuest(port)))
		}
	}
	return o
}

// expected is the line of the packet that an explanation promises.
func expected(p probe, x forwarder.Explanation) string {
	src, dst := netip.AddrFrom16(x.Rewritten.Src).Unmap(), netip.AddrFrom16(x.Rewritten.Dst).Unmap()
	ends := fmt.Sprintf("%s > %s", netip.AddrPortFrom(src, x.Rewritten.SrcPort), netip.AddrPortFrom(dst, x.Rewritten.DstPort))
	switch p.key.Proto {
	case 6:
		return ends + " tcp syn seq=1000 ttl=63"
	case 17:
		return ends + " udp len=4 ttl=63"
	case 132:
		return ends + " sctp init len=16 ttl=63"
	}
	if x.Rewritten.SrcPort == 0 {
		return fmt.Sprintf("%s > %s icmp echo-reply id=%d seq=0 ttl=63", src, dst, x.Rewritten.DstPort)
	}
	return fmt.Sprintf("%s > %s icmp echo-request id=%d seq=0 ttl=63", src, dst, x.Rewritten.SrcPort)
}

// agree says how an explanation and an outcome differ; empty: not at all.
func agree(e *engine.Engine, p probe, x forwarder.Explanation, o outcome) string {
	var dropped uint64
	for _, n := range o.drops {
		dropped += n
	}
	others := 0
	for name, list := range o.sent {
		if name != p.from {
			others += len(list)
		}
	}
	switch x.Verdict {
	case "FORWARD":
		to, want := e.Names()[x.Output], expected(p, x)
		if got := o.sent[to]; len(got) != 1 || got[0] != want || dropped != 0 {
			return fmt.Sprintf("want %q out of %s", want, to)
		}
	case "DROP", "REFUSE":
		if o.drops[x.Reason] != 1 || dropped != 1 || others != 0 {
			return fmt.Sprintf("want a drop for %s", x.Reason)
		}
		if x.Verdict == "REFUSE" && len(o.sent[p.from]) != 1 {
			return "want one refusal"
		}
	case "LOCAL":
		if others != 0 {
			return "for the router, but somebody got it"
		}
	default:
		return "no such verdict"
	}
	return ""
}

// TestExplainIsTheVerdict asks Explain about random packets and then sends them:
// verdict, reason, output and rewritten tuple are what really happens, for new
// connections and live ones, and asking changes nothing.
func TestExplainIsTheVerdict(t *testing.T) {
	const packets = 60000
	e := newEngine(t, services)
	r := rand.New(rand.NewPCG(1, 2))
	verdicts := map[string]int{}
	for i := range packets {
		if i%2000 == 1999 { // everybody forgets, so that the same tuples open again; limits recover
			e.Wait(8000e9)
		} else if i%50 == 0 {
			e.Wait(1e9)
		}
		p := random(t, e, r)
		sessions := e.Forwarder.Flows().Live()
		x := e.Forwarder.Explain(p.in, p.key)
		if n := e.Forwarder.Flows().Live(); n != sessions {
			t.Fatalf("asking made %d sessions of %d", n, sessions)
		}
		o := send(t, e, p)
		verdicts[x.Verdict+" "+x.Reason.String()]++
		if wrong := agree(e, p, x, o); wrong != "" {
			t.Errorf("packet %d from %s: %s\nexplained %s %s, %s\nsent %v, session %v", i, p.from, p.line, x.Verdict, x.Reason, wrong, o.sent, x.Session != 0)
			if t.Failed() && i > 0 {
				return
			}
		}
	}
	if err := e.Conserve(); err != nil {
		t.Error(err)
	}
	for _, v := range []string{"FORWARD UNKNOWN", "REFUSE FLOATING_IP_PORT", "REFUSE FLOATING_IP_NO_MEMBER", "DROP SECURITY_INGRESS", "DROP SECURITY_EGRESS", "DROP SOURCE_SPOOF", "DROP NO_ROUTE", "LOCAL UNKNOWN"} {
		if verdicts[v] < 20 {
			t.Errorf("%d packets were %s: the test lost its reach", verdicts[v], v)
		}
	}
	t.Log(verdicts)
}
