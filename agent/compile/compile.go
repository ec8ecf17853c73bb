// Package compile turns desired state into the forwarder's snapshot. It keeps
// what it made of each resource, so that a transaction costs what it touches and
// not what there is: routing tables and groups of before are shared, policy is
// compiled again only when rules or labels change.
package compile

import (
	"fmt"
	"slices"

	"github.com/vrouter-go/vrouter/agent/healthcheck"
	"github.com/vrouter-go/vrouter/agent/ports"
	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/nexthop"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Config is what the compiler has to know about the node.
type Config struct {
	// DefaultQuota is the flow quota of an interface that gives none; 0 = no limit.
	DefaultQuota int32
}

// Compiler holds what was made of the resources so far. It belongs to one
// goroutine; what it returns is immutable.
type Compiler struct {
	config Config
	state  *state.State

	vrfSlots, portSlots, serviceSlots slots

	networks map[string]*network        // by name
	routes   map[state.Key][]placement  // what each resource put into the networks
	vmis     map[string]*vmi            // by name
	fips     map[string]*floatingIP     // by name
	checked  map[string]*pb.HealthCheck // of the floating IPs that have one

	uses   map[state.Key][]string               // interfaces that a resource gives an address
	used   map[string]map[state.Key]struct{}    // the same, by interface
	served map[uint16]map[forwarder.PortKey]int // how many members answer at a port of an interface

	policies policies
	now      snapshot // what the next Snapshot is made from
	dirty    dirty    // of the transaction at hand

	affinityID uint32 // the last id given to a service
}

// snapshot is the state of the snapshot's lists, by index.
type snapshot struct {
	interfaces []forwarder.Interface
	specs      []*ports.Spec
	vrfs       []forwarder.VRF
	floating   []*forwarder.FloatingIP
	nodes      map[[16]byte]struct{}
	hops       nexthop.Table
}

// dirty is what a transaction has to look at again.
type dirty struct {
	prefixes map[prefixAt]struct{} // whose route may have changed
	vmis     map[string]struct{}
	joins    bool // the graph of networks that policy joins
	vhost    bool // the node's port or what it reaches
	security bool
	hops     bool // which next hops there are
}

// Result is a compiled generation.
type Result struct {
	Snapshot *forwarder.Snapshot
	Ports    []*ports.Spec // by port index; nil where there is none
	Names    *Names
	// HealthChecks are what load balancers outside may ask for.
	HealthChecks []healthcheck.Service
}

// New returns a compiler that has seen no resources.
func New(c Config) *Compiler {
	n := &Compiler{
		config:       c,
		vrfSlots:     newSlots("VRF", 1, MaxVRFs),
		portSlots:    newSlots("port", firstVMIPort, forwarder.MaxPorts),
		serviceSlots: newSlots("service address", 0, maxServices),
		networks:     map[string]*network{},
		routes:       map[state.Key][]placement{},
		vmis:         map[string]*vmi{},
		fips:         map[string]*floatingIP{},
		checked:      map[string]*pb.HealthCheck{},
		uses:         map[state.Key][]string{},
		used:         map[string]map[state.Key]struct{}{},
		served:       map[uint16]map[forwarder.PortKey]int{},
		policies:     newPolicies(),
	}
	n.now.interfaces = make([]forwarder.Interface, vhostPort+1)
	n.now.specs = make([]*ports.Spec, vhostPort+1)
	n.vrfSlots.byName[state.FabricNetwork] = int(forwarder.FabricVRF)
	return n
}

// All compiles a whole state from nothing.
func (c *Compiler) All(st *state.State) (*Result, error) {
	var keys []state.Key
	for _, r := range st.All() {
		keys = append(keys, state.KeyOf(r))
	}
	return c.Compile(st, keys)
}

// Compile brings the compiler up to st, of which only the affected resources may
// mean something else than at the last call. After an error the compiler is of
// no use any more.
func (c *Compiler) Compile(st *state.State, affected []state.Key) (*Result, error) {
	c.state = st
	c.dirty = dirty{prefixes: map[prefixAt]struct{}{}, vmis: map[string]struct{}{}}
	steps := [...]func([]state.Key) error{
		c.compileNetworks, c.compilePorts, c.compileFloatingIPs, c.compileInstanceIPs,
		c.compileRoutes, c.compileFabric, c.compilePolicies,
		c.compileInterfaces, c.finishNetworks, c.compileSecurity, c.compileVhost,
	}
	for _, step := range steps {
		if err := step(affected); err != nil {
			return nil, err
		}
	}
	if c.dirty.hops {
		if err := c.nextHops(); err != nil {
			return nil, fmt.Errorf("next hops: %w", err)
		}
	}
	return &Result{
		Snapshot: &forwarder.Snapshot{
			Generation:    st.Generation(),
			Interfaces:    slices.Clone(c.now.interfaces),
			VRFs:          slices.Clone(c.now.vrfs),
			NextHops:      c.now.hops,
			FloatingIPs:   slices.Clone(c.now.floating),
			Policy:        c.policies.set,
			NodeAddresses: c.now.nodes,
		},
		Ports: slices.Clone(c.now.specs),
		Names: c.policies.names, HealthChecks: c.healthChecks(),
	}, nil
}

// of yields the names among keys that are of a kind.
func of(keys []state.Key, kind string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for _, k := range keys {
			if k.Kind == kind && !yield(k.Name) {
				return
			}
		}
	}
}

// nextHops builds the table of next hops: 12 bytes for each port, VRF and service
// address.
func (c *Compiler) nextHops() error {
	hops := append(forwarder.FixedNextHops(uplinkPort), make([]nexthop.NextHop, int(hopService-hopReceive)+len(c.now.floating))...)
	at := func(id nexthop.ID) *nexthop.NextHop { return &hops[id-nexthop.FirstID] }
	*at(hopReceive) = nexthop.NextHop{Kind: nexthop.Receive}
	for i := range c.now.vrfs {
		*at(hopVRF + nexthop.ID(i)) = nexthop.NextHop{Kind: nexthop.VRF, VRF: uint16(i)}
	}
	for i, f := range c.now.floating {
		if f != nil {
			*at(hopService + nexthop.ID(i)) = nexthop.NextHop{Kind: nexthop.FloatingIP, Index: uint32(i)}
		}
	}
	table, err := nexthop.NewTable(hops)
	c.now.hops = table
	return err
}
