package netns_test

import (
	"cmp"
	"fmt"
	"strings"
)

// The labels and VNIs of all clusters. Labels differ from node to node, as they do
// where each node gives out its own: a packet with another node's label is noticed.
const (
	podsVNI   = 5000
	fabricVNI = 4999
)

func (n *node) podsLabel() int   { return 1000*n.number + 18 }
func (n *node) fabricLabel() int { return 1000*n.number + 17 }

// plan is what a cluster's control plane knows beyond nodes and pods. The zero value
// is the standard: MPLS over UDP between IPv4 addresses, and a service over the
// first pod of each node.
type plan struct {
	encapsulations string // the fabric's order, "" for the default
	underlay       family // of the addresses that tunnels lead to
	podMTU         int    // 0: 1500
	flowQuota      int    // of every pod, 0: the default
	// members of the service by pod; nil: the first pod of each node. The value
	// is the member's state, for example READY.
	members  map[*pod]string
	detached bool // the nodes have no uplink, and so no tunnels
	leave    bool // pods may leave by their node's address
	bridging bool // the pods' network bridges
	// gone are pods that the control plane has taken away: no route leads there.
	gone map[*pod]bool
	// strangers are hosts that speak VXLAN and are no vRouters.
	strangers []stranger
	frontends []frontend
	more      string // further documents for every node
}

// frontend is one more floating IP of every node with members on any: a NodePort, an
// address that no node has, an address of another network.
type frontend struct {
	name    string
	network string    // "": ip-fabric
	address [2]string // zero: the nodes' own, each node's at the node
	ports   string    // port mappings, in a flow sequence
	spec    string    // further fields, a line each
	members []*pod
	hosts   []fabricHost
}

// fabricHost is a host that is a member, and has no interface of a vRouter.
type fabricHost struct {
	name    string
	address [2]string
}

// stranger is a host with a kernel VXLAN device in the network of the pods.
type stranger struct {
	name    string
	address [2]string // of the device
	remote  string    // of the host, in the fabric
	mac     string    // of the device
}

// desired is a node's state: what any control plane would make of the cluster.
func (n *node) desired() string {
	p := &n.c.plan
	var b strings.Builder
	doc := func(kind, name, spec string, args ...any) {
		fmt.Fprintf(&b, "---\nkind: %s\nname: %s\nspec:\n%s\n", kind, name, fmt.Sprintf(spec, args...))
	}
	b.WriteString(clusterNetworks)
	doc("VirtualNetwork", "ip-fabric", "  label: %d\n  vni: %d", n.fabricLabel(), fabricVNI)
	doc("VirtualNetwork", "pods", `  label: %d
  vni: %d
  fabricSnat: %v
  bridging: %v
  subnets:
    - {prefix: 10.244.0.0/16, gateway: 10.244.0.1}
    - {prefix: "fd00:244::/64", gateway: "fd00:244::1"}`, n.podsLabel(), podsVNI, p.leave, p.bridging)
	if p.bridging {
		var hops []string
		for _, s := range p.strangers {
			hops = append(hops, fmt.Sprintf("{tunnel: {remote: %q, vni: %d}}", s.remote, podsVNI))
			doc("Route", s.name+"-mac", "  vrf: pods\n  macAddress: %q\n  nextHops: [%s]", s.mac, hops[len(hops)-1])
		}
		for _, other := range n.c.nodes {
			if other != n {
				hops = append(hops, fmt.Sprintf("{tunnel: {remote: %q, vni: %d}}", other.address[p.underlay], podsVNI))
			}
		}
		doc("Route", "flood", "  vrf: pods\n  flood: true\n  nextHops: [%s]", strings.Join(hops, ", "))
	}
	doc("Fabric", "node", "%s", n.fabric())
	for _, pod := range n.pods {
		if p.gone[pod] {
			continue
		}
		spec := fmt.Sprintf("  virtualNetwork: pods\n  addresses: [%s, %q]\n  label: %d\n", pod.address[v4], pod.address[v6], pod.label)
		if p.flowQuota > 0 {
			spec += fmt.Sprintf("  flowQuota: %d\n", p.flowQuota)
		}
		doc("VirtualMachineInterface", pod.name, "%s  tap: {netns: @NS@-%s, mtu: %d}", spec, pod.name, cmp.Or(p.podMTU, 1500))
	}
	for _, other := range n.c.nodes {
		if other == n || p.detached {
			continue
		}
		for f := range service {
			doc("Route", fmt.Sprintf("%s-%v", other.name, family(f)), "  vrf: ip-fabric\n  prefix: %q\n  nextHops: [{tunnel: %s}]",
				other.address[f]+family(f).bits(), other.tunnel(other.fabricLabel(), fabricVNI))
		}
		for _, pod := range other.pods {
			if p.gone[pod] {
				continue
			}
			for f := range service {
				doc("Route", fmt.Sprintf("%s-%v", pod.name, family(f)), "  vrf: pods\n  prefix: %q\n  nextHops: [{tunnel: %s}]",
					pod.address[f]+family(f).bits(), other.tunnel(pod.label, podsVNI))
			}
		}
	}
	for _, s := range p.strangers {
		for f := range service {
			doc("Route", fmt.Sprintf("%s-%v", s.name, family(f)), "  vrf: pods\n  prefix: %q\n  nextHops: [{tunnel: {remote: %q, vni: %d, macAddress: %q}}]",
				s.address[f]+family(f).bits(), s.remote, podsVNI, s.mac)
		}
	}
	for f := range service {
		doc("FloatingIP", fmt.Sprintf("web-%v", family(f)), "%s", n.service(family(f)))
	}
	for _, x := range p.frontends {
		for f := range service {
			address := x.address
			if address == [2]string{} {
				address = n.address
			}
			doc("FloatingIP", fmt.Sprintf("%s-%v", x.name, family(f)), "  address: %q\n  virtualNetwork: %s\n  floatingIpPortMappings: {portMappings: [%s]}\n%s%s",
				address[f], cmp.Or(x.network, "ip-fabric"), x.ports, x.spec, n.members(family(f), x.members, x.hosts))
		}
	}
	b.WriteString(p.more)
	return b.String()
}

// fabric is the node itself: its addresses, its uplink, the other nodes.
func (n *node) fabric() string {
	var b strings.Builder
	fmt.Fprintf(&b, "  nodeAddresses: [%s, %q]\n  vhost0: {}\n", n.address[v4], n.address[v6])
	if !n.c.plan.detached {
		b.WriteString("  uplink: {device: eth0}\n")
	}
	if e := n.c.plan.encapsulations; e != "" {
		fmt.Fprintf(&b, "  encapsulations: [%s]\n", e)
	}
	b.WriteString("  peers:\n")
	for _, other := range n.c.nodes {
		if other != n {
			fmt.Fprintf(&b, "    - {name: %s, addresses: [%s, %q]}\n", other.name, other.address[v4], other.address[v6])
		}
	}
	return b.String()
}

// tunnel leads to the node.
func (n *node) tunnel(label, vni int) string {
	return fmt.Sprintf("{remote: %q, label: %d, vni: %d}", n.address[n.c.plan.underlay], label, vni)
}

// service is the floating IP of a family, with members on all nodes, which have the
// same names on all nodes.
func (n *node) service(f family) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  address: %q\n%s  members:\n", service[f], serviceMappings)
	for _, pod := range n.c.pods() {
		state, ok := n.c.plan.members[pod]
		if n.c.plan.members == nil {
			state, ok = "READY", pod == pod.node.pods[0]
		}
		if !ok || n.c.plan.gone[pod] || n.c.plan.detached && pod.node != n {
			continue
		}
		b.WriteString(n.member(f, pod, state))
	}
	return b.String()
}

// members is a floating IP's list of pods and hosts that are ready.
func (n *node) members(f family, pods []*pod, hosts []fabricHost) string {
	if len(pods)+len(hosts) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("  members:\n")
	for _, pod := range pods {
		b.WriteString(n.member(f, pod, "READY"))
	}
	for _, h := range hosts {
		fmt.Fprintf(&b, "    - {virtualMachineInterface: %s, host: true, address: %q}\n", h.name, h.address[f])
	}
	return b.String()
}

// member is a pod in a floating IP's list on a node.
func (n *node) member(f family, pod *pod, state string) string {
	tunnel := ""
	if pod.node != n {
		tunnel = ", tunnel: " + pod.node.tunnel(pod.label, podsVNI)
	}
	return fmt.Sprintf("    - {virtualMachineInterface: %s, state: %s, address: %q%s}\n", pod.name, state, pod.address[f], tunnel)
}

// serviceMappings are the ports of the service; those above 7000 count datagrams.
const serviceMappings = `  virtualNetwork: services
  floatingIpPortMappings:
    portMappings:
      - {srcPort: 80, dstPort: 8080, protocol: TCP}
      - {srcPort: 5201, dstPort: 5201, protocol: TCP}
      - {srcPort: 9000, dstPort: 9001, protocol: UDP}
      - {srcPort: 7000, dstPort: 7000, protocol: UDP}
      - {srcPort: 7001, dstPort: 7001, protocol: UDP}
`

const clusterNetworks = `kind: VirtualNetwork
name: services
---
kind: NetworkPolicy
name: fabric-pods
spec:
  virtualNetworks: [ip-fabric, pods]
  rules:
    - {source: {virtualNetwork: ip-fabric}, destination: {virtualNetwork: pods}, direction: BOTH, action: PASS}
---
kind: NetworkPolicy
name: use-services
spec:
  virtualNetworks: [pods, services, ip-fabric]
  rules:
    - {source: {virtualNetwork: pods}, destination: {virtualNetwork: services}, action: PASS}
    - {source: {virtualNetwork: ip-fabric}, destination: {virtualNetwork: services}, action: PASS}
`
