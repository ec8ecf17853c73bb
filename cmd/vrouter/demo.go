package main

import (
	"github.com/spf13/cobra"

	"github.com/vrouter-go/vrouter/cmd/vrouter/internal/demo"
)

// demoCommand is vrouter demo.
func demoCommand() *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use:   "demo [--keep] [--json]",
		Short: "Show the whole job on this host, with real TCP in namespaces of its own",
		Example: `  sudo vrouter demo
  sudo vrouter demo --keep     # stays, for vrctl; Ctrl-C cleans up`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Out = cmd.OutOrStdout()
			o.Daemon = demoDaemon
			return demo.Run(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVar(&o.Keep, "keep", false, "leave everything running until interrupted")
	cmd.Flags().BoolVar(&o.JSON, "json", false, "print one JSON document instead of progress")
	return cmd
}
