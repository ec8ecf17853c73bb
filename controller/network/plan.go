// Package network turns namespaces, nodes and pods into the networks of a node: which
// there are, how other nodes reach them, which may talk to each other, and the
// interfaces of the node's pods.
package network

import (
	"cmp"
	"hash/fnv"
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/vrouter-go/vrouter/controller/model"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Annotations of a Namespace, as Contrail has them.
const (
	// IsolationAnnotation gives the namespace networks of its own where it is "true".
	IsolationAnnotation = "vrouter.io/isolation"
	// VNIAnnotation is the number of an isolated namespace's pod network, 65,536 to
	// 1,048,575. Left out, it follows from the namespace's uid.
	VNIAnnotation = "vrouter.io/vni"
)

// Fabric is the network of the nodes' own addresses.
const Fabric = "ip-fabric"

const (
	defaultPods     = "default-podnetwork"
	defaultServices = "default-servicenetwork"
)

// The numbers of networks, as VNI and as MPLS label, the same on every node.
const (
	fabricNumber      = 4096
	defaultPodsNumber = 4097
	firstIsolated     = 1 << 16
	lastIsolated      = 1<<20 - 1 // the largest label
)

// Options are what an operator decides.
type Options struct {
	// Uplink is the device that joins the node with the others. With it the control
	// plane describes the node itself (Fabric); without, the operator does.
	Uplink string
	// Vhost0 is the name of the node's own device in that description. Empty: vhost0.
	Vhost0 string
	// Overlay says that the operator's description of the node has an uplink: pods of
	// other nodes are reached by tunnels, and what is outside with the node's address.
	// Uplink implies it.
	Overlay bool
	// ServiceCIDRs are the ranges of cluster IPs. Empty: what the cluster says.
	ServiceCIDRs []netip.Prefix
	// PodCIDRs are this node's ranges of pod addresses. Empty: what its Node says.
	PodCIDRs []netip.Prefix
	// Shared are the namespaces whose services the pods of isolated namespaces may call.
	// Nil: default and kube-system, where the API and DNS are.
	Shared []string
	// MTU of the pods' interfaces in bytes, 1280 to 65521. 0: the agent's default.
	MTU uint32
}

func (o *Options) overlay() bool { return o.Overlay || o.Uplink != "" }

// Network is a pod network, with the service network beside it.
type Network struct {
	// Pods is the name of the pod network.
	Pods string
	// Services is the name of the network of the cluster IPs of the same namespaces.
	Services string
	// Namespace is the isolated namespace that it is of; empty: all the others.
	Namespace string
	// Number is the VNI and the label of the pod network.
	Number uint32
}

// Plan says which networks a cluster has and by which address each node is reached. It
// holds until the view's next Dirty.Networks, and never changes.
type Plan struct {
	options  Options
	node     string
	networks []Network         // the default one first, then by namespace
	isolated map[string]int    // by namespace, places in networks
	remotes  map[string]remote // the other nodes, by name
}

// remote is another node.
type remote struct {
	addresses []netip.Addr // those that nobody else has
	way       netip.Addr   // where tunnels to it lead; the zero Addr: there is no way
}

// NewPlan makes the plan of a cluster.
func NewPlan(v *model.View, o Options) *Plan {
	p := &Plan{
		options: o, node: v.Node, isolated: map[string]int{}, remotes: map[string]remote{},
		networks: []Network{{Pods: defaultPods, Services: defaultServices, Number: defaultPodsNumber}},
	}
	p.isolate(v)
	p.reach(v)
	return p
}

// isolate finds the isolated namespaces and gives each its number. Where two want the
// same one, the older has it, so that one that comes later changes nobody's. When the
// older goes the other moves to the number that it wanted, on each node by itself.
func (p *Plan) isolate(v *model.View) {
	var list []*corev1.Namespace
	for _, ns := range v.Namespaces() {
		if ns.Annotations[IsolationAnnotation] == "true" {
			list = append(list, ns)
		}
	}
	slices.SortFunc(list, func(a, b *corev1.Namespace) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	taken := map[uint32]bool{}
	for _, ns := range list {
		number := isolatedNumber(ns)
		for taken[number] {
			number = firstIsolated + (number+1-firstIsolated)%(lastIsolated-firstIsolated+1)
		}
		taken[number] = true
		p.networks = append(p.networks, Network{
			Pods: model.ResourceName(prefixOf(ns.Name) + "-podnetwork"), Services: model.ResourceName(prefixOf(ns.Name) + "-servicenetwork"),
			Namespace: ns.Name, Number: number,
		})
	}
	slices.SortFunc(p.networks[1:], func(a, b Network) int { return cmp.Compare(a.Namespace, b.Namespace) })
	for i, n := range p.networks[1:] {
		p.isolated[n.Namespace] = i + 1
	}
}

// prefixOf is what the names of a namespace's networks and policies begin with; the
// empty namespace stands for all that are not isolated.
func prefixOf(namespace string) string {
	switch namespace {
	case "":
		return "default"
	case "default":
		return "ns:default" // no namespace is called so
	}
	return namespace
}

// isolatedNumber is the number that a namespace wants.
func isolatedNumber(ns *corev1.Namespace) uint32 {
	if n, err := strconv.ParseUint(ns.Annotations[VNIAnnotation], 10, 32); err == nil && n >= firstIsolated && n <= lastIsolated {
		return uint32(n)
	}
	h := fnv.New64a()
	h.Write([]byte(ns.UID))
	return firstIsolated + uint32(h.Sum64()%(lastIsolated-firstIsolated+1))
}

// reach finds how the other nodes are reached. An address that two nodes claim, or this
// one too, is nobody's but the first's.
func (p *Plan) reach(v *model.View) {
	own := model.InternalIPs(v.NodeNamed(p.node))
	taken := map[netip.Addr]bool{}
	for _, a := range model.NodeIPs(v.NodeNamed(p.node)) {
		taken[a] = true
	}
	for _, name := range sortedKeys(v.Nodes()) {
		if name == p.node {
			continue
		}
		r := remote{}
		for _, a := range model.InternalIPs(v.NodeNamed(name)) {
			if taken[a] || !usable(a) {
				continue
			}
			taken[a] = true
			r.addresses = append(r.addresses, a)
			sameFamily := func(o netip.Addr) bool { return o.Is4() == a.Is4() }
			if !r.way.IsValid() && (len(own) == 0 || slices.ContainsFunc(own, sameFamily)) {
				r.way = a
			}
		}
		p.remotes[name] = r
	}
}

// usable reports whether an address can be a node's or a workload's.
func usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && a.Zone() == "" &&
		(!a.Is4() || a.As4()[0] != 0 && a.As4()[0] < 224)
}

// Of returns the networks of a namespace.
func (p *Plan) Of(namespace string) Network { return p.networks[p.isolated[namespace]] }

// Isolated reports whether a namespace has networks of its own.
func (p *Plan) Isolated(namespace string) bool { return p.isolated[namespace] != 0 }

// Guests returns the networks of the isolated namespaces whose pods may call the services
// of a namespace that is none of them.
func (p *Plan) Guests(namespace string) []Network {
	shared := p.options.Shared
	if shared == nil {
		shared = []string{"default", "kube-system"}
	}
	if p.Isolated(namespace) || !slices.Contains(shared, namespace) {
		return nil
	}
	return p.networks[1:]
}

// Tunnel returns the way to the pods of a namespace on another node, nil where there is
// none: no overlay, or no address of the node.
func (p *Plan) Tunnel(node, namespace string) *pb.Tunnel {
	return p.tunnel(node, p.Of(namespace).Number)
}

func (p *Plan) tunnel(node string, number uint32) *pb.Tunnel {
	r, ok := p.remotes[node]
	if !ok || !r.way.IsValid() || !p.options.overlay() {
		return nil
	}
	return &pb.Tunnel{Remote: r.way.String(), Label: number, Vni: number}
}

// Reaches reports whether p leads to every node that both plans know as o does.
func (p *Plan) Reaches(o *Plan) bool {
	for name, r := range p.remotes {
		if old, ok := o.remotes[name]; ok && old.way != r.way {
			return false
		}
	}
	return true
}
