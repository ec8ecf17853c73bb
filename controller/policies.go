package controller

import (
	"log/slog"

	"github.com/vrouter-go/vrouter/controller/model"
	"github.com/vrouter-go/vrouter/controller/policy"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// policies is what the cluster's policies come to on this node. What cannot be read of
// one allows nothing, and is said in the log. It belongs to the compiler's goroutine.
type policies struct {
	index *policy.Index
	log   *slog.Logger
}

// compilePolicies brings the policies up to date. It stands in one change with the
// interfaces that they select, so that no pod has a port before it is protected.
func (c *compiler) compilePolicies(d *model.Dirty) {
	x := c.policies.index
	for name := range d.Namespaces {
		if ns := c.view.Namespace(name); ns != nil {
			x.SetNamespace(&policy.Namespace{Name: name, Labels: ns.Labels})
		} else {
			x.DeleteNamespace(name)
		}
	}
	for n := range d.Pods {
		if p := c.view.Pod(n); p != nil {
			x.SetPod(policyPod(p, c.view.Node))
		} else {
			x.DeletePod(n.Namespace, n.Name)
		}
	}
	for n := range d.Policies {
		if np := c.view.NetworkPolicies()[n]; np != nil {
			c.policies.note("NetworkPolicy", n.String(), x.SetNetworkPolicy(np))
		} else {
			x.DeleteNetworkPolicy(n.Namespace, n.Name)
		}
	}
	for name := range d.ClusterPolicies {
		o := c.view.ClusterPolicies()[name]
		if o == nil {
			x.DeleteClusterNetworkPolicy(name)
			continue
		}
		cnp, err := policy.DecodeClusterNetworkPolicy(o)
		if err != nil {
			c.policies.note("ClusterNetworkPolicy", name, err)
			continue // it stays as it was
		}
		c.policies.note("ClusterNetworkPolicy", name, x.SetClusterNetworkPolicy(cnp))
	}
	changes := x.Changes()
	for _, r := range changes.Upserts {
		c.desired.replace(policyPart(keyOf(r)), []*pb.Resource{r})
	}
	for _, k := range changes.Deletes {
		c.desired.replace(policyPart(key{k.GetKind(), k.GetName()}), nil)
	}
}

func policyPart(k key) part { return part(k) }

// note says what of a policy cannot be read.
func (p *policies) note(kind, name string, err error) {
	if err != nil {
		p.log.Error("a policy cannot be read whole: rules that cannot be read allow nothing, and where its subject cannot be, it stays as it was", "kind", kind, "name", name, "error", err)
	}
}

// policyPod is what policies ask of a pod.
func policyPod(p *model.Pod, node string) *policy.Pod {
	out := &policy.Pod{
		Namespace: p.Namespace, Name: p.Name, UID: string(p.UID), Labels: p.Labels, IPs: p.IPs,
		Local: p.HasInterface() && p.Node == node, HostNetwork: p.HostNetwork, Finished: p.Finished,
	}
	for _, port := range p.Ports {
		out.NamedPorts = append(out.NamedPorts, policy.NamedPort{Name: port.Name, Protocol: port.Protocol, Port: port.Port})
	}
	return out
}
