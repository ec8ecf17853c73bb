package forwarder

import (
	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/nexthop"
)

// exit is a way out of the node under one snapshot: a port, or a tunnel through the
// uplink.
type exit struct {
	port   uint16
	device *txPort
	mtu    int     // bytes of an IP packet as it is before a tunnel takes it
	mac    [6]byte // whom the frame is sent to, and
	from   [6]byte // by whom; a tunnel has its own
	tunnel *tunnel // nil: the frame leaves as it is
	flow   uint32  // for the tunnel: a hash of the packet's flow
	keeps  bool    // mac and from are those that the packet came with, in the tunnel too
}

// exit finds the way out that a next hop stands for, or says why there is none.
func (w *Worker) exit(id nexthop.ID, x *exit) DropReason {
	hop := w.snap.NextHops.At(id)
	switch hop.Kind {
	case nexthop.Interface:
		out := w.snap.port(hop.Port)
		*x = exit{port: hop.Port, mtu: int(out.MTU), mac: out.MAC, from: RouterMAC}
		if out.Kind == Uplink {
			return DropNeighborUnresolved // out of it, but to whom?
		}
		return w.attached(out, x)
	case nexthop.Neighbor:
		out := w.snap.port(w.snap.Uplink)
		*x = exit{port: w.snap.Uplink, mtu: int(out.MTU), from: out.MAC}
		if reason := w.attached(out, x); reason != DropUnknown {
			return reason
		}
		ok := false
		if x.mac, ok = w.fwd.neighbors.at(hop.Index); !ok {
			return DropNeighborUnresolved
		}
		return DropUnknown
	case nexthop.Tunnel:
		return w.tunnelExit(hop.Index, x)
	}
	return DropOutputGone
}

// tunnelExit finds the way out that a tunnel is.
func (w *Worker) tunnelExit(index uint32, x *exit) DropReason {
	if int(index) >= len(w.snap.tunnels) {
		return DropTunnelGone
	}
	t := &w.snap.tunnels[index]
	if t.reason != DropUnknown {
		return t.reason
	}
	*x = exit{port: w.snap.Uplink, mtu: int(t.mtu), tunnel: t}
	return w.attached(w.snap.port(x.port), x)
}

// attached sets the device of a way out.
func (w *Worker) attached(out *Interface, x *exit) DropReason {
	if x.device = w.tx[x.port]; x.device == nil || out.Kind == Absent {
		return DropOutputGone
	}
	return DropUnknown
}

// takes reports whether the frame can leave as it is.
func (x *exit) takes(f *port.Frame) bool {
	if x.tunnel != nil {
		return x.tunnel.takes(f, x.device.features)
	}
	return x.device.features.Accepts(f.Offload)
}

// address writes the frame's Ethernet addresses.
func (x *exit) address(f *port.Frame) {
	b := (*[16]byte)(f.Buf[f.Start:])
	*(*[6]byte)(b[0:]) = x.mac
	*(*[6]byte)(b[6:]) = x.from
}

// leave appends a finished frame to the output batch of its way out, in the tunnel
// where it is one.
func (w *Worker) leave(f *port.Frame, x *exit) DropReason {
	if x.tunnel != nil {
		x.tunnel.encapsulate(f, x.flow, x.keeps)
	}
	return w.enqueue(x.port, f)
}

// flowHash is a hash of a flow as it leaves, for the nodes and links between here
// and the other end of a tunnel to spread flows by. It is not the flow table's, of
// which nobody outside may learn anything.
func flowHash(k *flowtable.Key) uint32 {
	return uint32(nexthop.HashTuple(nexthop.HashAll, &k.Src, &k.Dst, k.SrcPort, k.DstPort, k.Proto))
}
