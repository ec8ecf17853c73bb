package controller

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/vrouter-go/vrouter/controller/model"
	"github.com/vrouter-go/vrouter/controller/network"
	"github.com/vrouter-go/vrouter/controller/policy"
	"github.com/vrouter-go/vrouter/controller/service"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// compiler turns the view into resources, part by part. It belongs to one goroutine.
type compiler struct {
	view     *model.View
	networks network.Options
	services service.Options
	policies policies

	plan    *network.Plan
	claims  service.Claims
	desired *desired
}

func newCompiler(c *Config) *compiler {
	return &compiler{
		view: model.NewView(c.Node), networks: c.Network, services: c.Service,
		policies: policies{index: policy.NewIndex(), log: c.Log}, desired: newDesired(),
	}
}

// compile brings the desired state up to date with the view and returns the difference.
func (c *compiler) compile() Change {
	d := c.view.Take()
	c.compileNetworks(&d)
	c.compilePods(&d)
	c.compileServices(&d)
	c.compilePolicies(&d)
	change := c.desired.take()
	change.Triggered = d.Triggered
	return change
}

// compileNetworks plans the networks anew where something that they follow from has
// changed, and has compiled what depends on the plan.
func (c *compiler) compileNetworks(d *model.Dirty) {
	if c.plan != nil && !d.Networks {
		return
	}
	plan := network.NewPlan(c.view, c.networks)
	d.AllServices = d.AllServices || c.plan != nil && !plan.Reaches(c.plan)
	c.plan = plan
	c.desired.replace(part{kind: "network"}, plan.Resources(c.view))
}

// compilePods compiles the interfaces of this node's pods.
func (c *compiler) compilePods(d *model.Dirty) {
	pods := maps.Clone(d.Pods)
	if len(d.Namespaces) > 0 { // a pod's interface carries its namespace's labels
		for _, n := range c.view.PodsOn(c.view.Node) {
			if _, ok := d.Namespaces[n.Namespace]; ok {
				pods[n] = struct{}{}
			}
		}
	}
	for n := range pods {
		var list []*pb.Resource
		pod := c.view.Pod(n)
		if vmi := c.plan.Interface(c.view, pod); vmi != nil {
			vmi.GetVirtualMachineInterface().NamedPorts = policy.NamedPorts(policyPod(pod, c.view.Node))
			list = append(list, vmi)
		}
		c.desired.replace(part{"pod", n.String()}, list)
	}
}

// compileServices compiles the services that have changed, and those to which they leave
// an address or take one from.
func (c *compiler) compileServices(d *model.Dirty) {
	sc := &service.Compiler{View: c.view, Plan: c.plan, Options: c.services, Owns: c.claims.Owns}
	todo := maps.Clone(d.Services)
	if d.AllServices {
		for _, n := range c.view.Services() {
			todo[n] = struct{}{}
		}
	}
	for _, n := range slices.SortedFunc(maps.Keys(todo), model.CompareNames) {
		created := time.Time{}
		if svc := c.view.Service(n); svc != nil {
			created = svc.CreationTimestamp.Time
		}
		for _, other := range c.claims.Set(n, created, sc.Frontends(n)) {
			todo[other] = struct{}{}
		}
	}
	for n := range todo {
		c.desired.replace(part{"service", n.String()}, sc.Compile(n))
	}
}

// sortedKeys returns the keys of resources by kind and name.
func sortedKeys(m map[key]bool) []key {
	return slices.SortedFunc(maps.Keys(m), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.name, b.name))
	})
}
