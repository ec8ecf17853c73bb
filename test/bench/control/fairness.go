//go:build linux

package control

import (
	"context"
	"errors"
	"time"

	"github.com/vrouter-go/vrouter/internal/figure"
)

// measureFairness lets one workload open flows as fast as it can and looks what
// another one's packets suffer: both cores are then busy with the flood, its
// sender included, so the others' delay is to be read beside the quiet one.
func measureFairness(ctx context.Context, b *bench) error {
	w, err := b.world(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(w.grow(ctx, b.applied, 0), w.apply(ctx, service(targetService, "a"))); err != nil {
		return err
	}
	flooder, err := openGuest(w.space("flood"), floodAddress)
	if err != nil {
		return err
	}
	quietly := disturbance{"quiet", time.Hour, func(context.Context, int) error { return nil }}
	var quiet, flooded []outcome
	for range b.rounds {
		o, err := b.disturb(ctx, w, quietly)
		if err != nil {
			return errors.Join(err, flooder.close())
		}
		quiet = append(quiet, o)
		x := newStream()
		x.start(source{guest: flooder, ports: 60_000, to: serviceAddress(1), nice: 5, next: func(round int) [4]byte {
			return serviceAddress(1 + round%b.applied)
		}})
		o, err = b.disturb(ctx, w, quietly)
		x.stop.Store(true)
		<-x.done
		if err = errors.Join(err, x.err); err != nil {
			return errors.Join(err, flooder.close())
		}
		o.details["flood"] = float64(x.sent.Load())
		o.details["flood refused"] = float64(x.refused.Load())
		flooded = append(flooded, o)
	}
	lost, p99 := func(o outcome) float64 { return o.lost }, func(o outcome) float64 { return o.p99 }
	b.add(figure.Against("control/fairness/loss", "packets", column(flooded, lost), "quiet", column(quiet, lost), nil), total(flooded))
	b.add(figure.Against("control/fairness/latency-p99", "us", column(flooded, p99), "quiet", column(quiet, p99), nil), nil)
	return flooder.close()
}
