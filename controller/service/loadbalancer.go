package service

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/vrouter-go/vrouter/controller/model"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// loadBalancer writes the service as its owner sees it: a listener for each port, with the
// backends of both families.
func (j *job) loadBalancer() {
	lb := &pb.LoadBalancer{
		Provider:    pb.LoadBalancer_NATIVE,
		Service:     &pb.ServiceReference{Namespace: j.name.Namespace, Name: j.name.Name, Type: string(j.svc.Spec.Type)},
		FloatingIps: j.floatingIPs,
		InstanceIps: j.instanceIPs,
	}
	for i := range j.svc.Spec.Ports {
		p := &j.svc.Spec.Ports[i]
		l := &pb.Listener{Name: p.Name, Protocol: protocolNumber(p), Port: uint32(p.Port), Pool: &pb.Pool{TargetPort: p.TargetPort.String()}}
		if opensNodePorts(j.svc) {
			l.NodePort = uint32(p.NodePort)
		}
		if p.TargetPort.String() == "0" {
			l.Pool.TargetPort = "" // left out: the port itself
		}
		if p.Port < 1 || p.Port > 65535 || len(lb.Listeners) == maxPorts || l.Protocol == pb.Protocol_PROTOCOL_UNSPECIFIED ||
			slices.ContainsFunc(lb.Listeners, func(o *pb.Listener) bool { return o.GetPort() == l.GetPort() && o.GetProtocol() == l.GetProtocol() }) {
			continue
		}
		for _, family := range j.pools {
			for k := range family[i].backends {
				if len(l.Pool.Members) < maxMembers {
					l.Pool.Members = append(l.Pool.Members, poolMember(&family[i].backends[k]))
				}
			}
		}
		lb.Listeners = append(lb.Listeners, l)
	}
	if lb.Service.Type == "" {
		lb.Service.Type = string(corev1.ServiceTypeClusterIP)
	}
	j.add(model.ResourceName(j.name.Namespace, j.name.Name), &pb.Resource{Spec: &pb.Resource_LoadBalancer{LoadBalancer: lb}})
}

func poolMember(b *backend) *pb.PoolMember {
	m := &pb.PoolMember{VirtualMachineInterface: b.name, Address: b.addr.String(), Port: uint32(b.port), Node: b.node, State: pb.Member_DRAINING}
	if b.member != nil && b.rank != unfit {
		m.State = b.member.GetState()
	}
	return m
}
