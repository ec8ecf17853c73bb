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
	api, err := p.daemon(ctx, p.node, "bench", binary)
	if err != nil {
		return err
	}
	if err := p.apply(ctx, api, state); err != nil {
		return err
	}
	if err := p.ready(ctx, api); err != nil {
		return err
	}
	return p.serve(ctx)
}

// daemon starts a vRouter in a namespace, by a name of its own in the world, and
// waits until it answers.
func (p *Peer) daemon(ctx context.Context, ns, name, binary string) (*client.Client, error) {
	socket, config := filepath.Join(p.dir, name+".sock"), filepath.Join(p.dir, name+".yaml")
	text := fmt.Sprintf("node: %s\nsocket: %s\nstateDir: %s\n", name, socket, filepath.Join(p.dir, name))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	daemon, err := p.start(ns, "vrouter-"+name, binary, "run", "--config", config)
	if err != nil {
		return nil, err
	}
	p.forwarders = append(p.forwarders, daemon)
	api, err := client.New(client.Config{Address: socket})
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, api.Close)
	if err := eventually(ctx, p.Name+": the daemon", func() error {
		_, err := api.Status(ctx)
		return errors.Join(err, daemon.ended())
	}); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, tail(daemon.log))
	}
	return api, nil
}

// apply hands a daemon its state, in which @NS@ begins the path of the world's
// namespaces, @MTU@ is that of the devices, and further marks have the values that
// follow them.
func (p *Peer) apply(ctx context.Context, api *client.Client, text string, marks ...string) error {
	marks = append(marks, "@NS@", netns.Path(netns.Name(Prefix, p.Name)), "@MTU@", fmt.Sprint(p.mtu))
	text = strings.NewReplacer(marks...).Replace(text)
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

// ready waits until the ports of the daemons are up. Their drops count from then
// on.
func (p *Peer) ready(ctx context.Context, daemons ...*client.Client) error {
	p.drops = func(ctx context.Context) (map[string]float64, error) {
		drops := map[string]float64{}
		for _, api := range daemons {
			if err := addDrops(ctx, api, drops); err != nil {
				return nil, err
			}
		}
		return drops, nil
	}
	for _, api := range daemons {
		if err := eventually(ctx, p.Name+": ports", func() error { return portsUp(ctx, api) }); err != nil {
			return err
		}
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

// addDrops adds a daemon's own drop counters by reason.
func addDrops(ctx context.Context, api *client.Client, drops map[string]float64) error {
	answer, err := api.ListDrops(ctx, &pb.ListDropsRequest{})
	if err != nil {
		return err
	}
	for _, d := range answer.GetDrops() {
		drops[fmt.Sprintf("drops/vrouter/%s", d.GetReason())] += float64(d.GetPackets())
	}
	return nil
}
