// Package nexthop answers "where does it go?": next hops by id, the forwarding
// table (FIB) of a VRF, the ECMP group behind a floating IP and the client
// affinity of a service.
//
// Table, FIB and Group never change after they were built; a new one is built
// and published with the forwarder's snapshot, so any number of workers read
// them without a lock. Affinity is the one mutable structure, with a lock word
// per bucket. Nothing here knows what a flow is, and nothing allocates on the
// packet path.
//
// The choice of a member is the same on every node and after every restart: it
// depends on the packet's tuple, the configured hash fields and the members'
// stable ids only (docs/design/0003-ecmp.md).
package nexthop
