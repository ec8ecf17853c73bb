package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vrouter-go/vrouter/internal/statefile"
	vrouterv1 "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

func (a *app) flowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "flow list|delete",
		Aliases: []string{"flows"},
		Short:   "List and end live sessions",
		Example: `  vrctl flow list --fip web
  vrctl flow list --src 10.244.0.0/24 --proto tcp --port 80 -o wide
  vrctl flow delete --vmi web-1 --proto udp`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.flowListCommand(), a.flowDeleteCommand())
	return cmd
}

// flowFlags are the filters as users type them.
type flowFlags struct {
	vrf, src, dst, proto, vmi, fip, state, verdict, rule string
	port, sport, dport                                   uint16
	minBytes                                             uint64
}

func (a *app) addFlowFlags(cmd *cobra.Command, f *flowFlags) {
	flags := cmd.Flags()
	flags.StringVar(&f.vrf, "vrf", "", "VRF of either direction")
	flags.StringVar(&f.src, "src", "", "source address or prefix, as the initiator sends")
	flags.StringVar(&f.dst, "dst", "", "destination address or prefix, before or after translation")
	flags.StringVar(&f.proto, "proto", "", "protocol: tcp, udp, sctp, icmp, icmpv6 or a number")
	flags.Uint16Var(&f.port, "port", 0, "port at either end, before or after translation")
	flags.Uint16Var(&f.sport, "sport", 0, "source port")
	flags.Uint16Var(&f.dport, "dport", 0, "destination port, before translation")
	flags.StringVar(&f.vmi, "vmi", "", "interface at either end, or member")
	flags.StringVar(&f.fip, "fip", "", "floating IP, by name")
	flags.StringVar(&f.state, "state", "", "state, for example ESTABLISHED")
	flags.StringVar(&f.verdict, "verdict", "", "forward or drop")
	flags.StringVar(&f.rule, "rule", "", "rule that decided")
	flags.Uint64Var(&f.minBytes, "min-bytes", 0, "at least so many bytes in both directions together")
	complete(cmd, "vrf", a.completeNames("VirtualNetwork", statefile.VRF, statefile.FabricNetwork))
	complete(cmd, "vmi", a.completeNames("VirtualMachineInterface", (*vrouterv1.Resource).GetName, statefile.FabricInterface))
	complete(cmd, "fip", a.completeNames("FloatingIP", (*vrouterv1.Resource).GetName))
	complete(cmd, "proto", cobra.FixedCompletions([]string{"tcp", "udp", "sctp", "icmp", "icmpv6"}, cobra.ShellCompDirectiveNoFileComp))
	complete(cmd, "verdict", cobra.FixedCompletions([]string{"forward", "drop"}, cobra.ShellCompDirectiveNoFileComp))
}

// filter turns the flags into a request's filter; nil when none is given.
func (f flowFlags) filter() (*vrouterv1.FlowFilter, error) {
	if f == (flowFlags{}) {
		return nil, nil
	}
	protocol, err := parseProtocol(f.proto)
	if err != nil {
		return nil, err
	}
	verdict := vrouterv1.Verdict_VERDICT_UNSPECIFIED
	switch strings.ToLower(f.verdict) {
	case "":
	case "forward":
		verdict = vrouterv1.Verdict_FORWARD
	case "drop":
		verdict = vrouterv1.Verdict_DROP
	default:
		return nil, usageError("there is no verdict %q", f.verdict).try("--verdict forward or drop")
	}
	return &vrouterv1.FlowFilter{Vrf: f.vrf, Source: f.src, Destination: f.dst, Protocol: protocol, Port: uint32(f.port), SourcePort: uint32(f.sport),
		DestinationPort: uint32(f.dport), VirtualMachineInterface: f.vmi, FloatingIp: f.fip, State: strings.ToUpper(f.state), Verdict: verdict,
		Rule: f.rule, MinBytes: f.minBytes}, nil
}

// parseProtocol reads a protocol as users type it, in any case or as a number.
func parseProtocol(typed string) (vrouterv1.Protocol_Value, error) {
	if typed == "" || strings.EqualFold(typed, "any") {
		return vrouterv1.Protocol_PROTOCOL_UNSPECIFIED, nil
	}
	if n, ok := vrouterv1.Protocol_Value_value[strings.ToUpper(typed)]; ok {
		return vrouterv1.Protocol_Value(n), nil
	}
	if n, err := strconv.ParseUint(typed, 10, 8); err == nil && n > 0 {
		return vrouterv1.Protocol_Value(n), nil
	}
	return 0, usageError("there is no protocol %q", typed).try("tcp, udp, sctp, icmp, or a number from 1 to 255")
}

func (a *app) flowListCommand() *cobra.Command {
	var f flowFlags
	var limit uint32
	var follow bool
	var service string
	var interval time.Duration
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List live sessions",
		Example: `  vrctl flow list
  vrctl flow list --fip web -o wide
  vrctl flow list --svc shop/web                  # of all addresses of a service
  vrctl flow list --src 10.244.0.11 --port 80 -o json
  vrctl flow list --vmi web-1 --watch`,
		Long: `Lists sessions as the initiator sees them; TRANSLATED is where its packets really go. Counters are those of
the initiator's packets and of the replies.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := f.filter()
			if err != nil {
				return err
			}
			if service != "" {
				if follow || f.fip != "" {
					return usageError("--svc goes with neither --watch nor --fip").try("vrctl flow list --watch --fip NAME; vrctl explain svc/" + service + " names the floating IPs")
				}
				return a.listServiceFlows(cmd.Context(), service, &vrouterv1.ListFlowsRequest{Filter: filter, Limit: limit})
			}
			if follow {
				return a.watchFlows(cmd.Context(), &vrouterv1.WatchFlowsRequest{Filter: filter, Interval: durationpb.New(interval)})
			}
			return a.listFlows(cmd.Context(), &vrouterv1.ListFlowsRequest{Filter: filter, Limit: limit})
		},
	}
	a.addFlowFlags(cmd, &f)
	cmd.Flags().StringVar(&service, "svc", "", "service, as NAMESPACE/NAME or the name of a LoadBalancer: all its floating IPs")
	complete(cmd, "svc", a.completeNames("LoadBalancer", serviceArgument))
	cmd.Flags().Uint32Var(&limit, "limit", 0, "at most so many sessions (0: all)")
	cmd.Flags().BoolVarP(&follow, "watch", "w", false, "go on with sessions as they start and end")
	cmd.Flags().DurationVar(&interval, "interval", time.Second, "time between two looks of --watch, 100ms to 1h")
	return cmd
}

func (a *app) listFlows(ctx context.Context, request *vrouterv1.ListFlowsRequest) error {
	agent, err := a.connect()
	if err != nil {
		return err
	}
	var flows []*vrouterv1.Flow
	for flow, err := range agent.ListFlows(ctx, request) {
		if err != nil {
			return err
		}
		flows = append(flows, flow)
	}
	return printList(a, flowColumns, flows)
}

// listServiceFlows lists the sessions of all floating IPs of a service, at most so many as the request says.
func (a *app) listServiceFlows(ctx context.Context, service string, request *vrouterv1.ListFlowsRequest) error {
	agent, err := a.connect()
	if err != nil {
		return err
	}
	balancer, _, err := findBalancer(ctx, agent, service)
	if err != nil {
		return err
	}
	if request.GetFilter() == nil {
		request.Filter = &vrouterv1.FlowFilter{}
	}
	var flows []*vrouterv1.Flow
	limit := request.GetLimit()
	for _, name := range balancer.GetLoadBalancer().GetFloatingIps() {
		if limit != 0 {
			if len(flows) >= int(limit) {
				break
			}
			request.Limit = limit - uint32(len(flows))
		}
		request.Filter.FloatingIp = name
		for flow, err := range agent.ListFlows(ctx, request) {
			if err != nil {
				return err
			}
			flows = append(flows, flow)
		}
	}
	return printList(a, flowColumns, flows)
}

func (a *app) watchFlows(ctx context.Context, request *vrouterv1.WatchFlowsRequest) error {
	agent, err := a.connect()
	if err != nil {
		return err
	}
	for event, err := range agent.WatchFlows(ctx, request) {
		switch {
		case ctx.Err() != nil:
			return nil // interrupted: the way a watch ends
		case err != nil:
			return err
		case a.output == "json" || a.output == "yaml":
			err = a.printLine(event)
		default:
			if n := event.GetLost(); n > 0 {
				fmt.Fprintf(a.err, "vrctl: %d events lost: they come faster than this terminal takes them\n", n)
			}
			_, err = fmt.Fprintf(a.out, "%-8s %s\n", event.GetEvent(), flowLine(event.GetFlow()))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// flowLine is a session in one line.
func flowLine(f *vrouterv1.Flow) string {
	line := fmt.Sprintf("%s %s > %s", protocol(f.GetForward()), source(f.GetForward()), destination(f.GetForward()))
	if to := translated(f); to != "" {
		line += " as " + to
	}
	return fmt.Sprintf("%s %s %s, %s", line, f.GetState(), enumName(f.GetVerdict()), counters(f))
}

func (a *app) flowDeleteCommand() *cobra.Command {
	var f flowFlags
	var all bool
	cmd := &cobra.Command{
		Use:   "delete",
		Short: "End live sessions",
		Example: `  vrctl flow delete --vmi web-1 --proto udp
  vrctl flow delete --fip web
  vrctl flow delete --all`,
		Long: `Ends the sessions that match: their next packet is decided anew. The two ends are not told; a TCP
connection goes on if the state of the node still allows it.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := f.filter()
			if err != nil {
				return err
			}
			if (filter != nil) == all {
				return usageError("which sessions?").try("give a filter such as --vmi web-1, or --all")
			}
			agent, err := a.connect()
			if err != nil {
				return err
			}
			n, err := agent.DeleteFlows(cmd.Context(), &vrouterv1.DeleteFlowsRequest{Filter: filter, All: all})
			if err != nil {
				return err
			}
			if a.output == "json" || a.output == "yaml" {
				return a.printMessage(&vrouterv1.DeleteFlowsResponse{Deleted: n})
			}
			_, err = fmt.Fprintf(a.out, "%s ended\n", count(int(n), "session"))
			return err
		},
	}
	a.addFlowFlags(cmd, &f)
	cmd.Flags().BoolVar(&all, "all", false, "end every session")
	return cmd
}

// flowColumns are the columns of a table of sessions.
var flowColumns = []column[*vrouterv1.Flow]{
	{title: "ID", wide: true, value: func(f *vrouterv1.Flow) string { return strconv.FormatUint(f.GetId(), 10) }},
	{title: "VRF", value: (*vrouterv1.Flow).GetVrf},
	{title: "PROTO", value: func(f *vrouterv1.Flow) string { return protocol(f.GetForward()) }},
	{title: "SOURCE", value: func(f *vrouterv1.Flow) string { return source(f.GetForward()) }},
	{title: "DESTINATION", value: func(f *vrouterv1.Flow) string { return destination(f.GetForward()) }},
	{title: "TRANSLATED", value: translated},
	{title: "STATE", value: (*vrouterv1.Flow).GetState},
	{title: "VERDICT", value: func(f *vrouterv1.Flow) string {
		if f.GetDropReason() != "" {
			return enumName(f.GetVerdict()) + " " + f.GetDropReason()
		}
		return enumName(f.GetVerdict())
	}},
	{title: "AGE", value: func(f *vrouterv1.Flow) string { return shortDuration(f.GetAge()) }},
	{title: "IDLE", value: func(f *vrouterv1.Flow) string { return shortDuration(f.GetIdle()) }},
	{title: "PACKETS", value: func(f *vrouterv1.Flow) string {
		return fmt.Sprintf("%d/%d", f.GetForwardCounters().GetPackets(), f.GetReplyCounters().GetPackets())
	}},
	{title: "BYTES", value: func(f *vrouterv1.Flow) string {
		return fmt.Sprintf("%d/%d", f.GetForwardCounters().GetBytes(), f.GetReplyCounters().GetBytes())
	}},
	{title: "INTERFACE", wide: true, value: (*vrouterv1.Flow).GetInterface},
	{title: "OUTPUT", wide: true, value: (*vrouterv1.Flow).GetOutput},
	{title: "FLOATING IP", wide: true, value: (*vrouterv1.Flow).GetFloatingIp},
	{title: "MEMBER", wide: true, value: (*vrouterv1.Flow).GetMember},
	{title: "RULE", wide: true, value: (*vrouterv1.Flow).GetRule},
	{title: "TIER", wide: true, value: (*vrouterv1.Flow).GetTier},
	{title: "NEXT HOP", wide: true, value: (*vrouterv1.Flow).GetNextHop},
	{title: "TIMEOUT", wide: true, value: func(f *vrouterv1.Flow) string { return shortDuration(f.GetTimeout()) }},
}

func counters(f *vrouterv1.Flow) string {
	return fmt.Sprintf("%d/%d packets", f.GetForwardCounters().GetPackets(), f.GetReplyCounters().GetPackets())
}

// translated is where the initiator's packets go, and where they seem to come from if that is rewritten too; empty without NAT.
func translated(f *vrouterv1.Flow) string {
	if len(f.GetNat()) == 0 {
		return ""
	}
	out := source(f.GetReply())
	if slices.Contains(f.GetNat(), vrouterv1.Flow_SOURCE_ADDRESS) || slices.Contains(f.GetNat(), vrouterv1.Flow_SOURCE_PORT) {
		out += " from " + destination(f.GetReply())
	}
	return out
}

// protocol is a tuple's protocol by name, or its number.
func protocol(t *vrouterv1.Tuple) string { return t.GetProtocol().String() }

func source(t *vrouterv1.Tuple) string { return endOf(t.GetSource(), t.GetSourcePort()) }

func destination(t *vrouterv1.Tuple) string { return endOf(t.GetDestination(), t.GetDestinationPort()) }

// endOf writes address and port; protocols without ports have 0.
func endOf(address string, port uint32) string {
	if port == 0 {
		return address
	}
	return net.JoinHostPort(address, strconv.Itoa(int(port)))
}
