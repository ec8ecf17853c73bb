// Command vrouter is the daemon of one node: the forwarder and its agent. Its
// other commands run the same engine without a daemon.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := root().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vrouter:", err)
		os.Exit(exitCode(err))
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vrouter",
		Short: "A vRouter in userspace: virtual networks, floating IPs and policy on TAP devices",
		Long: `Example:
  sudo vrouter run --config /etc/vrouter/vrouter.yaml

vrouter forwards between virtual networks in userspace, balances floating IPs over
their members and enforces policy. Desired state comes over gRPC: see vrctl.`,
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddCommand(runCommand(), demoCommand(), replayCommand(), benchCommand())
	return cmd
}
