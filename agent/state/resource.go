// Package state holds the desired state of a node: resources by kind and name,
// and what follows from them alone (who names whom, which addresses are taken).
// A transaction is checked as a whole against the state it would make, and
// either stays or leaves no trace.
//
// A State belongs to one goroutine at a time. The resources in it never change:
// whoever got one may keep reading it.
package state

import (
	"cmp"
	"crypto/sha256"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// The kinds, as the API spells them.
const (
	VirtualNetwork          = "VirtualNetwork"
	VirtualMachineInterface = "VirtualMachineInterface"
	InstanceIP              = "InstanceIP"
	FloatingIP              = "FloatingIP"
	LoadBalancer            = "LoadBalancer"
	NetworkPolicy           = "NetworkPolicy"
	AddressSet              = "AddressSet"
	SecurityPolicy          = "SecurityPolicy"
	Route                   = "Route"
	Fabric                  = "Fabric"
	Attachment              = "Attachment"
)

// Kinds lists the kinds in the order in which they are shown: what is named
// before what names it.
var Kinds = [...]string{
	VirtualNetwork, VirtualMachineInterface, InstanceIP, FloatingIP, LoadBalancer,
	NetworkPolicy, AddressSet, SecurityPolicy, Route, Fabric, Attachment,
}

const (
	// FabricNetwork is the network of the node's own addresses. It always exists.
	FabricNetwork = "ip-fabric"
	// Vhost0 is the name under which routes and flows know the node's own port.
	Vhost0 = "vhost0"
	// Uplink is the name under which flows, status and explain know the fabric port.
	Uplink = "uplink"
	// OwnerOperator owns what Apply writes.
	OwnerOperator = "operator"
	// OwnerCNI owns attachments and what follows from them.
	OwnerCNI = "cni"
)

// Key names one resource.
type Key struct{ Kind, Name string }

// String returns kind/name.
func (k Key) String() string { return k.Kind + "/" + k.Name }

// Proto returns the key as the API writes it.
func (k Key) Proto() *pb.ResourceKey { return &pb.ResourceKey{Kind: k.Kind, Name: k.Name} }

// Compare orders keys by kind, in the order of Kinds, and name.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(rank(k.Kind), rank(o.Kind)), cmp.Compare(k.Name, o.Name))
}

func rank(kind string) int { return slices.Index(Kinds[:], kind) }

// record reports whether resources of a kind only say what others are for: the
// forwarder does not know them.
func record(kind string) bool { return kind == LoadBalancer }

// KeyOf returns the key of a resource; its kind is empty when it has no spec.
func KeyOf(r *pb.Resource) Key {
	k := Key{Name: r.GetName()}
	switch r.GetSpec().(type) {
	case *pb.Resource_VirtualNetwork:
		k.Kind = VirtualNetwork
	case *pb.Resource_VirtualMachineInterface:
		k.Kind = VirtualMachineInterface
	case *pb.Resource_InstanceIp:
		k.Kind = InstanceIP
	case *pb.Resource_FloatingIp:
		k.Kind = FloatingIP
	case *pb.Resource_LoadBalancer:
		k.Kind = LoadBalancer
	case *pb.Resource_NetworkPolicy:
		k.Kind = NetworkPolicy
	case *pb.Resource_AddressSet:
		k.Kind = AddressSet
	case *pb.Resource_SecurityPolicy:
		k.Kind = SecurityPolicy
	case *pb.Resource_Route:
		k.Kind = Route
	case *pb.Resource_Fabric:
		k.Kind = Fabric
	case *pb.Resource_Attachment:
		k.Kind = Attachment
	}
	return k
}

// specField returns the field that holds a resource's spec, in its JSON
// spelling: floatingIp.
func specField(r *pb.Resource) string {
	m := r.ProtoReflect()
	fd := m.WhichOneof(m.Descriptor().Oneofs().ByName("spec"))
	if fd == nil {
		return "spec"
	}
	return fd.JSONName()
}

// spec returns the message in a resource's spec, nil if there is none.
func spec(r *pb.Resource) protoreflect.Message {
	m := r.ProtoReflect()
	if fd := m.WhichOneof(m.Descriptor().Oneofs().ByName("spec")); fd != nil {
		return m.Get(fd).Message()
	}
	return nil
}

// sum identifies what a resource says: its key and spec, but not who wrote it
// and when.
func sum(k Key, r *pb.Resource) [sha256.Size]byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(spec(r).Interface())
	if err != nil { // only a missing required field or bad UTF-8, which decoding refuses
		b = nil
	}
	h := sha256.New()
	h.Write([]byte(k.Kind + "/" + k.Name + "\n"))
	h.Write(b)
	return [sha256.Size]byte(h.Sum(nil))
}
