package state

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vrouter-go/vrouter/internal/statefile"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// ref is a field that names another resource.
type ref struct {
	field string
	to    Key
}

// thing is something that one resource alone may have.
type thing struct {
	what  string // what it is, for the error: "address", "MAC address", ...
	scope string // where it must be unique: a network, a namespace
	value string
}

// claim is a field that takes a thing.
type claim struct {
	field string
	thing
}

// references returns the resources that r names. The fields are those of the
// JSON form. VRFs are no resources, and vhost0 as a route's next hop is the node.
func references(r *pb.Resource) []ref {
	var refs []ref
	for _, n := range statefile.References(r) {
		node := n.Kind == VirtualMachineInterface && n.Name == Vhost0 && r.GetRoute() != nil
		if n.Kind != statefile.KindVRF && !node {
			refs = append(refs, ref{n.Field, Key{n.Kind, n.Name}})
		}
	}
	return refs
}

// What a claim can be about.
const (
	claimAddress = "address"
	claimService = "floating IP address"
	claimMAC     = "MAC address"
	claimVRF     = "VRF"
	claimDevice  = "device"
	claimRoute   = "route"
	claimFlood   = "flood list"
	claimFabric  = "Fabric"
	claimLabel   = "label"
	claimVNI     = "VNI"
	claimPeer    = "peer address"
	claimGiven   = "given address" // by an attachment, unique in all networks together
	// claimUse is not exclusive: it finds the routes of a VRF and those to vhost0,
	// what has a tunnel or a host as a member, the members on other nodes by name, what source translation to the node's addresses
	// concerns, and who has an address in whatever network.
	claimUse = "use"
)

// claims returns the things that only one resource may have and r takes. They
// come from r alone, but for the address of a floating IP's parent, which
// addresses.go looks up.
func claims(r *pb.Resource) []claim {
	var list []claim
	take := func(what, scope, value, field string, args ...any) {
		at := fmt.Sprintf(field, args...)
		list = append(list, claim{at, thing{what, scope, value}})
		if what == claimAddress || what == claimService && scope != "parent" {
			list = append(list, claim{at, thing{claimUse, "address", value}})
		}
	}
	switch x := r.GetSpec().(type) {
	case *pb.Resource_VirtualNetwork:
		take(claimVRF, "", VRFName(r.GetName(), x.VirtualNetwork), "spec.vrf")
		if n := x.VirtualNetwork.GetLabel(); n != 0 {
			take(claimLabel, "", fmt.Sprint(n), "spec.label")
		}
		if n := x.VirtualNetwork.GetVni(); n != 0 {
			take(claimVNI, "", fmt.Sprint(n), "spec.vni")
		}
		if x.VirtualNetwork.GetFabricSnat() {
			take(claimUse, "snat", "", "spec.fabricSnat")
		}
		for i, sn := range x.VirtualNetwork.GetSubnets() {
			if sn.GetGateway() != "" {
				take(claimAddress, r.GetName(), canonical(sn.GetGateway()), "spec.subnets[%d].gateway", i)
			}
		}
	case *pb.Resource_VirtualMachineInterface:
		vmi := x.VirtualMachineInterface
		for i, a := range vmi.GetAddresses() {
			take(claimAddress, vmi.GetVirtualNetwork(), canonical(a), "spec.addresses[%d]", i)
		}
		if n := vmi.GetLabel(); n != 0 {
			take(claimLabel, "", fmt.Sprint(n), "spec.label")
		}
		if vmi.GetMacAddress() != "" || vmi.GetAttachment() == nil {
			take(claimMAC, vmi.GetVirtualNetwork(), MAC(r.GetName(), vmi.GetMacAddress()).String(), "spec.macAddress")
		}
		if vmi.GetAttachment() != nil {
			break // the device is the attachment's
		}
		name, guest := TapNames(r.GetName(), vmi.GetTap())
		take(claimDevice, vmi.GetTap().GetNetns(), guest, "spec.tap.guestName")
		if vmi.GetTap().GetNetns() != "" { // the name also tells devices apart on this node
			take(claimDevice, "", name, "spec.tap.name")
		}
	case *pb.Resource_InstanceIp:
		take(claimAddress, x.InstanceIp.GetVirtualNetwork(), canonical(x.InstanceIp.GetAddress()), "spec.address")
	case *pb.Resource_FloatingIp:
		if x.FloatingIp.GetAddress() != "" {
			take(claimService, x.FloatingIp.GetVirtualNetwork(), canonical(x.FloatingIp.GetAddress()), "spec.address")
		} else {
			take(claimService, "parent", x.FloatingIp.GetParent(), "spec.parent")
		}
		if x.FloatingIp.GetVirtualNetwork() == FabricNetwork {
			take(claimUse, "snat", "", "spec.address")
		}
		if slices.ContainsFunc(x.FloatingIp.GetMembers(), (*pb.Member).GetHost) {
			take(claimUse, "host", "", "spec.members")
		}
		if h := x.FloatingIp.GetHealthCheck(); h != nil {
			take(claimUse, "health check", itoa(int(h.GetPort())), "spec.healthCheck.port")
		}
		for i, m := range x.FloatingIp.GetMembers() {
			if m.GetTunnel() != nil {
				take(claimUse, "tunnel", "", "spec.members[%d].tunnel", i)
				take(claimUse, "remote", m.GetVirtualMachineInterface(), "spec.members[%d].virtualMachineInterface", i)
			}
		}
	case *pb.Resource_Route:
		switch {
		case x.Route.GetMacAddress() != "":
			take(claimRoute, x.Route.GetVrf(), MAC("", x.Route.GetMacAddress()).String(), "spec.macAddress")
		case x.Route.GetFlood():
			take(claimFlood, x.Route.GetVrf(), "", "spec.flood")
		default:
			take(claimRoute, x.Route.GetVrf(), x.Route.GetPrefix(), "spec.prefix")
		}
		take(claimUse, "vrf", x.Route.GetVrf(), "spec.vrf")
		for i, hop := range x.Route.GetNextHops() {
			if hop.GetVrf() != "" {
				take(claimUse, "vrf", hop.GetVrf(), "spec.nextHops[%d].vrf", i)
			}
			if hop.GetInterface() == Vhost0 {
				take(claimUse, "interface", Vhost0, "spec.nextHops[%d].interface", i)
			}
			if hop.GetTunnel() != nil {
				take(claimUse, "tunnel", "", "spec.nextHops[%d].tunnel", i)
			}
		}
	case *pb.Resource_Attachment:
		at := x.Attachment
		for i, a := range at.GetAddresses() {
			take(claimAddress, at.GetVirtualNetwork(), canonical(a), "spec.addresses[%d]", i)
			take(claimGiven, "", canonical(a), "spec.addresses[%d]", i)
		}
		if at.GetMacAddress() != "" {
			take(claimMAC, at.GetVirtualNetwork(), MAC("", at.GetMacAddress()).String(), "spec.macAddress")
		}
		name, guest := TapNames(r.GetName(), attachedTap(nil, at))
		take(claimDevice, at.GetNetns(), guest, "spec.guestName")
		take(claimDevice, "", name, "name")
	case *pb.Resource_Fabric:
		take(claimFabric, "", "", "name")
		for i, a := range x.Fabric.GetNodeAddresses() {
			take(claimAddress, FabricNetwork, canonical(a), "spec.nodeAddresses[%d]", i)
		}
		if v := x.Fabric.GetVhost0(); v != nil {
			take(claimDevice, v.GetNetns(), VhostName(v), "spec.vhost0.name")
			if v.GetNetns() != "" {
				take(claimDevice, "", VhostName(v), "spec.vhost0.name")
			}
			for i, p := range v.GetAddresses() {
				host, _, _ := strings.Cut(p, "/")
				take(claimAddress, FabricNetwork, canonical(host), "spec.vhost0.addresses[%d]", i)
			}
		}
		if u := x.Fabric.GetUplink(); u != nil {
			take(claimDevice, u.GetNetns(), u.GetDevice(), "spec.uplink.device")
		}
		for i, peer := range x.Fabric.GetPeers() {
			for j, a := range peer.GetAddresses() {
				take(claimPeer, "", canonical(a), "spec.peers[%d].addresses[%d]", i, j)
			}
		}
	}
	return list
}

// canonical writes an address in its shortest form, so that two spellings are
// one address. What is no address stays as it is; validation refuses it.
func canonical(s string) string {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.String()
	}
	return s
}
