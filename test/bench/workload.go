package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/vrouter-go/vrouter/internal/figure"
	"github.com/vrouter-go/vrouter/test/bench/load"
	"github.com/vrouter-go/vrouter/test/bench/peer"
)

// metric is a value that a workload measures.
type metric struct {
	name, unit string
	bars       map[string]*figure.Bar // by peer
}

// sample is one run of a workload against one peer: values in the order of the
// workload's metrics, and what helps to judge them.
type sample struct {
	values []float64
	detail map[string]float64
}

// workload is a load and what is measured under it.
type workload struct {
	name, what string
	quick      bool // part of --quick
	metrics    []metric
	run        func(ctx context.Context, b *bench, p *peer.Peer) (sample, error)
}

// The steady load is far below every peer's capacity, so that all deliver the
// same and only the price differs.
const steadyRate = 40000

// workloads of one host, in the order in which they run: rr-loaded wants to know
// what udp-small found.
func workloads() []workload {
	bulk := atLeast(map[string]float64{"kernel": 1, "ovs": 1.5})
	return []workload{
		{"tcp-bulk-1", "bulk TCP, 1 stream (iperf3)", true, []metric{{"tcp-bulk-1", "Gb/s", bulk}}, bulkTCP(1)},
		{"tcp-bulk-4", "bulk TCP, 4 streams (iperf3)", false, []metric{{"tcp-bulk-4", "Gb/s", nil}}, bulkTCP(4)},
		{"udp-small", "18 B of UDP (60 B frames), 8 flows, as many as the sender can send", true,
			[]metric{{"udp-small", "packets/s", atLeast(map[string]float64{"kernel": 1.5})}}, floodUDP},
		{"udp-steady", fmt.Sprintf("the same at %d packets/s: processor time for each packet delivered", steadyRate), true,
			[]metric{{"udp-steady/cpu", "us/packet", atMost(1)}}, steadyUDP},
		{"tcp-connections", "new TCP connections (wrk, Connection: close, nginx)", true,
			[]metric{{"tcp-connections", "1/s", atLeast(map[string]float64{"kernel": 1.25})}}, connectTCP},
		{"rr-idle", "64 B request and answer, nothing else on the path", true, latencies("rr-idle", atMost(1.1)), idleRR},
		{"rr-loaded", "the same beside UDP at half of what the slowest peer delivers", false, latencies("rr-loaded", nil), loadedRR},
	}
}

// overlayWorkloads are those between two nodes.
func overlayWorkloads() []workload {
	asMuch := atLeast(map[string]float64{"kernel": 1})
	return []workload{
		{"tcp-bulk-1", "bulk TCP through a tunnel, 1 stream", true, []metric{{"tcp-bulk-1", "Gb/s", asMuch}}, bulkTCP(1)},
		{"tcp-bulk-4", "bulk TCP through a tunnel, 4 streams", false, []metric{{"tcp-bulk-4", "Gb/s", nil}}, bulkTCP(4)},
		{"udp-small", "18 B of UDP through a tunnel, 8 flows, as many as the sender can send", true,
			[]metric{{"udp-small", "packets/s", asMuch}}, floodUDP},
		{"udp-steady", fmt.Sprintf("the same at %d packets/s: processor time for each packet delivered", steadyRate), false,
			[]metric{{"udp-steady/cpu", "us/packet", nil}}, steadyUDP},
		{"tcp-connections", "new TCP connections through a tunnel", false, []metric{{"tcp-connections", "1/s", nil}}, connectTCP},
		{"rr-idle", "64 B request and answer through a tunnel, nothing else on the path", false, latencies("rr-idle", nil), idleRR},
	}
}

// jumboWorkloads are those between two nodes whose wire takes frames of 9000.
func jumboWorkloads() []workload {
	return []workload{{"tcp-bulk-1", "bulk TCP, frames of 9000 between the nodes", false, []metric{{"tcp-bulk-1", "Gb/s", nil}}, bulkTCP(1)}}
}

// atLeast asks for these ratios to the peers by name.
func atLeast(ratios map[string]float64) map[string]*figure.Bar {
	m := map[string]*figure.Bar{}
	for peer, v := range ratios {
		m[peer] = figure.AtLeast("ratio", v)
	}
	return m
}

// atMost asks for at most v times what the kernel's path takes.
func atMost(v float64) map[string]*figure.Bar {
	return map[string]*figure.Bar{"kernel": figure.AtMost("ratio", v)}
}

func latencies(name string, p50 map[string]*figure.Bar) []metric {
	return []metric{{name + "/p50", "us", p50}, {name + "/p99", "us", nil}, {name + "/p99.9", "us", nil}}
}

// around runs f between two readings of the counters.
func around(ctx context.Context, p *peer.Peer, f func() error) (map[string]float64, error) {
	before, err := p.Usage(ctx)
	if err != nil {
		return nil, err
	}
	if err := f(); err != nil {
		return nil, err
	}
	after, err := p.Usage(ctx)
	return after.Since(before), err
}

// bulkTCP is iperf3 from the client to the service.
func bulkTCP(streams int) func(context.Context, *bench, *peer.Peer) (sample, error) {
	return func(ctx context.Context, b *bench, p *peer.Peer) (s sample, err error) {
		var out []byte
		s.detail, err = around(ctx, p, func() (err error) {
			out, err = p.Run(ctx, "iperf3", "-J", "-c", p.Bulk.Addr().String(), "-p", fmt.Sprint(p.Bulk.Port()),
				"-P", fmt.Sprint(streams), "-t", whole(b.length))
			return err
		})
		if err != nil {
			return s, err
		}
		gigabits, err := parseIperf(out)
		s.values = []float64{gigabits}
		return s, err
	}
}

// whole returns a length in whole seconds, which is all that iperf3 and wrk take.
func whole(d time.Duration) string { return fmt.Sprintf("%.0f", max(1, d.Seconds())) }

// parseIperf returns Gb/s as the receiver saw them.
func parseIperf(out []byte) (float64, error) {
	var r struct {
		Error string
		End   struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return 0, fmt.Errorf("iperf3: %w: %.200s", err, out)
	}
	if r.Error != "" || r.End.Received.Rate == 0 {
		return 0, fmt.Errorf("iperf3: nothing received: %s", r.Error)
	}
	return r.End.Received.Rate / 1e9, nil
}

// connectTCP is wrk, each request on a connection of its own.
func connectTCP(ctx context.Context, b *bench, p *peer.Peer) (s sample, err error) {
	var out []byte
	s.detail, err = around(ctx, p, func() (err error) {
		out, err = p.Run(ctx, "wrk", "-t", "1", "-c", "64", "-d", whole(b.length)+"s",
			"-H", "Connection: close", "http://"+p.HTTP.String()+"/")
		return err
	})
	if err != nil {
		return s, err
	}
	rate, failed, err := parseWrk(string(out))
	s.values = []float64{rate}
	s.detail["wrk/failed-connections"] = failed
	return s, err
}

var (
	wrkRate   = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	wrkErrors = regexp.MustCompile(`Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)`)
)

// parseWrk returns requests per second and how many connections failed.
func parseWrk(out string) (rate, failed float64, err error) {
	m := wrkRate.FindStringSubmatch(out)
	if m == nil {
		return 0, 0, fmt.Errorf("wrk: no rate in %q", out)
	}
	if rate, err = strconv.ParseFloat(m[1], 64); err != nil || rate == 0 {
		return 0, 0, fmt.Errorf("wrk: no request was answered: %q", out)
	}
	if m := wrkErrors.FindStringSubmatch(out); m != nil {
		for _, n := range m[1:] {
			v, err := strconv.ParseFloat(n, 64)
			if err != nil {
				return 0, 0, err
			}
			failed += v
		}
	}
	return rate, failed, nil
}

// floodUDP counts what arrives while the sender sends as fast as it can.
func floodUDP(ctx context.Context, b *bench, p *peer.Peer) (sample, error) {
	u, err := sendUDP(ctx, p, b.length, 0)
	if err != nil {
		return sample{}, err
	}
	b.flooded(p.Name, u.rate)
	return sample{[]float64{u.rate}, u.detail}, nil
}

// steadyUDP finds the price of a packet: the processor time of all programs of the
// world, since the kernel charges its part to whatever runs.
func steadyUDP(ctx context.Context, b *bench, p *peer.Peer) (sample, error) {
	u, err := sendUDP(ctx, p, b.length, steadyRate)
	if err != nil {
		return sample{}, err
	}
	return sample{[]float64{u.spent / (u.rate * u.seconds) * 1e6}, u.detail}, nil
}

// delivery is what became of UDP packets.
type delivery struct {
	rate, seconds, spent float64
	detail               map[string]float64
}

// ramp is how long the load is on before and after the measurement.
const ramp = 300 * time.Millisecond

// sendUDP sends for a while and measures in the middle of it.
func sendUDP(ctx context.Context, p *peer.Peer, length time.Duration, rate float64) (d delivery, err error) {
	sender, err := p.Send(ctx, rate, length+2*ramp)
	if err != nil {
		return d, err
	}
	defer sender.Stop()
	if err := pause(ctx, ramp); err != nil {
		return d, err
	}
	before, err := p.Usage(ctx)
	if err != nil {
		return d, err
	}
	first, err := p.Count()
	if err != nil {
		return d, err
	}
	if err := pause(ctx, length); err != nil {
		return d, err
	}
	last, err := p.Count()
	if err != nil {
		return d, err
	}
	after, err := p.Usage(ctx)
	if err != nil {
		return d, err
	}
	sent, err := sender.Wait()
	if err != nil {
		return d, err
	}
	d.seconds = float64(last.Nanos-first.Nanos) / 1e9
	d.rate = float64(last.Datagrams-first.Datagrams) / d.seconds
	d.spent = after.Spent(before) * d.seconds / after.Seconds(before)
	d.detail = after.Since(before)
	d.detail["udp/offered"] = float64(sent.Datagrams) / (float64(sent.Nanos) / 1e9)
	d.detail["udp/delivered-percent"] = 100 * d.rate / d.detail["udp/offered"]
	if d.rate == 0 {
		return d, fmt.Errorf("%s: no packet arrived", p.Name)
	}
	return d, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// idleRR asks on an idle path.
func idleRR(ctx context.Context, b *bench, p *peer.Peer) (s sample, err error) {
	var a load.Answers
	s.detail, err = around(ctx, p, func() (err error) {
		a, err = p.AskFor(ctx, b.length)
		return err
	})
	s.values = []float64{float64(a.P50) / 1e3, float64(a.P99) / 1e3, float64(a.P999) / 1e3}
	if err == nil {
		s.detail["rr/per-second"] = float64(a.Count) / b.length.Seconds()
		s.detail["rr/longest-us"] = float64(a.Most) / 1e3
	}
	return s, err
}

// loadedRR asks beside a load that is the same for every peer.
func loadedRR(ctx context.Context, b *bench, p *peer.Peer) (s sample, err error) {
	sender, err := p.Send(ctx, b.halfLoad(), b.length+2*ramp)
	if err != nil {
		return s, err
	}
	defer sender.Stop()
	if err := pause(ctx, ramp); err != nil {
		return s, err
	}
	if s, err = idleRR(ctx, b, p); err != nil {
		return s, err
	}
	s.detail["udp/offered"] = b.halfLoad()
	_, err = sender.Wait()
	return s, err
}

// merge puts the details of several runs together: medians of the rates, sums of
// what was lost.
func merge(details []map[string]float64) map[string]float64 {
	names := map[string]bool{}
	for _, d := range details {
		for name := range d {
			names[name] = true
		}
	}
	all := map[string]float64{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		var values []float64
		sum := 0.0
		for _, d := range details {
			values = append(values, d[name])
			sum += d[name]
		}
		if isCount(name) {
			all[name] = sum
		} else {
			all[name] = figure.New("", "", values, nil).Ours
		}
	}
	return all
}

// isCount tells counters of losses from rates.
func isCount(name string) bool {
	return regexp.MustCompile(`^(drops|tcp-|wrk)`).MatchString(name)
}
