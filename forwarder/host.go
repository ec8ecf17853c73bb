package forwarder

import (
	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/nexthop"
)

// Members of a floating IP that are hosts and no workloads' interfaces: the node itself,
// behind vhost0, or any other host of the fabric. A host elsewhere knows nothing of us
// and answers to whom it sees, so whoever calls it here leaves with the node's address
// and a port that is leased for it (snat.go), the node's own processes too: the answers
// then cannot be taken for those of a connection that the node's kernel has by itself.
// The next hop of such a member is the lookup in ip-fabric, done with each decision.

// StandIn returns the address that stands in for the node between the forwarder and the
// node's kernel, by a number from 1 to 254: where the kernel would keep a packet to
// itself because it has the destination, or refuse it because it has the source. IPv4
// ones are link-local (RFC 3927), which they are to vhost0; IPv6 ones are unique local
// (RFC 4193), for a link-local one needs a device in every rule. None leaves the node.
func StandIn(number uint8, is4 bool) [16]byte {
	if is4 {
		return [16]byte{10: 0xff, 11: 0xff, 12: 169, 13: 254, 14: 118, 15: number}
	}
	return [16]byte{0xfd, 0x76, 0x72, 0x6f, 0x75, 0x74, 0x65, 0x72, 15: number}
}

// isStandIn reports whether an address is one of those that StandIn returns.
func isStandIn(addr *[16]byte) bool {
	return *addr == StandIn(addr[15], header.IsIPv4(*addr))
}

// standIn returns the source of a connection to the node itself whose answers would
// else not come to the forwarder: what was dialled, to which the node has a route by
// vhost0, or where that is the node's own address what stands in for it.
func (fip *FloatingIP) standIn(dialled *[16]byte) [16]byte {
	if fip.StandIn != ([16]byte{}) {
		return fip.StandIn
	}
	return *dialled
}

// isOwnHost reports whether a member is the node itself.
func (s *Snapshot) isOwnHost(m *nexthop.Member) bool { return s.host != 0 && m.Interface == s.host }

// answersElsewhere reports whether the node's kernel would answer the initiator of a
// connection by another way than vhost0: its own processes, whom it forwards for, and
// those outside.
func (s *Snapshot) answersElsewhere(q *question) bool {
	kind := s.port(q.in).Kind
	return kind == Host || kind == Uplink && !q.tunnel
}

// reach leads the connection to the host d.reply.Src. It returns why it cannot,
// DropUnknown if it can.
func (d *decision) reach(snap *Snapshot, q *question, t *Trace) DropReason {
	id := d.toHost(snap, &d.reply.Src)
	if id.IsDiscard() {
		return DropReason(id)
	}
	d.nextHop[flowtable.Forward] = id
	if snap.NextHops.At(id).Kind == nexthop.Neighbor {
		return d.masquerade(snap, q, t)
	}
	return DropUnknown
}

// keepsHost leads a live connection on to its member, a host. It returns false where
// the host is reached in another way now than by the source that the connection has.
func (d *decision) keepsHost(snap *Snapshot, q *question) bool {
	host := q.live.Key(flowtable.Reply).Src
	id := d.toHost(snap, &host)
	d.nextHop[flowtable.Forward] = id
	return id.IsDiscard() || q.live.Leased() == (snap.NextHops.At(id).Kind == nexthop.Neighbor)
}

// toHost returns the next hop to a host of the fabric, a discard where there is none:
// as ip-fabric has it, but out of the uplink as the node's own packets go where
// ip-fabric knows a tunnel or nothing. Tunnels are for who has no address outside. A
// workload of this node is not reached so, though ip-fabric knows it: who calls the
// service was asked whether it may call that, and not whether it may call the workload.
func (d *decision) toHost(snap *Snapshot, host *[16]byte) nexthop.ID {
	hop, known := snap.follow(FabricVRF, host)
	id := known.NextHop
	switch hop.Kind {
	case nexthop.Interface:
		if snap.port(hop.Port).Kind != Host { // a workload is no host, and its network may let nobody in
			return nexthop.ID(DropNoRoute)
		}
		return id
	case nexthop.FloatingIP: // the node's own address, with ports that are mapped
		if fallback := snap.FloatingIPs[hop.Index].Fallback; fallback != 0 {
			return fallback
		}
		return nexthop.ID(DropVRFLoop) // from service to service
	case nexthop.Neighbor:
		id, _ = d.seek(snap, id, hop, host)
		return id
	case nexthop.Tunnel:
	case nexthop.Discard:
		if id != 0 {
			return id
		}
	default:
		return nexthop.ID(DropNoRoute)
	}
	if snap.Exits == nil {
		return nexthop.ID(DropNoRoute)
	}
	route, ok := snap.Exits.Lookup(host)
	if !ok {
		return nexthop.ID(DropNoRoute)
	}
	id, _ = d.seek(snap, route.NextHop, snap.NextHops.At(route.NextHop), host)
	return id
}
