package state

import (
	"maps"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/vrouter-go/vrouter/internal/naming"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Interface returns a virtual machine interface as it works: with the device, the MAC
// address and the addresses of its attachment where one is in effect. nil: there is
// none. It must not be changed.
func (s *State) Interface(name string) *pb.VirtualMachineInterface {
	if vmi := s.joined[name]; vmi != nil {
		return vmi
	}
	return s.Get(Key{VirtualMachineInterface, name}).GetVirtualMachineInterface()
}

// Waiting reports whether an interface, as Interface returns it, has no device yet:
// its container has not come, or has gone.
func Waiting(vmi *pb.VirtualMachineInterface) bool {
	return vmi.GetAttachment() != nil && vmi.GetTap().GetNetns() == ""
}

// HolderOf returns a resource that has an address in whatever network; false where
// nobody has it.
func (s *State) HolderOf(a netip.Addr) (Key, bool) {
	var first Key
	found := false
	for k := range s.claimed[thing{claimUse, "address", a.String()}] {
		if !found || k.Compare(first) < 0 {
			first, found = k, true
		}
	}
	return first, found
}

// join works out what an interface is together with its attachment. The names of
// both are the same; they belong together where the pod and the network are.
func (s *State) join(name string) {
	delete(s.joined, name)
	vmi := s.Get(Key{VirtualMachineInterface, name}).GetVirtualMachineInterface()
	at := s.Get(Key{Attachment, name}).GetAttachment()
	if at == nil || vmi.GetAttachment() == nil || vmi.GetAttachment().GetUid() != at.GetUid() || vmi.GetVirtualNetwork() != at.GetVirtualNetwork() {
		return
	}
	vmi = proto.CloneOf(vmi)
	vmi.Tap = attachedTap(vmi.GetTap(), at)
	for _, a := range at.GetAddresses() {
		if !slices.Contains(vmi.GetAddresses(), a) {
			vmi.Addresses = append(vmi.Addresses, a)
		}
	}
	if vmi.GetMacAddress() == "" {
		vmi.MacAddress = at.GetMacAddress()
	}
	s.joined[name] = vmi
}

// attachedTap is the device of an attachment; given is what the interface says of it.
func attachedTap(given *pb.Tap, at *pb.Attachment) *pb.Tap {
	tap := &pb.Tap{Netns: at.GetNetns(), GuestName: at.GetGuestName(), Mtu: given.GetMtu(), Queues: given.GetQueues()}
	if at.GetMtu() != 0 {
		tap.Mtu = at.GetMtu()
	}
	return tap
}

// derive keeps the floating IPs of host ports: they are there exactly while the
// attachment that asks for them is in effect, so that whoever takes the interface
// away need not know of them.
func (tx *Transaction) derive(req Request) {
	if req.Owner == "" {
		return // what was kept has them
	}
	touched := map[string]struct{}{}
	all := req.Renew
	for _, ch := range tx.changes {
		switch ch.Key.Kind {
		case VirtualMachineInterface, Attachment:
			touched[ch.Key.Name] = struct{}{}
		case Fabric:
			all = true
		}
	}
	if all {
		for name, r := range tx.state.Of(Attachment) {
			if len(r.GetAttachment().GetHostPorts()) > 0 {
				touched[name] = struct{}{}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(touched)) {
		tx.deriveHostPorts(name, req)
	}
}

func (tx *Transaction) deriveHostPorts(name string, req Request) {
	want := tx.state.hostPorts(name, req.Borrowed)
	var gone []Key
	for k := range tx.state.Referring(Key{VirtualMachineInterface, name}) {
		if r := tx.state.Get(k); k.Kind == FloatingIP && r.GetOwner() == OwnerCNI && want[k.Name] == nil {
			gone = append(gone, k)
		}
	}
	slices.SortFunc(gone, Key.Compare)
	for _, k := range gone {
		tx.put(k, nil)
	}
	for _, fip := range slices.Sorted(maps.Keys(want)) {
		// Only Attach is refused where a port is taken. A controller that gives a pod
		// back whose port somebody else has by now does not know of it.
		if (req.Owner != OwnerCNI || req.Renew) && tx.state.portTaken(fip, want[fip].GetFloatingIp()) {
			continue
		}
		d := own(want[fip])
		tx.set(&d, OwnerCNI, tx.state.generation+1)
	}
}

// hostPorts returns the floating IPs by name that an interface's attachment asks for.
func (s *State) hostPorts(name string, borrowed []netip.Addr) map[string]*pb.Resource {
	vmi := s.joined[name]
	if vmi == nil {
		return nil
	}
	nodes := NodeAddresses(s.Fabric())
	if BorrowsAddresses(s.Fabric()) {
		nodes = append(nodes, borrowed...)
	}
	list := map[string]*pb.Resource{}
	for _, hp := range s.Get(Key{Attachment, name}).GetAttachment().GetHostPorts() {
		at := nodes
		if a, err := netip.ParseAddr(hp.GetHostIp()); err == nil && !a.IsUnspecified() {
			// Whoever makes a pod writes it, and must not take another host's address.
			at = slices.DeleteFunc(slices.Clone(nodes), func(n netip.Addr) bool { return n != a })
		} else if err == nil { // all of the family
			at = slices.DeleteFunc(slices.Clone(nodes), func(n netip.Addr) bool { return n.Is4() != a.Is4() })
		}
		for _, a := range at {
			if _, ok := MemberAddress(&pb.Member{}, vmi, a); !ok {
				continue // the pod has no address of the family
			}
			fip := naming.Join(name, "hostport", a.String())
			if list[fip] == nil {
				list[fip] = &pb.Resource{Name: fip, Spec: &pb.Resource_FloatingIp{FloatingIp: &pb.FloatingIP{
					Address: a.String(), VirtualNetwork: FabricNetwork,
					FloatingIpPortMappings: &pb.FloatingIpPortMappings{}, VirtualMachineInterfaces: []string{name},
				}}}
			}
			ports := list[fip].GetFloatingIp().GetFloatingIpPortMappings()
			if _, twice := mappingsOf(list[fip].GetFloatingIp())[servicePort{protocolOf(hp), uint16(hp.GetHostPort())}]; twice {
				continue // refused in an attachment, but for all addresses and one of them
			}
			ports.PortMappings = append(ports.PortMappings, &pb.PortMapping{
				SrcPort: hp.GetHostPort(), DstPort: hp.GetContainerPort(), Protocol: hp.GetProtocol(),
			})
		}
	}
	return list
}

// protocolOf returns the number of a host port's protocol: TCP where it is left out.
func protocolOf(hp *pb.HostPort) uint8 { return Protocol(&pb.PortMapping{Protocol: hp.GetProtocol()}) }

// portTaken reports whether another floating IP serves a port that fip asks for.
func (s *State) portTaken(name string, fip *pb.FloatingIP) bool {
	mine := mappingsOf(fip)
	for _, other := range s.FloatingIPsAt(s.PlaceOf(fip)) {
		if other == name {
			continue
		}
		theirs := mappingsOf(s.Get(Key{FloatingIP, other}).GetFloatingIp())
		if len(theirs) == 0 {
			return true
		}
		for p := range mine {
			if _, ok := theirs[p]; ok {
				return true
			}
		}
	}
	return false
}
