//go:build linux

package control

import (
	"context"
	"errors"
	"fmt"

	"github.com/vrouter-go/vrouter/internal/netns"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// The world: a client's network, one of pods and one of services, joined by a
// policy, as on a node of a cluster.
const (
	clientAddress = "203.0.113.7"
	floodAddress  = "203.0.113.8"
	servicePort   = 80
	targetPort    = 8080
	// fillers are the pods besides the two that packets go to; all of them are
	// members of many services.
	fillers = 30
)

// world is a daemon with its namespaces.
type world struct {
	*daemon
	name  string
	roles []string

	client, a, b *listener // open while packets are sent
	services     int       // that there are, beside the target
	routes       int
	missed       float64 // packets that our own sockets have dropped
}

// newWorld makes the namespaces of roles, a daemon, and the base state.
func (b *bench) newWorld(ctx context.Context, name string, sessions int) (*world, error) {
	w, err := b.emptyWorld(ctx, name, sessions, "node", "client", "flood", "a", "b")
	if err != nil {
		return nil, err
	}
	if err := w.apply(ctx, w.base()...); err != nil {
		return nil, errors.Join(err, w.close())
	}
	if err := w.ready(ctx); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// emptyWorld makes the namespaces of roles, and a daemon without state in that of
// the node.
func (b *bench) emptyWorld(ctx context.Context, name string, sessions int, roles ...string) (*world, error) {
	w, err := newSpaces(name, roles...)
	if err != nil {
		return nil, err
	}
	if w.daemon, err = b.newDaemon(name, w.space("node"), sessions); err != nil {
		return nil, errors.Join(err, w.close())
	}
	if err := w.start(); err != nil {
		return nil, errors.Join(err, w.close())
	}
	if err := w.ready(ctx); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// newSpaces makes the namespaces of roles and nothing in them.
func newSpaces(name string, roles ...string) (*world, error) {
	w := &world{name: name, roles: roles}
	for _, role := range roles {
		if _, err := netns.Create(w.space(role)); err != nil {
			return nil, errors.Join(err, w.close())
		}
	}
	return w, nil
}

// world returns the daemon that the parts share, with an open world around it.
func (b *bench) world(ctx context.Context) (*world, error) {
	if b.shared != nil {
		return b.shared, nil
	}
	w, err := b.newWorld(ctx, "s", tableSize(b.sessions))
	if err != nil {
		return nil, err
	}
	b.shared = w
	return w, w.open()
}

// leave ends the shared daemon.
func (b *bench) leave() error {
	if b.shared == nil {
		return nil
	}
	w := b.shared
	b.shared = nil
	return w.close()
}

// tableSize is a flow table in which n sessions are no crowd.
func tableSize(n int) int { return max(2*n, 1<<18) }

// space returns the name of a role's namespace.
func (w *world) space(role string) string { return netns.Name(prefix, w.name+"-"+role) }

// open takes over the workloads: the client's answers are counted, members send
// back.
func (w *world) open() error { return w.openAt(clientAddress, "10.244.0.11", "10.244.0.12") }

// openAt is open where the workloads have other addresses.
func (w *world) openAt(client, a, b string) error {
	for _, r := range []struct {
		at            **listener
		role, address string
	}{{&w.client, "client", client}, {&w.a, "a", a}, {&w.b, "b", b}} {
		if *r.at != nil {
			continue
		}
		g, err := openGuest(w.space(r.role), r.address)
		if err != nil {
			return err
		}
		*r.at = listen(g, r.role != "client")
	}
	return nil
}

// begin sends a stream from the client to a service.
func (w *world) begin(s source) *stream {
	s.guest = w.client.guest
	x := newStream()
	for _, l := range []*listener{w.client, w.a, w.b} {
		l.stream.Store(x)
	}
	x.start(s)
	return x
}

// grow brings the state to a number of services, of ten members each, and of
// routes.
func (w *world) grow(ctx context.Context, services, routes int) error {
	if n := services - w.services; n > 0 {
		if err := w.apply(ctx, someServices(1+w.services, 1+services, 10)...); err != nil {
			return err
		}
		w.services = services
	}
	if w.routes < routes {
		if err := w.apply(ctx, someRoutes(routes)...); err != nil {
			return err
		}
		w.routes = routes
	}
	return nil
}

// close ends the daemon and removes the namespaces.
func (w *world) close() error {
	errs := []error{w.client.close(), w.a.close(), w.b.close()}
	if w.daemon != nil {
		errs = append(errs, w.daemon.close())
	}
	for _, role := range w.roles {
		errs = append(errs, netns.Delete(w.space(role)))
	}
	return errors.Join(errs...)
}

// apply changes state in one transaction.
func (d *daemon) apply(ctx context.Context, resources ...*pb.Resource) error {
	_, err := d.api.Apply(ctx, &pb.ApplyRequest{Upserts: resources})
	return err
}

// base is the state that every measurement starts from.
func (w *world) base() []*pb.Resource {
	list := []*pb.Resource{
		network("client", "203.0.113.0/24", "203.0.113.1"),
		network("pods", "10.244.0.0/16", "10.244.0.1"),
		network("services", "10.96.0.0/14", "10.96.0.1"),
		{Name: "use", Spec: &pb.Resource_NetworkPolicy{NetworkPolicy: &pb.NetworkPolicy{
			VirtualNetworks: []string{"client", "pods", "services", "ip-fabric"},
			Rules:           []*pb.NetworkPolicyRule{{Action: pb.NetworkPolicyRule_PASS, Direction: pb.NetworkPolicyRule_BOTH}},
		}}},
		{Name: "node", Spec: &pb.Resource_Fabric{Fabric: &pb.Fabric{Vhost0: &pb.Vhost{Addresses: []string{"192.0.2.10/24"}}}}},
		w.guestVMI("client", "client", clientAddress),
		w.guestVMI("flood", "client", floodAddress),
		w.guestVMI("a", "pods", "10.244.0.11"),
		w.guestVMI("b", "pods", "10.244.0.12"),
	}
	list[5].GetVirtualMachineInterface().FlowQuota = 1 << 24 // the sessions that are listed come from here
	for i := range fillers {
		list = append(list, filler(i))
	}
	return append(list, service(targetService, "a"))
}

func network(name, prefix, gateway string) *pb.Resource {
	return &pb.Resource{Name: name, Spec: &pb.Resource_VirtualNetwork{VirtualNetwork: &pb.VirtualNetwork{
		Subnets: []*pb.Subnet{{Prefix: prefix, Gateway: gateway}},
	}}}
}

// guestVMI is an interface whose packets we send and receive.
func (w *world) guestVMI(role, network, address string) *pb.Resource {
	return &pb.Resource{Name: role, Spec: &pb.Resource_VirtualMachineInterface{VirtualMachineInterface: &pb.VirtualMachineInterface{
		VirtualNetwork: network, Addresses: []string{address}, Tap: &pb.Tap{Netns: netns.Path(w.space(role))},
	}}}
}

// filler is the i-th pod that nothing is sent to. Its device stays in the
// daemon's namespace.
func filler(i int) *pb.Resource {
	return &pb.Resource{Name: fmt.Sprintf("pod-%d", i), Spec: &pb.Resource_VirtualMachineInterface{VirtualMachineInterface: &pb.VirtualMachineInterface{
		VirtualNetwork: "pods", Addresses: []string{fmt.Sprintf("10.244.%d.%d", 1+i/250, 1+i%250)},
	}}}
}

// targetService is the number of the service that packets go to.
const targetService = 0

func serviceName(i int) string { return fmt.Sprintf("s%d", i) }

// serviceAddress of a service, 0 ≤ i < 1<<17.
func serviceAddress(i int) [4]byte { return [4]byte{10, byte(97 + i>>16), byte(i >> 8), byte(i)} }

// service is a floating IP with one mapping and the members.
func service(i int, members ...string) *pb.Resource {
	a := serviceAddress(i)
	return &pb.Resource{Name: serviceName(i), Spec: &pb.Resource_FloatingIp{FloatingIp: &pb.FloatingIP{
		Address: fmt.Sprintf("%d.%d.%d.%d", a[0], a[1], a[2], a[3]), VirtualNetwork: "services",
		FloatingIpPortMappings: &pb.FloatingIpPortMappings{PortMappings: []*pb.PortMapping{{
			SrcPort: servicePort, DstPort: targetPort, Protocol: pb.Protocol_UDP,
		}}},
		VirtualMachineInterfaces: members,
	}}}
}

// someMembers returns n fillers, others for each i.
func someMembers(i, n int) []string {
	names := make([]string, min(n, fillers))
	for m := range names {
		names[m] = fmt.Sprintf("pod-%d", (i+m)%fillers)
	}
	return names
}

// someServices returns the services from, inclusive, to to, exclusive, with n
// members each.
func someServices(from, to, n int) []*pb.Resource {
	var list []*pb.Resource
	for i := from; i < to; i++ {
		list = append(list, service(i, someMembers(i, n)...))
	}
	return list
}

// deletes returns the keys of resources.
func deletes(kind string, resources []*pb.Resource) []*pb.ResourceKey {
	var keys []*pb.ResourceKey
	for _, r := range resources {
		keys = append(keys, &pb.ResourceKey{Kind: kind, Name: r.GetName()})
	}
	return keys
}

// someRoutes returns n routes of the network pods, outside every subnet.
func someRoutes(n int) []*pb.Resource {
	list := make([]*pb.Resource, n)
	for i := range list {
		list[i] = route(fmt.Sprintf("r%d", i), fmt.Sprintf("%d.%d.%d.0/24", 11+i>>16, i>>8&0xff, i&0xff), "pod-0")
	}
	return list
}

// route is a route to an interface.
func route(name, prefix, vmi string) *pb.Resource {
	return &pb.Resource{Name: name, Spec: &pb.Resource_Route{Route: &pb.Route{
		Vrf: "pods", Prefix: prefix, NextHops: []*pb.NextHop{{Target: &pb.NextHop_Interface{Interface: vmi}}},
	}}}
}
