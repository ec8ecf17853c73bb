//go:build linux

package bfd

import "net/netip"

// arrival is how a packet came in.
type arrival struct {
	remote, local netip.Addr // without zone, IPv4 never as mapped IPv6
	link          uint32     // index of the link it came by
	ttl           int        // TTL or hop limit, -1 if the kernel did not say
	multihop      bool       // by the port it came to
}

// path is what tells sessions apart that do not know each other's discriminator yet.
type path struct {
	remote, local netip.Addr // without zone
	link          uint32     // of link-local addresses, else 0
	multihop      bool
}

// path is the one that a packet came by.
func (a arrival) path() path {
	p := path{a.remote, a.local, 0, a.multihop}
	if a.remote.IsLinkLocalUnicast() && a.remote.Is6() {
		p.link = a.link
	}
	return p
}

// table finds the session of a packet.
type table struct {
	byDiscr map[uint32]*member
	byPath  map[path]*member
}

// find selects the session of a packet and checks whether it may have come this way
// (RFC 5880 §6.8.6, in its order; then RFC 5881 §5 or RFC 5883).
func (t *table) find(p packet, a arrival) (*member, discard) {
	var m *member
	switch {
	case p.your != 0:
		if m = t.byDiscr[p.your]; m == nil {
			return nil, discardYourDiscriminator
		}
		// A discriminator is no secret to who sees one packet: the way must be right, too.
		if m.path != a.path() {
			return nil, discardAddress
		}
	case p.state != Down && p.state != AdminDown:
		return nil, discardState
	default:
		if m = t.byPath[a.path()]; m == nil {
			return nil, discardNoSession
		}
	}
	// RFC 5881 §5: on one link, whatever a router has passed on is not the neighbour's.
	// RFC 5883 leaves the bound to the operator. Without a TTL nothing is known.
	if a.ttl < int(m.peer.MinTTL) {
		return nil, discardTTL
	}
	return m, discardNone
}

func (t *table) add(m *member) {
	if t.byDiscr == nil {
		t.byDiscr, t.byPath = map[uint32]*member{}, map[path]*member{}
	}
	t.byDiscr[m.session.discr] = m
	t.byPath[m.path] = m
}

func (t *table) remove(m *member) {
	delete(t.byDiscr, m.session.discr)
	delete(t.byPath, m.path)
}
