package statefile

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// nearest returns the candidate that a misspelt word most likely means; empty when none is near.
func nearest(word string, candidates []string) string {
	best, bestDistance := "", 1+max(1, len(word)/3)
	for _, c := range candidates {
		if d := distance(fold(word), fold(c)); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// fold removes what users get wrong without meaning another word: case, dashes and underscores.
func fold(word string) string {
	return strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(word))
}

// distance is the Levenshtein distance of two words; words too long to be a misspelling are far from everything.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// otherNames maps what other systems call a field to our name.
var otherNames = map[string]string{
	"mac": "macAddress", "network": "virtualNetwork", "ip": "address", "ips": "addresses", "vmi": "virtualMachineInterface", "vmis": "virtualMachineInterfaces",
	"cidr": "prefix", "subnet": "subnets", "podSelector": "subject in the spec, selector in a peer", "from": "peers", "to": "peers", "port": "srcPort and dstPort",
	"targetPort": "dstPort", "portMappings": "floatingIpPortMappings: {portMappings: [...]}", "ports": "destinationPorts", "nextHop": "nextHops: [...]",
	"sessionAffinityConfig": "sessionAffinity: {type: CLIENT_IP, timeoutSeconds: 10800}", "timeout": "timeoutSeconds", "src": "source", "dst": "destination",
}

// examples shows a right value of a field, by its JSON name.
var examples = map[string]string{
	"kind": "VirtualNetwork", "name": "web-1", "prefix": "10.244.0.0/24", "gateway": "10.244.0.1", "virtualNetwork": "pods", "vrf": "pods", "macAddress": `"02:00:00:00:01:01"`,
	"addresses": "[10.244.0.11]", "address": "10.96.0.10", "labels": "{app: web}", "subnets": "[{prefix: 10.244.0.0/24, gateway: 10.244.0.1}]",
	"tap": "{name: tap-web1, netns: /run/netns/web-1}", "portMappings": "[{srcPort: 80, dstPort: 8080, protocol: TCP}]",
	"floatingIpPortMappings":   "{portMappings: [{srcPort: 80, dstPort: 8080, protocol: TCP}]}",
	"virtualMachineInterfaces": "[web-1, web-2]", "members": "[{virtualMachineInterface: web-1, state: READY, weight: 1}]", "virtualMachineInterface": "web-1",
	"destinationPorts": "[{start: 80, end: 80}]", "sourcePorts": "[{start: 1024, end: 65535}]", "source": "{virtualNetwork: pods}", "destination": "{virtualNetwork: services}",
	"virtualNetworks": "[ip-fabric, pods]", "rules": "[{source: {virtualNetwork: ip-fabric}, destination: {virtualNetwork: pods}, action: PASS}]",
	"nextHops": "[{interface: web-1}]", "cidr": "192.0.2.0/24", "matchLabels": "{app: web}", "sessionAffinity": "{type: CLIENT_IP, timeoutSeconds: 10800}",
	"nodeAddresses": "[192.0.2.1]", "vhost0": "{addresses: [192.0.2.1/24]}", "targetPorts": "[{srcPort: 80, dstPort: 8080}]",
	"tunnel": "{remote: 192.0.2.12, label: 100017}", "remote": "192.0.2.12", "label": "100017", "vni": "4097", "uplink": "{device: eth0}", "device": "eth0",
	"encapsulations": "[MPLS_UDP, VXLAN]",
	"spec":           "{virtualNetwork: pods}", "mtu": "1500", "queues": "1", "srcPort": "80", "dstPort": "8080", "weight": "1", "start": "80", "end": "80", "port": "80",
	"hashFields": "[SOURCE_IP, DESTINATION_IP]", "policyTypes": "[INGRESS]", "ingress": "[{peers: [{selector: {matchLabels: {app: web}}}], ports: [{port: 80}]}]",
}

// unknownField says what to write in place of a field that a message does not have.
func unknownField(message protoreflect.MessageDescriptor, key string) string {
	var names []string
	fields := message.Fields()
	for i := range fields.Len() {
		names = append(names, fields.Get(i).JSONName())
	}
	if reserved(message, key) {
		return "leave it out: the name is kept for a later release and has no meaning yet"
	}
	if name := nearest(key, names); name != "" {
		return "did you mean " + name + "?"
	}
	if other, ok := otherNames[key]; ok && hasField(names, other) {
		return "did you mean " + other + "?"
	}
	return "one of " + strings.Join(names, ", ")
}

// hasField tells whether a suggestion begins with one of the names.
func hasField(names []string, suggestion string) bool {
	for _, name := range names {
		if suggestion == name || strings.HasPrefix(suggestion, name+":") || strings.HasPrefix(suggestion, name+" ") {
			return true
		}
	}
	return false
}

// reserved tells whether a message keeps a field name (in its JSON spelling) for later.
func reserved(message protoreflect.MessageDescriptor, key string) bool {
	names := message.ReservedNames()
	for i := range names.Len() {
		if fold(string(names.Get(i))) == fold(key) {
			return true
		}
	}
	return false
}
