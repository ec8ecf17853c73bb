package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/internal/port/afpacket"
	"github.com/vrouter-go/vrouter/internal/port/tap"
	"github.com/vrouter-go/vrouter/test/bench/load"
)

// Loop starts the floor of the medium: two TAP devices with a bare copy loop
// between them. There is no service, the client speaks to the server itself.
func Loop(ctx context.Context, s Setup) (*Peer, error) {
	p, err := newPeer("tap-loop", s, 1)
	if err != nil {
		return nil, err
	}
	if err := p.startLoop(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Peer) startLoop(ctx context.Context) error {
	specs := []tap.Spec{p.loopEnd(0, p.client, clientAddress), p.loopEnd(1, p.servers[0], loopServer)}
	if err := p.playLoop(p.node, "loop", "tap-loop", specs); err != nil {
		return err
	}
	return p.serveLoop(ctx)
}

// LoopOverlay starts the floor between two nodes: on each a TAP device and the
// uplink with a bare copy loop between them, which adds and takes away VXLAN headers.
// The client speaks to the server itself.
func LoopOverlay(ctx context.Context, s Setup, w Wire) (*Peer, error) {
	p, err := newOverlay("tunnel-loop", s, w, 1)
	if err != nil {
		return nil, err
	}
	if err := p.startLoopOverlay(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Peer) startLoopOverlay(ctx context.Context) error {
	taps := [2]tap.Spec{p.loopEnd(0, p.client, clientAddress), p.loopEnd(1, p.servers[0], loopServer)}
	ends := p.ends()
	for i, here := range ends {
		there := ends[1-i]
		spec := load.TunnelLoop{Tap: taps[i], Uplink: afpacket.Spec{Device: wireDevice, Netns: netns.Path(here.node)}}
		var err error
		if spec.MAC, err = net.ParseMAC(here.mac); err != nil {
			return err
		}
		if spec.PeerMAC, err = net.ParseMAC(there.mac); err != nil {
			return err
		}
		spec.IP, spec.PeerIP = netip.MustParseAddr(here.address), netip.MustParseAddr(there.address)
		if err := p.playLoop(here.node, fmt.Sprintf("loop-%d", i), "tunnel-loop", spec); err != nil {
			return err
		}
	}
	return p.serveLoop(ctx)
}

// loopEnd is the TAP device of a loop in a guest.
func (p *Peer) loopEnd(i int, guest string, a netip.Addr) tap.Spec {
	return tap.Spec{
		Name: fmt.Sprintf("%s-loop%d", Prefix, i), Netns: netns.Path(guest), GuestName: "eth0", Up: true, MTU: p.mtu,
		MAC: net.HardwareAddr{2, 0, 0, 0, 9, byte(i)}, Addresses: []netip.Prefix{netip.PrefixFrom(a, 24)},
	}
}

// playLoop starts a loop, which is a forwarder.
func (p *Peer) playLoop(node, name, role string, with any) error {
	g, err := p.play(node, name, role, with)
	if err != nil {
		return err
	}
	p.forwarders = append(p.forwarders, g)
	return nil
}

// serveLoop starts the server where the client finds it without a service.
func (p *Peer) serveLoop(ctx context.Context) error {
	p.HTTP, p.Bulk = netip.AddrPortFrom(loopServer, httpPort), netip.AddrPortFrom(loopServer, bulkPort)
	p.UDP, p.Ask = netip.AddrPortFrom(loopServer, udpPort), netip.AddrPortFrom(loopServer, askPort)
	return p.serve(ctx)
}
