package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	networkingv1 "k8s.io/api/networking/v1"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Index holds the pods, namespaces and policies of a cluster and what they come to on
// one node. It belongs to one goroutine.
type Index struct {
	pods       map[podKey]*Pod
	namespaces map[string]map[string]string // labels
	in         map[string]map[podKey]*Pod   // by namespace
	local      map[podKey]*Pod              // pods of this node that policies select

	policies map[policyKey]*entry
	of       map[string]map[policyKey]*entry // the policies of a namespace; of the cluster under ""
	groups   map[string]*group
	inside   map[string]map[string]*group // those of one namespace, by it and key
	wide     map[string]*group            // the others

	dirty   map[policyKey]struct{} // to be translated anew
	touched map[*group]struct{}    // whose sets may have changed
	deletes []*pb.ResourceKey      // sets that went with their groups
}

// policyKey names a policy: a NetworkPolicy, or one of the cluster, without namespace.
type policyKey struct{ namespace, name string }

// entry is one policy.
type entry struct {
	spec     *policySpec // nil: cannot be read
	subjects map[podKey]struct{}
	groups   []*group
	sent     *pb.Resource
}

// Changes is what differs on the node since the last call. It stands in one
// transaction, or none of it.
type Changes struct {
	// Upserts are in the order in which they may be made.
	Upserts []*pb.Resource
	Deletes []*pb.ResourceKey
}

// The kinds of the resources that an Index makes.
const (
	kindAddressSet     = "AddressSet"
	kindSecurityPolicy = "SecurityPolicy"
)

// NewIndex returns an Index of an empty cluster.
func NewIndex() *Index {
	return &Index{
		pods: map[podKey]*Pod{}, namespaces: map[string]map[string]string{}, in: map[string]map[podKey]*Pod{}, local: map[podKey]*Pod{},
		policies: map[policyKey]*entry{}, of: map[string]map[policyKey]*entry{},
		groups: map[string]*group{}, inside: map[string]map[string]*group{}, wide: map[string]*group{},
		dirty: map[policyKey]struct{}{}, touched: map[*group]struct{}{},
	}
}

// Translate returns the resources of a node whole: what an Index says that sees all at
// once. The error says what could not be read; the resources hold without it.
func Translate(policies []*networkingv1.NetworkPolicy, cluster []*ClusterNetworkPolicy, pods []*Pod, namespaces []*Namespace) ([]*pb.Resource, error) {
	x := NewIndex()
	for _, ns := range namespaces {
		x.SetNamespace(ns)
	}
	for _, p := range pods {
		x.SetPod(p)
	}
	var problems []error
	for _, np := range policies {
		problems = append(problems, x.SetNetworkPolicy(np))
	}
	for _, cnp := range cluster {
		problems = append(problems, x.SetClusterNetworkPolicy(cnp))
	}
	return x.Changes().Upserts, errors.Join(problems...)
}

// SetPod adds a pod, or says what has become of it.
func (x *Index) SetPod(p *Pod) {
	k := podKey{p.Namespace, p.Name}
	if old := x.pods[k]; old != nil && old.same(p) {
		return
	}
	x.pods[k] = p
	if x.in[p.Namespace] == nil {
		x.in[p.Namespace] = map[podKey]*Pod{}
	}
	x.in[p.Namespace][k] = p
	x.place(k, p)
}

// DeletePod takes a pod out.
func (x *Index) DeletePod(namespace, name string) {
	k := podKey{namespace, name}
	if x.pods[k] == nil {
		return
	}
	delete(x.pods, k)
	if delete(x.in[namespace], k); len(x.in[namespace]) == 0 {
		delete(x.in, namespace)
	}
	x.place(k, nil)
}

// place brings policies and groups up to date with a pod, nil where it is gone.
func (x *Index) place(k podKey, p *Pod) {
	if p.counts() && p.Local {
		x.local[k] = p
	} else {
		delete(x.local, k)
	}
	for _, namespace := range [...]string{k.namespace, ""} {
		for pk, e := range x.of[namespace] {
			x.selects(pk, e, k)
		}
	}
	for _, g := range x.inside[k.namespace] {
		x.join(g, k, p)
	}
	for _, g := range x.wide {
		x.join(g, k, p)
	}
}

// selects finds out whether a policy selects a pod of this node.
func (x *Index) selects(pk policyKey, e *entry, k podKey) {
	p := x.local[k]
	_, was := e.subjects[k]
	is := p != nil && e.spec.subject.covers(k.namespace, x.namespaces[k.namespace]) && e.spec.subject.pods.matches(p.Labels)
	switch {
	case is == was:
		return
	case is:
		e.subjects[k] = struct{}{}
	default:
		delete(e.subjects, k)
	}
	if len(e.subjects) == 0 || is && len(e.subjects) == 1 {
		x.dirty[pk] = struct{}{} // begins or ceases to select anybody here
	}
}

// join makes a pod's part of a group what it is.
func (x *Index) join(g *group, k podKey, p *Pod) {
	m, in := g.of(p, x.namespaces[k.namespace])
	if _, was := g.members[k]; !in && !was {
		return
	}
	x.touched[g] = struct{}{}
	if g.set(k, m, in) {
		for pk := range g.users {
			x.dirty[pk] = struct{}{}
		}
	}
}

// SetNamespace adds a namespace, or gives it other labels.
func (x *Index) SetNamespace(ns *Namespace) {
	if old, ok := x.namespaces[ns.Name]; ok && maps.Equal(old, ns.Labels) {
		return
	}
	x.namespaces[ns.Name] = maps.Clone(ns.Labels)
	if x.namespaces[ns.Name] == nil {
		x.namespaces[ns.Name] = map[string]string{}
	}
	x.relabel(ns.Name)
}

// DeleteNamespace takes a namespace out. Its pods stay until they are deleted.
func (x *Index) DeleteNamespace(name string) {
	if _, ok := x.namespaces[name]; ok {
		delete(x.namespaces, name)
		x.relabel(name)
	}
}

// relabel brings up to date what goes by the labels of a namespace.
func (x *Index) relabel(namespace string) {
	for k := range x.local {
		if k.namespace == namespace {
			for pk, e := range x.of[""] {
				x.selects(pk, e, k)
			}
		}
	}
	labels := x.namespaces[namespace]
	for _, g := range x.wide {
		if g.scope == nil {
			continue
		}
		if covers := g.scope.covers(namespace, labels); covers != g.within[namespace] {
			if g.within[namespace] = covers; !covers {
				delete(g.within, namespace)
			}
			for k, p := range x.in[namespace] {
				x.join(g, k, p)
			}
		}
	}
}

// SetNetworkPolicy adds a policy, or makes it what it is now. The error says what of
// it could not be read; that allows nothing, the rest holds. Where that is whom the
// policy selects, it stays as it was.
func (x *Index) SetNetworkPolicy(np *networkingv1.NetworkPolicy) error {
	spec, err := readNetworkPolicy(np)
	x.put(policyKey{np.Namespace, np.Name}, spec)
	if err != nil {
		return fmt.Errorf("NetworkPolicy %s/%s: %w", np.Namespace, np.Name, err)
	}
	return nil
}

// DeleteNetworkPolicy takes a policy out.
func (x *Index) DeleteNetworkPolicy(namespace, name string) {
	x.remove(policyKey{namespace, name})
}

// SetClusterNetworkPolicy adds a policy of the cluster, or makes it what it is now. The
// error says what of it could not be read; rules with that fail closed, the rest holds.
// Where that is the tier or the subject, the policy stays as it was.
func (x *Index) SetClusterNetworkPolicy(cnp *ClusterNetworkPolicy) error {
	spec, err := readClusterPolicy(cnp)
	x.put(policyKey{"", cnp.Name}, spec)
	if err != nil {
		return fmt.Errorf("ClusterNetworkPolicy %s: %w", cnp.Name, err)
	}
	return nil
}

// DeleteClusterNetworkPolicy takes a policy of the cluster out.
func (x *Index) DeleteClusterNetworkPolicy(name string) {
	x.remove(policyKey{"", name})
}

// put makes a policy what spec says. nil says that whom it is about cannot be read: it
// stays as it was, for without it those whom it protects would be open.
func (x *Index) put(k policyKey, spec *policySpec) {
	if spec == nil {
		return
	}
	e := x.policies[k]
	if e == nil {
		e = &entry{}
		x.policies[k] = e
	}
	if x.of[k.namespace] == nil {
		x.of[k.namespace] = map[policyKey]*entry{}
	}
	x.of[k.namespace][k] = e
	e.spec, e.subjects = spec, map[podKey]struct{}{}
	for pod := range x.local {
		x.selects(k, e, pod)
	}
	x.dirty[k] = struct{}{}
}

func (x *Index) remove(k policyKey) {
	e := x.policies[k]
	if e == nil {
		return
	}
	e.spec, e.subjects = nil, nil
	if delete(x.of[k.namespace], k); len(x.of[k.namespace]) == 0 {
		delete(x.of, k.namespace)
	}
	x.dirty[k] = struct{}{}
}

// Changes returns what differs since the last call: upserts with sets before the
// policies that name them. It is nothing where nothing does.
func (x *Index) Changes() Changes {
	var c Changes
	var policies []*pb.Resource
	var release []func()
	for _, k := range slices.SortedFunc(maps.Keys(x.dirty), policyKey.compare) {
		e := x.policies[k]
		old := e.groups
		var now *pb.Resource
		if e.groups = nil; len(e.subjects) > 0 {
			now = x.translate(k, e)
		}
		for _, g := range old {
			release = append(release, func() { x.release(g, k, e) })
		}
		switch {
		case now != nil && (e.sent == nil || !proto.Equal(now, e.sent)):
			policies = append(policies, now)
		case now == nil && e.sent != nil:
			c.Deletes = append(c.Deletes, &pb.ResourceKey{Kind: kindSecurityPolicy, Name: e.sent.GetName()})
		}
		if e.sent = now; e.spec == nil {
			delete(x.policies, k)
		}
	}
	clear(x.dirty)
	for _, done := range release { // not before all have what they need: another policy may go on with the group
		done()
	}
	var sets []*pb.Resource
	for g := range x.touched {
		for n, s := range g.sets {
			switch {
			case n != (portNumber{}) && len(s.count) == 0:
				if s.sent {
					c.Deletes = append(c.Deletes, &pb.ResourceKey{Kind: kindAddressSet, Name: s.name})
				}
				delete(g.sets, n)
			case s.dirty || !s.sent:
				sets = append(sets, s.resource())
				s.dirty, s.sent = false, true
			}
		}
	}
	clear(x.touched)
	slices.SortFunc(sets, func(a, b *pb.Resource) int { return strings.Compare(a.GetName(), b.GetName()) })
	c.Upserts = append(sets, policies...)
	c.Deletes = append(c.Deletes, x.deletes...)
	x.deletes = nil
	slices.SortFunc(c.Deletes, func(a, b *pb.ResourceKey) int { // policies first, then what they named
		if n := -strings.Compare(a.GetKind(), b.GetKind()); n != 0 {
			return n
		}
		return strings.Compare(a.GetName(), b.GetName())
	})
	return c
}

func (k policyKey) compare(o policyKey) int {
	if n := strings.Compare(k.namespace, o.namespace); n != 0 {
		return n
	}
	return strings.Compare(k.name, o.name)
}

// acquire returns the group of a peer, which the policy uses from now on.
func (x *Index) acquire(k policyKey, e *entry, s *scope, b *block, portName string, protocol pb.Protocol_Value) *group {
	key := groupKey(s, b, portName, protocol)
	g := x.groups[key]
	if g == nil {
		g = &group{
			key: key, scope: s, block: b, portName: portName, protocol: protocol,
			within: map[string]bool{}, members: map[podKey]member{}, sets: map[portNumber]*addressSet{}, users: map[policyKey]struct{}{},
		}
		if portName == "" {
			g.newSet(portNumber{})
		}
		x.groups[key] = g
		x.fill(g)
	}
	g.users[k] = struct{}{}
	x.touched[g] = struct{}{}
	e.groups = append(e.groups, g)
	return g
}

// fill finds the pods of a new group.
func (x *Index) fill(g *group) {
	add := func(namespace string) {
		for k, p := range x.in[namespace] {
			if m, in := g.of(p, x.namespaces[namespace]); in {
				g.set(k, m, true)
			}
		}
	}
	if g.scope != nil && g.scope.namespaces == nil {
		if x.inside[g.scope.namespace] == nil {
			x.inside[g.scope.namespace] = map[string]*group{}
		}
		x.inside[g.scope.namespace][g.key] = g
		add(g.scope.namespace)
		return
	}
	x.wide[g.key] = g
	for namespace := range x.in {
		add(namespace)
	}
	for namespace, labels := range x.namespaces {
		if g.scope != nil && g.scope.covers(namespace, labels) {
			g.within[namespace] = true
		}
	}
}

// release gives a group back that a policy used before it was translated anew.
func (x *Index) release(g *group, k policyKey, e *entry) {
	if slices.Contains(e.groups, g) {
		return
	}
	if delete(g.users, k); len(g.users) > 0 || x.groups[g.key] != g {
		return
	}
	for _, s := range g.sets {
		if s.sent {
			x.deletes = append(x.deletes, &pb.ResourceKey{Kind: kindAddressSet, Name: s.name})
		}
	}
	delete(x.groups, g.key)
	delete(x.wide, g.key)
	if g.scope != nil && g.scope.namespaces == nil {
		if delete(x.inside[g.scope.namespace], g.key); len(x.inside[g.scope.namespace]) == 0 {
			delete(x.inside, g.scope.namespace)
		}
	}
	delete(x.touched, g)
}
