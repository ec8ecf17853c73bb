package main

import (
	"context"
	"strings"

	"github.com/vrouter-go/vrouter/agent/client"
	"github.com/vrouter-go/vrouter/cmd/vrctl/internal/journey"
	vrouterv1 "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// balancerName reads svc/NAMESPACE/NAME, service/…, NAMESPACE/NAME or the name of a LoadBalancer.
func balancerName(typed string) (string, error) {
	parts := strings.Split(typed, "/")
	switch strings.ToLower(parts[0]) {
	case "svc", "service", "services":
		parts = parts[1:]
		if len(parts) != 2 {
			parts = nil
		}
	case "lb", "loadbalancer":
		if parts = parts[1:]; len(parts) != 1 {
			parts = nil
		}
	}
	for _, p := range parts {
		if p == "" {
			parts = nil
		}
	}
	if len(parts) == 0 || len(parts) > 2 {
		return "", usageError("%q is no service", typed).try("vrctl explain svc/NAMESPACE/NAME, for example svc/shop/web")
	}
	return strings.Join(parts, ":"), nil
}

// serviceArgument is a LoadBalancer as explain takes it.
func serviceArgument(r *vrouterv1.Resource) string {
	if s := r.GetLoadBalancer().GetService(); s.GetNamespace() != "" && s.GetNamespace()+":"+s.GetName() == r.GetName() {
		return "svc/" + s.GetNamespace() + "/" + s.GetName()
	}
	return r.GetName()
}

// findBalancer lists one LoadBalancer by what the user typed.
func findBalancer(ctx context.Context, agent *client.Client, typed string) (*vrouterv1.Resource, uint64, error) {
	name, err := balancerName(typed)
	if err != nil {
		return nil, 0, err
	}
	found, generation, err := agent.List(ctx, &vrouterv1.ListRequest{Kinds: []string{"LoadBalancer"}, Names: []string{name}})
	if err == nil && len(found) > 0 {
		return found[0], generation, nil
	}
	if namespace, service, ok := strings.Cut(name, ":"); ok && err == nil { // a long name is cut: look for who it stands for
		found, generation, err = agent.List(ctx, &vrouterv1.ListRequest{Kinds: []string{"LoadBalancer"}})
		for _, r := range found {
			if s := r.GetLoadBalancer().GetService(); s.GetNamespace() == namespace && s.GetName() == service {
				return r, generation, err
			}
		}
	}
	if err != nil {
		return nil, 0, err
	}
	return nil, 0, notFound("there is no LoadBalancer %q", name).try("vrctl get lb; headless and ExternalName services have none")
}

// explainService tells the journey from a service to its pods.
func (a *app) explainService(ctx context.Context, typed, from, port string) error {
	agent, err := a.connect()
	if err != nil {
		return err
	}
	view, err := a.readService(ctx, agent, typed, port)
	if err != nil {
		return err
	}
	j := journey.Of(view)
	if port != "" && len(j.GetLoadBalancer().GetListeners()) == 0 {
		return notFound("%s has no port %q", j.GetName(), port).try("one of " + list(view.Balancer.GetLoadBalancer().GetListeners(), listener))
	}
	for _, s := range journey.Samples(view, j, from) {
		answer, err := agent.Explain(ctx, s.Request)
		if err != nil && s.Chosen {
			answer, err = agent.Explain(ctx, s.FromNode().Request)
		}
		if err != nil {
			return err
		}
		journey.Note(j, s, answer)
	}
	if a.output == "json" || a.output == "yaml" {
		return a.printMessage(j)
	}
	return a.printService(j)
}

// readService asks for all that the journey needs. The lists are of one generation; where the state changes meanwhile they are read again,
// and the last reading counts.
func (a *app) readService(ctx context.Context, agent *client.Client, typed, port string) (*journey.View, error) {
	var view *journey.View
	for range 3 {
		balancer, generation, err := findBalancer(ctx, agent, typed)
		if err != nil {
			return nil, err
		}
		view = &journey.View{Balancer: balancer, Port: port, Generation: generation}
		same, err := readResources(ctx, agent, view)
		if err != nil {
			return nil, err
		}
		if same {
			break
		}
	}
	status, err := agent.Status(ctx)
	if err != nil {
		return nil, err
	}
	view.Status = status
	for _, name := range view.Balancer.GetLoadBalancer().GetFloatingIps() {
		for flow, err := range agent.ListFlows(ctx, &vrouterv1.ListFlowsRequest{Filter: &vrouterv1.FlowFilter{FloatingIp: name}}) {
			if err != nil {
				return nil, err
			}
			view.Flows = append(view.Flows, flow)
		}
	}
	return view, nil
}

// readResources lists what a load balancer leads to and what stands in between; same: all of the generation of the view.
func readResources(ctx context.Context, agent *client.Client, view *journey.View) (same bool, err error) {
	same = true
	read := func(names []string, kinds ...string) ([]*vrouterv1.Resource, error) {
		if names != nil && len(names) == 0 {
			return nil, nil
		}
		found, generation, err := agent.List(ctx, &vrouterv1.ListRequest{Kinds: kinds, Names: names})
		same = same && generation == view.Generation
		view.Resources = append(view.Resources, found...)
		return found, err
	}
	balancer := view.Balancer.GetLoadBalancer()
	floating, err := read(append([]string{}, balancer.GetFloatingIps()...), "FloatingIP")
	if err != nil {
		return false, err
	}
	parents := map[string]bool{}
	for _, name := range balancer.GetInstanceIps() {
		parents[name] = true
	}
	for _, f := range floating {
		if p := f.GetFloatingIp().GetParent(); p != "" {
			parents[p] = true
		}
	}
	names := []string{}
	for name := range parents {
		names = append(names, name)
	}
	if _, err := read(names, "InstanceIP"); err != nil {
		return false, err
	}
	_, err = read(nil, "VirtualNetwork", "VirtualMachineInterface", "Attachment", "NetworkPolicy", "SecurityPolicy", "Fabric")
	return same, err
}
