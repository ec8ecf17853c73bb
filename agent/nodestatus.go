package agent

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/agent/underlay"
	"github.com/vrouter-go/vrouter/forwarder"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// nodeStatus fills in the uplink and the other nodes. It comes after the ports.
func (a *Agent) nodeStatus(st *pb.GetStatusResponse) {
	snap, known := a.options.Forwarder.Snapshot(), a.known()
	if snap.Uplink == 0 {
		return
	}
	link := known.view.Link
	u := &pb.UplinkStatus{Up: link.Up, Problem: known.view.Problem, Mtu: uint32(link.MTU)}
	if link.Index != 0 {
		u.MacAddress = macText(link.MAC)
	}
	for _, addr := range known.view.Addresses {
		u.Addresses = append(u.Addresses, addr.String())
	}
	for _, p := range st.GetPorts() {
		if p.GetName() == state.Uplink {
			u.Device, u.Netns, u.TunnelOffload = p.GetDevice(), p.GetNetns(), slices.Contains(p.GetFeatures(), "tunnel")
		}
	}
	for i := range snap.Tunnels {
		if snap.Tunnels[i].Used {
			u.Tunnels++
		}
	}
	a.mu.RLock()
	for _, e := range state.Encapsulations(a.state.Fabric()) {
		u.Encapsulations = append(u.Encapsulations, e.String())
	}
	a.mu.RUnlock()
	st.Uplink = u
	sessions := a.live.sessions()
	for i := range snap.Peers {
		if p := &snap.Peers[i]; p.Name != "" {
			peer := known.peer(p)
			if session, ok := sessions[netip.AddrFrom16(p.Address).Unmap()]; ok {
				peer.Bfd = session.State.String()
			}
			st.Peers = append(st.Peers, peer)
		}
	}
	slices.SortFunc(st.Peers, func(x, y *pb.PeerStatus) int {
		return strings.Compare(x.GetName()+" "+x.GetAddress(), y.GetName()+" "+y.GetAddress())
	})
}

// peer describes one address of another node.
func (s *surroundings) peer(p *forwarder.Peer) *pb.PeerStatus {
	addr := netip.AddrFrom16(p.Address).Unmap()
	path, watched := s.view.Paths[addr]
	_, dead := s.dead[addr]
	v := &pb.PeerStatus{Name: p.Name, Address: addr.String(), Mtu: uint32(p.MTU), State: pb.PeerStatus_UNRESOLVED}
	if p.Local != ([16]byte{}) {
		v.Local = netip.AddrFrom16(p.Local).Unmap().String()
	}
	if path.NextHop.IsValid() {
		v.NextHop = path.NextHop.String()
	}
	if p.Resolved {
		v.MacAddress = macText(p.Neighbor)
	}
	switch {
	case p.Down:
		v.State, v.Reason = pb.PeerStatus_DOWN, path.State.String()
		if dead && path.State <= underlay.Resolved {
			v.Reason = "the node does not answer (BFD)"
		}
	case v.GetLocal() == "":
		v.Reason = "this node has no address of the family to send from"
	case p.Resolved:
		v.State = pb.PeerStatus_UP
	case !watched:
		v.Reason = "nobody has looked for the way yet"
	default:
		v.Reason = path.State.String()
	}
	return v
}

// underlayReason says what keeps the node from others; "" nothing does.
func underlayReason(st *pb.GetStatusResponse) string {
	u := st.GetUplink()
	switch {
	case u == nil:
		return ""
	case u.GetProblem() != "":
		return u.GetProblem()
	case u.GetMacAddress() != "" && !u.GetUp():
		return "uplink " + u.GetDevice() + " is down or has no carrier; look at the cable, or set it up"
	}
	var down []*pb.PeerStatus
	for _, p := range st.GetPeers() {
		if p.GetState() == pb.PeerStatus_DOWN {
			down = append(down, p)
		}
	}
	if len(down) == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d addresses of other nodes are out of reach, first %s at %s: %s",
		len(down), len(st.GetPeers()), down[0].GetName(), down[0].GetAddress(), down[0].GetReason())
}

func macText(mac [6]byte) string { return net.HardwareAddr(mac[:]).String() }
