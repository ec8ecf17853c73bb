// Package compile turns desired state into the forwarder's snapshot. It keeps
// what it made of each resource, so that a transaction costs what it touches and
// not what there is: routing tables and groups of before are shared, policy is
// compiled again only when rules or labels change.
package compile

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vrouter-go/vrouter/agent/healthcheck"
	"github.com/vrouter-go/vrouter/agent/ports"
	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/nodeport"
	"github.com/vrouter-go/vrouter/nexthop"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Config is what the compiler has to know about the node.
type Config struct {
	// DefaultQuota is the flow quota of an interface that gives none; 0 = no limit.
	DefaultQuota int32
	// UplinkQuota is the most sessions that callers outside may hold, so that they
	// cannot fill the table; 0 = no limit.
	UplinkQuota int32
}

// Compiler holds what was made of the resources so far. It belongs to one
// goroutine; what it returns is immutable.
type Compiler struct {
	config Config
	state  *state.State

	underlay *Underlay

	vrfSlots, portSlots, serviceSlots slots[string]
	tunnelSlots                       slots[state.Endpoint]
	peerSlots                         slots[netip.Addr]

	standInSlots slots[string]

	networks map[string]*network        // by name
	leaving  map[string]struct{}        // the networks that leave by the node's address
	routes   map[state.Key][]placement  // what each resource put into the networks
	vmis     map[string]*vmi            // by name
	fips     map[string]*floatingIP     // by name
	checked  map[string]*pb.HealthCheck // of the floating IPs that have one

	uses   map[state.Key][]string               // interfaces that a resource gives an address
	used   map[string]map[state.Key]struct{}    // the same, by interface
	served map[uint16]map[forwarder.PortKey]int // how many members answer at a port of an interface

	hosted   map[string][]netip.Addr // the hosts elsewhere that a floating IP with any host has as members
	hosts    map[netip.Addr]int      // the same, and how many members each is
	standIns map[netip.Addr]standIn  // by the node's address

	tunnels map[state.Endpoint]*tunnel
	leads   map[state.Key][]state.Endpoint // the tunnels that a resource leads through
	groups  map[state.Key][]state.Endpoint // the same, of those that choose among several ways
	peers   map[netip.Addr]*peer
	listed  map[netip.Addr]string // names of those that the node's description lists
	// peersFIB is the table of ip-fabric that peers were last compiled with.
	peersFIB *nexthop.FIB

	bridged  map[state.Key]*bridgeEntry            // what Routes put into bridge tables
	segments map[string]map[state.Key]*bridgeEntry // the same, by network

	arrivals  map[state.Key]arrival
	entrances map[string]int // how many arrivals a network has

	policies policies
	hops     []nexthop.NextHop // by id from nexthop.FirstID on
	now      snapshot          // what the next Snapshot is made from
	dirty    dirty             // of the transaction at hand

	affinityID      uint32 // the last id given to a service
	underlayChanged bool   // since the last Compile
}

// snapshot is the state of the snapshot's lists, by index.
type snapshot struct {
	interfaces []forwarder.Interface
	specs      []*ports.Spec
	vrfs       []forwarder.VRF
	floating   []*forwarder.FloatingIP
	nodes      map[[16]byte]struct{}
	hops       nexthop.Table
	uplink     uint16
	// Snapshots share these; a change makes a copy.
	tunnels []forwarder.Tunnel
	peers   []forwarder.Peer
	labels  []nexthop.ID
	vnis    map[uint32]uint16
	hosts   []netip.Addr // elsewhere, that are members
	exits   *nexthop.FIB // of exitsOf
	exitsOf []Exit

	nodePorts []nodeport.Port
}

// dirty is what a transaction has to look at again.
type dirty struct {
	prefixes map[prefixAt]struct{} // whose route may have changed
	vmis     map[string]struct{}
	joins    bool // the graph of networks that policy joins
	vhost    bool // the node's port or what it reaches
	hops     bool // which next hops there are
	tunnels  bool // the list of tunnels, of which there is a copy then
	idle     []state.Endpoint
	peers    bool // who the other nodes are and how they are reached
	labels   bool // the list of labels, of which there is a copy then
	vnis     bool // the same of VNIs
	uplink   bool // the uplink, or the node's addresses
	overlays map[string]struct{}
	bridges  map[string]struct{} // networks whose bridge table may have changed
	hosts    bool                // which hosts are members
	// nodePorts says that other ports are mapped at the node's addresses.
	nodePorts bool
}

// Result is a compiled generation.
type Result struct {
	Snapshot *forwarder.Snapshot
	Ports    []*ports.Spec // by port index; nil where there is none
	Names    *Names
	// HealthChecks are what load balancers outside may ask for.
	HealthChecks []healthcheck.Service
	// Sessions watch the other nodes.
	Sessions Sessions
	// Hosts are the members that are hosts elsewhere, in order.
	Hosts []netip.Addr
	// NodePorts are the ports at the node's own addresses that its kernel has to let go.
	NodePorts NodePorts
}

// New returns a compiler that has seen no resources.
func New(c Config) *Compiler {
	n := &Compiler{
		config:       c,
		underlay:     &Underlay{},
		vrfSlots:     newSlots[string]("VRF", 1, MaxVRFs),
		portSlots:    newSlots[string]("port", firstVMIPort, forwarder.MaxPorts),
		serviceSlots: newSlots[string]("service address", 0, maxServices),
		tunnelSlots:  newSlots[state.Endpoint]("tunnel", 0, maxTunnels),
		peerSlots:    newSlots[netip.Addr]("node", 0, maxPeers),
		standInSlots: newSlots[string]("stand-in", 1, maxStandIns+1),
		hosted:       map[string][]netip.Addr{},
		hosts:        map[netip.Addr]int{},
		standIns:     map[netip.Addr]standIn{},
		tunnels:      map[state.Endpoint]*tunnel{},
		leads:        map[state.Key][]state.Endpoint{},
		groups:       map[state.Key][]state.Endpoint{},
		peers:        map[netip.Addr]*peer{},
		bridged:      map[state.Key]*bridgeEntry{},
		segments:     map[string]map[state.Key]*bridgeEntry{},
		arrivals:     map[state.Key]arrival{},
		entrances:    map[string]int{},
		networks:     map[string]*network{},
		leaving:      map[string]struct{}{},
		routes:       map[state.Key][]placement{},
		vmis:         map[string]*vmi{},
		fips:         map[string]*floatingIP{},
		checked:      map[string]*pb.HealthCheck{},
		uses:         map[state.Key][]string{},
		used:         map[string]map[state.Key]struct{}{},
		served:       map[uint16]map[forwarder.PortKey]int{},
		policies:     newPolicies(),
	}
	n.now.interfaces = make([]forwarder.Interface, uplinkPort+1)
	n.now.specs = make([]*ports.Spec, uplinkPort+1)
	n.hops = forwarder.FixedNextHops(uplinkPort)
	n.setHop(hopReceive, nexthop.NextHop{Kind: nexthop.Receive})
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
	c.dirty = dirty{prefixes: map[prefixAt]struct{}{}, vmis: map[string]struct{}{}, overlays: map[string]struct{}{}, bridges: map[string]struct{}{}, peers: c.underlayChanged}
	c.underlayChanged = false
	c.policies.renamed = nil
	steps := [...]func([]state.Key) error{
		c.compileNetworks, c.compileSNAT, c.compilePorts, c.compileNodes, c.compileFloatingIPs, c.compileInstanceIPs,
		c.compileRoutes, c.compileBridges, c.dropIdleTunnels, c.compileFabric, c.compileUplink, c.compilePolicies,
		c.compileInterfaces, c.compileArrivals, c.compileOverlays, c.finishNetworks, c.finishPeers,
		c.compileSecurity, c.compileVhost,
	}
	for _, step := range steps {
		if err := step(affected); err != nil {
			return nil, err
		}
	}
	if c.dirty.hops || c.now.hops.Len() == 0 {
		table, err := nexthop.NewTable(c.hops)
		if err != nil {
			return nil, fmt.Errorf("next hops: %w", err)
		}
		c.now.hops = table
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
			Uplink:        c.now.uplink,
			Tunnels:       c.now.tunnels,
			Peers:         c.now.peers,
			Labels:        c.now.labels,
			VNIs:          c.now.vnis,
			SNAT:          c.snat(),
			Neighbors:     c.neighbors(),
			Exits:         c.exits(),
		},
		Ports: slices.Clone(c.now.specs),
		Names: c.policies.names, HealthChecks: c.healthChecks(), Sessions: c.sessions(), Hosts: c.hostList(), NodePorts: c.nodePorts(),
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

// setHop changes the list of next hops: 12 bytes for each port, VRF, service
// address and tunnel, of which every snapshot with a change has a copy.
func (c *Compiler) setHop(id nexthop.ID, hop nexthop.NextHop) {
	at := int(id - nexthop.FirstID)
	c.hops = grow(c.hops, at)
	c.dirty.hops = c.dirty.hops || c.hops[at] != hop
	c.hops[at] = hop
}
