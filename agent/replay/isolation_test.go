package replay

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/vrouter-go/vrouter/internal/statefile"
	"github.com/vrouter-go/vrouter/test/engine"
	"github.com/vrouter-go/vrouter/test/packet"
)

// TestIsolation sends random packets between networks, half of which have the
// same prefixes and addresses: nothing crosses from one to another but where a
// policy passes it, in the direction that the policy says, whatever anybody
// sends, forged sources and ICMP errors included.
func TestIsolation(t *testing.T) {
	const networks, packets = 6, 60000
	e := islands(t, networks)
	r := rand.New(rand.NewPCG(3, 4))
	var own, passed int
	for i := range packets {
		if i%1000 == 0 {
			e.Wait(8000e9)
		}
		from := r.IntN(networks)
		port, err := e.Port(workload(from, r.IntN(2)))
		if err != nil {
			t.Fatal(err)
		}
		line := wild(r)
		frame, err := packet.Build(line, e.FromGuest(port))
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Send(port, frame); err != nil {
			t.Fatal(err)
		}
		for index, name := range e.Names() {
			to := int(name[1] - '0')
			for _, f := range e.Received(index) {
				switch got := packet.Format(f, e.ToGuest(index)); {
				case from == to:
					own++
				case joined(from, to) || joined(to, from) && replies(got):
					passed++
				default:
					t.Fatalf("network %d sent %q and network %d got %q", from, line, to, got)
				}
			}
		}
	}
	if own < 500 || passed < 20 {
		t.Errorf("%d packets inside networks, %d over policy: the test lost its reach", own, passed)
	}
	t.Logf("%d packets inside networks, %d over policy", own, passed)
	if err := e.Conserve(); err != nil {
		t.Error(err)
	}
}

// joined reports whether the only policy lets a network open to another.
func joined(from, to int) bool { return from == 3 && to == 4 }

// replies reports whether a packet may be an answer: the port that the policy
// opens is its source, or it is an error about such a packet.
func replies(line string) bool {
	return strings.Contains(line, ":80 >") || strings.Contains(line, "icmp")
}

func workload(network, i int) string { return fmt.Sprintf("n%d-%d", network, i) }

// islands are networks of which 0 to 2 have the same addresses, and a policy
// from 3 to 4. Half of the workloads may send from any address.
func islands(t *testing.T, networks int) *engine.Engine {
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
	var docs []string
	for n := range networks {
		octet := max(n, 2)
		docs = append(docs, fmt.Sprintf(`kind: VirtualNetwork
name: n%[1]d
spec: {subnets: [{prefix: 10.%[2]d.0.0/24, gateway: 10.%[2]d.0.1}, {prefix: "fd00:%[2]d::/64", gateway: "fd00:%[2]d::1"}]}
`, n, octet))
		for i := range 2 {
			docs = append(docs, fmt.Sprintf(`kind: VirtualMachineInterface
name: %s
spec: {virtualNetwork: n%d, addresses: [10.%d.0.%d, "fd00:%d::%d"], antiSpoof: %t}
`, workload(n, i), n, octet, 4+i, octet, 4+i, i == 0))
		}
		docs = append(docs, fmt.Sprintf(`kind: FloatingIP
name: f%d
spec: {address: 10.99.0.%d, virtualNetwork: n%d, floatingIpPortMappings: {portMappings: [{srcPort: 80, protocol: UDP}]}, virtualMachineInterfaces: [%s]}
`, n, octet, n, workload(n, 1)))
	}
	docs = append(docs, `kind: NetworkPolicy
name: three-to-four
spec:
  virtualNetworks: [n3, n4]
  rules: [{source: {virtualNetwork: n3}, destination: {virtualNetwork: n4}, protocol: UDP, destinationPorts: [{start: 80}], action: PASS}]
`)
	if err := e.Apply([]statefile.Source{{Name: "islands", Data: []byte(strings.Join(docs, "---\n"))}}, nil); err != nil {
		t.Fatal(err)
	}
	return e
}

// wild makes a packet from anywhere to anywhere in the networks.
func wild(r *rand.Rand) string {
	pick := func(six bool) netip.Addr {
		octet, last := 2+r.IntN(5), 1+r.IntN(6)
		if six {
			return netip.MustParseAddr(fmt.Sprintf("fd00:%d::%d", octet, last))
		}
		if r.IntN(5) == 0 {
			return netip.AddrFrom4([4]byte{10, 99, 0, byte(octet)})
		}
		return netip.AddrFrom4([4]byte{10, byte(octet), 0, byte(last)})
	}
	six := r.IntN(3) == 0
	src, dst := pick(six), pick(six)
	ends := func() string {
		ports := []uint16{80, 81, 4000}
		return fmt.Sprintf("%s > %s", netip.AddrPortFrom(src, ports[r.IntN(3)]), netip.AddrPortFrom(dst, ports[r.IntN(3)]))
	}
	switch r.IntN(6) {
	case 0:
		return ends() + " tcp syn"
	case 1:
		return fmt.Sprintf("%s > %s icmp echo-request id=%d", src, dst, r.IntN(3)+1)
	case 2:
		quoted := ends() + " udp ttl=63"
		return fmt.Sprintf("%s > %s icmp port-unreachable [%s]", dst, src, quoted)
	case 3:
		return ends() + fmt.Sprintf(" udp frag=%d:%d+64 of=192", r.IntN(4)+1, 64*r.IntN(3))
	}
	return ends() + " udp len=8"
}
