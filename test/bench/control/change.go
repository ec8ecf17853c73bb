//go:build linux

package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/vrouter-go/vrouter/internal/figure"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// measureChange replaces the one member of a service while a client sends to it,
// each packet from another port, and times from the call to the first packet at
// the new member. Beside it stands the same call as a dry run, which changes
// nothing: what the machine and the API take at that moment.
func measureChange(ctx context.Context, b *bench) error {
	w, err := b.world(ctx)
	if err != nil {
		return err
	}
	if err := w.grow(ctx, b.services, 0); err != nil {
		return err
	}
	if err := w.apply(ctx, service(targetService, "a")); err != nil {
		return err
	}
	before, err := w.count(ctx)
	if err != nil {
		return err
	}
	x := w.begin(source{rate: b.rate / 4, ports: 50_000, to: serviceAddress(targetService), nice: -10})
	first, answered, dry, err := b.alternate(ctx, w)
	if err = errors.Join(err, x.end()); err != nil {
		return err
	}
	detail, err := w.countSince(ctx, before)
	if err != nil {
		return err
	}
	for _, list := range [][]float64{first, answered, dry} {
		slices.Sort(list)
	}
	detail["p50"], detail["services"], detail["sent"] = quantile(first, 0.5), float64(w.services), float64(x.sent.Load())
	detail["there"], detail["back"] = float64(x.there.Load()), float64(x.back.Load())
	detail["answered-p50"], detail["answered-p99"] = quantile(answered, 0.5), quantile(answered, 0.99)
	f := figure.Against("control/change/first-packet-p99", "ms", []float64{quantile(first, 0.99)}, "dry run", []float64{quantile(dry, 0.99)},
		figure.AtMost("ours", 5))
	f.Spread, f.PeerSpread = [2]float64{first[0], first[len(first)-1]}, [2]float64{dry[0], dry[len(dry)-1]}
	f.Runs = len(first)
	b.add(f, detail)
	b.add(figure.Against("control/change/first-packet", "ms", first, "dry run", dry, nil), nil)
	return nil
}

// alternate changes the member to and fro and returns, in milliseconds, when the
// first packet came, when the call was answered, and how long a dry run took.
func (b *bench) alternate(ctx context.Context, w *world) (first, answered, dry []float64, err error) {
	members := []struct {
		name string
		*listener
	}{{"a", w.a}, {"b", w.b}}
	for i := range b.changes {
		to := members[(i+1)%2]
		time.Sleep(time.Duration(b.changeGap) * time.Millisecond) // the former change is over
		change := service(targetService, to.name)
		start := time.Now()
		if _, err := w.api.Apply(ctx, &pb.ApplyRequest{Upserts: []*pb.Resource{change}, DryRun: true}); err != nil {
			return nil, nil, nil, err
		}
		dry = append(dry, milliseconds(time.Since(start)))
		began := to.arm()
		if err := w.apply(ctx, change); err != nil {
			return nil, nil, nil, err
		}
		answered = append(answered, float64(time.Now().UnixNano()-began)/1e6)
		select {
		case at := <-to.alarm:
			first = append(first, float64(at-began)/1e6)
		case <-time.After(patience):
			return nil, nil, nil, fmt.Errorf("no packet came to member %s after change %d", to.name, i)
		}
	}
	return first, answered, dry, nil
}

// measureRestart ends the daemon under a stream and times from the new process's
// start to its first packet.
func measureRestart(ctx context.Context, b *bench) error {
	w, err := b.world(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(w.grow(ctx, b.applied, 0), w.apply(ctx, service(targetService, "a"))); err != nil {
		return err
	}
	for _, c := range []struct {
		name   string
		signal syscall.Signal
	}{{"term", syscall.SIGTERM}, {"kill", syscall.SIGKILL}} {
		var starts, gaps []float64
		for range b.restarts {
			start, gap, err := w.restart(ctx, c.signal, b.rate)
			if err != nil {
				return err
			}
			starts, gaps = append(starts, start), append(gaps, gap)
		}
		slices.Sort(gaps)
		b.add(figure.New("control/restart/"+c.name, "ms", starts, nil),
			map[string]float64{"gap": quantile(gaps, 0.5), "services": float64(w.services)})
	}
	return nil
}

// restart returns, in milliseconds, the time from the start to the first packet,
// and how long the stream was interrupted.
func (w *world) restart(ctx context.Context, signal syscall.Signal, rate int) (start, gap float64, err error) {
	x := w.begin(source{rate: rate, ports: 1000, to: serviceAddress(targetService), nice: -10})
	defer func() { err = errors.Join(err, x.end()) }()
	if err := w.flowing(ctx, x); err != nil {
		return 0, 0, err
	}
	if err := w.stop(signal); err != nil {
		return 0, 0, err
	}
	last := x.lastBack.Load()
	began := w.client.arm()
	if err := w.start(); err != nil {
		return 0, 0, err
	}
	select {
	case at := <-w.client.alarm:
		start, gap = float64(at-began)/1e6, float64(at-last)/1e6
	case <-time.After(patience):
		return 0, 0, fmt.Errorf("no packet after the restart%s", w.lastWords())
	}
	if err := w.ready(ctx); err != nil {
		return 0, 0, err
	}
	for _, l := range []*listener{w.client, w.a, w.b} { // the daemon gave the devices their addresses back
		if err := l.mute(); err != nil {
			return 0, 0, err
		}
	}
	return start, gap, nil
}

// flowing waits until packets of a stream come back.
func (w *world) flowing(ctx context.Context, x *stream) error {
	for deadline := time.Now().Add(patience); x.back.Load() < 100; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("of %d packets %d came to the member and %d back%s", x.sent.Load(), x.there.Load(), x.back.Load(), w.lastWords())
		}
	}
	return nil
}
