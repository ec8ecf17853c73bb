package forwarder

import (
	"testing"
)

// Other nodes believe tunnel packets that come from this node's address, so no
// workload may send one with it.
func TestNobodySendsTunnelPacketsAsTheNode(t *testing.T) {
	for family, a := range snatFamilies {
		for _, dport := range []uint16{6635, 4789} {
			r := newSNATRig(t, standardPorts)
			r.inject(web1Port, build(t, udpTo(web1Port, a.pod, a.server, 50000, dport, "\x00\x06\x71\x40a label and what it leads to")))
			r.run()
			if n := len(r.sent(uplinkPort)); n != 0 || r.drops(web1Port, DropTunnelForged) != 1 {
				t.Errorf("%s: %d packets to port %d left with the node's address; drops %v", family, n, dport, r.allDrops())
			}
			if n := r.used(1); n != 0 {
				t.Errorf("%s: %d ports are in use", family, n)
			}
		}
	}
}

// A place in the list of peers that no node has is nobody, whatever a packet's source.
func TestUnusedPeerIsNobody(t *testing.T) {
	w := way{MPLSoverUDP, 6}
	p := newPair(t, w)
	p.both(func(s *state) { s.peers = append(s.peers, Peer{}) })
	r := p.nodes[0]
	r.inject(uplinkPort, w.wrap(t, labelOf+uint32(web1Port), inner(t, udpTo(web2Port, "10.244.0.12", "10.244.0.11", 1, 2, "x")), func(x *wrapping) { x.src = "::" }))
	p.run()
	if r.drops(uplinkPort, DropTunnelUnknownPeer) != 1 {
		t.Errorf("drops %s", p.drops())
	}
	p.nothing()
}
