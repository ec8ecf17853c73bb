package network

import (
	"github.com/vrouter-go/vrouter/controller/model"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Interface returns the interface of a pod of this node, nil where it has none here. The
// container runtime brings device and addresses later, by CNI, and waits until then: a
// pod may be known before its namespace, which says in what network it stands and what
// policies select it.
func (p *Plan) Interface(v *model.View, pod *model.Pod) *pb.Resource {
	if pod == nil || !pod.HasInterface() || pod.Node != p.node {
		return nil
	}
	ns := v.Namespace(pod.Namespace)
	if ns == nil {
		return nil
	}
	vmi := &pb.VirtualMachineInterface{
		VirtualNetwork: p.Of(pod.Namespace).Pods,
		Labels:         pod.Labels,
		Namespace:      pod.Namespace,
		Attachment:     &pb.AttachmentRequest{Uid: string(pod.Sandbox)},

		NamespaceLabels: ns.Labels,
	}
	if p.options.MTU != 0 {
		vmi.Tap = &pb.Tap{Mtu: p.options.MTU}
	}
	return &pb.Resource{Name: pod.Interface(), Spec: &pb.Resource_VirtualMachineInterface{VirtualMachineInterface: vmi}}
}
