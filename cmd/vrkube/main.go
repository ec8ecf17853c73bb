// Command vrkube is the Kubernetes control plane of a node.
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
	cmd := &cobra.Command{Use: "vrkube", Short: "The Kubernetes control plane of a node", SilenceUsage: true, SilenceErrors: true}
	cmd.AddCommand(ingressCommand())
	err := cmd.ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vrkube:", err)
		os.Exit(1)
	}
}
