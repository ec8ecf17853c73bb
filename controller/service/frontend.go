package service

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/vrouter-go/vrouter/controller/model"
	"github.com/vrouter-go/vrouter/controller/network"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Frontend is what one service alone can have: a cluster IP in a network of services, or a
// port of another address.
type Frontend struct {
	Network  string
	Address  netip.Addr
	Protocol pb.Protocol_Value // of a cluster IP none
	Port     uint16            // of a cluster IP 0: all
}

// address is one address of a service.
type address struct {
	addr    netip.Addr
	part    string // of its resources' names
	network string
	cluster bool // a cluster IP
	// guest says that it is a cluster IP in the network of an isolated namespace's services,
	// for the pods there alone, who have a way of their own to the members: number is its
	// label. So answers come back into the network that they are awaited in.
	guest    bool
	number   uint32
	node     bool // one of this node's, for node ports
	balanced bool // of a load balancer
}

func (a *address) frontend(proto pb.Protocol_Value, port uint32) Frontend {
	if a.cluster {
		return Frontend{Network: a.network, Address: a.addr}
	}
	return Frontend{Network: a.network, Address: a.addr, Protocol: proto, Port: uint16(port)}
}

// addresses returns the addresses of a service in one family, each once: a cluster IP,
// the node's for node ports, external ones and those of load balancers that leave the
// packets' destination as it is.
func (c *Compiler) addresses(name model.Name, svc *corev1.Service, is4 bool) []address {
	family := "-v6"
	if is4 {
		family = "-v4"
	}
	var list []address
	add := func(text string, a address) {
		addr, err := netip.ParseAddr(text)
		addr = addr.Unmap()
		if err != nil || addr.Is4() != is4 || addr.Zone() != "" || !routable(addr) {
			return
		}
		a.addr = addr
		if !slices.ContainsFunc(list, func(o address) bool { return o.network == a.network && o.addr == addr && o.node == a.node }) {
			list = append(list, a)
		}
	}
	ips := svc.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{svc.Spec.ClusterIP}
	}
	for _, ip := range ips {
		if len(list) > 0 {
			break // one of each family
		}
		add(ip, address{part: "clusterip" + family, network: c.Plan.Of(name.Namespace).Services, cluster: true})
		for _, n := range c.Plan.Guests(name.Namespace) {
			add(ip, address{part: "clusterip" + family + "-in-" + n.Namespace, network: n.Services, cluster: true, guest: true, number: n.Number})
		}
	}
	for i, a := range c.nodePortAddresses(is4) {
		part := "nodeport" + family
		if i > 0 {
			part += "-" + strconv.Itoa(i+1)
		}
		if opensNodePorts(svc) {
			add(a.String(), address{part: part, network: network.Fabric, node: true})
		}
	}
	if c.Options.ExternalIPs {
		for i, ip := range svc.Spec.ExternalIPs {
			add(ip, address{part: "external-" + strconv.Itoa(i+1), network: network.Fabric})
		}
	}
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		for i, in := range svc.Status.LoadBalancer.Ingress {
			if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP {
				add(in.IP, address{part: "loadbalancer-" + strconv.Itoa(i+1), network: network.Fabric, balanced: true})
			}
		}
	}
	return list
}

// opensNodePorts reports whether a service has node ports. One that is no longer of such a
// type may still have their numbers for a moment.
func opensNodePorts(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeNodePort || svc.Spec.Type == corev1.ServiceTypeLoadBalancer
}

// nodePortAddresses returns the addresses of this node that node ports are open at, the
// primary one first.
func (c *Compiler) nodePortAddresses(is4 bool) []netip.Addr {
	node := c.View.NodeNamed(c.View.Node)
	ofFamily := func(list []netip.Addr) []netip.Addr {
		return slices.DeleteFunc(slices.Clone(list), func(a netip.Addr) bool { return a.Is4() != is4 || !routable(a) })
	}
	if len(c.Options.NodePortAddresses) == 0 {
		primary := ofFamily(model.InternalIPs(node))
		return primary[:min(1, len(primary))]
	}
	var list []netip.Addr
	for _, a := range ofFamily(append(model.NodeIPs(node), c.Options.NodeAddresses...)) {
		in := slices.ContainsFunc(c.Options.NodePortAddresses, func(p netip.Prefix) bool { return p.Contains(a) })
		if in && !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list
}

// Frontends returns what a service wants to have. It is the same whatever others have.
func (c *Compiler) Frontends(name model.Name) []Frontend {
	svc := c.View.Service(name)
	if !Proxied(svc) {
		return nil
	}
	var list []Frontend
	for _, is4 := range [...]bool{true, false} {
		list = append(list, c.checked(svc, is4)...)
		for _, a := range c.addresses(name, svc, is4) {
			for i := range svc.Spec.Ports {
				if m := mapping(a, &pool{port: &svc.Spec.Ports[i]}); m != nil {
					f := a.frontend(m.GetProtocol(), m.GetSrcPort())
					if !slices.Contains(list, f) {
						list = append(list, f)
					}
				}
			}
		}
	}
	return list
}

// maxRanges is the most source ranges that a floating IP takes.
const maxRanges = 1024

// sourceRanges returns the ranges of a family that a load balancer's address takes
// connections from. None of the family: from everywhere, as kube-proxy has it.
func sourceRanges(svc *corev1.Service, is4 bool) []string {
	var list []string
	for _, text := range svc.Spec.LoadBalancerSourceRanges {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil || p.Addr().Is4() != is4 || p.Addr().Is4In6() {
			continue
		}
		if p.Bits() == 0 {
			return nil
		}
		if s := p.Masked().String(); !slices.Contains(list, s) && len(list) < maxRanges {
			list = append(list, s)
		}
	}
	return list
}

// checked returns where the server of a service's health check listens, at this node's
// addresses of a family; none where the service has no such server.
func (c *Compiler) checked(svc *corev1.Service, is4 bool) []Frontend {
	s := &svc.Spec
	if s.Type != corev1.ServiceTypeLoadBalancer || s.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal ||
		s.HealthCheckNodePort < 1 || s.HealthCheckNodePort > 65535 {
		return nil
	}
	var list []Frontend
	for _, a := range model.NodeIPs(c.View.NodeNamed(c.View.Node)) {
		if a.Is4() == is4 && routable(a) {
			list = append(list, Frontend{Network: network.Fabric, Address: a, Protocol: pb.Protocol_TCP, Port: uint16(s.HealthCheckNodePort)})
		}
	}
	return list
}

// healthCheck is the server that tells load balancers outside whether this node has
// backends; nil where the service has none, or the node no address of the family.
func (j *job) healthCheck(is4 bool) *pb.HealthCheck {
	at := j.checked(j.svc, is4)
	if len(at) == 0 || slices.ContainsFunc(at, func(f Frontend) bool { return !j.owns(f) }) {
		return nil
	}
	for _, f := range at {
		j.served[f] = struct{}{}
	}
	return &pb.HealthCheck{Port: uint32(at[0].Port), ServiceNamespace: j.name.Namespace, ServiceName: j.name.Name}
}
