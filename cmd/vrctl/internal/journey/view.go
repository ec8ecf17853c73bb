// Package journey answers "who serves this service, and who does not?": it follows a
// load balancer through its floating IPs to the members, and finds what is in the way.
// It works on what the agent has said and asks nobody.
package journey

import (
	"net/netip"
	"slices"

	"github.com/vrouter-go/vrouter/internal/statefile"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// View is what an agent has said about one service. Resources are those of desired
// state; more than the service needs does no harm.
type View struct {
	// Balancer is the load balancer's resource.
	Balancer *pb.Resource
	// Resources are its floating IPs, their InstanceIPs, and all interfaces, attachments,
	// networks, policies and the Fabric of the node.
	Resources []*pb.Resource
	// Status of the node.
	Status *pb.GetStatusResponse
	// Flows are the live sessions of its floating IPs.
	Flows []*pb.Flow
	// Port chooses listeners by name or number; empty: all.
	Port string
	// Generation of the resources.
	Generation uint64
}

// index is a view by name.
type index struct {
	balancer                          *pb.LoadBalancer // only the chosen listeners
	floating                          map[string]*pb.FloatingIP
	instances                         map[string]*pb.InstanceIP
	interfaces                        map[string]*pb.VirtualMachineInterface
	attachments                       map[string]*pb.Attachment // by interface
	networks                          map[string]*pb.VirtualNetwork
	networkPolicies, securityPolicies []*pb.Resource
	fabric                            *pb.Fabric
	ports                             map[string]*pb.PortStatus
	peers                             map[netip.Addr]*pb.PeerStatus
	nodes                             map[netip.Addr]string // names of the other nodes by address
	sessions                          map[[2]string]uint64  // by floating IP and member
	node                              string
	poolNodes                         map[string]string // node by interface, as the pools say
}

func (v *View) index() *index {
	x := &index{
		balancer: chosen(v.Balancer.GetLoadBalancer(), v.Port),
		floating: map[string]*pb.FloatingIP{}, instances: map[string]*pb.InstanceIP{},
		interfaces: map[string]*pb.VirtualMachineInterface{}, attachments: map[string]*pb.Attachment{}, networks: map[string]*pb.VirtualNetwork{},
		ports: map[string]*pb.PortStatus{}, peers: map[netip.Addr]*pb.PeerStatus{}, nodes: map[netip.Addr]string{},
		sessions: map[[2]string]uint64{}, node: v.Status.GetNode(), poolNodes: map[string]string{},
	}
	for _, r := range v.Resources {
		switch s := r.GetSpec().(type) {
		case *pb.Resource_FloatingIp:
			x.floating[r.GetName()] = s.FloatingIp
		case *pb.Resource_InstanceIp:
			x.instances[r.GetName()] = s.InstanceIp
		case *pb.Resource_VirtualMachineInterface:
			x.interfaces[r.GetName()] = s.VirtualMachineInterface
		case *pb.Resource_Attachment:
			x.attachments[r.GetName()] = s.Attachment
		case *pb.Resource_VirtualNetwork:
			x.networks[r.GetName()] = s.VirtualNetwork
		case *pb.Resource_NetworkPolicy:
			x.networkPolicies = append(x.networkPolicies, r)
		case *pb.Resource_SecurityPolicy:
			x.securityPolicies = append(x.securityPolicies, r)
		case *pb.Resource_Fabric:
			x.fabric = s.Fabric
		}
	}
	for _, peer := range x.fabric.GetPeers() {
		for _, s := range peer.GetAddresses() {
			x.nodes[address(s)] = peer.GetName()
		}
	}
	for _, p := range v.Status.GetPorts() {
		x.ports[p.GetName()] = p
	}
	for _, p := range v.Status.GetPeers() {
		x.peers[address(p.GetAddress())] = p
	}
	for _, f := range v.Flows {
		if f.GetVerdict() == pb.Verdict_FORWARD {
			x.sessions[[2]string{f.GetFloatingIp(), f.GetMember()}]++
		}
	}
	for _, l := range x.balancer.GetListeners() {
		for _, m := range l.GetPool().GetMembers() {
			x.poolNodes[m.GetVirtualMachineInterface()] = m.GetNode()
		}
	}
	return x
}

// chosen is a load balancer with those listeners only that a port means.
func chosen(lb *pb.LoadBalancer, port string) *pb.LoadBalancer {
	if port == "" {
		return lb
	}
	some := &pb.LoadBalancer{Provider: lb.GetProvider(), Service: lb.GetService(), FloatingIps: lb.GetFloatingIps(), InstanceIps: lb.GetInstanceIps()}
	for _, l := range lb.GetListeners() {
		if l.GetName() == port || number(l.GetPort()) == port || number(l.GetNodePort()) == port {
			some.Listeners = append(some.Listeners, l)
		}
	}
	return some
}

// place is where a floating IP stands: its own address and network, or its parent's.
func (x *index) place(f *pb.FloatingIP) (a netip.Addr, network string) {
	parent := x.instances[f.GetParent()]
	a, network = address(f.GetAddress()), f.GetVirtualNetwork()
	if f.GetAddress() == "" {
		a = address(parent.GetAddress())
	}
	if network == "" {
		network = parent.GetVirtualNetwork()
	}
	return a, network
}

// memberAddress is where a member serves an address of a family.
func (x *index) memberAddress(m *pb.Member, family netip.Addr) netip.Addr {
	if m.GetAddress() != "" {
		return address(m.GetAddress())
	}
	return x.own(m.GetVirtualMachineInterface(), family)
}

// own is an interface's first address of a family; not valid: it has none.
func (x *index) own(vmi string, family netip.Addr) netip.Addr {
	for _, s := range x.addresses(vmi) {
		if a := address(s); a.IsValid() && a.Is4() == family.Is4() {
			return a
		}
	}
	return netip.Addr{}
}

// addresses are an interface's own, and those that its container was given while the
// attachment is for the interface as it is now.
func (x *index) addresses(vmi string) []string {
	i, at := x.interfaces[vmi], x.attachments[vmi]
	list := slices.Clone(i.GetAddresses())
	if i.GetAttachment() != nil && at.GetUid() == i.GetAttachment().GetUid() && at.GetVirtualNetwork() == i.GetVirtualNetwork() {
		list = append(list, at.GetAddresses()...)
	}
	return list
}

// nodeOf names the node at an address of the fabric.
func (x *index) nodeOf(remote string) string {
	if name := x.nodes[address(remote)]; name != "" {
		return name
	}
	return remote
}

// members of a floating IP, the short form written out.
func members(f *pb.FloatingIP) []*pb.Member {
	all := slices.Clone(f.GetMembers())
	for _, name := range f.GetVirtualMachineInterfaces() {
		all = append(all, &pb.Member{VirtualMachineInterface: name, State: pb.Member_READY})
	}
	return all
}

// address reads an address; what is none is not valid.
func address(s string) netip.Addr {
	a, _ := netip.ParseAddr(s)
	return a.Unmap()
}

const fabricNetwork, vhost0 = statefile.FabricNetwork, statefile.FabricInterface
