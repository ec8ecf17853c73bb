package network

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/vrouter-go/vrouter/controller/model"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// maxPeers and maxSubnets are what Fabric and VirtualNetwork take.
const (
	maxPeers   = 8192
	maxSubnets = 64
)

// Resources returns the networks, the policies between them, the ways to other nodes
// and, if the control plane describes it, the node itself.
func (p *Plan) Resources(v *model.View) []*pb.Resource {
	own := p.podCIDRs(v)
	var list []*pb.Resource
	for _, n := range p.networks {
		list = append(list, p.podNetwork(n, own), p.serviceNetwork(v, n))
		list = append(list, p.policies(n)...)
	}
	if p.options.overlay() {
		list = append(list, &pb.Resource{Name: Fabric, Spec: &pb.Resource_VirtualNetwork{
			VirtualNetwork: &pb.VirtualNetwork{Label: fabricNumber, Vni: fabricNumber},
		}})
		list = append(list, p.routes(v, own)...)
	}
	if p.options.Uplink != "" {
		list = append(list, p.fabric(v))
	}
	return list
}

// podNetwork is one pod network, with this node's part of its addresses. All pod
// networks share that part; the agent gives no address twice.
func (p *Plan) podNetwork(n Network, own []netip.Prefix) *pb.Resource {
	vn := &pb.VirtualNetwork{Label: n.Number, Vni: n.Number, FabricSnat: p.options.overlay()}
	for _, prefix := range own {
		subnet := &pb.Subnet{Prefix: prefix.String()}
		if prefix.Addr().BitLen()-prefix.Bits() > 1 { // else there is no address to spare
			subnet.Gateway = prefix.Addr().Next().String()
		}
		vn.Subnets = append(vn.Subnets, subnet)
	}
	return &pb.Resource{Name: n.Pods, Spec: &pb.Resource_VirtualNetwork{VirtualNetwork: vn}}
}

// serviceNetwork holds cluster IPs, with their ranges as subnets: what nobody has there is
// dropped and does not leave the node.
func (p *Plan) serviceNetwork(v *model.View, n Network) *pb.Resource {
	vn := &pb.VirtualNetwork{}
	ranges := p.options.ServiceCIDRs
	if len(ranges) == 0 {
		ranges = v.ServiceCIDRs()
	}
	for _, prefix := range disjoint(ranges) {
		vn.Subnets = append(vn.Subnets, &pb.Subnet{Prefix: prefix.String()})
	}
	return &pb.Resource{Name: n.Services, Spec: &pb.Resource_VirtualNetwork{VirtualNetwork: vn}}
}

// policies let a pod network and the network of the nodes talk, for probes, NodePorts and
// what lies outside; pods call services, and so does the node.
func (p *Plan) policies(n Network) []*pb.Resource {
	prefix := prefixOf(n.Namespace)
	return []*pb.Resource{
		joined(prefix+"-ip-fabric-podnetwork", Fabric, n.Pods),
		joined(prefix+"-ip-fabric-servicenetwork", Fabric, n.Services),
		joined(prefix+"-pod-service", n.Pods, n.Services),
	}
}

// joined is a policy that lets two networks talk.
func joined(name, a, b string) *pb.Resource {
	return &pb.Resource{Name: model.ResourceName(name), Spec: &pb.Resource_NetworkPolicy{NetworkPolicy: &pb.NetworkPolicy{
		VirtualNetworks: []string{a, b},
		Rules: []*pb.NetworkPolicyRule{{
			Source:      &pb.PolicyEndpoint{VirtualNetwork: a},
			Destination: &pb.PolicyEndpoint{VirtualNetwork: b},
			Direction:   pb.NetworkPolicyRule_BOTH,
			Action:      pb.NetworkPolicyRule_PASS,
		}},
	}}}
}

// routes lead to the other nodes: to their own addresses, and to the pods on them from
// each network. A node has pods of all networks in one range, so what its own network,
// ip-fabric, sends there is looked up there among all of them. Every pod network has a
// route of its own to every node, where it has pods or not: it takes over those of
// ip-fabric else, which lead to everybody's pods.
func (p *Plan) routes(v *model.View, own []netip.Prefix) []*pb.Resource {
	var list []*pb.Resource
	taken := slices.Clone(own)
	for _, node := range slices.Sorted(maps.Keys(p.remotes)) {
		for _, a := range p.remotes[node].addresses {
			list = append(list, route(model.ResourceName(Fabric, node, a.StringExpanded()), Fabric, netip.PrefixFrom(a, a.BitLen()),
				&pb.Tunnel{Remote: a.String(), Label: fabricNumber, Vni: fabricNumber}))
		}
		if p.tunnel(node, fabricNumber) == nil {
			continue
		}
		for i, prefix := range disjoint(prefixes(podCIDRsOf(v.NodeNamed(node)))) {
			if slices.ContainsFunc(taken, prefix.Overlaps) {
				continue // two nodes claim it: the first by name has it
			}
			taken = append(taken, prefix)
			part := "pods-" + string(rune('0'+i%10))
			list = append(list, route(model.ResourceName(Fabric, node, part), Fabric, prefix, p.tunnel(node, fabricNumber)))
			for _, n := range p.networks {
				list = append(list, route(model.ResourceName(n.Pods, node, part), n.Pods, prefix, p.tunnel(node, n.Number)))
			}
		}
	}
	return list
}

func route(name, vrf string, prefix netip.Prefix, t *pb.Tunnel) *pb.Resource {
	return &pb.Resource{Name: name, Spec: &pb.Resource_Route{Route: &pb.Route{
		Vrf: vrf, Prefix: prefix.String(), NextHops: []*pb.NextHop{{Target: &pb.NextHop_Tunnel{Tunnel: t}}},
	}}}
}

// fabric describes the node. Its port takes over the uplink's addresses.
func (p *Plan) fabric(v *model.View) *pb.Resource {
	f := &pb.Fabric{Vhost0: &pb.Vhost{Name: p.options.Vhost0}, Uplink: &pb.Uplink{Device: p.options.Uplink}}
	for _, a := range model.InternalIPs(v.NodeNamed(p.node)) {
		if usable(a) {
			f.NodeAddresses = append(f.NodeAddresses, a.String())
		}
	}
	for _, node := range slices.Sorted(maps.Keys(p.remotes)) {
		if r := p.remotes[node]; len(r.addresses) > 0 && len(f.Peers) < maxPeers {
			peer := &pb.Peer{Name: node}
			for _, a := range r.addresses {
				peer.Addresses = append(peer.Addresses, a.String())
			}
			f.Peers = append(f.Peers, peer)
		}
	}
	return &pb.Resource{Name: "node", Spec: &pb.Resource_Fabric{Fabric: f}}
}

// podCIDRs are this node's ranges of pod addresses.
func (p *Plan) podCIDRs(v *model.View) []netip.Prefix {
	if len(p.options.PodCIDRs) > 0 {
		return disjoint(p.options.PodCIDRs)
	}
	return disjoint(prefixes(podCIDRsOf(v.NodeNamed(p.node))))
}

func podCIDRsOf(n *corev1.Node) []string {
	if n == nil {
		return nil
	}
	return n.Spec.PodCIDRs
}

func prefixes(texts []string) (list []netip.Prefix) {
	for _, s := range texts {
		if p, err := netip.ParsePrefix(s); err == nil {
			list = append(list, p)
		}
	}
	return list
}

// disjoint returns prefixes that can be subnets, without those that others hold, in
// order.
func disjoint(list []netip.Prefix) []netip.Prefix {
	var kept []netip.Prefix
	sorted := slices.SortedFunc(slices.Values(list), func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(a.Bits(), b.Bits()), a.Addr().Compare(b.Addr()))
	})
	for _, p := range sorted {
		p = p.Masked()
		if p.Bits() == 0 || !usable(p.Addr()) || p.Addr().Is4In6() || len(kept) == maxSubnets || slices.ContainsFunc(kept, p.Overlaps) {
			continue
		}
		kept = append(kept, p)
	}
	return slices.SortedFunc(slices.Values(kept), netip.Prefix.Compare)
}

func sortedKeys[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }
