package compile

import (
	"net/netip"
	"time"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/bfd"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Sessions are the BFD sessions that the node shall have.
type Sessions struct {
	Netns string // where the node's addresses are; "" is the daemon's own
	Peers []bfd.Peer
}

// overlayTTL is what is left of 255 when two vRouters have lowered it.
const overlayTTL = 253

// sessions returns a session for each address of each peer that is to be watched.
func (c *Compiler) sessions() Sessions {
	f := c.state.Fabric()
	s := Sessions{Netns: f.GetVhost0().GetNetns()}
	local4, local6 := c.localAddresses()
	for _, p := range f.GetPeers() {
		b := p.GetBfd()
		if b == nil {
			continue
		}
		for _, text := range p.GetAddresses() {
			remote, err := netip.ParseAddr(text)
			if err != nil {
				continue
			}
			local := local4
			if remote.Is6() {
				local = local6
			}
			if local.IsUnspecified() {
				continue // the uplink has not told its addresses yet
			}
			interval := time.Duration(b.GetIntervalMilliseconds()) * time.Millisecond
			session := bfd.Peer{
				Name: p.GetName() + " " + text, Local: local, Remote: remote,
				Multihop: b.GetPath() == pb.Bfd_MULTIHOP || b.GetPath() == pb.Bfd_OVERLAY, MinTTL: uint8(b.GetMinTtl()),
				TransmitInterval: interval, ReceiveInterval: interval, Multiplier: uint8(b.GetMultiplier()),
			}
			if b.GetPath() == pb.Bfd_OVERLAY {
				session.Device, session.Router = state.VhostName(f.GetVhost0()), forwarder.RouterMAC
				if session.MinTTL == 0 {
					session.MinTTL = overlayTTL
				}
			}
			s.Peers = append(s.Peers, session)
		}
	}
	return s
}
