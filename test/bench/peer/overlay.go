package peer

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// Wire is what joins two nodes: a veth pair.
type Wire struct {
	MTU    int // of the devices at its ends
	PodMTU int // of the client's and the servers' devices
}

// The wires: that of every network, where the pods' MTU is what VXLAN over IPv4
// leaves of 1500, and one with long frames. A pod has the same MTU in all worlds,
// so that all carry the same segments.
var (
	Wire1500 = Wire{MTU: 1500, PodMTU: 1450}
	Wire9000 = Wire{MTU: 9000, PodMTU: 8900}
)

// The nodes' addresses on the wire, of the client's and the servers' one.
const nearAddress, farAddress = "192.0.2.1", "192.0.2.2"

// wireDevice is the name of both ends of the wire.
const wireDevice = "wire0"

// end is a node's end of the wire.
type end struct{ node, address, mac string }

// ends returns that of the client's node and that of the servers'.
func (p *Peer) ends() [2]end {
	return [2]end{{p.node, nearAddress, "02:00:00:00:06:01"}, {p.far, farAddress, "02:00:00:00:06:02"}}
}

// newOverlay makes a world of two nodes, the client at one and n servers at the
// other, as far as namespaces and the wire.
func newOverlay(name string, s Setup, w Wire, n int) (*Peer, error) {
	p := prepare(name, s, n)
	p.far = netns.Name(Prefix, name+"-far")
	p.mtu = w.PodMTU
	if err := p.create(); err != nil {
		return nil, err
	}
	if err := p.joinNodes(w); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// joinNodes makes the wire.
func (p *Peer) joinNodes(w Wire) error {
	ends := p.ends()
	link := fmt.Sprintf("ip link add %s address %s mtu %d type veth peer name %s address %s mtu %d netns %s",
		wireDevice, ends[0].mac, w.MTU, wireDevice, ends[1].mac, w.MTU, netns.Path(p.far))
	if err := run(p.node, strings.Fields(link)...); err != nil {
		return err
	}
	for _, e := range ends {
		if err := run(e.node, "ip", "addr", "add", e.address+"/24", "dev", wireDevice); err != nil {
			return err
		}
		if err := run(e.node, "ip", "link", "set", wireDevice, "up"); err != nil {
			return err
		}
	}
	return nil
}

// KernelOverlay starts the kernel's own way between two nodes: veth pairs to
// routers that are joined by VXLAN. The client's node balances by nftables and
// connection tracking, the servers' node judges by the policy, as kube-proxy and a
// network plugin share the work.
func KernelOverlay(ctx context.Context, s Setup, w Wire) (*Peer, error) {
	p, err := newOverlay("kernel", s, w, len(serverAddress))
	if err != nil {
		return nil, err
	}
	if err := p.startKernelOverlay(ctx, w); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// vxlanOverhead is what VXLAN adds to a packet: outer IPv4, UDP and VXLAN headers
// and the inner Ethernet header (RFC 7348 section 5).
const vxlanOverhead = 20 + 8 + 8 + 14

// vtep is an end of the kernel's VXLAN: an address inside it, by which routes lead
// to it, and its MAC address.
type vtep struct{ node, outer, inner, mac string }

func (p *Peer) startKernelOverlay(ctx context.Context, w Wire) error {
	if err := p.wireGuests(); err != nil {
		return err
	}
	near := vtep{p.node, nearAddress, "192.0.2.129", "02:00:00:00:05:01"}
	far := vtep{p.far, farAddress, "192.0.2.130", "02:00:00:00:05:02"}
	if err := tunnel(near, far, "10.244.0.0/24", w.MTU-vxlanOverhead); err != nil {
		return err
	}
	if err := tunnel(far, near, "203.0.113.0/24", w.MTU-vxlanOverhead); err != nil {
		return err
	}
	if err := errors.Join(rules(p.node, kernelServices), rules(p.far, kernelPolicy)); err != nil {
		return err
	}
	return p.serve(ctx)
}

// tunnel makes one end of the VXLAN and routes a prefix to the other, nothing of it
// learned from packets: static neighbors and forwarding entries, as flannel has
// them.
func tunnel(here, there vtep, prefix string, mtu int) error {
	for _, line := range []string{
		fmt.Sprintf("ip link add overlay mtu %d address %s type vxlan id 42 local %s dstport 4789 nolearning dev %s", mtu, here.mac, here.outer, wireDevice),
		"ip addr add " + here.inner + "/32 dev overlay",
		"ip link set overlay up",
		fmt.Sprintf("ip neighbor add %s lladdr %s dev overlay nud permanent", there.inner, there.mac),
		fmt.Sprintf("bridge fdb add %s dev overlay dst %s", there.mac, there.outer),
		fmt.Sprintf("ip route add %s via %s dev overlay onlink", prefix, there.inner),
	} {
		if err := run(here.node, strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}
