//go:build linux && kube

package kube_test

import (
	"fmt"
	"slices"
	"strings"
)

// cell is one call of the matrix, or one question to a health check.
type cell struct {
	source    string // pod and node (node-1), outside, self: a member of the service calls it
	frontend  string // what is called, see frontends
	network   string // tcp or udp; http for health checks
	policy    string // of the Service for its frontend's traffic: Cluster or Local
	family    string // v4 or v6
	endpoints string // a key of memberships
}

func (c cell) String() string {
	return strings.Join([]string{c.source, c.frontend, c.network, c.policy, c.family, c.endpoints}, " ")
}

// member is a pod that services have.
type member struct {
	name, node         string
	ready, terminating bool
}

// The members. Terminating ones go on serving.
var members = []member{
	{name: "a1", node: "node-1", ready: true}, {name: "a2", node: "node-1", ready: true}, {name: "b1", node: "node-2", ready: true},
	{name: "t1", node: "node-1", ready: true, terminating: true}, {name: "u1", node: "node-1"},
}

// memberships are the sets of members that services have.
var memberships = map[string][]string{
	"many": {"a1", "a2", "b1"}, "one": {"a1"}, "none": {}, "remote": {"b1"},
	"terminating": {"t1"}, "mixed": {"b1", "t1"}, "unready": {"u1"},
}

// membershipNames are the keys of memberships in an order for people.
var membershipNames = []string{"many", "one", "none", "remote", "terminating", "mixed", "unready"}

// frontends are what a Service is called by: its cluster IP, a node's address and the node
// port, its load balancer's address, an external IP.
var frontends = []string{"ClusterIP", "NodePort", "LoadBalancer", "externalIP"}

// cells returns the whole matrix.
func cells() (list []cell) {
	for _, endpoints := range membershipNames {
		for _, family := range []string{"v4", "v6"} {
			for _, policy := range []string{"Cluster", "Local"} {
				for _, network := range []string{"tcp", "udp"} {
					for _, frontend := range frontends {
						for _, source := range []string{"pod", "node", "outside", "self"} {
							if source != "self" || endpoints != "none" {
								list = append(list, cell{source, frontend, network, policy, family, endpoints})
							}
						}
					}
				}
			}
			list = append(list, cell{"outside", "healthCheck", "http", "Local", family, endpoints})
		}
	}
	for _, family := range []string{"v4", "v6"} {
		for _, network := range []string{"tcp", "udp"} {
			for _, source := range []string{"pod", "node", "outside"} {
				list = append(list, cell{source, "undefinedPort", network, "Cluster", family, "many"}, cell{source, "unallocatedIP", network, "Cluster", family, "none"})
			}
		}
	}
	return list
}

// self returns the member that calls its own service.
func self(endpoints string) member {
	if endpoints == "mixed" {
		return named("t1") // the other one is on node-2
	}
	return named(memberships[endpoints][0])
}

func boolean(b bool) int {
	if b {
		return 1
	}
	return 0
}

func named(name string) member {
	return members[slices.IndexFunc(members, func(m member) bool { return m.name == name })]
}

// expect is what Kubernetes asks of a service proxy, written down from its documents and
// not from a proxy's code: which members may answer, and whose address they see.
func expect(c cell) string {
	switch c.frontend {
	case "undefinedPort":
		return "refused"
	case "unallocatedIP":
		return "timeout"
	}
	var all []member
	for _, name := range memberships[c.endpoints] {
		all = append(all, named(name))
	}
	client, node := map[string]string{"pod": "client", "node": "node-1", "outside": "outside"}[c.source], "node-1"
	if c.source == "self" {
		client, node = self(c.endpoints).name, self(c.endpoints).node
	}
	local := slices.DeleteFunc(slices.Clone(all), func(m member) bool { return m.node != node })
	if c.frontend == "healthCheck" {
		// Terminating members do not count, so that load balancers turn away in time.
		ready := len(slices.DeleteFunc(local, func(m member) bool { return !m.ready || m.terminating }))
		return fmt.Sprintf("%d, %d local", 503-303*boolean(ready > 0), ready)
	}
	cluster, internal := usable(all), c.source != "outside"
	candidates := cluster
	switch {
	case c.policy == "Local" && c.frontend == "ClusterIP", c.policy == "Local" && !internal:
		candidates = usable(local)
	}
	switch {
	case len(cluster) == 0 && len(usable(local)) == 0:
		return "refused"
	case len(candidates) == 0:
		return "timeout"
	}
	// Whose address is kept: a pod's own at the ClusterIP, and under the policy Local; that
	// of a client outside under the external policy Local.
	kept := c.source != "node" && internal && (c.frontend == "ClusterIP" || c.policy == "Local") ||
		!internal && c.frontend != "ClusterIP" && c.policy == "Local"
	var answers []string
	for _, m := range candidates {
		seen := client
		if !kept || m.name == client { // a member that is chosen for its own call
			seen = node
		}
		answers = append(answers, m.name+" saw "+seen)
	}
	slices.Sort(answers)
	return strings.Join(answers, ", ")
}

// usable returns the members that get new connections: those that are ready or, where none
// is, those that serve while they terminate.
func usable(list []member) []member {
	ready := slices.DeleteFunc(slices.Clone(list), func(m member) bool { return !m.ready || m.terminating })
	if len(ready) > 0 {
		return ready
	}
	return slices.DeleteFunc(slices.Clone(list), func(m member) bool { return !m.ready || !m.terminating })
}
