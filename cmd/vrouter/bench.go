package main

import (
	"github.com/spf13/cobra"

	"github.com/vrouter-go/vrouter/cmd/vrouter/internal/bench"
)

// benchCommand is vrouter bench.
func benchCommand() *cobra.Command {
	var o bench.Options
	cmd := &cobra.Command{
		Use:   "bench [NAME...] [--json] [--quick] [--list]",
		Short: "Measure what the engine costs in memory, without devices or privileges",
		Long: `Carries packets through the production forwarder, from a generator that copies
headers into frames to a sink, without a system call per packet. Times are CPU
time of the worker's thread, so that other processes do not count, and leave out
what generator and sink take (memory/floor; in --json, "raw" is the whole). Each
is the median of interleaved repetitions.

NAME is the beginning of a figure's name or a pattern like 'drop/*/v6'. All
figures take about four minutes and, for ten million sessions, 2.2 GB of memory;
what does not fit is skipped, and said. No privileges are needed.

  hit        packets of live sessions, uniformly random: with floating-IP NAT, plain
  new        packets that each open a session: NAT, ECMP, both policies. Their removal
             is not included ("removal" in --json)
  drop       packets that are dropped
  workers    two workers against one, each with flows of its own
  session, allocations
             bytes of a session, heap allocations per packet
  routes, floating-ips, ecmp, rules
             the same as the configuration grows
  stage      one step of the path alone`,
		Example: `  vrouter bench --quick
  vrouter bench hit new/v4 --json > figures.json
  vrouter bench 'drop/*/v6'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Names, o.Out, o.Progress = args, cmd.OutOrStdout(), cmd.ErrOrStderr()
			return bench.Run(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVar(&o.JSON, "json", false, "print a list of figures instead of a table")
	cmd.Flags().BoolVar(&o.Quick, "quick", false, "the most important figures, in less than 45 s")
	cmd.Flags().BoolVar(&o.List, "list", false, "name the figures and measure nothing")
	return cmd
}
