package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vrouter-go/vrouter/internal/statefile"
	vrouterv1 "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

func (a *app) dropsCommand() *cobra.Command {
	var vmi, reason string
	var all, follow bool
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "drops",
		Short: "Show which packets are dropped, where and why",
		Example: `  vrctl drops
  vrctl drops --vmi web-1 -o wide          # with what to do about each reason
  vrctl drops --watch                      # what is being dropped right now
  vrctl drops --all                        # every reason there is`,
		Long: `Every packet that comes in and does not go out is counted under exactly one reason, for the interface where
it came in. Counters run from the start of vrouter.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			reason = strings.ToUpper(reason)
			if follow {
				return a.watchDrops(cmd.Context(), &vrouterv1.WatchDropsRequest{Interface: vmi, Reason: reason, Interval: durationpb.New(interval)})
			}
			return a.listDrops(cmd.Context(), &vrouterv1.ListDropsRequest{Interface: vmi, Reason: reason, IncludeZero: all})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&vmi, "vmi", "", "interface where the packets came in")
	flags.StringVar(&reason, "reason", "", "reason, for example NO_ROUTE")
	flags.BoolVar(&all, "all", false, "also reasons that never occurred")
	flags.BoolVarP(&follow, "watch", "w", false, "go on with what is dropped in each interval")
	flags.DurationVar(&interval, "interval", time.Second, "interval of --watch, 100ms to 1h")
	complete(cmd, "vmi", a.completeNames("VirtualMachineInterface", (*vrouterv1.Resource).GetName, statefile.FabricInterface))
	complete(cmd, "reason", a.completeReasons)
	return cmd
}

func (a *app) completeReasons(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	agent, err := a.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	response, err := agent.ListDrops(ctx, &vrouterv1.ListDropsRequest{IncludeZero: true})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	seen := map[string]bool{}
	var reasons []string
	for _, d := range response.GetDrops() {
		if !seen[d.GetReason()] {
			seen[d.GetReason()] = true
			reasons = append(reasons, d.GetReason()+"\t"+d.GetDoc())
		}
	}
	return reasons, cobra.ShellCompDirectiveNoFileComp
}

// dropColumns are the columns of a table of drop counters.
var dropColumns = []column[*vrouterv1.DropCounter]{
	{title: "INTERFACE", value: (*vrouterv1.DropCounter).GetInterface},
	{title: "REASON", value: (*vrouterv1.DropCounter).GetReason},
	{title: "PACKETS", value: func(d *vrouterv1.DropCounter) string { return strconv.FormatUint(d.GetPackets(), 10) }},
	{title: "MEANING", value: (*vrouterv1.DropCounter).GetDoc},
	{title: "WHAT TO DO", wide: true, value: (*vrouterv1.DropCounter).GetRemedy},
}

func (a *app) listDrops(ctx context.Context, request *vrouterv1.ListDropsRequest) error {
	agent, err := a.connect()
	if err != nil {
		return err
	}
	response, err := agent.ListDrops(ctx, request)
	if err != nil {
		return err
	}
	if a.output == "json" || a.output == "yaml" {
		return a.printMessage(response)
	}
	if len(response.GetDrops()) == 0 {
		_, err := fmt.Fprintln(a.out, "no packet was dropped"+since(response))
		return err
	}
	return printTable(a.out, dropColumns, response.GetDrops(), a.output == "wide")
}

// since says from when counters count.
func since(response *vrouterv1.ListDropsResponse) string {
	if response.GetSince() == nil {
		return ""
	}
	return " since " + response.GetSince().AsTime().UTC().Format(time.RFC3339)
}

func (a *app) watchDrops(ctx context.Context, request *vrouterv1.WatchDropsRequest) error {
	agent, err := a.connect()
	if err != nil {
		return err
	}
	for message, err := range agent.WatchDrops(ctx, request) {
		switch {
		case ctx.Err() != nil:
			return nil // interrupted: the way a watch ends
		case err != nil:
			return err
		case a.output == "json" || a.output == "yaml":
			if err := a.printLine(message); err != nil {
				return err
			}
		default:
			for _, d := range message.GetDrops() {
				fmt.Fprintf(a.out, "%s  %-16s %-24s +%-8d %d  %s\n", message.GetTime().AsTime().UTC().Format("15:04:05.0"), d.GetInterface(), d.GetReason(),
					d.GetIncrease(), d.GetPackets(), d.GetDoc())
			}
		}
	}
	return nil
}
