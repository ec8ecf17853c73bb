//go:build linux

package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"time"

	"github.com/vrouter-go/vrouter/internal/figure"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// disturbance is something that the daemon does while packets flow. work is
// repeated until the phase ends, at most every pause.
type disturbance struct {
	name  string
	pause time.Duration
	work  func(ctx context.Context, i int) error
}

// disturbances of a world.
func (b *bench) disturbances(w *world) []disturbance {
	return []disturbance{
		{"quiet", time.Hour, func(context.Context, int) error { return nil }},
		{"churn", 5 * time.Millisecond, func(ctx context.Context, i int) error { // 100 endpoints and 100 routes a second
			if i%2 == 0 {
				return w.apply(ctx, service(1+i/2%w.services, someMembers(i+1, 10)...))
			}
			return w.apply(ctx, route(fmt.Sprintf("flap-%d", i%16), fmt.Sprintf("198.51.%d.0/24", i%16), fmt.Sprintf("pod-%d", i%fillers)))
		}},
		{"scrape", 10 * time.Millisecond, func(ctx context.Context, _ int) error {
			_, err := w.metrics(ctx)
			return err
		}},
		{"collect", 0, func(ctx context.Context, _ int) error { // a list of the whole state makes garbage of all of it
			_, _, err := w.api.List(ctx, &pb.ListRequest{})
			return err
		}},
		{"flow-list", 0, func(ctx context.Context, _ int) error {
			out, err := exec.CommandContext(ctx, b.Vrctl, "--address", w.socket(), "flow", "list").Output()
			if n := bytes.Count(out, []byte("\n")); err == nil && n < b.sessions {
				err = fmt.Errorf("the list of %d sessions has %d lines", b.sessions, n)
			}
			return err
		}},
	}
}

// outcome is what one phase showed.
type outcome struct {
	lost    float64 // packets
	p99     float64 // microseconds from the client to the member
	details map[string]float64
}

// measureLoss sends packets both ways, well below what the vRouter can take,
// while the daemon is disturbed, and counts those that do not come back.
func measureLoss(ctx context.Context, b *bench) error {
	w, err := b.world(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(w.grow(ctx, b.services, b.routes), w.apply(ctx, service(targetService, "a"))); err != nil {
		return err
	}
	if err := b.fillTable(ctx, w); err != nil {
		return err
	}
	kinds := b.disturbances(w)
	results := make([][]outcome, len(kinds))
	for range b.rounds { // interleaved, so that drift of the machine cancels
		for i, k := range kinds {
			o, err := b.disturb(ctx, w, k)
			if err != nil {
				return fmt.Errorf("%s: %w", k.name, err)
			}
			results[i] = append(results[i], o)
		}
	}
	for i, k := range kinds {
		b.add(figure.New("control/loss/"+k.name, "packets", column(results[i], func(o outcome) float64 { return o.lost }), figure.AtMost("ours", 0)), total(results[i]))
	}
	p99 := func(o outcome) float64 { return o.p99 }
	for i, k := range kinds[1:] {
		b.add(figure.Against("control/latency-p99/"+k.name, "us", column(results[i+1], p99), "quiet", column(results[0], p99), nil), nil)
	}
	return nil
}

// disturb runs one phase.
func (b *bench) disturb(ctx context.Context, w *world, k disturbance) (o outcome, err error) {
	before, err := w.count(ctx)
	if err != nil {
		return o, err
	}
	x := w.begin(source{rate: b.rate, ports: 1000, to: serviceAddress(targetService), nice: -10})
	times := 0
	phase, cancel := context.WithTimeout(ctx, b.phase)
	defer cancel()
	var wg sync.WaitGroup
	var failed error
	wg.Go(func() {
		for ; phase.Err() == nil && failed == nil; times++ {
			began := time.Now()
			failed = k.work(ctx, times) // what has begun ends: a cut list would be no list
			select {
			case <-phase.Done():
			case <-time.After(k.pause - time.Since(began)):
			}
		}
	})
	wg.Wait()
	if err := errors.Join(failed, x.end()); err != nil {
		return o, err
	}
	if o.details, err = w.countSince(ctx, before); err != nil {
		return o, err
	}
	delays := x.sorted()
	o.p99 = quantile(delays, 0.99)
	o.lost = float64(x.lost()) - o.details["missed"]
	o.details["sent"], o.details["times"] = float64(x.sent.Load()+x.refused.Load()), float64(times)
	o.details["p50"], o.details["p99.9"] = quantile(delays, 0.5), quantile(delays, 0.999)
	return o, nil
}

// countSince returns what count says now less what it said before, without zeros.
func (w *world) countSince(ctx context.Context, before map[string]float64) (map[string]float64, error) {
	now, err := w.count(ctx)
	if err != nil {
		return nil, err
	}
	for name := range now {
		if now[name] -= before[name]; now[name] == 0 {
			delete(now, name)
		}
	}
	return now, nil
}

// count reads every queue's drops on the way: of the devices towards the vRouter,
// of the vRouter itself, of our own sockets ("missed"). The values only grow.
func (w *world) count(ctx context.Context) (map[string]float64, error) {
	drops, err := w.api.ListDrops(ctx, &pb.ListDropsRequest{})
	if err != nil {
		return nil, err
	}
	m, err := w.metrics(ctx)
	if err != nil {
		return nil, err
	}
	c := map[string]float64{"collections": m["go_gc_duration_seconds_count"]}
	for _, d := range drops.GetDrops() {
		c["drop "+d.GetInterface()+" "+d.GetReason()] += float64(d.GetPackets())
	}
	for role, l := range map[string]*listener{"client": w.client, "a": w.a, "b": w.b} {
		n, err := l.refused()
		if err != nil {
			return nil, err
		}
		c["full queue "+role] = float64(n)
		missed, err := l.missed()
		if err != nil {
			return nil, err
		}
		w.missed += float64(missed)
	}
	c["missed"] = w.missed
	return c, nil
}

// fillTable makes the sessions that are listed, by packets to many services, and
// measures their memory.
func (b *bench) fillTable(ctx context.Context, w *world) error {
	before, err := w.api.Status(ctx)
	if err != nil {
		return err
	}
	const ports = 50_000
	spread := max(2*b.sessions/ports, 1)
	x := w.begin(source{rate: 150_000, ports: ports, to: serviceAddress(1), nice: -5, next: func(round int) [4]byte {
		return serviceAddress(1 + round%spread)
	}})
	var status *pb.GetStatusResponse
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if status, err = w.api.Status(ctx); err != nil || int(status.GetFlowTable().GetSessions()) >= b.sessions {
			break
		}
		if time.Now().After(deadline) {
			err = fmt.Errorf("%d sessions of %d after %s", status.GetFlowTable().GetSessions(), b.sessions, patience)
			break
		}
	}
	x.stop.Store(true)
	<-x.done
	if err = errors.Join(err, x.err); err != nil {
		return err
	}
	table := status.GetFlowTable()
	made := float64(table.GetSessions() - before.GetFlowTable().GetSessions())
	b.add(figure.New("control/memory/session", "bytes", []float64{float64(table.GetBytes()) / float64(table.GetCapacity())}, figure.AtMost("ours", 192)),
		map[string]float64{"objects": made, "resident": (float64(status.GetMemory().GetResidentBytes()) - float64(before.GetMemory().GetResidentBytes())) / max(made, 1)})
	return nil
}

// column takes one value of each outcome.
func column(list []outcome, of func(outcome) float64) []float64 {
	values := make([]float64, len(list))
	for i, o := range list {
		values[i] = of(o)
	}
	return values
}

// total adds up the details of the rounds, quantiles excepted, of which the
// highest stands. What is 0 is left out.
func total(list []outcome) map[string]float64 {
	sum := map[string]float64{}
	for _, o := range list {
		for name, v := range o.details {
			switch {
			case v == 0:
			case name[0] == 'p':
				sum[name] = max(sum[name], v)
			default:
				sum[name] += v
			}
		}
	}
	return sum
}
