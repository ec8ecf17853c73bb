package agentsync

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/vrouter-go/vrouter/internal/statefile"
)

// The values of labels.
const (
	kindSnapshot = "snapshot"
	kindDelta    = "delta"

	resultProgrammed = "programmed"
	resultRefused    = "refused"
	resultBroken     = "broken"

	levelAccepted   = "accepted"
	levelProgrammed = "programmed"
)

// metrics counts what a Syncer does. What it is at a moment is read at the scrape.
type metrics struct {
	latency      prometheus.Histogram
	connections  prometheus.Counter
	resyncs      prometheus.Counter
	nacks        prometheus.Counter
	refusals     *prometheus.CounterVec
	transactions *prometheus.CounterVec
	resources    *prometheus.HistogramVec
	duration     *prometheus.HistogramVec
	state        stateCollector
}

func newMetrics(s *Syncer) *metrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "vrkube", Name: name, Help: help}
	}
	counter := func(name, help string) prometheus.CounterOpts { return prometheus.CounterOpts(opts(name, help)) }
	return &metrics{
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "vrkube", Name: "network_programming_duration_seconds",
			Help: "From the change of a Service's endpoints in the cluster (the EndpointSlice's last-change-trigger-time) to when the forwarder has it.",
			Buckets: []float64{
				.001, .002, .003, .005, .0075, .01, .015, .02, .03, .04, .05, .075, .1, .15, .2, .3, .5, .75, 1, 2, 5, 10, 30, 60, 300,
			},
		}),
		connections: prometheus.NewCounter(counter("sync_connections_total", "Streams opened to the agent.")),
		resyncs:     prometheus.NewCounter(counter("sync_resyncs_total", "Snapshots that the agent has programmed: one at the start and one after each break.")),
		nacks:       prometheus.NewCounter(counter("sync_nacks_total", "Deltas that the agent refused.")),
		refusals:    prometheus.NewCounterVec(counter("sync_refusals_total", "Resources that the agent refused, by kind."), []string{"kind"}),
		transactions: prometheus.NewCounterVec(counter("sync_transactions_total", "Transactions sent to the agent by type (snapshot, delta) and result (programmed, refused, broken)."),
			[]string{"type", "result"}),
		resources: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "vrkube", Name: "sync_transaction_resources", Help: "Resources in a transaction, by type.",
			Buckets: []float64{1, 2, 5, 10, 20, 50, 100, 1000, 10_000, 100_000},
		}, []string{"type"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "vrkube", Name: "sync_transaction_duration_seconds",
			Help:    "From sending a transaction to when the agent has accepted it (it is valid and on disk), and to when it has programmed it.",
			Buckets: []float64{.0005, .001, .002, .003, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10},
		}, []string{"type", "level"}),
		state: stateCollector{s},
	}
}

// Describe implements prometheus.Collector.
func (s *Syncer) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range s.metrics.all() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (s *Syncer) Collect(ch chan<- prometheus.Metric) {
	for _, c := range s.metrics.all() {
		c.Collect(ch)
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.latency, m.connections, m.resyncs, m.nacks, m.refusals, m.transactions, m.resources, m.duration, m.state}
}

// stateCollector reads where a Syncer stands.
type stateCollector struct{ s *Syncer }

var (
	descConnected  = prometheus.NewDesc("vrkube_sync_connected", "1 while the stream to the agent is open.", nil, nil)
	descSynced     = prometheus.NewDesc("vrkube_sync_synced", "1 while the agent has programmed a snapshot on the open stream.", nil, nil)
	descPending    = prometheus.NewDesc("vrkube_sync_pending_resources", "Resources that changed and have not been sent.", nil, nil)
	descGeneration = prometheus.NewDesc("vrkube_sync_generation", "The agent's newest generation that came from here.", nil, nil)
	descDesired    = prometheus.NewDesc("vrkube_desired_resources", "Resources that the agent should have, by kind.", []string{"kind"}, nil)
	descRefused    = prometheus.NewDesc("vrkube_sync_refused_resources", "Resources that the agent does not take at present, by kind.", []string{"kind"}, nil)
)

// Describe implements prometheus.Collector.
func (c stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range [...]*prometheus.Desc{descConnected, descSynced, descPending, descGeneration, descDesired, descRefused} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c stateCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	flag := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	gauge(descConnected, flag(c.s.status.Connected))
	gauge(descSynced, flag(c.s.status.Synced))
	gauge(descPending, len(c.s.dirty))
	gauge(descGeneration, int(c.s.status.Generation))
	desired, refused := map[string]int{}, map[string]int{}
	for k := range c.s.desired {
		desired[k.Kind]++
	}
	for k := range c.s.refused {
		refused[k.Kind]++
	}
	for _, kind := range statefile.Kinds() {
		gauge(descDesired, desired[kind], kind)
		gauge(descRefused, refused[kind], kind)
	}
}
