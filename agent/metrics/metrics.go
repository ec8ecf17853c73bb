// Package metrics serves /metrics for Prometheus. Everything is read at the
// scrape; nothing is counted twice and the packet path knows nothing of it. There
// are no labels per flow or per address: their number would follow the traffic.
package metrics

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/vrouter-go/vrouter/internal/nat"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Source is what the metrics are read from: an agent.
type Source interface {
	Status() *pb.GetStatusResponse
	Drops() []*pb.DropCounter
	PortUsage() []nat.Usage // of source translation
}

// The metrics and their labels. docs/METRICS.md lists them.
var (
	descPackets   = desc("port_packets_total", "Packets by interface and direction, seen from the vRouter: received from the workload, transmitted to it. A superpacket counts as one.", "interface", "direction")
	descBytes     = desc("port_bytes_total", "Bytes of those packets.", "interface", "direction")
	descSessions  = desc("port_sessions", "Sessions that count against the interface's flow quota.", "interface")
	descUp        = desc("port_up", "1 while the interface has its device.", "interface")
	descDrops     = desc("drops_total", "Dropped packets by interface and reason; vrctl drops tells what each means.", "interface", "reason")
	descTotals    = desc("packets_total", "Packets over all ports, gone ones included: received + generated = transmitted + coalesced + dropped + held.", "what")
	descLive      = desc("sessions", "Live sessions in the flow table.")
	descCapacity  = desc("sessions_capacity", "Sessions that the flow table can hold.")
	descCreated   = desc("sessions_created_total", "Sessions ever made.")
	descRefused   = desc("sessions_refused_total", "New sessions refused because the table or a quota was full.")
	descTable     = desc("flow_table_bytes", "Memory of the flow table, all taken at the start.")
	descGenerated = desc("generation", "Generation of desired state.")
	descDurable   = desc("state_saved_generation", "Newest generation on disk; below vrouter_generation the state is not durable.")
	descHeadless  = desc("headless", "1 while no controller is connected though one owns resources.")
	descResources = desc("resources", "Resources of desired state by kind.", "kind")
	descUplink    = desc("uplink_up", "1 while the uplink is up and has a carrier; absent without an uplink.")
	descPeers     = desc("peers", "Addresses of other nodes by the state of the way there: up, unresolved, down.", "state")
	descPorts     = desc("snat_ports", "Ports of the node's addresses for fabricSnat by state: used, held for their last user, free.", "family", "protocol", "state")
	descHealth    = desc("component_healthy", "1 while a component of the daemon is healthy.", "component")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("vrouter_"+name, help, labels, nil)
}

// collector reads the source at each scrape. Any goroutine may call it.
type collector struct{ source Source }

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range [...]*prometheus.Desc{
		descPackets, descBytes, descSessions, descUp, descDrops, descTotals, descLive, descCapacity,
		descCreated, descRefused, descTable, descGenerated, descDurable, descHeadless, descResources, descPorts, descHealth, descUplink, descPeers,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	st := c.source.Status()
	for _, p := range st.GetPorts() {
		counter(descPackets, p.GetReceived().GetPackets(), p.GetName(), "received")
		counter(descPackets, p.GetTransmitted().GetPackets(), p.GetName(), "transmitted")
		counter(descBytes, p.GetReceived().GetBytes(), p.GetName(), "received")
		counter(descBytes, p.GetTransmitted().GetBytes(), p.GetName(), "transmitted")
		gauge(descSessions, p.GetSessions(), p.GetName())
		gauge(descUp, flag(p.GetState() == pb.PortStatus_UP), p.GetName())
	}
	seen := map[[2]string]uint64{} // interfaces that are gone share the empty name
	for _, d := range c.source.Drops() {
		seen[[2]string{d.GetInterface(), d.GetReason()}] += d.GetPackets()
	}
	for k, n := range seen {
		counter(descDrops, n, k[0], k[1])
	}
	t := st.GetTotals()
	for what, n := range map[string]uint64{
		"received": t.GetReceived(), "generated": t.GetGenerated(), "transmitted": t.GetTransmitted(),
		"coalesced": t.GetCoalesced(), "dropped": t.GetDropped(),
	} {
		counter(descTotals, n, what)
	}
	f := st.GetFlowTable()
	gauge(descLive, f.GetSessions())
	gauge(descCapacity, f.GetCapacity())
	counter(descCreated, f.GetCreated())
	counter(descRefused, f.GetRefused())
	gauge(descTable, f.GetBytes())
	gauge(descGenerated, st.GetGeneration().GetNumber())
	gauge(descDurable, st.GetPersistence().GetSavedGeneration())
	gauge(descHeadless, flag(st.GetHeadlessSince() != nil))
	for _, r := range st.GetResources() {
		gauge(descResources, r.GetCount(), r.GetKind())
	}
	if u := st.GetUplink(); u != nil {
		gauge(descUplink, flag(u.GetUp()))
		peers := map[pb.PeerStatus_State]uint64{}
		for _, p := range st.GetPeers() {
			peers[p.GetState()]++
		}
		for state, name := range map[pb.PeerStatus_State]string{pb.PeerStatus_UP: "up", pb.PeerStatus_UNRESOLVED: "unresolved", pb.PeerStatus_DOWN: "down"} {
			gauge(descPeers, peers[state], name)
		}
	}
	for key, n := range usage(c.source.PortUsage()) {
		gauge(descPorts, n, key.family, key.class.String(), key.state)
	}
	for _, k := range st.GetComponents() {
		gauge(descHealth, flag(k.GetHealth() == pb.Health_HEALTHY), k.GetName())
	}
}

// portClass is the ports that are counted together.
type portClass struct {
	family, state string
	class         nat.Class
}

// usage sums up the addresses of a family: the node's own, and earlier ones that
// sessions still use.
func usage(list []nat.Usage) map[portClass]uint64 {
	sums := map[portClass]uint64{}
	for _, u := range list {
		family := "IPv6"
		if netip.AddrFrom16(u.Address).Is4In6() {
			family = "IPv4"
		}
		for state, n := range map[string]int{"used": u.Used, "held": u.Held, "free": max(0, u.Size-u.Used-u.Held)} {
			sums[portClass{family, state, u.Class}] += uint64(n)
		}
	}
	return sums
}

func flag(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// Handler returns the handler of /metrics.
func Handler(s Source) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(collector{s}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{}))
	return mux
}

// Serve serves /metrics on a Unix socket and on an address until ctx ends; each
// may be empty.
func Serve(ctx context.Context, socket, address string, s Source) error {
	server := &http.Server{Handler: Handler(s), ReadHeaderTimeout: 5 * time.Second}
	var listeners []net.Listener
	open := func(network, at string) error {
		l, err := net.Listen(network, at)
		if err == nil {
			listeners = append(listeners, l)
		}
		return err
	}
	var err error
	if socket != "" {
		if err = os.Remove(socket); err == nil || errors.Is(err, os.ErrNotExist) {
			err = open("unix", socket)
		}
	}
	if address != "" && err == nil {
		err = open("tcp", address)
	}
	ended := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { ended <- server.Serve(l) }()
	}
	if err == nil {
		<-ctx.Done()
	}
	err = errors.Join(err, server.Close())
	for range listeners {
		if e := <-ended; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
	}
	return err
}
