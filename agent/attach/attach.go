// Package attach says what desired state shall be when a container runtime brings a
// container, and when it takes one away: which addresses the container gets, what its
// Attachment says, which interface it belongs to. It changes nothing itself.
package attach

import (
	"cmp"
	"net/netip"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vrouter-go/vrouter/agent/state"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Ready returns nil when the interface that a container is for is there. What may come
// yet is Aborted; every other error is final.
func Ready(st *state.State, req *pb.AttachRequest) error {
	if vn := req.GetVirtualNetwork(); vn != "" {
		if !st.Has(state.Key{Kind: state.VirtualNetwork, Name: vn}) {
			return status.Errorf(codes.FailedPrecondition, "there is no VirtualNetwork %s: apply it first, or correct virtualNetwork in the CNI configuration", vn)
		}
		return own(st, req)
	}
	vmi := st.Get(state.Key{Kind: state.VirtualMachineInterface, Name: req.GetName()}).GetVirtualMachineInterface()
	switch {
	case vmi == nil:
		return status.Errorf(codes.Aborted, "no controller has told this node of the interface %s yet; is the controller running, and is the pod bound to this node?", req.GetName())
	case vmi.GetAttachment() == nil:
		return status.Errorf(codes.FailedPrecondition, "VirtualMachineInterface/%s brings its own device and waits for no container; give it attachment in place of tap", req.GetName())
	case req.GetUid() != "" && vmi.GetAttachment().GetUid() != req.GetUid():
		return status.Errorf(codes.Aborted, "the interface %s is that of pod %s, not of %s; the controller has not told this node of the new pod yet, or the pod is gone",
			req.GetName(), vmi.GetAttachment().GetUid(), req.GetUid())
	}
	return nil
}

// own refuses to write over an interface that somebody else wrote.
func own(st *state.State, req *pb.AttachRequest) error {
	r := st.Get(state.Key{Kind: state.VirtualMachineInterface, Name: req.GetName()})
	if r != nil && r.GetOwner() != state.OwnerCNI {
		return status.Errorf(codes.FailedPrecondition, "VirtualMachineInterface/%s belongs to %s; leave virtualNetwork out of the CNI configuration, or delete the interface", req.GetName(), r.GetOwner())
	}
	return nil
}

// Plan returns the resources that attach a container: its Attachment, and the
// interface where the request asks to make it. Ready has said nil. The same request
// again gives the same resources.
func Plan(st *state.State, pools *Pools, req *pb.AttachRequest) ([]*pb.Resource, error) {
	var list []*pb.Resource
	vmi := st.Get(state.Key{Kind: state.VirtualMachineInterface, Name: req.GetName()}).GetVirtualMachineInterface()
	if req.GetVirtualNetwork() != "" {
		vmi = &pb.VirtualMachineInterface{
			VirtualNetwork: req.GetVirtualNetwork(),
			Attachment:     &pb.AttachmentRequest{Uid: req.GetContainerId()},
		}
		list = append(list, &pb.Resource{Name: req.GetName(), Spec: &pb.Resource_VirtualMachineInterface{VirtualMachineInterface: vmi}})
	}
	before := st.Get(state.Key{Kind: state.Attachment, Name: req.GetName()}).GetAttachment()
	if before.GetContainerId() == req.GetContainerId() && guest(before.GetGuestName()) != guest(req.GetGuestName()) {
		return nil, status.Errorf(codes.FailedPrecondition, "container %s is attached to %s as %s already, and an interface has one device; attach %s to another interface",
			req.GetContainerId(), req.GetName(), guest(before.GetGuestName()), guest(req.GetGuestName()))
	}
	at := &pb.Attachment{
		Uid: vmi.GetAttachment().GetUid(), ContainerId: req.GetContainerId(), Netns: req.GetNetns(), GuestName: req.GetGuestName(),
		Mtu: req.GetMtu(), VirtualNetwork: vmi.GetVirtualNetwork(), HostPorts: req.GetHostPorts(), Configuration: req.GetConfiguration(),
	}
	var err error
	if at.MacAddress, err = mac(vmi, req); err != nil {
		return nil, err
	}
	if at.Addresses, err = addresses(st, pools, vmi, before, req); err != nil {
		return nil, err
	}
	return append(list, &pb.Resource{Name: req.GetName(), Spec: &pb.Resource_Attachment{Attachment: at}}), nil
}

// mac returns the MAC address that the attachment gives; "" where the interface does.
// It follows from the name and the container, so that a neighbor that still has the
// one of an earlier container asks again.
func mac(vmi *pb.VirtualMachineInterface, req *pb.AttachRequest) (string, error) {
	given, asked := vmi.GetMacAddress(), req.GetMacAddress()
	switch {
	case given == "" && asked != "":
		return asked, nil
	case given == "":
		return state.MAC(req.GetName()+" "+req.GetContainerId(), "").String(), nil
	case asked != "" && state.MAC("", asked).String() != state.MAC("", given).String():
		return "", status.Errorf(codes.InvalidArgument, "the container asks for MAC address %s, and VirtualMachineInterface/%s has %s", asked, req.GetName(), given)
	}
	return "", nil
}

// addresses returns those that the attachment gives: for each family what the request
// asks for, else what the pod has from an earlier container, else a free one; none of
// a family that the interface has an address of.
func addresses(st *state.State, pools *Pools, vmi *pb.VirtualMachineInterface, before *pb.Attachment, req *pb.AttachRequest) ([]string, error) {
	network := vmi.GetVirtualNetwork()
	v4, v6 := Families(st, network)
	if !v4 && !v6 && len(vmi.GetAddresses()) == 0 {
		return nil, status.Errorf(codes.FailedPrecondition, "network %s has no subnets to give addresses from; give VirtualNetwork %s subnets", network, network)
	}
	if before.GetUid() != vmi.GetAttachment().GetUid() || before.GetVirtualNetwork() != network {
		before = nil
	}
	var list []string
	for _, family := range [...]struct{ v4, gives bool }{{true, v4}, {false, v6}} {
		asked, has := ofFamily(req.GetAddresses(), family.v4), ofFamily(vmi.GetAddresses(), family.v4)
		switch {
		case has.IsValid() && asked.IsValid() && !slices.Contains(vmi.GetAddresses(), asked.String()):
			return nil, status.Errorf(codes.InvalidArgument, "the container asks for address %s, and VirtualMachineInterface/%s has %s", asked, req.GetName(), has)
		case has.IsValid():
			continue
		case asked.IsValid():
			if err := mayHave(st, network, asked, req.GetName()); err != nil {
				return nil, err
			}
			list = append(list, asked.String())
		case ofFamily(before.GetAddresses(), family.v4).IsValid():
			list = append(list, ofFamily(before.GetAddresses(), family.v4).String())
		case family.gives:
			a, err := pools.Give(st, network, family.v4)
			if err != nil {
				return nil, err
			}
			list = append(list, a.String())
		}
	}
	return list, nil
}

// mayHave refuses an address that was asked for and cannot be had.
func mayHave(st *state.State, network string, a netip.Addr, name string) error {
	if k, taken := st.HolderOf(a); taken && k != (state.Key{Kind: state.Attachment, Name: name}) {
		return status.Errorf(codes.AlreadyExists, "address %s belongs to %s", a, k)
	}
	if !slices.ContainsFunc(subnets(st, network), func(p netip.Prefix) bool { return p.Contains(a) }) {
		return status.Errorf(codes.InvalidArgument, "address %s is in no subnet of network %s", a, network)
	}
	if _, taken := st.HolderOf(a); !taken && !free(st, network, a) {
		return status.Errorf(codes.InvalidArgument, "address %s is the network or broadcast address of its subnet", a)
	}
	return nil
}

// ofFamily returns the first address of a family in a list.
func ofFamily(list []string, v4 bool) netip.Addr {
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil && a.Is4() == v4 {
			return a
		}
	}
	return netip.Addr{}
}

func guest(name string) string { return cmp.Or(name, "eth0") }

// Gone returns the resources that go with a container: its Attachment, and the
// interface that was made for it. None where the container is not attached, or another
// one has taken over.
func Gone(st *state.State, name, container, guestName string) []state.Key {
	k := state.Key{Kind: state.Attachment, Name: name}
	if at := st.Get(k).GetAttachment(); at == nil || at.GetContainerId() != container || guest(at.GetGuestName()) != guest(guestName) {
		return nil
	}
	list := []state.Key{k}
	vmi := state.Key{Kind: state.VirtualMachineInterface, Name: name}
	if r := st.Get(vmi); r != nil && r.GetOwner() == state.OwnerCNI {
		list = append(list, vmi)
	}
	return list
}
