package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/internal/port/tap"
)

// Loop starts the floor of the medium: two TAP devices with a bare copy loop
// between them. There is no service, the client speaks to the server itself.
func Loop(ctx context.Context, s Setup) (*Peer, error) {
	p, err := newPeer("tap-loop", s, 1)
	if err != nil {
		return nil, err
	}
	p.HTTP, p.Bulk = netip.AddrPortFrom(loopServer, httpPort), netip.AddrPortFrom(loopServer, bulkPort)
	p.UDP, p.Ask = netip.AddrPortFrom(loopServer, udpPort), netip.AddrPortFrom(loopServer, askPort)
	if err := p.startLoop(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Peer) startLoop(ctx context.Context) error {
	end := func(i int, ns string, a netip.Addr) tap.Spec {
		return tap.Spec{
			Name: fmt.Sprintf("%s-loop%d", Prefix, i), Netns: netns.Path(ns), GuestName: "eth0", Up: true,
			MAC: net.HardwareAddr{2, 0, 0, 0, 9, byte(i)}, Addresses: []netip.Prefix{netip.PrefixFrom(a, 24)},
		}
	}
	specs := []tap.Spec{end(0, p.client, clientAddress), end(1, p.servers[0], loopServer)}
	g, err := p.play(p.node, "loop", "tap-loop", specs)
	if err != nil {
		return err
	}
	p.forwarders = append(p.forwarders, g)
	return p.serve(ctx)
}
