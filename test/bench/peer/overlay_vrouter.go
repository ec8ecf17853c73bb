package peer

import (
	"context"
	_ "embed" // the state files
	"errors"
	"fmt"

	"github.com/vrouter-go/vrouter/agent/client"
)

// Encapsulations between our nodes, as a state file names them.
const (
	MPLSoverUDP = "MPLS_UDP"
	VXLAN       = "VXLAN"
)

// The services as an operator writes them for the client's and the servers' node.
var (
	//go:embed near.yaml
	nearState string
	//go:embed far.yaml
	farState string
)

// VRouterOverlay starts two vRouter daemons from a binary, one on each node, with
// tunnels of an encapsulation between them.
func VRouterOverlay(ctx context.Context, s Setup, name, binary string, w Wire, encapsulation string) (*Peer, error) {
	p, err := newOverlay(name, s, w, len(serverAddress))
	if err != nil {
		return nil, err
	}
	if err := p.startVRouters(ctx, binary, w, encapsulation); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Peer) startVRouters(ctx context.Context, binary string, w Wire, encapsulation string) error {
	var nodes []*client.Client
	for _, n := range []struct{ ns, name, state string }{{p.node, "near", nearState}, {p.far, "far", farState}} {
		api, err := p.daemon(ctx, n.ns, n.name, binary)
		if err != nil {
			return err
		}
		if err := p.apply(ctx, api, n.state, "@ENCAPSULATION@", encapsulation, "@WIRE@", fmt.Sprint(w.MTU)); err != nil {
			return err
		}
		nodes = append(nodes, api)
	}
	if err := p.ready(ctx, nodes...); err != nil {
		return err
	}
	return p.serve(ctx)
}
