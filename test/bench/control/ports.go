//go:build linux

package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vrouter-go/vrouter/internal/figure"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// measurePorts compares what one pair of workloads gets from a daemon with many
// devices with what it gets from one with few, and watches the former idle.
func measurePorts(ctx context.Context, b *bench) (err error) {
	if err := b.leave(); err != nil { // its timers would be heard
		return err
	}
	few, err := b.newWorld(ctx, "few", tableSize(0))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, few.close()) }()
	many, err := b.newWorld(ctx, "many", tableSize(0))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, many.close()) }()
	if err := errors.Join(few.strip(ctx), few.open(), many.open()); err != nil {
		return err
	}
	if err := b.attach(ctx, many); err != nil {
		return err
	}
	if err := b.watchIdle(ctx, many); err != nil {
		return err
	}
	rates := map[*world][]float64{}
	for range 2*b.rounds + 1 { // one at a time, in turn
		for _, w := range []*world{few, many} {
			rate, err := w.throughput(b.phase / 2)
			if err != nil {
				return err
			}
			rates[w] = append(rates[w], rate)
		}
	}
	b.add(figure.Against(fmt.Sprintf("control/ports/rate-of-a-pair-at-%d", b.ports), "packets/s", rates[many], "few ports", rates[few],
		figure.AtLeast("ratio", 0.95)), nil)
	return nil
}

// strip leaves a world the pair alone.
func (w *world) strip(ctx context.Context) error {
	var fill []*pb.Resource
	for i := range fillers {
		fill = append(fill, filler(i))
	}
	_, err := w.api.Apply(ctx, &pb.ApplyRequest{Deletes: deletes("VirtualMachineInterface", fill)})
	return err
}

// attach brings a world to many ports and measures how long one takes and how
// much memory.
func (b *bench) attach(ctx context.Context, w *world) error {
	var heap, resident float64
	var err error
	if b.collections > 0 {
		if heap, resident, err = w.live(ctx, b.collections); err != nil {
			return err
		}
	}
	var list []*pb.Resource
	for i := fillers; i < b.ports-4; i++ { // the guests are ports too
		list = append(list, filler(i))
	}
	began := time.Now()
	if err := w.apply(ctx, list...); err != nil {
		return err
	}
	took := time.Since(began)
	if err := w.ready(ctx); err != nil {
		return err
	}
	n := float64(len(list))
	b.add(figure.New("control/ports/attach", "ms", []float64{milliseconds(took) / n}, nil), map[string]float64{"ports": n})
	if b.collections == 0 {
		return nil
	}
	heapAfter, residentAfter, err := w.live(ctx, b.collections)
	if err != nil {
		return err
	}
	b.add(figure.New("control/memory/vmi", "bytes", []float64{(heapAfter - heap) / n}, nil),
		map[string]float64{"objects": n, "resident": (residentAfter - resident) / n})
	return nil
}

// watchIdle measures the processor time of a daemon that nobody uses.
func (b *bench) watchIdle(ctx context.Context, w *world) error {
	before, err := w.cpu()
	if err != nil {
		return err
	}
	began := time.Now()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(b.idle):
	}
	after, err := w.cpu()
	if err != nil {
		return err
	}
	share := 100 * float64(after-before) / float64(time.Since(began))
	b.add(figure.New(fmt.Sprintf("control/ports/idle-at-%d", b.ports), "% of a core", []float64{share}, figure.AtMost("ours", 1)),
		map[string]float64{"seconds": b.idle.Seconds()})
	return nil
}

// throughput sends as fast as it can to the member and returns what arrives
// there, in packets a second.
func (w *world) throughput(d time.Duration) (float64, error) {
	w.a.echo.Store(false)
	defer w.a.echo.Store(true)
	x := w.begin(source{ports: 100, to: serviceAddress(targetService)})
	for deadline := time.Now().Add(patience); x.there.Load() < 1000; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return 0, errors.Join(errors.New("nothing arrives"), x.end())
		}
	}
	n, began := x.there.Load(), time.Now()
	time.Sleep(d)
	rate := float64(x.there.Load()-n) / time.Since(began).Seconds()
	x.stop.Store(true)
	<-x.done
	return rate, x.err
}
