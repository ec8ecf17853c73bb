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
