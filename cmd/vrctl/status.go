package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vrouter-go/vrouter/agent/client"
	vrouterv1 "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show how the node is",
		Example: `  vrctl status
  vrctl status -o wide                      # with ports, workers and kernel
  vrctl status -o json | jq .flowTable.sessions
  vrctl status >/dev/null || alert          # exit code 4: unhealthy`,
		Long: `Shows health, state, sessions, ports and memory in one page. Exits with 4 when a part of the node is
unhealthy or the agent does not answer, and with 0 when it is healthy or degraded.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			agent, err := a.connect()
			if err != nil {
				return err
			}
			status, err := agent.Status(cmd.Context())
			if err != nil {
				return a.unanswered(err)
			}
			if a.output == "json" || a.output == "yaml" {
				err = a.printMessage(status)
			} else {
				err = a.printStatus(status)
			}
			if h := status.GetHealth(); err == nil && h != vrouterv1.Health_HEALTHY && h != vrouterv1.Health_DEGRADED {
				err = &failure{code: exitUnhealthy} // the page says why
			}
			return err
		},
	}
}

// unanswered makes an agent that does not answer an unhealthy node.
func (a *app) unanswered(err error) error {
	var call *client.Error
	if !errors.As(err, &call) || call.Code != codes.Unavailable && call.Code != codes.DeadlineExceeded {
		return err
	}
	a.report(err)
	return &failure{code: exitUnhealthy}
}

// printStatus writes the page; sections of many rows only with -o wide or when something is wrong there.
func (a *app) printStatus(s *vrouterv1.GetStatusResponse) error {
	fact := func(name, format string, args ...any) {
		fmt.Fprintf(a.out, "%-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	fact("health", "%s", a.health(s.GetHealth()))
	for _, c := range s.GetComponents() {
		if c.GetHealth() != vrouterv1.Health_HEALTHY {
			fact("", "%s %s: %s", c.GetName(), a.health(c.GetHealth()), c.GetReason())
		}
	}
	fact("vrouter", "%s on %s, up %s", unknown(s.GetVersion()), unknown(s.GetNode()), ago(s.GetStartTime()))
	fact("state", "generation %d %s, %s", s.GetGeneration().GetNumber(), strings.ToLower(enumName(s.GetGeneration().GetLevel())), resourceCounts(s.GetResources()))
	fact("kept in", "%s", persistence(s.GetPersistence()))
	fact("controller", "%s", controllers(s))
	table := s.GetFlowTable()
	fact("sessions", "%d of %d (%s), %d created, %d refused", table.GetSessions(), table.GetCapacity(), size(table.GetBytes()), table.GetCreated(), table.GetRefused())
	totals := s.GetTotals()
	fact("packets", "%d received + %d generated = %d transmitted + %d coalesced + %d dropped + %d held",
		totals.GetReceived(), totals.GetGenerated(), totals.GetTransmitted(), totals.GetCoalesced(), totals.GetDropped(), totals.GetHeld())
	fact("memory", "%s resident, %s Go heap", size(s.GetMemory().GetResidentBytes()), size(s.GetMemory().GetHeapBytes()))
	fact("workers", "%d", len(s.GetWorkers()))
	fact("ports", "%s", portCounts(s.GetPorts()))
	if s.GetUplink() != nil {
		fact("uplink", "%s", uplink(s.GetUplink()))
		fact("peers", "%s", peerCounts(s.GetPeers()))
	}
	fact("kernel", "%s", unknown(s.GetKernel().GetRelease()))
	return a.printSections(s)
}

func (a *app) printSections(s *vrouterv1.GetStatusResponse) error {
	wide := a.output == "wide"
	var ports []*vrouterv1.PortStatus
	for _, p := range s.GetPorts() {
		if wide || p.GetState() != vrouterv1.PortStatus_UP {
			ports = append(ports, p)
		}
	}
	if len(ports) > 0 {
		fmt.Fprintln(a.out)
		if err := printTable(a.out, portColumns, ports, wide); err != nil {
			return err
		}
	}
	var peers []*vrouterv1.PeerStatus
	for _, p := range s.GetPeers() {
		if wide || p.GetState() != vrouterv1.PeerStatus_UP {
			peers = append(peers, p)
		}
	}
	if len(peers) > 0 {
		fmt.Fprintln(a.out)
		if err := printTable(a.out, peerColumns, peers, wide); err != nil {
			return err
		}
	}
	if !wide {
		return nil
	}
	fmt.Fprintln(a.out)
	if err := printTable(a.out, workerColumns, s.GetWorkers(), true); err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	return printTable(a.out, capabilityColumns, s.GetKernel().GetCapabilities(), true)
}

var portColumns = []column[*vrouterv1.PortStatus]{
	{title: "PORT", value: (*vrouterv1.PortStatus).GetName},
	{title: "STATE", value: func(p *vrouterv1.PortStatus) string { return enumName(p.GetState()) }},
	{title: "REASON", value: (*vrouterv1.PortStatus).GetReason},
	{title: "NETWORK", value: (*vrouterv1.PortStatus).GetVirtualNetwork},
	{title: "DEVICE", value: func(p *vrouterv1.PortStatus) string {
		return strings.TrimSpace(p.GetDriver() + " " + p.GetDevice())
	}},
	{title: "NETNS", wide: true, value: (*vrouterv1.PortStatus).GetNetns},
	{title: "MTU", value: func(p *vrouterv1.PortStatus) string { return strconv.Itoa(int(p.GetMtu())) }},
	{title: "QUEUES", wide: true, value: func(p *vrouterv1.PortStatus) string { return strconv.Itoa(int(p.GetQueues())) }},
	{title: "FEATURES", wide: true, value: func(p *vrouterv1.PortStatus) string { return strings.Join(p.GetFeatures(), ",") }},
	{title: "RECEIVED", value: func(p *vrouterv1.PortStatus) string { return strconv.FormatUint(p.GetReceived().GetPackets(), 10) }},
	{title: "TRANSMITTED", value: func(p *vrouterv1.PortStatus) string { return strconv.FormatUint(p.GetTransmitted().GetPackets(), 10) }},
	{title: "DROPPED", value: func(p *vrouterv1.PortStatus) string { return strconv.FormatUint(p.GetDropped(), 10) }},
	{title: "SESSIONS", wide: true, value: func(p *vrouterv1.PortStatus) string {
		return fmt.Sprintf("%d/%d", p.GetSessions(), p.GetFlowQuota())
	}},
}

var peerColumns = []column[*vrouterv1.PeerStatus]{
	{title: "PEER", value: (*vrouterv1.PeerStatus).GetName},
	{title: "ADDRESS", value: (*vrouterv1.PeerStatus).GetAddress},
	{title: "STATE", value: func(p *vrouterv1.PeerStatus) string { return enumName(p.GetState()) }},
	{title: "REASON", value: (*vrouterv1.PeerStatus).GetReason},
	{title: "NEXT HOP", value: (*vrouterv1.PeerStatus).GetNextHop},
	{title: "MAC", wide: true, value: (*vrouterv1.PeerStatus).GetMacAddress},
	{title: "MTU", value: func(p *vrouterv1.PeerStatus) string { return strconv.Itoa(int(p.GetMtu())) }},
	{title: "LOCAL", wide: true, value: (*vrouterv1.PeerStatus).GetLocal},
	{title: "BFD", wide: true, value: (*vrouterv1.PeerStatus).GetBfd},
}

var workerColumns = []column[*vrouterv1.WorkerStatus]{
	{title: "WORKER", value: func(w *vrouterv1.WorkerStatus) string { return strconv.Itoa(int(w.GetId())) }},
	{title: "QUEUES", value: func(w *vrouterv1.WorkerStatus) string { return strconv.Itoa(int(w.GetQueues())) }},
	{title: "PACKETS", value: func(w *vrouterv1.WorkerStatus) string { return strconv.FormatUint(w.GetPackets(), 10) }},
	{title: "BATCHES", value: func(w *vrouterv1.WorkerStatus) string { return strconv.FormatUint(w.GetBatches(), 10) }},
}

var capabilityColumns = []column[*vrouterv1.KernelCapability]{
	{title: "KERNEL", value: (*vrouterv1.KernelCapability).GetName},
	{title: "PRESENCE", value: func(c *vrouterv1.KernelCapability) string { return strings.ToLower(enumName(c.GetPresence())) }},
	{title: "EFFECT", value: (*vrouterv1.KernelCapability).GetEffect},
}

func (a *app) health(h vrouterv1.Health_Value) string {
	switch h {
	case vrouterv1.Health_HEALTHY:
		return a.paint(green, "healthy")
	case vrouterv1.Health_DEGRADED:
		return a.paint(yellow, "degraded")
	case vrouterv1.Health_UNHEALTHY:
		return a.paint(red, "unhealthy")
	}
	return a.paint(yellow, "unknown")
}

func unknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// ago is the time since a moment.
func ago(t *timestamppb.Timestamp) string {
	if t == nil {
		return "unknown"
	}
	return spell(time.Since(t.AsTime()))
}

func resourceCounts(counts []*vrouterv1.ResourceCount) string {
	text := list(counts, func(c *vrouterv1.ResourceCount) string {
		if c.GetCount() == 0 {
			return ""
		}
		return fmt.Sprintf("%d %s", c.GetCount(), c.GetKind())
	})
	if text == "" {
		return "no resources"
	}
	return strings.ReplaceAll(text, ",", ", ")
}

func persistence(p *vrouterv1.Persistence) string {
	switch {
	case p.GetPath() == "":
		return "memory only: a restart begins empty"
	case p.GetError() != "":
		return fmt.Sprintf("%s, generation %d; the last write failed: %s", p.GetPath(), p.GetSavedGeneration(), p.GetError())
	}
	return fmt.Sprintf("%s, generation %d", p.GetPath(), p.GetSavedGeneration())
}

func controllers(s *vrouterv1.GetStatusResponse) string {
	var parts []string
	for _, c := range s.GetControllers() {
		state := "not connected"
		if c.GetConnectedSince() != nil {
			state = "connected for " + ago(c.GetConnectedSince())
		}
		parts = append(parts, fmt.Sprintf("%s %s, %d resources", c.GetControllerId(), state, c.GetResources()))
	}
	if len(parts) == 0 {
		parts = []string{"none"}
	}
	if s.GetHeadlessSince() != nil {
		parts = append(parts, "HEADLESS for "+ago(s.GetHeadlessSince())+": forwarding as it was")
	}
	return strings.Join(parts, "; ")
}

// uplink writes eth0 up, MTU 9000, MPLS_UDP VXLAN, 12 tunnels, superpackets whole.
func uplink(u *vrouterv1.UplinkStatus) string {
	state := "down"
	if u.GetUp() {
		state = "up"
	}
	offload := "cut"
	if u.GetTunnelOffload() {
		offload = "whole"
	}
	return fmt.Sprintf("%s %s, MTU %d, %s, %d tunnels, superpackets %s", unknown(u.GetDevice()), state, u.GetMtu(),
		strings.Join(u.GetEncapsulations(), " "), u.GetTunnels(), offload)
}

func peerCounts(peers []*vrouterv1.PeerStatus) string {
	count := map[vrouterv1.PeerStatus_State]int{}
	for _, p := range peers {
		count[p.GetState()]++
	}
	text := fmt.Sprintf("%d up", count[vrouterv1.PeerStatus_UP])
	if n := count[vrouterv1.PeerStatus_UNRESOLVED]; n > 0 {
		text += fmt.Sprintf(", %d unresolved", n)
	}
	if n := count[vrouterv1.PeerStatus_DOWN]; n > 0 {
		text += fmt.Sprintf(", %d down", n)
	}
	return text
}

func portCounts(ports []*vrouterv1.PortStatus) string {
	up := 0
	for _, p := range ports {
		if p.GetState() == vrouterv1.PortStatus_UP {
			up++
		}
	}
	if up == len(ports) {
		return fmt.Sprintf("%d up", up)
	}
	return fmt.Sprintf("%d up, %d not", up, len(ports)-up)
}
