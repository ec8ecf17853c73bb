package agent

import (
	"fmt"
	"maps"
	"os"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vrouter-go/vrouter/agent/persist"
	"github.com/vrouter-go/vrouter/agent/ports"
	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/port"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Status returns the node in one message.
func (a *Agent) Status() *pb.GetStatusResponse {
	st := &pb.GetStatusResponse{
		Version: a.options.Version, Node: a.options.Node,
		StartTime: timestamppb.New(a.started), Kernel: a.options.Kernel,
		Memory: memoryStatus(), FlowTable: a.flowTableStatus(),
	}
	stored := a.stateStatus(st)
	for i, w := range a.options.Forwarder.Workers() {
		st.Workers = append(st.Workers, &pb.WorkerStatus{Id: uint32(i), Queues: uint32(w.Queues), Packets: w.Packets, Batches: w.Batches})
	}
	a.portStatus(st)
	a.nodeStatus(st)
	a.components(st, stored)
	return st
}

// stateStatus fills in what desired state is and where it is kept.
func (a *Agent) stateStatus(st *pb.GetStatusResponse) (stored persist.Status) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	st.Generation = &pb.Generation{Number: a.state.Generation(), Level: pb.Generation_ACCEPTED}
	if a.options.Forwarder.Snapshot().Generation >= a.programs {
		st.Generation.Level = pb.Generation_PROGRAMMED
	}
	for _, kind := range state.Kinds {
		st.Resources = append(st.Resources, &pb.ResourceCount{Kind: kind, Count: uint64(a.state.Count(kind))})
	}
	st.Controllers = a.controllers.status(a.state)
	if !a.controllers.headless.IsZero() {
		st.HeadlessSince = timestamppb.New(a.controllers.headless)
	}
	st.Persistence = &pb.Persistence{}
	if a.store == nil {
		return stored
	}
	stored = a.store.Status()
	st.Persistence = &pb.Persistence{Path: stored.Path, SavedGeneration: stored.Generation, RestoredGeneration: stored.Restored}
	if !stored.SavedAt.IsZero() {
		st.Persistence.SavedAt = timestamppb.New(stored.SavedAt)
	}
	if stored.Err != nil {
		st.Persistence.Error = stored.Err.Error()
	}
	return stored
}

func (a *Agent) flowTableStatus() *pb.FlowTableStatus {
	s := a.options.Forwarder.Ager().Stats()
	refused := s.Full
	for k, n := range a.dropCounts() {
		if k.reason == forwarder.DropFlowQuota {
			refused += n
		}
	}
	return &pb.FlowTableStatus{
		Sessions: uint64(s.Live), Capacity: uint64(s.Capacity), Bytes: uint64(s.MemoryBytes),
		Created: s.Inserted, Refused: refused,
	}
}

// memoryStatus reads the process's memory.
func memoryStatus() *pb.MemoryStatus {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	m := &pb.MemoryStatus{HeapBytes: sample[0].Value.Uint64()}
	if b, err := os.ReadFile("/proc/self/statm"); err == nil { // proc(5): size resident ...
		if fields := strings.Fields(string(b)); len(fields) > 1 {
			pages, _ := strconv.ParseUint(fields[1], 10, 64)
			m.ResidentBytes = pages * uint64(os.Getpagesize())
		}
	}
	return m
}

// portStatus fills in the ports and the totals over them.
func (a *Agent) portStatus(st *pb.GetStatusResponse) {
	snap, have := a.options.Forwarder.Snapshot(), a.ports.Status()
	st.Totals = &pb.PacketTotals{}
	for _, index := range slices.Sorted(maps.Keys(have)) {
		st.Ports = append(st.Ports, a.onePort(snap, index, have[index]))
	}
	// Counters of ports that are gone stay in the totals: received + generated = transmitted + coalesced + dropped + held.
	for index := range uint16(forwarder.MaxPorts) {
		c := a.options.Forwarder.PortCounters(index)
		st.Totals.Received += c.RxPackets
		st.Totals.Generated += c.Generated
		st.Totals.Transmitted += c.TxPackets
		st.Totals.Coalesced += c.Coalesced
		st.Totals.Held += c.Held
		st.Totals.Dropped += dropped(&c)
	}
	slices.SortFunc(st.Ports, func(x, y *pb.PortStatus) int { return strings.Compare(x.GetName(), y.GetName()) })
}

func dropped(c *forwarder.PortCounters) (n uint64) {
	for _, d := range c.Drops {
		n += d
	}
	return n
}

func (a *Agent) onePort(snap *forwarder.Snapshot, index uint16, s ports.Status) *pb.PortStatus {
	c := a.options.Forwarder.PortCounters(index)
	p := &pb.PortStatus{
		Name: s.Spec.Name, State: pb.PortStatus_LOST, Reason: s.Reason, VirtualNetwork: s.Spec.Network,
		Driver: s.Driver, Device: s.Spec.Tap.GuestName, Netns: s.Spec.Tap.Netns, MacAddress: s.Spec.Tap.MAC.String(),
		Mtu: uint32(s.Spec.Tap.MTU), Queues: uint32(s.Queues), Features: featureNames(s.Features, s.Queues),
		Received:    &pb.PortCounters{Packets: c.RxPackets, Bytes: c.RxBytes},
		Transmitted: &pb.PortCounters{Packets: c.TxPackets, Bytes: c.TxBytes},
		Dropped:     dropped(&c), Sessions: uint64(max(a.options.Forwarder.Charged(index), 0)),
	}
	if s.Up {
		p.State = pb.PortStatus_UP
	}
	if u := s.Spec.Uplink; u != nil {
		p.Device, p.Netns, p.MacAddress, p.Mtu = u.Device, u.Netns, "", 0
		if link := a.known().view.Link; link.Index != 0 {
			p.MacAddress, p.Mtu = macText(link.MAC), uint32(link.MTU)
		}
	}
	if int(index) < len(snap.Interfaces) {
		itf := &snap.Interfaces[index]
		p.FlowQuota = uint64(itf.Quota)
		for _, r := range itf.Sources {
			if r.Bits == 128 {
				p.Addresses = append(p.Addresses, addressText(r.Address))
			}
		}
	}
	return p
}

func featureNames(f port.Features, queues int) []string {
	var list []string
	for _, n := range [...]struct {
		bit  port.Features
		name string
	}{{port.FeatureTSO4, "tso4"}, {port.FeatureTSO6, "tso6"}, {port.FeatureUSO, "uso"}, {port.FeatureCsum, "checksum"}, {port.FeatureTunnelGSO, "tunnel"}} {
		if f&n.bit != 0 {
			list = append(list, n.name)
		}
	}
	if f != 0 {
		list = append([]string{"vnet-hdr"}, list...)
	}
	if queues > 1 {
		list = append(list, "multi-queue")
	}
	return list
}

// components judges the parts of the daemon; the whole is as healthy as the
// worst of them.
func (a *Agent) components(st *pb.GetStatusResponse, stored persist.Status) {
	add := func(name string, health pb.Health_Value, reason string) {
		if reason == "" {
			health = pb.Health_HEALTHY
		}
		st.Components = append(st.Components, &pb.ComponentStatus{Name: name, Health: health, Reason: reason})
	}
	forwarderReason := ""
	if n := a.options.Forwarder.Panics(); n > 0 {
		forwarderReason = fmt.Sprintf("workers survived %d panics, each lost one packet; report the log", n)
	}
	add("forwarder", pb.Health_DEGRADED, forwarderReason)
	var lost []string
	for _, p := range st.GetPorts() {
		if p.GetState() == pb.PortStatus_LOST || p.GetReason() != "" {
			lost = append(lost, p.GetName())
		}
	}
	portsReason := ""
	if len(lost) > 0 {
		portsReason = fmt.Sprintf("%d of %d ports need attention, first %s: %s", len(lost), len(st.GetPorts()), lost[0], reasonOf(st, lost[0]))
	}
	add("ports", pb.Health_DEGRADED, portsReason)
	reason := stored.Warning
	if stored.Err != nil {
		reason = fmt.Sprintf("state is not durable since generation %d: %v; forwarding goes on, free the disk and apply again", stored.Generation, stored.Err)
	}
	add("underlay", pb.Health_DEGRADED, underlayReason(st))
	add("persistence", pb.Health_DEGRADED, reason)
	flows := ""
	if a.options.Forwarder.Ager().Stats().Pressure {
		flows = "the flow table is nearly full: unanswered sessions age faster; raise its size or find who floods (vrctl flow list)"
	}
	add("flow-table", pb.Health_DEGRADED, flows)
	add("health-checks", pb.Health_DEGRADED, strings.Join(a.checks.Problems(), "; "))
	add("bfd", pb.Health_DEGRADED, a.live.complaint())
	headless := ""
	if st.GetHeadlessSince() != nil {
		headless = fmt.Sprintf("HEADLESS since %s at generation %d: no controller is connected, forwarding goes on as it was",
			st.GetHeadlessSince().AsTime().Format("2006-01-02T15:04:05Z"), st.GetGeneration().GetNumber())
	}
	add("controllers", pb.Health_DEGRADED, headless)
	for _, c := range st.GetComponents() {
		st.Health = max(st.Health, c.GetHealth())
	}
}

func reasonOf(st *pb.GetStatusResponse, name string) string {
	for _, p := range st.GetPorts() {
		if p.GetName() == name {
			return p.GetReason()
		}
	}
	return ""
}
