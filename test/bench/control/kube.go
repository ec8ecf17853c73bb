//go:build linux

package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/vrouter-go/vrouter/agent/client"
	"github.com/vrouter-go/vrouter/controller/agentsync"
	"github.com/vrouter-go/vrouter/internal/figure"
	"github.com/vrouter-go/vrouter/internal/netns"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// The cluster that one node hears of: each service has one member here and nine on
// other nodes.
const (
	clusterNodes   = 500
	clusterMembers = 10
)

// measureKube measures the way from a controller to the packet path: a cold start
// of a large cluster, what it takes in memory, a controller that comes back, and
// endpoint changes at that size. The resources are made here, so that what the
// apiserver takes is not in it.
func measureKube(ctx context.Context, b *bench) (err error) {
	w, err := b.clusterWorld(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	list := clusterResources(b.services)
	if err := b.kubeCold(ctx, w, list); err != nil {
		return err
	}
	k := w.keep()
	defer k.stop()
	if err := k.full(ctx, list); err != nil {
		return err
	}
	if err := w.open(); err != nil {
		return err
	}
	return b.kubeChange(ctx, w, k)
}

// clusterWorld is a world with an uplink, so that other nodes can be reached.
func (b *bench) clusterWorld(ctx context.Context) (*world, error) {
	w, err := b.newWorld(ctx, "k", tableSize(b.sessions))
	if err != nil {
		return nil, err
	}
	if err := w.uplink(ctx); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// uplink gives the daemon a device that leads to other nodes.
func (w *world) uplink(ctx context.Context) error {
	err := netns.Do(netns.Path(w.space("node")), func() error {
		link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0"}, PeerName: "up1"}
		if err := netlink.LinkAdd(link); err != nil {
			return fmt.Errorf("uplink: %w", err)
		}
		for _, name := range []string{"up0", "up1"} {
			l, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(l); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = w.apply(ctx, &pb.Resource{Name: "node", Spec: &pb.Resource_Fabric{Fabric: &pb.Fabric{
		Vhost0: &pb.Vhost{Addresses: []string{nodeIP + "/24"}}, Uplink: &pb.Uplink{Device: "up0"},
	}}})
	if err != nil {
		return err
	}
	return w.ready(ctx)
}

// clusterResources are those of services 1 to n: an address and what stands on it.
func clusterResources(n int) []*pb.Resource {
	list := make([]*pb.Resource, 0, 2*n)
	for i := 1; i <= n; i++ {
		a := serviceAddress(i)
		name := fmt.Sprintf("shop:%s:clusterip-v4", serviceName(i))
		fip := &pb.FloatingIP{
			Parent: name,
			FloatingIpPortMappings: &pb.FloatingIpPortMappings{PortMappings: []*pb.PortMapping{
				{SrcPort: servicePort, DstPort: targetPort, Protocol: pb.Protocol_TCP}, {SrcPort: 443, DstPort: 8443, Protocol: pb.Protocol_TCP},
			}},
			Members: []*pb.Member{{VirtualMachineInterface: fmt.Sprintf("pod-%d", i%fillers), State: pb.Member_READY}},
		}
		for m := 1; m < clusterMembers; m++ {
			node := (i + 37*m) % clusterNodes
			fip.Members = append(fip.Members, &pb.Member{
				VirtualMachineInterface: fmt.Sprintf("shop:%s-%d", serviceName(i), m), State: pb.Member_READY,
				Address: fmt.Sprintf("10.%d.%d.%d", 128+node>>8, node&0xff, 2+(i+m)%250),
				Tunnel:  &pb.Tunnel{Remote: fmt.Sprintf("198.18.%d.%d", node/250, node%250+1), Vni: 100, Label: 100},
			})
		}
		list = append(list,
			&pb.Resource{Name: name, Spec: &pb.Resource_InstanceIp{InstanceIp: &pb.InstanceIP{
				Address: fmt.Sprintf("%d.%d.%d.%d", a[0], a[1], a[2], a[3]), VirtualNetwork: "services",
			}}},
			&pb.Resource{Name: name, Spec: &pb.Resource_FloatingIp{FloatingIp: fip}})
	}
	return list
}

// keeper is a controller that keeps a daemon in step.
type keeper struct {
	*agentsync.Syncer
	cancel context.CancelFunc
	done   chan struct{}
}

// keep starts a controller, as vrkube does.
func (d *daemon) keep() *keeper {
	k := &keeper{Syncer: agentsync.New(agentsync.Options{Agent: client.Config{Address: d.socket()}, Log: slog.New(slog.DiscardHandler)}), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	k.cancel = cancel
	go func() {
		defer close(k.done)
		_ = k.Run(ctx) // ends with ctx
	}()
	return k
}

// stop ends the controller.
func (k *keeper) stop() {
	k.cancel()
	<-k.done
}

// full makes resources all that there should be, and waits until they are
// programmed.
func (k *keeper) full(ctx context.Context, list []*pb.Resource) error {
	k.Set(agentsync.Change{Full: true, Upserts: list})
	for deadline := time.Now().Add(2 * patience); ; time.Sleep(200 * time.Microsecond) {
		st := k.Status()
		switch {
		case len(st.Refused) > 0:
			return fmt.Errorf("the agent refuses %s %s: %s", st.Refused[0].Key, st.Refused[0].Field, st.Refused[0].Reason)
		case st.Synced && st.Settled:
			return nil
		case ctx.Err() != nil || time.Now().After(deadline):
			return errors.Join(ctx.Err(), fmt.Errorf("not programmed: %+v", st))
		}
	}
}

// kubeCold measures cold starts, what the cluster takes in the daemon's memory, and
// the snapshot of a controller that comes back with nothing changed.
func (b *bench) kubeCold(ctx context.Context, w *world, list []*pb.Resource) error {
	var heap, resident float64
	var err error
	if b.collections > 0 {
		if heap, resident, err = w.live(ctx, b.collections); err != nil {
			return err
		}
	}
	var cold, again, busy []float64
	for range b.restarts {
		if err := w.cycle(ctx, nil, nil); err != nil { // nothing of the former round is left
			return err
		}
		used, err := w.cpu()
		if err != nil {
			return err
		}
		if err := w.cycle(ctx, list, &cold); err != nil {
			return err
		}
		after, err := w.cpu()
		if err != nil {
			return err
		}
		busy = append(busy, (after - used).Seconds())
		if err := w.cycle(ctx, list, &again); err != nil {
			return err
		}
	}
	size := fmt.Sprintf("%d-services-of-%d", b.services, clusterMembers)
	slices.Sort(busy)
	b.add(figure.New("kube/cold-start/"+size, "ms", cold, figure.AtMost("ours", 5000)),
		map[string]float64{"resources": float64(len(list)), "daemon-cpu-s": quantile(busy, 0.5)})
	b.add(figure.New("kube/resync/"+size, "ms", again, nil), nil)
	if b.collections == 0 {
		return nil
	}
	heapAfter, residentAfter, err := w.live(ctx, b.collections)
	if err != nil {
		return err
	}
	b.add(figure.New("kube/memory/daemon/"+size, "MB", []float64{(heapAfter - heap) / 1e6}, nil),
		map[string]float64{"resident": residentAfter / 1e6, "resident-before": resident / 1e6})
	return nil
}

// cycle has a new controller bring resources in, and takes the time in
// milliseconds.
func (w *world) cycle(ctx context.Context, list []*pb.Resource, times *[]float64) error {
	began := time.Now()
	k := w.keep()
	defer k.stop()
	if err := k.full(ctx, list); err != nil {
		return err
	}
	if times != nil {
		*times = append(*times, milliseconds(time.Since(began)))
	}
	return nil
}

// changeGap at which endpoints change, 20 a second.
const kubeGap = 50 * time.Millisecond

// kubeChange replaces the one member of a service 20 times a second while a client
// sends to it, and times from the change to the first packet at the new member.
func (b *bench) kubeChange(ctx context.Context, w *world, k *keeper) error {
	x := w.begin(source{rate: b.rate / 4, ports: 50_000, to: serviceAddress(targetService), nice: -10})
	first, err := b.kubeAlternate(ctx, w, k)
	if err = errors.Join(err, x.end()); err != nil {
		return err
	}
	slices.Sort(first)
	f := figure.New("kube/change/first-packet-p99", "ms", []float64{quantile(first, 0.99)}, figure.AtMost("ours", 50))
	f.Spread, f.Runs = [2]float64{first[0], first[len(first)-1]}, len(first)
	b.add(f, map[string]float64{"p50": quantile(first, 0.5), "services": float64(b.services), "sent": float64(x.sent.Load()), "back": float64(x.back.Load())})
	return nil
}

func (b *bench) kubeAlternate(ctx context.Context, w *world, k *keeper) (first []float64, err error) {
	members := []struct {
		name string
		*listener
	}{{"a", w.a}, {"b", w.b}}
	tick := time.NewTicker(kubeGap)
	defer tick.Stop()
	for i := range b.changes {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
		to := members[(i+1)%2]
		began := to.arm()
		k.Set(agentsync.Change{Upserts: []*pb.Resource{service(targetService, to.name)}, Triggered: time.Unix(0, began)})
		select {
		case at := <-to.alarm:
			first = append(first, float64(at-began)/1e6)
		case <-time.After(patience):
			return nil, fmt.Errorf("no packet came to member %s after change %d: %+v", to.name, i, k.Status())
		}
	}
	return first, nil
}
