package main

import (
	"strconv"

	"github.com/spf13/cobra"

	"github.com/vrouter-go/vrouter/cmd/vrouter/internal/demo"
)

// demoCommand is vrouter demo.
func demoCommand() *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use:   "demo [--nodes N] [--keep] [--json]",
		Short: "Show the whole job on this host, with real TCP in namespaces of its own",
		Example: `  sudo vrouter demo
  sudo vrouter demo --nodes 3  # three nodes on one wire, with tunnels between them
  sudo vrouter demo --keep     # stays, for vrctl; Ctrl-C cleans up`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Out = cmd.OutOrStdout()
			o.Daemon = demoDaemon
			return demo.Run(cmd.Context(), o)
		},
	}
	cmd.Flags().IntVar(&o.Nodes, "nodes", 1, "how many nodes, 1 to "+strconv.Itoa(demo.MaxNodes))
	cmd.Flags().BoolVar(&o.Keep, "keep", false, "leave everything running until interrupted")
	cmd.Flags().BoolVar(&o.JSON, "json", false, "print one JSON document instead of progress")
	return cmd
}
