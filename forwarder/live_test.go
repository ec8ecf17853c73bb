package forwarder

import (
	"net/netip"
	"testing"

	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/nexthop"
)

// What becomes of live sessions when what is around them changes.

func ackData(l *layers.TCP) { l.ACK, l.Seq = true, 1001 }

// withdraw removes a prefix from every VRF.
func (s *state) withdraw(prefix string) {
	for v := range s.vrfs {
		delete(s.vrfs[v], netip.MustParsePrefix(prefix))
	}
}

// TestReusedPortIndexGetsNoOldSession gives the client's port index to another
// workload: what the server still sends to the client must not reach it, and the
// client's sessions must not count against its quota.
func TestReusedPortIndexGetsNoOldSession(t *testing.T) {
	r := newRig(t)
	r.inject(clientPort, build(t, udpTo(clientPort, "203.0.113.7", "10.244.0.11", 40000, 53, "q")))
	r.run()
	r.one(web1Port)

	r.state.withdraw("203.0.113.7/32")
	r.state.port(clientPort, Workload, clientVRF, clientNet, "other", "203.0.113.99")
	r.publish()
	r.inject(web1Port, build(t, udpTo(web1Port, "10.244.0.11", "203.0.113.7", 53, 40000, "secret")))
	r.run()
	if n := len(r.sent(clientPort)); n != 0 {
		t.Errorf("another workload received %d packets of a session that is not its own", n)
	}
	if r.drops(web1Port, DropSourceInterfaceGone) != 1 || r.sessions() != 0 || r.f.Charged(clientPort) != 0 {
		t.Errorf("%d sessions, %d charged to the new workload, drops %v", r.sessions(), r.f.Charged(clientPort), r.allDrops())
	}
}

// TestSessionsOfAGoneWorkloadLeave: its sessions do not wait for a packet.
func TestSessionsOfAGoneWorkloadLeave(t *testing.T) {
	r := newRig(t)
	r.inject(clientPort, build(t, tcpTo(clientPort, "203.0.113.7", "10.244.0.11", 40000, 22, syn, "")))
	r.inject(vhostPort, build(t, tcpTo(vhostPort, "192.0.2.10", "10.244.0.11", 40001, 22, syn, "")))
	r.run()
	r.f.Sweep()
	if r.sessions() != 2 {
		t.Fatalf("%d sessions, want 2", r.sessions())
	}
	r.state.interfaces[clientPort] = Interface{}
	r.publish()
	r.f.Sweep()
	if r.sessions() != 1 || r.f.Charged(clientPort) != 0 || r.f.Charged(vhostPort) != 1 {
		t.Errorf("%d sessions, %d charged to the workload that is gone", r.sessions(), r.f.Charged(clientPort))
	}
}

// TestRemovedPolicyStopsAServiceFlow takes the policy away and with it, as the
// agent does, the routes that it joined.
func TestRemovedPolicyStopsAServiceFlow(t *testing.T) {
	r := newRig(t)
	r.inject(clientPort, build(t, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 80, syn, "")))
	r.run()
	out := memberPort(r.session())
	r.one(out)
	for p, route := range r.state.vrfs[clientVRF] {
		if route.Network == podsNet {
			delete(r.state.vrfs[clientVRF], p)
		}
	}
	r.state.policies[0].Rules = r.state.policies[0].Rules[:1]
	r.publish()
	r.inject(clientPort, build(t, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 80, ackData, "data")))
	r.run()
	if n := len(r.sent(out)); n != 0 || r.drops(clientPort, DropNetworkPolicy) != 1 {
		t.Errorf("%d packets passed without a policy; drops %v", n, r.allDrops())
	}
}

// TestDeletedServiceKeepsItsConnections is the other case without a route: the
// service is gone, its members live and the policy still stands.
func TestDeletedServiceKeepsItsConnections(t *testing.T) {
	r := newRig(t)
	r.inject(clientPort, build(t, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 80, syn, "")))
	r.run()
	out := memberPort(r.session())
	r.one(out)
	r.state.withdraw("10.96.0.10/32")
	r.state.floating = append([]*FloatingIP{nil}, r.state.floating[1:]...)
	r.publish()
	r.inject(clientPort, build(t, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 80, ackData, "data")))
	r.run()
	r.one(out)
	e := r.f.Explain(clientPort, flowtable.Key{Src: addr("203.0.113.7"), Dst: addr("10.96.0.10"), SrcPort: 40000, DstPort: 80, Proto: 6})
	if e.Verdict != "FORWARD" || e.Reason != DropUnknown || e.Output != out {
		t.Errorf("explained as %s %v out of port %d, want FORWARD out of port %d", e.Verdict, e.Reason, e.Output, out)
	}
}

// TestDeadMembersTupleCanBeUsedAgain: the session of a member that is gone does
// not stand in the way of the client's next connection.
func TestDeadMembersTupleCanBeUsedAgain(t *testing.T) {
	r := newRig(t)
	r.inject(clientPort, build(t, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 80, syn, "")))
	r.run()
	dead := memberPort(r.session())
	r.one(dead)
	r.state.members(t, func(m []nexthop.Member) (kept []nexthop.Member) {
		for _, x := range m {
			if x.NextHop != InterfaceNextHop(dead) {
				kept = append(kept, x)
			}
		}
		return kept
	})
	r.state.interfaces[dead] = Interface{}
	for v := range r.state.vrfs {
		for p, route := range r.state.vrfs[v] {
			if route.NextHop == InterfaceNextHop(dead) {
				delete(r.state.vrfs[v], p)
			}
		}
	}
	r.publish()
	r.inject(clientPort, build(t, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 80, ackData, "data")))
	r.run()
	if r.drops(clientPort, DropMemberGone) != 1 {
		t.Errorf("drops %v", r.allDrops())
	}
	r.sent(clientPort) // host unreachable
	r.inject(clientPort, build(t, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 80, syn, "")))
	r.run()
	if got := memberPort(r.session()); got == dead {
		t.Error("still at the member that is gone")
	} else {
		r.one(got)
	}
}

// TestAddressOfADeadMemberIsNotTheMember gives the address of a deleted member to
// another workload: the member's connections end, they do not go there.
func TestAddressOfADeadMemberIsNotTheMember(t *testing.T) {
	r := newRig(t)
	r.state.members(t, func(m []nexthop.Member) []nexthop.Member { return m[:1] })
	r.publish()
	r.inject(clientPort, build(t, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 80, syn, "")))
	r.run()
	r.one(web1Port)
	r.state.members(t, func([]nexthop.Member) []nexthop.Member { return nil })
	r.state.interfaces[web1Port] = Interface{}
	r.state.port(web3Port, Workload, podsVRF, podsNet, "heir", "10.244.0.11")
	r.publish()
	r.inject(clientPort, build(t, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 80, ackData, "secret")))
	r.run()
	if n := len(r.sent(web3Port)); n != 0 || r.drops(clientPort, DropMemberGone) != 1 || r.sessions() != 0 {
		t.Errorf("%d packets went to the heir of the address, drops %v", n, r.allDrops())
	}
}

// share makes an address of web-1 one that n web servers have, as an InstanceIP
// in active-active mode does: ECMP without translation.
func (s *state) share(t *testing.T, address string, n int) {
	t.Helper()
	ip := netip.MustParseAddr(address)
	route := nexthop.Route{NextHop: InterfaceNextHop(web1Port), Network: podsNet}
	if n > 1 {
		var members []nexthop.Member
		for i := range n {
			members = append(members, nexthop.Member{
				ID: 900 + uint32(i), Weight: 1, NextHop: InterfaceNextHop(web1Port + uint16(i)),
			})
		}
		group, err := nexthop.NewGroup(members)
		if err != nil {
			t.Fatal(err)
		}
		s.floating = append(s.floating[:2:2], &FloatingIP{
			ID: 3, Name: "shared", Address: addr(address), Network: podsNet, VRF: podsVRF, Ingress: true,
			Whole: &Service{ID: 3, Group: group, Hash: nexthop.HashAll},
		})
		route.NextHop = fipID + 2
	}
	for v := range s.vrfs {
		s.vrfs[v][netip.PrefixFrom(ip, ip.BitLen())] = route
	}
}

// TestSharedAddressGrowsAndShrinks goes 1→3→1 owners of one address: the first
// owner's connections stay with it, those of the others begin anew.
func TestSharedAddressGrowsAndShrinks(t *testing.T) {
	const flows = 32
	r := newRig(t)
	r.state.share(t, "10.244.0.77", 1)
	r.publish()
	send := func(first uint16, set func(*layers.TCP)) (at [3]int) {
		t.Helper()
		for i := range uint16(flows) {
			r.inject(clientPort, build(t, tcpTo(clientPort, "203.0.113.7", "10.244.0.77", first+i, 80, set, "")))
		}
		r.run()
		for i := range at {
			at[i] = len(r.sent(web1Port + uint16(i)))
		}
		return at
	}
	if at := send(1000, syn); at != [3]int{flows, 0, 0} {
		t.Fatalf("one owner: %v", at)
	}
	r.state.share(t, "10.244.0.77", 3)
	r.publish()
	if at := send(1000, ackData); at != [3]int{flows, 0, 0} {
		t.Errorf("1→3 owners moved live connections: %v", at)
	}
	at := send(2000, syn)
	if at[1] == 0 || at[2] == 0 {
		t.Fatalf("new connections are not spread: %v", at)
	}
	r.publish()
	if again := send(2000, ackData); again != at {
		t.Errorf("a commit moved live connections: %v, before %v", again, at)
	}
	owner := map[uint16]uint32{}
	r.f.Flows().Range(0, 1<<20, func(_ flowtable.Ref, s *flowtable.Session) bool {
		owner[s.Key(flowtable.Forward).SrcPort] = uint32(s.Decision().NextHop(flowtable.Forward))
		return true
	})
	r.nanos += TickNanos
	r.state.share(t, "10.244.0.77", 1)
	r.publish()
	send(1000, ackData)
	send(2000, ackData)
	r.f.Flows().Range(0, 1<<20, func(_ flowtable.Ref, s *flowtable.Session) bool {
		first := nexthop.ID(owner[s.Key(flowtable.Forward).SrcPort]) == InterfaceNextHop(web1Port)
		if same := s.Created() == 0; same != first {
			t.Errorf("3→1 owners: with the one that stays %v, session kept %v", first, same)
		}
		return true
	})
}

// TestRouteOverSeveralInterfacesTranslatesNothing: ECMP over a prefix, whose
// members have no address of their own.
func TestRouteOverSeveralInterfacesTranslatesNothing(t *testing.T) {
	r := newRig(t)
	r.state.share(t, "10.50.0.0", 2)
	svc := r.state.floating[2].Whole
	group, err := nexthop.NewGroup([]nexthop.Member{
		{ID: 1, Weight: 1, NextHop: InterfaceNextHop(web1Port)}, {ID: 2, Weight: 1, NextHop: InterfaceNextHop(web2Port)},
	})
	if err != nil {
		t.Fatal(err)
	}
	svc.Group = group
	r.state.floating[2].Address = [16]byte{}
	for v := range r.state.vrfs {
		r.state.vrfs[v][netip.MustParsePrefix("10.50.0.0/24")] = nexthop.Route{NextHop: fipID + 2, Network: podsNet}
	}
	r.publish()
	for range 2 { // the second time as a live session of an older snapshot
		r.inject(clientPort, build(t, udpTo(clientPort, "203.0.113.7", "10.50.0.7", 40000, 53, "q")))
		r.run()
		p := r.one(portOf(nexthop.ID(r.session().Decision().NextHop(flowtable.Forward))))
		if _, dst, _ := ends(t, p.NetworkLayer()); dst != "10.50.0.7" {
			t.Errorf("destination became %s", dst)
		}
		r.publish()
	}
}

// egress lets the client open connections from a floating IP in the fabric.
func (s *state) egress(address string) {
	s.floating = append(s.floating[:len(s.floating):len(s.floating)], &FloatingIP{
		ID: uint32(len(s.floating) + 1), Name: address, Address: addr(address), Network: fabricNet, VRF: fabricVRF,
	})
	s.interfaces[clientPort].Egress = append(s.interfaces[clientPort].Egress[:len(s.interfaces[clientPort].Egress):len(s.interfaces[clientPort].Egress)],
		EgressNAT{FloatingIP: uint32(len(s.floating) - 1), VRF: fabricVRF, Address: addr(address)})
}

// TestNewFloatingIPLeavesLiveConnections gives a workload floating IPs for its
// outgoing connections: those that it has keep the source address they have, as
// long as it is theirs.
func TestNewFloatingIPLeavesLiveConnections(t *testing.T) {
	r := newRig(t)
	for v := range r.state.vrfs {
		r.state.vrfs[v][netip.MustParsePrefix("192.0.2.10/32")] = nexthop.Route{NextHop: InterfaceNextHop(vhostPort), Network: fabricNet}
	}
	r.state.policies[0].Rules[0].SrcNetwork, r.state.policies[0].Rules[0].DstNetwork = 0, 0
	r.publish()
	source := func(sport uint16, set func(*layers.TCP)) string {
		t.Helper()
		r.inject(clientPort, build(t, tcpTo(clientPort, "203.0.113.7", "192.0.2.10", sport, 22, set, "")))
		r.run()
		src, _, _ := ends(t, r.one(vhostPort).NetworkLayer())
		return src
	}
	expect := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: source %s, want %s", what, got, want)
		}
	}
	expect("no floating IP", source(1, syn), "203.0.113.7")
	r.state.egress("198.51.100.1")
	r.publish()
	expect("opened before the first floating IP", source(1, ackData), "203.0.113.7")
	expect("opened after it", source(2, syn), "198.51.100.1")
	r.state.egress("198.51.100.2")
	r.publish()
	expect("opened before any", source(1, ackData), "203.0.113.7")
	expect("opened before the second", source(2, ackData), "198.51.100.1")
	r.state.interfaces[clientPort].Egress = r.state.interfaces[clientPort].Egress[1:]
	r.publish()
	expect("its floating IP is gone", source(2, ackData), "198.51.100.2")
}

// TestNewMappingLeavesTheNodesConnections maps a port of a node address that the
// node's own program serves.
func TestNewMappingLeavesTheNodesConnections(t *testing.T) {
	r := newRig(t)
	r.state.floating[0].Fallback = InterfaceNextHop(vhostPort)
	without := *r.state.floating[0]
	without.Mappings = map[PortKey]*Service{}
	with := r.state.floating[0]
	r.state.floating[0] = &without
	r.publish()
	r.inject(clientPort, build(t, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 80, syn, "")))
	r.run()
	r.one(vhostPort)
	r.state.floating[0] = with
	r.publish()
	r.inject(clientPort, build(t, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 80, ackData, "data")))
	r.run()
	r.one(vhostPort)
}

// TestOlderSnapshotDoesNotUndoANewerDecision: a worker whose batch began before
// the last commit finds a session that another worker opened after it.
func TestOlderSnapshotDoesNotUndoANewerDecision(t *testing.T) {
	r := newRig(t)
	all := r.state.floating
	r.state.members(t, func(m []nexthop.Member) []nexthop.Member { return m[:1] })
	r.publish()
	older := r.f.Snapshot()
	r.state.floating = all
	r.state.members(t, func(m []nexthop.Member) []nexthop.Member { return m[1:2] })
	r.publish()
	newer := r.f.Snapshot()
	r.inject(clientPort, build(t, udpTo(clientPort, "203.0.113.7", "10.96.0.10", 5353, 80, "q")))
	r.run()
	r.one(web2Port)

	r.f.snapshot.Store(older)
	r.inject(web2Port, build(t, udpTo(web2Port, "10.244.0.12", "203.0.113.7", 8080, 5353, "a")))
	r.run()
	r.one(clientPort)
	r.f.snapshot.Store(newer)
	if s := r.session(); s.Member() != web2ID || s.Decision().Epoch() != newer.Epoch {
		t.Errorf("member %d at epoch %d, want %d at %d", s.Member(), s.Decision().Epoch(), web2ID, newer.Epoch)
	}
}

// TestSecondPacketOfANewFlowNeedsNoRoom: two packets of one new flow in a batch,
// where only one more session fits.
func TestSecondPacketOfANewFlowNeedsNoRoom(t *testing.T) {
	r := newRig(t)
	r.state.interfaces[clientPort].Quota = 1
	r.publish()
	datagram := build(t, udpTo(clientPort, "203.0.113.7", "10.244.0.11", 1000, 53, "q"))
	r.inject(clientPort, datagram, datagram)
	r.run()
	if n := len(r.sent(web1Port)); n != 2 || r.f.Charged(clientPort) != 1 {
		t.Errorf("%d of 2 packets passed, %d charged, drops %v", n, r.f.Charged(clientPort), r.allDrops())
	}
	if n := len(r.sent(clientPort)); n != 0 {
		t.Errorf("the sender was told %d errors", n)
	}
}

// TestReopenedConnectionTakesTheRestOfTheBatch: a SYN on a closed connection and
// what follows it in the same batch belong to the new session.
// RFC 5382 REQ-2: a connection that is over is opened again by a SYN.
func TestReopenedConnectionTakesTheRestOfTheBatch(t *testing.T) {
	r := newRig(t)
	send := func(frames ...[]byte) {
		r.inject(clientPort, frames...)
		r.run()
	}
	packet := func(set func(*layers.TCP), data string) []byte {
		return build(t, tcpTo(clientPort, "203.0.113.7", "10.96.0.10", 40000, 80, set, data))
	}
	send(packet(syn, ""))
	old := r.session().Member()
	r.sent(memberPort(r.session()))
	send(packet(func(l *layers.TCP) { l.RST, l.Seq = true, 1001 }, ""))
	if r.session().State() != flowtable.TCPClosed {
		t.Fatalf("state %v, want closed", r.session().State())
	}
	r.sent(memberPort(r.session()))
	r.state.members(t, func(m []nexthop.Member) (kept []nexthop.Member) {
		for i := range m {
			if m[i].ID == old {
				m[i].State = nexthop.Draining
			}
		}
		return m
	})
	r.publish()
	send(packet(func(l *layers.TCP) { l.SYN, l.Seq = true, 5000 }, ""), packet(func(l *layers.TCP) { l.ACK, l.Seq = true, 5001 }, "data"))
	s := r.session()
	if s.Member() == old {
		t.Fatal("the new connection went to a draining member")
	}
	if n := len(r.sent(memberPort(s))); n != 2 {
		t.Errorf("%d of 2 packets reached the new member", n)
	}
	if _, packets := s.Counters(flowtable.Forward); packets != 2 || r.f.Charged(clientPort) != 1 {
		t.Errorf("the session counted %d packets, %d charged", packets, r.f.Charged(clientPort))
	}
}
