package compile

import (
	"net/netip"
	"testing"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/forwarder"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// history compiles one transaction after another.
type history struct {
	t  *testing.T
	st *state.State
	c  *Compiler
}

func newHistory(t *testing.T) *history {
	h := &history{t, state.New(), New(Config{})}
	h.apply([]*pb.Resource{
		{Name: "node", Spec: &pb.Resource_Fabric{Fabric: &pb.Fabric{Vhost0: &pb.Vhost{Addresses: []string{"192.0.2.10/24"}}, Uplink: &pb.Uplink{Device: "eth0"}}}},
		{Name: "pods", Spec: &pb.Resource_VirtualNetwork{VirtualNetwork: &pb.VirtualNetwork{}}},
	})
	return h
}

func (h *history) apply(upserts []*pb.Resource, deletes ...state.Key) *forwarder.Snapshot {
	h.t.Helper()
	tx, err := h.st.Begin(state.Request{Owner: "test", Upserts: upserts, Deletes: deletes})
	if err != nil {
		h.t.Fatal(err)
	}
	r, err := h.c.Compile(h.st, tx.Affected())
	if err != nil {
		h.t.Fatal(err)
	}
	tx.Commit()
	return r.Snapshot
}

func through(name, vrf, prefix string, label uint32) []*pb.Resource {
	return []*pb.Resource{{Name: name, Spec: &pb.Resource_Route{Route: &pb.Route{Vrf: vrf, Prefix: prefix, NextHops: []*pb.NextHop{
		{Target: &pb.NextHop_Tunnel{Tunnel: &pb.Tunnel{Remote: "192.0.2.12", Label: label}}},
	}}}}}
}

// TestTunnelKeepsItsPlace holds that a tunnel has one next hop while any resource
// leads through it, also where one takes it over from another, and that a freed place
// does not come back at once.
func TestTunnelKeepsItsPlace(t *testing.T) {
	h := newHistory(t)
	key := func(name string) state.Key { return state.Key{Kind: state.Route, Name: name} }
	h.apply(through("a", "pods", "10.1.0.0/24", 17))
	place := h.c.tunnelHop(state.Endpoint{Remote: netip.MustParseAddr("192.0.2.12"), Encapsulation: pb.Encapsulation_MPLS_UDP, Identifier: 17, InnerMAC: forwarder.RouterMAC})
	for _, step := range []struct {
		upserts []*pb.Resource
		deletes []state.Key
	}{
		{through("b", "pods", "10.2.0.0/24", 17), []state.Key{key("a")}},
		{append(through("c", "pods", "10.3.0.0/24", 17), through("b", "pods", "10.2.0.0/24", 18)...), nil},
		{through("b", "pods", "10.2.0.0/24", 17), []state.Key{key("c")}},
	} {
		snap := h.apply(step.upserts, step.deletes...)
		if at, _ := tunnelAt(place); !snap.Tunnels[at].Used || snap.Tunnels[at].Identifier != 17 {
			t.Fatalf("after %v: place %d has %+v", step, at, snap.Tunnels[at])
		}
	}
	h.apply(nil, key("b"))
	snap := h.apply(through("d", "pods", "10.4.0.0/24", 19))
	if at, _ := tunnelAt(place); snap.Tunnels[at].Used {
		t.Errorf("the place is taken at once by %+v", snap.Tunnels[at])
	}
}

// TestTunnelChurn holds that lists by number stay of the order of what is in them.
func TestTunnelChurn(t *testing.T) {
	h := newHistory(t)
	var snap *forwarder.Snapshot
	for i := range uint32(3 * minSlots) {
		snap = h.apply(through("a", "pods", "10.1.0.0/24", 16+i))
	}
	if n := len(snap.Tunnels); n > minSlots {
		t.Errorf("%d places for one tunnel, want at most %d", n, minSlots)
	}
}

// TestReturnFollowsTheRoute holds that replies without a route go by the tunnel that
// the node's route to the peer takes, and not by one to somebody else.
func TestReturnFollowsTheRoute(t *testing.T) {
	h := newHistory(t)
	snap := h.apply(through("a", "pods", "10.1.0.0/24", 17))
	if snap.Peers[0].Return != 0 {
		t.Fatalf("return by %d without a route", snap.Peers[0].Return)
	}
	snap = h.apply(through("b", state.FabricNetwork, "192.0.2.12/32", 17)) // a tunnel that is there already
	if got := snap.Peers[0].Return; got == 0 || snap.NextHops.At(got).Index != 0 {
		t.Errorf("return by %d, want the tunnel", got)
	}
	other := through("c", state.FabricNetwork, "192.0.2.12/32", 17)
	other[0].GetRoute().GetNextHops()[0].GetTunnel().Remote = "192.0.2.13"
	snap = h.apply(other, state.Key{Kind: state.Route, Name: "b"})
	if got := snap.Peers[0].Return; got != 0 {
		t.Errorf("return by %d, which leads to another node", got)
	}
}
