package state

import (
	"encoding/base32"
	"hash/fnv"
	"net"
	"net/netip"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// VRFName returns the name of a network's VRF.
func VRFName(network string, vn *pb.VirtualNetwork) string {
	if vn.GetVrf() != "" {
		return vn.GetVrf()
	}
	return network
}

// NetworkOfVRF returns the network whose VRF has this name, "" if there is none.
func (s *State) NetworkOfVRF(vrf string) string {
	for k := range s.claimed[thing{claimVRF, "", vrf}] {
		return k.Name
	}
	if vrf == FabricNetwork && s.Get(Key{VirtualNetwork, FabricNetwork}) == nil {
		return FabricNetwork
	}
	return ""
}

// MAC returns the MAC address of an interface: as given, else a locally
// administered one that follows from the name.
func MAC(name, given string) net.HardwareAddr {
	if mac, err := net.ParseMAC(given); err == nil {
		return mac
	}
	h := fnv.New64a()
	h.Write([]byte(name))
	b := h.Sum(nil)
	return net.HardwareAddr{0x02, b[3], b[4], b[5], b[6], b[7]}
}

// TapNames returns the name of an interface's device on the node and the name
// that the workload sees.
func TapNames(vmi string, tap *pb.Tap) (name, guest string) {
	if name = tap.GetName(); name == "" {
		name = deviceName(vmi)
	}
	switch {
	case tap.GetExisting():
		return name, name
	case tap.GetGuestName() != "":
		guest = tap.GetGuestName()
	case tap.GetNetns() != "":
		guest = "eth0"
	default:
		guest = name
	}
	return name, guest
}

// deviceName makes a device name of at most 15 bytes from any name.
func deviceName(name string) string {
	h := fnv.New64a()
	h.Write([]byte(name))
	const letters = "abcdefghijklmnopqrstuvwxyz234567"
	return "tap-" + base32.NewEncoding(letters).WithPadding(base32.NoPadding).EncodeToString(h.Sum(nil))[:11]
}

// VhostName returns the name of the node's device.
func VhostName(v *pb.Vhost) string {
	if v.GetName() != "" {
		return v.GetName()
	}
	return Vhost0
}

// Fabric returns the node's description, nil if there is none.
func (s *State) Fabric() *pb.Fabric {
	for _, r := range s.Of(Fabric) {
		return r.GetFabric()
	}
	return nil
}

// NodeAddresses returns the node's own addresses.
func NodeAddresses(f *pb.Fabric) []netip.Addr {
	var list []netip.Addr
	for _, s := range f.GetNodeAddresses() {
		if a, err := netip.ParseAddr(s); err == nil {
			list = append(list, a)
		}
	}
	for _, s := range f.GetVhost0().GetAddresses() {
		if p, err := netip.ParsePrefix(s); err == nil {
			list = append(list, p.Addr())
		}
	}
	return list
}

// Place is an address in a network.
type Place struct {
	Network string
	Address netip.Addr
}

// PlaceOf returns where a floating IP stands, its own address or its parent's.
func (s *State) PlaceOf(fip *pb.FloatingIP) Place {
	p := Place{Network: fip.GetVirtualNetwork()}
	address := fip.GetAddress()
	if parent := s.Get(Key{InstanceIP, fip.GetParent()}).GetInstanceIp(); parent != nil {
		if address == "" {
			address = parent.GetAddress()
		}
		if p.Network == "" {
			p.Network = parent.GetVirtualNetwork()
		}
	}
	p.Address, _ = netip.ParseAddr(address)
	return p
}

// FloatingIPsAt returns the names of the floating IPs at a place, in order.
// Several may share an address when their mapped ports differ.
func (s *State) FloatingIPsAt(p Place) []string {
	var names []string
	at := thing{claimService, p.Network, p.Address.String()}
	for k := range s.claimed[at] {
		names = append(names, k.Name)
	}
	for owner := range s.claimed[thing{claimAddress, p.Network, p.Address.String()}] {
		if owner.Kind == InstanceIP {
			for k := range s.claimed[thing{claimService, "parent", owner.Name}] {
				if s.PlaceOf(s.Get(k).GetFloatingIp()) == p {
					names = append(names, k.Name)
				}
			}
		}
	}
	return sorted(names)
}

// Members returns the members of a floating IP, the short form written out and
// the defaults filled in.
func Members(fip *pb.FloatingIP) []*pb.Member {
	if names := fip.GetVirtualMachineInterfaces(); len(names) > 0 {
		members := make([]*pb.Member, len(names))
		for i, name := range names {
			members[i] = &pb.Member{VirtualMachineInterface: name, State: pb.Member_READY, Weight: 1}
		}
		return members
	}
	return fip.GetMembers()
}

// MemberAddress returns the address at which a member serves a floating IP: the
// one it names, else its interface's first address of the floating IP's family.
func MemberAddress(m *pb.Member, vmi *pb.VirtualMachineInterface, family netip.Addr) (netip.Addr, bool) {
	if m.GetAddress() != "" {
		a, err := netip.ParseAddr(m.GetAddress())
		return a, err == nil
	}
	for _, s := range vmi.GetAddresses() {
		if a, err := netip.ParseAddr(s); err == nil && a.Is4() == family.Is4() {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// Protocol returns a mapping's protocol number: TCP where it is left out.
func Protocol(m *pb.PortMapping) uint8 {
	if m.GetProtocol() == pb.Protocol_PROTOCOL_UNSPECIFIED {
		return uint8(pb.Protocol_TCP)
	}
	return uint8(m.GetProtocol())
}

// TargetPort returns the port that a mapping leads to: the service's own where
// it is left out.
func TargetPort(m *pb.PortMapping) uint16 {
	if m.GetDstPort() == 0 {
		return uint16(m.GetSrcPort())
	}
	return uint16(m.GetDstPort())
}
