package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/policy"
	"github.com/vrouter-go/vrouter/nexthop"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Explain implements pb.AgentServiceServer.
func (s *Service) Explain(_ context.Context, req *pb.ExplainRequest) (*pb.ExplainResponse, error) {
	if err := check(req); err != nil {
		return nil, err
	}
	port, key, err := s.agent.packet(req)
	if err != nil {
		return nil, rpcError(err)
	}
	if mac, err := net.ParseMAC(req.GetDestinationMac()); err == nil && [6]byte(mac) != forwarder.RouterMAC {
		return s.agent.tell(key, s.agent.options.Forwarder.ExplainBridged(port, [6]byte(mac), key)), nil
	}
	return s.agent.explain(port, key), nil
}

// packet turns a request into the packet that it describes.
func (a *Agent) packet(req *pb.ExplainRequest) (port uint16, key flowtable.Key, err error) {
	bad := func(field, format string, args ...any) error {
		return &state.Error{Violations: []state.Violation{{Upsert: -1, Request: field, Description: fmt.Sprintf(format, args...)}}}
	}
	snap := a.options.Forwarder.Snapshot()
	name := req.GetVirtualMachineInterface()
	for i := range snap.Interfaces {
		if itf := &snap.Interfaces[i]; itf.Kind != forwarder.Absent && itf.Name == name {
			port = uint16(i)
		}
	}
	if port == 0 {
		return 0, key, status.Errorf(codes.NotFound, "there is no VirtualMachineInterface %q: `vrctl get VirtualMachineInterface` lists them, and vhost0 is the node", name)
	}
	dst, err := netip.ParseAddr(req.GetDestination())
	if err != nil {
		return 0, key, bad("destination", "%v", err)
	}
	dst = dst.Unmap()
	key = flowtable.Key{
		Dst: dst.As16(), Proto: uint8(req.GetProtocol()), VRF: snap.Interfaces[port].VRF,
		SrcPort: uint16(req.GetSourcePort()), DstPort: uint16(req.GetDestinationPort()),
	}
	if key.Proto <= uint8(pb.Protocol_ICMP) {
		key.Proto = uint8(pb.Protocol_ICMP)
		if dst.Is6() {
			key.Proto = uint8(pb.Protocol_ICMPV6)
		}
	}
	src, ok := sourceOf(&snap.Interfaces[port], dst)
	if req.GetSource() != "" {
		if src, err = netip.ParseAddr(req.GetSource()); err != nil || src.Unmap().Is4() != dst.Is4() {
			return 0, key, bad("source", "must be an address of the same family as the destination %s", dst)
		}
	} else if !ok {
		return 0, key, bad("source", "%s has no address of the family of %s; give one of its addresses", name, dst)
	}
	if key.Src = src.As16(); snap.Interfaces[port].Kind == forwarder.Host {
		key.Dst = asCalled(snap, key)
	}
	if key.SrcPort == 0 {
		key.SrcPort = a.freePort(key)
	}
	return port, key, nil
}

// asCalled returns the address that a packet of the node's kernel comes with: for a port
// that a floating IP maps at the node's own address, what stands in for that.
func asCalled(snap *forwarder.Snapshot, key flowtable.Key) [16]byte {
	for _, f := range snap.FloatingIPs {
		if f != nil && f.Address == key.Dst && f.StandIn != ([16]byte{}) && f.Mappings[forwarder.PortKey{Proto: key.Proto, Port: key.DstPort}] != nil {
			return f.StandIn
		}
	}
	return key.Dst
}

// sourceOf returns the first own address of an interface in the family of dst.
func sourceOf(itf *forwarder.Interface, dst netip.Addr) (netip.Addr, bool) {
	for _, r := range itf.Sources {
		if a := netip.AddrFrom16(r.Address).Unmap(); r.Bits == 128 && a.Is4() == dst.Is4() {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// freePort returns a source port that no live session of this pair uses.
func (a *Agent) freePort(key flowtable.Key) uint16 {
	flows := a.options.Forwarder.Flows()
	reader := flows.NewReader()
	defer reader.Close()
	const first, last = 49152, 65535 // RFC 6335 §6: dynamic ports
	for p := first; p <= last; p++ {
		key.SrcPort = uint16(p)
		if flows.Lookup(&key, flows.Hash(&key)) == 0 {
			return uint16(p)
		}
	}
	return first
}

// tieredRule names a rule of a security policy and its tier.
func (v *flowView) tieredRule(id uint32) string {
	if tier := v.names.Tier(id); tier != "" {
		return v.names.Rule(id) + " of tier " + tier
	}
	return v.names.Rule(id)
}

// explain tells the journey of a packet.
func (a *Agent) explain(port uint16, key flowtable.Key) *pb.ExplainResponse {
	return a.tell(key, a.options.Forwarder.Explain(port, key))
}

// tell puts an explanation into words.
func (a *Agent) tell(key flowtable.Key, e forwarder.Explanation) *pb.ExplainResponse {
	v := a.flowView()
	x := &pb.ExplainResponse{
		Rule: v.names.Rule(e.Rule), Tier: v.names.Tier(e.Rule), Packet: tuple(key), Rewritten: tuple(e.Rewritten),
		Output: portName(v.snap, e.Output), Generation: v.snap.Generation, FloatingIp: v.floatingIP(key),
	}
	if e.Member != 0 {
		if x.Member = x.GetOutput(); e.Tunnel.Used || !v.isWorkload(forwarder.InterfaceNextHop(e.Output)) {
			x.Member = v.memberName(memberOf{x.GetFloatingIp(), e.Member})
		}
	}
	if e.Session != 0 {
		x.Session = a.liveFlow(v, e.Session)
	}
	switch e.Verdict {
	case "FORWARD":
		x.Verdict, x.Reason = pb.Verdict_FORWARD, "new session"
		if x.GetSession() != nil {
			x.Reason = "live session"
		}
	case "LOCAL":
		x.Verdict, x.Reason, x.Reply = pb.Verdict_REPLY, "for the vRouter itself", localReply(key.Proto)
	default:
		d := e.Reason.Describe()
		x.Verdict, x.Reason, x.Doc, x.Remedy = pb.Verdict_DROP, d.Name, d.Cause, d.Remedy
		x.Reply = dropReply(e, key.Proto)
	}
	for i := range e.Steps {
		s := v.step(&e.Steps[i])
		if e.Steps[i].Stage == forwarder.StageTunnel {
			s.Detail = v.beyond(&e.Steps[i], key, x.GetMember())
		}
		x.Steps = append(x.Steps, s)
	}
	if last := len(x.GetSteps()) - 1; x.GetVerdict() == pb.Verdict_FORWARD && last >= 0 {
		x.Steps[last] = &pb.ExplainStep{Stage: "output", Result: "out of " + x.GetOutput(), Detail: v.asSent(key, e.Rewritten)}
	}
	return x
}

// beyond says what the other node does with a packet, as far as this one knows.
func (v *flowView) beyond(s *forwarder.Step, key flowtable.Key, member string) string {
	node := s.Peer.Name
	text := node + " goes on by its own routes"
	if s.Remote != ([16]byte{}) {
		to := endpoint(s.Remote, s.RemotePort)
		if s.RemotePort == 0 {
			to = endpoint(s.Remote, key.DstPort)
		}
		text = fmt.Sprintf("%s maps %s to %s", node, endpoint(key.Dst, key.DstPort), to)
		if member != "" {
			text += " out of " + member
		}
	}
	switch {
	case s.Peer.Down:
		text += "; it is out of reach"
	case !s.Peer.Resolved:
		text += "; its next hop is not resolved"
	}
	return text
}

// identifier says what a tunnel's number is.
func identifier(t forwarder.Tunnel) string {
	if t.Encapsulation == forwarder.VXLAN {
		return fmt.Sprintf("VNI %d", t.Identifier)
	}
	return fmt.Sprintf("label %d", t.Identifier)
}

// asSent is a packet's tuple as it leaves.
func (v *flowView) asSent(in, out flowtable.Key) string {
	text := fmt.Sprintf("%s > %s", endpoint(out.Src, out.SrcPort), endpoint(out.Dst, out.DstPort))
	if in.VRF = out.VRF; in == out {
		return text + ", nothing rewritten"
	}
	return "rewritten to " + text
}

// owners says which networks have an address that a VRF has no route to.
func (v *flowView) owners(vrf uint16, addr [16]byte) string {
	for i := range v.snap.VRFs {
		if uint16(i) == vrf || v.snap.VRFs[i].FIB == nil {
			continue
		}
		if route, ok := v.snap.VRFs[i].FIB.Lookup(&addr); ok && v.networkName(route.Network) == v.vrf(uint16(i)) {
			return fmt.Sprintf("it is in network %s, and no NetworkPolicy speaks of %s and %s", v.vrf(uint16(i)), v.vrf(vrf), v.vrf(uint16(i)))
		}
	}
	return "no network has it"
}

// liveFlow describes a session unless it has ended meanwhile.
func (a *Agent) liveFlow(v *flowView, ref flowtable.Ref) *pb.Flow {
	flows := a.options.Forwarder.Flows()
	reader := flows.NewReader()
	defer reader.Close()
	if s := flows.Session(ref); s.Live() {
		return v.flow(ref, s)
	}
	return nil
}

func localReply(proto uint8) string {
	switch pb.Protocol_Value(proto) {
	case pb.Protocol_ICMP:
		return "ICMP echo reply"
	case pb.Protocol_ICMPV6:
		return "ICMPv6 echo reply"
	}
	return ""
}

// dropReply is what the sender of a refused packet gets.
func dropReply(e forwarder.Explanation, proto uint8) string {
	switch {
	case e.Verdict == "REFUSE" && proto == uint8(pb.Protocol_TCP):
		return "TCP RST"
	case e.Verdict == "REFUSE":
		return "ICMP port unreachable"
	case e.Reason == forwarder.DropNoRoute, e.Reason == forwarder.DropNATNoAddress:
		return "ICMP network unreachable"
	case e.Reason == forwarder.DropOutputGone || e.Reason == forwarder.DropMemberGone:
		return "ICMP host unreachable"
	}
	return ""
}

// step turns one step of the engine's trace into words.
func (v *flowView) step(s *forwarder.Step) *pb.ExplainStep {
	say := func(stage, result, detail string) *pb.ExplainStep {
		return &pb.ExplainStep{Stage: stage, Result: result, Detail: detail}
	}
	addr := netip.AddrFrom16(s.Address).Unmap().String()
	switch s.Stage {
	case forwarder.StageSource:
		if s.Reason != forwarder.DropUnknown {
			return say("anti-spoof", s.Reason.String(), addr+" may not be sent from here")
		}
		return say("anti-spoof", addr+" belongs here", "")
	case forwarder.StageSession:
		return say("session", "live session", "its binding and member stay while they are valid")
	case forwarder.StageRoute:
		return say("route", s.Prefix().String()+" in "+v.vrf(s.VRF), v.hopName(s.Route.NextHop)+v.inNetwork(s.Route.Network))
	case forwarder.StageNoRoute:
		return say("route", "no route to "+addr+" in "+v.vrf(s.VRF), v.owners(s.VRF, s.Address))
	case forwarder.StageSNAT:
		return say("source-nat", "leaves as "+addr, fmt.Sprintf("with a port of the node's, %d to %d", v.snap.SNAT.Ports.First, v.snap.SNAT.Ports.Last))
	case forwarder.StageLocal:
		return say("local", "the vRouter itself", "")
	case forwarder.StageBridge:
		return v.bridgeStep(s)
	case forwarder.StageFallback:
		return say("floating-ip", "port is not mapped by "+s.Floating.Name, "the address is the node's own: to vhost0")
	case forwarder.StageUnmapped:
		return say("floating-ip", "port is not mapped by "+s.Floating.Name, "refused")
	case forwarder.StageNoMember:
		return say("floating-ip", s.Floating.Name+" has no usable member", fmt.Sprintf("%d members, none takes new flows", s.Service.Group.Len()))
	case forwarder.StageMember:
		return say("member", v.member(&s.Member), v.chosen(s))
	case forwarder.StageKept:
		return say("member", "kept: "+netip.AddrFrom16(s.Member.Address).Unmap().String(), "the live session stays with its member")
	case forwarder.StageNetwork:
		return say("network-policy", verdictText(s.Verdict), fmt.Sprintf("%s by rule %s", v.networks(&s.Query), v.names.Rule(uint32(s.Verdict.Rule))))
	case forwarder.StageSecurity:
		return say("security-policy", verdictText(s.Verdict), fmt.Sprintf("%s by rule %s", s.Verdict.Stage, v.tieredRule(uint32(s.Verdict.Rule))))
	case forwarder.StageArrival:
		return say("tunnel", "from "+s.Peer.Name, "to what the label names")
	case forwarder.StageTunnel:
		return say("tunnel", fmt.Sprintf("to %s at %s, %s %s", s.Peer.Name, netip.AddrFrom16(s.Peer.Address).Unmap(), s.Tunnel.Encapsulation, identifier(s.Tunnel)), "")
	case forwarder.StageForward:
		return say("output", "forwarded", "")
	}
	return say("end", s.Reason.String(), s.Reason.Describe().Cause)
}

// bridgeStep says where a MAC address is.
func (v *flowView) bridgeStep(s *forwarder.Step) *pb.ExplainStep {
	mac := net.HardwareAddr(s.MAC[:]).String()
	if s.MAC == ([6]byte{}) {
		mac = "the session's"
	}
	if s.Route.NextHop == 0 {
		return &pb.ExplainStep{Stage: "bridge", Result: mac + " is nobody's", Detail: "in the network of " + v.vrf(s.VRF)}
	}
	return &pb.ExplainStep{Stage: "bridge", Result: mac + " in " + v.vrf(s.VRF), Detail: v.hopName(s.Route.NextHop) + ", not routed: MAC addresses and TTL stay"}
}

func verdictText(v policy.Verdict) string {
	if v.Pass {
		return "pass"
	}
	return "deny"
}

func (v *flowView) member(m *nexthop.Member) string {
	where := portName(v.snap, m.Interface)
	switch hop := v.snap.NextHops.At(m.NextHop); {
	case hop.Kind == nexthop.VRF:
		where = "the host"
	case where == state.Vhost0:
		where = "the node itself"
	case m.Interface == 0:
		where = v.hopName(m.NextHop)
	}
	text := where + " at " + netip.AddrFrom16(m.Address).Unmap().String()
	if m.Port != 0 {
		text += fmt.Sprintf(" port %d", m.Port)
	}
	return text
}

func (v *flowView) chosen(s *forwarder.Step) string {
	if s.Sticky {
		return "session affinity: the client's member"
	}
	return fmt.Sprintf("hash %#016x over %d of %d members", s.Hash, s.Service.Group.Usable(), s.Service.Group.Len())
}

// networkName names the network with policy's number id: its VRF's name.
func (v *flowView) networkName(id uint32) string {
	if id == 0 {
		return "no network"
	}
	return v.vrf(uint16(id - 1))
}

func (v *flowView) inNetwork(id uint32) string {
	if id == 0 {
		return ""
	}
	return ", network " + v.networkName(id)
}

func (v *flowView) networks(q *policy.Query) string {
	return v.networkName(q.SrcNetwork) + " → " + v.networkName(q.DstNetwork)
}
