package state

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// TestSure holds that what passes at a glance keeps the rules of its message, over
// resources in which anything may be wrong, and that what a controller writes does.
func TestSure(t *testing.T) {
	passed := 0
	for range 20 { // a fifth of them passes
		rapid.Check(t, func(r *rapid.T) {
			res := oddResource(r)
			if sure(res) {
				passed++
				if faults := messageFaults(res); len(faults) > 0 {
					r.Errorf("%v passes, and the rules say %v", res, faults)
				}
			}
		})
	}
	if passed == 0 {
		t.Error("nothing passed: the test says nothing")
	}
	for _, text := range []string{
		`{"name":"a:b:clusterip-v4","instanceIp":{"address":"10.96.0.10","virtualNetwork":"services"}}`,
		`{"name":"a:b:clusterip-v6","floatingIp":{"parent":"a:b:clusterip-v6","externalTrafficPolicy":"LOCAL","floatingIpPortMappings":{"portMappings":[{"srcPort":80,"dstPort":8080,"protocol":"TCP"},{"srcPort":80,"dstPort":8080,"protocol":"UDP"}]},"members":[{"virtualMachineInterface":"a:b-0","state":"READY"},{"virtualMachineInterface":"a:b-1","state":"SERVING","address":"10.244.1.2","targetPorts":[{"srcPort":80,"dstPort":81}],"tunnel":{"remote":"192.0.2.1","vni":100,"label":100}}]}}`,
	} {
		if res := resource(t, text); !sure(res) {
			t.Errorf("%v does not pass", res)
		}
	}
}

// oddResource is a resource in which usual and odd values are mixed.
func oddResource(r *rapid.T) *pb.Resource {
	pick := func(what string, odd []string, usual ...string) string {
		if rapid.IntRange(0, 11).Draw(r, what+" is odd") == 0 {
			return rapid.OneOf(rapid.SampledFrom(odd), rapid.String()).Draw(r, what)
		}
		return rapid.SampledFrom(usual).Draw(r, what)
	}
	number := func(what string, usual ...uint32) uint32 {
		if rapid.IntRange(0, 15).Draw(r, what+" is odd") == 0 {
			return rapid.OneOf(rapid.SampledFrom([]uint32{0, 1, 15, 16, 256, 257, 65535, 65536, 1<<20 - 1, 1 << 20, 1<<24 - 1, 1 << 24, 1<<32 - 1}), rapid.Uint32()).Draw(r, what)
		}
		return rapid.SampledFrom(usual).Draw(r, what)
	}
	long := string(make([]byte, 254))
	oddNames := []string{"", "-a", "a-", "a:", ":a", "a b", "a/b", "ä", "a\n", "\na", "a\x00", long, "aa" + long}
	name := func(what string) string {
		return pick(what, oddNames, "a", "b", "c:d", "ns:service-1:clusterip-v4", "A.b_c")
	}
	oddAddresses := []string{
		"", "::ffff:10.0.0.1", "fe80::1%eth0", "010.0.0.1", "1.2.3", "1.2.3.4.5", "::1/128", "1::2::3", "0x1.2.3.4", " 1.2.3.4", "1.2.3.4\n",
		"::", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:1.2.3.4", "::1.2.3", "::ffff:1.2.3.04", "FD00::A", "fd00::00001", "::%", "1.2.3.256", "64:ff9b::192.0.2.1",
	}
	address := func(what string) string { return pick(what, oddAddresses, "10.0.0.1", "fd00::1", "192.0.2.255", "") }
	mappings := func(what string, most int) (list []*pb.PortMapping) {
		for range rapid.IntRange(0, most).Draw(r, what) {
			list = append(list, &pb.PortMapping{
				SrcPort: number("srcPort", 80, 443, 53), DstPort: number("dstPort", 80, 8080), Protocol: pb.Protocol_Value(number("protocol", 0, 6, 17, 132)),
			})
		}
		return list
	}
	res := &pb.Resource{Name: name("name")}
	if rapid.IntRange(0, 4).Draw(r, "kind") == 0 {
		res.Spec = &pb.Resource_InstanceIp{InstanceIp: &pb.InstanceIP{Address: address("address"), VirtualNetwork: name("network")}}
		return res
	}
	f := &pb.FloatingIP{
		Address: address("address"), VirtualNetwork: name("network"), Parent: name("parent"),
		FloatingIpPortMappings: &pb.FloatingIpPortMappings{PortMappings: mappings("mappings", 3)},
		ExternalTrafficPolicy:  pb.FloatingIP_TrafficPolicy(number("external", 0, 1, 2)), InternalTrafficPolicy: pb.FloatingIP_TrafficPolicy(number("internal", 0, 1, 2)),
	}
	for range rapid.IntRange(0, 3).Draw(r, "members") {
		m := &pb.Member{
			VirtualMachineInterface: name("member"), State: pb.Member_State(number("state", 0, 1, 2, 3)), Weight: number("weight", 0, 1),
			TargetPorts: mappings("target ports", 2), Address: address("member address"),
		}
		if rapid.Bool().Draw(r, "tunnel") {
			m.Tunnel = &pb.Tunnel{Remote: address("remote"), Label: number("label", 0, 16, 100), Vni: number("vni", 0, 100)}
		}
		f.Members = append(f.Members, m)
	}
	res.Spec = &pb.Resource_FloatingIp{FloatingIp: f}
	if rapid.IntRange(0, 9).Draw(r, "as it may come") == 0 { // over the wire, odd enums and all
		b, err := proto.Marshal(res)
		if err == nil {
			res = &pb.Resource{}
			if proto.Unmarshal(b, res) != nil {
				r.Skip("refused by decoding")
			}
		}
	}
	return res
}
