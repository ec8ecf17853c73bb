package peer

import (
	"context"
	_ "embed" // the state file
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vrouter-go/vrouter/agent/client"
	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/internal/statefile"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

//go:embed state.yaml
var state string

// VRouter starts a vRouter daemon from a binary, with nothing in its
// configuration that an operator would not write, and hands it the services over
// gRPC. name tells several binaries apart.
func VRouter(ctx context.Context, s Setup, name, binary string) (*Peer, error) {
	p, err := newPeer(name, s, len(serverAddress))
	if err != nil {
		return nil, err
	}
	if err := p.startVRouter(ctx, binary); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Peer) startVRouter(ctx context.Context, binary string) error {
	socket, config := filepath.Join(p.dir, "vrouter.sock"), filepath.Join(p.dir, "vrouter.yaml")
	text := fmt.Sprintf("node: bench\nsocket: %s\nstateDir: %s\n", socket, filepath.Join(p.dir, "state"))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return err
	}
	daemon, err := p.start(p.node, "vrouter", binary, "run", "--config", config)
	if err != nil {
		return err
	}
	p.forwarders = append(p.forwarders, daemon)
	api, err := client.New(client.Config{Address: socket})
	if err != nil {
		return err
	}
	p.closers = append(p.closers, api.Close)
	if err := eventually(ctx, p.Name+": the daemon", func() error {
		_, err := api.Status(ctx)
		return errors.Join(err, daemon.ended())
	}); err != nil {
		return fmt.Errorf("%w\n%s", err, tail(daemon.log))
	}
	if err := p.apply(ctx, api); err != nil {
		return err
	}
	p.drops = func(ctx context.Context) (map[string]float64, error) { return vrouterDrops(ctx, api) }
	if err := eventually(ctx, p.Name+": ports", func() error { return portsUp(ctx, api) }); err != nil {
		return err
	}
	return p.serve(ctx)
}

// apply hands the services to the daemon.
func (p *Peer) apply(ctx context.Context, api *client.Client) error {
	text := strings.ReplaceAll(state, "@NS@", netns.Path(netns.Name(Prefix, p.Name)))
	documents, err := statefile.Parse([]statefile.Source{{Name: "state.yaml", Data: []byte(text)}}, nil)
	if err != nil {
		return err
	}
	var resources []*pb.Resource
	for _, d := range documents {
		resources = append(resources, d.Resource)
	}
	if _, err = api.Apply(ctx, &pb.ApplyRequest{Upserts: resources}); err != nil {
		return fmt.Errorf("%s: apply: %w", p.Name, err)
	}
	return nil
}

func portsUp(ctx context.Context, api *client.Client) error {
	status, err := api.Status(ctx)
	if err != nil {
		return err
	}
	for _, port := range status.GetPorts() {
		if port.GetState() != pb.PortStatus_UP {
			return fmt.Errorf("port %s: %s", port.GetName(), port.GetReason())
		}
	}
	return nil
}

// vrouterDrops returns the daemon's own drop counters by interface and reason.
func vrouterDrops(ctx context.Context, api *client.Client) (map[string]float64, error) {
	answer, err := api.ListDrops(ctx, &pb.ListDropsRequest{})
	if err != nil {
		return nil, err
	}
	drops := map[string]float64{}
	for _, d := range answer.GetDrops() {
		drops[fmt.Sprintf("drops/vrouter/%s", d.GetReason())] += float64(d.GetPackets())
	}
	return drops, nil
}
