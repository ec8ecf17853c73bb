package agent

import (
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vrouter-go/vrouter/agent/compile"
	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/nexthop"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// flowView turns sessions into the API's flows, with the names of one moment.
type flowView struct {
	snap     *forwarder.Snapshot
	names    *compile.Names
	timeouts flowtable.Timeouts
	now      uint32
	// floating returns a FloatingIP of desired state by name, nil for none.
	floating func(name string) *pb.FloatingIP
	members  map[memberOf]string // names of members on other nodes, as far as asked for
}

// memberOf is a member of a floating IP by the id that sessions keep.
type memberOf struct {
	floatingIP string
	id         uint32
}

func (a *Agent) flowView() *flowView {
	return &flowView{
		snap: a.options.Forwarder.Snapshot(), names: a.names.Load(),
		timeouts: a.options.Timeouts, now: a.options.Forwarder.Now(),
		floating: a.floating, members: map[memberOf]string{},
	}
}

// floating returns a FloatingIP of desired state, nil for none.
func (a *Agent) floating(name string) *pb.FloatingIP {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.state.Get(state.Key{Kind: state.FloatingIP, Name: name}).GetFloatingIp()
}

// memberName names a member that is no interface of this node; "" where it has left.
func (v *flowView) memberName(m memberOf) string {
	name, known := v.members[m]
	if !known {
		name = compile.MemberName(m.floatingIP, v.floating(m.floatingIP), m.id)
		v.members[m] = name
	}
	return name
}

// flow describes a session. The caller keeps the session good.
func (v *flowView) flow(ref flowtable.Ref, s *flowtable.Session) *pb.Flow {
	forward, reply := s.Key(flowtable.Forward), s.Key(flowtable.Reply)
	hop := func(d flowtable.Direction) nexthop.ID { return nexthop.ID(s.Decision().NextHop(d)) }
	_, bridged := forwarder.PlainVRF(forward.VRF)
	f := &pb.Flow{
		Bridged: bridged, Id: uint64(ref.Index()), Vrf: v.vrf(forward.VRF), Forward: tuple(forward),
		ReplyVrf: v.vrf(reply.VRF), Reply: tuple(reply), Nat: natOf(forward, reply),
		State: s.State().String(), Verdict: pb.Verdict_FORWARD,
		Age: ticks(s.Age(v.now)), Idle: ticks(s.Idle(v.now)), Timeout: durationpb.New(timeout(v.timeouts, s)),
		ForwardCounters: counters(s, flowtable.Forward), ReplyCounters: counters(s, flowtable.Reply),
		Interface: portName(v.snap, s.Port()),
		Rule:      v.names.Rule(s.Rule()), Tier: v.names.Tier(s.Rule()),
		NextHop: v.hopName(hop(flowtable.Forward)), ReplyNextHop: v.hopName(hop(flowtable.Reply)),
	}
	if id := hop(flowtable.Forward); id.IsDiscard() {
		f.Verdict, f.DropReason = pb.Verdict_DROP, forwarder.DropReason(id).String()
	} else {
		f.Output = v.output(id)
	}
	if s.Member() != 0 {
		f.FloatingIp = v.floatingIP(forward)
		if f.Member = f.GetOutput(); !v.isWorkload(hop(flowtable.Forward)) {
			f.Member = v.memberName(memberOf{f.GetFloatingIp(), s.Member()})
		}
	} else if forward.Src != reply.Dst {
		f.FloatingIp = v.floatingIP(flowtable.Key{Dst: reply.Dst, VRF: reply.VRF})
	}
	return f
}

// isWorkload reports whether a next hop is a workload's interface, by whose name members
// are known. Other members are interfaces on other nodes, and hosts.
func (v *flowView) isWorkload(id nexthop.ID) bool {
	h := v.snap.NextHops.At(id)
	return h.Kind == nexthop.Interface && int(h.Port) < len(v.snap.Interfaces) && v.snap.Interfaces[h.Port].Kind == forwarder.Workload
}

// output names the port that a next hop leaves by; "" where it leads to none.
func (v *flowView) output(id nexthop.ID) string {
	switch h := v.snap.NextHops.At(id); h.Kind {
	case nexthop.Interface, nexthop.Neighbor:
		return portName(v.snap, h.Port)
	case nexthop.Tunnel:
		return portName(v.snap, v.snap.Uplink)
	}
	return ""
}

// tunnel describes a way to another node in one phrase: node-b MPLS_UDP 100017.
func (v *flowView) tunnel(t forwarder.Tunnel) string {
	name := "a node that is gone"
	if t.Used && int(t.Peer) < len(v.snap.Peers) {
		name = v.snap.Peers[t.Peer].Name
	}
	return fmt.Sprintf("%s %s %d", name, t.Encapsulation, t.Identifier)
}

// floatingIP names the floating IP that a packet was sent to.
func (v *flowView) floatingIP(k flowtable.Key) string {
	if int(k.VRF) >= len(v.snap.VRFs) {
		return ""
	}
	route, ok := v.snap.VRFs[k.VRF].FIB.Lookup(&k.Dst)
	if !ok {
		return ""
	}
	h := v.snap.NextHops.At(route.NextHop)
	if h.Kind != nexthop.FloatingIP || v.snap.FloatingIPs[h.Index] == nil {
		return ""
	}
	return v.names.FloatingIP(v.snap.FloatingIPs[h.Index], forwarder.PortKey{Proto: k.Proto, Port: k.DstPort})
}

func (v *flowView) vrf(id uint16) string {
	id, _ = forwarder.PlainVRF(id)
	if int(id) < len(v.snap.VRFs) {
		return v.snap.VRFs[id].Name
	}
	return ""
}

// hopName describes a next hop in one phrase.
func (v *flowView) hopName(id nexthop.ID) string {
	if id.IsDiscard() {
		return "discard " + forwarder.DropReason(id).String()
	}
	switch h := v.snap.NextHops.At(id); h.Kind {
	case nexthop.Interface:
		if name := portName(v.snap, h.Port); name != "" {
			return "interface " + name
		}
		return "interface that is gone"
	case nexthop.VRF:
		return "vrf " + v.vrf(h.VRF)
	case nexthop.FloatingIP:
		if f := v.snap.FloatingIPs[h.Index]; f != nil {
			return "floating-ip " + f.Name
		}
		return "floating-ip that is gone"
	case nexthop.Tunnel:
		if int(h.Index) < len(v.snap.Tunnels) && v.snap.Tunnels[h.Index].Used {
			return "tunnel " + v.tunnel(v.snap.Tunnels[h.Index])
		}
		return "tunnel that is gone"
	case nexthop.Neighbor:
		if id == forwarder.OnLinkNextHop {
			return "the uplink's own link"
		}
		return "neighbor on the uplink"
	default:
		return h.Kind.String()
	}
}

// natOf lists what is rewritten in the initiator's packets.
func natOf(forward, reply flowtable.Key) []pb.Flow_Nat {
	var list []pb.Flow_Nat
	out := reply.Reverse()
	for _, n := range [...]struct {
		differs bool
		what    pb.Flow_Nat
	}{
		{out.Src != forward.Src, pb.Flow_SOURCE_ADDRESS},
		{out.SrcPort != forward.SrcPort, pb.Flow_SOURCE_PORT},
		{out.Dst != forward.Dst, pb.Flow_DESTINATION_ADDRESS},
		{out.DstPort != forward.DstPort, pb.Flow_DESTINATION_PORT},
	} {
		if n.differs {
			list = append(list, n.what)
		}
	}
	return list
}

func counters(s *flowtable.Session, d flowtable.Direction) *pb.FlowCounters {
	bytes, packets := s.Counters(d)
	return &pb.FlowCounters{Packets: packets, Bytes: bytes}
}

func ticks(n uint32) *durationpb.Duration {
	return durationpb.New(time.Duration(n) * time.Duration(forwarder.TickNanos))
}

// timeout is the idle time after which a session ends.
func timeout(t flowtable.Timeouts, s *flowtable.Session) time.Duration {
	or := func(d, std time.Duration) time.Duration {
		if d == 0 {
			return std
		}
		return d
	}
	switch pb.Protocol_Value(s.Proto()) {
	case pb.Protocol_TCP:
		if s.State() == flowtable.TCPEstablished || s.State() == flowtable.Replied {
			return or(t.TCPEstablished, 7440*time.Second)
		}
		return or(t.TCPTransitory, 240*time.Second)
	case pb.Protocol_UDP:
		if s.State() == flowtable.Unreplied {
			return or(t.UDPUnreplied, 300*time.Second)
		}
		return or(t.UDPStream, 300*time.Second)
	case pb.Protocol_ICMP, pb.Protocol_ICMPV6:
		return or(t.ICMP, 60*time.Second)
	}
	return or(t.Other, 300*time.Second)
}

// matcher is a compiled filter.
type matcher struct {
	*pb.FlowFilter
	source, destination netip.Prefix
}

func newMatcher(f *pb.FlowFilter) matcher {
	return matcher{f, prefixOf(f.GetSource()), prefixOf(f.GetDestination())}
}

// prefixOf reads an address or a prefix; the zero Prefix for an empty string.
func prefixOf(s string) netip.Prefix {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen())
	}
	p, _ := netip.ParsePrefix(s)
	return p
}

func within(p netip.Prefix, a [16]byte) bool { return p.Contains(netip.AddrFrom16(a).Unmap()) }

// key judges by the session's keys alone, before a flow is built.
func (m *matcher) key(s *flowtable.Session) bool {
	f, r := s.Key(flowtable.Forward), s.Key(flowtable.Reply)
	port := func(want uint32, have ...uint16) bool {
		for _, p := range have {
			if uint32(p) == want {
				return true
			}
		}
		return want == 0
	}
	return (!m.source.IsValid() || within(m.source, f.Src)) &&
		(!m.destination.IsValid() || within(m.destination, f.Dst) || within(m.destination, r.Src)) &&
		(m.GetProtocol() == 0 || m.GetProtocol() == pb.Protocol_Value(f.Proto) || m.GetProtocol() == pb.Protocol_ICMP && f.Proto == uint8(pb.Protocol_ICMPV6)) &&
		port(m.GetPort(), f.SrcPort, f.DstPort, r.SrcPort, r.DstPort) &&
		port(m.GetSourcePort(), f.SrcPort) && port(m.GetDestinationPort(), f.DstPort)
}

// flow judges what only names and counters tell.
func (m *matcher) flow(f *pb.Flow) bool {
	is := func(want string, have ...string) bool {
		for _, s := range have {
			if s == want {
				return true
			}
		}
		return want == ""
	}
	return is(m.GetVrf(), f.GetVrf(), f.GetReplyVrf()) &&
		is(m.GetVirtualMachineInterface(), f.GetInterface(), f.GetOutput(), f.GetMember()) &&
		is(m.GetFloatingIp(), f.GetFloatingIp()) && is(m.GetState(), f.GetState()) && is(m.GetRule(), f.GetRule()) &&
		(m.GetVerdict() == 0 || m.GetVerdict() == f.GetVerdict()) &&
		f.GetForwardCounters().GetBytes()+f.GetReplyCounters().GetBytes() >= m.GetMinBytes()
}

// flowStep is how many records of the table are looked at in one go.
const flowStep = 4096

// eachFlow calls fn with the live sessions that match until it returns false.
func (a *Agent) eachFlow(filter *pb.FlowFilter, fn func(flowtable.Ref, *pb.Flow) bool) {
	m, view := newMatcher(filter), a.flowView()
	for cursor, more := uint32(0), true; more; {
		cursor = a.options.Forwarder.Flows().Range(cursor, flowStep, func(ref flowtable.Ref, s *flowtable.Session) bool {
			if m.key(s) {
				if f := view.flow(ref, s); m.flow(f) {
					more = fn(ref, f)
				}
			}
			return more
		})
		more = more && cursor != 0
	}
}
