package statefile

import (
	"fmt"

	vrouterv1 "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Names that exist without being declared.
const (
	// FabricNetwork is the network (and the VRF) of the node's own addresses.
	FabricNetwork = "ip-fabric"
	// FabricInterface is the interface of the node itself.
	FabricInterface = "vhost0"
)

// KindVRF stands for a VRF in a Reference: VRFs are named by networks and are no resources themselves.
const KindVRF = "VRF"

// Reference is a name that a resource uses for another one.
type Reference struct {
	// Field that holds the name, for example spec.members[0].virtualMachineInterface.
	Field string
	// Kind of the resource that is named, or VRF.
	Kind string
	// Name that is used.
	Name string
}

// References returns the names that a resource uses for others, empty ones left out.
func References(r *vrouterv1.Resource) []Reference {
	var refs []Reference
	add := func(kind, name, format string, args ...any) {
		if name != "" {
			refs = append(refs, Reference{Field: "spec." + fmt.Sprintf(format, args...), Kind: kind, Name: name})
		}
	}
	const network, vmi = "VirtualNetwork", "VirtualMachineInterface"
	switch s := r.GetSpec().(type) {
	case *vrouterv1.Resource_VirtualMachineInterface:
		add(network, s.VirtualMachineInterface.GetVirtualNetwork(), "virtualNetwork")
	case *vrouterv1.Resource_InstanceIp:
		add(network, s.InstanceIp.GetVirtualNetwork(), "virtualNetwork")
		for i, name := range s.InstanceIp.GetVirtualMachineInterfaces() {
			add(vmi, name, "virtualMachineInterfaces[%d]", i)
		}
	case *vrouterv1.Resource_FloatingIp:
		add(network, s.FloatingIp.GetVirtualNetwork(), "virtualNetwork")
		add("InstanceIP", s.FloatingIp.GetParent(), "parent")
		for i, name := range s.FloatingIp.GetVirtualMachineInterfaces() {
			add(vmi, name, "virtualMachineInterfaces[%d]", i)
		}
		for i, m := range s.FloatingIp.GetMembers() {
			if m.GetTunnel() != nil || m.GetHost() {
				continue // an interface of another node, or none
			}
			add(vmi, m.GetVirtualMachineInterface(), "members[%d].virtualMachineInterface", i)
		}
	case *vrouterv1.Resource_LoadBalancer:
		for i, name := range s.LoadBalancer.GetFloatingIps() {
			add("FloatingIP", name, "floatingIps[%d]", i)
		}
		for i, name := range s.LoadBalancer.GetInstanceIps() {
			add("InstanceIP", name, "instanceIps[%d]", i)
		}
	case *vrouterv1.Resource_NetworkPolicy:
		for i, name := range s.NetworkPolicy.GetVirtualNetworks() {
			add(network, name, "virtualNetworks[%d]", i)
		}
		for i, rule := range s.NetworkPolicy.GetRules() {
			add(network, rule.GetSource().GetVirtualNetwork(), "rules[%d].source.virtualNetwork", i)
			add(network, rule.GetDestination().GetVirtualNetwork(), "rules[%d].destination.virtualNetwork", i)
		}
	case *vrouterv1.Resource_SecurityPolicy:
		for d, rules := range [...][]*vrouterv1.SecurityRule{s.SecurityPolicy.GetIngress(), s.SecurityPolicy.GetEgress()} {
			for i, rule := range rules {
				for j, peer := range rule.GetPeers() {
					add("AddressSet", peer.GetAddressSet(), "%s[%d].peers[%d].addressSet", [...]string{"ingress", "egress"}[d], i, j)
				}
			}
		}
	case *vrouterv1.Resource_Route:
		add(KindVRF, s.Route.GetVrf(), "vrf")
		for i, hop := range s.Route.GetNextHops() {
			add(vmi, hop.GetInterface(), "nextHops[%d].interface", i)
			add(KindVRF, hop.GetVrf(), "nextHops[%d].vrf", i)
		}
	}
	return refs
}

// VRF returns the name of a network's VRF; empty for a resource of another kind.
func VRF(r *vrouterv1.Resource) string {
	network := r.GetVirtualNetwork()
	switch {
	case network == nil:
		return ""
	case network.GetVrf() != "":
		return network.GetVrf()
	}
	return r.GetName()
}

// references refuses names that neither the documents nor the existing resources hold, and VRFs that two networks claim.
func (p *parse) references(existing []*vrouterv1.Resource) {
	known := map[string][]string{
		"VirtualNetwork": {FabricNetwork}, KindVRF: {FabricNetwork}, "VirtualMachineInterface": {FabricInterface},
	}
	has := map[[2]string]bool{{"VirtualNetwork", FabricNetwork}: true, {KindVRF, FabricNetwork}: true, {"VirtualMachineInterface", FabricInterface}: true}
	declare := func(kind, name string) {
		if key := [2]string{kind, name}; !has[key] {
			has[key] = true
			known[kind] = append(known[kind], name)
		}
	}
	for _, r := range existing {
		declare(Kind(r), r.GetName())
		declare(KindVRF, VRF(r))
	}
	owner := map[string]string{} // network by VRF
	for _, d := range p.documents {
		declare(d.Kind(), d.Resource.GetName())
		vrf := VRF(d.Resource)
		declare(KindVRF, vrf)
		if first, ok := owner[vrf]; ok && vrf != "" {
			p.problems = append(p.problems, d.At("spec.vrf", fmt.Sprintf("the VRF %q already belongs to VirtualNetwork %q", vrf, first),
				"give each network a VRF of its own; leave vrf out to name it like the network"))
		}
		owner[vrf] = d.Resource.GetName()
	}
	for _, d := range p.documents {
		for _, ref := range References(d.Resource) {
			if !has[[2]string{ref.Kind, ref.Name}] {
				p.problems = append(p.problems, d.At(ref.Field, fmt.Sprintf("there is no %s %q", ref.Kind, ref.Name), dangling(ref, known[ref.Kind])))
			}
		}
		if p.full() {
			return
		}
	}
}

// dangling says which name may have been meant, or what to declare.
func dangling(ref Reference, names []string) string {
	if near := nearest(ref.Name, names); near != "" {
		return fmt.Sprintf("did you mean %s?", near)
	}
	if ref.Kind == KindVRF {
		return "declare a VirtualNetwork of that name or vrf"
	}
	return fmt.Sprintf("declare it: kind: %s, name: %s", ref.Kind, ref.Name)
}
