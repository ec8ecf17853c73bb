package state

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// resource reads a resource in its JSON form.
func resource(t *testing.T, text string) *pb.Resource {
	t.Helper()
	r := &pb.Resource{}
	if err := protojson.Unmarshal([]byte(text), r); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return r
}

// base is a valid state that the wrong transactions meet.
var base = []string{
	`{"name":"pods","virtualNetwork":{"subnets":[{"prefix":"10.244.0.0/24","gateway":"10.244.0.1"},{"prefix":"fd00:244::/64","gateway":"fd00:244::1"}]}}`,
	`{"name":"services","virtualNetwork":{}}`,
	`{"name":"node","fabric":{"nodeAddresses":["192.0.2.11"],"vhost0":{"addresses":["192.0.2.10/24"]},"uplink":{"device":"eth0"},"peers":[{"name":"node-b","addresses":["192.0.2.20"]}]}}`,
	`{"name":"web-1","virtualMachineInterface":{"virtualNetwork":"pods","macAddress":"02:00:00:00:01:01","addresses":["10.244.0.11","fd00:244::11"],"tap":{"name":"tap-web1","netns":"/run/netns/web-1"}}}`,
	`{"name":"v4-only","virtualMachineInterface":{"virtualNetwork":"pods","addresses":["10.244.0.12"]}}`,
	`{"name":"web","floatingIp":{"address":"10.96.0.10","virtualNetwork":"services","floatingIpPortMappings":{"portMappings":[{"srcPort":80,"dstPort":8080}]},"virtualMachineInterfaces":["web-1"]}}`,
	`{"name":"shared","instanceIp":{"address":"10.244.0.100","virtualNetwork":"pods"}}`,
	`{"name":"lent","floatingIp":{"parent":"shared","virtualMachineInterfaces":["web-1"]}}`,
	`{"name":"any","networkPolicy":{"virtualNetworks":["pods","services"],"rules":[{"action":"PASS"}]}}`,
	`{"name":"labelled","virtualNetwork":{"label":100,"vni":200}}`,
	`{"name":"afar","floatingIp":{"address":"10.96.0.40","virtualNetwork":"services","members":[{"virtualMachineInterface":"web-9","address":"10.244.0.90","tunnel":{"remote":"192.0.2.20","label":17}}]}}`,
	`{"name":"beyond","route":{"vrf":"services","prefix":"10.245.0.0/24","nextHops":[{"weight":2,"tunnel":{"remote":"192.0.2.20","label":17}},{"interface":"web-1"}]}}`,
	`{"name":"leaving","virtualNetwork":{"fabricSnat":true}}`,
	`{"name":"node-port","floatingIp":{"address":"192.0.2.11","virtualNetwork":"ip-fabric","floatingIpPortMappings":{"portMappings":[{"srcPort":30081}]},"virtualMachineInterfaces":["web-1"]}}`,
	`{"name":"out","route":{"vrf":"pods","prefix":"0.0.0.0/0","nextHops":[{"vrf":"ip-fabric"}]}}`,
	`{"name":"segment","virtualNetwork":{"bridging":true,"vni":300}}`,
	`{"name":"host-1","virtualMachineInterface":{"virtualNetwork":"segment","macAddress":"02:00:00:00:03:01"}}`,
	`{"name":"all","route":{"vrf":"segment","flood":true,"nextHops":[{"tunnel":{"remote":"192.0.2.20","vni":300}}]}}`,
	`{"name":"one","route":{"vrf":"segment","macAddress":"02:00:00:00:03:02","nextHops":[{"tunnel":{"remote":"192.0.2.20","vni":300}}]}}`,
	`{"name":"shop:web","loadBalancer":{"service":{"namespace":"shop","name":"web"},"listeners":[{"port":80,"pool":{"members":[{"virtualMachineInterface":"elsewhere","port":8080}]}}],"floatingIps":["web"]}}`,
	`{"name":"behind","route":{"vrf":"segment","macAddress":"02:00:00:00:03:03","nextHops":[{"interface":"host-1"}]}}`,
}

func newBase(t *testing.T) *State {
	t.Helper()
	s := New()
	var list []*pb.Resource
	for _, text := range base {
		list = append(list, resource(t, text))
	}
	tx, err := s.Begin(Request{Owner: OwnerOperator, Upserts: list})
	if err != nil {
		t.Fatal(err)
	}
	tx.Commit()
	return s
}

// wrong lists resources with one wrong field each: the field, and a word of what
// is said about it.
var wrong = []struct{ text, field, says string }{
	// What the messages say themselves.
	{`{"name":"","virtualNetwork":{}}`, "name", "given"},
	{`{"name":"a/b","virtualNetwork":{}}`, "name", "letters"},
	{`{"name":"none"}`, "spec", "given"},
	{`{"name":"x","virtualNetwork":{"subnets":[{"prefix":"10.0.0.1/24"}]}}`, "spec.subnets[0].prefix", "host bits"},
	{`{"name":"x","virtualNetwork":{"subnets":[{}]}}`, "spec.subnets[0].prefix", "given"},
	{`{"name":"x","virtualNetwork":{"subnets":[{"prefix":"10.0.0.0/24","gateway":"fd00::1"}]}}`, "spec.subnets[0]", "family"},
	{`{"name":"x","virtualMachineInterface":{}}`, "spec.virtualNetwork", "given"},
	{`{"name":"x","virtualMachineInterface":{"virtualNetwork":"pods","macAddress":"01:00:00:00:00:01"}}`, "spec.macAddress", "unicast"},
	{`{"name":"x","virtualMachineInterface":{"virtualNetwork":"pods","addresses":["10.244.0.300"]}}`, "spec.addresses[0]", "address"},
	{`{"name":"x","virtualMachineInterface":{"virtualNetwork":"pods","tap":{"mtu":100}}}`, "spec.tap.mtu", "1280"},
	{`{"name":"x","virtualMachineInterface":{"virtualNetwork":"pods","tap":{"queues":65}}}`, "spec.tap.queues", "64"},
	{`{"name":"x","virtualMachineInterface":{"virtualNetwork":"pods","tap":{"name":"a-name-too-long-x"}}}`, "spec.tap.name", "15"},
	{`{"name":"x","virtualMachineInterface":{"virtualNetwork":"pods","tap":{"netns":"relative"}}}`, "spec.tap.netns", "absolute"},
	{`{"name":"x","virtualMachineInterface":{"virtualNetwork":"pods","labels":{"a b":"c"}}}`, `spec.labels["a b"]`, "label key"},
	{`{"name":"ip-fabric","virtualNetwork":{"fabricSnat":true}}`, "spec.fabricSnat", "translated into"},
	{`{"name":"node","fabric":{"vhost0":{"addresses":["192.0.2.10/24"]},"uplink":{"device":"eth0"},"snatPorts":{"start":1000,"end":2000}}}`, "spec.snatPorts", "1024"},
	{`{"name":"node","fabric":{"vhost0":{"addresses":["192.0.2.10/24"]},"uplink":{"device":"eth0"},"snatPorts":{"start":3000,"end":2000}}}`, "spec.snatPorts", "below"},
	{`{"name":"node","fabric":{"vhost0":{"addresses":["192.0.2.10/24"]},"uplink":{"device":"eth0"},"snatPorts":{"start":4789,"end":5000}}}`, "spec.snatPorts", "4789"},
	{`{"name":"node","fabric":{"vhost0":{"addresses":["192.0.2.10/24"]},"uplink":{"device":"eth0"},"snatPorts":{"start":5000,"end":6635}}}`, "spec.snatPorts", "6635"},
	{`{"name":"x","floatingIp":{"address":"192.0.2.10","virtualNetwork":"ip-fabric","floatingIpPortMappings":{"portMappings":[{"srcPort":30080},{"srcPort":61000}]},"virtualMachineInterfaces":["web-1"]}}`, "spec.floatingIpPortMappings.portMappings[1].srcPort", "snatPorts"},
	{`{"name":"node","fabric":{"vhost0":{"addresses":["192.0.2.10/24"]}}}`, "spec.fabricSnat", "add Fabric spec.uplink"},
	{`{"name":"node","fabric":{"vhost0":{"addresses":["192.0.2.10/24"]},"snatPorts":{"start":61000}}}`, "spec.snatPorts", "without an uplink"},
	{`{"name":"node","fabric":{"nodeAddresses":["192.0.2.11"],"vhost0":{"addresses":["192.0.2.10/24"]},"uplink":{"device":"eth0"},"snatPorts":{"start":30000,"end":30100}}}`, "spec.floatingIpPortMappings.portMappings[0].srcPort", "30000 to 30100"},
	{`{"name":"node","fabric":{"nodeAddresses":["192.0.2.11"],"vhost0":{"addresses":["192.0.2.10/24"]},"uplink":{"device":"eth0"},"snatPorts":{"start":30081}}}`, "spec.floatingIpPortMappings.portMappings[0].srcPort", "30081 to 30081"},
	{`{"name":"x","floatingIp":{}}`, "spec", "parent"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.11"}}`, "spec", "virtualNetwork"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.11","virtualNetwork":"services","floatingIpPortMappings":{"portMappings":[{"srcPort":0}]}}}`, "spec.floatingIpPortMappings.portMappings[0].srcPort", "1"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.11","virtualNetwork":"services","floatingIpPortMappings":{"portMappings":[{"srcPort":70000}]}}}`, "spec.floatingIpPortMappings.portMappings[0].srcPort", "65535"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.11","virtualNetwork":"services","floatingIpPortMappings":{"portMappings":[{"srcPort":80,"dstPort":70000}]}}}`, "spec.floatingIpPortMappings.portMappings[0].dstPort", "65535"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.11","virtualNetwork":"services","floatingIpPortMappings":{"portMappings":[{"srcPort":80,"protocol":"ICMP"}]}}}`, "spec.floatingIpPortMappings.portMappings[0].protocol", "SCTP"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.11","virtualNetwork":"services","floatingIpPortMappings":{"portMappings":[{"srcPort":80},{"srcPort":80,"protocol":"TCP"}]}}}`, "spec.floatingIpPortMappings.portMappings", "once"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.11","virtualNetwork":"services","members":[{"virtualMachineInterface":"web-1","weight":257}]}}`, "spec.members[0].weight", "256"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.11","virtualNetwork":"services","members":[{"virtualMachineInterface":"web-1"},{"virtualMachineInterface":"web-1"}]}}`, "spec.members", "once"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.11","virtualNetwork":"services","members":[{"virtualMachineInterface":"web-1"}],"virtualMachineInterfaces":["web-1"]}}`, "spec", "both"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.11","virtualNetwork":"services","sessionAffinity":{"type":"CLIENT_IP","timeoutSeconds":86401}}}`, "spec.sessionAffinity.timeoutSeconds", "86400"},
	{`{"name":"x","networkPolicy":{"rules":[]}}`, "spec.virtualNetworks", "1"},
	{`{"name":"x","networkPolicy":{"virtualNetworks":["pods"],"rules":[{}]}}`, "spec.rules[0].action", "PASS"},
	{`{"name":"x","networkPolicy":{"virtualNetworks":["pods"],"rules":[{"action":"PASS","destinationPorts":[{"start":80}]}]}}`, "spec.rules[0]", "protocol"},
	{`{"name":"x","networkPolicy":{"virtualNetworks":["pods"],"rules":[{"action":"PASS","protocol":"TCP","destinationPorts":[{"start":80,"end":79}]}]}}`, "spec.rules[0].destinationPorts[0]", "below"},
	{`{"name":"x","securityPolicy":{"ingress":[{"peers":[{}]}]}}`, "spec.ingress[0].peers[0]", "ipBlock"},
	{`{"name":"x","securityPolicy":{"ingress":[{"ports":[{"endPort":80}]}]}}`, "spec.ingress[0].ports[0]", "endPort"},
	{`{"name":"x","securityPolicy":{"subject":{"matchExpressions":[{"key":"a","operator":"Gt"}]}}}`, "spec.subject.matchExpressions[0].operator", "NotIn"},
	{`{"name":"x","route":{"vrf":"pods","prefix":"10.0.0.0/8"}}`, "spec.nextHops", "1"},
	{`{"name":"x","route":{"vrf":"pods","prefix":"10.0.0.0/8","nextHops":[{"discard":true},{"interface":"web-1"}]}}`, "spec.nextHops", "only next hop"},
	{`{"name":"node","fabric":{"vhost0":{"addresses":["192.0.2.10"]}}}`, "spec.vhost0.addresses[0]", "prefix length"},

	// Names that exist nowhere.
	{`{"name":"x","virtualMachineInterface":{"virtualNetwork":"pods2"}}`, "spec.virtualNetwork", "does not exist"},
	{`{"name":"x","instanceIp":{"address":"10.244.0.101","virtualNetwork":"pods2"}}`, "spec.virtualNetwork", "does not exist"},
	{`{"name":"x","instanceIp":{"address":"10.244.0.101","virtualNetwork":"pods","virtualMachineInterfaces":["web-9"]}}`, "spec.virtualMachineInterfaces[0]", "does not exist"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.11","virtualNetwork":"nowhere"}}`, "spec.virtualNetwork", "does not exist"},
	{`{"name":"x","floatingIp":{"parent":"nobody"}}`, "spec.parent", "does not exist"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.11","virtualNetwork":"services","virtualMachineInterfaces":["web-1","web-9"]}}`, "spec.virtualMachineInterfaces[1]", "does not exist"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.11","virtualNetwork":"services","members":[{"virtualMachineInterface":"web-9"}]}}`, "spec.members[0].virtualMachineInterface", "does not exist"},
	{`{"name":"x","networkPolicy":{"virtualNetworks":["pods","nowhere"]}}`, "spec.virtualNetworks[1]", "does not exist"},
	{`{"name":"x","route":{"vrf":"nowhere","prefix":"10.0.0.0/8","nextHops":[{"discard":true}]}}`, "spec.vrf", "no network has"},
	{`{"name":"x","route":{"vrf":"pods","prefix":"10.0.0.0/8","nextHops":[{"vrf":"nowhere"}]}}`, "spec.nextHops[0].vrf", "no network has"},
	{`{"name":"x","route":{"vrf":"pods","prefix":"10.0.0.0/8","nextHops":[{"interface":"web-9"}]}}`, "spec.nextHops[0].interface", "does not exist"},

	// What does not fit what is there.
	{`{"name":"x","virtualNetwork":{"subnets":[{"prefix":"10.0.0.0/8"},{"prefix":"10.1.0.0/16"}]}}`, "spec.subnets[1].prefix", "overlaps"},
	{`{"name":"x","virtualNetwork":{"subnets":[{"prefix":"10.0.0.0/24","gateway":"10.0.1.1"}]}}`, "spec.subnets[0].gateway", "not inside"},
	{`{"name":"x","virtualNetwork":{"subnets":[{"prefix":"10.0.0.0/24","gateway":"10.0.0.255"}]}}`, "spec.subnets[0].gateway", "broadcast"},
	{`{"name":"x","virtualNetwork":{"subnets":[{"prefix":"224.0.0.0/24"}]}}`, "spec.subnets[0].prefix", "unicast"},
	{`{"name":"x","virtualNetwork":{"subnets":[{"prefix":"0.0.0.0/0"}]}}`, "spec.subnets[0].prefix", "unicast"},
	{`{"name":"x","virtualNetwork":{"vrf":"pods"}}`, "spec.vrf", "belongs to"},
	{`{"name":"x","virtualNetwork":{"vrf":"ip-fabric"}}`, "spec.vrf", "node's own"},
	{`{"name":"pods","virtualNetwork":{"subnets":[{"prefix":"10.245.0.0/24"}]}}`, "spec.addresses[0]", "in no subnet"},
	{`{"name":"pods","virtualNetwork":{"vrf":"renamed","subnets":[{"prefix":"10.244.0.0/24"},{"prefix":"fd00:244::/64"}]}}`, "spec.vrf", "no network has"},
	{`{"name":"vhost0","virtualMachineInterface":{"virtualNetwork":"pods"}}`, "name", "node's own port"},
	{`{"name":"x","virtualMachineInterface":{"virtualNetwork":"pods","macAddress":"00:00:5e:00:01:00"}}`, "spec.macAddress", "vRouter's own"},
	{`{"name":"x","virtualMachineInterface":{"virtualNetwork":"pods","macAddress":"02:00:00:00:01:01"}}`, "spec.macAddress", "VirtualMachineInterface/web-1"},
	{`{"name":"x","virtualMachineInterface":{"virtualNetwork":"pods","addresses":["10.244.0.11"]}}`, "spec.addresses[0]", "VirtualMachineInterface/web-1"},
	{`{"name":"x","virtualMachineInterface":{"virtualNetwork":"pods","addresses":["fd00:244:0::11"]}}`, "spec.addresses[0]", "VirtualMachineInterface/web-1"},
	{`{"name":"x","virtualMachineInterface":{"virtualNetwork":"pods","addresses":["10.244.0.1"]}}`, "spec.addresses[0]", "VirtualNetwork/pods"},
	{`{"name":"x","virtualMachineInterface":{"virtualNetwork":"pods","addresses":["10.244.0.100"]}}`, "spec.addresses[0]", "InstanceIP/shared"},
	{`{"name":"x","virtualMachineInterface":{"virtualNetwork":"pods","addresses":["10.244.0.255"]}}`, "spec.addresses[0]", "broadcast"},
	{`{"name":"x","virtualMachineInterface":{"virtualNetwork":"pods","addresses":["10.245.0.1"]}}`, "spec.addresses[0]", "in no subnet"},
	{`{"name":"x","virtualMachineInterface":{"virtualNetwork":"pods","addresses":["::ffff:10.244.0.30"]}}`, "spec.addresses[0]", "IPv6 clothes"},
	{`{"name":"x","virtualMachineInterface":{"virtualNetwork":"pods","addresses":["127.0.0.1"]}}`, "spec.addresses[0]", "routed"},
	{`{"name":"x","virtualMachineInterface":{"virtualNetwork":"pods","addresses":["240.0.0.1"]}}`, "spec.addresses[0]", "reserved"},
	{`{"name":"x","virtualMachineInterface":{"virtualNetwork":"pods","allowedAddressPairs":[{"prefix":"10.9.0.0/16","macAddress":"02:00:00:00:00:09"}]}}`, "spec.allowedAddressPairs[0].macAddress", "not supported"},
	{`{"name":"x","virtualMachineInterface":{"virtualNetwork":"pods","tap":{"name":"tap-web1"}}}`, "spec.tap.guestName", "VirtualMachineInterface/web-1"},
	{`{"name":"x","virtualMachineInterface":{"virtualNetwork":"pods","tap":{"name":"tap-x","netns":"/run/netns/web-1"}}}`, "spec.tap.guestName", "VirtualMachineInterface/web-1"},
	{`{"name":"x","virtualMachineInterface":{"virtualNetwork":"pods","tap":{"existing":true}}}`, "spec.tap.name", "given"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.10","virtualNetwork":"services"}}`, "spec.address", "FloatingIP/web"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.10","virtualNetwork":"services","floatingIpPortMappings":{"portMappings":[{"srcPort":81},{"srcPort":80}]}}}`, "spec.floatingIpPortMappings.portMappings[1].srcPort", "FloatingIP/web"},
	{`{"name":"x","floatingIp":{"address":"10.244.0.11","virtualNetwork":"pods"}}`, "spec.address", "VirtualMachineInterface/web-1"},
	{`{"name":"x","floatingIp":{"address":"224.0.0.5","virtualNetwork":"services"}}`, "spec.address", "routed"},
	{`{"name":"x","floatingIp":{"address":"fd00:96::10","virtualNetwork":"services","virtualMachineInterfaces":["v4-only"]}}`, "spec.virtualMachineInterfaces[0]", "IPv6"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.11","virtualNetwork":"services","members":[{"virtualMachineInterface":"web-1","address":"10.244.0.99"}]}}`, "spec.members[0].address", "not an address of"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.11","virtualNetwork":"services","members":[{"virtualMachineInterface":"web-1","address":"fd00:244::11"}]}}`, "spec.members[0].address", "family"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.11","virtualNetwork":"services","members":[{"virtualMachineInterface":"web-1","targetPorts":[{"srcPort":81,"dstPort":1}]}]}}`, "spec.members[0].targetPorts[0].srcPort", "map it there"},
	{`{"name":"shared","instanceIp":{"address":"10.244.0.100","virtualNetwork":"pods","virtualMachineInterfaces":["web-1"]}}`, "spec.virtualMachineInterfaces", "FloatingIP/lent"},
	{`{"name":"x","instanceIp":{"address":"10.0.0.1","virtualNetwork":"services","virtualMachineInterfaces":["web-1"]}}`, "spec.address", "in no subnet"},
	{`{"name":"x","networkPolicy":{"virtualNetworks":["pods"],"rules":[{"action":"PASS","source":{"virtualNetwork":"services"}}]}}`, "spec.rules[0].source.virtualNetwork", "not attached"},
	{`{"name":"x","networkPolicy":{"virtualNetworks":["pods"],"rules":[{"action":"PASS","source":{"prefix":"10.0.0.0/8"},"destination":{"prefix":"fd00::/8"}}]}}`, "spec.rules[0].destination.prefix", "families"},
	{`{"name":"x","networkPolicy":{"virtualNetworks":["pods"],"rules":[{"action":"PASS","name":"a"},{"action":"DENY","name":"a"}]}}`, "spec.rules[1].name", "own"},
	{`{"name":"x","securityPolicy":{"ingress":[{"name":"a"},{"name":"a"}]}}`, "spec.ingress[1].name", "own"},
	{`{"name":"x","securityPolicy":{"ingress":[{"peers":[{"ipBlock":{"cidr":"10.0.0.0/8","except":["11.0.0.0/16"]}}]}]}}`, "spec.ingress[0].peers[0].ipBlock.except[0]", "not inside"},
	{`{"name":"x","route":{"vrf":"pods","prefix":"0.0.0.0/0","nextHops":[{"discard":true}]}}`, "spec.prefix", "Route/out"},
	{`{"name":"x","route":{"vrf":"segment","nextHops":[{"interface":"host-1"}]}}`, "spec", "exactly one of prefix"},
	{`{"name":"x","route":{"vrf":"segment","prefix":"10.0.0.0/8","flood":true,"nextHops":[{"tunnel":{"remote":"192.0.2.20","vni":300}}]}}`, "spec", "exactly one of prefix"},
	{`{"name":"x","route":{"vrf":"segment","macAddress":"02:00:00:00:03:09","nextHops":[{"interface":"host-1"},{"tunnel":{"remote":"192.0.2.20","vni":300}}]}}`, "spec", "one next hop"},
	{`{"name":"x","route":{"vrf":"segment","macAddress":"02:00:00:00:03:09","nextHops":[{"discard":true}]}}`, "spec", "an interface or a tunnel"},
	{`{"name":"x","route":{"vrf":"segment","flood":true,"nextHops":[{"interface":"host-1"}]}}`, "spec", "are tunnels"},
	{`{"name":"x","route":{"vrf":"segment","flood":true,"nextHops":[{"tunnel":{"remote":"192.0.2.20","vni":300}}]}}`, "spec.flood", "Route/all"},
	{`{"name":"x","route":{"vrf":"segment","macAddress":"02:00:00:00:03:02","nextHops":[{"interface":"host-1"}]}}`, "spec.macAddress", "Route/one"},
	{`{"name":"x","route":{"vrf":"pods","macAddress":"02:00:00:00:03:09","nextHops":[{"interface":"web-1"}]}}`, "spec.macAddress", "bridging: true"},
	{`{"name":"x","route":{"vrf":"segment","macAddress":"00:00:5e:00:01:00","nextHops":[{"interface":"host-1"}]}}`, "spec.macAddress", "vRouter's own"},
	{`{"name":"x","route":{"vrf":"segment","macAddress":"02:00:00:00:03:09","nextHops":[{"interface":"web-1"}]}}`, "spec.nextHops[0].interface", "network pods"},
	{`{"name":"x","route":{"vrf":"segment","macAddress":"02:00:00:00:03:09","nextHops":[{"interface":"vhost0"}]}}`, "spec.nextHops[0].interface", "ip-fabric"},
	{`{"name":"x","route":{"vrf":"segment","macAddress":"02:00:00:00:03:09","nextHops":[{"tunnel":{"remote":"192.0.2.20","label":17}}]}}`, "spec.nextHops[0].tunnel.vni", "VXLAN"},
	{`{"name":"x","route":{"vrf":"segment","macAddress":"02:00:00:00:03:09","nextHops":[{"tunnel":{"remote":"192.0.2.20","vni":300,"encapsulations":["MPLS_UDP"]}}]}}`, "spec.nextHops[0].tunnel.encapsulations", "VXLAN"},
	{`{"name":"x","route":{"vrf":"segment","macAddress":"02:00:00:00:03:09","nextHops":[{"tunnel":{"remote":"192.0.2.20","vni":300,"macAddress":"02:00:00:00:03:09"}}]}}`, "spec.nextHops[0].tunnel.macAddress", "leave it out"},
	{`{"name":"all","route":{"vrf":"segment","flood":true,"nextHops":[{"tunnel":{"remote":"192.0.2.20","vni":300}},{"tunnel":{"remote":"192.0.2.20","vni":300,"label":17}}]}}`, "spec.nextHops[1].tunnel", "leads already"},
	{`{"name":"segment","virtualNetwork":{"vni":300}}`, "spec.flood", "bridging: true"},
	{`{"name":"ip-fabric","virtualNetwork":{"bridging":true}}`, "spec.bridging", "uplink"},
	{`{"name":"x","route":{"vrf":"ip-fabric","prefix":"0.0.0.0/0","nextHops":[{"vrf":"pods"}]}}`, "spec.nextHops[0].vrf", "back to itself"},
	{`{"name":"x","route":{"vrf":"pods","prefix":"10.0.0.0/8","nextHops":[{"vrf":"pods"}]}}`, "spec.nextHops[0].vrf", "back to itself"},
	{`{"name":"x","route":{"vrf":"pods","prefix":"10.0.0.0/8","nextHops":[{"interface":"web-1"},{"interface":"web-1"}]}}`, "spec.nextHops[1].interface", "already"},
	{`{"name":"x","route":{"vrf":"pods","prefix":"224.0.0.0/8","nextHops":[{"interface":"web-1"}]}}`, "spec.prefix", "unicast"},
	{`{"name":"second","fabric":{}}`, "name", "Fabric/node"},
	{`{"name":"node","fabric":{"nodeAddresses":["192.0.2.11"]}}`, "spec.vhost0", "given"},
	{`{"name":"node","fabric":{"vhost0":{"addresses":["192.0.2.0/24"]}}}`, "spec.vhost0.addresses[0]", "broadcast"},
	{`{"name":"node","fabric":{"nodeAddresses":["192.0.2.10"],"vhost0":{"addresses":["192.0.2.10/24"]}}}`, "spec.vhost0.addresses[0]", "already"},
	{`{"name":"node","fabric":{"vhost0":{"name":"tap-web1"}}}`, "spec.vhost0.name", "VirtualMachineInterface/web-1"},

	// Other nodes.
	{`{"name":"x","virtualNetwork":{"label":15}}`, "spec.label", "16"},
	{`{"name":"x","virtualNetwork":{"vni":16777216}}`, "spec.vni", "16777215"},
	{`{"name":"x","route":{"vrf":"pods","prefix":"10.0.0.0/8","nextHops":[{"tunnel":{"remote":"192.0.2.20"}}]}}`, "spec.nextHops[0].tunnel", "label"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.11","virtualNetwork":"services","members":[{"virtualMachineInterface":"web-8","tunnel":{"remote":"192.0.2.20","label":17}}]}}`, "spec.members[0]", "needs its address"},
	{`{"name":"x","virtualNetwork":{"label":100}}`, "spec.label", "VirtualNetwork/labelled"},
	{`{"name":"x","virtualMachineInterface":{"virtualNetwork":"pods","label":100}}`, "spec.label", "VirtualNetwork/labelled"},
	{`{"name":"x","virtualNetwork":{"vni":200}}`, "spec.vni", "VirtualNetwork/labelled"},
	{`{"name":"uplink","virtualMachineInterface":{"virtualNetwork":"pods"}}`, "name", "fabric port"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.11","virtualNetwork":"services","members":[{"virtualMachineInterface":"web-1","address":"10.244.0.90","tunnel":{"remote":"192.0.2.20","label":17}}]}}`, "spec.members[0].virtualMachineInterface", "interface of this node"},
	{`{"name":"web-9","virtualMachineInterface":{"virtualNetwork":"pods"}}`, "spec.members[0].virtualMachineInterface", "interface of this node"},
	{`{"name":"x","floatingIp":{"address":"fd00:96::10","virtualNetwork":"services","members":[{"virtualMachineInterface":"web-8","address":"10.244.0.90","tunnel":{"remote":"192.0.2.20","label":17}}]}}`, "spec.members[0].address", "family"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.11","virtualNetwork":"services","members":[{"virtualMachineInterface":"web-8","address":"127.0.0.1","tunnel":{"remote":"192.0.2.20","label":17}}]}}`, "spec.members[0].address", "routed"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.11","virtualNetwork":"services","members":[{"virtualMachineInterface":"web-8","address":"10.244.0.90","targetPorts":[{"srcPort":80,"dstPort":1}],"tunnel":{"remote":"192.0.2.20","label":17}}]}}`, "spec.members[0].targetPorts[0].srcPort", "map it there"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.11","virtualNetwork":"services","members":[{"virtualMachineInterface":"web-8","address":"10.244.0.90","tunnel":{"remote":"192.0.2.10","label":17}}]}}`, "spec.members[0].tunnel.remote", "own address"},
	{`{"name":"x","route":{"vrf":"pods","prefix":"10.0.0.0/8","nextHops":[{"tunnel":{"remote":"192.0.2.11","label":17}}]}}`, "spec.nextHops[0].tunnel.remote", "own address"},
	{`{"name":"x","route":{"vrf":"pods","prefix":"10.0.0.0/8","nextHops":[{"tunnel":{"remote":"224.0.0.1","label":17}}]}}`, "spec.nextHops[0].tunnel.remote", "routed"},
	{`{"name":"x","route":{"vrf":"pods","prefix":"10.0.0.0/8","nextHops":[{"tunnel":{"remote":"fd00:2::20","label":17}}]}}`, "spec.nextHops[0].tunnel.remote", "no IPv6 address"},
	{`{"name":"x","route":{"vrf":"pods","prefix":"10.0.0.0/8","nextHops":[{"interface":"web-1"},{"tunnel":{"remote":"192.0.2.20","label":17}},{"tunnel":{"remote":"192.0.2.20","label":17,"vni":5}}]}}`, "spec.nextHops[2].tunnel", "leads already"},
	{`{"name":"x","route":{"vrf":"pods","prefix":"10.0.0.0/8","nextHops":[{"tunnel":{"remote":"192.0.2.20","vni":17,"encapsulations":["MPLS_UDP"]}}]}}`, "spec.nextHops[0].tunnel.label", "MPLS_UDP"},
	{`{"name":"x","route":{"vrf":"pods","prefix":"10.0.0.0/8","nextHops":[{"tunnel":{"remote":"192.0.2.20","label":17,"encapsulations":["VXLAN"]}}]}}`, "spec.nextHops[0].tunnel.vni", "VXLAN"},
	{`{"name":"node","fabric":{"vhost0":{"addresses":["192.0.2.10/24"]},"uplink":{"device":"eth0"},"encapsulations":["VXLAN"]}}`, "spec.nextHops[0].tunnel.vni", "VXLAN"},
	{`{"name":"node","fabric":{"vhost0":{"addresses":["192.0.2.10/24"]},"uplink":{"device":"eth0"},"encapsulations":["VXLAN"]}}`, "spec.members[0].tunnel.vni", "VXLAN"},
	{`{"name":"node","fabric":{"vhost0":{"addresses":["192.0.2.10/24"]}}}`, "spec.nextHops[0].tunnel", "add Fabric spec.uplink"},
	{`{"name":"node","fabric":{"vhost0":{"addresses":["192.0.2.20/24"]},"uplink":{"device":"eth0"}}}`, "spec.members[0].tunnel.remote", "own address"},
	{`{"name":"node","fabric":{"uplink":{"device":"eth0"}}}`, "spec.vhost0", "given with uplink"},
	{`{"name":"node","fabric":{"vhost0":{},"uplink":{"device":"a/b"}}}`, "spec.uplink.device", "device"},
	{`{"name":"node","fabric":{"vhost0":{"name":"eth0"},"uplink":{"device":"eth0"}}}`, "spec.uplink.device", "already"},
	{`{"name":"node","fabric":{"vhost0":{},"uplink":{"device":"tap-web1"}}}`, "spec.uplink.device", "VirtualMachineInterface/web-1"},
	{`{"name":"node","fabric":{"vhost0":{},"uplink":{"device":"eth0","netns":"/run/netns/web-1"}}}`, "spec.uplink.device", "VirtualMachineInterface/web-1"},
	{`{"name":"node","fabric":{"vhost0":{"addresses":["192.0.2.10/24"]},"uplink":{"device":"eth0"},"peers":[{"name":"b","addresses":["192.0.2.30","192.0.2.10"]}]}}`, "spec.peers[0].addresses[1]", "own address"},
	{`{"name":"node","fabric":{"vhost0":{},"uplink":{"device":"eth0"},"peers":[{"name":"b","addresses":["fd00:2::20"]},{"name":"c","addresses":["fd00:2:0::20"]}]}}`, "spec.peers[1].addresses[0]", "spec.peers[0].addresses[0]"},
	{`{"name":"node","fabric":{"vhost0":{},"peers":[{"name":"b","addresses":["192.0.2.30"]},{"name":"b","addresses":["192.0.2.31"]}]}}`, "spec.peers", "once"},
	{`{"name":"node","fabric":{"vhost0":{},"peers":[{"name":"b","addresses":["0.0.0.0"]}]}}`, "spec.peers[0].addresses[0]", "routed"},
	{`{"name":"node","fabric":{"vhost0":{"addresses":["192.0.2.10/24"]},"uplink":{"device":"eth0"},"peers":[{"name":"b","addresses":["192.0.2.30"],"bfd":{"minTtl":200}}]}}`, "spec.peers[0].bfd", "MULTIHOP"},
	{`{"name":"node","fabric":{"vhost0":{"addresses":["192.0.2.10/24"]},"uplink":{"device":"eth0"},"peers":[{"name":"b","addresses":["192.0.2.30"],"bfd":{"intervalMilliseconds":5}}]}}`, "spec.peers[0].bfd.intervalMilliseconds", "10"},
	// What comes from outside.
	{`{"name":"x","floatingIp":{"address":"10.96.0.11","virtualNetwork":"services","sourceRanges":["10.0.0.1/8"]}}`, "spec.sourceRanges[0]", "host bits"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.11","virtualNetwork":"services","sourceRanges":["::ffff:10.0.0.0/104"]}}`, "spec.sourceRanges[0]", "write it as IPv4"},
	{`{"name":"x","floatingIp":{"address":"fd00:96::11","virtualNetwork":"services","healthCheck":{"port":32000}}}`, "spec.healthCheck.port", "no IPv6 address"},
	{`{"name":"x","floatingIp":{"address":"10.96.0.11","virtualNetwork":"services","healthCheck":{}}}`, "spec.healthCheck.port", "1"},
	{`{"name":"x","floatingIp":{"address":"192.0.2.10","virtualNetwork":"ip-fabric","floatingIpPortMappings":{"portMappings":[{"srcPort":32000,"dstPort":8080}]},"healthCheck":{"port":32000}}}`, "spec.healthCheck.port", "is mapped by FloatingIP/x"},
}

// TestWrongFieldChangesNothing sends each wrong field between two good resources:
// the answer names it with its path, and neither the state nor its digest change.
func TestWrongFieldChangesNothing(t *testing.T) {
	for _, tc := range wrong {
		t.Run(tc.field+"/"+tc.says, func(t *testing.T) {
			s := newBase(t)
			digest, generation := s.Digest(), s.Generation()
			good := resource(t, `{"name":"good","virtualNetwork":{}}`)
			better := resource(t, `{"name":"better","virtualNetwork":{}}`)
			_, err := s.Begin(Request{Owner: OwnerOperator, Upserts: []*pb.Resource{good, resource(t, tc.text), better}, Deletes: []Key{{NetworkPolicy, "any"}}})
			var invalid *Error
			if !errors.As(err, &invalid) {
				t.Fatalf("accepted, or failed otherwise: %v", err)
			}
			found := false
			for _, v := range invalid.Violations {
				found = found || v.Field == tc.field && strings.Contains(v.Description, tc.says)
			}
			if !found {
				t.Errorf("violations %+v, want field %s saying %q", invalid.Violations, tc.field, tc.says)
			}
			if s.Digest() != digest || s.Generation() != generation {
				t.Error("the state changed")
			}
			if diff := s.rebuilt(); diff != "" {
				t.Error("an index changed: " + diff)
			}
		})
	}
}

// TestTunnelsWithBorrowedAddresses holds that a node whose port takes the uplink's
// addresses may have tunnels of both families: which it has is known later.
func TestTunnelsWithBorrowedAddresses(t *testing.T) {
	s := newBase(t)
	_, err := s.Begin(Request{Owner: OwnerOperator, Upserts: []*pb.Resource{
		resource(t, `{"name":"node","fabric":{"vhost0":{},"uplink":{"device":"eth0"}}}`),
		resource(t, `{"name":"x","route":{"vrf":"pods","prefix":"10.0.0.0/8","nextHops":[{"tunnel":{"remote":"fd00:2::20","label":17}},{"tunnel":{"remote":"192.0.2.20","label":17}}]}}`),
	}})
	if err != nil {
		t.Fatal(err)
	}
}

// TestEncapsulationIsChosen holds which of the ways that two nodes have in common
// is taken.
func TestEncapsulationIsChosen(t *testing.T) {
	const mplsUDP, vxlan, mplsGRE = pb.Encapsulation_MPLS_UDP, pb.Encapsulation_VXLAN, pb.Encapsulation_MPLS_GRE
	type list = []pb.Encapsulation_Value
	for _, tc := range []struct {
		mine, theirs list
		label, vni   uint32
		want         pb.Encapsulation_Value // 0: none
		id           uint32
	}{
		{nil, nil, 17, 5, mplsUDP, 17},
		{nil, nil, 0, 5, vxlan, 5},
		{list{mplsGRE, vxlan}, nil, 17, 5, mplsGRE, 17},
		{list{vxlan, mplsGRE}, nil, 17, 5, vxlan, 5},
		{list{vxlan, mplsGRE}, nil, 17, 0, mplsGRE, 17},
		{nil, list{mplsGRE}, 17, 5, mplsGRE, 17},
		{list{mplsUDP}, list{vxlan}, 17, 5, 0, 0},
		{list{vxlan}, nil, 17, 0, 0, 0},
	} {
		end, ok := EndpointOf(&pb.Fabric{Encapsulations: tc.mine}, &pb.Tunnel{Remote: "192.0.2.20", Label: tc.label, Vni: tc.vni, Encapsulations: tc.theirs})
		if ok != (tc.want != 0) || end.Encapsulation != tc.want || end.Identifier != tc.id {
			t.Errorf("%v and %v, label %d, VNI %d: %v %v, want %v %d", tc.mine, tc.theirs, tc.label, tc.vni, end, ok, tc.want, tc.id)
		}
	}
}

// rebuilt compares the indexes with those of a state made from nothing.
func (s *State) rebuilt() string {
	fresh := New()
	for _, r := range s.All() {
		k := KeyOf(r)
		fresh.put(k, s.objects[k.Kind][k.Name])
	}
	switch {
	case fresh.digest != s.digest:
		return "digest"
	case len(fresh.referrers) != len(s.referrers):
		return "referrers"
	case len(fresh.claimed) != len(s.claimed):
		return "claims"
	}
	for k, set := range fresh.referrers {
		if len(set) != len(s.referrers[k]) {
			return "referrers of " + k.String()
		}
	}
	return ""
}
