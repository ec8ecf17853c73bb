//go:build linux

package control

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/vrouter-go/vrouter/internal/figure"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// measureApply times transactions of many services, from the call to the answer,
// which comes when the packet path has them; and what they take in memory.
func measureApply(ctx context.Context, b *bench) error {
	w, err := b.world(ctx)
	if err != nil {
		return err
	}
	if b.collections > 0 {
		if err := b.serviceMemory(ctx, w); err != nil {
			return err
		}
	}
	list := someServices(1, 1+b.applied, 10)
	var times []float64
	for range b.applies {
		if _, err := w.api.Apply(ctx, &pb.ApplyRequest{Deletes: deletes("FloatingIP", list)}); err != nil {
			return err
		}
		began := time.Now()
		if err := w.apply(ctx, list...); err != nil {
			return err
		}
		times = append(times, milliseconds(time.Since(began)))
	}
	w.services = b.applied
	b.add(figure.New(fmt.Sprintf("control/apply/%d-services-of-10", b.applied), "ms", times, figure.AtMost("ours", 300)), nil)
	return nil
}

// serviceMemory measures a floating IP with one member and nine more of them.
func (b *bench) serviceMemory(ctx context.Context, w *world) error {
	var heap, resident [3]float64
	for i, members := range []int{0, 1, 10} {
		if members > 0 {
			if err := w.apply(ctx, someServices(1, 1+b.applied, members)...); err != nil {
				return err
			}
		}
		var err error
		if heap[i], resident[i], err = w.live(ctx, b.collections); err != nil {
			return err
		}
	}
	n := float64(b.applied)
	b.add(figure.New("control/memory/floating-ip", "bytes", []float64{(heap[1] - heap[0]) / n}, nil),
		map[string]float64{"objects": n, "resident": (resident[1] - resident[0]) / n})
	b.add(figure.New("control/memory/member", "bytes", []float64{(heap[2] - heap[1]) / n / 9}, nil),
		map[string]float64{"objects": 9 * n, "resident": (resident[2] - resident[1]) / n / 9})
	return nil
}

// measureCommit times single transactions on a large state.
func measureCommit(ctx context.Context, b *bench) error {
	w, err := b.world(ctx)
	if err != nil {
		return err
	}
	if err := w.grow(ctx, b.services, 0); err != nil {
		return err
	}
	if err := b.loadRoutes(ctx, w); err != nil {
		return err
	}
	at := fmt.Sprintf("-at-%d-routes", w.routes)
	for _, c := range []struct {
		name string
		make func(i int) *pb.Resource
	}{
		{"route", func(i int) *pb.Resource { return route("flap", "198.51.100.0/24", fmt.Sprintf("pod-%d", i%fillers)) }},
		{"endpoint", func(i int) *pb.Resource { return service(7, someMembers(i, 10)...) }},
	} {
		var times []float64
		for i := range b.commits {
			began := time.Now()
			if err := w.apply(ctx, c.make(i)); err != nil {
				return err
			}
			times = append(times, milliseconds(time.Since(began)))
		}
		slices.Sort(times)
		b.add(figure.New("control/commit/"+c.name+at, "ms", times, figure.AtMost("ours", 10)),
			map[string]float64{"p99": quantile(times, 0.99), "services": float64(w.services)})
	}
	return nil
}

// loadRoutes brings the routes in, in one transaction, and measures their memory.
func (b *bench) loadRoutes(ctx context.Context, w *world) error {
	if w.routes >= b.routes {
		return nil
	}
	var before, residentBefore float64
	var err error
	if b.collections > 0 {
		if before, residentBefore, err = w.live(ctx, b.collections); err != nil {
			return err
		}
	}
	list := someRoutes(b.routes)
	began := time.Now()
	if err := w.apply(ctx, list...); err != nil {
		return err
	}
	took := time.Since(began)
	w.routes = b.routes
	b.add(figure.New(fmt.Sprintf("control/apply/%d-routes", b.routes), "ms", []float64{milliseconds(took)}, nil), nil)
	if b.collections == 0 {
		return nil
	}
	after, resident, err := w.live(ctx, b.collections)
	if err != nil {
		return err
	}
	n := float64(b.routes)
	b.add(figure.New("control/memory/route", "bytes", []float64{(after - before) / n}, nil),
		map[string]float64{"objects": n, "resident": (resident - residentBefore) / n})
	return nil
}
